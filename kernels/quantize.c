/* quantize: checks what goes in, then hands a row to the search of its format (quantize.h); and the
 * threads that do so for a matrix.
 *
 * quantize_row: pure, any thread. The variant is chosen at each call, from what the compiler's
 * runtime found out about the machine at start: one load and a branch per row. A pool has one
 * caller at a time; each of its threads has a row of floats and the first error it met, of which
 * the one of the lowest row is reported. */
#include "kernels/quantize.h"

#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/pool.h"

enum { SLICE_VALUES = 1 << 15, THREADS_MAX = 1024 };

struct thread {
    float *row; /* [cols_max] */
    int64_t failed_row; /* -1: none */
    char error[QUANTIZE_ERROR_BYTES];
};

struct quantize_pool {
    struct pool *pool;
    struct thread *threads;
    int n_threads;
    int64_t cols_max;
    const struct quantize_job *job; /* of the run at hand */
    int64_t slice_rows;
};

static const float F16_MAX = 65504, F16_ROUNDS_AWAY = 65520;

static bool has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") != 0;
#else
    return false;
#endif
}

/* The largest magnitude that the format takes. */
static float reach(enum quant_type type)
{
    switch (type) {
    case QUANT_F32:
    case QUANT_MXFP4: /* 6 * 2^127 is above every float */
        return INFINITY;
    case QUANT_F16: /* rounds to the largest finite number below this */
        return nextafterf(F16_ROUNDS_AWAY, 0);
    case QUANT_BF16:
        return 0x1.fefffep127f;
    default:
        return F16_MAX;
    }
}

static int refuse(char *error, const char *what, double value, size_t column)
{
    if (error)
        snprintf(error, QUANTIZE_ERROR_BYTES, "column %zu: %s (%g)", column, what, value);
    return -1;
}

static int check(enum quant_type type, const float *in, const float *importance, size_t n,
                 char *error)
{
    float most = reach(type);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(in[i]))
            return refuse(error, "the value is not finite", (double)in[i], i);
        if (fabsf(in[i]) > most)
            return refuse(error, "the value is beyond what the format can hold", (double)in[i], i);
        if (importance && !(importance[i] >= 0 && importance[i] <= 3e38f))
            return refuse(error, "the importance is no number >= 0", (double)importance[i], i);
    }
    return 0;
}

int quantize_row(enum quant_type type, const float *in, const float *importance, void *row,
                 size_t n, char *error)
{
    if (quant_formats[type].gguf_type < 0)
        return refuse(error, "nothing is encoded in this format", (double)n, 0);
    if (!quant_row_bytes(type, n) && n)
        return refuse(error, "the row is no multiple of the format's block", (double)n, 0);
    if (check(type, in, importance, n, error))
        return -1;
    if (!quantize_base[type])
        quant_encode(type, in, row, n);
    else if (has_avx2() && quantize_avx2[type])
        quantize_avx2[type](in, importance, row, n);
    else
        quantize_base[type](in, importance, row, n);
    return 0;
}

/* ---- matrices */

static int cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

struct quantize_pool *quantize_open(int n_threads, int64_t cols_max)
{
    struct quantize_pool *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    q->n_threads = n_threads > 0 ? n_threads : cores();
    q->cols_max = cols_max;
    q->threads = calloc((size_t)q->n_threads, sizeof *q->threads);
    bool all = q->threads != NULL;
    for (int i = 0; all && i < q->n_threads; i++)
        all = (q->threads[i].row = calloc((size_t)cols_max, sizeof(float))) != NULL;
    q->pool = all ? pool_open(q->n_threads) : NULL;
    if (!q->pool) {
        quantize_close(q);
        return NULL;
    }
    return q;
}

void quantize_close(struct quantize_pool *q)
{
    if (!q)
        return;
    pool_close(q->pool);
    for (int i = 0; q->threads && i < q->n_threads; i++)
        free(q->threads[i].row);
    free(q->threads);
    free(q);
}

/* Where row `row` of the output comes from. */
static int64_t source_row(const struct quantize_job *job, int64_t row)
{
    int64_t n = job->head_rows, in_head = n ? row % n : 0;
    return n ? row - in_head + in_head % 2 * (n / 2) + in_head / 2 : row;
}

static void convert_row(const struct quantize_job *job, int64_t i, struct thread *t)
{
    size_t n = (size_t)job->cols, from_bytes = quant_row_bytes(job->from, n),
           to_bytes = quant_row_bytes(job->to, n);
    const char *in =
        (const char *)job->in + (size_t)source_row(job, job->first_row + i) * from_bytes;
    char *out = (char *)job->out + (size_t)i * to_bytes;
    if (job->from == job->to) {
        memcpy(out, in, to_bytes);
        return;
    }
    quant_formats[job->from].decode(in, t->row, n);
    char error[QUANTIZE_ERROR_BYTES] = "";
    if (quantize_row(job->to, t->row, job->importance, out, n, error) && t->failed_row < 0) {
        t->failed_row = job->first_row + i;
        memcpy(t->error, error, sizeof error);
    }
}

static void convert_slice(void *arg, int slice, int thread)
{
    struct quantize_pool *q = arg;
    int64_t row = slice * q->slice_rows, end = row + q->slice_rows;
    for (; row < end && row < q->job->n_rows; row++)
        convert_row(q->job, row, &q->threads[thread]);
}

int quantize_matrix(struct quantize_pool *q, const struct quantize_job *job, char *error)
{
    struct thread *first = NULL;
    if (job->cols > q->cols_max || job->cols < 1 || !quant_row_bytes(job->to, (size_t)job->cols))
        return refuse(error, "no such row: its length", (double)job->cols, 0);
    for (int i = 0; i < q->n_threads; i++)
        q->threads[i].failed_row = -1;
    q->job = job;
    q->slice_rows = SLICE_VALUES / job->cols + 1;
    pool_run(q->pool, convert_slice, q, (int)((job->n_rows + q->slice_rows - 1) / q->slice_rows));
    for (int i = 0; i < q->n_threads; i++) {
        struct thread *t = &q->threads[i];
        if (t->failed_row >= 0 && (!first || t->failed_row < first->failed_row))
            first = t;
    }
    if (!first)
        return 0;
    if (error)
        snprintf(error, QUANTIZE_ERROR_BYTES, "row %lld, %s", (long long)first->failed_row,
                 first->error);
    return -1;
}
