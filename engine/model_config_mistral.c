/* model_config_mistral: hyperparameters from params.json, the file Mistral ships beside its
 * consolidated weights. Runs at open, in the caller's thread; keeps nothing.
 *
 * What the file leaves out means what Mistral's own inference code makes of it: a RoPE base of
 * 10,000 with a plain sliding window (7B v0.1) and of 1,000,000 otherwise, and a context of 128,000
 * positions. */
#include <string.h>

#include "engine/model_config.h"
#include "engine/model_json.h"

enum { CONTEXT_STANDARD = 128000 };

static const char PARAMS[] = "params.json";

static struct model_json params_of(const json_t *object)
{
    return (struct model_json){.file = PARAMS, .object = object};
}

/* A member that is an object, with errors that name it; object NULL when it is absent. */
static int member(const json_t *root, const char *key, const char *file, struct model_json *out,
                  struct err *err)
{
    const json_t *value = model_json_get(params_of(root), key);
    *out = (struct model_json){.file = file, .object = value};
    return !value || json_is_object(value) ? 0
                                           : model_json_bad(params_of(root), key, "is no object",
                                                            err);
}

/* ---- what the table's dataflow does not have */

/* A number that is absent, or as if it were. */
static int neutral(struct model_json j, const char *key, double value, struct err *err)
{
    const json_t *stated = model_json_get(j, key);
    if (!stated || (json_is_number(stated) && json_number_value(stated) == value))
        return 0;
    return model_json_bad(j, key, "is not supported", err);
}

static int check_unsupported(const json_t *root, struct err *err)
{
    static const char *const absent[] = {"q_lora_rank",      "kv_lora_rank", "qk_nope_head_dim",
                                         "qk_rope_head_dim", "v_head_dim",   "lora",
                                         "multimodal",       "audio_encoder"};
    struct model_json params = params_of(root);
    const char *type = json_string_value(model_json_get(params, "model_type"));
    bool causal, biases;
    if (type && strcmp(type, "transformer"))
        return err_set(err, ERR_FORMAT, "%s: model_type '%s' is not supported", PARAMS, type);
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (model_json_get(params, absent[i]))
            return model_json_bad(params, absent[i], "is not supported", err);
    int rc = model_json_bool(params, "causal", true, &causal, err);
    if (!rc && !causal)
        rc = model_json_bad(params, "causal", "is false: not supported", err);
    if (!rc)
        rc = model_json_bool(params, "use_biases", false, &biases, err);
    if (!rc && biases)
        rc = model_json_bad(params, "use_biases", "is not supported", err);
    return rc;
}

/* ---- its parts */

static int read_rows(struct model_config *c, const json_t *root, struct err *err)
{
    struct model_json params = params_of(root);
    const char *missing = NULL;
    int rc = 0;
    for (int i = 0; !rc && i < model_n_int_rows; i++) {
        const struct model_int_row *row = &model_int_rows[i];
        if (!row->mistral)
            continue;
        rc = model_json_int(params, row->mistral, row->min, row->max,
                            (int64_t *)((char *)c + row->at), err);
        if (!missing && row->required && !model_json_get(params, row->mistral))
            missing = row->mistral;
    }
    for (int i = 0; !rc && i < model_n_float_rows; i++) {
        const struct model_float_row *row = &model_float_rows[i];
        if (!row->mistral)
            continue;
        rc = model_json_float(params, row->mistral, row->min, row->max,
                              (double *)((char *)c + row->at), err);
        if (!missing && row->required && !model_json_get(params, row->mistral))
            missing = row->mistral;
    }
    return rc || !missing ? rc : model_json_bad(params, missing, "is missing", err);
}

static int read_context(struct model_config *c, const json_t *root, struct err *err)
{
    struct model_json params = params_of(root);
    c->context_length = CONTEXT_STANDARD;
    int rc = model_json_int(params, "max_seq_len", 1, 1 << 27, &c->context_length, err);
    if (!rc)
        rc = model_json_int(params, "max_position_embeddings", 1, 1 << 27, &c->context_length, err);
    return rc;
}

static int read_experts(struct model_config *c, struct model_json moe, struct err *err)
{
    static const struct {
        const char *key;
        double value;
    } standard[] = {{"num_shared_experts", 0}, {"first_k_dense_replace", 0}, {"route_every_n", 1},
                    {"num_expert_groups", 1},  {"routed_scale", 1}};
    int rc = 0;
    if (!moe.object)
        return 0;
    for (size_t i = 0; !rc && i < sizeof standard / sizeof *standard; i++)
        rc = neutral(moe, standard[i].key, standard[i].value, err);
    if (!rc)
        rc = neutral(moe, "expert_hidden_dim", (double)c->ffn, err);
    if (!rc)
        rc = model_json_int(moe, "num_experts", 1, 1024, &c->n_experts, err);
    if (!rc)
        rc = model_json_int(moe, "num_experts_per_tok", 1, 1024, &c->n_experts_used, err);
    return rc;
}

static int read_yarn(struct model_config *c, struct model_json yarn, struct err *err)
{
    bool apply;
    if (!yarn.object)
        return 0;
    c->rope_scaling = ROPE_YARN;
    c->rope_high = 32;
    c->rope_low = 1;
    int rc = model_json_float(yarn, "factor", 1e-3, 1e6, &c->rope_factor, err);
    if (!rc)
        rc = model_json_float(yarn, "beta", 1e-6, 1e6, &c->rope_high, err);
    if (!rc)
        rc = model_json_float(yarn, "alpha", 1e-6, 1e6, &c->rope_low, err);
    if (!rc)
        rc = model_json_int(yarn, "original_max_position_embeddings", 1, 1 << 27,
                            &c->rope_original_context, err);
    if (!rc)
        rc = model_json_bool(yarn, "apply_scale", true, &apply, err);
    if (rc)
        return rc;
    if (!c->rope_factor || !c->rope_original_context || c->rope_high <= c->rope_low)
        return model_json_bad(yarn, "factor", "or original_max_position_embeddings is missing, or "
                                              "beta <= alpha", err);
    c->rope_mscale = apply ? model_config_yarn_mscale(c->rope_factor, 1) : 1;
    return 0;
}

static int read_query_scale(struct model_config *c, struct model_json scaling, struct err *err)
{
    if (!scaling.object)
        return 0;
    int rc = model_json_float(scaling, "beta", 0, 1e6, &c->query_scale_beta, err);
    if (!rc && c->query_scale_beta > 0) {
        rc = model_json_int(scaling, "original_max_position_embeddings", 1, 1 << 27,
                            &c->query_scale_from, err);
        if (!rc && !c->query_scale_from)
            rc = model_json_bad(scaling, "original_max_position_embeddings", "is missing", err);
    }
    return rc;
}

/* One window for all layers, or a list that is repeated over the layers, null being a layer that
 * sees everything (Ministral 8B). */
static int read_windows(struct model_config *c, const json_t *root, struct err *err)
{
    struct model_json params = params_of(root);
    const char *key = "sliding_window";
    const json_t *value = model_json_get(params, key);
    const json_t *hidden = model_json_get(params, "_sliding_window");
    if (value && hidden)
        return model_json_bad(params, key, "and _sliding_window are both there", err);
    if (!value) {
        value = hidden;
        key = "_sliding_window";
    }
    memset(c->windowed, value != NULL, sizeof c->windowed);
    if (!json_is_array(value))
        return model_json_int(params, key, 1, INT32_MAX, &c->window, err);
    size_t n = json_array_size(value);
    if (!n || (size_t)c->n_layers % n)
        return model_json_bad(params, key, "is no list whose length divides n_layers", err);
    for (int64_t i = 0; i < c->n_layers; i++) {
        const json_t *one = json_array_get(value, (size_t)i % n);
        int64_t window = json_integer_value(one);
        c->windowed[i] = !json_is_null(one);
        if (json_is_null(one))
            continue;
        if (!json_is_integer(one) || window < 1 || window > INT32_MAX)
            return model_json_bad(params, key, "holds what is neither null nor a positive integer",
                                  err);
        if (c->window && c->window != window)
            return model_json_bad(params, key, "holds different windows: not supported", err);
        c->window = window;
    }
    return 0;
}

static int read_params(struct model_config *c, const json_t *root, struct err *err)
{
    struct model_json vision, moe, yarn, scaling;
    bool tied;
    int rc = check_unsupported(root, err);
    if (!rc)
        rc = member(root, "vision_encoder", "params.json: vision_encoder", &vision, err);
    if (!rc)
        rc = member(root, "moe", "params.json: moe", &moe, err);
    if (!rc)
        rc = member(root, "yarn", "params.json: yarn", &yarn, err);
    if (!rc)
        rc = member(root, "llama_4_scaling", "params.json: llama_4_scaling", &scaling, err);
    if (rc)
        return rc;
    c->images = vision.object != NULL;
    c->arch = arch_find_mistral(moe.object != NULL, scaling.object != NULL);
    rc = read_rows(c, root, err);
    if (!rc)
        rc = read_context(c, root, err);
    if (!rc)
        rc = read_experts(c, moe, err);
    if (!rc)
        rc = read_yarn(c, yarn, err);
    if (!rc)
        rc = read_query_scale(c, scaling, err);
    if (!rc)
        rc = read_windows(c, root, err);
    if (!rc)
        rc = model_json_bool(params_of(root), "tied_embeddings", false, &tied, err);
    if (rc)
        return rc;
    c->tied = tied ? TIED_YES : TIED_NO;
    if (c->rope_theta <= 0)
        c->rope_theta = json_is_integer(model_json_get(params_of(root), "sliding_window"))
                            ? 1e4
                            : 1e6;
    if ((rc = model_config_finish(c, err)))
        err_prefix(err, PARAMS);
    return rc;
}

int model_config_mistral(struct model_config *c, struct model *m, const struct source *source,
                         struct err *err)
{
    json_t *params = NULL;
    int rc = model_json_load(source, PARAMS, &params, err);
    if (!rc && !params)
        rc = err_set(err, ERR_FORMAT, "%s is missing", PARAMS);
    c->format = MODEL_MISTRAL;
    if (!rc)
        rc = read_params(c, params, err);
    json_decref(params);
    return rc ? rc : model_config_generation(m, c, source, err);
}
