/* Exactness on the CPU: logits are bit-identical whatever else is in the batch, however a prompt is
 * cut in chunks, wherever the KV blocks lie and however many threads there are; for every KV type,
 * several block sizes and every instruction level of this machine. */
#include "tests/golden/rig.h"

enum { PROMPT = 40, SEQS = 5 };

static const enum quant_type kv_types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0,
                                          QUANT_FP8};
enum { KV_TYPES = 5 };
static const int block_sizes[] = {8, 16, 32};
/* a window; experts; biases; soft caps; norms on q and k with two rope bases; windows on some
 * layers, in Mistral's layout; queries scaled by position */
static const char *const models[] = {"mistral", "mixtral", "qwen2",
                                     "gemma2",  "gemma3",  "ministral-native", "ministral3"};

static void make_prompt(int32_t *tokens, int n, int vocab, unsigned seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((seed >> 8) % (unsigned)vocab);
    }
}

static float *new_logits(const struct rig *r, int n)
{
    float *logits = calloc((size_t)n * (size_t)r->m->vocab, sizeof *logits);
    EXPECT(logits != NULL);
    return logits;
}

static void expect_same(const struct rig *r, const float *a, const float *b, int n,
                        const char *what)
{
    bool same = !memcmp(a, b, (size_t)n * (size_t)r->m->vocab * sizeof *a);
    if (!same)
        printf("    %s: logits differ (%s)\n", what, r->k->describe(r->device));
    EXPECT(same);
}

/* A prompt in one step == in chunks of 1, 3, 7, 16, 39 == through shuffled blocks. */
static void check_chunks(struct rig *r)
{
    static const int chunks[] = {1, 3, 7, 16, 39};
    int32_t prompt[PROMPT], shuffled[PROMPT];
    float *whole = new_logits(r, PROMPT), *other = new_logits(r, PROMPT);
    make_prompt(prompt, PROMPT, r->m->vocab, 7);
    rig_run(r, prompt, PROMPT, 0, PROMPT, r->blocks, whole);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        rig_run(r, prompt, PROMPT, 0, chunks[i], r->blocks + 20, other);
        expect_same(r, whole, other, PROMPT, "chunks");
    }
    for (int i = 0; i < PROMPT; i++) /* 37 and 64 share no factor: all blocks are distinct */
        shuffled[i] = (i * 37 + 11) % 64;
    rig_run(r, prompt, PROMPT, 0, 13, shuffled, other);
    expect_same(r, whole, other, PROMPT, "shuffled blocks");
    free(whole);
    free(other);
}

/* Five sequences at different positions in one step (decodes and prompt chunks) == one by one. */
static void check_mixed(struct rig *r)
{
    static const int have[SEQS] = {39, 0, 17, 8, 31}, add[SEQS] = {1, 12, 1, 20, 1};
    int32_t prompts[SEQS][PROMPT];
    struct err err = {0};
    size_t row = (size_t)r->m->vocab;
    int n = 0;
    for (int s = 0; s < SEQS; s++)
        n += add[s];
    float *solo = new_logits(r, n), *mixed = new_logits(r, n);
    for (int s = 0, at = 0; s < SEQS; at += add[s], s++) {
        make_prompt(prompts[s], PROMPT, r->m->vocab, 100 + (unsigned)s);
        if (have[s])
            rig_run(r, prompts[s], have[s], 0, 64, r->blocks + 8 * s, NULL);
        rig_run(r, prompts[s] + have[s], add[s], have[s], 64, r->blocks + 8 * s,
                solo + (size_t)at * row);
    }
    batch_clear(&r->b);
    for (int s = 0; s < SEQS; s++) { /* again, in fresh blocks */
        if (!have[s])
            continue;
        rig_run(r, prompts[s], have[s], 0, 64, r->blocks + 64 + 8 * s, NULL);
    }
    batch_clear(&r->b);
    for (int s = 0; s < SEQS; s++) {
        int first = batch_add(&r->b, prompts[s] + have[s], add[s], have[s],
                              r->blocks + 64 + 8 * s, r->block_size);
        for (int i = 0; i < add[s]; i++)
            batch_want_logits(&r->b, first + i);
    }
    rig_require(forward_run(r->f, &r->b, &err), &err);
    rig_logits(r, mixed);
    expect_same(r, solo, mixed, n, "mixed batch");
    free(solo);
    free(mixed);
}

static void check_model(const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    for (int level = 0; level < RIG_CUDA; level++)
        for (int kv = 0; kv < KV_TYPES; kv++)
            for (int size = 0; size < 3; size++) {
                struct rig r;
                if (kv_types[kv] == QUANT_Q8_0 && strncmp(name, "gemma", 5))
                    continue; /* heads of a multiple of 32 */
                if (!rig_open(&r, path, (struct rig_options){.isa = rig_levels[level],
                                                             .kv_type = kv_types[kv],
                                                             .block_size = block_sizes[size]}))
                    continue;
                check_chunks(&r);
                check_mixed(&r);
                rig_close(&r);
            }
}

TEST_SECONDS(exact_mistral, 120) { check_model(models[0]); }
TEST_SECONDS(exact_mixtral, 120) { check_model(models[1]); }
TEST_SECONDS(exact_qwen2, 120) { check_model(models[2]); }
TEST_SECONDS(exact_gemma2, 120) { check_model(models[3]); }
TEST_SECONDS(exact_gemma3, 120) { check_model(models[4]); }
TEST_SECONDS(exact_ministral_native, 120) { check_model(models[5]); }
TEST_SECONDS(exact_ministral3, 120) { check_model(models[6]); }

/* A trained model of real size. */
TEST_SECONDS(exact_demo, 120)
{
    for (int kv = 0; kv < KV_TYPES; kv++) {
        struct rig r;
        EXPECT(rig_open(&r, test_path("config/demo"),
                        (struct rig_options){.kv_type = kv_types[kv]}));
        check_chunks(&r);
        check_mixed(&r);
        rig_close(&r);
    }
}

/* The plugin on a device opened deterministic: prompts in tiles, in rows and mixed. The last on
 * another GPU, if there is one: the second that is emulated is of 9.0. */
TEST_SECONDS(exact_deterministic_plugin, 240)
{
    static const enum quant_type types[] = {QUANT_F16, QUANT_FP8, QUANT_F32, QUANT_BF16};
    int n = (int)(sizeof types / sizeof *types);
    for (int i = 0; i < n; i++) {
        char path[1200];
        struct rig r;
        snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), models[i]);
        if (!rig_open(&r, path, (struct rig_options){.isa = rig_levels[RIG_CUDA],
                                                     .kv_type = types[i],
                                                     .gpu = i == n - 1,
                                                     .deterministic = true})) {
            if (i == n - 1)
                return;
            SKIP("no plugin is named, or it has no GPU");
        }
        check_chunks(&r);
        check_mixed(&r);
        rig_close(&r);
    }
}

TEST_SECONDS(exact_quantised, 120)
{
    static const char *const names[] = {"q8_0", "q4_0"};
    for (int i = 0; i < 2 * RIG_CUDA; i++) {
        char name[128];
        struct rig r;
        snprintf(name, sizeof name, "weights/stories260K/gguf/stories260K-%s.gguf", names[i % 2]);
        if (!test_data(name))
            SKIP("SIROCCO_TEST_DATA has no weights/stories260K/gguf");
        if (!rig_open(&r, test_data(name), (struct rig_options){.isa = rig_levels[i / 2]}))
            continue;
        check_chunks(&r);
        check_mixed(&r);
        rig_close(&r);
    }
}

/* The same with 1, 2 and 3 threads. */
TEST_SECONDS(exact_threads, 120)
{
    int32_t prompt[PROMPT];
    float *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct rig r;
        EXPECT(rig_open(&r, test_path("config/demo"), (struct rig_options){.n_threads = threads}));
        float *logits = new_logits(&r, PROMPT);
        make_prompt(prompt, PROMPT, r.m->vocab, 7);
        rig_run(&r, prompt, PROMPT, 0, 17, r.blocks, logits);
        if (first)
            expect_same(&r, first, logits, PROMPT, "threads");
        else
            first = logits;
        if (first != logits)
            free(logits);
        rig_close(&r);
    }
    free(first);
}

/* Reduced KV precision changes logits a little, not much: F16 less than BF16 or Q8_0, and FP8
 * most of all. */
TEST(exact_kv_types_are_close)
{
    double off[KV_TYPES] = {0};
    int32_t prompt[PROMPT];
    float *exact = NULL;
    for (int kv = 0; kv < KV_TYPES; kv++) {
        struct rig r;
        EXPECT(rig_open(&r, test_path("tests/golden/models/mistral-nemo-style"),
                        (struct rig_options){.kv_type = kv_types[kv]}));
        float *logits = new_logits(&r, PROMPT);
        make_prompt(prompt, PROMPT, r.m->vocab, 7);
        rig_run(&r, prompt, PROMPT, 0, PROMPT, r.blocks, logits);
        exact = exact ? exact : logits;
        for (int i = 0; i < PROMPT * r.m->vocab; i++)
            off[kv] = fmax(off[kv], fabs((double)logits[i] - (double)exact[i]));
        if (logits != exact)
            free(logits);
        rig_close(&r);
    }
    EXPECT(off[1] > 0 && off[1] < 0.02);
    EXPECT(off[2] > off[1] && off[2] < 0.2);
    EXPECT(off[3] > off[1] && off[3] < 0.2);
    EXPECT(off[4] > off[2] && off[4] > off[3] && off[4] < 1);
    free(exact);
}

/* A step without wanted rows, an empty step, and logits in parts. */
TEST(exact_steps_without_rows)
{
    struct rig r;
    struct err err = {0};
    int32_t prompt[PROMPT];
    float *logits;
    const struct draw_result *results;
    EXPECT(rig_open(&r, test_path("tests/golden/models/mistral"), (struct rig_options){0}));
    make_prompt(prompt, PROMPT, r.m->vocab, 7);
    batch_clear(&r.b);
    EXPECT_INT(forward_run(r.f, &r.b, &err), 0);
    batch_add(&r.b, prompt, PROMPT, 0, r.blocks, r.block_size);
    EXPECT_INT(forward_run(r.f, &r.b, &err), 0);
    EXPECT_INT(forward_logits(r.f, &r.b, 0, 0, &logits, &results, &err), 0);
    EXPECT(forward_workspace_bytes(r.m, r.k, &(struct forward_options){.n_tokens_max = 64,
                                                                  .n_logits_max = 8}) >
           64 * sizeof(float) * (size_t)(r.m->dim + 2 * r.m->ffn));
    rig_close(&r);
}
