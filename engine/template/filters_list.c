/* filters_list: the filters over sequences, as one table. What Python returns as a generator is a
 * VALUE_ITERATOR here: always true, without length, read once. The render's thread. */
#include <string.h>

#include "engine/template/render_internal.h"

static struct value generator(struct render *r)
{
    return value_list(r, VALUE_ITERATOR, "generator");
}

/* "a.0.b": each part an item or attribute, all-digit parts as integers. */
struct value filters_attribute(struct render *r, struct value v, struct value path)
{
    if (path.kind != VALUE_STRING)
        return path.kind == VALUE_NONE ? v : ops_item(r, v, path);
    struct str *s = path.u.s;
    for (size_t at = 0; at <= s->n && !r->failed; at++) {
        size_t end = at;
        int64_t number = 0;
        bool digits = true;
        for (; end < s->n && s->data[end] != '.'; end++) {
            digits = digits && s->data[end] >= '0' && s->data[end] <= '9' && end - at < 15;
            number = digits ? number * 10 + (s->data[end] - '0') : 0;
        }
        struct value part = digits && end > at ? value_int(number)
                                               : value_string(str_slice(r, s, at, end));
        v = ops_item(r, v, part);
        at = end;
    }
    return v;
}

static struct value lower_case(struct render *r, struct value v, bool case_sensitive)
{
    return v.kind == VALUE_STRING && !case_sensitive ? value_string(chars_lower(r, v.u.s)) : v;
}

static struct value filter_list(struct render *r, const struct bound_args *args)
{
    return iter_list(r, args->self, VALUE_LIST);
}

static struct value filter_first(struct render *r, const struct bound_args *args)
{
    struct iter it;
    struct value item;
    if (!iter_open(r, args->self, &it))
        return value_undefined();
    if (iter_next(r, &it, &item))
        return item;
    return value_hint(r, "No first item, sequence was empty.");
}

static struct value filter_last(struct render *r, const struct bound_args *args)
{
    if (args->self.kind == VALUE_ITERATOR) {
        render_fail(r, "'generator' object is not reversible");
        return value_undefined();
    }
    struct value list = iter_list(r, args->self, VALUE_LIST);
    if (r->failed || list.u.list->n == 0)
        return value_hint(r, "No last item, sequence was empty.");
    return list.u.list->items[list.u.list->n - 1];
}

static struct value filter_join(struct render *r, const struct bound_args *args)
{
    struct str *by = args->v[0].kind == VALUE_MISSING ? NULL : out_string(r, args->v[0]);
    struct value attribute = call_or(args->v[1], value_none()), item;
    struct iter it;
    size_t mark = out_mark(r);
    if (iter_open(r, args->self, &it))
        while (iter_next(r, &it, &item)) {
            if (by && it.i > 1)
                out_str(r, by);
            out_value(r, filters_attribute(r, item, attribute));
        }
    return value_string(out_cut(r, mark));
}

static struct value filter_reverse(struct render *r, const struct bound_args *args)
{
    struct value list = iter_list(r, args->self, VALUE_LIST);
    size_t mark = out_mark(r);
    if (r->failed)
        return value_undefined();
    struct value out = value_list(r, args->self.kind == VALUE_ITERATOR ? VALUE_LIST
                                                                       : VALUE_ITERATOR,
                                  "list_reverseiterator");
    for (size_t i = list.u.list->n; i > 0 && !r->failed; i--) {
        if (args->self.kind == VALUE_STRING)
            out_value(r, list.u.list->items[i - 1]);
        else
            value_push(r, out, list.u.list->items[i - 1]);
    }
    struct str *text = out_cut(r, mark);
    if (args->self.kind != VALUE_STRING)
        return out;
    if (args->self.u.s->markup && text->n)
        text->markup = true;
    return value_string(text);
}

/* ---- map, select and their kin */

static struct call rest_of(const struct call *call, size_t skip)
{
    struct call rest = *call;
    rest.values += skip;
    rest.n -= skip;
    return rest;
}

static struct value filter_map(struct render *r, const struct bound_args *args)
{
    const struct call *call = args->call;
    struct value *attribute = call->n ? NULL : call_named(call, "attribute");
    struct value *otherwise = call_named(call, "default"), out = generator(r), item;
    struct iter it;
    if (!attribute && (call->n == 0 || call->values[0].kind != VALUE_STRING)) {
        render_fail(r, "map requires a filter argument");
        return value_undefined();
    }
    struct call rest = attribute ? *call : rest_of(call, 1);
    if (!value_truth(args->self) || !iter_open(r, args->self, &it))
        return out;
    while (iter_next(r, &it, &item)) {
        if (attribute) {
            item = filters_attribute(r, item, *attribute);
            if (otherwise && otherwise->kind != VALUE_NONE && item.kind == VALUE_UNDEFINED)
                item = *otherwise;
        } else {
            item = filters_apply(r, call->values[0].u.s, item, &rest);
        }
        value_push(r, out, item);
    }
    return out;
}

static struct value select_items(struct render *r, const struct bound_args *args, bool want,
                                 bool by_attribute)
{
    const struct call *call = args->call;
    size_t off = by_attribute;
    struct value out = generator(r), item;
    struct iter it;
    if (by_attribute && call->n == 0) {
        render_fail(r, "Missing parameter for attribute name");
        return value_undefined();
    }
    bool has_test = call->n > off;
    if (has_test && call->values[off].kind != VALUE_STRING) {
        render_fail(r, "No test named %s.", value_type(call->values[off]));
        return value_undefined();
    }
    struct call rest = has_test ? rest_of(call, off + 1) : (struct call){0};
    if (!value_truth(args->self) || !iter_open(r, args->self, &it))
        return out;
    while (iter_next(r, &it, &item)) {
        struct value v = by_attribute ? filters_attribute(r, item, call->values[0]) : item;
        if (r->failed)
            break;
        bool holds = has_test ? tests_apply(r, call->values[off].u.s, v, &rest) : value_truth(v);
        if (holds == want)
            value_push(r, out, item);
    }
    return out;
}

static struct value filter_select(struct render *r, const struct bound_args *args)
{
    return select_items(r, args, true, false);
}

static struct value filter_reject(struct render *r, const struct bound_args *args)
{
    return select_items(r, args, false, false);
}

static struct value filter_selectattr(struct render *r, const struct bound_args *args)
{
    return select_items(r, args, true, true);
}

static struct value filter_rejectattr(struct render *r, const struct bound_args *args)
{
    return select_items(r, args, false, true);
}

/* ---- order */

struct sort_entry {
    struct value key, item;
};

/* bare: keys are compared as they are, so that even equal ones must have an order; else as if each
 * lay in a list of its own, as `sort` has them. */
struct order {
    bool reverse, bare;
};

/* Stable merge sort; equal keys keep their order also when reversed, as Python's. */
static void merge_sort(struct render *r, struct sort_entry *a, struct sort_entry *scratch, size_t n,
                       struct order by)
{
    if (n < 2 || r->failed)
        return;
    size_t half = n / 2, i = 0, j = half;
    merge_sort(r, a, scratch, half, by);
    merge_sort(r, a + half, scratch, n - half, by);
    for (size_t k = 0; k < n; k++) {
        bool right = i == half;
        if (!right && j < n && !r->failed) {
            bool same = !by.bare && value_equal(r, a[j].key, a[i].key);
            int order = same ? 0 : value_compare(r, a[j].key, a[i].key, "<");
            right = by.reverse ? order == 1 : order == -1;
        }
        scratch[k] = right ? a[j++] : a[i++];
        if (r->failed)
            return;
    }
    memcpy(a, scratch, n * sizeof *a);
}

static struct value attribute_or(struct render *r, struct value v, struct value attribute,
                                 struct value otherwise)
{
    v = filters_attribute(r, v, attribute);
    return v.kind == VALUE_UNDEFINED && otherwise.kind != VALUE_NONE ? otherwise : v;
}

/* The items of v sorted by an attribute (none: themselves), for which `otherwise` stands in where
 * it is missing; *n of them; NULL after a failure. */
static struct sort_entry *sorted(struct render *r, struct value v, struct value attribute,
                                 struct value otherwise, bool case_sensitive,
                                 struct order order, size_t *n)
{
    struct value list = iter_list(r, v, VALUE_LIST);
    *n = r->failed ? 0 : list.u.list->n;
    struct sort_entry *entries = render_alloc(r, *n + 1, sizeof *entries);
    struct sort_entry *scratch = render_alloc(r, *n + 1, sizeof *scratch);
    for (size_t i = 0; i < *n && !r->failed; i++) {
        struct value item = list.u.list->items[i];
        entries[i].item = item;
        entries[i].key = lower_case(r, attribute_or(r, item, attribute, otherwise),
                                    case_sensitive);
    }
    if (!r->failed)
        merge_sort(r, entries, scratch, *n, order);
    return r->failed ? NULL : entries;
}

/* Several attributes ("a,b"): sorting by the last first, stably, is sorting by all. */
static struct value filter_sort(struct render *r, const struct bound_args *args)
{
    struct value attribute = call_or(args->v[2], value_none()), v = args->self;
    bool case_sensitive = value_truth(args->v[1]);
    struct order order = {.reverse = value_truth(args->v[0])};
    size_t end = attribute.kind == VALUE_STRING ? attribute.u.s->n : 0, n;
    for (;;) {
        struct value part = attribute;
        size_t start = end;
        while (start > 0 && attribute.u.s->data[start - 1] != ',')
            start--;
        if (attribute.kind == VALUE_STRING)
            part = value_string(str_slice(r, attribute.u.s, start, end));
        struct sort_entry *entries = sorted(r, v, part, value_none(), case_sensitive, order, &n);
        v = value_list(r, VALUE_LIST, NULL);
        for (size_t i = 0; entries && i < n; i++)
            value_push(r, v, entries[i].item);
        if (start == 0 || r->failed)
            return v;
        end = start - 1;
    }
}

static struct value filter_dictsort(struct render *r, const struct bound_args *args)
{
    struct value by = call_or(args->v[1], str_value(r, "key", true));
    bool by_value = by.kind == VALUE_STRING && str_is(by.u.s, "value");
    if (args->self.kind != VALUE_DICT) {
        if (args->self.kind == VALUE_UNDEFINED)
            ops_undefined(r, args->self);
        render_fail(r, "'%s' object has no attribute 'items'", value_type(args->self));
    } else if (!by_value && !(by.kind == VALUE_STRING && str_is(by.u.s, "key"))) {
        render_fail(r, "You can only sort by either \"key\" or \"value\"");
    }
    struct value pairs = value_list(r, VALUE_LIST, NULL), out = value_list(r, VALUE_LIST, NULL);
    struct order order = {.reverse = value_truth(args->v[2]), .bare = true};
    size_t n;
    for (size_t i = 0; !r->failed && i < args->self.u.dict->n; i++)
        value_push(r, pairs, value_pair(r, args->self.u.dict->pairs[i].key,
                                        args->self.u.dict->pairs[i].value));
    if (r->failed)
        return value_undefined();
    struct sort_entry *entries = sorted(r, pairs, value_int(by_value), value_none(),
                                        value_truth(args->v[0]), order, &n);
    for (size_t i = 0; entries && i < n; i++)
        value_push(r, out, entries[i].item);
    return out;
}

static struct value filter_unique(struct render *r, const struct bound_args *args)
{
    struct value seen = dict_new(r), out = generator(r), item;
    struct iter it;
    if (!iter_open(r, args->self, &it))
        return value_undefined();
    while (iter_next(r, &it, &item)) {
        struct value key = filters_attribute(r, item, call_or(args->v[1], value_none()));
        key = lower_case(r, key, value_truth(args->v[0]));
        if (r->failed || dict_find(r, seen.u.dict, key))
            continue;
        dict_set(r, seen.u.dict, key, value_none());
        value_push(r, out, item);
    }
    return out;
}

static struct value extreme(struct render *r, const struct bound_args *args, bool largest)
{
    struct value best = value_undefined(), best_key = best, item;
    struct iter it;
    if (!iter_open(r, args->self, &it))
        return value_undefined();
    while (iter_next(r, &it, &item)) {
        struct value key = filters_attribute(r, item, call_or(args->v[1], value_none()));
        key = lower_case(r, key, value_truth(args->v[0]));
        int order = it.i == 1 || r->failed ? 0
                    : value_compare(r, key, best_key, largest ? ">" : "<");
        if (it.i == 1 || order == (largest ? 1 : -1)) {
            best = item;
            best_key = key;
        }
    }
    return it.i ? best : value_hint(r, "No aggregated item, sequence was empty.");
}

static struct value filter_min(struct render *r, const struct bound_args *args)
{
    return extreme(r, args, false);
}

static struct value filter_max(struct render *r, const struct bound_args *args)
{
    return extreme(r, args, true);
}

static struct value filter_sum(struct render *r, const struct bound_args *args)
{
    struct value total = call_or(args->v[1], value_int(0)), item;
    struct iter it;
    if (total.kind == VALUE_STRING)
        render_fail(r, "sum() can't sum strings [use ''.join(seq) instead]");
    if (r->failed || !iter_open(r, args->self, &it))
        return value_undefined();
    while (iter_next(r, &it, &item)) {
        item = filters_attribute(r, item, call_or(args->v[0], value_none()));
        if (!r->failed)
            total = ops_binary(r, TOKEN_ADD, total, item);
    }
    return total;
}

/* ---- grouping */

static struct value filter_batch(struct render *r, const struct bound_args *args)
{
    int64_t size = call_int(r, args->v[0]);
    struct value out = generator(r), row = value_undefined(), item;
    struct value filler = call_or(args->v[1], value_none());
    struct iter it;
    if (!iter_open(r, args->self, &it))
        return value_undefined();
    while (iter_next(r, &it, &item)) {
        if (row.kind == VALUE_UNDEFINED || (int64_t)row.u.list->n >= size) {
            row = value_list(r, VALUE_LIST, NULL);
            value_push(r, out, row);
        }
        value_push(r, row, item);
    }
    while (row.kind == VALUE_LIST && filler.kind != VALUE_NONE && (int64_t)row.u.list->n < size &&
           render_work(r, 1))
        value_push(r, row, filler);
    return out;
}

static struct value filter_slice(struct render *r, const struct bound_args *args)
{
    int64_t slices = call_int(r, args->v[0]);
    struct value list = iter_list(r, args->self, VALUE_LIST), out = generator(r);
    struct value filler = call_or(args->v[1], value_none());
    if (!r->failed && slices <= 0)
        render_fail(r, "slice: the number of slices must be positive");
    if (r->failed)
        return value_undefined();
    size_t each = list.u.list->n / (size_t)slices, extra = list.u.list->n % (size_t)slices, at = 0;
    for (size_t i = 0; i < (size_t)slices && render_work(r, 2); i++) {
        struct value row = value_list(r, VALUE_LIST, NULL);
        for (size_t k = 0; k < each + (i < extra); k++)
            value_push(r, row, list.u.list->items[at++]);
        if (filler.kind != VALUE_NONE && i >= extra)
            value_push(r, row, filler);
        value_push(r, out, row);
    }
    return out;
}

static struct value filter_groupby(struct render *r, const struct bound_args *args)
{
    struct value out = value_list(r, VALUE_LIST, NULL), group = value_undefined(), key = group;
    bool case_sensitive = value_truth(args->v[2]);
    struct value otherwise = call_or(args->v[1], value_none());
    size_t n;
    struct order bare = {.bare = true};
    struct sort_entry *entries = sorted(r, args->self, args->v[0], otherwise, case_sensitive,
                                        bare, &n);
    for (size_t i = 0; entries && i < n && !r->failed; i++) {
        if (i == 0 || !value_equal(r, key, entries[i].key)) {
            group = value_list(r, VALUE_LIST, NULL);
            key = entries[i].key;
            struct value name = attribute_or(r, entries[i].item, args->v[0], otherwise);
            struct value pair = value_pair(r, name, group);
            if (pair.kind == VALUE_TUPLE)
                pair.u.list->name = "group"; /* has .grouper and .list */
            value_push(r, out, pair);
        }
        value_push(r, group, entries[i].item);
    }
    return out;
}

static const struct builtin table[] = {
    {"list", "", filter_list},
    {"first", "", filter_first},
    {"last", "", filter_last},
    {"join", "d= attribute=", filter_join},
    {"reverse", "", filter_reverse},
    {"map", "*", filter_map},
    {"select", "*", filter_select},
    {"reject", "*", filter_reject},
    {"selectattr", "*", filter_selectattr},
    {"rejectattr", "*", filter_rejectattr},
    {"sort", "reverse= case_sensitive= attribute=", filter_sort},
    {"dictsort", "case_sensitive= by= reverse=", filter_dictsort},
    {"unique", "case_sensitive= attribute=", filter_unique},
    {"min", "case_sensitive= attribute=", filter_min},
    {"max", "case_sensitive= attribute=", filter_max},
    {"sum", "attribute= start=", filter_sum},
    {"batch", "linecount fill_with=", filter_batch},
    {"slice", "slices fill_with=", filter_slice},
    {"groupby", "attribute default= case_sensitive=", filter_groupby},
};

const struct builtin *filters_list_find(const struct str *name)
{
    return call_find(table, sizeof table / sizeof *table, name);
}
