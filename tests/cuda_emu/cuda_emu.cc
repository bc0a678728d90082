/* cuda_emu: fibers, streams and tensor core operations on the host; see cuda_emu.h. One thread. */
#include "tests/cuda_emu/cuda_emu.h"
#include "tests/cuda_emu/sanitize.h"
#include "tests/cuda_emu/wgmma_emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

namespace {

const int LANES = 32, THREADS_MAX = 1024, STACK = 128 << 10, SHARED_MAX = 228 << 10;
const size_t DEVICE_BYTES = (size_t)8 << 30; /* what the emulated GPU has; pages come as touched */

enum status { READY, AT_WARP, AT_BLOCK, DONE };

struct copy {
    void *to;
    unsigned char bytes[16];
    int n, group;
};

struct fiber {
    void *sp;
    char *stack;
    status state;
    emu_place place;
    int parity, group;
    bool exchanges; /* at the warp's barrier: by a shuffle, which orders no memory */
    std::vector<copy> copies;
};

fiber fibers[THREADS_MAX];
void *scheduler_sp;
fiber *current;
const std::function<void()> *body;
alignas(128) unsigned char shared_memory[SHARED_MAX];
unsigned char slots[THREADS_MAX / LANES][2][LANES][16];
int n_launches;

[[noreturn]] void die(const char *what)
{
    fprintf(stderr, "cuda_emu: %s (block %u,%u,%u thread %u)\n", what, emu_now.block.x,
            emu_now.block.y, emu_now.block.z, emu_now.thread.x);
    abort();
}

} // namespace

emu_place emu_now;

/* Save the callee-saved registers on the stack, its pointer to *save, and go on from `to`. */
extern "C" void emu_switch(void **save, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl emu_switch\n.hidden emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
        ".size emu_switch,.-emu_switch\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl emu_switch\n.hidden emu_switch\n.type emu_switch,%function\nemu_switch:\n"
        "  sub sp, sp, #160\n"
        "  stp x19, x20, [sp]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
        "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
        "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n  stp d12, d13, [sp, #128]\n"
        "  stp d14, d15, [sp, #144]\n"
        "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
        "  ldp x19, x20, [sp]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
        "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
        "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n  ldp d12, d13, [sp, #128]\n"
        "  ldp d14, d15, [sp, #144]\n"
        "  add sp, sp, #160\n  ret\n");
#else
#error "cuda_emu: no fibers for this processor"
#endif

static void leave(status state)
{
    fiber *f = current;
    f->state = state;
    f->place = emu_now;
    emu_switch(&f->sp, scheduler_sp);
    emu_now = f->place;
}

extern "C" __attribute__((used, visibility("hidden"))) void emu_fiber_main(void)
{
    (*body)();
    wgmma_thread_end();
    san_thread_end();
    leave(DONE);
    abort();
}

static void prepare(fiber *f)
{
    if (!f->stack) {
        f->stack = (char *)mmap(NULL, STACK, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED)
            die("no memory for a stack");
    }
    void **top = (void **)(f->stack + STACK - 64);
#if defined(__x86_64__)
    *--top = NULL; /* the return address of emu_fiber_main, which does not return */
    *--top = (void *)emu_fiber_main;
    top -= 6;
    memset(top, 0, 6 * sizeof *top);
#else
    top -= 20;
    memset(top, 0, 20 * sizeof *top);
    top[11] = (void *)emu_fiber_main; /* x30 */
#endif
    f->sp = top;
    f->state = READY;
    f->parity = f->group = 0;
    f->exchanges = false;
    f->copies.clear();
}

static void run(fiber *f)
{
    current = f;
    emu_now = f->place;
    san_thread(f->stack, STACK);
    emu_switch(&scheduler_sp, f->sp);
    san_thread(NULL, 0);
}

/* Run a warp until all its threads are done or at the block's barrier. */
static void run_warp(int first, int last, bool backwards)
{
    for (;;) {
        int ready = 0, at_warp = 0, at_block = 0, exchanging = 0;
        for (int i = 0; i < last - first; i++) {
            fiber *f = &fibers[backwards ? last - 1 - i : first + i];
            if (f->state == READY)
                run(f);
            ready += f->state == READY;
            at_warp += f->state == AT_WARP;
            exchanging += f->state == AT_WARP && f->exchanges;
            at_block += f->state == AT_BLOCK;
        }
        if (at_warp && at_block)
            die("threads of a warp wait at different barriers");
        if (!at_warp)
            return;
        if (exchanging && exchanging != at_warp)
            die("some threads of a warp wait for __syncwarp and some for a shuffle");
        if (!exchanging)
            san_warp_arrived(first / LANES);
        for (int i = first; i < last; i++)
            if (fibers[i].state == AT_WARP)
                fibers[i].state = READY;
    }
}

static void run_block(dim3 block, dim3 block_dim, dim3 grid_dim, size_t shared, bool backwards)
{
    int n = (int)block_dim.x, n_warps = (n + LANES - 1) / LANES;
    memset(shared_memory, 0xff, shared + 4096 < sizeof shared_memory ? shared + 4096 : shared);
    for (int i = 0; i < n; i++) {
        prepare(&fibers[i]);
        fibers[i].place = {dim3((unsigned)i, 0, 0), block, block_dim, grid_dim, i % LANES,
                           i / LANES};
    }
    san_block(shared_memory, shared, n);
    wgmma_block(shared_memory, shared, n);
    for (;;) {
        int waiting = 0;
        for (int w = 0; w < n_warps; w++) {
            int warp = backwards ? n_warps - 1 - w : w;
            run_warp(warp * LANES, warp * LANES + LANES < n ? warp * LANES + LANES : n, backwards);
        }
        for (int i = 0; i < n; i++)
            if (fibers[i].state == AT_BLOCK) {
                fibers[i].state = READY;
                waiting++;
            }
        if (!waiting)
            return;
        san_block_arrived();
        wgmma_block_arrived();
    }
}

void *emu_shared() { return shared_memory; }
void emu_sync_block() { leave(AT_BLOCK); }
void emu_sync_warp() { leave(AT_WARP); }

const unsigned char (*emu_exchange(const void *value, size_t bytes))[16]
{
    fiber *f = current;
    unsigned char(*mine)[16] = slots[f->place.warp][f->parity];
    memcpy(mine[f->place.lane], value, bytes);
    f->parity ^= 1;
    f->exchanges = true;
    leave(AT_WARP);
    f->exchanges = false;
    return mine;
}

/* ---- tensor cores ---- */

static float decode(uint16_t h, bool bf16)
{
    static float table[1 << 16]; /* of float16: mma decodes more than anything else here does */
    static bool made;
    if (bf16)
        return __uint_as_float((unsigned)h << 16);
    for (unsigned i = 0; !made && i < 1 << 16; i++)
        table[i] = quant_f16_to_f32((uint16_t)i);
    made = true;
    return table[h];
}

struct lane_words { /* a lane's share, exchanged in pieces of 16 bytes */
    uint32_t w[LANES][4];
};

static void gather(const uint32_t word[4], lane_words *all)
{
    const unsigned char(*given)[16] = emu_exchange(word, 16);
    memcpy(all->w, given, sizeof all->w);
}

/* m16n8k16, row times column, float32 sums: PTX ISA, "Matrix fragments for mma.m16n8k16". */
void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16)
{
    lane_words as, bs;
    uint32_t padded[4] = {b[0], b[1], 0, 0};
    gather(a, &as);
    gather(padded, &bs);
    int g = emu_now.lane / 4, t = emu_now.lane % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + 8 * (i / 2), column = 2 * t + i % 2;
        double sum = d[i];
        for (int k = 0; k < 16; k++) {
            /* a: register = row / 8 + 2 * (k / 8), lane = row % 8 * 4 + k % 8 / 2, half = k % 2 */
            uint32_t wa = as.w[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
            uint32_t wb = bs.w[column * 4 + k % 8 / 2][k / 8];
            sum += (double)decode((uint16_t)(wa >> 16 * (k % 2)), bf16) *
                   (double)decode((uint16_t)(wb >> 16 * (k % 2)), bf16);
        }
        d[i] = (float)sum;
    }
}

/* ldmatrix.x4.m8n8.b16: lane 8 i + j gives the address of row j of matrix i; register i of a lane
 * gets the two values at row lane / 4, columns 2 (lane % 4) and the next (transposed: of column
 * lane / 4, rows 2 (lane % 4) and the next). */
void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed)
{
    const void *rows[LANES];
    const unsigned char(*all)[16] = emu_exchange(&row, sizeof row);
    for (int i = 0; i < LANES; i++)
        memcpy(&rows[i], all[i], sizeof rows[i]);
    san_warp_reads(row, 16, __builtin_return_address(0));
    int g = emu_now.lane / 4, t = emu_now.lane % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t low, high;
        for (int j = 0; j < 2; j++) {
            int from = transposed ? 2 * t + j : g, column = transposed ? g : 2 * t + j;
            const uint16_t *at = (const uint16_t *)rows[8 * i + from];
            if ((uintptr_t)at % 16)
                die("ldmatrix: a row is not on 16 bytes");
            *(j ? &high : &low) = at[column];
        }
        r[i] = (uint32_t)high << 16 | low;
    }
}

void emu_copy_async(void *to, const void *from, int bytes)
{
    copy c = {to, {0}, 16, current->group};
    if ((uintptr_t)to % 16 || (bytes && (uintptr_t)from % 16))
        die("cp.async: an address is not on 16 bytes");
    san_copy_asked(to, from, (size_t)bytes, __builtin_return_address(0));
    if (bytes)
        memcpy(c.bytes, from, (size_t)bytes);
    memset(to, 0xff, 16);
    current->copies.push_back(c);
}

void emu_copy_commit() { current->group++; }

void emu_copy_wait(int groups_left)
{
    size_t kept = 0;
    for (size_t i = 0; i < current->copies.size(); i++) {
        copy &c = current->copies[i];
        if (c.group < current->group - groups_left) {
            memcpy(c.to, c.bytes, (size_t)c.n);
            san_copy_done(c.to);
            wgmma_written(c.to, sizeof c.bytes);
        } else
            current->copies[kept++] = c;
    }
    current->copies.resize(kept);
}

/* ---- memory: regions, protected while no kernel runs ---- */

struct region {
    char *at;
    size_t bytes;
};
static std::vector<region> regions;

static void protect(int access)
{
#ifdef CUDA_EMU_SAN
    if (access == PROT_NONE) /* would take most of the time; the plain emulation does it */
        return;
#endif
    for (const region &r : regions)
        if (mprotect(r.at, r.bytes, access))
            die("mprotect failed");
}

static bool on_device(const void *at, size_t bytes)
{
    for (const region &r : regions)
        if ((const char *)at >= r.at && (const char *)at + bytes <= r.at + r.bytes)
            return true;
    return false;
}

/* ---- streams: one queue, run when something waits for it ---- */

struct emu_graph {
    std::vector<std::function<void()>> work;
};
static std::vector<std::function<void()>> queue;
static emu_graph *capturing;

void emu_enqueue(const std::function<void()> &work)
{
    (capturing ? capturing->work : queue).push_back(work);
}
void emu_enqueue_now(const std::function<void()> &work) { queue.push_back(work); }

static void drain()
{
    std::vector<std::function<void()>> now;
    now.swap(queue);
    if (now.empty())
        return;
    protect(PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < now.size(); i++)
        now[i]();
    protect(PROT_NONE);
    san_drained();
}

void emu_launch(const emu_shape &shape, const std::function<void()> &work)
{
    dim3 grid = shape.grid, block = shape.block;
    size_t shared = shape.shared;
    if (block.x < 1 || block.x > THREADS_MAX || block.y != 1 || block.z != 1 ||
        shared > SHARED_MAX || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        die("a launch's shape is out of range");
    emu_enqueue([=] {
        bool backwards = n_launches++ % 2;
        wgmma_launch(n_launches);
        body = &work;
        san_launch(shape.name, shape.early);
        for (unsigned z = 0; z < grid.z; z++)
            for (unsigned y = 0; y < grid.y; y++)
                for (unsigned x = 0; x < grid.x; x++)
                    run_block(dim3(x, y, z), block, grid, shared, backwards);
    });
}

/* Of compute capability 8.0, with the shared memory of 8.9, which products have fewer stages for; of
 * 9.0; of 9.0 with an older cuBLASLt (cublas_emu.cc); of 9.0 with wrong products (wgmma_emu.cc). */
static int gpu;
cudaError_t cudaGetDeviceCount(int *n)
{
    *n = EMU_GPU_WRONG + 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device)
{
    gpu = device;
    return cudaSuccess;
}
int emu_gpu() { return gpu; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    p->major = device ? 9 : 8;
    p->multiProcessorCount = 4;
    p->totalGlobalMem = DEVICE_BYTES;
    p->sharedMemPerBlockOptin = (device ? 227 : 99) << 10;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    *total = *left = DEVICE_BYTES;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **at, size_t bytes)
{
    region r = {NULL, (bytes + 4095) & ~(size_t)4095};
    drain();
    r.at = (char *)mmap(NULL, r.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                        0);
    if (r.at == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    madvise(r.at, r.bytes, MADV_HUGEPAGE); /* else protecting it takes longer than the kernels */
    *at = r.at;
    regions.push_back(r);
    san_region(r.at, r.bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *at)
{
    drain();
    for (size_t i = 0; i < regions.size(); i++)
        if (regions[i].at == at) {
            san_region_end(regions[i].at);
            munmap(at, regions[i].bytes);
            regions.erase(regions.begin() + (long)i);
            return cudaSuccess;
        }
    return at ? cudaErrorInvalidValue : cudaSuccess;
}
cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned)
{
    *at = malloc(bytes);
    return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *at)
{
    drain();
    free(at);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t)
{
    if ((kind != cudaMemcpyHostToDevice) != on_device(from, n) ||
        (kind != cudaMemcpyDeviceToHost) != on_device(to, n))
        die("cudaMemcpyAsync: a pointer is not where its direction says");
    bool up = kind == cudaMemcpyHostToDevice;
    if (kind == cudaMemcpyDeviceToHost && !capturing)
        memset(to, 0xff, n); /* until it is waited for */
    std::string given = san_source(from, up && !capturing ? n : 0);
    emu_enqueue([=] {
        san_host(up ? to : from, n, up, "cudaMemcpyAsync");
        if (!given.empty() && memcmp(given.data(), from, n))
            san_complain("host memory changed before it was copied", NULL);
        memcpy(to, from, n);
    });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t)
{
    if (!on_device(to, bytes))
        die("cudaMemsetAsync: not device memory");
    emu_enqueue([=] {
        san_host(to, bytes, true, "cudaMemsetAsync");
        memset(to, value, bytes);
    });
    return cudaSuccess;
}
#ifndef CUDA_EMU_SAN
void emu_span(const void *at, size_t bytes, bool zeroed)
{
    if (!zeroed)
        emu_enqueue_now([=] { memset((void *)at, 0xff, bytes); });
}
void emu_span_end(const void *) {}
void emu_grid_wait() {}
void emu_grid_trigger() {}
void emu_fence() {}
#endif
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = NULL;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t)
{
    drain();
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    if (capturing)
        die("a stream is waited for while it is captured");
    drain();
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = NULL;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaStreamSynchronize(NULL); }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    if (capturing)
        return cudaErrorInvalidValue;
    capturing = new emu_graph();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    *graph = capturing;
    capturing = NULL;
    return *graph ? cudaSuccess : cudaErrorInvalidValue;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned)
{
    *out = new emu_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t)
{
    for (size_t i = 0; i < graph->work.size(); i++)
        emu_enqueue(graph->work[i]);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t) { return "emulated"; }
