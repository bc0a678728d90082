/* gather: rows copied. Engine thread. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256 };

static __global__ void gather(float *out, const float *in, const int32_t *rows, int dim)
{
    const float *from = in + (int64_t)rows[blockIdx.x] * dim;
    float *to = out + (int64_t)blockIdx.x * dim;
    for (int i = (int)threadIdx.x; i < dim; i += THREADS)
        to[i] = from[i];
}

int cuda_gather(struct device *d, const struct gather_args *a)
{
    int last = 0;
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    for (int i = 0; i < a->n; i++) {
        if (a->rows[i] < 0)
            return cuda_fail(d, "gather of row %d", a->rows[i]);
        last = a->rows[i] > last ? a->rows[i] : last;
    }
    size_t row = (size_t)a->dim * sizeof(float);
    if (!cuda_owns(d, a->out, (size_t)a->n * row, "gather") ||
        !cuda_owns(d, a->in, ((size_t)last + 1) * row, "gather's input"))
        return -1;
    const int32_t *rows = (const int32_t *)cuda_stage(d, a->rows, (size_t)a->n * sizeof *a->rows);
    if (!rows)
        return -1;
    CUDA_LAUNCH(gather, dim3((unsigned)a->n), dim3(THREADS), 0, d->stream, a->out, a->in, rows,
                a->dim);
    return cuda_launched(d, "gather");
}
