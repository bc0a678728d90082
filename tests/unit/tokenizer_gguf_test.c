/* GGUF vocabularies: small files written key by key, and every rule of the reader against a file
 * that breaks it. */
#include "engine/tokenizer/vocab.h"
#include "tests/unit/tokenizer_rig.h"

static void u32(struct buf *out, uint32_t value)
{
    buf_add(out, &value, sizeof value);
}

static void u64(struct buf *out, uint64_t value)
{
    buf_add(out, &value, sizeof value);
}

static void text(struct buf *out, const char *s)
{
    u64(out, strlen(s));
    buf_text(out, s);
}

/* One key of a file: a text, an integer, or an array of n texts, floats or integers. */
struct key {
    const char *name;
    enum gguf_type type;
    const char *string;
    uint32_t value;
    int n; /* -1: a scalar */
    const char *const *strings;
    const float *floats;
    const int32_t *ints;
};

static void put_key(struct buf *out, const struct key *k)
{
    text(out, k->name);
    if (k->n < 0) {
        u32(out, (uint32_t)k->type);
        if (k->type == GGUF_STRING)
            text(out, k->string);
        else
            u32(out, k->value);
        return;
    }
    u32(out, GGUF_ARRAY);
    u32(out, (uint32_t)k->type);
    u64(out, (uint64_t)k->n);
    for (int i = 0; i < k->n; i++) {
        if (k->type == GGUF_STRING)
            text(out, k->strings[i]);
        else if (k->type == GGUF_F32)
            buf_add(out, &k->floats[i], 4);
        else
            buf_add(out, &k->ints[i], 4);
    }
}

static const char *const texts[] = {"<unk>",
                                    "<s>",
                                    "</s>",
                                    "\xE2\x96\x81",
                                    "a",
                                    "b",
                                    "ab",
                                    "\xE2\x96\x81"
                                    "a"};
static const float scores[] = {0, 0, 0, -1, -2, -3, -4, -5};
static const int32_t types[] = {2, 3, 3, 1, 1, 1, 1, 1};
static const struct key base[] = {
    {.name = "tokenizer.ggml.model", .type = GGUF_STRING, .string = "llama", .n = -1},
    {.name = "tokenizer.ggml.tokens", .type = GGUF_STRING, .n = 8, .strings = texts},
    {.name = "tokenizer.ggml.scores", .type = GGUF_F32, .n = 8, .floats = scores},
    {.name = "tokenizer.ggml.token_type", .type = GGUF_I32, .n = 8, .ints = types},
};
enum { N_BASE = 4, N_EXTRA = 8 };

/* The base file with its keys of the same name replaced and the others added; a key without a
 * type and n 0 takes the key away. */
static struct tokenizer *open_changed(const struct key extra[N_EXTRA], struct err *err)
{
    struct buf keys, file;
    uint64_t n = 0;
    buf_init(&keys, 0);
    buf_init(&file, 0);
    for (int i = 0; i < N_BASE; i++) {
        const struct key *k = &base[i];
        for (int j = 0; j < N_EXTRA; j++)
            if (extra[j].name && !strcmp(extra[j].name, k->name))
                k = NULL, j = N_EXTRA;
        if (k) {
            put_key(&keys, k);
            n++;
        }
    }
    for (int j = 0; j < N_EXTRA; j++) {
        if (!extra[j].name || (!extra[j].type && !extra[j].n))
            continue;
        put_key(&keys, &extra[j]);
        n++;
    }
    buf_text(&file, "GGUF");
    u32(&file, 3);
    u64(&file, 0);
    u64(&file, n);
    buf_add(&file, keys.data, keys.size);
    while (file.size % 32)
        buf_byte(&file, 0);
    struct source_file one = {"v.gguf", (const uint8_t *)file.data, file.size};
    struct tokenizer *t = rig_open_memory(&one, 1, 0, err);
    buf_free(&keys);
    buf_free(&file);
    return t;
}

static void expect_ids(const struct key *extra, const char *s, bool special, const char *ids)
{
    struct err err = {0};
    char got[256] = "";
    struct tokenizer *t = open_changed(extra, &err);
    if (!t)
        fprintf(stderr, "%s\n", err.text);
    EXPECT(t != NULL);
    struct token_list list = rig_encode(t, s, strlen(s), special, true);
    for (size_t i = 0, n = 0; i < list.n && n < sizeof got; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%d", i ? " " : "", list.ids[i]);
    EXPECT_STR(got, ids);
    token_list_free(&list);
    tokenizer_close(t);
}

TEST(scores_order_the_merges)
{
    static const float other[] = {0, 0, 0, -1, -2, -3, -6, -5};
    expect_ids((struct key[N_EXTRA]){{0}}, "ab", true, "1 3 6");
    expect_ids(
        (struct key[N_EXTRA]){{.name = base[2].name, .type = GGUF_F32, .n = 8, .floats = other}},
        "ab", true, "1 7 5");
}

TEST(bos_eos_and_the_prefix_follow_their_keys)
{
#define FLAG(key, on) {.name = "tokenizer.ggml." key, .type = GGUF_U32, .n = -1, .value = on}
    expect_ids((struct key[N_EXTRA]){FLAG("add_bos_token", 0)}, "a", true, "7");
    expect_ids((struct key[N_EXTRA]){FLAG("add_eos_token", 1)}, "a", true, "1 7 2");
    expect_ids((struct key[N_EXTRA]){FLAG("bos_token_id", 2), FLAG("eos_token_id", 1),
                                     FLAG("add_eos_token", 1)},
               "a", true, "2 7 1");
    expect_ids((struct key[N_EXTRA]){FLAG("add_space_prefix", 0)}, "a b", true, "1 4 3 5");
    expect_ids((struct key[N_EXTRA]){FLAG("unknown_token_id", 2)}, "az", false, "7 2");
    expect_ids((struct key[N_EXTRA]){{0}}, "a<s> a<s>a", false, "7 1 7 1 7");
}

/* A gpt2 vocabulary: "\xC4\xA0" is the space of the byte alphabet. */
static const char *const byte_texts[] = {"a",
                                         "b",
                                         "ab",
                                         "\xC4\xA0",
                                         "\xC4\xA0"
                                         "a",
                                         "<s>",
                                         "1",
                                         "12"};
static const int32_t byte_types[] = {1, 1, 1, 1, 1, 3, 1, 1};
static const char *const byte_merges[] = {"a b", "\xC4\xA0 a", "1 2x"};
#define GPT2_KEYS(n_merges)                                                                        \
    {.name = "tokenizer.ggml.model", .type = GGUF_STRING, .string = "gpt2", .n = -1},              \
        {.name = "tokenizer.ggml.tokens", .type = GGUF_STRING, .n = 8, .strings = byte_texts},     \
        {.name = "tokenizer.ggml.token_type", .type = GGUF_I32, .n = 8, .ints = byte_types},       \
        {.name = "tokenizer.ggml.merges",                                                          \
         .type = GGUF_STRING,                                                                      \
         .n = n_merges,                                                                            \
         .strings = byte_merges},                                                                  \
    {                                                                                              \
        .name = "tokenizer.ggml.scores"                                                            \
    }

TEST(a_gpt2_vocabulary_merges_bytes)
{
    expect_ids((struct key[N_EXTRA]){GPT2_KEYS(2)}, "ab a b<s>a", false, "2 4 3 1 5 0");
    expect_ids(
        (struct key[N_EXTRA]){
            GPT2_KEYS(2),
            {.name = "tokenizer.ggml.pre", .type = GGUF_STRING, .string = "llama-bpe", .n = -1},
            FLAG("bos_token_id", 5)},
        "12", true, "5 7"); /* a whole word though no merge makes it, and BOS in front */
    expect_ids(
        (struct key[N_EXTRA]){
            GPT2_KEYS(2),
            {.name = "tokenizer.ggml.pre", .type = GGUF_STRING, .string = "gpt-2", .n = -1},
            FLAG("bos_token_id", 5)},
        "a", true, "0");
}

TEST(broken_gpt2_vocabularies_are_refused)
{
    static const char *const not_texts[] = {"a b", "x"};
    const struct {
        struct key extra[N_EXTRA];
        const char *reason;
    } rows[] = {
        {{GPT2_KEYS(3)}, "tokenizer.ggml.merges[2]: '1 2x' does not make a token"},
        {{GPT2_KEYS(2),
          {.name = "tokenizer.ggml.pre", .type = GGUF_STRING, .string = "new", .n = -1}},
         "tokenizer.ggml.pre 'new' is not supported"},
        {{GPT2_KEYS(2), {.name = "tokenizer.ggml.pre", .type = GGUF_U32, .n = -1}},
         "tokenizer.ggml.pre"},
        {{GPT2_KEYS(2), FLAG("bos_token_id", 8)}, "tokenizer.ggml.bos_token_id"},
        {{{.name = "tokenizer.ggml.model", .type = GGUF_STRING, .string = "gpt2", .n = -1}},
         "tokenizer.ggml.merges is missing"},
        {{{.name = "tokenizer.ggml.model", .type = GGUF_STRING, .string = "gpt2", .n = -1},
          {.name = "tokenizer.ggml.merges", .type = GGUF_STRING, .n = 2, .strings = not_texts}},
         "tokenizer.ggml.merges[1]: 'x' does not make a token"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        struct tokenizer *t = open_changed(rows[i].extra, &err);
        if (t || !strstr(err.text, rows[i].reason))
            fprintf(stderr, "%zu (%s): %s\n", i, rows[i].reason, t ? "accepted" : err.text);
        EXPECT(!t && strstr(err.text, rows[i].reason));
    }
}

/* Every name that GGUF files use for the families served here. */
TEST(pre_tokenizer_names_are_known)
{
    static const char *const names[] = {"default",      "gpt-2",
                                        "llama-bpe",    "qwen2",
                                        "tekken",       "smollm",
                                        "starcoder",    "falcon",
                                        "deepseek-llm", "deepseek-coder",
                                        "deepseek-v3",  "gpt-4o",
                                        "command-r",    "deepseek-r1-qwen",
                                        "mpt",          "refact",
                                        "bloom",        "llama4"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct key extra[N_EXTRA] = {
            GPT2_KEYS(2),
            {.name = "tokenizer.ggml.pre", .type = GGUF_STRING, .string = names[i], .n = -1}};
        struct err err = {0};
        struct tokenizer *t = open_changed(extra, &err);
        if (!t)
            fprintf(stderr, "%s: %s\n", names[i], err.text);
        EXPECT(t != NULL);
        tokenizer_close(t);
    }
}

TEST(every_rule_of_the_reader_refuses_what_breaks_it)
{
    static const int32_t bad_types[] = {2, 3, 3, 1, 9, 1, 1, 1}, zero[] = {2, 3, 0, 1, 1, 1, 1, 1};
    static const int32_t byte_type[] = {2, 3, 3, 1, 6, 1, 1, 1};
    static const char *const twice[] = {"<unk>", "<s>", "</s>", "x", "a", "b", "ab", "a"};
    static const char *const empty[] = {"<unk>", "<s>", "</s>", "x", "a", "b", "", "y"};
    float infinite[8] = {0, 1e38f * 10};
    const struct {
        struct key extra[N_EXTRA];
        const char *reason;
    } rows[] = {
        {{{.name = base[0].name}}, "tokenizer.ggml.model is missing"},
        {{{.name = base[0].name, .type = GGUF_STRING, .string = "bert", .n = -1}},
         "tokenizer.ggml.model 'bert' is not supported"},
        {{{.name = base[0].name, .type = GGUF_U32, .n = -1}}, "tokenizer.ggml.model"},
        {{{.name = base[1].name}}, "tokenizer.ggml.tokens is missing"},
        {{{.name = base[1].name, .type = GGUF_I32, .n = 8, .ints = types}},
         "not an array of strings"},
        {{{.name = base[1].name, .type = GGUF_STRING, .n = 8, .strings = twice}},
         "'a' is the text of ids 4 and 7"},
        {{{.name = base[1].name, .type = GGUF_STRING, .n = 8, .strings = empty}},
         "the text of id 6 has 0 bytes"},
        {{{.name = base[2].name}}, "tokenizer.ggml.scores is missing"},
        {{{.name = base[2].name, .type = GGUF_F32, .n = 7, .floats = scores}},
         "tokenizer.ggml.scores has 7 elements, tokenizer.ggml.tokens has 8"},
        {{{.name = base[2].name, .type = GGUF_I32, .n = 8, .ints = types}},
         "tokenizer.ggml.scores is not an array of the right type"},
        {{{.name = base[2].name, .type = GGUF_F32, .n = 8, .floats = infinite}},
         "tokenizer.ggml.scores[1] is not finite"},
        {{{.name = base[3].name, .type = GGUF_I32, .n = 8, .ints = bad_types}},
         "tokenizer.ggml.token_type[4] is 9"},
        {{{.name = base[3].name, .type = GGUF_I32, .n = 8, .ints = zero}},
         "tokenizer.ggml.token_type[2] is 0"},
        {{{.name = base[3].name, .type = GGUF_I32, .n = 8, .ints = byte_type}},
         "'a' (id 4) is not a byte token"},
        {{{.name = base[3].name, .type = GGUF_I32, .n = 5, .ints = types}},
         "tokenizer.ggml.token_type has 5 elements"},
        {{FLAG("bos_token_id", 8)}, "tokenizer.ggml.bos_token_id"},
        {{FLAG("eos_token_id", 4000000000u)}, "tokenizer.ggml.eos_token_id"},
        {{FLAG("unknown_token_id", 99)}, "tokenizer.ggml.unknown_token_id"},
        {{FLAG("add_bos_token", 2)}, "tokenizer.ggml.add_bos_token"},
        {{FLAG("add_space_prefix", 7)}, "tokenizer.ggml.add_space_prefix"},
    };
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        struct tokenizer *t = open_changed(rows[i].extra, &err);
        if (t || !strstr(err.text, rows[i].reason)) {
            fprintf(stderr, "%zu (%s): %s\n", i, rows[i].reason, t ? "accepted" : err.text);
            wrong++;
        }
        tokenizer_close(t);
    }
    EXPECT_INT(wrong, 0);
}
