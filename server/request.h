/* request: the fields of a chat or completions request, parsed, checked and defaulted: OpenAI's
 * tables, vLLM's extensions that this server honours, and clear refusals of what it does not.
 *
 * Pure functions of (text, limits): no exchange, no engine. They run on a prep worker. Unknown
 * fields are ignored, an explicit null is an absent field, integral floats count as integers. */
#ifndef SIROCCO_REQUEST_H
#define SIROCCO_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/sample.h"
#include "engine/stream.h"
#include "server/tools.h"

enum {
    REQUEST_N_MAX = 128,
    REQUEST_SEQUENCES_MAX = 128, /* prompts x n */
    REQUEST_PROMPTS_MAX = 2048,
    REQUEST_STOPS_MAX = 4,
    REQUEST_STOP_IDS_MAX = 128,
    REQUEST_TOP_MAX = SAMPLE_TOP_MAX,
    REQUEST_LEGACY_TOP_MAX = 5, /* completions */
    REQUEST_BEST_OF_MAX = 20,
    REQUEST_MODEL_BYTES_MAX = 256,
    REQUEST_SALT_BYTES_MAX = 1024,
    REQUEST_COMPLETION_TOKENS = 16 /* OpenAI's default of /v1/completions */
};

struct request_limits { /* what parsing must know of the server; borrowed */
    int vocab_size;
    const struct sample_params *defaults; /* the model's */
    const char *const *names;             /* the model is served under */
    int n_names;
};

struct request {
    /* both */
    const char *model;           /* the name to answer with; borrowed from limits */
    struct sample_params params; /* bias in the arena; logprobs set */
    int n;
    int max_tokens; /* -1: not given */
    bool stream, include_usage, continuous_usage;
    struct stream_stops stops; /* in the arena */
    bool include_stop;
    int32_t *stop_token_ids; /* in the arena */
    int n_stop_token_ids;
    bool ignore_eos, show_special, return_token_ids;
    int add_special_tokens; /* -1: not given; 0, 1 */
    uint64_t cache_salt;    /* 0: none */
    int priority;
    /* chat; new references until request_free */
    json_t *messages; /* as chat_render wants them; see messages.h */
    json_t *kwargs;   /* or NULL */
    struct tools tools;
    bool add_generation_prompt, continue_final_message;
    bool prefix; /* the final message says of itself, as Mistral's API has it, that it goes on */
    bool split_reasoning; /* else it stays in the text (reasoning_format "none") */
    bool show_reasoning;  /* else it is left out (include_reasoning false) */
    /* completions */
    bool echo;
    const json_t *prompt; /* string or array, borrowed from root; see prompt.h */
    int n_prompts;        /* what it holds; n_prompts x n <= REQUEST_SEQUENCES_MAX */
    /* completions, infill; borrowed from root */
    const char *suffix; /* NULL: nothing is to be filled in; else all prompts are texts */
    size_t suffix_size;

    json_t *root; /* the body */
};

/* Fill r (which need not be initialised) from a body. Errors: those of json_budget.h and field.h,
 * ERR_MISSING, ERR_VALUE, ERR_UNSUPPORTED_VALUE, ERR_UNSUPPORTED_PARAM, ERR_ARRAY_LONG,
 * ERR_ARRAY_EMPTY, ERR_NO_MODEL, each with its param; then r holds nothing. */
int request_parse_chat(struct request *r, const char *text, size_t n,
                       const struct request_limits *limits, struct arena *arena, struct err *err);
int request_parse_completion(struct request *r, const char *text, size_t n,
                             const struct request_limits *limits, struct arena *arena,
                             struct err *err);
/* llama.cpp's POST /infill: its names of fields, suffix set, prompt not (see
 * request_infill_prefix); n is 1. */
int request_parse_infill(struct request *r, const char *text, size_t n,
                         const struct request_limits *limits, struct arena *arena, struct err *err);
/* Everything before the gap, in the arena: the texts of input_extra, a line each, input_prefix,
 * prompt. Before request_free. */
int request_infill_prefix(const struct request *r, struct arena *arena, const char **text,
                          size_t *size, struct err *err);

/* Stop at these tokens, too. */
int request_add_stop_ids(struct request *r, const int32_t *ids, int n, struct arena *arena,
                         struct err *err);

/* Let go of the JSON; what lives in the arena stays. NULL and zeroed allowed. */
void request_free(struct request *r);

/* request_refuse.c: 0, or why a field that is known and set can not be honoured. */
int request_refuse_chat(const json_t *root, struct err *err);
int request_refuse_completion(const json_t *root, struct err *err);
/* ERR_NO_MODEL; served: a name that would have been right. */
int request_no_model(struct err *err, const char *name, const char *served);

#endif
