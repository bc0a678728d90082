/* methods: what can be called on a value: dict, list, tuple, loop and cycler methods here, str's in
 * methods_text.c. Methods that would change a value exist only as refusals, as in Jinja's immutable
 * sandbox. The render's thread. */
#include <string.h>

#include "engine/template/render_internal.h"

static struct value dict_get(struct render *r, const struct bound_args *args)
{
    struct value *found = dict_find(r, args->self.u.dict, args->v[0]);
    return found ? *found : call_or(args->v[1], value_none());
}

static struct value dict_keys(struct render *r, const struct bound_args *args)
{
    struct value view = value_list(r, VALUE_VIEW, "dict_keys");
    const struct dict *d = args->self.u.dict;
    for (size_t i = 0; i < d->n && render_work(r, 1); i++)
        value_push(r, view, d->pairs[i].key);
    return view;
}

static struct value dict_values(struct render *r, const struct bound_args *args)
{
    struct value view = value_list(r, VALUE_VIEW, "dict_values");
    const struct dict *d = args->self.u.dict;
    for (size_t i = 0; i < d->n && render_work(r, 1); i++)
        value_push(r, view, d->pairs[i].value);
    return view;
}

static struct value dict_items(struct render *r, const struct bound_args *args)
{
    struct value view = value_list(r, VALUE_VIEW, "dict_items");
    const struct dict *d = args->self.u.dict;
    for (size_t i = 0; i < d->n && render_work(r, 1); i++)
        value_push(r, view, value_pair(r, d->pairs[i].key, d->pairs[i].value));
    return view;
}

static struct value dict_copy(struct render *r, const struct bound_args *args)
{
    struct value copy = dict_new(r);
    const struct dict *d = args->self.u.dict;
    for (size_t i = 0; i < d->n && render_work(r, 1); i++)
        dict_append(r, copy.u.dict, d->pairs[i].key, d->pairs[i].value);
    return copy;
}

static struct value list_copy(struct render *r, const struct bound_args *args)
{
    return iter_list(r, args->self, VALUE_LIST);
}

static struct value list_count(struct render *r, const struct bound_args *args)
{
    struct iter it;
    struct value item;
    int64_t count = 0;
    if (iter_open(r, args->self, &it))
        while (iter_next(r, &it, &item))
            count += value_equal(r, item, args->v[0]);
    return value_int(count);
}

static struct value list_index(struct render *r, const struct bound_args *args)
{
    struct iter it;
    struct value item;
    if (iter_open(r, args->self, &it))
        while (iter_next(r, &it, &item))
            if (value_equal(r, item, args->v[0]))
                return value_int((int64_t)it.i - 1);
    render_fail(r, "%s.index(x): x not in %s", value_type(args->self), value_type(args->self));
    return value_undefined();
}

static struct value loop_cycle(struct render *r, const struct bound_args *args)
{
    if (args->call->n == 0) {
        render_fail(r, "no items for cycling given");
        return value_undefined();
    }
    return args->call->values[args->self.u.loop->index0 % args->call->n];
}

static struct value loop_changed(struct render *r, const struct bound_args *args)
{
    struct loop *loop = args->self.u.loop;
    struct value now = value_list(r, VALUE_TUPLE, NULL);
    for (size_t i = 0; i < args->call->n; i++)
        value_push(r, now, args->call->values[i]);
    bool changed = !loop->changed_set || !value_equal(r, loop->changed, now);
    loop->changed_set = true;
    loop->changed = now;
    return value_bool(changed);
}

static struct value cycler_next(struct render *r, const struct bound_args *args)
{
    return globals_cycle(r, args->self);
}

static struct value cycler_reset(struct render *r, const struct bound_args *args)
{
    (void)r;
    args->self.u.list->at = 0;
    return value_none();
}

static const struct builtin dict_table[] = {
    {"get", "key default=", dict_get}, {"items", "", dict_items}, {"keys", "", dict_keys},
    {"values", "", dict_values},       {"copy", "", dict_copy},
};
static const struct builtin list_table[] = {
    {"index", "value", list_index},
    {"count", "value", list_count},
    {"copy", "", list_copy},
};
static const struct builtin loop_table[] = {
    {"cycle", "*", loop_cycle},
    {"changed", "*", loop_changed},
};
static const struct builtin cycler_table[] = {
    {"next", "", cycler_next},
    {"reset", "", cycler_reset},
};

const struct builtin *methods_find(enum value_kind kind, const struct str *name)
{
    switch (kind) {
    case VALUE_STRING:
        return methods_text_find(name);
    case VALUE_DICT:
        return call_find(dict_table, sizeof dict_table / sizeof *dict_table, name);
    case VALUE_LIST:
        return call_find(list_table, sizeof list_table / sizeof *list_table, name);
    case VALUE_TUPLE:
    case VALUE_RANGE:
        return call_find(list_table, 2, name);
    case VALUE_LOOP:
        return call_find(loop_table, sizeof loop_table / sizeof *loop_table, name);
    case VALUE_CYCLER:
        return call_find(cycler_table, sizeof cycler_table / sizeof *cycler_table, name);
    default:
        return NULL;
    }
}

bool methods_is_unsafe(enum value_kind kind, const struct str *name)
{
    static const char *const dict_names[] = {"clear", "pop", "popitem", "setdefault", "update",
                                             NULL};
    static const char *const list_names[] = {"append", "clear", "pop", "reverse", "insert",
                                             "sort", "extend", "remove", NULL};
    const char *const *names = kind == VALUE_DICT ? dict_names : list_names;
    if (kind != VALUE_DICT && kind != VALUE_LIST)
        return false;
    for (; *names; names++)
        if (str_is(name, *names))
            return true;
    return false;
}
