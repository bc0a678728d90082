/* model_config: the table of hyperparameters, their bounds, and how they hang together; GGUF
 * metadata as one of its two sources (the other, config.json, is model_config_hf.c).
 *
 * Runs at open, in the caller's thread. Every number of a file passes through a row's bounds, so
 * that later products cannot overflow: the largest, vocab * dim, stays below 2^45. */
#include "engine/model_config.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define INT(field) offsetof(struct model_config, field)
const struct model_int_row model_int_rows[] = {
    {"num_hidden_layers", "block_count", "n_layers", INT(n_layers), 1, MODEL_LAYERS_MAX, true},
    {"hidden_size", "embedding_length", "dim", INT(dim), 1, 1 << 20, true},
    {"intermediate_size", "feed_forward_length", "hidden_dim", INT(ffn), 1, 1 << 22, true},
    {"num_attention_heads", "attention.head_count", "n_heads", INT(n_heads), 1, 1024, true},
    {"num_key_value_heads", "attention.head_count_kv", "n_kv_heads", INT(n_kv_heads), 1, 1024,
     false},
    {"head_dim", "attention.key_length", "head_dim", INT(head_dim), 2, 1024, false},
    {"vocab_size", "vocab_size", "vocab_size", INT(vocab), 1, 1 << 24, false},
    /* params.json leaves the context out more often than not: see model_config_mistral.c */
    {"max_position_embeddings", "context_length", NULL, INT(context_length), 1, 1 << 27, true},
    {"num_local_experts", "expert_count", NULL, INT(n_experts), 0, 1024, false},
    {"num_experts_per_tok", "expert_used_count", NULL, INT(n_experts_used), 0, 1024, false},
    {"sliding_window", "attention.sliding_window", NULL, INT(window), 0, INT32_MAX, false},
    {NULL, "rope.dimension_count", NULL, INT(rotary_dims), 2, 1024, false},
};
const int model_n_int_rows = sizeof model_int_rows / sizeof *model_int_rows;

const struct model_float_row model_float_rows[] = {
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", "norm_eps", INT(norm_eps), 1e-30, 1, true},
    {"attn_logit_softcapping", "attn_logit_softcapping", NULL, INT(attn_softcap), 0, 1e6, false},
    {"final_logit_softcapping", "final_logit_softcapping", NULL, INT(logit_softcap), 0, 1e6, false},
    {"query_pre_attn_scalar", NULL, NULL, INT(query_scalar), 1e-6, 1e9, false},
    {"rope_theta", "rope.freq_base", "rope_theta", INT(rope_theta), 1e-6, 1e15, false},
    {"rope_local_base_freq", NULL, NULL, INT(rope_local_theta), 1e-6, 1e15, false},
};
const int model_n_float_rows = sizeof model_float_rows / sizeof *model_float_rows;
#undef INT

int model_config_unknown(const char *name, struct err *err)
{
    char known[256] = "";
    size_t used = 0;
    for (int i = 0; i < arch_count && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 arch_table[i].name);
    return err_set(err, ERR_FORMAT, "architecture '%.100s' is not supported (known: %s)", name,
                   known);
}

bool model_add_eos(struct model *m, int64_t id)
{
    for (int i = 0; i < m->n_eos; i++)
        if (m->eos[i] == id)
            return true;
    if (m->n_eos == MODEL_EOS_MAX)
        return false;
    m->eos[m->n_eos++] = (int32_t)id;
    return true;
}

static int check_experts(const struct model_config *c, struct err *err)
{
    if (!c->arch->moe)
        return 0;
    if (c->n_experts < 1 || c->n_experts_used < 1 || c->n_experts_used > c->n_experts)
        return err_set(err, ERR_FORMAT, "%lld experts used of %lld: not 1..number of experts",
                       (long long)c->n_experts_used, (long long)c->n_experts);
    return 0;
}

double model_config_yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static int check_yarn(const struct model_config *c, struct err *err)
{
    if (c->rope_scaling != ROPE_YARN || c->rope_theta > 1)
        return 0;
    return err_set(err, ERR_FORMAT, "rope_theta %g: yarn needs one above 1", c->rope_theta);
}

int model_config_finish(struct model_config *c, struct err *err)
{
    if (!c->n_kv_heads)
        c->n_kv_heads = c->n_heads;
    if (c->n_heads % c->n_kv_heads)
        return err_set(err, ERR_FORMAT, "%lld attention heads do not divide among %lld KV heads",
                       (long long)c->n_heads, (long long)c->n_kv_heads);
    if (!c->head_dim) {
        if (c->dim % c->n_heads)
            return err_set(err, ERR_FORMAT,
                           "hidden size %lld is no multiple of %lld heads, and head_dim is absent",
                           (long long)c->dim, (long long)c->n_heads);
        c->head_dim = c->dim / c->n_heads;
    }
    if (c->head_dim < 2 || c->head_dim > 1024 || c->head_dim % 2)
        return err_set(err, ERR_FORMAT, "head_dim %lld is not even and in 2..1024",
                       (long long)c->head_dim);
    if (!c->rotary_dims)
        c->rotary_dims = c->head_dim;
    if (c->rotary_dims > c->head_dim || c->rotary_dims % 2)
        return err_set(err, ERR_FORMAT, "%lld rotary dimensions are not even and at most %lld",
                       (long long)c->rotary_dims, (long long)c->head_dim);
    if (!c->vocab)
        return err_set(err, ERR_FORMAT, "vocab_size is missing");
    if (c->rope_theta <= 0) {
        if (c->arch->rope_local_base > 0)
            return err_set(err, ERR_FORMAT, "rope_theta is missing");
        c->rope_theta = 10000; /* what every architecture of the table means by leaving it out */
    }
    if (c->rope_local_theta <= 0)
        c->rope_local_theta = c->arch->rope_local_base;
    if (c->arch->rope_local_base <= 0)
        c->rope_local_theta = 0;
    int rc = check_yarn(c, err);
    return rc ? rc : check_experts(c, err);
}

/* ---- GGUF */

static const char *full_key(char key[128], const char *arch, const char *rest)
{
    snprintf(key, 128, "%s.%s", arch, rest);
    return key;
}

static int read_rows(struct model_config *c, const struct gguf *g, const char *name,
                     struct err *err)
{
    char key[128];
    int found, rc = 0;
    for (int i = 0; !rc && i < model_n_int_rows; i++) {
        const struct model_int_row *row = &model_int_rows[i];
        rc = gguf_int(g, full_key(key, name, row->gguf), row->min, row->max,
                      (int64_t *)((char *)c + row->at), &found, err);
        if (!rc && !found && row->required)
            rc = err_set(err, ERR_FORMAT, "key '%s' is missing", key);
    }
    for (int i = 0; !rc && i < model_n_float_rows; i++) {
        const struct model_float_row *row = &model_float_rows[i];
        double value = 0;
        if (!row->gguf)
            continue;
        rc = gguf_float(g, full_key(key, name, row->gguf), &value, &found, err);
        if (!rc && !found && row->required)
            rc = err_set(err, ERR_FORMAT, "key '%s' is missing", key);
        if (!rc && found && !(value >= row->min && value <= row->max))
            rc = err_set(err, ERR_FORMAT, "key '%s' is %g, not %g..%g", key, value, row->min,
                         row->max);
        if (!rc && found)
            *(double *)((char *)c + row->at) = value;
    }
    return rc;
}

static int read_scaling(struct model_config *c, const struct gguf *g, const char *name,
                        struct err *err)
{
    char key[128];
    const char *type;
    size_t size;
    int found;
    int rc = gguf_text(g, full_key(key, name, "rope.scaling.type"), &type, &size, &found, err);
    if (rc || !found || (size == 4 && !memcmp(type, "none", 4)))
        return rc;
    if (size != 6 || memcmp(type, "linear", 6))
        return err_set(err, ERR_FORMAT, "key '%s': '%.*s' is not supported (known: none, linear)",
                       key, (int)(size < 64 ? size : 64), type);
    c->rope_scaling = ROPE_LINEAR;
    rc = gguf_float(g, full_key(key, name, "rope.scaling.factor"), &c->rope_factor, &found, err);
    if (!rc && (!found || !(c->rope_factor >= 1e-3 && c->rope_factor <= 1e6)))
        rc = err_set(err, ERR_FORMAT, "key '%s' is missing or not 0.001..1000000", key);
    return rc;
}

/* vocab_size, or the number of tokens; both must agree. */
static int read_vocab(struct model_config *c, const struct gguf *g, struct err *err)
{
    const struct gguf_value *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (!tokens)
        return 0;
    if (!tokens->is_array || tokens->type != GGUF_STRING || tokens->count < 1 ||
        tokens->count > 1 << 24)
        return err_set(err, ERR_FORMAT, "key 'tokenizer.ggml.tokens' is no array of 1..%d strings",
                       1 << 24);
    if (c->vocab && c->vocab != (int64_t)tokens->count)
        return err_set(err, ERR_FORMAT, "vocab_size is %lld, tokenizer.ggml.tokens has %llu",
                       (long long)c->vocab, (unsigned long long)tokens->count);
    c->vocab = (int64_t)tokens->count;
    return 0;
}

static int read_special(const struct model_config *c, struct model *m, const struct gguf *g,
                        struct err *err)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int64_t id = -1;
    int found;
    int rc = gguf_int(g, "tokenizer.ggml.bos_token_id", 0, c->vocab - 1, &id, &found, err);
    m->bos = (int32_t)id;
    for (size_t i = 0; !rc && i < sizeof ends / sizeof *ends; i++) {
        rc = gguf_int(g, ends[i], 0, c->vocab - 1, &id, &found, err);
        if (!rc && found)
            model_add_eos(m, id);
    }
    return rc;
}

static int check_unsupported(const struct model_config *c, const struct gguf *g, const char *name,
                             struct err *err)
{
    char key[128];
    int64_t value = 0;
    int found;
    int rc = gguf_int(g, full_key(key, name, "attention.value_length"), 1, 1024, &value, &found,
                      err);
    if (!rc && found && value != c->head_dim)
        rc = err_set(err, ERR_FORMAT, "key '%s' is %lld, key_length is %lld: must be equal", key,
                     (long long)value, (long long)c->head_dim);
    return rc;
}

int model_config_gguf(struct model_config *c, struct model *m, const struct gguf *g,
                      struct err *err)
{
    const char *text = NULL;
    char name[64], key[128];
    size_t size = 0;
    int found;
    int64_t n_experts = 0;
    int rc = gguf_text(g, "general.architecture", &text, &size, &found, err);
    if (rc)
        return rc;
    if (!found)
        return err_set(err, ERR_FORMAT, "key 'general.architecture' is missing");
    snprintf(name, sizeof name, "%.*s", (int)(size < sizeof name ? size : sizeof name), text);
    rc = gguf_int(g, full_key(key, name, "expert_count"), 0, 1024, &n_experts, &found, err);
    if (rc)
        return rc;
    c->format = MODEL_GGUF;
    c->tied = TIED_IF_ABSENT;
    c->arch = arch_find_gguf(name, n_experts > 0);
    if (!c->arch)
        return model_config_unknown(name, err);
    rc = read_rows(c, g, name, err);
    if (!rc)
        rc = read_scaling(c, g, name, err);
    if (!rc)
        rc = read_vocab(c, g, err);
    if (!rc)
        rc = model_config_finish(c, err);
    if (!rc)
        rc = check_unsupported(c, g, name, err);
    if (!rc)
        rc = read_special(c, m, g, err);
    memset(c->windowed, c->window > 0, sizeof c->windowed);
    return rc;
}
