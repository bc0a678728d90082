/* forward: the transformer, interpreted from the model's row in arch.h's table, read like the
 * papers: Vaswani et al. 2017 with pre-normalisation, RMSNorm (Zhang and Sennrich 2019), rotary
 * positions (Su et al. 2021), gated FFN (Shazeer 2020), grouped-query attention (Ainslie et al.
 * 2023), sliding windows (Jiang et al. 2023) and experts (Jiang et al. 2024).
 *
 * Engine thread only. Owns the activations (device memory, sized at open for n_tokens_max rows) and
 * the logits; holds the matrices of the model on the device. Nothing is allocated after open (R4).
 * Every op is one call; where an architecture differs, the difference gates that one call. */
#include "engine/forward.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/size.h"

enum { VECTORS_PER_LAYER = 9 };

struct forward {
    struct model *m;
    const struct kernels *k;
    struct device *device;
    struct forward_options options;
    int n_loaded; /* matrices on the device, in the order of each_matrix */
    /* norm weights and biases lie on the device while f is open: the model's own pointers, in the
     * order of each_vector, wait here */
    float **host_vectors;
    int n_vectors;

    /* device memory; rows are n_tokens_max */
    float *x;            /* [rows][dim] the residual stream */
    float *h;            /* [rows or n_logits_max][dim] normalised input of the next op */
    float *out;          /* [rows][dim] output before its own norm; post_norms only */
    float *q, *att;      /* [rows][n_heads * head_dim] */
    float *key, *value;  /* [rows][n_kv_heads * head_dim] */
    float *gate, *up;    /* [rows][ffn]; dense FFN only */
    void *moe_workspace; /* MoE only */
    float *cos_sin[MODEL_ROPES_MAX]; /* [rows][n_freq][2] */
    float *logits;       /* [rows of logits][vocab]: n_logits_max, or n_draws_max if that is more */
    struct draw_result *drawn; /* [rows of logits]; NULL if the device does not draw */
    bool has_drawn;            /* the last pass was a batch's logits and draws too */
    /* host memory */
    float *host_logits;  /* [n_logits_max][vocab] */
    struct pick_result *picks; /* [n_logits_max] */
    struct draw_result *results; /* [rows of logits] */
    float *q_scale;            /* [rows]; NULL unless the model scales queries by position */
    forward_observer *observe; /* or NULL */
    void *observe_user;
};

/* ---- sizes */

struct sizes { /* floats per row, per buffer */
    size_t dim, q, kv, ffn, cos_sin;
    size_t rows, h_rows, logits, host_logits, vocab;
};

static struct sizes sizes_of(const struct model *m, const struct forward_options *o)
{
    struct sizes s = {
        .dim = (size_t)m->dim,
        .q = (size_t)m->n_heads * (size_t)m->head_dim,
        .kv = (size_t)m->n_kv_heads * (size_t)m->head_dim,
        .ffn = m->arch->moe ? 0 : (size_t)m->ffn,
        .rows = (size_t)o->n_tokens_max,
        .logits = (size_t)(o->n_logits_max > o->n_draws_max ? o->n_logits_max : o->n_draws_max),
        .host_logits = (size_t)o->n_logits_max,
        .vocab = (size_t)m->vocab,
    };
    s.h_rows = s.rows > s.logits ? s.rows : s.logits;
    for (int i = 0; i < m->n_ropes; i++)
        s.cos_sin += 2 * (size_t)m->ropes[i].n_freq;
    return s;
}

static int cols_max(const struct model *m)
{
    int q = m->n_heads * m->head_dim;
    int most = m->dim > m->ffn ? m->dim : m->ffn;
    return most > q ? most : q;
}

size_t forward_workspace_bytes(const struct model *m, const struct kernels *k,
                               const struct forward_options *o)
{
    const struct sizes s = sizes_of(m, o);
    size_t row = s.dim + 2 * s.q + 2 * s.kv + 2 * s.ffn + s.cos_sin;
    size_t floats = s.rows * row + s.h_rows * s.dim + (s.logits + s.host_logits) * s.vocab;
    size_t scratch; /* of the linear ops and of the experts */
    if (m->arch->post_norms)
        floats += s.rows * s.dim;
    scratch = k->linear_workspace((int)s.h_rows, cols_max(m));
    if (m->arch->moe)
        scratch += k->moe_workspace((int)s.rows, m->dim, m->ffn, m->n_experts,
                                    m->n_experts_used);
    return floats * sizeof(float) + scratch +
           s.logits * (sizeof(struct pick_result) + 2 * sizeof(struct draw_result));
}

/* ---- open and close */

typedef int matrix_visit(struct forward *f, struct matrix *matrix);

/* Visit every matrix of the model that has weights of its own, in one fixed order. */
static int each_matrix(struct forward *f, matrix_visit *visit)
{
    struct model *m = f->m;
    int rc = visit(f, &m->embed);
    if (!rc && m->head.data != m->embed.data)
        rc = visit(f, &m->head);
    for (int i = 0; !rc && i < m->n_layers; i++) {
        struct model_layer *l = &m->layers[i];
        struct matrix *own[] = {&l->wq,   &l->wk, &l->wv,   &l->wo,
                                &l->gate, &l->up, &l->down, &l->router};
        for (size_t j = 0; !rc && j < sizeof own / sizeof *own; j++)
            if (own[j]->data)
                rc = visit(f, own[j]);
        for (int e = 0; !rc && e < m->n_experts; e++) {
            rc = visit(f, &l->expert_gate[e]);
            if (!rc)
                rc = visit(f, &l->expert_up[e]);
            if (!rc)
                rc = visit(f, &l->expert_down[e]);
        }
    }
    return rc;
}

static int load_matrix(struct forward *f, struct matrix *matrix)
{
    if (f->k->matrix_load(f->device, matrix))
        return -1;
    f->n_loaded++;
    return 0;
}

static int free_matrix(struct forward *f, struct matrix *matrix)
{
    if (!f->n_loaded)
        return -1; /* the ones after it were never loaded */
    f->n_loaded--;
    f->k->matrix_free(f->device, matrix);
    return 0;
}

typedef int vector_visit(struct forward *f, float **vector, int n);

/* Visit every norm weight and bias the model has, with its length, in one fixed order. */
static int each_vector(struct forward *f, vector_visit *visit)
{
    struct model *m = f->m;
    int q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
    int rc = visit(f, &m->final_norm, m->dim);
    for (int i = 0; !rc && i < m->n_layers; i++) {
        struct model_layer *l = &m->layers[i];
        const struct {
            float **at;
            int n;
        } own[VECTORS_PER_LAYER] = {{&l->attn_norm, m->dim},
                                    {&l->ffn_norm, m->dim},
                                    {&l->post_attn_norm, m->dim},
                                    {&l->post_ffn_norm, m->dim},
                                    {&l->q_norm, m->head_dim},
                                    {&l->k_norm, m->head_dim},
                                    {&l->bq, q},
                                    {&l->bk, kv},
                                    {&l->bv, kv}};
        for (size_t j = 0; !rc && j < VECTORS_PER_LAYER; j++)
            if (*own[j].at)
                rc = visit(f, own[j].at, own[j].n);
    }
    return rc;
}

static int load_vector(struct forward *f, float **vector, int n)
{
    size_t bytes = (size_t)n * sizeof(float);
    float *copy = f->k->alloc(f->device, bytes);
    if (!copy)
        return -1;
    f->host_vectors[f->n_vectors++] = *vector;
    int rc = f->k->upload(f->device, copy, *vector, bytes);
    *vector = copy;
    return rc;
}

static int free_vector(struct forward *f, float **vector, int n)
{
    (void)n;
    if (!f->n_vectors)
        return -1; /* the ones after it were never loaded */
    f->n_vectors--;
    f->k->free(f->device, *vector);
    *vector = *f->host_vectors++;
    return 0;
}

/* rows * cols floats of device memory; NULL: none, or the product overflows. */
static float *floats(struct forward *f, size_t rows, size_t cols)
{
    size_t n, bytes;
    if (!size_mul(rows, cols, &n) || !size_mul(n, sizeof(float), &bytes))
        return NULL;
    return f->k->alloc(f->device, bytes);
}

bool forward_can_draw(const struct model *m, const struct kernels *k)
{
    return k->draw && m->vocab <= DRAW_VOCAB_MAX;
}

static bool alloc_buffers(struct forward *f)
{
    const struct model *m = f->m;
    const struct sizes s = sizes_of(m, &f->options);
    bool all = (f->x = floats(f, s.rows, s.dim)) && (f->h = floats(f, s.h_rows, s.dim)) &&
               (f->q = floats(f, s.rows, s.q)) && (f->att = floats(f, s.rows, s.q)) &&
               (f->key = floats(f, s.rows, s.kv)) && (f->value = floats(f, s.rows, s.kv)) &&
               (f->logits = floats(f, s.logits, s.vocab));
    if (all && m->arch->post_norms)
        all = (f->out = floats(f, s.rows, s.dim)) != NULL;
    if (all && !m->arch->moe)
        all = (f->gate = floats(f, s.rows, s.ffn)) && (f->up = floats(f, s.rows, s.ffn));
    if (all && m->arch->moe)
        all = (f->moe_workspace = f->k->alloc(
                   f->device, f->k->moe_workspace(f->options.n_tokens_max, m->dim, m->ffn,
                                                  m->n_experts, m->n_experts_used))) != NULL;
    for (int i = 0; all && i < m->n_ropes; i++)
        all = (f->cos_sin[i] = floats(f, s.rows, 2 * (size_t)m->ropes[i].n_freq)) != NULL;
    if (all)
        f->host_logits =
            f->k->host_alloc(f->device, s.host_logits * s.vocab * sizeof *f->host_logits);
    f->picks = f->k->host_alloc(f->device, s.host_logits * sizeof *f->picks);
    f->results = f->k->host_alloc(f->device, s.logits * sizeof *f->results);
    if (all && f->options.n_draws_max)
        all = (f->drawn = f->k->alloc(f->device, s.logits * sizeof *f->drawn)) != NULL;
    if (m->query_scale_beta > 0)
        all = (f->q_scale = calloc(s.rows, sizeof *f->q_scale)) && all;
    return all && f->host_logits && f->picks && f->results;
}

static int device_failed(const struct forward *f, const char *what, struct err *err)
{
    const char *reason = f->k->device_error(f->device);
    return err_set(err, ERR_DEVICE, "%s: %s: %s", f->k->name, what,
                   reason && *reason ? reason : "no reason given");
}

int forward_open(struct model *m, const struct kernels *k, struct device *device,
                 const struct forward_options *o, struct forward **out, struct err *err)
{
    const struct kv_options kv = {.n_layers = m->n_layers, .n_kv_heads = m->n_kv_heads,
                                  .head_dim = m->head_dim, .n_blocks = o->n_blocks,
                                  .block_size = o->block_size, .type = o->kv_type};
    int rc = 0;
    *out = NULL;
    CHECK(o->n_tokens_max > 0 && o->n_logits_max > 0);
    CHECK(o->n_draws_max == 0 || forward_can_draw(m, k));
    struct forward *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(err, ERR_NOMEM, "out of memory");
    f->m = m;
    f->k = k;
    f->device = device;
    f->options = *o;
    if (each_matrix(f, load_matrix))
        rc = device_failed(f, "loading the weights", err);
    if (!rc && m->head.data == m->embed.data)
        m->head = m->embed;
    size_t n_vectors = (size_t)m->n_layers * VECTORS_PER_LAYER + 1;
    if (!rc && !(f->host_vectors = calloc(n_vectors, sizeof *f->host_vectors)))
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (!rc && each_vector(f, load_vector))
        rc = err_set(err, ERR_NOMEM, "norm weights: no memory");
    if (!rc && !alloc_buffers(f))
        rc = err_set(err, ERR_NOMEM, "%zu bytes of activations for steps of %d tokens: no memory",
                     forward_workspace_bytes(m, k, o), o->n_tokens_max);
    if (!rc && k->reserve(device,
                          o->n_tokens_max > o->n_logits_max ? o->n_tokens_max : o->n_logits_max,
                          cols_max(m)))
        rc = device_failed(f, "reserving scratch memory", err);
    if (!rc && k->kv_open(device, &kv))
        rc = device_failed(f, "taking the KV cache", err);
    if (rc) {
        forward_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void forward_close(struct forward *f)
{
    if (!f)
        return;
    float **host_vectors = f->host_vectors; /* free_vector walks along them */
    each_vector(f, free_vector);
    free(host_vectors);
    each_matrix(f, free_matrix);
    if (f->m->head.data == f->m->embed.data)
        f->m->head = f->m->embed;
    f->k->free(f->device, f->x);
    f->k->free(f->device, f->h);
    f->k->free(f->device, f->out);
    f->k->free(f->device, f->q);
    f->k->free(f->device, f->att);
    f->k->free(f->device, f->key);
    f->k->free(f->device, f->value);
    f->k->free(f->device, f->gate);
    f->k->free(f->device, f->up);
    f->k->free(f->device, f->moe_workspace);
    for (int i = 0; i < MODEL_ROPES_MAX; i++)
        f->k->free(f->device, f->cos_sin[i]);
    f->k->free(f->device, f->logits);
    f->k->host_free(f->device, f->host_logits);
    f->k->host_free(f->device, f->picks);
    f->k->host_free(f->device, f->results);
    f->k->free(f->device, f->drawn);
    free(f->q_scale);
    free(f);
}

void forward_observe(struct forward *f, forward_observer *observe, void *user)
{
    f->observe = observe;
    f->observe_user = user;
}

/* ---- the pass. Each helper is one op with the arguments every layer shares; -1: the device's
 * error has latched. */

static int norm(struct forward *f, float *out, const float *in, const float *weight, int n,
                int dim, bool add)
{
    return f->k->norm(f->device, &(struct norm_args){.out = out, .in = in, .weight = weight,
                                                     .n = n, .dim = dim, .eps = f->m->norm_eps,
                                                     .add = add});
}

/* h = norm(x), for the products of the readers alone. */
static int norm_for(struct forward *f, const float *in, const float *weight, int n,
                    struct linear_readers readers)
{
    return f->k->norm(f->device, &(struct norm_args){.out = f->h, .in = in, .weight = weight,
                                                     .n = n, .dim = f->m->dim,
                                                     .eps = f->m->norm_eps,
                                                     .readers = readers});
}

static int linear(struct forward *f, float *out, const struct matrix *w, const float *in, int n,
                  bool add)
{
    return f->k->linear(f->device, &(struct linear_args){.in = in, .n = n, .add = add, .n_jobs = 1,
                                                         .jobs = {{.w = w, .out = out}}});
}

static void tell(const struct forward *f, int layer, enum forward_point point, const float *rows,
                 int n, int cols)
{
    if (f->observe)
        f->observe(f->observe_user, layer, point, rows, n, cols);
}

/* One projection back to the residual stream: x += w in, or x += norm(w in). */
static int project(struct forward *f, const struct matrix *w, const float *in,
                   const float *post_norm, int n)
{
    if (!post_norm)
        return linear(f, f->x, w, in, n, true);
    if (linear(f, f->out, w, in, n, false))
        return -1;
    return norm(f, f->x, f->out, post_norm, n, f->m->dim, true);
}

/* x += attention(norm(x)) */
static int attention_block(struct forward *f, const struct batch *b, int i)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layers[i];
    const struct model_rope *rope = &m->ropes[l->rope];
    int n = b->n_tokens, hd = m->head_dim;

    if (norm_for(f, f->x, l->attn_norm, n,
                 (struct linear_readers){3, {&l->wq, &l->wk, &l->wv}}))
        return -1;
    tell(f, i, FORWARD_ATTN_IN, f->h, n, m->dim);
    if (f->k->linear(f->device, &(struct linear_args){
                                    .in = f->h, .n = n, .n_jobs = 3,
                                    .jobs = {{.w = &l->wq, .bias = l->bq, .out = f->q},
                                             {.w = &l->wk, .bias = l->bk, .out = f->key},
                                             {.w = &l->wv, .bias = l->bv, .out = f->value}}}))
        return -1;
    if (l->q_norm && (norm(f, f->q, f->q, l->q_norm, n * m->n_heads, hd, false) ||
                      norm(f, f->key, f->key, l->k_norm, n * m->n_kv_heads, hd, false)))
        return -1;
    if (f->k->rope_store(f->device, &(struct rope_store_args){
                                        .q = f->q, .k = f->key, .v = f->value,
                                        .cos_sin = f->cos_sin[l->rope], .slots = b->slots, .n = n,
                                        .n_heads = m->n_heads, .n_freq = rope->n_freq, .layer = i,
                                        .interleaved = m->rope_interleaved,
                                        .q_scale = f->q_scale}))
        return -1;
    if (f->k->attention(f->device, &(struct attention_args){
                                       .out = f->att, .q = f->q, .seqs = b->seqs,
                                       .n_seqs = b->n_seqs, .n_heads = m->n_heads, .layer = i,
                                       .window = l->window, .scale = m->attn_scale,
                                       .softcap = m->attn_softcap,
                                       .readers = {1, {&l->wo}}}))
        return -1;
    tell(f, i, FORWARD_ATTN_OUT, f->att, n, m->n_heads * hd);
    return project(f, &l->wo, f->att, l->post_attn_norm, n);
}

/* x += ffn(norm(x)) */
static int ffn_block(struct forward *f, const struct batch *b, int i)
{
    const struct model *m = f->m;
    const struct model_layer *l = &m->layers[i];
    int n = b->n_tokens;

    if (norm_for(f, f->x, l->ffn_norm, n,
                 m->arch->moe ? (struct linear_readers){0}
                              : (struct linear_readers){2, {&l->gate, &l->up}}))
        return -1;
    tell(f, i, FORWARD_FFN_IN, f->h, n, m->dim);
    if (m->arch->moe)
        return f->k->moe(f->device, &(struct moe_args){
                                        .out = f->x, .in = f->h, .router = &l->router,
                                        .gate = l->expert_gate, .up = l->expert_up,
                                        .down = l->expert_down, .n = n, .dim = m->dim,
                                        .ffn = m->ffn, .n_experts = m->n_experts,
                                        .n_used = m->n_experts_used,
                                        .renorm = m->arch->moe_renorm, .act = m->arch->act,
                                        .workspace = f->moe_workspace});
    if (f->k->linear(f->device, &(struct linear_args){.in = f->h, .n = n, .gated = true,
                                                      .n_jobs = 2,
                                                      .jobs = {{.w = &l->gate, .out = f->gate},
                                                               {.w = &l->up, .out = f->up}}}))
        return -1;
    if (f->k->act_mul(f->device, &(struct act_mul_args){.gate = f->gate, .up = f->up, .n = n,
                                                        .dim = m->ffn, .act = m->arch->act,
                                                        .readers = {1, {&l->down}}}))
        return -1;
    tell(f, i, FORWARD_FFN_MID, f->gate, n, m->ffn);
    return project(f, &l->down, f->gate, l->post_ffn_norm, n);
}

/* Attention over many keys flattens: queries far into a context are lengthened. */
static void scale_queries(struct forward *f, const struct batch *b)
{
    const struct model *m = f->m;
    for (int i = 0; f->q_scale && i < b->n_tokens; i++)
        f->q_scale[i] =
            1 + m->query_scale_beta * logf(1 + (float)(b->pos[i] / m->query_scale_from));
}

static int run_layers(struct forward *f, const struct batch *b)
{
    const struct model *m = f->m;
    int n = b->n_tokens;
    int rc = f->k->embed(f->device, &(struct embed_args){.out = f->x, .table = &m->embed,
                                                     .tokens = b->tokens, .n = n,
                                                     .scale = m->embed_scale});
    for (int i = 0; !rc && i < m->n_ropes; i++)
        rc = f->k->rope_table(f->device, &(struct rope_table_args){
                                             .cos_sin = f->cos_sin[i], .pos = b->pos,
                                             .inv_freq = m->ropes[i].inv_freq, .n = n,
                                             .n_freq = m->ropes[i].n_freq,
                                             .mscale = m->ropes[i].mscale});
    for (int i = 0; !rc && i < m->n_layers; i++) {
        rc = attention_block(f, b, i);
        if (!rc)
            rc = ffn_block(f, b, i);
    }
    return rc;
}

static struct draw_args draw_of(const struct forward *f, const struct batch *b, int first, int n)
{
    return (struct draw_args){.logits = f->logits, .result = f->drawn, .rows = b->draws + first,
                              .changes = b->changes, .n = n, .vocab = f->m->vocab,
                              .softcap = f->m->logit_softcap};
}

/* Logits of rows first .. first + n, and what is told of them: draw, or NULL for picks. */
static int run_head(struct forward *f, const struct batch *b, int first, int n,
                    const struct draw_args *draw)
{
    const struct model *m = f->m;
    if (f->k->gather(f->device, &(struct gather_args){.out = f->h, .in = f->x,
                                                      .rows = b->rows + first, .n = n,
                                                      .dim = m->dim}) ||
        norm_for(f, f->h, m->final_norm, n, (struct linear_readers){1, {&m->head}}) ||
        linear(f, f->logits, &m->head, f->h, n, false))
        return -1;
    if (draw)
        return f->k->draw(f->device, draw);
    return f->k->pick(f->device, &(struct pick_args){.logits = f->logits, .result = f->picks,
                                                     .n = n, .vocab = m->vocab,
                                                     .softcap = m->logit_softcap});
}

int forward_run(struct forward *f, const struct batch *b, struct err *err)
{
    struct draw_args draw;
    if (!b->n_tokens)
        return 0;
    CHECK(b->n_tokens <= f->options.n_tokens_max);
    scale_queries(f, b);
    f->has_drawn = b->draws && b->n_rows > 0 && b->n_rows <= f->options.n_draws_max;
    if (f->has_drawn)
        draw = draw_of(f, b, 0, b->n_rows);
    const struct step_args step = {.tokens = b->tokens, .pos = b->pos, .slots = b->slots,
                                   .q_scale = f->q_scale, .seqs = b->seqs, .n = b->n_tokens,
                                   .n_seqs = b->n_seqs, .draw = f->has_drawn ? &draw : NULL,
                                   .rows = f->has_drawn ? b->rows : NULL, .drawn = f->drawn};
    int rc, again;
    do {
        again = 0;
        rc = f->k->step_begin(f->device, &step);
        if (rc)
            break;
        rc = run_layers(f, b);
        if (!rc && f->has_drawn)
            rc = run_head(f, b, 0, b->n_rows, &draw);
        again = f->k->step_end(f->device);
        if (again < 0)
            rc = -1;
    } while (again > 0);
    return rc < 0 ? device_failed(f, "forward pass", err) : 0;
}

int forward_send(struct forward *f, int n, struct err *err)
{
    CHECK(f->has_drawn && n <= f->options.n_draws_max);
    if (f->k->download(f->device, f->results, f->drawn, (size_t)n * sizeof *f->results) ||
        f->k->mark(f->device))
        return device_failed(f, "drawn tokens", err);
    return 0;
}

int forward_collect(struct forward *f, const struct draw_result **results, struct err *err)
{
    *results = f->results;
    return f->k->wait(f->device) ? device_failed(f, "drawn tokens", err) : 0;
}

/* The logits of rows first .. first + n that the host asks for; the device has them from logits on.
 */
static int download_logits(struct forward *f, const struct batch *b, const float *logits, int first,
                           int n)
{
    size_t vocab = (size_t)f->m->vocab;
    for (int i = 0, end; i < n; i = end) {
        bool asked = b->draws ? !b->draws[first + i].wanted : !b->picks_only;
        for (end = i + 1; end < n && (!b->draws || b->draws[first + end].wanted != asked);)
            end++;
        if (asked && f->k->download(f->device, f->host_logits + (size_t)i * vocab,
                                     logits + (size_t)i * vocab,
                                     (size_t)(end - i) * vocab * sizeof(float)))
            return -1;
    }
    return 0;
}

int forward_logits(struct forward *f, const struct batch *b, int first, int n, float **logits,
                   const struct draw_result **results, struct err *err)
{
    CHECK(first >= 0 && n >= 0 && n <= f->options.n_logits_max && first + n <= b->n_rows);
    *logits = f->host_logits;
    *results = f->results;
    if (!n)
        return 0;
    int rc = 0;
    size_t at = f->has_drawn ? (size_t)first : 0; /* where the device has the first of them */
    if (!f->has_drawn) {
        struct draw_args draw;
        if (b->draws)
            draw = draw_of(f, b, first, n);
        rc = run_head(f, b, first, n, b->draws ? &draw : NULL);
    }
    if (!rc && b->draws)
        rc = f->k->download(f->device, f->results, f->drawn + at, (size_t)n * sizeof *f->results);
    if (!rc)
        rc = download_logits(f, b, f->logits + at * (size_t)f->m->vocab, first, n);
    if (!rc)
        rc = f->k->sync(f->device);
    for (int i = 0; i < n && !b->draws; i++)
        f->results[i] = (struct draw_result){.pick = f->picks[i], .token = -1};
    return rc ? device_failed(f, "logits", err) : 0;
}
