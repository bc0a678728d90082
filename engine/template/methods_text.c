/* methods_text: the methods of Python's str as one table. Positions are characters; results keep
 * provenance. The render's thread. */
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/render_internal.h"

static struct str *self(const struct bound_args *args)
{
    return args->self.u.s;
}

static bool given(struct value v)
{
    return v.kind != VALUE_MISSING && v.kind != VALUE_NONE;
}

static struct value strip(struct render *r, const struct bound_args *args, int sides)
{
    const struct str *chars = given(args->v[0]) ? call_text(r, args->v[0]) : NULL;
    return value_string(str_strip(r, self(args), chars, sides));
}

static struct value text_strip(struct render *r, const struct bound_args *args)
{
    return strip(r, args, STR_LEFT | STR_RIGHT);
}

static struct value text_lstrip(struct render *r, const struct bound_args *args)
{
    return strip(r, args, STR_LEFT);
}

static struct value text_rstrip(struct render *r, const struct bound_args *args)
{
    return strip(r, args, STR_RIGHT);
}

static struct value text_upper(struct render *r, const struct bound_args *args)
{
    return value_string(chars_upper(r, self(args)));
}

static struct value text_lower(struct render *r, const struct bound_args *args)
{
    return value_string(chars_lower(r, self(args)));
}

static struct value text_capitalize(struct render *r, const struct bound_args *args)
{
    return value_string(chars_capitalize(r, self(args)));
}

static struct value text_title(struct render *r, const struct bound_args *args)
{
    return value_string(chars_title(r, self(args), false));
}

static struct value text_swapcase(struct render *r, const struct bound_args *args)
{
    return value_string(chars_swapcase(r, self(args)));
}

/* ---- splitting */

/* At most `max` splits (negative: all) at white space, from the left or the right. */
static struct value split_space(struct render *r, struct str *s, int64_t max, bool right)
{
    struct value list = value_list(r, VALUE_LIST, NULL);
    size_t from = str_skip_space(s->data, s->n), to = from + str_trim_space(s->data + from,
                                                                            s->n - from);
    if (right)
        from = 0;
    else
        to = s->n;
    while (!r->failed && render_work(r, 1)) {
        if (right) {
            to = str_trim_space(s->data, to);
            size_t start = to;
            while (start > 0 && max != 0 && str_trim_space(s->data, start) == start)
                do
                    start--;
                while (start > 0 && ((unsigned char)s->data[start] & 0xC0) == 0x80);
            start = max == 0 ? str_skip_space(s->data, to) : start;
            if (to == 0 || start >= to)
                break;
            value_push(r, list, value_string(str_slice(r, s, start, to)));
            to = max == 0 ? 0 : start;
        } else {
            from += str_skip_space(s->data + from, to - from);
            size_t end = from;
            while (end < to && max != 0 && str_skip_space(s->data + end, to - end) == 0)
                end += (size_t)abs(utf8_decode(s->data + end, to - end, &(uint32_t){0}));
            end = max == 0 ? to : end;
            if (from >= to)
                break;
            value_push(r, list, value_string(str_slice(r, s, from, end)));
            from = end;
        }
        max -= max > 0;
    }
    return list;
}

static void reverse(struct list *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        struct value v = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = v;
    }
}

static struct value split_at(struct render *r, struct str *s, const struct str *by, int64_t max,
                             bool right)
{
    struct value list = value_list(r, VALUE_LIST, NULL);
    size_t from = 0, to = s->n, at;
    render_bytes(r, s->n);
    while (max != 0 && render_work(r, 1)) {
        at = right ? str_find_last(s, by, to) : str_find(s, by, from);
        if (at == SIZE_MAX)
            break;
        render_bytes(r, right ? to : 0); /* looking backwards reads from the start each time */
        value_push(r, list, value_string(right ? str_slice(r, s, at + by->n, to)
                                               : str_slice(r, s, from, at)));
        if (right)
            to = at;
        else
            from = at + by->n;
        max -= max > 0;
    }
    value_push(r, list, value_string(str_slice(r, s, from, to)));
    return list;
}

static struct value split(struct render *r, const struct bound_args *args, bool right)
{
    int64_t max = args->v[1].kind == VALUE_MISSING ? -1 : call_int(r, args->v[1]);
    struct value list;
    if (given(args->v[0])) {
        struct str *by = call_text(r, args->v[0]);
        if (!r->failed && by->n == 0)
            render_fail(r, "empty separator");
        if (r->failed)
            return value_undefined();
        list = split_at(r, self(args), by, max, right);
    } else {
        render_bytes(r, 4 * self(args)->n);
        list = split_space(r, self(args), max, right);
    }
    if (right && !r->failed)
        reverse(list.u.list);
    return list;
}

static struct value text_split(struct render *r, const struct bound_args *args)
{
    return split(r, args, false);
}

static struct value text_rsplit(struct render *r, const struct bound_args *args)
{
    return split(r, args, true);
}

/* Length of the line break at text, 0: none (str.splitlines). */
static size_t line_break(const char *text, size_t n)
{
    uint32_t c;
    int length = utf8_decode(text, n, &c);
    if (c == '\r' && n > 1 && text[1] == '\n')
        return 2;
    bool is_break = (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                    c == 0x2028 || c == 0x2029;
    return length > 0 && is_break ? (size_t)length : 0;
}

static struct value text_splitlines(struct render *r, const struct bound_args *args)
{
    struct value list = value_list(r, VALUE_LIST, NULL);
    struct str *s = self(args);
    bool keep = value_truth(args->v[0]);
    size_t from = 0;
    render_bytes(r, 4 * s->n);
    for (size_t i = 0; i < s->n && !r->failed;) {
        size_t n = line_break(s->data + i, s->n - i);
        if (n) {
            value_push(r, list, value_string(str_slice(r, s, from, keep ? i + n : i)));
            from = i + n;
        }
        i += n ? n : 1;
    }
    if (from < s->n)
        value_push(r, list, value_string(str_slice(r, s, from, s->n)));
    return list;
}

static struct value partition(struct render *r, const struct bound_args *args, bool right)
{
    struct value out = value_list(r, VALUE_TUPLE, NULL);
    struct str *s = self(args), *by = call_text(r, args->v[0]);
    struct value none = value_string(str_new(r, "", 0, false));
    if (!r->failed && by->n == 0)
        render_fail(r, "empty separator");
    if (r->failed || !render_bytes(r, s->n))
        return value_undefined();
    size_t at = right ? str_find_last(s, by, s->n) : str_find(s, by, 0);
    bool found = at != SIZE_MAX;
    if (!found)
        at = right ? 0 : s->n;
    value_push(r, out, found || !right ? value_string(str_slice(r, s, 0, at)) : none);
    value_push(r, out, found ? value_string(str_slice(r, s, at, at + by->n)) : none);
    value_push(r, out, found ? value_string(str_slice(r, s, at + by->n, s->n))
                             : right ? args->self : none);
    return out;
}

static struct value text_partition(struct render *r, const struct bound_args *args)
{
    return partition(r, args, false);
}

static struct value text_rpartition(struct render *r, const struct bound_args *args)
{
    return partition(r, args, true);
}

/* ---- searching */

/* [start, end) of the optional character positions in v[1], v[2], as bytes; false: start is past
 * the end, where not even "" is found. */
static bool window(struct render *r, const struct bound_args *args, size_t *from, size_t *to)
{
    struct str *s = self(args);
    *from = 0;
    *to = s->n;
    if (!given(args->v[1]) && !given(args->v[2]))
        return true;
    int64_t n = (int64_t)str_chars(s);
    int64_t start = given(args->v[1]) ? call_int(r, args->v[1]) : 0;
    int64_t end = given(args->v[2]) ? call_int(r, args->v[2]) : n;
    render_bytes(r, s->n);
    start = start < 0 ? (start < -n ? 0 : start + n) : start;
    end = end < 0 ? (end < -n ? 0 : end + n) : end > n ? n : end;
    if (start > end)
        return false;
    *from = str_byte_of(s, (size_t)start);
    *to = str_byte_of(s, (size_t)end);
    return true;
}

static bool affix(const struct str *s, size_t from, size_t to, const struct str *part, bool end)
{
    if (part->n > to - from)
        return false;
    return memcmp(s->data + (end ? to - part->n : from), part->data, part->n) == 0;
}

static struct value has_affix(struct render *r, const struct bound_args *args, bool end)
{
    size_t from, to;
    if (!window(r, args, &from, &to))
        return value_bool(false);
    if (args->v[0].kind != VALUE_TUPLE) {
        struct str *part = call_text(r, args->v[0]);
        return value_bool(!r->failed && affix(self(args), from, to, part, end));
    }
    const struct list *parts = args->v[0].u.list;
    for (size_t i = 0; i < parts->n && render_work(r, 1); i++)
        if (affix(self(args), from, to, call_text(r, parts->items[i]), end))
            return value_bool(!r->failed);
    return value_bool(false);
}

static struct value text_startswith(struct render *r, const struct bound_args *args)
{
    return has_affix(r, args, false);
}

static struct value text_endswith(struct render *r, const struct bound_args *args)
{
    return has_affix(r, args, true);
}

static size_t chars_before(const struct str *s, size_t byte)
{
    size_t n = 0;
    for (size_t i = 0; i < byte; i++)
        n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
    return n;
}

static struct value find(struct render *r, const struct bound_args *args, bool last, bool must)
{
    struct str *s = self(args), *part = call_text(r, args->v[0]);
    size_t from, to, at = SIZE_MAX;
    if (window(r, args, &from, &to) && render_bytes(r, s->n)) {
        struct str *part_of = str_slice(r, s, from, to);
        at = last ? str_find_last(part_of, part, to - from) : str_find(part_of, part, 0);
    }
    if (at != SIZE_MAX)
        return value_int((int64_t)chars_before(s, from + at));
    if (must)
        render_fail(r, "substring not found");
    return value_int(-1);
}

static struct value text_find(struct render *r, const struct bound_args *args)
{
    return find(r, args, false, false);
}

static struct value text_rfind(struct render *r, const struct bound_args *args)
{
    return find(r, args, true, false);
}

static struct value text_index(struct render *r, const struct bound_args *args)
{
    return find(r, args, false, true);
}

static struct value text_rindex(struct render *r, const struct bound_args *args)
{
    return find(r, args, true, true);
}

static struct value text_count(struct render *r, const struct bound_args *args)
{
    struct str *s = self(args), *part = call_text(r, args->v[0]);
    size_t from, to, count = 0;
    if (!window(r, args, &from, &to) || !render_bytes(r, s->n))
        return value_int(0);
    s = str_slice(r, s, from, to);
    if (part->n == 0)
        return value_int((int64_t)str_chars(s) + 1);
    for (size_t at = 0; (at = str_find(s, part, at)) != SIZE_MAX; at += part->n)
        count++;
    return value_int((int64_t)count);
}

/* ---- building */

static struct value as_markup(struct render *r, struct value v)
{
    struct str *out = r->failed ? NULL : render_alloc(r, 1, sizeof *out);
    if (!out)
        return v;
    *out = *v.u.s;
    out->markup = true;
    return value_string(out);
}

static struct value text_replace(struct render *r, const struct bound_args *args)
{
    static const struct str name = {.data = "replace", .n = 7};
    struct str *s = self(args);
    struct value values[3] = {args->v[0], args->v[1], call_or(args->v[2], value_none())};
    struct call call = {.values = values, .n = 3};
    if (!s->markup)
        return call_builtin(r, filters_text_find(&name), args->self, &call);
    for (int i = 0; i < 2; i++)
        values[i] = value_string(chars_escape(r, out_string(r, values[i])));
    struct value out = call_builtin(r, filters_text_find(&name), args->self, &call);
    return as_markup(r, out);
}

static struct value text_join(struct render *r, const struct bound_args *args)
{
    struct iter it;
    struct value item;
    size_t mark = out_mark(r);
    if (iter_open(r, args->v[0], &it))
        while (iter_next(r, &it, &item)) {
            if (item.kind != VALUE_STRING)
                render_fail(r, "sequence item %zu: expected str instance, %s found", it.i - 1,
                            value_type(item));
            else if (it.i > 1)
                out_str(r, self(args));
            if (self(args)->markup && !r->failed)
                item = value_string(chars_escape(r, item.u.s));
            out_value(r, item);
        }
    struct value out = value_string(out_cut(r, mark));
    return self(args)->markup ? as_markup(r, out) : out;
}

static struct value text_format(struct render *r, const struct bound_args *args)
{
    return format_braces(r, self(args), args->call);
}

static struct value text_removeprefix(struct render *r, const struct bound_args *args)
{
    struct str *s = self(args), *part = call_text(r, args->v[0]);
    bool there = !r->failed && affix(s, 0, s->n, part, false);
    return there ? value_string(str_slice(r, s, part->n, s->n)) : args->self;
}

static struct value text_removesuffix(struct render *r, const struct bound_args *args)
{
    struct str *s = self(args), *part = call_text(r, args->v[0]);
    bool there = !r->failed && affix(s, 0, s->n, part, true);
    return there ? value_string(str_slice(r, s, 0, s->n - part->n)) : args->self;
}

static void fill(struct render *r, int64_t n, const struct str *with)
{
    for (int64_t i = 0; i < n && render_work(r, 1); i++)
        out_str(r, with);
}

static struct value pad(struct render *r, const struct bound_args *args, int64_t left_of_two)
{
    struct str *s = self(args), *with = call_text(r, call_or(args->v[1], str_value(r, " ", true)));
    int64_t width = call_int(r, args->v[0]), missing = width - (int64_t)str_chars(s);
    if (!r->failed && str_chars(with) != 1)
        render_fail(r, "The fill character must be exactly one character long");
    if (missing <= 0)
        return args->self;
    /* str.center puts the odd one to the left when the width is odd */
    int64_t left = left_of_two == 1   ? missing / 2 + (missing & width & 1)
                   : left_of_two == 2 ? missing
                                      : 0;
    size_t mark = out_mark(r);
    fill(r, left, with);
    out_str(r, s);
    fill(r, missing - left, with);
    struct value out = value_string(out_cut(r, mark));
    return s->markup ? as_markup(r, out) : out;
}

static struct value text_ljust(struct render *r, const struct bound_args *args)
{
    return pad(r, args, 0);
}

static struct value text_center(struct render *r, const struct bound_args *args)
{
    return pad(r, args, 1);
}

static struct value text_rjust(struct render *r, const struct bound_args *args)
{
    return pad(r, args, 2);
}

static struct value text_zfill(struct render *r, const struct bound_args *args)
{
    struct str *s = self(args);
    int64_t missing = call_int(r, args->v[0]) - (int64_t)str_chars(s);
    size_t sign = s->n && (s->data[0] == '-' || s->data[0] == '+'), mark = out_mark(r);
    out_str(r, str_slice(r, s, 0, sign));
    fill(r, missing, str_new(r, "0", 1, true));
    out_str(r, str_slice(r, s, sign, s->n));
    return value_string(out_cut(r, mark));
}

#define CLASS(name)                                                                                \
    static struct value text_is##name(struct render *r, const struct bound_args *args)             \
    {                                                                                              \
        return value_bool(render_bytes(r, 8 * self(args)->n) && chars_is(self(args), #name));      \
    }
CLASS(alpha)
CLASS(digit)
CLASS(alnum)
CLASS(space)
CLASS(ascii)
#undef CLASS

static struct value text_isupper(struct render *r, const struct bound_args *args)
{
    return value_bool(render_bytes(r, 8 * self(args)->n) && chars_is_upper(self(args)));
}

static struct value text_islower(struct render *r, const struct bound_args *args)
{
    return value_bool(render_bytes(r, 8 * self(args)->n) && chars_is_lower(self(args)));
}

static const struct builtin table[] = {
    {"strip", "chars=", text_strip},
    {"lstrip", "chars=", text_lstrip},
    {"rstrip", "chars=", text_rstrip},
    {"split", "sep= maxsplit=", text_split},
    {"rsplit", "sep= maxsplit=", text_rsplit},
    {"splitlines", "keepends=", text_splitlines},
    {"partition", "sep", text_partition},
    {"rpartition", "sep", text_rpartition},
    {"startswith", "prefix start= end=", text_startswith},
    {"endswith", "suffix start= end=", text_endswith},
    {"find", "sub start= end=", text_find},
    {"rfind", "sub start= end=", text_rfind},
    {"index", "sub start= end=", text_index},
    {"rindex", "sub start= end=", text_rindex},
    {"count", "sub start= end=", text_count},
    {"replace", "old new count=", text_replace},
    {"join", "iterable", text_join},
    {"format", "*", text_format},
    {"removeprefix", "prefix", text_removeprefix},
    {"removesuffix", "suffix", text_removesuffix},
    {"upper", "", text_upper},
    {"lower", "", text_lower},
    {"casefold", "", text_lower},
    {"capitalize", "", text_capitalize},
    {"title", "", text_title},
    {"swapcase", "", text_swapcase},
    {"ljust", "width fillchar=", text_ljust},
    {"center", "width fillchar=", text_center},
    {"rjust", "width fillchar=", text_rjust},
    {"zfill", "width", text_zfill},
    {"isalpha", "", text_isalpha},
    {"isdigit", "", text_isdigit},
    {"isdecimal", "", text_isdigit},
    {"isnumeric", "", text_isdigit},
    {"isalnum", "", text_isalnum},
    {"isspace", "", text_isspace},
    {"isascii", "", text_isascii},
    {"isupper", "", text_isupper},
    {"islower", "", text_islower},
};

const struct builtin *methods_text_find(const struct str *name)
{
    return call_find(table, sizeof table / sizeof *table, name);
}
