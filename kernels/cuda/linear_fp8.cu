/* linear_fp8: FP8 weights of one scale per row (or matrix) times many inputs, on FP8 tensor cores.
 * Engine thread.
 *
 * Each input is divided by its greatest magnitude / 448 and rounded to E4M3, to 4 significant bits:
 * what checkpoints in FP8 are made for ("dynamic per-token quantization"). Products are summed by
 * cuBLASLt and times both scales (its "outer vector" scaling, which it has for compute capability
 * 9.0). An input that is not finite gets the scale NaN, and so do its outputs. A matrix that the
 * library refuses goes the way of other formats from then on. */
#include "kernels/cuda/ptx.cuh"

enum {
    THREADS = 256,
    FP8_FROM = 65 /* inputs: below, reading the weights is what takes time, and inputs keep
                   * float16's 11 bits or more */
};
static const float FP8_MAX = 448;

static __global__ void round_rows(const float *in, int cols, uint8_t *out, float *scales)
{
    CUDA_SHARED(float, shared);
    const float4 *from = (const float4 *)(in + (int64_t)blockIdx.x * cols);
    uint32_t *to = (uint32_t *)(out + (int64_t)blockIdx.x * cols);
    float most = 0, sum = 0;
    for (int i = (int)threadIdx.x; i < cols / 4; i += THREADS) {
        float4 v = from[i];
        most = fmaxf(fmaxf(most, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
        sum += 0 * v.x + 0 * v.y + 0 * v.z + 0 * v.w; /* NaN where something is not finite */
    }
    for (int mask = 16; mask; mask /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, mask));
    if (threadIdx.x % CUDA_WARP == 0)
        shared[threadIdx.x / CUDA_WARP] = most;
    sum = block_sum(sum, shared + THREADS / CUDA_WARP); /* its barriers are for both */
    for (int i = 0; i < THREADS / CUDA_WARP; i++)
        most = fmaxf(most, shared[i]);
    float scale = most / FP8_MAX + sum;
    float up = most > 1e-30f ? FP8_MAX / most : 0;
    for (int i = (int)threadIdx.x; i < cols / 4; i += THREADS) {
        float4 v = from[i];
        to[i] = (uint32_t)float_fp8(v.x * up) | (uint32_t)float_fp8(v.y * up) << 8 |
                (uint32_t)float_fp8(v.z * up) << 16 | (uint32_t)float_fp8(v.w * up) << 24;
    }
    if (threadIdx.x == 0)
        scales[blockIdx.x] = scale;
}

bool cuda_fp8_fits(const struct device *d, const struct matrix *w, int n)
{
    const struct cuda_matrix *c = (const struct cuda_matrix *)w->packed;
    return d->capability >= 90 && c->by_row && !c->no_fp8 && n >= FP8_FROM && w->rows % 16 == 0;
}

int cuda_linear_fp8(struct device *d, const struct linear_args *a)
{
    int64_t cols = a->jobs[0].w->cols;
    CUDA_LAUNCH(round_rows, dim3((unsigned)a->n), dim3(THREADS),
                2 * THREADS / CUDA_WARP * sizeof(float), d->stream, a->in, (int)cols,
                (uint8_t *)d->split_high, d->split_sums);
    for (int j = 0; j < a->n_jobs; j++) {
        const struct linear_job *job = &a->jobs[j];
        struct cuda_matrix *c = (struct cuda_matrix *)job->w->packed;
        struct cuda_gemm g = {};
        g.type = QUANT_F8_128;
        g.batch = 1;
        g.w = c->codes;
        g.in = d->split_high;
        g.w_scales = c->row_scales;
        g.in_scales = d->split_sums;
        g.out = job->out;
        g.bias = job->bias;
        g.rows = g.out_stride = job->w->rows;
        g.cols = cols;
        g.n = a->n;
        g.add = a->add;
        int rc = cuda_multiply(d, &g);
        c->no_fp8 = rc == 1;
        if (rc)
            return rc < 0 ? -1 : j;
    }
    return a->n_jobs;
}
