/* engine: the public door: open, close, submit, cancel, poll, release, tokenize, render, info,
 * stats. The server knows nothing of the engine but this header (and tokenizer.h, chat.h, sample.h
 * for the types it passes).
 *
 * Threads: engine_open and engine_close on the main thread. submit, cancel, poll, next, release on
 * one thread, the loop ("loop" below). tokenizer, chat, info: immutable, any thread. Everything
 * else happens on the engine's own thread, started by open.
 *
 * Rules (DESIGN 3): R1 one submit yields exactly one terminal event, cancelled or not, and the loop
 * releases the channel only after it. R3 a full ring pauses its own sequence. R6 device errors
 * latch: every live channel gets EVENT_FAILED and later submits fail with ERR_DEAD. */
#ifndef SIROCCO_ENGINE_H
#define SIROCCO_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/sample.h"
#include "engine/source.h"
#include "engine/stream.h"
#include "engine/template/chat.h"
#include "engine/tokenizer/tokenizer.h"

struct engine;
struct channel; /* one request's way through: the loop holds it from submit to release */

struct engine_options {
    const struct source *source; /* must outlive the engine */
    const char *device;          /* "cpu", "auto", "cuda", "cuda:N" */
    const char *cuda_plugin;     /* path of the CUDA backend; NULL: beside the program */
    bool deterministic;          /* CUDA: see kernels.h; the CPU is always so */
    double gpu_memory_fraction;  /* CUDA: of the whole memory; weights and KV cache fill it */
    const char *cpu_isa;         /* "auto", "base", "avx2", "avx512", "avx512-bf16" */
    int threads;                 /* 0: automatic */
    int max_seqs;                /* running sequences at most; 0: see engine_open.c, settle */
    int max_batch_tokens;        /* tokens per step at most; 0: likewise */
    int max_model_len;           /* 0: the model's own context length (or what fits in memory) */
    int itl_target_ms;           /* of steps with prompts beside decodes (pace.h); 0: no limit */
    int block_size;              /* tokens per KV block */
    int64_t kv_cache_bytes;      /* 0: kv_cache_fraction of free memory */
    double kv_cache_fraction;
    const char *kv_cache_type;   /* "f32", "f16", "bf16", "q8_0", "fp8" */
    int max_queue;               /* submitted, not running, at most */
    int pause_ms_max;            /* a reader that takes nothing for so long is cancelled (R3) */
    const char *quant;           /* quantize a float model to this type; NULL, "none": do not */
    bool prefix_cache;
    const char *chat_template;   /* template source, or NULL */
    const char *chat_template_name; /* of the model's named templates, or NULL */
    const char *repack_cache;    /* folder where repacked weights are kept, or NULL */
    bool mistral_native;         /* Mistral's own encoding, whatever template there is */
    const char *tokenizer;       /* NULL, "json", "tekken", "spm" */
    bool measure_limits;         /* fill engine_info.limit_*: a second more at open */
    /* progress of loading, 0..1, called from engine_open; NULL: none */
    void (*progress)(void *user, const char *what, double fraction);
    /* called on the engine's thread when events wait and the dirty list was empty (one per step at
     * most), and when the engine died: wake the loop (uv_async_send) and nothing else */
    void (*wake)(void *user);
    void *user;
};

enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };

/* One sequence to generate. All pointers are copied by submit (one allocation, freed by release).
 */
struct engine_request {
    const int32_t *tokens; /* the prompt, 1..max_model_len - 1 ids, all < vocab_size */
    int n_tokens;
    int max_tokens;        /* >= 0; clamped to max_model_len - n_tokens; 0: prompt logprobs only */
    struct sample_params params;
    struct stream_stops stops;
    bool include_stop;     /* include_stop_str_in_output */
    const int32_t *stop_token_ids; /* beside the model's EOS ids */
    int n_stop_token_ids;
    bool ignore_eos;
    bool show_special;     /* skip_special_tokens: false */
    bool special_breaks;   /* a token without text parts what stands around it: no stop string and
                            * no character reaches over it (markers of calls and of thinking); else
                            * the text goes on as if the token were not there */
    int prompt_logprobs;   /* -1: none; else events for every prompt token, with so many tops */
    uint64_t cache_salt;   /* sequences share cached blocks only under the same salt */
    uint64_t group;        /* 0, or the same for the n choices of one request: the followers start
                            * when the first has its prompt in the cache */
    int priority;          /* lower is more urgent; 0 */
};

enum event_kind {
    EVENT_PROMPT, /* one prompt token with its logprob (first: none); only with prompt_logprobs */
    EVENT_TOKEN,  /* one generated token; text may be empty while held back */
    EVENT_DONE,   /* terminal: finish, usage; text may carry what was held back */
    EVENT_FAILED  /* terminal: error */
};

struct engine_usage {
    int prompt_tokens, cached_tokens, output_tokens;
    double queue_ms, first_token_ms, total_ms; /* since submit; first_token_ms < 0: none */
};

struct event {
    enum event_kind kind;
    int32_t token;
    float logprob; /* NaN when not asked for, or of the first prompt token */
    int n_top;
    struct sample_top top[SAMPLE_TOP_MAX];
    const char *text; /* valid until the next engine_next on this channel; NUL-terminated */
    size_t text_size;
    enum finish_reason finish;
    int stop_index;        /* DONE by stop string: its index; else -1 */
    int32_t stop_token;    /* DONE by a stop token: its id; else -1 */
    bool stop_is_eos;      /* that token is one of the model's EOS ids */
    struct engine_usage usage;
    int error;             /* FAILED: ERR_*; CANCELLED finishes are DONE */
    char error_text[160];
};

struct engine_info {                                /* constant after open */
    const char *model_name, *arch, *device,
        *quant; /* "sirocco-demo", "mistral", "avx512, 2 threads" */
    int vocab_size, max_model_len, context_length, block_size, n_blocks, max_seqs, max_batch_tokens;
    int64_t n_parameters, weight_bytes, kv_bytes_per_token, workspace_bytes;
    const char *kv_type;
    bool has_chat_template;
    int32_t eos[16];
    int n_eos;
    struct sample_params defaults; /* generation_config.json over the table's standards */
    /* operations of the matrix products, two to a multiply-add: of a token in the layers, and of
     * the logits of one; the layers' weights that a token reads, and the head's, in bytes */
    double layers_operations, head_operations, layers_bytes, head_bytes;
    double limit_read_bytes, limit_operations; /* per second; 0: not measured */
    const char *limit_instruction;             /* "int8", ... */
};

enum { ENGINE_STEP_BUCKETS = 13 };
struct engine_stats { /* a snapshot published each step */
    int running, waiting, paused;
    int kv_blocks_used, kv_blocks_total, kv_blocks_cached;
    uint64_t steps, preemptions, prompt_tokens, cached_tokens, output_tokens;
    uint64_t requests_submitted, requests_finished, requests_cancelled, requests_failed;
    uint64_t prefix_queries, prefix_hits; /* tokens; once per admitted request */
    uint64_t heartbeat_ns; /* monotonic time of the engine's last sign of life */
    bool busy;             /* work exists: a heartbeat older than the stall limit means stuck */
    bool dead;
    char dead_text[160];
    uint64_t step_tokens_bucket[ENGINE_STEP_BUCKETS]; /* 1 8 16 32 64 128 .. 8192 16384, le */
    uint64_t step_tokens_sum;
};

/* Load the model, plan and take the memory, start the thread, run one warm-up token. *out is set
 * only on success. Errors: whatever a file, an option or the machine had wrong, with its reason. */
int engine_open(const struct engine_options *options, struct engine **out, struct err *err);

/* Stop the thread and free all. Every channel must have been released (CHECKed). */
void engine_close(struct engine *e); /* NULL allowed */

const struct engine_info *engine_info(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e);
const struct chat *engine_chat(const struct engine *e);

/* Write the memory plan as a table of text lines (weights, KV, workspace, sequences that fit). */
struct buf;
int engine_memory_plan(const struct engine *e, struct buf *out);

/* Loop. Hand a request over. user comes back from engine_poll. Errors: ERR_FULL (queue bound),
 * ERR_CONTEXT (prompt >= max_model_len, or more blocks than the pool has), ERR_VALUE (ids or
 * parameters out of range), ERR_DEAD, ERR_NOMEM; then no channel exists. */
int engine_submit(struct engine *e, const struct engine_request *request, void *user,
                  struct channel **out, struct err *err);
void engine_cancel(struct channel *c); /* loop; any time before release; idempotent */

/* Loop, after a wake. The next channel with unread events, or NULL when none is left. Take all of
 * its events with engine_next before the next poll (or as many as wanted: unread ones stay, and the
 * channel must then be read again by engine_next on the reader's own initiative). */
struct channel *engine_poll(struct engine *e, void **user);
/* 1: *event filled; 0: none now. After a terminal event only release may follow. */
int engine_next(struct channel *c, struct event *event);
void engine_release(struct channel *c); /* loop, after the terminal event; frees it */

void engine_stats(struct engine *e, struct engine_stats *out); /* any thread */

#endif
