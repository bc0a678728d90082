/* arch: THE TABLE of architectures (arch.h). Constant data; any thread. */
#include "engine/arch.h"

#include <string.h>

const struct arch arch_table[] = {
    {
        .name = "mistral",
        .hf_class = "MistralForCausalLM",
        .hf_model_type = "mistral",
        .gguf_as = "llama",
        .window_from_config = true,
        .act = ACTIVATION_SILU,
    },
    {
        /* Ministral 8B: some layers see a window, some everything, by layer_types */
        .name = "ministral",
        .hf_class = "MinistralForCausalLM",
        .hf_model_type = "ministral",
        .gguf_as = "llama",
        .window_from_config = true,
        .act = ACTIVATION_SILU,
    },
    {
        /* Ministral 3, YaRN and scaled queries; Mistral Small 3 is a plain mistral */
        .name = "ministral3",
        .hf_class = "Ministral3ForCausalLM",
        .hf_model_type = "ministral3",
        .window_from_config = true,
        .query_scale = true,
        .act = ACTIVATION_SILU,
    },
    {
        /* GGUF files call Mistral models llama too: the tensors and keys are the same */
        .name = "llama",
        .hf_class = "LlamaForCausalLM",
        .hf_model_type = "llama",
        .gguf_name = "llama",
        .gguf_interleaved = true,
        .act = ACTIVATION_SILU,
    },
    {
        .name = "mixtral",
        .hf_class = "MixtralForCausalLM",
        .hf_model_type = "mixtral",
        .gguf_name = "llama",
        .gguf_interleaved = true,
        .moe = true,
        .moe_renorm = true,
        .moe_prefix = "block_sparse_moe",
        .window_from_config = true,
        .act = ACTIVATION_SILU,
    },
    {
        .name = "qwen2",
        .hf_class = "Qwen2ForCausalLM",
        .hf_model_type = "qwen2",
        .gguf_name = "qwen2",
        .qkv_bias = true,
        .window_from_config = true,
        .needs_use_window = true,
        .act = ACTIVATION_SILU,
    },
    {
        .name = "qwen3",
        .hf_class = "Qwen3ForCausalLM",
        .hf_model_type = "qwen3",
        .gguf_name = "qwen3",
        .qk_norm = true,
        .window_from_config = true,
        .needs_use_window = true,
        .act = ACTIVATION_SILU,
    },
    {
        .name = "gemma2",
        .hf_class = "Gemma2ForCausalLM",
        .hf_model_type = "gemma2",
        .post_norms = true,
        .norm_plus_one = true,
        .embed_scale = true,
        .tied_default = true,
        .window_from_config = true,
        .full_layer_every = 2,
        .act = ACTIVATION_GELU_TANH,
    },
    {
        .name = "gemma3",
        .hf_class = "Gemma3ForCausalLM",
        .hf_model_type = "gemma3_text",
        .qk_norm = true,
        .post_norms = true,
        .norm_plus_one = true,
        .embed_scale = true,
        .tied_default = true,
        .window_from_config = true,
        .full_layer_every = 6,
        .rope_local_base = 10000,
        .act = ACTIVATION_GELU_TANH,
    },
};

const int arch_count = sizeof arch_table / sizeof *arch_table;

const struct arch *arch_find_hf(const char *class_or_model_type)
{
    for (int i = 0; i < arch_count; i++)
        if (!strcmp(arch_table[i].hf_class, class_or_model_type) ||
            !strcmp(arch_table[i].hf_model_type, class_or_model_type))
            return &arch_table[i];
    return NULL;
}

bool arch_sees_images(const char *class_or_model_type)
{
    static const char *const names[] = {"Mistral3ForConditionalGeneration", "mistral3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], class_or_model_type))
            return true;
    return false;
}

const struct arch *arch_find_mistral(bool moe, bool query_scale)
{
    return arch_find_hf(moe ? "mixtral" : query_scale ? "ministral3" : "mistral");
}

const struct arch *arch_find_gguf(const char *name, bool moe)
{
    for (int i = 0; i < arch_count; i++)
        if (arch_table[i].gguf_name && arch_table[i].moe == moe &&
            !strcmp(arch_table[i].gguf_name, name))
            return &arch_table[i];
    return NULL;
}
