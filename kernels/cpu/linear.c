/* linear: out = W in + bias over all storage formats; the driver and the plain loop.
 *
 * Engine thread; slices of matrix rows on the pool, all jobs of a call in one parallel region. Each
 * output is one sum over the columns in an order that depends on neither n nor the slices.
 *
 * OpenBLAS is not used. Measured by tests/kernels --bench (Zen 5, 2 threads, OpenBLAS 0.3.21, F32,
 * 2048 x 4096): its sgemm reaches 16, 30, 136, 217 and 261 GFLOP/s at 1, 4, 16, 64 and 256 inputs,
 * the AVX-512 variant here the bandwidth of memory, 129, 156, 271 and 320. It also picks other
 * kernels, with other orders of addition, for other numbers of inputs.
 *
 * The plain loop decodes the weights and keeps the activations in float32, as the variants of F32
 * and F16 do. A variant may ask for activations quantized to int8 in blocks of 32 (the block
 * formats) or rounded to BF16 (BF16 weights, where the CPU multiplies such pairs); linear_input
 * says so, it is done here, once per call, and bounds their accuracy. Sums are float32 always. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32, HALF = 16, LANES = 8, CHUNK = 256, TOKENS = 16 };
/* With MANY inputs a unit is work enough for a slice: the threads end together. */
enum { ROWS_UNIT = 32, SLICES_PER_THREAD = 6, MANY = 64 };

/* ---- the plain loop ---- */

/* LANES partial sums per output, lane i adding columns i, i + LANES, ...; CHUNK and BLOCK are
 * multiples of LANES, so the lane of a column does not depend on the chunk. */
static void row_times(const struct cpu_linear_slice *s, int64_t row, const char *data, int t0,
                      int n)
{
    const struct matrix *w = s->job->w;
    const struct quant_format *format = &quant_formats[w->type];
    float weights[CHUNK], sums[TOKENS][LANES] = {{0}};

    for (int64_t c0 = 0; c0 < w->cols; c0 += CHUNK) {
        int64_t count = w->cols - c0 < CHUNK ? w->cols - c0 : CHUNK;
        format->decode(data + c0 / format->block * format->block_bytes, weights, (size_t)count);
        for (int t = 0; t < n; t++) {
            const float *x = s->in + (int64_t)(t0 + t) * w->cols + c0;
            for (int64_t c = 0; c < count; c++)
                sums[t][c % LANES] += weights[c] * x[c];
        }
    }
    for (int t = 0; t < n; t++) {
        float sum = s->job->bias ? s->job->bias[row] : 0;
        float *out = s->job->out + (int64_t)(t0 + t) * w->rows + row;
        for (int i = 0; i < LANES; i++)
            sum += sums[t][i];
        *out = s->add ? *out + sum : sum;
    }
}

static void linear_rows(const struct cpu_linear_slice *s)
{
    const struct matrix *w = s->job->w;
    size_t row_bytes = quant_row_bytes(w->type, (size_t)w->cols);

    for (int64_t row = s->row0; row < s->row1; row++)
        for (int t = 0; t < s->n; t += TOKENS)
            row_times(s, row, (const char *)w->data + (size_t)row * row_bytes, t,
                      s->n - t < TOKENS ? s->n - t : TOKENS);
}

static void quantize_row(const float *in, int64_t cols, int8_t *q, struct cpu_scale *scale,
                         size_t stride)
{
    for (int64_t b = 0; b < cols / BLOCK; b++, in += BLOCK, q += stride) {
        float most = 0, poison = 0;
        int32_t sums[2] = {0, 0};
        for (int i = 0; i < BLOCK; i++) {
            most = fmaxf(most, fabsf(in[i]));
            poison += in[i] - in[i]; /* 0, or NaN when in[i] is not finite */
        }
        float inverse = most > 0x1p-120f ? 127 / most : 0;
        for (int i = 0; i < BLOCK; i++) {
            q[i] = poison == 0 ? (int8_t)lrintf(in[i] * inverse) : 0;
            sums[i / HALF] += q[i];
        }
        *scale = cpu_scale_of(most / 127 + poison, sums);
        scale = (struct cpu_scale *)(void *)((char *)scale + stride);
    }
}

void linear_base(struct cpu_variants *v)
{
    for (int i = 0; i < QUANT_COUNT; i++) {
        v->linear_rows[i] = linear_rows;
        v->linear_input[i] = CPU_INPUT_F32;
    }
    v->quantize_row = quantize_row;
    v->tile_inputs = 1;
}

/* ---- the driver ---- */

struct linear_work {
    struct device *d;
    const struct linear_args *a;
    int64_t rows_per_slice;
    int first_slice[4]; /* of each job, and the end */
};

static void round_slice(void *arg, int i, int thread)
{
    const struct linear_work *work = arg;
    int64_t cols = work->a->jobs[0].w->cols;

    (void)thread;
    work->d->ops.round_row(work->a->in + i * cols, cols, work->d->xh + i * cols);
}

static void quantize_slice(void *arg, int i, int thread)
{
    const struct linear_work *work = arg;
    const struct cpu_quantized *x = &work->d->xq;
    int64_t cols = work->a->jobs[0].w->cols;
    size_t block = (size_t)x->tile * CPU_QUANTIZED_BYTES;
    char *tile = x->tiles + (size_t)(i / x->tile) * (size_t)(cols / BLOCK) * block;
    char *scales = tile + x->tile * BLOCK + (size_t)(i % x->tile) * sizeof(struct cpu_scale);

    (void)thread;
    work->d->ops.quantize_row(work->a->in + i * cols, cols,
                              (int8_t *)tile + (ptrdiff_t)(i % x->tile) * BLOCK,
                              (struct cpu_scale *)(void *)scales, block);
}

static void linear_slice(void *arg, int i, int thread)
{
    const struct linear_work *work = arg;
    const struct linear_args *a = work->a;
    int j = 0;

    while (i >= work->first_slice[j + 1])
        j++;
    const struct linear_job *job = &a->jobs[j];
    struct cpu_linear_slice s = {
        .job = job,
        .in = a->in,
        .xq = &work->d->xq,
        .xh = work->d->xh,
        .row0 = (i - work->first_slice[j]) * work->rows_per_slice,
        .n = a->n,
        .add = a->add,
        .scratch = cpu_scratch(work->d, thread),
    };
    s.row1 = s.row0 + work->rows_per_slice;
    if (s.row1 > job->w->rows)
        s.row1 = job->w->rows;
    work->d->ops.linear_rows[job->w->type](&s);
}

int linear_run(struct device *d, const struct linear_args *a)
{
    int64_t rows = 0, cols = a->jobs[0].w->cols;
    bool wanted[CPU_INPUT_BF16 + 1] = {false};
    struct linear_work work = {.d = d, .a = a};

    if (cpu_failed(d))
        return -1;
    if (a->n_jobs < 1 || a->n_jobs > 3)
        return cpu_fail(d, "linear with %d jobs", a->n_jobs);
    for (int j = 0; j < a->n_jobs; j++) {
        rows += a->jobs[j].w->rows;
        wanted[d->ops.linear_input[a->jobs[j].w->type]] = true;
        if (a->jobs[j].w->cols != cols)
            return cpu_fail(d, "linear jobs of one call differ in their columns");
    }
    if ((wanted[CPU_INPUT_INT8] || wanted[CPU_INPUT_BF16]) &&
        (a->n > d->n_max || cols > d->cols_max))
        return cpu_fail(d, "linear of %d x %lld values, %d x %d are reserved", a->n,
                        (long long)cols, d->n_max, d->cols_max);
    if (wanted[CPU_INPUT_BF16])
        cpu_run(d, round_slice, &work, a->n, (double)a->n * (double)cols * 0.05);
    d->xq.tile = a->n <= d->ops.few_inputs ? a->n : d->ops.tile_inputs;
    if (wanted[CPU_INPUT_INT8])
        cpu_run(d, quantize_slice, &work, a->n, (double)a->n * (double)cols * 0.1);

    int64_t share = rows / ((int64_t)d->n_threads * SLICES_PER_THREAD) + 1;
    work.rows_per_slice = d->n_threads == 1 ? INT32_MAX
                          : a->n >= MANY    ? ROWS_UNIT
                                            : (share + ROWS_UNIT - 1) / ROWS_UNIT * ROWS_UNIT;
    for (int j = 0; j < a->n_jobs; j++) {
        int64_t slices = (a->jobs[j].w->rows - 1) / work.rows_per_slice + 1;
        work.first_slice[j + 1] = work.first_slice[j] + (int)slices;
    }
    cpu_run(d, linear_slice, &work, work.first_slice[a->n_jobs],
            (double)rows * (double)cols * a->n * 0.03);
    return 0;
}
