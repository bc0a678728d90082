/* Gguf_save: tokenizers of every kind written as GGUF vocabularies and read back: the same ids for
 * the same texts, the same tokens, the same ends. */
#include "tests/unit/tokenizer_cases.h"

#include <unistd.h>

#include "engine/gguf_write.h"

/* t as a GGUF's vocabulary of `more` tokens more, opened. */
static struct tokenizer *saved(const struct tokenizer *t, int more)
{
    char path[64];
    struct gguf_write w;
    struct err err = {0};
    struct tokenizer *out = NULL;
    int n = tokenizer_vocab_size(t) + more, fd;
    snprintf(path, sizeof path, "/tmp/sirocco-save-XXXXXX.gguf");
    EXPECT((fd = mkstemps(path, 5)) >= 0);
    close(fd);
    gguf_write_init(&w);
    int code = tokenizer_save_gguf(t, n, &w, &err);
    if (!code && tokenizer_eos(t) >= 0)
        gguf_write_int(&w, "tokenizer.ggml.eos_token_id", GGUF_U32, tokenizer_eos(t));
    if (!code)
        code = gguf_write_open(&w, path, &err);
    if (!code)
        code = gguf_write_close(&w, &err);
    gguf_write_free(&w);
    if (!code)
        code = tokenizer_open_path(path, n, NULL, &out, &err);
    if (code)
        fprintf(stderr, "%s: %s\n", tokenizer_kind(t), err.text);
    EXPECT_INT(code, 0);
    unlink(path);
    return out;
}

/* composes: it brings text to form NFC, which readers of the file do not. */
static void expect_saved(struct tokenizer *t, bool composes)
{
    if (!t)
        SKIP("SIROCCO_TEST_DATA lacks this tokenizer");
    struct tokenizer *g = saved(t, 3);
    EXPECT_INT(tokenizer_bos(g), tokenizer_bos(t));
    EXPECT(tokenizer_eos(t) < 0 || tokenizer_eos(g) == tokenizer_eos(t));
    EXPECT_INT(tokenizer_adds_bos(g), tokenizer_adds_bos(t));
    EXPECT_INT(tokenizer_mistral_version(g), tokenizer_mistral_version(t));
    EXPECT_INT(tokenizer_is_byte_level(g), tokenizer_is_byte_level(t));
    EXPECT_INT(tokenizer_n_tokens(g), tokenizer_vocab_size(t) + 3);
    int differ = 0;
    for (int32_t id = 0; id < tokenizer_n_tokens(t); id++) {
        size_t n, m;
        const char *a = tokenizer_piece(t, id, true, &n), *b = tokenizer_piece(g, id, true, &m);
        differ += n != m || memcmp(a, b, n) != 0 ||
                  tokenizer_is_special(t, id) != tokenizer_is_special(g, id);
    }
    EXPECT_INT(differ, 0);
    if (!composes)
        expect_agreement(t, g);
    static const char text[] = "one  two\n\n three's 12345 \xC3\xA9t\xC3\xA9 \xF0\x9F\x8C\xAA <0x0A>\t! "
                               "[REFERENCE_DOC_3]"; /* a user-defined piece of Mistral's v3 */
    for (size_t n = 0; n <= strlen(text); n++) { /* cut anywhere, in the middle of characters too */
        struct token_list a = rig_encode(t, text, n, true, false);
        struct token_list b = rig_encode(g, text, n, true, false);
        EXPECT(rig_same(&a, &b));
        token_list_free(&a);
        token_list_free(&b);
    }
    tokenizer_close(g);
    tokenizer_close(t);
}

TEST_SECONDS(demo_in_both_forms, 60)
{
    expect_saved(rig_open_as(test_path("config/demo/tokenizer.json"), "tokenizer.json"), false);
    expect_saved(rig_open_as(test_path("config/demo/tokenizer.model"), "tokenizer.model"), false);
}

TEST_SECONDS(llama_2, 120)
{
    expect_saved(rig_open_data("tokenizers/llama-2-spm/tokenizer.model", "tokenizer.model"), false);
    expect_saved(rig_open_data("tokenizers/hf/llama-2/tokenizer.json", "tokenizer.json"), false);
}

TEST_SECONDS(mistral_v2_v3, 120)
{
    expect_saved(rig_open_data("tokenizers/mistral-spm/mistral_instruct_tokenizer_240216.model.v2",
                               "tokenizer.model.v2"), false);
    expect_saved(rig_open_data("tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3",
                               "tokenizer.model.v3"), false);
}

TEST_SECONDS(tekken, 240)
{
    expect_saved(rig_open_data("tokenizers/tekken/tekken_v3.json.gz", "tekken.json"), false);
}

TEST_SECONDS(mistral_nemo, 240)
{
    expect_saved(rig_open_data("tokenizers/hf-derived/mistral-nemo/tokenizer.json.gz",
                               "tokenizer.json"), false);
}

TEST_SECONDS(llama_3, 240)
{
    expect_saved(rig_open_data("tokenizers/hf-derived/llama-3/tokenizer.json.gz",
                               "tokenizer.json"), false);
}

TEST_SECONDS(qwen_2_5, 240)
{
    expect_saved(rig_open_data("tokenizers/hf-derived/qwen2.5/tokenizer.json.gz",
                               "tokenizer.json"), true);
}

TEST_SECONDS(gpt_2, 120)
{
    expect_saved(rig_open_data("tokenizers/hf/phi-2-gpt2-bpe/tokenizer.json", "tokenizer.json"), false);
}
