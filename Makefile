# Sirocco's build. Everything it makes lies under build/ (build/san-... for sanitizer builds).
#
#   make            the server, build/sirocco          make run     build and serve the demo model
#   make test       every test                         make tidy    the style checks alone
#   make bench      throughput and latency             make fuzz    libFuzzer targets (clang)
#   make cuda-check the CUDA backend on this machine's GPU (BENCH_MODELS=0: without figures)
#   make install    PREFIX=/usr/local, DESTDIR=        make clean
#
#   SAN=address,undefined | thread    sanitizer build     DEBUG=1    no optimisation
#   CUDA=auto | 0 | 1                 the CUDA plugin, build/sirocco-cuda.so; auto: where nvcc and a
#                                     GPU are, for that GPU; 1: for all that are supported
#   WITHOUT="utf8proc sentencepiece"  without these libraries: tokenizers that need them are refused
#   WERROR=                           a compiler's warnings are no errors

CC ?= gcc
CXX ?= g++
AR ?= ar
PKG_CONFIG ?= pkg-config
PREFIX ?= /usr/local
CUDA ?= auto
SAN ?=
DEBUG ?= 0
WITHOUT ?=
WERROR ?= -Werror
VERSION := 0.1.0

empty :=
comma := ,
BUILD := build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))$(if $(filter 1,$(DEBUG)),/debug)

LIB_NAMES := jansson libpcre2-8 $(if $(filter utf8proc,$(WITHOUT)),,libutf8proc)
SPM := $(if $(filter sentencepiece,$(WITHOUT)),,sentencepiece)
LIB_CFLAGS := $(shell $(PKG_CONFIG) --cflags libmicrohttpd libuv $(LIB_NAMES) $(SPM) 2>/dev/null) \
              $(if $(filter utf8proc,$(WITHOUT)),-DWITHOUT_UTF8PROC) \
              $(if $(filter sentencepiece,$(WITHOUT)),-DWITHOUT_SENTENCEPIECE)
LIB_ENGINE := $(or $(shell $(PKG_CONFIG) --libs $(LIB_NAMES) 2>/dev/null), \
                $(patsubst %,-l%,$(patsubst lib%,%,$(LIB_NAMES)))) \
              $(addprefix -l,$(SPM)) -lm -lpthread -ldl
LIB_SERVER := $(shell $(PKG_CONFIG) --libs libmicrohttpd libuv 2>/dev/null)

OPTIMISE := $(if $(filter 1,$(DEBUG)),-O0,-O2)
# -O1 under sanitizers: at -O3 the checks of an unrolled kernel take a compiler many minutes
KERNEL_OPTIMISE := $(if $(filter 1,$(DEBUG)),-O0,$(if $(SAN),-O1,-O3))
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
HARDEN := $(if $(SAN)$(filter 1,$(DEBUG)),,-D_FORTIFY_SOURCE=2) -fstack-protector-strong \
          -fstack-clash-protection -fcf-protection
WARN := -Wall -Wextra $(WERROR) -Wvla -Wno-format-truncation -Wno-stringop-truncation -Wno-psabi \
        -Wno-unknown-warning-option
BASE := -g -I. -D_GNU_SOURCE -DSIROCCO_VERSION='"$(VERSION)"' -ffp-contract=off -fno-math-errno \
        -fPIE $(SANITIZE) $(HARDEN) -MMD -MP
CFLAGS_ALL := -std=c11 $(BASE) $(WARN) -Wstrict-prototypes -Wmissing-prototypes $(LIB_CFLAGS) \
              $(CFLAGS)
CXXFLAGS_ALL := -std=c++17 $(BASE) $(WARN) $(LIB_CFLAGS) $(CXXFLAGS)
LDFLAGS_ALL := -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack $(SANITIZE) $(LDFLAGS)

# One object per source; a file's name says which instructions it may use.
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16
isa_flags = $(if $(findstring _avx512,$(1)),$(ISA_avx512),$(if $(findstring _avx2,$(1)),$(ISA_avx2)))

KERNEL_SRC := $(wildcard kernels/*.c kernels/cpu/*.c)
ENGINE_SRC := $(wildcard engine/*.c engine/*/*.c)
ENGINE_CXX := $(wildcard engine/*/*.cc)
SERVER_SRC := $(filter-out server/main.c,$(wildcard server/*.c)) $(wildcard config/*.c)
objects = $(addprefix $(BUILD)/,$(addsuffix .o,$(basename $(1))))

KERNEL_OBJ := $(call objects,$(KERNEL_SRC))
ENGINE_OBJ := $(call objects,$(ENGINE_SRC) $(ENGINE_CXX))
SERVER_OBJ := $(call objects,$(SERVER_SRC)) $(BUILD)/config/demo_files.o
MAIN_OBJ := $(BUILD)/server/main.o

CUDA_SRC := $(wildcard kernels/cuda/*.cu)
NVCC := $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
PLUGIN :=
ifeq ($(CUDA),1)
  ifeq ($(CUDA_SRC),)
    $(error CUDA=1: this version has no CUDA backend (kernels/cuda is empty))
  endif
  ifeq ($(NVCC),)
    $(error CUDA=1: nvcc is not on the PATH)
  endif
endif
ifneq ($(CUDA),0)
  ifneq ($(and $(CUDA_SRC),$(NVCC),$(or $(filter 1,$(CUDA)),$(wildcard /dev/nvidiactl))),)
    PLUGIN := $(BUILD)/sirocco-cuda.so
  endif
endif
# Compute capabilities that kernels/cuda is compiled for; a: instructions of that one alone, which
# nvcc's own "native" may leave out.
ifndef CUDA_ARCHS
  CUDA_ARCHS := $(if $(filter 1,$(CUDA)),75 80 89 90a 100 120,$(if $(PLUGIN),$(or $(shell \
      nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d '. ' | \
      grep '^[0-9][0-9]*$$' | sort -u | sed 's/^90$$/90a/'),native),native))
endif

UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*_test.c))
GOLDEN := $(patsubst tests/golden/%.c,$(BUILD)/tests/golden/%,$(wildcard tests/golden/*_test.c))
FUZZ_SRC := $(wildcard tests/fuzz/*_fuzz.c)
REPLAY := $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/tests/fuzz/%,$(FUZZ_SRC))
KERNEL_TEST := $(if $(wildcard tests/kernels/*.c),$(BUILD)/tests/kernels/check)
SIM := $(if $(wildcard tests/sim/*.c),$(BUILD)/tests/sim/sim)
# kernels/cuda compiled for the host: a plugin whose kernels run thread by thread (tests/cuda_emu)
EMU := $(if $(CUDA_SRC),$(BUILD)/tests/cuda_emu/sirocco-cuda.so)
# the same under tests/cuda_emu/sanitize.cc, which knows the calls that gcc makes
EMU_SAN := $(if $(EMU),$(if $(SAN)$(findstring clang,$(CXX)),,$(basename $(EMU))-san.so))
TEST_BINARIES := $(UNIT) $(GOLDEN) $(KERNEL_TEST) $(SIM) $(REPLAY) $(EMU) $(EMU_SAN)

.PHONY: all run test tidy bench fuzz clean install test-binaries libs
.SECONDARY:

all: $(BUILD)/sirocco $(PLUGIN)

$(BUILD)/sirocco: $(MAIN_OBJ) $(BUILD)/libserver.a $(BUILD)/libengine.a $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_SERVER) $(LIB_ENGINE)

$(BUILD)/libkernels.a: $(KERNEL_OBJ)
$(BUILD)/libengine.a: $(ENGINE_OBJ)
$(BUILD)/libserver.a: $(SERVER_OBJ)
$(BUILD)/lib%.a:
	@rm -f $@
	$(AR) rcs $@ $^

# The plugin holds its own copy of what it needs of kernels/*.c.
NVCC_FLAGS = -std=c++17 -O3 -I. --threads 0 -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra \
             $(if $(filter native,$(CUDA_ARCHS)),-arch=native,$(foreach arch,$(CUDA_ARCHS), \
                 -gencode arch=compute_$(arch),code=sm_$(arch)))
PLUGIN_C_OBJ := $(patsubst %.c,$(BUILD)/pic/%.o,kernels/quant.c kernels/quant_k.c \
                  kernels/quant_group.c kernels/kv_cache.c)
CUDA_OBJ := $(patsubst %.cu,$(BUILD)/%.cu.o,$(CUDA_SRC)) \
            $(PLUGIN_C_OBJ)

$(BUILD)/sirocco-cuda.so: $(CUDA_OBJ)
	$(NVCC) -shared -cudart static -Xlinker -Bsymbolic,-z,defs -o $@ $^ -lcublasLt -lpthread -ldl \
	    -Xlinker -rpath,$(abspath $(dir $(NVCC))../lib64)

$(BUILD)/kernels/cuda/%.cu.o: kernels/cuda/%.cu $(wildcard kernels/*.h kernels/cuda/*.cuh)
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c -o $@ $<

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(OPTIMISE) $(CFLAGS_ALL) -fPIC -fvisibility=hidden -c -o $@ $<

libs: $(BUILD)/libserver.a $(BUILD)/libengine.a $(BUILD)/libkernels.a

$(BUILD)/kernels/%.o: kernels/%.c
	@mkdir -p $(@D)
	$(CC) $(KERNEL_OPTIMISE) $(CFLAGS_ALL) $(call isa_flags,$(<F)) -c -o $@ $<

$(BUILD)/config/demo_files.o: config/demo.S $(wildcard config/demo/*)
	@mkdir -p $(@D)
	$(CC) -I. -c -o $@ $<

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(OPTIMISE) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(OPTIMISE) $(CXXFLAGS_ALL) -c -o $@ $<

# ---- tests

TEST_LIBS := $(BUILD)/libserver.a $(BUILD)/libengine.a $(BUILD)/libkernels.a

BENCH := $(patsubst %,$(BUILD)/tests/bench/%,load tokenize render sample)
test-binaries: $(TEST_BINARIES) $(BENCH)

$(BUILD)/tests/bench/load: $(BUILD)/tests/bench/load.o
	$(CC) $(LDFLAGS_ALL) -o $@ $^

$(BUILD)/tests/bench/tokenize $(BUILD)/tests/bench/render $(BUILD)/tests/bench/sample: %: %.o $(TEST_LIBS)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_ENGINE)

$(BUILD)/tests/unit/%_test: $(BUILD)/tests/unit/%_test.o $(BUILD)/tests/runner.o $(TEST_LIBS)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_SERVER) $(LIB_ENGINE)

$(BUILD)/tests/golden/%_test: $(BUILD)/tests/golden/%_test.o $(BUILD)/tests/runner.o \
                              $(BUILD)/libengine.a $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_ENGINE)

# `sirocco bench` alone, without the server's libraries
$(BUILD)/tests/bench/bench: $(BUILD)/tests/bench/bench_main.o $(BUILD)/server/cmd_bench.o \
                            $(BUILD)/server/bench.o $(BUILD)/server/bench_load.o \
                            $(BUILD)/server/bench_report.o \
                            $(BUILD)/server/cmd.o $(BUILD)/config/demo.o \
                            $(BUILD)/config/demo_files.o $(BUILD)/libengine.a $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_ENGINE)

# check_draw compares with the engine's sampler
# greedy agreement of a device with the CPU, without the server's libraries, too
$(BUILD)/tests/bench/agree: $(BUILD)/tests/bench/agree.o $(BUILD)/server/cmd.o \
                            $(BUILD)/config/demo.o $(BUILD)/config/demo_files.o \
                            $(BUILD)/libengine.a $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_ENGINE)

$(BUILD)/tests/bench/ops: $(BUILD)/tests/bench/ops.o $(BUILD)/server/cmd.o \
                          $(BUILD)/libengine.a $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_ENGINE)

$(BUILD)/tests/kernels/check: $(call objects,$(wildcard tests/kernels/*.c)) $(BUILD)/libengine.a \
                              $(BUILD)/libkernels.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ -lm -lpthread -ldl

EMU_OBJ := $(patsubst %.cu,$(BUILD)/emu/%.o,$(CUDA_SRC)) \
           $(patsubst %.cc,$(BUILD)/emu/%.o,$(wildcard tests/cuda_emu/*.cc)) \
           $(PLUGIN_C_OBJ)
EMU_FLAGS = $(KERNEL_OPTIMISE) $(CXXFLAGS_ALL) -fPIC -fvisibility=hidden \
            -DCUDA_EMU -Itests/cuda_emu \
            -Wno-missing-field-initializers -Wno-unknown-pragmas -include tests/cuda_emu/cuda_emu.h

$(EMU): $(EMU_OBJ)
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-Bsymbolic $(if $(SAN),,-Wl$(comma)-z$(comma)defs) $(SANITIZE) -o $@ $^ -lm -lpthread

$(BUILD)/emu/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) -x c++ $(EMU_FLAGS) -c -o $@ $<

# The same, watched by tests/cuda_emu/sanitize.cc: the compiler calls it at each load and store.
EMU_SAN_OBJ := $(patsubst $(BUILD)/emu/%,$(BUILD)/emu-san/%,$(EMU_OBJ))
EMU_SAN_FLAGS = $(subst -O3,-O1,$(EMU_FLAGS)) -DCUDA_EMU_SAN -fsanitize=alignment,bounds,shift \
                -fno-sanitize-recover=all -fsanitize=thread \
                --param tsan-instrument-func-entry-exit=0 --param tsan-distinguish-volatile=1

$(BUILD)/tests/cuda_emu/sirocco-cuda-san.so: $(EMU_SAN_OBJ)
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-Bsymbolic -fsanitize=undefined -o $@ $^ -lm -lpthread -ldl

$(BUILD)/emu-san/%.o: %.cu
	@mkdir -p $(@D)
	$(CXX) -x c++ $(EMU_SAN_FLAGS) -c -o $@ $<

$(BUILD)/emu-san/tests/cuda_emu/planted.o: tests/cuda_emu/planted.cc
	@mkdir -p $(@D)
	$(CXX) $(EMU_SAN_FLAGS) -c -o $@ $<

$(BUILD)/emu-san/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -DCUDA_EMU_SAN -c -o $@ $<

$(BUILD)/emu/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(EMU_FLAGS) -c -o $@ $<

$(BUILD)/tests/sim/sim: $(call objects,$(wildcard tests/sim/*.c)) $(TEST_LIBS)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_SERVER) $(LIB_ENGINE)

# The fuzz entries, linked to a plain program that replays a corpus.
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/fuzz/replay.o $(TEST_LIBS)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIB_SERVER) $(LIB_ENGINE)

# The same entries under libFuzzer: build/fuzz/fuzzer/NAME. Everything is compiled again by clang.
FUZZ_FLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -O1 -g
fuzz:
	$(MAKE) BUILD=build/fuzz CC=clang CXX=clang++ SAN= HARDEN= KERNEL_OPTIMISE=-O1 \
	    CFLAGS="$(FUZZ_FLAGS)" \
	    CXXFLAGS="$(FUZZ_FLAGS)" LDFLAGS="-fsanitize=address,undefined" fuzz-link
.PHONY: fuzz-link
fuzz-link: $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/fuzzer/%,$(FUZZ_SRC))
$(BUILD)/fuzzer/%: $(BUILD)/tests/fuzz/%_fuzz.o $(TEST_LIBS)
	@mkdir -p $(@D)
	$(CXX) -fsanitize=fuzzer,address,undefined -o $@ $^ $(LIB_SERVER) $(LIB_ENGINE)

test tidy bench: all
	scripts/test --no-setup $(if $(filter tidy,$@),--only tidy) $(if $(filter bench,$@),--bench)

# Everything of the CUDA backend that a machine with a GPU can try; needs no server libraries.
cuda-check:
	scripts/cuda-check $(if $(filter 0,$(BENCH_MODELS)),--no-bench)
.PHONY: cuda-check

run: all
	$(BUILD)/sirocco serve $(ARGS)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/sirocco
	install -m 755 $(BUILD)/sirocco $(DESTDIR)$(PREFIX)/bin/sirocco
	install -m 644 config/default.conf $(DESTDIR)$(PREFIX)/share/sirocco/default.conf
	$(if $(PLUGIN),install -d $(DESTDIR)$(PREFIX)/lib/sirocco && \
	    install -m 755 $(PLUGIN) $(DESTDIR)$(PREFIX)/lib/sirocco/)

clean:
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
