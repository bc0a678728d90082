/* quant: THE LIST of storage formats: layouts and scalar decode. Compiles as C11 and CUDA C++.
 *
 * A row of a matrix is n values in blocks of `block` values, `bytes` bytes each, without padding.
 * Layouts are those of GGUF files (the format's specification, ggml-common.h's block structs):
 *   Q8_0: f16 scale d, int8 q[32];            value i = d * q[i]
 *   Q4_0: f16 scale d, uint8 q[16]; value i = d * ((q[i] & 15) - 8),
 *                                   value i + 16 = d * ((q[i] >> 4) - 8), i in 0..15
 * Pure functions and constant tables; any thread. */
#ifndef SIROCCO_QUANT_H
#define SIROCCO_QUANT_H

#include <stddef.h>
#include <stdint.h>

/*       enum       name    block bytes  GGUF type number */
#define QUANT_LIST(X)                                                                              \
    X(QUANT_F32, "F32", 1, 4, 0)                                                                   \
    X(QUANT_F16, "F16", 1, 2, 1)                                                                   \
    X(QUANT_BF16, "BF16", 1, 2, 30)                                                                \
    X(QUANT_Q8_0, "Q8_0", 32, 34, 8)                                                               \
    X(QUANT_Q4_0, "Q4_0", 32, 18, 2)

#define QUANT_ENUM(id, name, block, bytes, gguf) id,
enum quant_type { QUANT_LIST(QUANT_ENUM) QUANT_COUNT };
#undef QUANT_ENUM

struct quant_format {
    const char *name;
    int block;       /* values per block */
    int block_bytes; /* bytes per block */
    int gguf_type;   /* number in GGUF tensor headers */
    /* decode n values (a multiple of block) */
    void (*decode)(const void *row, float *out, size_t n);
};

#ifdef __cplusplus
extern "C" {
#endif

extern const struct quant_format quant_formats[QUANT_COUNT];

int quant_from_gguf(uint32_t gguf_type);     /* a quant_type, or -1 */
int quant_from_name(const char *name);       /* "f32", "Q8_0": any case; or -1 */
/* Bytes of a row of n values; 0 when n is not a multiple of the block or the product wraps. */
size_t quant_row_bytes(enum quant_type type, size_t n);

float quant_f16_to_f32(uint16_t h);  /* IEEE 754 binary16, subnormals and NaN included */
uint16_t quant_f32_to_f16(float f);  /* round to nearest, ties to even */
float quant_bf16_to_f32(uint16_t h);
uint16_t quant_f32_to_bf16(float f); /* round to nearest, ties to even; NaN stays NaN */

/* Encode n values (a multiple of block), rounding to nearest: scale amax/127 for Q8_0; for Q4_0 the
 * value of largest magnitude is mapped to -8. Used by tests and by later quantizers. */
void quant_encode(enum quant_type type, const float *in, void *row, size_t n);

#ifdef __cplusplus
}
#endif

#endif
