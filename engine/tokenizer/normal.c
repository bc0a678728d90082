/* normal: the normalizers. Pure functions over immutable steps; any thread. */
#include "engine/tokenizer/normal.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/tokenizer/unicode.h"

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
    return unicode_is_word(c);
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
        if (kind == STEP_STRIP_ACCENTS && unicode_is_mark(c))
            continue;
        if (kind == STEP_LOWERCASE && c == DOTTED_I) {
            buf_text(out, "i\xCC\x87");
            continue;
        }
        if (kind == STEP_LOWERCASE)
            c = unicode_lower(c);
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
        return unicode_normalize(UNICODE_NFC, in, out);
    case STEP_NFD:
        return unicode_normalize(UNICODE_NFD, in, out);
    case STEP_NFKC:
        return unicode_normalize(UNICODE_NFKC, in, out);
    case STEP_NFKD:
        return unicode_normalize(UNICODE_NFKD, in, out);
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
