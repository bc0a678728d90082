/* rope_avx2: rotary embedding and KV encoding with AVX2; rope_vec.h holds the loops, vec_avx2.h the
 * instructions. Pool threads run them; they keep no state. Empty when built without these
 * instructions. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/rope_vec.h"

void rope_avx2(struct cpu_variants *v)
{
    v->rope_head = rope_head;
    v->kv_encode = kv_encode;
}
#endif
