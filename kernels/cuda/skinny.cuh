/* skinny: what the kernels for few inputs (linear_float.cu, linear_quant.cu) share: arguments, how
 * inputs become pairs of 16 bits, how a block's warps add up. The other linear* and attention* take
 * arguments and pairs from here as well. Private to kernels/cuda.
 *
 * Weights are the 16-row operand of mma.m16n8k16, inputs the 8-column one. A sum over columns does
 * not care for their order, so lane t = lane % 4 of a row's four takes consecutive columns of the
 * weights and loads them by 16 bytes, straight into fragments; inputs take the same order, by way
 * of shared memory (meeting.cuh) or, where they were split before, from memory. A block has one or
 * more tiles of 16 rows; its warps share the columns and add up in shared memory. Inputs are high +
 * low: the nearest bfloat16 (float16) and the nearest of what is left. */
#ifndef SIROCCO_KERNELS_CUDA_SKINNY_CUH
#define SIROCCO_KERNELS_CUDA_SKINNY_CUH

#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/quant.cuh"

enum { SKINNY_WARPS = 8, SKINNY_THREADS = SKINNY_WARPS * CUDA_WARP, SKINNY_JOBS = 3 };

struct skinny_inputs {
    const float *x;            /* [n][cols], read by up to 8 inputs */
    const uint16_t *high, *low; /* [n rounded to 8][padded], by more */
    int n, cols, padded;
};

struct skinny_out {
    float *out;        /* [n][rows] */
    const float *bias; /* or NULL */
    int rows;
    bool add;
};

/* The matrix of job j for this block's pair; x moves to the pair's row. */
static __device__ __forceinline__ const struct quant_view *
skinny_expert(const struct cuda_experts *e, int n_jobs, int j, struct skinny_inputs *x)
{
    int pair = (int)blockIdx.y;
    x->x += (int64_t)(pair / e->used) * x->cols;
    return &e->views[(int64_t)e->ids[pair] * n_jobs + j];
}

/* The outputs of this block's pair; without experts there is but pair 0. */
static __device__ __forceinline__ struct skinny_out skinny_out_of(struct skinny_out o)
{
    o.out += (int64_t)blockIdx.y * o.rows;
    return o;
}

/* Eight inputs as four pairs. */
template <bool BF16>
static __device__ __forceinline__ void split_eight(const float x[8], uint32_t high[4],
                                                   uint32_t low[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        split_pair<BF16>(x[2 * i], x[2 * i + 1], &high[i], &low[i]);
}

/* Add up acc[R][NT][4] of the block's warps and write: a lane holds of tile r and inputs 8 nt ..
 * rows lane / 4 (i < 2) and + 8, inputs 2 (lane % 4) + i % 2; PAIRED: of four inputs, lane % 4's
 * in the even i. Shared memory: SKINNY_WARPS * NT * 128 floats, used once per r. */
template <int NT, int R, bool PAIRED = false>
static __device__ __forceinline__ void reduce_write(float acc[R][NT][4], float *shared,
                                                    const struct skinny_out *o, int n, int row0)
{
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int r = 0; r < R; r++) {
        __syncthreads();
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int i = 0; i < 4; i += PAIRED ? 2 : 1) { /* [warp][input][row] */
                int input = PAIRED ? t : nt * 8 + 2 * t + i % 2;
                shared[(warp * NT * 8 + input) * 16 + g + 8 * (i / 2)] = acc[r][nt][i];
            }
        __syncthreads();
        for (int at = (int)threadIdx.x; at < (PAIRED ? 64 : NT * 128); at += SKINNY_THREADS) {
            int input = at / 16, row = row0 + 16 * r + at % 16;
            float sum = 0;
#pragma unroll
            for (int w = 0; w < SKINNY_WARPS; w++)
                sum += shared[w * NT * 128 + at];
            if (input >= n || row >= o->rows)
                continue;
            float *to = o->out + (int64_t)input * o->rows + row;
            if (o->bias)
                sum += o->bias[row];
            *to = o->add ? *to + sum : sum;
        }
    }
}

static inline size_t skinny_shared(int nt)
{
    return (size_t)SKINNY_WARPS * (size_t)nt * 128 * sizeof(float);
}

#endif
