/* model_export_meta: a model's metadata as GGUF has it (the format's specification; the keys of
 * architectures as llama.cpp reads them). Runs where model_export_run does; keeps nothing. */
#include "engine/model_export_meta.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/model_config.h"
#include "engine/template/chat.h"
#include "engine/tokenizer/tokenizer.h"

/* general.file_type: llama.cpp's number of the mixture that is nearest */
static const int file_types[QUANT_COUNT] = {
    [QUANT_F32] = 0,     [QUANT_F16] = 1,   [QUANT_BF16] = 32,   [QUANT_Q8_0] = 7,
    [QUANT_Q4_0] = 2,    [QUANT_Q4_1] = 3,  [QUANT_Q5_0] = 8,    [QUANT_Q5_1] = 9,
    [QUANT_IQ4_NL] = 25, [QUANT_MXFP4] = 38, [QUANT_Q2_K] = 10,  [QUANT_Q3_K] = 11,
    [QUANT_Q4_K] = 14,   [QUANT_Q5_K] = 16, [QUANT_Q6_K] = 18,   [QUANT_IQ4_XS] = 30};

static void put_text(struct gguf_write *w, const char *key, const char *text)
{
    gguf_write_text(w, key, text, strlen(text));
}

static void put_type(struct gguf_write *w, enum quant_type type)
{
    gguf_write_int(w, "general.file_type", GGUF_U32, file_types[type]);
    if (type > QUANT_BF16)
        gguf_write_int(w, "general.quantization_version", GGUF_U32, 2);
}

/* ---- from GGUF */

static void copy_pairs(struct gguf_write *w, const struct gguf *g)
{
    static const char *const ours[] = {"general.file_type", "general.quantization_version",
                                       "general.alignment", "split.no", "split.count",
                                       "split.tensors.count"};
    const struct gguf_value *value;
    const char *key;
    for (size_t i = 0; (value = gguf_at(g, i, &key)); i++) {
        bool own = !strncmp(key, "quantize.imatrix.", 17);
        for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
            own |= !strcmp(key, ours[k]);
        if (!own)
            gguf_write_value(w, key, value);
    }
}

/* ---- from other formats */

/* What an architecture's keys cannot say. */
static int check(const struct model *m, const struct model_config *c, struct err *err)
{
    const char *what = NULL;
    if (c->rope_scaling == ROPE_YARN)
        what = "YaRN's scaling of the rotary embedding";
    if (c->query_scale_from)
        what = "queries scaled by their position";
    if (c->attn_softcap > 0 || c->logit_softcap > 0)
        what = "soft caps";
    for (int i = 1; i < m->n_layers; i++)
        if (m->layers[i].window != m->layers[0].window)
            what = "layers of different windows";
    return what ? err_set(err, ERR_FORMAT, "a %s model cannot be written as GGUF: its %s has no "
                                           "key there", m->arch->name, what)
                : 0;
}

struct keys {
    struct gguf_write *w;
    const char *arch;
};

static const char *key_of(const struct keys *k, const char *rest, char key[96])
{
    snprintf(key, 96, "%s.%s", k->arch, rest);
    return key;
}

static void put_count(const struct keys *k, const char *rest, int64_t value)
{
    char key[96];
    gguf_write_int(k->w, key_of(k, rest, key), GGUF_U32, value);
}

static void put_number(const struct keys *k, const char *rest, double value)
{
    char key[96];
    gguf_write_float(k->w, key_of(k, rest, key), value);
}

static void put_config(const struct keys *k, const struct model *m, const struct model_config *c)
{
    char key[96];
    for (int i = 0; i < model_n_int_rows; i++) {
        const struct model_int_row *row = &model_int_rows[i];
        int64_t value = *(const int64_t *)(const void *)((const char *)c + row->at);
        if (row->gguf && value && row->at != offsetof(struct model_config, window) &&
            (m->arch->moe || (row->at != offsetof(struct model_config, n_experts) &&
                              row->at != offsetof(struct model_config, n_experts_used))))
            put_count(k, row->gguf, value);
    }
    for (int i = 0; i < model_n_float_rows; i++) {
        const struct model_float_row *row = &model_float_rows[i];
        double value = *(const double *)(const void *)((const char *)c + row->at);
        if (row->gguf && value > 0)
            put_number(k, row->gguf, value);
    }
    put_count(k, "attention.value_length", c->head_dim);
    if (m->layers[0].window)
        put_count(k, "attention.sliding_window", m->layers[0].window);
    if (c->rope_scaling == ROPE_LINEAR) {
        put_text(k->w, key_of(k, "rope.scaling.type", key), "linear");
        put_number(k, "rope.scaling.factor", c->rope_factor);
    }
}

/* The model's end-of-sequence ids; the first is the tokenizer's own. */
static void put_ends(struct gguf_write *w, const struct model *m, const struct tokenizer *t)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    int32_t own = tokenizer_eos(t);
    int n = 0;
    if (own >= 0)
        gguf_write_int(w, keys[n++], GGUF_U32, own);
    for (int i = 0; i < m->n_eos && n < 3; i++)
        if (m->eos[i] != own)
            gguf_write_int(w, keys[n++], GGUF_U32, m->eos[i]);
}

static void put_template(struct gguf_write *w, const struct chat *chat)
{
    const struct template *plain = chat_template(chat, false), *tools = chat_template(chat, true);
    const char *text;
    size_t n;
    if (!plain)
        return;
    text = template_source(plain, &n);
    gguf_write_text(w, "tokenizer.chat_template", text, n);
    if (tools == plain)
        return;
    gguf_write_strings(w, "tokenizer.chat_templates", 1);
    gguf_write_string(w, "tool_use", 8);
    text = template_source(tools, &n);
    gguf_write_text(w, "tokenizer.chat_template.tool_use", text, n);
}

static int put_tokenizer(struct gguf_write *w, const struct source *source, const struct model *m,
                         struct err *err)
{
    struct tokenizer *t = NULL;
    struct chat *chat = NULL;
    if (!tokenizer_exists(source, NULL)) {
        put_text(w, "tokenizer.ggml.model", "none"); /* llama.cpp's word for it */
        return 0;
    }
    int rc = tokenizer_open(source, NULL, m->vocab, NULL, &t, err);
    if (!rc)
        rc = tokenizer_save_gguf(t, m->vocab, w, err);
    if (!rc)
        rc = chat_open(source, NULL, t, NULL, NULL, &chat, err);
    if (!rc) {
        put_ends(w, m, t);
        put_template(w, chat);
    }
    chat_close(chat);
    tokenizer_close(t);
    return rc;
}

static int read_config(struct model_config *c, const struct source *source, struct err *err)
{
    struct model unused = {.bos = -1}; /* takes the token ids and defaults */
    return source_is_mistral(source) ? model_config_mistral(c, &unused, source, err)
                                     : model_config_hf(c, &unused, source, err);
}

/* inv_freq was theta^(-2 j / rotary_dims), scaled (model.c). */
static void find_divisors(struct model_export_extra *extra, const struct model *m,
                          const struct model_config *c)
{
    const struct model_rope *rope = &m->ropes[0];
    if (c->rope_scaling != ROPE_LLAMA3)
        return;
    extra->n_divisors = rope->n_freq;
    for (int j = 0; j < rope->n_freq; j++)
        extra->divisors[j] = (float)(pow(c->rope_theta, -2.0 * j / (double)c->rotary_dims) /
                                     (double)rope->inv_freq[j]);
}

static int copy_divisors(struct model_export_extra *extra, const struct model *m, struct err *err)
{
    const struct weights_tensor *own = weights_find(m->weights, "rope_freqs.weight");
    if (!own)
        return 0;
    if (own->n_dims != 1 || own->dims[0] > MODEL_EXPORT_DIVISORS_MAX ||
        own->dims[0] % quant_formats[own->type].block)
        return err_set(err, ERR_FORMAT, "tensor 'rope_freqs.weight' has no shape of frequencies");
    extra->n_divisors = (int)own->dims[0];
    quant_formats[own->type].decode(own->data, extra->divisors, (size_t)own->dims[0]);
    return 0;
}

static int put_all(struct gguf_write *w, const struct source *source, const struct model *m,
                   const struct model_config *c, struct model_export_extra *extra, struct err *err)
{
    struct keys k = {w, m->arch->gguf_name ? m->arch->gguf_name : m->arch->gguf_as};
    const struct arch *target = k.arch ? arch_find_gguf(k.arch, m->arch->moe) : NULL;
    if (!target)
        return err_set(err, ERR_FORMAT, "a %s model cannot be written as GGUF: not supported",
                       m->arch->name);
    int rc = check(m, c, err);
    if (rc)
        return rc;
    if (m->rope_interleaved && !target->gguf_interleaved)
        return err_set(err, ERR_FORMAT, "a %s model of Mistral's layout cannot be written as GGUF",
                       m->arch->name);
    extra->interleave = target->gguf_interleaved && !m->rope_interleaved;
    find_divisors(extra, m, c);
    put_text(w, "general.architecture", k.arch);
    put_text(w, "general.type", "model");
    put_text(w, "general.name", source_name(source));
    put_config(&k, m, c);
    return put_tokenizer(w, source, m, err);
}

int model_export_metadata(struct gguf_write *w, const struct source *source,
                          const struct gguf *gguf, const struct model *m, enum quant_type type,
                          struct model_export_extra *extra, struct err *err)
{
    int rc;
    *extra = (struct model_export_extra){.interleave = false};
    if (gguf) {
        copy_pairs(w, gguf);
        put_type(w, type);
        return copy_divisors(extra, m, err);
    }
    struct buf memory; /* of the configuration, which is large for the stack */
    buf_init(&memory, 0);
    if (buf_reserve(&memory, sizeof(struct model_config)))
        return err_set(err, ERR_NOMEM, "out of memory");
    struct model_config *c = (struct model_config *)(void *)memory.data;
    memset(c, 0, sizeof *c);
    rc = read_config(c, source, err);
    if (!rc)
        rc = put_all(w, source, m, c, extra, err);
    put_type(w, type);
    buf_free(&memory);
    return rc;
}
