/* globals: the functions a template finds without being given them: Jinja's range, dict, namespace,
 * cycler, joiner and transformers' raise_exception, strftime_now. The render's thread. */
#include <string.h>
#include <time.h>

#include "engine/template/render_internal.h"

static struct value global_range(struct render *r, const struct bound_args *args)
{
    int64_t start = 0, stop = call_int(r, args->v[0]), step = 1;
    if (args->v[1].kind != VALUE_MISSING) {
        start = stop;
        stop = call_int(r, args->v[1]);
    }
    if (args->v[2].kind != VALUE_MISSING)
        step = call_int(r, args->v[2]);
    if (step == 0)
        render_fail(r, "range() arg 3 must not be zero");
    struct range *range = render_alloc(r, 1, sizeof *range);
    if (!range || r->failed)
        return value_undefined();
    uint64_t distance = 0, stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    if (step > 0 ? start < stop : start > stop)
        distance = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    uint64_t n = distance / stride + (distance % stride != 0);
    if (n > RENDER_RANGE_MAX)
        render_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                    RENDER_RANGE_MAX);
    *range = (struct range){start, stop, step, (size_t)n};
    return (struct value){.kind = VALUE_RANGE, .trusted = args->v[0].trusted,
                          .u.range = range};
}

/* dict(mapping or pairs, **names) into d */
static void fill(struct render *r, struct dict *d, const struct call *call, const char *name)
{
    struct iter it;
    struct value item;
    if (call->n > 1)
        render_fail(r, "%s expected at most 1 argument, got %zu", name, call->n);
    if (call->n && call->values[0].kind == VALUE_DICT) {
        const struct dict *other = call->values[0].u.dict;
        for (size_t i = 0; i < other->n && render_work(r, 1); i++)
            dict_set(r, d, other->pairs[i].key, other->pairs[i].value);
    } else if (call->n && iter_open(r, call->values[0], &it)) {
        while (iter_next(r, &it, &item)) {
            if (!iter_can(item)) {
                render_fail(r, "cannot convert dictionary update sequence element to a sequence");
                return;
            }
            struct value pair = iter_list(r, item, VALUE_LIST);
            if (!r->failed && pair.u.list->n != 2)
                render_fail(r, "dictionary update sequence element has length %zu; 2 is required",
                            pair.u.list->n);
            if (!r->failed)
                dict_set(r, d, pair.u.list->items[0], pair.u.list->items[1]);
        }
    }
    for (size_t i = 0; i < call->n_names && !r->failed; i++)
        dict_set(r, d, value_string(call->names[i]), call->values[call->n + i]);
}

static struct value global_dict(struct render *r, const struct bound_args *args)
{
    struct value dict = dict_new(r);
    if (!r->failed)
        fill(r, dict.u.dict, args->call, "dict");
    return dict;
}

static struct value global_namespace(struct render *r, const struct bound_args *args)
{
    struct value dict = dict_new(r);
    if (r->failed)
        return dict;
    fill(r, dict.u.dict, args->call, "namespace");
    dict.kind = VALUE_NAMESPACE;
    return dict;
}

static struct value global_cycler(struct render *r, const struct bound_args *args)
{
    struct value cycler = value_list(r, VALUE_CYCLER, NULL);
    for (size_t i = 0; i < args->call->n; i++)
        value_push(r, cycler, args->call->values[i]);
    if (args->call->n == 0)
        render_fail(r, "at least one item has to be provided");
    return cycler;
}

struct value globals_cycle(struct render *r, struct value cycler)
{
    struct list *list = cycler.u.list;
    struct value now = list->items[list->at];
    (void)r;
    list->at = (list->at + 1) % list->n;
    return now;
}

static struct value global_joiner(struct render *r, const struct bound_args *args)
{
    struct str **cells = render_alloc(r, 2, sizeof *cells);
    if (!cells)
        return value_undefined();
    cells[1] = call_text(r, call_or(args->v[0], str_value(r, ", ", true)));
    return (struct value){.kind = VALUE_JOINER, .u.joiner = cells};
}

static struct value global_raise(struct render *r, const struct bound_args *args)
{
    struct str *message = out_string(r, args->v[0]);
    render_raise(r, message);
    return value_undefined();
}

/* %f, the microseconds that Python has and C lacks: a render knows whole seconds only. */
static bool expand_pattern(const struct str *format, char *pattern, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < format->n; i++) {
        if (n + 8 > size || format->data[i] == 0)
            return false;
        bool percent = format->data[i] == '%' && i + 1 < format->n;
        if (percent && format->data[i + 1] == 'f') {
            memcpy(pattern + n, "000000", 6);
            n += 6;
            i++;
            continue;
        }
        pattern[n++] = format->data[i];
        if (percent)
            pattern[n++] = format->data[++i];
    }
    /* a last character tells an empty result from one that did not fit */
    pattern[n++] = '.';
    pattern[n] = 0;
    return true;
}

/* Python's datetime.now().strftime(format) */
static struct value global_strftime(struct render *r, const struct bound_args *args)
{
    struct str *format = call_text(r, args->v[0]);
    struct tm tm;
    char pattern[512], text[2048];
    if (r->failed)
        return value_undefined();
    if (!expand_pattern(format, pattern, sizeof pattern) || !localtime_r(&r->now, &tm)) {
        render_fail(r, "strftime_now: unusable format");
        return value_undefined();
    }
    size_t n = strftime(text, sizeof text, pattern, &tm);
    if (n == 0)
        render_fail(r, "strftime_now: the result is too long");
    return value_string(str_copy(r, text, n ? n - 1 : 0, str_all_trusted(format)));
}

static const struct builtin table[] = {
    {"range", "start stop= step=", global_range},
    {"dict", "*", global_dict},
    {"namespace", "*", global_namespace},
    {"cycler", "*", global_cycler},
    {"joiner", "sep=", global_joiner},
    {"raise_exception", "message", global_raise},
    {"strftime_now", "format", global_strftime},
};

const struct builtin *globals_find(const struct str *name)
{
    return call_find(table, sizeof table / sizeof *table, name);
}
