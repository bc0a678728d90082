/* linear_vec: the float formats of linear.c (F32, F16, BF16, F8_128) in vectors; included by
 * linear_<isa>.c.
 *
 * Every output is one vector sum over the columns, a vector of them at a time in order, folded at
 * the end by vec_sum's tree, whatever the tile around it: the stream path (few inputs: weights go
 * from memory to registers) and the panel path (many inputs: weights are converted once to a panel
 * in scratch memory, and the sums of a block of columns wait there for the next) do the same
 * operations.
 *
 * FORM_F8's scales are multiplied in as weights are loaded; its rows are whole blocks of 128.
 *
 * FORM_DOT multiplies BF16 weights with inputs rounded to BF16, two columns a lane, and sums in
 * float32: twice the rate, and half the panel. The other forms have one column a lane.
 *
 * Panel, in scratch memory: for each block of columns vec [rows / 4][its vectors][4]; missing rows
 * and columns are zeros. Waiting sums: vec [token tile][row group][4][TOKENS_TILE]. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#include <stddef.h>
#include <string.h>

enum {
    GROUP = 4, /* rows that are summed side by side */
    TOKENS_TILE = VEC_REGISTERS == 32 ? 6 : 2,
    ROWS_PANEL = 32,
    VECTORS_BLOCK = 1024 / VEC,
    PANEL_FLOATS = 512 * 1024 / 4,
    WAITING_FLOATS = 192 * 1024 / 4,
    TOKENS_PANEL = VEC_REGISTERS == 32 ? 12 : 3, /* so many inputs are worth a panel */
    STREAM_AHEAD = 1024, /* bytes prefetched ahead in each row */
    PANEL_AHEAD = 4,     /* rows */
};

_Static_assert(ROWS_PANEL * VECTORS_BLOCK * VEC <= PANEL_FLOATS, "a block of columns fits");
_Static_assert((PANEL_FLOATS + WAITING_FLOATS) * 4 <= CPU_SCRATCH,
               "a panel and its waiting sums fit a thread's scratch memory");

enum form { FORM_F32, FORM_F16, FORM_BF16, FORM_DOT, FORM_F8 };
enum { F8_BLOCK = 128, F8_HEAD = 4, F8_BYTES = F8_HEAD + F8_BLOCK };

VEC_INLINE int form_cols(enum form form) /* of a vector */
{
    return form == FORM_DOT ? 2 * VEC : VEC;
}

/* Where column c lies in a row. */
VEC_INLINE size_t weight_at(enum form form, int64_t c)
{
    if (form == FORM_F8)
        return (size_t)c / F8_BLOCK * F8_BYTES + F8_HEAD + (size_t)c % F8_BLOCK;
    return (size_t)c * (form == FORM_F32 ? 4 : 2);
}

VEC_INLINE size_t row_bytes(enum form form, int64_t cols)
{
    return form == FORM_F8 ? (size_t)cols / F8_BLOCK * F8_BYTES : weight_at(form, cols);
}

/* Columns of a cache line, at least a vector of them. */
VEC_INLINE int line_cols(enum form form)
{
    int cols = form == FORM_F32 ? 16 : form == FORM_F8 ? 64 : 32;
    return cols > form_cols(form) ? cols : form_cols(form);
}

VEC_INLINE size_t input_bytes(enum form form)
{
    return form == FORM_DOT ? 2 : 4;
}

VEC_INLINE const char *input_at(enum form form, const struct cpu_linear_slice *s, int64_t t)
{
    const char *first = form == FORM_DOT ? (const char *)s->xh : (const char *)s->in;
    return first + (size_t)(t * s->job->w->cols) * input_bytes(form);
}

/* n values, at most a vector of them */
VEC_INLINE vec load_values(enum form form, const char *at, int n)
{
    if (form == FORM_F32)
        return n >= VEC ? vec_load(at) : vec_load_n(at, n);
    if (form == FORM_F16)
        return n >= VEC ? vec_f16(at) : vec_f16_n(at, n);
#if VEC_BF16_PAIRS
    if (form == FORM_DOT)
        return n >= 2 * VEC ? vec_load(at) : vec_load_bf16_pairs_n(at, n);
#endif
    return n >= VEC ? vec_bf16(at) : vec_bf16_n(at, n);
}

/* n columns from c on; a vector of them lies in one block */
VEC_INLINE vec load_weight(enum form form, const char *row, int64_t c, int n)
{
    const char *at = row + weight_at(form, c);
    float d;

    if (form != FORM_F8)
        return load_values(form, at, n);
    memcpy(&d, at - c % F8_BLOCK - F8_HEAD, sizeof d);
    return vec_mul(vec_f8(at), vec_set(d * 256));
}

VEC_INLINE vec load_input(enum form form, const char *at, int n)
{
    return form == FORM_DOT ? load_values(form, at, n) : load_values(FORM_F32, at, n);
}

VEC_INLINE vec multiply_add(enum form form, vec weight, vec x, vec sum)
{
#if VEC_BF16_PAIRS
    if (form == FORM_DOT)
        return vec_dot_bf16(weight, x, sum);
#endif
    (void)form;
    return vec_fma(weight, x, sum);
}

/* out[t][row] (+)= sum + bias[row] */
static void finish_one(const struct cpu_linear_slice *s, int64_t row, int64_t t, float sum)
{
    float *out = s->job->out + t * s->job->w->rows + row;

    if (s->job->bias)
        sum += s->job->bias[row];
    *out = s->add ? *out + sum : sum;
}

/* The same for GROUP rows, of which n_rows exist. */
VEC_INLINE void finish_group(const struct cpu_linear_slice *s, int64_t row, int n_rows, int64_t t,
                             vec a, vec b, vec c, vec d)
{
    float sums[GROUP];
    __m128 sum = vec_sum4(a, b, c, d);
    float *out = s->job->out + t * s->job->w->rows + row;

    if (n_rows < GROUP) {
        _mm_storeu_ps(sums, sum);
        for (int r = 0; r < n_rows; r++)
            finish_one(s, row + r, t, sums[r]);
        return;
    }
    if (s->job->bias)
        sum = _mm_add_ps(sum, _mm_loadu_ps(s->job->bias + row));
    if (s->add)
        sum = _mm_add_ps(_mm_loadu_ps(out), sum);
    _mm_storeu_ps(out, sum);
}

/* ---- few inputs: weights straight from memory ---- */

/* GROUP rows from `row` on, n_tokens inputs from t on. Rows from row1 on do not exist: the last
 * existing row stands in for them. Few rows, so that memory is read in few streams: with 8 at a
 * time one input came to 79% of the read bandwidth, with 4 to 94%. */
VEC_INLINE void stream_tile(enum form form, const struct cpu_linear_slice *s, int64_t row,
                            int64_t t, int n_tokens)
{
    const struct matrix *m = s->job->w;
    const int width = form_cols(form);
    int64_t cols = m->cols, c = 0, left = s->row1 - row;
    const size_t bytes = row_bytes(form, cols);
    const char *w[GROUP], *x[TOKENS_TILE];
    vec sum[GROUP][TOKENS_TILE];

    for (int r = 0; r < GROUP; r++) {
        int64_t at = row + r < s->row1 ? row + r : s->row1 - 1;
        w[r] = (const char *)m->data + (size_t)at * bytes;
        for (int i = 0; i < n_tokens; i++)
            sum[r][i] = vec_zero();
    }
    for (int i = 0; i < n_tokens; i++)
        x[i] = input_at(form, s, t + i);
    for (; c < cols; c += width) {
        int n = cols - c < width ? (int)(cols - c) : width;
        size_t ahead = weight_at(form, c) + STREAM_AHEAD;
        vec in[TOKENS_TILE];
        if (ahead >= bytes) /* behind a row's end: the row that is read next in its place */
            ahead += (GROUP - 1) * bytes;
        for (int i = 0; i < n_tokens; i++)
            in[i] = load_input(form, x[i] + (size_t)c * input_bytes(form), n);
        for (int r = 0; r < GROUP; r++) {
            vec weight = load_weight(form, w[r], c, n);
            if (c % line_cols(form) == 0)
                _mm_prefetch((const char *)((uintptr_t)w[r] + ahead), _MM_HINT_T0);
            for (int i = 0; i < n_tokens; i++)
                sum[r][i] = multiply_add(form, weight, in[i], sum[r][i]);
        }
    }
    for (int i = 0; i < n_tokens; i++)
        finish_group(s, row, left < GROUP ? (int)left : GROUP, t + i, sum[0][i], sum[1][i],
                     sum[2][i], sum[3][i]);
}

/* n inputs from t on, at most TOKENS_TILE; numbers known to the compiler keep sums in registers. */
VEC_INLINE void stream_group(enum form form, const struct cpu_linear_slice *s, int64_t row,
                             int64_t t, int n)
{
    switch (n) {
#if VEC_REGISTERS == 32
    case 6:
        stream_tile(form, s, row, t, 6);
        break;
    case 5:
        stream_tile(form, s, row, t, 5);
        break;
    case 4:
        stream_tile(form, s, row, t, 4);
        break;
    case 3:
        stream_tile(form, s, row, t, 3);
        break;
#endif
    case 2:
        stream_tile(form, s, row, t, 2);
        break;
    default:
        stream_tile(form, s, row, t, 1);
    }
}

/* Two tiles differ in size where they can: after the same loop over the same rows, the hardware
 * prefetches less well (8 inputs of 1,024 columns: 4 + 4 took 1.2 times as long as 5 + 3). */
VEC_INLINE void stream_rows(enum form form, const struct cpu_linear_slice *s)
{
    const int first = s->n <= TOKENS_TILE      ? s->n
                      : s->n / 2 < TOKENS_TILE ? s->n / 2 + 1
                                               : TOKENS_TILE;

    for (int64_t row = s->row0; row < s->row1; row += GROUP)
        for (int t = 0, n = first; t < s->n; t += n, n = s->n - t < n ? s->n - t : n)
            stream_group(form, s, row, t, n);
}

/* ---- many inputs: panels ---- */

/* n_rows rows from `row` on, columns c0 .. c0 + cols - 1. */
VEC_INLINE void pack_panel(enum form form, const struct cpu_linear_slice *s, int64_t row,
                           int n_rows, int64_t c0, int64_t cols, float *panel)
{
    const struct matrix *m = s->job->w;
    const int width = form_cols(form);
    const size_t bytes = row_bytes(form, m->cols), ahead = PANEL_AHEAD * bytes;
    int64_t vectors = (cols + width - 1) / width;

    for (int r = 0; r < n_rows; r++) {
        float *to = panel + (r / GROUP * vectors * GROUP + r % GROUP) * VEC;
        const char *from = (const char *)m->data + (size_t)(row + r) * bytes;
        for (int64_t v = 0; v < vectors; v++, to += GROUP * VEC) {
            int64_t left = cols - v * width;
            int64_t c = c0 + v * width;
            _mm_prefetch((const char *)((uintptr_t)from + weight_at(form, c) + ahead),
                         _MM_HINT_T0);
            if (row + r >= s->row1)
                vec_store(to, vec_zero());
            else
                vec_store(to, load_weight(form, from, c, left < width ? (int)left : width));
        }
    }
}

struct panel_tile {
    const float *w;      /* the group's part of the panel */
    const char *x;       /* first input, at the block's first column */
    float *waiting;      /* vec [GROUP][n_tokens], between column blocks */
    int64_t x_bytes, cols; /* from one input to the next; of the block */
    bool first, last;    /* column block */
    int64_t row, t;
};

VEC_INLINE void panel_multiply(enum form form, const struct cpu_linear_slice *s,
                               const struct panel_tile *p, int n_tokens)
{
    const int width = form_cols(form);
    vec sum[GROUP][TOKENS_TILE];
    const float *w = p->w;
    int64_t c = 0;

    for (int r = 0; r < GROUP; r++)
        for (int i = 0; i < n_tokens; i++)
            sum[r][i] = p->first ? vec_zero() : vec_load(p->waiting + (r * n_tokens + i) * VEC);
    for (; c + width <= p->cols; c += width, w += GROUP * VEC) {
        vec weight[GROUP];
        for (int r = 0; r < GROUP; r++)
            weight[r] = vec_load(w + r * VEC);
        for (int i = 0; i < n_tokens; i++) {
            vec x = vec_load(p->x + i * p->x_bytes + (size_t)c * input_bytes(form));
            for (int r = 0; r < GROUP; r++)
                sum[r][i] = multiply_add(form, weight[r], x, sum[r][i]);
        }
    }
    for (int i = 0; i < n_tokens && c < p->cols; i++) {
        vec x = load_input(form, p->x + i * p->x_bytes + (size_t)c * input_bytes(form),
                           (int)(p->cols - c));
        for (int r = 0; r < GROUP; r++)
            sum[r][i] = multiply_add(form, vec_load(w + r * VEC), x, sum[r][i]);
    }
    int64_t left = s->row1 - p->row;
#pragma GCC unroll 8
    for (int i = 0; i < n_tokens; i++) {
        if (p->last) {
            finish_group(s, p->row, left < GROUP ? (int)left : GROUP, p->t + i, sum[0][i],
                         sum[1][i], sum[2][i], sum[3][i]);
            continue;
        }
        for (int r = 0; r < GROUP; r++)
            vec_store(p->waiting + (r * n_tokens + i) * VEC, sum[r][i]);
    }
}

VEC_INLINE void panel_tile_run(enum form form, const struct cpu_linear_slice *s,
                               const struct panel_tile *p, int n)
{
    switch (n) {
#if VEC_REGISTERS == 32
    case 6:
        panel_multiply(form, s, p, 6);
        break;
    case 5:
        panel_multiply(form, s, p, 5);
        break;
    case 4:
        panel_multiply(form, s, p, 4);
        break;
    case 3:
        panel_multiply(form, s, p, 3);
        break;
#endif
    case 2:
        panel_multiply(form, s, p, 2);
        break;
    default:
        panel_multiply(form, s, p, 1);
    }
}

/* How a matrix is cut into panels: whole rows of them where a few fit, so that they are packed once
 * for all inputs; else a block of columns at a time, packed again for each chunk of inputs. */
struct panel_plan {
    int n_rows;
    bool whole;
    int64_t block, tokens; /* columns of a block; inputs of a chunk */
};

VEC_INLINE struct panel_plan plan_panels(enum form form, int64_t cols)
{
    const int width = form_cols(form);
    int64_t all = (cols + width - 1) / width, n_blocks = (all + VECTORS_BLOCK - 1) / VECTORS_BLOCK;
    int64_t block = (all + n_blocks - 1) / n_blocks;
    struct panel_plan plan = {ROWS_PANEL, true, block * width, INT64_MAX};

    while (plan.n_rows > GROUP && plan.n_rows * n_blocks * block * VEC > PANEL_FLOATS)
        plan.n_rows /= 2;
    if (plan.n_rows * n_blocks * block * VEC > PANEL_FLOATS) {
        plan.n_rows = ROWS_PANEL;
        plan.whole = false;
    }
    if (n_blocks > 1)
        plan.tokens = WAITING_FLOATS / VEC / plan.n_rows / TOKENS_TILE * TOKENS_TILE;
    return plan;
}

/* Bring the lines of out that a tile of inputs will write. */
VEC_INLINE void prefetch_outputs(const struct cpu_linear_slice *s, int64_t row, int n_rows,
                                 int64_t t, int n)
{
    for (int i = 0; i < n; i++)
        for (int r = 0; r < n_rows; r += 16)
            __builtin_prefetch((const char *)((uintptr_t)s->job->out +
                                              (size_t)((t + i) * s->job->w->rows + row + r) *
                                                  sizeof(float)),
                               1);
}

/* n inputs from t0 on, columns c0 .. c0 + count - 1, which `panel` holds. */
VEC_INLINE void panel_block(enum form form, const struct cpu_linear_slice *s, int64_t row,
                            const struct panel_plan *plan, const float *panel, float *waiting,
                            int64_t t0, int64_t n, int64_t c0, int64_t count)
{
    const int width = form_cols(form);
    int64_t cols = s->job->w->cols, vectors = (count + width - 1) / width;

    for (int64_t t = 0; t < n; t += TOKENS_TILE) {
        int tokens = n - t < TOKENS_TILE ? (int)(n - t) : TOKENS_TILE;
        if (c0 + count == cols)
            prefetch_outputs(s, row, plan->n_rows, t0 + t, tokens);
        for (int g = 0; g < plan->n_rows / GROUP && row + g * GROUP < s->row1; g++) {
            struct panel_tile p = {
                .w = panel + g * vectors * GROUP * VEC,
                .x = input_at(form, s, t0 + t) + (size_t)c0 * input_bytes(form),
                .waiting = waiting + (t * plan->n_rows + g * GROUP * tokens) * VEC,
                .x_bytes = cols * (int64_t)input_bytes(form),
                .cols = count,
                .first = c0 == 0,
                .last = c0 + count == cols,
                .row = row + g * GROUP,
                .t = t0 + t,
            };
            panel_tile_run(form, s, &p, tokens);
        }
    }
}

/* plan->n_rows rows for all inputs, one block of columns after the other. */
VEC_INLINE void panel_rows(enum form form, const struct cpu_linear_slice *s, int64_t row,
                           const struct panel_plan *plan)
{
    const int width = form_cols(form);
    int64_t cols = s->job->w->cols;
    float *panel = s->scratch, *waiting = panel + PANEL_FLOATS;

    for (int64_t t = 0, n; t < s->n; t += n) {
        n = s->n - t < plan->tokens ? s->n - t : plan->tokens;
        for (int64_t c0 = 0; c0 < cols; c0 += plan->block) {
            int64_t count = cols - c0 < plan->block ? cols - c0 : plan->block;
            float *part = plan->whole ? panel + plan->n_rows * (c0 / width) * VEC : panel;
            if (t == 0 || !plan->whole)
                pack_panel(form, s, row, plan->n_rows, c0, count, part);
            panel_block(form, s, row, plan, part, waiting, t, n, c0, count);
        }
    }
}

VEC_INLINE void float_rows(enum form form, const struct cpu_linear_slice *s)
{
    if (s->n < TOKENS_PANEL) {
        stream_rows(form, s);
        return;
    }
    const struct panel_plan plan = plan_panels(form, s->job->w->cols);
    for (int64_t row = s->row0; row < s->row1; row += plan.n_rows)
        panel_rows(form, s, row, &plan);
}

static void linear_f32(const struct cpu_linear_slice *s)
{
    float_rows(FORM_F32, s);
}

static void linear_f16(const struct cpu_linear_slice *s)
{
    float_rows(FORM_F16, s);
}

static void linear_bf16(const struct cpu_linear_slice *s)
{
    float_rows(FORM_BF16, s);
}

static void linear_f8(const struct cpu_linear_slice *s)
{
    float_rows(FORM_F8, s);
}

/* ---- the inputs of FORM_DOT ---- */

VEC_INLINE void round_inputs(const float *in, int64_t cols, uint16_t *out)
{
    for (int64_t c = 0; c < cols; c += VEC) {
        int n = cols - c < VEC ? (int)(cols - c) : VEC;
        vec_store_bf16_n(out + c, vec_load_n(in + c, n), n);
    }
}
