/* bpe: byte-pair merging over a vocabulary: the algorithm of tokenizer.json's BPE model and of
 * sentencepiece's BPE (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
 * Units"): of all adjacent pairs that have a merge, the one of lowest rank, leftmost first, is
 * merged until none is left. Immutable after bpe_open_*; any thread. */
#ifndef SIROCCO_BPE_H
#define SIROCCO_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

/* Two adjacent characters can be inside one token only if their classes can: ASCII characters are
 * their own class, U+2581 (the space of sentencepiece) has one, all others share one. */
enum { BPE_CLASS_SPACE = 128, BPE_CLASS_OTHER, BPE_CLASS_COUNT };

struct bpe_pair;
struct bpe_char;

struct bpe {
    const struct vocab *vocab;
    struct bpe_pair *pairs; /* open addressing by (left, right) */
    size_t pair_mask, n_pairs;
    struct bpe_char *chars; /* open addressing: character -> symbol */
    size_t char_mask, n_chars;
    int n_symbols; /* vocab->n, and above it characters that occur in tokens but have none */
    uint32_t *extra;    /* [n_symbols - vocab->n] their code points */
    bool joins[BPE_CLASS_COUNT][BPE_CLASS_COUNT]; /* [left][right] */
    bool split_spaces; /* a merge never crosses the front of U+2581 */
    bool fuse_unk;     /* a run of unknown characters is one unknown token */
    bool ignore_merges; /* a whole word in the vocabulary is taken as it is */
    bool no_bytes;      /* unknown characters are the unknown token even when bytes exist */
};

/* Room for max_merges merges over a sealed vocabulary (borrowed). ERR_NOMEM. */
int bpe_open(struct bpe *b, const struct vocab *v, size_t max_merges);
void bpe_close(struct bpe *b); /* zeroed allowed */

/* Merge number `rank`: left + right -> id. A pair that is there already keeps its first rank. */
void bpe_add_merge(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* Open with sentencepiece's rule instead of a list: every pair of symbols whose joined text is a
 * NORMAL, USER or UNUSED token may merge, higher score first. scores[vocab->n], finite. ERR_NOMEM.
 */
int bpe_open_scores(struct bpe *b, const struct vocab *v, const float *scores);

/* Append the tokens of text[0..n), normalised already. Any bytes; O(n log n). ERR_NOMEM. */
int bpe_encode(const struct bpe *b, const char *text, size_t n, struct token_list *out);

#endif
