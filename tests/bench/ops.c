/* ops: what each op of a step takes on a device, at a model's shapes: microseconds a layer, GB/s
 * and GFLOP/s, and its share of the step. An op runs over several layers' weights, so that no cache
 * holds them, and the launches follow each other unwaited: starting an op counts only where the
 * device would wait for it, too.
 *
 *     ops [--plugin FILE] [--type bf16] [--n 1,32] [--prompt 2048] [--context 512] [--tiny]
 *
 * --n: sequences that decode, --context: tokens each sees; --prompt: one sequence's tokens from the
 * beginning. Without --plugin the CPU backend is measured. --tiny: shapes for trying the program
 * itself. One thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "kernels/quantize.h"
#include "server/cmd.h"

enum { LAYERS = 4, TILE_ROWS = 32, TRIES = 5, BLOCK = 16, SEQS_MAX = 1024, OPS_MAX = 16 };

static struct {
    int dim, heads, kv_heads, head_dim, ffn, vocab, layers; /* layers: of the whole model */
} shape = {4096, 32, 8, 128, 14336, 32768, 32};

enum { Q, K, V, O, GATE, UP, DOWN, N_MATRICES };

static struct {
    const struct kernels *k;
    struct device *d;
    enum quant_type type;
    struct matrix layers[LAYERS][N_MATRICES], head;
    float *x, *h, *q, *kk, *v, *gate, *up, *logits, *norm, *cos_sin;
    struct pick_result *picks;
    int64_t *slots;
    int32_t *rows, *blocks;
    struct attention_seq *seqs;
    int n, n_seqs, n_rows; /* of the case at hand: tokens, sequences, rows of logits */
} at;

struct op {
    const char *name;
    int (*run)(int layer);
    double bytes, operations; /* in a layer */
    int times;                /* in a step */
    double us;
};

static void die(const char *what)
{
    fprintf(stderr, "ops: %s %s\n", what, at.d ? at.k->device_error(at.d) : "");
    exit(2);
}

static void *must(void *memory)
{
    if (!memory)
        die("no memory");
    return memory;
}

/* ---- the ops, as forward.c calls them */

static int run_norm(int layer)
{
    (void)layer;
    return at.k->norm(at.d, &(struct norm_args){.out = at.h, .in = at.x, .weight = at.norm,
                                                .n = at.n, .dim = shape.dim, .eps = 1e-5f});
}

static int run_linear(int layer, int first, int n_jobs, const float *in, bool add, float *out)
{
    float *const outs[N_MATRICES] = {[Q] = at.q,       [K] = at.kk,   [V] = at.v,  [O] = out,
                                     [GATE] = at.gate, [UP] = at.up, [DOWN] = out};
    struct linear_args a = {.in = in, .n = at.n, .add = add, .n_jobs = n_jobs};
    for (int i = 0; i < n_jobs; i++) {
        a.jobs[i].w = &at.layers[layer][first + i];
        a.jobs[i].out = outs[first + i];
    }
    return at.k->linear(at.d, &a);
}

static int run_qkv(int layer) { return run_linear(layer, Q, 3, at.h, false, NULL); }
static int run_o(int layer) { return run_linear(layer, O, 1, at.q, true, at.x); }
static int run_gate_up(int layer) { return run_linear(layer, GATE, 2, at.h, false, NULL); }
static int run_down(int layer) { return run_linear(layer, DOWN, 1, at.gate, true, at.x); }

static int run_store(int layer)
{
    return at.k->rope_store(
        at.d, &(struct rope_store_args){.q = at.q, .k = at.kk, .v = at.v, .cos_sin = at.cos_sin,
                                        .slots = at.slots, .n = at.n, .n_heads = shape.heads,
                                        .n_freq = shape.head_dim / 2, .layer = layer});
}

static int run_attention(int layer)
{
    return at.k->attention(at.d, &(struct attention_args){.out = at.h, .q = at.q, .seqs = at.seqs,
                                                          .n_seqs = at.n_seqs,
                                                          .n_heads = shape.heads, .layer = layer,
                                                          .scale = 0.088f});
}

static int run_act(int layer)
{
    (void)layer;
    return at.k->act_mul(at.d, &(struct act_mul_args){.gate = at.gate, .up = at.up, .n = at.n,
                                                      .dim = shape.ffn});
}

static int run_head(int layer)
{
    struct linear_args a = {.in = at.h, .n = at.n_rows, .n_jobs = 1,
                            .jobs = {{.w = &at.head, .out = at.logits}}};
    (void)layer;
    return at.k->linear(at.d, &a);
}

static int run_pick(int layer)
{
    (void)layer;
    return at.k->pick(at.d, &(struct pick_args){.logits = at.logits, .result = at.picks,
                                                .n = at.n_rows, .vocab = shape.vocab});
}

/* ---- memory */

/* Some rows of small random values, over and over. */
static struct matrix make_matrix(int64_t rows, int64_t cols)
{
    size_t row_bytes = quant_row_bytes(at.type, (size_t)cols), tile = row_bytes * TILE_ROWS;
    struct matrix m = {.type = at.type, .rows = rows, .cols = cols};
    float *values = must(malloc((size_t)cols * sizeof *values));
    char *data = must(malloc((size_t)rows * row_bytes));
    static uint32_t random = 1;
    for (int r = 0; r < TILE_ROWS && r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            random = random * 1664525u + 1013904223u; /* Knuth 1997, section 3.3.4 */
            values[c] = ((float)(random >> 8) / 8388608.0f - 1) * 0.03f;
        }
        if (quant_encodes(at.type))
            quant_encode(at.type, values, data + (size_t)r * row_bytes, (size_t)cols);
        else if (quantize_row(at.type, values, NULL, data + (size_t)r * row_bytes, (size_t)cols,
                              NULL))
            die("the type cannot be made");
    }
    for (int64_t r = TILE_ROWS; r < rows; r += TILE_ROWS)
        memcpy(data + (size_t)r * row_bytes, data,
               rows - r < TILE_ROWS ? (size_t)(rows - r) * row_bytes : tile);
    free(values);
    m.data = data;
    if (at.k->matrix_load(at.d, &m))
        die("a matrix cannot be loaded:");
    return m;
}

static void make_layers(void)
{
    const int64_t q = (int64_t)shape.heads * shape.head_dim;
    const int64_t kv = (int64_t)shape.kv_heads * shape.head_dim;
    const int64_t sizes[N_MATRICES][2] = {[Q] = {q, shape.dim},         [K] = {kv, shape.dim},
                                          [V] = {kv, shape.dim},        [O] = {shape.dim, q},
                                          [GATE] = {shape.ffn, shape.dim},
                                          [UP] = {shape.ffn, shape.dim},
                                          [DOWN] = {shape.dim, shape.ffn}};
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < N_MATRICES; i++)
            at.layers[l][i] = make_matrix(sizes[i][0], sizes[i][1]);
    at.head = make_matrix(shape.vocab, shape.dim);
}

static float *floats(int64_t rows, int64_t cols)
{
    float *host = must(calloc((size_t)(rows * cols), sizeof *host));
    float *made = must(at.k->alloc(at.d, (size_t)(rows * cols) * sizeof *made));
    for (int64_t i = 0; i < rows * cols; i++)
        host[i] = (float)(i % 251) / 251 - 0.5f;
    if (at.k->upload(at.d, made, host, (size_t)(rows * cols) * sizeof *made) || at.k->sync(at.d))
        die("an upload:");
    free(host);
    return made;
}

static void make_memory(int n_max, int rows_max, int n_blocks)
{
    const int q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    const int widest = shape.ffn > q ? shape.ffn : q;
    const struct kv_options o = {LAYERS, shape.kv_heads, shape.head_dim, n_blocks, BLOCK,
                                 QUANT_F16};
    if (at.k->reserve(at.d, n_max, widest) || at.k->kv_open(at.d, &o))
        die("memory:");
    at.x = floats(n_max, shape.dim);
    at.h = floats(n_max, q > shape.dim ? q : shape.dim);
    at.q = floats(n_max, q);
    at.kk = floats(n_max, kv);
    at.v = floats(n_max, kv);
    at.gate = floats(n_max, shape.ffn);
    at.up = floats(n_max, shape.ffn);
    at.logits = floats(rows_max, shape.vocab);
    at.norm = floats(1, shape.dim);
    at.cos_sin = floats(n_max, shape.head_dim);
    at.picks = must(at.k->host_alloc(at.d, (size_t)rows_max * sizeof *at.picks));
    at.slots = must(malloc((size_t)n_max * sizeof *at.slots));
    at.blocks = must(malloc((size_t)n_blocks * sizeof *at.blocks));
    at.seqs = must(malloc((size_t)(n_max < SEQS_MAX ? n_max : SEQS_MAX) * sizeof *at.seqs));
    for (int i = 0; i < n_blocks; i++)
        at.blocks[i] = (i * 7 + 3) % n_blocks; /* a permutation but for multiples of 7 */
}

/* ---- time */

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median microseconds of a call. */
static double timed(int (*run)(int))
{
    double took[TRIES + 1];
    int rounds = 1;
    for (int i = 0; i <= TRIES; i++) {
        double start = now_us();
        for (int r = 0; r < rounds; r++)
            for (int l = 0; l < LAYERS; l++)
                if (run(l))
                    die("an op failed:");
        if (at.k->sync(at.d))
            die("an op failed:");
        took[i] = (now_us() - start) / (rounds * LAYERS);
        if (i == 0 && took[0] * LAYERS < 5000) /* tries of some milliseconds each */
            rounds = 1 + (int)(5000 / (took[0] * LAYERS + 1));
    }
    qsort(took + 1, TRIES, sizeof took[0], compare); /* the first warmed up */
    return took[1 + TRIES / 2];
}

static void print_case(const char *name, struct op *ops, int n_ops)
{
    double step = 0;
    for (int i = 0; i < n_ops; i++)
        step += (ops[i].us = timed(ops[i].run)) * ops[i].times;
    printf("%s: %.3f ms a step of these ops\n", name, step * 1e-3);
    printf("  %-10s %6s %10s %9s %9s %7s\n", "op", "times", "us", "GB/s", "TFLOP/s", "share");
    for (int i = 0; i < n_ops; i++)
        printf("  %-10s %6d %10.2f %9.1f %9.2f %6.1f%%\n", ops[i].name, ops[i].times, ops[i].us,
               ops[i].bytes / ops[i].us * 1e-3, ops[i].operations / ops[i].us * 1e-6,
               100 * ops[i].us * ops[i].times / step);
}

/* n sequences of one token each behind context - 1 others; or one of n tokens (context 0). */
static void run_case(int n, int context)
{
    const double dim = shape.dim, q = shape.heads * shape.head_dim, ffn = shape.ffn;
    const double kv = shape.kv_heads * shape.head_dim, tokens = n;
    const double weight = (double)quant_row_bytes(at.type, 256) / 256;
    const int n_blocks = context ? (context + BLOCK - 1) / BLOCK : (n + BLOCK - 1) / BLOCK;
    char name[64];
    at.n = n;
    at.n_seqs = context ? n : 1;
    at.n_rows = at.n_seqs;
    double pairs = context ? tokens * context : tokens * (tokens + 1) / 2, seen = pairs;
    for (int i = 0; i < at.n_seqs; i++)
        at.seqs[i] = (struct attention_seq){i, context ? 1 : n, context ? context : n,
                                            at.blocks + (size_t)i * (size_t)n_blocks};
    for (int i = 0; i < n; i++) {
        const int32_t *blocks = at.seqs[context ? i : 0].blocks;
        int pos = context ? context - 1 : i;
        at.slots[i] = (int64_t)blocks[pos / BLOCK] * BLOCK + pos % BLOCK;
    }
    if (!context)
        seen = tokens; /* keys are read once, about: tiles share them */
    struct op ops[] = {
        {"norm", run_norm, tokens * dim * 8, 0, 2 * shape.layers + 1, 0},
        {"qkv", run_qkv, weight * dim * (q + 2 * kv), 2 * tokens * dim * (q + 2 * kv),
         shape.layers, 0},
        {"store", run_store, tokens * (q * 8 + kv * 12), 0, shape.layers, 0},
        {"attention", run_attention, seen * kv * 4, 4 * pairs * q, shape.layers, 0},
        {"o", run_o, weight * dim * q, 2 * tokens * dim * q, shape.layers, 0},
        {"gate, up", run_gate_up, weight * dim * ffn * 2, 4 * tokens * dim * ffn, shape.layers, 0},
        {"act", run_act, tokens * ffn * 12, 0, shape.layers, 0},
        {"down", run_down, weight * dim * ffn, 2 * tokens * dim * ffn, shape.layers, 0},
        {"head", run_head, weight * dim * shape.vocab, 2.0 * at.n_rows * dim * shape.vocab, 1, 0},
        {"pick", run_pick, (double)at.n_rows * shape.vocab * 4, 0, 1, 0},
    };
    if (context)
        snprintf(name, sizeof name, "%d sequences at %d tokens", n, context);
    else
        snprintf(name, sizeof name, "a prompt of %d tokens", n);
    print_case(name, ops, sizeof ops / sizeof *ops);
}

/* ---- options */

static int next_count(const char **list, long max)
{
    char *end;
    long value = strtol(*list, &end, 10);
    if (end == *list || value < 1 || value > max || (*end && *end != ','))
        die("--n, --prompt and --context need numbers with commas between");
    *list = *end ? end + 1 : end;
    return (int)value;
}

int main(int argc, char **argv)
{
    const char *plugin = NULL, *type = "bf16", *n = "1,32", *prompt = "2048", *context = "512";
    bool tiny = false;
    const struct cmd_option options[] = {{"--plugin", &plugin, NULL}, {"--type", &type, NULL},
                                         {"--n", &n, NULL},           {"--prompt", &prompt, NULL},
                                         {"--context", &context, NULL}, {"--tiny", NULL, &tiny}};
    const struct device_options device = {.cpu_isa = "auto", .gpu_memory_fraction = 0.5};
    char error[300] = "";
    struct err err = {0};
    int n_max = 1, rows_max = 1, found = -1;
    if (cmd_options(argc, argv, options, sizeof options / sizeof *options, &err))
        die(err.text);
    if (tiny) {
        const int small[7] = {256, 4, 2, 64, 512, 512, 2};
        memcpy(&shape, small, sizeof small);
    }
    found = quant_from_name(type);
    if (found < 0)
        die("--type is no storage format");
    at.type = (enum quant_type)found;
    at.k = plugin ? kernels_plugin(plugin, error, sizeof error) : kernels_cpu();
    if (!at.k || at.k->open(&device, &at.d, error, sizeof error))
        die(error);
    int seen = next_count(&(const char *){context}, 1 << 20);
    for (const char *list = n; *list;) {
        int count = next_count(&list, SEQS_MAX);
        rows_max = count > rows_max ? count : rows_max;
    }
    n_max = rows_max;
    for (const char *list = prompt; *list;) {
        int count = next_count(&list, 1 << 17);
        n_max = count > n_max ? count : n_max;
    }
    int64_t blocks = (int64_t)rows_max * ((seen + BLOCK - 1) / BLOCK) + (n_max + BLOCK - 1) / BLOCK;
    blocks += blocks % 7 == 0; /* see make_memory */
    printf("%s, %s\n", at.k->describe(at.d), quant_formats[at.type].name);
    make_layers();
    make_memory(n_max, rows_max, (int)(blocks < 1 << 20 ? blocks : 1 << 20));
    for (const char *list = n; *list;)
        run_case(next_count(&list, SEQS_MAX), seen);
    for (const char *list = prompt; *list;)
        run_case(next_count(&list, 1 << 17), 0);
    at.k->close(at.d);
    return 0;
}
