/* fim: fill-in-the-middle: the tokens of a prompt that asks for what stands between two texts, in
 * the order and with the control tokens each family of code models was trained on.
 *
 * Immutable after fim_find; pure functions of their arguments, for any thread. */
#ifndef SIROCCO_FIM_H
#define SIROCCO_FIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/tokenizer/tokenizer.h"

enum { FIM_ENDS_MAX = 5 };

struct fim_row;

struct fim {
    const struct fim_row *row;
    int32_t prefix, suffix, middle; /* middle -1: the family has none */
    /* what ends an infilling beside the model's own end of sequence; generation must stop there */
    int32_t ends[FIM_ENDS_MAX];
    int n_ends;
};

/* false: the tokenizer has no family's tokens. */
bool fim_find(const struct tokenizer *t, struct fim *out);
const char *fim_family(const struct fim *f); /* "mistral", "qwen", .. */

/* Append the prompt between prefix and suffix (either may be empty). Control tokens written out in
 * the texts stay text. ERR_NOMEM. */
int fim_encode(const struct tokenizer *t, const struct fim *f, const char *prefix, size_t n_prefix,
               const char *suffix, size_t n_suffix, struct token_list *out, struct err *err);

#endif
