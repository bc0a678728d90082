/* inspect: what a model is and what it would take, as one JSON object, without loading it: headers,
 * configuration and tokenizer are read, no page of a matrix is. The caller's thread; no state. */
#ifndef SIROCCO_INSPECT_H
#define SIROCCO_INSPECT_H

#include <jansson.h>

#include "engine/base/err.h"
#include "engine/model.h"

struct inspect_options {
    int64_t memory;        /* bytes to plan with */
    int max_model_len;     /* 0: the model's */
    int max_batch_tokens, max_seqs;
    int block_size;
    enum quant_type kv_type;
};

/* *out: {"model", "path", "format", "files", "arch", "features", "shapes", "parameters",
 * "weight_bytes", "tensors", "memory", "tokenizer", "chat", "pass"}, the caller's. A tokenizer or
 * template that can not be read is told as {"error": TEXT} in its place. Errors: as model_open;
 * ERR_USAGE for options out of range; ERR_NOMEM. */
int inspect_model(const struct source *source, const struct inspect_options *options, json_t **out,
                  struct err *err);

/* The ops of one step as forward.c runs them, each {"op", "weights", "shapes", "types", "note"}:
 * {"before": [...], "layers": [{"first", "last", "ops"}...], "after": [...]}, equal neighbouring
 * layers as one (inspect_pass.c). */
int inspect_pass(struct model *m, json_t **out, struct err *err);

#endif
