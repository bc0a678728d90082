/* sample_rig: what the tests of engine/sample.c share: random rows, a sampler and its surroundings,
 * and the oracle, which sorts everything and computes in doubles. */
#ifndef SIROCCO_SAMPLE_RIG_H
#define SIROCCO_SAMPLE_RIG_H

#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

static uint64_t state = 88172645463325252u;

static uint64_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

__attribute__((unused)) static int below(int n)
{
    return (int)((random_bits() >> 11) % (uint64_t)n);
}

__attribute__((unused)) static double unit(void)
{
    return (double)(random_bits() >> 11) * 0x1p-53;
}

__attribute__((unused)) static double normal(void)
{
    return sqrt(-2 * log(1 - unit())) * cos(6.283185307179586 * unit());
}

/* What pick computes; the sampler trusts it. */
static struct pick_result pick_of(const float *x, int n)
{
    struct pick_result r = {0, x[0], 0, false};
    for (int i = 1; i < n; i++)
        if (x[i] > r.best_logit) {
            r.best = i;
            r.best_logit = x[i];
        }
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)r.best_logit);
    r.log_sum_exp = (float)((double)r.best_logit + log(sum));
    return r;
}

struct bench { /* one draw's surroundings */
    struct sampler *sampler;
    struct sample_params params;
    struct sample_input in;
    struct pick_result pick;
    float *raw, *logits;
    int vocab;
};

static void bench_open(struct bench *b, int vocab)
{
    memset(b, 0, sizeof *b);
    b->vocab = vocab;
    b->raw = calloc((size_t)vocab, sizeof(float));
    b->logits = calloc((size_t)vocab, sizeof(float));
    sample_params_init(&b->params);
    b->in = (struct sample_input){.logits = b->logits, .pick = &b->pick, .params = &b->params,
                                  .n_tokens_valid = vocab};
    EXPECT_INT(sampler_open(vocab, &b->sampler), 0);
}

static void bench_close(struct bench *b)
{
    sampler_close(b->sampler);
    free(b->raw);
    free(b->logits);
}

static int bench_draw(struct bench *b, struct sample_result *out)
{
    memcpy(b->logits, b->raw, (size_t)b->vocab * sizeof(float));
    b->pick = pick_of(b->raw, b->vocab);
    return sampler_draw(b->sampler, &b->in, out);
}

/* ---- the oracle: sorts everything, in doubles ---- */

struct entry {
    int id;
    double logit, p, key;
};

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->id - y->id;
}

__attribute__((unused)) static void normalise(struct entry *e, int n, double temperature)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = fmax(max, e[i].logit);
    for (int i = 0; i < n; i++)
        sum += e[i].p = exp((e[i].logit - max) / temperature);
    for (int i = 0; i < n; i++)
        e[i].p /= sum;
}

/* Keeps the shortest prefix in key order whose mass reaches p. False: too close to tell. */
static bool prefix(struct entry *e, int *n, double p)
{
    double sum = 0;
    qsort(e, (size_t)*n, sizeof *e, by_key);
    for (int i = 0; i < *n; i++) {
        sum += e[i].p;
        if (fabs(sum - p) < 2e-6 && i + 1 < *n)
            return false;
        if (sum >= p) {
            *n = i + 1;
            break;
        }
    }
    return true;
}

/* e[0..n): the candidates that survive, with p normalised. False: a tie too close for floats. */
static bool oracle(const struct bench *b, const float *x, struct entry *e, int *out_n)
{
    const struct sample_params *p = &b->params;
    int n = 0;
    for (int i = 0; i < b->in.n_tokens_valid; i++)
        if (x[i] > -INFINITY)
            e[n++] = (struct entry){i, (double)x[i], 0, -(double)x[i]};
    double t = (double)p->temperature;
    if (p->top_k > 0 && p->top_k < n) {
        qsort(e, (size_t)n, sizeof *e, by_key);
        n = p->top_k;
    }
    normalise(e, n, t);
    if (p->typical_p < 1) {
        double entropy = 0;
        for (int i = 0; i < n; i++)
            entropy -= e[i].p > 0 ? e[i].p * log(e[i].p) : 0;
        for (int i = 0; i < n; i++)
            e[i].key = fabs(-log(e[i].p) - entropy);
        if (!prefix(e, &n, (double)p->typical_p))
            return false;
        normalise(e, n, t);
    }
    for (int i = 0; i < n; i++)
        e[i].key = -e[i].logit;
    if (p->top_p < 1 && !prefix(e, &n, (double)p->top_p))
        return false;
    normalise(e, n, t);
    qsort(e, (size_t)n, sizeof *e, by_key);
    if (p->min_p > 0) {
        int kept = 0;
        while (kept < n && e[kept].p >= (double)p->min_p * e[0].p)
            kept++;
        if (kept < n && fabs(e[kept].p / e[0].p / (double)p->min_p - 1) < 1e-5)
            return false;
        n = kept;
        normalise(e, n, t);
    }
    *out_n = n;
    return true;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct entry *)a)->id - ((const struct entry *)b)->id;
}

/* The token the oracle draws for u: cumulative in the order of ids. -2: too close to tell. */
__attribute__((unused)) static int oracle_draw(struct entry *e, int n, double u)
{
    double sum = 0;
    qsort(e, (size_t)n, sizeof *e, by_id);
    for (int i = 0; i < n; i++) {
        sum += e[i].p;
        if (fabs(sum - u) < 4e-6 && i + 1 < n)
            return -2;
        if (sum > u)
            return e[i].id;
    }
    return e[n - 1].id;
}

__attribute__((unused)) static void random_row(struct bench *b)
{
    double spread = unit() * 8 + 0.05;
    bool ties = below(4) == 0, masked = below(4) == 0;
    for (int i = 0; i < b->vocab; i++) {
        double x = normal() * spread;
        b->raw[i] = (float)(ties ? floor(x) : x);
        if (masked && below(3) == 0)
            b->raw[i] = -INFINITY;
    }
    b->raw[below(b->in.n_tokens_valid)] = (float)(spread * unit());
}

#endif
