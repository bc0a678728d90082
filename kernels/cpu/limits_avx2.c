/* limits_avx2: the peaks of AVX2's multiply-adds, as linear_avx2.c uses them. Pool threads. Empty
 * when built without these instructions. */
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "kernels/cpu/cpu.h"

enum { ROUNDS = 100000, CHAINS = 10 };

static double peak_float(void)
{
    __m256 x[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.5f);

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm256_fmadd_ps(x[i], a, b);
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "x");
    return 2.0 * ROUNDS * CHAINS * 8;
}

/* Two widening products and a sum: 32 products of bytes. */
static double peak_int8(void)
{
    __m256i x[CHAINS], a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm256_set1_epi32(i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm256_add_epi32(x[i],
                                    _mm256_madd_epi16(_mm256_maddubs_epi16(a, x[i]), ones));
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "x");
    return 2.0 * ROUNDS * CHAINS * 32;
}

void limits_avx2(struct cpu_variants *v)
{
    v->peak[CPU_INPUT_F32] = peak_float;
    v->peak[CPU_INPUT_INT8] = peak_int8;
}
#endif
