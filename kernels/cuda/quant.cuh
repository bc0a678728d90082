/* quant: weights on the device: scalar decode of every storage format as it lies in files (RAW),
 * and the layout that five of them are repacked to (TILED). Private to kernels/cuda.
 *
 * TILED formats: Q8_0, Q4_0, Q4_K, Q5_K, Q6_K, G4, G4_128, G8, G8_128, F8_128. value = scale *
 * (code - center) - least, where scale and least are of a group of 32 columns (Q6_K: 16; _128:
 * 128). Rows are padded to tiles of 16, columns to chunks of 128 with scale 0. A plane holds, for
 * tile, chunk and row of the tile in this order:
 *   codes   4 bits: 64 bytes; 8 bits: 128 bytes. F8_128: rows one after the other, as they are
 *   high    Q5_K: 1 more bit, 16 bytes; Q6_K: 2 more bits, 32 bytes
 *   scales  Q8_0, Q4_0: 4 float16; Q4_K, Q5_K: 4 pairs (scale, least); Q6_K: 8 int8; G4, G8: 4
 *           times float32 d and the center as a pair of float16, 1024 + z (8 bits: 1152 + z);
 *           G4_128, G8_128: once; F8_128: float32 d
 *   supers  Q4_K, Q5_K, Q6_K: per two chunks, 4 bytes: float16 d (and m, or 0) that the integers
 *           above multiply
 * The order of codes is that of the tensor cores' fragments: lane quarter t = lane % 4 owns, of
 * each 32 columns j, eight: columns 8 t + e (groups of 32) or 4 t + e and 16 + 4 t + e - 4 (groups
 * of 16), e = 0..7. Its 4-bit codes are one word per j, element e in nibble e / 2 + 4 (e % 2), so
 * that (word >> 4 i) & 0x000f000f is the pair of elements 2 i, 2 i + 1. High bits lie likewise:
 * pair i of j is number p = 4 j + i (Q6_K: of two words, p % 8 in word p / 8), the first element's
 * bits at p (2 p % 16), the second's 16 above. 8 bits: quarter t's bytes of j = 0, 1 are 16 bytes
 * at 16 t, those of j = 2, 3 at 64 + 16 t; F8_128's stay in the order of columns, so a lane that
 * loads the same bytes owns others. Written by matrix.cu, read through codes.cuh and by the
 * decoders here. */
#ifndef SIROCCO_KERNELS_CUDA_QUANT_CUH
#define SIROCCO_KERNELS_CUDA_QUANT_CUH

#include "kernels/cuda/cuda.cuh"

static inline bool quant_tiles(enum quant_type type)
{
    return type == QUANT_Q8_0 || type == QUANT_Q4_0 || type == QUANT_Q4_K || type == QUANT_Q5_K ||
           type == QUANT_Q6_K || type == QUANT_G4 || type == QUANT_G4_128 || type == QUANT_G8 ||
           type == QUANT_G8_128 || type == QUANT_F8_128;
}

/* What a kernel needs of a matrix, by value. */
struct quant_view {
    enum quant_type type;
    bool tiled;
    int64_t rows, cols;
    const uint8_t *raw;
    int64_t row_bytes;
    const uint8_t *codes, *high, *scales, *supers;
    int n_chunks;
};

static inline struct quant_view quant_view_of(const struct matrix *m)
{
    const struct cuda_matrix *c = (const struct cuda_matrix *)m->packed;
    struct quant_view v = {m->type,   c->tiled, m->rows, m->cols,   (const uint8_t *)c->raw,
                           (int64_t)c->row_bytes, c->codes, c->high, c->scales, c->supers,
                           c->n_chunks};
    return v;
}

/* ---- RAW */

static __device__ __forceinline__ uint16_t raw_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}
static __device__ __forceinline__ float raw_half(const uint8_t *at)
{
    return f16_float(raw_u16(at));
}

/* The packings of 6-bit scales: see quant_k.c's readers. */
static __device__ __forceinline__ int raw_q3_k_scale(const uint8_t *packed, int h)
{
    int low = h < 8 ? packed[h] & 15 : packed[h - 8] >> 4;
    return (low | (packed[8 + h % 4] >> 2 * (h / 4) & 3) << 4) - 32;
}
static __device__ __forceinline__ int raw_q4_k_scale(const uint8_t *packed, int s)
{
    return s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
}
static __device__ __forceinline__ int raw_q4_k_least(const uint8_t *packed, int s)
{
    return s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
}

static __device__ __forceinline__ int raw_table(bool mxfp4, int code)
{
    const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                            1,    13,   25,  38,  53,  69,  89,  113};
    const int8_t fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    return mxfp4 ? fp4[code] : iq4[code];
}

static __device__ __forceinline__ int raw_nibble(const uint8_t *qs, int i)
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

/* Codes of the TILED formats: unsigned; of 8 bits as they are. at: the block, i: place in it. */
static __device__ __forceinline__ int raw_code(enum quant_type type, const uint8_t *at, int i)
{
    int s = i / 32;
    switch (type) {
    case QUANT_Q8_0: return (int8_t)at[2 + i];
    case QUANT_Q4_0: return raw_nibble(at + 2, i);
    case QUANT_G4:
    case QUANT_G4_128: return raw_nibble(at + 6 + 16 * s, i % 32);
    case QUANT_G8:
    case QUANT_G8_128: return (int8_t)at[6 + i];
    case QUANT_F8_128: return at[4 + i];
    case QUANT_Q4_K: return at[16 + 32 * (s / 2) + i % 32] >> 4 * (s % 2) & 15;
    case QUANT_Q5_K:
        return (at[48 + 32 * (s / 2) + i % 32] >> 4 * (s % 2) & 15) | (at[16 + i % 32] >> s & 1)
                                                                          << 4;
    default: /* Q6_K */
        return (at[64 * (i / 128) + i % 64] >> 4 * (s % 4 / 2) & 15) |
               (at[128 + 32 * (i / 128) + i % 32] >> 2 * (s % 4) & 3) << 4;
    }
}

static __device__ __forceinline__ float raw_5bit(const uint8_t *at, int i, bool least)
{
    const uint8_t *high = at + (least ? 4 : 2);
    int q = raw_nibble(high + 4, i) | (high[i / 8] >> i % 8 & 1) << 4;
    float d = raw_half(at);
    return least ? __fadd_rn(__fmul_rn((float)q, d), raw_half(at + 2))
                 : __fmul_rn((float)(q - 16), d);
}

/* E4M3: see quant_group.c */
static __device__ __forceinline__ float raw_e4m3(uint8_t b)
{
    return f16_float((uint16_t)((b & 0x80) << 8 | (b & 0x7f) << 7)) * 256;
}

static __device__ __forceinline__ float fp8_float(uint8_t b)
{
    return (b & 0x7f) == 0x7f ? NAN : raw_e4m3(b);
}

/* G4, G4_128, G8, G8_128, F8_128 */
static __device__ __forceinline__ float raw_group(enum quant_type type, const uint8_t *at, int i)
{
    float d = __uint_as_float((uint32_t)raw_u16(at) | (uint32_t)raw_u16(at + 2) << 16);
    int z = (int16_t)raw_u16(at + 4);
    if (type == QUANT_F8_128)
        return __fmul_rn(raw_e4m3(at[4 + i]), d);
    int q = type == QUANT_G8 || type == QUANT_G8_128 ? (int)(int8_t)at[6 + i]
                                                      : raw_nibble(at + 6 + i / 32 * 16, i % 32);
    return __fmul_rn(d, (float)(q - z));
}

static_assert(QUANT_COUNT == 22, "raw_value knows 22 formats");

/* Value i of a block, with the order of float operations of quant.c and quant_k.c. */
static __device__ float raw_value(enum quant_type type, const uint8_t *at, int i)
{
    int s = i / 32, h = i / 16;
    switch (type) {
    case QUANT_F32: return __uint_as_float((uint32_t)raw_u16(at) | (uint32_t)raw_u16(at + 2) << 16);
    case QUANT_F16: return raw_half(at);
    case QUANT_BF16: return bf16_float(raw_u16(at));
    case QUANT_Q8_0: return __fmul_rn(raw_half(at), (float)raw_code(type, at, i));
    case QUANT_Q4_0: return __fmul_rn(raw_half(at), (float)(raw_code(type, at, i) - 8));
    case QUANT_Q4_1:
        return __fadd_rn(__fmul_rn((float)raw_nibble(at + 4, i), raw_half(at)), raw_half(at + 2));
    case QUANT_Q5_0: return raw_5bit(at, i, false);
    case QUANT_Q5_1: return raw_5bit(at, i, true);
    case QUANT_IQ4_NL:
        return __fmul_rn(raw_half(at), (float)raw_table(false, raw_nibble(at + 2, i)));
    case QUANT_MXFP4: {
        uint32_t bits = at[0] < 2 ? 0x00200000u << at[0] : (uint32_t)(at[0] - 1) << 23;
        return __fmul_rn(__uint_as_float(bits), (float)raw_table(true, raw_nibble(at + 1, i)));
    }
    case QUANT_Q2_K: {
        int q = at[16 + 32 * (s / 4) + i % 32] >> 2 * (s % 4) & 3;
        return __fsub_rn(__fmul_rn(__fmul_rn(raw_half(at + 80), (float)(at[h] & 15)), (float)q),
                         __fmul_rn(raw_half(at + 82), (float)(at[h] >> 4)));
    }
    case QUANT_Q3_K: {
        int q = (at[32 + 32 * (s / 4) + i % 32] >> 2 * (s % 4) & 3) | (at[i % 32] >> s & 1) << 2;
        return __fmul_rn(
            __fmul_rn(raw_half(at + 108), (float)raw_q3_k_scale(at + 96, h)), (float)(q - 4));
    }
    case QUANT_Q4_K:
    case QUANT_Q5_K:
        return __fsub_rn(__fmul_rn(__fmul_rn(raw_half(at), (float)raw_q4_k_scale(at + 4, s)),
                                   (float)raw_code(type, at, i)),
                         __fmul_rn(raw_half(at + 2), (float)raw_q4_k_least(at + 4, s)));
    case QUANT_Q6_K:
        return __fmul_rn(__fmul_rn(raw_half(at + 208), (float)(int8_t)at[192 + h]),
                         (float)(raw_code(type, at, i) - 32));
    case QUANT_IQ4_XS: {
        int scale = (at[4 + s / 2] >> 4 * (s % 2) & 15) | (raw_u16(at + 2) >> 2 * s & 3) << 4;
        return __fmul_rn(__fmul_rn(raw_half(at), (float)(scale - 32)),
                         (float)raw_table(false, raw_nibble(at + 8 + 16 * s, i % 32)));
    }
    case QUANT_FP8: return fp8_float(at[0]);
    default: return raw_group(type, at, i);
    }
}

/* Values per block and bytes per block: quant_formats is a table of the host. */
#define QUANT_BLOCK(id, name, block, bytes, gguf)                                                  \
    case id: return block;
#define QUANT_BYTES(id, name, block, bytes, gguf)                                                  \
    case id: return bytes;
static __host__ __device__ __forceinline__ int quant_block(enum quant_type type)
{
    switch (type) {
        QUANT_LIST(QUANT_BLOCK)
    default: return 1;
    }
}
static __host__ __device__ __forceinline__ int quant_block_bytes(enum quant_type type)
{
    switch (type) {
        QUANT_LIST(QUANT_BYTES)
    default: return 1;
    }
}
#undef QUANT_BLOCK
#undef QUANT_BYTES

/* ---- TILED */

static __host__ __device__ __forceinline__ bool tile_sixteen(enum quant_type type)
{
    return type == QUANT_Q6_K;
}
static __host__ __device__ __forceinline__ bool tile_supers(enum quant_type type)
{
    return type == QUANT_Q4_K || type == QUANT_Q5_K || type == QUANT_Q6_K;
}
static __host__ __device__ __forceinline__ bool tile_eight(enum quant_type type)
{
    return type == QUANT_Q8_0 || type == QUANT_G8 || type == QUANT_G8_128 || type == QUANT_F8_128;
}
static __host__ __device__ __forceinline__ int tile_code_bytes(enum quant_type type)
{
    return tile_eight(type) ? 128 : 64;
}
static __host__ __device__ __forceinline__ int tile_high_bytes(enum quant_type type)
{
    return type == QUANT_Q5_K ? 16 : type == QUANT_Q6_K ? 32 : 0;
}
static __host__ __device__ __forceinline__ int tile_scale_bytes(enum quant_type type)
{
    return type == QUANT_F8_128 ? 4 : type == QUANT_G4 || type == QUANT_G8 ? 32 : 8;
}

/* The place of row and chunk in a plane, in units of that plane's bytes per row and chunk. */
static __device__ __forceinline__ int64_t tile_place(int64_t row, int chunk, int n_chunks)
{
    return (row / CUDA_TILE_ROWS * n_chunks + chunk) * CUDA_TILE_ROWS + row % CUDA_TILE_ROWS;
}

/* Column of element e of quarter t in the 32 columns of j, counted in the chunk; and back. */
static __device__ __forceinline__ int tile_column(bool sixteen, int j, int t, int e)
{
    return 32 * j + (sixteen ? 16 * (e / 4) + 4 * t + e % 4 : 8 * t + e);
}

static __device__ __forceinline__ uint32_t raw_u32(const uint8_t *at)
{
    return (uint32_t)raw_u16(at) | (uint32_t)raw_u16(at + 2) << 16;
}

/* Of the formats with codes of 8 bits, and with float32 scales. */
static __device__ float tile_value_float(const struct quant_view *v, int64_t place, int code, int j)
{
    const uint8_t *scales = v->scales + place * tile_scale_bytes(v->type);
    if (v->type == QUANT_F8_128)
        return __fmul_rn(raw_e4m3((uint8_t)code), __uint_as_float(raw_u32(scales)));
    if (v->type == QUANT_Q8_0)
        return __fmul_rn(raw_half(scales + 2 * j), (float)(int8_t)code);
    if (v->type == QUANT_G4 || v->type == QUANT_G8)
        scales += 8 * j;
    bool eight = tile_eight(v->type);
    int z = (int)raw_half(scales + 4) - (eight ? 1152 : 1024);
    return __fmul_rn(__uint_as_float(raw_u32(scales)), (float)((eight ? (int8_t)code : code) - z));
}

static __device__ float tile_value(const struct quant_view *v, int64_t row, int col)
{
    int chunk = col / CUDA_CHUNK, j = col % CUDA_CHUNK / 32, in = col % 32;
    bool sixteen = tile_sixteen(v->type);
    int t = sixteen ? in % 16 / 4 : in / 8, e = sixteen ? in / 16 * 4 + in % 4 : in % 8;
    int64_t place = tile_place(row, chunk, v->n_chunks);
    const uint8_t *codes = v->codes + place * tile_code_bytes(v->type);
    const uint8_t *scales = v->scales + place * tile_scale_bytes(v->type);
    int p = 4 * j + e / 2, second = e % 2;
    if (v->type == QUANT_F8_128)
        return tile_value_float(v, place, v->codes[row * v->cols + col], j);
    if (tile_eight(v->type))
        return tile_value_float(v, place, codes[64 * (j / 2) + 16 * t + 8 * (j % 2) + e], j);
    int nibble = e / 2 + 4 * second;
    int code = codes[16 * t + 4 * j + nibble / 2] >> 4 * (nibble % 2) & 15;
    if (v->type == QUANT_Q4_0)
        return __fmul_rn(raw_half(scales + 2 * j), (float)(code - 8));
    if (!tile_supers(v->type))
        return tile_value_float(v, place, code, j);
    const uint8_t *high = v->high + place * tile_high_bytes(v->type);
    const uint8_t *super = v->supers + tile_place(row, chunk / 2, v->n_chunks / 2) * 4;
    if (v->type == QUANT_Q6_K) {
        int bit = 2 * (p % 8) + 16 * second;
        code |= (high[8 * t + 4 * (p / 8) + bit / 8] >> bit % 8 & 3) << 4;
        return __fmul_rn(__fmul_rn(raw_half(super), (float)(int8_t)scales[2 * j + in / 16]),
                         (float)(code - 32));
    }
    if (v->type == QUANT_Q5_K) {
        int bit = p + 16 * second;
        code |= (high[4 * t + bit / 8] >> bit % 8 & 1) << 4;
    }
    return __fsub_rn(__fmul_rn(__fmul_rn(raw_half(super), (float)scales[2 * j]), (float)code),
                     __fmul_rn(raw_half(super + 2), (float)scales[2 * j + 1]));
}

static __device__ __forceinline__ float view_value(const struct quant_view *v, int64_t row, int col)
{
    if (v->tiled)
        return tile_value(v, row, col);
    int block = quant_block(v->type);
    return raw_value(v->type,
                     v->raw + row * v->row_bytes +
                         (int64_t)(col / block) * quant_block_bytes(v->type),
                     col % block);
}

#endif
