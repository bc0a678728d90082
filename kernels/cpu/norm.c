/* norm: RMSNorm, row by row (Zhang and Sennrich 2019). Engine thread; slices of rows on the pool.
 * norm_row is the plain loop; its sum runs over the row in one fixed order. */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { ROWS_PER_SLICE = 4 };

static void norm_row(float *out, const float *in, const float *weight, int dim, float eps, bool add)
{
    float sum = 0;

    for (int i = 0; i < dim; i++)
        sum += in[i] * in[i];
    float scale = 1 / sqrtf(sum / (float)dim + eps);
    for (int i = 0; i < dim; i++) {
        float y = in[i] * scale * weight[i];
        out[i] = add ? out[i] + y : y;
    }
}

void norm_base(struct cpu_variants *v)
{
    v->norm_row = norm_row;
}

struct norm_job {
    const struct device *d;
    const struct norm_args *a;
};

static void norm_slice(void *arg, int slice, int thread)
{
    const struct norm_job *job = arg;
    const struct norm_args *a = job->a;

    (void)thread;
    for (int i = slice * ROWS_PER_SLICE; i < a->n && i < (slice + 1) * ROWS_PER_SLICE; i++) {
        size_t at = (size_t)i * (size_t)a->dim;
        job->d->ops.norm_row(a->out + at, a->in + at, a->weight, a->dim, a->eps, a->add);
    }
}

int norm_run(struct device *d, const struct norm_args *a)
{
    if (cpu_failed(d))
        return -1;
    struct norm_job job = {d, a};
    int n_slices = (a->n + ROWS_PER_SLICE - 1) / ROWS_PER_SLICE;
    cpu_run(d, norm_slice, &job, n_slices, (double)a->n * a->dim * 0.1);
    return 0;
}
