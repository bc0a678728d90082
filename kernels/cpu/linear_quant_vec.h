/* linear_quant_vec: the block formats of linear.c in vectors; included by linear_<isa>.c, which
 * defines the integer vector `ivec` of VEC int32 and the operations named below.
 *
 * Lanes are rows: a block of 32 columns of VEC rows is transposed so that ivec k holds the columns
 * 4k .. 4k + 3 of every row, and its product with four activations, broadcast, adds to VEC int32
 * sums at once. What a format stores becomes the same five things (quant_block_vec.h): unsigned
 * bytes w, what their zero is, one scale d or two (one per 16 columns), and no, one or two minima
 * m. Per output and block: sum = fma(d * d_x, the exact integer sum of (w - zero) q, sum), for each
 * half where there are two scales, then sum = fma(m, d_x * the sum of q, sum); blocks in order. The
 * stream path transposes in registers, for at most QUANT_TOKENS_FEW inputs at a time; the panel
 * path, for more where there are 32 registers, once into scratch memory. Both do these same
 * operations, so an output does not depend on the path or its neighbours.
 *
 * Panel, in scratch memory: [sub-panel][block]{ivec w[8], vec d[1 or 2], vec m[0 to 2]}; waiting
 * sums between blocks of columns: vec [token][sub-panel].
 *
 *   transpose(rows, offset, out)    16 bytes of each row, as 4 ivec of one dword per row
 *   dwords(rows, offset)            4 bytes of each row
 *   ivec_and, or, xor, srl, sll, sra, set, lut, half, float, as_float   lane by lane
 *   dot_steps(type, acc, w, q, n)   acc + the 4 n products of w[0 .. n - 1] and the int8 at q
 *   dot_step(acc, w, q)             the same of one w; only where there are 32 registers
 *   greatest_of_block(in)           greatest magnitude of 32 floats; a NaN or infinity wins
 *   store_block(q, in, by, sums)    32 rounded products with by (|product| <= 127), and the sums of
 *                                   the two halves
 *   SIGNED_DOTS                     1: dot_steps takes signed bytes for formats that are signed */
#include <math.h>

#include "kernels/cpu/quant_block_vec.h"

enum {
    QUANT_TOKENS_FEW = 32, /* inputs of the stream path */
    QUANT_TOKENS_TILE = VEC_REGISTERS == 32 ? 6 : QUANT_TOKENS_FEW,
    QUANT_AHEAD = 512, /* bytes prefetched ahead in each row: more rows than hardware follows */
};

#if VEC_REGISTERS == 32
enum {
    SUBPANELS = 2, /* ROWS_PANEL rows */
    QUANT_COLS_BLOCKS = 128,
    QUANT_TOKENS_CHUNK = 768,
    PANEL_BLOCK_MAX = (DOTS + 4) * VEC * 4, /* bytes */
};

_Static_assert(SUBPANELS * VEC == ROWS_PANEL, "sub-panels fill a panel");
_Static_assert(QUANT_COLS_BLOCKS % 8 == 0, "a block of columns holds whole blocks of 256");
_Static_assert(SUBPANELS * QUANT_COLS_BLOCKS * PANEL_BLOCK_MAX +
                       QUANT_TOKENS_CHUNK * SUBPANELS * VEC * 4 <= CPU_SCRATCH,
               "a panel and its waiting sums fit a thread's scratch memory");
#endif

/* A block of the inputs from t on, of one tile; the next block is `stride` bytes on. */
struct quant_inputs {
    const char *q; /* [input]{int8[BLOCK]} */
    const struct cpu_scale *scales;
    size_t stride;
};

static struct quant_inputs inputs_at(const struct cpu_linear_slice *s, int64_t t, int64_t b0)
{
    const struct cpu_quantized *x = s->xq;
    int64_t blocks = s->job->w->cols / BLOCK;
    size_t stride = (size_t)x->tile * CPU_QUANTIZED_BYTES, i = (size_t)(t % x->tile);
    const char *block = x->tiles + (size_t)(t / x->tile * blocks + b0) * stride;
    const char *scales = block + x->tile * BLOCK;

    return (struct quant_inputs){block + i * BLOCK,
                                 (const struct cpu_scale *)(const void *)scales + i, stride};
}

VEC_INLINE void inputs_next(struct quant_inputs *x)
{
    x->q += x->stride;
    x->scales = (const struct cpu_scale *)(const void *)((const char *)x->scales + x->stride);
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

/* n * block_zero: what takes the weights' zero away, where n is minus the sum of the q */
VEC_INLINE ivec zero_times(enum quant_type type, ivec n)
{
    switch (block_zero(type)) {
    case 0:
        return ivec_set(0);
    case 12:
        return ivec_add(ivec_sll(n, 3), ivec_sll(n, 2));
    default:
        return ivec_sll(n, __builtin_ctz((unsigned)block_zero(type)));
    }
}

/* What the integer sum of part h of the block begins with. */
VEC_INLINE ivec dot_start(enum quant_type type, const struct cpu_scale *x, int h)
{
    if (block_scales(type) == 1)
        return zero_times(type, ivec_set((uint32_t)x->whole));
    if (h == 1)
        return zero_times(type, ivec_set((uint32_t)x->right));
    return zero_times(type, ivec_sub(ivec_set((uint32_t)x->whole), ivec_set((uint32_t)x->right)));
}

/* The order counts: with the product of d and x->d, which waits for nothing, the loop of one core
 * of a Zen 5 reached 674 GOP/s instead of 911, of 1,080. */
VEC_INLINE vec dot_scaled(vec sum, vec d, const struct cpu_scale *x, ivec acc)
{
    return vec_fma(vec_mul(ivec_float(acc), vec_set(x->d)), d, sum);
}

VEC_INLINE vec dot_minima(enum quant_type type, vec sum, const vec m[2], const struct cpu_scale *x)
{
    if (block_minima(type) == 1)
        return vec_fma(m[0], vec_set(x->sum), sum);
    if (block_minima(type) == 2) {
        vec d = vec_set(x->d), right = ivec_float(ivec_set((uint32_t)x->right));
        vec left = ivec_float(ivec_sub(ivec_set((uint32_t)x->whole), ivec_set((uint32_t)x->right)));
        sum = vec_fnma(m[0], vec_mul(d, left), sum);
        sum = vec_fnma(m[1], vec_mul(d, right), sum);
    }
    return sum;
}

/* sum + the block times the 32 q of one input */
VEC_INLINE vec block_times(enum quant_type type, vec sum, const struct quant_block *block,
                           const char *q, const struct cpu_scale *x)
{
    const int parts = block_scales(type), steps = DOTS / parts;

#pragma GCC unroll 2
    for (int h = 0; h < parts; h++) {
        ivec acc = dot_steps(type, dot_start(type, x, h), block->w + h * steps,
                             q + 4 * h * steps, steps);
        sum = dot_scaled(sum, block->d[h], x, acc);
    }
    return dot_minima(type, sum, block->m, x);
}

/* ---- few inputs ---- */

/* A part of VEC rows that is read up to the byte `end` of each, and what is read after it: `jump`
 * bytes further on than where the rows would go on. */
struct quant_reading {
    size_t end;
    ptrdiff_t jump;
};

VEC_INLINE void prefetch_rows(const char *const rows[VEC], size_t offset,
                              const struct quant_reading *reading)
{
    size_t ahead = offset + QUANT_AHEAD;

    if (ahead >= reading->end)
        ahead += (size_t)reading->jump;
    for (int r = 0; r < VEC; r++)
        _mm_prefetch((const char *)((uintptr_t)rows[r] + ahead), _MM_HINT_T0);
}

/* So many blocks of 32 columns lie in one cache line, about. */
VEC_INLINE int prefetch_apart(size_t row_bytes, int64_t blocks)
{
    size_t bytes = row_bytes / (size_t)blocks;

    return bytes >= 24 ? 1 : bytes >= 12 ? 2 : 4;
}

/* VEC rows from `row` on for all inputs. A number of them known to the compiler keeps the sums in
 * registers; else they lie in the first level of cache, and the weights alone stay in registers. */
VEC_INLINE void quant_stream_rows(enum quant_type type, const struct cpu_linear_slice *s,
                                  int64_t row, int64_t t, int n_tokens)
{
    struct quant_inputs x = inputs_at(s, t, 0);
    const int64_t blocks = s->job->w->cols / BLOCK;
    const size_t bytes = quant_row_bytes(type, (size_t)s->job->w->cols);
    const int apart = prefetch_apart(bytes, blocks);
    const struct quant_reading reading = {bytes, (ptrdiff_t)((VEC - 1) * bytes)};
    const char *rows[VEC];
    struct quant_block block = block_none();
    vec sum[QUANT_TOKENS_FEW];

    rows_locate(s, row, rows);
    for (int i = 0; i < n_tokens; i++)
        sum[i] = vec_zero();
    for (int64_t b = 0; b < blocks; b++) {
        block_load(type, rows, b, &block);
        if (b % apart == 0)
            prefetch_rows(rows, (size_t)b * bytes / (size_t)blocks, &reading);
        int i = 0;
#if VEC_REGISTERS == 32
        for (; i + 4 <= n_tokens; i += 4)
#pragma GCC unroll 4
            for (int j = i; j < i + 4; j++)
                sum[j] = block_times(type, sum[j], &block, x.q + j * BLOCK, &x.scales[j]);
#else
#pragma GCC unroll 8
#endif
        for (; i < n_tokens; i++)
            sum[i] = block_times(type, sum[i], &block, x.q + i * BLOCK, &x.scales[i]);
        inputs_next(&x);
    }
    for (int i = 0; i < n_tokens; i++)
        finish_lanes(s, row, t + i, sum[i]);
}

/* All rows, inputs t .. t + n - 1, which are one tile. */
VEC_INLINE void quant_stream(enum quant_type type, const struct cpu_linear_slice *s, int64_t t,
                             int n)
{
    for (int64_t row = s->row0; row < s->row1; row += VEC)
        switch (n) {
        case 1:
            quant_stream_rows(type, s, row, t, 1);
            break;
        case 2:
            quant_stream_rows(type, s, row, t, 2);
            break;
        case 4:
            quant_stream_rows(type, s, row, t, 4);
            break;
#if VEC_REGISTERS == 32
        case 8:
            quant_stream_rows(type, s, row, t, 8);
            break;
#endif
        default:
            quant_stream_rows(type, s, row, t, n);
        }
}

#if VEC_REGISTERS == 32
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
    const ptrdiff_t group = (ptrdiff_t)(VEC * bytes); /* from the rows of a sub-panel to the next */
    const size_t begin = (size_t)b0 * bytes / (size_t)all;
    struct quant_reading reading = {(size_t)(b0 + blocks) * bytes / (size_t)all, 0};

    for (int p = 0; p < SUBPANELS; p++) {
        const char *rows[VEC];
        reading.jump = p < SUBPANELS - 1     ? group - (ptrdiff_t)(reading.end - begin)
                       : b0 + blocks == all ? group - (ptrdiff_t)reading.end
                                            : (1 - SUBPANELS) * group;
        struct quant_block block = block_none();
        rows_locate(s, row + p * VEC, rows);
        for (int64_t b = 0; b < blocks; b++) {
            block_load(type, rows, b0 + b, &block);
            if (b % apart == 0)
                prefetch_rows(rows, (size_t)(b0 + b) * bytes / (size_t)all, &reading);
            for (int k = 0; k < DOTS; k++, panel += VEC * 4)
                ivec_store(panel, block.w[k]);
            for (int h = 0; h < block_scales(type); h++, panel += VEC * 4)
                vec_store((float *)panel, block.d[h]);
            for (int h = 0; h < block_minima(type); h++, panel += VEC * 4)
                vec_store((float *)panel, block.m[h]);
        }
    }
}

/* A panel of rows from `row` on, for a chunk of inputs; one block of columns of it. */
struct quant_part {
    const char *panel;
    float *waiting; /* vec [token of the chunk][SUBPANELS] */
    int64_t row, t0, b0, blocks;
    bool first, last; /* block of columns */
};

/* The panel times the n_tokens inputs from t0 + t on. */
VEC_INLINE void quant_tile(enum quant_type type, const struct cpu_linear_slice *s,
                           const struct quant_part *part, int64_t t, int n_tokens)
{
    const int parts = block_scales(type), steps = DOTS / parts, minima = block_minima(type);
    const size_t sub = (size_t)part->blocks * panel_bytes(type);
    const char *panel = part->panel;
    struct quant_inputs x = inputs_at(s, part->t0 + t, part->b0);
    float *waiting = part->waiting + t * SUBPANELS * VEC;
    vec sum[SUBPANELS][QUANT_TOKENS_TILE];

    for (int p = 0; p < SUBPANELS; p++)
        for (int i = 0; i < n_tokens; i++)
            sum[p][i] = part->first ? vec_zero() : vec_load(waiting + (i * SUBPANELS + p) * VEC);
    if (part->last)
        prefetch_outputs(s, part->row, ROWS_PANEL, part->t0 + t, n_tokens);
    for (int64_t b = 0; b < part->blocks; b++, panel += panel_bytes(type)) {
#pragma GCC unroll 2
        for (int h = 0; h < parts; h++) {
            ivec acc[SUBPANELS][QUANT_TOKENS_TILE];
            for (int i = 0; i < n_tokens; i++) {
                ivec start = dot_start(type, &x.scales[i], h);
                for (int p = 0; p < SUBPANELS; p++)
                    acc[p][i] = start;
            }
#pragma GCC unroll 8
            for (int k = h * steps; k < (h + 1) * steps; k++) {
                ivec w[SUBPANELS];
                for (int p = 0; p < SUBPANELS; p++)
                    w[p] = ivec_load(panel + (size_t)p * sub + (size_t)k * VEC * 4);
                for (int i = 0; i < n_tokens; i++)
                    for (int p = 0; p < SUBPANELS; p++)
                        acc[p][i] = dot_step(acc[p][i], w[p], x.q + i * BLOCK + 4 * k);
            }
            for (int p = 0; p < SUBPANELS; p++) {
                vec d = vec_load(panel + (size_t)p * sub + (size_t)(DOTS + h) * VEC * 4);
                for (int i = 0; i < n_tokens; i++)
                    sum[p][i] = dot_scaled(sum[p][i], d, &x.scales[i], acc[p][i]);
            }
        }
        for (int p = 0; p < SUBPANELS && minima; p++) {
            const char *at = panel + (size_t)p * sub + (size_t)(DOTS + parts) * VEC * 4;
            vec m[2] = {vec_load(at), minima > 1 ? vec_load(at + VEC * 4) : vec_zero()};
            for (int i = 0; i < n_tokens; i++)
                sum[p][i] = dot_minima(type, sum[p][i], m, &x.scales[i]);
        }
        inputs_next(&x);
    }
    for (int p = 0; p < SUBPANELS; p++)
        for (int i = 0; i < n_tokens; i++) {
            int64_t row = part->row + p * VEC;
            if (!part->last)
                vec_store(waiting + (i * SUBPANELS + p) * VEC, sum[p][i]);
            else if (row < s->row1)
                finish_lanes(s, row, part->t0 + t + i, sum[p][i]);
        }
}

VEC_INLINE void quant_part_run(enum quant_type type, const struct cpu_linear_slice *s,
                               const struct quant_part *part, int64_t n)
{
    int64_t t = 0;

    for (; t + QUANT_TOKENS_TILE <= n; t += QUANT_TOKENS_TILE)
        quant_tile(type, s, part, t, QUANT_TOKENS_TILE);
    if (t + 4 <= n) {
        quant_tile(type, s, part, t, 4);
        t += 4;
    }
    if (t + 2 <= n) {
        quant_tile(type, s, part, t, 2);
        t += 2;
    }
    if (t < n)
        quant_tile(type, s, part, t, 1);
}

VEC_INLINE void quant_panel(enum quant_type type, const struct cpu_linear_slice *s, int64_t row,
                            int64_t t0, int64_t n)
{
    int64_t all = s->job->w->cols / BLOCK;
    char *panel = s->scratch;
    struct quant_part part = {
        .panel = panel,
        .waiting = (float *)(void *)(panel + SUBPANELS * QUANT_COLS_BLOCKS * PANEL_BLOCK_MAX),
        .row = row,
        .t0 = t0,
    };

    for (; part.b0 < all; part.b0 += part.blocks) {
        part.blocks = all - part.b0 < QUANT_COLS_BLOCKS ? all - part.b0 : QUANT_COLS_BLOCKS;
        part.first = part.b0 == 0;
        part.last = part.b0 + part.blocks == all;
        quant_pack(type, s, row, part.b0, part.blocks, panel);
        quant_part_run(type, s, &part, n);
    }
}

VEC_INLINE void quant_rows(enum quant_type type, const struct cpu_linear_slice *s)
{
    if (s->n <= QUANT_TOKENS_FEW) {
        quant_stream(type, s, 0, s->n);
        return;
    }
    for (int64_t row = s->row0; row < s->row1; row += ROWS_PANEL)
        for (int64_t t = 0; t < s->n; t += QUANT_TOKENS_CHUNK)
            quant_panel(type, s, row, t,
                        s->n - t < QUANT_TOKENS_CHUNK ? s->n - t : QUANT_TOKENS_CHUNK);
}
#else
/* Many inputs take the same path: 16 registers hold either weights or sums, and with the sums in
 * them, and panels, it took 1.2 to 1.4 times as long (Zen 5, 64 inputs). */
VEC_INLINE void quant_rows(enum quant_type type, const struct cpu_linear_slice *s)
{
    for (int64_t t = 0; t < s->n; t += QUANT_TOKENS_FEW)
        quant_stream(type, s, t,
                     s->n - t < QUANT_TOKENS_FEW ? (int)(s->n - t) : QUANT_TOKENS_FEW);
}
#endif

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
    v->few_inputs = QUANT_TOKENS_FEW;
    v->tile_inputs = QUANT_TOKENS_TILE;
}

/* d = greatest magnitude / 127 and q = round(x / d) per block; a NaN or infinity makes d NaN. Its
 * bits without the sign are then the greatest, as a number they are a NaN or infinity too. */
static void quantize_row(const float *in, int64_t cols, int8_t *q, struct cpu_scale *scale,
                         size_t stride)
{
    for (int64_t b = 0; b < cols / BLOCK; b++, in += BLOCK, q += stride) {
        float greatest = greatest_of_block(in), poison = greatest - greatest; /* 0 or NaN */
        int32_t sums[2] = {0, 0};
        if (poison == 0)
            store_block(q, in, greatest > 0x1p-120f ? 127 / greatest : 0, sums);
        else /* nothing here can be converted */
            memset(q, 0, BLOCK);
        *scale = cpu_scale_of(greatest / 127 + poison, sums);
        scale = (struct cpu_scale *)(void *)((char *)scale + stride);
    }
}
