/* act: gate = activation(gate) * up, element by element. Engine thread; slices on the pool. */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { PER_SLICE = 4096 };

/* SiLU (Elfwing et al. 2017): x / (1 + exp(-x)). GELU (Hendrycks and Gimpel 2016), tanh form:
 * x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))). */
static void act_mul(float *gate, const float *up, size_t n, enum activation act)
{
    for (size_t i = 0; i < n; i++) {
        float x = gate[i];
        float y = act == ACTIVATION_SILU
                      ? x / (1 + expf(-x))
                      : 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
        gate[i] = y * up[i];
    }
}

void act_base(struct cpu_variants *v)
{
    v->act_mul = act_mul;
}

struct act_job {
    const struct device *d;
    const struct act_mul_args *a;
    size_t n;
};

static void act_slice(void *arg, int slice, int thread)
{
    const struct act_job *job = arg;
    size_t from = (size_t)slice * PER_SLICE;
    size_t n = job->n - from < PER_SLICE ? job->n - from : PER_SLICE;

    (void)thread;
    job->d->ops.act_mul(job->a->gate + from, job->a->up + from, n, job->a->act);
}

int act_mul_run(struct device *d, const struct act_mul_args *a)
{
    if (cpu_failed(d))
        return -1;
    struct act_job job = {d, a, (size_t)a->n * (size_t)a->dim};
    cpu_run(d, act_slice, &job, (int)((job.n + PER_SLICE - 1) / PER_SLICE), (double)job.n * 0.5);
    return 0;
}
