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

VEC_INLINE void act_mul_vec(float *gate, const float *up, int n, enum activation act)
{
    vec x = vec_load_n(gate, n), y;
    y = act == ACTIVATION_SILU ? silu(x) : gelu_tanh(x);
    vec_store_n(gate, vec_mul(y, vec_load_n(up, n)), n);
}

static void act_mul(float *gate, const float *up, size_t n, enum activation act)
{
    size_t i = 0;

    for (; i + VEC <= n; i += VEC)
        act_mul_vec(gate + i, up + i, VEC, act);
    if (i < n)
        act_mul_vec(gate + i, up + i, (int)(n - i), act);
}
