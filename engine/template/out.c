/* out: the render's output, which is also the stack strings are built on, and the text of values
 * as Python's str() and repr() make it. Everything written says whether it is trusted; spans are
 * merged as they come. Bounded by the buffer's maximum. The render's thread. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/render_internal.h"

static struct text_span *spans_of(const struct render *r)
{
    return (struct text_span *)(void *)r->trusted.data;
}

static size_t n_spans(const struct render *r)
{
    return r->trusted.size / sizeof(struct text_span);
}

static void overflow(struct render *r, int rc)
{
    if (rc == ERR_NOMEM)
        render_no_memory(r);
    else
        render_fail(r, "the rendered text is too large");
}

static void add_span(struct render *r, size_t start, size_t end)
{
    size_t n = n_spans(r);
    if (start == end)
        return;
    if (n && spans_of(r)[n - 1].end == start) {
        spans_of(r)[n - 1].end = end;
        return;
    }
    struct text_span span = {start, end};
    int rc = buf_add(&r->trusted, &span, sizeof span);
    if (rc)
        overflow(r, rc);
}

size_t out_mark(const struct render *r)
{
    return r->text.size;
}

struct str *out_cut(struct render *r, size_t mark)
{
    size_t n = r->text.size - mark, first = n_spans(r);
    struct str *s = str_copy(r, n ? r->text.data + mark : "", r->failed ? 0 : n, false);
    while (first > 0 && spans_of(r)[first - 1].end > mark)
        first--;
    size_t count = n_spans(r) - first;
    struct text_span *spans = count && !r->failed ? render_alloc(r, count, sizeof *spans) : NULL;
    for (size_t i = 0; spans && i < count; i++) {
        struct text_span span = spans_of(r)[first + i];
        spans[i].start = span.start > mark ? span.start - mark : 0;
        spans[i].end = span.end - mark;
    }
    if (spans) {
        s->trusted = spans;
        s->n_trusted = count;
    }
    /* A span that began before the mark and was continued after it ends at the mark again. */
    if (count && spans_of(r)[first].start < mark)
        spans_of(r)[first++].end = mark;
    r->trusted.size = first * sizeof(struct text_span);
    r->text.size = mark;
    return s;
}

void out_bytes(struct render *r, const char *data, size_t n, bool trusted)
{
    size_t start = r->text.size;
    if (r->failed || n == 0 || !render_bytes(r, n))
        return;
    int rc = buf_add(&r->text, data, n);
    if (rc)
        overflow(r, rc);
    else if (trusted)
        add_span(r, start, start + n);
}

void out_text(struct render *r, const char *text, bool trusted)
{
    out_bytes(r, text, strlen(text), trusted);
}

void out_str(struct render *r, const struct str *s)
{
    size_t start = r->text.size;
    out_bytes(r, s->data, s->n, false);
    for (size_t i = 0; i < s->n_trusted && !r->failed; i++)
        add_span(r, start + s->trusted[i].start, start + s->trusted[i].end);
}

/* The shortest digits that read back as the same double, laid out as Python lays them out. */
size_t out_float(char text[OUT_FLOAT_MAX], double f)
{
    if (!isfinite(f))
        return (size_t)snprintf(text, OUT_FLOAT_MAX, "%s",
                                isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
    char digits[OUT_FLOAT_MAX];
    for (int precision = 0; precision <= 16; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, f);
        if (strtod(digits, NULL) == f)
            break;
    }
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        size_t n = (size_t)(strchr(digits, 'e') - digits);
        return (size_t)snprintf(text, OUT_FLOAT_MAX, "%.*se%c%02d", (int)n, digits,
                                exponent < 0 ? '-' : '+', abs(exponent));
    }
    int decimals = (int)(strchr(digits, 'e') - digits) - (digits[0] == '-') - 2;
    decimals = (decimals > 0 ? decimals : 0) - exponent;
    return (size_t)snprintf(text, OUT_FLOAT_MAX, "%.*f", decimals > 1 ? decimals : 1, f);
}

static void out_number(struct render *r, struct value v)
{
    char text[OUT_FLOAT_MAX];
    size_t n = v.kind == VALUE_FLOAT ? out_float(text, v.u.f)
                                     : (size_t)snprintf(text, sizeof text, "%" PRId64, v.u.i);
    out_bytes(r, text, n, v.trusted);
}

static void slice_out(struct render *r, const struct str *s, size_t from, size_t to)
{
    if (from < to)
        out_str(r, str_slice(r, s, from, to));
}

/* repr of a string: Python's choice of quotes, escapes for what does not print. */
static void repr_string(struct render *r, const struct str *s)
{
    bool single = memchr(s->data, '\'', s->n) != NULL, dbl = memchr(s->data, '"', s->n) != NULL;
    char quote = single && !dbl ? '"' : '\'', text[16];
    size_t clean = 0, i = 0;
    out_bytes(r, &quote, 1, true);
    while (i < s->n && !r->failed) {
        uint32_t c;
        int length = utf8_decode(s->data + i, s->n - i, &c);
        size_t step = length > 0 ? (size_t)length : 1;
        text[0] = 0;
        if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c == '\\' || c == (unsigned char)quote)
            snprintf(text, sizeof text, "\\%c", (char)c);
        else if (!chars_is_printable(c))
            snprintf(text, sizeof text, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x",
                     c);
        if (text[0]) {
            slice_out(r, s, clean, i);
            out_text(r, text, false);
            clean = i + step;
        }
        i += step;
    }
    slice_out(r, s, clean, s->n);
    out_bytes(r, &quote, 1, true);
}

static void repr_items(struct render *r, const struct list *list, size_t from)
{
    for (size_t i = from; i < list->n && render_work(r, 1); i++) {
        if (i > from)
            out_text(r, ", ", true);
        out_repr(r, list->items[i]);
    }
}

static void repr_dict(struct render *r, const struct dict *d)
{
    out_text(r, "{", true);
    for (size_t i = 0; i < d->n && render_work(r, 1); i++) {
        if (i)
            out_text(r, ", ", true);
        out_repr(r, d->pairs[i].key);
        out_text(r, ": ", true);
        out_repr(r, d->pairs[i].value);
    }
    out_text(r, "}", true);
}

static void repr_range(struct render *r, const struct range *range)
{
    char text[96];
    int n = snprintf(text, sizeof text, range->step == 1 ? "range(%" PRId64 ", %" PRId64 ")"
                     : "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start, range->stop,
                     range->step);
    out_bytes(r, text, (size_t)n, false);
}

static void repr_container(struct render *r, struct value v)
{
    switch ((enum value_kind)v.kind) {
    case VALUE_LIST:
        out_text(r, "[", true);
        repr_items(r, v.u.list, 0);
        out_text(r, "]", true);
        break;
    case VALUE_TUPLE:
        out_text(r, "(", true);
        repr_items(r, v.u.list, 0);
        out_text(r, v.u.list->n == 1 ? ",)" : ")", true);
        break;
    case VALUE_VIEW:
        out_text(r, value_type(v), true);
        out_text(r, "([", true);
        repr_items(r, v.u.list, 0);
        out_text(r, "])", true);
        break;
    case VALUE_NAMESPACE:
        out_text(r, "<Namespace ", true);
        repr_dict(r, v.u.dict);
        out_text(r, ">", true);
        break;
    default:
        repr_dict(r, v.u.dict);
    }
}

void out_repr(struct render *r, struct value v)
{
    if (r->failed)
        return;
    switch ((enum value_kind)v.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
        out_text(r, "Undefined", true);
        break;
    case VALUE_NONE:
        out_text(r, "None", v.trusted);
        break;
    case VALUE_BOOL:
        out_text(r, v.u.b ? "True" : "False", v.trusted);
        break;
    case VALUE_INT:
    case VALUE_FLOAT:
        out_number(r, v);
        break;
    case VALUE_STRING:
        out_text(r, v.u.s->markup ? "Markup(" : "", true);
        repr_string(r, v.u.s);
        out_text(r, v.u.s->markup ? ")" : "", true);
        break;
    case VALUE_RANGE:
        repr_range(r, v.u.range);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_VIEW:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
        if (!render_enter(r))
            break;
        repr_container(r, v);
        r->depth--;
        break;
    default:
        out_text(r, "<", true);
        out_text(r, value_type(v), true);
        out_text(r, " object>", true);
    }
}

void out_value(struct render *r, struct value v)
{
    if (v.kind == VALUE_STRING)
        out_str(r, v.u.s);
    else if (v.kind != VALUE_UNDEFINED)
        out_repr(r, v);
}

struct str *out_string(struct render *r, struct value v)
{
    if (v.kind == VALUE_STRING)
        return v.u.s;
    size_t mark = out_mark(r);
    out_value(r, v);
    return out_cut(r, mark);
}
