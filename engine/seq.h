/* seq: one sequence: its tokens, its blocks, how far it is computed, its text and why it stops.
 *
 * Made on the loop by submit as part of the channel's one allocation; from then until its terminal
 * event it belongs to the engine thread. All its arrays have their final size from the start, so
 * that no step allocates (R4). */
#ifndef SIROCCO_SEQ_H
#define SIROCCO_SEQ_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/kv.h"
#include "engine/stream.h"

enum seq_state { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING, SEQ_PREEMPTED, SEQ_FINISHED };

struct seq {
    struct channel *channel;
    struct engine_request request; /* its pointers lead into this allocation */
    int32_t *tokens;               /* [n_tokens_max]: the prompt, then the output */
    int n_tokens, n_prompt, n_tokens_max;
    int32_t *stop_ids; /* the model's EOS ids (none with ignore_eos), then the request's */
    int n_stop_ids, n_eos;
    uint64_t seed;
    struct stream stream;
    bool strip_space;  /* the first piece's leading space is not part of the text */
    enum seq_state state;
    struct kv_table table;
    int n_computed;    /* tokens whose keys and values are stored */
    int n_prompt_sent; /* prompt events delivered; a recompute does not repeat them */

    /* the scheduler's */
    struct seq *prev, *next;
    uint64_t arrival;   /* order of submission */
    struct seq *leader; /* of its group, while its prompt is not in the cache; else NULL */
    int n_followers;
    int item;           /* index in the plan of this step; -1 */
    bool admitted;      /* has run before */
    int n_cached;       /* prompt tokens found in the cache at its first admission */
    int n_chunk_max;    /* tokens per step at most: room for prompt events */

    /* the step's */
    int n_pending;   /* 1: a token was drawn that the host does not know yet, else 0 */
    int pending_row; /* its row in the last draw */
    bool paused; /* the reader is behind: no room for an event (R3) */
    uint64_t submit_ns, admit_ns, first_token_ns, pause_ns;
};

/* What ended it; finish FINISH_NONE: nothing did. */
struct seq_stop {
    enum finish_reason finish;
    int stop_index;     /* -1 */
    int32_t stop_token; /* -1 */
    bool stop_is_eos;
};

struct seq_options {
    const int32_t *eos;
    int n_eos;
    int block_size;
    bool strip_space; /* see seq.strip_space */
    uint64_t seed;    /* used when the request has none */
};

/* Bytes that seq_init takes for arrays behind the struct; false: more than fits in memory.
 * request.max_tokens must be final. */
bool seq_bytes(const struct engine_request *request, const struct seq_options *options,
               size_t *bytes);

/* Fill s from request, copying all it points to into memory[seq_bytes()], aligned to 16. */
void seq_init(struct seq *s, const struct engine_request *request,
              const struct seq_options *options, void *memory);

/* Most bytes of text that one event of such a request carries, given the longest piece. */
size_t seq_text_max(const struct engine_request *request, size_t piece_max);

int seq_n_output(const struct seq *s);

/* Append one generated token. piece: its bytes (size 0: no text; see special_breaks). Writes the
 * text that may be sent now to out, seq_text_max bytes, and its size to *n_out. A stop token's text
 * is not sent unless the request shows special tokens, an EOS token's never. Stop strings count
 * from the token after min_tokens on, as stop tokens do. */
struct seq_stop seq_append(struct seq *s, int32_t token, const char *piece, size_t piece_size,
                           char *out, size_t *n_out);

/* The text that was still held back when the sequence ended for another reason than a stop string;
 * out as in seq_append. */
size_t seq_finish_text(struct seq *s, char *out);

/* Whether the highest logit is what the sampler would draw: greedy, nothing changes the logits and
 * no log-probability is asked for. */
bool seq_is_plain_greedy(const struct seq *s);

#endif
