/* attention_avx2: attention with AVX2; attention_vec.h holds the loops, vec_avx2.h the
 * instructions. Pool threads run them; they keep no state. Empty when built without these
 * instructions. */
#if defined(__AVX2__)
#include "kernels/cpu/vec_avx2.h"

#include "kernels/cpu/attention_vec.h"

void attention_avx2(struct cpu_variants *v)
{
    v->attention_merge = attention_merge;
    v->attention_item[QUANT_F32] = attention_item_f32;
    v->attention_item[QUANT_F16] = attention_item_f16;
    v->attention_item[QUANT_BF16] = attention_item_bf16;
    v->attention_item[QUANT_Q8_0] = attention_item_q8_0;
    v->attention_item[QUANT_FP8] = attention_item_fp8;
}
#endif
