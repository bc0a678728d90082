/* bpe: byte-pair merging over a vocabulary: the algorithm of tokenizer.json's BPE model and of
 * sentencepiece's BPE (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
 * Units"): of all adjacent pairs that have a merge, the one of lowest rank, leftmost first, is
 * merged until none is left. Immutable after bpe_open_*; any thread. */
#ifndef SIROCCO_BPE_H
#define SIROCCO_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

/* Two adjacent characters can be inside one token only if their classes can: ASCII characters are
 * their own class, U+2581 (VOCAB_SPACE) has one, all others share one. */
enum { BPE_CLASS_SPACE = 128, BPE_CLASS_OTHER, BPE_CLASS_COUNT };

struct bpe_pair;
struct bpe_char;
struct bpe_word;

struct bpe {
    const struct vocab *vocab;
    struct bpe_pair *pairs; /* open addressing by (left, right) */
    size_t pair_mask, n_pairs;
    struct bpe_char *chars; /* open addressing: character -> symbol */
    size_t char_mask;
    int n_symbols; /* vocab->n, and above it characters that occur in tokens but have none */
    uint32_t *extra;    /* [n_symbols - vocab->n] their code points */
    bool joins[BPE_CLASS_COUNT][BPE_CLASS_COUNT]; /* [left][right] */
    int32_t byte_symbols[256]; /* byte mode: the token of each byte, or -1 */
    struct bpe_word *words;    /* byte mode: open addressing: bytes -> token that a whole word is */
    size_t word_mask;
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

/* Open in byte mode: the symbols are bytes, a token's bytes are its piece in the vocabulary. Only
 * NORMAL tokens can be a whole word. ERR_NOMEM. */
int bpe_open_bytes(struct bpe *b, const struct vocab *v, size_t max_merges);
/* The same with the rule of rank files (tiktoken): every pair of tokens whose joined bytes are a
 * token may merge, lower id first; and a word that is a token is that token. */
int bpe_open_ranks(struct bpe *b, const struct vocab *v);
/* After the last bpe_add_merge in byte mode: find the tokens that merging their own bytes gives. A
 * word found among them needs no merging. ERR_NOMEM. */
int bpe_seal_bytes(struct bpe *b);

/* The work of one call: tokens are appended to out; failed: ERR_NOMEM. */
struct bpe_work {
    const struct bpe *bpe;
    struct token_list *out;
    struct buf ids;     /* int32_t: the symbols of the chunk */
    struct buf symbols; /* struct symbol */
    struct buf heap;    /* uint64_t: rank << 32 | position; a binary heap, smallest first */
    bool after_unk;     /* the last token put out stands for an unknown character */
    int failed;
};
void bpe_work_init(struct bpe_work *w, const struct bpe *b, struct token_list *out);
void bpe_work_free(struct bpe_work *w);

/* Append the tokens of text[0..n), normalised already. Any bytes; O(n log n). ERR_NOMEM. */
int bpe_encode(struct bpe_work *w, const char *text, size_t n);
/* The same of one word in byte mode (bpe_bytes.c). */
int bpe_encode_bytes(struct bpe_work *w, const char *text, size_t n);

/* Every merge, in the order of ranks, then of ids; left and right at or above vocab->n are
 * characters without a token. merges[b->n_pairs]. */
struct bpe_merge {
    int32_t left, right, id;
    uint32_t rank;
};
void bpe_list(const struct bpe *b, struct bpe_merge *merges);

/* Shared by bpe.c and bpe_bytes.c. */
void bpe_add_symbol(struct bpe_work *w, int32_t id);
void bpe_merge(struct bpe_work *w); /* merge the chunk gathered, and put it out */
int bpe_make_pairs(struct bpe *b, size_t max_merges); /* an empty pair table; ERR_NOMEM */

#endif
