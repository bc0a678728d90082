/* quant_block_vec: 32 columns of VEC rows of any block format, transposed and unpacked; included by
 * linear_quant_vec.h, which names the operations. quant.h has the layouts.
 *
 *   value (row, column) = d[column / 16 or 0] * (w - block_zero) + m[column / 16 or 0]
 *
 * Signed bytes (Q8_0, the IQ4 tables) get 128 added where the dot product wants unsigned ones. */
#include "kernels/quant.h"

enum { BLOCK = 32, HALF = 16, DOTS = BLOCK / 4 };

struct quant_block {
    ivec w[DOTS]; /* byte j of ivec k: column 4 k + j */
    vec d[2], m[2];
    ivec header[4]; /* of the block of 256 that is being read */
    vec d_all, m_all;
};

VEC_INLINE struct quant_block block_none(void)
{
    struct quant_block b;

    for (int k = 0; k < 4; k++)
        b.header[k] = ivec_set(0);
    b.d_all = b.m_all = b.d[0] = b.d[1] = b.m[0] = b.m[1] = vec_zero();
    return b;
}

VEC_INLINE bool block_is_signed(enum quant_type type)
{
    return type == QUANT_Q8_0 || type == QUANT_IQ4_NL || type == QUANT_IQ4_XS ||
           type == QUANT_G8 || type == QUANT_G8_128;
}

VEC_INLINE int block_zero(enum quant_type type)
{
    return block_is_signed(type)  ? (SIGNED_DOTS ? 0 : 128)
           : type == QUANT_Q4_0  ? 8
           : type == QUANT_Q5_0  ? 16
           : type == QUANT_MXFP4 ? 12
           : type == QUANT_Q3_K  ? 4
           : type == QUANT_Q6_K  ? 32
                                 : 0;
}

VEC_INLINE int block_scales(enum quant_type type)
{
    return type == QUANT_Q2_K || type == QUANT_Q3_K || type == QUANT_Q6_K ? 2 : 1;
}

VEC_INLINE int block_minima(enum quant_type type)
{
    return type == QUANT_Q2_K ? 2
           : type == QUANT_Q4_1 || type == QUANT_Q5_1 || type == QUANT_Q4_K || type == QUANT_Q5_K
               ? 1
           : type == QUANT_G4 || type == QUANT_G4_128 || type == QUANT_G8 || type == QUANT_G8_128
               ? 1
               : 0;
}

VEC_INLINE ivec bytes_of(uint32_t byte)
{
    return ivec_set(byte * 0x01010101u);
}

/* Byte `at` of each dword, as a number. */
VEC_INLINE ivec byte_of(ivec x, int at)
{
    return ivec_and(ivec_srl(x, 8 * at), ivec_set(255));
}

/* 16 bytes: low nibbles are columns 0 .. 15, high ones 16 .. 31. */
VEC_INLINE void load_nibbles(const char *const rows[VEC], size_t offset, ivec w[DOTS])
{
    transpose(rows, offset, w);
    for (int k = 0; k < 4; k++) {
        w[4 + k] = ivec_and(ivec_srl(w[k], 4), bytes_of(15));
        w[k] = ivec_and(w[k], bytes_of(15));
    }
}

/* 32 bytes, a column each, of which `mask` of the bits from `shift` on count. */
VEC_INLINE void load_columns(const char *const rows[VEC], size_t offset, int shift, uint32_t mask,
                             ivec w[DOTS])
{
    transpose(rows, offset, w);
    transpose(rows, offset + HALF, w + 4);
    for (int k = 0; k < DOTS; k++)
        w[k] = ivec_and(ivec_srl(w[k], shift), bytes_of(mask));
}

/* Put bits `shift` .. of 32 further bytes on top of w, from bit `to` on. */
VEC_INLINE void add_columns(const char *const rows[VEC], size_t offset, int shift, uint32_t mask,
                            int to, ivec w[DOTS])
{
    ivec more[DOTS];

    load_columns(rows, offset, shift, mask, more);
    for (int k = 0; k < DOTS; k++)
        w[k] = ivec_or(w[k], ivec_sll(more[k], to));
}

/* Bit c of `bits` becomes bit 4 of column c. Four bits times 1 + 2^7 + 2^14 + 2^21 are at bits 0,
 * 8, 16 and 24, among others. */
VEC_INLINE void add_fifth(ivec bits, ivec w[DOTS])
{
    for (int k = 0; k < DOTS; k++) {
        ivec four = ivec_and(ivec_srl(bits, 4 * k), ivec_set(15));
        ivec spread = ivec_or(ivec_or(four, ivec_sll(four, 7)),
                              ivec_or(ivec_sll(four, 14), ivec_sll(four, 21)));
        w[k] = ivec_or(w[k], ivec_sll(ivec_and(spread, bytes_of(1)), 4));
    }
}

VEC_INLINE void look_up(const int8_t table[16], int add, ivec w[DOTS])
{
    int8_t shifted[16];

    for (int i = 0; i < 16; i++)
        shifted[i] = (int8_t)(table[i] + add);
    for (int k = 0; k < DOTS; k++)
        w[k] = ivec_lut(shifted, w[k]);
}

VEC_INLINE void make_unsigned(ivec w[DOTS])
{
    for (int k = 0; k < DOTS && !SIGNED_DOTS; k++)
        w[k] = ivec_xor(w[k], bytes_of(0x80));
}

/* d and z, the 6 bytes at `at`: d[0] = d, m[0] = -d z, exact while z has 13 bits less than d. */
VEC_INLINE void load_group_head(const char *const rows[VEC], size_t at, struct quant_block *b)
{
    ivec z = ivec_sra(ivec_sll(dwords(rows, at + 4), 16), 16);

    b->d[0] = ivec_as_float(dwords(rows, at));
    b->m[0] = vec_mul(b->d[0], ivec_float(ivec_sub(ivec_set(0), z)));
}

/* ---- blocks of 32 ---- */

VEC_INLINE void load_small(enum quant_type type, const char *const rows[VEC], size_t at,
                           struct quant_block *b)
{
    ivec head = dwords(rows, at);

    b->d[0] = ivec_half(head);
    b->m[0] = ivec_half(ivec_srl(head, 16));
    switch (type) {
    case QUANT_Q8_0:
        load_columns(rows, at + 2, 0, 255, b->w);
        make_unsigned(b->w);
        break;
    case QUANT_Q4_1:
        load_nibbles(rows, at + 4, b->w);
        break;
    case QUANT_Q5_0:
        load_nibbles(rows, at + 6, b->w);
        add_fifth(dwords(rows, at + 2), b->w);
        break;
    case QUANT_Q5_1:
        load_nibbles(rows, at + 8, b->w);
        add_fifth(dwords(rows, at + 4), b->w);
        break;
    case QUANT_IQ4_NL:
        load_nibbles(rows, at + 2, b->w);
        look_up(quant_iq4_values, 0, b->w);
        make_unsigned(b->w);
        break;
    case QUANT_MXFP4: /* e - 1 is the exponent of 2^(e - 128); below 2, a subnormal */
        head = ivec_and(head, ivec_set(255));
        b->d[0] = vec_mul(ivec_exponent(head), vec_set(0.5f));
        load_nibbles(rows, at + 1, b->w);
        look_up(quant_mxfp4_values, 12, b->w);
        break;
    case QUANT_G4:
        load_group_head(rows, at, b);
        load_nibbles(rows, at + 6, b->w);
        break;
    case QUANT_G8:
        load_group_head(rows, at, b);
        load_columns(rows, at + 6, 0, 255, b->w);
        make_unsigned(b->w);
        break;
    default: /* Q4_0 */
        load_nibbles(rows, at + 2, b->w);
    }
}

/* ---- blocks of 256, and of 128, whose header holds for all parts ---- */

VEC_INLINE void load_header(enum quant_type type, const char *const rows[VEC], size_t at,
                            struct quant_block *b)
{
    ivec scales;

    switch (type) {
    case QUANT_Q2_K:
        transpose(rows, at, b->header);
        scales = dwords(rows, at + 80);
        b->d_all = ivec_half(scales);
        b->m_all = vec_mul(ivec_half(ivec_srl(scales, 16)), vec_set(-1));
        break;
    case QUANT_Q3_K: /* the scale ends the block: it is read with the two bytes before it */
        for (int k = 0; k < 3; k++)
            b->header[k] = dwords(rows, at + 96 + 4 * (size_t)k);
        b->d_all = ivec_half(ivec_srl(dwords(rows, at + 106), 16));
        break;
    case QUANT_Q6_K:
        transpose(rows, at + 192, b->header);
        b->d_all = ivec_half(ivec_srl(dwords(rows, at + 206), 16));
        break;
    case QUANT_IQ4_XS:
        b->header[0] = dwords(rows, at);
        b->header[1] = dwords(rows, at + 4);
        b->d_all = ivec_half(b->header[0]);
        break;
    case QUANT_G4_128:
    case QUANT_G8_128:
        load_group_head(rows, at, b);
        break;
    default: /* Q4_K, Q5_K */
        transpose(rows, at, b->header);
        b->d_all = ivec_half(b->header[0]);
        b->m_all = vec_mul(ivec_half(ivec_srl(b->header[0], 16)), vec_set(-1));
    }
}

VEC_INLINE void scale_by(struct quant_block *b, int h, ivec scale)
{
    b->d[h] = vec_mul(b->d_all, ivec_float(scale));
}

/* The scales (and minima) of part s, from the header; quant_k.c has the packing in scalars. */
VEC_INLINE void unpack_scales(enum quant_type type, int s, struct quant_block *b)
{
    const ivec six = ivec_set(63), four = ivec_set(15), two = ivec_set(3);

    if (type == QUANT_Q4_K || type == QUANT_Q5_K) {
        const ivec *p = b->header + 1;
        int k = 8 * (s % 4);
        ivec scale = ivec_and(ivec_srl(p[0], k), six), least = ivec_and(ivec_srl(p[1], k), six);
        if (s >= 4) {
            ivec low = ivec_srl(p[2], k);
            scale = ivec_or(ivec_and(low, four),
                            ivec_sll(ivec_and(ivec_srl(p[0], k + 6), two), 4));
            least = ivec_or(ivec_and(ivec_srl(low, 4), four),
                            ivec_sll(ivec_and(ivec_srl(p[1], k + 6), two), 4));
        }
        scale_by(b, 0, scale);
        b->m[0] = vec_mul(b->m_all, ivec_float(least));
        return;
    }
    if (type == QUANT_IQ4_XS) {
        ivec low = ivec_and(ivec_srl(b->header[1], 4 * s), four);
        ivec high = ivec_and(ivec_srl(b->header[0], 16 + 2 * s), two);
        scale_by(b, 0, ivec_sub(ivec_or(low, ivec_sll(high, 4)), ivec_set(32)));
        return;
    }
    for (int h = 0; h < 2; h++) {
        int i = 2 * s + h;
        if (type == QUANT_Q2_K) {
            ivec byte = byte_of(b->header[i / 4], i % 4);
            scale_by(b, h, ivec_and(byte, four));
            b->m[h] = vec_mul(b->m_all, ivec_float(ivec_srl(byte, 4)));
        } else if (type == QUANT_Q6_K) {
            scale_by(b, h, ivec_sra(ivec_sll(b->header[i / 4], 24 - 8 * (i % 4)), 24));
        } else {
            ivec low = ivec_srl(b->header[i % 8 / 4], 8 * (i % 4) + 4 * (i / 8));
            ivec high = ivec_srl(b->header[2], 8 * (i % 4) + 2 * (i / 4));
            ivec scale = ivec_or(ivec_and(low, four), ivec_sll(ivec_and(high, two), 4));
            scale_by(b, h, ivec_sub(scale, ivec_set(32)));
        }
    }
}

VEC_INLINE void load_part(enum quant_type type, const char *const rows[VEC], size_t at, int s,
                          struct quant_block *b)
{
    const size_t pair = (size_t)(BLOCK * (s / 2)), four = (size_t)(BLOCK * (s / 4));

    if (s == 0)
        load_header(type, rows, at, b);
    if (type != QUANT_G4_128 && type != QUANT_G8_128)
        unpack_scales(type, s, b);
    switch (type) {
    case QUANT_Q2_K:
        load_columns(rows, at + 16 + four, 2 * (s % 4), 3, b->w);
        break;
    case QUANT_Q3_K:
        load_columns(rows, at + 32 + four, 2 * (s % 4), 3, b->w);
        add_columns(rows, at, s, 1, 2, b->w);
        break;
    case QUANT_Q5_K:
        load_columns(rows, at + 48 + pair, 4 * (s % 2), 15, b->w);
        add_columns(rows, at + 16, s, 1, 4, b->w);
        break;
    case QUANT_Q6_K:
        load_columns(rows, at + 2 * four + (size_t)(BLOCK * (s % 2)), 4 * (s % 4 / 2), 15, b->w);
        add_columns(rows, at + 128 + four, 2 * (s % 4), 3, 4, b->w);
        break;
    case QUANT_IQ4_XS:
        load_nibbles(rows, at + 8 + (size_t)(HALF * s), b->w);
        look_up(quant_iq4_values, 0, b->w);
        make_unsigned(b->w);
        break;
    case QUANT_G4_128:
        load_nibbles(rows, at + 6 + (size_t)(HALF * s), b->w);
        break;
    case QUANT_G8_128:
        load_columns(rows, at + 6 + (size_t)(BLOCK * s), 0, 255, b->w);
        make_unsigned(b->w);
        break;
    default: /* Q4_K */
        load_columns(rows, at + 16 + pair, 4 * (s % 2), 15, b->w);
    }
}

#define BLOCK_BYTES_OF(id, name, values, bytes, gguf) [id] = bytes,
#define BLOCK_VALUES_OF(id, name, values, bytes, gguf) [id] = values,

/* Columns 32 b .. 32 b + 31. The parts of a block of 256 are read in order, into the same *block.
 */
VEC_INLINE void block_load(enum quant_type type, const char *const rows[VEC], int64_t b,
                           struct quant_block *block)
{
    static const int bytes[QUANT_COUNT] = {QUANT_LIST(BLOCK_BYTES_OF)};
    static const int values[QUANT_COUNT] = {QUANT_LIST(BLOCK_VALUES_OF)};
    int parts = values[type] / BLOCK;

    if (parts == 1)
        load_small(type, rows, (size_t)b * (size_t)bytes[type], block);
    else
        load_part(type, rows, (size_t)(b / parts) * (size_t)bytes[type], (int)(b % parts), block);
}
