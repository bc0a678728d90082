/* sched: policy only. Which sequences run in the next step, with how many tokens, on whose blocks.
 * No I/O, no device, no clock of its own (time is a parameter). Engine thread; memory is taken by
 * sched_init alone (R4). */
#ifndef SIROCCO_SCHED_H
#define SIROCCO_SCHED_H

#include "engine/kv.h"
#include "engine/pace.h"
#include "engine/seq.h"

struct sched_options {
    int max_seqs, max_batch_tokens;
    int window;        /* model.window_max: 0, or no query sees further back */
    bool prefix_cache;
    uint64_t step_ns_target; /* of steps with prompts beside decodes (pace.h); 0: no limit */
};

struct sched_list { /* by rank: priority, then arrival */
    struct seq *first, *last;
    int n;
};

struct sched_item { /* tokens [n_computed, n_computed + n) of seq run in this step */
    struct seq *seq;
    int n;
};

struct sched {
    struct sched_options options;
    struct kv *kv;
    struct sched_list waiting, running;
    struct sched_item *items; /* [max_seqs] the plan */
    int n_items, n_planned;   /* n_planned: tokens of all items */
    int n_decodes, n_prompt;  /* planned: items with but one token to compute; others' tokens */
    int tokens_max;           /* of the step being planned */
    struct pace pace;
    bool pressure;            /* the last plan ran out of blocks */
    uint64_t next_arrival;
    uint64_t n_preemptions;
    uint64_t n_prefix_queries, n_prefix_hits; /* tokens, once per admitted request */
};

int sched_init(struct sched *s, struct kv *kv, const struct sched_options *options); /* ERR_NOMEM */
void sched_free(struct sched *s); /* zeroed and NULL allowed */

/* Blocks a sequence of n_tokens needs to be run to its end, at the least. Submit refuses what needs
 * more than the pool has; because of that the sequence that ranks first can always go on. */
int sched_blocks_min(int n_tokens, int block_size, int window);

/* Tokens, prompt and output, one sequence may come to: max_model_len, or what the pool can hold. */
int sched_tokens_max(int max_model_len, int n_blocks, int block_size, int window);

/* A new sequence queues up. One of a group waits for the oldest of that group to have its prompt in
 * the cache, if it is still under way. */
void sched_add(struct sched *s, struct seq *seq);

/* Plan one step into s->items. A sequence with a pending token runs on with that one, unless it is
 * the last it may have. Who decodes, then prompt chunks, then new ones, within max_batch_tokens
 * and, where someone decodes, what pace allows of prompts. Whoever runs first in rank gets blocks
 * from whoever ranks last; then nothing is admitted. Paused sequences are left out. Returns
 * n_planned; 0: nothing can run now. */
int sched_plan(struct sched *s, uint64_t now_ns);

/* The planned tokens have been computed: move the counts on and seal full blocks. */
void sched_commit(struct sched *s);

/* A step that was planned with these n_decodes and n_prompt took so long: what pace learns from. */
void sched_took(struct sched *s, int n_decodes, int n_prompt, uint64_t ns);

/* The planned tokens are being computed: move the counts on; of sequences that have no token
 * pending, seal full blocks. */
void sched_advance(struct sched *s);
/* What a running sequence has computed is good: seal its full blocks, let those who wait for its
 * prompt go on. All tokens counted as computed are known. */
void sched_seal(struct sched *s, struct seq *seq);

/* The sequence is over: out of its queue, its blocks given back (findable: their contents may be
 * shared by later ones), its followers freed. */
void sched_finish(struct sched *s, struct seq *seq, bool findable);

/* Every invariant of queues and plan; 0 or ERR_INTERNAL with what is broken. For tests. */
int sched_check(const struct sched *s, struct err *err);

#endif
