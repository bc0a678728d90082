/* pick_avx2: greedy choice and log-sum-exp with AVX2; pick_vec.h holds the loops, vec_avx2.h the
 * instructions. Pool threads run them; they keep no state. Empty when built without these
 * instructions. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/pick_vec.h"

void pick_avx2(struct cpu_variants *v)
{
    v->pick_row = pick_row;
}
#endif
