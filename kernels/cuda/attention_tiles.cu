/* attention_tiles: attention of long parts on tensor cores (Dao et al. 2022; Dao 2023). Engine
 * thread. Reader of the KV layout (writer: rope.cu).
 *
 * A block is a tile of 128 rows (64 for heads of more than 128 values), row = query * group + head
 * of the group, and one KV head; each of its four warps takes 32 (16) rows, so that keys and values
 * feed two products each time they leave shared memory. It goes through the positions in steps of
 * 32, which lie at absolute positions: what a row sums does not depend on the tile it is in.
 *   F16, BF16   cp.async fills one pair of K and V tiles while the other is computed with
 *   FP8, Q8_0   cp.async fills a stage with the next bytes, which their own threads decode to F16
 *               tiles between two barriers: no value is decoded twice in a block. E4M3 and int8
 *               are exact in F16; an int8 times its scale is rounded to it
 * Rows of tiles are 2 * HD bytes in pieces of 16; piece c of row r lies at c ^ (r % 8), so that the
 * eight rows of an ldmatrix lie in different banks. Queries and weights are rounded once. Where
 * attention_wgmma.cu can, it takes the tiles instead. */
#include "kernels/cuda/attention_tile.cuh"

enum { THREADS = 128, WARPS = THREADS / CUDA_WARP, STEP = 32, N_TILES = STEP / 8 };

template <enum quant_type T, int HD> struct tile_shape {
    enum {
        BF16 = T == QUANT_BF16,
        BYTES = T == QUANT_F16 || T == QUANT_BF16 ? 2 : 1, /* of a value in memory */
        MT = HD <= 128 ? 2 : 1,                            /* 16 rows of a warp, times */
        ROWS = WARPS * MT * 16,
        K_STEPS = HD / 16,
        HALF = STEP * HD,            /* values of a K (or V) tile */
        TILES = BYTES == 2 ? 2 : 1,  /* pairs of them */
        ROW_PIECES = HD * BYTES / 16, /* pieces of 16 bytes in memory */
        PIECES = STEP * ROW_PIECES / THREADS, /* of K (or V), a thread's */
        SHARED = ROWS * HD * 2 + TILES * 2 * HALF * 2 + (BYTES == 1 ? 2 * HALF : 0),
    };
};

/* Rows g and g + 8 of each of a warp's 16: their running maximum, total and outputs. */
template <int MT, int HD> struct tile_rows {
    float most[MT][2], total[MT][2]; /* total: of the lane's own columns until the end */
    float out[MT][HD / 8][4];
};

/* Where piece c of row r of a tile of HD values a row begins, in values. */
template <int HD> static __device__ __forceinline__ int swizzled(int r, int c)
{
    return r * HD + (c ^ (r & 7)) * 8;
}

/* Where in a tile the four matrices of an ldmatrix begin for this lane, in bytes: the two of eight
 * rows first, or the two of eight columns. */
template <int HD> static __device__ __forceinline__ int lane_offset(bool rows_first)
{
    int lane = (int)threadIdx.x % CUDA_WARP, part = lane / 8, r = lane % 8;
    int down = rows_first ? part % 2 : part / 2, right = rows_first ? part / 2 : part % 2;
    return (8 * down + r) * HD * 2 + ((right ^ r) << 4);
}

/* The same, 16 down rows and 16 right columns on: few registers hold what all steps need. */
template <int HD>
static __device__ __forceinline__ const void *matrix_at(const uint16_t *tile, int offset, int down,
                                                        int right)
{
    return (const char *)tile + (offset ^ (right & 3) << 5) + (right >> 2) * 128 + down * 32 * HD;
}

template <enum quant_type T, int HD>
static __device__ __forceinline__ void load_queries(const struct attention_params *p,
                                                    const struct attention_tile *at,
                                                    uint16_t *queries)
{
    typedef struct tile_shape<T, HD> shape;
    for (int i = (int)threadIdx.x; i < shape::ROWS * (HD / 8); i += THREADS) {
        int r = i / (HD / 8), c = i % (HD / 8);
        float4 a = make_float4(0, 0, 0, 0), b = a;
        const float4 *from = (const float4 *)attention_query(p, at, at->first_row + r, c);
        if (from) {
            a = from[0];
            b = from[1];
        }
        *(uint4 *)(queries + swizzled<HD>(r, c)) = attention_round<shape::BF16>(a, b);
    }
}

/* The block table's entries for the step at pos0: lane i has that of positions pos0 + 8 (i % 4) ..
 * + 7, which lie in one block. */
static __device__ __forceinline__ int32_t step_blocks(const struct attention_params *p,
                                                      const struct attention_tile *at, int pos0)
{
    int pos = pos0 + 8 * ((int)threadIdx.x % N_TILES);
    bool seen = pos + 7 >= at->first && pos <= at->last;
    return seen ? at->blocks[pos >> p->block_shift] : 0;
}

/* Start the thread's share of the keys and values of a step: to tiles (16-bit), or to a stage, with
 * the scales of Q8_0 in registers. */
template <enum quant_type T, int HD>
static __device__ __forceinline__ void
fetch(const struct attention_params *p, const struct attention_tile *at, int pos0, int32_t blocks,
      char *to, uint16_t scales[2][tile_shape<T, HD>::PIECES])
{
    typedef struct tile_shape<T, HD> shape;
#pragma unroll
    for (int i = 0; i < shape::PIECES; i++) {
        int piece = (int)threadIdx.x + i * THREADS;
        int r = piece / shape::ROW_PIECES, c = piece % shape::ROW_PIECES, pos = pos0 + r;
        int64_t block = __shfl_sync(0xffffffffu, blocks, r / 8);
        int col = c * (16 / shape::BYTES);
        bool valid = pos >= at->first && pos <= at->last && col < p->head_dim;
        int64_t place = attention_place(p, block, at->kv_head, pos) + col;
        char *k = to + (shape::BYTES == 2 ? 2 * swizzled<HD>(r, c) : 16 * piece);
        copy_async_16(k, p->k + place * shape::BYTES, valid);
        copy_async_16(k + shape::HALF * shape::BYTES, p->v + place * shape::BYTES, valid);
        if (T == QUANT_Q8_0) {
            scales[0][i] = valid ? p->k_scales[place / CUDA_KV_GROUP] : 0;
            scales[1][i] = valid ? p->v_scales[place / CUDA_KV_GROUP] : 0;
        }
    }
    copy_async_commit();
}

/* The pieces that this thread fetched, to F16 tiles. Half of the threads write their two pieces in
 * the other order: eight neighbours then write to different banks. */
template <enum quant_type T, int HD>
static __device__ __forceinline__ void
decode(const char *stage, uint16_t *tiles,
       const uint16_t scales[2][tile_shape<T, HD>::PIECES])
{
    typedef struct tile_shape<T, HD> shape;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < shape::PIECES; i++) {
            int piece = (int)threadIdx.x + i * THREADS;
            int r = piece / shape::ROW_PIECES, c = piece % shape::ROW_PIECES, odd = c >> 2 & 1;
            uint4 v = *(const uint4 *)(stage + half * shape::HALF + 16 * piece);
            uint4 low = eight_f16<T>(v.x, v.y, scales[half][i]);
            uint4 high = eight_f16<T>(v.z, v.w, scales[half][i]);
            uint16_t *to = tiles + half * shape::HALF;
            *(uint4 *)(to + swizzled<HD>(r, 2 * c + odd)) = odd ? high : low;
            *(uint4 *)(to + swizzled<HD>(r, 2 * c + 1 - odd)) = odd ? low : high;
        }
}

/* s[m][n] of 16 rows and positions 8 n .. + 7 */
template <enum quant_type T, int HD>
static __device__ __forceinline__ void
scores(const uint16_t *queries, const uint16_t *keys,
       float s[tile_shape<T, HD>::MT][N_TILES][4])
{
    typedef struct tile_shape<T, HD> shape;
    int at_q = lane_offset<HD>(true), at_k = lane_offset<HD>(false);
#pragma unroll
    for (int k = 0; k < shape::K_STEPS; k++) {
        uint32_t b[N_TILES / 2][4];
#pragma unroll
        for (int n = 0; n < N_TILES / 2; n++)
            ldmatrix_4(b[n], matrix_at<HD>(keys, at_k, n, k));
#pragma unroll
        for (int m = 0; m < shape::MT; m++) {
            uint32_t a[4];
            ldmatrix_4(a, matrix_at<HD>(queries, at_q, m, k));
#pragma unroll
            for (int n = 0; n < N_TILES; n++)
                mma_16816<shape::BF16>(s[m][n], a, &b[n / 2][2 * (n % 2)]);
        }
    }
}

template <enum quant_type T, int HD>
static __device__ __forceinline__ void
add_values(const uint16_t *values, float s[tile_shape<T, HD>::MT][N_TILES][4],
           struct tile_rows<tile_shape<T, HD>::MT, HD> *rows)
{
    typedef struct tile_shape<T, HD> shape;
    int at = lane_offset<HD>(true);
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        uint32_t a[shape::MT][4];
#pragma unroll
        for (int m = 0; m < shape::MT; m++)
            attention_pack<shape::BF16>(&s[m][2 * k], a[m]);
#pragma unroll
        for (int j = 0; j < HD / 16; j++) {
            uint32_t b[4];
            ldmatrix_4_transposed(b, matrix_at<HD>(values, at, k, j));
#pragma unroll
            for (int m = 0; m < shape::MT; m++) {
                mma_16816<shape::BF16>(rows->out[m][2 * j], a[m], b);
                mma_16816<shape::BF16>(rows->out[m][2 * j + 1], a[m], b + 2);
            }
        }
    }
}

/* A warp's rows, from row0 on, against the step at pos0. */
template <enum quant_type T, int HD>
static __device__ __forceinline__ void
one_step(const struct attention_params *p, const struct attention_tile *at, int row0, int pos0,
         const uint16_t *queries, const uint16_t *tiles,
         struct tile_rows<tile_shape<T, HD>::MT, HD> *rows)
{
    typedef struct tile_shape<T, HD> shape;
    int g = (int)threadIdx.x % CUDA_WARP / 4;
    int bottom = row0 + 16 * shape::MT < at->end ? row0 + 16 * shape::MT : at->end;
    /* the first and the last query of the warp */
    int top_last = at->start + row0 / p->group, last = at->start + (bottom - 1) / p->group;
    if (row0 >= at->end || pos0 > last || pos0 + STEP - 1 <= top_last - attention_unseen(p))
        return;
    bool whole = pos0 + STEP - 1 <= top_last && pos0 > last - attention_unseen(p);
    float s[shape::MT][N_TILES][4] = {};
    scores<T, HD>(queries, tiles, s);
#pragma unroll
    for (int m = 0; m < shape::MT; m++) {
        int lasts[2], firsts[2];
        float keep[2];
        attention_limits(p, at, row0 + 16 * m + g, firsts, lasts);
        attention_cap<N_TILES>(p, s[m]);
        attention_weigh<N_TILES>(pos0, whole, firsts, lasts, 1, s[m], rows->most[m],
                                 rows->total[m], keep);
        attention_keep<HD / 8>(rows->out[m], keep);
    }
    add_values<T, HD>(tiles + shape::HALF, s, rows);
}

/* grid (tiles, KV heads) */
template <enum quant_type T, int HD>
static __global__ void __launch_bounds__(THREADS) flash_tile(struct attention_params p)
{
    typedef struct tile_shape<T, HD> shape;
    CUDA_SHARED(uint16_t, queries);
    uint16_t *tiles = queries + shape::ROWS * HD; /* [TILES][K, V][STEP][HD] */
    char *stage = (char *)(tiles + shape::TILES * 2 * shape::HALF);
    int warp = (int)threadIdx.x / CUDA_WARP;
    const struct attention_tile at = attention_tile_of<shape::ROWS>(&p);
    int row0 = at.first_row + 16 * shape::MT * warp;
    struct tile_rows<shape::MT, HD> rows;
    uint16_t scales[2][shape::PIECES];
    const uint16_t *mine = queries + 16 * shape::MT * warp * HD;

#pragma unroll
    for (int m = 0; m < shape::MT; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            rows.most[m][h] = -INFINITY;
            rows.total[m][h] = 0;
        }
#pragma unroll
        for (int j = 0; j < HD / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                rows.out[m][j][i] = 0;
    }
    int pos = at.first / STEP * STEP, turn = 0;
    char *fetched = shape::BYTES == 2 ? (char *)tiles : stage;
    fetch<T, HD>(&p, &at, pos, step_blocks(&p, &at, pos), fetched, scales);
    int32_t blocks = step_blocks(&p, &at, pos + STEP);
    load_queries<T, HD>(&p, &at, queries);
    for (; pos <= at.last; pos += STEP, turn ^= 1) {
        uint16_t *now = shape::BYTES == 2 && turn ? tiles + 2 * shape::HALF : tiles;
        copy_async_wait<0>();
        if (shape::BYTES == 1) {
            __syncthreads(); /* the tiles are read */
            decode<T, HD>(stage, tiles, scales);
        } else {
            fetched = (char *)(turn ? tiles : tiles + 2 * shape::HALF);
            __syncthreads(); /* these tiles are there, the others are read */
        }
        if (pos + STEP <= at.last) {
            fetch<T, HD>(&p, &at, pos + STEP, blocks, fetched, scales);
            blocks = step_blocks(&p, &at, pos + 2 * STEP);
        }
        if (shape::BYTES == 1)
            __syncthreads();
        one_step<T, HD>(&p, &at, row0, pos, mine, now, &rows);
    }
#pragma unroll
    for (int m = 0; m < shape::MT; m++)
        attention_write<HD>(&p, &at, row0 + 16 * m + (int)threadIdx.x % CUDA_WARP / 4,
                            rows.total[m], rows.out[m]);
}

/* ---- the launch */

int cuda_flash_tile_rows(int head_dim)
{
    static_assert((int)tile_shape<QUANT_F16, 128>::ROWS == (int)ATTENTION_TILE_ROWS, "tiles");
    return head_dim <= 128 ? (int)ATTENTION_TILE_ROWS
                           : (int)tile_shape<QUANT_F16, 256>::ROWS;
}

template <enum quant_type T, int HD>
static int launch(struct device *d, const struct attention_params *p, int n)
{
    return attention_launch(d, p, flash_tile<T, HD>, THREADS, tile_shape<T, HD>::SHARED, n);
}

template <enum quant_type T>
static int choose(struct device *d, const struct attention_params *p, int n)
{
    return p->head_dim <= 64    ? launch<T, 64>(d, p, n)
           : p->head_dim <= 128 ? launch<T, 128>(d, p, n)
           : p->head_dim <= 192 ? launch<T, 192>(d, p, n)
                                : launch<T, 256>(d, p, n);
}

int cuda_flash_tiles(struct device *d, const struct attention_params *p, int n_tiles)
{
    if (cuda_wgmma_fits(d, p))
        return cuda_wgmma_tiles(d, p, n_tiles);
    switch (d->kv.o.type) {
    case QUANT_F16: return choose<QUANT_F16>(d, p, n_tiles);
    case QUANT_BF16: return choose<QUANT_BF16>(d, p, n_tiles);
    case QUANT_FP8: return choose<QUANT_FP8>(d, p, n_tiles);
    case QUANT_Q8_0: return choose<QUANT_Q8_0>(d, p, n_tiles);
    default: return cuda_fail(d, "attention has no tiles for a KV cache of this type");
    }
}
