/* check_plugin: the plugin's own rules: its memory, its errors, and steps that are captured: the
 * third decode step of a size is a replay, and gives what the ops one by one give. */
#include <math.h>
#include <string.h>

#include "tests/kernels/check.h"

static void memory(const struct kernels *k)
{
    struct device *d = check_device_new(CHECK_CUDA, 1);
    unsigned char *held[8], bytes[3000], back[3000];
    size_t before = k->memory_free(d);

    check_case("plugin: memory");
    for (int i = 0; i < 8; i++) {
        size_t n = 1u << (3 * i);
        held[i] = k->alloc(d, n);
        check_expect(held[i] && (uintptr_t)held[i] % 64 == 0, "%zu bytes, aligned", n);
    }
    check_expect(k->memory_free(d) < before, "memory is taken");
    for (int i = 0; i < 8; i += 2)
        k->free(d, held[i]);
    for (size_t n = 1; n <= sizeof bytes; n = n * 3 + 1) {
        unsigned char *m = k->alloc(d, n), any = 0;
        check_expect(!k->download(d, back, m, n) && !k->sync(d), "downloads");
        for (size_t i = 0; i < n; i++) {
            any |= back[i];
            bytes[i] = (unsigned char)check_random();
        }
        check_expect(!any, "memory is zeroed");
        check_expect(!k->upload(d, m, bytes, n) && !k->download(d, back, m, n) && !k->sync(d) &&
                         !memcmp(bytes, back, n),
                     "%zu bytes there and back", n);
        k->free(d, m);
    }
    for (int i = 1; i < 8; i += 2)
        k->free(d, held[i]);
    k->free(d, NULL);
    check_expect(k->memory_free(d) == before, "all is given back");
    check_expect(!k->alloc(d, SIZE_MAX - 8), "too much");
    check_expect(k->host_alloc(d, 100) != NULL, "host memory");
    k->close(d);
    k->close(NULL);
}

/* A large upload goes through both halves of the pinned ring. */
static void large(const struct kernels *k)
{
    enum { BYTES = 40 << 20 };
    struct device *d = check_device_new(CHECK_CUDA, 1);

    check_case("plugin: a large upload");
    unsigned char *from = check_bytes(BYTES), *back = check_bytes(BYTES), *m;
    for (size_t i = 0; i < BYTES; i += 4)
        memcpy(from + i, &(uint32_t){check_random()}, 4);
    m = k->alloc(d, BYTES);
    check_expect(m && !k->upload(d, m, from, BYTES) && !k->download(d, back, m, BYTES) &&
                     !k->sync(d) && !memcmp(from, back, BYTES),
                 "there and back");
    k->close(d);
}

static void latch(const struct kernels *k)
{
    struct device *d = check_device_new(CHECK_CUDA, 1);
    float host[4] = {1, 2, 3, 4};

    check_case("plugin: errors latch");
    float *x = k->alloc(d, sizeof host), *y = k->alloc(d, sizeof host);
    struct norm_args norm = {y, x, x, 1, 4, 1e-5f, false, {0}}, bad = {y, host, x, 1, 4, 1e-5f, false, {0}};
    check_expect(!k->norm(d, &norm) && !k->sync(d) && !k->device_error(d)[0], "good calls");
    check_expect(k->norm(d, &bad) == -1 && k->device_error(d)[0], "plain memory is refused");
    check_expect(k->norm(d, &norm) == -1 && k->sync(d) == -1 && !k->alloc(d, 8), "it stays so");
    k->close(d);

    int64_t slot = 99;
    struct kv_options kv = {1, 1, 4, 2, 8, QUANT_F32};
    d = check_device_new(CHECK_CUDA, 1);
    x = k->alloc(d, sizeof host);
    struct rope_store_args store = {x, x, x, x, &slot, 1, 1, 0, 0, false, NULL};
    check_expect(k->kv_bytes_per_block(&kv) == 2 * 8 * 4 * 4, "bytes per block");
    check_expect(!k->kv_open(d, &kv) && k->rope_store(d, &store) == -1 &&
                     strstr(k->device_error(d), "99"),
                 "slot 99: %s", k->device_error(d));
    k->close(d);
    d = check_device_new(CHECK_CUDA, 1);
    struct matrix m = {QUANT_Q4_0, 1, 33, host, NULL};
    check_expect(k->matrix_load(d, &m) == -1, "Q4_0 of 33 columns");
    k->matrix_free(d, &m);
    k->close(d);
    d = check_device_new(CHECK_CUDA, 1);
    kv.n_blocks = INT32_MAX;
    kv.block_size = 256;
    check_expect(k->kv_open(d, &kv) == -1, "a pool that does not fit");
    k->close(d);
}

/* ---- steps */

enum {
    SEQS_MAX = 70, DIM = 256, HEADS = 8, HEAD_DIM = 32, FREQS = 16, BLOCK = 8, BLOCKS = 8,
    STEPS = 5, ROWS = 48
};

struct small { /* what one device holds of a small model */
    struct device *d;
    struct matrix table, w;
    float *q, *k, *v, *cos_sin, *out, *norm, *y;
};

static bool small_open(const struct kernels *k, struct small *s, const struct matrix *table,
                       const struct matrix *w, int n)
{
    struct device_options options = {.gpu = check_emulated(CHECK_CUDA),
                                     .gpu_memory_fraction = 0.05};
    struct kv_options kv = {1, HEADS, HEAD_DIM, n * BLOCKS, BLOCK, QUANT_F16};
    size_t bytes = (size_t)n * DIM * sizeof(float);
    float ones[DIM];
    for (int i = 0; i < DIM; i++)
        ones[i] = 1;
    if (k->open(&options, &s->d, NULL, 0) || k->reserve(s->d, n, DIM))
        return false;
    s->table = *table;
    s->w = *w;
    s->q = k->alloc(s->d, bytes);
    s->k = k->alloc(s->d, bytes);
    s->v = k->alloc(s->d, bytes);
    s->out = k->alloc(s->d, bytes);
    s->norm = k->alloc(s->d, sizeof ones);
    s->y = k->alloc(s->d, (size_t)n * ROWS * sizeof(float));
    s->cos_sin = k->alloc(s->d, (size_t)n * FREQS * 2 * sizeof(float));
    return s->q && s->k && s->v && s->out && s->norm && s->y && s->cos_sin &&
           !k->upload(s->d, s->norm, ones, sizeof ones) && !k->matrix_load(s->d, &s->table) &&
           !k->matrix_load(s->d, &s->w) && !k->kv_open(s->d, &kv);
}

static void small_close(const struct kernels *k, struct small *s)
{
    if (s->d) {
        k->matrix_free(s->d, &s->table);
        k->matrix_free(s->d, &s->w);
    }
    k->close(s->d);
}

static int small_ops(const struct kernels *k, const struct small *s, const struct step_args *a)
{
    float inv[FREQS];
    for (int i = 0; i < FREQS; i++)
        inv[i] = powf(100, (float)-i / FREQS);
    struct embed_args q = {s->q, &s->table, a->tokens, a->n, 1};
    struct embed_args key = {s->k, &s->table, a->tokens, a->n, 0.5f};
    struct embed_args v = {s->v, &s->table, a->tokens, a->n, 2};
    struct rope_table_args table = {s->cos_sin, a->pos, inv, a->n, FREQS, 1};
    struct rope_store_args store = {s->q, s->k, s->v, s->cos_sin, a->slots, a->n, HEADS, FREQS, 0,
                                    false, a->q_scale};
    struct attention_args attention = {s->out, s->q, a->seqs, a->n_seqs, HEADS, 0, 0, 0.2f, 0, {0}};
    struct norm_args norm = {s->q, s->out, s->norm, a->n, DIM, 1e-5f, false, {0}};
    struct linear_args linear = {.in = s->q, .n = a->n, .n_jobs = 1, .jobs = {{&s->w, NULL, s->y}}};
    return k->embed(s->d, &q) || k->embed(s->d, &key) || k->embed(s->d, &v) ||
           k->rope_table(s->d, &table) || k->rope_store(s->d, &store) ||
           k->attention(s->d, &attention) || k->norm(s->d, &norm) || k->linear(s->d, &linear);
}

/* The sequences grow, and one of them in another place than before. */
static struct step_args make_step(int step, int n, const struct matrix *table)
{
    static int32_t blocks[SEQS_MAX][BLOCKS], tokens[SEQS_MAX], pos[SEQS_MAX];
    static int64_t slots[SEQS_MAX];
    static float scale[SEQS_MAX];
    static struct attention_seq seqs[SEQS_MAX];
    int n_blocks = n * BLOCKS, p = step * 7;

    for (int i = 0; i < n_blocks; i++) /* 2 n - 1 shares no divisor with n or 8 */
        blocks[i / BLOCKS][i % BLOCKS] = i * (2 * n - 1) % n_blocks;
    for (int i = 0; i < n; i++) {
        int seq = (i + step / 3) % n;
        tokens[i] = check_int(0, (int)table->rows - 1);
        pos[i] = p;
        scale[i] = 1 + 0.1f * (float)(i % 7 + step);
        slots[i] = (int64_t)blocks[seq][p / BLOCK] * BLOCK + p % BLOCK;
        seqs[i] = (struct attention_seq){i, 1, p + 1, blocks[seq]};
    }
    return (struct step_args){tokens, pos, slots, scale, seqs, n, n, NULL, NULL, NULL};
}

static void steps(const struct kernels *k, enum quant_type type, int n)
{
    struct small bracketed = {0}, plain = {0};

    check_case("plugin: decode steps of %d with %s are captured and replayed", n,
               quant_formats[type].name);
    struct matrix table = check_matrix(QUANT_F32, 40, DIM, 1, NULL);
    struct matrix w = check_matrix(type, ROWS, DIM, 0.1f, NULL);
    if (type == QUANT_F8_128) /* a scale per row, and no NaN: products of FP8, where there are any */
        for (int i = 0; i < ROWS * DIM / 128; i++) {
            unsigned char *at = (unsigned char *)w.data + i * 132;
            memcpy(at, (const unsigned char *)w.data + i / 2 * 264, sizeof(float));
            for (int j = 4; j < 132; j++)
                at[j] ^= (at[j] & 0x7f) == 0x7f;
        }
    float *want = check_floats((size_t)n * ROWS), *got = check_floats((size_t)n * ROWS);
    size_t bytes = (size_t)n * ROWS * sizeof *got;
    bool open = small_open(k, &bracketed, &table, &w, n) && small_open(k, &plain, &table, &w, n);
    check_expect(open, "opens");
    for (int step = 0; step < STEPS && open; step++) {
        struct step_args a = make_step(step, n, &table);
        int rc = k->step_begin(bracketed.d, &a);
        /* the first step learns how many heads there are; the next size is then seen, captured */
        check_expect(rc == (step > 2), "step %d began with %d: %s", step, rc,
                     k->device_error(bracketed.d));
        if (rc == 0)
            check_expect(!small_ops(k, &bracketed, &a) && !k->step_end(bracketed.d), "runs: %s",
                         k->device_error(bracketed.d));
        check_expect(!small_ops(k, &plain, &a), "runs: %s", k->device_error(plain.d));
        check_expect(!k->download(bracketed.d, got, bracketed.y, bytes) && !k->sync(bracketed.d) &&
                         !k->download(plain.d, want, plain.y, bytes) && !k->sync(plain.d),
                     "downloads");
        check_same(got, want, (size_t)n * ROWS, "a step's product");
    }
    small_close(k, &bracketed);
    small_close(k, &plain);
}

/* An op with a host array that is not the step's cannot be in a graph: the step that was to be
 * captured ran nothing, runs again, and none is captured after it. */
static void uncapturable(const struct kernels *k)
{
    enum { N = 2 };
    const int32_t rows[N] = {1, 0};
    struct small s = {0};
    float got[N * ROWS], want[N * ROWS];

    check_case("plugin: a step that cannot be captured");
    struct matrix table = check_matrix(QUANT_F32, 40, DIM, 1, NULL);
    struct matrix w = check_matrix(QUANT_BF16, ROWS, DIM, 0.1f, NULL);
    bool open = small_open(k, &s, &table, &w, N);
    check_expect(open, "opens");
    for (int step = 0; step < STEPS && open; step++) {
        struct step_args a = make_step(step, N, &table);
        struct gather_args gather = {s.k, s.y, rows, N, ROWS};
        for (int turn = 0, rc = 1; turn < 2 && rc == 1; turn++) {
            check_expect(!k->step_begin(s.d, &a), "begins: %s", k->device_error(s.d));
            rc = small_ops(k, &s, &a) || k->gather(s.d, &gather);
            check_expect(rc == (step == 2 && turn == 0 ? 1 : 0), "step %d runs", step);
            rc = k->step_end(s.d);
            check_expect(rc == (step == 2 && turn == 0), "step %d ended with %d", step, rc);
        }
        check_expect(!k->download(s.d, got, s.k, sizeof got) &&
                         !k->download(s.d, want, s.y, sizeof want) && !k->sync(s.d),
                     "downloads: %s", k->device_error(s.d));
        check_same(got, want + ROWS, ROWS, "row 1");
        check_same(got + ROWS, want, ROWS, "row 0");
        check_expect(isfinite(got[0]) && got[0] != 0, "%g", (double)got[0]);
    }
    small_close(k, &s);
}

/* Measured in scratch memory, then in a KV pool larger than that. */
static void limits(const struct kernels *k)
{
    const struct kv_options kv = {.n_layers = 1, .n_kv_heads = 8, .head_dim = 128,
                                  .n_blocks = 2304, .block_size = 16, .type = QUANT_F16};
    struct device_limits l;
    struct device *d = check_device_new(CHECK_CUDA, 1);
    check_case("plugin: limits");
    for (int with_pool = 0; with_pool < 2; with_pool++) {
        if (with_pool && k->kv_open(d, &kv)) { /* a small GPU */
            check_skip("plugin: limits in a KV pool: %s", k->device_error(d));
            break;
        }
        check_expect(!k->limits(d, QUANT_Q4_K, &l), "%s", k->device_error(d));
        check_expect(l.read_bytes > 1e6 && l.read_bytes < 1e14 && l.operations > 1e6 &&
                         l.operations < 1e17,
                     "%g bytes, %g operations per second", l.read_bytes, l.operations);
        check_expect(!strcmp(l.instruction, "bfloat16") || !strcmp(l.instruction, "float16"),
                     "%s", l.instruction);
    }
    k->close(d);
}

void check_plugin(void)
{
    const struct kernels *k = hosted_plugin();
    if (!k)
        return;
    memory(k);
    large(k);
    latch(k);
    steps(k, QUANT_BF16, 3);
    steps(k, QUANT_BF16, 20);
    steps(k, QUANT_BF16, SEQS_MAX);
    steps(k, QUANT_Q4_K, 5);
    steps(k, QUANT_Q4_K, SEQS_MAX);
    steps(k, QUANT_F8_128, SEQS_MAX);
    uncapturable(k);
    limits(k);
}
