/* repack_fill: the values of one quantized matrix, in the layout of another format (repack.h).
 *
 * A panel of rows is brought to unsigned bytes, one per value, whatever the source's packing; then
 * each row is written with its scales and zero points. Layouts are those the published checkpoints
 * have: GPTQ and AWQ keep matrices transposed, words of eight values along the inputs (GPTQ) or
 * along the outputs in an order of their own (AWQ); compressed-tensors packs along the inputs of
 * untransposed rows. Pure functions of the job; any thread, each with rows of its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/repack.h"

enum { SCALE_VALUES = 1024, LONG = 128, SHORT = 32 };

/* Value i of AWQ's words is output row awq_order[i] of the eight. */
static const int awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static uint32_t word_at(const uint8_t *words, int64_t i)
{
    uint32_t w;
    memcpy(&w, words + (size_t)i * sizeof w, sizeof w);
    return w;
}

static float scale_at(const struct repack_job *job, int64_t i)
{
    const struct quant_format *f = &quant_formats[job->scale.type];
    float d;
    f->decode(job->scale.data + (size_t)i * (size_t)f->block_bytes, &d, 1);
    return d;
}

/* Index of the scale of a row's group; GPTQ and AWQ keep groups outermost. */
static int64_t scale_index(const struct repack_job *job, int64_t row, int64_t group)
{
    if (job->kind == REPACK_GPTQ || job->kind == REPACK_AWQ)
        return group * job->rows + row;
    return row / job->scale_rows * job->n_groups + group;
}

/* The zero point of a row's group, as an unsigned value. */
static int zero_at(const struct repack_job *job, int64_t row, int64_t group)
{
    const int half = 1 << (job->bits - 1), per_word = 32 / job->bits;
    const uint32_t mask = job->bits == 8 ? 255 : 15;
    if (!job->zero.name)
        return half;
    if (job->kind == REPACK_INT8)
        return (int8_t)job->zero.data[row / job->scale_rows * job->n_groups + group] + half;
    int64_t word = job->kind == REPACK_PACKED ? row / per_word * job->n_groups + group
                                              : (group * job->rows + row) / per_word;
    int at = (int)(row % per_word);
    for (int i = 0; job->kind == REPACK_AWQ && i < 8; i++)
        if (awq_order[i] == (int)(row % 8)) {
            at = i;
            break;
        }
    return (int)(word_at(job->zero.data, word) >> (job->bits * at) & mask) + job->zero_plus;
}

/* ---- the source's packing */

/* words[cols / 8 or 4][rows], values along the columns */
static void unpack_gptq(const struct repack_job *job, int64_t row0, int n, uint8_t *q)
{
    const int per_word = 32 / job->bits;
    const uint32_t mask = job->bits == 8 ? 255 : 15;
    for (int64_t i = 0; i < job->cols / per_word; i++)
        for (int r = 0; r < n; r++) {
            uint32_t w = word_at(job->data.data, i * job->rows + row0 + r);
            uint8_t *to = q + r * job->cols + i * per_word;
            for (int j = 0; j < per_word; j++)
                to[j] = (uint8_t)(w >> (job->bits * j) & mask);
        }
}

/* words[cols][rows / 8]; panels begin at a multiple of 8 rows */
static void unpack_awq(const struct repack_job *job, int64_t row0, int n, uint8_t *q)
{
    for (int64_t c = 0; c < job->cols; c++)
        for (int k = 0; k < n / 8; k++) {
            uint32_t w = word_at(job->data.data, (c * job->rows + row0) / 8 + k);
            for (int i = 0; i < 8; i++)
                q[(8 * k + awq_order[i]) * job->cols + c] = (uint8_t)(w >> (4 * i) & 15);
        }
}

/* rows of words, values along the columns */
static void unpack_packed(const struct repack_job *job, int64_t row0, int n, uint8_t *q)
{
    const int per_word = 32 / job->bits;
    const uint32_t mask = job->bits == 8 ? 255 : 15;
    int64_t words = n * (job->cols / per_word);
    for (int64_t i = 0; i < words; i++) {
        uint32_t w = word_at(job->data.data, row0 * (job->cols / per_word) + i);
        for (int j = 0; j < per_word; j++)
            *q++ = (uint8_t)(w >> (job->bits * j) & mask);
    }
}

static void unpack(const struct repack_job *job, int64_t row0, int n, uint8_t *q)
{
    const uint8_t *from = job->data.data + (size_t)(row0 * job->cols);
    switch (job->kind) {
    case REPACK_GPTQ:
        unpack_gptq(job, row0, n, q);
        return;
    case REPACK_AWQ:
        unpack_awq(job, row0, n, q);
        return;
    case REPACK_PACKED:
        unpack_packed(job, row0, n, q);
        return;
    case REPACK_INT8: /* to unsigned: 128 more */
        for (int64_t i = 0; i < n * job->cols; i++)
            q[i] = from[i] ^ 0x80;
        return;
    case REPACK_FP8:
        memcpy(q, from, (size_t)(n * job->cols));
    }
}

/* ---- the layouts of quant.h */

/* 32 values: low nibbles the first 16 */
static void put_nibbles(const uint8_t *q, uint8_t *to)
{
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

static uint8_t *put_head(float d, int zero, uint8_t *to)
{
    int16_t z = (int16_t)zero;
    memcpy(to, &d, sizeof d);
    memcpy(to + sizeof d, &z, sizeof z);
    return to + sizeof d + sizeof z;
}

/* n values of a block whose scale is d; signed formats have 128 less in values and zero point. */
static uint8_t *put_block(const struct repack_job *job, const uint8_t *q, float d, int zero, int n,
                          uint8_t *to)
{
    uint16_t half = quant_f32_to_f16(d);
    switch (job->type) {
    case QUANT_Q4_0:
    case QUANT_Q8_0:
        memcpy(to, &half, sizeof half);
        to += sizeof half;
        break;
    case QUANT_G4:
    case QUANT_G4_128:
        to = put_head(d, zero, to);
        break;
    case QUANT_G8:
    case QUANT_G8_128:
        to = put_head(d, zero - 128, to);
        break;
    case QUANT_F8_128:
        memcpy(to, &d, sizeof d);
        memcpy(to + sizeof d, q, (size_t)n);
        return to + sizeof d + n;
    default: /* F32 */
        for (int i = 0; i < n; i++, to += sizeof d) {
            float value = job->kind == REPACK_FP8 ? quant_e4m3_to_f32(q[i]) * d
                                                  : d * (float)((int)q[i] - zero);
            memcpy(to, &value, sizeof value);
        }
        return to;
    }
    for (int i = 0; job->bits == 4 && i < n; i += SHORT, to += 16)
        put_nibbles(q + i, to);
    for (int i = 0; job->bits == 8 && i < n; i++)
        *to++ = q[i] ^ 0x80;
    return to;
}

/* Of a block's columns, which have it in common. */
static int64_t group_at(const struct repack_job *job, int64_t c)
{
    return job->order.name ? (int64_t)word_at(job->order.data, c) : c / job->scale_cols;
}

static int put_row(const struct repack_job *job, int64_t row, const uint8_t *q, struct err *err)
{
    const int block = quant_formats[job->type].block, half = 1 << (job->bits - 1);
    uint8_t *to = job->out + (size_t)row * quant_row_bytes(job->type, (size_t)job->cols);
    int64_t group = -1;
    float d = 0;
    int zero = 0;
    for (int64_t c = 0; c < job->cols; c += block) {
        if (group_at(job, c) != group) {
            group = group_at(job, c);
            d = scale_at(job, scale_index(job, row, group));
            zero = job->kind == REPACK_FP8 ? 0 : zero_at(job, row, group);
            if (job->symmetric && zero != half)
                return err_set(err, ERR_FORMAT, "%s: tensor '%s': row %lld: zero point %d where "
                               "the configuration says symmetric, %d", job->zero.file,
                               job->zero.name, (long long)row, zero, half);
        }
        to = put_block(job, q + c, d, zero, block, to);
    }
    return 0;
}

static int check_e4m3(const struct repack_job *job, const uint8_t *q, int64_t n, struct err *err)
{
    bool bad = false;
    for (int64_t i = 0; i < n; i++)
        bad |= (q[i] & 0x7f) == 0x7f;
    return bad ? err_set(err, ERR_FORMAT, "%s: tensor '%s' holds a NaN", job->data.file,
                         job->data.name)
               : 0;
}

int repack_fill(const struct repack_job *job, int64_t row0, int64_t row1, uint8_t *scratch,
                struct err *err)
{
    int rc = 0;
    for (int64_t row = row0; !rc && row < row1; row += REPACK_PANEL) {
        int n = row1 - row < REPACK_PANEL ? (int)(row1 - row) : REPACK_PANEL;
        unpack(job, row, n, scratch);
        if (job->kind == REPACK_FP8)
            rc = check_e4m3(job, scratch, n * job->cols, err);
        for (int r = 0; !rc && r < n; r++)
            rc = put_row(job, row + r, scratch + r * job->cols, err);
    }
    return rc;
}

bool repack_in_order(const struct repack_job *job)
{
    for (int64_t c = 0; job->order.name && c < job->cols; c++)
        if (group_at(job, c) != c / job->scale_cols)
            return false;
    return true;
}

int repack_check(const struct repack_job *job, struct err *err)
{
    float d[SCALE_VALUES];
    const struct quant_format *f = &quant_formats[job->scale.type];
    size_t n = job->scale.bytes / (size_t)f->block_bytes;
    for (size_t i = 0; i < n; i += SCALE_VALUES) {
        size_t count = n - i < SCALE_VALUES ? n - i : SCALE_VALUES;
        f->decode(job->scale.data + i * (size_t)f->block_bytes, d, count);
        for (size_t k = 0; k < count; k++)
            if (!(fabsf(d[k]) <= 1e30f))
                return err_set(err, ERR_FORMAT, "%s: tensor '%s': value %zu is no scale (%g)",
                               job->scale.file, job->scale.name, i + k, (double)d[k]);
    }
    for (int64_t c = 0; job->order.name && c < job->cols; c++)
        if (group_at(job, c) >= job->n_groups)
            return err_set(err, ERR_FORMAT, "%s: tensor '%s': column %lld is in group %d of %lld",
                           job->order.file, job->order.name, (long long)c,
                           (int)word_at(job->order.data, c), (long long)job->n_groups);
    return 0;
}
