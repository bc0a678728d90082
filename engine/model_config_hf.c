/* model_config_hf: hyperparameters from config.json and defaults from generation_config.json, as
 * Hugging Face transformers writes them: the older spellings (rope_theta, rope_scaling) and those
 * of its version 5 (rope_parameters). Runs at open, in the caller's thread; keeps nothing. */
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "engine/model_config.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

static int bad(struct err *err, const char *key, const char *what)
{
    return err_set(err, ERR_FORMAT, "config.json: %s %s", key, what);
}

/* The value of key, NULL when it is absent or null. */
static const json_t *get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static int get_bool(const json_t *object, const char *key, bool standard, bool *out,
                    struct err *err)
{
    const json_t *value = get(object, key);
    *out = value ? json_is_true(value) : standard;
    return !value || json_is_boolean(value) ? 0 : bad(err, key, "is no boolean");
}

static int get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
                   struct err *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return 0;
    if (!json_is_integer(value))
        return bad(err, key, "is no integer");
    if (json_integer_value(value) < min || json_integer_value(value) > max)
        return err_set(err, ERR_FORMAT, "config.json: %s is %lld, not %lld..%lld", key,
                       (long long)json_integer_value(value), (long long)min, (long long)max);
    *out = json_integer_value(value);
    return 0;
}

static int get_float(const json_t *object, const char *file, const char *key, double min,
                     double max, double *out, struct err *err)
{
    const json_t *value = get(object, key);
    if (!value)
        return 0;
    if (!json_is_number(value))
        return err_set(err, ERR_FORMAT, "%s: %s is no number", file, key);
    double number = json_number_value(value);
    if (!(number >= min && number <= max))
        return err_set(err, ERR_FORMAT, "%s: %s is %g, not %g..%g", file, key, number, min, max);
    *out = number;
    return 0;
}

/* Parse a JSON object file; *out NULL when the file is absent. */
static int load(const struct source *source, const char *name, json_t **out, struct err *err)
{
    const struct source_file *file = source_find(source, name);
    json_error_t where;
    *out = NULL;
    if (!file)
        return 0;
    if (file->size > CONFIG_BYTES_MAX)
        return err_set(err, ERR_FORMAT, "%s: %zu bytes; at most %d", name, file->size,
                       CONFIG_BYTES_MAX);
    *out = json_loadb((const char *)file->data, file->size, JSON_REJECT_DUPLICATES, &where);
    if (!*out)
        return err_set(err, where.text[0] ? ERR_FORMAT : ERR_NOMEM, "%s: line %d: %s", name,
                       where.line, where.text[0] ? where.text : "out of memory");
    if (!json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        return err_set(err, ERR_FORMAT, "%s: not a JSON object", name);
    }
    return 0;
}

static int find_arch(struct model_config *c, const json_t *root, struct err *err)
{
    const json_t *classes = get(root, "architectures");
    const char *name = json_string_value(json_array_get(classes, 0));
    if (!name)
        name = json_string_value(get(root, "model_type"));
    if (!name)
        return bad(err, "architectures", "and model_type are missing");
    c->arch = arch_find_hf(name);
    if (c->arch)
        return 0;
    int rc = model_config_unknown(name, err);
    err_prefix(err, "config.json");
    return rc;
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
        rc = get_float(root, "config.json", row->hf, row->min, row->max,
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
    const json_t *quantization = get(root, "quantization_config");
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
    if (quantization) {
        const char *method = json_string_value(get(quantization, "quant_method"));
        return err_set(err, ERR_FORMAT, "config.json: quantization_config: '%s' is not supported",
                       method ? method : "");
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

/* One rope_scaling or rope_parameters object. `scale`: its scaling counts (not for local ropes). */
static int read_rope(struct model_config *c, const json_t *object, bool scale, double *theta,
                     struct err *err)
{
    double rotary = 1;
    int rc = get_float(object, "config.json", "rope_theta", 1e-6, 1e15, theta, err);
    if (!rc)
        rc = get_float(object, "config.json", "partial_rotary_factor", 0, 1, &rotary, err);
    if (!rc && rotary != 1)
        rc = bad(err, "partial_rotary_factor", "is not supported");
    if (rc)
        return rc;
    const json_t *type_value = get(object, "rope_type") ? get(object, "rope_type")
                                                       : get(object, "type");
    const char *type = type_value ? json_string_value(type_value) : "default";
    if (type && !strcmp(type, "default"))
        return 0;
    bool linear = type && !strcmp(type, "linear"), llama3 = type && !strcmp(type, "llama3");
    if (!scale || (!linear && !llama3))
        return err_set(err, ERR_FORMAT,
                       "config.json: rope type '%s' is not supported (known: default, linear, "
                       "llama3)", type ? type : "");
    c->rope_scaling = linear ? ROPE_LINEAR : ROPE_LLAMA3;
    rc = get_float(object, "config.json", "factor", 1e-3, 1e6, &c->rope_factor, err);
    if (!rc && llama3)
        rc = get_float(object, "config.json", "low_freq_factor", 1e-6, 1e6, &c->rope_low, err);
    if (!rc && llama3)
        rc = get_float(object, "config.json", "high_freq_factor", 1e-6, 1e6, &c->rope_high, err);
    if (!rc && llama3)
        rc = get_int(object, "original_max_position_embeddings", 1, 1 << 27,
                     &c->rope_original_context, err);
    if (!rc && (!c->rope_factor || (llama3 && (!c->rope_original_context || !c->rope_low ||
                                               c->rope_high <= c->rope_low))))
        rc = bad(err, "rope scaling", "lacks a factor, or high_freq_factor <= low_freq_factor");
    return rc;
}

static int read_ropes(struct model_config *c, const json_t *root, struct err *err)
{
    const json_t *object = get(root, "rope_parameters");
    double rotary = 1;
    int rc = get_float(root, "config.json", "partial_rotary_factor", 0, 1, &rotary, err);
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
    static const char file[] = "generation_config.json";
    double temperature = NAN, top_p = NAN, min_p = NAN, repetition = NAN;
    const json_t *top_k = get(root, "top_k");
    int rc = get_float(root, file, "temperature", 0, 100, &temperature, err);
    if (!rc)
        rc = get_float(root, file, "top_p", 1e-9, 1, &top_p, err);
    if (!rc)
        rc = get_float(root, file, "min_p", 0, 1, &min_p, err);
    if (!rc)
        rc = get_float(root, file, "repetition_penalty", 1e-3, 100, &repetition, err);
    if (!rc && top_k && (!json_is_integer(top_k) || json_integer_value(top_k) < -1 ||
                         json_integer_value(top_k) > INT32_MAX))
        rc = err_set(err, ERR_FORMAT, "%s: top_k is no integer from -1", file);
    if (rc)
        return rc;
    m->default_temperature = (float)temperature;
    m->default_top_p = (float)top_p;
    m->default_min_p = (float)min_p;
    m->default_repetition_penalty = (float)repetition;
    if (top_k) /* -1 and 0 both mean off; the model's -1 means not given */
        m->default_top_k = json_integer_value(top_k) > 0 ? (int)json_integer_value(top_k) : 0;
    return read_eos(m, c, file, root, err);
}

static int read_config(struct model_config *c, struct model *m, const json_t *root,
                       struct err *err)
{
    int64_t bos = -1;
    int rc = find_arch(c, root, err);
    if (!rc)
        rc = read_rows(c, root, err);
    if (!rc)
        rc = check_unsupported(c, root, err);
    if (!rc)
        rc = read_ropes(c, root, err);
    if (!rc && (rc = model_config_finish(c, err)))
        err_prefix(err, "config.json");
    if (!rc)
        rc = read_windows(c, root, err);
    if (!rc)
        rc = get_bool(root, "tie_word_embeddings", c->arch->tied_default, &c->tied, err);
    if (!rc)
        rc = get_int(root, "bos_token_id", 0, c->vocab - 1, &bos, err);
    m->bos = (int32_t)bos;
    return rc ? rc : read_eos(m, c, "config.json", root, err);
}

int model_config_hf(struct model_config *c, struct model *m, const struct source *source,
                    struct err *err)
{
    json_t *config = NULL, *generation = NULL;
    int rc = load(source, "config.json", &config, err);
    if (!rc && !config)
        rc = err_set(err, ERR_FORMAT, "config.json is missing");
    if (!rc)
        rc = load(source, "generation_config.json", &generation, err);
    if (!rc)
        rc = read_config(c, m, config, err);
    if (!rc && generation)
        rc = read_generation(m, c, generation, err);
    json_decref(config);
    json_decref(generation);
    return rc;
}
