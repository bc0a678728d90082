/* vec_avx512: the vector of float the *_vec.h templates are written in, 16 lanes of AVX-512.
 * For *_avx512.c only. The names are those of vec_avx2.h, operation for operation. Sums over the
 * lanes use one fixed tree, so that a sum does not depend on where it is taken. */
#ifndef SIROCCO_KERNELS_CPU_VEC_AVX512_H
#define SIROCCO_KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define VEC 16
#define VEC_REGISTERS 32
#define VEC_BF16_PAIRS 1

typedef __m512 vec;

static inline __mmask16 vec_lanes(int n) /* the first n lanes, 0 <= n */
{
    return n >= VEC ? 0xffff : (__mmask16)((1u << n) - 1);
}

static inline vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vec vec_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec vec_load(const void *at)
{
    return _mm512_loadu_ps(at);
}

static inline vec vec_load_n(const void *at, int n)
{
    return _mm512_maskz_loadu_ps(vec_lanes(n), at);
}

static inline void vec_store(float *at, vec x)
{
    _mm512_storeu_ps(at, x);
}

static inline void vec_store_n(float *at, vec x, int n)
{
    _mm512_mask_storeu_ps(at, vec_lanes(n), x);
}

static inline vec vec_f16(const void *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(at));
}

/* E4M3 values divided by 2^8: sign and magnitude moved to where float16 has them */
static inline vec vec_f8(const void *at)
{
    __m256i h = _mm256_srai_epi16(
        _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at)), 8), 1);
    return _mm512_cvtph_ps(_mm256_and_si256(h, _mm256_set1_epi16((int16_t)0xbfff)));
}

/* E4M3 values as they are; the bits of a NaN become float16's */
static inline vec vec_from_fp8(__m128i b)
{
    __m256i h = _mm256_srai_epi16(_mm256_slli_epi16(_mm256_cvtepu8_epi16(b), 8), 1);
    h = _mm256_and_si256(h, _mm256_set1_epi16((int16_t)0xbfff));
    __m256i nan = _mm256_and_si256(_mm256_add_epi16(h, _mm256_set1_epi16(0x80)),
                                   _mm256_set1_epi16(0x4000));
    return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(h, nan)), _mm512_set1_ps(256));
}

static inline vec vec_fp8(const void *at)
{
    return vec_from_fp8(_mm_loadu_si128((const __m128i *)at));
}

static inline vec vec_fp8_n(const void *at, int n)
{
    return vec_from_fp8(_mm_maskz_loadu_epi8(vec_lanes(n), at));
}

static inline vec vec_f16_n(const void *at, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_lanes(n), at));
}

static inline vec vec_i8(const void *at)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
}

static inline vec vec_i8_n(const void *at, int n)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(vec_lanes(n), at)));
}

static inline vec vec_bf16(const void *at)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline vec vec_bf16_n(const void *at, int n)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(vec_lanes(n), at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void vec_store_f16_n(uint16_t *at, vec x, int n)
{
    __m256i h = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(at, vec_lanes(n), h);
}

/* round to nearest even by integer addition; a NaN keeps its upper payload and is made quiet */
static inline void vec_store_bf16_n(uint16_t *at, vec x, int n)
{
    __m512i u = _mm512_castps_si512(x), odd, h;
    odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    h = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    h = _mm512_mask_or_epi32(h, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_mask_storeu_epi16(at, vec_lanes(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32(h, 16)));
}

/* n bfloat16 values, two a lane; the rest are zeros */
static inline vec vec_load_bf16_pairs_n(const void *at, int n)
{
    __mmask32 mask = n >= 2 * VEC ? 0xffffffffu : (1u << n) - 1;
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, at));
}

/* sum + a * b over the two bfloat16 values of each lane (instruction vdpbf16ps: subnormal numbers
 * count as zero). From CPU_AVX512_BF16 on. */
static inline vec vec_dot_bf16(vec a, vec b, vec sum)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

static inline vec vec_unpack_low(vec a, vec b) /* floats, within 128 bits */
{
    return _mm512_unpacklo_ps(a, b);
}

static inline vec vec_unpack_high(vec a, vec b) /* floats, within 128 bits */
{
    return _mm512_unpackhi_ps(a, b);
}

static inline vec vec_unpack_low2(vec a, vec b) /* pairs of floats, within 128 bits */
{
    return _mm512_castpd_ps(
        _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

static inline vec vec_unpack_high2(vec a, vec b) /* pairs of floats, within 128 bits */
{
    return _mm512_castpd_ps(
        _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

static inline vec vec_fnma(vec a, vec b, vec c) /* c - a * b, rounded once */
{
    return _mm512_fnmadd_ps(a, b, c);
}

static inline vec vec_fma(vec a, vec b, vec c) /* a * b + c, rounded once */
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b) /* b when either is NaN */
{
    return _mm512_max_ps(a, b);
}

static inline vec vec_min(vec a, vec b) /* b when either is NaN */
{
    return _mm512_min_ps(a, b);
}

static inline vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}

static inline vec vec_sign_of(vec magnitude, vec sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}

static inline vec vec_below(vec a, vec limit, vec yes, vec no) /* a < limit ? yes : no */
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, limit, _CMP_LT_OQ), no, yes);
}

static inline vec vec_round(vec a) /* to the nearest integer, ties to even */
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_ldexp(vec y, vec n) /* y 2^n, n an integer */
{
    return _mm512_scalef_ps(y, n);
}

/* a where from <= lane < to, else other */
static inline vec vec_between(vec a, vec other, int from, int to)
{
    __mmask16 mask = (__mmask16)(vec_lanes(to < 0 ? 0 : to) & ~vec_lanes(from < 0 ? 0 : from));
    return _mm512_mask_blend_ps(mask, other, a);
}

static inline unsigned vec_equal_mask(vec a, vec b) /* bit i: lanes i are equal */
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

static inline __m128 vec_fold(vec x) /* lane i: the sum of lanes i, i + 4, i + 8, i + 12 */
{
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
}

/* at[0], at[2], ... to *even and at[1], at[3], ... to *odd, n pairs */
static inline void vec_pairs(const float *at, int n, vec *even, vec *odd)
{
    const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                            30);
    vec low = vec_load_n(at, 2 * n), high = vec_load_n(at + VEC, n > VEC / 2 ? 2 * n - VEC : 0);
    *even = _mm512_permutex2var_ps(low, first, high);
    *odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(first, _mm512_set1_epi32(1)), high);
}

static inline void vec_store_pairs(float *at, vec even, vec odd, int n)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(VEC / 2));
    vec_store_n(at, _mm512_permutex2var_ps(even, low, odd), 2 * n);
    if (n > VEC / 2)
        vec_store_n(at + VEC, _mm512_permutex2var_ps(even, high, odd), 2 * n - VEC);
}

static inline float vec_max_all(vec x)
{
    return _mm512_reduce_max_ps(x);
}

#endif
