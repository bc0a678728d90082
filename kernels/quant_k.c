/* quant_k: scalar decoders of the 4 and 5 bit block formats and of the formats with blocks of 256
 * values; quant.h has their layouts. Pure functions; any thread.
 *
 * The order of the float operations is the one these formats are defined by (multiply the scales,
 * then the value, then subtract the minimum), so that results are exact to the bit. */
#include "kernels/quant.h"

#include <string.h>

enum { HALF = 16, BLOCK = 32, SUPER = 256 };

/* Non-linear 4 bit levels of IQ4_NL and IQ4_XS; E2M1 of the OCP microscaling specification, doubled
 * so that they are integers. */
const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
const int8_t quant_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static float half_at(const uint8_t *at)
{
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return quant_f16_to_f32(h);
}

static uint32_t word_at(const uint8_t *at)
{
    uint32_t w;
    memcpy(&w, at, sizeof w);
    return w;
}

void quant_decode_q4_1(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += 20, out += BLOCK) {
        float d = half_at(at), m = half_at(at + 2);
        for (int i = 0; i < HALF; i++) {
            out[i] = (float)(at[4 + i] & 15) * d + m;
            out[i + HALF] = (float)(at[4 + i] >> 4) * d + m;
        }
    }
}

void quant_decode_q5_0(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += 22, out += BLOCK) {
        float d = half_at(at);
        uint32_t high = word_at(at + 2);
        for (int i = 0; i < HALF; i++) {
            int low = at[6 + i] & 15, upper = at[6 + i] >> 4;
            out[i] = (float)((low | (int)(high >> i & 1) << 4) - 16) * d;
            out[i + HALF] = (float)((upper | (int)(high >> (i + HALF) & 1) << 4) - 16) * d;
        }
    }
}

void quant_decode_q5_1(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += 24, out += BLOCK) {
        float d = half_at(at), m = half_at(at + 2);
        uint32_t high = word_at(at + 4);
        for (int i = 0; i < HALF; i++) {
            int low = at[8 + i] & 15, upper = at[8 + i] >> 4;
            out[i] = (float)(low | (int)(high >> i & 1) << 4) * d + m;
            out[i + HALF] = (float)(upper | (int)(high >> (i + HALF) & 1) << 4) * d + m;
        }
    }
}

static void table_block(const int8_t table[16], const uint8_t *qs, float d, float *out)
{
    for (int i = 0; i < HALF; i++) {
        out[i] = d * (float)table[qs[i] & 15];
        out[i + HALF] = d * (float)table[qs[i] >> 4];
    }
}

void quant_decode_iq4_nl(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += 18, out += BLOCK)
        table_block(quant_iq4_values, at + 2, half_at(at), out);
}

/* 2^(e - 128), subnormal below e = 2: half of E8M0's 2^(e - 127), as the table is doubled. */
static float mxfp4_scale(uint8_t e)
{
    uint32_t bits = e < 2 ? UINT32_C(0x00200000) << e : (uint32_t)(e - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

void quant_decode_mxfp4(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / BLOCK; b++, at += 17, out += BLOCK)
        table_block(quant_mxfp4_values, at + 1, mxfp4_scale(at[0]), out);
}

/* ---- blocks of 256 ---- */

void quant_decode_q2_k(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 84, out += SUPER) {
        float d = half_at(at + 80), m = half_at(at + 82);
        for (int i = 0; i < SUPER; i++) {
            int s = i / BLOCK, h = i / HALF;
            int q = at[16 + BLOCK * (s / 4) + i % BLOCK] >> 2 * (s % 4) & 3;
            float scale = d * (float)(at[h] & 15), least = m * (float)(at[h] >> 4);
            out[i] = scale * (float)q - least;
        }
    }
}

/* Scale h of 16: its low 4 bits are a nibble of bytes 0..7 (low for h < 8), its high 2 bits are
 * bits 2 (h / 4) of byte 8 + h % 4. */
static int q3_k_scale(const uint8_t *packed, int h)
{
    int low = h < 8 ? packed[h] & 15 : packed[h - 8] >> 4;
    return (low | (packed[8 + h % 4] >> 2 * (h / 4) & 3) << 4) - 32;
}

void quant_decode_q3_k(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 110, out += SUPER) {
        float d = half_at(at + 108);
        for (int i = 0; i < SUPER; i++) {
            int s = i / BLOCK;
            int q = at[32 + BLOCK * (s / 4) + i % BLOCK] >> 2 * (s % 4) & 3;
            q |= (at[i % BLOCK] >> s & 1) << 2;
            out[i] = d * (float)q3_k_scale(at + 96, i / HALF) * (float)(q - 4);
        }
    }
}

/* Scale and minimum s of 8: for s < 4 the low 6 bits of bytes s and s + 4; above, byte s + 4 holds
 * their low 4 bits (scale low, minimum high), and the top 2 bits of bytes s - 4 and s their high.
 */
static void q4_k_scale(const uint8_t *packed, int s, int *scale, int *least)
{
    if (s < 4) {
        *scale = packed[s] & 63;
        *least = packed[s + 4] & 63;
        return;
    }
    *scale = (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
    *least = packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
}

/* Q4_K and, with the fifth bits at `high`, Q5_K: header, then the nibbles at qs. */
static void decode_q45_k(const uint8_t *at, const uint8_t *high, const uint8_t *qs, float *out)
{
    float d = half_at(at), m = half_at(at + 2);
    for (int s = 0; s < SUPER / BLOCK; s++, out += BLOCK) {
        int scale, least;
        q4_k_scale(at + 4, s, &scale, &least);
        float ds = d * (float)scale, ms = m * (float)least;
        for (int i = 0; i < BLOCK; i++) {
            int q = qs[BLOCK * (s / 2) + i] >> 4 * (s % 2) & 15;
            if (high)
                q |= (high[i] >> s & 1) << 4;
            out[i] = ds * (float)q - ms;
        }
    }
}

void quant_decode_q4_k(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 144, out += SUPER)
        decode_q45_k(at, NULL, at + 16, out);
}

void quant_decode_q5_k(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 176, out += SUPER)
        decode_q45_k(at, at + 16, at + 48, out);
}

void quant_decode_q6_k(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 210, out += SUPER) {
        float d = half_at(at + 208);
        for (int i = 0; i < SUPER; i++) {
            int p = i / 128, r = i / BLOCK % 4;
            int q = at[64 * p + i % 64] >> 4 * (r / 2) & 15;
            q |= (at[128 + BLOCK * p + i % BLOCK] >> 2 * r & 3) << 4;
            out[i] = d * (float)(int8_t)at[192 + i / HALF] * (float)(q - 32);
        }
    }
}

/* Scale s of 8: its low 4 bits are a nibble of byte s / 2 (low for even s), its high 2 bits are
 * bits 2 s of the 16 bit word before. */
void quant_decode_iq4_xs(const void *row, float *out, size_t n)
{
    const uint8_t *at = row;
    for (size_t b = 0; b < n / SUPER; b++, at += 136, out += SUPER) {
        float d = half_at(at);
        uint32_t word = word_at(at);
        for (int s = 0; s < SUPER / BLOCK; s++) {
            int scale = at[4 + s / 2] >> 4 * (s % 2) & 15;
            scale |= (int)(word >> (16 + 2 * s) & 3) << 4;
            table_block(quant_iq4_values, at + 8 + HALF * s, d * (float)(scale - 32),
                        out + BLOCK * s);
        }
    }
}
