/* rope_avx512: rotary embedding and KV encoding with AVX-512; rope_vec.h holds the loops,
 * vec_avx512.h the instructions. Pool threads run them; they keep no state. Empty when built
 * without these instructions. */
#if defined(__AVX512F__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/rope_vec.h"

void rope_avx512(struct cpu_variants *v)
{
    v->rope_head = rope_head;
    v->kv_encode = kv_encode;
}
#endif
