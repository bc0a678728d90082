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
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
           category == UTF8PROC_CATEGORY_PC;
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

/* ASCII characters are starters that compose with what follows them alone, in every form: a text
 * may be cut in front of each, and only those right before other characters need a look. */
static int compose(enum step_kind kind, const struct buf *in, struct buf *out)
{
    static const int options[] = {[STEP_NFC] = UTF8PROC_COMPOSE,
                                  [STEP_NFD] = UTF8PROC_DECOMPOSE,
                                  [STEP_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  [STEP_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    for (size_t done = 0; done < in->size;) {
        size_t start = find_ascii(in, done, false), end = find_ascii(in, start, true);
        start -= start < end && start > done;
        buf_add(out, in->data + done, start - done);
        done = end;
        if (start == end)
            continue;
        utf8proc_uint8_t *made = NULL;
        utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)in->data + start,
                                          (utf8proc_ssize_t)(end - start), &made,
                                          (utf8proc_option_t)(options[kind] | UTF8PROC_STABLE));
        if (n >= 0)
            buf_add(out, made, (size_t)n);
        free(made);
        if (n < 0)
            return ERR_NOMEM;
    }
    return 0;
}

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
