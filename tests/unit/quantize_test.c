/* Quantize: errors of every format, what stays exact, what importance does, what is refused, and
 * that all variants and threads agree. */
#include "kernels/quantize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/test.h"

enum { COLS = 1024, ROWS = 8, BYTES_MAX = COLS * 4 };

/* The error of normal values, in root mean squares of theirs, that no format may exceed: about the
 * best known search's, and a tenth on top. */
static const struct {
    enum quant_type type;
    double most;
} bounds[] = {
    {QUANT_F16, 3e-4},    {QUANT_BF16, 2.5e-3}, {QUANT_Q8_0, 0.0055}, {QUANT_Q4_0, 0.094},
    {QUANT_Q4_1, 0.079},  {QUANT_Q5_0, 0.047},  {QUANT_Q5_1, 0.039},  {QUANT_IQ4_NL, 0.081},
    {QUANT_MXFP4, 0.12},  {QUANT_Q2_K, 0.28},   {QUANT_Q3_K, 0.17},   {QUANT_Q4_K, 0.077},
    {QUANT_Q5_K, 0.039},  {QUANT_Q6_K, 0.0205}, {QUANT_IQ4_XS, 0.082},
};
enum { N_BOUNDS = sizeof bounds / sizeof bounds[0] };

static uint64_t state = 7;

static double uniform(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static float normal(void)
{
    return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

static void fill(float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = scale * normal();
}

static void through(enum quant_type type, const float *in, const float *importance, float *out)
{
    static uint8_t row[BYTES_MAX];
    EXPECT_INT(quantize_row(type, in, importance, row, COLS, NULL), 0);
    quant_formats[type].decode(row, out, COLS);
}

static double error_of(const float *x, const float *y, const float *weight, size_t n)
{
    double error = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        double w = weight ? (double)weight[i] : 1, e = (double)(x[i] - y[i]);
        error += w * e * e;
        square += w * (double)x[i] * (double)x[i];
    }
    return square > 0 ? sqrt(error / square) : sqrt(error);
}

TEST(every_format_is_bounded_and_listed)
{
    float x[COLS], y[COLS], scales[] = {1, 0.02f, 1e-3f, 300};
    int n = 0;
    for (int t = 0; t < QUANT_COUNT; t++)
        n += quant_formats[t].gguf_type > 0; /* all but F32 and what is only read */
    EXPECT_INT(N_BOUNDS, n);
    for (int t = 0; t < N_BOUNDS; t++) {
        for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
            double sum = 0;
            for (int r = 0; r < ROWS; r++) {
                fill(x, COLS, scales[s]);
                through(bounds[t].type, x, NULL, y);
                sum += error_of(x, y, NULL, COLS) / ROWS;
            }
            if (!(sum < bounds[t].most))
                printf("%s: %g\n", quant_formats[bounds[t].type].name, sum);
            EXPECT(sum < bounds[t].most);
        }
    }
}

TEST(no_worse_than_plain_rounding)
{
    static uint8_t row[BYTES_MAX];
    float x[COLS], y[COLS], z[COLS];
    for (int type = QUANT_Q8_0; type <= QUANT_Q4_0; type++) {
        fill(x, COLS, 0.02f);
        through((enum quant_type)type, x, NULL, y);
        quant_encode((enum quant_type)type, x, row, COLS);
        quant_formats[type].decode(row, z, COLS);
        EXPECT(error_of(x, y, NULL, COLS) < 0.99 * error_of(x, z, NULL, COLS));
    }
}

TEST(what_was_stored_stays)
{
    float x[COLS], y[COLS], z[COLS];
    for (int t = 0; t < N_BOUNDS; t++) {
        enum quant_type type = bounds[t].type;
        fill(x, COLS, 0.05f);
        through(type, x, NULL, y);
        through(type, y, NULL, z);
        /* a second time adds next to nothing to what the first has cost */
        double first = error_of(x, y, NULL, COLS), more = error_of(y, z, NULL, COLS);
        if (!(more <= 0.35 * first))
            printf("%s: %g, then %g\n", quant_formats[type].name, first, more);
        EXPECT(more <= 0.35 * first);
    }
}

TEST(zeros_constants_and_the_tiny)
{
    float x[COLS], y[COLS];
    for (int t = 0; t < N_BOUNDS; t++) {
        enum quant_type type = bounds[t].type;
        memset(x, 0, sizeof x);
        through(type, x, NULL, y);
        for (int i = 0; i < COLS; i++)
            EXPECT(y[i] == 0);
        for (int i = 0; i < COLS; i++)
            x[i] = -0.37f;
        through(type, x, NULL, y);
        EXPECT(error_of(x, y, NULL, COLS) < (type == QUANT_MXFP4 ? 0.1 : 0.02));
        for (int i = 0; i < COLS; i++)
            x[i] = i % 2 ? 1e-30f : -1e-30f;
        through(type, x, NULL, y);
        for (int i = 0; i < COLS; i++)
            EXPECT(isfinite(y[i]) && fabsf(y[i]) <= 1e-7f);
        memset(x, 0, sizeof x);
        x[300] = 5; /* one value alone in its block */
        through(type, x, NULL, y);
        EXPECT(fabsf(y[300] - 5) < (type == QUANT_MXFP4 ? 1.1f : 0.1f));
        EXPECT(y[0] == 0 && y[COLS - 1] == 0);
    }
}

TEST(importance_moves_the_error)
{
    float x[COLS], plain[COLS], weighed[COLS], importance[COLS], none[COLS] = {0};
    for (int t = 2; t < N_BOUNDS; t++) {
        enum quant_type type = bounds[t].type;
        double without = 0, with = 0;
        for (int r = 0; r < ROWS; r++) {
            fill(x, COLS, 0.02f);
            for (int i = 0; i < COLS; i++)
                importance[i] = expf(2 * normal());
            through(type, x, NULL, plain);
            through(type, x, importance, weighed);
            without += error_of(x, plain, importance, COLS);
            with += error_of(x, weighed, importance, COLS);
        }
        double most = type == QUANT_MXFP4 ? 0.995 : 0.97; /* scales are powers of two there */
        if (!(with < most * without))
            printf("%s: %g, with importance %g\n", quant_formats[type].name, without, with);
        EXPECT(with < most * without);
        through(type, x, none, weighed); /* nothing is important: as if nothing were said */
        EXPECT(!memcmp(plain, weighed, sizeof plain));
    }
}

TEST(what_cannot_be_stored_is_refused)
{
    static uint8_t row[BYTES_MAX];
    float x[COLS], importance[COLS];
    char error[QUANTIZE_ERROR_BYTES];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int t = 0; t < N_BOUNDS; t++) {
        enum quant_type type = bounds[t].type;
        for (int b = 0; b < 3; b++) {
            fill(x, COLS, 1);
            x[777] = bad[b];
            EXPECT_INT(quantize_row(type, x, NULL, row, COLS, error), -1);
            EXPECT(strstr(error, "column 777: the value is not finite") != NULL);
        }
        fill(x, COLS, 1);
        x[5] = 1e9f;
        int fits = type == QUANT_BF16 || type == QUANT_MXFP4;
        EXPECT_INT(quantize_row(type, x, NULL, row, COLS, NULL), fits ? 0 : -1);
        fill(x, COLS, 1);
        fill(importance, COLS, 1);
        for (int i = 0; i < COLS; i++)
            importance[i] = fabsf(importance[i]);
        importance[9] = -1;
        EXPECT_INT(quantize_row(type, x, importance, row, COLS, error), -1);
        EXPECT(strstr(error, "column 9: the importance") != NULL);
    }
    EXPECT_INT(quantize_row(QUANT_Q4_K, x, NULL, row, 32, error), -1);
}

TEST(variants_agree_to_the_bit)
{
    static uint8_t base[BYTES_MAX], wide[BYTES_MAX];
    float x[COLS], importance[COLS];
    if (!__builtin_cpu_supports("avx2"))
        SKIP("no AVX2");
    for (int t = 0; t < N_BOUNDS; t++) {
        enum quant_type type = bounds[t].type;
        if (!quantize_base[type])
            continue;
        for (int with = 0; with < 2; with++) {
            fill(x, COLS, 0.02f);
            for (int i = 0; i < COLS; i++)
                importance[i] = expf(normal());
            quantize_base[type](x, with ? importance : NULL, base, COLS);
            quantize_avx2[type](x, with ? importance : NULL, wide, COLS);
            EXPECT(!memcmp(base, wide, quant_row_bytes(type, COLS)));
        }
    }
}

TEST(a_matrix_is_its_rows_on_any_number_of_threads)
{
    enum { N = 70, HEAD = 10 };
    static float x[N][COLS];
    static uint8_t row[BYTES_MAX], out[N * BYTES_MAX];
    char error[QUANTIZE_ERROR_BYTES];
    size_t bytes = quant_row_bytes(QUANT_Q4_K, COLS);
    fill(x[0], (size_t)N * COLS, 0.02f);
    for (int threads = 1; threads <= 4; threads++) {
        struct quantize_pool *pool = quantize_open(threads, COLS);
        EXPECT(pool != NULL);
        struct quantize_job job = {.from = QUANT_F32, .to = QUANT_Q4_K, .in = x, .cols = COLS,
                                   .first_row = 10, .n_rows = 50, .head_rows = HEAD, .out = out};
        memset(out, 0xa5, sizeof out);
        EXPECT_INT(quantize_matrix(pool, &job, error), 0);
        for (int i = 0; i < 50; i++) { /* rows 0 5 1 6 2 7 ... of each head */
            int r = i % HEAD, from = 10 + i - r + r / 2 + r % 2 * (HEAD / 2);
            quantize_row(QUANT_Q4_K, x[from], NULL, row, COLS, NULL);
            EXPECT(!memcmp(row, out + (size_t)i * bytes, bytes));
        }
        EXPECT(out[50 * bytes] == 0xa5);
        x[33][4] = NAN;
        job = (struct quantize_job){.from = QUANT_F32, .to = QUANT_Q4_K, .in = x, .cols = COLS,
                                    .n_rows = N, .out = out};
        EXPECT_INT(quantize_matrix(pool, &job, error), -1);
        EXPECT_STR(error, "row 33, column 4: the value is not finite (nan)");
        x[33][4] = 0;
        quantize_close(pool);
    }
}
