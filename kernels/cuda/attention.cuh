/* attention: what its files share: a launch's parameters, by value, and how keys are shared out.
 * Private to kernels/cuda. */
#ifndef SIROCCO_KERNELS_CUDA_ATTENTION_CUH
#define SIROCCO_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/skinny.cuh"

#define LOG2_E 1.4426950408889634f

struct attention_params {
    float *out;     /* [n][n_heads][head_dim], but with halves.high */
    struct cuda_halves halves;
    const float *q; /* [n][n_heads][head_dim] */
    const struct cuda_seq *seqs;
    const struct cuda_row *rows;
    const struct cuda_tile *tiles;
    const int32_t *blocks;
    const char *k, *v; /* of the layer */
    const uint16_t *k_scales, *v_scales; /* the same; Q8_0 only */
    int n_heads, n_kv_heads, group, head_dim, block_shift, window;
    int n_splits, step, least; /* see attention_share */
    float scale, softcap;
    /* n_splits > 1: per row of the plan, head and split the sum of weighted values [head_dim],
     * and behind all of these the greatest score and the sum of weights [2] */
    float *partial, *partial_totals;
};

/* Value at of the output. */
static __device__ __forceinline__ void attention_put(const struct attention_params *p, int64_t at,
                                                     float x)
{
    if (p->halves.high)
        store_one(&p->halves, at, x);
    else
        p->out[at] = x;
}

static __device__ __forceinline__ void attention_put_two(const struct attention_params *p,
                                                         int64_t at, float2 x)
{
    if (p->halves.high)
        store_two(&p->halves, at, x);
    else
        *(float2 *)(p->out + at) = x;
}

struct attention_range { /* positions first .. last, of which steps from .. to - 1 are one's own */
    int first, last, from, to;
};

/* What the query at position `last` sees, in steps of `step` positions, cut for `n` takers: `least`
 * steps for each, so that the last takers of a short sequence have none, and write nothing. */
static __device__ __forceinline__ struct attention_range
attention_share(const struct attention_params *p, int last, int taker)
{
    int window = p->window, step = p->step, n = p->n_splits;
    struct attention_range r;
    r.last = last;
    r.first = window > 0 && last >= window ? last - window + 1 : 0;
    int from = r.first / step, n_steps = last / step + 1 - from, each = (n_steps + n - 1) / n;
    each = each < p->least ? p->least : each;
    r.from = from + taker * each;
    r.to = r.from + each < from + n_steps ? r.from + each : from + n_steps;
    return r;
}

/* How many takers have any step at all: the first ones. */
static __device__ __forceinline__ int attention_takers(const struct attention_params *p, int last)
{
    struct attention_range r = attention_share(p, last, 0);
    int each = r.to - r.from;
    return (last / p->step - r.from + each) / each;
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

/* Products of queries and keys become scores to the base 2. */
template <int N>
static __device__ __forceinline__ void attention_cap(const struct attention_params *p,
                                                     float s[N][4])
{
    float scale = p->scale * LOG2_E;
    if (p->softcap > 0) {
#pragma unroll
        for (int i = 0; i < 4 * N; i++)
            s[i / 4][i % 4] = attention_capped(p, s[i / 4][i % 4]) * LOG2_E;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        s[i / 4][i % 4] *= scale;
}

/* Eight values of FP8 or Q8_0, of which a and b hold four each, as float16. E4M3 is exact there;
 * int8 times its scale is rounded. */
template <enum quant_type T>
static __device__ __forceinline__ uint4 eight_f16(uint32_t a, uint32_t b, uint16_t scale)
{
    uint32_t h[4];
    if (T == QUANT_FP8) {
        four_fp8_f16(a, h);
        four_fp8_f16(b, h + 2);
    } else {
        four_int8_f16(a, scale, h);
        four_int8_f16(b, scale, h + 2);
    }
    return make_uint4(h[0], h[1], h[2], h[3]);
}

#endif
