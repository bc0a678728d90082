/* cuda_emu: enough of CUDA for kernels/cuda to run on the host, so that its arithmetic, its barriers
 * and its host side are tested where there is no GPU. kernels/cuda/cuda.cuh includes it in place of
 * the CUDA headers when CUDA_EMU is defined; cuda_emu.cc implements it.
 *
 * A kernel's threads are fibers of one host thread. Blocks run one after the other; a thread runs
 * until it meets a barrier or a warp-wide operation, and warps and lanes run forwards in one launch
 * and backwards in the next, so that a missing barrier shows as a wrong result. Shared memory starts
 * poisoned. Work given to a stream waits until something synchronises: a host buffer that is
 * reused too early shows too. Device memory is protected while no kernel runs: host code that
 * touches it faults. Threads of a warp that wait at different barriers end the process.
 *
 * The tensor core operations (mma, ldmatrix) and cp.async are emulated from the PTX ISA's fragment
 * tables; a cp.async's destination holds poison until it was waited for. wgmma_emu.cc has wgmma.
 * With CUDA_EMU_SAN each load and store of a kernel is checked, too (sanitize.cc). */
#ifndef SIROCCO_TESTS_CUDA_EMU_H
#define SIROCCO_TESTS_CUDA_EMU_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>

#include "kernels/quant.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

/* ---- the running thread ---- */

struct emu_place {
    dim3 thread, block, block_dim, grid_dim;
    int lane, warp;
};
extern emu_place emu_now;
#define threadIdx (emu_now.thread)
#define blockIdx (emu_now.block)
#define blockDim (emu_now.block_dim)
#define gridDim (emu_now.grid_dim)

void *emu_shared(); /* the block's dynamic shared memory */
void emu_sync_block();
void emu_sync_warp();
void emu_grid_wait();
void emu_grid_trigger();
void emu_fence();
/* Every lane gives `bytes` bytes; returns all lanes' [32][16] after all have given theirs. */
const unsigned char (*emu_exchange(const void *value, size_t bytes))[16];
struct emu_shape {
    const char *name;
    bool early; /* may start before the kernel before it has ended */
    dim3 grid, block;
    size_t shared;
};
void emu_launch(const emu_shape &shape, const std::function<void()> &body);
#ifdef CUDA_EMU_SAN
void emu_arguments(const void *at, size_t bytes); /* the kernel begins: its copy is made of these */
#else
static inline void emu_arguments(const void *, size_t) {}
#endif

/* As in CUDA, arguments are evaluated and copied now, and the kernel runs later. */
template <typename... P, typename... A>
static inline void emu_start(const emu_shape &shape, void (*kernel)(P...), A... given)
{
    std::tuple<P...> arguments(given...);
    emu_launch(shape, [=] {
        void (*run)(P...) = kernel;
        emu_arguments(&arguments, sizeof arguments);
        std::apply(run, arguments);
    });
}
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    ((void)(stream), emu_start({#kernel, false, grid, block, shared}, kernel, __VA_ARGS__))
#define CUDA_LAUNCH_EARLY(kernel, grid, block, shared, d, ...)                                     \
    ((void)(d), emu_start({#kernel, true, grid, block, shared}, kernel, __VA_ARGS__))
#define CUDA_SHARED(type, name) type *name = (type *)emu_shared()

static inline void __syncthreads() { emu_sync_block(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emu_sync_warp(); }

template <typename T> static inline T emu_from_lane(T value, int lane)
{
    static_assert(sizeof(T) <= 16, "at most 16 bytes cross a warp at once");
    const unsigned char(*all)[16] = emu_exchange(&value, sizeof value);
    memcpy(&value, all[lane & 31], sizeof value);
    return value;
}
template <typename T> static inline T __shfl_sync(unsigned, T value, int lane)
{
    return emu_from_lane(value, lane);
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emu_from_lane(value, emu_now.lane ^ mask);
}
template <typename T> static inline T __shfl_down_sync(unsigned, T value, int by)
{
    return emu_from_lane(value, emu_now.lane + by < 32 ? emu_now.lane + by : emu_now.lane);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T value, int by)
{
    return emu_from_lane(value, emu_now.lane - by >= 0 ? emu_now.lane - by : emu_now.lane);
}
static inline unsigned __ballot_sync(unsigned, int predicate)
{
    int mine = predicate != 0;
    const unsigned char(*all)[16] = emu_exchange(&mine, sizeof mine);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) {
        int theirs;
        memcpy(&theirs, all[i], sizeof theirs);
        bits |= (theirs ? 1u : 0u) << i;
    }
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}

/* ---- cuda.cu's spans: what was handed out un-zeroed holds poison ---- */

void emu_span(const void *at, size_t bytes, bool zeroed);
void emu_span_end(const void *at);
#define CUDA_SPAN(at, bytes, zeroed) emu_span(at, bytes, zeroed)
#define CUDA_SPAN_END(at) emu_span_end(at)
#define CUDA_SCRATCH(at, bytes) emu_scratch(at, bytes)
#define CUDA_ANY_VALUE(at, bytes) emu_any_value(at, bytes)
#ifdef CUDA_EMU_SAN
#define CUDA_SPAN_GAP 256
void emu_any_value(const void *at, size_t bytes);
void emu_scratch(const void *at, size_t bytes);
/* Of a span the first and the last `each` bytes are for the host alone; found by tests/kernels. */
extern "C" __attribute__((visibility("default"))) void emu_guards(const void *at, size_t bytes,
                                                                  size_t each);
#else
static inline void emu_any_value(const void *, size_t) {}
static inline void emu_scratch(const void *, size_t) {}
#endif

/* ---- scalar functions of the device ---- */

template <typename T> static inline T __ldg(const T *at) { return *at; }
static inline float __uint_as_float(unsigned u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float fdividef(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
template <typename T> static inline T __ldcg(const T *at) { return *at; }
static inline void __threadfence() { emu_fence(); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return out;
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
#ifdef CUDA_EMU_SAN
void emu_atomic(void *at, size_t bytes);
#else
static inline void emu_atomic(void *, size_t) {}
#endif
template <typename T> __attribute__((no_sanitize("thread"))) T atomicAdd(T *at, T by)
{
    emu_atomic(at, sizeof *at);
    T before = *at;
    *at = before + by;
    return before;
}

/* ---- the runtime's host functions; see the CUDA runtime API's reference ---- */

typedef int cudaError_t;
typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
int emu_gpu(); /* the last that was set */
enum { EMU_GPU_WRONG = 3 }; /* its wgmma adds wrongly */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaMemGetInfo(size_t *left, size_t *total);
cudaError_t cudaMalloc(void **at, size_t bytes);
cudaError_t cudaFree(void *at);
cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *at);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind k, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F *, int, int)
{
    return cudaSuccess;
}

/* ---- tensor cores and asynchronous copies: the twins of ptx.cuh ---- */

void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16);
void emu_ldmatrix(uint32_t r[4], const void *row, bool transposed);
void emu_copy_async(void *to_shared, const void *from, int bytes);
void emu_copy_commit();
void emu_copy_wait(int groups_left);

/* ---- products of warpgroups: the twins of wgmma.cuh (wgmma_emu.cc) ---- */

struct emu_product { /* d (+)= a b: 64 x 16 times 16 x n */
    float *d;
    int n;
    const uint32_t *a; /* NULL: in shared memory, K-major */
    uint64_t a_tile, b_tile;
    bool add, transposed, bf16; /* transposed: b is MN-major */
};
void emu_wgmma(const emu_product &p);
/* Products of warps so far; found by tests/kernels. */
extern "C" __attribute__((visibility("default"))) int64_t emu_wgmmas(void);
void emu_wgmma_fence();
void emu_wgmma_commit();
void emu_wgmma_wait(int groups_left);
void emu_proxy_fence();
uint32_t emu_shared_address(const void *at);

/* ---- for cublas_emu.cc: work behind what is enqueued; now: not part of what is captured ---- */

void emu_enqueue(const std::function<void()> &work);
void emu_enqueue_now(const std::function<void()> &work);

#endif
