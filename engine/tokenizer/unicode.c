/* unicode: the one file that includes utf8proc.h. Pure functions; any thread. */
#include "engine/tokenizer/unicode.h"

#include "engine/base/err.h"

#ifdef WITHOUT_UTF8PROC

bool unicode_here(void)
{
    return false;
}

bool unicode_is_word(uint32_t c)
{
    (void)c;
    return false;
}

bool unicode_is_mark(uint32_t c)
{
    (void)c;
    return false;
}

uint32_t unicode_lower(uint32_t c)
{
    return c;
}

int unicode_normalize(enum unicode_form form, const struct buf *in, struct buf *out)
{
    (void)form, (void)in, (void)out;
    return ERR_INTERNAL;
}

#else

#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"

bool unicode_here(void)
{
    return true;
}

bool unicode_is_word(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    bool joiner = c == 0x200C || c == 0x200D;
    bool in_circle_or_square = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC || joiner || in_circle_or_square;
}

bool unicode_is_mark(uint32_t c)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

uint32_t unicode_lower(uint32_t c)
{
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

/* The first byte at or after `at` that is (not) ASCII; n: none. */
static size_t find_ascii(const struct buf *in, size_t at, bool ascii)
{
    while (at < in->size && ((uint8_t)in->data[at] < 0x80) != ascii)
        at++;
    return at;
}

/* Code points of one run of text on their way into a form: decomposed, put in canonical order, and
 * composed again (Unicode Standard Annex 15). The library's own walk over a text is not used whole:
 * it sorts marks in quadratic time, and takes U+11A7 for a final consonant of Hangul. */
struct form {
    utf8proc_option_t options;
    bool failed;
    struct buf points; /* utf8proc_int32_t */
};
enum { NO_FINAL = 0x11A7, DECOMPOSED_MAX = 32, SHORT_RUN = 24 };

static int class_of(utf8proc_int32_t point)
{
    return utf8proc_get_property(point)->combining_class;
}

/* Stable, by class: insertion for what texts have, counting for what somebody made to hurt. */
static void sort_marks(utf8proc_int32_t *points, utf8proc_int32_t *copy, size_t n)
{
    size_t starts[257] = {0};
    for (size_t i = 1; n <= SHORT_RUN && i < n; i++) {
        utf8proc_int32_t point = points[i];
        size_t at = i;
        for (int class = class_of(point); at > 0 && class_of(points[at - 1]) > class; at--)
            points[at] = points[at - 1];
        points[at] = point;
    }
    if (n <= SHORT_RUN)
        return;
    memcpy(copy, points, n * sizeof *points);
    for (size_t i = 0; i < n; i++)
        starts[class_of(copy[i]) + 1]++;
    for (int class = 1; class < 257; class ++)
        starts[class] += starts[class - 1];
    for (size_t i = 0; i < n; i++)
        points[starts[class_of(copy[i])]++] = copy[i];
}

static void put_in_order(struct form *f)
{
    size_t n = f->points.size / sizeof(utf8proc_int32_t);
    if (buf_reserve(&f->points, f->points.size))
        return;
    utf8proc_int32_t *points = (utf8proc_int32_t *)(void *)f->points.data;
    for (size_t from = 0, to; from < n; from = to) {
        to = from + 1;
        if (points[from] < 0x300 || class_of(points[from]) == 0)
            continue;
        while (to < n && class_of(points[to]) != 0)
            to++;
        sort_marks(points + from, points + n, to - from);
    }
}

/* Write out what was gathered. */
static void finish(struct form *f, struct buf *out)
{
    put_in_order(f);
    if (f->points.failed)
        return;
    utf8proc_int32_t *points = (utf8proc_int32_t *)(void *)f->points.data;
    utf8proc_ssize_t n = (utf8proc_ssize_t)(f->points.size / sizeof *points);
    if (f->options & UTF8PROC_COMPOSE)
        n = utf8proc_normalize_utf32(points, n, f->options);
    f->failed = f->failed || n < 0;
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char bytes[4];
        buf_add(out, bytes, (size_t)utf8_encode((uint32_t)points[i], bytes));
    }
    buf_clear(&f->points);
}

static void take_run(struct form *f, const char *text, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t c;
        utf8proc_int32_t made[DECOMPOSED_MAX];
        int boundary = 0, used = utf8_decode(text + i, n - i, &c);
        if (c == NO_FINAL) /* it composes with nothing */
            finish(f, out);
        utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)c, made, DECOMPOSED_MAX,
                                                         f->options, &boundary);
        f->failed = f->failed || used <= 0 || count < 0 || count > DECOMPOSED_MAX;
        if (f->failed)
            return;
        buf_add(&f->points, made, (size_t)count * sizeof *made);
        i += (size_t)used;
    }
    finish(f, out);
}

/* ASCII characters are starters that compose with what follows them alone, in every form: a text
 * may be cut in front of each, and only those right before other characters need a look. */
int unicode_normalize(enum unicode_form kind, const struct buf *in, struct buf *out)
{
    static const int options[] = {[UNICODE_NFC] = UTF8PROC_COMPOSE,
                                  [UNICODE_NFD] = UTF8PROC_DECOMPOSE,
                                  [UNICODE_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  [UNICODE_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    struct form form = {.options = (utf8proc_option_t)(options[kind] | UTF8PROC_STABLE)};
    buf_init(&form.points, 0);
    for (size_t done = 0; done < in->size && !form.failed;) {
        size_t start = find_ascii(in, done, false), end = find_ascii(in, start, true);
        start -= start < end && start > done;
        buf_add(out, in->data + done, start - done);
        take_run(&form, in->data + start, end - start, out);
        done = end;
    }
    int code = form.points.failed ? ERR_NOMEM : form.failed ? ERR_INTERNAL : 0;
    buf_free(&form.points);
    return code;
}

#endif
