/* iter: iteration over every iterable value, in Python's order. The render's thread. */
#include "engine/template/render_internal.h"

bool iter_can(struct value v)
{
    return v.kind == VALUE_UNDEFINED || v.kind == VALUE_STRING || v.kind == VALUE_LIST ||
           v.kind == VALUE_TUPLE || v.kind == VALUE_VIEW || v.kind == VALUE_ITERATOR ||
           v.kind == VALUE_DICT || v.kind == VALUE_RANGE;
}

bool iter_open(struct render *r, struct value v, struct iter *it)
{
    *it = (struct iter){.source = v};
    switch ((enum value_kind)v.kind) {
    case VALUE_UNDEFINED:
        return true;
    case VALUE_STRING:
        it->n = str_chars(v.u.s);
        return render_bytes(r, v.u.s->n);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        it->n = v.u.list->n;
        return true;
    case VALUE_ITERATOR:
        it->n = v.u.list->n - v.u.list->at;
        return true;
    case VALUE_DICT:
        it->n = v.u.dict->n;
        return true;
    case VALUE_RANGE:
        it->n = v.u.range->n;
        return true;
    default:
        render_fail(r, "'%s' object is not iterable", value_type(v));
        return false;
    }
}

static struct value next_char(struct render *r, struct iter *it)
{
    struct str *s = it->source.u.s;
    size_t from = it->byte++;
    while (it->byte < s->n && ((unsigned char)s->data[it->byte] & 0xC0) == 0x80)
        it->byte++;
    return value_string(str_plain(r, str_slice(r, s, from, it->byte)));
}

bool iter_next(struct render *r, struct iter *it, struct value *item)
{
    if (r->failed || it->i >= it->n || !render_work(r, 1))
        return false;
    struct value v = it->source;
    size_t i = it->i++;
    switch ((enum value_kind)v.kind) {
    case VALUE_STRING:
        *item = next_char(r, it);
        return true;
    case VALUE_ITERATOR:
        if (v.u.list->at >= v.u.list->n)
            return false;
        *item = v.u.list->items[v.u.list->at++];
        return true;
    case VALUE_DICT:
        *item = v.u.dict->pairs[i].key;
        return true;
    case VALUE_RANGE:
        *item = value_int(v.u.range->start + (int64_t)i * v.u.range->step);
        item->trusted = v.trusted;
        return true;
    default:
        *item = v.u.list->items[i];
        return true;
    }
}

struct value iter_list(struct render *r, struct value v, enum value_kind kind)
{
    struct value list = value_list(r, kind, NULL), item;
    struct iter it;
    if (!iter_open(r, v, &it) || r->failed || it.n == 0)
        return list;
    struct value *items = render_alloc(r, it.n, sizeof *items);
    if (items) {
        list.u.list->items = items;
        list.u.list->capacity = it.n;
    }
    while (iter_next(r, &it, &item))
        value_push(r, list, item);
    return list;
}
