/* model: what config.json, generation_config.json, GGUF keys and tensors may say, and how each
 * mistake is reported. Models are the golden ones with single values changed in memory. */
#include "engine/model.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/test.h"

/* A golden model folder in memory, its JSON parts parsed so that a test can change them. */
struct folder {
    json_t *config, *header;
    char *weights; /* the whole file */
    size_t weights_bytes;
    const char *generation; /* JSON text or NULL */
};

static struct folder load(const char *name)
{
    struct folder f = {0};
    char path[1200];
    json_error_t where;
    snprintf(path, sizeof path, "%s/%s/config.json", test_path("tests/golden/models"), name);
    f.config = json_load_file(path, 0, &where);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", test_path("tests/golden/models"), name);
    f.weights = test_read(path, &f.weights_bytes);
    EXPECT(f.config && f.weights && f.weights_bytes > 8);
    uint64_t n;
    memcpy(&n, f.weights, 8);
    f.header = json_loadb(f.weights + 8, n, 0, &where);
    EXPECT(f.header != NULL);
    return f;
}

static void unload(struct folder *f)
{
    json_decref(f->config);
    json_decref(f->header);
    free(f->weights);
}

/* Open the folder as it stands now; the parts are rebuilt each time. */
static int open_folder(const struct folder *f, struct model **m, struct source **source,
                       char **kept, struct err *err)
{
    uint64_t old;
    memcpy(&old, f->weights, 8);
    char *header = json_dumps(f->header, JSON_COMPACT), *config = json_dumps(f->config, 0);
    EXPECT(header && config);
    uint64_t n = strlen(header);
    size_t data_bytes = f->weights_bytes - 8 - (size_t)old;
    *kept = malloc(8 + n + data_bytes);
    EXPECT(*kept != NULL);
    memcpy(*kept, &n, 8);
    memcpy(*kept + 8, header, n);
    memcpy(*kept + 8 + n, f->weights + 8 + old, data_bytes);
    const struct source_file files[] = {
        {.name = "config.json", .data = (uint8_t *)config, .size = strlen(config)},
        {.name = "model.safetensors", .data = (uint8_t *)*kept, .size = 8 + n + data_bytes},
        {.name = "generation_config.json", .data = (const uint8_t *)f->generation,
         .size = f->generation ? strlen(f->generation) : 0}};
    EXPECT_INT(source_open_memory("t", files, f->generation ? 3 : 2, source, NULL), 0);
    int rc = model_open(*source, NULL, m, err);
    free(header);
    free(config);
    return rc;
}

static void refuse_folder(const struct folder *f, const char *text)
{
    struct err err = {0};
    struct model *m = NULL;
    struct source *source;
    char *kept;
    int rc = open_folder(f, &m, &source, &kept, &err);
    if (!rc || !strstr(err.text, text))
        printf("    wanted \"%s\", got %s: %s\n", text, err_name(rc), err.text);
    EXPECT_INT(rc, ERR_FORMAT);
    EXPECT(m == NULL);
    EXPECT(strstr(err.text, text) != NULL);
    EXPECT(!strncmp(err.text, "(embedded): ", 12));
    source_close(source);
    free(kept);
}

/* A model of golden `name` with config key set to the JSON text value (NULL: removed). */
static void refuse(const char *name, const char *key, const char *value, const char *text)
{
    struct folder f = load(name);
    json_t *parsed = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    EXPECT(!value || parsed);
    if (value)
        json_object_set_new(f.config, key, parsed);
    else
        json_object_del(f.config, key);
    refuse_folder(&f, text);
    unload(&f);
}

struct opened {
    struct model *m;
    struct source *source;
    char *kept;
    struct folder f;
};

static struct opened accept_with(const char *name, const char *const *pairs, const char *generation)
{
    struct opened o = {.f = load(name)};
    struct err err = {0};
    o.f.generation = generation;
    for (; pairs && pairs[0]; pairs += 2) {
        json_t *value = json_loads(pairs[1], JSON_DECODE_ANY, NULL);
        EXPECT(value != NULL);
        json_object_set_new(o.f.config, pairs[0], value);
    }
    int rc = open_folder(&o.f, &o.m, &o.source, &o.kept, &err);
    if (rc)
        printf("    %s: %s\n", err_name(rc), err.text);
    EXPECT_INT(rc, 0);
    return o;
}

static void close_opened(struct opened *o)
{
    model_close(o->m);
    source_close(o->source);
    free(o->kept);
    unload(&o->f);
}

TEST(model_reads_mistral)
{
    struct opened o = accept_with("mistral", NULL, NULL);
    struct model *m = o.m;
    EXPECT_STR(m->arch->name, "mistral");
    EXPECT(m->n_layers == 3 && m->dim == 64 && m->n_heads == 4 && m->n_kv_heads == 2);
    EXPECT(m->head_dim == 16 && m->ffn == 160 && m->vocab == 288 && m->context_length == 256);
    EXPECT(m->window_max == 32 && m->layers[2].window == 32);
    EXPECT_NEAR(m->norm_eps, 1e-5, 1e-10);
    EXPECT_NEAR(m->attn_scale, 0.25, 0);
    EXPECT(m->embed_scale == 1 && !m->attn_softcap && !m->logit_softcap && !m->rope_interleaved);
    EXPECT(m->n_ropes == 1 && m->ropes[0].n_freq == 8);
    EXPECT_NEAR(m->ropes[0].inv_freq[0], 1, 0);
    EXPECT_NEAR(m->ropes[0].inv_freq[4], 0.01, 1e-9);
    EXPECT(m->bos == 1 && m->n_eos == 1 && m->eos[0] == 2);
    EXPECT(isnan(m->default_temperature) && isnan(m->default_top_p) && m->default_top_k == -1);
    EXPECT(m->head.data != m->embed.data);
    EXPECT(m->layers[0].wq.rows == 64 && m->layers[0].wk.rows == 32 && m->layers[0].wq.cols == 64);
    int64_t n = 2 * 288 * 64 + 64 + 3 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 160 * 64);
    EXPECT_INT(m->n_parameters, n);
    EXPECT_INT(m->weight_bytes, 2 * n);
    close_opened(&o);
}

TEST(model_counts_a_tied_head_once)
{
    struct opened o = accept_with("llama-tied", NULL, NULL);
    EXPECT(o.m->head.data == o.m->embed.data);
    EXPECT_INT(o.m->weight_bytes, 4 * o.m->n_parameters);
    EXPECT_INT(o.m->weight_bytes, (int64_t)json_integer_value(json_array_get(
        json_object_get(json_object_get(o.f.header, "model.norm.weight"), "data_offsets"), 1)));
    close_opened(&o);
}

TEST(model_windows)
{
    static const char *const qwen[] = {"use_sliding_window", "true", "sliding_window", "8",
                                       "max_window_layers", "1", NULL};
    static const char *const unused[] = {"sliding_window", "8", NULL};
    static const char *const pattern[] = {"layer_types", "null", "num_hidden_layers", "2", NULL};
    struct opened o = accept_with("qwen2", qwen, NULL);
    EXPECT(o.m->layers[0].window == 0 && o.m->layers[1].window == 8 && o.m->window_max == 0);
    close_opened(&o);
    o = accept_with("qwen2", unused, NULL);
    EXPECT(o.m->layers[0].window == 0 && o.m->layers[1].window == 0);
    close_opened(&o);
    o = accept_with("llama3-rope", unused, NULL); /* Llama has no window */
    EXPECT(o.m->layers[0].window == 0);
    close_opened(&o);
    o = accept_with("gemma2", pattern, NULL);
    EXPECT(o.m->layers[0].window == 16 && o.m->layers[1].window == 0);
    close_opened(&o);
    o = accept_with("gemma3", NULL, NULL);
    EXPECT(o.m->layers[0].window == 16 && o.m->layers[2].window == 0 && o.m->n_ropes == 2);
    EXPECT(o.m->layers[0].rope == 1 && o.m->layers[2].rope == 0);
    EXPECT(o.m->ropes[1].inv_freq[1] > o.m->ropes[0].inv_freq[1]); /* base 10^4, base 10^6 */
    close_opened(&o);
}

/* The text model of one that sees images: its own section, its own place in the file. */
TEST(model_reads_text_config)
{
    struct opened o = accept_with("mistral3", NULL, NULL);
    EXPECT_STR(o.m->arch->name, "mistral");
    EXPECT(o.m->dim == 40 && o.m->vocab == 96 && o.m->bos == 1 && o.m->eos[0] == 2);
    EXPECT(o.m->head.data != o.m->embed.data);
    close_opened(&o);
    refuse("mistral3", "text_config", NULL, "config.json: text_config is missing");
    refuse("mistral3", "text_config", "[]", "config.json: text_config is missing or no object");
    refuse("mistral3", "text_config", "{\"model_type\":\"gpt2\"}", "'gpt2' is not supported");
    refuse("mistral3", "text_config", "{\"model_type\":\"mistral\"}", "num_hidden_layers is missing");
    refuse("mistral3", "quantization_config", "{\"quant_method\":\"hqq\"}", "'hqq' is not supported");
    refuse("mistral3", "architectures", "[\"MistralForCausalLM\"]", "num_hidden_layers is missing");
}

TEST(model_yarn)
{
    static const char *const plain[] = {
        "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":4,\"beta_slow\":0.25,"
                        "\"original_max_position_embeddings\":64}", NULL};
    static const char *const stated[] = {
        "rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":false,"
                        "\"original_max_position_embeddings\":64,\"attention_factor\":1.5}", NULL};
    struct opened o = accept_with("mistral-yarn", plain, NULL);
    const float *f = o.m->ropes[0].inv_freq;
    /* theta 10^4, 8 frequencies; the ramp is 0 at the first and 1 from the fifth on */
    EXPECT_NEAR(o.m->ropes[0].mscale, 1.1386294, 1e-6);
    EXPECT_NEAR(f[0], 1, 1e-7);
    EXPECT_NEAR(f[2], 0.1 * (0.5 + 0.5 / 4), 1e-7);
    EXPECT_NEAR(f[4], 0.01 / 4, 1e-8);
    close_opened(&o);
    o = accept_with("mistral-yarn", stated, NULL);
    EXPECT_NEAR(o.m->ropes[0].mscale, 1.5, 0);
    /* rotations 32 and 1: dimensions below 0 and 2.0164... */
    EXPECT_NEAR(o.m->ropes[0].inv_freq[1], 0.3162278 * (1 - 0.75 / 2.0164), 1e-4);
    close_opened(&o);
}

TEST(model_rope_scaling)
{
    static const char *const linear[] = {"rope_scaling", "{\"type\":\"linear\",\"factor\":4}", NULL};
    static const char *const fresh[] = {
        "rope_theta", "null", "rope_parameters",
        "{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":10000}", NULL};
    struct opened plain = accept_with("mistral", NULL, NULL);
    struct opened a = accept_with("mistral", linear, NULL), b = accept_with("mistral", fresh, NULL);
    for (int i = 0; i < 8; i++) {
        EXPECT_NEAR(a.m->ropes[0].inv_freq[i], plain.m->ropes[0].inv_freq[i] / 4, 1e-9);
        EXPECT(a.m->ropes[0].inv_freq[i] == b.m->ropes[0].inv_freq[i]);
    }
    close_opened(&plain);
    close_opened(&a);
    close_opened(&b);
    /* llama3: the highest frequency stays, the lowest is divided by the factor */
    struct opened l = accept_with("llama3-rope", NULL, NULL);
    EXPECT_NEAR(l.m->ropes[0].inv_freq[0], 1, 0);
    EXPECT_NEAR(l.m->ropes[0].inv_freq[7], pow(10000, -14.0 / 16) / 8, 1e-9);
    close_opened(&l);
}

TEST(model_reads_generation_config)
{
    struct opened o = accept_with("mistral", NULL,
                                  "{\"temperature\":0.5,\"top_p\":0.9,\"top_k\":-1,\"min_p\":0.1,"
                                  "\"repetition_penalty\":1.25,\"eos_token_id\":[2,5,7]}");
    EXPECT_NEAR(o.m->default_temperature, 0.5, 0);
    EXPECT_NEAR(o.m->default_top_p, 0.9, 1e-6);
    EXPECT_NEAR(o.m->default_min_p, 0.1, 1e-6);
    EXPECT_NEAR(o.m->default_repetition_penalty, 1.25, 0);
    EXPECT_INT(o.m->default_top_k, 0); /* off, which is not the same as not given */
    EXPECT(o.m->n_eos == 3 && o.m->eos[0] == 2 && o.m->eos[1] == 5 && o.m->eos[2] == 7);
    close_opened(&o);
    static const char *const bad[][2] = {
        {"{\"temperature\":-1}", "temperature"}, {"{\"temperature\":\"x\"}", "temperature"},
        {"{\"top_p\":0}", "top_p"},              {"{\"top_p\":1.5}", "top_p"},
        {"{\"top_k\":1.5}", "top_k"},            {"{\"top_k\":-2}", "top_k"},
        {"{\"eos_token_id\":288}", "eos_token_id"}, {"{\"eos_token_id\":[-1]}", "eos_token_id"},
        {"[]", "not a JSON object"},             {"{", "line 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct folder f = load("mistral");
        char text[64];
        f.generation = bad[i][0];
        snprintf(text, sizeof text, "generation_config.json: %s", bad[i][1]);
        refuse_folder(&f, text);
        unload(&f);
    }
}

TEST_SECONDS(model_refuses_wrong_hyperparameters, 120)
{
    static const char *const cases[][3] = {
        {"num_hidden_layers", "0", "num_hidden_layers is 0, not 1..1024"},
        {"num_hidden_layers", "1000000", "num_hidden_layers is 1000000"},
        {"num_hidden_layers", "3.0", "num_hidden_layers is no integer"},
        {"num_hidden_layers", NULL, "num_hidden_layers is missing"},
        {"num_hidden_layers", "4", "tensor 'model.layers.3.input_layernorm.weight' is missing"},
        {"num_hidden_layers", "2", "tensor 'model.layers.2."},
        {"hidden_size", "0", "hidden_size is 0"},
        {"hidden_size", "\"64\"", "hidden_size is no integer"},
        {"hidden_size", "128", "has the shape [288, 64], the configuration needs [288, 128]"},
        {"intermediate_size", "161", "mlp.gate_proj.weight' has the shape [160, 64]"},
        {"num_attention_heads", "0", "num_attention_heads is 0"},
        {"num_attention_heads", "5", "do not divide"},
        {"num_key_value_heads", "0", "num_key_value_heads is 0"},
        {"num_key_value_heads", "3", "4 attention heads do not divide among 3"},
        {"head_dim", "15", "head_dim 15 is not even"},
        {"head_dim", "0", "head_dim is 0"},
        {"head_dim", "4096", "head_dim is 4096"},
        {"vocab_size", "0", "vocab_size is 0"},
        {"vocab_size", NULL, "vocab_size is missing"},
        {"vocab_size", "99999999999", "vocab_size is 99999999999"},
        {"max_position_embeddings", "0", "max_position_embeddings is 0"},
        {"max_position_embeddings", "1099511627776", "max_position_embeddings is"},
        {"rms_norm_eps", "0", "rms_norm_eps is 0"},
        {"rms_norm_eps", "-1", "rms_norm_eps is -1"},
        {"rms_norm_eps", "\"x\"", "rms_norm_eps is no number"},
        {"rope_theta", "0", "rope_theta is 0"},
        {"rope_theta", "-5", "rope_theta is -5"},
        {"sliding_window", "-1", "sliding_window is -1"},
        {"rope_scaling", "{\"type\":\"dynamic\",\"factor\":4}", "rope type 'dynamic' is not supported"},
        {"rope_scaling", "{\"type\":\"yarn\",\"factor\":4}", "lacks original_max_position"},
        {"rope_scaling",
         "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,"
         "\"attention_factor\":-1}", "attention_factor is -1"},
        {"rope_scaling",
         "{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,"
         "\"beta_fast\":1,\"beta_slow\":2}", "beta_fast <= beta_slow"},
        {"rope_scaling", "{\"type\":\"linear\"}", "lacks a factor"},
        {"rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8}", "lacks a factor"},
        {"rope_scaling", "5", "is no object"},
        {"rope_scaling", "{\"type\":\"linear\",\"factor\":0}", "factor is 0"},
        {"partial_rotary_factor", "0.5", "partial_rotary_factor is not supported"},
        {"hidden_act", "\"relu\"", "hidden_act 'relu' is not supported for mistral"},
        {"hidden_act", "5", "hidden_act '' is not supported"},
        {"attention_bias", "true", "attention_bias"},
        {"mlp_bias", "true", "mlp_bias"},
        {"tie_word_embeddings", "1", "tie_word_embeddings is no boolean"},
        {"quantization_config", "{\"quant_method\":\"exl2\"}", "'exl2' is not supported"},
        {"bos_token_id", "288", "bos_token_id is 288"},
        {"eos_token_id", "-1", "eos_token_id is not in"},
        {"eos_token_id", "\"2\"", "eos_token_id is not in"},
        {"layer_types", "[\"full_attention\"]", "layer_types is no array of num_hidden_layers"},
        {"layer_types", "[\"a\",\"b\",\"c\"]", "layer_types[0] 'a' is not supported"},
        {"architectures", "[\"GPT2LMHeadModel\"]",
         "architecture 'GPT2LMHeadModel' is not supported (known: mistral, ministral"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse("mistral", cases[i][0], cases[i][1], cases[i][2]);
    refuse("mixtral", "num_local_experts", "0", "experts used");
    refuse("mixtral", "num_experts_per_tok", "9", "9 experts used of 8");
    refuse("mixtral", "num_local_experts", "9", "block_sparse_moe.gate.weight' has the shape");
    refuse("gemma3", "rope_theta", NULL, "rope_theta is missing");
    refuse("llama-tied", "tie_word_embeddings", "false", "tensor 'lm_head.weight' is missing");
}

TEST(model_falls_back_on_model_type)
{
    static const char *const none[] = {"architectures", "null", NULL};
    struct opened o = accept_with("qwen3", none, NULL);
    EXPECT_STR(o.m->arch->name, "qwen3");
    EXPECT(o.m->layers[0].q_norm && o.m->layers[0].k_norm && !o.m->layers[0].bq);
    close_opened(&o);
}

static void rename_tensor(struct folder *f, const char *from, const char *to)
{
    json_t *entry = json_incref(json_object_get(f->header, from));
    EXPECT(entry != NULL);
    json_object_del(f->header, from);
    json_object_set_new(f->header, to, entry);
}

TEST(model_refuses_wrong_tensors)
{
    struct folder f = load("qwen2");
    rename_tensor(&f, "model.layers.1.self_attn.k_proj.bias", "model.layers.1.self_attn.o_proj.bias");
    refuse_folder(&f, "tensor 'model.layers.1.self_attn.k_proj.bias' is missing");
    unload(&f);
    f = load("mistral");
    rename_tensor(&f, "model.norm.weight", "model.norm.gamma");
    refuse_folder(&f, "tensor 'model.norm.weight' is missing");
    unload(&f);
    f = load("llama-tied"); /* a leftover: nothing may be ignored in silence */
    json_object_set_new(f.config, "num_hidden_layers", json_integer(1));
    refuse_folder(&f, "is not part of a llama model of 1 layers");
    unload(&f);
    f = load("qwen2"); /* the same bytes under a type that is not computed with */
    json_object_set_new(json_object_get(f.header, "lm_head.weight"), "dtype", json_string("I16"));
    refuse_folder(&f, "tensor 'lm_head.weight': type I16 is not supported");
    unload(&f);
}

/* The embedding is there a second time under the head's name; frequencies are stored: both fine. */
TEST(model_allows_redundant_tensors)
{
    static const char *const tied[] = {"tie_word_embeddings", "true", NULL};
    struct opened o = accept_with("mistral", tied, NULL);
    EXPECT(o.m->head.data == o.m->embed.data);
    close_opened(&o);
    struct folder f = load("mistral");
    struct err err = {0};
    struct model *m;
    struct source *source;
    char *kept;
    json_t *last = json_object_get(f.header, "model.norm.weight");
    json_int_t end = 0;
    const char *key;
    json_t *entry;
    json_object_foreach(f.header, key, entry) {
        json_int_t at = json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 1));
        end = at > end ? at : end;
    }
    EXPECT(last != NULL);
    json_object_set_new(f.header, "model.layers.0.self_attn.rotary_emb.inv_freq",
                        json_pack("{s:s,s:[i],s:[I,I]}", "dtype", "F32", "shape", 0,
                                  "data_offsets", end, end));
    EXPECT_INT(open_folder(&f, &m, &source, &kept, &err), 0);
    model_close(m);
    model_close(NULL);
    source_close(source);
    free(kept);
    unload(&f);
}

TEST(model_refuses_wrong_config_files)
{
    static const char *const texts[][2] = {
        {"", "config.json: line"}, {"[]", "config.json: not a JSON object"},
        {"{\"a\":1,\"a\":2}", "config.json: line 1"}, {"{}", "architectures and model_type"},
        {"{\"architectures\":[]}", "architectures and model_type"},
        {"{\"model_type\":5}", "architectures and model_type"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const struct source_file file = {.name = "config.json",
                                         .data = (const uint8_t *)texts[i][0],
                                         .size = strlen(texts[i][0])};
        struct err err = {0};
        struct source *source;
        struct model *m;
        EXPECT_INT(source_open_memory("t", &file, 1, &source, NULL), 0);
        EXPECT_INT(model_open(source, NULL, &m, &err), ERR_FORMAT);
        if (!strstr(err.text, texts[i][1]))
            printf("    %s\n", err.text);
        EXPECT(strstr(err.text, texts[i][1]) != NULL);
        source_close(source);
    }
}
