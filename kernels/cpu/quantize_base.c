/* quantize_base: the searches of quantize.h, for any machine. Pure functions; any thread. */
#include "kernels/cpu/quantize_super.h"

quantize_rows *const quantize_base[QUANT_COUNT] = QUANTIZE_TABLE;
