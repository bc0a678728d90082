/* kv_cache: the KV cache's formats and sizes, see kv_cache.h. Pure functions and a constant table;
 * any thread. */
#include "kernels/kv_cache.h"

static const struct {
    enum quant_type type;
    const char *name;
} types[] = {{QUANT_F32, "f32"},
             {QUANT_F16, "f16"},
             {QUANT_BF16, "bf16"},
             {QUANT_Q8_0, "q8_0"},
             {QUANT_FP8, "fp8"}};

const char *kv_cache_type_name(enum quant_type type)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == type)
            return types[i].name;
    return NULL;
}

int kv_cache_type(const char *name)
{
    int type = quant_from_name(name);

    return type >= 0 && kv_cache_type_name((enum quant_type)type) ? type : -1;
}

int kv_cache_value_bytes(enum quant_type type)
{
    return type == QUANT_Q8_0 ? 1 : (int)quant_row_bytes(type, 1);
}

size_t kv_cache_block_bytes(const struct kv_options *o)
{
    size_t bytes;

    if (o->n_layers < 1 || o->n_kv_heads < 1 || o->head_dim < 1 || o->block_size < 8 ||
        o->block_size > 256 || (o->block_size & (o->block_size - 1)) ||
        !kv_cache_type_name(o->type))
        return 0;
    if (__builtin_mul_overflow((size_t)o->n_kv_heads, (size_t)o->block_size, &bytes) ||
        __builtin_mul_overflow(bytes, quant_row_bytes(o->type, (size_t)o->head_dim), &bytes) ||
        __builtin_mul_overflow(bytes, 2 * (size_t)o->n_layers, &bytes))
        return 0;
    return bytes;
}

size_t kv_cache_half_bytes(const struct kv_options *o)
{
    size_t bytes = kv_cache_block_bytes(o) / 2;

    if (o->n_blocks < 1 || __builtin_mul_overflow(bytes, (size_t)o->n_blocks, &bytes))
        return 0;
    return bytes;
}

size_t kv_cache_values(const struct kv_options *o)
{
    return (size_t)o->n_layers * (size_t)o->n_blocks * (size_t)o->n_kv_heads *
           (size_t)o->block_size * (size_t)o->head_dim;
}
