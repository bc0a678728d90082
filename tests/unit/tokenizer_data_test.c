/* Published vocabularies against published ids, and the forms of one vocabulary against each other
 * on whole texts: the reference files of SIROCCO_TEST_DATA. */
#include "tests/unit/tokenizer_cases.h"

#define LLAMA2_SPM "tokenizers/llama-2-spm/tokenizer.model"
#define LLAMA2_JSON "tokenizers/hf/llama-2/tokenizer.json"
#define LLAMA2_GGUF "tokenizers/gguf-vocab/ggml-vocab-llama-spm.gguf"

TEST_SECONDS(llama_2_is_the_same_in_all_three_forms, 120)
{
    struct tokenizer *spm = rig_open_data(LLAMA2_SPM, "tokenizer.model");
    struct tokenizer *json = rig_open_data(LLAMA2_JSON, "tokenizer.json");
    struct tokenizer *gguf = rig_open_data(LLAMA2_GGUF, "v.gguf");
    if (!spm || !json || !gguf)
        SKIP("SIROCCO_TEST_DATA lacks a form of Llama 2");
    struct tokenizer *library = rig_open_library(test_data(LLAMA2_SPM));
    expect_agreement(library, spm);
    expect_agreement(library, json);
    expect_agreement(library, gguf);
    rig_expect_same_cuts(library, gguf); /* a vocabulary with tokens of several spaces */
    tokenizer_close(library);
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
    struct tokenizer *library =
        rig_open_library(test_data("weights/stories260K/hf-f32/tokenizer.model"));
    expect_agreement(library, spm);
    tokenizer_close(library);
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

/* Versions 3 and 7 have user-defined pieces, which no merge crosses. */
TEST_SECONDS(mistral_sentencepiece_models_are_merged_as_by_the_library, 120)
{
    static const char *const files[] = {
        "tokenizers/mistral-spm/tokenizer.model.v1",
        "tokenizers/mistral-spm/mistral_instruct_tokenizer_240216.model.v2",
        "tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3",
        "tokenizers/mistral-spm/mistral_instruct_tokenizer_241114.model.v7"};
    static const char *const units[] = {
        "[REFERENCE_DOC_1]", " ", "1", "[REF]", "[/REF]", "[REFERENCE_DOC_1", "[REF", "5]", "the",
        "\xE2\x96\x81",      "[", "]", "\xFF",  "[INST]", "\xE6\x97\xA5",     "\n"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct tokenizer *t = rig_open_data(files[i], "tokenizer.model");
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
        struct tokenizer *library = rig_open_library(test_data(files[i]));
        expect_agreement(library, t);
        rig_expect_same(library, t, units, 16, 60);
        tokenizer_close(library);
        tokenizer_close(t);
    }
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

/* The last of the eight is left out: there the reference puts its space in front of a line end
 * after one control token and not after another. */
TEST(phi_3_gives_the_ids_of_ml_net)
{
    struct tokenizer *t = rig_open_data("tokenizers/gguf-vocab/ggml-vocab-phi-3.gguf", "v.gguf");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/gguf-vocab");
    EXPECT_INT(expect_lines(t, "tokenizers/expected/ml-net/Phi3.txt", 7), 7);
    tokenizer_close(t);
}

/* A prompt with tools, a call and its result: its ids are the text, and the control tokens among
 * them are left out of it. */
TEST(mistral_v3_decodes_the_prompt_of_ml_net)
{
    struct tokenizer *t = rig_open_data(
        "tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
    char *file = read_lines("tokenizers/expected/ml-net/Mistral_V0_3.txt");
    char *at = strchr(file, '\n');
    EXPECT(at != NULL);
    *at++ = 0;
    struct token_list ids = read_id_line(&at);
    struct buf text = rig_decode(t, &ids, false, false);
    EXPECT_INT(ids.n, 229);
    EXPECT_STR(text.data, file);
    buf_free(&text);
    token_list_free(&ids);
    char *other = read_lines("tokenizers/expected/ml-net/Mistral_7B_Instruct_V0_3.txt");
    EXPECT((at = strchr(other, '\n')) != NULL);
    at++;
    ids = read_id_line(&at); /* the same with one BOS, where that file has two */
    text = rig_decode(t, &ids, false, false);
    EXPECT_INT(ids.n, 228);
    EXPECT_STR(text.data, file);
    buf_free(&text);
    token_list_free(&ids);
    free(other);
    free(file);
    tokenizer_close(t);
}

TEST(llama_2_gives_the_ids_of_transformers_js)
{
    struct tokenizer *t = rig_open_data(LLAMA2_SPM, "tokenizer.model");
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks Llama 2");
    expect_cases(t, "llama", "Xenova/llama-tokenizer", true);
    tokenizer_close(t);
}

TEST(llama_2_gives_the_ids_of_swift_transformers)
{
    static const char *const rows[][2] = {{LLAMA2_SPM, "tokenizer.model"}, {LLAMA2_GGUF, "v.gguf"}};
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = rig_open_data(rows[i][0], rows[i][1]);
        if (!t)
            SKIP("SIROCCO_TEST_DATA lacks Llama 2");
        expect_swift(t, "coreml-projects/Llama-2-7b-chat-coreml", 0, 0);
        expect_encoded(t, "llama_encoded");
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
