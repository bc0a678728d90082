/* value: constructors, truth, equality and order of Python's values, and JSON coming in. Values
 * belong to one render (arena); its thread. */
#include "engine/template/value.h"

#include <math.h>
#include <string.h>

#include "engine/template/render_internal.h"

struct value value_undefined(void)
{
    return (struct value){.kind = VALUE_UNDEFINED};
}

struct value value_hint(struct render *r, const char *hint)
{
    struct undefined *u = render_alloc(r, 1, sizeof *u);
    if (u)
        u->hint = hint;
    return (struct value){.kind = VALUE_UNDEFINED, .u.undefined = u};
}

struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE, .trusted = true};
}

struct value value_bool(bool b)
{
    return (struct value){.kind = VALUE_BOOL, .trusted = true, .u.b = b};
}

struct value value_int(int64_t i)
{
    return (struct value){.kind = VALUE_INT, .u.i = i};
}

struct value value_float(double f)
{
    return (struct value){.kind = VALUE_FLOAT, .u.f = f};
}

struct value value_string(struct str *s)
{
    return (struct value){.kind = VALUE_STRING, .u.s = s};
}

struct value value_list(struct render *r, enum value_kind kind, const char *name)
{
    struct list *list = render_alloc(r, 1, sizeof *list);
    if (!list)
        return value_undefined();
    list->name = name;
    return (struct value){.kind = (uint8_t)kind, .u.list = list};
}

void value_push(struct render *r, struct value v, struct value item)
{
    struct list *list = v.u.list;
    if (r->failed || !list)
        return;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        struct value *items = render_alloc(r, capacity, sizeof *items);
        if (!items)
            return;
        if (list->n)
            memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = item;
}

struct value value_pair(struct render *r, struct value a, struct value b)
{
    struct value tuple = value_list(r, VALUE_TUPLE, NULL);
    value_push(r, tuple, a);
    value_push(r, tuple, b);
    return tuple;
}

struct value value_from_json(struct render *r, const json_t *json, bool trusted, int depth)
{
    struct value v = value_none();
    if (depth > RENDER_VALUE_DEPTH_MAX) {
        render_fail(r, "the conversation is nested more than %d deep", RENDER_VALUE_DEPTH_MAX);
        return v;
    }
    size_t i;
    const char *key;
    json_t *item;
    switch (json_typeof(json)) {
    case JSON_STRING:
        return value_string(str_new(r, json_string_value(json), json_string_length(json),
                                    trusted));
    case JSON_INTEGER:
        v = value_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = value_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = value_bool(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    case JSON_ARRAY:
        v = value_list(r, VALUE_LIST, NULL);
        json_array_foreach(json, i, item) {
            if (r->failed)
                break;
            value_push(r, v, value_from_json(r, item, trusted, depth + 1));
        }
        return v;
    case JSON_OBJECT:
        v = dict_new(r);
        json_object_foreach((json_t *)json, key, item) {
            if (r->failed)
                break;
            struct str *name = str_new(r, key, strlen(key), false);
            dict_append(r, v.u.dict, value_string(name),
                        value_from_json(r, item, trusted, depth + 1));
        }
        return v;
    }
    v.trusted = trusted;
    return v;
}

bool value_truth(struct value v)
{
    switch ((enum value_kind)v.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return v.u.b;
    case VALUE_INT:
        return v.u.i != 0;
    case VALUE_FLOAT:
        return v.u.f != 0;
    case VALUE_STRING:
        return v.u.s->n > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        return v.u.list->n > 0;
    case VALUE_DICT:
        return v.u.dict->n > 0;
    case VALUE_RANGE:
        return v.u.range->n > 0;
    default:
        return true;
    }
}

const char *value_type(struct value v)
{
    static const char *const names[] = {
        [VALUE_MISSING] = "Undefined",   [VALUE_UNDEFINED] = "Undefined",
        [VALUE_NONE] = "NoneType",       [VALUE_BOOL] = "bool",
        [VALUE_INT] = "int",             [VALUE_FLOAT] = "float",
        [VALUE_STRING] = "str",          [VALUE_LIST] = "list",
        [VALUE_TUPLE] = "tuple",         [VALUE_VIEW] = "dict_items",
        [VALUE_ITERATOR] = "generator",  [VALUE_DICT] = "dict",
        [VALUE_RANGE] = "range",         [VALUE_NAMESPACE] = "Namespace",
        [VALUE_LOOP] = "LoopContext",    [VALUE_MACRO] = "Macro",
        [VALUE_BUILTIN] = "function",    [VALUE_BOUND] = "builtin_function_or_method",
        [VALUE_CYCLER] = "Cycler",       [VALUE_JOINER] = "Joiner"};
    if ((v.kind == VALUE_VIEW || v.kind == VALUE_ITERATOR) && v.u.list->name)
        return v.u.list->name;
    return names[v.kind];
}

const char *value_object(enum value_kind kind)
{
    switch (kind) {
    case VALUE_NONE:
        return "None";
    case VALUE_NAMESPACE:
        return "jinja2.utils.Namespace object";
    case VALUE_LOOP:
        return "jinja2.runtime.LoopContext object";
    case VALUE_MACRO:
        return "jinja2.runtime.Macro object";
    case VALUE_STRING:
        return "str object";
    case VALUE_BOOL:
        return "bool object";
    case VALUE_INT:
        return "int object";
    case VALUE_FLOAT:
        return "float object";
    case VALUE_LIST:
        return "list object";
    case VALUE_TUPLE:
        return "tuple object";
    case VALUE_DICT:
        return "dict object";
    case VALUE_RANGE:
        return "range object";
    case VALUE_VIEW:
        return "dict_items object";
    case VALUE_ITERATOR:
        return "generator object";
    default:
        return "function object";
    }
}

bool value_is_number(struct value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT || v.kind == VALUE_FLOAT;
}

double value_double(struct value v)
{
    return v.kind == VALUE_FLOAT ? v.u.f : v.kind == VALUE_INT ? (double)v.u.i : (double)v.u.b;
}

static int64_t whole(struct value v)
{
    return v.kind == VALUE_BOOL ? v.u.b : v.u.i;
}

static bool equal_dicts(struct render *r, const struct dict *a, const struct dict *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n && !r->failed; i++) {
        struct value *other = dict_find(r, b, a->pairs[i].key);
        if (!other || !value_equal(r, a->pairs[i].value, *other))
            return false;
    }
    return !r->failed;
}

static bool equal_lists(struct render *r, const struct list *a, const struct list *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n && !r->failed; i++)
        if (!value_equal(r, a->items[i], b->items[i]))
            return false;
    return !r->failed;
}

bool value_equal(struct render *r, struct value a, struct value b)
{
    if (!render_work(r, 1))
        return false;
    if (value_is_number(a) && value_is_number(b)) {
        if (a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT)
            return value_double(a) == value_double(b);
        return whole(a) == whole(b);
    }
    if (a.kind != b.kind)
        return false;
    bool equal = false;
    switch ((enum value_kind)a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_STRING:
        return a.u.s->n == b.u.s->n && render_bytes(r, a.u.s->n) && str_equal(a.u.s, b.u.s);
    case VALUE_RANGE:
        return a.u.range->n == b.u.range->n &&
               (a.u.range->n == 0 || (a.u.range->start == b.u.range->start &&
                (a.u.range->n == 1 || a.u.range->step == b.u.range->step)));
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        if (a.u.pointer == b.u.pointer)
            return true;
        if (!render_enter(r))
            return false;
        equal = a.kind == VALUE_DICT ? equal_dicts(r, a.u.dict, b.u.dict)
                                     : equal_lists(r, a.u.list, b.u.list);
        r->depth--;
        return equal;
    default:
        return a.u.pointer == b.u.pointer;
    }
}

static int compare_lists(struct render *r, struct value a, struct value b, const char *op)
{
    const struct list *x = a.u.list, *y = b.u.list;
    int order = 0;
    if (!render_enter(r))
        return 0;
    for (size_t i = 0; order == 0 && i < x->n && i < y->n && !r->failed; i++)
        if (!value_equal(r, x->items[i], y->items[i]))
            order = value_compare(r, x->items[i], y->items[i], op);
    r->depth--;
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

int value_compare(struct render *r, struct value a, struct value b, const char *op)
{
    if (!render_work(r, 1))
        return 0;
    if (value_is_number(a) && value_is_number(b)) {
        if (a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT) {
            double x = value_double(a), y = value_double(b);
            return isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
        }
        return (whole(a) > whole(b)) - (whole(a) < whole(b));
    }
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
        render_bytes(r, a.u.s->n < b.u.s->n ? a.u.s->n : b.u.s->n);
        return str_compare(a.u.s, b.u.s);
    }
    if (a.kind == b.kind && (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE))
        return compare_lists(r, a, b, op);
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        ops_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
    else
        render_fail(r, "'%s' not supported between instances of '%s' and '%s'", op,
                    value_type(a), value_type(b));
    return 0;
}

bool value_contains(struct render *r, struct value container, struct value item)
{
    if (container.kind == VALUE_STRING) {
        if (item.kind != VALUE_STRING) {
            render_fail(r, "'in <string>' requires string as left operand, not %s",
                        value_type(item));
            return false;
        }
        return render_bytes(r, container.u.s->n) &&
               str_find(container.u.s, item.u.s, 0) != SIZE_MAX;
    }
    if (container.kind == VALUE_DICT)
        return dict_find(r, container.u.dict, item) != NULL;
    struct iter it;
    struct value other;
    if (!iter_can(container)) {
        render_fail(r, "argument of type '%s' is not iterable", value_type(container));
        return false;
    }
    if (!iter_open(r, container, &it))
        return false;
    while (iter_next(r, &it, &other))
        if (value_equal(r, item, other))
            return true;
    return false;
}

int64_t value_length(struct render *r, struct value v)
{
    switch ((enum value_kind)v.kind) {
    case VALUE_UNDEFINED:
        return 0;
    case VALUE_STRING:
        render_bytes(r, v.u.s->n_chars == SIZE_MAX ? v.u.s->n : 0);
        return (int64_t)str_chars(v.u.s);
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
        return (int64_t)v.u.list->n;
    case VALUE_DICT:
        return (int64_t)v.u.dict->n;
    case VALUE_RANGE:
        return (int64_t)v.u.range->n;
    case VALUE_LOOP:
        return (int64_t)v.u.loop->items->n;
    default:
        render_fail(r, "object of type '%s' has no len()", value_type(v));
        return -1;
    }
}
