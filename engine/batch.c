/* batch: one step's flat arrays (batch.h). Owned and filled by the engine thread.
 *
 * Invariants: the rows of seqs[] are contiguous and in order, and together they are all n_tokens
 * rows; wanted rows exist. Capacities are the engine's own limits, so going over one is a
 * programmer's error. */
#include "engine/batch.h"

#include <stdlib.h>

int batch_init(struct batch *b, int n_tokens_max, int n_seqs_max)
{
    *b = (struct batch){.n_tokens_max = n_tokens_max, .n_seqs_max = n_seqs_max,
                        .n_rows_max = n_tokens_max};
    CHECK(n_tokens_max > 0 && n_seqs_max > 0);
    b->tokens = calloc((size_t)n_tokens_max, sizeof *b->tokens);
    b->pos = calloc((size_t)n_tokens_max, sizeof *b->pos);
    b->slots = calloc((size_t)n_tokens_max, sizeof *b->slots);
    b->rows = calloc((size_t)n_tokens_max, sizeof *b->rows);
    b->seqs = calloc((size_t)n_seqs_max, sizeof *b->seqs);
    if (b->tokens && b->pos && b->slots && b->rows && b->seqs)
        return 0;
    batch_free(b);
    return ERR_NOMEM;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    free(b->tokens);
    free(b->pos);
    free(b->slots);
    free(b->rows);
    free(b->seqs);
    *b = (struct batch){0};
}

void batch_clear(struct batch *b)
{
    b->n_tokens = b->n_seqs = b->n_rows = 0;
    b->picks_only = false;
    b->draws = NULL;
    b->changes = NULL;
}

int batch_add(struct batch *b, const int32_t *tokens, int q_len, int first_pos,
              const int32_t *blocks, int block_size)
{
    int start = b->n_tokens;
    CHECK(q_len > 0 && q_len <= b->n_tokens_max - b->n_tokens && b->n_seqs < b->n_seqs_max);
    CHECK(first_pos >= 0 && block_size > 0);
    for (int i = 0; i < q_len; i++) {
        int p = first_pos + i;
        b->tokens[start + i] = tokens[i];
        b->pos[start + i] = p;
        b->slots[start + i] = (int64_t)blocks[p / block_size] * block_size + p % block_size;
    }
    b->seqs[b->n_seqs++] = (struct attention_seq){
        .q_start = start, .q_len = q_len, .kv_len = first_pos + q_len, .blocks = blocks};
    b->n_tokens += q_len;
    return start;
}

void batch_want_logits(struct batch *b, int row)
{
    CHECK(row >= 0 && row < b->n_tokens && b->n_rows < b->n_rows_max);
    b->rows[b->n_rows++] = row;
}
