/* Tests of engine/sample.c: the RNG against the paper's algorithm, every filter and penalty against
 * a naive oracle that sorts, and drawn frequencies against exact probabilities. */
#include "engine/sample.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/test.h"

static uint64_t state = 88172645463325252u;

static uint64_t random_bits(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int below(int n)
{
    return (int)((random_bits() >> 11) % (uint64_t)n);
}

static double unit(void)
{
    return (double)(random_bits() >> 11) * 0x1p-53;
}

static double normal(void)
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

/* ---- the RNG ---- */

static void philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)c[0] * 0xD2511F53u, p1 = (uint64_t)c[2] * 0xCD9E8D57u;
        uint32_t next[4] = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1,
                            (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
        memcpy(c, next, sizeof next);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

TEST(rng_is_philox_4x32_10)
{
    /* the published known answers, then this file's version against the sampler's */
    uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    uint32_t pi[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
    philox(zero, 0, 0);
    EXPECT(zero[0] == 0x6627e8d5 && zero[1] == 0xe169c58d && zero[3] == 0x9b00dbd8);
    philox(ones, ~0u, ~0u);
    EXPECT(ones[0] == 0x408f276d && ones[1] == 0x41c83b0e && ones[3] == 0x6d5451fd);
    philox(pi, 0xa4093822, 0x299f31d0);
    EXPECT(pi[0] == 0xd16cfe09 && pi[1] == 0x94fdcceb && pi[3] == 0x24126ea1);
    for (int i = 0; i < 1000; i++) {
        uint64_t seed = random_bits(), position = random_bits();
        uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
        philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
        double expected = (double)((((uint64_t)c[0] << 32) | c[1]) >> 11) * 0x1p-53;
        EXPECT(sample_uniform(seed, position) == expected);
        EXPECT(expected >= 0 && expected < 1);
    }
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

static void normalise(struct entry *e, int n, double temperature)
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

/* ---- filters ---- */

static int by_id(const void *a, const void *b)
{
    return ((const struct entry *)a)->id - ((const struct entry *)b)->id;
}

/* The token the oracle draws for u: cumulative in the order of ids. -2: too close to tell. */
static int oracle_draw(struct entry *e, int n, double u)
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

static void random_row(struct bench *b)
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

/* which: bit 0 top_k, 1 typical_p, 2 top_p, 3 min_p */
static void compare_filters(int which, int n_cases)
{
    int n_compared = 0;
    struct entry *e = calloc(3000, sizeof *e);
    for (int i = 0; i < n_cases; i++) {
        struct bench b;
        struct sample_result got;
        int n = 0, vocab = 1 + below(i % 50 == 0 ? 2999 : 100);
        bench_open(&b, vocab);
        b.in.n_tokens_valid = 1 + below(vocab);
        random_row(&b);
        b.params.temperature = (float)(0.05 + 1.95 * unit());
        if (which & 1)
            b.params.top_k = 1 + below(vocab);
        if (which & 2)
            b.params.typical_p = (float)unit();
        if (which & 4)
            b.params.top_p = below(20) == 0 ? 0 : (float)unit();
        if (which & 8)
            b.params.min_p = (float)unit();
        bool clear = oracle(&b, b.raw, e, &n);
        for (int draw = 0; clear && draw < 4; draw++) {
            b.in.seed = random_bits();
            int expected = oracle_draw(e, n, sample_uniform(b.in.seed, 0));
            EXPECT_INT(bench_draw(&b, &got), 0);
            EXPECT(got.token >= 0 && got.token < b.in.n_tokens_valid);
            if (expected == -2)
                continue;
            if (got.token != expected)
                printf("    case %d: vocab %d, T %g, k %d, typical %g, p %g, min_p %g\n", i, vocab,
                       (double)b.params.temperature, b.params.top_k, (double)b.params.typical_p,
                       (double)b.params.top_p, (double)b.params.min_p);
            EXPECT_INT(got.token, expected);
            n_compared++;
        }
        bench_close(&b);
    }
    free(e);
    EXPECT(n_compared > 3 * n_cases); /* few cases may be too close to tell */
}

TEST(no_filter_equals_oracle)
{
    compare_filters(0, 10000);
}

TEST(top_k_equals_oracle)
{
    compare_filters(1, 10000);
}

TEST(typical_p_equals_oracle)
{
    compare_filters(2, 10000);
}

TEST(top_p_equals_oracle)
{
    compare_filters(4, 10000);
}

TEST(min_p_equals_oracle)
{
    compare_filters(8, 10000);
}

TEST(combined_filters_equal_oracle)
{
    for (int which = 3; which < 16; which++)
        compare_filters(which, 1500);
}

/* ---- distributions ---- */

/* Chi-square of n_draws draws against the oracle's probabilities; bins below 5 expected are pooled.
 * The bound is six standard deviations above the mean: with fixed seeds, a fixed verdict. */
static void check_distribution(struct bench *b, int n_draws)
{
    int n = 0, n_bins = 0, *counts = calloc((size_t)b->vocab, sizeof *counts);
    struct entry *e = calloc((size_t)b->vocab, sizeof *e);
    struct sample_result got;
    double chi = 0, pool_expected = 0, pool_seen = 0;
    EXPECT(oracle(b, b->raw, e, &n));
    b->in.seed = 42;
    for (int i = 0; i < n_draws; i++) {
        b->in.n = i;
        b->in.n_prompt = i; /* no output: tokens are not read */
        EXPECT_INT(bench_draw(b, &got), 0);
        counts[got.token]++;
    }
    for (int i = 0; i < n; i++) {
        double expected = e[i].p * n_draws, seen = counts[e[i].id];
        counts[e[i].id] = 0;
        if (expected < 5) {
            pool_expected += expected;
            pool_seen += seen;
            continue;
        }
        chi += (seen - expected) * (seen - expected) / expected;
        n_bins++;
    }
    if (pool_expected >= 1) {
        chi += (pool_seen - pool_expected) * (pool_seen - pool_expected) / pool_expected;
        n_bins++;
    }
    for (int i = 0; i < b->vocab; i++)
        EXPECT_INT(counts[i], 0); /* nothing outside the kept set was ever drawn */
    if (n_bins > 1)
        EXPECT(chi < n_bins - 1 + 6 * sqrt(2.0 * (n_bins - 1)));
    free(counts);
    free(e);
}

TEST(draws_follow_the_distribution)
{
    for (int i = 0; i < 12; i++) {
        struct bench b;
        bench_open(&b, 20 + 30 * i);
        for (int j = 0; j < b.vocab; j++)
            b.raw[j] = (float)(normal() * 2);
        b.params.temperature = (float)(0.5 + 0.1 * i);
        b.params.top_k = i % 3 == 1 ? 10 : 0;
        b.params.top_p = i % 3 == 2 ? 0.8f : 1;
        b.params.min_p = i % 4 == 3 ? 0.05f : 0;
        b.params.typical_p = i % 5 == 4 ? 0.7f : 1;
        check_distribution(&b, 60000);
        bench_close(&b);
    }
}

TEST(uniform_logits_are_drawn_uniformly_over_a_large_vocabulary)
{
    struct bench b;
    struct sample_result got;
    int buckets[16] = {0};
    bench_open(&b, 5000); /* crosses several partial sums */
    for (int i = 0; i < 16000; i++) {
        b.in.n = b.in.n_prompt = i;
        EXPECT_INT(bench_draw(&b, &got), 0);
        buckets[got.token * 16 / 5000]++;
    }
    for (int i = 0; i < 16; i++)
        EXPECT_NEAR(buckets[i], 1000, 180);
    bench_close(&b);
}

TEST(same_seed_and_position_same_token)
{
    struct bench b;
    struct sample_result first, again;
    int n_different = 0;
    bench_open(&b, 1000);
    for (int i = 0; i < 200; i++) {
        random_row(&b);
        b.in.seed = random_bits();
        b.in.n = b.in.n_prompt = below(1000);
        EXPECT_INT(bench_draw(&b, &first), 0);
        EXPECT_INT(bench_draw(&b, &again), 0);
        EXPECT_INT(first.token, again.token);
        memset(b.raw, 0, 1000 * sizeof(float));
        EXPECT_INT(bench_draw(&b, &first), 0);
        b.in.seed++;
        EXPECT_INT(bench_draw(&b, &again), 0);
        n_different += first.token != again.token;
    }
    EXPECT(n_different > 190);
    bench_close(&b);
}

/* ---- greedy ---- */

TEST(greedy_takes_the_lowest_of_the_best)
{
    struct bench b;
    struct sample_result got;
    bench_open(&b, 333);
    for (int i = 0; i < 2000; i++) {
        int expected = 0;
        b.in.n_tokens_valid = 1 + below(333);
        random_row(&b);
        for (int j = 1; j < b.in.n_tokens_valid; j++)
            if (b.raw[j] > b.raw[expected])
                expected = j;
        float temperatures[] = {0, -0.0f, 1e-45f, 1e-6f};
        b.params.temperature = temperatures[i % 4];
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.token, expected);
        b.params.temperature = 1;
        b.params.top_k = 1;
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.token, expected);
        b.params.top_k = 0;
        b.params.top_p = 0;
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.token, expected);
        b.params.top_p = 1;
    }
    bench_close(&b);
}

TEST(a_mask_set_after_pick_is_respected)
{
    struct bench b;
    struct sample_result got;
    bench_open(&b, 64);
    b.params.temperature = 0;
    for (int i = 0; i < 64; i++)
        b.logits[i] = b.raw[i] = (float)i;
    b.pick = pick_of(b.raw, 64);
    b.logits[63] = b.logits[62] = -INFINITY;
    EXPECT_INT(sampler_draw(b.sampler, &b.in, &got), 0);
    EXPECT_INT(got.token, 61);
    bench_close(&b);
}

/* ---- penalties, bias, masks ---- */

/* The adjusted logits, in the documented order, one token at a time. */
static void oracle_adjust(const struct bench *b, float *x)
{
    const struct sample_params *p = &b->params;
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias[i].token < b->vocab)
            x[p->bias[i].token] += p->bias[i].bias;
    for (int id = 0; id < b->vocab; id++) {
        int n_all = 0, n_output = 0;
        for (int i = 0; i < b->in.n; i++) {
            n_all += b->in.tokens[i] == id;
            n_output += b->in.tokens[i] == id && i >= b->in.n_prompt;
        }
        if (n_all > 0)
            x[id] = x[id] > 0 ? x[id] / p->repetition_penalty : x[id] * p->repetition_penalty;
        if (n_output > 0)
            x[id] -= p->presence_penalty + (float)n_output * p->frequency_penalty;
    }
    for (int i = 0; i < b->in.n_stop_ids; i++)
        if (b->in.n - b->in.n_prompt < p->min_tokens && b->in.stop_ids[i] < b->vocab)
            x[b->in.stop_ids[i]] = -INFINITY;
}

TEST(penalties_equal_oracle)
{
    enum { N = 60 };
    int32_t tokens[200], stops[3];
    struct sample_bias bias[8];
    struct entry e[N];
    int n_compared = 0;
    for (int i = 0; i < 10000; i++) {
        struct bench b;
        struct sample_result got;
        int n = 0;
        float adjusted[N];
        bench_open(&b, N);
        random_row(&b);
        b.in.n = below(200);
        b.in.n_prompt = below(b.in.n + 1);
        for (int j = 0; j < b.in.n; j++)
            tokens[j] = below(N + 5); /* some ids beyond the logits: ignored */
        for (int j = 0; j < 8; j++)
            bias[j] = (struct sample_bias){below(N + 5), (float)(unit() * 200 - 100)};
        for (int j = 0; j < 3; j++)
            stops[j] = below(N + 5);
        b.in.tokens = tokens;
        b.in.stop_ids = stops;
        b.in.n_stop_ids = below(4);
        b.params.bias = bias;
        b.params.n_bias = below(3) ? 0 : below(9);
        b.params.repetition_penalty = below(2) ? 1 : (float)(0.5 + 1.5 * unit());
        b.params.presence_penalty = below(2) ? 0 : (float)(unit() * 4 - 2);
        b.params.frequency_penalty = below(2) ? 0 : (float)(unit() * 4 - 2);
        b.params.min_tokens = below(2) ? 0 : below(200);
        b.params.temperature = below(2) ? 0 : (float)(0.1 + unit());
        b.in.seed = random_bits();
        memcpy(adjusted, b.raw, sizeof adjusted);
        oracle_adjust(&b, adjusted);
        EXPECT_INT(bench_draw(&b, &got), 0);
        int expected = 0;
        if (b.params.temperature > 0) {
            EXPECT(oracle(&b, adjusted, e, &n));
            expected = oracle_draw(e, n, sample_uniform(b.in.seed, (uint64_t)b.in.n));
        }
        for (int j = 1; b.params.temperature == 0 && j < N; j++)
            expected = adjusted[j] > adjusted[expected] ? j : expected;
        if (expected >= 0) {
            EXPECT_INT(got.token, expected);
            n_compared++;
        }
        /* the reported log-probability is that of the raw logits */
        EXPECT_NEAR((double)got.logprob,
                    fmax(-9999, (double)(b.raw[got.token] - b.pick.log_sum_exp)), 1e-5);
        bench_close(&b);
    }
    EXPECT(n_compared > 9900);
}

TEST(scratch_is_clean_after_each_draw)
{
    struct bench b;
    struct sample_result got;
    int32_t tokens[] = {5, 5, 5, 7};
    bench_open(&b, 16);
    b.raw[5] = 3;
    b.raw[9] = 2.5f;
    b.params.temperature = 0;
    b.in.tokens = tokens;
    b.in.n = 4;
    b.params.frequency_penalty = 0.3f;
    EXPECT_INT(bench_draw(&b, &got), 0);
    EXPECT_INT(got.token, 9); /* 3 - 3 * 0.3 = 2.1 */
    b.in.n = 1;
    for (int i = 0; i < 10; i++) {
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.token, 5); /* 2.7: counts of earlier draws are gone */
    }
    bench_close(&b);
}

TEST(bias_forces_and_bans)
{
    struct bench b;
    struct sample_result got;
    struct sample_bias force = {17, 100}, ban = {3, -100};
    bench_open(&b, 100);
    b.raw[3] = 20;
    b.params.bias = &force;
    b.params.n_bias = 1;
    for (int i = 0; i < 500; i++) {
        b.in.seed = (uint64_t)i;
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.token, 17);
        EXPECT_NEAR((double)got.logprob, -20.0, 0.01); /* raw: 17 is unlikely */
    }
    b.params.bias = &ban;
    for (int i = 0; i < 500; i++) {
        b.in.seed = (uint64_t)i;
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT(got.token != 3);
    }
    bench_close(&b);
}

TEST(min_tokens_masks_the_stop_tokens)
{
    struct bench b;
    struct sample_result got;
    int32_t stops[] = {2, 4}, tokens[10] = {0};
    bench_open(&b, 8);
    b.raw[2] = 50;
    b.raw[4] = 40;
    b.raw[6] = 30;
    b.in.tokens = tokens;
    b.in.n_prompt = 4;
    b.in.stop_ids = stops;
    b.in.n_stop_ids = 2;
    b.params.min_tokens = 3;
    for (int made = 0; made < 6; made++)
        for (int greedy = 0; greedy < 2; greedy++) {
            b.in.n = 4 + made;
            b.params.temperature = greedy ? 0 : 1;
            EXPECT_INT(bench_draw(&b, &got), 0);
            EXPECT_INT(got.token, made < 3 ? 6 : 2);
        }
    bench_close(&b);
}

TEST(everything_masked_is_an_error)
{
    struct bench b;
    struct sample_result got;
    bench_open(&b, 100);
    for (int i = 0; i < 100; i++)
        b.raw[i] = -INFINITY;
    EXPECT_INT(bench_draw(&b, &got), ERR_VALUE);
    b.params.temperature = 0;
    EXPECT_INT(bench_draw(&b, &got), ERR_VALUE);
    b.raw[70] = 1; /* alive, but without text */
    b.in.n_tokens_valid = 70;
    EXPECT_INT(bench_draw(&b, &got), ERR_VALUE);
    b.in.n_tokens_valid = 0;
    EXPECT_INT(bench_draw(&b, &got), ERR_VALUE);
    b.in.n_tokens_valid = 71;
    EXPECT_INT(bench_draw(&b, &got), 0);
    EXPECT_INT(got.token, 70);
    bench_close(&b);
}

TEST(extreme_logits_never_give_nan)
{
    float extremes[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 1e-45f, 0, -0.0f, 90, -90};
    int32_t tokens[4];
    struct sample_bias bias = {0, -100};
    for (int i = 0; i < 20000; i++) {
        struct bench b;
        struct sample_result got;
        bench_open(&b, 1 + below(40));
        for (int j = 0; j < b.vocab; j++)
            b.raw[j] = extremes[below(10)];
        for (int j = 0; j < 4; j++)
            tokens[j] = below(b.vocab);
        b.in.tokens = tokens;
        b.in.n = 4;
        b.params.bias = &bias;
        b.params.n_bias = below(2);
        b.params.temperature = below(2) ? 2 : 1e-4f;
        b.params.top_p = below(2) ? 1 : 0.5f;
        b.params.typical_p = below(2) ? 1 : 0.5f;
        b.params.top_k = below(3);
        b.params.min_p = below(2) ? 0 : 1;
        b.params.repetition_penalty = below(2) ? 0.01f : 2;
        b.params.frequency_penalty = -2;
        b.params.logprobs = 20;
        b.in.seed = random_bits();
        int code = bench_draw(&b, &got);
        EXPECT(code == 0 || code == ERR_VALUE);
        if (code == 0) {
            EXPECT(got.token >= 0 && got.token < b.vocab);
            EXPECT(!isnan(b.raw[got.token]) && b.raw[got.token] != -INFINITY);
        }
        EXPECT(isfinite(got.logprob) && got.logprob <= 0);
        for (int j = 0; j < got.n_top; j++)
            EXPECT(isfinite(got.top[j].logprob) && got.top[j].logprob <= 0);
        bench_close(&b);
    }
}

/* ---- logprobs ---- */

TEST(alternatives_are_the_best_raw_logits)
{
    for (int i = 0; i < 3000; i++) {
        struct bench b;
        struct sample_result got, same;
        bench_open(&b, 1 + below(300));
        random_row(&b);
        int n_top = below(21), n = 0;
        struct entry e[300];
        for (int j = 0; j < b.vocab; j++)
            if (b.raw[j] > -INFINITY)
                e[n++] = (struct entry){j, (double)b.raw[j], 0, -(double)b.raw[j]};
        qsort(e, (size_t)n, sizeof *e, by_key);
        b.params.logprobs = n_top;
        b.in.seed = random_bits();
        EXPECT_INT(bench_draw(&b, &got), 0);
        EXPECT_INT(got.n_top, n_top < n ? n_top : n);
        for (int j = 0; j < got.n_top; j++) {
            EXPECT_INT(got.top[j].token, e[j].id);
            EXPECT_NEAR((double)got.top[j].logprob, e[j].logit - (double)b.pick.log_sum_exp, 1e-5);
        }
        sampler_logprobs(b.sampler, b.raw, &b.pick, got.token, n_top, &same);
        EXPECT(same.token == got.token && same.logprob == got.logprob);
        EXPECT_INT(same.n_top, got.n_top);
        for (int j = 0; j < got.n_top; j++)
            EXPECT(same.top[j].token == got.top[j].token &&
                   same.top[j].logprob == got.top[j].logprob);
        bench_close(&b);
    }
}

/* ---- the table ---- */

TEST(table_defaults_and_bounds_are_enforced)
{
    struct sample_params p;
    struct err err;
    sample_params_init(&p);
    EXPECT_INT(sample_params_check(&p, &err), 0);
    EXPECT(p.temperature == 1 && p.top_p == 1 && p.typical_p == 1 && p.repetition_penalty == 1);
    EXPECT(p.top_k == 0 && p.min_p == 0 && p.min_tokens == 0 && p.logprobs == -1 && !p.has_seed);
    for (int i = 0; i < sample_param_count; i++) {
        const struct sample_param *row = &sample_param_table[i];
        char *at = (char *)&p + row->offset;
        for (int high = 0; high < 2; high++) {
            double bound = high ? row->max : row->min;
            if (row->kind == SAMPLE_FLOAT) {
                *(float *)at = (float)bound;
                EXPECT_INT(sample_params_check(&p, &err), 0);
                *(float *)at = nextafterf((float)bound, high ? INFINITY : -INFINITY);
                EXPECT_INT(sample_params_check(&p, &err), high ? ERR_DECIMAL_MAX : ERR_DECIMAL_MIN);
                EXPECT_STR(err.param, row->name);
                *(float *)at = NAN;
                EXPECT_INT(sample_params_check(&p, &err), ERR_VALUE);
            } else if (row->kind == SAMPLE_INT32) {
                *(int32_t *)at = (int32_t)bound;
                EXPECT_INT(sample_params_check(&p, &err), 0);
                if (high && row->max == INT32_MAX)
                    continue;
                *(int32_t *)at = (int32_t)bound + (high ? 1 : -1);
                EXPECT_INT(sample_params_check(&p, &err), high ? ERR_INT_MAX : ERR_INT_MIN);
                EXPECT_STR(err.param, row->name);
            } else {
                *(int64_t *)at = high ? INT64_MAX : INT64_MIN;
                EXPECT_INT(sample_params_check(&p, &err), 0);
            }
            sample_params_init(&p);
        }
    }
    struct sample_bias bias = {-1, 0};
    p.bias = &bias;
    p.n_bias = 1;
    EXPECT_INT(sample_params_check(&p, &err), ERR_VALUE);
    bias = (struct sample_bias){1, 100.5f};
    EXPECT_INT(sample_params_check(&p, &err), ERR_VALUE);
    bias.bias = NAN;
    EXPECT_INT(sample_params_check(&p, &err), ERR_VALUE);
    bias.bias = -100;
    EXPECT_INT(sample_params_check(&p, &err), 0);
    p.n_bias = SAMPLE_BIAS_MAX + 1;
    EXPECT_INT(sample_params_check(&p, &err), ERR_ARRAY_LONG);
    p.n_bias = 0;
    p.logprobs = 21;
    EXPECT_INT(sample_params_check(&p, &err), ERR_INT_MAX);
}

/* ---- speed: the time of a draw must not grow as a sort's would ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

TEST(a_large_vocabulary_is_sampled_quickly)
{
    struct bench b;
    struct sample_result got;
    bench_open(&b, 131072);
    for (int flat = 0; flat < 2; flat++) {
        for (int i = 0; i < b.vocab; i++)
            b.raw[i] = (float)(normal() * (flat ? 0.01 : 2));
        for (int i = 0; !flat && i < 60; i++) /* a language model's: few tokens hold the mass */
            b.raw[below(b.vocab)] = (float)(12 + 10 * unit());
        b.pick = pick_of(b.raw, b.vocab);
        for (int which = 0; which < 6; which++) {
            b.params.top_k = which == 1 ? 40 : 0;
            b.params.top_p = which == 2 || which == 5 ? 0.9f : 1;
            b.params.min_p = which == 3 ? 0.05f : 0;
            b.params.typical_p = which == 4 ? 0.9f : 1;
            b.params.logprobs = which == 5 ? 20 : -1;
            double best = 1;
            for (int i = 0; i < 10; i++) {
                memcpy(b.logits, b.raw, (size_t)b.vocab * sizeof(float));
                b.in.seed = (uint64_t)i;
                double start = seconds();
                EXPECT_INT(sampler_draw(b.sampler, &b.in, &got), 0);
                best = fmin(best, seconds() - start);
            }
            static const char *names[] = {"plain",     "top_k 40",      "top_p 0.9",
                                          "min_p .05", "typical_p 0.9", "top_p 0.9, 20 logprobs"};
            printf("    %s logits, %s: %.0f us\n", flat ? "flat" : "peaked", names[which],
                   best * 1e6);
            EXPECT(best < 0.1); /* generous: sanitizers and busy machines */
        }
    }
    bench_close(&b);
}
