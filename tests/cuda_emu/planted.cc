/* planted: one fault of each kind that sanitize.cc is to find, and the same without, which it is not
 * to. tests/kernels/check_sanitize.c runs each in a process of its own. */
#ifdef CUDA_EMU_SAN
#include "kernels/cuda/wgmma.cuh"
#include "tests/cuda_emu/sanitize.h"

enum { THREADS = 64, BLOCKS = 4 };

struct plant {
    const char *name, *found; /* found: what is said of it; NULL: nothing */
};

static const struct plant plants[] = {
    {"none", NULL},
    {"no __syncthreads", "without a barrier between"},
    {"no __syncthreads before a write", "what another thread read, without a barrier between"},
    {"no __syncwarp", "without a barrier between"},
    {"a shuffle in place of __syncwarp", "without a barrier between"},
    {"no __syncwarp before ldmatrix", "without a barrier between"},
    {"no copy_async_wait", "a cp.async that was not waited for"},
    {"no barrier behind copy_async_wait", "without a barrier between"},
    {"one element beyond shared memory", "beyond the launch's shared memory"},
    {"shared memory that nobody wrote", "was never written"},
    {"one element beyond a span", "outside of any span"},
    {"a span that was given back", "outside of any span"},
    {"a span that nobody wrote", "was never written"},
    {"scratch of the work before", "was never written"},
    {"the host's memory", "not the device's"},
    {"blocks write the same place", "what another block writes"},
    {"a block reads what another writes", "what another block writes"},
    {"parts that meet without __threadfence", "what another block writes"},
    {"parts that meet, read without __threadfence", "what another block writes"},
    {"a read before grid_wait", "before grid_wait"},
    {"a write before grid_wait", "before grid_wait"},
    {"no grid_wait", "ends without grid_wait"},
    {"grid_trigger before grid_wait", "comes before grid_wait"},
    {"a vector load off its alignment", "misaligned"},
    {"a host buffer changed before its copy", "changed before it was copied"},
    {"no async_proxy_fence behind a store", "without fence.proxy.async"},
    {"no async_proxy_fence behind a cp.async", "without fence.proxy.async"},
    {"async_proxy_fence behind the barrier", "without fence.proxy.async"},
    {"async_proxy_fence before copy_async_wait", "without fence.proxy.async"},
    {"no barrier before wgmma", "without a barrier between"},
    {"a store under a product", "without a barrier between"},
    {"no wgmma_fence", "without wgmma.fence"},
    {"no wgmma_wait", "before its wgmma was waited for"},
    {"a wgmma_wait that leaves one group", "wrong sums"},
    {"registers changed under a product", "wrong sums"},
    {"a tile off 1,024 bytes", "does not begin on 1,024 bytes"},
    {"a tile without its swizzle", "wrong sums"},
    {"a tile beyond shared memory", "beyond the launch's shared memory"},
    {"warps that multiply different tiles", "issue different wgmmas"},
};
enum {
    NONE, BARRIER, BARRIER_BEFORE_WRITE, SYNCWARP, SHUFFLE, LDMATRIX, COPY_WAIT, COPY_BARRIER,
    SHARED_END, SHARED_UNWRITTEN, SPAN_END, SPAN_FREED, SPAN_UNWRITTEN, SCRATCH, HOST, SAME_PLACE,
    OTHER_BLOCK, MEET_WRITE, MEET_READ, EARLY_READ, EARLY_WRITE, EARLY_NO_WAIT, EARLY_TRIGGER,
    MISALIGNED, HOST_CHANGED, STORE_FENCE, COPY_FENCE, LATE_FENCE, EARLY_FENCE, PRODUCT_BARRIER,
    PRODUCT_STORE, PRODUCT_FENCE, PRODUCT_NO_WAIT, PRODUCT_WAIT, PRODUCT_REGISTERS, TILE_ALIGN,
    TILE_SWIZZLE, TILE_END, TILE_DIFFERS
};

static __global__ void within_block(int fault, const float *in, float *out)
{
    CUDA_SHARED(float, shared);
    int t = (int)threadIdx.x, lane = t % 32;
    uint32_t r[4] = {0, 0, 0, 0};
    float *copied = shared + THREADS;

    shared[t] = in[t];
    if (fault != BARRIER)
        __syncthreads();
    float x = shared[(t + 33) % THREADS];
    if (fault != BARRIER_BEFORE_WRITE)
        __syncthreads();
    shared[t] = x;
    if (fault == SHUFFLE)
        x += __shfl_sync(0xffffffffu, x, 0);
    else if (fault != SYNCWARP)
        __syncwarp();
    x += shared[t - lane + (lane + 1) % 32];
    __syncthreads();

    if (t < 16) {
        copy_async_16(copied + 4 * t, in + 4 * t, true);
        copy_async_commit();
        if (fault != COPY_WAIT)
            copy_async_wait<0>();
    }
    if (fault != COPY_BARRIER)
        __syncthreads();
    x += copied[THREADS - 1 - t];
    __syncthreads();

    copied[t] = x;
    if (fault != LDMATRIX)
        __syncwarp();
    ldmatrix_4(r, copied + (t - lane) + 4 * (lane % 8));
    __syncthreads();
    if (fault == SHARED_END)
        shared[2 * THREADS + t] = x;
    if (fault == SHARED_UNWRITTEN)
        x += shared[2 * THREADS - 1 - t + 2 * THREADS];
    out[blockIdx.x * THREADS + threadIdx.x] = x + (float)(r[0] & 1);
}

/* The blocks' parts meet in the last one. */
static __global__ void between_blocks(int fault, float *parts, int *counter, float *out)
{
    CUDA_SHARED(int, last);
    int t = (int)threadIdx.x, b = (int)blockIdx.x;
    float sum = 0;
    parts[(fault == SAME_PLACE ? 0 : b) * THREADS + t] = (float)b;
    if (fault == OTHER_BLOCK && b)
        sum += parts[t];
    if (fault != MEET_WRITE)
        __threadfence();
    __syncthreads();
    if (t == 0)
        *last = atomicAdd(counter, 1) == BLOCKS - 1;
    __syncthreads();
    if (!*last)
        return;
    if (fault != MEET_READ)
        __threadfence();
    if (t == 0)
        *counter = 0;
    for (int i = 0; i < BLOCKS; i++)
        sum += parts[i * THREADS + t];
    out[t] = sum;
}

static __global__ void follows(int fault, const float *weights, const float *made, float *out)
{
    int t = (int)threadIdx.x;
    float x = weights[t] + (fault == EARLY_READ ? made[t] : 0);
    if (fault == EARLY_WRITE)
        out[t] = x;
    if (fault == EARLY_TRIGGER)
        grid_trigger();
    if (fault != EARLY_NO_WAIT)
        grid_wait();
    if (fault != EARLY_NO_WAIT)
        out[t] = x + made[t];
}

static __global__ void reads(const float *at, int n, float *out)
{
    int t = (int)threadIdx.x;
    out[t] = at[t < n ? t : n - 1];
}

static __global__ void reads_four(const char *at, float *out)
{
    float4 v = *(const float4 *)at;
    out[threadIdx.x] = v.x + v.w;
}

/* in times in, [64][64] float16: the left factor in registers, the right one by cp.async to a
 * MN-major tile; in two groups of products. */
static __global__ void multiplies(int fault, const uint16_t *in)
{
    CUDA_SHARED(char, shared);
    int t = (int)threadIdx.x, lane = t % 32, row = t / 32 * 16 + lane / 4;
    uint16_t *left = (uint16_t *)(shared + (-shared_address(shared) & (WGMMA_ALIGN - 1)));
    uint16_t *other = left + 64 * 64 + (fault == TILE_ALIGN ? 64 : 0);
    uint32_t a[4][4];
    float d[8][4] = {};

    for (int i = t; i < 64 * 8; i += WGMMA_THREADS) {
        int r = i / 8, c = i % 8;
        copy_async_16(other + (fault == TILE_SWIZZLE ? 64 * r + 8 * c : wgmma_place<64>(r, c)),
                      in + 64 * r + 8 * c, true);
    }
    copy_async_commit();
    if (fault == EARLY_FENCE)
        async_proxy_fence();
    copy_async_wait<0>();
    if (fault != COPY_FENCE && fault != LATE_FENCE && fault != EARLY_FENCE)
        async_proxy_fence();
    if (fault == STORE_FENCE) /* the copies' values again, by stores */
        for (int i = t; i < 64 * 8; i += WGMMA_THREADS)
            *(uint4 *)(other + wgmma_place<64>(i / 8, i % 8)) = *(const uint4 *)(in + 8 * i);
    if (fault != PRODUCT_BARRIER)
        __syncthreads();
    if (fault == LATE_FENCE)
        async_proxy_fence();
    for (int i = 0; i < 16; i++) {
        int r = row + 8 * (i % 2), k = i / 4 * 16 + i % 4 / 2 * 8 + lane % 4 * 2;
        memcpy(&a[i / 4][i % 4], in + 64 * r + k, 4);
    }
    if (fault != PRODUCT_FENCE)
        wgmma_fence();
    const uint16_t *from = fault == TILE_END ? other + 64 * 64 : other;
    if (fault == TILE_DIFFERS && t >= 64)
        from = left;
    for (int k = 0; k < 4; k++) {
        wgmma_values<false, 64>(d, a[k], wgmma_tile(from, 0) + k * 2048 / 16);
        if (k == 1)
            wgmma_commit();
    }
    wgmma_commit();
    if (fault == PRODUCT_STORE)
        other[wgmma_place<64>(t % 64, 0)] = 0;
    if (fault == PRODUCT_REGISTERS)
        memset(a, 0, sizeof a);
    if (fault == PRODUCT_WAIT)
        wgmma_wait<1>();
    float early = d[0][0];
    if (fault != PRODUCT_NO_WAIT)
        wgmma_wait<0>();
    if (fault == PRODUCT_WAIT)
        d[0][0] = early;
    for (int i = 0; i < 32; i++) {
        int r = row + 8 * (i % 4 / 2), c = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 64; k++)
            sum += f16_float(in[64 * r + k]) * f16_float(in[64 * k + c]);
        if (d[i / 4][i % 4] != sum && fault != PRODUCT_NO_WAIT)
            san_complain("wgmma: wrong sums", NULL);
    }
}

static float *take(char *arena, int i, size_t n)
{
    float *at = (float *)(arena + 65536 * i);
    emu_span(at, n * sizeof *at, false);
    return at;
}

extern "C" __attribute__((visibility("default"))) const char *emu_planted(int fault,
                                                                          const char **found)
{
    if (fault < 0 || fault >= (int)(sizeof plants / sizeof *plants))
        return NULL;
    *found = plants[fault].found;
    return plants[fault].name;
}

extern "C" __attribute__((visibility("default"))) void emu_plant(int fault)
{
    struct device *d = NULL;
    static float host[BLOCKS * THREADS];
    void *memory = NULL;
    cudaSetDevice(0); /* the last that was set may be one that multiplies wrongly */
    if (cudaMalloc(&memory, 1 << 20) != cudaSuccess)
        return;
    char *arena = (char *)memory;
    float *in = take(arena, 0, THREADS), *out = take(arena, 1, BLOCKS * THREADS);
    float *parts = take(arena, 2, BLOCKS * THREADS), *counter = take(arena, 3, 1);
    float *scratch = take(arena, 4, THREADS);
    dim3 one(1), all(BLOCKS), threads(THREADS);
    size_t shared = 2 * THREADS * sizeof(float);

    emu_scratch(scratch, THREADS * sizeof(float));
    cudaMemcpyAsync(in, host, THREADS * sizeof *in, cudaMemcpyHostToDevice, NULL);
    if (fault == HOST_CHANGED)
        host[1] = 1;
    cudaMemsetAsync(counter, 0, sizeof *counter, NULL);
    CUDA_LAUNCH(within_block, all, threads, shared * (fault == SHARED_UNWRITTEN ? 2 : 1), NULL,
                fault, (const float *)in, out);
    CUDA_LAUNCH(between_blocks, all, threads, sizeof(int), NULL, fault, parts, (int *)counter, out);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)in, THREADS, scratch);
    CUDA_LAUNCH_EARLY(follows, one, threads, 0, d, fault, (const float *)in,
                      (const float *)scratch, out);
    if (fault == SCRATCH)
        cudaStreamSynchronize(NULL);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)scratch, THREADS, out);
    if (fault == SPAN_FREED)
        emu_span_end(in);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)in,
                fault == SPAN_END ? THREADS + 1 : THREADS, out);
    if (fault == SPAN_END)
        CUDA_LAUNCH(reads, one, dim3(THREADS + 1), 0, NULL, (const float *)in, THREADS + 1, parts);
    if (fault == SPAN_UNWRITTEN)
        CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)take(arena, 5, THREADS), THREADS,
                    out);
    if (fault == HOST)
        CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)malloc(sizeof host), THREADS, out);
    CUDA_LAUNCH(reads_four, one, dim3(1), 0, NULL,
                (const char *)in + (fault == MISALIGNED ? 4 : 0), out);
    static uint16_t halves[64 * 64];
    for (int i = 0; i < 64 * 64; i++) /* small integers */
        halves[i] = float_f16((float)((i * 37 + i / 64 * 11) % 9 - 4));
    uint16_t *factors = (uint16_t *)take(arena, 6, 64 * 64 / 2);
    cudaMemcpyAsync(factors, halves, sizeof halves, cudaMemcpyHostToDevice, NULL);
    for (int i = 0; i < 4; i++) /* products as early as can be, and as late */
        CUDA_LAUNCH(multiplies, one, dim3(WGMMA_THREADS),
                    WGMMA_ALIGN + 2 * sizeof halves + (fault == TILE_ALIGN ? 128 : 0), NULL, fault,
                    (const uint16_t *)factors);
    cudaStreamSynchronize(NULL);
    cudaFree(memory);
}
#endif
