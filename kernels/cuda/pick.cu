/* pick: greedy choice, log-sum-exp and the NaN guard; one block per row. Engine thread. */
#include "kernels/cuda/pick.cuh"

enum { THREADS = 512, WARPS = THREADS / CUDA_WARP };

static __global__ void pick(float *logits, struct pick_result *result, int vocab, float softcap)
{
    CUDA_SHARED(float, sums);
    struct pick_best *bests = (struct pick_best *)(sums + WARPS);
    struct pick_result r =
        pick_row(logits + (int64_t)blockIdx.x * vocab, vocab, softcap, bests, sums);
    if (threadIdx.x == 0)
        result[blockIdx.x] = r;
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
    size_t shared = WARPS * (sizeof(float) + sizeof(struct pick_best));
    CUDA_LAUNCH(pick, dim3((unsigned)a->n), dim3(THREADS), shared, d->stream, a->logits, d->picks,
                a->vocab, a->softcap);
    if (cuda_launched(d, "pick"))
        return -1;
    return cuda_check(d,
                      cudaMemcpyAsync(a->result, d->picks, (size_t)a->n * sizeof *a->result,
                                      cudaMemcpyDeviceToHost, d->stream),
                      "pick");
}
