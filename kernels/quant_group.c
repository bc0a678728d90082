/* quant_group: scalar decoders of the formats that checkpoints of other quantizers are repacked to;
 * quant.h has their layouts. Pure functions; any thread.
 *
 * d (q - z) is one product of a float32 with a small integer: what GPTQ, AWQ and compressed-tensors
 * define their values by, rounded once. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

enum { HALF = 16, BLOCK = 32, LONG = 128 };

struct head {
    float d;
    int z;
};

/* The 6 bytes that the blocks of G4 and G8 begin with. */
static struct head head_at(const uint8_t *at)
{
    struct head h;
    int16_t z;
    memcpy(&h.d, at, sizeof h.d);
    memcpy(&z, at + sizeof h.d, sizeof z);
    h.z = z;
    return h;
}

/* 32 values */
static void decode_nibbles(struct head h, const uint8_t *qs, float *out)
{
    for (int i = 0; i < HALF; i++) {
        out[i] = h.d * (float)((qs[i] & 15) - h.z);
        out[i + HALF] = h.d * (float)((qs[i] >> 4) - h.z);
    }
}

static void decode_4(const uint8_t *at, float *out, size_t n, size_t block)
{
    for (size_t b = 0; b < n / block; b++) {
        struct head h = head_at(at);
        at += 6;
        for (size_t s = 0; s < block / BLOCK; s++, at += HALF, out += BLOCK)
            decode_nibbles(h, at, out);
    }
}

static void decode_8(const uint8_t *at, float *out, size_t n, size_t block)
{
    for (size_t b = 0; b < n / block; b++, out += block) {
        struct head h = head_at(at);
        at += 6;
        for (size_t i = 0; i < block; i++)
            out[i] = h.d * (float)((int8_t)*at++ - h.z);
    }
}

void quant_decode_g4(const void *row, float *out, size_t n)
{
    decode_4(row, out, n, BLOCK);
}

void quant_decode_g4_128(const void *row, float *out, size_t n)
{
    decode_4(row, out, n, LONG);
}

void quant_decode_g8(const void *row, float *out, size_t n)
{
    decode_8(row, out, n, BLOCK);
}

void quant_decode_g8_128(const void *row, float *out, size_t n)
{
    decode_8(row, out, n, LONG);
}

/* The 7 bits below the sign, put where float16 has its lowest exponent bits and its highest
 * fraction bits, are the value divided by 2^8, the difference of the biases; subnormals too. */
float quant_e4m3_to_f32(uint8_t b)
{
    return quant_f16_to_f32((uint16_t)((b & 0x80) << 8 | (b & 0x7f) << 7)) * 256;
}

float quant_fp8_to_f32(uint8_t b)
{
    return (b & 0x7f) == 0x7f ? NAN : quant_e4m3_to_f32(b);
}

void quant_decode_fp8(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t i = 0; i < n; i++)
        out[i] = quant_fp8_to_f32(at[i]);
}

void quant_decode_f8_128(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / LONG; b++, at += LONG, out += LONG) {
        float d;
        memcpy(&d, at, sizeof d);
        at += sizeof d;
        for (int i = 0; i < LONG; i++)
            out[i] = quant_e4m3_to_f32(at[i]) * d;
    }
}
