/* arch: the table is consistent, and lookups find what model files call the rows. */
#include "engine/arch.h"

#include <string.h>

#include "tests/test.h"

TEST(arch_rows_are_whole_and_unique)
{
    EXPECT(arch_count >= 7);
    for (int i = 0; i < arch_count; i++) {
        const struct arch *a = &arch_table[i];
        EXPECT(a->name && a->hf_class && a->hf_model_type);
        EXPECT(arch_find_hf(a->hf_class) == a);
        EXPECT(arch_find_hf(a->hf_model_type) == a);
        if (a->gguf_name)
            EXPECT(arch_find_gguf(a->gguf_name, a->moe) == a);
        EXPECT(a->moe == (a->moe_prefix != NULL));
        EXPECT(a->moe || !a->moe_renorm);
        /* the experts add straight to the residual stream: no place for a norm between */
        EXPECT(!(a->moe && a->post_norms));
        EXPECT(!a->needs_use_window || a->window_from_config);
        EXPECT(!a->full_layer_every || a->window_from_config);
    }
}

TEST(arch_lookups)
{
    EXPECT_STR(arch_find_hf("MistralForCausalLM")->name, "mistral");
    EXPECT_STR(arch_find_hf("gemma3_text")->name, "gemma3");
    EXPECT_STR(arch_find_gguf("llama", false)->name, "llama");
    EXPECT_STR(arch_find_gguf("llama", true)->name, "mixtral");
    EXPECT(arch_find_gguf("qwen2", true) == NULL);
    EXPECT(arch_find_gguf("gemma2", false) == NULL);
    EXPECT(arch_find_hf("GPT2LMHeadModel") == NULL);
    EXPECT(arch_find_hf("") == NULL);
    EXPECT_STR(arch_find_mistral(false, false)->name, "mistral");
    EXPECT_STR(arch_find_mistral(true, false)->name, "mixtral");
    EXPECT_STR(arch_find_mistral(false, true)->name, "ministral3");
    EXPECT(arch_sees_images("Mistral3ForConditionalGeneration") && arch_sees_images("mistral3"));
    EXPECT(!arch_sees_images("mistral"));
}
