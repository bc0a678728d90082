/* arch: THE TABLE of architectures. A row says, as data, how a decoder-only transformer of that
 * family differs from the others; model.c binds files through it, forward.c interprets it.
 *
 * Adding an architecture with the same dataflow is one row and one golden model. */
#ifndef SIROCCO_ARCH_H
#define SIROCCO_ARCH_H

#include <stdbool.h>

#include "kernels/kernels.h"

struct arch {
    const char *name;          /* "mistral" */
    const char *hf_class;      /* config.json architectures[0]: "MistralForCausalLM" */
    const char *hf_model_type; /* config.json model_type, used when architectures is absent */
    const char *gguf_name;     /* general.architecture, or NULL */
    const char *gguf_as;       /* where gguf_name is NULL: the one its GGUF files are written as */
    bool qkv_bias;             /* biases on q, k, v are required */
    bool qk_norm;              /* RMSNorm over head_dim on q and k before RoPE */
    bool post_norms;           /* norms on the outputs of attention and FFN too (Gemma) */
    bool norm_plus_one;        /* checkpoint stores weight - 1 (Gemma, Hugging Face files) */
    bool embed_scale;          /* embeddings times sqrt(hidden_size), rounded to bfloat16 (Gemma) */
    bool moe;                  /* experts in place of the dense FFN */
    bool moe_renorm;           /* expert weights divided by their sum */
    bool tied_default;         /* tie_word_embeddings when config.json does not say */
    bool window_from_config;   /* sliding_window means what it says unless use_sliding_window */
    bool needs_use_window;     /* the window counts only with use_sliding_window: true (Qwen) */
    int full_layer_every;      /* every n-th layer sees everything; 0: no such pattern (Gemma) */
    double rope_local_base;    /* RoPE base of windowed layers; 0: the same as the others' */
    bool query_scale;          /* queries at far positions are scaled, where the file asks for it */
    bool gguf_interleaved;     /* GGUF files store q and k for interleaved rotary pairs */
    enum activation act;
    const char *moe_prefix;    /* "block_sparse_moe": tensor path of the experts, or NULL */
};

extern const struct arch arch_table[];
extern const int arch_count;
const struct arch *arch_find_hf(const char *class_or_model_type); /* NULL: unknown */
/* A class or model_type around a text model of one of the rows, with a vision part beside it. */
bool arch_sees_images(const char *class_or_model_type);
/* The row of a params.json: with experts, with scaled queries, or plain. */
const struct arch *arch_find_mistral(bool moe, bool query_scale);
const struct arch *arch_find_gguf(const char *name, bool moe); /* moe: the file has experts */

#endif
