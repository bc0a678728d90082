/* Mistral's encoding against the gold sequences of mistral-common: every request of the reference
 * files, ids equal, refusals with the same exception and words. */
#include "engine/template/mistral.h"
#include "tests/unit/tokenizer_rig.h"

#define GOLD "chat-templates/mistral-common-gold/"
#define SPM "tokenizers/mistral-spm/"

static json_t *load(const char *relative)
{
    const char *path = test_data(relative);
    size_t size = 0;
    char *text = path ? rig_read(path, &size) : NULL;
    json_t *json = text ? json_loadb(text, size, JSON_ALLOW_NUL, NULL) : NULL;
    free(text);
    return json;
}

/* tekken.json of a version: version 3's with the overlay's members put over it. */
static struct tokenizer *open_tekken(const json_t *base, int version)
{
    char name[80];
    snprintf(name, sizeof name, "tokenizers/tekken/overlays/tekken_v%d.overlay.json", version);
    json_t *whole = json_copy((json_t *)base), *overlay = version == 3 ? NULL : load(name);
    json_t *config = json_copy(json_object_get(base, "config"));
    EXPECT(version == 3 || overlay != NULL);
    json_object_update(config, json_object_get(overlay, "config"));
    json_object_update(whole, overlay);
    json_object_set_new(whole, "config", config);
    char *text = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    json_decref(overlay);
    struct source_file file = {"tekken.json", (const uint8_t *)text, strlen(text)};
    struct err err = {0};
    struct tokenizer *t = rig_open_memory(&file, 1, 0, &err);
    if (!t)
        EXPECT_STR(err.text, "");
    EXPECT_INT(tokenizer_mistral_version(t), version);
    free(text);
    return t;
}

static int encode(const struct tokenizer *t, int version, const json_t *row,
                  struct token_list *ids, const char **kind, struct err *err)
{
    const char *mode = json_string_value(json_object_get(row, "mode"));
    const json_t *request = json_object_get(row, "request");
    const json_t *prompt = json_object_get(request, "prompt");
    const json_t *suffix = json_object_get(request, "suffix");
    if (strcmp(mode, "fim") != 0)
        return mistral_encode_chat(t, version,
                                   strcmp(mode, "serving") == 0      ? MISTRAL_SERVING
                                   : strcmp(mode, "finetuning") == 0 ? MISTRAL_FINETUNING
                                                                     : MISTRAL_TEST,
                                   request, ids, kind, err);
    return mistral_encode_fim(t, version, json_string_value(prompt), json_string_length(prompt),
                              json_string_value(suffix), json_string_length(suffix), ids, kind,
                              err);
}

/* Two of the library's messages say in our words what a version of the format lacks. */
static const char *own_words(const char *message)
{
    if (!strcmp(message, "Think not implemented for tokenizer < V13."))
        return "thinking needs tokenizer V13 or later";
    if (!strcmp(message, "Tools not implemented for tokenizer V1"))
        return "tokenizer V1 has no tools";
    return message;
}

static int agrees(const struct tokenizer *t, int version, const json_t *row)
{
    const json_t *expected = json_object_get(row, "token_ids");
    struct token_list ids = {0};
    const char *kind = NULL;
    struct err err = {0};
    int code = encode(t, version, row, &ids, &kind, &err), same;
    if (expected) {
        same = !code && ids.n == json_array_size(expected);
        for (size_t i = 0; same && i < ids.n; i++)
            same = ids.ids[i] == json_integer_value(json_array_get(expected, i));
    } else {
        same = code == ERR_VALUE && kind &&
               !strcmp(kind, json_string_value(json_object_get(row, "error"))) &&
               !strcmp(err.text, own_words(json_string_value(json_object_get(row, "message"))));
    }
    if (!same)
        fprintf(stderr, "differs: v%d %s: %s %s\n", version,
                json_string_value(json_object_get(row, "name")), kind ? kind : "", err.text);
    token_list_free(&ids);
    return same;
}

static void expect_gold(const struct tokenizer *t, int version, const char *relative)
{
    FILE *lines = fopen(test_data(relative), "r");
    char *line = NULL;
    size_t capacity = 0;
    int seen = 0, wrong = 0;
    EXPECT(lines != NULL);
    while (getline(&line, &capacity, lines) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        seen++;
        wrong += !agrees(t, version, row);
        json_decref(row);
    }
    free(line);
    fclose(lines);
    EXPECT(seen >= 50);
    EXPECT_INT(wrong, 0);
}

static void expect_spm(int version, const char *model, const char *gold)
{
    char as[40];
    snprintf(as, sizeof as, "tokenizer.model.v%d", version);
    struct tokenizer *t = rig_open_data(model, as);
    if (!t || !test_data(gold))
        SKIP("SIROCCO_TEST_DATA has no mistral-spm or mistral-common-gold");
    EXPECT_INT(tokenizer_mistral_version(t), version);
    expect_gold(t, version, gold);
    tokenizer_close(t);
}

TEST(gold_of_version_1)
{
    expect_spm(1, SPM "tokenizer.model.v1", GOLD "spm_v1.jsonl");
}

TEST(gold_of_version_2)
{
    expect_spm(2, SPM "mistral_instruct_tokenizer_240216.model.v2", GOLD "spm_v2.jsonl");
}

TEST(gold_of_version_3)
{
    expect_spm(3, SPM "mistral_instruct_tokenizer_240323.model.v3", GOLD "spm_v3.jsonl");
}

TEST(gold_of_version_7)
{
    expect_spm(7, SPM "mistral_instruct_tokenizer_241114.model.v7", GOLD "spm_v7.jsonl");
}

TEST_SECONDS(gold_of_tekken, 120)
{
    static const int versions[] = {3, 7, 11, 13, 15};
    json_t *base = load("tokenizers/tekken/tekken_v3.json.gz");
    if (!base || !test_data(GOLD "tekken_v3.jsonl"))
        SKIP("SIROCCO_TEST_DATA has no tekken or mistral-common-gold");
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        struct tokenizer *t = open_tekken(base, versions[i]);
        char gold[80];
        snprintf(gold, sizeof gold, GOLD "tekken_v%d.jsonl", versions[i]);
        expect_gold(t, versions[i], gold);
        tokenizer_close(t);
    }
    json_decref(base);
}
