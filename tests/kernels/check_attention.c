/* check_attention: ragged batches over a shuffled block table against double.
 *
 * The reference uses the KV values as stored (encoded and decoded). Bound per output: with S the
 * greatest sum over j of |q_j k_j| * scale a row sees, a score is off by at most e =
 * (head_dim + 4) * 2^-24 * S (times 2 with a softcap), a weight relatively by 2 e + 16 * 2^-24, so
 * the output by that plus the sums' own rounding times the greatest |v|. Batch invariance
 * (sequences alone, query by query, other thread counts, other block sizes) is bit by bit, and for
 * contexts of several parts it is told from the plan that both ways of the work were gone. */
#include "kernels/cpu/cpu.h"
#include "tests/kernels/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEQS_MAX = 4, BLOCKS_MAX = 320, LAYERS = 2, CONTEXT_MAX = 2400 };
enum { POOL = 200, POOL_LONG = 600, CONTEXT_SHORT = 1024 };

struct setup {
    int level, head_dim, n_kv, group, block_size, window;
    float softcap;
    enum quant_type type;
    int n_seqs, kv_len[SEQS_MAX], q_len[SEQS_MAX];

    /* made from the above */
    int n_queries;
    float *keys[SEQS_MAX], *values[SEQS_MAX]; /* [kv_len][n_kv][head_dim], as stored */
    float *q, *out;                           /* [n_queries][heads][head_dim] */
    int32_t blocks[SEQS_MAX][BLOCKS_MAX];
};

static int pool_of(const struct setup *s)
{
    return s->kv_len[0] > CONTEXT_SHORT ? POOL_LONG : POOL;
}

static int heads(const struct setup *s)
{
    return s->n_kv * s->group;
}

/* A device with the sequences' keys and values stored through rope_store without rotation. The
 * blocks of a sequence lie anywhere; block 0 stays poisoned, and entries before every query's
 * window point nowhere. */
static struct device *store(struct setup *s, int n_threads, int block_size)
{
    const struct kernels *k = check_kernels(s->level);
    struct device *d = check_device_new(s->level, n_threads);
    int next = 1, width = s->n_kv * s->head_dim;
    struct kv_options kv = {LAYERS, s->n_kv, s->head_dim, pool_of(s), block_size, s->type};
    float *q = calloc((size_t)(heads(s) * s->head_dim), sizeof *q);
    float *key = calloc((size_t)width, sizeof *key);
    float *bad = calloc((size_t)width, sizeof *bad);

    check_expect(k->kv_open(d, &kv) == 0, "opens: %s", k->device_error(d));
    for (int i = 0; i < width; i++)
        bad[i] = NAN;
    for (int i = 0; i < block_size; i++) {
        int64_t slot = i;
        struct rope_store_args a = {q, bad, bad, NULL, &slot, 1, heads(s), 0, 1, false, NULL};
        check_expect(k->rope_store(d, &a) == 0, "poisons");
    }
    for (int i = 0; i < s->n_seqs; i++) {
        int n_blocks = (s->kv_len[i] + block_size - 1) / block_size;
        for (int b = n_blocks - 1; b >= 0; b--)
            s->blocks[i][b] = (next++ * 37) % (pool_of(s) - 1) + 1;
        for (int p = 0; p < s->kv_len[i]; p++) {
            int64_t slot = (int64_t)s->blocks[i][p / block_size] * block_size + p % block_size;
            memcpy(key, s->keys[i] + (size_t)(p * width), (size_t)width * sizeof *key);
            struct rope_store_args a = {q,     key, s->values[i] + (size_t)(p * width), NULL,
                                        &slot, 1,   heads(s), 0, 1, false, NULL};
            k->rope_store(d, &a);
        }
        int first = s->kv_len[i] - s->q_len[i] - s->window + 1;
        for (int b = 0; s->window > 0 && (b + 1) * block_size <= first; b++)
            s->blocks[i][b] = b % 2 ? 0 : -123456789;
    }
    free(q);
    free(key);
    free(bad);
    return d;
}

static void as_stored(enum quant_type type, float *x, size_t n)
{
    unsigned char block[64];
    size_t step = (size_t)quant_formats[type].block;

    for (size_t i = 0; i < n && type != QUANT_F32; i += step) {
        quant_encode(type, x + i, block, step);
        quant_formats[type].decode(block, x + i, step);
    }
}

static void prepare(struct setup *s)
{
    s->n_queries = 0;
    for (int i = 0; i < s->n_seqs; i++) {
        size_t size = (size_t)(s->kv_len[i] * s->n_kv * s->head_dim);
        s->keys[i] = check_normals(size);
        s->values[i] = check_normals(size);
        as_stored(s->type, s->keys[i], size);
        as_stored(s->type, s->values[i], size);
        s->n_queries += s->q_len[i];
    }
    size_t size = (size_t)(s->n_queries * heads(s) * s->head_dim);
    s->q = check_normals(size);
    s->out = check_floats(size);
}

static float scale_of(const struct setup *s)
{
    return 1.5f / sqrtf((float)s->head_dim);
}

static void run(struct setup *s, struct device *d, float *out, const struct attention_seq *seqs,
                int n_seqs)
{
    struct attention_args a = {out, s->q, seqs, n_seqs, heads(s), 1, s->window, scale_of(s),
                               s->softcap, {0}};
    check_expect(check_kernels(s->level)->attention(d, &a) == 0, "runs: %s",
                 check_kernels(s->level)->device_error(d));
}

static void compare_row(const struct setup *s, int seq, int pos, int head, const float *q,
                        const float *out)
{
    int first = s->window > 0 && pos >= s->window ? pos - s->window + 1 : 0;
    int kv_head = head / s->group;
    double share = s->level == CHECK_CUDA ? check_cuda_attention(s->type, s->q_len[seq]) : 0;
    double scores[CONTEXT_MAX], most = -INFINITY, total = 0, greatest = 0, value = 0;

    for (int p = first; p <= pos; p++) {
        const float *key = s->keys[seq] + (size_t)((p * s->n_kv + kv_head) * s->head_dim);
        double sum = 0, magnitude = 0;
        for (int j = 0; j < s->head_dim; j++) {
            sum += (double)q[j] * key[j];
            magnitude += fabs((double)q[j] * key[j]);
        }
        sum *= scale_of(s);
        scores[p - first] = s->softcap > 0 ? s->softcap * tanh(sum / s->softcap) : sum;
        most = fmax(most, scores[p - first]);
        greatest = fmax(greatest, magnitude * scale_of(s));
    }
    for (int p = first; p <= pos; p++)
        total += exp(scores[p - first] - most);
    for (int j = 0; j < s->head_dim; j++) {
        double y = 0;
        value = 0;
        for (int p = first; p <= pos; p++) {
            double v = s->values[seq][(size_t)((p * s->n_kv + kv_head) * s->head_dim + j)];
            y += exp(scores[p - first] - most) / total * v;
            value = fmax(value, fabs(v));
        }
        double e = ((s->head_dim + 4) * 0x1p-24 + share) * greatest * (s->softcap > 0 ? 2 : 1);
        double bound = value * (2 * e + share + (pos - first + 32) * 0x1p-24);
        if (!check_expect(fabs(out[j] - y) <= bound,
                          "seq %d pos %d head %d [%d]: %.9g, not %.9g +- %.2g", seq, pos, head, j,
                          (double)out[j], y, bound))
            return;
    }
}

static void compare(const struct setup *s)
{
    for (int i = 0, at = 0; i < s->n_seqs; at += s->q_len[i++])
        for (int t = 0; t < s->q_len[i]; t++)
            for (int h = 0; h < heads(s); h++) {
                size_t row = (size_t)(((at + t) * heads(s) + h) * s->head_dim);
                compare_row(s, i, s->kv_len[i] - s->q_len[i] + t, h, s->q + row, s->out + row);
            }
}

/* Query by query, in another order, on another number of threads and with another block size. */
static void one_by_one(struct setup *s, int n_threads, int block_size, const char *what)
{
    struct device *d = store(s, n_threads, block_size);
    size_t size = (size_t)(s->n_queries * heads(s) * s->head_dim);
    float *out = check_floats(size);

    for (int i = s->n_seqs - 1, at = s->n_queries; i >= 0; i--) {
        at -= s->q_len[i];
        for (int t = 0; t < s->q_len[i]; t++) {
            struct attention_seq seq = {at + t, 1, s->kv_len[i] - s->q_len[i] + t + 1,
                                        s->blocks[i]};
            run(s, d, out, &seq, 1);
        }
    }
    check_same(out, s->out, size, what);
    check_kernels(s->level)->close(d);
}

static void one(struct setup *s)
{
    struct attention_seq seqs[SEQS_MAX];

    check_case("attention %s %s head_dim %d heads %d/%d block %d window %d softcap %g seqs %d "
               "(%d/%d)",
               check_level_names[s->level], quant_formats[s->type].name, s->head_dim, heads(s),
               s->n_kv, s->block_size, s->window, (double)s->softcap, s->n_seqs, s->q_len[0],
               s->kv_len[0]);
    prepare(s);
    struct device *d = store(s, 2, s->block_size);
    for (int i = 0, at = 0; i < s->n_seqs; at += s->q_len[i++])
        seqs[i] = (struct attention_seq){at, s->q_len[i], s->kv_len[i], s->blocks[i]};
    run(s, d, s->out, seqs, s->n_seqs);
    check_kernels(s->level)->close(d);
    compare(s);
    if (check_varies(s->level))
        return;
    if (!check_emulated(s->level))
        one_by_one(s, 1, s->block_size, "query by query");
    one_by_one(s, 3, s->block_size == 8 ? 64 : 8, "other block size");
}

/* Contexts of several parts, in batches of which one sequence holds most of the work, so that many
 * threads split it and few do not: the same bits from any number of them. */
static void long_one(struct setup *s)
{
    static const int threads[] = {1, 2, 3, 7, 16, 64};
    struct attention_seq seqs[SEQS_MAX];
    bool split = false, whole = false;

    check_case("attention %s %s parts, window %d, queries %d", check_level_names[s->level],
               quant_formats[s->type].name, s->window, s->q_len[0]);
    prepare(s);
    size_t size = (size_t)(s->n_queries * heads(s) * s->head_dim);
    float *out = check_floats(size);
    for (int i = 0; i < 6; i++) {
        struct device *d = store(s, threads[i], s->block_size);
        for (int j = 0, at = 0; j < s->n_seqs; at += s->q_len[j++])
            seqs[j] = (struct attention_seq){at, s->q_len[j], s->kv_len[j], s->blocks[j]};
        run(s, d, i ? out : s->out, seqs, s->n_seqs);
        if (i)
            check_same(out, s->out, size, "other number of threads");
        if (d->attention_plan[s->n_seqs].merge)
            split = true;
        else
            whole = true;
        check_kernels(s->level)->close(d);
    }
    check_expect(split && whole, "split %d whole %d", split, whole);
    compare(s);
    one_by_one(s, 7, s->block_size == 8 ? 64 : 8, "query by query, other block size");
}

static void check_long(void)
{
    static const enum quant_type types[] = {QUANT_F32, QUANT_BF16, QUANT_Q8_0, QUANT_F16,
                                            QUANT_FP8};

    for (int i = 0; i < 4 * (CHECK_LEVELS - 1); i++) {
        struct setup s = {
            .level = i / 4,
            .head_dim = 32,
            .n_kv = 8,
            .group = 1 + i % 3,
            .block_size = 8 << i % 3,
            .window = i % 4 == 3 ? 700 : 0,
            .softcap = i % 4 == 1 ? 20 : 0,
            .type = types[i % 5],
            .n_seqs = 1 + i % 4,
            .kv_len = {2 * CPU_ATTENTION_PART + 1200 - i % 4 * 88, 5, CPU_ATTENTION_PART,
                       CPU_ATTENTION_PART + 1},
            .q_len = {i % 4 == 2 ? 70 : i % 4 == 3 ? 3 : 1, 2, 1, 1},
        };
        if (check_device(s.level, 1))
            long_one(&s);
    }
}

/* Every block of every layer holds what was stored there, whatever was stored elsewhere after it:
 * the keys of a block score 2 or -2 by turns, so two blocks mix their values in known parts. */
static void check_layers(int level, enum quant_type type)
{
    enum { N = 3, BLOCKS = 4, BLOCK = 16, KV = 2, DIM = 32 };
    const struct kernels *k = check_kernels(level);
    struct device *d = check_device_new(level, 1);
    struct kv_options kv = {N, KV, DIM, BLOCKS, BLOCK, type};
    float *q = check_floats(KV * DIM), *key = check_floats(KV * DIM);
    float *v = check_floats(KV * DIM), *out = check_floats(KV * DIM);
    double high = exp(4) / (1 + exp(4));

    check_case("attention %s %s: layers are apart", check_level_names[level],
               quant_formats[type].name);
    check_expect(k->kv_open(d, &kv) == 0, "opens: %s", k->device_error(d));
    for (int i = 0; i < N * BLOCKS * BLOCK; i++) {
        int64_t slot = i % (BLOCKS * BLOCK);
        int layer = i / (BLOCKS * BLOCK), block = i / BLOCK % BLOCKS;
        for (int j = 0; j < KV * DIM; j++) {
            q[j] = 1;
            key[j] = (layer + block) % 2 ? 2 : -2;
            v[j] = (float)(1 + i / BLOCK);
        }
        struct rope_store_args a = {q, key, v, NULL, &slot, 1, KV, 0, layer, false, NULL};
        check_expect(k->rope_store(d, &a) == 0, "stores");
    }
    for (int i = 0; i < N * BLOCKS; i++) {
        int layer = i / BLOCKS, block = i % BLOCKS;
        int32_t blocks[2] = {block, block ^ 1};
        struct attention_seq seq = {0, 1, 2 * BLOCK, blocks};
        struct attention_args a = {out, q, &seq, 1, KV, layer, 0, 1.0f / DIM, 0, {0}};
        double own = (layer + block) % 2 ? high : 1 - high;
        double wanted = own * (1 + i) + (1 - own) * (1 + (i ^ 1));
        for (int j = 0; j < KV * DIM; j++)
            q[j] = 1;
        check_expect(k->attention(d, &a) == 0, "runs");
        for (int j = 0; j < KV * DIM; j++)
            check_expect(fabs(out[j] - wanted) < 0.02, "layer %d block %d: %g, not %g", layer,
                         block, (double)out[j], wanted);
    }
    k->close(d);
}

/* A decode of one sequence at 4,096 positions: slices for each of 64 threads. */
static void check_slices(void)
{
    enum { CONTEXT = 4096, HEADS = 32, KV = 8, DIM = 64, BLOCK = 256 };
    struct device *d = check_device_new(0, 64);
    struct kv_options kv = {1, KV, DIM, CONTEXT / BLOCK, BLOCK, QUANT_F16};
    int32_t blocks[CONTEXT / BLOCK] = {0};
    struct attention_seq seq = {0, 1, CONTEXT, blocks};

    if (!d) /* another backend is checked */
        return;
    check_case("attention: slices of one decode");
    float *q = check_normals(HEADS * DIM), *out = check_floats(HEADS * DIM);
    struct attention_args a = {out, q, &seq, 1, HEADS, 0, 0, 0.1f, 0, {0}};
    check_expect(!kernels_cpu()->kv_open(d, &kv) && !kernels_cpu()->attention(d, &a), "runs");
    check_expect(d->attention_plan[1].slice == KV * CONTEXT / CPU_ATTENTION_PART &&
                     d->attention_plan[1].slice >= 64 && d->attention_plan[1].merge == KV,
                 "%d slices, %d merges", d->attention_plan[1].slice, d->attention_plan[1].merge);
    kernels_cpu()->close(d);
}

/* Neighbouring layers lie a part of a huge page apart, for every number of blocks: no block is the
 * first of a page in all of them. */
static void check_pages(void)
{
    enum { N = 32, PAGE = 2 << 20 };

    check_case("attention: layers meet new pages in turns");
    for (int n_blocks = 500; n_blocks < 564; n_blocks++) {
        struct device *d = check_device_new(0, 1);
        struct kv_options kv = {N, 8, 128, n_blocks, 16, QUANT_F16};
        if (!d) /* another backend is checked */
            return;
        check_expect(kernels_cpu()->kv_open(d, &kv) == 0, "opens");
        check_expect(d->kv.layer_values * sizeof(uint16_t) % PAGE == PAGE / N, "%d blocks: %zu",
                     n_blocks, d->kv.layer_values);
        kernels_cpu()->close(d);
    }
}

/* A query of NaN makes its own outputs NaN, and no bit of another's differ. */
static void check_nan(struct setup *s)
{
    struct attention_seq seq = {0, s->q_len[0], s->kv_len[0], s->blocks[0]};
    size_t width = (size_t)s->head_dim, size = (size_t)(s->n_queries * heads(s)) * width;
    size_t at = (size_t)(s->n_queries / 2 * heads(s)) * width;
    float *out = check_floats(size);
    struct device *d = store(s, 1, s->block_size);

    run(s, d, s->out, &seq, 1);
    s->q[at] = NAN;
    run(s, d, out, &seq, 1);
    check_kernels(s->level)->close(d);
    for (size_t i = at; i < at + width; i++) {
        check_expect(isnan(out[i]), "value %zu of a query of NaN: %g", i - at, (double)out[i]);
        out[i] = s->out[i];
    }
    check_same(out, s->out, size, "beside a query of NaN");
}

/* How often wgmma was issued on an emulated GPU; 0 on others. */
static int64_t n_wgmmas(void)
{
    int64_t (*count)(void) = NULL;
    *(void **)&count = hosted_symbol("emu_wgmmas");
    return count ? count() : 0;
}

/* Prompts, on the GPU with wgmma (attention_wgmma.cu) and without: steps of positions that end
 * anywhere, tiles of rows that end anywhere, windows that begin within a step. */
static void check_tiles(void)
{
    static const struct setup setups[] = {
        {.head_dim = 128, .n_kv = 2, .group = 4, .block_size = 16, .n_seqs = 3,
         .kv_len = {385, 129, 40}, .q_len = {70, 129, 40}},
        {.head_dim = 128, .n_kv = 1, .group = 8, .block_size = 8, .window = 100, .n_seqs = 2,
         .kv_len = {300, 257}, .q_len = {33, 40}},
        {.head_dim = 128, .n_kv = 1, .group = 1, .block_size = 64, .softcap = 30, .n_seqs = 2,
         .kv_len = {256, 200}, .q_len = {140, 130}},
        {.head_dim = 64, .n_kv = 2, .group = 4, .block_size = 32, .n_seqs = 4,
         .kv_len = {383, 128, 65, 20}, .q_len = {50, 128, 65, 20}},
        {.head_dim = 80, .n_kv = 1, .group = 4, .block_size = 16, .window = 129, .softcap = 20,
         .n_seqs = 1, .kv_len = {400}, .q_len = {60}},
        {.head_dim = 96, .n_kv = 2, .group = 3, .block_size = 8, .n_seqs = 2,
         .kv_len = {384, 131}, .q_len = {43, 43}},
        {.head_dim = 128, .n_kv = 1, .group = 4, .block_size = 128, .window = 24, .n_seqs = 1,
         .kv_len = {513}, .q_len = {90}},
        {.head_dim = 40, .n_kv = 1, .group = 8, .block_size = 256, .window = 300, .softcap = 15,
         .n_seqs = 1, .kv_len = {640}, .q_len = {37}},
    };
    enum { N = sizeof setups / sizeof *setups };
    bool emulated = check_emulated(CHECK_CUDA);

    if (!check_device(CHECK_CUDA, 1))
        return;
    for (int gpu = 1; gpu < 4; gpu += 2) /* 3: its wgmma is wrong, and mma.sync is taken */
        for (int i = 0; i < (gpu == 1 ? N : emulated ? 2 : 0); i++) {
            struct setup s = setups[i];
            s.level = CHECK_CUDA;
            s.type = i % 2 ? QUANT_F16 : QUANT_BF16;
            if (!check_wants(s.type) || (!check_varies(CHECK_CUDA) && emulated && i % 3))
                continue;
            check_gpu(gpu);
            struct device *d = check_device_new(CHECK_CUDA, 1);
            const char *warning = hosted_plugin()->warning(d);
            int64_t before = n_wgmmas();
            one(&s);
            check_expect(!warning[0] == (gpu == 1), "GPU %d: \"%s\"", gpu, warning);
            if (i == 0 && check_varies(CHECK_CUDA)) {
                check_case("attention, GPU %d: a query of NaN", gpu);
                s.n_seqs = 1;
                prepare(&s);
                check_nan(&s);
            }
            check_kernels(CHECK_CUDA)->close(d);
            /* a device's probe has 24 of 4 warps, a step of positions 12 or 16 of 8 */
            check_expect(!emulated || (n_wgmmas() - before > 500) == (gpu == 1),
                         "GPU %d: %lld wgmmas", gpu, (long long)(n_wgmmas() - before));
        }
    check_gpu(0);
}

void check_attention(void)
{
    static const int dims[] = {16, 32, 48, 64, 80, 96, 128, 256, 20};
    static const int groups[] = {1, 2, 3, 4, 8, 5, 7, 1, 6};
    static const enum quant_type types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0,
                                           QUANT_FP8};

    for (int level = 0; level < CHECK_LEVELS; level++)
        for (int i = 0; check_device(level, 1) && i < 45; i++) {
            struct setup s = {
                .level = level,
                .head_dim = i % 5 == 3 ? (dims[i % 9] + 31) / 32 * 32 : dims[i % 9],
                .n_kv = 1 + i % 3,
                .group = groups[(i + i / 9) % 9],
                .block_size = 8 << (i + i / 4) % 4,
                .window = i / 2 % 4 == 1 ? 24 : i / 2 % 4 == 3 ? 70 : 0,
                .softcap = i % 7 == 2 ? 20 : 0,
                .type = types[i % 5],
                .n_seqs = 1 + i % SEQS_MAX,
                .kv_len = {37 + i * 7, 1, 130, 65},
                .q_len = {i % 2 ? 37 : 1, 1, 70, 2},
            };
            check_gpu(i % 2);
            /* deterministic: sequences are stored and run twice more */
            if (check_wants(s.type) &&
                (check_varies(level) || !check_emulated(level) || i % 3 == 0))
                one(&s);
        }
    check_gpu(0);
    for (int level = 0; level < CHECK_LEVELS; level++)
        for (int i = 0; check_device(level, 1) && i < 5; i++)
            if (check_wants(types[i]))
                check_layers(level, types[i]);
    check_tiles();
    check_long();
    check_slices();
    check_pages();
}
