/* batch: one step's work as flat arrays, filled by the engine thread from the scheduler's plan and
 * read by forward.c. All arrays are allocated once; a step only fills them (R4). */
#ifndef SIROCCO_BATCH_H
#define SIROCCO_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "kernels/kernels.h"

struct batch {
    int n_tokens, n_tokens_max;
    int32_t *tokens; /* [n_tokens]; ~i: the token of row i of the device's last draw */
    int32_t *pos;    /* [n_tokens] position in its sequence */
    int64_t *slots;  /* [n_tokens] KV slot */
    int n_seqs, n_seqs_max;
    struct attention_seq *seqs; /* [n_seqs]; their rows are contiguous and in order */
    int n_rows, n_rows_max;     /* rows of hidden states whose logits are wanted */
    int32_t *rows;              /* [n_rows] indices into tokens; n_rows_max = n_tokens_max */
    /* Of a device that draws, parallel to rows, set once the batch is filled; NULL: it does not.
     * Logits of the rows it draws stay there. */
    const struct draw_row *draws;
    const struct draw_change *changes;
    bool picks_only; /* without draws: of the rows asked for next, picks are all that is wanted */
};

int batch_init(struct batch *b, int n_tokens_max, int n_seqs_max);
void batch_free(struct batch *b);
void batch_clear(struct batch *b);

/* Append q_len tokens of one sequence at positions first.. whose KV goes to blocks[p / block_size];
 * CHECKs the capacities (the scheduler's budget keeps them). Returns the first token's row. */
int batch_add(struct batch *b, const int32_t *tokens, int q_len, int first_pos,
              const int32_t *blocks, int block_size);
void batch_want_logits(struct batch *b, int row);

#endif
