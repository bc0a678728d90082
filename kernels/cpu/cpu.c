/* cpu: the CPU backend's device: open and close, the choice of variants, memory, the KV pool.
 *
 * Engine thread only. A device owns its worker pool, its scratch memory and its KV pool. Variants
 * are chosen once, in variants_choose, weakest to strongest; nothing asks for a CPU feature later.
 * The first error latches in device.error and every later op returns -1. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/machine.h"
#include "kernels/kv_cache.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum { HUGE_PAGE = 2 << 20, ALIGN = 64, TILE_MAX = 32, THREADS_MAX = 512 };
enum { PARALLEL_NS_MIN = 4000 };
/* A sequence of 32 heads at 32,000 positions on 2 threads, at 1,000,000 on 64. */
enum { PARTIALS_PER_THREAD = 1024 };

static const char *const level_names[] = {"base", "avx2", "avx512", "avx512-bf16"};

/* ---- features ---- */

#if defined(__x86_64__)
/* Which register files the operating system saves: XCR0 (Intel SDM vol. 1, section 13.3). */
static uint64_t saved_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static struct cpu_features detect(void)
{
    struct cpu_features f = {.level = CPU_BASE};
    uint32_t a, b, c, d, b7, c7, a71 = 0;
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint32_t fma_f16c = bit_FMA | bit_F16C | bit_OSXSAVE | bit_AVX;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma_f16c) != fma_f16c)
        return f;
    uint64_t saved = saved_state();
    if ((saved & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || !(b7 & bit_AVX2))
        return f;
    f.level = CPU_AVX2;
    if ((saved & 0xe6) != 0xe6 || (b7 & avx512) != avx512)
        return f;
    f.level = CPU_AVX512;
    f.vnni = c7 & bit_AVX512VNNI;
    if (a >= 1 && __get_cpuid_count(7, 1, &a71, &b, &c, &d))
        f.level = a71 & bit_AVX512BF16 ? CPU_AVX512_BF16 : CPU_AVX512;
    return f;
}
#else
static struct cpu_features detect(void)
{
    return (struct cpu_features){.level = CPU_BASE};
}
#endif

static void variants_choose(struct cpu_variants *v, const struct cpu_features *f)
{
    norm_base(v);
    linear_base(v);
    rope_base(v);
    attention_base(v);
    act_base(v);
    pick_base(v);
    limits_base(v);
#if defined(__x86_64__)
    if (f->level >= CPU_AVX2) {
        norm_avx2(v);
        linear_avx2(v);
        rope_avx2(v);
        attention_avx2(v);
        act_avx2(v);
        pick_avx2(v);
        limits_avx2(v);
    }
    if (f->level >= CPU_AVX512) {
        norm_avx512(v);
        linear_avx512(v, f);
        rope_avx512(v);
        attention_avx512(v);
        act_avx512(v);
        pick_avx512(v);
        limits_avx512(v, f);
    }
#else
    (void)f;
#endif
}

/* ---- memory ---- */

static size_t device_memory_free(const struct device *d)
{
    (void)d;
    return cpu_machine_memory_free("");
}


/* calloc gives large blocks as untouched zero pages; the pointer it returned is kept just before
 * the aligned one. */
static void *device_alloc(struct device *d, size_t bytes)
{
    (void)d;
    if (bytes > SIZE_MAX - 2 * ALIGN)
        return NULL;
    char *raw = calloc(1, bytes + ALIGN + sizeof(void *));
    if (!raw)
        return NULL;
    uintptr_t at = ((uintptr_t)raw + sizeof(void *) + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    ((void **)at)[-1] = raw;
    return (void *)at;
}

static void device_free(struct device *d, void *memory)
{
    (void)d;
    if (memory)
        free(((void **)memory)[-1]);
}

static int device_upload(struct device *d, void *to, const void *from_host, size_t bytes)
{
    if (cpu_failed(d))
        return -1;
    if (bytes)
        memcpy(to, from_host, bytes);
    return 0;
}

static int device_download(struct device *d, void *to_host, const void *from, size_t bytes)
{
    return device_upload(d, to_host, from, bytes);
}

static int device_sync(struct device *d)
{
    return cpu_failed(d) ? -1 : 0;
}

/* Host arrays are device memory here: a step has nothing to prepare. */
static int device_step_begin(struct device *d, const struct step_args *a)
{
    (void)a;
    return cpu_failed(d) ? -1 : 0;
}

/* Weights are used where they lie: no format is repacked, so a model takes its file's size. */
static int device_matrix_load(struct device *d, struct matrix *m)
{
    if (cpu_failed(d))
        return -1;
    if (m->rows < 1 || m->cols < 1 || m->cols > INT32_MAX ||
        !quant_row_bytes(m->type, (size_t)m->cols))
        return cpu_fail(d, "a matrix of %lld x %lld cannot be stored as %s", (long long)m->rows,
                        (long long)m->cols, quant_formats[m->type].name);
    m->packed = NULL;
    return 0;
}

static void device_matrix_free(struct device *d, struct matrix *m)
{
    (void)d;
    m->packed = NULL;
}

/* From a layer to the next, in values: whole huge pages and the gap, which is whole cache lines of
 * values and of their scales. */
static size_t kv_layer_values(const struct kv_options *o)
{
    const size_t line = (size_t)ALIGN * CPU_KV_GROUP, layers = (size_t)o->n_layers;
    const size_t page = HUGE_PAGE / (size_t)kv_cache_value_bytes(o->type);
    size_t pages = (kv_cache_values(o) / layers + page - 1) / page;

    return pages * page + (page / layers + line - 1) / line * line;
}

static int kv_open(struct device *d, const struct kv_options *o)
{
    size_t bytes = kv_cache_half_bytes(o), values, scales; /* without the gaps at first */

    if (cpu_failed(d))
        return -1;
    if (d->kv_bytes)
        return cpu_fail(d, "the KV pool is already open");
    if (!bytes || bytes > SIZE_MAX / 2 || o->head_dim > CPU_HEAD_DIM_MAX)
        return cpu_fail(d, "the KV pool's options are out of range");
    d->n_partials = d->n_threads * PARTIALS_PER_THREAD;
    d->partials = device_alloc(d, (size_t)d->n_partials * sizeof *d->partials);
    d->partial_sums =
        device_alloc(d, (size_t)d->n_partials * (size_t)o->head_dim * sizeof *d->partial_sums);
    if (!d->partials || !d->partial_sums)
        return cpu_fail(d, "no memory for the sums of %d rows of attention", d->n_partials);
    values = (size_t)o->n_layers * kv_layer_values(o);
    scales = o->type == QUANT_Q8_0 ? values / CPU_KV_GROUP : 0;
    bytes = values * (size_t)kv_cache_value_bytes(o->type) + scales * sizeof(uint16_t);
    for (int i = 0; i < 2; i++) {
        char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            if (i)
                munmap(d->kv.k, bytes);
            d->kv = (struct cpu_kv){0};
            return cpu_fail(d, "no memory for a KV pool of 2 x %zu bytes", bytes);
        }
        madvise(memory, bytes, MADV_HUGEPAGE);
        *(i ? &d->kv.v : &d->kv.k) = memory;
    }
    d->kv.o = *o;
    d->kv.value_bytes = kv_cache_value_bytes(o->type);
    d->kv.layer_values = values / (size_t)o->n_layers;
    if (scales) {
        d->kv.k_scales = (uint16_t *)(void *)(d->kv.k + values);
        d->kv.v_scales = (uint16_t *)(void *)(d->kv.v + values);
    }
    d->kv.block_shift = __builtin_ctz((unsigned)o->block_size);
    d->kv_bytes = bytes;
    return 0;
}

/* The inputs of linear in its other forms: struct cpu_quantized, whose last tile may have up to
 * TILE_MAX - 1 rows more, and (a call may want both), from *h_at on, the same rounded to BF16. */
static size_t inputs_bytes(int n_max, int cols_max, size_t *h_at)
{
    size_t tiles = (size_t)(n_max + TILE_MAX - 1) * ((size_t)cols_max / 32) * CPU_QUANTIZED_BYTES;

    *h_at = (tiles + ALIGN - 1) / ALIGN * ALIGN;
    return *h_at + (size_t)n_max * (size_t)cols_max * sizeof(uint16_t);
}

static size_t device_linear_workspace(int n_max, int cols_max)
{
    size_t h_at;

    return inputs_bytes(n_max, cols_max, &h_at) + (size_t)n_max * sizeof(int32_t);
}

static int device_reserve(struct device *d, int n_max, int cols_max)
{
    size_t h_at;

    if (cpu_failed(d))
        return -1;
    if (d->n_max)
        return cpu_fail(d, "scratch memory is already reserved");
    if (n_max < 1 || cols_max < 1)
        return cpu_fail(d, "scratch memory for %d x %d values", n_max, cols_max);
    size_t bytes = inputs_bytes(n_max, cols_max, &h_at);
    char *memory = device_alloc(d, bytes);
    d->attention_plan = device_alloc(d, ((size_t)n_max + 1) * sizeof *d->attention_plan);
    d->xq.tiles = memory;
    if (!memory || !d->attention_plan)
        return cpu_fail(d, "no memory for %zu bytes of scratch", bytes);
    d->xh = (uint16_t *)(memory + h_at);
    d->n_max = n_max;
    d->cols_max = cols_max;
    return 0;
}

/* ---- errors and slices ---- */

int cpu_fail(struct device *d, const char *format, ...)
{
    va_list list;

    if (cpu_failed(d))
        return -1;
    va_start(list, format);
    vsnprintf(d->error, sizeof d->error, format, list);
    va_end(list);
    return -1;
}

void cpu_run(struct device *d, pool_fn *fn, void *arg, int n_slices, double ns)
{
    if (ns >= PARALLEL_NS_MIN) {
        pool_run(d->pool, fn, arg, n_slices);
        return;
    }
    for (int i = 0; i < n_slices; i++)
        fn(arg, i, 0);
}

static const char *device_error(const struct device *d)
{
    return d->error;
}

static const char *device_describe(const struct device *d)
{
    return d->name;
}

/* ---- open and close ---- */

static void device_close(struct device *d)
{
    if (!d)
        return;
    pool_close(d->pool);
    if (d->kv_bytes) {
        munmap(d->kv.k, d->kv_bytes);
        munmap(d->kv.v, d->kv_bytes);
    }
    device_free(d, d->xq.tiles);
    device_free(d, d->attention_plan);
    device_free(d, d->partials);
    device_free(d, d->partial_sums);
    device_free(d, d->scratch);
    free(d);
}

static int complain(char *error, size_t error_bytes, const char *text)
{
    if (error && error_bytes)
        snprintf(error, error_bytes, "%s", text);
    return -1;
}

/* The strongest level the option allows; -1 when it names none. */
static int level_allowed(const char *isa)
{
    if (!isa || !*isa || !strcmp(isa, "auto"))
        return CPU_AVX512_BF16;
    for (int i = CPU_BASE; i <= CPU_AVX512_BF16; i++)
        if (!strcmp(isa, level_names[i]))
            return i;
    return -1;
}

static int device_open(const struct device_options *options, struct device **out, char *error,
                       size_t error_bytes)
{
    int level = level_allowed(options->cpu_isa);
    struct cpu_features f = detect();

    *out = NULL;
    if (level < 0)
        return complain(error, error_bytes,
                        "the CPU level is auto, base, avx2, avx512 or avx512-bf16");
    if (options->n_threads < 0 || options->n_threads > THREADS_MAX)
        return complain(error, error_bytes, "the number of threads is 0 to 512");
    if (level < (int)f.level)
        f = (struct cpu_features){.level = (enum cpu_level)level,
                                  .vnni = f.vnni && level >= CPU_AVX512};

    struct device *d = calloc(1, sizeof *d);
    if (!d)
        return complain(error, error_bytes, "no memory for the CPU device");
    d->features = f;
    d->n_threads = options->n_threads ? options->n_threads : cpu_machine_threads("");
    d->n_threads = d->n_threads < THREADS_MAX ? d->n_threads : THREADS_MAX;
    d->scratch = device_alloc(d, (size_t)d->n_threads * CPU_SCRATCH);
    d->pool = d->scratch ? pool_open(d->n_threads) : NULL;
    if (!d->pool) {
        device_close(d);
        return complain(error, error_bytes, "the worker threads cannot be started");
    }
    variants_choose(&d->ops, &d->features);
    snprintf(d->name, sizeof d->name, "%s%s, %d thread%s", level_names[f.level],
             f.vnni ? " vnni" : "", d->n_threads,
             d->n_threads == 1 ? "" : "s");
    *out = d;
    return 0;
}

static const struct kernels table = {
    .name = "cpu",
    .open = device_open,
    .close = device_close,
    .device_error = device_error,
    .describe = device_describe,
    .memory_free = device_memory_free,
    .alloc = device_alloc,
    .free = device_free,
    .upload = device_upload,
    .download = device_download,
    .sync = device_sync,
    .host_alloc = device_alloc,
    .host_free = device_free,
    .matrix_load = device_matrix_load,
    .matrix_free = device_matrix_free,
    .kv_bytes_per_block = kv_cache_block_bytes,
    .kv_open = kv_open,
    .moe_workspace = moe_workspace,
    .linear_workspace = device_linear_workspace,
    .reserve = device_reserve,
    .step_begin = device_step_begin,
    .step_end = device_sync,
    .mark = device_sync,
    .wait = device_sync,
    .embed = embed_run,
    .norm = norm_run,
    .linear = linear_run,
    .rope_table = rope_table,
    .rope_store = rope_store,
    .attention = attention_run,
    .act_mul = act_mul_run,
    .moe = moe_run,
    .gather = gather_run,
    .pick = pick_run,
    .limits = limits_run,
};

const struct kernels *kernels_cpu(void)
{
    return &table;
}
