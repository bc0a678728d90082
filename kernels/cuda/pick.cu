/* pick: greedy choice, log-sum-exp and the NaN guard; one block per row of logits. Engine thread.
 * A thread walks its own columns in order, and the block joins the threads in one order, so a row's
 * sums do not depend on its neighbours. */
#include "kernels/cuda/cuda.cuh"

enum { THREADS = 512, WARPS = THREADS / CUDA_WARP };

struct best {
    float logit;
    int index;
    bool bad;
};

static __device__ __forceinline__ struct best better(struct best a, struct best b)
{
    bool take = b.logit > a.logit || (b.logit == a.logit && b.index < a.index);
    struct best r = take ? b : a;
    r.bad = a.bad || b.bad;
    return r;
}

static __global__ void pick(float *logits, struct pick_result *result, int vocab, float softcap)
{
    CUDA_SHARED(float, scratch);
    struct best *bests = (struct best *)(scratch + WARPS);
    float *row = logits + (int64_t)blockIdx.x * vocab;
    struct best mine = {-INFINITY, 0x7fffffff, false};

    for (int i = (int)threadIdx.x; i < vocab; i += THREADS) {
        float x = row[i];
        if (softcap > 0)
            row[i] = x = softcap * tanhf(x / softcap);
        struct best it = {x, i, !(fabsf(x) <= 3.402823466e38f)};
        mine = better(mine, it);
    }
    for (int mask = 16; mask; mask /= 2) {
        struct best other;
        other.logit = __shfl_xor_sync(0xffffffffu, mine.logit, mask);
        other.index = __shfl_xor_sync(0xffffffffu, mine.index, mask);
        other.bad = __shfl_xor_sync(0xffffffffu, (int)mine.bad, mask) != 0;
        mine = better(mine, other);
    }
    if (threadIdx.x % CUDA_WARP == 0)
        bests[threadIdx.x / CUDA_WARP] = mine;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        mine = better(mine, bests[i]);
    float sum = 0;
    for (int i = (int)threadIdx.x; i < vocab && !mine.bad; i += THREADS)
        sum += expf(row[i] - mine.logit);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        struct pick_result r = {mine.bad ? 0 : mine.index, mine.logit, mine.logit + logf(sum),
                                mine.bad};
        result[blockIdx.x] = r;
    }
}

int cuda_pick(struct device *d, const struct pick_args *a)
{
    if (cuda_failed(d))
        return -1;
    if (a->n < 1 || a->vocab < 1)
        return 0;
    if (a->n > d->n_max)
        return cuda_fail(d, "pick of %d rows, %d are reserved", a->n, d->n_max);
    if (!cuda_owns(d, a->logits, (size_t)a->n * (size_t)a->vocab * sizeof(float), "pick"))
        return -1;
    size_t shared = WARPS * (sizeof(float) + sizeof(struct best));
    CUDA_LAUNCH(pick, dim3((unsigned)a->n), dim3(THREADS), shared, d->stream, a->logits, d->picks,
                a->vocab, a->softcap);
    if (cuda_launched(d, "pick"))
        return -1;
    return cuda_check(d,
                      cudaMemcpyAsync(a->result, d->picks, (size_t)a->n * sizeof *a->result,
                                      cudaMemcpyDeviceToHost, d->stream),
                      "pick");
}
