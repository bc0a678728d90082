/* attention_wgmma: attention of long parts on the products of compute capability 9.0 (wgmma.cuh),
 * for a KV cache of F16 or BF16 and heads of up to 128 values; all else is attention_tiles.cu's.
 * Engine thread. Reader of the KV layout (writer: rope.cu).
 *
 * A block is a tile of 128 rows, 64 for each of its two warpgroups, and goes through the positions
 * in steps of 128 at absolute positions, as attention_tiles.cu does in steps of 32. Keys and values
 * come by cp.async, which finds them through the block table, to rings of two tiles each. Queries,
 * keys and values are in shared memory, scores S, weights P and outputs O in registers.
 *
 * While a step's weights are made from its scores, the tensor cores add up the step before, and
 * other warps' products run besides (Shah et al. 2024, FlashAttention-3, "intra-warpgroup
 * overlap"). Step j, after the barrier behind which K of j + 1 and V of j are there for all, and
 * those of the steps before are read by all:
 *   S = Q K(j+1)                     under way
 *   K(j+2), V(j+1)                   asked for
 *   O = O + P V(j)                   under way
 *   S is waited for: its weights and maxima are made
 *   O is waited for: O, scaled to the new maxima; P = the new weights
 * So keys go one step ahead of values, and there is one barrier a step. */
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/wgmma.cuh"

enum { THREADS = 2 * WGMMA_THREADS, ROWS = 2 * WGMMA_ROWS, STEP = 128, N_TILES = STEP / 8 };

template <int HD> struct wgmma_shape {
    enum {
        ROW_PIECES = HD / 8, /* pieces of 16 bytes */
        ROWS_AT_ONCE = THREADS / ROW_PIECES,
        PIECES = STEP / ROWS_AT_ONCE,       /* of a K (or V) tile, a thread's */
        WARP_ROWS = CUDA_WARP / ROW_PIECES, /* of a warp's pieces */
        TILE = STEP * HD,                   /* values */
        PANEL = STEP * WGMMA_PANEL * 2,     /* bytes */
        SHARED = WGMMA_ALIGN + (ROWS * HD + 4 * TILE) * 2,
    };
};
static_assert((int)ROWS == (int)STEP, "tiles of queries and of keys have panels of one size");
static_assert((int)ROWS == (int)ATTENTION_TILE_ROWS, "the plan's tiles");

#if WGMMA_THERE
/* The block table's entries for the step at pos0: lane i has that of the rows which the warp's
 * pieces i are of; they lie in one group of eight positions, and so in one block. */
template <int HD>
static __device__ __forceinline__ int32_t step_blocks(const struct attention_params *p,
                                                      const struct attention_tile *at, int pos0)
{
    typedef struct wgmma_shape<HD> shape;
    static_assert(8 % shape::WARP_ROWS == 0, "rows of one group of eight positions");
    int warp = (int)threadIdx.x / CUDA_WARP, i = (int)threadIdx.x % shape::PIECES;
    int pos = (pos0 + i * shape::ROWS_AT_ONCE + warp * shape::WARP_ROWS) & ~7;
    bool seen = pos + 7 >= at->first && pos <= at->last;
    return seen ? at->blocks[pos >> p->block_shift] : 0;
}

/* How a thread finds its pieces: the same for keys and values but for where these begin. */
struct wgmma_pieces {
    const char *keys, *values; /* the thread's piece of position 0 of block 0 */
    uint32_t row_bytes, block_bytes;
    int in_block;    /* a position's place in its block: these bits */
    int row;         /* of a tile, the first of them */
    int place;       /* in a tile, in values */
    int first, last; /* positions that are read; else there are zeros */
};

template <int HD>
static __device__ __forceinline__ struct wgmma_pieces pieces_of(const struct attention_params *p,
                                                                const struct attention_tile *at)
{
    typedef struct wgmma_shape<HD> shape;
    struct wgmma_pieces in;
    int c = (int)threadIdx.x % shape::ROW_PIECES;
    in.row = (int)threadIdx.x / shape::ROW_PIECES;
    in.row_bytes = 2 * (uint32_t)p->head_dim;
    in.block_bytes = (in.row_bytes * (uint32_t)p->n_kv_heads) << p->block_shift;
    in.in_block = (1 << p->block_shift) - 1;
    int64_t begin = ((int64_t)at->kv_head << p->block_shift) * in.row_bytes + 16 * c;
    in.keys = p->k + begin;
    in.values = p->v + begin;
    wgmma_own(in.keys);
    wgmma_own(in.values);
    in.place = wgmma_place<STEP>(in.row, c);
    in.first = at->first;
    in.last = 8 * c < p->head_dim ? at->last : -1;
    return in;
}

/* Start the thread's share of the keys (or values) of the step at pos0: to a tile, zeros where no
 * row of the tile of queries sees. */
template <int HD>
static __device__ __forceinline__ void fetch(const struct wgmma_pieces *in, const char *from,
                                             int pos0, int32_t blocks, uint16_t *tile)
{
    typedef struct wgmma_shape<HD> shape;
#pragma unroll
    for (int i = 0; i < shape::PIECES; i++) {
        int pos = pos0 + in->row + i * shape::ROWS_AT_ONCE;
        uint32_t block = (uint32_t)__shfl_sync(0xffffffffu, blocks, i);
        const char *at = from + (uint64_t)block * in->block_bytes;
        at += (uint64_t)(uint32_t)(pos & in->in_block) * in->row_bytes;
        copy_async_16(tile + in->place + i * shape::ROWS_AT_ONCE * WGMMA_PANEL, at,
                      pos >= in->first && pos <= in->last);
    }
}

/* The thread's share of the queries, 8 values a piece, zeros beyond the rows and the head. No
 * branch and one division, so that the loads follow each other. */
template <int HD>
static __device__ __forceinline__ void load_queries(const struct attention_params *p,
                                                    const struct attention_tile *at,
                                                    uint4 loaded[wgmma_shape<HD>::PIECES][2])
{
    typedef struct wgmma_shape<HD> shape;
    int row = at->first_row + (int)threadIdx.x / shape::ROW_PIECES;
    int c = (int)threadIdx.x % shape::ROW_PIECES;
    int query = row / p->group, head = row % p->group; /* of the sequence; of the group */
    const float *from =
        p->q + ((int64_t)at->q_start * p->n_heads + at->kv_head * p->group) * p->head_dim + 8 * c;
#pragma unroll
    for (int j = 0; j < shape::PIECES; j++) {
        const float *values = from + ((int64_t)query * p->n_heads + head) * p->head_dim;
        bool valid = row < at->end && 8 * c < p->head_dim;
        loaded[j][0] = load_if(values, valid);
        loaded[j][1] = load_if(values + 4, valid);
        row += shape::ROWS_AT_ONCE;
        query += shape::ROWS_AT_ONCE / p->group;
        head += shape::ROWS_AT_ONCE % p->group;
        query += head >= p->group;
        head -= head >= p->group ? p->group : 0;
    }
}

/* To their tile, rounded. */
template <bool BF16, int HD>
static __device__ __forceinline__ void
store_queries(const uint4 loaded[wgmma_shape<HD>::PIECES][2], uint16_t *queries)
{
    typedef struct wgmma_shape<HD> shape;
#pragma unroll
    for (int j = 0; j < shape::PIECES; j++) {
        int i = (int)threadIdx.x + j * THREADS;
        float4 x[2];
        memcpy(x, loaded[j], sizeof x);
        int place = wgmma_place<ROWS>(i / shape::ROW_PIECES, i % shape::ROW_PIECES);
        store_shared_16(queries + place, attention_round<BF16>(x[0], x[1]));
    }
}

/* S of the warpgroup's rows: one group of products, under way. */
template <bool BF16, int HD>
static __device__ __forceinline__ void start_scores(uint64_t queries, uint64_t keys,
                                                    float s[N_TILES][4])
{
    wgmma_fence();
    wgmma_keys<BF16, false>(s, queries, keys);
#pragma unroll
    for (int k = 1; k < HD / WGMMA_K; k++) {
        int on = (k / 4 * (int)wgmma_shape<HD>::PANEL + k % 4 * 32) / 16;
        wgmma_keys<BF16, true>(s, queries + on, keys + on);
    }
    wgmma_commit();
}

/* O + P V, likewise. */
template <bool BF16, int HD>
static __device__ __forceinline__ void start_values(const uint32_t weights[STEP / 16][4],
                                                    uint64_t values, float out[HD / 8][4])
{
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEP / WGMMA_K; k++)
        wgmma_values<BF16, HD>(out, weights[k], values + k * 2048 / 16);
    wgmma_commit();
}

/* A thread's two rows. */
struct wgmma_rows {
    int row0;                  /* the warp's first */
    int last_top, last_bottom; /* positions of the warp's first and last query */
    int first[2], last[2];
    float most[2], total[2]; /* total: of the lane's own columns until the end */
};

/* softcap * tanh(s * scale / softcap), to the base 2. tanh x = 1 - 2 / (1 + e^2x) is off by some
 * 2^-23 of the cap, which is enough for scores of 16-bit queries. */
static __device__ __forceinline__ void cap(const struct attention_params *p, float s[N_TILES][4])
{
    float in = 2 * LOG2_E * p->scale / p->softcap, out = p->softcap * LOG2_E;
#pragma unroll
    for (int i = 0; i < 4 * N_TILES; i++)
        s[i / 4][i % 4] = out - 2 * out * __fdividef(1, 1 + exp2_fast(s[i / 4][i % 4] * in));
}

template <bool CAPPED>
static __device__ __forceinline__ void weigh(const struct attention_params *p, int pos0,
                                             struct wgmma_rows *rows, float s[N_TILES][4],
                                             float keep[2])
{
    bool whole =
        pos0 + STEP - 1 <= rows->last_top && pos0 > rows->last_bottom - attention_unseen(p);
    if (CAPPED)
        cap(p, s);
    attention_weigh<N_TILES>(pos0, whole, rows->first, rows->last, CAPPED ? 1 : p->scale * LOG2_E,
                             s, rows->most, rows->total, keep);
}

template <bool BF16>
static __device__ __forceinline__ void pack(const float s[N_TILES][4],
                                            uint32_t weights[STEP / 16][4])
{
#pragma unroll
    for (int k = 0; k < STEP / 16; k++)
        attention_pack<BF16>(&s[2 * k], weights[k]);
    wgmma_hold<STEP / 16>(weights);
}

static __device__ __forceinline__ struct wgmma_rows rows_of(const struct attention_params *p,
                                                            const struct attention_tile *at)
{
    struct wgmma_rows rows;
    int warp = (int)threadIdx.x / CUDA_WARP, g = (int)threadIdx.x % CUDA_WARP / 4;
    rows.row0 = at->first_row + 16 * warp;
    int bottom = rows.row0 + 16 < at->end ? rows.row0 + 16 : at->end;
    rows.last_top = at->start + rows.row0 / p->group;
    rows.last_bottom = at->start + (bottom - 1) / p->group;
    attention_limits(p, at, rows.row0 + g, rows.first, rows.last);
    rows.most[0] = rows.most[1] = -INFINITY;
    rows.total[0] = rows.total[1] = 0;
    return rows;
}
#endif

/* grid (tiles, KV heads) */
template <bool BF16, int HD, bool CAPPED>
static __global__ void __launch_bounds__(THREADS, 1) flash_wgmma(struct attention_params p)
{
#if WGMMA_THERE
    typedef struct wgmma_shape<HD> shape;
    CUDA_SHARED(char, shared);
    uint16_t *queries = (uint16_t *)(shared + (-shared_address(shared) & (WGMMA_ALIGN - 1)));
    uint16_t *keys = queries + ROWS * HD, *values = keys + 2 * shape::TILE;
    /* the same in all lanes, which the compiler cannot see by itself */
    int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / WGMMA_THREADS, 0);
    struct attention_tile at = attention_tile_of<ROWS>(&p);
    wgmma_own(at.q_start);
    const uint64_t q = wgmma_tile(queries + group * WGMMA_ROWS * WGMMA_PANEL, shape::PANEL);
    const uint64_t k = wgmma_tile(keys, shape::PANEL), v = wgmma_tile(values, shape::PANEL);
    enum { OTHER = shape::TILE * 2 / 16 }; /* the other tile of a ring, in descriptors */
    struct wgmma_rows rows = rows_of(&p, &at);
    float s[N_TILES][4], out[HD / 8][4], keep[2];
    uint32_t weights[STEP / 16][4];

    /* entries of the block table: of the next step, and of the one after it */
    int pos = at.first / STEP * STEP;
    int32_t now = step_blocks<HD>(&p, &at, pos), next = step_blocks<HD>(&p, &at, pos + STEP);
    const struct wgmma_pieces in = pieces_of<HD>(&p, &at);
    uint4 loaded[shape::PIECES][2];
    load_queries<HD>(&p, &at, loaded);
    fetch<HD>(&in, in.keys, pos, now, keys);
    copy_async_commit();
    fetch<HD>(&in, in.values, pos, now, values);
    now = next;
    next = step_blocks<HD>(&p, &at, pos + 2 * STEP);
    if (pos + STEP <= at.last)
        fetch<HD>(&in, in.keys, pos + STEP, now, keys + shape::TILE);
    copy_async_commit();
    store_queries<BF16, HD>(loaded, queries);
#pragma unroll
    for (int i = 0; i < HD / 2; i++)
        out[i / 4][i % 4] = 0;
    wgmma_hold<HD / 8>(out);
    copy_async_wait<1>();
    async_proxy_fence();
    __syncthreads();
    start_scores<BF16, HD>(q, k, s);
    wgmma_wait<0>();
    wgmma_hold<N_TILES>(s);
    weigh<CAPPED>(&p, pos, &rows, s, keep);
    pack<BF16>(s, weights);

    int turn = 0; /* the tile of the ring that holds this step's values */
    for (; pos + STEP <= at.last; pos += STEP, turn ^= 1) {
        copy_async_wait<0>();
        async_proxy_fence();
        __syncthreads();
        start_scores<BF16, HD>(q, k + (turn ? 0 : OTHER), s);
        fetch<HD>(&in, in.values, pos + STEP, now, values + (turn ? 0 : shape::TILE));
        if (pos + 2 * STEP <= at.last)
            fetch<HD>(&in, in.keys, pos + 2 * STEP, next, keys + (turn ? shape::TILE : 0));
        now = next;
        next = step_blocks<HD>(&p, &at, pos + 3 * STEP);
        copy_async_commit();
        start_values<BF16, HD>(weights, v + (turn ? OTHER : 0), out);
        wgmma_wait<1>();
        wgmma_hold<N_TILES>(s);
        weigh<CAPPED>(&p, pos + STEP, &rows, s, keep);
        wgmma_behind(rows.total[0] + rows.total[1]); /* weights are made while O is under way */
        bool grown = __any_sync(0xffffffffu, keep[0] != 1 || keep[1] != 1);
        wgmma_wait<0>();
        wgmma_hold<HD / 8>(out);
        if (grown) /* times 1 changes nothing, and maxima seldom grow */
            attention_keep<HD / 8>(out, keep);
        wgmma_hold<HD / 8>(out);
        pack<BF16>(s, weights);
    }
    copy_async_wait<0>();
    async_proxy_fence();
    __syncthreads();
    start_values<BF16, HD>(weights, v + (turn ? OTHER : 0), out);
    wgmma_wait<0>();
    wgmma_hold<HD / 8>(out);
    int g = (int)threadIdx.x % CUDA_WARP / 4;
    attention_write<HD>(&p, &at, rows.row0 + g, rows.total, out);
#else
    __trap();
#endif
}

/* ---- the launch */

bool cuda_wgmma_fits(const struct device *d, const struct attention_params *p)
{
    const struct kv_options *o = &d->kv.o;
    int64_t block_bytes = (int64_t)o->n_kv_heads * o->block_size * o->head_dim * 2;
    return d->wgmma && (o->type == QUANT_F16 || o->type == QUANT_BF16) && o->head_dim <= 128 &&
           p->scale > 0 && block_bytes <= INT_MAX;
}

template <bool BF16, int HD>
static int launch(struct device *d, const struct attention_params *p, int n)
{
    auto kernel = p->softcap > 0 ? flash_wgmma<BF16, HD, true> : flash_wgmma<BF16, HD, false>;
    return attention_launch(d, p, kernel, THREADS, wgmma_shape<HD>::SHARED, n);
}

int cuda_wgmma_tiles(struct device *d, const struct attention_params *p, int n_tiles)
{
    if (d->kv.o.type == QUANT_BF16)
        return p->head_dim <= 64 ? launch<true, 64>(d, p, n_tiles)
                                 : launch<true, 128>(d, p, n_tiles);
    return p->head_dim <= 64 ? launch<false, 64>(d, p, n_tiles) : launch<false, 128>(d, p, n_tiles);
}
