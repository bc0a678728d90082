/* weights: the tensors of a model by name (weights.h): picks the reader and owns the list.
 *
 * The list is sorted by name, so that a lookup is a binary search and a name that occurs twice is
 * seen at once. Immutable after open; any thread. */
#include "engine/weights.h"

#include <stdlib.h>
#include <string.h>

#include "engine/repack.h"
#include "engine/weights_read.h"

struct weights {
    struct weights_list list;
    bool loaded;
    struct repack *repack; /* NULL: every tensor is used as it lies in its file */
};

struct weights_tensor *weights_list_add(struct weights_list *list)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        struct weights_tensor *tensors =
            reallocarray(list->tensors, capacity, sizeof *list->tensors);
        if (!tensors)
            return NULL;
        list->tensors = tensors;
        list->capacity = capacity;
    }
    struct weights_tensor *tensor = &list->tensors[list->n++];
    *tensor = (struct weights_tensor){.type = QUANT_COUNT};
    return tensor;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct weights_tensor *)a)->name,
                  ((const struct weights_tensor *)b)->name);
}

int weights_open(const struct source *source, struct weights **out, struct err *err)
{
    *out = NULL;
    struct weights *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ERR_NOMEM, "out of memory");
    arena_init(&w->list.arena, 0);
    int rc = source_gguf(source) ? gguf_split_read(source, &w->list, err)
                                 : safetensors_read(source, &w->list, err);
    if (!rc && w->list.n)
        qsort(w->list.tensors, w->list.n, sizeof *w->list.tensors, by_name);
    for (size_t i = 1; !rc && i < w->list.n; i++) {
        const struct weights_tensor *t = &w->list.tensors[i - 1];
        if (!by_name(t, t + 1))
            rc = err_set(err, ERR_FORMAT, "%s: tensor '%s' occurs twice, the other time in %s",
                         t[1].file, t->name, t->file);
    }
    if (!rc)
        rc = repack_plan(source, &w->list, &w->repack, err);
    if (rc) {
        weights_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

int weights_load(struct weights *w, const char *kept, struct err *err)
{
    if (!w->repack || w->loaded)
        return 0;
    w->loaded = true;
    return repack_run(w->repack, kept, err);
}

const char *weights_method(const struct weights *w)
{
    return w->repack ? repack_method(w->repack) : NULL;
}

size_t weights_disordered(const struct weights *w)
{
    return w->repack ? repack_disordered(w->repack) : 0;
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    repack_free(w->repack);
    arena_free(&w->list.arena);
    free(w->list.tensors);
    free(w);
}

const struct weights_tensor *weights_find(const struct weights *w, const char *name)
{
    struct weights_tensor key = {.name = name};
    if (!w->list.n)
        return NULL;
    return bsearch(&key, w->list.tensors, w->list.n, sizeof key, by_name);
}

size_t weights_count(const struct weights *w)
{
    return w->list.n;
}

const struct weights_tensor *weights_at(const struct weights *w, size_t i)
{
    return i < w->list.n ? &w->list.tensors[i] : NULL;
}
