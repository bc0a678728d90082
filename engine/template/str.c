/* str: strings with byte-exact provenance. Immutable values in a render's arena; the render's
 * thread. Slices share bytes; concatenation continues the left string's store in place when it
 * can (struct store), so that building a text piece by piece is linear. */
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/render_internal.h"

static struct str empty_string = {.data = "", .n_chars = 0};

struct str *str_new(struct render *r, const char *data, size_t n, bool trusted)
{
    struct str *s = render_alloc(r, 1, sizeof *s);
    struct text_span *span = trusted && n ? render_alloc(r, 1, sizeof *span) : NULL;
    if (!s || (trusted && n && !span))
        return &empty_string;
    *s = (struct str){.data = data, .n = n, .n_chars = SIZE_MAX, .trusted = span};
    if (span) {
        *span = (struct text_span){0, n};
        s->n_trusted = 1;
    }
    return s;
}

struct str *str_copy(struct render *r, const char *data, size_t n, bool trusted)
{
    char *copy = render_alloc(r, n + 1, 1);
    if (!copy || !render_bytes(r, n))
        return &empty_string;
    memcpy(copy, data, n);
    return str_new(r, copy, n, trusted);
}

struct value str_value(struct render *r, const char *text, bool trusted)
{
    return value_string(str_copy(r, text, strlen(text), trusted));
}

bool str_all_trusted(const struct str *s)
{
    return s->n == 0 || (s->n_trusted == 1 && s->trusted[0].start == 0 &&
                         s->trusted[0].end == s->n);
}

struct str *str_plain(struct render *r, struct str *s)
{
    struct str *out = s->markup ? render_alloc(r, 1, sizeof *out) : NULL;
    if (!out)
        return s;
    *out = *s;
    out->markup = false;
    return out;
}

static struct str *slice(struct render *r, const struct str *s, size_t from, size_t to)
{
    if (to > s->n)
        to = s->n;
    if (from >= to)
        return &empty_string;
    if (str_all_trusted(s) || s->n_trusted == 0)
        return str_new(r, s->data + from, to - from, s->n_trusted != 0);
    size_t low = 0, high = s->n_trusted; /* the first span that ends after `from` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->trusted[middle].end > from)
            high = middle;
        else
            low = middle + 1;
    }
    size_t end = low;
    while (end < s->n_trusted && s->trusted[end].start < to)
        end++;
    struct str *out = str_new(r, s->data + from, to - from, false);
    struct text_span *spans = end > low ? render_alloc(r, end - low, sizeof *spans) : NULL;
    if (!spans || !render_bytes(r, (end - low) * sizeof *spans))
        return out;
    for (size_t i = low; i < end; i++) {
        size_t a = s->trusted[i].start, b = s->trusted[i].end;
        spans[i - low] = (struct text_span){(a > from ? a : from) - from,
                                            (b < to ? b : to) - from};
    }
    out->trusted = spans;
    out->n_trusted = end - low;
    return out;
}

struct str *str_slice(struct render *r, const struct str *s, size_t from, size_t to)
{
    struct str *out = slice(r, s, from, to);
    if (s->markup && out->n)
        out->markup = true;
    return out;
}

static struct text_span shifted(struct text_span span, size_t by)
{
    return (struct text_span){span.start + by, span.end + by};
}

/* Few spans: those of a then b shifted, merged where they touch. */
static bool merge_spans(struct render *r, struct str *out, const struct str *a, const struct str *b)
{
    size_t n = a->n_trusted + b->n_trusted, at = a->n_trusted;
    struct text_span *spans = n ? render_alloc(r, n, sizeof *spans) : NULL;
    if (!spans)
        return n == 0;
    if (a->n_trusted)
        memcpy(spans, a->trusted, a->n_trusted * sizeof *spans);
    for (size_t i = 0; i < b->n_trusted; i++) {
        struct text_span span = shifted(b->trusted[i], a->n);
        if (at && spans[at - 1].end == span.start)
            spans[at - 1].end = span.end;
        else
            spans[at++] = span;
    }
    out->trusted = spans;
    out->n_trusted = at;
    return true;
}

/* The spans of a then b. Many go into the store of out, behind those of a if they end there: what
 * touches stays apart then, since a goes on having its own last span. */
static bool join_spans(struct render *r, struct str *out, const struct str *a, const struct str *b)
{
    enum { FEW = 32 };
    struct store *store = out->store;
    size_t n = a->n_trusted + b->n_trusted;
    if (n <= FEW)
        return merge_spans(r, out, a, b);
    bool in_place = store->spans == a->trusted && store->n_spans == a->n_trusted &&
                    store->spans_capacity >= n;
    if (!render_bytes(r, (in_place ? b->n_trusted : n) * sizeof *store->spans))
        return false;
    if (!in_place) {
        size_t capacity = n + n / 2;
        struct text_span *spans = render_alloc(r, capacity, sizeof *spans);
        if (!spans)
            return false;
        if (a->n_trusted)
            memcpy(spans, a->trusted, a->n_trusted * sizeof *spans);
        store->spans = spans;
        store->spans_capacity = capacity;
    }
    for (size_t i = 0; i < b->n_trusted; i++)
        store->spans[a->n_trusted + i] = shifted(b->trusted[i], a->n);
    store->n_spans = n;
    out->trusted = store->spans;
    out->n_trusted = n;
    return true;
}

struct str *str_concat(struct render *r, struct str *a, struct str *b)
{
    if (a->markup != b->markup)
        *(a->markup ? &b : &a) = chars_escape(r, a->markup ? b : a);
    if (a->n == 0)
        return b;
    if (b->n == 0)
        return a;
    struct store *store = a->store;
    size_t n = a->n + b->n;
    bool in_place = store && a->data + a->n == store->data + store->used &&
                    store->capacity - store->used >= b->n;
    if (!in_place) {
        size_t capacity = n < 512 ? n : n + n / 2;
        store = render_alloc(r, 1, sizeof *store);
        char *data = render_alloc(r, capacity, 1);
        if (!store || !data || !render_bytes(r, n))
            return &empty_string;
        *store = (struct store){.data = data, .used = a->n, .capacity = capacity};
        memcpy(data, a->data, a->n);
    }
    struct str *out = render_alloc(r, 1, sizeof *out);
    if (!out || !render_bytes(r, b->n))
        return &empty_string;
    *out = (struct str){.n = n, .n_chars = SIZE_MAX, .store = store, .markup = a->markup};
    if (!join_spans(r, out, a, b))
        return &empty_string;
    out->data = in_place ? a->data : store->data;
    memcpy(store->data + store->used, b->data, b->n);
    store->used += b->n;
    if (a->n_chars != SIZE_MAX && b->n_chars != SIZE_MAX)
        out->n_chars = a->n_chars + b->n_chars;
    return out;
}

size_t str_chars(struct str *s)
{
    if (s->n_chars == SIZE_MAX) {
        size_t n = 0;
        for (size_t i = 0; i < s->n; i++)
            n += ((unsigned char)s->data[i] & 0xC0) != 0x80;
        s->n_chars = n;
    }
    return s->n_chars;
}

size_t str_byte_of(struct str *s, size_t chars)
{
    if (chars >= str_chars(s))
        return s->n;
    if (s->n_chars == s->n)
        return chars;
    size_t i = 0;
    for (;; i++) {
        if (((unsigned char)s->data[i] & 0xC0) == 0x80)
            continue;
        if (chars-- == 0)
            return i;
    }
}

bool str_equal(const struct str *a, const struct str *b)
{
    return a == b || (a->n == b->n && memcmp(a->data, b->data, a->n) == 0);
}

bool str_is(const struct str *s, const char *text)
{
    size_t n = strlen(text);
    return s->n == n && memcmp(s->data, text, n) == 0;
}

int str_compare(const struct str *a, const struct str *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? (order < 0 ? -1 : 1) : (a->n > b->n) - (a->n < b->n);
}

size_t str_find(const struct str *s, const struct str *needle, size_t from)
{
    if (from > s->n)
        return SIZE_MAX;
    if (needle->n == 0)
        return from;
    const char *at = memmem(s->data + from, s->n - from, needle->data, needle->n);
    return at ? (size_t)(at - s->data) : SIZE_MAX;
}

size_t str_find_last(const struct str *s, const struct str *needle, size_t to)
{
    if (to > s->n)
        to = s->n;
    if (needle->n > to)
        return SIZE_MAX;
    if (needle->n == 0)
        return to;
    size_t last = SIZE_MAX;
    const char *from = s->data, *end = s->data + to, *hit;
    while ((hit = memmem(from, (size_t)(end - from), needle->data, needle->n)) != NULL) {
        last = (size_t)(hit - s->data);
        from = hit + 1;
    }
    return last;
}

bool str_is_space(uint32_t c)
{
    if (c < 0x80)
        return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t str_skip_space(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t code;
        int length = utf8_decode(text + i, n - i, &code);
        if (length <= 0 || !str_is_space(code))
            break;
        i += (size_t)length;
    }
    return i;
}

/* Start of the character that ends at `end`. */
static size_t char_before(const char *text, size_t end)
{
    do
        end--;
    while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80);
    return end;
}

size_t str_trim_space(const char *text, size_t n)
{
    while (n > 0) {
        uint32_t code;
        size_t start = char_before(text, n);
        int length = utf8_decode(text + start, n - start, &code);
        if (length <= 0 || !str_is_space(code))
            break;
        n = start;
    }
    return n;
}

static bool one_of(const struct str *chars, const char *c, size_t n)
{
    return memmem(chars->data, chars->n, c, n) != NULL;
}

struct str *str_strip(struct render *r, struct str *s, const struct str *chars, int sides)
{
    size_t from = 0, to = s->n;
    if (!chars) {
        if (sides & STR_LEFT)
            from = str_skip_space(s->data, s->n);
        if (sides & STR_RIGHT)
            to = from + str_trim_space(s->data + from, s->n - from);
    }
    while (chars && (sides & STR_LEFT) && from < to) {
        size_t next = from + 1;
        while (next < to && ((unsigned char)s->data[next] & 0xC0) == 0x80)
            next++;
        if (!one_of(chars, s->data + from, next - from))
            break;
        from = next;
    }
    while (chars && (sides & STR_RIGHT) && to > from) {
        size_t start = char_before(s->data, to);
        if (!one_of(chars, s->data + start, to - start))
            break;
        to = start;
    }
    if (chars && !render_bytes(r, (s->n - (to - from)) * (chars->n + 1) / 16))
        return &empty_string;
    return from == 0 && to == s->n ? s : str_slice(r, s, from, to);
}
