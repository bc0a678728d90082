/* check_gather: rows copied bit by bit. */
#include "tests/kernels/check.h"

void check_gather(void)
{
    for (int level = 0; level < CHECK_LEVELS; level++) {
        struct device *d = check_device(level, 2);
        int dim = 1 + level * 50, n = 17;
        int32_t rows[17];
        if (!d)
            continue;
        check_case("gather %s dim %d", check_level_names[level], dim);
        float *in = check_normals((size_t)(30 * dim)), *out = check_floats((size_t)(n * dim));
        for (int i = 0; i < n; i++)
            rows[i] = check_int(0, 29);
        struct gather_args a = {out, in, rows, n, dim};
        check_expect(check_kernels(level)->gather(d, &a) == 0, "runs");
        for (int i = 0; i < n; i++)
            check_same(out + i * dim, in + rows[i] * dim, (size_t)dim, "a row");
    }
}
