/* evaluate: runs a model over texts outside the server: the logits of every position of a chunk.
 * One owner, one thread beside the device's own. */
#ifndef SIROCCO_EVALUATE_H
#define SIROCCO_EVALUATE_H

#include "engine/forward.h"
#include "engine/source.h"
#include "engine/tokenizer/tokenizer.h"

struct evaluate;

struct evaluate_options {
    const struct source *source; /* must outlive it */
    const char *quant;           /* quantize a float model so while loading; NULL: do not */
    const char *cpu_isa;         /* NULL: "auto" */
    int threads;                 /* 0: one per core */
    int chunk;                   /* tokens per chunk at most */
};

/* ERR_USAGE when the model was made for fewer tokens than chunk; else as engine_open. */
int evaluate_open(const struct evaluate_options *o, struct evaluate **out, struct err *err);
void evaluate_close(struct evaluate *e); /* NULL allowed */

struct model *evaluate_model(const struct evaluate *e);
const struct tokenizer *evaluate_tokenizer(const struct evaluate *e);
const char *evaluate_describe(const struct evaluate *e); /* "Q4_K on avx512, 2 threads" */
void evaluate_observe(struct evaluate *e, forward_observer *observe, void *user);

/* Run n <= chunk tokens (ids below the vocabulary's size) as a sequence of their own. */
int evaluate_run(struct evaluate *e, const int32_t *tokens, int n, struct err *err);

/* The logits [*n][vocab] of positions first.. of what was run last: *n is set to how many there are
 * at once, 1 or more. Valid until the next call. */
int evaluate_logits(struct evaluate *e, int first, const float **logits, int *n, struct err *err);

/* Tokens of a whole text, as many as a chunk and more; ids are appended. */
int evaluate_encode(const struct evaluate *e, const char *text, size_t size,
                    struct token_list *out, struct err *err);

#endif
