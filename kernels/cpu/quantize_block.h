/* quantize_block: the searches of the formats with blocks of 32 (quantize_fit.h has the steps; the
 * layouts stand in quant.h). Included once by each of cpu/quantize_*.c. */
#ifndef SIROCCO_QUANTIZE_BLOCK_H
#define SIROCCO_QUANTIZE_BLOCK_H

#include "kernels/cpu/quantize_fit.h"

enum { REFINE = 4 }; /* rounds of nearest level and least squares after the grid */

static const struct levels levels_q8_0 = {NULL, -127, 127, 0};
static const struct levels levels_q4_0 = {NULL, -8, 7, 0};
static const struct levels levels_q5_0 = {NULL, -16, 15, 0};
static const struct levels levels_q4_1 = {NULL, 0, 15, 0};
static const struct levels levels_q5_1 = {NULL, 0, 31, 0};
static const struct levels levels_iq4 = {quant_iq4_values, 0, 0, 16};
/* The magnitudes of E2M1, doubled, with both signs; level k is stored as mxfp4_codes[k]. */
static const int8_t mxfp4_sorted[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
static const uint8_t mxfp4_codes[15] = {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7};
static const struct levels levels_mxfp4 = {mxfp4_sorted, 0, 0, 15};

/* The scales to try: those that map the value of largest magnitude to far (1 + spread t), t from
 * least to most in steps of 1 / steps, far being the outermost level on either side; and, so that
 * what was on few levels stays there exactly, to every whole number below. */
struct grid {
    float low_far, high_far; /* magnitudes of the outermost levels */
    float step;              /* of the level it is mapped to */
    float first, last;       /* in steps, around the outermost level */
    int whole;               /* also whole levels from this one on; 0: none */
};

struct best_scale {
    float d, gain;
};

static inline __attribute__((always_inline)) void try_scale(struct span s, const struct levels *l,
                                                            float inverse, struct best_scale *best)
{
    struct scaled f = fit_scaled(s, l, inverse);
    float gain = gain_of(f);
    if (gain > best->gain)
        *best = (struct best_scale){f.xq / f.qq, gain};
}

/* The best scale of the grid, then refined; 0 for a span of zeros. */
static inline __attribute__((always_inline)) float
search_scale(struct span s, const struct levels *l, const struct grid *g)
{
    float most = span_extreme(s);
    struct best_scale best = {0, 0};
    if (fabsf(most) <= FIT_TINY)
        return 0;
    for (float t = g->first; t <= g->last; t++) {
        try_scale(s, l, (g->high_far + t * g->step) / most, &best);
        try_scale(s, l, -(g->low_far + t * g->step) / most, &best);
    }
    for (int k = g->whole; k && (float)k < g->high_far; k++)
        try_scale(s, l, (float)k / most, &best);
    for (int i = 0; i < REFINE && best.d != 0; i++) {
        float before = best.gain;
        try_scale(s, l, 1 / best.d, &best);
        if (!(best.gain > before))
            break;
    }
    return best.d;
}

/* Of d as float16 and its two neighbours, the one of least error. */
static inline __attribute__((always_inline)) float
nearest_half(struct span s, const struct levels *l, float d, float m)
{
    uint16_t h = quant_f32_to_f16(fabsf(d));
    float sign = d < 0 ? -1.0f : 1.0f, best = 0, least = INFINITY;
    for (int k = h > 0 ? h - 1 : 0; k <= h + 1 && k < 0x7c00; k++) {
        float half = sign * quant_f16_to_f32((uint16_t)k), error = fit_error(s, l, half, m);
        if (error < least) {
            least = error;
            best = half;
        }
    }
    return best;
}

/* The numbers of the levels that (x - m) / d is nearest to. */
static inline __attribute__((always_inline)) void
level_codes(struct span s, const struct levels *l, float d, float m, uint8_t *codes)
{
    vec by = splat(d != 0 ? 1 / d : 0), from = splat(m);
    for (int i = 0; i < s.n; i++) {
        vec q = nearest(l, (s.x[i] - from) * by);
        for (int k = 0; k < FIT_LANES; k++)
            codes[i * FIT_LANES + k] = (uint8_t)level_code(l, q[k]);
    }
}

static inline void put_nibbles(uint8_t *at, const uint8_t codes[FIT_BLOCK])
{
    for (int i = 0; i < 16; i++)
        at[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

static inline void put_fifth_bits(uint8_t *at, const uint8_t codes[FIT_BLOCK])
{
    uint32_t high = 0;
    for (int i = 0; i < FIT_BLOCK; i++)
        high |= (uint32_t)(codes[i] >> 4 & 1) << i;
    memcpy(at, &high, sizeof high);
}

/* ---- one scale */

static inline __attribute__((always_inline)) float
encode_scaled(const float *in, const float *importance, const struct levels *l,
              const struct grid *g, uint8_t codes[FIT_BLOCK])
{
    struct fit_work work;
    struct span s;
    float d = 0;
    if (fit_load(&work, in, importance, FIT_BLOCK, &s))
        d = nearest_half(s, l, search_scale(s, l, g), 0);
    level_codes(s, l, d, 0, codes);
    return d;
}

#define ROW_LOOP(block, bytes)                                                                     \
    for (size_t b = 0; b < n / (block); b++, in += (block), row += (bytes),                        \
                importance = importance ? importance + (block) : NULL)

static void quantize_q8_0(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct grid grid = {127, 127, 0.5f, -6, 1, 0};
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 34)
    {
        put_half(row, encode_scaled(in, importance, &levels_q8_0, &grid, codes));
        for (int i = 0; i < FIT_BLOCK; i++)
            row[2 + i] = (uint8_t)(codes[i] - 127);
    }
}

static void quantize_q4_0(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct grid grid = {8, 7, 0.15f, -9, 12, 1};
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 18)
    {
        put_half(row, encode_scaled(in, importance, &levels_q4_0, &grid, codes));
        put_nibbles(row + 2, codes);
    }
}

static void quantize_q5_0(const float *in, const float *importance, uint8_t *row, size_t n)
{
    static const struct grid grid = {16, 15, 0.2f, -12, 10, 2};
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 22)
    {
        put_half(row, encode_scaled(in, importance, &levels_q5_0, &grid, codes));
        put_fifth_bits(row + 2, codes);
        put_nibbles(row + 6, codes);
    }
}

static const struct grid grid_iq4 = {127, 113, 2.5f, -10, 12, 0};

static void quantize_iq4_nl(const float *in, const float *importance, uint8_t *row, size_t n)
{
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 18)
    {
        put_half(row, encode_scaled(in, importance, &levels_iq4, &grid_iq4, codes));
        put_nibbles(row + 2, codes);
    }
}

/* ---- a power of two */

/* Values of MXFP4 are 2^(e - 128) times levels up to 12: the exponents around the one that puts the
 * largest value among the outermost levels are tried. */
static void quantize_mxfp4(const float *in, const float *importance, uint8_t *row, size_t n)
{
    ROW_LOOP(FIT_BLOCK, 17)
    {
        struct fit_work work;
        struct span s;
        uint8_t codes[FIT_BLOCK];
        int exponent = 0, best = 0;
        float least = INFINITY, scale = 0;
        fit_load(&work, in, importance, FIT_BLOCK, &s);
        frexpf(span_extreme(s), &exponent); /* largest = 0.5..1 times 2^exponent */
        for (int e = exponent + 128 - 5; e <= exponent + 128 - 2; e++) {
            int kept = e < 0 ? 0 : e > 254 ? 254 : e;
            float d = ldexpf(1, kept - 128), error = fit_error(s, &levels_mxfp4, d, 0);
            if (error < least) {
                least = error;
                best = kept;
                scale = d;
            }
        }
        level_codes(s, &levels_mxfp4, scale, 0, codes);
        for (int i = 0; i < FIT_BLOCK; i++)
            codes[i] = mxfp4_codes[codes[i]];
        row[0] = (uint8_t)best;
        put_nibbles(row + 1, codes);
    }
}

/* ---- scale and offset */

/* Over ranges of the levels a little wider and narrower than the values', aligned to their least,
 * their middle or their most; then refined. sunk: m <= 0. */
static inline __attribute__((always_inline)) struct affine
search_affine(struct span s, const struct levels *l, bool sunk, int steps, float step)
{
    float least, most, far = (float)l->hi;
    struct moments all = span_moments(s);
    span_range(s, &least, &most);
    if (sunk && least > 0)
        least = 0;
    float range = most - least;
    /* as one level: its mean */
    struct affine best = {0, all.w > 0 ? all.x / all.w : 0, 0};
    if (sunk && best.m > 0)
        best.m = 0;
    best.gain = best.m * (2 * all.x - best.m * all.w);
    if (!(range > FIT_TINY))
        return best;
    for (int i = -steps; i <= steps; i++) {
        float inverse = (far + step * (float)i) / range, spare = range - far / inverse;
        for (int side = 0; side <= 2; side++) {
            float base = least + 0.5f * (float)side * spare;
            struct affine a =
                fit_affine(s, l, &all, sunk && base > 0 ? 0 : base, inverse, sunk);
            if (a.gain > best.gain)
                best = a;
        }
    }
    for (int i = 0; i < REFINE && best.d > 0; i++) {
        struct affine a = fit_affine(s, l, &all, best.m, 1 / best.d, sunk);
        if (!(a.gain > best.gain))
            break;
        best = a;
    }
    return best;
}

static inline __attribute__((always_inline)) void
encode_affine(const float *in, const float *importance, const struct levels *l, int steps,
              uint8_t *row, uint8_t codes[FIT_BLOCK])
{
    struct fit_work work;
    struct span s;
    float d = 0, m = 0;
    if (fit_load(&work, in, importance, FIT_BLOCK, &s)) {
        struct affine a = search_affine(s, l, false, steps, 0.2f);
        m = half_round(a.m);
        d = nearest_half(s, l, a.d, m);
    }
    level_codes(s, l, d, m, codes);
    put_half(row, d);
    put_half(row + 2, m);
}

static void quantize_q4_1(const float *in, const float *importance, uint8_t *row, size_t n)
{
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 20)
    {
        encode_affine(in, importance, &levels_q4_1, 10, row, codes);
        put_nibbles(row + 4, codes);
    }
}

static void quantize_q5_1(const float *in, const float *importance, uint8_t *row, size_t n)
{
    uint8_t codes[FIT_BLOCK];
    ROW_LOOP(FIT_BLOCK, 24)
    {
        encode_affine(in, importance, &levels_q5_1, 10, row, codes);
        put_fifth_bits(row + 4, codes);
        put_nibbles(row + 8, codes);
    }
}

#endif
