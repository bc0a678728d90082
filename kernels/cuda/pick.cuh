/* pick: what the kernels that look at whole rows of logits share (pick.cu, draw.cu): a row's best,
 * its log-sum-exp and the NaN guard, by one block. A thread walks its own columns in order, and the
 * block joins the threads in one order, so a row's sums do not depend on its neighbours. */
#ifndef SIROCCO_KERNELS_CUDA_PICK_CUH
#define SIROCCO_KERNELS_CUDA_PICK_CUH

#include "kernels/cuda/cuda.cuh"

struct pick_best {
    float logit;
    int index;
    bool bad;
};

static __device__ __forceinline__ struct pick_best pick_better(struct pick_best a,
                                                               struct pick_best b)
{
    bool take = b.logit > a.logit || (b.logit == a.logit && b.index < a.index);
    struct pick_best r = take ? b : a;
    r.bad = a.bad || b.bad;
    return r;
}

/* In all threads of the block. bests, sums: one entry per warp. */
static __device__ __forceinline__ struct pick_result pick_row(float *row, int vocab, float softcap,
                                                              struct pick_best *bests, float *sums)
{
    struct pick_best mine = {-INFINITY, 0x7fffffff, false};
    int threads = (int)blockDim.x;

    for (int i = (int)threadIdx.x; i < vocab; i += threads) {
        float x = row[i];
        if (softcap > 0)
            row[i] = x = softcap * tanhf(x / softcap);
        struct pick_best it = {x, i, !(fabsf(x) <= 3.402823466e38f)};
        mine = pick_better(mine, it);
    }
    for (int mask = 16; mask; mask /= 2) {
        struct pick_best other;
        other.logit = __shfl_xor_sync(0xffffffffu, mine.logit, mask);
        other.index = __shfl_xor_sync(0xffffffffu, mine.index, mask);
        other.bad = __shfl_xor_sync(0xffffffffu, (int)mine.bad, mask) != 0;
        mine = pick_better(mine, other);
    }
    if (threadIdx.x % CUDA_WARP == 0)
        bests[threadIdx.x / CUDA_WARP] = mine;
    __syncthreads();
    for (int i = 0; i < threads / CUDA_WARP; i++)
        mine = pick_better(mine, bests[i]);
    float sum = 0;
    int end = mine.bad ? 0 : vocab;
#pragma unroll 8
    for (int i = (int)threadIdx.x; i < end; i += threads)
        sum += expf(row[i] - mine.logit);
    sum = block_sum(sum, sums);
    struct pick_result r = {mine.bad ? 0 : mine.index, mine.logit, mine.logit + logf(sum),
                            mine.bad};
    return r;
}

#endif
