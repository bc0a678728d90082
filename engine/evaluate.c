/* evaluate: the parts of an engine (engine_open.h) without its thread: one chunk of text after the
 * other through the forward pass. Owner: one thread. */
#include "engine/evaluate.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/engine_open.h"

enum { BLOCK_SIZE = 16, TEXT_BYTES = 96 };

struct evaluate {
    struct engine_parts parts;
    struct batch batch;
    int32_t *blocks;
    int chunk, n_blocks;
    char text[TEXT_BYTES];
};

static int open_parts(struct evaluate *e, const struct evaluate_options *o, struct err *err)
{
    struct engine_options options = {.source = o->source,
                                     .device = "cpu",
                                     .cpu_isa = o->cpu_isa ? o->cpu_isa : "auto",
                                     .threads = o->threads,
                                     .max_seqs = 64, /* so many rows of logits at once */
                                     .max_batch_tokens = o->chunk,
                                     .max_model_len = o->chunk,
                                     .block_size = BLOCK_SIZE,
                                     .kv_cache_fraction = 0.9,
                                     .kv_cache_type = "f32",
                                     .quant = o->quant};
    int rc = engine_open_parts(&options, &e->parts, err);
    if (rc)
        return rc;
    e->n_blocks = (o->chunk + BLOCK_SIZE - 1) / BLOCK_SIZE;
    if (e->parts.info.max_model_len < o->chunk || e->parts.info.n_blocks < e->n_blocks)
        return err_set(err, ERR_NOMEM, "no memory for the keys and values of %d tokens", o->chunk);
    e->blocks = calloc((size_t)e->n_blocks, sizeof *e->blocks);
    rc = e->blocks ? batch_init(&e->batch, o->chunk, 1) : ERR_NOMEM;
    for (int i = 0; !rc && i < e->n_blocks; i++)
        e->blocks[i] = i;
    snprintf(e->text, sizeof e->text, "%s on %s", e->parts.info.quant, e->parts.info.device);
    return rc ? err_set(err, rc, "out of memory") : 0;
}

int evaluate_open(const struct evaluate_options *o, struct evaluate **out, struct err *err)
{
    *out = NULL;
    struct evaluate *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(err, ERR_NOMEM, "out of memory");
    e->chunk = o->chunk;
    int rc = open_parts(e, o, err);
    if (rc) {
        evaluate_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void evaluate_close(struct evaluate *e)
{
    if (!e)
        return;
    batch_free(&e->batch);
    engine_open_free(&e->parts);
    free(e->blocks);
    free(e);
}

struct model *evaluate_model(const struct evaluate *e)
{
    return e->parts.model;
}

const struct tokenizer *evaluate_tokenizer(const struct evaluate *e)
{
    return e->parts.tokenizer;
}

const char *evaluate_describe(const struct evaluate *e)
{
    return e->text;
}

void evaluate_observe(struct evaluate *e, forward_observer *observe, void *user)
{
    forward_observe(e->parts.forward, observe, user);
}

int evaluate_run(struct evaluate *e, const int32_t *tokens, int n, struct err *err)
{
    CHECK(n > 0 && n <= e->chunk);
    batch_clear(&e->batch);
    int row = batch_add(&e->batch, tokens, n, 0, e->blocks, BLOCK_SIZE);
    for (int i = 0; i < n; i++)
        batch_want_logits(&e->batch, row + i);
    return forward_run(e->parts.forward, &e->batch, err);
}

int evaluate_logits(struct evaluate *e, int first, const float **logits, int *n, struct err *err)
{
    const struct draw_result *results;
    float *rows = NULL;
    int left = e->batch.n_rows - first, most = e->parts.forward_options.n_logits_max;
    CHECK(left > 0);
    *n = left < most ? left : most;
    int rc = forward_logits(e->parts.forward, &e->batch, first, *n, &rows, &results, err);
    *logits = rows;
    for (int i = 0; !rc && i < *n; i++)
        if (results[i].pick.bad)
            rc = err_set(err, ERR_FORMAT, "the model computes numbers that are not finite");
    return rc;
}

int evaluate_encode(const struct evaluate *e, const char *text, size_t size,
                    struct token_list *out, struct err *err)
{
    int rc = tokenizer_encode(e->parts.tokenizer, text, size, true, NULL, 0, out, err);
    for (size_t i = 0; !rc && i < out->n; i++)
        if (out->ids[i] < 0 || out->ids[i] >= e->parts.model->vocab)
            rc = err_set(err, ERR_FORMAT, "token %d is none of the model's %d", out->ids[i],
                         e->parts.model->vocab);
    return rc;
}
