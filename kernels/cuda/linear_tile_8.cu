/* linear_tile_8: the kernels of linear_tile.cuh for codes of 8 bits. Engine thread. */
#include "kernels/cuda/linear_tile.cuh"

void cuda_tile_8(struct device *d, const struct linear_args *a, int64_t padded)
{
    switch (a->jobs[0].w->type) {
    case QUANT_Q8_0: tile_choose<QUANT_Q8_0, 16>(d, a, padded); break;
    case QUANT_G8: tile_choose<QUANT_G8, 8>(d, a, padded); break;
    case QUANT_G8_128: tile_choose<QUANT_G8_128, 16>(d, a, padded); break;
    default: tile_choose<QUANT_F8_128, 16>(d, a, padded); break;
    }
}
