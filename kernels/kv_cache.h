/* kv_cache: the number formats a KV cache can have, and what one takes: the one owner of this
 * arithmetic, for every backend and for those who plan. Pure functions, any thread.
 *
 * A position of a KV head takes quant_row_bytes(type, head_dim) bytes, for K and for V each. Every
 * backend orders the values of a layer in its own way (kernels/cpu/cpu.h, kernels/cuda/cuda.cuh),
 * but Q8_0's scales lie behind all values of all layers. */
#ifndef SIROCCO_KERNELS_KV_CACHE_H
#define SIROCCO_KERNELS_KV_CACHE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "f32", "F16", "bf16", "q8_0", "fp8", in any case; -1: no format of a KV cache */
int kv_cache_type(const char *name);
const char *kv_cache_type_name(enum quant_type type); /* in small letters; NULL: none of them */

/* K and V of all layers, for one block. 0: the options are wrong or a product wraps. */
size_t kv_cache_block_bytes(const struct kv_options *options);
/* K (or V) of all layers and blocks. 0: as above. */
size_t kv_cache_half_bytes(const struct kv_options *options);
/* Values that K (or V) of all layers and blocks has: Q8_0's scales begin so many bytes into it,
 * unless the backend keeps gaps. */
size_t kv_cache_values(const struct kv_options *options);
/* Bytes of a value, without its share of a scale. */
int kv_cache_value_bytes(enum quant_type type);

#ifdef __cplusplus
}
#endif

#endif
