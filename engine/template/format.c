/* format: text % values, and str.format. Literal parts and inserted strings keep their provenance;
 * numbers are formatted by C's printf, whose rules for these conversions are Python's. Widths and
 * precisions are bounded. The render's thread. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/render_internal.h"

enum { WIDTH_MAX = 10000, PRECISION_MAX = 100 };

struct spec {
    struct str *fill; /* or NULL: a blank */
    char align;       /* '<' '>' '^' '=' or 0 */
    char sign;        /* '+' ' ' or 0 */
    bool alternate, zero, comma;
    int64_t width, precision; /* precision -1: none */
    char type;
};

static void fill(struct render *r, int64_t n, const struct str *with)
{
    for (int64_t i = 0; i < n && render_work(r, 1); i++) {
        if (with)
            out_str(r, with);
        else
            out_text(r, " ", true);
    }
}

/* text padded to the spec's width; align: where it goes when the spec does not say. */
static void pad(struct render *r, const struct spec *spec, struct str *text, char align)
{
    int64_t missing = spec->width - (int64_t)str_chars(text);
    if (spec->align)
        align = spec->align;
    int64_t left = missing <= 0 || align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    fill(r, left, spec->fill);
    out_str(r, text);
    fill(r, missing - left, spec->fill);
}

/* Digits with the sign before zeros or fill ("=" alignment), else like any text. */
static void pad_number(struct render *r, const struct spec *spec, const char *digits, bool trusted)
{
    size_t n = strlen(digits), sign = digits[0] == '-' || digits[0] == '+' || digits[0] == ' ';
    if (spec->zero || spec->align == '=') {
        out_bytes(r, digits, sign, trusted);
        fill(r, spec->width - (int64_t)n,
             spec->zero ? str_new(r, "0", 1, true) : spec->fill);
        out_bytes(r, digits + sign, n - sign, trusted);
        return;
    }
    pad(r, spec, str_copy(r, digits, n, trusted), '>');
}

static void group_thousands(char *text, size_t size)
{
    size_t start = text[0] == '-' || text[0] == '+' || text[0] == ' ', n = strlen(text);
    size_t end = start + strspn(text + start, "0123456789");
    for (size_t at = end; at > start + 3 && n + 1 < size; n++) {
        at -= 3;
        memmove(text + at + 1, text + at, n - at + 1);
        text[at] = ',';
    }
}

static void write_integer(struct render *r, const struct spec *spec, int64_t i, bool trusted)
{
    char text[160], digits[96];
    uint64_t magnitude = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *prefix = "";
    if (spec->type == 'b') {
        size_t n = 0;
        for (int bit = 63; bit >= 0; bit--)
            if (n || bit == 0 || magnitude >> bit & 1)
                digits[n++] = (char)('0' + (magnitude >> bit & 1));
        digits[n] = 0;
        prefix = "0b";
    } else if (spec->type == 'o') {
        snprintf(digits, sizeof digits, "%" PRIo64, magnitude);
        prefix = "0o";
    } else if (spec->type == 'x' || spec->type == 'X') {
        snprintf(digits, sizeof digits, spec->type == 'x' ? "%" PRIx64 : "%" PRIX64, magnitude);
        prefix = spec->type == 'x' ? "0x" : "0X";
    } else {
        int least = spec->precision > 64 ? 64 : spec->precision < 1 ? 1 : (int)spec->precision;
        snprintf(digits, sizeof digits, "%0*" PRIu64, least, magnitude);
    }
    char sign[2] = {i < 0 ? '-' : spec->sign, 0};
    snprintf(text, sizeof text, "%s%s%s", sign, spec->alternate ? prefix : "", digits);
    if (spec->comma)
        group_thousands(text, sizeof text);
    pad_number(r, spec, text, trusted);
}

static void write_float(struct render *r, const struct spec *spec, double f, bool trusted)
{
    char text[512], sign[2] = {f < 0 ? 0 : spec->sign, 0};
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    size_t n = (size_t)snprintf(text, sizeof text, "%s", sign);
    switch (spec->type) {
    case 'e':
        snprintf(text + n, sizeof text - n, "%.*e", precision, f);
        break;
    case 'E':
        snprintf(text + n, sizeof text - n, "%.*E", precision, f);
        break;
    case 'g':
        snprintf(text + n, sizeof text - n, "%.*g", precision, f);
        break;
    case 'G':
        snprintf(text + n, sizeof text - n, "%.*G", precision, f);
        break;
    case '%':
        snprintf(text + n, sizeof text - n, "%.*f%%", precision, f * 100);
        break;
    case 'F':
        snprintf(text + n, sizeof text - n, "%.*F", precision, f);
        break;
    default:
        snprintf(text + n, sizeof text - n, "%.*f", precision, f);
    }
    if (spec->comma)
        group_thousands(text, sizeof text);
    pad_number(r, spec, text, trusted);
}

static void write_text(struct render *r, const struct spec *spec, struct str *s, char align)
{
    if (spec->precision >= 0)
        s = str_slice(r, s, 0, str_byte_of(s, (size_t)spec->precision));
    pad(r, spec, s, align);
}

/* str(v), or repr(v), as text to put into a format. */
static struct str *text_of(struct render *r, struct value v, bool repr, bool markup)
{
    size_t mark = out_mark(r);
    if (repr)
        out_repr(r, v);
    struct str *made = out_cut(r, mark), *s = repr ? made : out_string(r, v);
    return markup ? chars_escape(r, s) : s;
}

/* The finished text, markup when the format was. */
static struct value finish(struct render *r, size_t mark, const struct str *format)
{
    struct str *out = out_cut(r, mark);
    if (format->markup && out->n)
        out->markup = true;
    return value_string(out);
}

/* A decimal number at s[*at]; -1: none. */
static int64_t number(const struct str *s, size_t *at)
{
    int64_t n = -1;
    while (*at < s->n && s->data[*at] >= '0' && s->data[*at] <= '9' && n < WIDTH_MAX * 10)
        n = (n < 0 ? 0 : n * 10) + (s->data[(*at)++] - '0');
    return n;
}

static bool check_spec(struct render *r, const struct spec *spec)
{
    if (spec->width > WIDTH_MAX || spec->precision > PRECISION_MAX)
        render_fail(r, "the width or precision of a format is too large");
    return !r->failed;
}

/* ---- % */

struct percent {
    struct render *r;
    struct value args;
    size_t used;
    bool markup;
};

static struct value next_argument(struct percent *p)
{
    struct value args = p->args;
    size_t i = p->used++;
    if (args.kind != VALUE_TUPLE && i == 0)
        return args;
    if (args.kind == VALUE_TUPLE && i < args.u.list->n)
        return args.u.list->items[i];
    render_fail(p->r, "not enough arguments for format string");
    return value_undefined();
}

static int64_t star_or_number(struct percent *p, const struct str *s, size_t *at)
{
    if (*at < s->n && s->data[*at] == '*') {
        ++*at;
        return call_int(p->r, next_argument(p));
    }
    return number(s, at);
}

/* %c: a character, or the number of one. */
static void write_character(struct render *r, const struct spec *spec, struct value v)
{
    char bytes[4];
    if (v.kind == VALUE_INT || v.kind == VALUE_BOOL) {
        int64_t code = v.kind == VALUE_INT ? v.u.i : v.u.b;
        bool is_surrogate = code >= 0xD800 && code < 0xE000; /* no text can hold one */
        if (code < 0 || code > 0x10FFFF || is_surrogate)
            render_fail(r, "%%c arg not in range(0x110000)");
        else
            write_text(r, spec,
                       str_copy(r, bytes, (size_t)utf8_encode((uint32_t)code, bytes), v.trusted),
                       '>');
    } else if (v.kind == VALUE_STRING && value_length(r, v) == 1) {
        write_text(r, spec, v.u.s, '>');
    } else {
        render_fail(r, "%%c requires int or char");
    }
}

static void write_percent(struct percent *p, const struct spec *spec, struct value v)
{
    struct render *r = p->r;
    switch (spec->type) {
    case 'c':
        write_character(r, spec, v);
        return;
    case 's':
        write_text(r, spec, text_of(r, v, false, p->markup), '>');
        return;
    case 'r':
    case 'a':
        write_text(r, spec, text_of(r, v, true, p->markup), '>');
        return;
    default:
        break;
    }
    if (v.kind == VALUE_UNDEFINED) {
        ops_undefined(r, v);
    } else if (!value_is_number(v)) {
        render_fail(r, strchr("eEfFgG", spec->type)
                           ? "must be real number, not %s"
                           : "%%d format: a real number is required, not %s",
                    value_type(v));
    } else if (strchr("eEfFgG", spec->type)) {
        write_float(r, spec, value_double(v), v.trusted);
    } else if (v.kind == VALUE_FLOAT && !(v.u.f > -9.2e18 && v.u.f < 9.2e18)) {
        render_fail(r, "an integer does not fit 64 bits");
    } else {
        int64_t i = v.kind == VALUE_FLOAT ? (int64_t)v.u.f : v.kind == VALUE_BOOL ? v.u.b : v.u.i;
        write_integer(r, spec, i, v.trusted);
    }
}

/* One conversion whose % is at s[at - 1]; returns the offset after it. */
static size_t percent_one(struct percent *p, const struct str *s, size_t at)
{
    struct render *r = p->r;
    struct spec spec = {.precision = -1};
    struct value *named = NULL;
    if (at < s->n && s->data[at] == '(') {
        const char *close = memchr(s->data + at, ')', s->n - at);
        if (!close || p->args.kind != VALUE_DICT) {
            render_fail(r, close ? "format requires a mapping" : "incomplete format key");
            return s->n;
        }
        struct str *key = str_slice(r, s, at + 1, (size_t)(close - s->data));
        named = dict_find(r, p->args.u.dict, value_string(key));
        if (!named)
            render_fail(r, "the format's key is missing");
        at = (size_t)(close - s->data) + 1;
    }
    for (; at < s->n && strchr("-+ #0", s->data[at]) && s->data[at]; at++) {
        char c = s->data[at];
        spec.align = c == '-' ? '<' : spec.align;
        spec.sign = c == '+' || (c == ' ' && !spec.sign) ? c : spec.sign;
        spec.alternate |= c == '#';
        spec.zero |= c == '0';
    }
    int64_t width = star_or_number(p, s, &at);
    if (width < -1 && width >= -WIDTH_MAX) {
        spec.align = '<';
        width = -width;
    }
    spec.width = width < 0 ? 0 : width;
    if (at < s->n && s->data[at] == '.') {
        at++;
        spec.precision = star_or_number(p, s, &at);
        spec.precision = spec.precision < 0 ? 0 : spec.precision;
    }
    while (at < s->n && strchr("hlL", s->data[at]) && s->data[at])
        at++;
    if (at >= s->n || !s->data[at] || !strchr("diuoxXeEfFgGcrsa%", s->data[at])) {
        render_fail(r, at >= s->n ? "incomplete format" : "unsupported format character");
        return s->n;
    }
    spec.type = s->data[at];
    spec.zero &= spec.align != '<';
    if (!check_spec(r, &spec))
        return s->n;
    if (spec.type == '%')
        out_str(r, str_slice(r, s, at, at + 1));
    else
        write_percent(p, &spec, named ? *named : next_argument(p));
    return at + 1;
}

struct value format_percent(struct render *r, struct str *format, struct value args)
{
    struct percent p = {.r = r, .args = args, .markup = format->markup};
    size_t mark = out_mark(r), at = 0;
    while (at < format->n && render_work(r, 1)) {
        const char *next = memchr(format->data + at, '%', format->n - at);
        size_t end = next ? (size_t)(next - format->data) : format->n;
        if (end > at)
            out_str(r, str_slice(r, format, at, end));
        at = next ? percent_one(&p, format, end + 1) : end;
    }
    bool mapping = args.kind == VALUE_DICT || args.kind == VALUE_LIST || args.kind == VALUE_RANGE;
    bool all = mapping || p.used == (args.kind == VALUE_TUPLE ? args.u.list->n : 1);
    if (!all)
        render_fail(r, "not all arguments converted during string formatting");
    return finish(r, mark, format);
}

/* ---- str.format */

struct braces {
    struct render *r;
    const struct call *call;
    size_t next; /* automatic numbering */
    bool markup;
};

/* The value that "0.name[key]" or "" names. */
static struct value field_value(struct braces *b, const struct str *s, size_t from, size_t to)
{
    struct render *r = b->r;
    size_t at = from;
    int64_t index = number(s, &at);
    struct value v = value_undefined();
    size_t end = from;
    while (end < to && s->data[end] != '.' && s->data[end] != '[')
        end++;
    if (at != end || end == from)
        index = end == from ? (int64_t)b->next++ : -1;
    if (index >= 0) {
        if ((size_t)index >= b->call->n)
            render_fail(r, "Replacement index %" PRId64 " out of range for positional args tuple",
                        index);
        else
            v = b->call->values[index];
    } else {
        struct str *name = str_slice(r, s, from, end);
        bool found = false;
        for (size_t i = 0; i < b->call->n_names; i++)
            if (str_equal(b->call->names[i], name)) {
                v = b->call->values[b->call->n + i];
                found = true;
            }
        if (!found)
            render_fail(r, "format: no argument is named '%.*s'",
                        (int)(name->n > 60 ? 60 : name->n), name->data);
    }
    while (end < to && !r->failed) {
        bool item = s->data[end] == '[';
        size_t start = ++end;
        while (end < to && (item ? s->data[end] != ']'
                                 : s->data[end] != '.' && s->data[end] != '['))
            end++;
        struct str *name = str_slice(r, s, start, end);
        size_t digits = 0;
        int64_t place = number(name, &digits);
        end += item && end < to;
        v = !item ? ops_attribute(r, v, name)
                  : ops_item(r, v, digits == name->n && place >= 0 ? value_int(place)
                                                                    : value_string(name));
    }
    return v;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static void parse_spec(struct render *r, struct str *s, struct spec *spec)
{
    size_t at = 0, first = s->n ? str_byte_of(s, 1) : 0;
    if (first < s->n && strchr("<>^=", s->data[first]) && s->data[first]) {
        spec->fill = str_slice(r, s, 0, first);
        spec->align = s->data[first];
        at = first + 1;
    } else if (s->n && strchr("<>^=", s->data[0]) && s->data[0]) {
        spec->align = s->data[at++];
    }
    if (at < s->n && strchr("+- ", s->data[at]) && s->data[at])
        spec->sign = s->data[at++] == '-' ? 0 : s->data[at - 1];
    if (at < s->n && s->data[at] == '#')
        spec->alternate = at++ < s->n;
    if (at < s->n && s->data[at] == '0') {
        spec->zero = !spec->align;
        at++;
    }
    int64_t width = number(s, &at);
    spec->width = width < 0 ? 0 : width;
    if (at < s->n && s->data[at] == ',')
        spec->comma = at++ < s->n;
    if (at < s->n && s->data[at] == '.') {
        at++;
        spec->precision = number(s, &at);
    }
    if (at < s->n)
        spec->type = s->data[at++];
    if (at != s->n || (spec->type && !strchr("bcdeEfFgGnosxX%", spec->type)))
        render_fail(r, "Invalid format specifier");
    check_spec(r, spec);
}

static void write_field(struct braces *b, struct value v, const struct spec *spec)
{
    struct render *r = b->r;
    if (value_is_number(v) && spec->type != 's' && (v.kind != VALUE_BOOL || spec->type)) {
        if (v.kind == VALUE_FLOAT && !spec->type && spec->precision < 0) {
            char text[OUT_FLOAT_MAX];
            out_float(text, v.u.f);
            pad_number(r, spec, text, v.trusted);
        } else if (v.kind == VALUE_FLOAT || (spec->type && strchr("eEfFgG%", spec->type))) {
            struct spec real = *spec;
            real.type = spec->type ? spec->type : 'g';
            write_float(r, &real, value_double(v), v.trusted);
        } else {
            write_integer(r, spec, v.kind == VALUE_BOOL ? v.u.b : v.u.i, v.trusted);
        }
        return;
    }
    write_text(r, spec, text_of(r, v, false, b->markup), '<');
}

/* {field!r:spec} at s[from, to), braces excluded */
static void braces_one(struct braces *b, const struct str *s, size_t from, size_t to)
{
    struct render *r = b->r;
    struct spec spec = {.precision = -1};
    const char *colon = memchr(s->data + from, ':', to - from);
    size_t end = colon ? (size_t)(colon - s->data) : to, name_end = end;
    char conversion = 0;
    if (name_end - from >= 2 && s->data[name_end - 2] == '!') {
        conversion = s->data[name_end - 1];
        name_end -= 2;
    }
    struct value v = field_value(b, s, from, name_end);
    if (colon && !r->failed)
        parse_spec(r, str_slice(r, s, end + 1, to), &spec);
    if (r->failed)
        return;
    if (conversion == 'r' || conversion == 'a')
        v = value_string(text_of(r, v, true, false));
    else if (conversion == 's')
        v = value_string(text_of(r, v, false, false));
    else if (conversion)
        render_fail(r, "unknown conversion in a format");
    write_field(b, v, &spec);
}

struct value format_braces(struct render *r, struct str *format, const struct call *call)
{
    struct braces b = {.r = r, .call = call, .markup = format->markup};
    const char *s = format->data;
    size_t mark = out_mark(r), at = 0;
    while (at < format->n && render_work(r, 1)) {
        size_t end = at;
        while (end < format->n && s[end] != '{' && s[end] != '}')
            end++;
        if (end > at)
            out_str(r, str_slice(r, format, at, end));
        if (end == format->n)
            break;
        if (end + 1 < format->n && s[end + 1] == s[end]) {
            out_str(r, str_slice(r, format, end, end + 1));
            at = end + 2;
            continue;
        }
        const char *close = s[end] == '{' ? memchr(s + end, '}', format->n - end) : NULL;
        if (!close) {
            render_fail(r, "Single '%c' encountered in format string", s[end]);
            break;
        }
        braces_one(&b, format, end + 1, (size_t)(close - s));
        at = (size_t)(close - s) + 1;
    }
    return finish(r, mark, format);
}
