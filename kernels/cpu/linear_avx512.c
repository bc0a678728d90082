/* linear_avx512: matrix times vectors with AVX-512; linear_vec.h and linear_quant_vec.h hold the
 * loops. Without VNNI the quantized formats keep their AVX2 variant: the byte products AVX-512BW
 * has saturate. Pool threads run it; it keeps no state. Empty when built without the instructions.
 */
#if defined(__AVX512F__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/linear_vec.h"

typedef __m512i ivec;

VEC_INLINE ivec ivec_load(const void *at)
{
    return _mm512_loadu_si512(at);
}

VEC_INLINE void ivec_store(void *at, ivec x)
{
    _mm512_storeu_si512(at, x);
}

/* the sum of 16 int8 */
VEC_INLINE int32_t sum_bytes(__m128i x)
{
    __m128i sad = _mm_sad_epu8(_mm_xor_si128(x, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(sad) + _mm_extract_epi16(sad, 4) - 16 * 128;
}

VEC_INLINE float greatest_of_block(const float *in)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_and_si512(_mm512_loadu_si512(in), magnitude);
    __m512i b = _mm512_and_si512(_mm512_loadu_si512(in + VEC), magnitude);
    __m512i m = _mm512_max_epi32(a, b); /* floats without sign order as integers do */
    __m256i h = _mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
    __m128i r = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
    r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(r));
}

VEC_INLINE void store_block(int8_t *q, const float *in, float by, int32_t sums[2])
{
    const __m512 factor = _mm512_set1_ps(by);
    __m128i a = _mm512_cvtepi32_epi8(
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in), factor)));
    __m128i b = _mm512_cvtepi32_epi8(
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in + VEC), factor)));
    _mm_storeu_si128((__m128i *)q, a);
    _mm_storeu_si128((__m128i *)(q + 16), b);
    sums[0] = sum_bytes(a);
    sums[1] = sum_bytes(b);
}

/* 16 bytes at `offset` of each of 16 rows, as 4 vectors of one dword per row. */
VEC_INLINE void transpose(const char *const rows[VEC], size_t offset, ivec out[4])
{
    ivec a[4];

    for (int i = 0; i < 4; i++) { /* 128-bit lane l of a[i] is row 4 l + i */
        a[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(rows[i] + offset)));
        a[i] = _mm512_mask_broadcast_i32x4(
            a[i], 0x00f0, _mm_loadu_si128((const void *)(rows[4 + i] + offset)));
        a[i] = _mm512_mask_broadcast_i32x4(
            a[i], 0x0f00, _mm_loadu_si128((const void *)(rows[8 + i] + offset)));
        a[i] = _mm512_mask_broadcast_i32x4(
            a[i], 0xf000, _mm_loadu_si128((const void *)(rows[12 + i] + offset)));
    }
    ivec low01 = _mm512_unpacklo_epi32(a[0], a[1]), high01 = _mm512_unpackhi_epi32(a[0], a[1]);
    ivec low23 = _mm512_unpacklo_epi32(a[2], a[3]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

VEC_INLINE ivec dwords(const char *const rows[VEC], size_t offset)
{
    ivec even = _mm512_setzero_si512(), odd = even;

    for (int r = 0; r < VEC; r += 2) {
        even = _mm512_mask_broadcastd_epi32(even, (__mmask16)(1 << r),
                                            _mm_loadu_si32(rows[r] + offset));
        odd = _mm512_mask_broadcastd_epi32(odd, (__mmask16)(2 << r),
                                           _mm_loadu_si32(rows[r + 1] + offset));
    }
    return _mm512_or_si512(even, odd);
}

VEC_INLINE ivec ivec_set(uint32_t x)
{
    return _mm512_set1_epi32((int32_t)x);
}

VEC_INLINE ivec ivec_and(ivec a, ivec b)
{
    return _mm512_and_si512(a, b);
}

VEC_INLINE ivec ivec_or(ivec a, ivec b)
{
    return _mm512_or_si512(a, b);
}

VEC_INLINE ivec ivec_xor(ivec a, ivec b)
{
    return _mm512_xor_si512(a, b);
}

VEC_INLINE ivec ivec_add(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}

VEC_INLINE ivec ivec_sub(ivec a, ivec b)
{
    return _mm512_sub_epi32(a, b);
}

VEC_INLINE ivec ivec_srl(ivec x, int n)
{
    return _mm512_srl_epi32(x, _mm_cvtsi32_si128(n));
}

VEC_INLINE ivec ivec_sll(ivec x, int n)
{
    return _mm512_sll_epi32(x, _mm_cvtsi32_si128(n));
}

VEC_INLINE ivec ivec_sra(ivec x, int n)
{
    return _mm512_sra_epi32(x, _mm_cvtsi32_si128(n));
}

/* table[byte] for every byte, each below 16 */
VEC_INLINE ivec ivec_lut(const int8_t table[16], ivec x)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), x);
}

VEC_INLINE vec ivec_float(ivec x)
{
    return _mm512_cvtepi32_ps(x);
}

/* the low 16 bits as float16 */
VEC_INLINE vec ivec_half(ivec x)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

/* float32 as its bits */
VEC_INLINE vec ivec_as_float(ivec x)
{
    return _mm512_castsi512_ps(x);
}

/* 2^(x - 127) for 0 <= x <= 254, subnormal at 0; NaN at 255 */
VEC_INLINE vec ivec_exponent(ivec x)
{
    __mmask16 zero = _mm512_cmpeq_epi32_mask(x, _mm512_setzero_si512());
    return _mm512_castsi512_ps(
        _mm512_mask_blend_epi32(zero, _mm512_slli_epi32(x, 23), _mm512_set1_epi32(1 << 22)));
}

VEC_INLINE ivec dot_step(ivec acc, ivec w, const char *q)
{
    int32_t four;

    memcpy(&four, q, sizeof four);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
}

VEC_INLINE ivec dot_steps(enum quant_type type, ivec acc, const ivec *w, const char *q, int n)
{
    (void)type;
#pragma GCC unroll 8
    for (int k = 0; k < n; k++)
        acc = dot_step(acc, w[k], q + 4 * k);
    return acc;
}

static void linear_dot(const struct cpu_linear_slice *s)
{
    float_rows(FORM_DOT, s);
}

static void round_row(const float *in, int64_t cols, uint16_t *out)
{
    round_inputs(in, cols, out);
}

enum { SIGNED_DOTS = 0 };

#include "kernels/cpu/linear_quant_vec.h"

void linear_avx512(struct cpu_variants *v, const struct cpu_features *f)
{
    v->linear_rows[QUANT_F32] = linear_f32;
    v->linear_rows[QUANT_F16] = linear_f16;
    v->linear_rows[QUANT_BF16] = linear_bf16;
    v->linear_rows[QUANT_F8_128] = linear_f8;
    v->quantize_row = quantize_row;
    if (f->level >= CPU_AVX512_BF16) {
        v->linear_rows[QUANT_BF16] = linear_dot;
        v->linear_input[QUANT_BF16] = CPU_INPUT_BF16;
        v->round_row = round_row;
    }
    if (!f->vnni)
        return;
    quant_register(v);
}
#endif
