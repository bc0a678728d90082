/* Fuzz entry: any bytes as config.json, then as params.json and as generation_config.json, beside
 * weights whose names and shapes are those of a small model. */
#include "engine/model.h"

#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char valid[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"hidden_size\":8,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"head_dim\":8,\"intermediate_size\":8,"
    "\"vocab_size\":8,\"max_position_embeddings\":16,\"rms_norm_eps\":1e-5}";

/* {8, 8} and {8} tensors of BF16, all zero. */
static size_t make_weights(uint8_t *out, size_t max)
{
    static const char *const names[] = {
        "embed_tokens", "norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm",
        "layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj",
        "layers.0.self_attn.o_proj", "layers.0.mlp.gate_proj", "layers.0.mlp.up_proj",
        "layers.0.mlp.down_proj"};
    size_t at = 8, data = 0;
    at += (size_t)snprintf((char *)out + at, max - at,
                           "{\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[8,8],"
                           "\"data_offsets\":[0,128]}");
    data = 128;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t bytes = strstr(names[i], "norm") ? 16 : 128;
        at += (size_t)snprintf((char *)out + at, max - at,
                               ",\"model.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[8%s],"
                               "\"data_offsets\":[%zu,%zu]}",
                               names[i], bytes == 16 ? "" : ",8", data, data + bytes);
        data += bytes;
    }
    out[at++] = '}';
    uint64_t header = at - 8;
    memcpy(out, &header, 8);
    memset(out + at, 0, data);
    return at + data;
}

static void open_all(const struct source_file *files, size_t n)
{
    struct err err;
    struct source *source = NULL;
    struct model *m = NULL;
    if (source_open_memory("f", files, n, &source, &err))
        return;
    if (!model_open(source, NULL, &m, &err))
        (void)weights_load(m->weights, NULL, &err);
    model_close(m);
    source_close(source);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t weights[4096];
    struct source_file files[3] = {
        {.name = "config.json", .data = data, .size = size},
        {.name = "model.safetensors", .data = weights, .size = make_weights(weights, 2048)},
        {.name = "generation_config.json", .data = data, .size = size}};
    open_all(files, 2);
    files[0] = (struct source_file){"config.json", (const uint8_t *)valid, sizeof valid - 1};
    open_all(files, 3);
    files[0] = (struct source_file){"params.json", data, size};
    files[1].name = "consolidated.safetensors";
    open_all(files, 2);
    return 0;
}
