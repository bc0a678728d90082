/* act_avx2: gated activations with AVX2; act_vec.h holds the loops, vec_avx2.h the instructions.
 * Pool threads run them; they keep no state. Empty when built without these instructions. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/act_vec.h"

void act_avx2(struct cpu_variants *v)
{
    v->act_mul = act_mul;
}
#endif
