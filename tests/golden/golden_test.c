/* Golden tests: every architecture row, the demo model and (when SIROCCO_TEST_DATA is set) the
 * stories260K checkpoints in all their formats, against values computed by other implementations in
 * float32, at every instruction level this machine has. */
#include "tests/golden/rig.h"

#include "engine/arch.h"

/* ---- rows: random models; logits of 40 positions and 16 greedy tokens (make_golden_models.py) */

/* Model `name` against the values in the folder `from`. Random weights have no margins that would
 * outlast rounded inputs: at that level only the logits are compared. */
static void check_row(const char *name, const char *from, int level)
{
    char path[1200], expected_path[1300];
    struct rig r;
    int n, n_greedy;
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    snprintf(expected_path, sizeof expected_path, "%s/%s/expected.json",
             test_path("tests/golden/models"), from);
    if (!rig_open(&r, path, (struct rig_options){.isa = rig_levels[level]}))
        return;
    json_t *expected = rig_json(expected_path);
    int32_t *prompt = rig_ids(json_object_get(expected, "prompt_ids"), &n);
    int32_t *greedy = rig_ids(json_object_get(expected, "greedy_ids"), &n_greedy);
    int32_t *ours = calloc((size_t)n_greedy, sizeof *ours);
    float *logits = calloc((size_t)n * (size_t)r.m->vocab, sizeof *logits);
    EXPECT(n == 40 && n_greedy == 16 && ours && logits);
    rig_run(&r, prompt, n, 0, 64, r.blocks, logits);
    double most = 0, worst = 0;
    for (int i = 0; i < n; i++) {
        const json_t *row = json_array_get(json_object_get(expected, "logits"), (size_t)i);
        EXPECT_INT(json_array_size(row), r.m->vocab);
        for (int j = 0; j < r.m->vocab; j++) {
            double want = json_number_value(json_array_get(row, (size_t)j));
            double off = fabs(want - logits[(size_t)i * (size_t)r.m->vocab + (size_t)j]);
            most = fabs(want) > most ? fabs(want) : most;
            worst = !(off <= worst) ? off : worst; /* NaN counts as worst */
        }
    }
    printf("    %s %s: relative error %.1e\n", name, rig_levels[level], worst / most);
    EXPECT(worst / most < (level >= RIG_ROUNDS ? 5e-2 : 1e-4));
    rig_greedy(&r, logits + (size_t)(n - 1) * (size_t)r.m->vocab, n, n_greedy, ours);
    for (int i = 0; i < n_greedy && level < RIG_ROUNDS; i++)
        EXPECT_INT(ours[i], greedy[i]);
    free(prompt);
    free(greedy);
    free(ours);
    free(logits);
    json_decref(expected);
    rig_close(&r);
}

#define TWIN(id, folder, from)                                                                     \
    TEST(golden_##id)                                                                              \
    {                                                                                              \
        for (int i = 0; i < RIG_LEVELS; i++)                                                       \
            check_row(folder, from, i);                                                \
    }
#define ROW(id, folder) TWIN(id, folder, folder)
ROW(mistral, "mistral")
ROW(mistral_nemo_style, "mistral-nemo-style")
ROW(mistral_sharded, "mistral-sharded")
ROW(llama3_rope, "llama3-rope")
ROW(llama_tied, "llama-tied")
ROW(mixtral, "mixtral")
ROW(qwen2, "qwen2")
ROW(qwen3, "qwen3")
ROW(gemma2, "gemma2")
ROW(gemma3, "gemma3")
ROW(ministral, "ministral")
ROW(ministral3, "ministral3")
ROW(mistral_yarn, "mistral-yarn")
ROW(mistral3, "mistral3")
ROW(mixtral_8x22b, "mixtral-8x22b")

/* the same models in Mistral's own layout: params.json, consolidated.safetensors */
ROW(codestral, "codestral")
TWIN(mistral_native, "mistral-native", "mistral")
TWIN(ministral_native, "ministral-native", "ministral")
TWIN(ministral3_native, "ministral3-native", "ministral3")
TWIN(mistral_yarn_native, "mistral-yarn-native", "mistral-yarn")
TWIN(mistral3_native, "mistral3-native", "mistral3")
TWIN(mixtral_8x22b_native, "mixtral-8x22b-native", "mixtral-8x22b")

TEST(golden_every_row_has_a_model)
{
    static const char *const models[] = {"mistral", "llama-tied", "mixtral",   "qwen2",     "qwen3",
                                         "gemma2",  "gemma3",     "ministral", "ministral3"};
    bool seen[64] = {false};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[1200];
        struct rig r;
        snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), models[i]);
        EXPECT(rig_open(&r, path, (struct rig_options){0}));
        seen[r.m->arch - arch_table] = true;
        rig_close(&r);
    }
    for (int i = 0; i < arch_count; i++)
        EXPECT(seen[i]);
}

/* ---- the demo model: top 20 logits, mean log-probability of the prompt, greedy continuation */

static void check_demo(struct rig *r, const char *name, double bound)
{
    char path[1200];
    int n, n_greedy;
    snprintf(path, sizeof path, "%s/%s.json", test_path("tests/golden/demo"), name);
    json_t *golden = rig_json(path);
    int32_t *prompt = rig_ids(json_object_get(golden, "prompt_ids"), &n);
    int32_t *greedy = rig_ids(json_object_get(golden, "greedy_ids"), &n_greedy);
    int32_t *ours = calloc((size_t)n_greedy + 1, sizeof *ours);
    float *logits = calloc((size_t)n * (size_t)r->m->vocab, sizeof *logits);
    EXPECT(ours && logits && n > 0 && n_greedy > 0);
    rig_run(r, prompt, n, 0, r->b.n_tokens_max, r->blocks, logits);
    const float *last = logits + (size_t)(n - 1) * (size_t)r->m->vocab;
    const json_t *top = json_object_get(golden, "last_top20");
    EXPECT_INT(json_array_size(top), 20);
    for (size_t i = 0; i < 20; i++) {
        const json_t *pair = json_array_get(top, i);
        EXPECT_NEAR(last[json_integer_value(json_array_get(pair, 0))],
                    json_number_value(json_array_get(pair, 1)), bound);
    }
    double sum = 0;
    for (int i = 0; i + 1 < n; i++)
        sum += rig_logprob(logits + (size_t)i * (size_t)r->m->vocab, r->m->vocab, prompt[i + 1]);
    EXPECT_NEAR(sum / (n - 1), json_number_value(json_object_get(golden, "prompt_mean_logprob")),
                bound / 2);
    if (json_number_value(json_object_get(golden, "greedy_smallest_margin")) > 2 * bound) {
        rig_greedy(r, last, n, n_greedy, ours);
        for (int i = 0; i < n_greedy; i++)
            EXPECT_INT(ours[i], greedy[i]);
    }
    free(prompt);
    free(greedy);
    free(ours);
    free(logits);
    json_decref(golden);
}

TEST_SECONDS(golden_demo, 300)
{
    static const char *const names[] = {
        "hello",     "capital",       "sum",         "story",        "system",
        "memory",    "system-json",   "tool-call",   "tool-parallel", "tool-result",
        "tool-history", "unicode",    "whitespace",  "text"};
    for (int i = 0; i < RIG_LEVELS; i++) {
        struct rig r;
        if (!rig_open(&r, test_path("config/demo"), (struct rig_options){.isa = rig_levels[i], .large = true}))
            continue;
        for (size_t j = 0; j < sizeof names / sizeof *names; j++)
            check_demo(&r, names[j], i >= RIG_ROUNDS ? 0.05 : 2e-3);
        rig_close(&r);
    }
}

/* 1,524 tokens: the beginning has left the window of 1,024. */
TEST_SECONDS(golden_demo_long, 300)
{
    for (int i = 1; i < RIG_LEVELS; i++) {
        struct rig r;
        if (!rig_open(&r, test_path("config/demo"),
                      (struct rig_options){.n_tokens_max = 256, .isa = rig_levels[i],
                                           .large = true}))
            continue;
        check_demo(&r, "long", i >= RIG_ROUNDS ? 0.05 : 2e-3);
        rig_close(&r);
    }
}

/* ---- stories260K: a trained model in every format; values of a float32 numpy forward pass */

/* Bounds: float formats differ by rounding alone. Where a backend computes quantised products on
 * activations of 8 bits, or BF16 products on activations rounded likewise, log-probabilities move
 * by a few hundredths; a branch is then only certain where the reference's margin is wider than
 * that. */
static void check_prompt(struct rig *r, const json_t *ids, const json_t *want, double bound)
{
    int n, n_greedy;
    int32_t *prompt = rig_ids(ids, &n);
    int32_t *greedy = rig_ids(json_object_get(want, "greedy_ids"), &n_greedy);
    int32_t *ours = calloc((size_t)n_greedy + 1, sizeof *ours);
    float *logits = calloc((size_t)n * (size_t)r->m->vocab, sizeof *logits);
    EXPECT(ours && logits);
    rig_run(r, prompt, n, 0, 64, r->blocks, logits);
    const float *last = logits + (size_t)(n - 1) * (size_t)r->m->vocab;
    const json_t *top = json_object_get(want, "top8");
    EXPECT_INT(json_array_size(top), 8);
    for (size_t i = 0; i < 8; i++) {
        const json_t *pair = json_array_get(top, i);
        EXPECT_NEAR(rig_logprob(last, r->m->vocab,
                                (int)json_integer_value(json_array_get(pair, 0))),
                    json_number_value(json_array_get(pair, 1)), bound);
    }
    const json_t *all = json_object_get(want, "last_logits");
    for (size_t i = 0; i < json_array_size(all); i++)
        EXPECT_NEAR(last[i], json_number_value(json_array_get(all, i)), bound);
    if (json_number_value(json_object_get(want, "min_top1_margin")) > 2 * bound) {
        rig_greedy(r, last, n, n_greedy, ours);
        for (int i = 0; i < n_greedy; i++)
            EXPECT_INT(ours[i], greedy[i]);
    }
    free(prompt);
    free(greedy);
    free(ours);
    free(logits);
}

static void check_stories(const char *name, double exact, double rounded, double nll_bound)
{
    char path[1200];
    const char *root = test_data("weights/stories260K");
    if (!root)
        SKIP("SIROCCO_TEST_DATA has no weights/stories260K");
    snprintf(path, sizeof path, "%s/expected.json", root);
    json_t *expected = rig_json(path);
    snprintf(path, sizeof path, "%s/%s", root, name);
    const json_t *want = json_object_get(json_object_get(expected, "models"), name);
    const json_t *prompts = json_object_get(expected, "prompts");
    EXPECT(json_array_size(prompts) == 8);
    for (int i = 0; i < RIG_LEVELS; i++) {
        struct rig r;
        int n;
        double sum = 0, bound = i >= RIG_ROUNDS ? rounded : exact;
        if (!rig_open(&r, path, (struct rig_options){.isa = rig_levels[i], .large = true}))
            continue;
        for (size_t j = 0; j < 8; j++)
            check_prompt(&r, json_object_get(json_array_get(prompts, j), "ids_with_bos"),
                         json_array_get(json_object_get(want, "prompts"), j), bound);
        int32_t *text = rig_ids(json_object_get(expected, "perplexity_ids_with_bos"), &n);
        float *logits = calloc((size_t)n * (size_t)r.m->vocab, sizeof *logits);
        EXPECT(logits != NULL);
        rig_run(&r, text, n, 0, 64, r.blocks, logits);
        for (int j = 0; j + 1 < n; j++)
            sum -= rig_logprob(logits + (size_t)j * (size_t)r.m->vocab, r.m->vocab, text[j + 1]);
        printf("    %s %s: mean nll %.5f, reference %.5f\n", name, rig_levels[i], sum / (n - 1),
               json_number_value(json_object_get(want, "mean_nll")));
        EXPECT_NEAR(sum / (n - 1), json_number_value(json_object_get(want, "mean_nll")),
                    bound > exact ? 1e-3 : nll_bound);
        free(text);
        free(logits);
        rig_close(&r);
    }
    json_decref(expected);
}

TEST(golden_stories_hf_f32) { check_stories("hf-f32", 1e-3, 1e-3, 1e-4); }
TEST(golden_stories_hf_sharded) { check_stories("hf-mistral-bf16-sharded", 1e-3, 0.06, 1e-4); }
TEST(golden_stories_gguf_f32) { check_stories("gguf/stories260K-f32.gguf", 1e-3, 1e-3, 1e-4); }
TEST(golden_stories_gguf_f16) { check_stories("gguf/stories260K-f16.gguf", 1e-3, 1e-3, 1e-4); }
TEST(golden_stories_gguf_bf16) { check_stories("gguf/stories260K-bf16.gguf", 1e-3, 0.06, 1e-4); }
TEST(golden_stories_gguf_q8_0) { check_stories("gguf/stories260K-q8_0.gguf", 0.15, 0.15, 5e-3); }
TEST(golden_stories_gguf_q4_0) { check_stories("gguf/stories260K-q4_0.gguf", 0.15, 0.15, 5e-3); }
