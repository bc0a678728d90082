/* filters_text: the filters that make text of text, as one table. As in Jinja they take any value
 * and work on its str(). Results keep provenance byte by byte. The render's thread. */
#include <stdio.h>
#include <string.h>

#include "engine/template/render_internal.h"

static struct value filter_trim(struct render *r, const struct bound_args *args)
{
    struct value chars = call_or(args->v[0], value_none());
    struct str *set = chars.kind == VALUE_NONE ? NULL : call_text(r, chars);
    return value_string(str_strip(r, out_string(r, args->self), set, STR_LEFT | STR_RIGHT));
}

static struct value filter_upper(struct render *r, const struct bound_args *args)
{
    return value_string(chars_upper(r, out_string(r, args->self)));
}

static struct value filter_lower(struct render *r, const struct bound_args *args)
{
    return value_string(chars_lower(r, out_string(r, args->self)));
}

static struct value filter_title(struct render *r, const struct bound_args *args)
{
    return value_string(chars_title(r, out_string(r, args->self), true));
}

static struct value filter_capitalize(struct render *r, const struct bound_args *args)
{
    return value_string(chars_capitalize(r, out_string(r, args->self)));
}

static struct value filter_string(struct render *r, const struct bound_args *args)
{
    return value_string(out_string(r, args->self));
}

/* Between every two characters, as Python replaces "". */
static void replace_empty(struct render *r, struct str *s, const struct str *with, int64_t count)
{
    struct iter it;
    struct value c;
    if (!iter_open(r, value_string(s), &it))
        return;
    while (!r->failed) {
        if (count != 0)
            out_str(r, with);
        count -= count > 0;
        if (!iter_next(r, &it, &c))
            break;
        out_str(r, c.u.s);
    }
}

static struct value filter_replace(struct render *r, const struct bound_args *args)
{
    struct str *s = str_plain(r, out_string(r, args->self)), *old = out_string(r, args->v[0]);
    struct str *with = out_string(r, args->v[1]);
    struct value limit = call_or(args->v[2], value_none());
    int64_t count = limit.kind == VALUE_NONE ? -1 : call_int(r, limit);
    if (r->failed || !render_bytes(r, s->n) || count == 0)
        return value_string(s);
    size_t mark = out_mark(r), from = 0, at;
    if (old->n == 0) {
        replace_empty(r, s, with, count);
        return value_string(out_cut(r, mark));
    }
    if (str_find(s, old, 0) == SIZE_MAX)
        return value_string(s);
    while (count != 0 && (at = str_find(s, old, from)) != SIZE_MAX && render_work(r, 1)) {
        if (at > from)
            out_str(r, str_slice(r, s, from, at));
        out_str(r, with);
        from = at + old->n;
        count -= count > 0;
    }
    if (from < s->n)
        out_str(r, str_slice(r, s, from, s->n));
    return value_string(out_cut(r, mark));
}

static struct value lines_of(struct render *r, struct str *s)
{
    static const struct str name = {.data = "splitlines", .n = 10};
    struct call none = {0};
    return call_builtin(r, methods_text_find(&name), value_string(s), &none);
}

static struct value filter_indent(struct render *r, const struct bound_args *args)
{
    struct str *s = call_text(r, args->self), *indent = NULL;
    struct value width = call_or(args->v[0], value_int(4));
    bool first = value_truth(args->v[1]), blank = value_truth(args->v[2]);
    if (width.kind == VALUE_STRING) {
        indent = width.u.s;
    } else {
        static const char blanks[257] = {[0 ... 255] = ' '};
        int64_t n = call_int(r, width);
        if (n > 256)
            render_fail(r, "an indentation of %lld is too wide", (long long)n);
        indent = str_new(r, blanks, n > 0 && n <= 256 ? (size_t)n : 0, true);
    }
    /* Jinja adds a newline first, so that a last line that is blank counts */
    struct value lines = lines_of(r, str_concat(r, s, str_new(r, "\n", 1, true)));
    size_t mark = out_mark(r);
    for (size_t i = 0; !r->failed && i < lines.u.list->n; i++) {
        const struct str *line = lines.u.list->items[i].u.s;
        if (i > 0)
            out_text(r, "\n", true);
        if (i == 0 ? first : blank || line->n > 0)
            out_str(r, indent);
        out_str(r, line);
    }
    struct str *out = out_cut(r, mark);
    if (s->markup && out->n)
        out->markup = true;
    return value_string(out);
}

static struct value filter_truncate(struct render *r, const struct bound_args *args)
{
    struct str *s = out_string(r, args->self);
    int64_t length = call_int(r, call_or(args->v[0], value_int(255)));
    struct str *end = call_text(r, call_or(args->v[2], str_value(r, "...", true)));
    struct value given = call_or(args->v[3], value_none());
    int64_t leeway = given.kind == VALUE_NONE ? 5 : call_int(r, given);
    if (r->failed || !render_bytes(r, s->n))
        return value_undefined();
    if (length < (int64_t)str_chars(end) || leeway < 0) {
        render_fail(r, "truncate: the length is shorter than the ending, or the leeway negative");
        return value_undefined();
    }
    if (args->self.kind != VALUE_STRING) { /* whatever has a length may be short enough */
        if (value_length(r, args->self) - length > leeway)
            render_fail(r, "truncate: a long value of type '%s'", value_type(args->self));
        return args->self;
    }
    if ((int64_t)str_chars(s) <= length || (int64_t)str_chars(s) - length <= leeway)
        return value_string(s);
    size_t cut = str_byte_of(s, (size_t)length - str_chars(end));
    if (!value_truth(args->v[1])) {
        const char *blank = memrchr(s->data, ' ', cut);
        cut = blank ? (size_t)(blank - s->data) : cut;
    }
    return value_string(str_concat(r, str_slice(r, s, 0, cut), end));
}

static struct value filter_center(struct render *r, const struct bound_args *args)
{
    static const struct str name = {.data = "center", .n = 6};
    struct value width = call_or(args->v[0], value_int(80));
    struct call call = {.values = &width, .n = 1};
    return call_builtin(r, methods_text_find(&name),
                        value_string(out_string(r, args->self)), &call);
}

/* Runs of word characters: letters, digits, underscore, and all beyond ASCII but white space. */
static struct value filter_wordcount(struct render *r, const struct bound_args *args)
{
    struct str *s = out_string(r, args->self);
    int64_t words = 0;
    bool inside = false;
    render_bytes(r, 4 * s->n);
    for (size_t i = 0; i < s->n && !r->failed; i++) {
        unsigned char c = (unsigned char)s->data[i];
        bool word = c >= 0x80 ? str_skip_space(s->data + i, s->n - i) == 0
                              : c == '_' || (c >= '0' && c <= '9') ||
                                    ((c | 32) >= 'a' && (c | 32) <= 'z');
        words += word && !inside;
        inside = word;
    }
    return value_int(words);
}

static struct value filter_escape(struct render *r, const struct bound_args *args)
{
    return value_string(chars_escape(r, out_string(r, args->self)));
}

static struct value filter_force_escape(struct render *r, const struct bound_args *args)
{
    return value_string(chars_escape(r, str_plain(r, out_string(r, args->self))));
}

static struct value filter_safe(struct render *r, const struct bound_args *args)
{
    struct str *s = out_string(r, args->self), *out = render_alloc(r, 1, sizeof *out);
    if (!out)
        return value_undefined();
    *out = *s;
    out->markup = true;
    return value_string(out);
}

/* Tags and comments go, runs of white space become one blank. */
static struct value filter_striptags(struct render *r, const struct bound_args *args)
{
    struct str *s = out_string(r, args->self);
    size_t mark = out_mark(r);
    for (size_t i = 0; i < s->n && !r->failed;) {
        const char *open = memchr(s->data + i, '<', s->n - i);
        size_t start = open ? (size_t)(open - s->data) : s->n;
        bool comment = s->n - start >= 4 && memcmp(s->data + start, "<!--", 4) == 0;
        const char *close = !open     ? NULL
                            : comment ? memmem(open, s->n - start, "-->", 3)
                                      : memchr(open, '>', s->n - start);
        if (!close)
            start = s->n;
        if (start > i)
            out_str(r, str_slice(r, s, i, start));
        i = close ? (size_t)(close - s->data) + (comment ? 3 : 1) : s->n;
    }
    s = out_cut(r, mark);
    static const struct str split = {.data = "split", .n = 5};
    struct call none = {0};
    struct value words = call_builtin(r, methods_text_find(&split), value_string(s), &none);
    for (size_t i = 0; !r->failed && i < words.u.list->n; i++) {
        if (i)
            out_text(r, " ", true);
        out_str(r, words.u.list->items[i].u.s);
    }
    return value_string(out_cut(r, mark));
}

static void url_quote(struct render *r, struct str *s, bool query)
{
    char text[8];
    for (size_t i = 0; i < s->n && render_work(r, i % 16 == 0); i++) {
        unsigned char c = (unsigned char)s->data[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 0x80) ||
                     (c && strchr("_.-~", c)) || (c == '/' && !query);
        snprintf(text, sizeof text, plain ? "%c" : query && c == ' ' ? "+" : "%%%02X", c);
        out_text(r, text, false);
    }
}

static struct value filter_urlencode(struct render *r, const struct bound_args *args)
{
    struct value v = args->self, item;
    struct iter it;
    size_t mark = out_mark(r);
    if (v.kind == VALUE_STRING || !iter_can(v)) {
        url_quote(r, out_string(r, v), false);
        return value_string(out_cut(r, mark));
    }
    if (v.kind == VALUE_DICT) {
        static const struct str items = {.data = "items", .n = 5};
        struct call none = {0};
        v = call_builtin(r, methods_find(VALUE_DICT, &items), v, &none);
    }
    if (r->failed || !iter_open(r, v, &it))
        return value_undefined();
    while (iter_next(r, &it, &item)) {
        if (item.kind != VALUE_TUPLE || item.u.list->n != 2) {
            render_fail(r, "urlencode needs pairs");
            break;
        }
        out_text(r, it.i > 1 ? "&" : "", true);
        url_quote(r, out_string(r, item.u.list->items[0]), true);
        out_text(r, "=", true);
        url_quote(r, out_string(r, item.u.list->items[1]), true);
    }
    return value_string(out_cut(r, mark));
}

static struct value filter_format(struct render *r, const struct bound_args *args)
{
    const struct call *call = args->call;
    struct value values = call->n_names ? dict_new(r) : value_list(r, VALUE_TUPLE, NULL);
    if (call->n && call->n_names)
        render_fail(r, "can't handle positional and keyword arguments at the same time");
    for (size_t i = 0; i < call->n && !r->failed; i++)
        value_push(r, values, call->values[i]);
    for (size_t i = 0; i < call->n_names && !r->failed; i++)
        dict_set(r, values.u.dict, value_string(call->names[i]), call->values[i]);
    return r->failed ? value_undefined()
                     : format_percent(r, out_string(r, args->self), values);
}

static const struct builtin table[] = {
    {"trim", "chars=", filter_trim},
    {"upper", "", filter_upper},
    {"lower", "", filter_lower},
    {"title", "", filter_title},
    {"capitalize", "", filter_capitalize},
    {"string", "", filter_string},
    {"safe", "", filter_safe},
    {"replace", "old new count=", filter_replace},
    {"indent", "width= first= blank=", filter_indent},
    {"truncate", "length= killwords= end= leeway=", filter_truncate},
    {"center", "width=", filter_center},
    {"wordcount", "", filter_wordcount},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"forceescape", "", filter_force_escape},
    {"striptags", "", filter_striptags},
    {"urlencode", "", filter_urlencode},
    {"format", "*", filter_format},
};

const struct builtin *filters_text_find(const struct str *name)
{
    return call_find(table, sizeof table / sizeof *table, name);
}
