/* check_bench: GB/s and GFLOP/s per op, format and level, as shares of what the machine reaches in
 * the same run: memory read bandwidth and the peak of float multiply-add, both over all cores. The
 * best of a few repetitions counts, for the limits as for the ops. When an OpenBLAS library can be
 * loaded, its sgemm runs next to our F32 kernel. */
#include "tests/kernels/check.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu/pool.h"

enum {
    REPEATS = 7,
    SLICES = 64,
    READ_BYTES = 512 << 20,
    FMA_ROUNDS = 100000,
    FMA_CHAINS = 16,
    BIG_BYTES = 256 << 20, /* more than any cache */
};

static struct {
    double read_gbs, fma_gflops;
    int n_threads;
    char *memory;
} machine;

static volatile float sink;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds of one call of fn: the best of REPEATS, each long enough to be timed. */
static double timed(void (*fn)(void *), void *arg)
{
    double best = INFINITY;
    int calls = 1;

    fn(arg);
    for (int i = 0; i < REPEATS; i++) {
        double start = seconds(), took;
        for (int j = 0; j < calls; j++)
            fn(arg);
        took = (seconds() - start) / calls;
        best = took < best ? took : best;
        if (took < 2e-3)
            calls = (int)(4e-3 / took) + 1;
    }
    return best;
}

/* ---- the machine's limits ---- */

static void empty_slice(void *arg, int slice, int thread)
{
    (void)arg, (void)slice, (void)thread;
}

static void fork_join(void *pool)
{
    pool_run(pool, empty_slice, NULL, 2);
}

static void measure_machine(void)
{
    machine.n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    machine.memory = malloc(READ_BYTES);
    struct pool *pool = pool_open(machine.n_threads);
    if (!machine.memory || !pool) {
        fprintf(stderr, "no memory for the benchmark\n");
        exit(2);
    }
    for (size_t i = 0; i < READ_BYTES; i++)
        machine.memory[i] = (char)(i * 7 + i / 4096);
    struct device_options options = {.n_threads = machine.n_threads};
    struct device_limits limits;
    struct device *d;
    char error[128];
    if (kernels_cpu()->open(&options, &d, error, sizeof error) ||
        kernels_cpu()->limits(d, QUANT_F32, &limits)) {
        fprintf(stderr, "the machine's limits cannot be measured\n");
        exit(2);
    }
    kernels_cpu()->close(d);
    machine.read_gbs = limits.read_bytes * 1e-9;
    machine.fma_gflops = limits.operations * 1e-9;
    printf("machine: %d threads, read %.1f GB/s, multiply-add %.0f GFLOP/s, fork-join %.2f us\n",
           machine.n_threads, machine.read_gbs, machine.fma_gflops,
           timed(fork_join, pool) * 1e6);
    pool_close(pool);
}

/* ---- linear ---- */

struct linear_bench {
    struct device *d;
    struct linear_args args;
    struct matrix *matrices; /* used in turn, so that together they exceed the caches */
    int n_matrices, next;
};

static void linear_call(void *arg)
{
    struct linear_bench *b = arg;

    b->args.jobs[0].w = &b->matrices[b->next];
    b->next = (b->next + 1) % b->n_matrices;
    kernels_cpu()->linear(b->d, &b->args);
}

static double linear_seconds(struct device *d, enum quant_type type, int rows, int cols, int n,
                             bool cold)
{
    size_t bytes = (size_t)rows * quant_row_bytes(type, (size_t)cols), values = (size_t)n;
    struct matrix matrices[64];
    float *x = malloc(values * (size_t)cols * sizeof *x);
    float *out = malloc(values * (size_t)rows * sizeof *out);
    struct linear_bench b = {.d = d, .matrices = matrices, .n_matrices = 1,
                             .args = {.in = x, .n = n, .n_jobs = 1, .jobs = {{NULL, NULL, out}}}};

    if (cold)
        b.n_matrices = BIG_BYTES / bytes < 64 ? (int)(BIG_BYTES / bytes) : 64;
    for (int i = 0; i < b.n_matrices; i++) /* any bytes will do: time does not depend on values */
        matrices[i] = (struct matrix){type, rows, cols, machine.memory + (size_t)i * bytes, NULL};
    check_fill(x, values * (size_t)cols);
    double took = timed(linear_call, &b);
    free(x);
    free(out);
    return took;
}

/* Finite small weights in every format, so that no product is slow for its value. */
static void fill_weights(enum quant_type type)
{
    float x[4096];
    size_t bytes = quant_row_bytes(type, 4096);

    for (size_t i = 0; i < 4096; i++)
        x[i] = check_normal() * 0.05f;
    if (quant_encodes(type))
        quant_encode(type, x, machine.memory, 4096);
    else
        check_blocks(type, machine.memory, 4096, 0.05f);
    for (size_t at = bytes; at + bytes <= READ_BYTES; at += bytes)
        memcpy(machine.memory + at, machine.memory, bytes);
}

static void bench_linear(struct device *d, const char *level)
{
    for (int t = 0; t < QUANT_COUNT; t++) {
        enum quant_type type = (enum quant_type)t;
        size_t bytes = quant_row_bytes(type, 4096) * 4096;
        bool slow = !strcmp(level, "base");
        fill_weights(type);
        double decode = linear_seconds(d, type, 4096, 4096, 1, true);
        double small = linear_seconds(d, type, 768, 256, 1, false);
        double flops = 2.0 * 768 * 256;
        printf("linear  %-11s %-5s decode 4096x4096 %6.1f GB/s (%3.0f%%)   768x256 %5.1f us "
               "%5.1f GFLOP/s\n",
               level, quant_formats[t].name, (double)bytes / decode * 1e-9,
               (double)bytes / decode * 1e-7 / machine.read_gbs, small * 1e6,
               flops / small * 1e-9);
        for (int n = 2; n <= 32 && !slow; n *= 2) { /* a decode step of many sequences */
            double took = linear_seconds(d, type, 4096, 4096, n, true);
            printf("linear  %-11s %-5s cold n %2d 4096x4096 %6.1f GB/s %6.0f GFLOP/s\n", level,
                   quant_formats[t].name, n, (double)bytes / took * 1e-9,
                   2.0 * 4096 * 4096 * n / took * 1e-9);
        }
        for (int n = 4; n <= (slow ? 16 : 256); n *= 4) {
            double took = linear_seconds(d, type, 2048, 4096, n, false);
            double rate = 2.0 * 2048 * 4096 * n / took * 1e-9;
            printf("linear  %-11s %-5s n %3d 2048x4096 %6.0f GFLOP/s (%3.0f%% of float peak)\n",
                   level, quant_formats[t].name, n, rate, rate * 100 / machine.fma_gflops);
        }
    }
}

/* ---- OpenBLAS, for comparison ---- */

typedef void sgemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                      const float *a, int lda, const float *b, int ldb, float beta, float *c,
                      int ldc);

struct blas_bench {
    sgemm_fn *sgemm;
    int n;
    float *x, *out;
};

static void blas_call(void *arg)
{
    const struct blas_bench *b = arg;
    enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112, ROWS = 2048, COLS = 4096 };

    b->sgemm(ROW_MAJOR, PLAIN, TRANSPOSED, b->n, ROWS, COLS, 1, b->x, COLS,
             (const float *)(void *)machine.memory, COLS, 0, b->out, ROWS);
}

static void bench_blas(void)
{
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    struct blas_bench b = {0};

    if (!library) {
        printf("openblas: not installed, not compared\n");
        return;
    }
    *(void **)&b.sgemm = dlsym(library, "cblas_sgemm");
    b.x = malloc(256 * 4096 * sizeof(float));
    b.out = malloc(256 * 4096 * sizeof(float));
    check_fill(b.x, 256 * 4096);
    fill_weights(QUANT_F32);
    for (int n = 1; n <= 256 && b.sgemm; n *= 4) {
        b.n = n;
        double rate = 2.0 * 2048 * 4096 * n / timed(blas_call, &b) * 1e-9;
        printf("openblas sgemm F32   n %3d 2048x4096 %6.0f GFLOP/s (%3.0f%% of float peak)\n", n,
               rate, rate * 100 / machine.fma_gflops);
    }
    free(b.x);
    free(b.out);
}

/* ---- attention ---- */

struct attention_bench {
    struct device *d;
    struct attention_args args;
};

static void attention_call(void *arg)
{
    struct attention_bench *b = arg;
    kernels_cpu()->attention(b->d, &b->args);
}

static void bench_attention(int level, enum quant_type type)
{
    enum { KV = 8, HEADS = 32, DIM = 128, CONTEXT = 4096, BLOCK = 16, SEQS = 8, PROMPT = 256 };
    struct device *d = check_device_new(level, machine.n_threads);
    struct kv_options kv = {1, KV, DIM, SEQS * CONTEXT / BLOCK, BLOCK, type};
    struct attention_seq seqs[SEQS];
    static int32_t blocks[SEQS][CONTEXT / BLOCK];
    static float q[PROMPT * HEADS * DIM], out[PROMPT * HEADS * DIM];
    static float k[KV * DIM], v[KV * DIM];

    check_fill(q, PROMPT * HEADS * DIM);
    check_fill(k, KV * DIM);
    check_fill(v, KV * DIM);
    kernels_cpu()->kv_open(d, &kv);
    for (int64_t slot = 0; slot < (int64_t)kv.n_blocks * BLOCK; slot++) {
        struct rope_store_args a = {q, k, v, NULL, &slot, 1, HEADS, 0, 0, false, NULL};
        kernels_cpu()->rope_store(d, &a);
    }
    for (int i = 0; i < SEQS; i++) {
        seqs[i] = (struct attention_seq){i, 1, CONTEXT, blocks[i]};
        for (int b = 0; b < CONTEXT / BLOCK; b++)
            blocks[i][b] = b * SEQS + i;
    }
    struct attention_bench b = {d, {out, q, seqs, SEQS, HEADS, 0, 0, 0.09f, 0, {0}}};
    double decode = timed(attention_call, &b);
    double bytes = 2.0 * SEQS * CONTEXT * KV * DIM * (double)quant_row_bytes(type, 1);
    seqs[0].q_len = PROMPT;
    b.args.n_seqs = 1;
    double prefill = timed(attention_call, &b);
    double flops = 4.0 * HEADS * DIM * PROMPT * (CONTEXT - PROMPT / 2);
    printf("attention %-11s %-4s decode 8 x 4096 %6.1f GB/s (%3.0f%%)   prefill 256 at 4096 %5.0f "
           "GFLOP/s (%3.0f%%)\n",
           check_level_names[level], quant_formats[type].name, bytes / decode * 1e-9,
           bytes / decode * 1e-7 / machine.read_gbs, flops / prefill * 1e-9,
           flops / prefill * 1e-7 / machine.fma_gflops);
    kernels_cpu()->close(d);
}

/* ---- the row ops ---- */

struct row_bench {
    struct device *d;
    struct norm_args norm;
    struct act_mul_args act;
    struct pick_args pick;
};

static void norm_call(void *arg)
{
    struct row_bench *b = arg;
    kernels_cpu()->norm(b->d, &b->norm);
}

static void act_call(void *arg)
{
    struct row_bench *b = arg;
    kernels_cpu()->act_mul(b->d, &b->act);
}

static void pick_call(void *arg)
{
    struct row_bench *b = arg;
    kernels_cpu()->pick(b->d, &b->pick);
}

static void bench_rows(struct device *d, const char *level)
{
    static float x[32768], y[32768], z[32768];
    struct pick_result result;
    struct row_bench b = {d, {y, x, z, 1, 256, 1e-5f, false, {0}},
                          {y, x, 1, 768, ACTIVATION_SILU, {0}},
                          {z, &result, 1, 4096, 0}};

    check_fill(x, 32768);
    check_fill(z, 32768);
    double norm = timed(norm_call, &b), act = timed(act_call, &b), pick = timed(pick_call, &b);
    b.norm.dim = 4096;
    b.act.dim = 14336;
    b.pick.vocab = 32768;
    printf("rows    %-11s norm 256 %.2f us, 4096 %.2f us; silu 768 %.2f us, ", level, norm * 1e6,
           timed(norm_call, &b) * 1e6, act * 1e6);
    printf("14336 %.2f us; pick 4096 %.2f us, 32768 %.2f us\n", timed(act_call, &b) * 1e6,
           pick * 1e6, timed(pick_call, &b) * 1e6);
}

/* ---- a decode step of a small model ---- */

enum { STEP_LAYERS = 6, STEP_DIM = 256, STEP_FFN = 768, STEP_VOCAB = 4096, STEP_HEADS = 8,
       STEP_KV = 4, STEP_HEAD = 32, STEP_CONTEXT = 256 };

struct step_bench {
    struct device *d;
    struct matrix q, k, v, o, gate, up, down, head;
    float x[STEP_DIM], y[STEP_DIM], qv[STEP_DIM], kv[STEP_DIM], vv[STEP_DIM], a[STEP_DIM];
    float g[STEP_FFN], u[STEP_FFN], weight[STEP_DIM], cos_sin[STEP_HEAD], logits[STEP_VOCAB];
    int32_t blocks[STEP_CONTEXT / 16];
    struct pick_result pick;
};

static void step_linear(struct step_bench *b, const float *in, bool add, const struct matrix *w0,
                        float *out0, const struct matrix *w1, float *out1, const struct matrix *w2,
                        float *out2)
{
    struct linear_args a = {.in = in, .n = 1, .add = add, .n_jobs = w2 ? 3 : w1 ? 2 : 1,
                            .jobs = {{w0, NULL, out0}, {w1, NULL, out1}, {w2, NULL, out2}}};
    kernels_cpu()->linear(b->d, &a);
}

static void step_call(void *arg)
{
    const struct kernels *k = kernels_cpu();
    struct step_bench *b = arg;
    int64_t slot = STEP_CONTEXT - 1;
    struct attention_seq seq = {0, 1, STEP_CONTEXT, b->blocks};
    struct norm_args norm = {b->y, b->x, b->weight, 1, STEP_DIM, 1e-5f, false, {0}};
    struct act_mul_args act = {b->g, b->u, 1, STEP_FFN, ACTIVATION_SILU, {0}};
    struct pick_args pick = {b->logits, &b->pick, 1, STEP_VOCAB, 0};

    for (int layer = 0; layer < STEP_LAYERS; layer++) {
        struct rope_store_args rope = {b->qv, b->kv, b->vv, b->cos_sin, &slot, 1, STEP_HEADS,
                                       STEP_HEAD / 2, layer, false, NULL};
        struct attention_args attention = {b->a, b->qv, &seq, 1, STEP_HEADS, layer, 0, 0.1f, 0, {0}};
        k->norm(b->d, &norm);
        step_linear(b, b->y, false, &b->q, b->qv, &b->k, b->kv, &b->v, b->vv);
        k->rope_store(b->d, &rope);
        k->attention(b->d, &attention);
        step_linear(b, b->a, true, &b->o, b->x, NULL, NULL, NULL, NULL);
        k->norm(b->d, &norm);
        step_linear(b, b->y, false, &b->gate, b->g, &b->up, b->u, NULL, NULL);
        k->act_mul(b->d, &act);
        step_linear(b, b->g, true, &b->down, b->x, NULL, NULL, NULL, NULL);
    }
    k->norm(b->d, &norm);
    step_linear(b, b->y, false, &b->head, b->logits, NULL, NULL, NULL, NULL);
    k->pick(b->d, &pick);
}

static struct matrix step_matrix(size_t *at, int rows, int cols)
{
    struct matrix m = {QUANT_BF16, rows, cols, machine.memory + *at, NULL};
    *at += (size_t)rows * (size_t)cols * 2;
    return m;
}

static void bench_step(int level)
{
    static struct step_bench b;
    struct kv_options kv = {STEP_LAYERS, STEP_KV, STEP_HEAD, STEP_CONTEXT / 16, 16, QUANT_F16};
    size_t at = 0;

    fill_weights(QUANT_BF16);
    b.d = check_device_new(level, machine.n_threads);
    kernels_cpu()->kv_open(b.d, &kv);
    b.q = step_matrix(&at, STEP_HEADS * STEP_HEAD, STEP_DIM);
    b.k = step_matrix(&at, STEP_KV * STEP_HEAD, STEP_DIM);
    b.v = step_matrix(&at, STEP_KV * STEP_HEAD, STEP_DIM);
    b.o = step_matrix(&at, STEP_DIM, STEP_HEADS * STEP_HEAD);
    b.gate = step_matrix(&at, STEP_FFN, STEP_DIM);
    b.up = step_matrix(&at, STEP_FFN, STEP_DIM);
    b.down = step_matrix(&at, STEP_DIM, STEP_FFN);
    b.head = step_matrix(&at, STEP_VOCAB, STEP_DIM);
    check_fill(b.x, STEP_DIM);
    for (int i = 0; i < STEP_CONTEXT / 16; i++)
        b.blocks[i] = i;
    printf("step    %-11s BF16 6 layers of dim 256, context 256: %.1f us\n", check_level_names[level],
           timed(step_call, &b) * 1e6);
    kernels_cpu()->close(b.d);
}

void check_bench(void)
{
    measure_machine();
    for (int level = CHECK_LEVELS - 1; level >= 0; level--) {
        struct device *d = check_device_new(level, machine.n_threads);
        if (!d)
            continue;
        bench_linear(d, check_level_names[level]);
        bench_rows(d, check_level_names[level]);
        bench_step(level);
        kernels_cpu()->close(d);
        for (int type = QUANT_F32; type <= QUANT_BF16 && level > 0; type++)
            bench_attention(level, (enum quant_type)type);
        if (level == CHECK_LEVELS - 1)
            bench_blas();
    }
    free(machine.memory);
}
