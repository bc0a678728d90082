/* check_rope: the cos/sin table against double, the rotation within 3 * 2^-23 of |a| + |b| of
 * double, and the store by way of attention (check_attention.c): one key makes attention return its
 * value, which is compared here for every KV format. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

static void table(int level)
{
    enum { N = 9, FREQS = 13 };
    float inv[FREQS], *out;
    int32_t pos[N];

    check_case("rope_table %s", check_level_names[level]);
    out = check_floats(N * FREQS * 2);
    for (int j = 0; j < FREQS; j++)
        inv[j] = powf(10000, (float)-j / FREQS);
    for (int i = 0; i < N; i++)
        pos[i] = i * i * 517;
    struct rope_table_args a = {out, pos, inv, N, FREQS, 1.25f};
    check_expect(check_kernels(level)->rope_table(check_device(level, 2), &a) == 0, "runs");
    for (int i = 0; i < N; i++)
        for (int j = 0; j < FREQS; j++) {
            float angle = (float)pos[i] * inv[j];
            const float *got = out + (i * FREQS + j) * 2;
            check_expect(fabs(got[0] - 1.25 * cos((double)angle)) < 3e-7 &&
                             fabs(got[1] - 1.25 * sin((double)angle)) < 3e-7,
                         "angle %g: %g, %g", (double)angle, (double)got[0], (double)got[1]);
        }
}

struct shape {
    int head_dim, n_freq, n_heads, n_kv, n, block_size;
};

static void rotated(const struct shape *s, const float *in, const float *out, const float *cos_sin,
                    int heads, bool interleaved)
{
    for (int i = 0; i < s->n * heads; i++)
        for (int j = 0; j < s->head_dim; j++) {
            const float *x = in + i * s->head_dim, *cs = cos_sin + i / heads * s->n_freq * 2;
            int f = interleaved ? j / 2 : j % s->n_freq;
            bool second = interleaved ? j & 1 : j >= s->n_freq;
            double y = x[j], bound = 0;
            if (j < 2 * s->n_freq) {
                double a = x[interleaved ? 2 * f : f];
                double b = x[interleaved ? 2 * f + 1 : f + s->n_freq];
                double c = cs[2 * f], sn = cs[2 * f + 1];
                y = second ? a * sn + b * c : a * c - b * sn;
                bound = 3 * 0x1p-23 * (fabs(a) + fabs(b));
            }
            check_expect(fabs(out[i * s->head_dim + j] - y) <= bound,
                         "head %d element %d: %g, not %g", i, j, (double)out[i * s->head_dim + j], y);
        }
}

/* Attention with a window of one position returns the value stored at it. */
static void stored(int level, struct device *d, const struct shape *s, const int64_t *slots, const float *q,
                   const float *v, enum quant_type type)
{
    size_t width = (size_t)(s->n_heads * s->head_dim);

    for (int i = 0; i < s->n; i++) {
        int32_t block = (int32_t)(slots[i] / s->block_size), blocks[4] = {0};
        int offset = (int)(slots[i] % s->block_size);
        blocks[0] = block;
        float *out = check_floats(width);
        struct attention_seq seq = {0, 1, offset + 1, blocks};
        struct attention_args a = {out, q + (size_t)i * width, &seq, 1, s->n_heads, 1, 1, 1, 0, {0}};
        check_expect(check_kernels(level)->attention(d, &a) == 0, "runs");
        for (int h = 0; h < s->n_heads; h++)
            for (int j = 0; j < s->head_dim; j++) {
                int kv_head = h / (s->n_heads / s->n_kv);
                float x = v[(i * s->n_kv + kv_head) * s->head_dim + j], y = x;
                uint16_t half;
                quant_encode(type, &x, type == QUANT_F32 ? (void *)&y : (void *)&half, 1);
                if (type != QUANT_F32)
                    quant_formats[type].decode(&half, &y, 1);
                check_expect(out[h * s->head_dim + j] == y ||
                                 (isnan(y) && isnan(out[h * s->head_dim + j])),
                             "token %d head %d element %d: %g, not %g", i, h, j, (double)out[h * s->head_dim + j], (double)y);
            }
    }
}

/* The step `done` again with a factor per token: queries are times it, keys are as before. */
static void scaled(int level, struct device *d, const struct shape *s, struct rope_store_args done,
                   const float *q, const float *k)
{
    size_t width = (size_t)(s->n_heads * s->head_dim), nk = (size_t)(s->n * s->n_kv * s->head_dim);
    float *want = check_floats((size_t)s->n * width), *factors = check_floats((size_t)s->n);
    struct rope_store_args a = done;
    a.q = check_floats((size_t)s->n * width);
    a.k = check_floats(nk);
    a.q_scale = factors;
    memcpy(a.q, q, (size_t)s->n * width * sizeof *q);
    memcpy(a.k, k, nk * sizeof *k);
    for (int i = 0; i < s->n; i++) {
        factors[i] = 1 + 0.25f * (float)i;
        for (size_t j = (size_t)i * width; j < (size_t)(i + 1) * width; j++)
            want[j] = done.q[j] * factors[i];
    }
    check_expect(check_kernels(level)->rope_store(d, &a) == 0, "runs");
    check_same(a.q, want, (size_t)s->n * width, "scaled q");
    check_same(a.k, done.k, nk, "k beside scaled q");
}

static void one(int level, struct shape s, enum quant_type type, bool interleaved)
{
    const struct kernels *k = check_kernels(level);
    struct device *d = check_device_new(level, 2);
    int64_t slots[32];

    check_case("rope_store %s %s head_dim %d of %d heads %d/%d n %d%s", check_level_names[level],
               quant_formats[type].name, 2 * s.n_freq, s.head_dim, s.n_heads, s.n_kv, s.n,
               interleaved ? " interleaved" : "");
    size_t nq = (size_t)(s.n * s.n_heads * s.head_dim), nk = (size_t)(s.n * s.n_kv * s.head_dim);
    float *q = check_normals(nq), *k0 = check_normals(nk), *v = check_normals(nk);
    float *q1 = check_floats(nq), *k1 = check_floats(nk), *q2 = check_floats(nq);
    for (size_t i = 0; i < nk; i++) /* all that formats have: subnormal, too large for FP8, NaN */
        v[i] *= i % 7 == 0 ? 1e3f : i % 5 == 0 ? 4e-3f : i == 3 ? NAN : 1;
    float *k2 = check_floats(nk), *cs = check_normals((size_t)(s.n * s.n_freq * 2));
    struct kv_options kv = {2, s.n_kv, s.head_dim, 6, s.block_size, type};
    check_expect(k->kv_open(d, &kv) == 0, "opens");
    for (int i = 0; i < s.n; i++)
        slots[i] = (i * 7 + 3) % (6 * s.block_size);
    memcpy(q1, q, nq * sizeof *q);
    memcpy(q2, q, nq * sizeof *q);
    memcpy(k1, k0, nk * sizeof *q);
    memcpy(k2, k0, nk * sizeof *q);
    struct rope_store_args a = {q1, k1, v, cs, slots, s.n, s.n_heads, s.n_freq, 1, interleaved,
                                NULL};
    check_expect(k->rope_store(d, &a) == 0, "runs");
    rotated(&s, q, q1, cs, s.n_heads, interleaved);
    rotated(&s, k0, k1, cs, s.n_kv, interleaved);
    for (int i = 0; i < s.n; i++) { /* one by one, to the other layer */
        struct rope_store_args b = a;
        b.q = q2 + i * s.n_heads * s.head_dim;
        b.k = k2 + i * s.n_kv * s.head_dim;
        b.v = v + i * s.n_kv * s.head_dim;
        b.cos_sin = cs + i * s.n_freq * 2;
        b.slots = slots + i;
        b.n = 1;
        b.layer = 0;
        k->rope_store(d, &b);
    }
    check_same(q2, q1, nq, "q one by one");
    check_same(k2, k1, nk, "k one by one");
    stored(level, d, &s, slots, q1, v, type);
    scaled(level, d, &s, a, q, k0);
    k->close(d);
}

void check_rope(void)
{
    static const struct shape shapes[] = {
        {16, 8, 4, 2, 5, 8},   {80, 40, 2, 2, 6, 16},  {128, 64, 8, 1, 4, 32},
        {48, 12, 3, 3, 7, 16}, {256, 128, 2, 1, 3, 8}, {10, 3, 2, 1, 9, 64},
    };

    static const enum quant_type types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_FP8};

    for (int level = 0; level < CHECK_LEVELS; level++) {
        if (!check_device(level, 1))
            continue;
        table(level);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (size_t t = 0; t < sizeof types / sizeof *types; t++)
                if (check_wants(types[t]))
                    one(level, shapes[i], types[t], (i + t) % 2);
    }
}
