/* fim: which tokenizers can fill in, the order and the spaces of their prompts; mistral-common's
 * own sequences (when SIROCCO_TEST_DATA is set). */
#include "engine/template/fim.h"

#include "tests/unit/tokenizer_rig.h"

/* ---- gold */

static void check_gold(const char *tokenizer, const char *as, const char *gold)
{
    char *line, *next;
    size_t size;
    int n = 0;
    struct fim fim;
    struct tokenizer *t = rig_open_data(tokenizer, as);
    const char *path = test_data(gold);
    if (!t || !path)
        SKIP("SIROCCO_TEST_DATA lacks the tokenizer or mistral-common's sequences");
    char *text = test_read(path, &size);
    EXPECT(text != NULL && fim_find(t, &fim));
    EXPECT_STR(fim_family(&fim), "mistral");
    for (line = text; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        json_t *one = json_loads(line, 0, NULL);
        EXPECT(one != NULL);
        const char *mode = json_string_value(json_object_get(one, "mode"));
        const json_t *request = json_object_get(one, "request");
        const char *prompt = json_string_value(json_object_get(request, "prompt"));
        const char *suffix = json_string_value(json_object_get(request, "suffix"));
        if (mode && !strcmp(mode, "fim") && prompt && json_object_get(one, "token_ids")) {
            struct token_list got = {0}, want = rig_ids(json_object_get(one, "token_ids"));
            suffix = suffix ? suffix : "";
            EXPECT_INT(fim_encode(t, &fim, prompt, strlen(prompt), suffix, strlen(suffix), &got,
                                  NULL), 0);
            if (!rig_same(&got, &want)) {
                fprintf(stderr, "%s\n", line);
                rig_print("got", &got);
            }
            EXPECT(rig_same(&got, &want));
            token_list_free(&got);
            token_list_free(&want);
            n++;
        }
        json_decref(one);
    }
    printf("    %d sequences\n", n);
    EXPECT(n >= 5);
    free(text);
    tokenizer_close(t);
}

#define GOLD "chat-templates/mistral-common-gold/"
#define SPM "tokenizers/mistral-spm/mistral_instruct_tokenizer_"
TEST(fim_v2_has_no_names_for_them)
{
    struct fim fim;
    struct tokenizer *t = rig_open_data(SPM "240216.model.v2", "tokenizer.model.v2");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
    EXPECT(!fim_find(t, &fim)); /* [control_9] and so on: mistral-common itself writes <unk> */
    tokenizer_close(t);
}
TEST(fim_gold_spm_v3)
{
    check_gold(SPM "240323.model.v3", "tokenizer.model.v3", GOLD "spm_v3.jsonl");
}
TEST(fim_gold_spm_v7)
{
    check_gold(SPM "241114.model.v7", "tokenizer.model.v7", GOLD "spm_v7.jsonl");
}
TEST_SECONDS(fim_gold_tekken_v3, 60)
{
    check_gold("tokenizers/tekken/tekken_v3.json.gz", "tekken.json", GOLD "tekken_v3.jsonl");
}

/* ---- other families, by tokenizers of bytes and their control tokens */

static struct tokenizer *open_bytes(const char *const *tokens, bool adds_bos)
{
    static char json[1 << 16];
    size_t n = (size_t)snprintf(
        json, sizeof json,
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{"
        "\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (int i = 0; i < 256; i++)
        n += (size_t)snprintf(json + n, sizeof json - n, ",\"<0x%02X>\":%d", i, 3 + i);
    n += (size_t)snprintf(json + n, sizeof json - n, "},\"merges\":[]},\"added_tokens\":[");
    n += (size_t)snprintf(json + n, sizeof json - n,
                          "{\"id\":1,\"content\":\"<s>\",\"special\":true}");
    for (int i = 0; tokens[i]; i++)
        n += (size_t)snprintf(json + n, sizeof json - n,
                              ",{\"id\":%d,\"content\":\"%s\",\"special\":%s}", 259 + i, tokens[i],
                              i % 2 ? "false" : "true");
    n += (size_t)snprintf(json + n, sizeof json - n, "]}");
    const char *config = adds_bos ? "{\"bos_token\":\"<s>\",\"add_bos_token\":true}"
                                  : "{\"bos_token\":\"<s>\",\"add_bos_token\":false}";
    struct source_file files[] = {
        {.name = "tokenizer.json", .data = (const uint8_t *)json, .size = n},
        {.name = "tokenizer_config.json", .data = (const uint8_t *)config,
         .size = strlen(config)}};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(files, 2, 0, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    return t;
}

/* Bytes of text above 0 stand for themselves; ids[] for the zeros, in turn. */
static void expect_prompt(const struct tokenizer *t, const char *prefix, const char *suffix,
                          const int32_t *want, size_t n)
{
    struct fim fim;
    struct token_list got = {0};
    struct err err = {0};
    EXPECT(fim_find(t, &fim));
    EXPECT_INT(fim_encode(t, &fim, prefix, strlen(prefix), suffix, strlen(suffix), &got, &err), 0);
    struct token_list list = {.ids = (int32_t *)want, .n = n};
    if (!rig_same(&got, &list)) {
        rig_print("got", &got);
        rig_print("want", &list);
    }
    EXPECT(rig_same(&got, &list));
    token_list_free(&got);
}

#define IDS(...) (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4
#define FAMILY(...) ((const char *const[]){__VA_ARGS__, NULL})

TEST(fim_prefix_suffix_middle)
{
    const char *const *const families[] = {
        FAMILY("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        FAMILY("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        FAMILY("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
        FAMILY("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        FAMILY("▁<PRE>", "▁<SUF>", "▁<MID>")};
    static const char *const names[] = {"qwen", "starcoder", "santacoder", "deepseek", "codellama"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct tokenizer *t = open_bytes(families[i], i % 2);
        struct fim fim;
        EXPECT(fim_find(t, &fim));
        EXPECT_STR(fim_family(&fim), names[i]);
        EXPECT(fim.prefix == 259 && fim.suffix == 260 && fim.middle == 261 && fim.n_ends == 0);
        if (i % 2)
            expect_prompt(t, "ab", "c", IDS(1, 259, 3 + 'a', 3 + 'b', 260, 3 + 'c', 261));
        else
            expect_prompt(t, "ab", "c", IDS(259, 3 + 'a', 3 + 'b', 260, 3 + 'c', 261));
        tokenizer_close(t);
    }
}

TEST(fim_ends)
{
    struct tokenizer *t = open_bytes(FAMILY("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
                                            "<|endoftext|>", "<|file_sep|>"), false);
    struct fim fim;
    EXPECT(fim_find(t, &fim));
    EXPECT_INT(fim.n_ends, 2);
    EXPECT(fim.ends[0] == 262 && fim.ends[1] == 263);
    tokenizer_close(t);
}

TEST(fim_control_tokens_in_texts_stay_text)
{
    struct tokenizer *t = open_bytes(FAMILY("[PREFIX]", "x", "[SUFFIX]"), false);
    struct fim fim;
    struct token_list got = {0};
    static const char text[] = "[PREFIX]</s>";
    EXPECT(fim_find(t, &fim));
    EXPECT_INT(fim_encode(t, &fim, text, sizeof text - 1, text, sizeof text - 1, &got, NULL), 0);
    /* BOS although the tokenizer adds none, the suffix first, no token but bytes between */
    EXPECT_INT(got.n, 3 + 2 * (sizeof text - 1));
    EXPECT(got.ids[0] == 1 && got.ids[1] == 261 && got.ids[sizeof text + 1] == 259);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        EXPECT_INT(got.ids[2 + i], 3 + text[i]);
        EXPECT_INT(got.ids[sizeof text + 2 + i], 3 + text[i]);
    }
    token_list_free(&got);
    tokenizer_close(t);
}

TEST(fim_needs_all_tokens)
{
    struct fim fim;
    struct tokenizer *t = open_bytes(FAMILY("<|fim_prefix|>", "<|fim_suffix|>"), false);
    EXPECT(!fim_find(t, &fim));
    tokenizer_close(t);
    t = open_bytes(FAMILY("[PREFIX]", "[SUFFIX]"), false); /* the second is plain text */
    EXPECT(!fim_find(t, &fim));
    tokenizer_close(t);
}
