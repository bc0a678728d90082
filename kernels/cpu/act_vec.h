/* act_vec: the vector form of act.c's loop; included by act_avx2.c and act_avx512.c. Every lane
 * does the same, the last vector too, so an element's result does not depend on its place. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

VEC_INLINE vec silu(vec x)
{
    vec e = vec_exp(vec_sub(vec_zero(), x));
    return vec_div(x, vec_add(vec_set(1), e));
}

VEC_INLINE vec gelu_tanh(vec x)
{
    vec cube = vec_mul(vec_mul(x, x), x);
    vec inner = vec_mul(vec_set(0.7978845608f), vec_fma(vec_set(0.044715f), cube, x));
    return vec_mul(vec_mul(vec_set(0.5f), x), vec_add(vec_set(1), vec_tanh(inner)));
}

static void act_mul(float *gate, const float *up, size_t n, enum activation act)
{
    for (size_t i = 0; i < n; i += VEC) {
        int left = n - i < VEC ? (int)(n - i) : VEC;
        vec x = vec_load_n(gate + i, left), y;
        y = act == ACTIVATION_SILU ? silu(x) : gelu_tanh(x);
        vec_store_n(gate + i, vec_mul(y, vec_load_n(up + i, left)), left);
    }
}
