/* check_pick: argmax (lowest index on ties), log-sum-exp within 2e-6 absolute plus 1e-6 relative of
 * double, softcap within 1e-6 relative, and the NaN guard at every place of the row. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

static void one(int level, int vocab, int n, float softcap)
{
    const struct kernels *k = check_kernels(level);

    check_case("pick %s vocab %d n %d softcap %g", check_level_names[level], vocab, n,
               (double)softcap);
    size_t size = (size_t)vocab * (size_t)n;
    float *in = check_normals(size), *out = check_floats(size);
    struct pick_result results[16], again;
    for (size_t i = 0; i < size; i++)
        in[i] = roundf(in[i] * 64) / 8; /* many ties */
    memcpy(out, in, size * sizeof *out);
    struct pick_args a = {out, results, n, vocab, softcap};
    check_expect(k->pick(check_device(level, 2), &a) == 0, "runs");
    for (int i = 0; i < n; i++) {
        double sum = 0;
        int best = 0;
        for (int j = 0; j < vocab; j++) {
            float x = in[(size_t)i * (size_t)vocab + (size_t)j];
            double y = softcap > 0 ? softcap * tanh((double)x / softcap) : (double)x;
            float got = out[(size_t)i * (size_t)vocab + (size_t)j];
            check_expect(fabs(got - y) <= 1e-6 * fabs(y), "logit %.9g became %.9g", (double)x,
                         (double)got);
            if (got > out[(size_t)i * (size_t)vocab + (size_t)best])
                best = j;
            sum += exp(y);
        }
        const struct pick_result *r = &results[i];
        check_expect(!r->bad && r->best == best &&
                         r->best_logit == out[(size_t)i * (size_t)vocab + (size_t)best],
                     "row %d: best %d (%g), not %d", i, r->best, (double)r->best_logit, best);
        check_expect(fabs(r->log_sum_exp - log(sum)) <= 2e-6 + 1e-6 * fabs(log(sum)),
                     "row %d: log sum %.9g, not %.9g", i, (double)r->log_sum_exp, log(sum));
        memcpy(out, in + (size_t)i * (size_t)vocab, (size_t)vocab * sizeof *out);
        struct pick_args b = {out, &again, 1, vocab, softcap};
        k->pick(check_device(level, 3), &b);
        check_expect(again.best == r->best && again.log_sum_exp == r->log_sum_exp, "row alone");
        memcpy(out, in, size * sizeof *out);
        k->pick(check_device(level, 1), &a);
    }
}

static void guard(int level)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};

    check_case("pick %s: NaN and infinity are seen at every place", check_level_names[level]);
    float *x = check_floats(99);
    for (int kind = 0; kind < 3; kind++)
        for (int at = 0; at < 99; at++) {
            struct pick_result r;
            check_fill(x, 99);
            x[at] = bad[kind];
            struct pick_args a = {x, &r, 1, 99, 0};
            check_kernels(level)->pick(check_device(level, 1), &a);
            check_expect(r.bad, "%g at %d", (double)bad[kind], at);
        }
}

void check_pick(void)
{
    static const int vocabs[] = {1, 5, 16, 100, 288, 4096, 32001};

    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1))
            continue;
        for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
            one(level, vocabs[i], 3, 0);
            one(level, vocabs[i], 2, 30);
        }
        guard(level);
    }
}
