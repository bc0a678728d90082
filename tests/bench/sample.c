/* sample: microseconds of a draw from a vocabulary of 131,072, filter by filter: it must not grow as
 * a sort's would. CPU time, the best of ten. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/sample.h"

enum { VOCAB = 131072, TRIES = 10 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double unit(void)
{
    return (double)rand() / RAND_MAX;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - unit() * 0.999999)) * cos(6.283185307179586 * unit());
}

/* flat: nearly uniform; else a language model's, where few tokens hold the mass. */
static struct pick_result fill(float *logits, int flat)
{
    struct pick_result pick = {0};
    double sum = 0;

    for (int i = 0; i < VOCAB; i++)
        logits[i] = (float)(normal() * (flat ? 0.01 : 2));
    for (int i = 0; !flat && i < 60; i++)
        logits[(int)(unit() * (VOCAB - 1))] = (float)(12 + 10 * unit());
    for (int i = 1; i < VOCAB; i++)
        if (logits[i] > logits[pick.best])
            pick.best = i;
    pick.best_logit = logits[pick.best];
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - (double)pick.best_logit);
    pick.log_sum_exp = (float)((double)pick.best_logit + log(sum));
    return pick;
}

int main(void)
{
    static const struct {
        const char *name;
        int top_k, logprobs;
        float top_p, min_p, typical_p;
    } tests[] = {{"plain", 0, -1, 1, 0, 1},          {"top_k 40", 40, -1, 1, 0, 1},
                 {"top_p 0.9", 0, -1, 0.9f, 0, 1},   {"min_p 0.05", 0, -1, 1, 0.05f, 1},
                 {"typical_p 0.9", 0, -1, 1, 0, 0.9f}, {"top_p 0.9, 20 logprobs", 0, 20, 0.9f, 0, 1}};
    static float raw[VOCAB], logits[VOCAB];
    struct sampler *sampler;

    if (sampler_open(VOCAB, &sampler))
        return 1;
    for (int flat = 0; flat < 2; flat++) {
        struct pick_result pick = fill(raw, flat);
        for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
            struct sample_params params;
            struct sample_result result;
            double best = INFINITY;
            sample_params_init(&params);
            params.top_k = tests[t].top_k;
            params.logprobs = tests[t].logprobs;
            params.top_p = tests[t].top_p;
            params.min_p = tests[t].min_p;
            params.typical_p = tests[t].typical_p;
            for (int i = 0; i < TRIES; i++) {
                struct sample_input in = {.logits = logits, .pick = &pick, .params = &params,
                                          .n_tokens_valid = VOCAB, .seed = (uint64_t)i};
                memcpy(logits, raw, sizeof logits);
                double start = seconds();
                if (sampler_draw(sampler, &in, &result))
                    return 1;
                best = fmin(best, seconds() - start);
            }
            printf("%s logits, %s: %.0f us\n", flat ? "flat" : "peaked", tests[t].name, best * 1e6);
        }
    }
    sampler_close(sampler);
    return 0;
}
