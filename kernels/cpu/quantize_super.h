/* quantize_super: the searches of the formats with blocks of 256, whose parts have scales (and
 * minimums) that are small whole numbers times one float16 of the block.
 *
 * First each part gets the scale it would like best; the block's own scale follows from the
 * largest. Then, in turns: each part takes the whole numbers, of those near by, that store it with
 * the least error under the block's scale, and the block's scale becomes the least-squares solution
 * for the levels and whole numbers chosen. The best round is kept. Included once by each of
 * cpu/quantize_*.c. */
#ifndef SIROCCO_QUANTIZE_SUPER_H
#define SIROCCO_QUANTIZE_SUPER_H

#include "kernels/cpu/quantize_block.h"

enum { PARTS_MAX = 16, ROUNDS = 4 };

static inline struct span part_of(const struct fit_work *work, int part, int n_parts)
{
    int n = FIT_SUPER / FIT_LANES / n_parts;
    return (struct span){work->x + part * n, work->w + part * n, n};
}

/* float16 bits to a float, where zero would lose everything: then the least there is. */
static inline float block_scale(float d)
{
    float half = half_round(d);
    if (half == 0 && d != 0)
        return d < 0 ? -0x1p-24f : 0x1p-24f;
    return half;
}

static inline int clamp_int(float f, int lo, int hi)
{
    f = roundf(f);
    return f < (float)lo ? lo : f > (float)hi ? hi : (int)f;
}

/* ---- d scale q */

struct scaled_block {
    float d, error;
    int8_t scale[PARTS_MAX];
};

/* The whole number from..to, within lo..hi, that stores the part best; its error. */
static inline __attribute__((always_inline)) float choose_scale(struct span s,
                                                                const struct levels *l, float d,
                                                                int near, int lo, int hi, int *out)
{
    float least = INFINITY;
    int chosen[] = {near - 1, near, near + 1, -near};
    for (int i = 0; i < 4; i++) {
        if (chosen[i] < lo || chosen[i] > hi)
            continue;
        float error = fit_error(s, l, d * (float)chosen[i], 0);
        if (error < least) {
            least = error;
            *out = chosen[i];
        }
    }
    return least;
}

static inline __attribute__((always_inline)) void
search_scaled_block(const struct fit_work *work, int n_parts, const struct levels *l,
                    const struct grid *g, int lo, int hi, struct scaled_block *best)
{
    float wanted[PARTS_MAX], most = 0;
    for (int p = 0; p < n_parts; p++) {
        wanted[p] = search_scale(part_of(work, p, n_parts), l, g);
        if (fabsf(wanted[p]) > fabsf(most))
            most = wanted[p];
    }
    *best = (struct scaled_block){.error = INFINITY};
    float d = block_scale(most / (float)lo);
    struct scaled_block now = {0};
    for (int p = 0; p < n_parts; p++)
        now.scale[p] = (int8_t)(d != 0 ? clamp_int(wanted[p] / d, lo, hi) : 0);
    for (int round = 0; round < ROUNDS && d != 0; round++) {
        float xq = 0, qq = 0;
        now.error = 0;
        now.d = d;
        for (int p = 0; p < n_parts; p++) {
            struct span s = part_of(work, p, n_parts);
            int scale = now.scale[p];
            now.error += choose_scale(s, l, d, now.scale[p], lo, hi, &scale);
            now.scale[p] = (int8_t)scale;
            float f = (float)scale;
            struct scaled sums = fit_scaled(s, l, scale ? 1 / (d * f) : 0);
            xq += f * sums.xq;
            qq += f * f * sums.qq;
        }
        if (!(now.error < best->error))
            break;
        *best = now;
        d = qq > 0 ? block_scale(xq / qq) : 0;
    }
}

/* ---- d scale q - m least */

struct affine_block {
    float d, m, error;
    uint8_t scale[PARTS_MAX], least[PARTS_MAX];
};

struct affine_sums { /* for the least squares over a block */
    float aa, ab, bb, ax, bx;
};

static inline __attribute__((always_inline)) void add_part(struct affine_sums *sums, struct span s,
                                                           const struct levels *l, float d, float m,
                                                           int scale, int least)
{
    vec w = splat(0), x = w, q1 = w, q2 = w, qx = w;
    float step = d * (float)scale, a = (float)scale, b = (float)least;
    vec by = splat(step != 0 ? 1 / step : 0), offset = splat(m * b);
    for (int i = 0; i < s.n; i++) {
        vec q = nearest(l, (s.x[i] + offset) * by), wq = s.w[i] * q;
        w += s.w[i];
        x += s.w[i] * s.x[i];
        q1 += wq;
        q2 += wq * q;
        qx += wq * s.x[i];
    }
    sums->aa += a * a * sum(q2);
    sums->ab -= a * b * sum(q1);
    sums->bb += b * b * sum(w);
    sums->ax += a * sum(qx);
    sums->bx -= b * sum(x);
}

static inline void solve_block(const struct affine_sums *s, float *d, float *m)
{
    float det = s->aa * s->bb - s->ab * s->ab;
    if (det > 1e-6f * s->aa * s->bb) {
        *d = block_scale((s->ax * s->bb - s->bx * s->ab) / det);
        *m = block_scale((s->bx * s->aa - s->ax * s->ab) / det);
    } else if (s->aa > 0) {
        *d = block_scale(s->ax / s->aa);
    } else if (s->bb > 0) {
        *m = block_scale(s->bx / s->bb);
    }
}

/* The scale and the minimum around those given that store the part best; the error. */
static inline __attribute__((always_inline)) float
choose_affine(struct span s, const struct levels *l, float d, float m, int most, uint8_t *scale,
              uint8_t *least)
{
    float lowest = INFINITY;
    int near_scale = *scale, near_least = *least;
    for (int i = near_scale - 1; i <= near_scale + 1; i++) {
        for (int k = near_least - 1; k <= near_least + 1; k++) {
            if (i < 0 || i > most || k < 0 || k > most)
                continue;
            float error = fit_error(s, l, d * (float)i, -m * (float)k);
            if (error < lowest) {
                lowest = error;
                *scale = (uint8_t)i;
                *least = (uint8_t)k;
            }
        }
    }
    return lowest;
}

static inline __attribute__((always_inline)) void
search_affine_block(const struct fit_work *work, int n_parts, const struct levels *l, int most,
                    int steps, struct affine_block *best)
{
    struct affine wanted[PARTS_MAX];
    float d = 0, m = 0;
    for (int p = 0; p < n_parts; p++) {
        wanted[p] = search_affine(part_of(work, p, n_parts), l, true, steps, 0.2f);
        d = wanted[p].d > d ? wanted[p].d : d;
        m = -wanted[p].m > m ? -wanted[p].m : m;
    }
    *best = (struct affine_block){.error = INFINITY};
    d = block_scale(d / (float)most);
    m = block_scale(m / (float)most);
    struct affine_block now = {0};
    for (int p = 0; p < n_parts; p++) {
        now.scale[p] = (uint8_t)(d > 0 ? clamp_int(wanted[p].d / d, 0, most) : 0);
        now.least[p] = (uint8_t)(m > 0 ? clamp_int(-wanted[p].m / m, 0, most) : 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        struct affine_sums sums = {0};
        now.error = 0;
        now.d = d;
        now.m = m;
        for (int p = 0; p < n_parts; p++) {
            struct span s = part_of(work, p, n_parts);
            now.error += choose_affine(s, l, d, m, most, &now.scale[p], &now.least[p]);
            add_part(&sums, s, l, d, m, now.scale[p], now.least[p]);
        }
        if (!(now.error < best->error))
            break;
        *best = now;
        solve_block(&sums, &d, &m);
    }
}

/* ---- Q2_K: levels in 2 bits, scale and minimum in 4 */

static inline void part_codes(const struct fit_work *work, int n_parts, int part,
                              const struct levels *l, float d, float m, uint8_t *codes)
{
    level_codes(part_of(work, part, n_parts), l, d, m, codes + part * (FIT_SUPER / n_parts));
}

static void quantize_q2_k(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct levels levels = {NULL, 0, 3, 0};
    ROW_LOOP(FIT_SUPER, 84)
    {
        struct fit_work work;
        struct span s;
        struct affine_block b = {0};
        uint8_t codes[FIT_SUPER];
        memset(row, 0, 84);
        if (!fit_load(&work, in, importance, FIT_SUPER, &s))
            continue;
        search_affine_block(&work, 16, &levels, 15, 8, &b);
        for (int p = 0; p < 16; p++) {
            part_codes(&work, 16, p, &levels, b.d * (float)b.scale[p], -b.m * (float)b.least[p],
                       codes);
            row[p] = (uint8_t)(b.scale[p] | b.least[p] << 4);
        }
        for (int i = 0; i < FIT_SUPER; i++) /* bits 2 (s % 4) of qs[32 p + i % 32], s = i / 32 */
            row[16 + 32 * (i / 128) + i % 32] |= (uint8_t)(codes[i] << 2 * (i / 32 % 4));
        put_half(row + 80, b.d);
        put_half(row + 82, b.m);
    }
}

/* ---- Q4_K, Q5_K: levels in 4 or 5 bits, scale and minimum in 6 */

/* Numbers 0..3 of 8 have the low 6 bits of bytes s (scale) and s + 4 (minimum); of the others,
 * byte s + 4 holds the low 4 bits of both, and the top 2 bits of bytes s - 4 and s their high. */
static inline void put_six_bits(uint8_t *at, const uint8_t scale[8], const uint8_t least[8])
{
    for (int s = 0; s < 4; s++) {
        at[s] = (uint8_t)(scale[s] | scale[s + 4] >> 4 << 6);
        at[s + 4] = (uint8_t)(least[s] | least[s + 4] >> 4 << 6);
        at[s + 8] = (uint8_t)((scale[s + 4] & 15) | (least[s + 4] & 15) << 4);
    }
}

static inline __attribute__((always_inline)) void
encode_q45_k(const float *in, const float *importance, const struct levels *l, int steps,
             uint8_t *row, uint8_t *high, uint8_t *qs)
{
    struct fit_work work;
    struct span s;
    struct affine_block b = {0};
    uint8_t codes[FIT_SUPER];
    if (!fit_load(&work, in, importance, FIT_SUPER, &s))
        return;
    search_affine_block(&work, 8, l, 63, steps, &b);
    for (int p = 0; p < 8; p++)
        part_codes(&work, 8, p, l, b.d * (float)b.scale[p], -b.m * (float)b.least[p], codes);
    put_half(row, b.d);
    put_half(row + 2, b.m);
    put_six_bits(row + 4, b.scale, b.least);
    for (int i = 0; i < FIT_SUPER; i++) {
        int p = i / 32;
        qs[32 * (p / 2) + i % 32] |= (uint8_t)((codes[i] & 15) << 4 * (p % 2));
        if (high)
            high[i % 32] |= (uint8_t)(codes[i] >> 4 << p);
    }
}

static void quantize_q4_k(const float *in, const float *importance, uint8_t *row, size_t n)
{
    ROW_LOOP(FIT_SUPER, 144)
    {
        memset(row, 0, 144);
        encode_q45_k(in, importance, &levels_q4_1, 8, row, NULL, row + 16);
    }
}

static void quantize_q5_k(const float *in, const float *importance, uint8_t *row, size_t n)
{
    ROW_LOOP(FIT_SUPER, 176)
    {
        memset(row, 0, 176);
        encode_q45_k(in, importance, &levels_q5_1, 8, row, row + 16, row + 48);
    }
}

/* ---- Q3_K: levels in 3 bits, scales in 6 */

static void quantize_q3_k(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct levels levels = {NULL, -4, 3, 0};
    static const struct grid grid = {4, 3, 0.12f, -8, 10, 1};
    ROW_LOOP(FIT_SUPER, 110)
    {
        struct fit_work work;
        struct span s;
        struct scaled_block b = {0};
        uint8_t codes[FIT_SUPER], *packed = row + 96;
        memset(row, 0, 110);
        if (fit_load(&work, in, importance, FIT_SUPER, &s))
            search_scaled_block(&work, 16, &levels, &grid, -32, 31, &b);
        for (int p = 0; p < 16; p++) {
            part_codes(&work, 16, p, &levels, b.d * (float)b.scale[p], 0, codes);
            int scale = b.scale[p] + 32; /* packed as quant_k.c reads it */
            packed[p % 8] |= (uint8_t)((scale & 15) << 4 * (p / 8));
            packed[8 + p % 4] |= (uint8_t)(scale >> 4 << 2 * (p / 4));
        }
        for (int i = 0; i < FIT_SUPER; i++) {
            row[32 + 32 * (i / 128) + i % 32] |= (uint8_t)((codes[i] & 3) << 2 * (i / 32 % 4));
            row[i % 32] |= (uint8_t)(codes[i] >> 2 << i / 32);
        }
        put_half(row + 108, b.d);
    }
}

/* ---- Q6_K: levels in 6 bits, scales in 8 */

static void quantize_q6_k(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct levels levels = {NULL, -32, 31, 0};
    static const struct grid grid = {32, 31, 0.3f, -9, 6, 0};
    ROW_LOOP(FIT_SUPER, 210)
    {
        struct fit_work work;
        struct span s;
        struct scaled_block b = {0};
        uint8_t codes[FIT_SUPER];
        memset(row, 0, 210);
        if (fit_load(&work, in, importance, FIT_SUPER, &s))
            search_scaled_block(&work, 16, &levels, &grid, -128, 127, &b);
        for (int p = 0; p < 16; p++) {
            part_codes(&work, 16, p, &levels, b.d * (float)b.scale[p], 0, codes);
            row[192 + p] = (uint8_t)b.scale[p];
        }
        for (int i = 0; i < FIT_SUPER; i++) {
            int half = i / 128, r = i / 32 % 4;
            row[64 * half + i % 64] |= (uint8_t)((codes[i] & 15) << 4 * (r / 2));
            row[128 + 32 * half + i % 32] |= (uint8_t)(codes[i] >> 4 << 2 * r);
        }
        put_half(row + 208, b.d);
    }
}

/* ---- IQ4_XS: levels of a table, scales in 6 bits */

static void quantize_iq4_xs(const float *in, const float *importance, uint8_t *row, size_t n)
{
    ROW_LOOP(FIT_SUPER, 136)
    {
        struct fit_work work;
        struct span s;
        struct scaled_block b = {0};
        uint8_t codes[FIT_SUPER];
        uint32_t high = 0;
        memset(row, 0, 136);
        if (fit_load(&work, in, importance, FIT_SUPER, &s))
            search_scaled_block(&work, 8, &levels_iq4, &grid_iq4, -32, 31, &b);
        for (int p = 0; p < 8; p++) {
            int scale = b.scale[p] + 32;
            part_codes(&work, 8, p, &levels_iq4, b.d * (float)b.scale[p], 0, codes);
            row[4 + p / 2] |= (uint8_t)((scale & 15) << 4 * (p % 2));
            high |= (uint32_t)(scale >> 4) << 2 * p;
            put_nibbles(row + 8 + 16 * p, codes + 32 * p);
        }
        put_half(row, b.d);
        row[2] = (uint8_t)high;
        row[3] = (uint8_t)(high >> 8);
    }
}

/* By type; what quantize_base and quantize_avx2 hold. */
#define QUANTIZE_TABLE                                                                             \
    {[QUANT_Q8_0] = quantize_q8_0, [QUANT_Q4_0] = quantize_q4_0, [QUANT_Q4_1] = quantize_q4_1,     \
     [QUANT_Q5_0] = quantize_q5_0, [QUANT_Q5_1] = quantize_q5_1,                                   \
     [QUANT_IQ4_NL] = quantize_iq4_nl, [QUANT_MXFP4] = quantize_mxfp4,                             \
     [QUANT_Q2_K] = quantize_q2_k, [QUANT_Q3_K] = quantize_q3_k, [QUANT_Q4_K] = quantize_q4_k,     \
     [QUANT_Q5_K] = quantize_q5_k, [QUANT_Q6_K] = quantize_q6_k,                                   \
     [QUANT_IQ4_XS] = quantize_iq4_xs}

#endif
