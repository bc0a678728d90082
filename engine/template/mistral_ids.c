/* mistral_ids: the ids of tool calls, sorted, so that matching many results with many calls takes
 * n log n steps. No state. */
#include <stdlib.h>
#include <string.h>

#include "engine/template/mistral_internal.h"

static int compare_ids(struct mistral_text a, struct mistral_text b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.data, b.data, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_id(const void *a, const void *b)
{
    const struct mistral_id *x = a, *y = b;
    int order = compare_ids(x->id, y->id);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

int mistral_ids_init(struct mistral *m, const struct mistral_message *messages, size_t n,
                     struct mistral_ids *out)
{
    size_t n_calls = 0;
    *out = (struct mistral_ids){0};
    for (size_t i = 0; i < n; i++)
        n_calls += messages[i].n_calls;
    if (!n_calls)
        return 0;
    out->rows = arena_array(&m->arena, n_calls, sizeof *out->rows);
    if (!out->rows)
        return mistral_no_memory(m);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < messages[i].n_calls; k++, out->n++)
            out->rows[out->n] = (struct mistral_id){messages[i].calls[k].id, out->n};
    qsort(out->rows, out->n, sizeof *out->rows, by_id);
    return 0;
}

size_t mistral_ids_place(const struct mistral_ids *ids, struct mistral_text id)
{
    size_t low = 0, high = ids->n; /* low: how many rows are not after this id */
    while (id.data && low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_ids(ids->rows[middle].id, id) > 0)
            high = middle;
        else
            low = middle + 1;
    }
    bool found = id.data && low && compare_ids(ids->rows[low - 1].id, id) == 0;
    return found ? ids->rows[low - 1].place : SIZE_MAX;
}

size_t mistral_ids_repeated(const struct mistral_ids *ids)
{
    size_t first = SIZE_MAX;
    for (size_t i = 1; i < ids->n; i++)
        if (compare_ids(ids->rows[i - 1].id, ids->rows[i].id) == 0 && ids->rows[i].place < first)
            first = ids->rows[i].place;
    return first;
}
