/* embed: rows of the token table, decoded and scaled. Engine thread; slices of tokens on the pool.
 * Decoding is exact in every format, so one version serves all levels. */
#include "kernels/cpu/cpu.h"

struct embed_job {
    const struct embed_args *a;
    size_t row_bytes;
};

static void embed_slice(void *arg, int i, int thread)
{
    const struct embed_job *job = arg;
    const struct embed_args *a = job->a;
    const struct matrix *t = a->table;
    float *out = a->out + (size_t)i * (size_t)t->cols;

    (void)thread;
    quant_formats[t->type].decode((const char *)t->data + (size_t)a->tokens[i] * job->row_bytes,
                                  out, (size_t)t->cols);
    for (int64_t c = 0; c < t->cols && a->scale != 1; c++)
        out[c] *= a->scale;
}

int embed_run(struct device *d, const struct embed_args *a)
{
    if (cpu_failed(d))
        return -1;
    struct embed_job job = {a, quant_row_bytes(a->table->type, (size_t)a->table->cols)};
    cpu_run(d, embed_slice, &job, a->n, (double)a->n * (double)a->table->cols * 0.7);
    return 0;
}
