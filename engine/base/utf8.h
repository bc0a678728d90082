/* utf8: decoding and validation (Unicode 15, section 3.9; RFC 3629). Pure functions. */
#ifndef SIROCCO_UTF8_H
#define SIROCCO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Decode the first character of text[0..n), n > 0. Returns its length 1..4 and sets *code; for an
 * ill-formed sequence returns the negated length of its maximal subpart (-1..-3: what one U+FFFD
 * replaces) and sets *code to 0xFFFD; returns 0 when text is a valid but incomplete prefix. */
int utf8_decode(const char *text, size_t n, uint32_t *code);

/* Encode code (a scalar value) to out[4]; returns the length. */
int utf8_encode(uint32_t code, char out[4]);

int utf8_valid(const char *text, size_t n); /* 1 if all of it is well-formed */

/* Length of the longest prefix of text that does not end inside a character that could still be
 * completed by later bytes (ill-formed bytes count as complete). n - result is at most 3. */
size_t utf8_complete(const char *text, size_t n);

#endif
