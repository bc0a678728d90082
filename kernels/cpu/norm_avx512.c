/* norm_avx512: RMSNorm with AVX-512; norm_vec.h holds the loops, vec_avx512.h the instructions.
 * Pool threads run them; they keep no state. Empty when built without these instructions. */
#if defined(__AVX512F__)
#include "kernels/cpu/vec_avx512.h"

#include "kernels/cpu/norm_vec.h"

void norm_avx512(struct cpu_variants *v)
{
    v->norm_row = norm_row;
}
#endif
