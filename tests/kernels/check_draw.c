/* check_draw: a device's draw against the host's sampler, over random rows, parameters, penalties,
 * biases, bans and masks: the same token, the same alternatives, its log-probability within the
 * rounding of the log-sum-exp. Weights are computed alike bit by bit, and summed in doubles there
 * and in integers here, so that only a sum within 1e-9 of a limit could tell them apart: of the
 * cases below none does. Rows that are not wanted keep their logits. */
#include "engine/draw.h"
#include "tests/kernels/check.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, TEXT_MAX = 60, BIAS_MAX = 20, STOPS = 2 };

struct world {
    const struct kernels *k;
    struct device *d;
    struct sampler *sampler;
    struct draw_plan plan;
    int vocab, n_valid;
    float *raw, *logits, *again;
    uint32_t *allowed;
};

struct request {
    struct sample_params params;
    struct sample_bias bias[BIAS_MAX];
    int32_t tokens[TEXT_MAX], stops[STOPS];
    struct sample_input in;
    bool masked;
};

static int one_in(int n)
{
    return check_int(1, n) == 1;
}

static void random_row(float *x, int n)
{
    float spread = check_uniform(0.05f, 8);
    bool ties = one_in(4), masked = one_in(4), flat = one_in(8);
    for (int i = 0; i < n; i++) {
        x[i] = flat ? 1.5f : check_normal() * spread;
        if (ties)
            x[i] = floorf(x[i]);
        if (masked && one_in(3))
            x[i] = -FLT_MAX;
    }
    if (one_in(10))
        x[check_int(0, n - 1)] = FLT_MAX;
    if (one_in(10))
        x[check_int(0, n - 1)] = -0.0f;
}

static void random_request(struct world *w, struct request *r)
{
    struct sample_params *p = &r->params;
    *r = (struct request){.masked = one_in(4)};
    sample_params_init(p);
    p->temperature = one_in(5) ? 0 : one_in(3) ? check_uniform(0.05f, 2) : 1;
    p->top_p = one_in(12) ? 0 : one_in(2) ? check_uniform(0.01f, 1) : 1;
    p->top_k = one_in(3) ? check_int(1, one_in(2) ? 8 : w->vocab) : 0;
    p->min_p = one_in(3) ? check_uniform(0.001f, 1) : 0;
    p->logprobs = one_in(3) ? check_int(0, SAMPLE_TOP_MAX) : -1;
    p->repetition_penalty = one_in(3) ? check_uniform(0.5f, 2) : 1;
    p->presence_penalty = one_in(3) ? check_uniform(-2, 2) : 0;
    p->frequency_penalty = one_in(3) ? check_uniform(-2, 2) : 0;
    p->min_tokens = one_in(3) ? check_int(0, 20) : 0;
    p->n_bias = one_in(3) ? check_int(1, BIAS_MAX) : 0;
    p->bias = r->bias;
    for (int i = 0; i < p->n_bias; i++)
        r->bias[i] = (struct sample_bias){(check_int(0, w->vocab - 1) / BIAS_MAX * BIAS_MAX + i) %
                                              w->vocab,
                                          one_in(3) ? -100 : check_uniform(-20, 20)};
    for (int i = 0; i < TEXT_MAX; i++)
        r->tokens[i] = check_int(0, one_in(2) || w->vocab < 12 ? w->vocab - 1 : 11);
    for (int i = 0; i < STOPS; i++)
        r->stops[i] = check_int(0, w->vocab - 1);
    r->in = (struct sample_input){.params = p, .seed = check_random(), .tokens = r->tokens,
                                  .n = check_int(1, TEXT_MAX), .n_tokens_valid = w->n_valid,
                                  .stop_ids = r->stops, .n_stop_ids = STOPS};
    r->in.n_prompt = check_int(1, r->in.n);
}

static struct pick_result pick_of(const float *x, int n)
{
    struct pick_result r = {.best_logit = -INFINITY};
    double sum = 0;
    for (int i = 0; i < n; i++)
        if (x[i] > r.best_logit) {
            r.best_logit = x[i];
            r.best = i;
        }
    for (int i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)r.best_logit);
    r.log_sum_exp = (float)((double)r.best_logit + log(sum));
    return r;
}

static bool allows(const struct world *w, int32_t id)
{
    return w->allowed[id / 32] >> id % 32 & 1u;
}

/* What the host's sampler gives for row x; its alternatives are of the row without the mask. */
static int host_draw(struct world *w, struct request *r, const float *x, struct pick_result *pick,
                     struct sample_result *out)
{
    struct sample_result masked;
    *pick = pick_of(x, w->vocab);
    r->in.pick = pick;
    r->in.logits = memcpy(w->again, x, (size_t)w->vocab * sizeof *x);
    int rc = sampler_draw(w->sampler, &r->in, out);
    if (!r->masked)
        return rc;
    memcpy(w->again, x, (size_t)w->vocab * sizeof *x);
    for (int i = 0; i < w->vocab; i++)
        if (!allows(w, i))
            w->again[i] = -INFINITY;
    rc = sampler_draw(w->sampler, &r->in, &masked);
    out->token = masked.token;
    out->logprob = masked.logprob;
    return rc;
}

static bool near(float a, float b)
{
    return fabsf(a - b) <= 2e-6f + 2e-6f * fabsf(b);
}

static void compare(struct world *w, struct request *r, const float *x, int row,
                    const struct draw_result *got)
{
    struct pick_result pick;
    struct sample_result want, have;
    int want_rc = host_draw(w, r, x, &pick, &want), have_rc = sampler_drawn(got, &have);
    const struct sample_params *p = &r->params;
    check_expect(got->pick.best == pick.best && got->pick.best_logit == pick.best_logit &&
                     !got->pick.bad && near(got->pick.log_sum_exp, pick.log_sum_exp),
                 "row %d: pick %d %g %g", row, got->pick.best, (double)got->pick.best_logit,
                 (double)got->pick.log_sum_exp);
    check_expect(have_rc == want_rc && have.token == want.token,
                 "row %d: token %d (%d), not %d (%d): temperature %g top_k %d top_p %g min_p %g",
                 row, have.token, have_rc, want.token, want_rc, (double)p->temperature, p->top_k,
                 (double)p->top_p, (double)p->min_p);
    check_expect(near(have.logprob, want.logprob), "row %d: logprob %g, not %g", row,
                 (double)have.logprob, (double)want.logprob);
    check_expect(have.n_top == want.n_top, "row %d: %d alternatives, not %d", row, have.n_top,
                 want.n_top);
    for (int i = 0; i < want.n_top; i++)
        check_expect(have.top[i].token == want.top[i].token &&
                         near(have.top[i].logprob, want.top[i].logprob),
                     "row %d: alternative %d is %d, not %d", row, i, have.top[i].token,
                     want.top[i].token);
}

static void open_world(struct world *w, int level, int vocab)
{
    *w = (struct world){.k = check_kernels(level), .d = check_device(level, 1), .vocab = vocab};
    size_t n = (size_t)vocab;
    w->n_valid = one_in(2) ? vocab : check_int(1, vocab);
    w->raw = check_floats(n * ROWS);
    w->logits = check_floats(n * ROWS);
    w->again = check_floats(n);
    w->allowed = check_bytes((n + 31) / 32 * sizeof *w->allowed);
    if (sampler_open(vocab, &w->sampler) || draw_plan_init(&w->plan, vocab, ROWS))
        abort();
}

static void close_world(struct world *w)
{
    sampler_close(w->sampler);
    draw_plan_free(&w->plan);
}

static void one(int level, int vocab, int turn)
{
    struct world w;
    struct request r[ROWS];
    size_t n = (size_t)vocab;
    int skipped = one_in(4) ? check_int(0, ROWS - 1) : -1;
    check_case("draw %s vocab %d turn %d", check_level_names[level], vocab, turn);
    open_world(&w, level, vocab);
    for (size_t i = 0; i < (n + 31) / 32; i++)
        w.allowed[i] = one_in(4) ? 0 : check_random();
    for (int i = 0; i < ROWS; i++) {
        random_row(w.raw + (size_t)i * n, vocab);
        random_request(&w, &r[i]);
        if (i == skipped) {
            draw_plan_skip(&w.plan);
            continue;
        }
        check_expect(draw_plan_add(&w.plan, &r[i].in, -1), "the device draws it");
        w.plan.rows[i].allowed = r[i].masked ? w.allowed : NULL;
    }
    memcpy(w.logits, w.raw, n * ROWS * sizeof *w.raw);
    struct draw_result *results = check_bytes(ROWS * sizeof *results);
    struct draw_args a = {w.logits, results, w.plan.rows, w.plan.changes, ROWS, vocab, 0};
    if (check_expect(!w.k->draw(w.d, &a), "runs: %s", w.k->device_error(w.d)))
        for (int i = 0; i < ROWS; i++) {
            if (i != skipped)
                compare(&w, &r[i], w.raw + (size_t)i * n, i, &results[i]);
            else
                check_expect(results[i].token == -1 && results[i].n_top == 0, "row left alone");
        }
    if (skipped >= 0)
        check_same(w.logits + (size_t)skipped * n, w.raw + (size_t)skipped * n, n, "row left alone");
    close_world(&w);
}

/* Everything masked, numbers that are not finite, and a softcap: pick's own. */
static void edges(int level)
{
    enum { VOCAB = 70 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct draw_result result;
    struct draw_row row = {.wanted = true, .temperature = 1, .top_p = 1, .repetition = 1,
                           .n_valid = VOCAB, .n_top = 3, .pending = -1, .uniform = 0.5};
    struct draw_change bans[VOCAB];
    const struct kernels *k = check_kernels(level);
    struct device *d = check_device(level, 1);
    check_case("draw %s: nothing left, nothing finite", check_level_names[level]);
    float *x = check_normals(VOCAB), *y = check_floats(VOCAB);
    struct draw_args a = {y, &result, &row, bans, 1, VOCAB, 0};
    for (int i = 0; i < VOCAB; i++)
        bans[i] = (struct draw_change){.token = i, .banned = true};
    row.n_changes = VOCAB;
    memcpy(y, x, VOCAB * sizeof *x);
    check_expect(!k->draw(d, &a) && result.token == -1 && result.n_top == 3 && !result.pick.bad,
                 "all are banned");
    row.n_changes = VOCAB - 1;
    memcpy(y, x, VOCAB * sizeof *x);
    check_expect(!k->draw(d, &a) && result.token == VOCAB - 1 && result.logit == x[VOCAB - 1],
                 "one is left");
    row.n_changes = 0;
    for (int kind = 0; kind < 3; kind++) {
        memcpy(y, x, VOCAB * sizeof *x);
        y[check_int(0, VOCAB - 1)] = bad[kind];
        check_expect(!k->draw(d, &a) && result.pick.bad && result.token == -1 && !result.n_top,
                     "%g among the logits", (double)bad[kind]);
    }
    memcpy(y, x, VOCAB * sizeof *x);
    a.softcap = 2;
    row.temperature = 0;
    check_expect(!k->draw(d, &a) && result.logit == result.pick.best_logit &&
                     fabs((double)result.logit - 2 * tanh((double)x[result.token] / 2)) < 1e-6,
                 "a softcap: %g of %g", (double)result.logit, (double)x[result.token]);
}

/* Shares of many draws of one row are the weights' shares. */
static void shares(int level)
{
    enum { VOCAB = 4, DRAWS = 60 };
    struct draw_result results[DRAWS];
    struct draw_row rows[DRAWS];
    int counts[VOCAB] = {0};
    check_case("draw %s: shares", check_level_names[level]);
    float *x = check_floats(VOCAB * DRAWS);
    for (int i = 0; i < DRAWS; i++) {
        for (int j = 0; j < VOCAB; j++) /* 1 : 2 : 3 : 4 */
            x[i * VOCAB + j] = logf((float)(j + 1));
        rows[i] = (struct draw_row){.wanted = true, .temperature = 1, .top_p = 1, .repetition = 1,
                                    .n_valid = VOCAB, .pending = -1,
                                    .uniform = (i + 0.5) / DRAWS};
    }
    struct draw_args a = {x, results, rows, NULL, DRAWS, VOCAB, 0};
    check_expect(!check_kernels(level)->draw(check_device(level, 1), &a), "runs");
    for (int i = 0; i < DRAWS; i++)
        counts[results[i].token & 3]++;
    for (int j = 0; j < VOCAB; j++)
        check_expect(counts[j] == DRAWS * (j + 1) / 10, "token %d: %d", j, counts[j]);
}

void check_draw(void)
{
    static const struct {
        int vocab, turns;
    } sizes[] = {{1, 4}, {5, 60}, {33, 100}, {300, 200}, {2048, 60}, {5000, 40}, {40000, 6}};

    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1) || !check_kernels(level)->draw)
            continue;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (int turn = 0; turn < sizes[i].turns; turn++)
                one(level, sizes[i].vocab, turn);
        edges(level);
        shares(level);
    }
}
