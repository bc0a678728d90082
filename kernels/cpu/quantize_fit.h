/* quantize_fit: what the searches of quantize_block.h and quantize_super.h are made of: rounding to
 * a set of levels, and the weighted sums that least squares needs.
 *
 * A value is stored as d q + m with q from a set of levels. For given q the best d, or d and m, is
 * a weighted least-squares solution; for given d and m the best q is the nearest level. The
 * searches try scales over a grid, then alternate the two steps (Lloyd 1982 for a fixed set of
 * levels), which never raises the error.
 *
 * Vectors of 8 floats are gcc's and clang's own, so that one text serves every instruction set and
 * adds in one order. Included once by each of cpu/quantize_*.c. */
#ifndef SIROCCO_QUANTIZE_FIT_H
#define SIROCCO_QUANTIZE_FIT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/quantize.h"

enum { FIT_LANES = 8, FIT_BLOCK = 32, FIT_SUPER = 256 };

typedef float vec __attribute__((vector_size(32)));
typedef int32_t ivec __attribute__((vector_size(32)));

/* Part of a block: n vectors of values and of their weights. */
struct span {
    const vec *x, *w;
    int n;
};

/* Whole numbers lo..hi, or n rising values. */
struct levels {
    const int8_t *table;
    int lo, hi, n; /* n: of table */
};

static inline vec splat(float f)
{
    return (vec){f, f, f, f, f, f, f, f};
}

static inline vec choose(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

static inline float sum(vec v)
{
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* The nearest level of each lane; for a table, of those given as thresholds between its values. */
static inline __attribute__((always_inline)) vec nearest(const struct levels *l, vec v)
{
    if (l->table) {
        vec q = splat(l->table[0]);
        for (int k = 1; k < l->n; k++) {
            float step = (float)(l->table[k] - l->table[k - 1]);
            float middle = 0.5f * (float)(l->table[k] + l->table[k - 1]);
            q += (vec)((v > splat(middle)) & (ivec)splat(step));
        }
        return q;
    }
    vec lo = splat((float)l->lo), hi = splat((float)l->hi);
    vec even = splat(12582912.0f); /* 1.5 2^23: adding it rounds to a whole number */
    v = choose(v < lo, lo, v);
    v = choose(v > hi, hi, v);
    return (v + even) - even;
}

/* Number of a level: what is stored. */
static inline int level_code(const struct levels *l, float q)
{
    int code = 0;
    if (!l->table)
        return (int)q - l->lo;
    while (code + 1 < l->n && (float)l->table[code] < q)
        code++;
    return code;
}

/* ---- d q */

struct scaled {
    float xq, qq; /* sums of w x q and w q q: d = xq / qq, and xq^2 / qq less error than d = 0 */
};

static inline __attribute__((always_inline)) struct scaled
fit_scaled(struct span s, const struct levels *l, float inverse)
{
    vec xq = splat(0), qq = splat(0), by = splat(inverse);
    for (int i = 0; i < s.n; i++) {
        vec q = nearest(l, s.x[i] * by), wq = s.w[i] * q;
        xq += wq * s.x[i];
        qq += wq * q;
    }
    return (struct scaled){sum(xq), sum(qq)};
}

static inline float gain_of(struct scaled f)
{
    return f.qq > 0 ? f.xq * (f.xq / f.qq) : 0;
}

/* The error of storing the span with scale d and offset m, values rounded to the nearest level. */
static inline __attribute__((always_inline)) float fit_error(struct span s, const struct levels *l,
                                                             float d, float m)
{
    vec error = splat(0), by = splat(d != 0 ? 1 / d : 0), scale = splat(d), offset = splat(m);
    for (int i = 0; i < s.n; i++) {
        vec r = s.x[i] - offset;
        r -= scale * nearest(l, r * by);
        error += s.w[i] * r * r;
    }
    return sum(error);
}

/* ---- d q + m */

struct moments {
    float w, x, xx; /* sums of w, w x, w x x */
};

static inline struct moments span_moments(struct span s)
{
    vec w = splat(0), x = splat(0), xx = splat(0);
    for (int i = 0; i < s.n; i++) {
        vec wx = s.w[i] * s.x[i];
        w += s.w[i];
        x += wx;
        xx += wx * s.x[i];
    }
    return (struct moments){sum(w), sum(x), sum(xx)};
}

struct affine {
    float d, m, gain; /* gain: how much less error than d = m = 0 */
};

/* Best d and m for the levels that (x - base) * inverse rounds to; m <= 0 where sunk is set. */
static inline __attribute__((always_inline)) struct affine
fit_affine(struct span s, const struct levels *l, const struct moments *all, float base,
           float inverse, bool sunk)
{
    vec sq = splat(0), qq = splat(0), xq = splat(0), by = splat(inverse), from = splat(base);
    for (int i = 0; i < s.n; i++) {
        vec q = nearest(l, (s.x[i] - from) * by), wq = s.w[i] * q;
        sq += wq;
        qq += wq * q;
        xq += wq * s.x[i];
    }
    float q1 = sum(sq), q2 = sum(qq), qx = sum(xq);
    float det = all->w * q2 - q1 * q1;
    struct affine a = {0, all->w > 0 ? all->x / all->w : 0, 0};
    if (det > 1e-6f * all->w * q2) {
        a.d = (all->w * qx - q1 * all->x) / det;
        a.m = (q2 * all->x - q1 * qx) / det;
    }
    if (sunk && a.m > 0) {
        a.m = 0;
        a.d = q2 > 0 ? qx / q2 : 0;
    }
    if (a.d < 0)
        a.d = 0;
    /* Sxx - error, with error = sum of w (x - d q - m)^2 written out */
    a.gain = 2 * (a.d * qx + a.m * all->x) - a.d * a.d * q2 - 2 * a.d * a.m * q1 -
             a.m * a.m * all->w;
    return a;
}

/* ---- blocks */

static inline float half_round(float f)
{
    return quant_f16_to_f32(quant_f32_to_f16(f));
}

static inline void put_half(uint8_t *at, float f)
{
    uint16_t h = quant_f32_to_f16(f);
    memcpy(at, &h, sizeof h);
}

/* The value of largest magnitude, with its sign. */
static inline float span_extreme(struct span s)
{
    float most = 0;
    const float *x = (const float *)s.x;
    for (int i = 0; i < s.n * FIT_LANES; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    return most;
}

static inline void span_range(struct span s, float *least, float *most)
{
    const float *x = (const float *)s.x;
    *least = *most = x[0];
    for (int i = 1; i < s.n * FIT_LANES; i++) {
        *least = x[i] < *least ? x[i] : *least;
        *most = x[i] > *most ? x[i] : *most;
    }
}

/* What errors count for beside importance: between all alike (the least mean error) and by
 * magnitude (the least change of large products); x: the value over the block's largest. */
static inline float fit_weight(float x)
{
    return 0.25f + fabsf(x);
}

/* A block's values and weights, as vectors. */
struct fit_work {
    vec x[FIT_SUPER / FIT_LANES], w[FIT_SUPER / FIT_LANES];
};

/* Below half of float16's least number every block is zero. */
static const float FIT_TINY = 0x1p-26f;

/* Fill the work with n values and return their span; false: all of them are as good as zero. */
static inline bool fit_load(struct fit_work *work, const float *in, const float *importance, int n,
                            struct span *out)
{
    float *w = (float *)work->w, most = 0, heaviest = 0;
    for (int i = 0; i < n; i++) {
        most = fabsf(in[i]) > most ? fabsf(in[i]) : most;
        if (importance && importance[i] > heaviest)
            heaviest = importance[i];
    }
    memcpy(work->x, in, (size_t)n * sizeof *in);
    for (int i = 0; i < n; i++)
        w[i] = (heaviest > 0 ? importance[i] / heaviest : 1) *
               fit_weight(most > 0 ? in[i] / most : 0);
    *out = (struct span){work->x, work->w, n / FIT_LANES};
    return most > FIT_TINY;
}

#endif
