/* model_quantize: quantizes an open model in memory (model_quantize.h). Runs at open, in the
 * caller's thread, beside the threads that quantize (kernels/quantize.h). The new matrices live in
 * the model's arena. */
#include "engine/model_quantize.h"

#include "engine/model_parts.h"
#include "kernels/quantize.h"

struct run {
    struct model *m;
    const struct source *source;
    enum quant_type type;
    struct quantize_pool *pool;
    int (*progress)(void *, const char *, double);
    void *user;
    struct err *err;
    int64_t cols_max;
    double done, all; /* values */
};

static bool is_float(const struct matrix *matrix)
{
    return matrix->type == QUANT_F32 || matrix->type == QUANT_F16 || matrix->type == QUANT_BF16;
}

static int count(void *user, const struct model_matrix *m)
{
    struct run *r = user;
    if (m->first->cols > r->cols_max)
        r->cols_max = m->first->cols;
    for (int i = 0; i < m->n; i++)
        r->all += is_float(&m->first[i]) ? (double)m->first->rows * (double)m->first->cols : 0;
    return 0;
}

static int convert(struct run *r, const struct model_matrix *m, struct matrix *matrix)
{
    char error[QUANTIZE_ERROR_BYTES] = "";
    enum quant_type to = model_parts_type(r->type, m->part, matrix->cols);
    size_t rows = (size_t)matrix->rows, cols = (size_t)matrix->cols;
    size_t old = quant_row_bytes(matrix->type, cols), new = quant_row_bytes(to, cols);
    if (!is_float(matrix) || to == matrix->type || new > old)
        return 0;
    void *out = arena_array(&r->m->arena, rows, new);
    if (!out)
        return err_set(r->err, ERR_NOMEM, "tensor '%s' as %s: out of memory", m->name,
                       quant_formats[to].name);
    struct quantize_job job = {.from = matrix->type, .to = to, .in = matrix->data,
                               .cols = matrix->cols, .n_rows = matrix->rows, .out = out};
    if (quantize_matrix(r->pool, &job, error))
        return err_set(r->err, ERR_FORMAT, "tensor '%s' as %s: %s", m->name,
                       quant_formats[to].name, error);
    source_release(r->source, matrix->data, rows * old);
    r->m->weight_bytes -= (int64_t)(rows * old) - (int64_t)(rows * new);
    r->done += (double)rows * (double)cols;
    matrix->data = out;
    matrix->type = to;
    return 0;
}

static int visit(void *user, const struct model_matrix *m)
{
    struct run *r = user;
    int rc = 0;
    for (int i = 0; !rc && i < m->n; i++) {
        if (r->progress && r->progress(r->user, "quantizing", r->all > 0 ? r->done / r->all : 1))
            return err_set(r->err, ERR_CANCELLED, "stopped");
        rc = convert(r, m, &m->first[i]);
    }
    return rc;
}

int model_quantize(struct model *m, const struct source *source, enum quant_type type, int threads,
                   int (*progress)(void *user, const char *what, double fraction), void *user,
                   struct err *err)
{
    struct run r = {.m = m, .source = source, .type = type, .progress = progress, .user = user,
                    .err = err};
    bool tied = m->head.data == m->embed.data;
    model_parts_matrices(m, count, &r);
    r.pool = quantize_open(threads, r.cols_max);
    if (!r.pool)
        return err_set(err, ERR_NOMEM, "out of memory for threads that quantize");
    int rc = model_parts_matrices(m, visit, &r);
    quantize_close(r.pool);
    if (!rc && tied)
        m->head = m->embed;
    return rc;
}
