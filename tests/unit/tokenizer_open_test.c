/* Which tokenizer file is taken, from a source or a path, and which Mistral version it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/tokenizer/tokenizer.h"
#include "tests/test.h"

static struct tokenizer *open_path(const char *path)
{
    struct tokenizer *t = NULL;
    struct err err;
    if (tokenizer_open_path(path, 0, NULL, &t, &err))
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    return t;
}

static void expect_refused(const char *path, const char *prefer, const char *reason)
{
    struct tokenizer *t = NULL;
    struct err err = {0};
    EXPECT(tokenizer_open_path(path, 0, prefer, &t, &err) != 0);
    EXPECT(t == NULL);
    if (!strstr(err.text, reason))
        fprintf(stderr, "'%s' is not in: %s\n", reason, err.text);
    EXPECT(strstr(err.text, reason) != NULL);
}

/* A folder below the test's own one, with the named repository files copied in. */
static const char *make_folder(const char *const (*files)[2], int n)
{
    static char folder[64];
    snprintf(folder, sizeof folder, "/tmp/sirocco-tok-XXXXXX");
    EXPECT(mkdtemp(folder) != NULL);
    for (int i = 0; i < n; i++) {
        char path[256];
        size_t size;
        char *bytes = test_read(test_path(files[i][0]), &size);
        EXPECT(bytes != NULL);
        snprintf(path, sizeof path, "%s/%s", folder, files[i][1]);
        FILE *out = fopen(path, "wb");
        EXPECT(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
        free(bytes);
    }
    return folder;
}

static void remove_folder(const char *folder, const char *const (*files)[2], int n)
{
    for (int i = 0; i < n; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, files[i][1]);
        unlink(path);
    }
    rmdir(folder);
}

static void expect_folder(const char *const (*files)[2], int n, const char *prefer,
                          const char *kind, int version)
{
    const char *folder = make_folder(files, n);
    struct tokenizer *t = NULL;
    struct err err;
    EXPECT_INT(tokenizer_open_path(folder, 0, prefer, &t, &err), 0);
    remove_folder(folder, files, n); /* first: a failed expectation ends the test */
    EXPECT_STR(tokenizer_kind(t), kind);
    EXPECT_INT(tokenizer_mistral_version(t), version);
    EXPECT_INT(tokenizer_vocab_size(t), tokenizer_n_tokens(t));
    tokenizer_close(t);
}

static const char JSON[] = "config/demo/tokenizer.json", SPM[] = "config/demo/tokenizer.model";

TEST(a_folder_gives_json_before_the_sentencepiece_model)
{
    const char *const both[][2] = {{JSON, "tokenizer.json"}, {SPM, "tokenizer.model"}};
    expect_folder(both, 2, NULL, "tokenizer.json (BPE)", 3);
    expect_folder(both, 2, "json", "tokenizer.json (BPE)", 3);
    expect_folder(both, 2, "spm", "tokenizer.model (BPE)", 3);
    expect_folder(both, 1, "spm", "tokenizer.json (BPE)", 3);
    expect_folder(both + 1, 1, "json", "tokenizer.model (BPE)", 3);
}

TEST(tekken_comes_between_them)
{
    static const char TEKKEN[] = "tests/fuzz/corpus/tekken/v7.json";
    const char *const all[][2] = {
        {TEKKEN, "tekken.json"}, {SPM, "tokenizer.model.v3"}, {JSON, "tokenizer.json"}};
    expect_folder(all, 1, NULL, "tekken.json v7", 7);
    expect_folder(all, 2, NULL, "tekken.json v7", 7);
    expect_folder(all, 2, "spm", "tokenizer.model (BPE)", 3);
    expect_folder(all, 3, NULL, "tokenizer.json (BPE)", 3);
    expect_folder(all, 3, "tekken", "tekken.json v7", 7);
    expect_folder(all, 3, "spm", "tokenizer.model (BPE)", 3);
    const char *const renamed[][2] = {{TEKKEN, "x.json"}};
    const char *folder = make_folder(renamed, 1);
    char path[128];
    snprintf(path, sizeof path, "%s/x.json", folder);
    struct tokenizer *t = open_path(path);
    remove_folder(folder, renamed, 1);
    EXPECT_STR(tokenizer_kind(t), "tekken.json v7"); /* known by its contents */
    tokenizer_close(t);
}

TEST(the_highest_model_version_in_a_folder_counts)
{
    const char *const files[][2] = {{SPM, "tokenizer.model.v3"},
                                    {SPM, "tokenizer.model.v7m1"},
                                    {SPM, "tokenizer.model.v1"},
                                    {SPM, "tokenizer.model.v99x"}};
    expect_folder(files, 4, NULL, "tokenizer.model (BPE)", 7);
    expect_folder(files, 1, NULL, "tokenizer.model (BPE)", 3);
    expect_folder(files + 2, 1, NULL, "tokenizer.model (BPE)", 1);
}

TEST(a_lone_file_may_have_any_name)
{
    const char *const files[][2] = {{JSON, "anything"}, {SPM, "other"}};
    const char *const kinds[] = {"tokenizer.json (BPE)", "tokenizer.model (BPE)"};
    const char *folder = make_folder(files, 2);
    for (int i = 0; i < 2; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, files[i][1]);
        struct tokenizer *t = open_path(path);
        EXPECT_STR(tokenizer_kind(t), kinds[i]);
        EXPECT_INT(tokenizer_n_tokens(t), 4096);
        tokenizer_close(t);
    }
    remove_folder(folder, files, 2);
}

TEST(what_is_no_tokenizer_is_refused)
{
    const char *folder = make_folder(NULL, 0);
    expect_refused(folder, NULL, "there is no tokenizer.json");
    rmdir(folder);
    expect_refused(folder, NULL, "No such file");
    expect_refused(test_path("config/demo"), "tiktoken", "none of json, tekken and spm");
    expect_refused(test_path("Makefile"), NULL, "not a sentencepiece model");
    expect_refused("/dev/null", NULL, "not a regular file");
}

TEST(mistral_files_tell_their_version)
{
    static const struct {
        const char *file;
        int version, n;
    } rows[] = {{"tokenizers/mistral-spm/tokenizer.model.v1", 1, 32000},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240216.model.v2", 2, 32768},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3", 3, 32768},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_241114.model.v7", 7, 32768}};
    if (!test_data(rows[0].file))
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenizer *t = open_path(test_data(rows[i].file));
        EXPECT_INT(tokenizer_mistral_version(t), rows[i].version);
        EXPECT_INT(tokenizer_n_tokens(t), rows[i].n);
        EXPECT(!tokenizer_is_byte_level(t));
        tokenizer_close(t);
    }
}

/* Renamed, the same files tell it by their control tokens. */
TEST(control_tokens_tell_the_version_when_the_name_does_not)
{
    static const struct {
        const char *file;
        int version;
    } rows[] = {{"tokenizers/mistral-spm/tokenizer.model.v1", 1},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240216.model.v2", 2},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_240323.model.v3", 3},
                {"tokenizers/mistral-spm/mistral_instruct_tokenizer_241114.model.v7", 7}};
    if (!test_data(rows[0].file))
        SKIP("SIROCCO_TEST_DATA lacks tokenizers/mistral-spm");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct source_file file = {.name = "tokenizer.model"};
        struct source *source;
        struct tokenizer *t = NULL;
        struct err err;
        char *bytes = test_read(test_data(rows[i].file), &file.size);
        file.data = (const uint8_t *)bytes;
        EXPECT_INT(source_open_memory("m", &file, 1, &source, &err), 0);
        EXPECT_INT(tokenizer_open(source, NULL, 40000, NULL, &t, &err), 0);
        EXPECT_INT(tokenizer_mistral_version(t), rows[i].version);
        EXPECT_INT(tokenizer_vocab_size(t), 40000);
        tokenizer_close(t);
        source_close(source);
        free(bytes);
    }
}
