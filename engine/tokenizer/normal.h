/* normal: what is done to a segment (the text between two added tokens) before it is cut into words
 * and merged: tokenizer.json's normalizers, and the space that sentencepiece puts in front. Steps
 * are immutable after they are read; normal_run may be called from any thread. */
#ifndef SIROCCO_NORMAL_H
#define SIROCCO_NORMAL_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/regex.h"

enum { STEPS_MAX = 16, STEP_TEXT_MAX = 32 };

struct step {
    enum step_kind {
        STEP_PREPEND, /* `to` in front of every segment that is not empty */
        STEP_REPLACE, /* each `from`, or match of the pattern, becomes `to` */
        /* `to` in front of the text's first segment; with `later` also of the other segments that
         * do not begin with it */
        STEP_PREPEND_SPACE,
        /* Unicode's normalization forms (Unicode Standard Annex 15) */
        STEP_NFC,
        STEP_NFD,
        STEP_NFKC,
        STEP_NFKD,
        STEP_LOWERCASE,     /* character by character, whatever stands beside it */
        STEP_STRIP,         /* white space at the start (`left`), at the end (`right`) */
        STEP_STRIP_ACCENTS, /* marks (categories Mn, Mc, Me) are left out */
    } kind;
    bool later, left, right;
    char from[STEP_TEXT_MAX], to[STEP_TEXT_MAX];
    struct regex *pattern; /* STEP_REPLACE: NULL, or instead of `from`; owned */
};

struct normalizer {
    struct step steps[STEPS_MAX];
    int n;
    bool needs_utf8; /* a step works on characters: only well-formed text may be given */
};

void normal_free(struct normalizer *m); /* zeroed allowed */

/* Run all steps over text. The result stands in *result, until work[0..2) changes: it is in one of
 * them. first: the segment is the text's first. regex may be NULL when no step has a pattern.
 * ERR_NOMEM, ERR_TOO_LARGE (a pattern gave up). */
int normal_run(const struct normalizer *m, const char *text, size_t n, bool first,
               struct regex_work *regex, struct buf work[2], const struct buf **result);

/* Bytes of the white space character (Unicode's White_Space property) at text[0..n); 0: none. */
size_t normal_space_at(const char *text, size_t n);

/* Whether a word character (Unicode Technical Standard 18, annex C: a letter, also in a circle or
 * square, mark, digit, connector or joiner) ends text[0..n), or starts it. */
bool normal_word_before(const char *text, size_t n);
bool normal_word_at(const char *text, size_t n);

#endif
