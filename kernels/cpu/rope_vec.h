/* rope_vec: the vector forms of rope.c's loops; included by rope_avx2.c and rope_avx512.c. Both
 * layouts round a cos and b sin the same way in every lane and in the tail. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#include <math.h>
#include <string.h>

static void rope_half_split(float *head, const float *cos_sin, int n_freq)
{
    for (int j = 0; j < n_freq; j += VEC) {
        int left = n_freq - j < VEC ? n_freq - j : VEC;
        vec c, s, a = vec_load_n(head + j, left), b = vec_load_n(head + n_freq + j, left);
        vec_pairs(cos_sin + 2 * j, left, &c, &s);
        vec_store_n(head + j, vec_sub(vec_mul(a, c), vec_mul(b, s)), left);
        vec_store_n(head + n_freq + j, vec_fma(a, s, vec_mul(b, c)), left);
    }
}

static void rope_interleaved(float *head, const float *cos_sin, int n_freq)
{
    for (int j = 0; j < n_freq; j += VEC) {
        int left = n_freq - j < VEC ? n_freq - j : VEC;
        vec c, s, a, b;
        vec_pairs(cos_sin + 2 * j, left, &c, &s);
        vec_pairs(head + 2 * j, left, &a, &b);
        vec_store_pairs(head + 2 * j, vec_sub(vec_mul(a, c), vec_mul(b, s)),
                        vec_fma(a, s, vec_mul(b, c)), left);
    }
}

static void rope_head(float *head, const float *cos_sin, int n_freq, bool interleaved)
{
    if (interleaved)
        rope_interleaved(head, cos_sin, n_freq);
    else
        rope_half_split(head, cos_sin, n_freq);
}

/* quant_f32_to_fp8 without branches, so that compilers make vectors of it. */
static void encode_fp8(const float *in, uint8_t *out, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t u, small;
        memcpy(&u, &in[i], sizeof u);
        uint32_t sign = u >> 24 & 0x80, magnitude = u & 0x7fffffff;
        float shifted = fabsf(in[i]) + 0x1p14f;
        memcpy(&small, &shifted, sizeof small);
        uint32_t code = (magnitude + 0x7ffff + (magnitude >> 20 & 1) - 0x3c000000) >> 20;
        code = magnitude < 0x3c800000 ? small - 0x46800000 : code;
        code = magnitude >= 0x43e00000 ? 0x7e : code;
        code = magnitude > 0x7f800000 ? 0x7f : code;
        out[i] = (uint8_t)(sign | code);
    }
}

static void kv_encode(enum quant_type type, const float *in, void *out, int n)
{
    if (type == QUANT_FP8) {
        encode_fp8(in, out, n);
        return;
    }
    for (int i = 0; i < n; i += VEC) {
        int left = n - i < VEC ? n - i : VEC;
        vec x = vec_load_n(in + i, left);
        if (type == QUANT_F32)
            vec_store_n((float *)out + i, x, left);
        else if (type == QUANT_F16)
            vec_store_f16_n((uint16_t *)out + i, x, left);
        else
            vec_store_bf16_n((uint16_t *)out + i, x, left);
    }
}
