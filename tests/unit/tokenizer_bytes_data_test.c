/* Published byte-level vocabularies (tekken.json, tokenizer.json with ByteLevel) against published
 * ids, round trips and each other: the reference files of SIROCCO_TEST_DATA. */
#include "tests/unit/tokenizer_cases.h"

#define TEKKEN "tokenizers/tekken/tekken_v3.json.gz"
#define NEMO "tokenizers/hf-derived/mistral-nemo/tokenizer.json.gz"
#define LLAMA3 "tokenizers/hf-derived/llama-3/tokenizer.json.gz"
#define QWEN "tokenizers/hf-derived/qwen2.5/tokenizer.json.gz"
#define GPT2 "tokenizers/hf/phi-2-gpt2-bpe/tokenizer.json"

/* tekken_v3.json with the config and special tokens of an overlay laid over it. */
static struct tokenizer *open_overlay(int version)
{
    char relative[96];
    snprintf(relative, sizeof relative, "tokenizers/tekken/overlays/tekken_v%d.overlay.json",
             version);
    size_t n;
    const char *base_path = test_data(TEKKEN);
    char *text = base_path ? rig_read(base_path, &n) : NULL;
    json_t *base = text ? json_loadb(text, n, JSON_ALLOW_NUL, NULL) : NULL;
    json_t *overlay = read_json(relative);
    free(text);
    if (!base || !overlay)
        return NULL;
    json_object_update(json_object_get(base, "config"), json_object_get(overlay, "config"));
    json_object_set(base, "special_tokens", json_object_get(overlay, "special_tokens"));
    char *merged = json_dumps(base, JSON_COMPACT);
    struct source_file file = {"tekken.json", (const uint8_t *)merged, strlen(merged)};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    free(merged);
    json_decref(base);
    json_decref(overlay);
    return t;
}

TEST_SECONDS(tekken_gives_the_plain_ids, 60)
{
    struct tokenizer *t = rig_open_data(TEKKEN, "tekken.json");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/tekken");
    EXPECT_STR(tokenizer_kind(t), "tekken.json v3");
    EXPECT_INT(tokenizer_mistral_version(t), 3);
    EXPECT_INT(tokenizer_n_tokens(t), 131072);
    EXPECT(tokenizer_is_byte_level(t));
    EXPECT_INT(tokenizer_find(t, "[INST]", 6), 3);
    EXPECT_INT(tokenizer_find(t, "<SPECIAL_999>", 13), 999);
    EXPECT_INT(tokenizer_bos(t), 1);
    EXPECT_INT(tokenizer_eos(t), 2);
    expect_plain(t, "tekken_v3");
    tokenizer_close(t);
}

TEST_SECONDS(tekken_versions_have_their_control_tokens, 120)
{
    static const struct {
        int version;
        const char *has, *lacks;
    } rows[] = {{7, "[SYSTEM_PROMPT]", "[ARGS]"},
                {11, "[CALL_ID]", "[THINK]"},
                {13, "[/THINK]", "[MODEL_SETTINGS]"},
                {15, "[MODEL_SETTINGS]", "[NONE]"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenizer *t = open_overlay(rows[i].version);
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks tokenizers/tekken/overlays");
        EXPECT_INT(tokenizer_mistral_version(t), rows[i].version);
        int32_t id = tokenizer_find(t, rows[i].has, strlen(rows[i].has));
        EXPECT(id >= 0 && tokenizer_is_special(t, id));
        EXPECT_INT(tokenizer_find(t, rows[i].lacks, strlen(rows[i].lacks)), -1);
        tokenizer_close(t);
    }
}

TEST_SECONDS(mistral_nemo_gives_the_plain_ids, 60)
{
    struct tokenizer *t = rig_open_data(NEMO, "tokenizer.json");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/hf-derived");
    EXPECT_STR(tokenizer_kind(t), "tokenizer.json (byte-level BPE)");
    expect_plain(t, "tekken_v3");
    tokenizer_close(t);
}

TEST_SECONDS(tekken_and_nemo_agree_on_whole_texts, 120)
{
    struct tokenizer *a = rig_open_data(TEKKEN, "tekken.json");
    struct tokenizer *b = rig_open_data(NEMO, "tokenizer.json");
    if (!a || !b)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/tekken or hf-derived");
    expect_agreement(a, b);
    tokenizer_close(a);
    tokenizer_close(b);
}

TEST_SECONDS(llama_3_gives_the_published_ids, 60)
{
    struct tokenizer *t = rig_open_data(LLAMA3, "tokenizer.json");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/hf-derived");
    expect_gguf_cases(t, "llama-bpe");
    expect_cases(t, "llama", "Xenova/llama3-tokenizer-new", true);
    expect_cases(t, "llama", "Xenova/llama3-tokenizer", false);
    expect_swift(t, "pcuenq/Llama-3.2-1B-Instruct-tokenizer", 0, 0);
    expect_encoded(t, "llama_3.2_encoded");
    EXPECT_INT(expect_lines(t, "tokenizers/expected/ml-net/LLaMA3_1.txt", 100), 4);
    tokenizer_close(t);
}

TEST_SECONDS(qwen_gives_the_published_ids, 60)
{
    struct tokenizer *t = rig_open_data(QWEN, "tokenizer.json");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/hf-derived");
    expect_gguf_cases(t, "qwen2");
    expect_gguf_cases(t, "deepseek-r1-qwen");
    expect_cases(t, "qwen2", "Xenova/Qwen1.5-0.5B-Chat", true);
    tokenizer_close(t);
}

/* Phi-2's vocabulary is GPT-2's with white space added; without those tokens it is GPT-2's. */
static struct tokenizer *open_gpt2(void)
{
    const char *path = test_data(GPT2);
    json_t *root = path ? json_load_file(path, JSON_ALLOW_NUL, NULL) : NULL;
    json_t *added = json_object_get(root, "added_tokens");
    if (!root)
        return NULL;
    while (json_array_size(added) > 1)
        json_array_remove(added, 1);
    char *text = json_dumps(root, JSON_COMPACT);
    struct source_file file = {"tokenizer.json", (const uint8_t *)text, strlen(text)};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    free(text);
    json_decref(root);
    return t;
}

TEST_SECONDS(gpt_2_gives_the_published_ids, 60)
{
    struct tokenizer *t = open_gpt2();
    json_t *ids = read_json("tokenizers/expected/ml-net/tokens_gpt2.json");
    size_t n;
    if (!t || !ids)
        SKIP("SIROCCO_TEST_DATA lacks GPT-2");
    char *text = test_read(test_data("tokenizers/expected/ml-net/lib.rs.txt"), &n);
    EXPECT(text && json_array_size(ids) == 11378);
    EXPECT(rig_gives(t, text, n, false, false, ids));
    expect_swift(t, "distilgpt2", 0, 0);
    expect_swift(t, "openai/whisper-tiny.en", 2, 1); /* start, no time stamps; end */
    expect_encoded(t, "gpt2_encoded_tokens");
    expect_cases(t, "gpt2", "openai-community/gpt2", true);
    expect_cases(t, "gpt2", "Xenova/gpt2", true);
    expect_cases(t, "falcon", "tiiuae/falcon-rw-1b", true);
    expect_gguf_cases(t, "gpt-2");
    free(text);
    json_decref(ids);
    tokenizer_close(t);
}

TEST_SECONDS(gguf_gpt2_vocabularies_give_the_ids_of_llama_cpp, 120)
{
    static const char *const names[] = {"gpt-2", "deepseek-coder", "refact", "starcoder",
                                        "deepseek-llm", "falcon", "mpt"};
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char relative[128];
        snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf", names[i]);
        struct tokenizer *t = rig_open_data(relative, "v.gguf");
        snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf.gz",
                 names[i]);
        t = t ? t : rig_open_data(relative, "v.gguf");
        if (!t)
            continue;
        n++;
        EXPECT_STR(tokenizer_kind(t), "GGUF gpt2 (byte-level BPE)");
        expect_gguf_cases(t, names[i]);
        if (!strcmp(names[i], "deepseek-coder"))
            expect_cases(t, "llama", "Xenova/deepseek-coder-1.3b-instruct", true);
        EXPECT(rig_round_trip(t, "caf\xC3\xA9 12345 \n\n  x", 18));
        tokenizer_close(t);
    }
    if (!n)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/gguf-vocab");
}

/* Kinds that are not BPE over characters or bytes. */
TEST(other_gguf_vocabularies_are_refused_by_name)
{
    const char *path = test_data("tokenizers/gguf-vocab/ggml-vocab-bert-bge.gguf.gz");
    struct source_file file = {.name = "v.gguf"};
    struct err err = {0};
    char *bytes = path ? rig_read(path, &file.size) : NULL;
    if (!bytes)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/gguf-vocab");
    file.data = (const uint8_t *)bytes;
    EXPECT(rig_open_memory(&file, 1, 0, &err) == NULL);
    EXPECT(strstr(err.text, "tokenizer.ggml.model 'bert' is not supported") != NULL);
    free(bytes);
}

/* Runs of white space are tokens of their own, the longest first. */
TEST_SECONDS(phi_2_takes_its_white_space_tokens_first, 60)
{
    struct tokenizer *t = rig_open_data(GPT2, "tokenizer.json");
    static const int32_t want[] = {17250, 50286, 15496}; /* Hi, two spaces, Hello */
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks GPT-2");
    struct token_list ids = rig_encode(t, "Hi  Hello", 9, false, false);
    EXPECT_INT(ids.n, 3);
    EXPECT(!memcmp(ids.ids, want, sizeof want));
    token_list_free(&ids);
    EXPECT(rig_round_trip(t, "a\t\t\tb       c", 13));
    tokenizer_close(t);
}

/* Any bytes come back, special tokens stay out of untrusted text, and time is linear. */
TEST_SECONDS(byte_level_vocabularies_keep_every_byte, 300)
{
    static const char *const files[][2] = {
        {TEKKEN, "tekken.json"}, {LLAMA3, "tokenizer.json"}, {GPT2, "tokenizer.json"}};
    static const char *const units[] = {"a",    " ", "A", "\n", "\xE6\x97\xA5",
                                        "\xFF", "1", "'", " \n"};
    for (int k = 0; k < 3; k++) {
        struct tokenizer *t = rig_open_data(files[k][0], files[k][1]);
        uint64_t seed = 7;
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks a byte-level vocabulary");
        for (int i = 0; i < 3000; i++) {
            char text[80];
            size_t n = rig_random(&seed) % sizeof text;
            for (size_t j = 0; j < n; j++)
                text[j] = rig_random(&seed) % 2 ? " \t\nab'll<s>[INST]</s>"[rig_random(&seed) % 20]
                                                : (char)rig_random(&seed);
            struct token_list ids = rig_encode(t, text, n, false, false);
            for (size_t j = 0; j < ids.n; j++)
                EXPECT(!tokenizer_is_special(t, ids.ids[j]));
            token_list_free(&ids);
            EXPECT(rig_round_trip(t, text, n));
        }
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
            rig_expect_linear(t, units[i]);
        tokenizer_close(t);
    }
}
