/* limits_avx512: the peaks of AVX-512's multiply-adds, and reads in whole cache lines. Pool
 * threads. Empty when built without these instructions. */
#if defined(__AVX512F__)
#include <immintrin.h>

#include "kernels/cpu/cpu.h"

enum { ROUNDS = 100000, CHAINS = 16 };

static double peak_float(void)
{
    __m512 x[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.5f);

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm512_fmadd_ps(x[i], a, b);
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "v");
    return 2.0 * ROUNDS * CHAINS * 16;
}

static double peak_int8(void)
{
    __m512i x[CHAINS], a = _mm512_set1_epi8(3);

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm512_set1_epi32(i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm512_dpbusd_epi32(x[i], a, a);
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "v");
    return 2.0 * ROUNDS * CHAINS * 64;
}

static double peak_bfloat16(void)
{
    __m512 x[CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f00);

    for (int i = 0; i < CHAINS; i++)
        x[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            x[i] = _mm512_dpbf16_ps(x[i], a, a);
    for (int i = 0; i < CHAINS; i++)
        CPU_USE(x[i], "v");
    return 2.0 * ROUNDS * CHAINS * 32;
}

static void read_bytes(const char *from, size_t bytes)
{
    __m512i sum[8];

    for (int j = 0; j < 8; j++)
        sum[j] = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes; i += 512)
        for (size_t j = 0; j < 8; j++)
            sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(from + i + j * 64));
    for (int j = 0; j < 8; j++)
        CPU_USE(sum[j], "v");
}

void limits_avx512(struct cpu_variants *v, const struct cpu_features *f)
{
    v->peak[CPU_INPUT_F32] = peak_float;
    v->read_bytes = read_bytes;
    if (f->vnni)
        v->peak[CPU_INPUT_INT8] = peak_int8;
    if (f->level >= CPU_AVX512_BF16)
        v->peak[CPU_INPUT_BF16] = peak_bfloat16;
}
#endif
