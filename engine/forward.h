/* forward: the transformer, read like the paper. Engine thread only. Buffers are allocated at open
 * (R4); a step enqueues ops in one visible order. */
#ifndef SIROCCO_FORWARD_H
#define SIROCCO_FORWARD_H

#include "engine/batch.h"
#include "engine/model.h"

struct forward_options {
    int n_tokens_max;   /* max_batch_tokens */
    int n_logits_max;   /* rows of logits per forward_logits call */
    int n_draws_max;    /* rows that the device draws in one pass; 0: none */
    int n_blocks, block_size;
    enum quant_type kv_type;
};

struct forward;

/* What the matrices of a layer are multiplied with, as it is about to be: input of q, k and v;
 * input of attention's output; input of gate and up (or of router and experts); input of down
 * (dense FFN only). rows: host memory of the CPU backend, [n][cols]. */
enum forward_point { FORWARD_ATTN_IN, FORWARD_ATTN_OUT, FORWARD_FFN_IN, FORWARD_FFN_MID };
typedef void forward_observer(void *user, int layer, enum forward_point point, const float *rows,
                              int n, int cols);
/* From now on tell observe; NULL: nobody. */
void forward_observe(struct forward *f, forward_observer *observe, void *user);

/* Bytes forward_open will take beside the weights and the KV pool: activations and logits. */
size_t forward_workspace_bytes(const struct model *m, const struct kernels *k,
                               const struct forward_options *o);
int forward_open(struct model *m, const struct kernels *k, struct device *device,
                 const struct forward_options *o, struct forward **out, struct err *err);
void forward_close(struct forward *f); /* NULL allowed */

/* Does a device draw this model's tokens: may n_draws_max be above 0, and a batch have draws? */
bool forward_can_draw(const struct model *m, const struct kernels *k);

/* Run all layers over the batch: KV is stored, hidden states kept; of a batch with draws and at
 * most n_draws_max rows the tokens are drawn too. ERR_DEVICE latches. */
int forward_run(struct forward *f, const struct batch *b, struct err *err);

/* The next pass may be run before the results of the last one, which drew n rows of a batch with
 * draws, have been looked at: send them on their way, and later wait for them. They are valid until
 * the next call of send or of forward_logits. */
int forward_send(struct forward *f, int n, struct err *err);
int forward_collect(struct forward *f, const struct draw_result **results, struct err *err);

/* Logits [n][vocab] of batch rows b->rows[first .. first + n), n <= n_logits_max, and what was
 * drawn of them; without b->draws only the picks. On return both are in host memory, valid until
 * the next call on f; logits may be written to. Rows that the device drew, and all with
 * b->picks_only, hold nothing of use. */
int forward_logits(struct forward *f, const struct batch *b, int first, int n, float **logits,
                   const struct draw_result **results, struct err *err);

#endif
