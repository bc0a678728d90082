/* linear_tile: the kernels of linear_tile.cuh for 16-bit floats and codes of 4 to 6 bits. Engine
 * thread. */
#include "kernels/cuda/linear_tile.cuh"

void cuda_tile(struct device *d, const struct linear_args *a, int64_t padded)
{
    switch (a->jobs[0].w->type) {
    case QUANT_BF16: tile_choose<QUANT_BF16, 8>(d, a, padded); break;
    case QUANT_F16: tile_choose<QUANT_F16, 8>(d, a, padded); break;
    case QUANT_Q4_0: tile_choose<QUANT_Q4_0, 16>(d, a, padded); break;
    case QUANT_Q4_K: tile_choose<QUANT_Q4_K, 16>(d, a, padded); break;
    case QUANT_Q5_K: tile_choose<QUANT_Q5_K, 16>(d, a, padded); break;
    case QUANT_Q6_K: tile_choose<QUANT_Q6_K, 16>(d, a, padded); break;
    case QUANT_G4: tile_choose<QUANT_G4, 8>(d, a, padded); break;
    case QUANT_G4_128: tile_choose<QUANT_G4_128, 16>(d, a, padded); break;
    default: cuda_tile_8(d, a, padded); break;
    }
}
