/* pretok: the pre-tokenizers. Stages are immutable; the work belongs to one call; any thread.
 *
 * Where there is one stage that isolates its matches (every current model) words are handed on as
 * they are found; otherwise each stage turns a list of spans into a finer one. */
#include "engine/tokenizer/pretok.h"

#include <string.h>

struct span {
    size_t start, end;
};

struct piece {
    size_t start, end;
    bool match;
};

int pretok_add(struct pretok *p, const char *pattern, size_t n, enum regex_kind kind,
               enum behavior behavior, const char *where, struct err *err)
{
    struct regex *regex = NULL;
    if (p->n == STAGES_MAX)
        return err_set(err, ERR_FORMAT, "%s: more than %d stages", where, STAGES_MAX);
    int code = regex_open(pattern, n, kind, where, &regex, err);
    if (code)
        return code;
    p->stages[p->n++] = (struct stage){.pattern = regex, .behavior = behavior};
    buf_add(&p->patterns, pattern, n);
    buf_byte(&p->patterns, 0);
    return p->patterns.failed ? err_set(err, ERR_NOMEM, "%s: out of memory", where) : 0;
}

void pretok_free(struct pretok *p)
{
    for (int i = 0; i < p->n; i++)
        regex_close(p->stages[i].pattern);
    buf_free(&p->patterns);
    *p = (struct pretok){0};
}

void pretok_work_init(struct pretok_work *w)
{
    for (int i = 0; i < 2; i++) {
        buf_init(&w->spans[i], 0);
        buf_init(&w->text[i], 0);
    }
    buf_init(&w->pieces, 0);
}

void pretok_work_free(struct pretok_work *w)
{
    for (int i = 0; i < 2; i++) {
        buf_free(&w->spans[i]);
        buf_free(&w->text[i]);
    }
    buf_free(&w->pieces);
}

/* ---- one stage over one word */

static void add_piece(struct buf *pieces, size_t start, size_t end, bool match)
{
    struct piece piece = {start, end, match};
    if (end > start)
        buf_add(pieces, &piece, sizeof piece);
}

/* Cut text[from..to) into what matches and what does not. The pattern sees this word alone. */
static int find_pieces(const struct stage *stage, struct regex_work *regex, const char *text,
                       size_t from, size_t to, struct buf *pieces)
{
    size_t at = from;
    buf_clear(pieces);
    while (at < to) {
        size_t start, end;
        int found =
            regex_next(stage->pattern, regex, text + from, to - from, at - from, &start, &end);
        if (found < 0)
            return found;
        if (!found)
            break;
        add_piece(pieces, at, from + start, stage->invert);
        add_piece(pieces, from + start, from + end, !stage->invert);
        at = from + end;
    }
    add_piece(pieces, at, to, stage->invert);
    return pieces->failed;
}

static void add_span(struct buf *spans, size_t start, size_t end)
{
    struct span span = {start, end};
    buf_add(spans, &span, sizeof span);
}

/* Join pieces as the behaviour says. With the previous: a match ends the word before it, unless
 * that ends in a match already; with the next: a match begins the word after it, unless that
 * begins with one. */
static void join_pieces(enum behavior behavior, const struct piece *piece, size_t n,
                        struct buf *spans)
{
    for (size_t i = 0; i < n; i++) {
        size_t last = i;
        bool joins =
            behavior == BEHAVIOR_WITH_PREVIOUS ? i + 1 < n && !piece[i].match && piece[i + 1].match
            : behavior == BEHAVIOR_WITH_NEXT   ? i + 1 < n && piece[i].match && !piece[i + 1].match
                                               : false;
        if (behavior == BEHAVIOR_REMOVED && piece[i].match)
            continue;
        if (behavior == BEHAVIOR_CONTIGUOUS)
            while (last + 1 < n && piece[last + 1].match == piece[i].match)
                last++;
        else if (joins)
            last++;
        add_span(spans, piece[i].start, piece[last].end);
        i = last;
    }
}

static int split_word(const struct stage *stage, struct pretok_work *w, struct regex_work *regex,
                      const char *text, struct span word, struct buf *spans)
{
    if (!stage->pattern) {
        add_span(spans, word.start, word.end);
        return 0;
    }
    int code = find_pieces(stage, regex, text, word.start, word.end, &w->pieces);
    if (!code)
        join_pieces(stage->behavior, (const struct piece *)(void *)w->pieces.data,
                    w->pieces.size / sizeof(struct piece), spans);
    return code;
}

/* ---- all stages */

/* Copy the words to out, the prefix in front of each that lacks it; spans follow. */
static void prefix_words(const char *text, const char *prefix, struct span *spans, size_t n,
                         struct buf *out)
{
    size_t n_prefix = strlen(prefix);
    buf_clear(out);
    for (size_t i = 0; i < n; i++) {
        size_t start = out->size, size = spans[i].end - spans[i].start;
        if (size > 0 && (size < n_prefix || memcmp(text + spans[i].start, prefix, n_prefix) != 0))
            buf_add(out, prefix, n_prefix);
        buf_add(out, text + spans[i].start, size);
        spans[i] = (struct span){start, out->size};
    }
}

static int run_stages(const struct pretok *p, struct pretok_work *w, struct regex_work *regex,
                      const char **text, size_t n, int *last)
{
    int at = 0, copy = 0;
    buf_clear(&w->spans[0]);
    add_span(&w->spans[0], 0, n);
    for (int i = 0; i < p->n; i++, at = !at) {
        struct span *spans = (struct span *)(void *)w->spans[at].data;
        size_t n_spans = w->spans[at].size / sizeof *spans;
        if (w->spans[at].failed)
            return ERR_NOMEM;
        if (p->stages[i].prefix) {
            prefix_words(*text, p->stages[i].prefix, spans, n_spans, &w->text[copy]);
            if (w->text[copy].failed)
                return ERR_NOMEM;
            *text = w->text[copy].data;
            copy = !copy;
        }
        buf_clear(&w->spans[!at]);
        for (size_t k = 0; k < n_spans; k++) {
            int code = split_word(&p->stages[i], w, regex, *text, spans[k], &w->spans[!at]);
            if (code)
                return code;
        }
    }
    *last = at;
    return w->spans[at].failed;
}

static int run_isolated(const struct stage *stage, struct regex_work *regex, const char *text,
                        size_t n, int (*take)(void *, const char *, size_t), void *context)
{
    int code = 0;
    for (size_t at = 0; at < n && !code;) {
        size_t start, end;
        int found = regex_next(stage->pattern, regex, text, n, at, &start, &end);
        if (found < 0)
            return found;
        if (!found)
            return take(context, text + at, n - at);
        if (start > at)
            code = take(context, text + at, start - at);
        if (!code)
            code = take(context, text + start, end - start);
        at = end;
    }
    return code;
}

int pretok_run(const struct pretok *p, struct pretok_work *w, struct regex_work *regex,
               const char *text, size_t n, int (*take)(void *, const char *, size_t), void *context)
{
    const struct stage *only = &p->stages[0];
    int last;
    if (n == 0)
        return 0;
    if (p->n == 1 && only->behavior == BEHAVIOR_ISOLATED && only->pattern && !only->prefix)
        return run_isolated(only, regex, text, n, take, context);
    int code = run_stages(p, w, regex, &text, n, &last);
    if (code)
        return code;
    const struct span *spans = (const struct span *)(void *)w->spans[last].data;
    for (size_t i = 0; i < w->spans[last].size / sizeof *spans && !code; i++)
        if (spans[i].end > spans[i].start)
            code = take(context, text + spans[i].start, spans[i].end - spans[i].start);
    return code;
}
