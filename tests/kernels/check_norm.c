/* check_norm: RMSNorm against double. Error bound: (dim / 8 + 8) units of 2^-24 of |y| from the sum
 * and the roundings; with add, one more rounding of the result. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

static void one(int level, int dim, int n, bool add)
{
    const struct kernels *k = check_kernels(level);
    struct device *d = check_device(level, 1);

    check_case("norm %s dim %d n %d%s", check_level_names[level], dim, n, add ? " add" : "");
    size_t size = (size_t)dim * (size_t)n;
    float *in = check_normals(size), *weight = check_normals((size_t)dim);
    float *before = check_normals(size), *out = check_floats(size), *again = check_floats(size);
    if (add)
        memcpy(out, before, size * sizeof *out);
    struct norm_args a = {out, in, weight, n, dim, 1e-5f, add, {0}};
    check_expect(k->norm(d, &a) == 0, "runs");
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < dim; j++)
            sum += (double)in[i * dim + j] * in[i * dim + j];
        double scale = 1 / sqrt(sum / dim + 1e-5);
        for (int j = 0; j < dim; j++) {
            int at = i * dim + j;
            double y = in[at] * scale * weight[j], base = add ? (double)before[at] : 0;
            double bound = 0x1p-24 * ((dim / 8 + 8) * fabs(y) + 2 * fabs(y + base));
            check_expect(fabs(out[at] - (y + base)) <= bound, "[%d][%d] is %.9g, not %.9g", i, j,
                         (double)out[at], y + base);
        }
    }
    /* one by one, in place where allowed, on other thread counts: the same bits */
    for (int i = 0; i < n; i++) {
        float *row = again + i * dim;
        memcpy(row, (add ? before : in) + i * dim, (size_t)dim * sizeof *row);
        struct norm_args b = {row, add ? in + i * dim : row, weight, 1, dim, 1e-5f, add, {0}};
        k->norm(check_device(level, 1 + i % 3), &b);
    }
    check_same(again, out, size, "row by row");
}

void check_norm(void)
{
    static const int dims[] = {1, 7, 16, 33, 80, 256, 1000, 1001, 4096};

    for (int level = 0; level < CHECK_LEVELS; level++)
        for (size_t i = 0; check_device(level, 1) && i < sizeof dims / sizeof *dims; i++) {
            one(level, dims[i], 1, false);
            one(level, dims[i], 13, i % 2);
        }
    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1))
            continue;
        check_case("norm %s: NaN reaches the row's outputs", check_level_names[level]);
        float *in = check_normals(80), *weight = check_normals(40), *out = check_floats(80);
        in[37] = NAN;
        struct norm_args a = {out, in, weight, 2, 40, 1e-5f, false, {0}};
        check_kernels(level)->norm(check_device(level, 1), &a);
        for (int i = 0; i < 80; i++)
            check_expect(isnan(out[i]) == (i < 40), "value %d", i);
    }
}
