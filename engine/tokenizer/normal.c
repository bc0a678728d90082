/* normal: the normalizers. Pure functions over immutable steps; any thread. The one file that
 * includes utf8proc.h. */
#include "engine/tokenizer/normal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"

void normal_free(struct normalizer *m)
{
    for (int i = 0; i < m->n; i++)
        regex_close(m->steps[i].pattern);
    *m = (struct normalizer){0};
}

/* ---- characters */

size_t normal_space_at(const char *text, size_t n)
{
    uint32_t c;
    int used = n ? utf8_decode(text, n, &c) : 0;
    if (used <= 0)
        return 0;
    bool space = (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
                 (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
                 c == 0x205F || c == 0x3000;
    return space ? (size_t)used : 0;
}

static size_t last_character(const char *text, size_t n)
{
    size_t size = 1;
    while (size < n && size < 4 && ((uint8_t)text[n - size] & 0xC0) == 0x80)
        size++;
    return size;
}

bool normal_word_at(const char *text, size_t n)
{
    uint32_t c;
    if (n == 0 || utf8_decode(text, n, &c) <= 0)
        return false;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    bool joiner = c == 0x200C || c == 0x200D;
    bool in_circle_or_square = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC || joiner || in_circle_or_square;
}

bool normal_word_before(const char *text, size_t n)
{
    size_t size = n ? last_character(text, n) : 0;
    return n && normal_word_at(text + n - size, size);
}

/* ---- steps */

static void replace_text(const struct buf *in, const char *from, const char *to, struct buf *out)
{
    size_t n_from = strlen(from), n_to = strlen(to), done = 0;
    while (done < in->size) {
        const char *hit = memmem(in->data + done, in->size - done, from, n_from);
        size_t until = hit ? (size_t)(hit - in->data) : in->size;
        buf_add(out, in->data + done, until - done);
        if (!hit)
            break;
        buf_add(out, to, n_to);
        done = until + n_from;
    }
}

static int replace_pattern(const struct step *step, struct regex_work *w, const struct buf *in,
                           struct buf *out)
{
    size_t done = 0, start, end;
    int found = 0;
    while (done < in->size &&
           (found = regex_next(step->pattern, w, in->data, in->size, done, &start, &end)) > 0) {
        buf_add(out, in->data + done, start - done);
        buf_text(out, step->to);
        done = end;
    }
    if (done < in->size && found == 0)
        buf_add(out, in->data + done, in->size - done);
    return found < 0 ? found : 0;
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
    for (int class = 1; class < 257; class++)
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
static int compose(enum step_kind kind, const struct buf *in, struct buf *out)
{
    static const int options[] = {[STEP_NFC] = UTF8PROC_COMPOSE,
                                  [STEP_NFD] = UTF8PROC_DECOMPOSE,
                                  [STEP_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  [STEP_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
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

enum { DOTTED_I = 0x130 }; /* the one character whose lower case is two: i and a dot above */

/* Character by character: lower case, or without marks. */
static void map_characters(enum step_kind kind, const struct buf *in, struct buf *out)
{
    for (size_t i = 0; i < in->size;) {
        uint32_t c;
        char bytes[4];
        int used = utf8_decode(in->data + i, in->size - i, &c);
        if (used <= 0) { /* not given here: see needs_utf8 */
            buf_byte(out, in->data[i++]);
            continue;
        }
        i += (size_t)used;
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        if (kind == STEP_STRIP_ACCENTS && category >= UTF8PROC_CATEGORY_MN &&
            category <= UTF8PROC_CATEGORY_ME)
            continue;
        if (kind == STEP_LOWERCASE && c == DOTTED_I) {
            buf_text(out, "i\xCC\x87");
            continue;
        }
        if (kind == STEP_LOWERCASE)
            c = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
        buf_add(out, bytes, (size_t)utf8_encode(c, bytes));
    }
}

static void strip(const struct step *step, const struct buf *in, struct buf *out)
{
    size_t from = 0, to = in->size;
    for (size_t used; step->left && (used = normal_space_at(in->data + from, to - from)) > 0;)
        from += used;
    while (step->right && to > from) {
        size_t size = last_character(in->data + from, to - from);
        if (normal_space_at(in->data + to - size, size) != size)
            break;
        to -= size;
    }
    buf_add(out, in->data + from, to - from);
}

static bool starts_with(const struct buf *text, const char *prefix, size_t n)
{
    return text->size >= n && !memcmp(text->data, prefix, n);
}

static int run_step(const struct step *step, bool first, struct regex_work *w, const struct buf *in,
                    struct buf *out)
{
    size_t n_to = strlen(step->to);
    switch (step->kind) {
    case STEP_REPLACE:
        if (step->pattern)
            return replace_pattern(step, w, in, out);
        replace_text(in, step->from, step->to, out);
        return 0;
    case STEP_NFC:
    case STEP_NFD:
    case STEP_NFKC:
    case STEP_NFKD:
        return compose(step->kind, in, out);
    case STEP_LOWERCASE:
    case STEP_STRIP_ACCENTS:
        map_characters(step->kind, in, out);
        return 0;
    case STEP_STRIP:
        strip(step, in, out);
        return 0;
    case STEP_PREPEND:
    case STEP_PREPEND_SPACE:
        break;
    }
    bool prepend = step->kind == STEP_PREPEND
                       ? in->size > 0
                       : first || (step->later && !starts_with(in, step->to, n_to));
    if (prepend)
        buf_add(out, step->to, n_to);
    buf_add(out, in->data, in->size);
    return 0;
}

int normal_run(const struct normalizer *m, const char *text, size_t n, bool first,
               struct regex_work *regex, struct buf work[2], const struct buf **result)
{
    int at = 0;
    buf_clear(&work[0]);
    buf_add(&work[0], text, n);
    for (int i = 0; i < m->n; i++, at = !at) {
        buf_clear(&work[!at]);
        int code = run_step(&m->steps[i], first, regex, &work[at], &work[!at]);
        if (code)
            return code;
        if (work[0].failed || work[1].failed)
            return ERR_NOMEM;
    }
    *result = &work[at];
    return work[at].failed ? ERR_NOMEM : 0;
}
