/* inspect_pass: which ops a step of a model is made of. forward.c itself runs, over a backend that
 * computes nothing and writes down what it is asked for: what is told is what would be done.
 *
 * The caller's thread; no state beyond a call. Device memory is one address that nothing reads or
 * writes. A layer begins where an op names one of its weights; layers whose ops are equal to those
 * of the layer before are counted, not repeated. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward.h"
#include "engine/inspect.h"

enum { BEFORE = -1, NOTE_BYTES = 160, PLACEHOLDER_BYTES = 64, BLOCK_SIZE = 16 };

struct device { /* the backend's: where the ops of this pass are written */
    const struct model *m;
    json_t *before, *layers, *after;
    json_t *ops; /* of the layer at hand, borrowed from where it will stand */
    int layer;   /* BEFORE, 0 .., n_layers: after */
    bool failed; /* out of memory */
};

/* ---- names */

static const struct field {
    const char *name;
    size_t at; /* of the matrix in struct model_layer */
} matrices[] = {
    {"q", offsetof(struct model_layer, wq)},
    {"k", offsetof(struct model_layer, wk)},
    {"v", offsetof(struct model_layer, wv)},
    {"o", offsetof(struct model_layer, wo)},
    {"gate", offsetof(struct model_layer, gate)},
    {"up", offsetof(struct model_layer, up)},
    {"down", offsetof(struct model_layer, down)},
    {"router", offsetof(struct model_layer, router)},
}, vectors[] = {
    {"attn_norm", offsetof(struct model_layer, attn_norm)},
    {"ffn_norm", offsetof(struct model_layer, ffn_norm)},
    {"post_attn_norm", offsetof(struct model_layer, post_attn_norm)},
    {"post_ffn_norm", offsetof(struct model_layer, post_ffn_norm)},
    {"q_norm", offsetof(struct model_layer, q_norm)},
    {"k_norm", offsetof(struct model_layer, k_norm)},
};

static const char *matrix_name(const struct device *d, const struct matrix *w, int *layer)
{
    const char *at = (const char *)w, *layers = (const char *)d->m->layers;
    size_t size = sizeof *d->m->layers;
    *layer = d->layer;
    if (w == &d->m->head || w == &d->m->embed)
        return w == &d->m->head ? "head" : "embed";
    if (at >= layers && at < layers + (size_t)d->m->n_layers * size) {
        *layer = (int)((size_t)(at - layers) / size);
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
            if ((size_t)(at - layers) % size == matrices[i].at)
                return matrices[i].name;
    }
    return "expert";
}

static const char *vector_name(const struct device *d, const float *v, int *layer)
{
    for (int l = 0; l < d->m->n_layers; l++)
        for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
            const float *held;
            memcpy(&held, (const char *)&d->m->layers[l] + vectors[i].at, sizeof held);
            *layer = l;
            if (held == v)
                return vectors[i].name;
        }
    *layer = d->m->n_layers;
    return "final_norm";
}

/* ---- what is written down */

/* Put the layer that ends at the end of the list, or count it to the one before. */
static void end_layer(struct device *d)
{
    if (!d->ops || d->layer < 0 || d->layer >= d->m->n_layers)
        return;
    size_t n = json_array_size(d->layers);
    json_t *last = n ? json_array_get(d->layers, n - 1) : NULL;
    if (last && json_equal(json_object_get(last, "ops"), d->ops)) {
        json_object_set_new(last, "last", json_integer(d->layer));
        json_decref(d->ops);
    } else {
        json_t *layer = json_pack("{s:i,s:i,s:o}", "first", d->layer, "last", d->layer, "ops",
                                  d->ops);
        d->failed |= !layer || json_array_append_new(d->layers, layer);
    }
    d->ops = NULL;
}

static void enter(struct device *d, int layer)
{
    if (layer == d->layer)
        return;
    end_layer(d);
    d->layer = layer;
    d->ops = layer < d->m->n_layers ? json_array() : NULL;
    d->failed |= layer < d->m->n_layers && !d->ops;
}

static json_t *begin(const char *op)
{
    return json_pack("{s:s,s:[],s:[],s:[]}", "op", op, "weights", "shapes", "types");
}

static void add_matrix(struct device *d, json_t *op, const char *name, const struct matrix *w)
{
    json_array_append_new(json_object_get(op, "weights"), json_string(name));
    json_array_append_new(json_object_get(op, "shapes"),
                          json_pack("[I,I]", (json_int_t)w->rows, (json_int_t)w->cols));
    d->failed |= json_array_append_new(json_object_get(op, "types"),
                                       json_string(quant_formats[w->type].name)) != 0;
}

static int finish(struct device *d, json_t *op, const char *note)
{
    json_t *to = d->layer == BEFORE ? d->before : d->layer < d->m->n_layers ? d->ops : d->after;
    if (note && *note)
        d->failed |= json_object_set_new(op, "note", json_string(note)) != 0;
    d->failed |= !op || json_array_append_new(to, op) != 0;
    return d->failed ? -1 : 0;
}

static int pass_embed(struct device *d, const struct embed_args *a)
{
    char note[NOTE_BYTES] = "";
    json_t *op = begin("embed");
    add_matrix(d, op, "embed", a->table);
    if (a->scale != 1)
        snprintf(note, sizeof note, "times %g", (double)a->scale);
    return finish(d, op, note);
}

static int pass_norm(struct device *d, const struct norm_args *a)
{
    char note[NOTE_BYTES];
    int layer;
    const char *name = vector_name(d, a->weight, &layer);
    enter(d, layer);
    json_t *op = begin("norm");
    json_array_append_new(json_object_get(op, "weights"), json_string(name));
    json_array_append_new(json_object_get(op, "shapes"), json_pack("[i]", a->dim));
    json_array_append_new(json_object_get(op, "types"), json_string("F32"));
    snprintf(note, sizeof note, "RMSNorm, eps %g%s", (double)a->eps,
             a->add ? ", added to the residual" : a->n > 1 ? ", each head" : "");
    return finish(d, op, note);
}

static int pass_linear(struct device *d, const struct linear_args *a)
{
    bool biased = false;
    json_t *op = begin("linear");
    for (int j = 0; j < a->n_jobs; j++) {
        int layer;
        const char *name = matrix_name(d, a->jobs[j].w, &layer);
        if (d->layer != d->m->n_layers)
            enter(d, layer);
        add_matrix(d, op, name, a->jobs[j].w);
        biased |= a->jobs[j].bias != NULL;
    }
    return finish(d, op, a->add && biased ? "with bias, added to the residual"
                         : a->add         ? "added to the residual"
                         : biased         ? "with bias"
                                          : NULL);
}

static int pass_rope_table(struct device *d, const struct rope_table_args *a)
{
    char note[NOTE_BYTES];
    snprintf(note, sizeof note, "%d frequencies%s", a->n_freq, a->mscale == 1 ? "" : ", scaled");
    return finish(d, begin("rope_table"), note);
}

static int pass_rope_store(struct device *d, const struct rope_store_args *a)
{
    char note[NOTE_BYTES];
    snprintf(note, sizeof note, "%d query and %d KV heads of %d, %d rotated, %s%s; K and V stored",
             a->n_heads, d->m->n_kv_heads, d->m->head_dim, 2 * a->n_freq,
             a->interleaved ? "neighbouring pairs" : "half-split pairs",
             a->q_scale ? ", queries scaled by position" : "");
    return finish(d, begin("rope_store"), note);
}

static int pass_attention(struct device *d, const struct attention_args *a)
{
    char note[NOTE_BYTES], window[32] = "everything", softcap[48] = "";
    if (a->window)
        snprintf(window, sizeof window, "a window of %d", a->window);
    if (a->softcap > 0)
        snprintf(softcap, sizeof softcap, ", soft cap %g", (double)a->softcap);
    snprintf(note, sizeof note, "causal, sees %s, scale %g%s", window, (double)a->scale, softcap);
    return finish(d, begin("attention"), note);
}

static int pass_act_mul(struct device *d, const struct act_mul_args *a)
{
    char note[NOTE_BYTES];
    snprintf(note, sizeof note, "%s(gate) * up, %d wide",
             a->act == ACTIVATION_SILU ? "silu" : "gelu_tanh", a->dim);
    return finish(d, begin("act_mul"), note);
}

static int pass_moe(struct device *d, const struct moe_args *a)
{
    char note[NOTE_BYTES];
    int layer;
    json_t *op = begin("moe");
    matrix_name(d, a->router, &layer);
    enter(d, layer);
    add_matrix(d, op, "router", a->router);
    add_matrix(d, op, "expert_gate", a->gate);
    add_matrix(d, op, "expert_up", a->up);
    add_matrix(d, op, "expert_down", a->down);
    snprintf(note, sizeof note, "%d of %d experts, %s%s, added to the residual", a->n_used,
             a->n_experts, a->act == ACTIVATION_SILU ? "silu" : "gelu_tanh",
             a->renorm ? ", weights made to sum to one" : "");
    return finish(d, op, note);
}

static int pass_gather(struct device *d, const struct gather_args *a)
{
    (void)a;
    enter(d, d->m->n_layers);
    return finish(d, begin("gather"), "rows whose logits are wanted");
}

static int pass_pick(struct device *d, const struct pick_args *a)
{
    char note[NOTE_BYTES] = "";
    if (a->softcap > 0)
        snprintf(note, sizeof note, "logits' soft cap %g", (double)a->softcap);
    return finish(d, begin("pick"), note);
}

/* ---- the rest of a backend */

static const char *pass_error(const struct device *d)
{
    return d->failed ? "out of memory" : "";
}

static void *pass_alloc(struct device *d, size_t bytes)
{
    (void)d;
    (void)bytes;
    return malloc(PLACEHOLDER_BYTES);
}

/* Unlike the device's, what lies here is written and read by the pass itself. */
static void *pass_host_alloc(struct device *d, size_t bytes)
{
    (void)d;
    return calloc(1, bytes);
}

static void pass_free(struct device *d, void *memory)
{
    (void)d;
    free(memory);
}

static int pass_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    (void)to;
    (void)from;
    (void)bytes;
    return 0;
}

static int pass_sync(struct device *d)
{
    (void)d;
    return 0;
}

static int pass_load(struct device *d, struct matrix *m)
{
    (void)d;
    (void)m;
    return 0;
}

static void pass_unload(struct device *d, struct matrix *m)
{
    (void)d;
    (void)m;
}

static int pass_kv_open(struct device *d, const struct kv_options *o)
{
    (void)d;
    (void)o;
    return 0;
}

static size_t pass_workspace(int n_max, int dim, int ffn, int n_experts, int n_used)
{
    (void)n_max;
    (void)dim;
    (void)ffn;
    (void)n_experts;
    (void)n_used;
    return 0;
}

static int pass_reserve(struct device *d, int n_max, int cols_max)
{
    (void)d;
    (void)n_max;
    (void)cols_max;
    return 0;
}

static int pass_step_begin(struct device *d, const struct step_args *a)
{
    (void)d;
    (void)a;
    return 0;
}

static const struct kernels backend = {
    .name = "inspect",
    .device_error = pass_error,
    .alloc = pass_alloc,
    .free = pass_free,
    .upload = pass_copy,
    .download = pass_copy,
    .sync = pass_sync,
    .host_alloc = pass_host_alloc,
    .host_free = pass_free,
    .matrix_load = pass_load,
    .matrix_free = pass_unload,
    .kv_open = pass_kv_open,
    .moe_workspace = pass_workspace,
    .reserve = pass_reserve,
    .step_begin = pass_step_begin,
    .step_end = pass_sync,
    .embed = pass_embed,
    .norm = pass_norm,
    .linear = pass_linear,
    .rope_table = pass_rope_table,
    .rope_store = pass_rope_store,
    .attention = pass_attention,
    .act_mul = pass_act_mul,
    .moe = pass_moe,
    .gather = pass_gather,
    .pick = pass_pick,
};

/* One token through the pass. */
static int run(struct model *m, struct device *d, struct err *err)
{
    const struct forward_options options = {.n_tokens_max = 1, .n_logits_max = 1, .n_blocks = 1,
                                            .block_size = BLOCK_SIZE, .kv_type = QUANT_F16};
    const struct draw_result *results;
    const int32_t block = 0, token = 0;
    struct forward *f = NULL;
    struct batch batch;
    float *logits;
    int rc = batch_init(&batch, 1, 1);
    if (rc)
        return err_set(err, rc, "%s", err_text(rc));
    batch_want_logits(&batch, batch_add(&batch, &token, 1, 0, &block, BLOCK_SIZE));
    rc = forward_open(m, &backend, d, &options, &f, err);
    if (!rc)
        rc = forward_run(f, &batch, err);
    if (!rc)
        rc = forward_logits(f, &batch, 0, 1, &logits, &results, err);
    forward_close(f);
    batch_free(&batch);
    return rc;
}

int inspect_pass(struct model *m, json_t **out, struct err *err)
{
    struct device d = {.m = m, .before = json_array(), .layers = json_array(),
                       .after = json_array(), .layer = BEFORE};
    int rc = run(m, &d, err);
    json_decref(d.ops);
    *out = json_pack("{s:o,s:o,s:o}", "before", d.before, "layers", d.layers, "after", d.after);
    if (!rc && (!*out || d.failed))
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (rc) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}
