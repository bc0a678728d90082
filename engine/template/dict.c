/* dict: insertion-ordered maps, as Python's. Small ones are searched, larger ones get an index of
 * hashes at their first search. Probing is paid for in render steps, so that keys chosen to collide
 * cost the request that brought them and nobody else. The render's thread. */
#include <math.h>
#include <string.h>

#include "engine/template/render_internal.h"

enum { INDEX_FROM = 9 };

struct value dict_new(struct render *r)
{
    struct dict *d = render_alloc(r, 1, sizeof *d);
    return d ? (struct value){.kind = VALUE_DICT, .u.dict = d} : value_undefined();
}

static uint64_t hash_bytes(const char *data, size_t n)
{
    uint64_t h = 14695981039346656037ull;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)data[i]) * 1099511628211ull;
    return h ^ (h >> 29);
}

/* Equal keys hash alike across bool, int and float. *ok: the key can be one. */
static uint64_t hash_key(struct render *r, struct value key, bool *ok)
{
    uint64_t h = key.kind;
    switch ((enum value_kind)key.kind) {
    case VALUE_STRING:
        render_bytes(r, key.u.s->n);
        return hash_bytes(key.u.s->data, key.u.s->n);
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_FLOAT: {
        double number = value_double(key) + 0.0; /* -0.0 is 0.0 */
        memcpy(&h, &number, sizeof h);
        return hash_bytes((const char *)&h, sizeof h);
    }
    case VALUE_TUPLE:
        for (size_t i = 0; *ok && i < key.u.list->n; i++) {
            struct value item = key.u.list->items[i];
            if (item.kind == VALUE_TUPLE && !render_enter(r))
                return 0;
            h = (h ^ hash_key(r, item, ok)) * 1099511628211ull;
            r->depth -= item.kind == VALUE_TUPLE;
        }
        return h;
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_VIEW:
        *ok = false;
        return 0;
    case VALUE_NONE:
    case VALUE_UNDEFINED:
        return h;
    default:
        memcpy(&h, &key.u.pointer, sizeof h < sizeof(void *) ? sizeof h : sizeof(void *));
        return hash_bytes((const char *)&h, sizeof h);
    }
}

static void put_index(struct dict *d, uint64_t hash, size_t pair)
{
    size_t slot = (size_t)hash & (d->n_index - 1);
    while (d->index[slot])
        slot = (slot + 1) & (d->n_index - 1);
    d->index[slot] = (uint32_t)(pair + 1);
}

static bool build_index(struct render *r, struct dict *d, size_t n_pairs)
{
    bool ok = true;
    size_t n = 32;
    while (n < 2 * n_pairs)
        n *= 2;
    uint32_t *index = n_pairs < UINT32_MAX / 4 ? render_alloc(r, n, sizeof *index) : NULL;
    if (!index || !render_work(r, d->n))
        return false;
    d->index = index;
    d->n_index = n;
    for (size_t i = 0; i < d->n; i++)
        put_index(d, hash_key(r, d->pairs[i].key, &ok), i);
    return true;
}

static struct value *search(struct render *r, const struct dict *d, struct value key,
                            uint64_t hash)
{
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (value_equal(r, d->pairs[i].key, key))
                return &d->pairs[i].value;
        return NULL;
    }
    size_t slot = (size_t)hash & (d->n_index - 1);
    while (d->index[slot] && render_work(r, 1)) {
        struct pair *pair = &d->pairs[d->index[slot] - 1];
        if (value_equal(r, pair->key, key))
            return &pair->value;
        slot = (slot + 1) & (d->n_index - 1);
    }
    return NULL;
}

struct value *dict_find(struct render *r, const struct dict *d, struct value key)
{
    bool ok = true;
    uint64_t hash = hash_key(r, key, &ok);
    if (!ok) {
        render_fail(r, "unhashable type: '%s'", value_type(key));
        return NULL;
    }
    if (!d->index && d->n >= INDEX_FROM && !build_index(r, (struct dict *)d, d->n))
        return NULL;
    return search(r, d, key, hash);
}

struct value *dict_find_text(struct render *r, const struct dict *d, const char *key)
{
    struct str s = {.data = key, .n = strlen(key), .n_chars = SIZE_MAX};
    return dict_find(r, d, value_string(&s));
}

void dict_append(struct render *r, struct dict *d, struct value key, struct value value)
{
    if (d->n == d->capacity) {
        size_t capacity = d->capacity ? 2 * d->capacity : 4;
        struct pair *pairs = render_alloc(r, capacity, sizeof *pairs);
        if (!pairs)
            return;
        if (d->n)
            memcpy(pairs, d->pairs, d->n * sizeof *pairs);
        d->pairs = pairs;
        d->capacity = capacity;
    }
    d->pairs[d->n++] = (struct pair){key, value};
    if (!d->index)
        return;
    bool ok = true;
    if (2 * d->n > d->n_index)
        build_index(r, d, 2 * d->n);
    else
        put_index(d, hash_key(r, key, &ok), d->n - 1);
}

void dict_set(struct render *r, struct dict *d, struct value key, struct value value)
{
    struct value *there = dict_find(r, d, key);
    if (there)
        *there = value;
    else if (!r->failed)
        dict_append(r, d, key, value);
}
