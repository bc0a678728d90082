/* alphabet: GPT-2's byte alphabet: how byte-level vocabularies write bytes as characters. Bytes
 * that print in Latin-1 stand for themselves, the others for U+0100 and up in their order (Radford
 * et al. 2019, "Language Models are Unsupervised Multitask Learners", its published encoder). Pure
 * functions. */
#ifndef SIROCCO_ALPHABET_H
#define SIROCCO_ALPHABET_H

#include <stddef.h>

/* The bytes that text stands for, written to out[n]; returns their count, or -1 when a character is
 * not of the alphabet or the text is not UTF-8. */
int alphabet_decode(const char *text, size_t n, char *out);

/* The character of one byte, as UTF-8 in out[2]; returns its size, 1 or 2. */
int alphabet_encode(unsigned char byte, char out[2]);

#endif
