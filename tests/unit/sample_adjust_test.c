/* Tests of engine/sample.c: penalties, bias and masks against an oracle, logprobs, and the table of
 * parameters. */
#include "tests/unit/sample_rig.h"

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
