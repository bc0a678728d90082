/* unigram: the segmentation of greatest probability under a unigram language model (Kudo 2018,
 * "Subword Regularization"): the tokens whose scores (log probabilities) sum highest, found by
 * Viterbi's algorithm. Immutable after unigram_open; any thread. */
#ifndef SIROCCO_UNIGRAM_H
#define SIROCCO_UNIGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

struct unigram_edge;

struct unigram {
    const struct vocab *vocab;
    double *scores; /* [vocab->n] */
    double unk_score;
    struct unigram_edge *edges; /* open addressing: a trie over the tokens' texts */
    size_t edge_mask;
    uint32_t n_nodes;
    bool byte_fallback;
};

/* Over a sealed vocabulary (borrowed) and scores[vocab->n], finite: taken over, also on failure.
 * Only NORMAL tokens are part of a segmentation. ERR_NOMEM. */
int unigram_open(struct unigram *u, const struct vocab *v, double *scores);
void unigram_close(struct unigram *u); /* zeroed allowed */

/* Append the tokens of one word, normalised already. What no token covers is the unknown token,
 * runs of it once, or its bytes' tokens. paths: work of this call, reused. O(n x the longest
 * token). ERR_NOMEM. */
int unigram_encode(const struct unigram *u, struct buf *paths, const char *text, size_t n,
                   struct token_list *out);

#endif
