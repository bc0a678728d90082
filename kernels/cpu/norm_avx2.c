/* norm_avx2: RMSNorm with AVX2; norm_vec.h holds the loops, vec_avx2.h the instructions.
 * Pool threads run them; they keep no state. Empty when built without these instructions. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/norm_vec.h"

void norm_avx2(struct cpu_variants *v)
{
    v->norm_row = norm_row;
}
#endif
