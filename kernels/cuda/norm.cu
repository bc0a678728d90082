/* norm: RMSNorm (Zhang and Sennrich 2019). Engine thread. Long rows take a block each, short ones
 * (the heads of q and k) a warp each; a thread's share of a row is read once, into registers, and
 * so are its weights, as no load passes a store; a row's sum has one order whatever n is. The
 * product behind a norm may begin to fetch weights while it runs (grid_trigger). */
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/halves.cuh"

enum { THREADS = 256, WARPS = THREADS / CUDA_WARP, SHORT = 512, KEPT = 32 };

template <bool ADD>
static __device__ __forceinline__ void write_row(const float *in, const float *weight, float *out,
                                                 float scale, int i)
{
    float y = __fmul_rn(__fmul_rn(in[i], scale), weight[i]);
    out[i] = ADD ? out[i] + y : y;
}

template <bool ADD>
static __global__ void norm_long(float *out, const float *in, const float *weight, int dim,
                                 float eps)
{
    CUDA_SHARED(float, scratch);
    const float *from = in + (int64_t)blockIdx.x * dim;
    float *to = out + (int64_t)blockIdx.x * dim;
    float sum = 0;
    grid_wait();
    grid_trigger();
    for (int i = (int)threadIdx.x; i < dim; i += THREADS)
        sum += from[i] * from[i];
    float scale = 1 / sqrtf(block_sum(sum, scratch) / (float)dim + eps);
    for (int i = (int)threadIdx.x; i < dim; i += THREADS)
        write_row<ADD>(from, weight, to, scale, i);
}

/* A block's row as FP8. */
static __device__ __forceinline__ void store_fp8(const struct cuda_halves *o, int dim,
                                                 const float4 y[KEPT / 4], float *scratch)
{
    struct fp8_seen seen = {0, 0};
    float scale;
    uint32_t *to = (uint32_t *)(o->fp8 + (int64_t)blockIdx.x * dim);
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++)
        if ((int)threadIdx.x + j * THREADS < dim / 4)
            fp8_see(&seen, y[j]);
    float up = fp8_up(seen, scratch, &scale);
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++)
        if ((int)threadIdx.x + j * THREADS < dim / 4)
            to[threadIdx.x + j * THREADS] = fp8_four(y[j], up);
    if (threadIdx.x == 0)
        o->scales[blockIdx.x] = scale;
}

/* Rows of up to THREADS * KEPT floats on 16 bytes: loads are wide and done once. */
template <bool ADD>
static __global__ void norm_wide(float *out, struct cuda_halves halves, const float *in,
                                 const float *weight, int dim, float eps)
{
    CUDA_SHARED(float, scratch);
    const float4 *from = (const float4 *)(in + (int64_t)blockIdx.x * dim);
    const float4 *w = (const float4 *)weight;
    float4 *to = (float4 *)(out + (int64_t)blockIdx.x * dim);
    float4 kept[KEPT / 4], weights[KEPT / 4];
    float sum = 0;
    int n = dim / 4;
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++) {
        int i = (int)threadIdx.x + j * THREADS;
        if (i < n)
            weights[j] = w[i];
    }
    grid_wait();
    grid_trigger();
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++) {
        int i = (int)threadIdx.x + j * THREADS;
        if (i < n)
            kept[j] = from[i];
    }
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++) {
        int i = (int)threadIdx.x + j * THREADS;
        if (i < n) {
            sum += kept[j].x * kept[j].x + kept[j].y * kept[j].y;
            sum += kept[j].z * kept[j].z + kept[j].w * kept[j].w;
        }
    }
    float scale = 1 / sqrtf(block_sum(sum, scratch) / (float)dim + eps);
#pragma unroll
    for (int j = 0; j < KEPT / 4; j++) {
        int i = (int)threadIdx.x + j * THREADS;
        if (i < n) {
            float4 x = kept[j], y = make_float4(0, 0, 0, 0);
            if (ADD)
                y = to[i];
            y.x += x.x * scale * weights[j].x;
            y.y += x.y * scale * weights[j].y;
            y.z += x.z * scale * weights[j].z;
            y.w += x.w * scale * weights[j].w;
            if (!ADD && halves.fp8)
                kept[j] = y;
            else if (!ADD && halves.high) /* whole warps are here: dim is a multiple of 128 */
                store_all(&halves, (int64_t)blockIdx.x * dim + 4 * i, y);
            else
                to[i] = y;
        }
    }
    if (!ADD && halves.fp8)
        store_fp8(&halves, dim, kept, scratch);
}

template <bool ADD>
static __global__ void norm_short(float *out, const float *in, const float *weight, int n, int dim,
                                  float eps)
{
    int row = (int)blockIdx.x * WARPS + (int)threadIdx.x / CUDA_WARP;
    int lane = (int)threadIdx.x % CUDA_WARP;
    grid_wait();
    grid_trigger();
    if (row >= n)
        return;
    const float *from = in + (int64_t)row * dim;
    float *to = out + (int64_t)row * dim;
    float sum = 0, kept[SHORT / CUDA_WARP], weights[SHORT / CUDA_WARP];
#pragma unroll
    for (int j = 0; j < SHORT / CUDA_WARP; j++) {
        int i = lane + j * CUDA_WARP;
        if (i < dim) {
            kept[j] = from[i];
            weights[j] = weight[i];
        }
    }
#pragma unroll
    for (int j = 0; j < SHORT / CUDA_WARP; j++)
        if (lane + j * CUDA_WARP < dim)
            sum += kept[j] * kept[j];
    float scale = 1 / sqrtf(warp_sum(sum) / (float)dim + eps);
#pragma unroll
    for (int j = 0; j < SHORT / CUDA_WARP; j++) {
        int i = lane + j * CUDA_WARP;
        float y = i < dim ? __fmul_rn(__fmul_rn(kept[j], scale), weights[j]) : 0;
        if (i < dim)
            to[i] = ADD ? to[i] + y : y;
    }
}

template <bool ADD> static void run(struct device *d, const struct norm_args *a)
{
    bool wide = a->dim % 4 == 0 && a->dim <= THREADS * KEPT && ((uintptr_t)a->in & 15) == 0 &&
                ((uintptr_t)a->out & 15) == 0 && ((uintptr_t)a->weight & 15) == 0;
    size_t shared = 2 * WARPS * sizeof(float);
    const struct linear_readers none = {};
    bool may = wide && a->dim > SHORT && !ADD;
    struct cuda_halves halves = cuda_halves_for(d, may ? &a->readers : &none, a->out, a->n, true);
    if (a->dim <= SHORT)
        CUDA_LAUNCH_EARLY(norm_short<ADD>, dim3((unsigned)((a->n + WARPS - 1) / WARPS)),
                          dim3(THREADS), 0, d, a->out, a->in, a->weight, a->n, a->dim, a->eps);
    else if (wide)
        CUDA_LAUNCH_EARLY(norm_wide<ADD>, dim3((unsigned)a->n), dim3(THREADS), shared, d, a->out,
                          halves, a->in, a->weight, a->dim, a->eps);
    else
        CUDA_LAUNCH_EARLY(norm_long<ADD>, dim3((unsigned)a->n), dim3(THREADS), shared, d, a->out,
                          a->in, a->weight, a->dim, a->eps);
}

int cuda_norm(struct device *d, const struct norm_args *a)
{
    size_t bytes = (size_t)a->n * (size_t)a->dim * sizeof(float);
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (!cuda_owns(d, a->out, bytes, "norm") || !cuda_owns(d, a->in, bytes, "norm") ||
        !cuda_owns(d, a->weight, (size_t)a->dim * sizeof(float), "norm's weight"))
        return -1;
    if (a->add)
        run<true>(d, a);
    else
        run<false>(d, a);
    return cuda_launched(d, "norm");
}
