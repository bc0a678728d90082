/* model: hyperparameters and weights of one loaded model, bound through arch.h's table.
 *
 * Immutable after model_open; read by the engine thread (forward.c) and, hyperparameters alone, by
 * any thread. Matrices point into the source's mapping; norm weights, biases and rope frequencies
 * are float32 copies owned by the model. */
#ifndef SIROCCO_MODEL_H
#define SIROCCO_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/arch.h"
#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/source.h"
#include "engine/weights.h"
#include "kernels/kernels.h"

struct model_layer {
    float *attn_norm, *ffn_norm;           /* [dim] */
    float *post_attn_norm, *post_ffn_norm; /* [dim] or NULL */
    float *q_norm, *k_norm;                /* [head_dim] or NULL */
    struct matrix wq, wk, wv;              /* [n_heads * head_dim | n_kv_heads * head_dim][dim] */
    float *bq, *bk, *bv;                   /* or NULL */
    struct matrix wo;                      /* [dim][n_heads * head_dim] */
    struct matrix gate, up;                /* [ffn][dim]; zeroed in a MoE layer */
    struct matrix down;                    /* [dim][ffn] */
    struct matrix router;                  /* [n_experts][dim], MoE only */
    struct matrix *expert_gate, *expert_up, *expert_down; /* [n_experts] or NULL */
    int window;                            /* 0: sees everything */
    int rope;                              /* index into model.ropes */
};

struct model_rope {
    float *inv_freq; /* [n_freq] */
    int n_freq;      /* rotated dims / 2 */
    float mscale;
};

enum { MODEL_EOS_MAX = 16, MODEL_ROPES_MAX = 2 };

struct model {
    const struct arch *arch;
    int n_layers, dim, n_heads, n_kv_heads, head_dim, ffn, vocab;
    int n_experts, n_experts_used;
    int context_length; /* positions it was made for: max_position_embeddings */
    int window_max;     /* 0 if some layer sees everything, else the largest window */
    float norm_eps, attn_scale, attn_softcap, logit_softcap, embed_scale;
    bool rope_interleaved; /* GGUF llama files store q and k for interleaved pairs */
    /* the query at position p is times 1 + beta ln(1 + floor(p / from)); beta 0: it is not */
    float query_scale_beta;
    int query_scale_from;
    struct model_rope ropes[MODEL_ROPES_MAX];
    int n_ropes;
    struct matrix embed, head; /* [vocab][dim]; head equals embed when tied */
    float *final_norm;
    struct model_layer *layers;
    int32_t bos; /* -1: none */
    int32_t eos[MODEL_EOS_MAX]; /* config.json, generation_config.json, GGUF: the union */
    int n_eos;
    /* generation_config.json; NaN or -1: not given */
    float default_temperature, default_top_p, default_min_p, default_repetition_penalty;
    int default_top_k;
    int64_t n_parameters, weight_bytes;
    struct weights *weights;
    struct arena arena; /* owns layers, copies and frequencies */
};

/* Open the weights of source and bind every tensor; the source must outlive the model. Errors:
 * ERR_FORMAT naming file and field, after the source's path; unknown architectures are refused by
 * name with the known list. */
int model_open(const struct source *source, const struct gguf *gguf, struct model **out,
               struct err *err);
void model_close(struct model *m); /* NULL allowed */

#endif
