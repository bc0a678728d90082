/* Tests of engine/sample.c: the RNG against the paper's algorithm, every filter against a naive
 * oracle that sorts, and drawn frequencies against exact probabilities. */
#include "tests/unit/sample_rig.h"

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

/* ---- filters ---- */

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
