/* quant: scalar encode and decode of the storage formats listed in quant.h.
 *
 * Pure functions and constant tables; any thread. These loops are the truth the vector kernels are
 * tested against. Block layouts: see quant.h. All reads go through memcpy, so a row may have any
 * alignment; the formats are little-endian, as is every machine this is built for. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32, Q8_BYTES = 34, Q4_BYTES = 18 };

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float quant_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;

    if (exponent == 31)
        return bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact in float */
        float magnitude = (float)fraction * 0x1p-24f;
        return bits_float(sign | float_bits(magnitude));
    }
    return bits_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

uint16_t quant_f32_to_f16(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;

    if (magnitude > 0x7f800000u) /* NaN: quiet, upper payload kept */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Below the least normal 2^-14: adding 0.5 leaves exactly 24 fractional bits, so the
         * addition itself rounds to nearest even in units of 2^-24. */
        float shifted = bits_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_bits(shifted) - 0x3f000000u));
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}

float quant_bf16_to_f32(uint16_t h)
{
    return bits_float((uint32_t)h << 16);
}

uint16_t quant_f32_to_bf16(float f)
{
    uint32_t u = float_bits(f);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

uint8_t quant_f32_to_fp8(float f)
{
    uint32_t u = float_bits(f), sign = u >> 24 & 0x80u, magnitude = u & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (magnitude >= 0x43e00000u) /* 448 */
        return (uint8_t)(sign | 0x7eu);
    if (magnitude < 0x3c800000u) {
        /* Below the least normal 2^-6: adding 2^14 rounds in units of 2^-9. */
        float shifted = bits_float(magnitude) + 0x1p14f;
        return (uint8_t)(sign | (float_bits(shifted) - 0x46800000u));
    }
    magnitude += 0x7ffffu + (magnitude >> 20 & 1u);
    return (uint8_t)(sign | ((magnitude - 0x3c000000u) >> 20));
}

static uint16_t read_u16(const void *at)
{
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return h;
}

static void decode_f32(const void *row, float *out, size_t n)
{
    memcpy(out, row, n * sizeof *out);
}

static void decode_f16(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t i = 0; i < n; i++)
        out[i] = quant_f16_to_f32(read_u16(at + 2 * i));
}

static void decode_bf16(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t i = 0; i < n; i++)
        out[i] = quant_bf16_to_f32(read_u16(at + 2 * i));
}

static void decode_q8_0(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += Q8_BYTES, out += BLOCK) {
        float d = quant_f16_to_f32(read_u16(at));
        for (int i = 0; i < BLOCK; i++)
            out[i] = d * (float)(int8_t)at[2 + i];
    }
}

static void decode_q4_0(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += Q4_BYTES, out += BLOCK) {
        float d = quant_f16_to_f32(read_u16(at));
        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = d * (float)((at[2 + i] & 15) - 8);
            out[i + BLOCK / 2] = d * (float)((at[2 + i] >> 4) - 8);
        }
    }
}

#define QUANT_ROW(id, text, values, bytes, gguf) [id] = {text, values, bytes, gguf, DECODE_##id},
#define DECODE_QUANT_F32 decode_f32
#define DECODE_QUANT_F16 decode_f16
#define DECODE_QUANT_BF16 decode_bf16
#define DECODE_QUANT_Q8_0 decode_q8_0
#define DECODE_QUANT_Q4_0 decode_q4_0
#define DECODE_QUANT_Q4_1 quant_decode_q4_1
#define DECODE_QUANT_Q5_0 quant_decode_q5_0
#define DECODE_QUANT_Q5_1 quant_decode_q5_1
#define DECODE_QUANT_IQ4_NL quant_decode_iq4_nl
#define DECODE_QUANT_MXFP4 quant_decode_mxfp4
#define DECODE_QUANT_Q2_K quant_decode_q2_k
#define DECODE_QUANT_Q3_K quant_decode_q3_k
#define DECODE_QUANT_Q4_K quant_decode_q4_k
#define DECODE_QUANT_Q5_K quant_decode_q5_k
#define DECODE_QUANT_Q6_K quant_decode_q6_k
#define DECODE_QUANT_IQ4_XS quant_decode_iq4_xs
#define DECODE_QUANT_G4 quant_decode_g4
#define DECODE_QUANT_G4_128 quant_decode_g4_128
#define DECODE_QUANT_G8 quant_decode_g8
#define DECODE_QUANT_G8_128 quant_decode_g8_128
#define DECODE_QUANT_F8_128 quant_decode_f8_128
#define DECODE_QUANT_FP8 quant_decode_fp8
const struct quant_format quant_formats[QUANT_COUNT] = {QUANT_LIST(QUANT_ROW)};

int quant_from_gguf(uint32_t gguf_type)
{
    for (int i = 0; i < QUANT_COUNT; i++)
        if (quant_formats[i].gguf_type >= 0 && (uint32_t)quant_formats[i].gguf_type == gguf_type)
            return i;
    return -1;
}

static char upper(char c)
{
    return c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

int quant_from_name(const char *name)
{
    for (int i = 0; i < QUANT_COUNT; i++) {
        const char *a = name, *b = quant_formats[i].name;
        while (*b && upper(*a) == *b)
            a++, b++;
        if (!*a && !*b)
            return i;
    }
    return -1;
}

size_t quant_row_bytes(enum quant_type type, size_t n)
{
    const struct quant_format *f = &quant_formats[type];
    size_t bytes;

    if (n % (size_t)f->block ||
        __builtin_mul_overflow(n / (size_t)f->block, (size_t)f->block_bytes, &bytes))
        return 0;
    return bytes;
}

/* A finite quotient rounded to the nearest integer in lo..hi; a NaN becomes 0. */
static int round_into(float x, int lo, int hi)
{
    if (!(x > (float)lo))
        return x != x ? 0 : lo;
    return x < (float)hi ? (int)lrintf(x) : hi;
}

static void write_scale(uint8_t *at, float d)
{
    uint16_t h = quant_f32_to_f16(d);
    memcpy(at, &h, sizeof h);
}

static void encode_q8_0(const float *in, uint8_t *at, size_t n)
{
    for (size_t b = 0; b < n / BLOCK; b++, at += Q8_BYTES, in += BLOCK) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++)
            most = fmaxf(most, fabsf(in[i]));
        float d = most / 127, inverse = d > 0 ? 1 / d : 0;
        write_scale(at, d);
        for (int i = 0; i < BLOCK; i++)
            at[2 + i] = (uint8_t)(int8_t)round_into(in[i] * inverse, -127, 127);
    }
}

static void encode_q4_0(const float *in, uint8_t *at, size_t n)
{
    for (size_t b = 0; b < n / BLOCK; b++, at += Q4_BYTES, in += BLOCK) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++)
            if (fabsf(in[i]) > fabsf(most))
                most = in[i];
        float d = most / -8, inverse = d != 0 ? 1 / d : 0;
        write_scale(at, d);
        for (int i = 0; i < BLOCK / 2; i++) {
            int low = round_into(in[i] * inverse, -8, 7) + 8;
            int high = round_into(in[i + BLOCK / 2] * inverse, -8, 7) + 8;
            at[2 + i] = (uint8_t)(low | high << 4);
        }
    }
}

bool quant_encodes(enum quant_type type)
{
    return type <= QUANT_Q4_0 || type == QUANT_FP8;
}

void quant_encode(enum quant_type type, const float *in, void *row, size_t n)
{
    uint8_t *at = row;

    switch (type) {
    case QUANT_F32:
        memcpy(row, in, n * sizeof *in);
        break;
    case QUANT_F16:
    case QUANT_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t h = type == QUANT_F16 ? quant_f32_to_f16(in[i]) : quant_f32_to_bf16(in[i]);
            memcpy(at + 2 * i, &h, sizeof h);
        }
        break;
    case QUANT_Q8_0:
        encode_q8_0(in, at, n);
        break;
    case QUANT_Q4_0:
        encode_q4_0(in, at, n);
        break;
    case QUANT_FP8:
        for (size_t i = 0; i < n; i++)
            at[i] = quant_f32_to_fp8(in[i]);
        break;
    default: /* see quant_encodes */
        break;
    }
}
