/* tojson: values as JSON, in the layout of Python's json.dumps (with ensure_ascii, indent,
 * separators and sort_keys). Text keeps its provenance; escapes count as untrusted. The render's
 * thread. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/render_internal.h"

/* The escape of a character, or none when it stands for itself. */
static size_t escape(char text[16], uint32_t c, bool ascii)
{
    static const char letters[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    const char *letter = c && c < 0x80 ? strchr(letters, (int)c) : NULL;
    if (letter)
        return (size_t)snprintf(text, 16, "\\%c", names[letter - letters]);
    if (c >= 0x20 && (c < 0x7F || !ascii))
        return 0;
    if (c < 0x10000)
        return (size_t)snprintf(text, 16, "\\u%04x", c);
    c -= 0x10000;
    return (size_t)snprintf(text, 16, "\\u%04x\\u%04x", 0xD800 + (c >> 10), 0xDC00 + (c & 0x3FF));
}

static void write_string(struct render *r, const struct str *s, bool ascii)
{
    char text[16];
    size_t clean = 0, i = 0;
    out_text(r, "\"", true);
    while (i < s->n && !r->failed) {
        uint32_t c = (unsigned char)s->data[i];
        int length = c < 0x80 ? 1 : utf8_decode(s->data + i, s->n - i, &c);
        size_t step = length > 0 ? (size_t)length : 1, n = escape(text, c, ascii);
        if (n) {
            if (clean < i)
                out_str(r, str_slice(r, s, clean, i));
            out_bytes(r, text, n, false);
            clean = i + step;
        }
        i += step;
    }
    if (clean < s->n)
        out_str(r, clean ? str_slice(r, s, clean, s->n) : s);
    out_text(r, "\"", true);
}

static void newline(struct render *r, const struct tojson_options *o, int level)
{
    if (!o->indent)
        return;
    out_text(r, "\n", true);
    for (int i = 0; i < level && !r->failed; i++)
        out_str(r, o->indent);
}

static void write_value(struct render *r, struct value v, const struct tojson_options *o,
                        int level);

static void write_list(struct render *r, const struct list *list, const struct tojson_options *o,
                       int level)
{
    out_text(r, "[", true);
    for (size_t i = 0; i < list->n && render_work(r, 1); i++) {
        if (i)
            out_str(r, o->item_separator);
        newline(r, o, level + 1);
        write_value(r, list->items[i], o, level + 1);
    }
    if (list->n)
        newline(r, o, level);
    out_text(r, "]", true);
}

static void write_number(struct render *r, struct value v)
{
    char text[OUT_FLOAT_MAX];
    size_t n;
    if (v.kind == VALUE_INT)
        n = (size_t)snprintf(text, sizeof text, "%" PRId64, v.u.i);
    else if (!isfinite(v.u.f))
        n = (size_t)snprintf(text, sizeof text, "%s",
                             isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity" : "-Infinity");
    else
        n = out_float(text, v.u.f);
    out_bytes(r, text, n, v.trusted);
}

static void write_key(struct render *r, struct value key, const struct tojson_options *o)
{
    if (key.kind == VALUE_STRING) {
        write_string(r, key.u.s, o->ascii);
        return;
    }
    if (!value_is_number(key) && key.kind != VALUE_NONE) {
        render_fail(r, "keys must be str, int, float, bool or None, not %s", value_type(key));
        return;
    }
    out_text(r, "\"", true);
    write_value(r, key, o, 0);
    out_text(r, "\"", true);
}

/* For qsort: keys of one kind, so that comparing can not fail. */
static int by_key(const void *a, const void *b)
{
    struct value x = ((const struct pair *)a)->key;
    struct value y = ((const struct pair *)b)->key;
    if (x.kind == VALUE_STRING)
        return str_compare(x.u.s, y.u.s);
    double p = value_double(x), q = value_double(y);
    return (p > q) - (p < q);
}

static struct pair *sorted_pairs(struct render *r, const struct dict *d)
{
    struct pair *items = render_alloc(r, d->n + 1, sizeof *items);
    for (size_t i = 0; items && i < d->n; i++) {
        struct value key = d->pairs[i].key, first = d->pairs[0].key;
        bool alike = key.kind == VALUE_STRING ? first.kind == VALUE_STRING
                                              : value_is_number(key) && value_is_number(first);
        if (!alike) {
            render_fail(r, "'<' not supported between instances of '%s' and '%s'",
                        value_type(key), value_type(first));
            return NULL;
        }
        items[i] = d->pairs[i];
    }
    if (!items || !render_work(r, 16 * d->n))
        return NULL;
    qsort(items, d->n, sizeof *items, by_key);
    return items;
}

static void write_dict(struct render *r, const struct dict *d, const struct tojson_options *o,
                       int level)
{
    const struct pair *pairs = o->sort_keys ? sorted_pairs(r, d) : d->pairs;
    out_text(r, "{", true);
    for (size_t i = 0; i < d->n && render_work(r, 1); i++) {
        if (i)
            out_str(r, o->item_separator);
        newline(r, o, level + 1);
        write_key(r, pairs[i].key, o);
        out_str(r, o->key_separator);
        write_value(r, pairs[i].value, o, level + 1);
    }
    if (d->n)
        newline(r, o, level);
    out_text(r, "}", true);
}

static void write_value(struct render *r, struct value v, const struct tojson_options *o,
                        int level)
{
    if (!render_enter(r))
        return;
    switch ((enum value_kind)v.kind) {
    case VALUE_NONE:
        out_text(r, "null", v.trusted);
        break;
    case VALUE_BOOL:
        out_text(r, v.u.b ? "true" : "false", v.trusted);
        break;
    case VALUE_INT:
    case VALUE_FLOAT:
        write_number(r, v);
        break;
    case VALUE_STRING:
        write_string(r, v.u.s, o->ascii);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        write_list(r, v.u.list, o, level);
        break;
    case VALUE_DICT:
        write_dict(r, v.u.dict, o, level);
        break;
    default:
        render_fail(r, "Object of type %s is not JSON serializable", value_type(v));
    }
    r->depth--;
}

void tojson_write(struct render *r, struct value v, const struct tojson_options *options)
{
    write_value(r, v, options, 0);
}
