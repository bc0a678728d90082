/* check_linear: matrix times vectors in every format at every level.
 *
 * Reference: decoded weights in double. Bound for float activations: (cols / 8 + 16) * 2^-24 of
 * sum |w x| + |bias| + |out|, the worst case of a sum in 8 or more lanes. Where activations are
 * quantized, each may be off by half a step of its block: 0.51 / 127 of the block's greatest
 * magnitude times |w|, summed, on top; where they are rounded to BF16, by 2^-8 of themselves.
 * Batch invariance is compared bit by bit. */
#include "tests/kernels/check.h"

#include "kernels/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct shape {
    int rows, cols, n;
};

enum input { AS_IT_IS, INT8, BF16 };

static double bound_of(const float *w, const float *x, int cols, enum input input, double share,
                       double extra)
{
    double sum = extra, steps = 0, products = 0;

    for (int c0 = 0; c0 < cols; c0 += 32) {
        double most = 0, weights = 0;
        for (int c = c0; c < cols && c < c0 + 32; c++) {
            products += fabs((double)w[c] * x[c]);
            weights += fabs((double)w[c]);
            most = fmax(most, fabs((double)x[c]));
        }
        steps += most * weights * 0.51 / 127;
    }
    double rounding = input == INT8 ? steps : input == BF16 ? 0x1.01p-8 * products : share * products;
    return 0x1p-24 * (cols / 8 + 16) * (sum + products) + rounding;
}

static void compare(const struct shape *s, const float *w, const float *x, const float *bias,
                    const float *before, const float *out, enum input input, double share)
{
    for (int t = 0; t < s->n; t++)
        for (int r = 0; r < s->rows; r++) {
            const float *row = w + (size_t)r * (size_t)s->cols;
            const float *in = x + (size_t)t * (size_t)s->cols;
            size_t at = (size_t)t * (size_t)s->rows + (size_t)r;
            double y = 0, extra = 0;
            for (int c = 0; c < s->cols; c++)
                y += (double)row[c] * in[c];
            if (bias) {
                y += bias[r];
                extra += fabs((double)bias[r]);
            }
            if (before) {
                y += before[at];
                extra += fabs((double)before[at]);
            }
            double bound = bound_of(row, in, s->cols, input, share, extra + fabs(y));
            if (!check_expect(fabs(out[at] - y) <= bound, "[%d][%d] is %.9g, not %.9g +- %.2g", t,
                              r, (double)out[at], y, bound))
                return;
        }
}

/* The same rows in chunks of `step` inputs on another number of threads. */
static void again(int level, const struct linear_args *whole, int step, int n_threads,
                  const float *before)
{
    const struct matrix *w = whole->jobs[0].w;
    size_t size = (size_t)w->rows * (size_t)whole->n;
    float *out = check_floats(size);

    if (before)
        memcpy(out, before, size * sizeof *out);
    for (int t = 0; t < whole->n; t += step) {
        struct linear_args a = *whole;
        a.in += (size_t)t * (size_t)w->cols;
        a.n = whole->n - t < step ? whole->n - t : step;
        a.jobs[0].out = out + (size_t)t * (size_t)w->rows;
        check_expect(check_kernels(level)->linear(check_device(level, n_threads), &a) == 0, "runs");
    }
    check_same(out, whole->jobs[0].out, size, step == 1 ? "one by one" : "in chunks");
}

static void one(int level, enum quant_type type, struct shape s, bool bias, bool add)
{
    bool cuda = level == CHECK_CUDA;
    bool floats = cuda || quant_formats[type].block < 32 || type == QUANT_F8_128;
    enum input input = level > 0 && !floats ? INT8
                       : type == QUANT_BF16 && level == CHECK_ROUNDS_BF16 ? BF16
                                                                       : AS_IT_IS;
    float *w;

    s.cols = (s.cols - 1) / quant_formats[type].block * quant_formats[type].block +
             quant_formats[type].block;
    size_t size = (size_t)s.rows * (size_t)s.n;
    check_case("linear %s %s rows %d cols %d n %d%s%s", check_level_names[level],
               quant_formats[type].name, s.rows, s.cols, s.n, bias ? " bias" : "",
               add ? " add" : "");
    struct matrix m = check_matrix(type, s.rows, s.cols, 0.1f, &w);
    float *x = check_normals((size_t)s.cols * (size_t)s.n);
    float *b = bias ? check_normals((size_t)s.rows) : NULL;
    float *out = check_floats(size), *before = NULL;
    if (add) {
        before = check_normals(size);
        memcpy(out, before, size * sizeof *out);
    }
    check_expect(check_kernels(level)->matrix_load(check_device(level, 1), &m) == 0, "loads");
    struct linear_args a = {.in = x, .n = s.n, .add = add, .n_jobs = 1, .jobs = {{&m, b, out}}};
    check_expect(check_kernels(level)->linear(check_device(level, 1), &a) == 0, "runs");
    compare(&s, w, x, b, before, out, input, cuda ? check_cuda_linear(type, s.n) : 0);
    if (check_varies(level))
        return;
    if (!cuda || s.n < 10)
        again(level, &a, 1, 2, before);
    again(level, &a, 7, 3, before);
    again(level, &a, s.n, 2, before);
}

enum fp8_kind { BY_ROW, BY_BLOCK, WITH_NAN };
enum fp8_way { EXACT, ROUNDED, EITHER };

/* FP8 with one scale per row or per block, or per row and one code that is NaN (480 to us). */
static struct matrix fp8_matrix(enum fp8_kind kind, int rows, int cols, float **w)
{
    struct matrix m = check_matrix(QUANT_F8_128, rows, cols, 0.1f, w);
    uint8_t *data = (uint8_t *)m.data;
    int each = cols / 128;

    for (int b = 0; b < rows * each; b++) {
        if (kind != BY_BLOCK)
            memcpy(data + b * 132, data + b / each * each * 132, sizeof(float));
        for (int i = 4; i < 132; i++)
            data[b * 132 + i] ^= (data[b * 132 + i] & 0x7f) == 0x7f;
    }
    if (kind == WITH_NAN)
        data[rows * each * 132 - 1] = 0x7f;
    quant_formats[QUANT_F8_128].decode(m.data, *w, (size_t)(rows * cols));
    return m;
}

struct matrix check_fp8_rows(int rows, int cols, float **decoded)
{
    return fp8_matrix(BY_ROW, rows, cols, decoded);
}

/* With one scale per row: GPUs of compute capability 9.0 round inputs to FP8, those before do not,
 * those after may. gpu: "cuda, NAME (9.0), ..." */
static enum fp8_way fp8_way_of(const char *gpu)
{
    const char *at = strrchr(gpu, '(');
    long major = at ? strtol(at + 1, NULL, 10) : 0;
    return major < 9 ? EXACT : major == 9 ? ROUNDED : EITHER;
}

/* A rounded input is off by a 16th of itself at worst; and which of the two was it? */
static void fp8_compare(const struct shape *s, const float *w, const float *x, const float *bias,
                        const float *before, const float *out, enum fp8_way way)
{
    int n_off = 0, size = s->rows * s->n;

    compare(s, w, x, bias, before, out, AS_IT_IS, way == EXACT ? 0x1.2p-10 : 0x1.1p-4);
    for (int i = 0; i < size; i++) {
        double y = (double)bias[i % s->rows] + (double)before[i];
        for (int c = 0; c < s->cols; c++)
            y += (double)w[i % s->rows * s->cols + c] * (double)x[i / s->rows * s->cols + c];
        n_off += fabs(y - (double)out[i]) > 1e-3 * fabs(y);
    }
    if (way != EITHER)
        check_expect((way == ROUNDED) == (n_off > size / 4), "%d of %d are off by a 1000th", n_off,
                     size);
}

static struct device *open_gpu(int level, int gpu, int n, int cols)
{
    const struct kernels *k = check_kernels(level);
    struct device_options options = {.gpu = gpu, .gpu_memory_fraction = 0.05};
    struct device *d;
    char error[200];

    if (!check_expect(!k->open(&options, &d, error, sizeof error), "opens: %s", error))
        return NULL;
    check_expect(!k->reserve(d, n, cols), "reserves");
    return d;
}

/* Scales per block, or codes that are NaN, are not for the library. What is not finite in one input
 * stays in its outputs. Emulated, GPU 1 is of 9.0. */
static void fp8_rows(int level, enum fp8_kind kind)
{
    static const char *const names[] = {"a scale per row", "a scale per block",
                                        "a scale per row, and NaN"};
    static const float bad[2] = {NAN, INFINITY};
    const struct kernels *k = check_kernels(level);
    const struct shape s = {48, 384, 100};
    size_t size = (size_t)(s.rows * s.n);
    float *w;

    check_case("linear %s F8_128: %s", check_level_names[level], names[kind]);
    struct matrix m = fp8_matrix(kind, s.rows, s.cols, &w);
    float *x = check_normals((size_t)(s.cols * s.n)), *bias = check_normals((size_t)s.rows);
    float *before = check_normals(size), *out = check_floats(size);
    struct device *d = open_gpu(level, check_emulated(level), s.n, s.cols);
    if (!d)
        return;
    check_expect(!k->matrix_load(d, &m), "loads");
    memcpy(out, before, size * sizeof *out);
    struct linear_args a = {.in = x, .n = s.n, .add = true, .n_jobs = 1, .jobs = {{&m, bias, out}}};
    check_expect(k->linear(d, &a) == 0, "runs: %s", k->device_error(d));
    fp8_compare(&s, w, x, bias, before, out,
                kind == BY_ROW ? fp8_way_of(k->describe(d)) : EXACT);
    for (int i = 0; i < 2; i++) {
        x[s.cols + 41] = bad[i];
        memcpy(out, before, size * sizeof *out);
        check_expect(k->linear(d, &a) == 0, "runs: %s", k->device_error(d));
        for (int at = 0; at < s.rows * s.n; at++)
            check_expect(isfinite(out[at]) == (at / s.rows != 1), "%g: row %d is %g",
                         (double)bad[i], at / s.rows, (double)out[at]);
    }
    k->matrix_free(d, &m);
    k->close(d);
}

/* Three matrices of one scale per row in one call, twice. Emulated, the library refuses products
 * with 80 rows, and on GPU 2, an older one, all. */
static void fp8_jobs(int level, int gpu, const int rows[3])
{
    const struct kernels *k = check_kernels(level);
    const int n = 100, cols = 256;
    struct matrix m[3];
    float *w[3], *bias[3], *before[3];
    struct linear_args a = {.n = n, .add = true, .n_jobs = 3};

    check_case("linear %s F8_128: three jobs of a scale per row, %d %d %d, GPU %d",
               check_level_names[level], rows[0], rows[1], rows[2], gpu);
    float *x = check_normals((size_t)(n * cols));
    struct device *d = open_gpu(level, gpu, n, cols);
    if (!d)
        return;
    a.in = x;
    for (int j = 0; j < 3; j++) {
        m[j] = fp8_matrix(BY_ROW, rows[j], cols, &w[j]);
        bias[j] = check_normals((size_t)rows[j]);
        before[j] = check_normals((size_t)(n * rows[j]));
        a.jobs[j] = (struct linear_job){&m[j], bias[j], check_floats((size_t)(n * rows[j]))};
        check_expect(!k->matrix_load(d, &m[j]), "loads");
    }
    for (int turn = 0; turn < 2; turn++) {
        for (int j = 0; j < 3; j++)
            memcpy(a.jobs[j].out, before[j], (size_t)(n * rows[j]) * sizeof(float));
        check_expect(k->linear(d, &a) == 0, "runs: %s", k->device_error(d));
        for (int j = 0; j < 3; j++) {
            bool refused = check_emulated(level) && (gpu == 2 || rows[j] == 80);
            fp8_compare(&(struct shape){rows[j], cols, n}, w[j], x, bias[j], before[j],
                        a.jobs[j].out, refused ? EXACT : fp8_way_of(k->describe(d)));
        }
    }
    for (int j = 0; j < 3; j++)
        k->matrix_free(d, &m[j]);
    k->close(d);
}

static void fp8(int level)
{
    static const int rows[3][3] = {{64, 48, 32}, {48, 80, 32}, {80, 80, 48}};
    bool emulated = check_emulated(level);

    for (int kind = BY_ROW; kind <= WITH_NAN; kind++)
        fp8_rows(level, (enum fp8_kind)kind);
    for (int i = 0; i < 3; i++)
        fp8_jobs(level, emulated, rows[i]);
    if (emulated)
        fp8_jobs(level, 2, rows[0]);
}

/* So many inputs that GPUs of compute capability 9.0 decode the weights for the library; in_slices:
 * more of them than are decoded at once. A few inputs are compared. */
static void decoded(int level, enum quant_type type, bool in_slices)
{
    const struct kernels *k = check_kernels(level);
    const struct shape s = {in_slices ? 4150 : 37, in_slices ? 8192 : 768, 300};
    size_t size = (size_t)(s.rows * s.n);
    float *w;

    check_case("linear %s %s: rows %d cols %d n %d", check_level_names[level],
               quant_formats[type].name, s.rows, s.cols, s.n);
    struct matrix m = check_matrix(type, s.rows, s.cols, 0.1f, &w);
    float *x = check_normals((size_t)(s.cols * s.n)), *bias = check_normals((size_t)s.rows);
    float *before = check_normals(size), *out = check_floats(size);
    struct device *d = open_gpu(level, check_emulated(level), s.n, s.cols);
    if (!d)
        return;
    memcpy(out, before, size * sizeof *out);
    struct linear_args a = {.in = x, .n = s.n, .add = true, .n_jobs = 1, .jobs = {{&m, bias, out}}};
    check_expect(!k->matrix_load(d, &m) && !k->linear(d, &a), "runs: %s", k->device_error(d));
    for (int t = 0; t < s.n; t += in_slices ? 150 : 1)
        compare(&(struct shape){s.rows, s.cols, 1}, w, x + (size_t)t * (size_t)s.cols, bias,
                before + (size_t)t * (size_t)s.rows, out + (size_t)t * (size_t)s.rows, AS_IT_IS,
                check_cuda_linear(type, s.n));
    k->matrix_free(d, &m);
    k->close(d);
}

/* Zero points that no quantizer writes and the format allows. */
static void far_centers(int level, enum quant_type type)
{
    struct shape s = {20, 256, 11};
    enum input input = level > 0 && level != CHECK_CUDA ? INT8 : AS_IT_IS;
    float *w;

    check_case("linear %s %s: far zero points", check_level_names[level], quant_formats[type].name);
    float *x = check_normals((size_t)(s.cols * s.n)), *out = check_floats(20 * 11);
    struct matrix m = check_matrix(type, s.rows, s.cols, 0.1f, &w);
    uint8_t *data = (uint8_t *)m.data;
    for (int b = 0; b < 3; b++) {
        int16_t z = (int16_t)(b ? 500 * b : -32768);
        memcpy(data + (size_t)(b * quant_formats[type].block_bytes) + 4, &z, sizeof z);
    }
    quant_formats[type].decode(m.data, w, (size_t)(s.rows * s.cols));
    check_expect(check_kernels(level)->matrix_load(check_device(level, 1), &m) == 0, "loads");
    struct linear_args a = {.in = x, .n = s.n, .n_jobs = 1, .jobs = {{&m, NULL, out}}};
    check_expect(check_kernels(level)->linear(check_device(level, 1), &a) == 0, "runs");
    compare(&s, w, x, NULL, NULL, out, input,
            level == CHECK_CUDA ? check_cuda_linear(type, s.n) : 0);
}

/* Three jobs of different heights and formats are what each is alone. */
static void jobs(int level)
{
    static const enum quant_type types[3] = {QUANT_Q8_0, QUANT_BF16, QUANT_Q4_0};
    struct matrix m[3];
    struct linear_args a = {.n = 19, .n_jobs = 3};

    check_case("linear %s: three jobs at once", check_level_names[level]);
    float *x = check_normals(19 * 96);
    a.in = x;
    for (int j = 0; j < 3; j++) {
        m[j] = check_matrix(types[j], 40 + 33 * j, 96, 0.1f, NULL);
        a.jobs[j] = (struct linear_job){&m[j], NULL, check_floats((size_t)(19 * m[j].rows))};
    }
    check_expect(check_kernels(level)->linear(check_device(level, 3), &a) == 0, "runs");
    for (int j = 0; j < 3; j++) {
        size_t size = (size_t)(19 * m[j].rows);
        struct linear_args alone = {.in = x, .n = 19, .n_jobs = 1,
                                    .jobs = {{&m[j], NULL, check_floats(size)}}};
        check_kernels(level)->linear(check_device(level, 1), &alone);
        check_same(a.jobs[j].out, alone.jobs[0].out, size, "a job");
    }
}

/* Jobs that share format, input and, two of them, height, as Q, K and V do: in one call. */
static void alike(int level, enum quant_type type, int n, bool bias)
{
    const int cols = 256;
    struct matrix m[3];
    float *w[3], *b[3] = {NULL, NULL, NULL};
    struct linear_args a = {.n = n, .n_jobs = 3};
    enum input input = level == CHECK_ROUNDS_BF16 && type == QUANT_BF16 ? BF16
                       : level > 0 && level != CHECK_CUDA && quant_formats[type].block >= 32
                           ? INT8
                           : AS_IT_IS;

    check_case("linear %s %s: three jobs alike, n %d%s", check_level_names[level],
               quant_formats[type].name, n, bias ? " bias" : "");
    float *x = check_normals((size_t)(n * cols));
    a.in = x;
    for (int j = 0; j < 3; j++) {
        m[j] = check_matrix(type, j ? 96 : 200, cols, 0.1f, &w[j]);
        b[j] = bias ? check_normals((size_t)m[j].rows) : NULL;
        a.jobs[j] = (struct linear_job){&m[j], b[j], check_floats((size_t)(n * m[j].rows))};
    }
    check_expect(check_kernels(level)->linear(check_device(level, 2), &a) == 0, "runs");
    for (int j = 0; j < 3; j++)
        compare(&(struct shape){(int)m[j].rows, cols, n}, w[j], x, b[j], NULL, a.jobs[j].out, input,
                level == CHECK_CUDA ? check_cuda_linear(type, n) : 0);
}

/* Weights at the ends of their range. Formats that are not written, and Q8_0, whose -128 is not,
 * have their codes set. */
static bool fill_extremes(enum quant_type type, const struct shape *s, struct matrix *m, float *w)
{
    size_t n = (size_t)(s->rows * s->cols);
    const struct quant_format *f = &quant_formats[type];
    bool eight = type == QUANT_Q8_0 || type == QUANT_G8 || type == QUANT_G8_128;
    bool four = type == QUANT_G4 || type == QUANT_G4_128;

    for (size_t i = 0; i < n; i++)
        w[i] = i % 32 == 5 ? -1 : 0.97f;
    if (!eight && !four)
        return quantize_row(type, w, NULL, (char *)m->data, n, NULL) == 0;
    size_t codes = (size_t)f->block / (four ? 2 : 1);
    for (size_t b = 0; b < n / (size_t)f->block; b++) /* they end a block */
        memset((char *)m->data + (b + 1) * f->block_bytes - codes, four ? 0xff : 0x80, codes);
    return true;
}

/* Weights and inputs as great as can be, inputs of one sign: sums of integers fit. */
static void extremes(int level, enum quant_type type)
{
    const struct shape s = {20, 512, 41}, few = {20, 512, 3};
    bool exact = level == 0 || level == CHECK_CUDA;
    float *w;

    if (quant_formats[type].block < 32 || type == QUANT_F8_128)
        return;
    check_case("linear %s %s: extremes", check_level_names[level], quant_formats[type].name);
    struct matrix m = check_matrix(type, s.rows, s.cols, 0.1f, &w);
    float *x = check_floats((size_t)(s.cols * s.n)), *out = check_floats((size_t)(s.rows * s.n));
    for (int i = 0; i < s.cols * s.n; i++)
        x[i] = i / s.cols % 2 ? -1 : 1;
    check_expect(fill_extremes(type, &s, &m, w), "quantizes");
    quant_formats[type].decode(m.data, w, (size_t)(s.rows * s.cols));
    check_expect(check_kernels(level)->matrix_load(check_device(level, 1), &m) == 0, "loads");
    struct linear_args a = {.in = x, .n = s.n, .n_jobs = 1, .jobs = {{&m, NULL, out}}};
    check_expect(check_kernels(level)->linear(check_device(level, 1), &a) == 0, "runs");
    compare(&s, w, x, NULL, NULL, out, exact ? AS_IT_IS : INT8,
            level == CHECK_CUDA ? check_cuda_linear(type, s.n) : 0);
    a.n = few.n;
    check_expect(check_kernels(level)->linear(check_device(level, 1), &a) == 0, "runs");
    compare(&few, w, x, NULL, NULL, out, exact ? AS_IT_IS : INT8,
            level == CHECK_CUDA ? check_cuda_linear(type, few.n) : 0);
}

/* What is not finite in one input row makes that row's outputs not finite, and no others. */
static void guard(int level, enum quant_type type, float bad)
{
    check_case("linear %s %s: %g stays in its row", check_level_names[level],
               quant_formats[type].name, (double)bad);
    const int cols = quant_formats[type].block > 64 ? quant_formats[type].block : 64;

    for (int n = 3; n <= 39; n += 18) {
        float *x = check_normals((size_t)(n * cols)), *out = check_floats((size_t)n * 5);
        struct matrix m = check_matrix(type, 5, cols, 0.1f, NULL);
        x[cols + 41] = bad;
        struct linear_args a = {.in = x, .n = n, .n_jobs = 1, .jobs = {{&m, NULL, out}}};
        check_kernels(level)->linear(check_device(level, 2), &a);
        for (int i = 0; i < n * 5; i++)
            check_expect(isfinite(out[i]) == (i / 5 != 1), "n %d row %d is %g", n, i / 5,
                         (double)out[i]);
    }
}

void check_linear(void)
{
    static const struct shape shapes[] = {
        {1, 32, 1},    {3, 64, 2},     {17, 96, 5},    {33, 256, 33}, {64, 1056, 13},
        {100, 160, 100}, {256, 768, 7}, {288, 256, 40}, {35, 3104, 21}, {768, 256, 3},
        {150, 512, 140}, {130, 768, 70}, {35, 4640, 38}, {40, 2304, 33}, {50, 288, 32},
    };

    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1))
            continue;
        for (int t = 0; t < QUANT_COUNT; t++) {
            enum quant_type type = (enum quant_type)t;
            if (!check_wants(type))
                continue;
            size_t n_shapes = sizeof shapes / sizeof *shapes;
            int n_random = check_emulated(level) ? 2 : 12;
            for (size_t i = 0; i < n_shapes; i += check_emulated(level) ? 1 + (size_t)t % 2 : 1)
                one(level, type, shapes[i], i % 2, i % 3 == 1);
            for (int i = 0; i < n_random; i++) {
                int cols = check_int(1, 300);
                struct shape s = {check_int(1, 70), cols, check_int(1, 50)};
                one(level, type, s, i & 1, i & 2);
            }
            extremes(level, type);
            guard(level, type, NAN);
            guard(level, type, INFINITY);
        }
        for (int i = 0; i < 8; i++) {
            static const enum quant_type types[4] = {QUANT_BF16, QUANT_F16, QUANT_Q4_K, QUANT_F32};
            if (check_wants(types[i / 2]))
                alike(level, types[i / 2], i % 2 ? 150 : 5, i % 4 == 1);
        }
        for (enum quant_type t = QUANT_G4; t <= QUANT_G8_128 && level == CHECK_CUDA; t++)
            if (check_wants(t))
                far_centers(level, t);
        for (int t = 0; t < QUANT_COUNT && level == CHECK_CUDA; t++)
            if (quant_formats[t].block > 1 && check_wants((enum quant_type)t))
                decoded(level, (enum quant_type)t, false);
        if (level == CHECK_CUDA && !check_emulated(level) && check_wants(QUANT_Q4_K))
            decoded(level, QUANT_Q4_K, true);
        if (level == CHECK_CUDA && check_wants(QUANT_F8_128))
            fp8(level);
        jobs(level);
    }
}
