/* pick_avx512: greedy choice and log-sum-exp with AVX-512; pick_vec.h holds the loops, vec_avx512.h
 * the instructions. Pool threads run them; they keep no state. Empty when built without these
 * instructions. */
#if defined(__AVX512F__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/pick_vec.h"

void pick_avx512(struct cpu_variants *v)
{
    v->pick_row = pick_row;
}
#endif
