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

/* Round to int8 (|x| <= 127), store, and return the sum. */
VEC_INLINE int32_t ivec_store_int8(int8_t *at, vec x)
{
    __m256i i = _mm256_cvtps_epi32(x);
    __m128i low = _mm256_castsi256_si128(i), high = _mm256_extracti128_si256(i, 1);
    __m128i half = _mm_packs_epi32(low, high), sum = _mm_add_epi32(low, high);

    _mm_storel_epi64((__m128i *)at, _mm_packs_epi16(half, half));
    sum = _mm_hadd_epi32(sum, sum);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(sum, sum));
}

/* 16 bytes at `offset` of each of 8 rows, as 4 vectors of one dword per row. */
VEC_INLINE void transpose_8(const char *const rows[VEC], size_t offset, ivec out[4])
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

VEC_INLINE vec load_scales(const char *const rows[VEC], size_t offset)
{
    __m128i h = _mm_setzero_si128();
    uint16_t scale;

#define SCALE(r)                                                                                   \
    memcpy(&scale, rows[r] + offset, sizeof scale);                                                \
    h = _mm_insert_epi16(h, scale, r)
    SCALE(0);
    SCALE(1);
    SCALE(2);
    SCALE(3);
    SCALE(4);
    SCALE(5);
    SCALE(6);
    SCALE(7);
#undef SCALE
    return _mm256_cvtph_ps(h);
}

VEC_INLINE void block_load(enum quant_type type, const char *const rows[VEC], size_t offset,
                           ivec w[8], vec *d)
{
    *d = load_scales(rows, offset);
    transpose_8(rows, offset + 2, w);
    if (type == QUANT_Q8_0) {
        transpose_8(rows, offset + 18, w + 4);
        return;
    }
    for (int k = 0; k < 4; k++) { /* byte i: value i low, value i + 16 high */
        const ivec nibble = _mm256_set1_epi8(15);
        w[4 + k] = _mm256_and_si256(_mm256_srli_epi16(w[k], 4), nibble);
        w[k] = _mm256_and_si256(w[k], nibble);
    }
}

VEC_INLINE ivec dot_start(enum quant_type type, int32_t sum)
{
    return _mm256_set1_epi32(type == QUANT_Q8_0 ? 0 : -8 * sum);
}

/* vpmaddubsw saturates at 32767: |w| <= 128 times |q| <= 127, two of them, is 32512. */
VEC_INLINE ivec dot_step(enum quant_type type, ivec acc, ivec w, const int8_t *q)
{
    int32_t four;

    memcpy(&four, q, sizeof four);
    ivec x = _mm256_set1_epi32(four);
    ivec pairs = type == QUANT_Q8_0
                     ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                     : _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

VEC_INLINE vec dot_float(ivec acc)
{
    return _mm256_cvtepi32_ps(acc);
}

#include "kernels/cpu/linear_quant_vec.h"

void linear_avx2(struct cpu_variants *v)
{
    v->linear_rows[QUANT_F32] = linear_f32;
    v->linear_rows[QUANT_F16] = linear_f16;
    v->linear_rows[QUANT_BF16] = linear_bf16;
    v->linear_rows[QUANT_Q8_0] = linear_q8_0;
    v->linear_rows[QUANT_Q4_0] = linear_q4_0;
    v->linear_quantized[QUANT_Q8_0] = true;
    v->linear_quantized[QUANT_Q4_0] = true;
    v->quantize_row = quantize_row;
}
#endif
