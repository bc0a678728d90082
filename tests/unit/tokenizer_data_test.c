/* Published vocabularies against published ids, and the forms of one vocabulary against each other
 * on whole texts: the reference files of SIROCCO_TEST_DATA. */
#include "tests/unit/tokenizer_rig.h"

#define LLAMA2_SPM "tokenizers/llama-2-spm/tokenizer.model"
#define LLAMA2_JSON "tokenizers/hf/llama-2/tokenizer.json"
#define LLAMA2_GGUF "tokenizers/gguf-vocab/ggml-vocab-llama-spm.gguf"

static const char *const corpora[] = {
    "text/tinyshakespeare.txt",
    "text/promessi_sposi-it.txt.gz",
    "text/wagahaiwa_nekodearu-ja.txt",
    "text/wikitext-2-test.txt",
    "text/tinystories_sample.txt",
    "text/udhr/udhr.jsonl",
    "text/unicode/UTF-8-test.txt",
    "text/unicode/emoji-test.txt",
    "text/blns/blns.json",
};
enum { N_CORPORA = sizeof corpora / sizeof corpora[0], PART = 300 << 10 };

static json_t *read_json(const char *relative)
{
    const char *path = test_data(relative);
    return path ? json_load_file(path, JSON_ALLOW_NUL, NULL) : NULL;
}

/* The published tokenizer.json of Llama 2 has plain spaces where the model has U+00A0. */
static void drop_no_break_spaces(char *text, size_t n)
{
    for (char *at = text; (at = memmem(at, (size_t)(text + n - at), "\xC2\xA0", 2));)
        memcpy(at, "nb", 2);
}

/* Two forms of one vocabulary on the first part of every corpus. */
static void expect_agreement(const struct tokenizer *a, const struct tokenizer *b)
{
    for (int i = 0; i < N_CORPORA; i++) {
        const char *path = test_data(corpora[i]);
        size_t n;
        char *text = path ? rig_read(path, &n) : NULL;
        if (!text)
            continue;
        n = n < PART ? n : PART;
        drop_no_break_spaces(text, n);
        struct token_list left = rig_encode(a, text, n, true, false);
        struct token_list right = rig_encode(b, text, n, true, false);
        if (!rig_same(&left, &right))
            fprintf(stderr, "%s: %s and %s differ\n", corpora[i], tokenizer_kind(a),
                    tokenizer_kind(b));
        EXPECT(rig_same(&left, &right));
        EXPECT(left.n > 100);
        token_list_free(&left);
        token_list_free(&right);
        free(text);
    }
}

TEST_SECONDS(llama_2_is_the_same_in_all_three_forms, 120)
{
    struct tokenizer *spm = rig_open_data(LLAMA2_SPM, "tokenizer.model");
    struct tokenizer *json = rig_open_data(LLAMA2_JSON, "tokenizer.json");
    struct tokenizer *gguf = rig_open_data(LLAMA2_GGUF, "v.gguf");
    if (!spm || !json || !gguf)
        SKIP("SIROCCO_TEST_DATA lacks a form of Llama 2");
    expect_agreement(spm, json);
    expect_agreement(spm, gguf);
    tokenizer_close(spm);
    tokenizer_close(json);
    tokenizer_close(gguf);
}

TEST_SECONDS(stories260K_is_the_same_in_all_three_forms, 120)
{
    struct tokenizer *spm =
        rig_open_data("weights/stories260K/hf-f32/tokenizer.model", "tokenizer.model");
    struct tokenizer *json =
        rig_open_data("weights/stories260K/hf-f32/tokenizer.json", "tokenizer.json");
    struct tokenizer *gguf =
        rig_open_data("weights/stories260K/gguf/stories260K-q4_0.gguf", "v.gguf");
    json_t *cases = read_json("weights/stories260K/tokenize_expected.json"), *item;
    size_t i;
    if (!spm || !json || !gguf || !cases)
        SKIP("SIROCCO_TEST_DATA lacks weights/stories260K");
    expect_agreement(spm, json);
    expect_agreement(spm, gguf);
    EXPECT(json_array_size(cases) > 100);
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        const char *s = json_string_value(text);
        size_t n = json_string_length(text);
        EXPECT(rig_gives(spm, s, n, false, false, ids));
        EXPECT(rig_gives(json, s, n, false, false, ids));
        EXPECT(rig_gives(gguf, s, n, false, false, ids));
    }
    json_decref(cases);
    tokenizer_close(spm);
    tokenizer_close(json);
    tokenizer_close(gguf);
}

/* ---- lists of texts with ids */

static void expect_plain(const struct tokenizer *t, const char *key)
{
    const char *path = test_data("tokenizers/expected/mistral-plain/encode.jsonl");
    FILE *lines = path ? fopen(path, "r") : NULL;
    static char line[1 << 16];
    int n = 0, right = 0;
    EXPECT(lines != NULL);
    while (fgets(line, sizeof line, lines)) {
        json_t *item = json_loads(line, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, key);
        n++;
        right += rig_gives(t, json_string_value(text), json_string_length(text), false, false, ids);
        right -= !rig_round_trip(t, json_string_value(text), json_string_length(text));
        json_decref(item);
    }
    fclose(lines);
    EXPECT(n > 70);
    EXPECT_INT(right, n);
}

TEST(mistral_sentencepiece_models_give_the_plain_ids)
{
    static const struct {
        const char *file, *key;
    } rows[] = {{"tokenizers/mistral-spm/tokenizer.model.v1", "spm_v1"},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3", "spm_v3"},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_241114.model.v7", "spm_v7"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenizer *t = rig_open_data(rows[i].file, "tokenizer.model");
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
        expect_plain(t, rows[i].key);
        tokenizer_close(t);
    }
}

/* The cases of a GGUF vocabulary: texts in .inp between marker lines, ids in .out line by line. */
static void expect_gguf_cases(const struct tokenizer *t, const char *name)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char relative[128];
    size_t n_in, n_out;
    snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf.inp", name);
    char *in = test_read(test_data(relative), &n_in);
    snprintf(relative, sizeof relative, "tokenizers/gguf-vocab/ggml-vocab-%s.gguf.out", name);
    char *out = test_read(test_data(relative), &n_out);
    int n = 0, wrong = 0;
    EXPECT(in && out);
    for (char *at = in, *line = out; at; n++) {
        char *end = strstr(at, mark), *next = strchr(line, '\n');
        if (!next) /* after the last marker */
            break;
        struct token_list want = {0};
        for (char *p = line; p < next;) {
            char *stop;
            long id = strtol(p, &stop, 10);
            if (stop == p || stop > next)
                break;
            EXPECT_INT(token_list_add(&want, (int32_t)id), 0);
            p = stop;
        }
        size_t size = end ? (size_t)(end - at) : (size_t)(in + n_in - at);
        struct token_list got = rig_encode(t, at, size, false, false);
        if (!rig_same(&got, &want)) {
            fprintf(stderr, "%s, case %d: %.*s\n", name, n, (int)size, at);
            rig_print("got ", &got);
            rig_print("want", &want);
            wrong++;
        }
        token_list_free(&got);
        token_list_free(&want);
        at = end ? end + strlen(mark) : NULL;
        line = next + 1;
    }
    EXPECT(n >= 40);
    EXPECT_INT(wrong, 0);
    free(in);
    free(out);
}

TEST(llama_2_gives_the_ids_of_llama_cpp)
{
    static const char *const rows[][2] = {
        {LLAMA2_SPM, "tokenizer.model"}, {LLAMA2_JSON, "tokenizer.json"}, {LLAMA2_GGUF, "v.gguf"}};
    for (int i = 0; i < 3; i++) {
        struct tokenizer *t = rig_open_data(rows[i][0], rows[i][1]);
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks Llama 2");
        expect_gguf_cases(t, "llama-spm");
        tokenizer_close(t);
    }
}

TEST(phi_3_gives_the_ids_of_llama_cpp)
{
    struct tokenizer *t = rig_open_data("tokenizers/gguf-vocab/ggml-vocab-phi-3.gguf", "v.gguf");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/gguf-vocab");
    expect_gguf_cases(t, "phi-3");
    tokenizer_close(t);
}

/* {case: {text, ids, decoded}}: ids with what the tokenizer adds around a text. */
static void expect_cases(const struct tokenizer *t, const char *family, const char *model)
{
    json_t *root = read_json("tokenizers/expected/transformers.js/tokenization.json");
    json_t *cases = json_object_get(json_object_get(root, family), model), *item;
    const char *name;
    int n = 0, right = 0;
    if (!root)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/expected/transformers.js");
    json_object_foreach(cases, name, item)
    {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        n++;
        right += rig_gives(t, json_string_value(text), json_string_length(text), true, true, ids);
    }
    EXPECT(n >= 10);
    EXPECT_INT(right, n);
    json_decref(root);
}

TEST(llama_2_gives_the_ids_of_transformers_js)
{
    struct tokenizer *t = rig_open_data(LLAMA2_SPM, "tokenizer.model");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks Llama 2");
    expect_cases(t, "llama", "Xenova/llama-tokenizer");
    tokenizer_close(t);
}

/* [{input, encoded.input_ids, decoded_...}] */
static void expect_swift(const struct tokenizer *t, const char *model)
{
    json_t *root = read_json("tokenizers/expected/swift-transformers/tokenizer_tests.json"), *item;
    json_t *cases = json_object_get(root, model);
    size_t i;
    int right = 0;
    if (!root)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/expected/swift-transformers");
    json_array_foreach(cases, i, item)
    {
        const json_t *text = json_object_get(item, "input");
        const json_t *ids = json_object_get(json_object_get(item, "encoded"), "input_ids");
        right += rig_gives(t, json_string_value(text), json_string_length(text), true, true, ids);
    }
    EXPECT(json_array_size(cases) >= 10);
    EXPECT_INT(right, json_array_size(cases));
    json_decref(root);
}

TEST(llama_2_gives_the_ids_of_swift_transformers)
{
    static const char *const rows[][2] = {{LLAMA2_SPM, "tokenizer.model"}, {LLAMA2_GGUF, "v.gguf"}};
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = rig_open_data(rows[i][0], rows[i][1]);
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks Llama 2");
        expect_swift(t, "coreml-projects/Llama-2-7b-chat-coreml");
        tokenizer_close(t);
    }
}

TEST(a_unigram_model_round_trips_its_own_text)
{
    struct tokenizer *t =
        rig_open_data("tokenizers/sentencepiece-unigram/test_model.model", "tokenizer.model");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/sentencepiece-unigram");
    struct token_list ids = rig_encode(t, "This is a test", 14, false, false);
    struct buf back = rig_decode(t, &ids, false, true);
    EXPECT_STR(back.data, "This is a test");
    EXPECT_STR(tokenizer_kind(t), "tokenizer.model (Unigram)");
    buf_free(&back);
    token_list_free(&ids);
    tokenizer_close(t);
}

/* A rank file that is also called tokenizer.model. */
TEST(a_tiktoken_file_is_refused)
{
    const char *path = test_data("tokenizers/tiktoken/llama-3/tokenizer.model.gz");
    struct source_file file = {.name = "tokenizer.model"};
    struct err err = {0};
    char *bytes = path ? rig_read(path, &file.size) : NULL;
    if (!bytes)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/tiktoken");
    file.data = (const uint8_t *)bytes;
    EXPECT(rig_open_memory(&file, 1, 0, &err) == NULL);
    EXPECT(strstr(err.text, "not a sentencepiece model") != NULL);
    free(bytes);
}
