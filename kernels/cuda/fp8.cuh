/* fp8: rows rounded to E4M3, each divided by its greatest magnitude / 448: what checkpoints in FP8
 * are made for ("dynamic per-token quantization"). A row with a value that is not finite gets the
 * scale NaN. By blocks of whole warps, one to a row. Private to kernels/cuda. */
#ifndef SIROCCO_KERNELS_CUDA_FP8_CUH
#define SIROCCO_KERNELS_CUDA_FP8_CUH

#include "kernels/cuda/ptx.cuh"

#define FP8_MAX 448.0f

/* What a thread has seen of its row. */
struct fp8_seen {
    float most; /* magnitude */
    float odd;  /* NaN where something is not finite, else 0 */
};

static __device__ __forceinline__ void fp8_see(struct fp8_seen *s, float4 v)
{
    s->most =
        fmaxf(fmaxf(s->most, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
    s->odd += 0 * v.x + 0 * v.y + 0 * v.z + 0 * v.w;
}

/* What the row's values are multiplied by, and its scale; scratch: two floats per warp. */
static __device__ __forceinline__ float fp8_up(struct fp8_seen s, float *scratch, float *scale)
{
    int warps = (int)blockDim.x / CUDA_WARP;
    for (int mask = 16; mask; mask /= 2)
        s.most = fmaxf(s.most, __shfl_xor_sync(0xffffffffu, s.most, mask));
    if (threadIdx.x % CUDA_WARP == 0)
        scratch[warps + threadIdx.x / CUDA_WARP] = s.most;
    s.odd = block_sum(s.odd, scratch); /* its barriers are for both */
    for (int i = 0; i < warps; i++)
        s.most = fmaxf(s.most, scratch[warps + i]);
    *scale = s.most / FP8_MAX + s.odd;
    return s.most > 1e-30f ? FP8_MAX / s.most : 0;
}

static __device__ __forceinline__ uint32_t fp8_four(float4 v, float up)
{
    return four_f32_fp8(v.x * up, v.y * up, v.z * up, v.w * up);
}

#endif
