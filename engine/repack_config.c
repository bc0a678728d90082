/* repack_config: reads quantization_config (repack_config.h). Runs at open, in the caller's thread;
 * keeps nothing.
 *
 * Shapes and dtypes of tensors say most of what there is to know; the configuration is asked for
 * what they do not: the method, the width of GPTQ's and AWQ's values, how zero points are meant. */
#include <stdio.h>
#include <string.h>

#include "engine/model_json.h"
#include "engine/repack_config.h"

enum { BLOCK_MAX = 1 << 20 };

static int refuse(struct model_json j, const char *what, const char *value, struct err *err)
{
    return err_set(err, ERR_FORMAT, "%s: quantization_config: %s '%.60s' is not supported", j.file,
                   what, value ? value : "");
}

static const char *text(struct model_json j, const char *key)
{
    return json_string_value(model_json_get(j, key));
}

/* The value of key is one of the names (NULL ends them), or absent. */
static int check_name(struct model_json j, const char *key, const char *const *names,
                      struct err *err)
{
    const json_t *value = model_json_get(j, key);
    const char *name = json_string_value(value);
    if (!value)
        return 0;
    for (int i = 0; name && names[i]; i++)
        if (!strcmp(name, names[i]))
            return 0;
    return refuse(j, key, name, err);
}

/* ---- the methods */

/* "weight_block_size": [rows, columns] */
static int read_blocks(struct repack_config *c, struct model_json j, struct err *err)
{
    const json_t *size = model_json_get(j, "weight_block_size");
    if (!size)
        return 0;
    c->block_rows = json_integer_value(json_array_get(size, 0));
    c->block_cols = json_integer_value(json_array_get(size, 1));
    if (json_array_size(size) != 2 || c->block_rows < 1 || c->block_cols < 1 ||
        c->block_rows > BLOCK_MAX || c->block_cols > BLOCK_MAX)
        return model_json_bad(j, "weight_block_size", "is not [rows, columns]", err);
    return 0;
}

static int read_fp8(struct repack_config *c, struct model_json j, struct err *err)
{
    static const char *const formats[] = {"e4m3", "float8_e4m3fn", NULL};
    int rc = check_name(j, "fmt", formats, err);
    return rc ? rc : read_blocks(c, j, err);
}

static int read_words(struct repack_config *c, struct model_json j, struct err *err)
{
    int64_t bits = 0;
    c->words = true;
    int rc = model_json_int(j, "bits", 1, 64, &bits, err);
    const json_t *group = model_json_get(j, "group_size");
    if (rc)
        return rc;
    if (bits != 4 && (bits != 8 || c->awq))
        return err_set(err, ERR_FORMAT, "%s: quantization_config: %s with %lld bits is not "
                       "supported (%s)", j.file, c->method, (long long)bits,
                       c->awq ? "4 is" : "4 and 8 are");
    c->bits = (int)bits;
    c->group = json_integer_value(group);
    if (!json_is_integer(group) || c->group < -1 || c->group == 0 || c->group > BLOCK_MAX)
        return model_json_bad(j, "group_size", "is neither -1 nor above 0", err);
    if (c->group == -1)
        c->group = 0;
    return 0;
}

static int read_gptq(struct repack_config *c, struct model_json j, struct err *err)
{
    static const char *const formats[] = {"gptq", "gptq_v2", NULL};
    int rc = check_name(j, "checkpoint_format", formats, err);
    const char *format = text(j, "checkpoint_format");
    c->zero_plus = !format || strcmp(format, "gptq_v2") != 0;
    if (!rc)
        rc = read_words(c, j, err);
    return rc ? rc : model_json_bool(j, "sym", false, &c->symmetric, err);
}

static int read_awq(struct repack_config *c, struct model_json j, struct err *err)
{
    static const char *const versions[] = {"gemm", "GEMM", NULL};
    c->awq = true;
    int rc = check_name(j, "version", versions, err);
    return rc ? rc : read_words(c, j, err);
}

static int read_compressed(struct repack_config *c, struct model_json j, struct err *err)
{
    static const char *const formats[] = {"float-quantized", "naive-quantized", "int-quantized",
                                          "pack-quantized", NULL};
    static const char *const dense[] = {"dense", NULL};
    const json_t *groups = model_json_get(j, "config_groups");
    const json_t *sparsity = model_json_get(j, "sparsity_config");
    const char *name;
    json_t *group;
    int rc = check_name(j, "format", formats, err);
    if (!rc && json_object_size(sparsity))
        rc = check_name((struct model_json){j.file, sparsity}, "format", dense, err);
    if (rc)
        return rc;
    json_object_foreach((json_t *)groups, name, group) {
        struct model_json own = {j.file, group};
        struct model_json weights = {j.file, model_json_get(own, "weights")};
        const json_t *size = model_json_get(weights, "block_structure");
        rc = check_name(own, "format", formats, err);
        if (rc)
            return rc;
        if (json_is_array(size)) {
            c->block_rows = json_integer_value(json_array_get(size, 0));
            c->block_cols = json_integer_value(json_array_get(size, 1));
            if (c->block_rows < 1 || c->block_cols < 1 || c->block_rows > BLOCK_MAX ||
                c->block_cols > BLOCK_MAX)
                return model_json_bad(j, "block_structure", "is not [rows, columns]", err);
        }
    }
    return 0;
}

static const struct method {
    const char *name;
    int (*read)(struct repack_config *c, struct model_json j, struct err *err);
} methods[] = {
    {"fp8", read_fp8},   {"fbgemm_fp8", read_fp8},
    {"gptq", read_gptq}, {"awq", read_awq},
    {"compressed-tensors", read_compressed},
};

static int read_method(struct repack_config *c, struct model_json j, struct err *err)
{
    const char *name = text(j, "quant_method");
    for (size_t i = 0; name && i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i].name, name)) {
            snprintf(c->method, sizeof c->method, "%s", name);
            return methods[i].read(c, j, err);
        }
    return err_set(err, ERR_FORMAT, "%s: quantization_config: '%.60s' is not supported (known: "
                   "fp8, fbgemm_fp8, gptq, awq, compressed-tensors)", j.file, name ? name : "");
}

/* Mistral's own layout: {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"} */
static int read_mistral(struct repack_config *c, const json_t *quantization, struct err *err)
{
    struct model_json j = {.file = "params.json", .object = quantization};
    const char *format = json_is_object(quantization) ? text(j, "qformat_weight") : NULL;
    if (!format || strcmp(format, "fp8_e4m3"))
        return err_set(err, ERR_FORMAT, "%s: quantization '%.60s' is not supported (known: "
                       "fp8_e4m3)", j.file, format ? format : "");
    snprintf(c->method, sizeof c->method, "%s", format);
    return 0;
}

int repack_config_read(const struct source *source, struct repack_config *c, struct err *err)
{
    json_t *root = NULL;
    bool mistral = source_is_mistral(source);
    *c = (struct repack_config){.block_rows = 128, .block_cols = 128};
    if (source_gguf(source))
        return 0;
    int rc = model_json_load(source, mistral ? "params.json" : "config.json", &root, err);
    struct model_json j = {.file = "config.json", .object = root};
    const json_t *found = mistral ? model_json_get(j, "quantization")
                                  : model_json_get(j, "quantization_config");
    if (!found && !mistral)
        found = model_json_get(j, "compression_config"); /* its name in older checkpoints */
    if (!rc && found && mistral)
        rc = read_mistral(c, found, err);
    else if (!rc && found)
        rc = read_method(c, (struct model_json){.file = "config.json", .object = found}, err);
    json_decref(root);
    return rc;
}
