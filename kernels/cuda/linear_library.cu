/* linear_library: products of many inputs by the library (blas.cu): which matrices go together,
 * biases that it does not add, quantized weights slice by slice as float16. Engine thread. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256, TILE = 128 * 128 };

static __global__ void add_bias(float *out, const float *bias, int rows, int64_t stride)
{
    int row = (int)(blockIdx.y * THREADS + threadIdx.x);
    if (row < rows)
        out[(int64_t)blockIdx.x * stride + row] += bias[row];
}

int cuda_multiply(struct device *d, struct cuda_gemm *g)
{
    const float *bias = g->bias;
    bool apart = bias && g->type == QUANT_F8_128; /* the library's FP8 takes bfloat16 for a bias */
    int rc = apart ? 1 : cuda_blas_run(d, g);
    if (rc != 1 || !bias)
        return rc;
    g->bias = NULL;
    rc = cuda_blas_run(d, g);
    int64_t blocks = (g->rows + THREADS - 1) / THREADS;
    if (!rc)
        CUDA_LAUNCH(add_bias, dim3((unsigned)g->n, (unsigned)blocks), dim3(THREADS), 0, d->stream,
                    (float *)g->out, bias, (int)g->rows, g->out_stride);
    return rc;
}

static bool quantized(const struct matrix *w)
{
    return w->type != QUANT_F32 && w->type != QUANT_F16 && w->type != QUANT_BF16;
}

/* May job i and the next be one product of two? Where each alone is too small to fill the GPU; the
 * library wants steps forward from one to the other. */
bool cuda_library_pair(const struct device *d, const struct linear_args *a, int i)
{
    const struct linear_job *x = &a->jobs[i], *y = x + 1;
    if (i + 1 >= a->n_jobs || x->w->rows != y->w->rows || x->bias || y->bias || quantized(x->w))
        return false;
    const struct cuda_matrix *first = (const struct cuda_matrix *)x->w->packed;
    const struct cuda_matrix *second = (const struct cuda_matrix *)y->w->packed;
    return x->w->rows * a->n < (int64_t)TILE * d->n_sm && second->raw > first->raw &&
           y->out > x->out;
}

/* A quantized matrix, as many rows at a time as there is room for. */
static int run_slices(struct device *d, const struct linear_job *job, struct cuda_gemm *g)
{
    const struct matrix *w = job->w;
    int64_t each = (int64_t)(d->dequantized_bytes / sizeof(uint16_t)) / w->cols;
    each = each / CUDA_TILE_ROWS * CUDA_TILE_ROWS;
    int rc = 0;
    g->type = QUANT_F16;
    g->w = d->dequantized;
    for (int64_t row = 0; !rc && row < w->rows; row += each) {
        g->rows = w->rows - row < each ? w->rows - row : each;
        g->out = job->out + row;
        g->bias = job->bias ? job->bias + row : NULL;
        cuda_dequantize(d, w, row, g->rows, d->dequantized);
        rc = cuda_multiply(d, g);
        if (rc == 1 && row)
            rc = cuda_fail(d, "cuBLASLt takes one slice of a matrix and not another");
    }
    return rc;
}

int cuda_library(struct device *d, const struct linear_args *a, int i, int n_jobs, bool out_bf16)
{
    const struct linear_job *job = &a->jobs[i];
    const struct matrix *w = job->w;
    const struct cuda_matrix *c = (const struct cuda_matrix *)w->packed;
    struct cuda_gemm g = {};
    g.type = w->type;
    g.batch = n_jobs;
    g.w = c->raw;
    g.in = w->type == QUANT_F32 ? (const void *)a->in : d->split_high;
    g.out = job->out;
    g.out_bf16 = out_bf16;
    g.bias = job->bias;
    g.rows = g.out_stride = w->rows;
    g.cols = w->cols;
    g.n = a->n;
    g.add = a->add;
    if (n_jobs > 1) {
        g.w_step = ((const struct cuda_matrix *)job[1].w->packed)->raw - c->raw;
        g.out_step = (const char *)job[1].out - (const char *)job->out;
    }
    return quantized(w) ? run_slices(d, job, &g) : cuda_multiply(d, &g);
}
