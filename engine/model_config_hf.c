/* model_config_hf: hyperparameters from config.json and defaults from generation_config.json, as
 * Hugging Face transformers writes them: the older spellings (rope_theta, rope_scaling) and those
 * of its version 5 (rope_parameters). Runs at open, in the caller's thread; keeps nothing. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "engine/model_config.h"
#include "engine/model_json.h"

static const char CONFIG[] = "config.json";

static int bad(struct err *err, const char *key, const char *what)
{
    return err_set(err, ERR_FORMAT, "%s: %s %s", CONFIG, key, what);
}

static struct model_json config_of(const json_t *object)
{
    return (struct model_json){.file = CONFIG, .object = object};
}

static const json_t *get(const json_t *object, const char *key)
{
    return model_json_get(config_of(object), key);
}

static int get_bool(const json_t *object, const char *key, bool standard, bool *out,
                    struct err *err)
{
    return model_json_bool(config_of(object), key, standard, out, err);
}

static int get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct err *err)
{
    return model_json_int(config_of(object), key, min, max, out, err);
}

static int get_float(const json_t *object, const char *key, double min, double max, double *out,
                     struct err *err)
{
    return model_json_float(config_of(object), key, min, max, out, err);
}

/* The class of a config.json, else its model_type; NULL: neither is there. */
static const char *class_of(const json_t *root)
{
    const char *name = json_string_value(json_array_get(get(root, "architectures"), 0));
    return name ? name : json_string_value(get(root, "model_type"));
}

static int find_arch(struct model_config *c, const char *name, struct err *err)
{
    if (!name)
        return bad(err, "architectures", "and model_type are missing");
    c->arch = arch_find_hf(name);
    if (c->arch)
        return 0;
    int rc = model_config_unknown(name, err);
    err_prefix(err, CONFIG);
    return rc;
}

/* A model that sees images has its text model's configuration inside its own: *text is that, or
 * root itself. */
static int find_text(struct model_config *c, const json_t *root, const json_t **text,
                     struct err *err)
{
    const char *name = class_of(root);
    *text = root;
    if (!name || !arch_sees_images(name))
        return find_arch(c, name, err);
    *text = get(root, "text_config");
    if (!json_is_object(*text))
        return bad(err, "text_config", "is missing or no object");
    c->images = true;
    return find_arch(c, class_of(*text), err);
}

static int read_rows(struct model_config *c, const json_t *root, struct err *err)
{
    int rc = 0;
    for (int i = 0; !rc && i < model_n_int_rows; i++) {
        const struct model_int_row *row = &model_int_rows[i];
        if (!row->hf)
            continue;
        rc = get_int(root, row->hf, row->min, row->max, (int64_t *)((char *)c + row->at), err);
        if (!rc && row->required && !get(root, row->hf))
            rc = bad(err, row->hf, "is missing");
    }
    for (int i = 0; !rc && i < model_n_float_rows; i++) {
        const struct model_float_row *row = &model_float_rows[i];
        if (!row->hf)
            continue;
        rc = get_float(root, row->hf, row->min, row->max,
                       (double *)((char *)c + row->at), err);
        if (!rc && row->required && !get(root, row->hf))
            rc = bad(err, row->hf, "is missing");
    }
    return rc;
}

/* What a configuration may ask for and the table's dataflow does not have. */
static int check_unsupported(const struct model_config *c, const json_t *root, struct err *err)
{
    const json_t *act = get(root, "hidden_activation");
    bool attention_bias, mlp_bias;
    if (!act)
        act = get(root, "hidden_act");
    if (act) {
        const char *name = json_string_value(act);
        const char *wanted = c->arch->act == ACTIVATION_SILU ? "silu" : "gelu_pytorch_tanh";
        if (!name || strcmp(name, wanted))
            return err_set(err, ERR_FORMAT,
                           "config.json: hidden_act '%s' is not supported for %s (%s is)",
                           name ? name : "", c->arch->name, wanted);
    }
    int rc = get_bool(root, "attention_bias", c->arch->qkv_bias, &attention_bias, err);
    if (!rc && attention_bias != c->arch->qkv_bias)
        rc = bad(err, "attention_bias", "is not what this architecture has");
    if (!rc)
        rc = get_bool(root, "mlp_bias", false, &mlp_bias, err);
    if (!rc && mlp_bias)
        rc = bad(err, "mlp_bias", "is not supported");
    return rc;
}

/* ---- rotary embedding */

static int read_llama3(struct model_config *c, const json_t *object, struct err *err)
{
    int rc = get_float(object, "low_freq_factor", 1e-6, 1e6, &c->rope_low, err);
    if (!rc)
        rc = get_float(object, "high_freq_factor", 1e-6, 1e6, &c->rope_high, err);
    if (!rc)
        rc = get_int(object, "original_max_position_embeddings", 1, 1 << 27,
                     &c->rope_original_context, err);
    if (!rc && (!c->rope_original_context || !c->rope_low || c->rope_high <= c->rope_low))
        rc = bad(err, "rope scaling", "lacks a factor, or high_freq_factor <= low_freq_factor");
    return rc;
}

/* The factor on cosines and sines is stated, or follows from two others, or from `factor` alone. */
static int read_yarn_mscale(struct model_config *c, const json_t *object, struct err *err)
{
    double stated = 0, mscale = 0, all = 0;
    int rc = get_float(object, "attention_factor", 1e-6, 1e6, &stated, err);
    if (!rc)
        rc = get_float(object, "mscale", 0, 1e6, &mscale, err);
    if (!rc)
        rc = get_float(object, "mscale_all_dim", 0, 1e6, &all, err);
    c->rope_mscale = model_config_yarn_mscale(c->rope_factor, 1);
    if (mscale > 0 && all > 0)
        c->rope_mscale = model_config_yarn_mscale(c->rope_factor, mscale) /
                         model_config_yarn_mscale(c->rope_factor, all);
    if (stated > 0)
        c->rope_mscale = stated;
    return rc;
}

static int read_yarn(struct model_config *c, const json_t *object, struct err *err)
{
    double beta = 0;
    bool rounded;
    c->rope_high = 32;
    c->rope_low = 1;
    int rc = get_float(object, "beta_fast", 1e-6, 1e6, &c->rope_high, err);
    if (!rc)
        rc = get_float(object, "beta_slow", 1e-6, 1e6, &c->rope_low, err);
    if (!rc)
        rc = get_bool(object, "truncate", true, &rounded, err);
    if (!rc)
        rc = get_int(object, "original_max_position_embeddings", 1, 1 << 27,
                     &c->rope_original_context, err);
    if (!rc)
        rc = read_yarn_mscale(c, object, err);
    if (!rc)
        rc = get_float(object, "llama_4_scaling_beta", 0, 1e6, &beta, err);
    if (rc)
        return rc;
    c->rope_exact_range = !rounded;
    if (!c->rope_original_context || c->rope_high <= c->rope_low)
        return bad(err, "rope scaling", "lacks original_max_position_embeddings, or beta_fast <= "
                                        "beta_slow");
    if (beta > 0 && c->arch->query_scale) {
        c->query_scale_beta = beta;
        c->query_scale_from = c->rope_original_context;
    }
    return 0;
}

static const struct rope_kind {
    const char *name;
    enum model_rope_scaling scaling;
    int (*read)(struct model_config *c, const json_t *object, struct err *err);
} rope_kinds[] = {
    {"linear", ROPE_LINEAR, NULL},
    {"llama3", ROPE_LLAMA3, read_llama3},
    {"yarn", ROPE_YARN, read_yarn},
};

/* One rope_scaling or rope_parameters object. `scale`: its scaling counts (not for local ropes). */
static int read_rope(struct model_config *c, const json_t *object, bool scale, double *theta,
                     struct err *err)
{
    double rotary = 1;
    const struct rope_kind *kind = NULL;
    int rc = get_float(object, "rope_theta", 1e-6, 1e15, theta, err);
    if (!rc)
        rc = get_float(object, "partial_rotary_factor", 0, 1, &rotary, err);
    if (!rc && rotary != 1)
        rc = bad(err, "partial_rotary_factor", "is not supported");
    if (rc)
        return rc;
    const json_t *type_value = get(object, "rope_type") ? get(object, "rope_type")
                                                       : get(object, "type");
    const char *type = type_value ? json_string_value(type_value) : "default";
    if (type && !strcmp(type, "default"))
        return 0;
    for (size_t i = 0; type && scale && i < sizeof rope_kinds / sizeof *rope_kinds; i++)
        if (!strcmp(rope_kinds[i].name, type))
            kind = &rope_kinds[i];
    if (!kind)
        return err_set(err, ERR_FORMAT,
                       "config.json: rope type '%s' is not supported (known: default, linear, "
                       "llama3, yarn)", type ? type : "");
    c->rope_scaling = kind->scaling;
    rc = get_float(object, "factor", 1e-3, 1e6, &c->rope_factor, err);
    if (!rc && !c->rope_factor)
        rc = bad(err, "rope scaling", "lacks a factor");
    return rc || !kind->read ? rc : kind->read(c, object, err);
}

static int read_ropes(struct model_config *c, const json_t *root, struct err *err)
{
    const json_t *object = get(root, "rope_parameters");
    double rotary = 1;
    int rc = get_float(root, "partial_rotary_factor", 0, 1, &rotary, err);
    if (!rc && rotary != 1)
        rc = bad(err, "partial_rotary_factor", "is not supported");
    if (rc)
        return rc;
    if (!object)
        object = get(root, "rope_scaling");
    if (!object)
        return 0;
    if (!json_is_object(object))
        return bad(err, "rope_parameters (rope_scaling)", "is no object");
    const json_t *full = get(object, "full_attention"), *local = get(object, "sliding_attention");
    if (!json_is_object(full) && !json_is_object(local))
        return read_rope(c, object, true, &c->rope_theta, err);
    if (json_is_object(full))
        rc = read_rope(c, full, true, &c->rope_theta, err);
    if (!rc && json_is_object(local))
        rc = read_rope(c, local, false, &c->rope_local_theta, err);
    if (!rc && c->arch->rope_local_base <= 0)
        rc = bad(err, "rope_parameters", "by layer type are not supported for this architecture");
    return rc;
}

/* ---- sliding window */

static int read_layer_types(struct model_config *c, const json_t *types, struct err *err)
{
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->n_layers)
        return bad(err, "layer_types", "is no array of num_hidden_layers strings");
    for (int64_t i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (!type || (strcmp(type, "full_attention") && strcmp(type, "sliding_attention")))
            return err_set(err, ERR_FORMAT, "config.json: layer_types[%d] '%s' is not supported",
                           (int)i, type ? type : "");
        c->windowed[i] = type[0] == 's';
    }
    return 0;
}

static int read_windows(struct model_config *c, const json_t *root, struct err *err)
{
    const struct arch *arch = c->arch;
    const json_t *types = get(root, "layer_types");
    int64_t every = arch->full_layer_every, first = 0;
    bool use = true;
    int rc = 0;
    if (arch->needs_use_window) {
        first = c->n_layers;
        rc = get_bool(root, "use_sliding_window", false, &use, err);
        if (!rc)
            rc = get_int(root, "max_window_layers", 0, INT32_MAX, &first, err);
    }
    if (!rc && every)
        rc = get_int(root, "sliding_window_pattern", 1, MODEL_LAYERS_MAX, &every, err);
    if (rc)
        return rc;
    if (!arch->window_from_config || !use)
        c->window = 0;
    if (types)
        rc = read_layer_types(c, types, err);
    for (int64_t i = 0; !types && i < c->n_layers; i++)
        c->windowed[i] = i >= first && !(every && (i + 1) % every == 0);
    return rc;
}

/* ---- tokens and defaults */

/* An id or a list of ids; absent and null are fine. */
static int read_eos(struct model *m, const struct model_config *c, const char *file,
                    const json_t *root, struct err *err)
{
    const json_t *value = get(root, "eos_token_id");
    size_t n = json_is_array(value) ? json_array_size(value) : value != NULL;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= c->vocab)
            return err_set(err, ERR_FORMAT, "%s: eos_token_id is not in 0..vocab_size - 1", file);
        if (!model_add_eos(m, json_integer_value(id)))
            return err_set(err, ERR_FORMAT, "%s: more than %d eos_token_id", file, MODEL_EOS_MAX);
    }
    return 0;
}

static int read_generation(struct model *m, const struct model_config *c, const json_t *root,
                           struct err *err)
{
    const struct model_json j = {.file = "generation_config.json", .object = root};
    double temperature = NAN, top_p = NAN, min_p = NAN, repetition = NAN;
    const json_t *top_k = model_json_get(j, "top_k");
    int rc = model_json_float(j, "temperature", 0, 100, &temperature, err);
    if (!rc)
        rc = model_json_float(j, "top_p", 1e-9, 1, &top_p, err);
    if (!rc)
        rc = model_json_float(j, "min_p", 0, 1, &min_p, err);
    if (!rc)
        rc = model_json_float(j, "repetition_penalty", 1e-3, 100, &repetition, err);
    if (!rc && top_k && (!json_is_integer(top_k) || json_integer_value(top_k) < -1 ||
                         json_integer_value(top_k) > INT32_MAX))
        rc = err_set(err, ERR_FORMAT, "%s: top_k is no integer from -1", j.file);
    if (rc)
        return rc;
    m->default_temperature = (float)temperature;
    m->default_top_p = (float)top_p;
    m->default_min_p = (float)min_p;
    m->default_repetition_penalty = (float)repetition;
    if (top_k) /* -1 and 0 both mean off; the model's -1 means not given */
        m->default_top_k = json_integer_value(top_k) > 0 ? (int)json_integer_value(top_k) : 0;
    return read_eos(m, c, j.file, root, err);
}

int model_config_generation(struct model *m, const struct model_config *c,
                            const struct source *source, struct err *err)
{
    json_t *generation = NULL;
    int rc = model_json_load(source, "generation_config.json", &generation, err);
    if (!rc && generation)
        rc = read_generation(m, c, generation, err);
    json_decref(generation);
    return rc;
}

/* Where neither part of a model with images says, the file shows whether there is a head. */
static int read_tied(struct model_config *c, const json_t *root, const json_t *text,
                     struct err *err)
{
    static const char key[] = "tie_word_embeddings";
    const json_t *part = get(text, key) ? text : root;
    bool tied;
    int rc = get_bool(part, key, c->arch->tied_default, &tied, err);
    c->tied = c->images && !get(part, key) ? TIED_IF_ABSENT : tied ? TIED_YES : TIED_NO;
    return rc;
}

static int read_config(struct model_config *c, struct model *m, const json_t *root,
                       struct err *err)
{
    int64_t bos = -1;
    const json_t *text;
    int rc = find_text(c, root, &text, err);
    if (!rc)
        rc = read_rows(c, text, err);
    if (!rc)
        rc = check_unsupported(c, text, err);
    if (!rc)
        rc = read_ropes(c, text, err);
    if (!rc && (rc = model_config_finish(c, err)))
        err_prefix(err, CONFIG);
    if (!rc)
        rc = read_windows(c, text, err);
    if (!rc)
        rc = read_tied(c, root, text, err);
    if (!rc)
        rc = get_int(get(text, "bos_token_id") ? text : root, "bos_token_id", 0, c->vocab - 1, &bos,
                     err);
    m->bos = (int32_t)bos;
    return rc ? rc : read_eos(m, c, CONFIG, get(text, "eos_token_id") ? text : root, err);
}

int model_config_hf(struct model_config *c, struct model *m, const struct source *source,
                    struct err *err)
{
    json_t *config = NULL;
    int rc = model_json_load(source, CONFIG, &config, err);
    if (!rc && !config)
        rc = err_set(err, ERR_FORMAT, "%s is missing", CONFIG);
    c->format = MODEL_HF;
    if (!rc)
        rc = read_config(c, m, config, err);
    json_decref(config);
    return rc ? rc : model_config_generation(m, c, source, err);
}
