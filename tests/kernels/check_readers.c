/* check_readers: what norm, act_mul and attention leave for one call of linear alone (kernels.h,
 * linear_readers) gives what floats give, on the plugin's device. Sums over columns may be added in
 * another order; all else is the same to the last bit. That floats are left out where the products
 * take 16-bit values is seen from the poison in their place. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/check.h"

enum { COLS = 1024, ROWS = 48, HEADS = 8, KV_HEADS = 2, HEAD_DIM = 128, BLOCK = 16, JOBS = 3 };

struct bench {
    const struct kernels *k;
    struct device *d;
    struct matrix w[JOBS];
    int n, n_jobs;
    float *in, *up, *weight, *between; /* device; what stands between the op and linear */
    float *out[JOBS];
    float *host_in;
};

enum op { NORM, ACT_MUL, ATTENTION_ROWS, ATTENTION_TILES, OPS };
static const char *const op_names[OPS] = {"norm", "act_mul", "attention of rows",
                                          "attention of tiles"};

static float *upload(struct bench *b, const float *from, size_t n)
{
    float *to = b->k->alloc(b->d, n * sizeof *to);
    check_expect(to && !b->k->upload(b->d, to, from, n * sizeof *to), "uploads");
    return to;
}

/* Keys and values of n positions, of one sequence or of n of two positions each. */
static int fill_pool(struct bench *b, enum op op)
{
    struct kv_options kv = {1, KV_HEADS, HEAD_DIM, CHECK_N_MAX + 8, BLOCK, QUANT_F16};
    int n = op == ATTENTION_ROWS ? 2 * b->n : b->n, width = KV_HEADS * HEAD_DIM;
    int64_t *slots = calloc((size_t)n, sizeof *slots);
    float *keys = upload(b, check_normals((size_t)(n * width)), (size_t)(n * width));
    float *values = upload(b, check_normals((size_t)(n * width)), (size_t)(n * width));
    float *q = upload(b, b->host_in, (size_t)b->n * COLS);
    for (int i = 0; i < n; i++)
        slots[i] = op == ATTENTION_ROWS ? i / 2 * BLOCK + i % 2 : i;
    int rc = b->k->kv_open(b->d, &kv);
    for (int i = 0; i < n && !rc; i += b->n) /* q is rotated, by nothing: n_freq 0 */
        rc = b->k->rope_store(b->d, &(struct rope_store_args){q, keys + i * width,
                                                              values + i * width, NULL, slots + i,
                                                              b->n, HEADS, 0, 0, false, NULL});
    free(slots);
    return rc;
}

static int attend(struct bench *b, enum op op, struct linear_readers readers)
{
    struct attention_seq seqs[CHECK_N_MAX];
    int32_t blocks[CHECK_N_MAX];
    int n_seqs = op == ATTENTION_ROWS ? b->n : 1;
    for (int i = 0; i < CHECK_N_MAX; i++)
        blocks[i] = i;
    for (int i = 0; i < n_seqs; i++)
        seqs[i] = op == ATTENTION_ROWS ? (struct attention_seq){i, 1, 2, blocks + i}
                                       : (struct attention_seq){0, b->n, b->n, blocks};
    return b->k->attention(b->d, &(struct attention_args){b->between, b->in, seqs, n_seqs, HEADS, 0,
                                                          0, 0.1f, 0, readers});
}

static int run_op(struct bench *b, enum op op, struct linear_readers readers)
{
    size_t size = (size_t)b->n * COLS;
    if (op == NORM)
        return b->k->norm(b->d, &(struct norm_args){b->between, b->in, b->weight, b->n, COLS, 1e-5f,
                                                    false, readers});
    if (op == ACT_MUL)
        return b->k->upload(b->d, b->between, b->host_in, size * sizeof(float)) ||
               b->k->act_mul(b->d, &(struct act_mul_args){b->between, b->up, b->n, COLS,
                                                          ACTIVATION_SILU, readers});
    return attend(b, op, readers);
}

/* Whatever the device keeps between the two ops holds NaN, also behind the rows of the case. */
static void leave_nan(struct bench *b)
{
    int n = (b->n + 7) / 8 * 8;
    size_t size = (size_t)n * COLS;
    float *nan = upload(b, check_floats(size), size);
    for (int j = 0; j < b->n_jobs; j++) {
        float *out = b->k->alloc(b->d, (size_t)n * ROWS * sizeof *out);
        struct linear_args a = {.in = nan, .n = n, .n_jobs = 1, .jobs = {{&b->w[j], NULL, out}}};
        check_expect(out && !b->k->linear(b->d, &a), "runs");
        b->k->free(b->d, out);
    }
    b->k->free(b->d, nan);
}

/* op, then linear; true: floats were left unwritten. */
static bool run(struct bench *b, enum op op, bool told, float **results)
{
    size_t size = (size_t)b->n * COLS;
    float *poison = check_floats(size), *back = check_floats(size);
    struct linear_readers readers = {0};
    struct linear_args a = {.in = b->between, .n = b->n, .n_jobs = b->n_jobs};
    for (int j = 0; j < b->n_jobs; j++) {
        a.jobs[j] = (struct linear_job){&b->w[j], NULL, b->out[j]};
        readers.w[j] = &b->w[j];
    }
    readers.n = told ? b->n_jobs : 0;
    int rc = b->k->upload(b->d, b->between, poison, size * sizeof *poison);
    rc = rc || run_op(b, op, readers) || b->k->linear(b->d, &a);
    for (int j = 0; j < b->n_jobs && !rc; j++)
        rc = b->k->download(b->d, results[j], b->out[j], (size_t)b->n * ROWS * sizeof(float));
    rc = rc || b->k->download(b->d, back, b->between, size * sizeof *back) || b->k->sync(b->d);
    check_expect(!rc, "runs: %s", b->k->device_error(b->d));
    if (op == ACT_MUL)
        return !memcmp(back, b->host_in, size * sizeof *back);
    return isnan(back[0]) && isnan(back[size - 1]);
}

static void open_bench(struct bench *b, const enum quant_type *types, int n_jobs, int n, enum op op)
{
    size_t size = (size_t)n * COLS;
    *b = (struct bench){
        .k = hosted_plugin(), .d = check_device_new(CHECK_CUDA, 1), .n = n, .n_jobs = n_jobs};
    b->host_in = check_normals(size);
    b->in = upload(b, b->host_in, size);
    b->up = upload(b, check_normals(size), size);
    b->weight = upload(b, check_normals(COLS), COLS);
    b->between = b->k->alloc(b->d, size * sizeof(float));
    for (int j = 0; j < n_jobs; j++) {
        b->w[j] = check_matrix(types[j], ROWS, COLS, 0.1f, NULL);
        b->out[j] = b->k->alloc(b->d, (size_t)n * ROWS * sizeof(float));
        check_expect(b->between && b->out[j] && !b->k->matrix_load(b->d, &b->w[j]), "loads");
    }
    if (op >= ATTENTION_ROWS)
        check_expect(!fill_pool(b, op), "fills the pool: %s", b->k->device_error(b->d));
}

/* must: floats have to be left out (on a device with tensor cores for it). */
static void one(enum op op, const enum quant_type *types, int n_jobs, int n, bool must)
{
    struct bench b;
    float *floats[JOBS], *halves[JOBS];

    check_case("readers of %s: %s%s n %d", op_names[op], quant_formats[types[0]].name,
               n_jobs > 1 ? " and others" : "", n);
    open_bench(&b, types, n_jobs, n, op);
    for (int j = 0; j < n_jobs; j++) {
        floats[j] = check_floats((size_t)n * ROWS);
        halves[j] = check_floats((size_t)n * ROWS);
    }
    leave_nan(&b);
    bool left_out = run(&b, op, true, halves);
    check_expect(!run(&b, op, false, floats), "floats are written for anyone");
    if (must && !check_varies(CHECK_CUDA))
        check_expect(!left_out, "a deterministic device has floats");
    else if (must)
        check_expect(left_out, "no floats");
    for (int j = 0; j < n_jobs; j++) {
        bool sums = types[j] == QUANT_Q4_K || types[j] == QUANT_Q5_K;
        if (!sums || !left_out) {
            check_same(halves[j], floats[j], (size_t)n * ROWS, "from halves");
            continue;
        }
        for (int i = 0; i < n * ROWS; i++)
            if (!check_expect(
                    fabsf(halves[j][i] - floats[j][i]) <= 1e-5f * (1 + fabsf(floats[j][i])),
                    "value %d is %.9g, not %.9g", i, (double)halves[j][i], (double)floats[j][i]))
                break;
    }
    for (int j = 0; j < n_jobs; j++)
        b.k->matrix_free(b.d, &b.w[j]);
    b.k->close(b.d);
}

void check_readers(void)
{
    static const enum quant_type same[][JOBS] = {{QUANT_BF16, QUANT_BF16, QUANT_BF16},
                                                 {QUANT_F16, QUANT_F16, QUANT_F16},
                                                 {QUANT_Q4_K, QUANT_Q4_K, QUANT_Q6_K},
                                                 {QUANT_Q8_0, QUANT_Q8_0, QUANT_Q8_0}};
    static const enum quant_type mixed[][JOBS] = {{QUANT_BF16, QUANT_F16, QUANT_BF16},
                                                  {QUANT_Q4_K, QUANT_F32, QUANT_Q4_K},
                                                  {QUANT_Q2_K, QUANT_Q6_K, QUANT_Q5_K}};
    static const int counts[] = {1, 5, 11, 16, 40, 70};

    if (!check_device(CHECK_CUDA, 1))
        return;
    for (int op = 0; op < OPS; op++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            int n = counts[i];
            for (size_t t = 0; t < sizeof same / sizeof *same; t++) {
                bool attention = op >= ATTENTION_ROWS, high = n > 16 && t != 2;
                one(op, same[t], attention ? 1 : JOBS, n, attention ? high : n > 8);
            }
            for (size_t t = 0; t < sizeof mixed / sizeof *mixed; t++)
                one(op, mixed[t], JOBS, n, false);
        }
}
