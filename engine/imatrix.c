/* imatrix: reads importance files (imatrix.h). What is found is copied, divided by the counts, and
 * sorted by name; the file is closed when imatrix_open returns. Immutable after; any thread. */
#include "engine/imatrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/arena.h"
#include "engine/weights.h"

static const char SUMS[] = ".in_sum2", COUNTS[] = ".counts";

struct entry {
    char *name;
    int n_experts;
    int64_t cols;
    float *values; /* [n_experts][cols] */
};

struct imatrix {
    struct arena arena;
    struct entry *entries;
    size_t n;
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static int bad(const struct weights_tensor *t, const char *what, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: tensor '%s' %s", t->file, t->name, what);
}

/* The sums of one matrix over its counts; a matrix or an expert that saw nothing has zeros. */
static int read_entry(struct imatrix *m, const struct weights *w, const struct weights_tensor *sums,
                      struct err *err)
{
    char name[256];
    size_t stem = strlen(sums->name) - strlen(SUMS);
    if (stem + sizeof COUNTS > sizeof name)
        return bad(sums, "has too long a name", err);
    snprintf(name, sizeof name, "%.*s%s", (int)stem, sums->name, COUNTS);
    const struct weights_tensor *counts = weights_find(w, name);
    int64_t cols = sums->dims[sums->n_dims - 1], n = sums->n_dims > 1 ? sums->dims[0] : 1;
    if (!counts)
        return bad(sums, "has no counts beside it", err);
    if (sums->type != QUANT_F32 || sums->n_dims > 2 || counts->type != QUANT_F32 ||
        counts->bytes != (size_t)n * sizeof(float) || n > 1024)
        return bad(sums, "has no shape of sums with counts", err);
    struct entry *e = &m->entries[m->n];
    e->name = arena_copy(&m->arena, sums->name, stem);
    e->values = arena_array(&m->arena, (size_t)(n * cols), sizeof *e->values);
    e->n_experts = (int)n;
    e->cols = cols;
    if (!e->name || !e->values)
        return err_set(err, ERR_NOMEM, "out of memory for an importance matrix");
    m->n++;
    for (int64_t i = 0; i < n * cols; i++) {
        float count, sum;
        memcpy(&count, counts->data + (size_t)(i / cols) * sizeof count, sizeof count);
        memcpy(&sum, sums->data + (size_t)i * sizeof sum, sizeof sum);
        if (!(count >= 0) || !(sum >= 0) || isinf(count) || isinf(sum))
            return bad(sums, "or its counts hold what is no number >= 0", err);
        e->values[i] = count > 0 ? sum / count : 0;
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static int read_all(struct imatrix *m, const struct weights *w, const char *path, struct err *err)
{
    size_t n = weights_count(w);
    m->entries = arena_array(&m->arena, n ? n : 1, sizeof *m->entries);
    if (!m->entries)
        return err_set(err, ERR_NOMEM, "out of memory for an importance matrix");
    for (size_t i = 0; i < n; i++) {
        const struct weights_tensor *t = weights_at(w, i);
        int rc = ends_with(t->name, SUMS) ? read_entry(m, w, t, err) : 0;
        if (rc)
            return rc;
    }
    if (!m->n)
        return err_set(err, ERR_FORMAT, "%s: no importance matrix: no tensor NAME%s in it", path,
                       SUMS);
    qsort(m->entries, m->n, sizeof *m->entries, by_name);
    return 0;
}

int imatrix_open(const char *path, struct imatrix **out, struct err *err)
{
    struct source *source = NULL;
    struct weights *weights = NULL;
    *out = NULL;
    struct imatrix *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(err, ERR_NOMEM, "out of memory for an importance matrix");
    arena_init(&m->arena, 0);
    int rc = source_open(path, &source, err);
    if (!rc && !source_gguf(source))
        rc = err_set(err, ERR_FORMAT, "%s: an importance matrix is a .gguf file", path);
    if (!rc)
        rc = weights_open(source, &weights, err);
    if (!rc)
        rc = read_all(m, weights, path, err);
    weights_close(weights);
    source_close(source);
    if (rc) {
        imatrix_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void imatrix_close(struct imatrix *m)
{
    if (!m)
        return;
    arena_free(&m->arena);
    free(m);
}

bool imatrix_find(const struct imatrix *m, const char *name, int64_t cols, const float **values,
                  int *n_experts)
{
    struct entry key = {.name = (char *)name};
    const struct entry *e = m->n ? bsearch(&key, m->entries, m->n, sizeof key, by_name) : NULL;
    if (!e || e->cols != cols)
        return false;
    *values = e->values;
    *n_experts = e->n_experts;
    return true;
}
