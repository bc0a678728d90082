/* meeting: how the lanes of a warp split up to eight inputs together, four columns of 128 each, and
 * exchange them in shared memory as operands of the tensor cores. Private to linear_float.cu and
 * linear_quant.cu.
 *
 * Of up to four inputs (PAIRED) the high parts are the even of the operand's eight columns and the
 * low parts the odd ones, so that one product serves both. */
#ifndef SIROCCO_KERNELS_CUDA_MEETING_CUH
#define SIROCCO_KERNELS_CUDA_MEETING_CUH

#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/skinny.cuh"

enum { INPUT_BYTES = CUDA_CHUNK * 2 }; /* of an input's chunk */

/* A warp's place for the inputs of a chunk: rows as the tensor cores' columns, and sums over 32
 * columns. N: how many inputs at most. */
template <int N> struct meeting {
    static constexpr bool PAIRED = N <= 4;
    unsigned char rows[PAIRED ? 8 : 16][INPUT_BYTES];
    float sums[N][4];
};

/* The lane's share of the chunk that begins at col: loaded long before it is put. Columns beyond
 * the last are zeros. */
template <int N>
static __device__ __forceinline__ void load_inputs(const struct skinny_inputs *x, int col, int lane,
                                                   float4 v[N])
{
    const float *from = x->x + col + 4 * lane;
    bool inside = col + 4 * lane < x->cols;
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = make_float4(0, 0, 0, 0);
        if (inside && i < x->n)
            v[i] = *(const float4 *)(from + (int64_t)i * x->cols);
    }
}

/* What lies in the place of an input that is not there stays, whatever it is: the columns of an mma
 * do not meet, and an output of such an input is not written. */
template <bool BF16, bool SUMS, int N>
static __device__ __forceinline__ void put_inputs(struct meeting<N> *m, int n, int lane,
                                                  const float4 v[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        uint2 parts[2];
        if (i >= n)
            break;
        split_pair<BF16>(v[i].x, v[i].y, &parts[0].x, &parts[1].x);
        split_pair<BF16>(v[i].z, v[i].w, &parts[0].y, &parts[1].y);
#pragma unroll
        for (int low = 0; low < 2; low++) {
            int row = meeting<N>::PAIRED ? 2 * i + low : i + 8 * low;
            *(uint2 *)(m->rows[row] + 16 * ((lane / 2) ^ tile_swizzle(row)) + 8 * (lane % 2)) =
                parts[low];
        }
        if (!SUMS)
            continue;
        float sum = (v[i].x + v[i].y) + (v[i].z + v[i].w);
#pragma unroll
        for (int mask = 1; mask < 8; mask *= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane % 8 == 0)
            m->sums[i][lane / 8] = sum;
    }
}

#endif
