/* inspect: a model's headers, configuration, tokenizer and template as JSON (inspect.h). The
 * caller's thread; no state beyond a call. Matrices are bound, which reads their headers alone. */
#include "engine/inspect.h"

#include <stdio.h>
#include <string.h>

#include "engine/engine_open.h"
#include "engine/sched.h"
#include "engine/template/chat.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/kv_cache.h"

enum { SPECIAL_MAX = 4096, PATTERN_BYTES = 256 };

struct inspection {
    const struct source *source;
    const struct inspect_options *o;
    struct gguf *gguf;
    struct model *m;
    struct tokenizer *tokenizer;
    json_t *root;
};

static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value); /* what fails for want of memory is seen at the end */
}

static void set_int(json_t *object, const char *key, int64_t value)
{
    set(object, key, json_integer(value));
}

/* A text of the files: not always UTF-8, as JSON must be. */
static json_t *any_text(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_string("(not UTF-8)");
}

/* ---- files and shapes */

static void add_files(struct inspection *n)
{
    const struct source *s = n->source;
    json_t *files = json_array();
    int64_t bytes = 0;
    for (size_t i = 0; i < source_count(s); i++) {
        const struct source_file *file = source_at(s, i);
        json_array_append_new(files, json_pack("{s:o,s:I}", "name", any_text(file->name), "bytes",
                                               (json_int_t)file->size));
        bytes += (int64_t)file->size;
    }
    set(n->root, "model", any_text(source_name(s)));
    set(n->root, "path", any_text(source_path(s)));
    set(n->root, "format", json_string(source_gguf(s)          ? "GGUF"
                                       : source_is_mistral(s) ? "safetensors, Mistral's layout"
                                                              : "safetensors"));
    set(n->root, "files", files);
    set_int(n->root, "file_bytes", bytes);
}

static void add_features(struct inspection *n)
{
    const struct arch *a = n->m->arch;
    const struct {
        bool has;
        const char *name;
    } features[] = {
        {a->qkv_bias, "biases on q, k, v"},
        {a->qk_norm, "norms on q and k"},
        {a->post_norms, "norms on the outputs of attention and FFN"},
        {a->embed_scale, "scaled embeddings"},
        {a->moe, "experts"},
        {n->m->query_scale_beta > 0, "queries scaled by position"},
        {n->m->head.data == n->m->embed.data, "head tied to the embedding"},
    };
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (features[i].has)
            json_array_append_new(list, json_string(features[i].name));
    const char *method = weights_method(n->m->weights);
    if (method)
        json_array_append_new(list, json_sprintf("%s weights, repacked at load", method));
    size_t disordered = weights_disordered(n->m->weights);
    if (disordered)
        json_array_append_new(list, json_sprintf("%zu matrices with columns in an order of their "
                                                 "own (desc_act), kept as F32", disordered));
    set(n->root, "arch", json_string(a->name));
    set(n->root, "features", list);
}

static void add_shapes(struct inspection *n)
{
    const struct model *m = n->m;
    json_t *s = json_object();
    int window = 0;
    for (int i = 0; i < m->n_layers; i++)
        window = m->layers[i].window > window ? m->layers[i].window : window;
    set_int(s, "layers", m->n_layers);
    set_int(s, "dim", m->dim);
    set_int(s, "heads", m->n_heads);
    set_int(s, "kv_heads", m->n_kv_heads);
    set_int(s, "head_dim", m->head_dim);
    set_int(s, "ffn", m->ffn);
    set_int(s, "vocab", m->vocab);
    set_int(s, "context_length", m->context_length);
    if (m->n_experts) {
        set_int(s, "experts", m->n_experts);
        set_int(s, "experts_used", m->n_experts_used);
    }
    if (window)
        set_int(s, "window", window);
    set(n->root, "shapes", s);
    set_int(n->root, "parameters", m->n_parameters);
    set_int(n->root, "weight_bytes", m->weight_bytes);
}

/* ---- tensors */

/* The tensor's name with its numbers as stars: "blk.*.attn_q.weight". */
static void pattern_of(const char *name, char out[PATTERN_BYTES])
{
    size_t k = 0;
    for (size_t i = 0; name[i] && k + 1 < PATTERN_BYTES; i++) {
        size_t digits = i == 0 || name[i - 1] == '.' ? strspn(name + i, "0123456789") : 0;
        if (digits && (name[i + digits] == '.' || !name[i + digits])) {
            out[k++] = '*';
            i += digits - 1;
        } else {
            out[k++] = name[i];
        }
    }
    out[k] = '\0';
}

static json_t *shape_of(const struct weights_tensor *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims && i < WEIGHTS_DIMS_MAX; i++)
        json_array_append_new(shape, json_integer(t->dims[i]));
    return shape;
}

/* Count t to its group: same pattern, type and shape. groups: object by all three. */
static void count_tensor(json_t *groups, const struct weights_tensor *t)
{
    char pattern[PATTERN_BYTES], key[2 * PATTERN_BYTES];
    int64_t n = 1;
    size_t used;
    pattern_of(t->name, pattern);
    used = (size_t)snprintf(key, sizeof key, "%s %s", pattern, t->type_name);
    for (int i = 0; i < t->n_dims && i < WEIGHTS_DIMS_MAX; i++) {
        n *= t->dims[i];
        if (used < sizeof key)
            used += (size_t)snprintf(key + used, sizeof key - used, " %lld",
                                     (long long)t->dims[i]);
    }
    json_t *group = json_object_get(groups, key);
    if (!group) {
        group = json_pack("{s:o,s:s,s:o,s:i,s:i,s:i}", "names", any_text(pattern), "type",
                          t->type_name, "shape", shape_of(t), "count", 0, "parameters", 0,
                          "bytes", 0);
        set(groups, key, group);
    }
    set_int(group, "count", json_integer_value(json_object_get(group, "count")) + 1);
    set_int(group, "parameters", json_integer_value(json_object_get(group, "parameters")) + n);
    set_int(group, "bytes",
            json_integer_value(json_object_get(group, "bytes")) + (int64_t)t->bytes);
}

static void add_tensors(struct inspection *n)
{
    json_t *groups = json_object(), *list = json_array(), *group;
    const char *key;
    for (size_t i = 0; i < weights_count(n->m->weights); i++)
        count_tensor(groups, weights_at(n->m->weights, i));
    json_object_foreach(groups, key, group)
        json_array_append(list, group);
    json_decref(groups);
    set(n->root, "tensors", list);
}

/* ---- the memory plan, as engine_open makes it */

static const char *kv_name(enum quant_type type)
{
    return quant_formats[type].name;
}

static int add_memory(struct inspection *n, struct err *err)
{
    const struct inspect_options *o = n->o;
    const struct model *m = n->m;
    const struct kv_options kv = {.n_layers = m->n_layers, .n_kv_heads = m->n_kv_heads,
                                  .head_dim = m->head_dim, .n_blocks = 1,
                                  .block_size = o->block_size, .type = o->kv_type};
    const struct forward_options f = {
        .n_tokens_max = o->max_batch_tokens,
        .n_logits_max = engine_open_logits_rows(m, o->max_seqs, o->max_batch_tokens),
        .n_blocks = 1,
        .block_size = o->block_size,
        .kv_type = o->kv_type};
    int len = o->max_model_len ? o->max_model_len : m->context_length;
    if (len < 2 || len > m->context_length)
        return err_set(err, ERR_USAGE, "max_model_len %d: the model was made for %d tokens", len,
                       m->context_length);
    int64_t block = (int64_t)kv_cache_block_bytes(&kv);
    if (block <= 0)
        return err_set(err, ERR_USAGE, "KV cache of type %s in blocks of %d: not possible",
                       kv_name(o->kv_type), o->block_size);
    int64_t workspace = (int64_t)forward_workspace_bytes(m, kernels_cpu(), &f);
    int64_t sequence = block * sched_blocks_min(len, o->block_size, m->window_max);
    int64_t left = o->memory - m->weight_bytes - workspace;
    json_t *plan = json_object();
    set_int(plan, "memory_bytes", o->memory);
    set_int(plan, "weight_bytes", m->weight_bytes);
    set_int(plan, "workspace_bytes", workspace);
    set_int(plan, "max_batch_tokens", o->max_batch_tokens);
    set(plan, "kv_type", json_string(kv_name(o->kv_type)));
    set_int(plan, "kv_bytes_per_token", block / o->block_size);
    set_int(plan, "max_model_len", len);
    set_int(plan, "kv_bytes_per_sequence", sequence);
    set_int(plan, "sequences", left > 0 ? left / sequence : 0);
    set_int(plan, "kv_tokens", left > 0 ? left / block * o->block_size : 0);
    set(n->root, "memory", plan);
    return 0;
}

/* ---- tokenizer and chat */

static json_t *token(const struct tokenizer *t, int32_t id)
{
    return id < 0 ? json_null()
                  : json_pack("{s:i,s:o}", "id", id, "text", any_text(tokenizer_token_text(t, id)));
}

/* Ids that end a text: what the model's files say, else the tokenizer. */
static json_t *eos_of(const struct inspection *n)
{
    json_t *list = json_array();
    for (int i = 0; i < n->m->n_eos; i++)
        if (n->m->eos[i] >= 0 && n->m->eos[i] < tokenizer_vocab_size(n->tokenizer))
            json_array_append_new(list, token(n->tokenizer, n->m->eos[i]));
    if (!json_array_size(list) && tokenizer_eos(n->tokenizer) >= 0)
        json_array_append_new(list, token(n->tokenizer, tokenizer_eos(n->tokenizer)));
    return list;
}

static void add_tokenizer(struct inspection *n)
{
    struct err failed = {0};
    if (tokenizer_open(n->source, n->gguf, n->m->vocab, NULL, &n->tokenizer, &failed)) {
        set(n->root, "tokenizer", json_pack("{s:o}", "error", any_text(failed.text)));
        return;
    }
    const struct tokenizer *t = n->tokenizer;
    json_t *special = json_array(), *o = json_object();
    int n_special = 0;
    for (int32_t id = 0; id < tokenizer_n_tokens(t); id++) {
        if (!tokenizer_is_special(t, id))
            continue;
        if (n_special++ < SPECIAL_MAX)
            json_array_append_new(special, token(t, id));
    }
    set(o, "kind", any_text(tokenizer_kind(t)));
    set_int(o, "tokens", tokenizer_n_tokens(t));
    set(o, "bos", token(t, tokenizer_bos(t)));
    set(o, "adds_bos", json_boolean(tokenizer_adds_bos(t)));
    set(o, "eos", eos_of(n));
    set_int(o, "n_special", n_special);
    set(o, "special", special);
    set(n->root, "tokenizer", o);
}

static void add_chat(struct inspection *n)
{
    struct err failed = {0};
    struct chat *c = NULL;
    if (!n->tokenizer)
        return;
    int rc = chat_open(n->source, n->gguf, n->tokenizer, NULL, NULL, &c, &failed);
    if (!rc)
        rc = chat_choose_native(c, n->tokenizer, false, &failed);
    json_t *o = json_object();
    if (rc) {
        set(o, "error", any_text(failed.text));
    } else if (chat_native(c)) {
        set(o, "by", json_string("Mistral's own encoding"));
        set_int(o, "version", chat_native(c));
    } else {
        set(o, "by", json_string(chat_has_template(c) ? "template" : "nothing"));
        set(o, "takes_tools", json_boolean(chat_has_template(c) && chat_takes_tools(c)));
    }
    set(n->root, "chat", o);
    chat_close(c);
}

/* ---- all of it */

static int fill(struct inspection *n, struct err *err)
{
    json_t *pass = NULL;
    int rc = source_gguf(n->source) ? gguf_open(source_gguf(n->source), &n->gguf, err) : 0;
    if (!rc)
        rc = model_open(n->source, n->gguf, &n->m, err);
    if (rc)
        return rc;
    add_files(n);
    add_features(n);
    add_shapes(n);
    add_tensors(n);
    rc = add_memory(n, err);
    if (rc)
        return rc;
    add_tokenizer(n);
    add_chat(n);
    rc = inspect_pass(n->m, &pass, err);
    if (!rc)
        set(n->root, "pass", pass);
    return rc;
}

int inspect_model(const struct source *source, const struct inspect_options *options, json_t **out,
                  struct err *err)
{
    struct inspection n = {.source = source, .o = options, .root = json_object()};
    *out = NULL;
    int rc = n.root ? fill(&n, err) : err_set(err, ERR_NOMEM, "out of memory");
    tokenizer_close(n.tokenizer);
    model_close(n.m);
    gguf_close(n.gguf);
    if (rc) {
        json_decref(n.root);
        return rc;
    }
    *out = n.root;
    return 0;
}
