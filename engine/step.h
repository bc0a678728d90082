/* step: one turn of the engine: take, plan, run, sample, deliver. Inside engine/ alone: engine.c
 * drives it on the engine's thread, tests/sim without a thread and with a fake model.
 *
 * After step_init nothing here allocates or frees (R4). */
#ifndef SIROCCO_STEP_H
#define SIROCCO_STEP_H

#include "engine/batch.h"
#include "engine/draw.h"
#include "engine/mailbox.h"
#include "engine/sched.h"

/* What a step needs of a model, a tokenizer and a clock; user is passed through. */
struct step_ops {
    int (*run)(void *user, const struct batch *b, struct err *err); /* as forward_run */
    int (*logits)(void *user, const struct batch *b, int first, int n, float **logits,
                  const struct draw_result **results, struct err *err); /* as forward_logits */
    /* as forward_send and forward_collect; not called without options.ahead */
    int (*send)(void *user, int n, struct err *err);
    int (*collect)(void *user, const struct draw_result **results, struct err *err);
    const char *(*piece)(void *user, int32_t token, bool with_special, size_t *size);
    uint64_t (*now_ns)(void *user); /* monotonic */
    void *user;
};

struct step_options {
    struct sched_options sched;
    int n_blocks, block_size;
    int n_logits_max;   /* rows per call of ops.logits */
    int n_draws_max;    /* rows that the device draws in one pass; 0: the host draws all */
    int vocab;
    bool ahead;         /* with n_draws_max: a step is enqueued before the last one's end */
    int n_tokens_valid; /* ids >= this are never drawn */
    size_t piece_max;   /* longest piece in bytes */
    int pause_ms_max;
    struct kv_key key;  /* random: see kv.h */
};

struct step_row { /* whose logits a wanted row is: the token after position pos */
    struct seq *seq;
    int pos;
};

struct step {
    struct step_options options;
    struct step_ops ops;
    struct mailbox *mailbox;
    struct kv kv;
    struct sched sched;
    struct batch batch;
    struct sampler *sampler;
    struct step_row *rows; /* [max_batch_tokens], parallel to batch.rows */
    struct draw_plan draws; /* of these rows, if the device draws */
    struct step_row *flight; /* [max_batch_tokens] rows of the step in flight; seq NULL: ended */
    int n_flight, flight_decodes, flight_prompt; /* as planned */
    uint64_t flight_ns; /* when the device came to it */
    bool in_flight;
    char *text;            /* [text_max] of the event being made */
    struct engine_stats stats;
    struct err death; /* code 0: alive */
};

int step_init(struct step *s, const struct step_options *options, const struct step_ops *ops,
              struct mailbox *mailbox); /* ERR_NOMEM */
void step_free(struct step *s); /* zeroed and NULL allowed */

/* One step. True: something was computed or ended, step again at once. False: nothing can run until
 * the loop's side acts or *sleep_ms have passed (-1: no limit). */
bool step_once(struct step *s, int *sleep_ms);

#endif
