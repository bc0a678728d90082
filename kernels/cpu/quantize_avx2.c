/* quantize_avx2: the searches of quantize.h, compiled for AVX2. Pure functions; any thread. */
#include "kernels/cpu/quantize_super.h"

quantize_rows *const quantize_avx2[QUANT_COUNT] = QUANTIZE_TABLE;
