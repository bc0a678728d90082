/* attention_vec: the vector form of attention.c's loop; included by attention_<isa>.c.
 *
 * Reader of the KV layout (writer: rope.c):
 *   k[layer][block][kv_head][head_dim][block_size], v[layer][block][kv_head][block_size][head_dim]
 * and the scales of Q8_0, for both: d[layer][block][kv_head][head_dim / CPU_KV_GROUP][block_size].
 *
 * An item's rows go through its positions in tiles of TILE, which lie at absolute positions. Up to
 * ROWS rows share each load of K and V. The three parts of a tile:
 *   scores   lanes are positions: score[row][pos] adds q[row][j] * k[j][pos] for j = 0, 1, ...
 *   softmax  per row: running maximum and sum (Milakov and Gimelshein 2018)
 *   values   lanes are elements: out[row] adds p[row][pos] * v[pos] for pos in order
 * With Q8_0 the scores are summed group by group, each times its scale, and p carries the scale of
 * a group's values.
 * In each of them a row's operations are those it would do alone: lanes and rows never mix, a
 * position a row does not see is skipped, not multiplied by zero, and a tile of which it sees
 * nothing is skipped whole. So results depend neither on the item nor on the block size.
 *
 * Blocks lie anywhere, which no hardware prefetcher follows: the first rows to go through a tile
 * fetch the next one (at 4,000 positions of context a decode takes 0.6 of the time without). */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#include <math.h>
#include <stddef.h>

enum {
    TILE = 64,
    ROWS = 4,
    CHUNKS = VEC_REGISTERS / 8, /* vectors of positions, or of elements, next to ROWS rows */
    LANES_MIN = 8,
    LINE = 64, /* bytes of a cache line */
};

_Static_assert(CPU_ATTENTION_PART % TILE == 0, "a tile lies in one part");

/* One tile: where its positions' keys and values lie. */
struct tile {
    int start, lanes;                /* first position; positions per chunk */
    const char *k[TILE / LANES_MIN]; /* chunk: its position 0, element 0 */
    const char *v[TILE / LANES_MIN]; /* chunk: its position 0 */
    const uint16_t *k_scales[TILE / LANES_MIN], *v_scales[TILE / LANES_MIN]; /* its group 0 */
    const struct tile *next; /* fetched ahead; the last: itself */
};

VEC_INLINE vec load_kv(enum quant_type type, const char *at, int n)
{
    if (type == QUANT_F32)
        return n >= VEC ? vec_load(at) : vec_load_n(at, n);
    if (type == QUANT_F16)
        return n >= VEC ? vec_f16(at) : vec_f16_n(at, n);
    if (type == QUANT_Q8_0)
        return n >= VEC ? vec_i8(at) : vec_i8_n(at, n);
    if (type == QUANT_FP8)
        return n >= VEC ? vec_fp8(at) : vec_fp8_n(at, n);
    return n >= VEC ? vec_bf16(at) : vec_bf16_n(at, n);
}

VEC_INLINE size_t value_bytes(enum quant_type type)
{
    return type == QUANT_F32 ? 4 : type == QUANT_Q8_0 || type == QUANT_FP8 ? 1 : 2;
}

/* ---- scores ---- */

/* sum[row][chunk] of q[j] * k[j] over elements begin .. end - 1 */
VEC_INLINE void scores_sum(enum quant_type type, const struct cpu_kv *kv, const struct tile *t,
                           const struct cpu_attention_row *rows, int n_rows, int chunk,
                           int n_chunks, int lanes, bool ahead, int begin, int end,
                           vec (*sum)[CHUNKS])
{
    size_t stride = (size_t)kv->o.block_size * value_bytes(type);

    for (int r = 0; r < n_rows; r++)
        for (int c = 0; c < n_chunks; c++)
            sum[r][c] = vec_zero();
    for (int j = begin; j < end; j++) {
        vec k[CHUNKS];
        for (int c = 0; c < n_chunks; c++) {
            k[c] = load_kv(type, t->k[chunk + c] + (size_t)j * stride, lanes);
            if (ahead && !((size_t)j * stride % LINE))
                __builtin_prefetch(t->next->k[chunk + c] + (size_t)j * stride);
        }
        for (int r = 0; r < n_rows; r++) {
            vec q = vec_set(rows[r].q[j]);
            for (int c = 0; c < n_chunks; c++)
                sum[r][c] = vec_fma(q, k[c], sum[r][c]);
        }
    }
}

VEC_INLINE void scores_block(enum quant_type type, const struct cpu_kv *kv, const struct tile *t,
                             const struct cpu_attention_row *rows, int n_rows, int chunk,
                             int n_chunks, int lanes, bool ahead, float (*s)[TILE])
{
    vec sum[ROWS][CHUNKS];
    int head_dim = kv->o.head_dim, group = type == QUANT_Q8_0 ? CPU_KV_GROUP : head_dim;

    for (int at = 0; at < head_dim; at += group) {
        scores_sum(type, kv, t, rows, n_rows, chunk, n_chunks, lanes, ahead, at, at + group, sum);
        for (int c = 0; c < n_chunks; c++) {
            vec scale = vec_zero();
            if (type == QUANT_Q8_0)
                scale = vec_f16_n(t->k_scales[chunk + c] + at / group * kv->o.block_size, lanes);
            for (int r = 0; r < n_rows; r++) {
                float *to = s[r] + (chunk + c) * lanes;
                vec x = sum[r][c];
                if (type == QUANT_Q8_0)
                    x = at ? vec_fma(x, scale, vec_load_n(to, lanes)) : vec_mul(x, scale);
                vec_store_n(to, x, lanes);
            }
        }
    }
}

VEC_INLINE void scores_rows(enum quant_type type, const struct cpu_kv *kv, const struct tile *t,
                            const struct cpu_attention_row *rows, int n_rows, int chunks,
                            bool ahead, float (*s)[TILE])
{
    int c = 0;

    if (t->lanes < VEC) { /* blocks smaller than a vector */
        for (; c < chunks; c++)
            scores_block(type, kv, t, rows, n_rows, c, 1, LANES_MIN, false, s);
        return;
    }
    for (; c + CHUNKS <= chunks; c += CHUNKS)
        scores_block(type, kv, t, rows, n_rows, c, CHUNKS, VEC, ahead, s);
    for (; c < chunks; c++)
        scores_block(type, kv, t, rows, n_rows, c, 1, VEC, ahead, s);
}

/* ---- softmax ---- */

/* Turns a row's scores of the tile's positions from..to - 1 into exp(score - maximum), updates the
 * row, and returns the factor that brings its older sums to the new maximum. */
static float softmax_tile(const struct attention_args *a, struct cpu_attention_row *row, float *s,
                          int from, int to)
{
    vec scale = vec_set(a->scale), cap = vec_set(a->softcap), most = vec_set(row->most);
    vec none = vec_set(-INFINITY), sum = vec_zero();
    int start = from / VEC * VEC;

    for (int i = start; i < to; i += VEC) {
        vec x = vec_mul(vec_load(s + i), scale);
        if (a->softcap > 0)
            x = vec_mul(cap, vec_tanh(vec_div(x, cap)));
        if (i < from || i + VEC > to)
            x = vec_between(x, none, from - i, to - i);
        most = vec_max(x, most);
        vec_store(s + i, x);
    }
    float new_most = vec_max_all(most);
    for (int i = start; i < to; i += VEC) {
        vec p = vec_exp(vec_sub(vec_load(s + i), vec_set(new_most)));
        if (i < from || i + VEC > to)
            p = vec_between(p, vec_zero(), from - i, to - i);
        sum = vec_add(sum, p);
        vec_store(s + i, p);
    }
    /* with no positions before these there are no sums to bring anywhere */
    float keep = row->most == new_most || row->total == 0 ? 1 : expf(row->most - new_most);
    row->total = row->total * keep + vec_sum(sum);
    row->most = new_most;
    return keep;
}

/* ---- values ---- */

/* out[d0 ..] += sum of p v over the tile's positions from..to - 1, n_vecs vectors wide, the last of
 * `lanes` elements. */
VEC_INLINE void values_block(enum quant_type type, const struct tile *t,
                             struct cpu_attention_row *rows, int n_rows, int d0, int n_vecs,
                             int lanes, size_t row_bytes, bool ahead, float (*p)[TILE], int from,
                             int to)
{
    vec sum[ROWS][CHUNKS];

    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n_vecs; i++)
            sum[r][i] = vec_load_n(rows[r].out + d0 + i * VEC, lanes);
    for (int pos = from; pos < to;) {
        int chunk = pos / t->lanes, end = (chunk + 1) * t->lanes;
        size_t first =
            (size_t)(pos - chunk * t->lanes) * row_bytes + (size_t)d0 * value_bytes(type);
        const char *at = t->v[chunk] + first, *next = t->next->v[chunk] + first;
        for (end = end < to ? end : to; pos < end; pos++, at += row_bytes, next += row_bytes) {
            vec v[CHUNKS];
            for (int i = 0; i < n_vecs; i++) {
                v[i] = load_kv(type, at + (size_t)i * VEC * value_bytes(type), lanes);
                if (ahead && !((size_t)i * VEC * value_bytes(type) % LINE))
                    __builtin_prefetch(next + (size_t)i * VEC * value_bytes(type));
            }
            for (int r = 0; r < n_rows; r++)
                for (int i = 0; i < n_vecs; i++)
                    sum[r][i] = vec_fma(vec_set(p[r][pos]), v[i], sum[r][i]);
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n_vecs; i++)
            vec_store_n(rows[r].out + d0 + i * VEC, sum[r][i], lanes);
}

/* Q8_0: group by group, p times the scales of the group in p's place. */
VEC_INLINE void values_groups(const struct cpu_kv *kv, const struct tile *t,
                              struct cpu_attention_row *rows, int n_rows, bool ahead,
                              float (*p)[TILE], int from, int to)
{
    enum { WIDTH = CPU_KV_GROUP / VEC < CHUNKS ? CPU_KV_GROUP / VEC : CHUNKS };
    float scaled[ROWS][TILE] __attribute__((aligned(64)));
    int head_dim = kv->o.head_dim;

    for (int d = 0; d < head_dim; d += CPU_KV_GROUP) {
        for (int at = from / t->lanes * t->lanes; at < to; at += t->lanes) {
            const uint16_t *scales = t->v_scales[at / t->lanes];
            vec scale = vec_f16_n(scales + d / CPU_KV_GROUP * kv->o.block_size, t->lanes);
            for (int r = 0; r < n_rows; r++)
                vec_store_n(scaled[r] + at, vec_mul(vec_load_n(p[r] + at, t->lanes), scale),
                            t->lanes);
        }
        for (int i = d; i < d + CPU_KV_GROUP; i += WIDTH * VEC)
            values_block(QUANT_Q8_0, t, rows, n_rows, i, WIDTH, VEC, (size_t)head_dim, ahead,
                         scaled, from, to);
    }
}

VEC_INLINE void values_rows(enum quant_type type, const struct cpu_kv *kv, const struct tile *t,
                            struct cpu_attention_row *rows, int n_rows, bool ahead,
                            float (*p)[TILE], int from, int to)
{
    int d = 0, head_dim = kv->o.head_dim;
    size_t row_bytes = (size_t)head_dim * value_bytes(type);

    if (from >= to)
        return;
    if (type == QUANT_Q8_0) {
        values_groups(kv, t, rows, n_rows, ahead, p, from, to);
        return;
    }
    for (; d + CHUNKS * VEC <= head_dim; d += CHUNKS * VEC)
        values_block(type, t, rows, n_rows, d, CHUNKS, VEC, row_bytes, ahead, p, from, to);
    for (; d + VEC <= head_dim; d += VEC)
        values_block(type, t, rows, n_rows, d, 1, VEC, row_bytes, ahead, p, from, to);
    if (d < head_dim)
        values_block(type, t, rows, n_rows, d, 1, head_dim - d, row_bytes, ahead, p, from, to);
}

static void scale_row(float *out, int n, float factor)
{
    vec f = vec_set(factor);

    for (int i = 0; i < n; i += VEC)
        vec_store_n(out + i, vec_mul(vec_load_n(out + i, n - i), f), n - i);
}

/* ---- an item ---- */

/* Chunks wholly before `lowest`, the first position any row sees, may belong to blocks that are
 * gone: their scores are never used, so they are read from the first chunk that is there. */
static void tile_locate(const struct cpu_attention_item *item, struct tile *t, int start, int end,
                        int lowest)
{
    const struct cpu_kv *kv = item->kv;
    size_t block_size = (size_t)kv->o.block_size, head_dim = (size_t)kv->o.head_dim;
    size_t bytes = (size_t)kv->value_bytes;

    t->next = t;
    t->start = start;
    t->lanes = kv->o.block_size < VEC ? kv->o.block_size : VEC;
    for (int c = 0; c < TILE / t->lanes; c++) {
        int chunk = start + c * t->lanes < end ? start + c * t->lanes : start;
        int pos = chunk + t->lanes <= lowest ? lowest / t->lanes * t->lanes : chunk;
        size_t block = (size_t)item->seq->blocks[pos >> kv->block_shift];
        size_t offset = (size_t)pos & (block_size - 1);
        size_t base = cpu_kv_base(kv, item->args->layer, block, item->kv_head);
        t->k[c] = kv->k + (base + offset) * bytes;
        t->v[c] = kv->v + (base + offset * head_dim) * bytes;
        if (kv->o.type == QUANT_Q8_0) {
            t->k_scales[c] = kv->k_scales + base / CPU_KV_GROUP + offset;
            t->v_scales[c] = kv->v_scales + base / CPU_KV_GROUP + offset;
        }
    }
}

/* One tile for up to ROWS rows that all see some of it. */
VEC_INLINE void tile_rows(enum quant_type type, const struct cpu_attention_item *item,
                          const struct tile *t, struct cpu_attention_row *rows, int n_rows,
                          bool ahead)
{
    float s[ROWS][TILE] __attribute__((aligned(64)));
    int from[ROWS], to[ROWS], common_from = 0, common_to = TILE, most_to = 0;
    const struct cpu_kv *kv = item->kv;

    for (int r = 0; r < n_rows; r++) {
        from[r] = rows[r].first > t->start ? rows[r].first - t->start : 0;
        to[r] = rows[r].last - t->start + 1 < TILE ? rows[r].last - t->start + 1 : TILE;
        common_from = from[r] > common_from ? from[r] : common_from;
        common_to = to[r] < common_to ? to[r] : common_to;
        most_to = to[r] > most_to ? to[r] : most_to;
    }
    scores_rows(type, kv, t, rows, n_rows, (most_to + t->lanes - 1) / t->lanes, ahead, s);
    for (int r = 0; r < n_rows; r++) {
        float keep = softmax_tile(item->args, &rows[r], s[r], from[r], to[r]);
        if (keep != 1)
            scale_row(rows[r].out, kv->o.head_dim, keep);
    }
    if (common_from >= common_to) {
        for (int r = 0; r < n_rows; r++)
            values_rows(type, kv, t, &rows[r], 1, ahead, &s[r], from[r], to[r]);
        return;
    }
    for (int r = 0; r < n_rows; r++)
        values_rows(type, kv, t, &rows[r], 1, ahead, &s[r], from[r], common_from);
    values_rows(type, kv, t, rows, n_rows, ahead, s, common_from, common_to);
    for (int r = 0; r < n_rows; r++)
        values_rows(type, kv, t, &rows[r], 1, ahead, &s[r], common_to, to[r]);
}

/* The tile for a run of rows, all of which see some of it. */
VEC_INLINE void tile_run(enum quant_type type, const struct cpu_attention_item *item,
                         const struct tile *t, struct cpu_attention_row *rows, int n_rows)
{
    bool ahead = n_rows < ROWS; /* the first of the calls fetches the next tile */

    if (!ahead) {
        tile_rows(type, item, t, rows, ROWS, true);
        rows += ROWS;
        n_rows -= ROWS;
    }
    for (; n_rows >= ROWS; n_rows -= ROWS, rows += ROWS)
        tile_rows(type, item, t, rows, ROWS, false);
    if (n_rows >= 2) {
        tile_rows(type, item, t, rows, 2, ahead);
        rows += 2;
        n_rows -= 2;
        ahead = false;
    }
    if (n_rows)
        tile_rows(type, item, t, rows, 1, ahead);
}

/* Rows are in order of their query, so first and last never decrease: the rows that see a tile are
 * a run. */
VEC_INLINE void attention_item(enum quant_type type, const struct cpu_attention_item *item)
{
    struct cpu_attention_row *rows = item->rows;
    int n = item->n_rows, begin = 0, seen = 0, lowest = rows[0].first;
    int all = rows[n - 1].last + 1, end = all < item->end ? all : item->end;
    int ahead = all < item->ahead ? all : item->ahead;
    int start = (lowest > item->begin ? lowest : item->begin) / TILE * TILE;
    struct tile tiles[2], *t = &tiles[0];

    if (start >= end)
        return;
    tile_locate(item, t, start, all, lowest);
    for (; start < end; start += TILE) {
        if (start + TILE < ahead) {
            struct tile *next = &tiles[t == &tiles[0]];
            tile_locate(item, next, start + TILE, all, lowest);
            t->next = next;
        }
        while (begin < n && rows[begin].last < start)
            begin++;
        for (seen = begin; seen < n && rows[seen].first < start + TILE;)
            seen++;
        tile_run(type, item, t, rows + begin, seen - begin);
        t = &tiles[t == &tiles[0]];
    }
}

static void attention_merge(float *out, float keep, const float *sums, float take, int n)
{
    vec k = vec_set(keep), t = vec_set(take);

    for (int i = 0; i < n; i += VEC) {
        vec kept = vec_mul(vec_load_n(out + i, n - i), k);
        vec_store_n(out + i, vec_fma(vec_load_n(sums + i, n - i), t, kept), n - i);
    }
}

static void attention_item_f32(const struct cpu_attention_item *item)
{
    attention_item(QUANT_F32, item);
}

static void attention_item_f16(const struct cpu_attention_item *item)
{
    attention_item(QUANT_F16, item);
}

static void attention_item_bf16(const struct cpu_attention_item *item)
{
    attention_item(QUANT_BF16, item);
}

static void attention_item_q8_0(const struct cpu_attention_item *item)
{
    attention_item(QUANT_Q8_0, item);
}

static void attention_item_fp8(const struct cpu_attention_item *item)
{
    attention_item(QUANT_FP8, item);
}
