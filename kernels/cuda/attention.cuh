/* attention: what its files share: a launch's parameters, by value, and how keys are shared out.
 * Private to kernels/cuda. */
#ifndef SIROCCO_KERNELS_CUDA_ATTENTION_CUH
#define SIROCCO_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.cuh"

struct attention_params {
    float *out;     /* [n][n_heads][head_dim] */
    const float *q; /* [n][n_heads][head_dim] */
    const struct cuda_seq *seqs;
    const struct cuda_row *rows;
    const struct cuda_tile *tiles;
    const int32_t *blocks;
    const char *k, *v; /* of the layer */
    int n_heads, n_kv_heads, group, head_dim, block_shift, window, n_splits;
    float scale, softcap;
    /* n_splits > 1: per row of the plan, head and split the sum of weighted values [head_dim],
     * and behind all of these the greatest score and the sum of weights [2] */
    float *partial, *partial_totals;
};

struct attention_range { /* positions first .. last, of which steps from .. to - 1 are one's own */
    int first, last, from, to;
};

/* What the query at position `last` sees, in steps of `step` positions, cut for `n` takers: `least`
 * steps for each, so that the last takers of a short sequence have none. */
static __device__ __forceinline__ struct attention_range
attention_share(int last, int window, int step, int least, int taker, int n)
{
    struct attention_range r;
    r.last = last;
    r.first = window > 0 && last >= window ? last - window + 1 : 0;
    int from = r.first / step, n_steps = last / step + 1 - from, each = (n_steps + n - 1) / n;
    each = each < least ? least : each;
    r.from = from + taker * each;
    r.to = r.from + each < from + n_steps ? r.from + each : from + n_steps;
    return r;
}

/* Values of one position start here, counted in values. */
static __device__ __forceinline__ int64_t attention_place(const struct attention_params *p,
                                                          int64_t block, int kv_head, int pos)
{
    int offset = pos & ((1 << p->block_shift) - 1);
    return (((block * p->n_kv_heads + kv_head) << p->block_shift) + offset) * p->head_dim;
}

static __device__ __forceinline__ float attention_capped(const struct attention_params *p, float x)
{
    x *= p->scale;
    return p->softcap > 0 ? p->softcap * tanhf(x / p->softcap) : x;
}

#endif
