/* act_avx512: gated activations with AVX-512; act_vec.h holds the loops, vec_avx512.h the
 * instructions. Pool threads run them; they keep no state. Empty when built without these
 * instructions. */
#if defined(__AVX512F__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/act_vec.h"

void act_avx512(struct cpu_variants *v)
{
    v->act_mul = act_mul;
}
#endif
