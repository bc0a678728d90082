/* regex: the patterns of tokenizer files, run by PCRE2 with JIT and match limits.
 *
 * Tokenizer files are written for Oniguruma (tokenizer.json) and Rust's regex (tekken.json, and
 * some parts of tokenizer.json): their \s, \d and \w are Unicode's White_Space, Nd and word
 * characters. A pattern is rewritten so that PCRE2 agrees; what cannot be is refused by name.
 * A regex is immutable after open and open to any thread; a regex_work belongs to one call. */
#ifndef SIROCCO_REGEX_H
#define SIROCCO_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"

enum { REGEX_PATTERN_MAX = 1 << 16 };

struct regex;
struct regex_work;

enum regex_kind {
    REGEX_LITERAL,   /* matches exactly this text */
    REGEX_RUST,      /* \w also takes the joiners U+200C and U+200D */
    /* ^ and $ match at lines; \w, but not in a class, also takes Latin-1's raised digits and
     * fractions */
    REGEX_ONIGURUMA,
};

/* where opens the message. ERR_FORMAT, ERR_NOMEM. */
int regex_open(const char *pattern, size_t n, enum regex_kind kind, const char *where,
               struct regex **out, struct err *err);
void regex_close(struct regex *r); /* NULL allowed */

struct regex_work *regex_work_open(void); /* NULL: out of memory */
void regex_work_close(struct regex_work *w); /* NULL allowed */

/* The leftmost match in well-formed UTF-8 text[0..n) that starts at or after `at` and is not empty:
 * 1 and [*start, *end); 0: none; ERR_TOO_LARGE: the pattern gave up on this text. */
int regex_next(const struct regex *r, struct regex_work *w, const char *text, size_t n, size_t at,
               size_t *start, size_t *end);

#endif
