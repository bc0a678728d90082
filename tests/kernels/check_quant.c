/* check_quant: the storage formats' scalar encode and decode. */
#include "tests/kernels/check.h"

#include <math.h>
#include <string.h>

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Every half decodes to what its fields say and encodes back; between two neighbours the nearer one
 * is chosen, the even one halfway. */
static void halves(const char *name, float (*to)(uint16_t), uint16_t (*from)(float),
                   uint32_t infinity)
{
    check_case("quant %s: all values and all midpoints", name);
    for (uint32_t h = 0; h < infinity; h++) {
        float f = to((uint16_t)h), next = h + 1 < infinity ? to((uint16_t)(h + 1)) : f;
        float middle = (float)(((double)f + (double)next) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        if (!check_expect(from(f) == h && from(-f) == (h | 0x8000), "%04x does not return", h))
            return;
        if (h + 1 == infinity)
            break;
        if (!check_expect(from(middle) == even && from(nextafterf(middle, f)) == h &&
                              from(nextafterf(middle, next)) == h + 1,
                          "%04x: rounding to the next value", h))
            return;
    }
    uint32_t nan = bits(to((uint16_t)(infinity + 1))) & 0x7fffffff;
    check_expect(nan > 0x7f800000, "a NaN decodes to a NaN");
    check_expect((from(NAN) & 0x7fff) > infinity, "a NaN encodes to a NaN");
    check_expect((from(INFINITY) & 0x7fff) == infinity, "infinity");
    check_expect((from(3.4e38f) & 0x7fff) == infinity, "overflow");
}

static void known_values(void)
{
    check_case("quant: known values");
    check_expect(quant_f16_to_f32(0x3c00) == 1 && quant_f16_to_f32(0x0001) == 0x1p-24f &&
                     quant_f16_to_f32(0xc000) == -2 && quant_f16_to_f32(0x7bff) == 65504,
                 "F16");
    check_expect(quant_bf16_to_f32(0x3f80) == 1 && quant_f32_to_bf16(-2) == 0xc000, "BF16");
    uint8_t q8[34] = {0x00, 0x38, 1, 0xff, 127, 0x80}, q4[18] = {0x00, 0x40, 0x0f, 0x80};
    float out[32];
    quant_formats[QUANT_Q8_0].decode(q8, out, 32); /* d = 0.5 */
    check_expect(out[0] == 0.5f && out[1] == -0.5f && out[2] == 63.5f && out[3] == -64, "Q8_0");
    quant_formats[QUANT_Q4_0].decode(q4, out, 32); /* d = 2 */
    check_expect(out[0] == 14 && out[16] == -16 && out[1] == -16 && out[17] == 0, "Q4_0");
}

/* The formats of other quantizers' checkpoints; tests/golden/repack_test.c has whole matrices. */
static void known_groups(void)
{
    uint8_t g4[70] = {0, 0, 0, 0x3f, 3, 0}, g8[134] = {0, 0, 0, 0x3f, 0xfe, 0xff};
    uint8_t f8[132] = {0, 0, 0, 0x3f, 0x38, 0xb8, 0x7e, 0x01, 0x08, 0x7b};
    float out[128];
    check_case("quant: known values of group formats");
    g4[6] = 0x0f; /* d = 0.5, z = 3 */
    g4[6 + 16] = 0x21;
    quant_formats[QUANT_G4].decode(g4, out, 32);
    check_expect(out[0] == 6 && out[16] == -1.5f && out[1] == -1.5f, "G4");
    quant_formats[QUANT_G4_128].decode(g4, out, 128);
    check_expect(out[0] == 6 && out[16] == -1.5f && out[32] == -1 && out[48] == -0.5f &&
                     out[127] == -1.5f,
                 "G4_128");
    g8[6] = 0x80; /* z = -2 */
    g8[6 + 100] = 127;
    quant_formats[QUANT_G8].decode(g8, out, 32);
    check_expect(out[0] == -63 && out[31] == 1, "G8");
    quant_formats[QUANT_G8_128].decode(g8, out, 128);
    check_expect(out[0] == -63 && out[100] == 64.5f && out[127] == 1, "G8_128");
    quant_formats[QUANT_F8_128].decode(f8, out, 128);
    check_expect(out[0] == 0.5f && out[1] == -0.5f && out[2] == 224 && out[3] == 0x1p-10f &&
                     out[4] == 0x1p-7f && out[5] == 176 && out[127] == 0,
                 "F8_128");
    check_expect(quant_from_gguf(UINT32_MAX) == -1, "no GGUF number");
}

/* Every number of E4M3 (OCP 8-bit floating point specification, table 1) and the ends of what each
 * of them stands for: halves between neighbours go to the even one, and all above 448 is 448. */
static void known_fp8(void)
{
    check_case("quant: FP8");
    for (int code = 0; code < 0x7f; code++) {
        int exponent = code >> 3, fraction = code & 7;
        float x = exponent ? ldexpf((float)(8 + fraction), exponent - 10)
                           : ldexpf((float)fraction, -9);
        float next = quant_fp8_to_f32((uint8_t)(code + 1)), half = (x + next) / 2;
        check_expect(quant_fp8_to_f32((uint8_t)code) == x &&
                         quant_fp8_to_f32((uint8_t)(code | 0x80)) == -x,
                     "%02x is %g", code, (double)x);
        check_expect(quant_f32_to_fp8(x) == code && quant_f32_to_fp8(-x) == (code | 0x80),
                     "%g is %02x", (double)x, code);
        if (code == 0x7e)
            continue;
        check_expect(quant_f32_to_fp8(half) == (code + 1) / 2 * 2, "half above %02x", code);
        check_expect(quant_f32_to_fp8(nextafterf(half, 0)) == code &&
                         quant_f32_to_fp8(nextafterf(half, 500)) == code + 1,
                     "next to the half above %02x", code);
    }
    check_expect(quant_f32_to_fp8(449) == 0x7e && quant_f32_to_fp8(-1e30f) == 0xfe &&
                     quant_f32_to_fp8(INFINITY) == 0x7e,
                 "saturates");
    check_expect((quant_f32_to_fp8(NAN) & 0x7f) == 0x7f && isnan(quant_fp8_to_f32(0x7f)) &&
                     isnan(quant_fp8_to_f32(0xff)),
                 "NaN");
}

/* FNV-1a of what the format's reference implementation (the gguf Python package, 0.19) decodes from
 * eight blocks of known bytes: see `known_blocks`. */
static const struct {
    enum quant_type type;
    uint64_t hash;
} decoded_hashes[] = {
    {QUANT_Q4_0, 0x5a92a4973b402941},
    {QUANT_Q8_0, 0xd5373e109b4c0edc},
    {QUANT_Q4_1, 0x3e7722870ccce93a},
    {QUANT_Q5_0, 0x187bb424aebd11dd},
    {QUANT_Q5_1, 0xc5ca7798830241c3},
    {QUANT_IQ4_NL, 0x6422ea9e31cf7688},
    {QUANT_MXFP4, 0x3808f6bc884364e8},
    {QUANT_Q2_K, 0x9d3a96b4e5cb00b1},
    {QUANT_Q3_K, 0x18c963d4b5c7cdd8},
    {QUANT_Q4_K, 0xd7bdd34f670c7365},
    {QUANT_Q5_K, 0x909f2dfec527ab02},
    {QUANT_Q6_K, 0x7a114d8825ac8070},
    {QUANT_IQ4_XS, 0xa1456641201d93fb},
};

static void known_blocks(void)
{
    for (size_t k = 0; k < sizeof decoded_hashes / sizeof *decoded_hashes; k++) {
        enum quant_type type = decoded_hashes[k].type;
        const struct quant_format *f = &quant_formats[type];
        const int(*scales)[2] = check_scales_at(type);
        uint32_t x = (uint32_t)f->gguf_type;
        uint64_t hash = 0xcbf29ce484222325u;
        uint8_t row[8 * 256];
        float out[8 * 256];
        check_case("quant %s: decodes known blocks to the bit", f->name);
        for (int b = 0; b < 8; b++) {
            uint8_t *block = row + b * f->block_bytes;
            for (int i = 0; i < f->block_bytes; i++)
                block[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
            for (int i = 0; i < 2 && type != QUANT_MXFP4; i++) /* 2^-4 to 2^-3 */
                block[(*scales)[i] + 1] = (uint8_t)(0x2c | (block[(*scales)[i] + 1] & 3));
            if (type == QUANT_MXFP4)
                block[0] = (uint8_t)(120 + block[0] % 8);
        }
        f->decode(row, out, (size_t)(8 * f->block));
        for (size_t i = 0; i < (size_t)(8 * f->block) * sizeof *out; i++)
            hash = (hash ^ ((const uint8_t *)out)[i]) * 0x100000001b3u;
        check_expect(hash == decoded_hashes[k].hash, "hash %016llx", (unsigned long long)hash);
    }
}

static void encoded(enum quant_type type, float share)
{
    float in[256], out[256];
    uint8_t row[512];

    check_case("quant %s: encoding error", quant_formats[type].name);
    for (int round = 0; round < 50; round++) {
        check_fill(in, 256);
        if (round == 0)
            memset(in, 0, 32 * sizeof *in);
        quant_encode(type, in, row, 256);
        quant_formats[type].decode(row, out, 256);
        for (int b = 0; b < 256; b += 32) {
            float most = 0;
            for (int i = b; i < b + 32; i++)
                most = fmaxf(most, fabsf(in[i]));
            for (int i = b; i < b + 32; i++)
                check_expect(fabsf(out[i] - in[i]) <= most * share, "%g became %g (of %g)",
                             (double)in[i], (double)out[i], (double)most);
        }
    }
}

void check_quant(void)
{
    halves("F16", quant_f16_to_f32, quant_f32_to_f16, 0x7c00);
    halves("BF16", quant_bf16_to_f32, quant_f32_to_bf16, 0x7f80);
    known_values();
    known_groups();
    known_fp8();
    known_blocks();
    encoded(QUANT_F16, 0x1p-11f);
    encoded(QUANT_BF16, 0x1p-8f);
    encoded(QUANT_Q8_0, 0.6f / 127);  /* half a step, and the scale's own rounding */
    encoded(QUANT_Q4_0, 1.02f / 8);   /* a whole step at the positive end */

    check_case("quant: names and sizes");
    check_expect(quant_from_name("q8_0") == QUANT_Q8_0 && quant_from_name("BF16") == QUANT_BF16 &&
                     quant_from_name("F3") == -1 && quant_from_name("F322") == -1 &&
                     quant_from_name("") == -1,
                 "names");
    check_expect(quant_from_gguf(30) == QUANT_BF16 && quant_from_gguf(2) == QUANT_Q4_0 &&
                     quant_from_gguf(9) == -1,
                 "GGUF numbers");
    check_expect(quant_row_bytes(QUANT_Q4_0, 64) == 36 && quant_row_bytes(QUANT_Q4_0, 33) == 0 &&
                     quant_row_bytes(QUANT_F32, SIZE_MAX / 2) == 0,
                 "row bytes");
}
