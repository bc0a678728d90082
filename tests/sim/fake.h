/* fake: a model for the simulator. Its keys and values are a hash chain over positions and tokens,
 * kept in slots as the real ones are, and read back through the block tables: a wrong, stale or
 * overwritten block changes the chain, and with it every token that follows. */
#ifndef SIROCCO_SIM_FAKE_H
#define SIROCCO_SIM_FAKE_H

#include "engine/step.h"

enum { FAKE_VOCAB = 64, FAKE_EOS = 0 };

struct fake_slot {
    int32_t token, pos;
    uint64_t chain;
    uint64_t written; /* number of the step that wrote it */
};

struct fake {
    struct fake_slot *slots;
    int block_size, window;
    const struct kv *kv;  /* to see that only private blocks are written */
    uint64_t *chains;     /* of each row of the batch */
    int32_t *tokens;      /* of each row of the batch, on the device */
    float *logits;        /* [n_logits_max][FAKE_VOCAB] */
    struct draw_result *results; /* the host's */
    struct draw_result *drawn;   /* the device's, of the last step */
    int n_logits_max, n_draws_max, n_drawn, n_sent;
    uint64_t n_steps;
    uint64_t fails_at;    /* the step at which the device breaks; 0: never */
    int nan_one_in;       /* 0: no bad rows */
    uint64_t now_ns;
    char broken[200];     /* the first thing that was wrong; "" */
};

uint64_t fake_mix(uint64_t chain, uint64_t value);
uint64_t fake_start(void); /* the chain before the first token */
/* The logits after a chain, their pick, and whether they are bad. */
void fake_row(const struct fake *f, uint64_t chain, float *logits, struct pick_result *pick);
const char *fake_piece(int32_t token, size_t *size);

int fake_open(struct fake *f, int n_blocks, int block_size, int window, int n_tokens_max,
              int n_logits_max, int n_draws_max);
void fake_close(struct fake *f);
struct step_ops fake_ops(struct fake *f);

#endif
