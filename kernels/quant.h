/* clang-format off */
/* quant: THE LIST of storage formats: layouts and scalar decode. Compiles as C11 and CUDA C++.
 *
 * A row of a matrix is n values in blocks of `block` values, `bytes` bytes each, without padding.
 * Layouts are those of GGUF files (the format's specification, ggml-common.h's block structs).
 * d and m are float16 scales; q a value's bits as an unsigned number; i counts the values of a
 * block, and low / high are the nibbles of a byte.
 *
 *   type     bytes of a block, in order             value                 where q is
 *   Q8_0     d, int8 q[32]                          d q
 *   Q4_0     d, qs[16]                              d (q - 8)             low: i < 16, high: i + 16
 *   Q4_1     d, m, qs[16]                           d q + m               as Q4_0
 *   Q5_0     d, qh[4], qs[16]                       d (q - 16)            bit i of qh: its fifth
 *   Q5_1     d, m, qh[4], qs[16]                    d q + m               as Q5_0
 *   IQ4_NL   d, qs[16]                              d table[q]            as Q4_0, with
 *                                                                         quant_iq4_values
 *   MXFP4    e, qs[16]                              2^(e - 128) table[q]  as Q4_0, with
 *                                                                         quant_mxfp4_values
 *
 * The others have blocks of 256 values; s = i / 32 and h = i / 16 number their parts, p = i / 128:
 *
 *   Q2_K     sm[16], qs[64], d, m                   d (sm[h] & 15) q - m (sm[h] >> 4)
 *            q: bits 2 (s % 4) of qs[32 p + i % 32]
 *   Q3_K     hm[32], qs[64], sc[12], d              d (scale h - 32) (q - 4)
 *            q: as Q2_K; bit s of hm[i % 32] is its third
 *   Q4_K     d, m, sm[12], qs[128]                  d (scale s) q - m (min s)
 *            q: qs[32 (s / 2) + i % 32], high for odd s
 *   Q5_K     d, m, sm[12], qh[32], qs[128]          d (scale s) q - m (min s)
 *            q: as Q4_K; bit s of qh[i % 32] is its fifth
 *   Q6_K     ql[128], qh[64], int8 sc[16], d        d sc[h] (q - 32)
 *            q: ql[64 p + i % 64], high for s % 4 > 1; bits 2 (s % 4) of qh[32 p + i % 32] above
 *   IQ4_XS   d, sh[2], sl[4], qs[128]               d (scale s - 32) table[q]
 *            q: qs[16 s + i % 16], high for i % 32 > 15
 *
 * No GGUF file has the last six. FP8 is a format of KV caches: a value is an E4M3 number of the OCP
 * 8-bit floating point specification (revision 1.0, section 5), 4 bits of exponent, 3 of fraction,
 * up to 448, without infinities; conversion to it rounds to nearest even and saturates (the
 * specification's saturating mode: infinities too become 448), and a NaN stays a NaN. The others:
 * checkpoints of other quantizers become them at load, without loss
 * (engine/repack.h). d is a float32, z an int16, q of G8 signed; F8_128's q are E4M3 of the OCP
 * 8-bit floating point specification, none of them a NaN.
 *
 *   G4       d, z, qs[16]                           d (q - z)             as Q4_0
 *   G4_128   d, z, qs[64]                           d (q - z)             qs[16 s + i % 16], high
 *                                                                         for i % 32 > 15
 *   G8       d, z, int8 q[32]                       d (q - z)
 *   G8_128   d, z, int8 q[128]                      d (q - z)
 *   F8_128   d, q[128]                              d q
 *
 * How 6-bit scales are packed stands at quant_k.c's readers. Pure functions and constant tables;
 * any thread. */
/* clang-format on */
#ifndef SIROCCO_QUANT_H
#define SIROCCO_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*       enum       name    block bytes  GGUF type number */
#define QUANT_LIST(X)                                                                              \
    X(QUANT_F32, "F32", 1, 4, 0)                                                                   \
    X(QUANT_F16, "F16", 1, 2, 1)                                                                   \
    X(QUANT_BF16, "BF16", 1, 2, 30)                                                                \
    X(QUANT_Q8_0, "Q8_0", 32, 34, 8)                                                               \
    X(QUANT_Q4_0, "Q4_0", 32, 18, 2)                                                               \
    X(QUANT_Q4_1, "Q4_1", 32, 20, 3)                                                               \
    X(QUANT_Q5_0, "Q5_0", 32, 22, 6)                                                               \
    X(QUANT_Q5_1, "Q5_1", 32, 24, 7)                                                               \
    X(QUANT_IQ4_NL, "IQ4_NL", 32, 18, 20)                                                          \
    X(QUANT_MXFP4, "MXFP4", 32, 17, 39)                                                            \
    X(QUANT_Q2_K, "Q2_K", 256, 84, 10)                                                             \
    X(QUANT_Q3_K, "Q3_K", 256, 110, 11)                                                            \
    X(QUANT_Q4_K, "Q4_K", 256, 144, 12)                                                            \
    X(QUANT_Q5_K, "Q5_K", 256, 176, 13)                                                            \
    X(QUANT_Q6_K, "Q6_K", 256, 210, 14)                                                            \
    X(QUANT_IQ4_XS, "IQ4_XS", 256, 136, 23)                                                        \
    X(QUANT_G4, "G4", 32, 22, -1)                                                                  \
    X(QUANT_G4_128, "G4_128", 128, 70, -1)                                                         \
    X(QUANT_G8, "G8", 32, 38, -1)                                                                  \
    X(QUANT_G8_128, "G8_128", 128, 134, -1)                                                        \
    X(QUANT_F8_128, "F8_128", 128, 132, -1)                                                        \
    X(QUANT_FP8, "FP8", 1, 1, -1)

#define QUANT_ENUM(id, name, block, bytes, gguf) id,
enum quant_type { QUANT_LIST(QUANT_ENUM) QUANT_COUNT };
#undef QUANT_ENUM

struct quant_format {
    const char *name;
    int block;       /* values per block */
    int block_bytes; /* bytes per block */
    int gguf_type;   /* number in GGUF tensor headers; -1: not in GGUF files */
    /* decode n values (a multiple of block) */
    void (*decode)(const void *row, float *out, size_t n);
};

#ifdef __cplusplus
extern "C" {
#endif

extern const struct quant_format quant_formats[QUANT_COUNT];

extern const int8_t quant_iq4_values[16];
extern const int8_t quant_mxfp4_values[16];

/* Decoders of quant_k.c; see quant_format.decode. */
void quant_decode_q4_1(const void *row, float *out, size_t n);
void quant_decode_q5_0(const void *row, float *out, size_t n);
void quant_decode_q5_1(const void *row, float *out, size_t n);
void quant_decode_iq4_nl(const void *row, float *out, size_t n);
void quant_decode_mxfp4(const void *row, float *out, size_t n);
void quant_decode_q2_k(const void *row, float *out, size_t n);
void quant_decode_q3_k(const void *row, float *out, size_t n);
void quant_decode_q4_k(const void *row, float *out, size_t n);
void quant_decode_q5_k(const void *row, float *out, size_t n);
void quant_decode_q6_k(const void *row, float *out, size_t n);
void quant_decode_iq4_xs(const void *row, float *out, size_t n);

/* Decoders of quant_group.c. */
void quant_decode_g4(const void *row, float *out, size_t n);
void quant_decode_g4_128(const void *row, float *out, size_t n);
void quant_decode_g8(const void *row, float *out, size_t n);
void quant_decode_g8_128(const void *row, float *out, size_t n);
void quant_decode_f8_128(const void *row, float *out, size_t n);
void quant_decode_fp8(const void *row, float *out, size_t n);

int quant_from_gguf(uint32_t gguf_type);     /* a quant_type, or -1 */
int quant_from_name(const char *name);       /* "f32", "Q8_0": any case; or -1 */
/* Bytes of a row of n values; 0 when n is not a multiple of the block or the product wraps. */
size_t quant_row_bytes(enum quant_type type, size_t n);

float quant_f16_to_f32(uint16_t h);  /* IEEE 754 binary16, subnormals and NaN included */
uint16_t quant_f32_to_f16(float f);  /* round to nearest, ties to even */
float quant_bf16_to_f32(uint16_t h);
float quant_e4m3_to_f32(uint8_t b);  /* 0x7f and 0xff, which are NaN, as 480 and -480 */
float quant_fp8_to_f32(uint8_t b);   /* E4M3, NaN as NaN */
uint8_t quant_f32_to_fp8(float f);   /* to nearest, ties to even; saturates; NaN stays NaN */
uint16_t quant_f32_to_bf16(float f); /* round to nearest, ties to even; NaN stays NaN */

/* Encode n values (a multiple of block) as F32, F16, BF16, Q8_0, Q4_0 or FP8, the formats that
 * quant_encodes: rounding to nearest, scale amax/127 for Q8_0; for Q4_0 the value of largest
 * magnitude is mapped to -8. */
bool quant_encodes(enum quant_type type);
void quant_encode(enum quant_type type, const float *in, void *row, size_t n);

#ifdef __cplusplus
}
#endif

#endif
