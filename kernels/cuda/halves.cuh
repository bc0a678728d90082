/* halves: rows as the products take them, values of 16 bits, written by the op that makes them
 * instead of by a pass of linear.cu over its floats. Private to kernels/cuda. */
#ifndef SIROCCO_KERNELS_CUDA_HALVES_CUH
#define SIROCCO_KERNELS_CUDA_HALVES_CUH

#include "kernels/cuda/cuda.cuh"

template <bool BF16> static __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    return BF16 ? pack_bf16(low, high) : pack_f16(low, high);
}
template <bool BF16> static __device__ __forceinline__ float first_of(uint32_t pair)
{
    return BF16 ? __uint_as_float(pair << 16) : f16_float((uint16_t)pair);
}
template <bool BF16> static __device__ __forceinline__ float second_of(uint32_t pair)
{
    return BF16 ? __uint_as_float(pair & 0xffff0000u) : f16_float((uint16_t)(pair >> 16));
}

/* Two inputs as a pair, high and low parts. */
template <bool BF16>
static __device__ __forceinline__ void split_pair(float a, float b, uint32_t *high, uint32_t *low)
{
    if (!BF16) {
        a = saturate_f16(a);
        b = saturate_f16(b);
    }
    *high = pack_pair<BF16>(a, b);
    *low = pack_pair<BF16>(a - first_of<BF16>(*high), b - second_of<BF16>(*high));
}

/* Two values as a pair of either format: selected, not branched to, which takes fewer registers. */
static __device__ __forceinline__ uint32_t high_pair(bool bf16, float a, float b)
{
    return bf16 ? pack_bf16(a, b) : pack_f16(saturate_f16(a), saturate_f16(b));
}
static __device__ __forceinline__ uint32_t low_pair(bool bf16, uint32_t high, float a, float b)
{
    return bf16 ? pack_bf16(a - first_of<true>(high), b - second_of<true>(high))
                : pack_f16(saturate_f16(a) - first_of<false>(high),
                           saturate_f16(b) - second_of<false>(high));
}

/* The sum of columns at .. at + 31, divided by 32, where linear_tile.cuh looks for it: of the four
 * of a chunk 0, 1, what is left of 0, of 1, 2, 3, what is left of 2, of 3, as float16. */
static __device__ __forceinline__ void store_sum(float *sums, int64_t at, float sum)
{
    int i = (int)(at % CUDA_CHUNK / 32);
    uint16_t *to = (uint16_t *)sums + at / CUDA_CHUNK * 8 + i / 2 * 4 + i % 2;
    to[0] = float_f16(sum / 32);
    to[2] = float_f16(sum / 32 - f16_float(to[0]));
}

/* The high parts of value at; of at and at + 1; of at .. at + 3 of all rows. */
static __device__ __forceinline__ void store_one(const struct cuda_halves *o, int64_t at, float x)
{
    o->high[at] = (uint16_t)high_pair(o->bf16, x, 0);
}
static __device__ __forceinline__ void store_two(const struct cuda_halves *o, int64_t at, float2 x)
{
    *(uint32_t *)(o->high + at) = high_pair(o->bf16, x.x, x.y);
}
static __device__ __forceinline__ uint2 store_four(const struct cuda_halves *o, int64_t at,
                                                   float4 x)
{
    uint2 high = o->bf16 ? uint2{pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)}
                         : uint2{pack_f16(saturate_f16(x.x), saturate_f16(x.y)),
                                 pack_f16(saturate_f16(x.z), saturate_f16(x.w))};
    *(uint2 *)(o->high + at) = high;
    return high;
}

/* All that is wanted, for lanes of a whole warp that hold 128 columns in order. */
static __device__ __forceinline__ void store_all(const struct cuda_halves *o, int64_t at, float4 x)
{
    uint2 h = store_four(o, at, x);
    if (o->low)
        *(uint2 *)(o->low + at) =
            uint2{low_pair(o->bf16, h.x, x.x, x.y), low_pair(o->bf16, h.y, x.z, x.w)};
    if (!o->sums) /* only formats that take float16 want them */
        return;
    float sum =
        first_of<false>(h.x) + second_of<false>(h.x) + first_of<false>(h.y) + second_of<false>(h.y);
    for (int mask = 1; mask < 8; mask *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (at % 32 == 0)
        store_sum(o->sums, at, sum);
}

#endif
