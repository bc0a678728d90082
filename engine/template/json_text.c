/* json_text: reads JSON (RFC 8259, and Python's NaN, Infinity, -Infinity) and writes it in one
 * pass. Objects remember where their members begin in the output, to drop those that come again. No
 * state. */
#include "engine/template/json_text.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/template/dumps.h"
#include "engine/template/render_internal.h"

enum { DEPTH_MAX = 400 };

struct member { /* of an object: where its parts stand in the output */
    size_t start, name_end; /* "name" */
    size_t value, end;      /* from the colon on */
};

struct writer {
    const char *at, *end;
    struct buf *out;
    struct buf scratch;
    struct buf members; /* struct member, of all objects that are open */
    int depth;
};

static bool value(struct writer *w);

static void spaces(struct writer *w)
{
    while (w->at < w->end && memchr(" \t\n\r", *w->at, 4))
        w->at++;
}

static bool take(struct writer *w, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(w->end - w->at) < n || memcmp(w->at, word, n) != 0)
        return false;
    w->at += n;
    return true;
}

/* ---- scalars */

static bool hex4(struct writer *w, uint32_t *code)
{
    *code = 0;
    if (w->end - w->at < 4)
        return false;
    for (int i = 0; i < 4; i++) {
        char c = *w->at++;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return false;
        *code = *code << 4 | digit;
    }
    return true;
}

static bool unicode_escape(struct writer *w)
{
    uint32_t code, low;
    char bytes[4];
    if (!hex4(w, &code) || (code >= 0xDC00 && code < 0xE000))
        return false;
    if (code >= 0xD800 && code < 0xDC00) {
        if (!take(w, "\\u") || !hex4(w, &low) || low < 0xDC00 || low >= 0xE000)
            return false;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    buf_add(&w->scratch, bytes, (size_t)utf8_encode(code, bytes));
    return true;
}

static bool escape(struct writer *w)
{
    static const char names[] = "\"\\/bfnrt", letters[] = "\"\\/\b\f\n\r\t";
    char c = w->at < w->end ? *w->at++ : 0;
    const char *name = c ? strchr(names, c) : NULL;
    if (c == 'u')
        return unicode_escape(w);
    if (name)
        buf_byte(&w->scratch, letters[name - names]);
    return name != NULL;
}

/* From behind the opening quote. */
static bool string(struct writer *w)
{
    buf_clear(&w->scratch);
    for (;;) {
        const char *clean = w->at;
        while (w->at < w->end && *w->at != '"' && *w->at != '\\' && (unsigned char)*w->at >= 0x20)
            w->at++;
        buf_add(&w->scratch, clean, (size_t)(w->at - clean));
        if (take(w, "\"")) {
            dumps_string(w->out, w->scratch.data ? w->scratch.data : "", w->scratch.size);
            return true;
        }
        if (!take(w, "\\") || !escape(w))
            return false;
    }
}

static size_t digits(struct writer *w)
{
    const char *from = w->at;
    while (w->at < w->end && *w->at >= '0' && *w->at <= '9')
        w->at++;
    return (size_t)(w->at - from);
}

/* At a digit, or a minus. */
static bool number(struct writer *w)
{
    const char *from = w->at;
    bool minus = take(w, "-"), real = false;
    if (take(w, "Infinity")) {
        buf_text(w->out, "-Infinity");
        return true;
    }
    if (!take(w, "0") && !digits(w))
        return false;
    size_t n = (size_t)(w->at - from);
    const char *back = w->at;
    if (take(w, ".") && digits(w))
        real = true;
    else
        w->at = back;
    back = w->at;
    if ((take(w, "e") || take(w, "E")) && (take(w, "+") || take(w, "-") || true) && digits(w))
        real = true;
    else
        w->at = back;
    if (!real) {
        bool zero = minus && n == 2 && from[1] == '0';
        buf_add(w->out, zero ? "0" : from, zero ? 1 : n);
        return true;
    }
    char text[OUT_FLOAT_MAX];
    buf_clear(&w->scratch);
    buf_add(&w->scratch, from, (size_t)(w->at - from));
    double read = w->scratch.failed ? 0 : strtod(w->scratch.data, NULL);
    if (read - read != 0)
        buf_text(w->out, read > 0 ? "Infinity" : "-Infinity");
    else
        buf_add(w->out, text, out_float(text, read));
    return true;
}

static bool word(struct writer *w)
{
    static const char *const words[] = {"null", "true", "false", "NaN", "Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (take(w, words[i])) {
            buf_text(w->out, words[i]);
            return true;
        }
    return false;
}

/* ---- objects */

static int by_name(const void *a, const void *b, void *text)
{
    const struct member *x = a, *y = b;
    size_t n = x->name_end - x->start, m = y->name_end - y->start;
    int order = memcmp((char *)text + x->start, (char *)text + y->start, n < m ? n : m);
    if (order || n != m)
        return order ? order : n < m ? -1 : 1;
    return x->start < y->start ? -1 : 1;
}

static int by_start(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    return x->start < y->start ? -1 : 1;
}

static bool same_name(const char *text, const struct member *a, const struct member *b)
{
    size_t n = a->name_end - a->start;
    return n == b->name_end - b->start && !memcmp(text + a->start, text + b->start, n);
}

/* Of each name keep the first member, with the value of the last. all is sorted by name; returns
 * how many are left. */
static size_t merge_repeated(const char *text, struct member *all, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept && same_name(text, &all[kept - 1], &all[i])) {
            all[kept - 1].value = all[i].value;
            all[kept - 1].end = all[i].end;
        } else {
            all[kept++] = all[i];
        }
    }
    return kept;
}

/* The members of an object that was written from out[from] on: written again if names repeat. */
static void leave_out_repeated(struct writer *w, size_t from, struct member *all, size_t n)
{
    qsort_r(all, n, sizeof *all, by_name, w->out->data);
    size_t kept = merge_repeated(w->out->data, all, n);
    if (kept == n)
        return;
    qsort(all, kept, sizeof *all, by_start);
    buf_clear(&w->scratch);
    buf_add(&w->scratch, w->out->data + from, w->out->size - from);
    if (w->scratch.failed)
        return;
    w->out->size = from;
    for (size_t i = 0; i < kept; i++) {
        const struct member *one = &all[i];
        buf_text(w->out, i ? ", " : "");
        buf_add(w->out, w->scratch.data + (one->start - from), one->name_end - one->start);
        buf_add(w->out, w->scratch.data + (one->value - from), one->end - one->value);
    }
}

static bool member(struct writer *w)
{
    struct member one = {.start = w->out->size};
    spaces(w);
    if (!take(w, "\"") || !string(w))
        return false;
    one.name_end = one.value = w->out->size;
    spaces(w);
    if (!take(w, ":"))
        return false;
    buf_text(w->out, ": ");
    if (!value(w))
        return false;
    one.end = w->out->size;
    buf_add(&w->members, &one, sizeof one);
    return true;
}

static bool object(struct writer *w)
{
    size_t open = w->members.size, from;
    buf_byte(w->out, '{');
    from = w->out->size;
    spaces(w);
    if (take(w, "}")) {
        buf_byte(w->out, '}');
        return true;
    }
    for (;;) {
        if (!member(w))
            return false;
        spaces(w);
        if (!take(w, ","))
            break;
        buf_text(w->out, ", ");
    }
    if (!take(w, "}"))
        return false;
    if (!w->out->failed && !w->members.failed) {
        struct member *all = (struct member *)(void *)(w->members.data + open);
        leave_out_repeated(w, from, all, (w->members.size - open) / sizeof *all);
        w->members.size = open;
    }
    buf_byte(w->out, '}');
    return true;
}

static bool array(struct writer *w)
{
    buf_byte(w->out, '[');
    spaces(w);
    if (!take(w, "]")) {
        for (;;) {
            if (!value(w))
                return false;
            if (!take(w, ","))
                break;
            buf_text(w->out, ", ");
        }
        if (!take(w, "]"))
            return false;
    }
    buf_byte(w->out, ']');
    return true;
}

/* A value, and the white space around it. */
static bool value(struct writer *w)
{
    bool read;
    spaces(w);
    if (w->at == w->end || w->depth == DEPTH_MAX || w->out->failed)
        return false;
    w->depth++;
    if (take(w, "{"))
        read = object(w);
    else if (take(w, "["))
        read = array(w);
    else if (take(w, "\""))
        read = string(w);
    else if (*w->at == '-' || (*w->at >= '0' && *w->at <= '9'))
        read = number(w);
    else
        read = word(w);
    w->depth--;
    spaces(w);
    return read;
}

bool json_text_normal(struct buf *out, const char *text, size_t n)
{
    struct writer w = {.at = text, .end = text + n, .out = out};
    size_t size = out->size;
    buf_init(&w.scratch, 0);
    buf_init(&w.members, 0);
    bool read = value(&w) && w.at == w.end;
    if (!out->failed && (w.scratch.failed || w.members.failed))
        out->failed = w.scratch.failed ? w.scratch.failed : w.members.failed;
    buf_free(&w.scratch);
    buf_free(&w.members);
    if (!read && !out->failed && out->data) {
        out->size = size;
        out->data[size] = '\0';
    }
    return read || out->failed;
}
