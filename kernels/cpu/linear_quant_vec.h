/* linear_quant_vec: the block formats of linear.c in vectors; included by linear_<isa>.c, which
 * defines the integer vector `ivec` of VEC int32 and the operations named below.
 *
 * Lanes are rows: a block of 32 columns of VEC rows is transposed so that ivec k holds the columns
 * 4k .. 4k + 3 of every row, and its product with four activations, broadcast, adds to VEC int32
 * sums at once. What a format stores becomes the same five things (quant_block_vec.h): unsigned
 * bytes w, what their zero is, one scale d or two (one per 16 columns), and no, one or two minima
 * m. Per output and block: sum = fma(d * d_x, the exact integer sum of (w - zero) q, sum), for each
 * half where there are two scales, then sum = fma(m, d_x * the sum of q, sum); blocks in order. The
 * stream path transposes in registers, the panel path once into scratch memory; both do these same
 * operations, so an output does not depend on the path or its neighbours.
 *
 * Panel, in scratch memory: [sub-panel][block]{ivec w[8], vec d[1 or 2], vec m[0 to 2]}; waiting
 * sums between blocks of columns: vec [token][sub-panel].
 *
 *   transpose(rows, offset, out)    16 bytes of each row, as 4 ivec of one dword per row
 *   dwords(rows, offset)            4 bytes of each row
 *   ivec_and, or, xor, srl, sll, sra, set, lut, half, float, as_float   lane by lane
 *   dot_step(type, acc, w, q)       acc + the four products of w and the 4 int8 at q
 *   SIGNED_DOTS                     1: dot_step takes signed bytes for formats that are signed */
#include <math.h>

#include "kernels/cpu/quant_block_vec.h"

enum {
    SUBPANELS = VEC_REGISTERS == 32 ? 2 : 4, /* ROWS_PANEL rows */
    SUB_AT_ONCE = VEC_REGISTERS == 32 ? 2 : 1,
    QUANT_TOKENS_TILE = VEC_REGISTERS == 32 ? 6 : 4,
    QUANT_COLS_BLOCKS = 96,
    QUANT_TOKENS_CHUNK = 768,
    QUANT_STREAM_TILE = VEC_REGISTERS == 32 ? 8 : 4,
    QUANT_TOKENS_PANEL = QUANT_STREAM_TILE + 1,
    QUANT_AHEAD = 512, /* bytes prefetched ahead in each row: more rows than hardware follows */
    PANEL_BLOCK_MAX = (DOTS + 4) * VEC * 4, /* bytes */
};

_Static_assert(SUBPANELS * VEC == ROWS_PANEL, "sub-panels fill a panel");
_Static_assert(QUANT_COLS_BLOCKS % 8 == 0, "a block of columns holds whole blocks of 256");
_Static_assert(SUBPANELS * QUANT_COLS_BLOCKS * PANEL_BLOCK_MAX +
                       QUANT_TOKENS_CHUNK * SUBPANELS * VEC * 4 <= CPU_SCRATCH,
               "a panel and its waiting sums fit a thread's scratch memory");

/* The inputs from t on, at column block b0. */
struct quant_inputs {
    const int8_t *q;
    const float *d;
    const int32_t *sums;
    int64_t cols, blocks; /* of a whole input: the strides */
};

static struct quant_inputs inputs_at(const struct cpu_linear_slice *s, int64_t t, int64_t b0)
{
    int64_t cols = s->job->w->cols, blocks = cols / BLOCK;

    return (struct quant_inputs){s->xq->q + t * cols + b0 * BLOCK, s->xq->d + t * blocks + b0,
                                 s->xq->sums + 2 * (t * blocks + b0), cols, blocks};
}

/* out[t][row ..] (+)= sums + bias for the VEC rows from `row` on that exist */
VEC_INLINE void finish_lanes(const struct cpu_linear_slice *s, int64_t row, int64_t t, vec sum)
{
    int n = s->row1 - row < VEC ? (int)(s->row1 - row) : VEC;
    float *out = s->job->out + t * s->job->w->rows + row;

    if (s->job->bias)
        sum = vec_add(sum, vec_load_n(s->job->bias + row, n));
    if (s->add)
        sum = vec_add(vec_load_n(out, n), sum);
    vec_store_n(out, sum, n);
}

/* The last existing row stands in for those that do not exist. */
static void rows_locate(const struct cpu_linear_slice *s, int64_t row, const char *rows[VEC])
{
    const struct matrix *m = s->job->w;
    size_t bytes = quant_row_bytes(m->type, (size_t)m->cols);

    for (int r = 0; r < VEC; r++) {
        int64_t at = row + r < s->row1 ? row + r : s->row1 - 1;
        rows[r] = (const char *)m->data + (size_t)at * bytes;
    }
}

/* ---- the product of a block ---- */

struct quant_dot { /* of one input with VEC rows */
    const int8_t *q;
    float d;
    int32_t sums[2];
};

VEC_INLINE struct quant_dot dot_of(const struct quant_inputs *x, int64_t i, int64_t b)
{
    const int32_t *sums = x->sums + 2 * (i * x->blocks + b);

    return (struct quant_dot){x->q + i * x->cols + b * BLOCK, x->d[i * x->blocks + b],
                              {sums[0], sums[1]}};
}

/* What the integer sum of part h of n begins with: it takes the weights' zero away. */
VEC_INLINE ivec dot_start(enum quant_type type, const struct quant_dot *x, int h, int n)
{
    int32_t sum = n == 1 ? x->sums[0] + x->sums[1] : x->sums[h];

    return ivec_set((uint32_t)(-sum * block_zero(type)));
}

VEC_INLINE vec dot_scaled(vec sum, vec d, const struct quant_dot *x, ivec acc)
{
    return vec_fma(vec_mul(d, vec_set(x->d)), ivec_float(acc), sum);
}

VEC_INLINE vec dot_minima(enum quant_type type, vec sum, const vec m[2], const struct quant_dot *x)
{
    if (block_minima(type) == 1)
        return vec_fma(m[0], vec_set(x->d * (float)(x->sums[0] + x->sums[1])), sum);
    for (int h = 0; h < block_minima(type); h++)
        sum = vec_fma(m[h], vec_set(x->d * (float)x->sums[h]), sum);
    return sum;
}

/* ---- few inputs ---- */

/* Behind a row's end the row VEC further goes on: the same lane of the next rows to be read. */
VEC_INLINE void prefetch_rows(const char *const rows[VEC], size_t offset, size_t row_bytes)
{
    size_t ahead = offset + QUANT_AHEAD;

    if (ahead >= row_bytes)
        ahead += (VEC - 1) * row_bytes;
    for (int r = 0; r < VEC; r++)
        _mm_prefetch((const char *)((uintptr_t)rows[r] + ahead), _MM_HINT_T0);
}

/* So many blocks of 32 columns lie in one cache line, about. */
VEC_INLINE int prefetch_apart(size_t row_bytes, int64_t blocks)
{
    size_t bytes = row_bytes / (size_t)blocks;

    return bytes >= 24 ? 1 : bytes >= 12 ? 2 : 4;
}

VEC_INLINE void quant_stream_tile(enum quant_type type, const struct cpu_linear_slice *s,
                                  int64_t row, int64_t t, int n_tokens)
{
    struct quant_inputs x = inputs_at(s, t, 0);
    const int parts = block_scales(type), steps = DOTS / parts;
    const size_t bytes = quant_row_bytes(type, (size_t)x.cols);
    const int apart = prefetch_apart(bytes, x.blocks);
    const char *rows[VEC];
    struct quant_block block = block_none();
    vec sum[QUANT_STREAM_TILE];

    rows_locate(s, row, rows);
    for (int i = 0; i < n_tokens; i++)
        sum[i] = vec_zero();
    for (int64_t b = 0; b < x.blocks; b++) {
        block_load(type, rows, b, &block);
        if (b % apart == 0)
            prefetch_rows(rows, (size_t)b * bytes / (size_t)x.blocks, bytes);
        for (int i = 0; i < n_tokens; i++) {
            struct quant_dot dot = dot_of(&x, i, b);
            for (int h = 0; h < parts; h++) {
                ivec acc = dot_start(type, &dot, h, parts);
                for (int k = h * steps; k < (h + 1) * steps; k++)
                    acc = dot_step(type, acc, block.w[k], dot.q + 4 * k);
                sum[i] = dot_scaled(sum[i], block.d[h], &dot, acc);
            }
            sum[i] = dot_minima(type, sum[i], block.m, &dot);
        }
    }
    for (int i = 0; i < n_tokens; i++)
        finish_lanes(s, row, t + i, sum[i]);
}

VEC_INLINE void quant_stream(enum quant_type type, const struct cpu_linear_slice *s)
{
    for (int64_t row = s->row0; row < s->row1; row += VEC) {
        int t = 0;
        for (; t + QUANT_STREAM_TILE <= s->n; t += QUANT_STREAM_TILE)
            quant_stream_tile(type, s, row, t, QUANT_STREAM_TILE);
        for (; t + 4 <= s->n; t += 4)
            quant_stream_tile(type, s, row, t, 4);
        if (t + 2 <= s->n) {
            quant_stream_tile(type, s, row, t, 2);
            t += 2;
        }
        if (t < s->n)
            quant_stream_tile(type, s, row, t, 1);
    }
}

/* ---- many inputs ---- */

VEC_INLINE size_t panel_bytes(enum quant_type type)
{
    return (size_t)(DOTS + block_scales(type) + block_minima(type)) * VEC * 4;
}

VEC_INLINE void quant_pack(enum quant_type type, const struct cpu_linear_slice *s, int64_t row,
                           int64_t b0, int64_t blocks, char *panel)
{
    const int64_t all = s->job->w->cols / BLOCK;
    const size_t bytes = quant_row_bytes(type, (size_t)s->job->w->cols);
    const int apart = prefetch_apart(bytes, all);

    for (int p = 0; p < SUBPANELS; p++) {
        const char *rows[VEC];
        struct quant_block block = block_none();
        rows_locate(s, row + p * VEC, rows);
        for (int64_t b = 0; b < blocks; b++) {
            block_load(type, rows, b0 + b, &block);
            if (b % apart == 0)
                prefetch_rows(rows, (size_t)(b0 + b) * bytes / (size_t)all, bytes);
            for (int k = 0; k < DOTS; k++, panel += VEC * 4)
                ivec_store(panel, block.w[k]);
            for (int h = 0; h < block_scales(type); h++, panel += VEC * 4)
                vec_store((float *)panel, block.d[h]);
            for (int h = 0; h < block_minima(type); h++, panel += VEC * 4)
                vec_store((float *)panel, block.m[h]);
        }
    }
}

/* SUB_AT_ONCE sub-panels for n_tokens inputs. sums: vec [n_tokens][SUBPANELS], carried from one
 * block of columns to the next. */
VEC_INLINE void quant_multiply(enum quant_type type, const char *panel, int64_t blocks,
                               const struct quant_inputs *x, int n_tokens, float *sums)
{
    const int parts = block_scales(type), steps = DOTS / parts, minima = block_minima(type);
    const size_t sub = (size_t)blocks * panel_bytes(type);
    vec sum[SUB_AT_ONCE][QUANT_TOKENS_TILE];

    for (int p = 0; p < SUB_AT_ONCE; p++)
        for (int i = 0; i < n_tokens; i++)
            sum[p][i] = vec_load(sums + (i * SUBPANELS + p) * VEC);
    for (int64_t b = 0; b < blocks; b++, panel += panel_bytes(type)) {
#pragma GCC unroll 2
        for (int h = 0; h < parts; h++) {
            ivec acc[SUB_AT_ONCE][QUANT_TOKENS_TILE];
            for (int i = 0; i < n_tokens; i++) {
                struct quant_dot dot = dot_of(x, i, b);
                for (int p = 0; p < SUB_AT_ONCE; p++)
                    acc[p][i] = dot_start(type, &dot, h, parts);
            }
#pragma GCC unroll 8
            for (int k = h * steps; k < (h + 1) * steps; k++) {
                ivec w[SUB_AT_ONCE];
                for (int p = 0; p < SUB_AT_ONCE; p++)
                    w[p] = ivec_load(panel + (size_t)p * sub + (size_t)k * VEC * 4);
                for (int i = 0; i < n_tokens; i++)
                    for (int p = 0; p < SUB_AT_ONCE; p++)
                        acc[p][i] = dot_step(type, acc[p][i], w[p],
                                             x->q + i * x->cols + b * BLOCK + 4 * k);
            }
            for (int p = 0; p < SUB_AT_ONCE; p++) {
                vec d = vec_load(panel + (size_t)p * sub + (size_t)(DOTS + h) * VEC * 4);
                for (int i = 0; i < n_tokens; i++) {
                    struct quant_dot dot = dot_of(x, i, b);
                    sum[p][i] = dot_scaled(sum[p][i], d, &dot, acc[p][i]);
                }
            }
        }
        for (int p = 0; p < SUB_AT_ONCE && minima; p++) {
            const char *at = panel + (size_t)p * sub + (size_t)(DOTS + parts) * VEC * 4;
            vec m[2] = {vec_load(at), minima > 1 ? vec_load(at + VEC * 4) : vec_zero()};
            for (int i = 0; i < n_tokens; i++) {
                struct quant_dot dot = dot_of(x, i, b);
                sum[p][i] = dot_minima(type, sum[p][i], m, &dot);
            }
        }
    }
    for (int p = 0; p < SUB_AT_ONCE; p++)
        for (int i = 0; i < n_tokens; i++)
            vec_store(sums + (i * SUBPANELS + p) * VEC, sum[p][i]);
}

VEC_INLINE void quant_panel_tiles(enum quant_type type, const struct cpu_linear_slice *s,
                                  const char *panel, int64_t b0, int64_t blocks, int64_t t0,
                                  int64_t n, float *sums)
{
    for (int p = 0; p < SUBPANELS; p += SUB_AT_ONCE) {
        const char *part = panel + (size_t)(p * blocks) * panel_bytes(type);
        int64_t t = 0;
        for (; t + QUANT_TOKENS_TILE <= n; t += QUANT_TOKENS_TILE) {
            struct quant_inputs x = inputs_at(s, t0 + t, b0);
            quant_multiply(type, part, blocks, &x, QUANT_TOKENS_TILE,
                           sums + (t * SUBPANELS + p) * VEC);
        }
        for (; t + 2 <= n; t += 2) {
            struct quant_inputs x = inputs_at(s, t0 + t, b0);
            quant_multiply(type, part, blocks, &x, 2, sums + (t * SUBPANELS + p) * VEC);
        }
        if (t < n) {
            struct quant_inputs x = inputs_at(s, t0 + t, b0);
            quant_multiply(type, part, blocks, &x, 1, sums + (t * SUBPANELS + p) * VEC);
        }
    }
}

VEC_INLINE void quant_panel(enum quant_type type, const struct cpu_linear_slice *s, int64_t row,
                            int64_t t0, int64_t n)
{
    int64_t blocks = s->job->w->cols / BLOCK;
    char *panel = s->scratch;
    float *sums = (float *)(panel + SUBPANELS * QUANT_COLS_BLOCKS * PANEL_BLOCK_MAX);

    memset(sums, 0, (size_t)n * SUBPANELS * VEC * sizeof *sums);
    for (int64_t b0 = 0; b0 < blocks; b0 += QUANT_COLS_BLOCKS) {
        int64_t count = blocks - b0 < QUANT_COLS_BLOCKS ? blocks - b0 : QUANT_COLS_BLOCKS;
        quant_pack(type, s, row, b0, count, panel);
        quant_panel_tiles(type, s, panel, b0, count, t0, n, sums);
    }
    for (int64_t t = 0; t < n; t++)
        for (int p = 0; p < SUBPANELS && row + p * VEC < s->row1; p++)
            finish_lanes(s, row + p * VEC, t0 + t, vec_load(sums + (t * SUBPANELS + p) * VEC));
}

VEC_INLINE void quant_rows(enum quant_type type, const struct cpu_linear_slice *s)
{
    if (s->n < QUANT_TOKENS_PANEL) {
        quant_stream(type, s);
        return;
    }
    for (int64_t row = s->row0; row < s->row1; row += ROWS_PANEL)
        for (int64_t t = 0; t < s->n; t += QUANT_TOKENS_CHUNK)
            quant_panel(type, s, row, t,
                        s->n - t < QUANT_TOKENS_CHUNK ? s->n - t : QUANT_TOKENS_CHUNK);
}

#define QUANT_BLOCK_TYPES(X)                                                                       \
    X(QUANT_Q8_0)                                                                                  \
    X(QUANT_Q4_0)                                                                                  \
    X(QUANT_Q4_1)                                                                                  \
    X(QUANT_Q5_0)                                                                                  \
    X(QUANT_Q5_1)                                                                                  \
    X(QUANT_IQ4_NL)                                                                                \
    X(QUANT_MXFP4)                                                                                 \
    X(QUANT_Q2_K)                                                                                  \
    X(QUANT_Q3_K)                                                                                  \
    X(QUANT_Q4_K)                                                                                  \
    X(QUANT_Q5_K)                                                                                  \
    X(QUANT_Q6_K)                                                                                  \
    X(QUANT_IQ4_XS)                                                                                \
    X(QUANT_G4)                                                                                    \
    X(QUANT_G4_128)                                                                                \
    X(QUANT_G8)                                                                                    \
    X(QUANT_G8_128)

#define QUANT_ROWS(type)                                                                           \
    static void linear_##type(const struct cpu_linear_slice *s)                                    \
    {                                                                                              \
        quant_rows(type, s);                                                                       \
    }
QUANT_BLOCK_TYPES(QUANT_ROWS)

static void quant_register(struct cpu_variants *v)
{
#define QUANT_ENTER(type)                                                                          \
    v->linear_rows[type] = linear_##type;                                                          \
    v->linear_input[type] = CPU_INPUT_INT8;
    QUANT_BLOCK_TYPES(QUANT_ENTER)
}

/* d = greatest magnitude / 127 and q = round(x / d) per block; a NaN or infinity makes d NaN. */
static void quantize_row(const float *in, int64_t cols, int8_t *q, float *d, int32_t *sums)
{
    for (int64_t b = 0; b < cols / BLOCK; b++, in += BLOCK, q += BLOCK) {
        vec most = vec_zero(), poison = vec_zero();
        for (int i = 0; i < BLOCK; i += VEC) {
            vec x = vec_load(in + i);
            most = vec_max(vec_abs(x), most);
            poison = vec_add(poison, vec_sub(x, x));
        }
        float greatest = vec_max_all(most), poisoned = vec_sum(poison);
        vec inverse = vec_set(greatest > 0x1p-120f ? 127 / greatest : 0);
        d[b] = greatest / 127 + poisoned;
        sums[2 * b] = sums[2 * b + 1] = 0;
        if (poisoned != 0) { /* NaN: nothing here can be converted */
            memset(q, 0, BLOCK);
            continue;
        }
        for (int i = 0; i < BLOCK; i += VEC)
            sums[2 * b + i / HALF] += ivec_store_int8(q + i, vec_mul(vec_load(in + i), inverse));
    }
}
