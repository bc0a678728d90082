/* linear_avx2: matrix times vectors with AVX2, FMA and F16C; linear_vec.h and linear_quant_vec.h
 * hold the loops. Pool threads run it; it keeps no state. Empty when built without AVX2. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/linear_vec.h"

typedef __m256i ivec;

VEC_INLINE ivec ivec_load(const void *at)
{
    return _mm256_loadu_si256(at);
}

VEC_INLINE void ivec_store(void *at, ivec x)
{
    _mm256_storeu_si256(at, x);
}

/* the sum of 16 int8 */
VEC_INLINE int32_t sum_bytes(__m128i x)
{
    __m128i sad = _mm_sad_epu8(_mm_xor_si128(x, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(sad) + _mm_extract_epi16(sad, 4) - 16 * 128;
}

VEC_INLINE float greatest_of_block(const float *in)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256(); /* floats without sign order as integers do */
    for (int i = 0; i < 32; i += VEC)
        m = _mm256_max_epi32(
            m, _mm256_and_si256(_mm256_loadu_si256((const void *)(in + i)), magnitude));
    __m128i r = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(r));
}

VEC_INLINE void store_block(int8_t *q, const float *in, float by, int32_t sums[2])
{
    const __m256 factor = _mm256_set1_ps(by);
    for (int h = 0; h < 2; h++, in += 2 * VEC) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in), factor));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + VEC), factor));
        __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs),
                                        _mm256_extracti128_si256(pairs, 1));
        _mm_storeu_si128((__m128i *)(q + 2 * VEC * h), bytes);
        sums[h] = sum_bytes(bytes);
    }
}

/* 16 bytes at `offset` of each of 8 rows, as 4 vectors of one dword per row. */
VEC_INLINE void transpose(const char *const rows[VEC], size_t offset, ivec out[4])
{
    ivec a[4];

    for (int i = 0; i < 4; i++) { /* 128-bit lane l of a[i] is row 4 l + i */
        a[i] = _mm256_castsi128_si256(_mm_loadu_si128((const void *)(rows[i] + offset)));
        a[i] = _mm256_inserti128_si256(
            a[i], _mm_loadu_si128((const void *)(rows[4 + i] + offset)), 1);
    }
    ivec low01 = _mm256_unpacklo_epi32(a[0], a[1]), high01 = _mm256_unpackhi_epi32(a[0], a[1]);
    ivec low23 = _mm256_unpacklo_epi32(a[2], a[3]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

VEC_INLINE ivec dwords(const char *const rows[VEC], size_t offset)
{
    ivec x = _mm256_setzero_si256();
    int32_t four;

#define DWORD(r)                                                                                   \
    memcpy(&four, rows[r] + offset, sizeof four);                                                  \
    x = _mm256_insert_epi32(x, four, r)
    DWORD(0);
    DWORD(1);
    DWORD(2);
    DWORD(3);
    DWORD(4);
    DWORD(5);
    DWORD(6);
    DWORD(7);
#undef DWORD
    return x;
}

VEC_INLINE ivec ivec_set(uint32_t x)
{
    return _mm256_set1_epi32((int32_t)x);
}

VEC_INLINE ivec ivec_and(ivec a, ivec b)
{
    return _mm256_and_si256(a, b);
}

VEC_INLINE ivec ivec_or(ivec a, ivec b)
{
    return _mm256_or_si256(a, b);
}

VEC_INLINE ivec ivec_xor(ivec a, ivec b)
{
    return _mm256_xor_si256(a, b);
}

VEC_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm256_add_epi32(a, b);
}

VEC_INLINE ivec ivec_sub(ivec a, ivec b)
{
    return _mm256_sub_epi32(a, b);
}

VEC_INLINE ivec ivec_srl(ivec x, int n)
{
    return _mm256_srl_epi32(x, _mm_cvtsi32_si128(n));
}

VEC_INLINE ivec ivec_sll(ivec x, int n)
{
    return _mm256_sll_epi32(x, _mm_cvtsi32_si128(n));
}

VEC_INLINE ivec ivec_sra(ivec x, int n)
{
    return _mm256_sra_epi32(x, _mm_cvtsi32_si128(n));
}

/* table[byte] for every byte, each below 16 */
VEC_INLINE ivec ivec_lut(const int8_t table[16], ivec x)
{
    return _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), x);
}

VEC_INLINE vec ivec_float(ivec x)
{
    return _mm256_cvtepi32_ps(x);
}

/* the low 16 bits as float16 */
VEC_INLINE vec ivec_half(ivec x)
{
    x = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/* float32 as its bits */
VEC_INLINE vec ivec_as_float(ivec x)
{
    return _mm256_castsi256_ps(x);
}

/* 2^(x - 127) for 0 <= x <= 254, subnormal at 0; NaN at 255 */
VEC_INLINE vec ivec_exponent(ivec x)
{
    __m256i zero = _mm256_cmpeq_epi32(x, _mm256_setzero_si256());
    return _mm256_castsi256_ps(
        _mm256_blendv_epi8(_mm256_slli_epi32(x, 23), _mm256_set1_epi32(1 << 22), zero));
}

/* vpmaddubsw saturates at 32767, and so many of its results may be added: |q| <= 127, so each is at
 * most 254 times the greatest w. Signed w reach 128, the table of MXFP4 24. */
VEC_INLINE int dot_sums(enum quant_type type)
{
    switch (type) {
    case QUANT_Q8_0:
    case QUANT_IQ4_NL:
    case QUANT_IQ4_XS:
    case QUANT_G8:
    case QUANT_G8_128:
        return 1;
    case QUANT_Q6_K:
        return 2;
    case QUANT_Q5_0:
    case QUANT_Q5_1:
    case QUANT_Q5_K:
    case QUANT_MXFP4:
        return 4;
    default:
        return 8;
    }
}

VEC_INLINE ivec dot_pairs(enum quant_type type, ivec w, const char *q)
{
    int32_t four;

    memcpy(&four, q, sizeof four);
    ivec x = _mm256_set1_epi32(four);
    return dot_sums(type) == 1
               ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
               : _mm256_maddubs_epi16(w, x);
}

VEC_INLINE ivec dot_steps(enum quant_type type, ivec acc, const ivec *w, const char *q, int n)
{
    const int sums = dot_sums(type) < n ? dot_sums(type) : n;

#pragma GCC unroll 8
    for (int k = 0; k < n; k += sums) {
        ivec pairs = dot_pairs(type, w[k], q + 4 * k);
#pragma GCC unroll 8
        for (int j = k + 1; j < k + sums; j++)
            pairs = _mm256_add_epi16(pairs, dot_pairs(type, w[j], q + 4 * j));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return acc;
}

enum { SIGNED_DOTS = 1 };

#include "kernels/cpu/linear_quant_vec.h"

void linear_avx2(struct cpu_variants *v)
{
    v->linear_rows[QUANT_F32] = linear_f32;
    v->linear_rows[QUANT_F16] = linear_f16;
    v->linear_rows[QUANT_BF16] = linear_bf16;
    v->linear_rows[QUANT_F8_128] = linear_f8;
    quant_register(v);
    v->quantize_row = quantize_row;
}
#endif
