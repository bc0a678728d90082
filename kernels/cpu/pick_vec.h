/* pick_vec: the vector form of pick.c's loop; included by pick_avx2.c and pick_avx512.c. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec_math.h"

#include <math.h>

/* The first place of a value that is known to be there. */
static int first_equal(const float *values, int n, float value)
{
    vec wanted = vec_set(value);

    for (int i = 0; i < n; i += VEC) {
        int left = n - i < VEC ? n - i : VEC;
        unsigned hits = vec_equal_mask(vec_load_n(values + i, left), wanted);
        hits &= (1u << left) - 1;
        if (hits)
            return i + __builtin_ctz(hits);
    }
    return 0;
}

static void pick_row(float *logits, int vocab, float softcap, struct pick_result *result)
{
    struct pick_result r = {0};
    vec most = vec_set(-INFINITY), poison = vec_zero(), sum = vec_zero();

    for (int i = 0; i < vocab; i += VEC) {
        int left = vocab - i < VEC ? vocab - i : VEC;
        vec x = vec_load_n(logits + i, left);
        if (softcap > 0) {
            x = vec_mul(vec_set(softcap), vec_tanh(vec_div(x, vec_set(softcap))));
            vec_store_n(logits + i, x, left);
        }
        poison = vec_add(poison, vec_sub(x, x)); /* 0, or NaN once any x is not finite */
        most = vec_max(vec_between(x, vec_set(-INFINITY), 0, left), most);
    }
    r.best_logit = vec_max_all(most);
    float poisoned = vec_sum(poison);
    r.bad = poisoned != poisoned;
    if (r.bad) {
        *result = r;
        return;
    }
    r.best = first_equal(logits, vocab, r.best_logit);
    for (int i = 0; i < vocab; i += VEC) {
        int left = vocab - i < VEC ? vocab - i : VEC;
        vec e = vec_exp(vec_sub(vec_load_n(logits + i, left), vec_set(r.best_logit)));
        sum = vec_add(sum, vec_between(e, vec_zero(), 0, left));
    }
    r.log_sum_exp = r.best_logit + logf(vec_sum(sum));
    *result = r;
}
