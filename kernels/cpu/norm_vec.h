/* norm_vec: the vector form of norm.c's loop; included by norm_avx2.c and norm_avx512.c. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#include <math.h>

/* Four partial sums in flight; which one a column belongs to depends on the row length alone. */
static float sum_of_squares(const float *in, int dim)
{
    vec s0 = vec_zero(), s1 = vec_zero(), s2 = vec_zero(), s3 = vec_zero();
    int i = 0;

    for (; i + 4 * VEC <= dim; i += 4 * VEC) {
        vec a = vec_load(in + i), b = vec_load(in + i + VEC);
        vec c = vec_load(in + i + 2 * VEC), d = vec_load(in + i + 3 * VEC);
        s0 = vec_fma(a, a, s0);
        s1 = vec_fma(b, b, s1);
        s2 = vec_fma(c, c, s2);
        s3 = vec_fma(d, d, s3);
    }
    for (; i < dim; i += VEC) {
        vec a = vec_load_n(in + i, dim - i);
        s0 = vec_fma(a, a, s0);
    }
    return vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
}

static void norm_row(float *out, const float *in, const float *weight, int dim, float eps, bool add)
{
    vec scale = vec_set(1 / sqrtf(sum_of_squares(in, dim) / (float)dim + eps));

    for (int i = 0; i < dim; i += VEC) {
        vec y = vec_mul(vec_mul(vec_load_n(in + i, dim - i), scale),
                        vec_load_n(weight + i, dim - i));
        if (add)
            y = vec_add(vec_load_n(out + i, dim - i), y);
        vec_store_n(out + i, y, dim - i);
    }
}
