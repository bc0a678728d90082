/* model_bind: from tensor names to struct model: every tensor the configuration asks for is found,
 * its type and shape are checked, and nothing may be left over (a tensor nobody reads is a part of
 * the model that would silently be missing from the computation).
 *
 * Matrices keep pointing into the file; vectors become float32 copies in the model's arena. Runs at
 * open, in the caller's thread. Errors are sticky: after the first, binding calls do nothing. */
#include <stdio.h>
#include <string.h>

#include "engine/model_config.h"

enum { NAME_BYTES = 256 };

/* THE TABLE of tensor names: what each file format calls the tensor of a role. Those of layers
 * stand behind the layer's prefix. */
enum role {
    EMBED, FINAL_NORM, HEAD,
    ATTN_NORM, WQ, WK, WV, WO, BQ, BK, BV, Q_NORM, K_NORM,
    FFN_NORM, POST_ATTN_NORM, PRE_FFN_NORM, POST_FFN_NORM, GATE, UP, DOWN, ROUTER
};

static const char *const names[][MODEL_FORMATS] = {
    [EMBED] = {"embed_tokens.weight", "token_embd.weight", "tok_embeddings.weight"},
    [FINAL_NORM] = {"norm.weight", "output_norm.weight", "norm.weight"},
    [HEAD] = {"lm_head.weight", "output.weight", "output.weight"},
    [ATTN_NORM] = {"input_layernorm.weight", "attn_norm.weight", "attention_norm.weight"},
    [WQ] = {"self_attn.q_proj.weight", "attn_q.weight", "attention.wq.weight"},
    [WK] = {"self_attn.k_proj.weight", "attn_k.weight", "attention.wk.weight"},
    [WV] = {"self_attn.v_proj.weight", "attn_v.weight", "attention.wv.weight"},
    [WO] = {"self_attn.o_proj.weight", "attn_output.weight", "attention.wo.weight"},
    [BQ] = {"self_attn.q_proj.bias", "attn_q.bias", "attention.wq.bias"},
    [BK] = {"self_attn.k_proj.bias", "attn_k.bias", "attention.wk.bias"},
    [BV] = {"self_attn.v_proj.bias", "attn_v.bias", "attention.wv.bias"},
    [Q_NORM] = {"self_attn.q_norm.weight", "attn_q_norm.weight", "attention.q_norm.weight"},
    [K_NORM] = {"self_attn.k_norm.weight", "attn_k_norm.weight", "attention.k_norm.weight"},
    [FFN_NORM] = {"post_attention_layernorm.weight", "ffn_norm.weight", "ffn_norm.weight"},
    /* where outputs have norms too, Hugging Face calls the one after attention what elsewhere is
     * the one before the FFN; Mistral has no such model */
    [POST_ATTN_NORM] = {"post_attention_layernorm.weight", "post_attention_norm.weight", ""},
    [PRE_FFN_NORM] = {"pre_feedforward_layernorm.weight", "ffn_norm.weight", ""},
    [POST_FFN_NORM] = {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", ""},
    [GATE] = {"mlp.gate_proj.weight", "ffn_gate.weight", "feed_forward.w1.weight"},
    [UP] = {"mlp.up_proj.weight", "ffn_up.weight", "feed_forward.w3.weight"},
    [DOWN] = {"mlp.down_proj.weight", "ffn_down.weight", "feed_forward.w2.weight"},
    [ROUTER] = {"gate.weight", "ffn_gate_inp.weight", "feed_forward.gate.weight"},
};

/* Where the tensors of the text model lie beside those of a vision part, and what that is called:
 * files of the library's version 4, then of its version 5 in memory. */
static const struct place {
    const char *base, *head; /* what stands before the model's tensors, and before the head */
} places[] = {{"language_model.model.", "language_model."}, {"model.language_model.", ""}};

struct binder {
    struct model *m;
    const struct model_config *c;
    struct place place;
    uint8_t *used; /* by index of weights_at */
    struct err *err;
    int rc;
    char name[NAME_BYTES]; /* of the tensor at hand */
};

static struct place find_place(const struct model *m, const struct model_config *c)
{
    char name[NAME_BYTES];
    if (c->format != MODEL_HF)
        return (struct place){"", ""};
    for (size_t i = 0; c->images && i < sizeof places / sizeof *places; i++) {
        snprintf(name, sizeof name, "%s%s", places[i].base, names[EMBED][MODEL_HF]);
        if (weights_find(m->weights, name))
            return places[i];
    }
    return (struct place){"model.", ""};
}

/* The name of a tensor outside the layers. */
static void global_name(struct binder *b, enum role role)
{
    snprintf(b->name, sizeof b->name, "%s%s", role == HEAD ? b->place.head : b->place.base,
             names[role][b->c->format]);
}

/* The name of a tensor of a layer, the part behind the layer's given as text. */
static void layer_text(struct binder *b, int layer, const char *rest)
{
    const char *layers = b->c->format == MODEL_GGUF ? "blk" : "layers";
    snprintf(b->name, sizeof b->name, "%s%s.%d.%s", b->place.base, layers, layer, rest);
}

static void layer_name(struct binder *b, int layer, enum role role)
{
    layer_text(b, layer, names[role][b->c->format]);
}

static void fail(struct binder *b, const char *what)
{
    b->rc = err_set(b->err, ERR_FORMAT, "tensor '%s' %s", b->name, what);
}

/* The tensor called b->name, of shape dims, counted; NULL after an error. */
static const struct weights_tensor *take(struct binder *b, int n_dims, const int64_t *dims)
{
    char need[96] = "", have[96] = "";
    if (b->rc)
        return NULL;
    const struct weights_tensor *tensor = weights_find(b->m->weights, b->name);
    if (!tensor) {
        fail(b, "is missing");
        return NULL;
    }
    bool same = tensor->n_dims == n_dims;
    for (int i = 0; same && i < n_dims; i++)
        same = tensor->dims[i] == dims[i];
    if (!same) {
        size_t n = 0;
        for (int i = 0; i < n_dims && n < sizeof need; i++)
            n += (size_t)snprintf(need + n, sizeof need - n, "%s%lld", i ? ", " : "",
                                  (long long)dims[i]);
        n = 0;
        for (int i = 0; i < tensor->n_dims && i < WEIGHTS_DIMS_MAX && n < sizeof have; i++)
            n += (size_t)snprintf(have + n, sizeof have - n, "%s%lld", i ? ", " : "",
                                  (long long)tensor->dims[i]);
        b->rc = err_set(b->err, ERR_FORMAT,
                        "tensor '%s' has the shape [%s], the configuration needs [%s]", b->name,
                        have, need);
        return NULL;
    }
    if (tensor->type >= QUANT_COUNT) {
        b->rc = err_set(b->err, ERR_FORMAT, "tensor '%s': type %s is not supported", b->name,
                        tensor->type_name);
        return NULL;
    }
    uint8_t *used = &b->used[tensor - weights_at(b->m->weights, 0)];
    if (!*used) {
        int64_t n = 1;
        for (int i = 0; i < n_dims; i++)
            n *= dims[i];
        b->m->n_parameters += n;
        b->m->weight_bytes += (int64_t)tensor->bytes;
        *used = 1;
    }
    return tensor;
}

static void bind_matrix(struct binder *b, struct matrix *out, int64_t rows, int64_t cols)
{
    const struct weights_tensor *tensor = take(b, 2, (int64_t[]){rows, cols});
    if (tensor)
        *out = (struct matrix){.type = tensor->type, .rows = rows, .cols = cols,
                               .data = tensor->data};
}

/* A vector as float32; plus is added to each element. */
static float *bind_vector(struct binder *b, int64_t n, float plus)
{
    const struct weights_tensor *tensor = take(b, 1, &n);
    if (!tensor)
        return NULL;
    float *copy = arena_array(&b->m->arena, (size_t)n, sizeof *copy);
    if (!copy) {
        b->rc = err_set(b->err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    quant_formats[tensor->type].decode(tensor->data, copy, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        copy[i] += plus;
    return copy;
}

static float *bind_norm(struct binder *b, int64_t n)
{
    return bind_vector(b, n, b->c->arch->norm_plus_one && b->c->format == MODEL_HF ? 1.0f : 0.0f);
}

static void bind_attention(struct binder *b, struct model_layer *layer, int i)
{
    const struct model_config *c = b->c;
    int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    layer_name(b, i, ATTN_NORM);
    layer->attn_norm = bind_norm(b, c->dim);
    layer_name(b, i, WQ);
    bind_matrix(b, &layer->wq, q, c->dim);
    layer_name(b, i, WK);
    bind_matrix(b, &layer->wk, kv, c->dim);
    layer_name(b, i, WV);
    bind_matrix(b, &layer->wv, kv, c->dim);
    layer_name(b, i, WO);
    bind_matrix(b, &layer->wo, c->dim, q);
    if (c->arch->qkv_bias) {
        layer_name(b, i, BQ);
        layer->bq = bind_vector(b, q, 0);
        layer_name(b, i, BK);
        layer->bk = bind_vector(b, kv, 0);
        layer_name(b, i, BV);
        layer->bv = bind_vector(b, kv, 0);
    }
    if (c->arch->qk_norm) {
        layer_name(b, i, Q_NORM);
        layer->q_norm = bind_norm(b, c->head_dim);
        layer_name(b, i, K_NORM);
        layer->k_norm = bind_norm(b, c->head_dim);
    }
}

static void bind_ffn_norms(struct binder *b, struct model_layer *layer, int i)
{
    if (!b->c->arch->post_norms) {
        layer_name(b, i, FFN_NORM);
        layer->ffn_norm = bind_norm(b, b->c->dim);
        return;
    }
    layer_name(b, i, POST_ATTN_NORM);
    layer->post_attn_norm = bind_norm(b, b->c->dim);
    layer_name(b, i, PRE_FFN_NORM);
    layer->ffn_norm = bind_norm(b, b->c->dim);
    layer_name(b, i, POST_FFN_NORM);
    layer->post_ffn_norm = bind_norm(b, b->c->dim);
}

static void bind_dense(struct binder *b, struct model_layer *layer, int i)
{
    layer_name(b, i, GATE);
    bind_matrix(b, &layer->gate, b->c->ffn, b->c->dim);
    layer_name(b, i, UP);
    bind_matrix(b, &layer->up, b->c->ffn, b->c->dim);
    layer_name(b, i, DOWN);
    bind_matrix(b, &layer->down, b->c->dim, b->c->ffn);
}

/* One of the experts' three matrices, in each format. */
struct expert_role {
    const char *w;    /* Hugging Face, Mistral: "w1" */
    const char *gguf; /* "ffn_gate" */
};

static void expert_name(struct binder *b, int layer, int expert, struct expert_role role)
{
    char rest[NAME_BYTES / 2];
    if (b->c->format == MODEL_GGUF)
        snprintf(rest, sizeof rest, "%s.%d.weight", role.gguf, expert);
    else
        snprintf(rest, sizeof rest, "%s.experts.%d.%s.weight",
                 b->c->format == MODEL_HF ? b->c->arch->moe_prefix : "feed_forward", expert,
                 role.w);
    layer_text(b, layer, rest);
}

/* One matrix per expert, or, in newer GGUF files, all in one tensor [n_experts][rows][cols]. */
static struct matrix *bind_experts(struct binder *b, int layer, struct expert_role role,
                                   int64_t rows, int64_t cols)
{
    int n = (int)b->c->n_experts;
    char rest[NAME_BYTES / 2];
    if (b->rc)
        return NULL;
    struct matrix *experts = arena_array(&b->m->arena, (size_t)n, sizeof *experts);
    if (!experts) {
        b->rc = err_set(b->err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    snprintf(rest, sizeof rest, "%s_exps.weight", role.gguf);
    layer_text(b, layer, rest);
    if (b->c->format == MODEL_GGUF && weights_find(b->m->weights, b->name)) {
        const struct weights_tensor *all = take(b, 3, (int64_t[]){n, rows, cols});
        size_t bytes = all ? all->bytes / (size_t)n : 0;
        for (int e = 0; all && e < n; e++)
            experts[e] = (struct matrix){.type = all->type, .rows = rows, .cols = cols,
                                         .data = all->data + (size_t)e * bytes};
        return experts;
    }
    for (int e = 0; !b->rc && e < n; e++) {
        expert_name(b, layer, e, role);
        bind_matrix(b, &experts[e], rows, cols);
    }
    return experts;
}

static void bind_moe(struct binder *b, struct model_layer *layer, int i)
{
    const struct model_config *c = b->c;
    char router[NAME_BYTES / 2];
    layer_name(b, i, ROUTER);
    if (c->format == MODEL_HF) {
        snprintf(router, sizeof router, "%s.%s", c->arch->moe_prefix, names[ROUTER][MODEL_HF]);
        layer_text(b, i, router);
    }
    bind_matrix(b, &layer->router, c->n_experts, c->dim);
    layer->expert_gate =
        bind_experts(b, i, (struct expert_role){"w1", "ffn_gate"}, c->ffn, c->dim);
    layer->expert_up = bind_experts(b, i, (struct expert_role){"w3", "ffn_up"}, c->ffn, c->dim);
    layer->expert_down =
        bind_experts(b, i, (struct expert_role){"w2", "ffn_down"}, c->dim, c->ffn);
}

static void bind_ends(struct binder *b)
{
    struct model *m = b->m;
    const struct model_config *c = b->c;
    global_name(b, EMBED);
    bind_matrix(b, &m->embed, c->vocab, c->dim);
    global_name(b, FINAL_NORM);
    m->final_norm = bind_norm(b, c->dim);
    global_name(b, HEAD);
    if (c->tied == TIED_YES ||
        (c->tied == TIED_IF_ABSENT && !weights_find(m->weights, b->name)))
        m->head = m->embed;
    else
        bind_matrix(b, &m->head, c->vocab, c->dim);
}

/* GGUF keeps llama3's scaling of the frequencies as divisors, in a tensor. */
static void bind_rope_divisors(struct binder *b)
{
    struct model_rope *rope = &b->m->ropes[0];
    snprintf(b->name, sizeof b->name, "rope_freqs.weight");
    if (b->rc || b->c->format != MODEL_GGUF || !weights_find(b->m->weights, b->name))
        return;
    float *divisors = bind_vector(b, rope->n_freq, 0);
    for (int i = 0; divisors && i < rope->n_freq; i++) {
        if (!(divisors[i] >= 1e-6f && divisors[i] <= 1e6f)) {
            fail(b, "holds a value that is not 1e-6..1e6");
            return;
        }
        rope->inv_freq[i] /= divisors[i];
    }
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* The tensors of a vision part, which serving text leaves aside. */
static bool is_vision(const char *name)
{
    static const char *const parts[] = {
        "vision_tower.",         "multi_modal_projector.",  "model.vision_tower.",
        "vision_encoder.",       "vision_language_adapter.", "model.multi_modal_projector.",
        "pre_mm_projector_norm.", "patch_merger."};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strncmp(name, parts[i], strlen(parts[i])))
            return true;
    return false;
}

/* Tensors that some files carry although nothing needs them: frequencies that are computed here,
 * and a copy of the embedding under the head's name. */
static bool is_redundant(struct binder *b, const char *name)
{
    if (b->c->format == MODEL_GGUF)
        return ends_with(name, ".attn_rot_embd.weight");
    if (b->c->images && is_vision(name))
        return true;
    global_name(b, HEAD);
    return ends_with(name, ".rotary_emb.inv_freq") ||
           (b->c->tied == TIED_YES && !strcmp(name, b->name));
}

static void check_leftovers(struct binder *b)
{
    size_t n = weights_count(b->m->weights);
    for (size_t i = 0; !b->rc && i < n; i++) {
        const char *name = weights_at(b->m->weights, i)->name;
        if (!b->used[i] && !is_redundant(b, name))
            b->rc = err_set(b->err, ERR_FORMAT,
                            "tensor '%s' is not part of a %s model of %d layers", name,
                            b->c->arch->name, b->m->n_layers);
    }
}

int model_bind(struct model *m, const struct model_config *c, struct err *err)
{
    struct binder b = {.m = m, .c = c, .place = find_place(m, c), .err = err};
    size_t n = weights_count(m->weights);
    b.used = arena_alloc(&m->arena, n ? n : 1);
    m->layers = arena_array(&m->arena, (size_t)m->n_layers, sizeof *m->layers);
    if (!b.used || !m->layers)
        return err_set(err, ERR_NOMEM, "out of memory");
    bind_ends(&b);
    for (int i = 0; !b.rc && i < m->n_layers; i++) {
        struct model_layer *layer = &m->layers[i];
        bind_attention(&b, layer, i);
        bind_ffn_norms(&b, layer, i);
        if (c->arch->moe)
            bind_moe(&b, layer, i);
        else
            bind_dense(&b, layer, i);
        layer->window = c->windowed[i] ? (int)c->window : 0;
        layer->rope = m->n_ropes > 1 && c->windowed[i];
    }
    bind_rope_divisors(&b);
    check_leftovers(&b);
    return b.rc;
}
