/* check_embed: rows of the table, bit by bit: decoding is exact, one multiplication is rounded. */
#include "tests/kernels/check.h"

void check_embed(void)
{
    for (int level = 0; level < CHECK_LEVELS; level++)
        for (int type = 0; type < QUANT_COUNT; type++)
            for (int round = 0; round < 3; round++) {
                int cols = quant_formats[type].block * check_int(1, 9), n = 1 + round * 20;
                struct device *d = check_device(level, 1 + round);
                if (!d || !check_wants((enum quant_type)type))
                    continue;
                check_case("embed %s %s n %d cols %d", check_level_names[level],
                           quant_formats[type].name, n, cols);
                float *values, *out = check_floats((size_t)(n * cols));
                struct matrix m = check_matrix((enum quant_type)type, 40, cols, 1, &values);
                int32_t tokens[64];
                for (int i = 0; i < n; i++)
                    tokens[i] = check_int(0, 39);
                struct embed_args a = {out, &m, tokens, n, round ? 0.3f : 1};
                check_expect(check_kernels(level)->embed(d, &a) == 0, "runs");
                for (int i = 0; i < n; i++)
                    for (int c = 0; c < cols; c++)
                        check_expect(out[i * cols + c] == values[tokens[i] * cols + c] * a.scale,
                                     "row %d column %d", i, c);
            }
}
