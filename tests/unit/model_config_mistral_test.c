/* model_config_mistral: what params.json may say, and how each mistake is reported; which files
 * make a folder one of Mistral's own. Models are the golden ones with single values changed. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "tests/test.h"

struct opened {
    struct source *disk, *source; /* the folder, and what the model is opened from */
    struct model *m;
    char *params;
};

/* Golden model `name` with keys of params.json set to JSON texts (NULL: removed). */
static int open_with(struct opened *o, const char *name, const char *const *pairs, struct err *err)
{
    char path[1200];
    struct source_file files[8];
    size_t n = 0;
    *o = (struct opened){0};
    snprintf(path, sizeof path, "%s/%s", test_path("tests/golden/models"), name);
    EXPECT_INT(source_open(path, &o->disk, err), 0);
    const struct source_file *params = source_find(o->disk, "params.json");
    json_t *root = json_loadb((const char *)params->data, params->size, 0, NULL);
    EXPECT(json_is_object(root));
    for (; pairs && pairs[0]; pairs += 2) {
        json_t *value = pairs[1] ? json_loads(pairs[1], JSON_DECODE_ANY, NULL) : NULL;
        EXPECT(value != NULL || !pairs[1]);
        if (value)
            json_object_set_new(root, pairs[0], value);
        else
            json_object_del(root, pairs[0]);
    }
    o->params = json_dumps(root, 0);
    json_decref(root);
    EXPECT(o->params != NULL && source_count(o->disk) <= 8);
    for (size_t i = 0; i < source_count(o->disk); i++)
        files[n++] = *source_at(o->disk, i);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(files[i].name, "params.json")) {
            files[i].data = (const uint8_t *)o->params;
            files[i].size = strlen(o->params);
        }
    EXPECT_INT(source_open_memory("t", files, n, &o->source, err), 0);
    return model_open(o->source, NULL, &o->m, err);
}

static void close_opened(struct opened *o)
{
    model_close(o->m);
    source_close(o->source);
    source_close(o->disk);
    free(o->params);
}

static struct opened accept_with(const char *name, const char *const *pairs)
{
    struct opened o;
    struct err err = {0};
    int rc = open_with(&o, name, pairs, &err);
    if (rc)
        printf("    %s: %s\n", err_name(rc), err.text);
    EXPECT_INT(rc, 0);
    return o;
}

static void refuse(const char *name, const char *key, const char *value, const char *text)
{
    struct opened o;
    struct err err = {0};
    int rc = open_with(&o, name, (const char *const[]){key, value, NULL}, &err);
    if (!rc || !strstr(err.text, text) || !strstr(err.text, "params.json"))
        printf("    %s = %s: wanted \"%s\", got %s: %s\n", key, value ? value : "(none)", text,
               err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(strstr(err.text, text) != NULL && strstr(err.text, "params.json") != NULL);
    close_opened(&o);
}

TEST(model_config_mistral_reads_the_shape)
{
    struct opened o = accept_with("mistral-native", NULL);
    struct model *m = o.m;
    EXPECT_STR(m->arch->name, "mistral");
    EXPECT(m->n_layers == 3 && m->dim == 64 && m->n_heads == 4 && m->n_kv_heads == 2);
    EXPECT(m->head_dim == 16 && m->ffn == 160 && m->vocab == 288);
    EXPECT(m->rope_interleaved && m->bos == -1 && m->n_eos == 0);
    EXPECT(m->head.data != m->embed.data);
    /* not stated: a plain window means the first model's base, and no context is the standard */
    EXPECT(m->window_max == 32 && m->context_length == 128000);
    EXPECT_NEAR(m->ropes[0].inv_freq[4], 0.01, 1e-9);
    close_opened(&o);
    o = accept_with("mistral-native", (const char *const[]){"sliding_window", NULL, NULL});
    EXPECT(o.m->window_max == 0 && o.m->layers[0].window == 0);
    EXPECT_NEAR(o.m->ropes[0].inv_freq[4], 0.001, 1e-10);
    close_opened(&o);
    o = accept_with("mistral-native", (const char *const[]){"max_seq_len", "77", "head_dim", NULL,
                                                            "rope_theta", "16", NULL});
    EXPECT(o.m->context_length == 77 && o.m->head_dim == 16);
    EXPECT_NEAR(o.m->ropes[0].inv_freq[4], 0.25, 1e-7);
    close_opened(&o);
    o = accept_with("mistral-native",
                    (const char *const[]){"max_seq_len", "77", "max_position_embeddings", "99",
                                          NULL});
    EXPECT_INT(o.m->context_length, 99);
    close_opened(&o);
}

TEST(model_config_mistral_windows)
{
    static const int want[4] = {0, 16, 16, 16};
    struct opened o = accept_with("ministral-native", NULL);
    for (int i = 0; i < 4; i++)
        EXPECT_INT(o.m->layers[i].window, want[i]);
    EXPECT_INT(o.m->window_max, 0);
    close_opened(&o);
    o = accept_with("ministral-native", (const char *const[]){"_sliding_window", "[8, null]", NULL});
    for (int i = 0; i < 4; i++)
        EXPECT_INT(o.m->layers[i].window, i % 2 ? 0 : 8);
    close_opened(&o);
    o = accept_with("ministral-native", (const char *const[]){"_sliding_window", "24", NULL});
    EXPECT_INT(o.m->window_max, 24);
    close_opened(&o);
    refuse("ministral-native", "_sliding_window", "[16, null, 16]", "divides n_layers");
    refuse("ministral-native", "_sliding_window", "[]", "divides n_layers");
    refuse("ministral-native", "_sliding_window", "[16, 32]", "different windows");
    refuse("ministral-native", "_sliding_window", "[16, \"x\"]", "neither null nor a positive");
    refuse("ministral-native", "_sliding_window", "[16, 0]", "neither null nor a positive");
    refuse("ministral-native", "_sliding_window", "0", "_sliding_window is 0");
    refuse("ministral-native", "_sliding_window", "\"16\"", "_sliding_window is no integer");
    refuse("ministral-native", "sliding_window", "16", "_sliding_window are both there");
}

TEST(model_config_mistral_experts)
{
    struct opened o = accept_with("mixtral-8x22b-native", NULL);
    EXPECT_STR(o.m->arch->name, "mixtral");
    EXPECT(o.m->n_experts == 8 && o.m->n_experts_used == 2 && o.m->n_heads == 6);
    close_opened(&o);
    refuse("mixtral-8x22b-native", "moe", "{\"num_experts\":8}", "0 experts used of 8");
    refuse("mixtral-8x22b-native", "moe", "{\"num_experts\":8,\"num_experts_per_tok\":9}",
           "9 experts used of 8");
    refuse("mixtral-8x22b-native", "moe", "{\"num_experts\":-1}", "moe: num_experts is -1");
    refuse("mixtral-8x22b-native", "moe", "[]", "moe is no object");
    refuse("mixtral-8x22b-native", "moe",
           "{\"num_experts\":8,\"num_experts_per_tok\":2,\"num_shared_experts\":1}",
           "moe: num_shared_experts is not supported");
    refuse("mixtral-8x22b-native", "moe",
           "{\"num_experts\":8,\"num_experts_per_tok\":2,\"expert_hidden_dim\":8}",
           "moe: expert_hidden_dim is not supported");
    o = accept_with("mixtral-8x22b-native",
                    (const char *const[]){"moe", "{\"num_experts\":8,\"num_experts_per_tok\":3,"
                                                 "\"first_k_dense_replace\":0,\"route_every_n\":1,"
                                                 "\"routed_scale\":1.0,\"expert_hidden_dim\":16}",
                                          NULL});
    EXPECT_INT(o.m->n_experts_used, 3);
    close_opened(&o);
}

TEST(model_config_mistral_yarn)
{
    struct opened o = accept_with("ministral3-native", NULL);
    EXPECT_STR(o.m->arch->name, "ministral3");
    EXPECT_NEAR(o.m->ropes[0].mscale, 1, 0);
    EXPECT_INT(o.m->context_length, 256);
    EXPECT_INT(o.m->query_scale_from, 16);
    EXPECT_NEAR(o.m->query_scale_beta, 0.1, 1e-7);
    EXPECT(o.m->head.data == o.m->embed.data);
    close_opened(&o);
    o = accept_with("mistral-yarn-native", NULL);
    EXPECT_NEAR(o.m->ropes[0].mscale, 1.138629436, 1e-6); /* 0.1 ln 4 + 1 */
    EXPECT_NEAR(o.m->ropes[0].inv_freq[0], 1, 1e-7);
    EXPECT_NEAR(o.m->ropes[0].inv_freq[7], 0.25 * 0.000316227766, 1e-10);
    EXPECT_INT(o.m->context_length, 128000);
    close_opened(&o);
    refuse("mistral-yarn-native", "yarn", "5", "yarn is no object");
    refuse("mistral-yarn-native", "yarn", "{\"factor\":4}", "yarn: factor or original");
    refuse("mistral-yarn-native", "yarn", "{\"factor\":0}", "yarn: factor is 0");
    refuse("mistral-yarn-native", "yarn",
           "{\"factor\":4,\"original_max_position_embeddings\":64,\"beta\":1,\"alpha\":1}",
           "beta <= alpha");
    refuse("mistral-yarn-native", "yarn",
           "{\"factor\":4,\"original_max_position_embeddings\":64,\"apply_scale\":1}",
           "yarn: apply_scale is no boolean");
    refuse("mistral-yarn-native", "rope_theta", "1", "yarn needs one above 1");
    refuse("ministral3-native", "llama_4_scaling", "{\"beta\":0.1}",
           "llama_4_scaling: original_max_position_embeddings is missing");
}

/* The text model of one that sees images. */
TEST(model_config_mistral_leaves_images_out)
{
    struct opened o = accept_with("mistral3-native", NULL);
    EXPECT(o.m->dim == 40 && o.m->n_heads * o.m->head_dim == 32);
    EXPECT_INT(o.m->n_parameters, 2 * 96 * 40 + 40 + 2 * (2 * 40 + 2 * 40 * 32 + 2 * 40 * 16 +
                                                          3 * 40 * 48));
    close_opened(&o);
    struct err err = {0};
    int rc = open_with(&o, "mistral3-native", (const char *const[]){"vision_encoder", NULL, NULL},
                       &err);
    EXPECT_INT(rc, ERR_FORMAT); /* without one the tensors of it are left over */
    EXPECT(strstr(err.text, "is not part of a mistral model") != NULL);
    close_opened(&o);
    refuse("mistral3-native", "vision_encoder", "true", "vision_encoder is no object");
}

TEST(model_config_mistral_refuses)
{
    static const char *const cases[][3] = {
        {"dim", NULL, "dim is missing"},
        {"dim", "\"64\"", "dim is no integer"},
        {"dim", "64.5", "dim is no integer"},
        {"dim", "9999999", "dim is 9999999, not 1..1048576"},
        {"n_layers", "0", "n_layers is 0"},
        {"n_layers", NULL, "n_layers is missing"},
        {"n_heads", "3", "3 attention heads do not divide among 2"},
        {"n_kv_heads", "-1", "n_kv_heads is -1"},
        {"hidden_dim", NULL, "hidden_dim is missing"},
        {"head_dim", "15", "head_dim 15 is not even"},
        {"norm_eps", NULL, "norm_eps is missing"},
        {"norm_eps", "-1e-5", "norm_eps is -1e-05"},
        {"vocab_size", NULL, "vocab_size is missing"},
        {"rope_theta", "0", "rope_theta is 0"},
        {"max_seq_len", "0", "max_seq_len is 0"},
        {"tied_embeddings", "1", "tied_embeddings is no boolean"},
        {"quantization", "{\"qformat_weight\":\"fp4_e2m1\"}",
         "quantization 'fp4_e2m1' is not supported"},
        {"quantization", "true", "quantization '' is not supported"},
        {"q_lora_rank", "1536", "q_lora_rank is not supported"},
        {"model_type", "\"mamba\"", "model_type 'mamba' is not supported"},
        {"causal", "false", "causal is false"},
        {"use_biases", "true", "use_biases is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse("mistral-native", cases[i][0], cases[i][1], cases[i][2]);
}

TEST(model_config_mistral_names_tensors)
{
    struct opened o;
    struct err err = {0};
    EXPECT_INT(open_with(&o, "mistral-native", (const char *const[]){"n_layers", "4", NULL}, &err),
               ERR_FORMAT);
    EXPECT(strstr(err.text, "tensor 'layers.3.attention_norm.weight' is missing") != NULL);
    close_opened(&o);
    EXPECT_INT(open_with(&o, "mistral-native", (const char *const[]){"hidden_dim", "161", NULL},
                         &err), ERR_FORMAT);
    EXPECT(strstr(err.text, "tensor 'layers.0.feed_forward.w1.weight' has the shape [160, 64], the "
                            "configuration needs [161, 64]") != NULL);
    close_opened(&o);
}

/* ---- which layout a folder has, and which files hold its weights */

static bool is_mistral(const char *const *names)
{
    static const uint8_t bytes[] = "{}";
    struct source_file files[8];
    struct source *s;
    size_t n = 0;
    for (; names[n]; n++)
        files[n] = (struct source_file){.name = names[n], .data = bytes, .size = 2};
    EXPECT_INT(source_open_memory("t", files, n, &s, NULL), 0);
    bool answer = source_is_mistral(s);
    source_close(s);
    return answer;
}

#define FILES(...) ((const char *const[]){__VA_ARGS__, NULL})
TEST(model_config_mistral_is_chosen)
{
    EXPECT(is_mistral(FILES("params.json", "consolidated.safetensors")));
    EXPECT(!is_mistral(FILES("config.json", "model.safetensors")));
    EXPECT(!is_mistral(FILES("params.json", "config.json", "model.safetensors")));
    EXPECT(!is_mistral(FILES("params.json", "config.json", "model.safetensors.index.json",
                             "consolidated.safetensors")));
    /* config.json came along without its weights */
    EXPECT(is_mistral(FILES("params.json", "config.json", "consolidated.safetensors")));
    EXPECT(!is_mistral(FILES("model.gguf")));
}

/* The parts' contents do not matter to which of them are asked for: an empty header each. */
static void open_parts(const char *const *names, const char *text)
{
    static const uint8_t part[] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    struct source_file files[8] = {{.name = "params.json", .data = part + 8, .size = 2}};
    struct weights *w = NULL;
    struct source *s;
    struct err err = {0};
    size_t n = 1;
    for (; names[n - 1]; n++)
        files[n] = (struct source_file){.name = names[n - 1], .data = part, .size = sizeof part};
    EXPECT_INT(source_open_memory("t", files, n, &s, NULL), 0);
    int rc = weights_open(s, &w, &err);
    if (rc && (!text || !strstr(err.text, text)))
        printf("    wanted \"%s\", got %s\n", text ? text : "success", err.text);
    EXPECT_INT(rc, text ? ERR_FORMAT : 0);
    EXPECT(!text || strstr(err.text, text));
    weights_close(w);
    source_close(s);
}

TEST(model_config_mistral_parts)
{
    open_parts(FILES("consolidated.safetensors"), NULL);
    open_parts(FILES("consolidated-00001-of-00002.safetensors",
                     "consolidated-00002-of-00002.safetensors"), NULL);
    open_parts(FILES("consolidated.00000-of-00002.safetensors",
                     "consolidated.00001-of-00002.safetensors"), NULL);
    open_parts(FILES("consolidated-00001-of-00001.safetensors", "model-extra.safetensors"), NULL);
    open_parts(FILES("tekken.json"), "neither consolidated.safetensors nor its parts");
    open_parts(FILES("consolidated-1-of-x.safetensors"), "neither consolidated.safetensors");
    open_parts(FILES("consolidated-00002-of-00002.safetensors"), "1 of 2 parts");
    open_parts(FILES("consolidated-00001-of-00003.safetensors",
                     "consolidated-00003-of-00003.safetensors"), "2 of 3 parts");
    open_parts(FILES("consolidated-00001-of-00002.safetensors",
                     "consolidated-00001-of-00003.safetensors"), "others are of 2");
    open_parts(FILES("consolidated-00002-of-00002.safetensors",
                     "consolidated-00003-of-00002.safetensors"), "2 of 2 parts");
}
