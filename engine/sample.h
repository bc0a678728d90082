/* sample: THE TABLE of sampling parameters, the chain of steps, and the counter-based RNG.
 *
 * A draw is a pure function of (logits, parameters, tokens so far, seed, position): the same seed
 * gives the same tokens at any batch size. Engine thread; scratch is allocated once (R4). */
#ifndef SIROCCO_SAMPLE_H
#define SIROCCO_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "kernels/kernels.h"

enum { SAMPLE_BIAS_MAX = 1024, SAMPLE_TOP_MAX = 20 };

struct sample_bias {
    int32_t token;
    float bias;
};

struct sample_params {
    float temperature, top_p, min_p, typical_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;     /* 0 or -1: off */
    int32_t min_tokens;/* stop tokens are masked before this many */
    int64_t seed;
    bool has_seed;     /* else the engine picks one per request */
    int32_t logprobs;  /* -1: none; 0..20 alternatives beside the chosen token's */
    int n_bias;
    struct sample_bias *bias; /* [n_bias], owned by the request */
};

/* One row per numeric parameter that JSON may set: request parsing, range errors, documentation
 * and defaults all come from it. */
enum sample_kind { SAMPLE_FLOAT, SAMPLE_INT32, SAMPLE_INT64 };
struct sample_param {
    const char *name;  /* JSON name: "top_p" */
    const char *alias; /* another server's name for it, or NULL: "repeat_penalty" */
    enum sample_kind kind;
    size_t offset;     /* in struct sample_params */
    double min, max, standard;
    const char *help;
};
extern const struct sample_param sample_param_table[];
extern const int sample_param_count;

void sample_params_init(struct sample_params *p); /* the table's standards; no seed, no logprobs */
int sample_params_check(const struct sample_params *p,
                        struct err *err); /* ranges; names the field */

struct sample_top {
    int32_t token;
    float logprob;
};
struct sample_result {
    int32_t token;
    float logprob;  /* of raw logits (before penalties and temperature), natural log */
    int n_top;
    struct sample_top top[SAMPLE_TOP_MAX]; /* the best by raw logit, descending */
};

struct sampler; /* scratch of vocab entries; one per engine */
int sampler_open(int vocab, struct sampler **out);
void sampler_close(struct sampler *s);

/* What one draw reads. tokens[0..n_prompt) is the prompt, [n_prompt..n) the output so far. */
struct sample_input {
    float *logits; /* [vocab]; changed in place */
    const struct pick_result *pick;
    const struct sample_params *params;
    uint64_t seed; /* resolved */
    const int32_t *tokens;
    int n, n_prompt;
    int n_tokens_valid;      /* ids >= this have no text and are never drawn */
    const int32_t *stop_ids; /* masked while fewer than min_tokens were made */
    int n_stop_ids;
};

/* Chain: raw logprobs; bias; repetition (Keskar et al. 2019), presence, frequency penalties;
 * min_tokens mask; greedy when temperature is 0, else temperature, top_k, typical_p (Meister et al.
 * 2022), top_p (Holtzman et al. 2019), min_p (Nguyen et al. 2024), one draw. Never NaN, never an
 * id >= vocab. Returns 0, or ERR_VALUE when everything is masked. */
int sampler_draw(struct sampler *s, const struct sample_input *in, struct sample_result *out);

/* Raw log-probabilities of a given token and the alternatives (prompt logprobs). */
void sampler_logprobs(struct sampler *s, const float *logits, const struct pick_result *pick,
                      int32_t token, int n_top, struct sample_result *out);

/* What a device drew (kernels.h, draw), as sampler_draw tells it. */
int sampler_drawn(const struct draw_result *draw, struct sample_result *out);

/* The RNG: Philox 4x32-10 (Salmon et al. 2011) keyed by seed, counted by position: [0, 1). */
double sample_uniform(uint64_t seed, uint64_t position);

#endif
