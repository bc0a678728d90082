/* vec_avx2: the vector of float the *_vec.h templates are written in, 8 lanes of AVX2 with FMA and
 * F16C. For *_avx2.c only. The names are those of vec_avx512.h, operation for operation. Sums over
 * the lanes use one fixed tree, so that a sum does not depend on where it is taken. */
#ifndef SIROCCO_KERNELS_CPU_VEC_AVX2_H
#define SIROCCO_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define VEC 8
#define VEC_REGISTERS 16
#define VEC_BF16_PAIRS 0

typedef __m256 vec;

static inline __m256i vec_lanes(int n) /* the first n lanes, 0 <= n */
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec vec_load(const void *at)
{
    return _mm256_loadu_ps(at);
}

static inline vec vec_load_n(const void *at, int n)
{
    return _mm256_maskload_ps(at, vec_lanes(n));
}

static inline void vec_store(float *at, vec x)
{
    _mm256_storeu_ps(at, x);
}

static inline void vec_store_n(float *at, vec x, int n)
{
    _mm256_maskstore_ps(at, vec_lanes(n), x);
}

static inline __m128i vec_half_n(const void *at, int n) /* n 16-bit values, then zeros */
{
    uint16_t h[VEC] = {0};
    memcpy(h, at, (size_t)(n < VEC ? n : VEC) * sizeof *h);
    return _mm_loadu_si128((const __m128i *)h);
}

static inline void vec_store_half_n(uint16_t *at, __m128i h, int n)
{
    uint16_t values[VEC];
    if (n >= VEC) {
        _mm_storeu_si128((__m128i *)at, h);
        return;
    }
    _mm_storeu_si128((__m128i *)values, h);
    memcpy(at, values, (size_t)n * sizeof *values);
}

static inline vec vec_f16(const void *at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(at));
}

/* E4M3 values divided by 2^8: sign and magnitude moved to where float16 has them */
static inline vec vec_f8(const void *at)
{
    __m128i h = _mm_srai_epi16(
        _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)at)), 8), 1);
    return _mm256_cvtph_ps(_mm_and_si128(h, _mm_set1_epi16((int16_t)0xbfff)));
}

/* E4M3 values as they are; the bits of a NaN become float16's */
static inline vec vec_fp8(const void *at)
{
    __m128i h = _mm_srai_epi16(
        _mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)at)), 8), 1);
    h = _mm_and_si128(h, _mm_set1_epi16((int16_t)0xbfff));
    __m128i nan = _mm_and_si128(_mm_add_epi16(h, _mm_set1_epi16(0x80)), _mm_set1_epi16(0x4000));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(h, nan)), _mm256_set1_ps(256));
}

static inline vec vec_fp8_n(const void *at, int n)
{
    int64_t bytes = 0;
    memcpy(&bytes, at, n < VEC ? (size_t)n : VEC);
    return vec_fp8(&bytes);
}

static inline vec vec_f16_n(const void *at, int n)
{
    return _mm256_cvtph_ps(vec_half_n(at, n));
}

static inline vec vec_i8(const void *at)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at)));
}

static inline vec vec_i8_n(const void *at, int n)
{
    int64_t bytes = 0;
    memcpy(&bytes, at, n < VEC ? (size_t)n : VEC);
    return vec_i8(&bytes);
}

static inline vec vec_from_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vec vec_bf16(const void *at)
{
    return vec_from_bf16(_mm_loadu_si128(at));
}

static inline vec vec_bf16_n(const void *at, int n)
{
    return vec_from_bf16(vec_half_n(at, n));
}

static inline void vec_store_f16_n(uint16_t *at, vec x, int n)
{
    vec_store_half_n(at, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
}

/* round to nearest even by integer addition; a NaN keeps its upper payload and is made quiet */
static inline void vec_store_bf16_n(uint16_t *at, vec x, int n)
{
    __m256i u = _mm256_castps_si256(x), odd, h, nan;
    odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    h = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    h = _mm256_blendv_epi8(h, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    h = _mm256_srli_epi32(h, 16);
    h = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0xd8);
    vec_store_half_n(at, _mm256_castsi256_si128(h), n);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

static inline vec vec_unpack_low(vec a, vec b) /* floats, within 128 bits */
{
    return _mm256_unpacklo_ps(a, b);
}

static inline vec vec_unpack_high(vec a, vec b) /* floats, within 128 bits */
{
    return _mm256_unpackhi_ps(a, b);
}

static inline vec vec_unpack_low2(vec a, vec b) /* pairs of floats, within 128 bits */
{
    return _mm256_castpd_ps(
        _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

static inline vec vec_unpack_high2(vec a, vec b) /* pairs of floats, within 128 bits */
{
    return _mm256_castpd_ps(
        _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

static inline vec vec_fnma(vec a, vec b, vec c) /* c - a * b, rounded once */
{
    return _mm256_fnmadd_ps(a, b, c);
}

static inline vec vec_fma(vec a, vec b, vec c) /* a * b + c, rounded once */
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_max(vec a, vec b) /* b when either is NaN */
{
    return _mm256_max_ps(a, b);
}

static inline vec vec_min(vec a, vec b) /* b when either is NaN */
{
    return _mm256_min_ps(a, b);
}

static inline vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static inline vec vec_sign_of(vec magnitude, vec sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}

static inline vec vec_below(vec a, vec limit, vec yes, vec no) /* a < limit ? yes : no */
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, limit, _CMP_LT_OQ));
}

static inline vec vec_round(vec a) /* to the nearest integer, ties to even */
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_power2(vec n) /* 2^n, n an integer in -126..127 */
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

/* y 2^n, n an integer in -252..254: in two factors, so that results down to the least subnormal and
 * up to infinity come out right */
static inline vec vec_ldexp(vec y, vec n)
{
    vec half = vec_round(vec_mul(n, vec_set(0.5f)));
    return vec_mul(vec_mul(y, vec_power2(half)), vec_power2(vec_sub(n, half)));
}

/* a where from <= lane < to, else other */
static inline vec vec_between(vec a, vec other, int from, int to)
{
    __m256i mask = _mm256_andnot_si256(vec_lanes(from), vec_lanes(to));
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(mask));
}

static inline unsigned vec_equal_mask(vec a, vec b) /* bit i: lanes i are equal */
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}

static inline __m128 vec_fold(vec x) /* lane i: the sum of lanes i and i + 4 */
{
    return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}

/* at[0], at[2], ... to *even and at[1], at[3], ... to *odd, n pairs */
static inline void vec_pairs(const float *at, int n, vec *even, vec *odd)
{
    vec low = vec_load_n(at, 2 * n), high = vec_load_n(at + VEC, n > VEC / 2 ? 2 * n - VEC : 0);
    vec a = _mm256_permute2f128_ps(low, high, 0x20), b = _mm256_permute2f128_ps(low, high, 0x31);
    *even = _mm256_shuffle_ps(a, b, 0x88);
    *odd = _mm256_shuffle_ps(a, b, 0xdd);
}

static inline void vec_store_pairs(float *at, vec even, vec odd, int n)
{
    vec a = _mm256_unpacklo_ps(even, odd), b = _mm256_unpackhi_ps(even, odd);
    vec_store_n(at, _mm256_permute2f128_ps(a, b, 0x20), 2 * n);
    if (n > VEC / 2)
        vec_store_n(at + VEC, _mm256_permute2f128_ps(a, b, 0x31), 2 * n - VEC);
}

static inline float vec_max_all(vec x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

#endif
