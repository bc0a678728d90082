/* vec_math: sums over lanes and elementary functions on `vec`; include after vec_<isa>.h. */
#ifndef SIROCCO_KERNELS_CPU_VEC_MATH_H
#define SIROCCO_KERNELS_CPU_VEC_MATH_H

#define VEC_INLINE static inline __attribute__((always_inline, unused))

/* (s0 + s1) + (s2 + s3) of the folded lanes */
VEC_INLINE float vec_sum(vec x)
{
    __m128 s = vec_fold(x);
    s = _mm_hadd_ps(s, s);
    return _mm_cvtss_f32(_mm_hadd_ps(s, s));
}

/* The sums of four vectors: within each 128 bits (s0 + s2) + (s1 + s3), then over these. */
VEC_INLINE __m128 vec_sum4(vec a, vec b, vec c, vec d)
{
    vec ab = vec_add(vec_unpack_low(a, b), vec_unpack_high(a, b)); /* a0+a2 b0+b2 a1+a3 b1+b3 */
    vec cd = vec_add(vec_unpack_low(c, d), vec_unpack_high(c, d));
    return vec_fold(vec_add(vec_unpack_low2(ab, cd), vec_unpack_high2(ab, cd)));
}

/* exp(x): x = n ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite 1980; ln 2 in two parts, the first
 * with 9 trailing zero bits so that n times it is exact), e^r by its Taylor series to r^7, whose
 * remainder is below 0.3466^8 / 8! = 5.2e-9. Relative error below 1.2e-7 (one unit in the last
 * place) for results that are normal numbers; exp(-inf) = 0; NaN stays NaN. */
VEC_INLINE vec vec_exp(vec x)
{
    x = vec_min(vec_set(89.0f), vec_max(vec_set(-105.0f), x));
    vec n = vec_round(vec_mul(x, vec_set(1.44269504f)));
    vec r = vec_fma(n, vec_set(-0x1.62e4p-1f), x);
    r = vec_fma(n, vec_set(-0x1.7f7d1cp-20f), r);
    vec y = vec_fma(r, vec_set(1.0f / 5040), vec_set(1.0f / 720));
    y = vec_fma(y, r, vec_set(1.0f / 120));
    y = vec_fma(y, r, vec_set(1.0f / 24));
    y = vec_fma(y, r, vec_set(1.0f / 6));
    y = vec_fma(y, r, vec_set(0.5f));
    y = vec_fma(y, r, vec_set(1.0f));
    y = vec_fma(y, r, vec_set(1.0f));
    return vec_ldexp(y, n);
}

/* tanh(x): below 1 Lambert's continued fraction to depth 7 (relative error below 1e-8 before
 * rounding); from 1 on 1 - 2 / (exp(2 |x|) + 1). Relative error below 5e-7; NaN stays NaN. */
VEC_INLINE vec vec_tanh(vec x)
{
    vec a = vec_abs(x), q = vec_mul(x, x);
    vec top = vec_add(q, vec_set(378));
    top = vec_fma(top, q, vec_set(17325));
    top = vec_fma(top, q, vec_set(135135));
    vec bottom = vec_fma(q, vec_set(28), vec_set(3150));
    bottom = vec_fma(bottom, q, vec_set(62370));
    bottom = vec_fma(bottom, q, vec_set(135135));
    vec small = vec_div(vec_mul(x, top), bottom);
    vec e = vec_exp(vec_add(a, a));
    vec large = vec_sub(vec_set(1), vec_div(vec_set(2), vec_add(e, vec_set(1))));
    return vec_below(a, vec_set(1), small, vec_sign_of(large, x));
}

#endif
