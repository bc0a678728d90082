/* engine_open: from options to the loaded parts of an engine: model, tokenizer, template, device,
 * memory plan, forward pass. Inside engine/ alone; engine.c puts a thread around the parts. */
#ifndef SIROCCO_ENGINE_OPEN_H
#define SIROCCO_ENGINE_OPEN_H

#include "engine/base/buf.h"
#include "engine/engine.h"
#include "engine/forward.h"

struct engine_parts {
    struct gguf *gguf; /* NULL: not a GGUF model */
    struct model *model;
    struct tokenizer *tokenizer;
    struct chat *chat;
    const struct kernels *kernels;
    struct device *device;
    struct forward *forward;
    struct forward_options forward_options;
    struct engine_info info;
    int64_t kv_bytes;        /* of the whole pool */
    int64_t memory_free;     /* before the plan was made */
    bool strips_first_space; /* the tokenizer's decoder does so at the start of a text */
};

/* Load everything, plan and take the memory, run one token. On failure nothing is left. */
int engine_open_parts(const struct engine_options *o, struct engine_parts *parts, struct err *err);
void engine_open_free(struct engine_parts *parts); /* zeroed allowed */

/* Rows of logits that one call computes. */
int engine_open_logits_rows(const struct model *m, int max_seqs, int max_batch_tokens);

/* The plan as a table of lines. */
int engine_open_describe(const struct engine_parts *parts, struct buf *out);

#endif
