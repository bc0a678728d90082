/* filters: what stands after |: conversions, numbers, mappings and JSON here; sequences in
 * filters_list.c, text in filters_text.c. The render's thread. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template/render_internal.h"

static struct value filter_default(struct render *r, const struct bound_args *args)
{
    bool missing = args->self.kind == VALUE_UNDEFINED ||
                   (value_truth(args->v[1]) && !value_truth(args->self));
    return missing ? call_or(args->v[0], value_string(str_new(r, "", 0, true))) : args->self;
}

static struct value filter_length(struct render *r, const struct bound_args *args)
{
    return value_int(value_length(r, args->self));
}

/* ---- numbers */

/* s as Python's float() or int() read it: trimmed, single underscores between digits. */
static bool clean_number(const struct str *s, char *out, size_t size)
{
    size_t from = str_skip_space(s->data, s->n), to = from + str_trim_space(s->data + from,
                                                                            s->n - from);
    size_t n = 0;
    for (size_t i = from; i < to; i++) {
        bool between = i > from && i + 1 < to && s->data[i - 1] != '_' && s->data[i + 1] != '_';
        if (s->data[i] == '_' && between)
            continue;
        if (n + 1 >= size || s->data[i] == '_' || s->data[i] == 0)
            return false;
        out[n++] = s->data[i];
    }
    out[n] = 0;
    return n > 0;
}

static bool read_float(const struct str *s, double *out)
{
    char text[400], *end;
    if (!clean_number(s, text, sizeof text) || strpbrk(text, "xXpP("))
        return false;
    *out = strtod(text, &end);
    return *end == 0;
}

static bool read_int(const struct str *s, int base, int64_t *out)
{
    char text[100], *end;
    if (!clean_number(s, text, sizeof text) || str_skip_space(text, 1))
        return false;
    char *digits = text + (text[0] == '-' || text[0] == '+');
    char prefix = digits[0] == '0' ? (char)(digits[1] | 32) : 0;
    if ((base == 2 && prefix == 'b') || (base == 8 && prefix == 'o')) {
        memmove(digits, digits + 2, strlen(digits + 2) + 1);
        prefix = 0;
    }
    if ((prefix == 'x' && base != 16) || *digits == '-' || *digits == '+' || !*digits)
        return false;
    int64_t value = strtoll(text, &end, base);
    *out = value;
    return *end == 0 && value != INT64_MAX && value != INT64_MIN;
}

static bool float_to_int(double f, int64_t *out)
{
    if (!(f > -9.2e18 && f < 9.2e18))
        return false;
    *out = (int64_t)f;
    return true;
}

static struct value filter_int(struct render *r, const struct bound_args *args)
{
    struct value v = args->self, out = call_or(args->v[0], value_int(0));
    int64_t base = call_int(r, call_or(args->v[1], value_int(10))), i = 0;
    double f;
    bool ok = false;
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    if (base != 0 && (base < 2 || base > 36))
        base = 10;
    if (v.kind == VALUE_INT || v.kind == VALUE_BOOL) {
        i = v.kind == VALUE_INT ? v.u.i : v.u.b;
        ok = true;
    } else if (v.kind == VALUE_FLOAT) {
        ok = float_to_int(v.u.f, &i);
    } else if (v.kind == VALUE_STRING) {
        ok = read_int(v.u.s, (int)base, &i) || (read_float(v.u.s, &f) && float_to_int(f, &i));
    }
    if (ok)
        out = value_int(i);
    out.trusted = out.trusted && v.trusted;
    return out;
}

static struct value filter_float(struct render *r, const struct bound_args *args)
{
    struct value v = args->self;
    double f;
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    if (value_is_number(v))
        return value_float(value_double(v));
    if (v.kind == VALUE_STRING && read_float(v.u.s, &f))
        return value_float(f);
    return call_or(args->v[0], value_float(0));
}

static struct value filter_abs(struct render *r, const struct bound_args *args)
{
    struct value v = args->self;
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else if (!value_is_number(v))
        render_fail(r, "bad operand type for abs(): '%s'", value_type(v));
    if (r->failed)
        return value_undefined();
    if (v.kind == VALUE_FLOAT)
        return value_float(fabs(v.u.f));
    return ops_compare(r, TOKEN_LT, v, value_int(0)) ? ops_negate(r, v)
                                                     : ops_binary(r, TOKEN_ADD, v, value_int(0));
}

/* Round half to even of the exact value, as Python: printf does just that. */
static double round_to(double f, int64_t precision)
{
    char text[512];
    if (!isfinite(f))
        return f;
    if (precision >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)(precision > 100 ? 100 : precision), f);
        return strtod(text, NULL);
    }
    double unit = pow(10, (double)-precision);
    return isinf(unit) ? 0 : nearbyint(f / unit) * unit;
}

static struct value filter_round(struct render *r, const struct bound_args *args)
{
    struct value v = args->self, method = call_or(args->v[1], str_value(r, "common", true));
    int64_t precision = call_int(r, call_or(args->v[0], value_int(0)));
    struct str *name = call_text(r, method);
    if (v.kind == VALUE_UNDEFINED)
        ops_undefined(r, v);
    else if (!value_is_number(v))
        render_fail(r, "type %s doesn't define __round__ method", value_type(v));
    if (r->failed)
        return value_undefined();
    if (precision > 300 || precision < -300)
        precision = precision > 0 ? 300 : -300;
    if (str_is(name, "common")) {
        if (v.kind != VALUE_FLOAT && precision >= 0)
            return ops_binary(r, TOKEN_ADD, v, value_int(0));
        double f = round_to(value_double(v), precision);
        int64_t i;
        return v.kind != VALUE_FLOAT && float_to_int(f, &i) ? value_int(i) : value_float(f);
    }
    bool up = str_is(name, "ceil");
    if (!up && !str_is(name, "floor")) {
        render_fail(r, "method must be common, ceil or floor");
        return value_undefined();
    }
    double scale = pow(10, (double)precision), f = value_double(v) * scale;
    return value_float((up ? ceil(f) : floor(f)) / scale);
}

/* ---- mappings, attributes, JSON */

static struct value filter_items(struct render *r, const struct bound_args *args)
{
    struct value out = value_list(r, VALUE_ITERATOR, "generator");
    if (args->self.kind == VALUE_UNDEFINED)
        return out;
    if (args->self.kind != VALUE_DICT) {
        render_fail(r, "Can only get item pairs from a mapping.");
        return value_undefined();
    }
    const struct dict *d = args->self.u.dict;
    for (size_t i = 0; i < d->n && render_work(r, 1); i++)
        value_push(r, out, value_pair(r, d->pairs[i].key, d->pairs[i].value));
    return out;
}

static struct value filter_attr(struct render *r, const struct bound_args *args)
{
    struct str *name = call_text(r, args->v[0]);
    if (r->failed)
        return value_undefined();
    if (args->self.kind != VALUE_DICT)
        return ops_attribute(r, args->self, name);
    struct value empty = dict_new(r); /* a dict's attributes are its methods alone */
    return ops_attribute(r, empty, name);
}

static struct str *separator(struct render *r, struct value separators, size_t i,
                             const char *otherwise)
{
    bool given = separators.kind == VALUE_LIST || separators.kind == VALUE_TUPLE;
    if (given && separators.u.list->n == 2)
        return call_text(r, separators.u.list->items[i]);
    if (separators.kind != VALUE_NONE)
        render_fail(r, "tojson: separators must be a pair of strings");
    return str_new(r, otherwise, strlen(otherwise), true);
}

static struct value filter_tojson(struct render *r, const struct bound_args *args)
{
    static const char blanks[65] = {[0 ... 63] = ' '};
    struct value indent = call_or(args->v[1], value_none());
    struct value separators = call_or(args->v[2], value_none());
    struct tojson_options options = {.ascii = value_truth(args->v[0]),
                                     .sort_keys = value_truth(args->v[3])};
    if (indent.kind == VALUE_STRING) {
        options.indent = indent.u.s;
    } else if (indent.kind != VALUE_NONE) {
        int64_t n = call_int(r, indent);
        if (n > 64)
            render_fail(r, "tojson: an indent of %lld is too wide", (long long)n);
        options.indent = str_new(r, blanks, n > 0 && n <= 64 ? (size_t)n : 0, true);
    }
    options.item_separator = separator(r, separators, 0, options.indent ? "," : ", ");
    options.key_separator = separator(r, separators, 1, ": ");
    size_t mark = out_mark(r);
    if (!r->failed)
        tojson_write(r, args->self, &options);
    return value_string(out_cut(r, mark));
}

static const struct builtin table[] = {
    {"default", "default_value= boolean=", filter_default},
    {"d", "default_value= boolean=", filter_default},
    {"length", "", filter_length},
    {"count", "", filter_length},
    {"int", "default= base=", filter_int},
    {"float", "default=", filter_float},
    {"abs", "", filter_abs},
    {"round", "precision= method=", filter_round},
    {"items", "", filter_items},
    {"attr", "name", filter_attr},
    {"tojson", "ensure_ascii= indent= separators= sort_keys=", filter_tojson},
};

const struct builtin *filters_find(const struct str *name)
{
    const struct builtin *filter = call_find(table, sizeof table / sizeof *table, name);
    if (!filter)
        filter = filters_text_find(name);
    return filter ? filter : filters_list_find(name);
}

struct value filters_apply(struct render *r, const struct str *name, struct value v,
                           const struct call *call)
{
    const struct builtin *filter = filters_find(name);
    if (r->failed)
        return value_undefined();
    if (!filter) {
        render_fail(r, "No filter named '%.*s'.", (int)(name->n > 60 ? 60 : name->n), name->data);
        return value_undefined();
    }
    return call_builtin(r, filter, v, call);
}
