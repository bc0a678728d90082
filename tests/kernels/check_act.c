/* check_act: SiLU and tanh-GELU times up against double, over the whole range of floats that occur.
 * Error bound: 2^-20 of the result (SiLU); of |x up| for GELU, whose 1 + tanh cancels. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

static double reference(double x, enum activation act)
{
    if (act == ACTIVATION_SILU)
        return x / (1 + exp(-x));
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void one(int level, int n, int dim, enum activation act)
{
    const struct kernels *k = check_kernels(level);

    check_case("act %s %s n %d dim %d", check_level_names[level],
               act == ACTIVATION_SILU ? "silu" : "gelu", n, dim);
    size_t size = (size_t)n * (size_t)dim;
    float *in = check_normals(size), *up = check_normals(size);
    float *out = check_floats(size), *again = check_floats(size);
    for (size_t i = 0; i < size; i++)
        in[i] *= i % 3 ? 3 : 30;
    memcpy(out, in, size * sizeof *out);
    memcpy(again, in, size * sizeof *out);
    struct act_mul_args a = {out, up, n, dim, act, {0}};
    check_expect(k->act_mul(check_device(level, 1), &a) == 0, "runs");
    for (size_t i = 0; i < size; i++) {
        double y = reference(in[i], act) * up[i];
        double bound = 0x1p-20 * (act == ACTIVATION_SILU ? fabs(y) : fabs((double)in[i] * up[i]));
        check_expect(fabs(out[i] - y) <= bound + 1e-37, "act(%.9g) * %.9g = %.9g, not %.9g",
                     (double)in[i], (double)up[i], (double)out[i], y);
    }
    for (int i = 0; i < n; i++) {
        struct act_mul_args b = {again + i * dim, up + i * dim, 1, dim, act, {0}};
        k->act_mul(check_device(level, 1 + i % 3), &b);
    }
    check_same(again, out, size, "row by row");
}

static void extremes(int level)
{
    static const float in[] = {NAN, INFINITY, 200, 89, 88, 0, -87, -88.5f, -103, -200, -1e30f};
    enum { N = sizeof in / sizeof *in };
    float up[N], out[N];

    check_case("act %s: extremes", check_level_names[level]);
    for (int act = 0; act < 2; act++) {
        for (int i = 0; i < N; i++)
            up[i] = 1;
        memcpy(out, in, sizeof in);
        struct act_mul_args a = {out, up, 1, N, (enum activation)act, {0}};
        check_kernels(level)->act_mul(check_device(level, 1), &a);
        check_expect(isnan(out[0]), "NaN stays NaN");
        for (int i = 1; i < N; i++) {
            double y = reference(in[i], (enum activation)act);
            if (isinf(in[i]) && act == ACTIVATION_GELU_TANH)
                y = INFINITY;
            check_expect(fabs(out[i] - y) <= fabs(y) * 1e-6 + 1e-36 || (double)out[i] == y,
                         "act(%g) = %g, not %g", (double)in[i], (double)out[i], y);
        }
    }
}

void check_act(void)
{
    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1))
            continue;
        for (int act = 0; act < 2; act++) {
            one(level, 1, 1, (enum activation)act);
            one(level, 5, 37, (enum activation)act);
            one(level, 9, 768, (enum activation)act);
            one(level, 3, 5000, (enum activation)act);
        }
        extremes(level);
    }
}
