/* unicode: what the Unicode Character Database says of characters, and its normalization forms.
 * A build made WITHOUT=utf8proc knows none of it: who opens a tokenizer asks unicode_here first,
 * and refuses one that needs the rest. */
#ifndef SIROCCO_UNICODE_H
#define SIROCCO_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"

bool unicode_here(void);

/* A letter, also in a circle or square, mark, digit, connector or joiner: Unicode Technical
 * Standard 18, annex C. */
bool unicode_is_word(uint32_t c);
bool unicode_is_mark(uint32_t c);   /* categories Mn, Mc, Me */
uint32_t unicode_lower(uint32_t c); /* the simple mapping: one character for one */

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* Append the form (Unicode Standard Annex 15) of well-formed UTF-8 to out; linear in its size
 * whatever it holds. 0, ERR_NOMEM, or ERR_INTERNAL: in was not well-formed. */
int unicode_normalize(enum unicode_form form, const struct buf *in, struct buf *out);

#endif
