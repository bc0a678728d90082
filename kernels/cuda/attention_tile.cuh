/* attention_tile: what the kernels of tiles share (attention_tiles.cu, attention_wgmma.cu): what a
 * tile sees, its queries, how scores become weights, how its rows are written. Private to
 * kernels/cuda.
 *
 * Scores and outputs are in fragments of mma.m16n8k16, which wgmma has for each warp, too: lane 4 g
 * + t holds rows g and g + 8 of the warp's 16, and of each 8 columns 2 t and 2 t + 1. */
#ifndef SIROCCO_KERNELS_CUDA_ATTENTION_TILE_CUH
#define SIROCCO_KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/attention.cuh"

#include <limits.h>

enum { ATTENTION_TILE_ROWS = 128 }; /* of heads of up to 128 values; cuda_flash_tile_rows */

/* The block's tile: rows first_row .. end - 1 of a sequence, row = query * group + head of the
 * group, one KV head; and where keys and values are found. */
struct attention_tile {
    const int32_t *blocks;
    int kv_head, first_row, end; /* end: of all the sequence's rows */
    int q_start, start;          /* the sequence's first query; its position */
    int first, last;             /* positions that any row of the tile sees */
};

/* Positions so far back are not seen. */
static __device__ __forceinline__ int attention_unseen(const struct attention_params *p)
{
    return p->window > 0 ? p->window : INT_MAX;
}

/* grid (tiles, KV heads); the last tiles see most: they start first */
template <int ROWS>
static __device__ __forceinline__ struct attention_tile
attention_tile_of(const struct attention_params *p)
{
    const struct cuda_tile tile = p->tiles[gridDim.x - 1 - blockIdx.x];
    const struct cuda_seq seq = p->seqs[tile.seq];
    struct attention_tile at;
    at.blocks = p->blocks + seq.blocks;
    at.kv_head = (int)blockIdx.y;
    at.first_row = tile.first;
    at.end = seq.q_len * p->group;
    at.q_start = seq.q_start;
    at.start = seq.kv_len - seq.q_len;
    int bottom = tile.first + ROWS < at.end ? tile.first + ROWS : at.end;
    at.last = at.start + (bottom - 1) / p->group;
    at.first = at.start + tile.first / p->group - p->window + 1;
    at.first = p->window > 0 && at.first > 0 ? at.first : 0;
    return at;
}

/* Values 8 c .. + 7 of a row's query; NULL: beyond the rows or beyond the head, where zeros count.
 */
static __device__ __forceinline__ const float *
attention_query(const struct attention_params *p, const struct attention_tile *at, int row, int c)
{
    if (row >= at->end || 8 * c >= p->head_dim)
        return NULL;
    int64_t token = at->q_start + row / p->group;
    int head = at->kv_head * p->group + row % p->group;
    return p->q + (token * p->n_heads + head) * p->head_dim + 8 * c;
}

/* Eight of a query's values, rounded. */
template <bool BF16> static __device__ __forceinline__ uint4 attention_round(float4 a, float4 b)
{
    float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    uint32_t h[4], low[4];
    split_eight<BF16>(x, h, low);
    return make_uint4(h[0], h[1], h[2], h[3]);
}

/* The positions that rows row and row + 8 see. */
static __device__ __forceinline__ void attention_limits(const struct attention_params *p,
                                                        const struct attention_tile *at, int row,
                                                        int first[2], int last[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        last[h] = row + 8 * h < at->end ? at->start + (row + 8 * h) / p->group : -1;
        first[h] = last[h] - attention_unseen(p) + 1;
    }
}

/* s times by, which is above 0, are the scores to the base 2 of rows g and g + 8 with the keys of
 * positions pos0 .. pos0 + 8 N - 1: they become weights. keep: what was summed so far is to be
 * scaled by, as the maximum may have grown. whole: the rows see every position. */
template <int N>
static __device__ __forceinline__ void attention_weigh(int pos0, bool whole, const int first[2],
                                                       const int last[2], float by, float s[N][4],
                                                       float most[2], float total[2], float keep[2])
{
    int t = (int)threadIdx.x % 4;
    if (!whole)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int pos = pos0 + 8 * n + 2 * t + i % 2;
                s[n][i] = pos >= first[i / 2] && pos <= last[i / 2] ? s[n][i] : -INFINITY;
            }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float greatest = -INFINITY;
#pragma unroll
        for (int n = 0; n < N; n++)
            greatest = fmaxf(greatest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
        greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
        greatest = fmaxf(most[h], greatest * by);
        /* a row that sees nothing yet, or NaN scores alone: nothing to subtract, NaN stays NaN */
        float base = greatest > -INFINITY ? greatest : 0, sum = 0;
        keep[h] = exp2_fast(most[h] - base);
        most[h] = greatest;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                s[n][i] = exp2_fast(fmaf(s[n][i], by, -base));
                sum += s[n][i];
            }
        total[h] = total[h] * keep[h] + sum;
    }
}

template <int N>
static __device__ __forceinline__ void attention_keep(float out[N][4], const float keep[2])
{
#pragma unroll
    for (int i = 0; i < 4 * N; i++)
        out[i / 4][i % 4] *= keep[i % 4 / 2];
}

/* Weights of 16 positions as the left factor of a product: register i is of row g + 8 (i % 2),
 * positions 8 (i / 2) + 2 t and + 1. */
template <bool BF16>
static __device__ __forceinline__ void attention_pack(const float s[2][4], uint32_t a[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = pack_pair<BF16>(s[i / 2][2 * (i % 2)], s[i / 2][2 * (i % 2) + 1]);
}

/* Rows row and row + 8, whose totals are of the lane's own columns. */
template <int HD>
static __device__ __forceinline__ void attention_write(const struct attention_params *p,
                                                       const struct attention_tile *at, int row,
                                                       const float totals[2], float out[HD / 8][4])
{
    int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float total = totals[h];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (row + 8 * h >= at->end)
            continue;
        int64_t token = at->q_start + (row + 8 * h) / p->group;
        int head = at->kv_head * p->group + (row + 8 * h) % p->group;
        int64_t place = (token * p->n_heads + head) * p->head_dim + 2 * t;
        float by = 1 / total;
#pragma unroll
        for (int j = 0; j < HD / 8; j++)
            if (8 * j < p->head_dim)
                attention_put_two(p, place + 8 * j,
                                  make_float2(out[j][2 * h] * by, out[j][2 * h + 1] * by));
    }
}

/* n tiles of each KV head, a block of so many threads and bytes of shared memory for each. */
template <typename K>
static int attention_launch(struct device *d, const struct attention_params *p, K *kernel,
                            int threads, int shared, int n)
{
    if (cuda_check(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           shared), "attention's shared memory"))
        return -1;
    CUDA_LAUNCH(kernel, dim3((unsigned)n, (unsigned)p->n_kv_heads), dim3((unsigned)threads),
                (size_t)shared, d->stream, *p);
    return cuda_launched(d, "attention");
}

#endif
