/* pretok: cuts a normalized segment into the words that merging never crosses: tokenizer.json's
 * pre-tokenizers, tekken.json's pattern and GGUF's pre-tokenizer names, all as stages of one
 * pattern each. Immutable after it is read; pretok_run may be called from any thread. */
#ifndef SIROCCO_PRETOK_H
#define SIROCCO_PRETOK_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/regex.h"

enum { STAGES_MAX = 8 };

/* What becomes of the matches of a stage's pattern (the names are tokenizer.json's). */
enum behavior {
    BEHAVIOR_ISOLATED,
    BEHAVIOR_REMOVED,
    BEHAVIOR_WITH_PREVIOUS,
    BEHAVIOR_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS
};

struct stage {
    struct regex *pattern; /* NULL: the words stay as they are; owned */
    enum behavior behavior;
    bool invert;        /* what is between matches counts as the match */
    const char *prefix; /* NULL, or first put in front of every word that does not begin so */
};

struct pretok {
    struct stage stages[STAGES_MAX];
    int n;
    struct buf patterns; /* of all stages, as they were given, each with a NUL behind */
};

/* The pattern of GPT-2's ByteLevel, with use_regex. */
#define PRETOK_GPT2                                                                                \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Append a stage; ERR_FORMAT when there are too many, else as regex_open. */
int pretok_add(struct pretok *p, const char *pattern, size_t n, enum regex_kind kind,
               enum behavior behavior, const char *where, struct err *err);
/* Append the stages that llama.cpp's pre-tokenizer of this name stands for; *ignore_merges as it
 * says there. ERR_FORMAT naming an unknown one. */
int pretok_add_named(struct pretok *p, const char *name, size_t n, bool *ignore_merges,
                     const char *where, struct err *err);
/* Such a name of these stages, one that agrees about ignore_merges if there is one (where merging
 * makes every token, it changes nothing); NULL: they have none. */
const char *pretok_name(const struct pretok *p, bool ignore_merges);
void pretok_free(struct pretok *p); /* zeroed allowed */

struct pretok_work {
    struct buf spans[2]; /* size_t pairs: [start, end) of each word */
    struct buf text[2];  /* where prefixes are written */
    struct buf pieces;   /* the cut of one word */
};
void pretok_work_init(struct pretok_work *w);
void pretok_work_free(struct pretok_work *w);

/* Hand each word of well-formed UTF-8 text to take, in order, until it returns non-zero, which is
 * then the result. ERR_NOMEM, ERR_TOO_LARGE (a pattern gave up). */
int pretok_run(const struct pretok *p, struct pretok_work *w, struct regex_work *regex,
               const char *text, size_t n, int (*take)(void *, const char *, size_t),
               void *context);

#endif
