/* embed: rows of the token table, decoded and scaled; one block per token. Engine thread. */
#include "kernels/cuda/quant.cuh"

enum { THREADS = 256 };

static __global__ void embed(struct quant_view v, const int32_t *tokens, float *out, float scale)
{
    int64_t row = tokens[blockIdx.x];
    float *to = out + (int64_t)blockIdx.x * v.cols;
    for (int c = (int)threadIdx.x; c < v.cols; c += THREADS)
        to[c] = __fmul_rn(view_value(&v, row, c), scale);
}

int cuda_embed(struct device *d, const struct embed_args *a)
{
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (!cuda_owns(d, a->out, (size_t)a->n * (size_t)a->table->cols * sizeof(float), "embed"))
        return -1;
    const int32_t *tokens =
        (const int32_t *)cuda_stage(d, a->tokens, (size_t)a->n * sizeof *a->tokens);
    if (!tokens)
        return -1;
    CUDA_LAUNCH(embed, dim3((unsigned)a->n), dim3(THREADS), 0, d->stream, quant_view_of(a->table),
                tokens, a->out, a->scale);
    return cuda_launched(d, "embed");
}
