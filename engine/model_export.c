/* model_export: writes a model as a GGUF file (model_export.h). Runs in the caller's thread, beside
 * the threads that quantize (kernels/quantize.h); one export owns one struct export.
 *
 * Twice over all tensors: first they are announced, so that the header is known and the disk's room
 * is taken; then each is converted, WORK_BYTES of output at a time, and its source's pages are let
 * go. So memory holds the model's small vectors, the header and the work, whatever the model. */
#include "engine/model_export.h"

#include <stdlib.h>
#include <string.h>

#include "engine/gguf_write.h"
#include "engine/imatrix.h"
#include "engine/model_export_meta.h"
#include "engine/model_parts.h"
#include "kernels/quantize.h"

enum { WORK_BYTES = 8 << 20 };

struct export {
    const struct model_export_options *o;
    struct model_export_result *result;
    struct err *err;
    struct gguf *gguf;
    struct model *m;
    struct gguf_write w;
    struct quantize_pool *pool;
    struct buf work;
    struct model_export_extra extra;
    int64_t cols_max;
    uint64_t done, all; /* bytes of output */
};

static enum quant_type type_of(const struct export *e, const struct model_matrix *m)
{
    return model_parts_type(e->o->type, m->part, m->first->cols);
}

static bool is_float(enum quant_type type)
{
    return type == QUANT_F32 || type == QUANT_F16 || type == QUANT_BF16;
}

/* ---- announcing */

static int too_large(struct export *e, const char *name)
{
    return err_set(e->err, ERR_FORMAT, "tensor '%s' is too large", name);
}

static int announce_matrix(void *user, const struct model_matrix *m)
{
    struct export *e = user;
    enum quant_type type = type_of(e, m);
    int64_t dims[] = {m->n, m->first->rows, m->first->cols};
    int skip = m->experts ? 0 : 1, n_experts = 0;
    const float *importance;
    for (int i = 0; i < m->n; i++)
        e->result->n_requantized += !is_float(m->first[i].type) && m->first[i].type != type;
    if (e->o->imatrix && m->part == MODEL_PART_BODY &&
        !imatrix_find(e->o->imatrix, m->name, m->first->cols, &importance, &n_experts))
        e->result->n_without++;
    if (m->first->cols > e->cols_max)
        e->cols_max = m->first->cols;
    e->result->n_tensors++;
    uint64_t bytes = gguf_write_tensor(&e->w, m->name, 3 - skip, dims + skip, type);
    e->all += bytes;
    return bytes ? 0 : too_large(e, m->name);
}

static int announce_vector(void *user, const struct model_vector *v)
{
    struct export *e = user;
    e->result->n_tensors++;
    return gguf_write_tensor(&e->w, v->name, 1, &v->n, QUANT_F32) ? 0 : too_large(e, v->name);
}

static struct model_vector divisors_of(const struct export *e)
{
    return (struct model_vector){.name = "rope_freqs.weight", .values = e->extra.divisors,
                                 .n = e->extra.n_divisors};
}

static int announce(struct export *e)
{
    const struct model_vector divisors = divisors_of(e);
    int rc = model_parts_matrices(e->m, announce_matrix, e);
    if (!rc)
        rc = model_parts_vectors(e->m, announce_vector, e);
    if (!rc && divisors.n)
        rc = announce_vector(e, &divisors);
    return rc;
}

/* ---- writing */

static int tell(struct export *e, const char *what)
{
    double fraction = e->all ? (double)e->done / (double)e->all : 0;
    if (e->o->progress && e->o->progress(e->o->user, what, fraction))
        return err_set(e->err, ERR_CANCELLED, "stopped");
    return 0;
}

static const float *importance_of(const struct export *e, const struct model_matrix *m, int expert)
{
    const float *values = NULL;
    int n = 0;
    if (!e->o->imatrix || !imatrix_find(e->o->imatrix, m->name, m->first->cols, &values, &n))
        return NULL;
    return values + (n == m->n ? expert : 0) * m->first->cols;
}

/* One matrix, a few MiB of output at a time. */
static int write_one(struct export *e, const struct model_matrix *m, int expert)
{
    const struct matrix *in = &m->first[expert];
    char error[QUANTIZE_ERROR_BYTES] = "";
    struct quantize_job job = {.from = in->type, .to = type_of(e, m), .in = in->data,
                               .cols = in->cols, .importance = importance_of(e, m, expert),
                               .head_rows = m->rotated && e->extra.interleave ? e->m->head_dim : 0,
                               .out = e->work.data};
    size_t row_bytes = quant_row_bytes(job.to, (size_t)in->cols);
    int64_t at_once = row_bytes < WORK_BYTES ? (int64_t)(WORK_BYTES / row_bytes) : 1;
    int rc = tell(e, m->name);
    for (; !rc && job.first_row < in->rows; job.first_row += job.n_rows) {
        int64_t left = in->rows - job.first_row;
        job.n_rows = left < at_once ? left : at_once;
        if (quantize_matrix(e->pool, &job, error))
            return err_set(e->err, ERR_FORMAT, "tensor '%s' as %s: %s", m->name,
                           quant_formats[job.to].name, error);
        rc = gguf_write_data(&e->w, e->work.data, (size_t)job.n_rows * row_bytes, e->err);
        e->done += (size_t)job.n_rows * row_bytes;
        if (!rc)
            rc = tell(e, m->name);
    }
    source_release(e->o->source, in->data,
                   (size_t)in->rows * quant_row_bytes(in->type, (size_t)in->cols));
    return rc;
}

static int write_matrix(void *user, const struct model_matrix *m)
{
    int rc = 0;
    for (int i = 0; !rc && i < m->n; i++)
        rc = write_one(user, m, i);
    return rc;
}

static int write_vector(void *user, const struct model_vector *v)
{
    struct export *e = user;
    return gguf_write_data(&e->w, v->values, (size_t)v->n * sizeof(float), e->err);
}

static int write_all(struct export *e)
{
    const struct model_vector divisors = divisors_of(e);
    int rc = model_parts_matrices(e->m, write_matrix, e);
    if (!rc)
        rc = model_parts_vectors(e->m, write_vector, e);
    if (!rc && divisors.n)
        rc = write_vector(e, &divisors);
    return rc;
}

static int run(struct export *e, const char *path)
{
    const struct source_file *gguf = source_gguf(e->o->source);
    int rc = gguf ? gguf_open(gguf, &e->gguf, e->err) : 0;
    if (!rc)
        rc = tell(e, "reading the model");
    if (!rc)
        rc = model_open(e->o->source, e->gguf, &e->m, e->err);
    if (!rc)
        rc = weights_load(e->m->weights, NULL, e->err);
    if (!rc)
        rc = model_export_metadata(&e->w, e->o->source, e->gguf, e->m, e->o->type, &e->extra,
                                   e->err);
    if (!rc)
        rc = announce(e);
    if (rc)
        return rc;
    size_t row_bytes = (size_t)e->cols_max * sizeof(float);
    e->pool = quantize_open(e->o->threads, e->cols_max);
    if (!e->pool || buf_reserve(&e->work, row_bytes > WORK_BYTES ? row_bytes : WORK_BYTES))
        return err_set(e->err, ERR_NOMEM, "out of memory for threads and their work");
    e->result->n_parameters = e->m->n_parameters;
    e->result->bytes = gguf_write_bytes(&e->w);
    rc = gguf_write_open(&e->w, path, e->err);
    if (!rc)
        rc = write_all(e);
    if (!rc)
        rc = tell(e, "writing it to the disk");
    return rc ? rc : gguf_write_close(&e->w, e->err);
}

int model_export_run(const struct model_export_options *options, const char *path,
                     struct model_export_result *result, struct err *err)
{
    struct buf memory; /* the state is large for the stack */
    buf_init(&memory, 0);
    if (buf_reserve(&memory, sizeof(struct export)))
        return err_set(err, ERR_NOMEM, "out of memory");
    struct export *e = (struct export *)(void *)memory.data;
    *result = (struct model_export_result){0};
    *e = (struct export){.o = options, .result = result, .err = err};
    gguf_write_init(&e->w);
    buf_init(&e->work, 0);
    int rc = run(e, path);
    quantize_close(e->pool);
    gguf_write_free(&e->w);
    buf_free(&e->work);
    model_close(e->m);
    gguf_close(e->gguf);
    buf_free(&memory);
    return rc;
}
