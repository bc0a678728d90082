/* hosted: a plugin's ops for arrays in plain memory, so that the checks of the CPU backend run
 * against it as they are: every array is copied to the device between guards, and what an op may
 * write is copied back. One thread; one plugin at a time. The device is the plugin's own. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/check.h"

enum { GUARD = 256, ARRAYS = 8, MATRICES = 64 };

static const struct kernels *inner;
static struct kernels table;
static void *library;
static void (*guards)(const void *at, size_t bytes, size_t each); /* of tests/cuda_emu, or NULL */

struct array {
    char *host, *at; /* at: on the device, GUARD bytes in front and behind */
    size_t bytes;
    bool written;
};

/* The arrays and matrices of one call. */
struct call {
    struct device *d;
    struct array arrays[ARRAYS];
    struct matrix matrices[MATRICES];
    int n_arrays, n_matrices;
    bool failed;
};

static void *send(struct call *c, const void *host, size_t bytes, bool written)
{
    for (int i = 0; i < c->n_arrays; i++) /* in place */
        if (host && c->arrays[i].host == host)
            return c->arrays[i].at + GUARD;
    if (!host)
        return NULL;
    char *image = malloc(bytes + 2 * GUARD), *at = inner->alloc(c->d, bytes + 2 * GUARD);
    c->failed |= !image || !at || c->n_arrays == ARRAYS;
    if (c->failed) {
        free(image);
        return NULL;
    }
    memset(image, 0xa5, bytes + 2 * GUARD);
    memcpy(image + GUARD, host, bytes);
    c->failed |= inner->upload(c->d, at, image, bytes + 2 * GUARD) || inner->sync(c->d);
    free(image);
    if (guards)
        guards(at, bytes, GUARD);
    c->arrays[c->n_arrays++] = (struct array){(char *)(uintptr_t)host, at, bytes, written};
    return at + GUARD;
}

static float *floats(struct call *c, const float *host, int64_t n, bool written)
{
    return send(c, host, (size_t)n * sizeof *host, written);
}

static const struct matrix *load(struct call *c, const struct matrix *m)
{
    c->failed |= c->n_matrices == MATRICES;
    if (c->failed)
        return m;
    struct matrix *copy = &c->matrices[c->n_matrices++];
    *copy = *m;
    copy->packed = NULL;
    c->failed |= inner->matrix_load(c->d, copy) != 0;
    return copy;
}

static void take_back(struct call *c, const struct array *a)
{
    char *image = malloc(a->bytes + 2 * GUARD);
    if (!image || inner->download(c->d, image, a->at, a->bytes + 2 * GUARD) || inner->sync(c->d)) {
        c->failed = true;
        free(image);
        return;
    }
    for (int i = 0; i < GUARD; i++)
        if (!check_expect((unsigned char)image[i] == 0xa5 &&
                              (unsigned char)image[GUARD + a->bytes + (size_t)i] == 0xa5,
                          "device memory beside an array of %zu bytes was overwritten", a->bytes))
            break;
    if (a->written)
        memcpy(a->host, image + GUARD, a->bytes);
    else
        check_expect(!memcmp(a->host, image + GUARD, a->bytes), "an input was written to");
    free(image);
}

static int finish(struct call *c, int rc)
{
    for (int i = 0; i < c->n_arrays; i++) {
        if (!rc && !c->failed)
            take_back(c, &c->arrays[i]);
        inner->free(c->d, c->arrays[i].at);
    }
    for (int i = 0; i < c->n_matrices; i++)
        inner->matrix_free(c->d, &c->matrices[i]);
    return rc || c->failed ? -1 : 0;
}

static int hosted_embed(struct device *d, const struct embed_args *a)
{
    struct call c = {.d = d};
    struct embed_args b = *a;
    b.table = load(&c, a->table);
    b.out = floats(&c, a->out, a->n * a->table->cols, true);
    return finish(&c, c.failed ? -1 : inner->embed(d, &b));
}

static int hosted_norm(struct device *d, const struct norm_args *a)
{
    struct call c = {.d = d};
    struct norm_args b = *a;
    b.out = floats(&c, a->out, (int64_t)a->n * a->dim, true);
    b.in = floats(&c, a->in, (int64_t)a->n * a->dim, false);
    b.weight = floats(&c, a->weight, a->dim, false);
    return finish(&c, c.failed ? -1 : inner->norm(d, &b));
}

static int hosted_linear(struct device *d, const struct linear_args *a)
{
    struct call c = {.d = d};
    struct linear_args b = *a;
    b.in = floats(&c, a->in, a->n * a->jobs[0].w->cols, false);
    for (int j = 0; j < a->n_jobs; j++) {
        const struct matrix *w = a->jobs[j].w;
        b.jobs[j].w = load(&c, w);
        b.jobs[j].bias = floats(&c, a->jobs[j].bias, w->rows, false);
        b.jobs[j].out = floats(&c, a->jobs[j].out, a->n * w->rows, true);
    }
    return finish(&c, c.failed ? -1 : inner->linear(d, &b));
}

static int hosted_rope_table(struct device *d, const struct rope_table_args *a)
{
    struct call c = {.d = d};
    struct rope_table_args b = *a;
    b.cos_sin = floats(&c, a->cos_sin, (int64_t)a->n * a->n_freq * 2, true);
    return finish(&c, c.failed ? -1 : inner->rope_table(d, &b));
}

/* What kv_open was told last: rope_store and attention have their shapes from there. */
static struct kv_options kv;

static int hosted_kv_open(struct device *d, const struct kv_options *o)
{
    kv = *o;
    return inner->kv_open(d, o);
}

static int hosted_rope_store(struct device *d, const struct rope_store_args *a)
{
    struct call c = {.d = d};
    struct rope_store_args b = *a;
    int64_t heads = (int64_t)a->n * kv.head_dim;
    b.q = floats(&c, a->q, heads * a->n_heads, true);
    b.k = floats(&c, a->k, heads * kv.n_kv_heads, true);
    b.v = floats(&c, a->v, heads * kv.n_kv_heads, false);
    b.cos_sin = floats(&c, a->cos_sin, (int64_t)a->n * a->n_freq * 2, false);
    return finish(&c, c.failed ? -1 : inner->rope_store(d, &b));
}

static int hosted_attention(struct device *d, const struct attention_args *a)
{
    struct call c = {.d = d};
    struct attention_args b = *a;
    int64_t n = 0;
    for (int i = 0; i < a->n_seqs; i++)
        if (a->seqs[i].q_start + a->seqs[i].q_len > n)
            n = a->seqs[i].q_start + a->seqs[i].q_len;
    b.out = floats(&c, a->out, n * a->n_heads * kv.head_dim, true);
    b.q = floats(&c, a->q, n * a->n_heads * kv.head_dim, false);
    return finish(&c, c.failed ? -1 : inner->attention(d, &b));
}

static int hosted_act_mul(struct device *d, const struct act_mul_args *a)
{
    struct call c = {.d = d};
    struct act_mul_args b = *a;
    b.gate = floats(&c, a->gate, (int64_t)a->n * a->dim, true);
    b.up = floats(&c, a->up, (int64_t)a->n * a->dim, false);
    return finish(&c, c.failed ? -1 : inner->act_mul(d, &b));
}

static int hosted_moe(struct device *d, const struct moe_args *a)
{
    struct call c = {.d = d};
    struct moe_args b = *a;
    size_t workspace = inner->moe_workspace(a->n, a->dim, a->ffn, a->n_experts, a->n_used);
    b.out = floats(&c, a->out, (int64_t)a->n * a->dim, true);
    b.in = floats(&c, a->in, (int64_t)a->n * a->dim, false);
    b.workspace = send(&c, a->workspace, workspace, true);
    b.router = load(&c, a->router);
    for (int e = 0; e < a->n_experts; e++) {
        const struct matrix *first = load(&c, &a->gate[e]);
        b.gate = e ? b.gate : first;
    }
    for (int e = 0; e < a->n_experts; e++) {
        const struct matrix *first = load(&c, &a->up[e]);
        b.up = e ? b.up : first;
    }
    for (int e = 0; e < a->n_experts; e++) {
        const struct matrix *first = load(&c, &a->down[e]);
        b.down = e ? b.down : first;
    }
    /* once in vain: what is kept of a layer is made, and its upload no longer parts the kernels */
    struct moe_args again = b;
    if (a->n <= 2 && !c.failed) {
        again.out = inner->alloc(d, (size_t)a->n * (size_t)a->dim * sizeof(float));
        c.failed |= !again.out || inner->moe(d, &again) || inner->sync(d);
        inner->free(d, again.out);
    }
    return finish(&c, c.failed ? -1 : inner->moe(d, &b));
}

static int hosted_gather(struct device *d, const struct gather_args *a)
{
    struct call c = {.d = d};
    struct gather_args b = *a;
    int last = 0;
    for (int i = 0; i < a->n; i++)
        last = a->rows[i] > last ? a->rows[i] : last;
    b.out = floats(&c, a->out, (int64_t)a->n * a->dim, true);
    b.in = floats(&c, a->in, (int64_t)(last + 1) * a->dim, false);
    return finish(&c, c.failed ? -1 : inner->gather(d, &b));
}

static int hosted_pick(struct device *d, const struct pick_args *a)
{
    struct call c = {.d = d};
    struct pick_args b = *a;
    b.logits = floats(&c, a->logits, (int64_t)a->n * a->vocab, true);
    return finish(&c, c.failed ? -1 : inner->pick(d, &b));
}

static int hosted_draw(struct device *d, const struct draw_args *a)
{
    struct call c = {.d = d};
    struct draw_args b = *a;
    b.logits = floats(&c, a->logits, (int64_t)a->n * a->vocab, true);
    b.result = send(&c, a->result, (size_t)a->n * sizeof *a->result, true);
    return finish(&c, c.failed ? -1 : inner->draw(d, &b));
}

/* Matrices are loaded by the ops that use them. */
static int hosted_matrix_load(struct device *d, struct matrix *m)
{
    m->packed = NULL;
    return inner->sync(d);
}

static void hosted_matrix_free(struct device *d, struct matrix *m)
{
    (void)d;
    m->packed = NULL;
}

const struct kernels *hosted_kernels(const char *path, char *error, size_t error_bytes)
{
    inner = kernels_plugin(path, error, error_bytes);
    if (!inner)
        return NULL;
    library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    *(void **)&guards = hosted_symbol("emu_guards");
    table = *inner;
    table.embed = hosted_embed;
    table.norm = hosted_norm;
    table.linear = hosted_linear;
    table.rope_table = hosted_rope_table;
    table.kv_open = hosted_kv_open;
    table.rope_store = hosted_rope_store;
    table.attention = hosted_attention;
    table.act_mul = hosted_act_mul;
    table.moe = hosted_moe;
    table.gather = hosted_gather;
    table.pick = hosted_pick;
    table.draw = hosted_draw;
    table.matrix_load = hosted_matrix_load;
    table.matrix_free = hosted_matrix_free;
    return &table;
}

void *hosted_symbol(const char *name)
{
    return library ? dlsym(library, name) : NULL;
}

const struct kernels *hosted_plugin(void)
{
    return inner;
}
