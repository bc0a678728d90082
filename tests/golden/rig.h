/* rig: a model opened the way the engine opens it (source, weights, model, CPU kernels, forward),
 * and single sequences run through it. Shared by the golden tests; everything is static. */
#ifndef SIROCCO_GOLDEN_RIG_H
#define SIROCCO_GOLDEN_RIG_H

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward.h"
#include "tests/test.h"

struct rig_options {
    const char *isa; /* NULL: the strongest of those with float32 inputs; "cuda": the plugin */
    bool large;      /* too large for a plugin that is emulated */
    bool deterministic; /* of the plugin */
    int gpu;            /* the plugin's */
    int n_threads;   /* 0: 2 */
    enum quant_type kv_type;
    int block_size;   /* 0: 16 */
    int n_tokens_max; /* 0: 64 */
    int n_blocks;     /* 0: 256 */
};

struct rig {
    struct source *source;
    struct gguf *gguf;
    struct model *m;
    const struct kernels *k;
    struct device *device;
    struct forward *f;
    struct batch b;
    int block_size, n_blocks;
    int32_t *blocks; /* 0, 1, 2, ... */
};

__attribute__((unused)) static const char *const rig_levels[] = {"base", "avx2", "avx512",
                                                                 "avx512-bf16", "cuda"};
/* From RIG_ROUNDS on levels round the inputs of BF16 weights to BF16, 2^-9 of themselves; RIG_CUDA
 * is the plugin that SIROCCO_TEST_PLUGIN names, and rounds for all but F32. */
enum { RIG_LEVELS = 5, RIG_ROUNDS = 3, RIG_CUDA = 4, RIG_LOGITS = 8, RIG_DRAWS = 10 };

static void rig_close(struct rig *r)
{
    forward_close(r->f);
    if (r->device)
        r->k->close(r->device);
    model_close(r->m);
    gguf_close(r->gguf);
    source_close(r->source);
    batch_free(&r->b);
    free(r->blocks);
}

static void rig_require(int rc, const struct err *err)
{
    if (rc)
        printf("    %s: %s\n", err_name(rc), err->text);
    EXPECT_INT(rc, 0);
}

/* The plugin, or NULL: none is named. */
static const struct kernels *rig_plugin(void)
{
    static const struct kernels *plugin;
    const char *path = getenv("SIROCCO_TEST_PLUGIN");
    char reason[300];
    if (!plugin && path && *path) {
        plugin = kernels_plugin(path, reason, sizeof reason);
        if (!plugin)
            printf("    %s\n", reason);
        EXPECT(plugin != NULL);
    }
    return plugin;
}

/* false: this machine lacks the instructions of o.isa, or a GPU. */
static bool rig_open(struct rig *r, const char *path, struct rig_options o)
{
    struct err err = {0};
    char text[256] = "";
    bool cuda = o.isa && !strcmp(o.isa, rig_levels[RIG_CUDA]);
    if (cuda && !rig_plugin())
        return false;
    *r = (struct rig){.k = cuda ? rig_plugin() : kernels_cpu(), .block_size = o.block_size ? o.block_size : 16,
                      .n_blocks = o.n_blocks ? o.n_blocks : 256};
    struct device_options device = {.n_threads = o.n_threads ? o.n_threads : 2,
                                    .cpu_isa = o.isa ? o.isa : rig_levels[RIG_ROUNDS - 1]};
    struct forward_options forward = {.n_tokens_max = o.n_tokens_max ? o.n_tokens_max : 64,
                                      .n_logits_max = RIG_LOGITS, .n_blocks = r->n_blocks,
                                      .block_size = r->block_size, .kv_type = o.kv_type};
    device.gpu_memory_fraction = 0.1;
    device.deterministic = o.deterministic;
    device.gpu = o.gpu;
    int rc = r->k->open(&device, &r->device, text, sizeof text);
    if (cuda && rc) {
        printf("    %s\n", text);
        return false;
    }
    EXPECT_INT(rc, 0);
    const char *level = r->k->describe(r->device);
    if (cuda && o.large && strstr(level, "emulated")) {
        r->k->close(r->device);
        return false;
    }
    if (!cuda && o.isa && (strncmp(level, o.isa, strlen(o.isa)) || level[strlen(o.isa)] == '-')) {
        r->k->close(r->device);
        return false;
    }
    rig_require(source_open(path, &r->source, &err), &err);
    if (source_gguf(r->source))
        rig_require(gguf_open(source_gguf(r->source), &r->gguf, &err), &err);
    rig_require(model_open(r->source, r->gguf, &r->m, &err), &err);
    rig_require(weights_load(r->m->weights, NULL, &err), &err);
    if (forward_can_draw(r->m, r->k))
        forward.n_draws_max = RIG_DRAWS;
    rig_require(forward_open(r->m, r->k, r->device, &forward, &r->f, &err), &err);
    EXPECT_INT(batch_init(&r->b, forward.n_tokens_max, 16), 0);
    r->blocks = calloc((size_t)r->n_blocks, sizeof *r->blocks);
    EXPECT(r->blocks != NULL);
    for (int i = 0; i < r->n_blocks; i++)
        r->blocks[i] = i;
    return true;
}

/* Logits of every wanted row of the batch, to out[n_rows][vocab]. */
static void rig_logits(struct rig *r, float *out)
{
    struct err err = {0};
    for (int first = 0; first < r->b.n_rows; first += RIG_LOGITS) {
        int n = r->b.n_rows - first < RIG_LOGITS ? r->b.n_rows - first : RIG_LOGITS;
        float *logits;
        const struct draw_result *results;
        rig_require(forward_logits(r->f, &r->b, first, n, &logits, &results, &err), &err);
        for (int i = 0; i < n; i++) {
            const float *row = logits + (size_t)i * (size_t)r->m->vocab;
            int best = 0;
            for (int j = 1; j < r->m->vocab; j++)
                best = row[j] > row[best] ? j : best;
            EXPECT_INT(results[i].pick.best, best);
            EXPECT(!results[i].pick.bad);
        }
        memcpy(out + (size_t)first * (size_t)r->m->vocab, logits,
               (size_t)n * (size_t)r->m->vocab * sizeof *out);
    }
}

/* Run tokens[0..n) of one sequence at positions first.., in steps of at most `chunk` tokens, their
 * KV in `blocks`; logits of every position go to out[n][vocab] (NULL: none is computed). */
static void rig_run(struct rig *r, const int32_t *tokens, int n, int first, int chunk,
                    const int32_t *blocks, float *out)
{
    struct err err = {0};
    for (int at = 0; at < n; at += chunk) {
        int q = n - at < chunk ? n - at : chunk;
        batch_clear(&r->b);
        int row = batch_add(&r->b, tokens + at, q, first + at, blocks, r->block_size);
        for (int i = 0; out && i < q; i++)
            batch_want_logits(&r->b, row + i);
        rig_require(forward_run(r->f, &r->b, &err), &err);
        if (out)
            rig_logits(r, out + (size_t)at * (size_t)r->m->vocab);
    }
}

/* Continue greedily from the position after tokens[n - 1], whose logits are given; fills
 * ids[n_new]. */
__attribute__((unused)) static void rig_greedy(struct rig *r, const float *last, int position,
                                               int n_new, int32_t *ids)
{
    size_t vocab = (size_t)r->m->vocab;
    float *row = malloc(vocab * sizeof *row);
    EXPECT(row != NULL);
    memcpy(row, last, vocab * sizeof *row);
    for (int i = 0; i < n_new; i++) {
        int32_t best = 0;
        for (int32_t j = 1; j < (int32_t)vocab; j++)
            best = row[j] > row[best] ? j : best;
        ids[i] = best;
        if (i + 1 < n_new)
            rig_run(r, &best, 1, position + i, 1, r->blocks, row);
    }
    free(row);
}

/* log softmax(row)[id] */
__attribute__((unused)) static double rig_logprob(const float *row, int vocab, int id)
{
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < vocab; i++)
        most = row[i] > most ? row[i] : most;
    for (int i = 0; i < vocab; i++)
        sum += exp(row[i] - most);
    return row[id] - most - log(sum);
}

__attribute__((unused)) static json_t *rig_json(const char *path)
{
    json_error_t where;
    json_t *root = json_load_file(path, 0, &where);
    if (!root)
        printf("    %s: %s\n", path, where.text);
    EXPECT(root != NULL);
    return root;
}

/* An array of integers, malloced. */
__attribute__((unused)) static int32_t *rig_ids(const json_t *array, int *n)
{
    EXPECT(json_is_array(array));
    *n = (int)json_array_size(array);
    int32_t *ids = calloc((size_t)*n + 1, sizeof *ids);
    EXPECT(ids != NULL);
    for (int i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, (size_t)i));
    return ids;
}

#endif
