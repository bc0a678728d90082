/* inspect: the demo model and the golden checkpoints: what is told equals what they are, and the
 * pass has the ops, windows and norms of each architecture. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/inspect.h"
#include "server/cmd.h"
#include "tests/test.h"

/* Runs `sirocco inspect` with up to 6 arguments; what it wrote is the caller's. */
static char *run(const char *const *args, int expected, struct err *err)
{
    char *argv[8] = {strdup("inspect")}, *text = NULL;
    size_t size = 0;
    int n = 1;
    for (; args[n - 1]; n++)
        argv[n] = strdup(args[n - 1]);
    char *owned[8];
    memcpy(owned, argv, sizeof owned);
    FILE *out = open_memstream(&text, &size);
    EXPECT(out != NULL);
    *err = (struct err){0};
    EXPECT_INT(cmd_inspect(n, argv, NULL, out, err), expected);
    fclose(out);
    while (n)
        free(owned[--n]);
    return text;
}

static json_t *inspect(const char *model, const char *memory)
{
    const char *args[] = {model ? model : "--json", "--json", "--memory", memory, NULL};
    struct err err;
    char *text = run(args, 0, &err);
    if (err.text[0])
        printf("    %s\n", err.text);
    json_t *root = json_loads(text, 0, NULL);
    EXPECT(json_is_object(root));
    free(text);
    return root;
}

static json_t *golden(const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    return inspect(path, "1g");
}

static json_int_t number(const json_t *root, const char *object, const char *key)
{
    const json_t *value = json_object_get(object ? json_object_get(root, object) : root, key);
    if (!json_is_integer(value))
        printf("    %s %s is no integer\n", object ? object : "", key);
    EXPECT(json_is_integer(value));
    return json_integer_value(value);
}

/* "norm attn_norm|linear q k v|...": the ops of a list and their weights. */
static const char *ops_of(const json_t *ops)
{
    static char text[2048];
    const json_t *op, *name;
    size_t i, j;
    text[0] = '\0';
    json_array_foreach(ops, i, op) {
        strncat(text, i ? "|" : "", sizeof text - strlen(text) - 1);
        strncat(text, json_string_value(json_object_get(op, "op")),
                sizeof text - strlen(text) - 1);
        json_array_foreach(json_object_get(op, "weights"), j, name) {
            strncat(text, " ", sizeof text - strlen(text) - 1);
            strncat(text, json_string_value(name), sizeof text - strlen(text) - 1);
        }
    }
    return text;
}

static const json_t *layer_of(const json_t *root, size_t i)
{
    return json_array_get(json_object_get(json_object_get(root, "pass"), "layers"), i);
}

static size_t n_layer_groups(const json_t *root)
{
    return json_array_size(json_object_get(json_object_get(root, "pass"), "layers"));
}

static const char *note_of(const json_t *layer, const char *op)
{
    const json_t *o;
    size_t i;
    json_array_foreach(json_object_get(layer, "ops"), i, o) {
        if (!strcmp(json_string_value(json_object_get(o, "op")), op))
            return json_string_value(json_object_get(o, "note"));
    }
    return "";
}

TEST(inspect_tells_the_demo_model)
{
    json_t *root = inspect(NULL, "64m");
    EXPECT_STR(json_string_value(json_object_get(root, "arch")), "mistral");
    EXPECT_INT(number(root, NULL, "parameters"), 6819072);
    EXPECT_INT(number(root, NULL, "weight_bytes"), 2 * 6819072);
    EXPECT_INT(number(root, "shapes", "layers"), 6);
    EXPECT_INT(number(root, "shapes", "window"), 1024);
    EXPECT_INT(number(root, "memory", "memory_bytes"), 64 << 20);
    EXPECT_INT(number(root, "memory", "kv_bytes_per_token"), 6 * 2 * 2 * 64 * 2);
    /* a sequence of 4096 tokens needs its window and the blocks at its ends */
    json_int_t sequence = number(root, "memory", "kv_bytes_per_sequence");
    EXPECT(sequence >= 1024 * 3072 && sequence < 1100 * 3072);
    json_int_t left = (64 << 20) - number(root, NULL, "weight_bytes") -
                      number(root, "memory", "workspace_bytes");
    EXPECT_INT(number(root, "memory", "sequences"), left / sequence);
    EXPECT_INT(number(root, "tokenizer", "tokens"), 4096);
    EXPECT_INT(number(root, "tokenizer", "n_special"), 10);
    json_t *bos = json_object_get(json_object_get(root, "tokenizer"), "bos");
    EXPECT_INT(number(bos, NULL, "id"), 1);
    EXPECT_STR(json_string_value(json_object_get(bos, "text")), "<s>");
    json_t *eos = json_object_get(json_object_get(root, "tokenizer"), "eos");
    EXPECT_INT(json_array_size(eos), 1);
    EXPECT_INT(number(json_array_get(eos, 0), NULL, "id"), 2);
    EXPECT_STR(json_string_value(json_object_get(json_object_get(root, "chat"), "by")),
               "template");
    json_decref(root);
}

/* Groups of tensors hold every tensor once. */
TEST(inspect_counts_every_tensor)
{
    json_t *root = golden("mixtral");
    const json_t *group;
    json_int_t parameters = 0, bytes = 0;
    size_t i, experts = 0;
    json_array_foreach(json_object_get(root, "tensors"), i, group) {
        parameters += number(group, NULL, "parameters");
        bytes += number(group, NULL, "bytes");
        if (strstr(json_string_value(json_object_get(group, "names")), ".experts.*.w1"))
            experts += (size_t)number(group, NULL, "count");
    }
    EXPECT_INT(parameters, number(root, NULL, "parameters"));
    EXPECT_INT(bytes, number(root, NULL, "weight_bytes"));
    EXPECT_INT(experts, number(root, "shapes", "layers") * number(root, "shapes", "experts"));
    json_decref(root);
}

TEST(inspect_resolves_the_pass)
{
    json_t *root = inspect(NULL, "64m");
    const json_t *pass = json_object_get(root, "pass");
    EXPECT_STR(ops_of(json_object_get(pass, "before")), "embed embed|rope_table");
    EXPECT_INT(n_layer_groups(root), 1);
    EXPECT_INT(number(layer_of(root, 0), NULL, "first"), 0);
    EXPECT_INT(number(layer_of(root, 0), NULL, "last"), 5);
    EXPECT_STR(ops_of(json_object_get(layer_of(root, 0), "ops")),
               "norm attn_norm|linear q k v|rope_store|attention|linear o|norm ffn_norm|"
               "linear gate up|act_mul|linear down");
    EXPECT_STR(ops_of(json_object_get(pass, "after")), "gather|norm final_norm|linear head|pick");
    EXPECT(strstr(note_of(layer_of(root, 0), "attention"), "a window of 1024") != NULL);
    json_decref(root);

    root = golden("mixtral");
    EXPECT_STR(ops_of(json_object_get(layer_of(root, 0), "ops")),
               "norm attn_norm|linear q k v|rope_store|attention|linear o|norm ffn_norm|"
               "moe router expert_gate expert_up expert_down");
    json_decref(root);

    root = golden("qwen3");
    EXPECT_STR(ops_of(json_object_get(layer_of(root, 0), "ops")),
               "norm attn_norm|linear q k v|norm q_norm|norm k_norm|rope_store|attention|linear o|"
               "norm ffn_norm|linear gate up|act_mul|linear down");
    json_decref(root);
}

/* Gemma 3: windowed layers and layers that see everything are told apart. */
TEST(inspect_tells_layers_apart)
{
    json_t *root = golden("gemma3");
    EXPECT(n_layer_groups(root) >= 2);
    EXPECT(strstr(note_of(layer_of(root, 0), "attention"), "a window of") != NULL);
    EXPECT(strstr(note_of(layer_of(root, 1), "attention"), "sees everything") != NULL);
    EXPECT_INT(number(layer_of(root, 1), NULL, "first"),
               number(layer_of(root, 0), NULL, "last") + 1);
    EXPECT_STR(ops_of(json_object_get(layer_of(root, 0), "ops")),
               "norm attn_norm|linear q k v|norm q_norm|norm k_norm|rope_store|attention|linear o|"
               "norm post_attn_norm|norm ffn_norm|linear gate up|act_mul|linear down|"
               "norm post_ffn_norm");
    json_decref(root);
}

/* A checkpoint without a tokenizer is inspected all the same; every row of the table has one. */
TEST(inspect_reads_every_golden_model)
{
    static const char *const names[] = {"codestral", "gemma2", "llama-tied", "llama3-rope",
                                        "ministral", "ministral3-native", "mistral-sharded",
                                        "mistral3", "mixtral-8x22b-native", "qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *root = golden(names[i]);
        const json_t *tokenizer = json_object_get(root, "tokenizer");
        EXPECT(json_object_get(tokenizer, "error") || json_object_get(tokenizer, "kind"));
        EXPECT(number(root, "memory", "sequences") > 0);
        EXPECT(json_array_size(json_object_get(layer_of(root, 0), "ops")) >= 6);
        json_decref(root);
    }
}

TEST(inspect_shows_a_table)
{
    const char *args[] = {"--memory", "24g", "--max-model-len=100", NULL};
    struct err err;
    char *text = run(args, 0, &err);
    static const char *const expected[] = {
        "sirocco-demo: mistral, safetensors, 6.8 million parameters, 13.0 MiB of weights",
        "layers 6 dim 256 heads 4", "model.layers.*.mlp.up_proj.weight", "6 of 768 x 256",
        "100 tokens, F16, 3072 bytes per token", "24576.0 MiB", "<s> (1)", "by template",
        "layers 0 to 5, each", "linear     q 256 x 256 BF16, k 128 x 256 BF16"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (!strstr(text, expected[i]))
            printf("    without \"%s\":\n%s", expected[i], text);
        EXPECT(strstr(text, expected[i]) != NULL);
    }
    free(text);
}

TEST(inspect_refuses_by_name)
{
    static const struct {
        const char *args[4];
        int code;
        const char *text;
    } cases[] = {
        {{"/nonexistent"}, ERR_IO, "/nonexistent: No such file"},
        {{"--memory", "0"}, ERR_USAGE, "--memory needs bytes"},
        {{"--memory", "5x"}, ERR_USAGE, "--memory needs bytes"},
        {{"--memory", "9999999999t"}, ERR_USAGE, "--memory needs bytes"},
        {{"--max-model-len", "8192"}, ERR_USAGE, "the model was made for 4096 tokens"},
        {{"--max-batch-tokens", "0"}, ERR_USAGE, "--max-batch-tokens needs a number"},
        {{"--kv-cache-type", "q4_k"}, ERR_USAGE, "KV cache of type Q4_K"},
        {{"--kv-cache-type", "f17"}, ERR_USAGE, "'f17' is no storage format"},
        {{"--unknown"}, ERR_USAGE, "unknown option '--unknown'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err;
        char *text = run(cases[i].args, cases[i].code, &err);
        if (!strstr(err.text, cases[i].text))
            printf("    wanted \"%s\", got %s\n", cases[i].text, err.text);
        EXPECT(strstr(err.text, cases[i].text) != NULL);
        EXPECT_STR(text, "");
        free(text);
    }
}
