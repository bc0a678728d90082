/* ops: operators, attributes, subscripts and slices, with Python's results and messages. Integers
 * are 64 bits: what does not fit is an error. The render's thread. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/template/render_internal.h"

void ops_undefined(struct render *r, struct value v)
{
    const struct undefined *u = v.u.undefined;
    if (!u) {
        render_fail(r, "the value is undefined");
        return;
    }
    if (u->hint) {
        render_fail(r, "%s", u->hint);
        return;
    }
    size_t mark = out_mark(r);
    if (u->name.kind == VALUE_STRING)
        out_str(r, u->name.u.s);
    else
        out_repr(r, u->name);
    struct str *name = out_cut(r, mark);
    int n = name->n > 200 ? 200 : (int)name->n;
    if (u->kind == VALUE_MISSING)
        render_fail(r, "'%.*s' is undefined", n, name->data);
    else if (u->name.kind == VALUE_STRING)
        render_fail(r, "'%s' has no attribute '%.*s'", value_object(u->kind), n, name->data);
    else
        render_fail(r, "%s has no element %.*s", value_object(u->kind), n, name->data);
}

static struct value no_such(struct render *r, struct value object, struct value name)
{
    struct undefined *u = render_alloc(r, 1, sizeof *u);
    if (u)
        *u = (struct undefined){.kind = object.kind, .name = name};
    return (struct value){.kind = VALUE_UNDEFINED, .u.undefined = u};
}

/* ---- arithmetic */

static struct value too_large(struct render *r)
{
    render_fail(r, "an integer does not fit 64 bits");
    return value_undefined();
}

static struct value bad_operands(struct render *r, enum token_kind op, struct value a,
                                 struct value b)
{
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        ops_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
    else if (op == TOKEN_ADD && (a.kind == VALUE_STRING || a.kind == VALUE_LIST ||
                                 a.kind == VALUE_TUPLE))
        render_fail(r, "can only concatenate %s (not \"%s\") to %s", value_type(a),
                    value_type(b), value_type(a));
    else if (op == TOKEN_MUL && (a.kind == VALUE_STRING || a.kind == VALUE_LIST ||
                                 a.kind == VALUE_TUPLE))
        render_fail(r, "can't multiply sequence by non-int of type '%s'", value_type(b));
    else
        render_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'",
                    op == TOKEN_POW ? "** or pow()" : lex_kind_text(op), value_type(a),
                    value_type(b));
    return value_undefined();
}

static int64_t whole(struct value v)
{
    return v.kind == VALUE_BOOL ? v.u.b : v.u.i;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static struct value int_power(struct render *r, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 0)
            render_fail(r, "0.0 cannot be raised to a negative power");
        return value_float(pow((double)base, (double)exponent));
    }
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return too_large(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return too_large(r);
    }
    return value_int(result);
}

static struct value int_binary(struct render *r, enum token_kind op, int64_t a, int64_t b)
{
    int64_t result = 0;
    bool over = false;
    if (b == 0 && (op == TOKEN_DIV || op == TOKEN_FLOORDIV || op == TOKEN_MOD)) {
        render_fail(r, op == TOKEN_DIV ? "division by zero"
                                       : "integer division or modulo by zero");
        return value_undefined();
    }
    switch (op) {
    case TOKEN_ADD:
        over = __builtin_add_overflow(a, b, &result);
        break;
    case TOKEN_SUB:
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case TOKEN_MUL:
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case TOKEN_DIV:
        return value_float((double)a / (double)b);
    case TOKEN_FLOORDIV:
        over = a == INT64_MIN && b == -1;
        result = over ? 0 : floor_div(a, b);
        break;
    case TOKEN_MOD:
        result = b == -1 ? 0 : a - b * floor_div(a, b);
        break;
    default:
        return int_power(r, a, b);
    }
    return over ? too_large(r) : value_int(result);
}

static struct value float_binary(struct render *r, enum token_kind op, double a, double b)
{
    if (b == 0 && (op == TOKEN_DIV || op == TOKEN_FLOORDIV || op == TOKEN_MOD)) {
        render_fail(r, op == TOKEN_DIV ? "float division by zero" : "float floor division by zero");
        return value_undefined();
    }
    double m;
    switch (op) {
    case TOKEN_ADD:
        return value_float(a + b);
    case TOKEN_SUB:
        return value_float(a - b);
    case TOKEN_MUL:
        return value_float(a * b);
    case TOKEN_DIV:
        return value_float(a / b);
    case TOKEN_FLOORDIV:
    case TOKEN_MOD:
        m = fmod(a, b);
        if (m != 0 && (m < 0) != (b < 0))
            m += b;
        if (op == TOKEN_MOD)
            return value_float(m);
        m = floor((a - m) / b + 0.5);
        return value_float(m == 0 ? copysign(0, a / b) : m);
    default:
        m = pow(a, b);
        if (a == 0 && b < 0)
            render_fail(r, "0.0 cannot be raised to a negative power");
        else if (isnan(m) && !isnan(a) && !isnan(b))
            render_fail(r, "a negative number can not be raised to a fraction");
        else if (isinf(m) && isfinite(a) && isfinite(b))
            render_fail(r, "the result of a power is out of range");
        return value_float(m);
    }
}

static struct value repeat(struct render *r, struct value sequence, int64_t times)
{
    size_t n = sequence.kind == VALUE_STRING ? sequence.u.s->n : sequence.u.list->n;
    if (times <= 0 || n == 0)
        times = 0;
    if (sequence.kind != VALUE_STRING) {
        struct value out = value_list(r, (enum value_kind)sequence.kind, NULL);
        for (int64_t k = 0; k < times && render_work(r, n); k++)
            for (size_t i = 0; i < n; i++)
                value_push(r, out, sequence.u.list->items[i]);
        return out;
    }
    size_t mark = out_mark(r);
    for (int64_t k = 0; k < times && !r->failed && render_work(r, (k & 7) == 0); k++)
        out_str(r, sequence.u.s);
    struct str *out = out_cut(r, mark);
    if (sequence.u.s->markup && out->n)
        out->markup = true;
    return value_string(out);
}

static bool is_sequence(struct value v)
{
    return v.kind == VALUE_STRING || v.kind == VALUE_LIST || v.kind == VALUE_TUPLE;
}

static bool is_whole(struct value v)
{
    return v.kind == VALUE_INT || v.kind == VALUE_BOOL;
}

/* In the store of a when a is the longest list in it and there is room, so that "l = l + [x]" in a
 * loop stays linear. */
static struct value add_lists(struct render *r, struct value a, struct value b)
{
    struct value out = value_list(r, (enum value_kind)a.kind, NULL);
    const struct list *x = a.u.list, *y = b.u.list;
    struct list_store *store = x->store;
    size_t n = x->n + y->n;
    bool in_place = store && x->items == store->items && x->n == store->used &&
                    store->capacity - store->used >= y->n;
    if (r->failed || n == 0 || !render_work(r, in_place ? y->n : n))
        return out;
    if (!in_place) {
        size_t capacity = n < 16 ? n : n + n / 2;
        store = render_alloc(r, 1, sizeof *store);
        struct value *items = store ? render_alloc(r, capacity, sizeof *items) : NULL;
        if (!items)
            return out;
        *store = (struct list_store){.items = items, .used = x->n, .capacity = capacity};
        if (x->n)
            memcpy(items, x->items, x->n * sizeof *items);
    }
    if (y->n)
        memcpy(store->items + store->used, y->items, y->n * sizeof *y->items);
    store->used = n;
    /* no capacity of its own: what would be pushed goes elsewhere */
    *out.u.list = (struct list){.items = store->items, .n = n, .capacity = n, .store = store};
    return out;
}

struct value ops_binary(struct render *r, enum token_kind op, struct value a, struct value b)
{
    if (value_is_number(a) && value_is_number(b)) {
        bool real = a.kind == VALUE_FLOAT || b.kind == VALUE_FLOAT;
        struct value v = real ? float_binary(r, op, value_double(a), value_double(b))
                              : int_binary(r, op, whole(a), whole(b));
        v.trusted = a.trusted && b.trusted;
        return v;
    }
    if (op == TOKEN_ADD && a.kind == b.kind && is_sequence(a))
        return a.kind == VALUE_STRING ? value_string(str_concat(r, a.u.s, b.u.s))
                                      : add_lists(r, a, b);
    if (op == TOKEN_MUL && is_sequence(a) && is_whole(b))
        return repeat(r, a, whole(b));
    if (op == TOKEN_MUL && is_whole(a) && is_sequence(b))
        return repeat(r, b, whole(a));
    if (op == TOKEN_MOD && a.kind == VALUE_STRING)
        return format_percent(r, a.u.s, b);
    return bad_operands(r, op, a, b);
}

struct value ops_negate(struct render *r, struct value v)
{
    struct value out = value_undefined();
    if (v.kind == VALUE_FLOAT)
        out = value_float(-v.u.f);
    else if (is_whole(v))
        out = whole(v) == INT64_MIN ? too_large(r) : value_int(-whole(v));
    else if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else
        render_fail(r, "bad operand type for unary -: '%s'", value_type(v));
    out.trusted = v.trusted;
    return out;
}

bool ops_compare(struct render *r, enum token_kind op, struct value a, struct value b)
{
    int order;
    switch (op) {
    case TOKEN_EQ:
        return value_equal(r, a, b);
    case TOKEN_NE:
        return !value_equal(r, a, b);
    case TOKEN_IN:
        return value_contains(r, b, a);
    case TOKEN_NOT_IN:
        return !value_contains(r, b, a);
    case TOKEN_LT:
        return value_compare(r, a, b, "<") == -1;
    case TOKEN_GT:
        return value_compare(r, a, b, ">") == 1;
    case TOKEN_LE:
        order = value_compare(r, a, b, "<=");
        return order == -1 || order == 0;
    default:
        order = value_compare(r, a, b, ">=");
        return order == 1 || order == 0;
    }
}

/* ---- attributes and subscripts */

static struct value number_of(size_t n)
{
    struct value v = value_int((int64_t)n);
    v.trusted = true;
    return v;
}

static bool loop_attribute(struct render *r, const struct loop *loop, const struct str *name,
                           struct value *out)
{
    size_t n = loop->items->n, i = loop->index0;
    if (str_is(name, "index"))
        *out = number_of(i + 1);
    else if (str_is(name, "index0"))
        *out = number_of(i);
    else if (str_is(name, "first"))
        *out = value_bool(i == 0);
    else if (str_is(name, "last"))
        *out = value_bool(i + 1 == n);
    else if (str_is(name, "length"))
        *out = number_of(n);
    else if (str_is(name, "revindex"))
        *out = number_of(n - i);
    else if (str_is(name, "revindex0"))
        *out = number_of(n - i - 1);
    else if (str_is(name, "depth"))
        *out = number_of(loop->depth0 + 1);
    else if (str_is(name, "depth0"))
        *out = number_of(loop->depth0);
    else if (str_is(name, "previtem"))
        *out = i > 0 ? loop->items->items[i - 1] : value_hint(r, "there is no previous item");
    else if (str_is(name, "nextitem"))
        *out = i + 1 < n ? loop->items->items[i + 1] : value_hint(r, "there is no next item");
    else
        return false;
    return true;
}

static bool macro_attribute(struct render *r, const struct macro *macro, const struct str *name,
                            struct value *out)
{
    if (str_is(name, "name")) {
        *out = value_string(macro->node->name);
    } else if (str_is(name, "arguments")) {
        *out = value_list(r, VALUE_TUPLE, NULL);
        for (size_t i = 0; i < macro->node->list.n; i++)
            value_push(r, *out, value_string(macro->node->list.items[i]->name));
    } else if (str_is(name, "caller")) {
        *out = value_bool(macro->has_caller);
    } else {
        return false;
    }
    return true;
}

/* What Python's getattr finds: methods and the attributes of Jinja's own objects. */
static bool python_attribute(struct render *r, struct value object, struct str *name,
                             struct value *out)
{
    const struct builtin *method = methods_find((enum value_kind)object.kind, name);
    if (method) {
        struct bound *bound = render_alloc(r, 1, sizeof *bound);
        if (bound)
            *bound = (struct bound){object, method};
        *out = bound ? (struct value){.kind = VALUE_BOUND, .u.bound = bound} : value_undefined();
        return true;
    }
    if (methods_is_unsafe((enum value_kind)object.kind, name)) {
        char hint[160];
        snprintf(hint, sizeof hint, "access to attribute '%.*s' of '%s' object is unsafe.",
                 (int)(name->n > 40 ? 40 : name->n), name->data, value_type(object));
        *out = value_hint(r, r->failed ? "" : arena_copy(&r->arena, hint, strlen(hint)));
        return true;
    }
    if (object.kind == VALUE_LOOP)
        return loop_attribute(r, object.u.loop, name, out);
    if (object.kind == VALUE_MACRO)
        return macro_attribute(r, object.u.macro, name, out);
    if (object.kind == VALUE_NAMESPACE) {
        struct value *found = dict_find(r, object.u.dict, value_string(name));
        if (found)
            *out = *found;
        return found != NULL;
    }
    if (object.kind == VALUE_CYCLER && str_is(name, "current")) {
        *out = object.u.list->items[object.u.list->at];
        return true;
    }
    /* one of groupby's pairs */
    bool group = object.kind == VALUE_TUPLE && object.u.list->name;
    if (group && (str_is(name, "grouper") || str_is(name, "list"))) {
        *out = object.u.list->items[str_is(name, "list")];
        return true;
    }
    return false;
}

struct value ops_attribute(struct render *r, struct value object, struct str *name)
{
    struct value out;
    if (object.kind == VALUE_UNDEFINED) {
        ops_undefined(r, object);
        return value_undefined();
    }
    if (python_attribute(r, object, name, &out))
        return out;
    if (object.kind == VALUE_DICT) {
        struct value *found = dict_find(r, object.u.dict, value_string(name));
        if (found)
            return *found;
    }
    return no_such(r, object, value_string(name));
}

/* The place of index in a sequence of n, counting from the end when negative; SIZE_MAX: outside. */
static size_t place(int64_t index, size_t n)
{
    if (index < 0)
        index += (int64_t)n;
    return index >= 0 && (uint64_t)index < n ? (size_t)index : SIZE_MAX;
}

static bool sequence_item(struct render *r, struct value object, int64_t index, struct value *out)
{
    size_t at;
    switch ((enum value_kind)object.kind) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        at = place(index, object.u.list->n);
        if (at != SIZE_MAX)
            *out = object.u.list->items[at];
        return at != SIZE_MAX;
    case VALUE_RANGE:
        at = place(index, object.u.range->n);
        *out = value_int(at == SIZE_MAX ? 0 : object.u.range->start +
                                                  (int64_t)at * object.u.range->step);
        return at != SIZE_MAX;
    case VALUE_STRING: {
        struct str *s = object.u.s;
        render_bytes(r, s->n_chars == s->n ? 0 : s->n);
        at = place(index, str_chars(s));
        if (at == SIZE_MAX)
            return false;
        size_t from = str_byte_of(s, at);
        *out = value_string(str_slice(r, s, from, str_byte_of(s, at + 1)));
        return true;
    }
    default:
        return false;
    }
}

struct value ops_item(struct render *r, struct value object, struct value key)
{
    struct value out;
    if (object.kind == VALUE_UNDEFINED) {
        ops_undefined(r, object);
        return value_undefined();
    }
    bool hashable = key.kind != VALUE_LIST && key.kind != VALUE_DICT;
    if (object.kind == VALUE_DICT && hashable) {
        struct value *found = dict_find(r, object.u.dict, key);
        if (found)
            return *found;
    } else if (is_whole(key) && sequence_item(r, object, whole(key), &out)) {
        return out;
    }
    if (key.kind == VALUE_STRING && python_attribute(r, object, key.u.s, &out))
        return out;
    return no_such(r, object, key);
}

/* ---- slices */

static int64_t slice_bound(struct value v, int64_t otherwise)
{
    return v.kind == VALUE_NONE ? otherwise : whole(v);
}

/* Python's PySlice_AdjustIndices: into [0, n], or [-1, n - 1] when going down. */
static int64_t adjust(int64_t index, int64_t n, bool down)
{
    if (index < 0) {
        index = index < -n ? -1 : index + n;
        return index < 0 ? (down ? -1 : 0) : index;
    }
    return index >= n ? (down ? n - 1 : n) : index;
}

static struct value slice_items(struct render *r, struct value object, int64_t start,
                                int64_t stop, int64_t step)
{
    struct value out = value_list(r, (enum value_kind)object.kind, NULL);
    size_t mark = out_mark(r);
    for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) {
        struct value item = value_undefined();
        if (!render_work(r, 1))
            break;
        sequence_item(r, object, i, &item);
        if (object.kind == VALUE_STRING)
            out_value(r, item);
        else
            value_push(r, out, item);
        if (__builtin_add_overflow(i, step, &(int64_t){0}))
            break;
    }
    struct str *text = out_cut(r, mark);
    return object.kind == VALUE_STRING ? value_string(text) : out;
}

static bool range_place(const struct range *range, int64_t i, int64_t *out)
{
    return !__builtin_mul_overflow(i, range->step, out) &&
           !__builtin_add_overflow(*out, range->start, out);
}

/* A range again, of every step-th number from the start-th to before the stop-th. */
static struct value slice_range(struct render *r, struct value object, int64_t start, int64_t stop,
                                int64_t step)
{
    const struct range *all = object.u.range;
    struct range *part = render_alloc(r, 1, sizeof *part);
    int64_t distance = step > 0 ? stop - start : start - stop;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    if (!part || __builtin_mul_overflow(all->step, step, &part->step) ||
        !range_place(all, start, &part->start) || !range_place(all, stop, &part->stop))
        return too_large(r);
    part->n = distance > 0 ? (size_t)(((uint64_t)distance - 1) / stride + 1) : 0;
    object.u.range = part;
    return object;
}

struct value ops_slice(struct render *r, struct value object, const struct value part[3])
{
    int64_t start, stop, step, n;
    if (object.kind == VALUE_UNDEFINED)
        ops_undefined(r, object);
    else if (object.kind == VALUE_DICT)
        render_fail(r, "unhashable type: 'slice'");
    else if (!is_sequence(object) && object.kind != VALUE_RANGE)
        render_fail(r, "'%s' object is not subscriptable", value_type(object));
    for (int i = 0; i < 3; i++)
        if (part[i].kind != VALUE_NONE && !is_whole(part[i]))
            render_fail(r, "slice indices must be integers or None or have an __index__ method");
    if (r->failed)
        return value_undefined();
    step = slice_bound(part[2], 1);
    if (step == 0) {
        render_fail(r, "slice step cannot be zero");
        return value_undefined();
    }
    n = value_length(r, object);
    start = slice_bound(part[0], step > 0 ? 0 : n - 1);
    stop = slice_bound(part[1], step > 0 ? n : -1);
    if (part[0].kind != VALUE_NONE)
        start = adjust(start, n, step < 0);
    if (part[1].kind != VALUE_NONE)
        stop = adjust(stop, n, step < 0);
    if (object.kind == VALUE_RANGE)
        return slice_range(r, object, start, stop, step);
    if (object.kind == VALUE_STRING && step == 1) {
        struct str *s = object.u.s;
        size_t from = str_byte_of(s, (size_t)start), to = str_byte_of(s, (size_t)stop);
        return value_string(str_slice(r, s, from, stop > start ? to : from));
    }
    return slice_items(r, object, start, stop, step);
}
