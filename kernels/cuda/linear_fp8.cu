/* linear_fp8: FP8 weights of one scale per row (or matrix) times many inputs, on FP8 tensor cores.
 * Engine thread.
 *
 * Inputs are rounded to E4M3 row by row (fp8.cuh), to 4 significant bits, by the op that makes them
 * or by a pass here. Products are summed by cuBLASLt and times both scales (its "outer vector"
 * scaling, which it has for compute capability 9.0). Of an input that is not finite all outputs are
 * NaN. A matrix that the library refuses goes the way of other formats from then on. */
#include "kernels/cuda/fp8.cuh"

enum {
    THREADS = 256,
    FP8_FROM = 65 /* inputs: below, reading the weights is what takes time, and inputs keep
                   * float16's 11 bits or more */
};

static __global__ void round_rows(const float *in, int cols, uint8_t *out, float *scales)
{
    CUDA_SHARED(float, scratch);
    const float4 *from = (const float4 *)(in + (int64_t)blockIdx.x * cols);
    uint32_t *to = (uint32_t *)(out + (int64_t)blockIdx.x * cols);
    struct fp8_seen seen = {0, 0};
    float scale;
    for (int i = (int)threadIdx.x; i < cols / 4; i += THREADS)
        fp8_see(&seen, from[i]);
    float up = fp8_up(seen, scratch, &scale);
    for (int i = (int)threadIdx.x; i < cols / 4; i += THREADS)
        to[i] = fp8_four(from[i], up);
    if (threadIdx.x == 0)
        scales[blockIdx.x] = scale;
}

bool cuda_fp8_fits(const struct device *d, const struct matrix *w, int n)
{
    const struct cuda_matrix *c = (const struct cuda_matrix *)w->packed;
    return d->capability >= 90 && c->by_row && !c->no_fp8 && n >= FP8_FROM && w->rows % 16 == 0;
}

void cuda_fp8_round(struct device *d, const struct linear_args *a)
{
    CUDA_LAUNCH(round_rows, dim3((unsigned)a->n), dim3(THREADS),
                2 * THREADS / CUDA_WARP * sizeof(float), d->stream, a->in,
                (int)a->jobs[0].w->cols, (uint8_t *)d->split_high, d->split_sums);
}

static __global__ void to_floats(const uint8_t *from, const float *scales, int cols, float *out)
{
    int64_t at = (int64_t)blockIdx.x * cols;
    for (int i = (int)threadIdx.x; i < cols; i += THREADS) {
        uint32_t two[2];
        four_fp8_f16(from[at + i], two);
        out[at + i] = f16_float((uint16_t)two[0]) * scales[blockIdx.x];
    }
}

void cuda_fp8_floats(struct device *d, const struct cuda_halves *from, int n, int64_t cols,
                     float *out)
{
    CUDA_LAUNCH(to_floats, dim3((unsigned)n), dim3(THREADS), 0, d->stream, from->fp8, from->scales,
                (int)cols, out);
}

int cuda_linear_fp8(struct device *d, const struct linear_args *a, bool out_bf16)
{
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
        g.out_bf16 = out_bf16;
        g.bias = job->bias;
        g.rows = g.out_stride = job->w->rows;
        g.cols = job->w->cols;
        g.n = a->n;
        g.add = a->add;
        int rc = cuda_multiply(d, &g);
        if (rc == 1 && !out_bf16)
            c->no_fp8 = true;
        if (rc)
            return rc < 0 ? -1 : j;
    }
    return a->n_jobs;
}
