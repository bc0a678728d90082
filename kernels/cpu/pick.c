/* pick: greedy choice, log-sum-exp and the NaN guard over rows of logits. Engine thread; a row is
 * one slice, so that its sum has one order. */
#include "kernels/cpu/cpu.h"

#include <math.h>

static void pick_row(float *logits, int vocab, float softcap, struct pick_result *result)
{
    struct pick_result r = {.best = 0, .best_logit = -INFINITY};

    for (int i = 0; i < vocab; i++) {
        if (softcap > 0)
            logits[i] = softcap * tanhf(logits[i] / softcap);
        if (!isfinite(logits[i]))
            r.bad = true;
        if (logits[i] > r.best_logit) {
            r.best_logit = logits[i];
            r.best = i;
        }
    }
    float sum = 0;
    for (int i = 0; i < vocab && !r.bad; i++)
        sum += expf(logits[i] - r.best_logit);
    r.log_sum_exp = r.best_logit + logf(sum);
    *result = r;
}

void pick_base(struct cpu_variants *v)
{
    v->pick_row = pick_row;
}

struct pick_job {
    const struct device *d;
    const struct pick_args *a;
};

static void pick_slice(void *arg, int i, int thread)
{
    const struct pick_job *job = arg;
    const struct pick_args *a = job->a;

    (void)thread;
    job->d->ops.pick_row(a->logits + (size_t)i * (size_t)a->vocab, a->vocab, a->softcap,
                         &a->result[i]);
}

int pick_run(struct device *d, const struct pick_args *a)
{
    if (cpu_failed(d))
        return -1;
    struct pick_job job = {d, a};
    cpu_run(d, pick_slice, &job, a->n, (double)a->n * a->vocab * 0.3);
    return 0;
}
