/* model_config: a model's hyperparameters as its files state them, checked one by one and against
 * each other. Internal to engine/model*.c. */
#ifndef SIROCCO_MODEL_CONFIG_H
#define SIROCCO_MODEL_CONFIG_H

#include "engine/model.h"

enum { MODEL_LAYERS_MAX = 1024 };

enum model_rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

/* Whose names the tensors have. */
enum model_format { MODEL_HF, MODEL_GGUF, MODEL_MISTRAL, MODEL_FORMATS };

struct model_config {
    const struct arch *arch;
    enum model_format format;
    bool images;                          /* a vision part lies beside the text model: left out */
    int64_t n_layers, dim, ffn, n_heads, n_kv_heads, head_dim, vocab, context_length;
    int64_t n_experts, n_experts_used;
    int64_t window;                       /* 0: none */
    uint8_t windowed[MODEL_LAYERS_MAX];   /* 1: a sliding-window layer */
    int64_t rotary_dims;                  /* leading elements of a head that are rotated */
    double norm_eps, attn_softcap, logit_softcap; /* soft caps: 0: none */
    double query_scalar;                  /* scores are divided by its root; 0: head_dim */
    double rope_theta, rope_local_theta;  /* local: 0: windowed layers have the same */
    enum model_rope_scaling rope_scaling;
    double rope_factor, rope_low, rope_high; /* YaRN: low, high: rotations (beta slow, fast) */
    double rope_mscale;                   /* YaRN: cosines and sines are times this */
    bool rope_exact_range;                /* YaRN: the ramp's ends are not rounded to dimensions */
    int64_t rope_original_context;
    double query_scale_beta;              /* queries from position query_scale_from on are scaled */
    int64_t query_scale_from;             /* 0: none are */
    enum { TIED_NO, TIED_YES, TIED_IF_ABSENT } tied; /* if absent: when no head is in the file */
};

/* config.json and generation_config.json, or GGUF metadata, into *c and m's token ids and sampling
 * defaults. Errors: ERR_FORMAT naming the file's key. */
int model_config_hf(struct model_config *c, struct model *m, const struct source *source,
                    struct err *err);
int model_config_gguf(struct model_config *c, struct model *m, const struct gguf *g,
                      struct err *err);

/* params.json, as Mistral's own checkpoints have it, and generation_config.json if it is there. */
int model_config_mistral(struct model_config *c, struct model *m, const struct source *source,
                         struct err *err);

/* generation_config.json into m's defaults and end-of-sequence ids; fine when absent. */
int model_config_generation(struct model *m, const struct model_config *c,
                            const struct source *source, struct err *err);

/* YaRN's factor on cosines and sines where a file does not state it: 0.1 mscale ln(factor) + 1
 * (Peng et al. 2023, section 3.4). */
double model_config_yarn_mscale(double factor, double mscale);

/* THE TABLE of hyperparameters: key in config.json, key in GGUF metadata below the architecture's
 * name, key in params.json, bounds. A null in a JSON file counts as absent. */
struct model_int_row {
    const char *hf, *gguf, *mistral;
    size_t at; /* offset of the int64_t in model_config */
    int64_t min, max;
    bool required;
};
struct model_float_row {
    const char *hf, *gguf, *mistral;
    size_t at;       /* offset of the double */
    double min, max; /* both inclusive; never NaN */
    bool required;
};
extern const struct model_int_row model_int_rows[];
extern const int model_n_int_rows;
extern const struct model_float_row model_float_rows[];
extern const int model_n_float_rows;

/* Defaults of what is derived, and the checks that span several keys. */
int model_config_finish(struct model_config *c, struct err *err);

/* An architecture that is not in the table, with the list of those that are. */
int model_config_unknown(const char *name, struct err *err);

/* Add an end-of-sequence id, once; false: no room. */
bool model_add_eos(struct model *m, int64_t id);

/* Find the tensors the configuration asks for, check their shapes, fill m. */
int model_bind(struct model *m, const struct model_config *c, struct err *err);

#endif
