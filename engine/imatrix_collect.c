/* imatrix_collect: sums of squares per input column of every matrix (imatrix_collect.h), in double:
 * a text has more tokens than float could count up one by one. Owner: the thread that runs the
 * forward pass. */
#include "engine/imatrix_collect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf_write.h"
#include "engine/model_parts.h"

enum { N_POINTS = FORWARD_FFN_MID + 1 };

struct point {
    double *sums; /* [cols] */
    double n;     /* rows */
    int cols;
};

struct imatrix_collect {
    struct model *m;
    struct arena arena;
    struct point *points; /* [n_layers][N_POINTS] */
};

int imatrix_collect_open(struct model *m, struct imatrix_collect **out, struct err *err)
{
    const int cols[N_POINTS] = {[FORWARD_ATTN_IN] = m->dim,
                                [FORWARD_ATTN_OUT] = m->n_heads * m->head_dim,
                                [FORWARD_FFN_IN] = m->dim, [FORWARD_FFN_MID] = m->ffn};
    *out = NULL;
    struct imatrix_collect *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(err, ERR_NOMEM, "out of memory");
    c->m = m;
    arena_init(&c->arena, 0);
    c->points = arena_array(&c->arena, (size_t)m->n_layers * N_POINTS, sizeof *c->points);
    bool all = c->points != NULL;
    for (int i = 0; all && i < m->n_layers * N_POINTS; i++) {
        c->points[i].cols = cols[i % N_POINTS];
        c->points[i].sums =
            arena_array(&c->arena, (size_t)cols[i % N_POINTS], sizeof *c->points[i].sums);
        all = c->points[i].sums != NULL;
    }
    if (!all) {
        imatrix_collect_close(c);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    *out = c;
    return 0;
}

void imatrix_collect_close(struct imatrix_collect *c)
{
    if (!c)
        return;
    arena_free(&c->arena);
    free(c);
}

void imatrix_collect_rows(void *user, int layer, enum forward_point point, const float *rows, int n,
                          int cols)
{
    struct imatrix_collect *c = user;
    struct point *p = &c->points[layer * N_POINTS + (int)point];
    CHECK(p->cols == cols);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < cols; k++) {
            double x = (double)rows[(size_t)i * (size_t)cols + (size_t)k];
            p->sums[k] += x * x;
        }
    p->n += n;
}

/* What a matrix is multiplied with; NULL: nobody saw it. */
static const struct point *point_of(const struct imatrix_collect *c, const struct model_matrix *m)
{
    static const struct {
        const char *name;
        enum forward_point point;
    } rows[] = {{"attn_output", FORWARD_ATTN_OUT}, {"attn_", FORWARD_ATTN_IN},
                {"ffn_down", FORWARD_FFN_MID},     {"ffn_", FORWARD_FFN_IN}};
    const char *name = m->layer >= 0 ? strchr(m->name + 4, '.') : NULL; /* behind "blk." */
    for (size_t i = 0; name && i < sizeof rows / sizeof *rows; i++) {
        if (strncmp(name + 1, rows[i].name, strlen(rows[i].name)) != 0)
            continue;
        const struct point *p = &c->points[m->layer * N_POINTS + (int)rows[i].point];
        return p->n > 0 ? p : NULL;
    }
    return NULL;
}

struct writing {
    const struct imatrix_collect *c;
    struct gguf_write w;
    struct buf row;
    struct err *err;
};

static void names_of(const struct model_matrix *m, char sums[96], char counts[96])
{
    snprintf(sums, 96, "%s.in_sum2", m->name);
    snprintf(counts, 96, "%s.counts", m->name);
}

static int announce(void *user, const struct model_matrix *m)
{
    struct writing *x = user;
    const struct point *p = point_of(x->c, m);
    char sums[96], counts[96];
    int64_t dims[] = {m->n, p ? p->cols : 0}, count_dims[] = {m->n, 1};
    if (!p || m->part != MODEL_PART_BODY)
        return 0;
    names_of(m, sums, counts);
    gguf_write_tensor(&x->w, sums, 2, dims, QUANT_F32);
    gguf_write_tensor(&x->w, counts, 2, count_dims, QUANT_F32);
    return 0;
}

static int put_floats(struct writing *x, const double *values, int n)
{
    buf_clear(&x->row);
    for (int i = 0; i < n; i++) {
        float value = (float)values[i];
        if (!isfinite(value))
            return err_set(x->err, ERR_FORMAT, "the model computes numbers that are not finite");
        buf_add(&x->row, &value, sizeof value);
    }
    return x->row.failed ? err_set(x->err, ERR_NOMEM, "out of memory")
                         : gguf_write_data(&x->w, x->row.data, x->row.size, x->err);
}

static int put(void *user, const struct model_matrix *m)
{
    struct writing *x = user;
    const struct point *p = point_of(x->c, m);
    int rc = 0;
    if (!p || m->part != MODEL_PART_BODY)
        return 0;
    for (int i = 0; !rc && i < m->n; i++)
        rc = put_floats(x, p->sums, p->cols);
    for (int i = 0; !rc && i < m->n; i++)
        rc = put_floats(x, &p->n, 1);
    return rc;
}

int imatrix_collect_write(struct imatrix_collect *c, const char *path, const char *text,
                          int n_chunks, int chunk, struct err *err)
{
    struct writing x = {.c = c, .err = err};
    gguf_write_init(&x.w);
    buf_init(&x.row, 0);
    gguf_write_text(&x.w, "general.type", "imatrix", 7);
    gguf_write_strings(&x.w, "imatrix.datasets", 1);
    gguf_write_string(&x.w, text, strlen(text));
    gguf_write_int(&x.w, "imatrix.chunk_count", GGUF_U32, n_chunks);
    gguf_write_int(&x.w, "imatrix.chunk_size", GGUF_U32, chunk);
    model_parts_matrices(c->m, announce, &x);
    int rc = gguf_write_open(&x.w, path, err);
    if (!rc)
        rc = model_parts_matrices(c->m, put, &x);
    if (!rc)
        rc = gguf_write_close(&x.w, err);
    gguf_write_free(&x.w);
    buf_free(&x.row);
    return rc;
}
