/* attention_flash: attention on tensor cores (Dao et al. 2022), for KV in F16 or BF16 and heads of
 * a multiple of 8 values. Engine thread. Reader of the KV layout (writer: rope.cu).
 *
 * Keys and values go from memory straight into the fragments of m16n8k16, by loads of 16 bytes and
 * without shared memory. That takes two liberties with the order of what is summed:
 *   scores  lane (g, t) loads values 32 c + 8 t .. + 7 of the key at position g; the first four
 *           feed one mma and the others the next, and queries are taken likewise
 *   values  lane (g, t) loads values 64 c + 8 g .. + 7 of the positions 2 t, 2 t + 1, 8 + 2 t,
 *           9 + 2 t; column g of output tile j is value 64 c + 8 g + j, and pairs of positions
 *           are joined in registers
 * so a step of a warp is 16 positions, scores become weights where they lie, and warps do not wait
 * for each other.
 *
 * A block is a tile of 64 rows, row = query * group + head of the group, whose four warps take 16
 * each (TILE: long parts; queries and weights are rounded once), or one query's rows, whose warps
 * share the positions and are added up at the end (decoding: the query's heads read a KV head once;
 * queries and weights are taken as high + low). */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/skinny.cuh"

enum { THREADS = 128, WARPS = THREADS / CUDA_WARP, ROWS = 16, TILE_ROWS = 64, STEP = 16 };
#define LOG2_E 1.4426950408889634f

/* Queries in shared memory: rows of HD values and 8 more, so that rows begin in different banks. */
template <int HD> struct flash_shape {
    enum { K_PIECES = HD / 32, V_PIECES = HD / 64, Q_STRIDE = HD + 8 };
};

template <bool BF16, int HD>
static __device__ __forceinline__ void load_queries(const struct attention_params *p,
                                                    const struct cuda_seq *seq, int row0, int end,
                                                    int kv_head, int n_rows, uint16_t *high,
                                                    uint16_t *low)
{
    for (int i = (int)threadIdx.x; i < n_rows * (HD / 8); i += THREADS) {
        int r = i / (HD / 8), col = i % (HD / 8) * 8, row = row0 + r;
        float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        uint32_t h[4], l[4];
        if (row < end && col < p->head_dim) {
            int64_t token = seq->q_start + row / p->group;
            int head = kv_head * p->group + row % p->group;
            const float4 *from =
                (const float4 *)(p->q + (token * p->n_heads + head) * p->head_dim + col);
            float4 a = from[0], b = from[1];
            x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
            x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
        }
        split_eight<BF16>(x, h, l);
        int at = r * flash_shape<HD>::Q_STRIDE + col;
        *(uint4 *)(high + at) = make_uint4(h[0], h[1], h[2], h[3]);
        if (low)
            *(uint4 *)(low + at) = make_uint4(l[0], l[1], l[2], l[3]);
    }
}

/* Rows g and g + 8 of a warp: what they see, and their running maximum, total and outputs. */
template <int HD> struct flash_rows {
    int first[2], last[2];
    float most[2], total[2]; /* total: of the lane's own columns until the end */
    float out[flash_shape<HD>::V_PIECES][8][4];
};

template <bool BF16, int HD, bool SPLIT>
static __device__ __forceinline__ void scores(const struct attention_params *p,
                                              const uint16_t *key[2], const bool valid[2],
                                              const uint16_t *high, const uint16_t *low, int g,
                                              int t, float s[2][4])
{
    uint4 k[2][flash_shape<HD>::K_PIECES];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int c = 0; c < flash_shape<HD>::K_PIECES; c++)
            k[i][c] = load_if(key[i] + 32 * c, valid[i] && 32 * c + 8 * t < p->head_dim);
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::K_PIECES; c++)
#pragma unroll
        for (int part = 0; part < (SPLIT ? 2 : 1); part++) {
            const uint16_t *q =
                (part ? low : high) + g * flash_shape<HD>::Q_STRIDE + 32 * c + 8 * t;
            uint4 a = *(const uint4 *)q;
            uint4 b = *(const uint4 *)(q + 8 * flash_shape<HD>::Q_STRIDE);
            uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t low_half[2] = {k[i][c].x, k[i][c].y};
                uint32_t high_half[2] = {k[i][c].z, k[i][c].w};
                mma_16816<BF16>(s[i], first, low_half);
                mma_16816<BF16>(s[i], second, high_half);
            }
        }
}

/* Scores become weights; what was summed so far is scaled to the new maximum. */
template <int HD>
static __device__ __forceinline__ void weigh(const struct attention_params *p, int pos0, int t,
                                             float s[2][4], struct flash_rows<HD> *r)
{
    float keep[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = r->most[h];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* columns 2 t, 2 t + 1 of both tiles */
            float *x = &s[i / 2][2 * h + i % 2];
            int pos = pos0 + 8 * (i / 2) + 2 * t + i % 2;
            bool seen = pos >= r->first[h] && pos <= r->last[h];
            *x = seen ? attention_capped(p, *x) * LOG2_E : -INFINITY;
            most = fmaxf(most, *x);
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        /* a row that sees nothing here, or NaN scores alone: nothing to subtract, NaN stays NaN */
        float base = most > -INFINITY ? most : 0;
        keep[h] = exp2f(r->most[h] - base);
        r->most[h] = most;
        r->total[h] *= keep[h];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *x = &s[i / 2][2 * h + i % 2];
            *x = exp2f(*x - base);
            r->total[h] += *x;
        }
    }
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                r->out[c][j][i] *= keep[i / 2];
}

static __device__ __forceinline__ uint32_t word(uint4 v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Half `second` of word i of a and of b */
static __device__ __forceinline__ uint32_t join_halves(uint4 a, uint4 b, int i, bool second)
{
    uint32_t x = word(a, i), y = word(b, i);
    return second ? x >> 16 | (y & 0xffff0000u) : (x & 0xffffu) | y << 16;
}

template <bool BF16, int HD, bool SPLIT>
static __device__ __forceinline__ void add_values(const struct attention_params *p,
                                                  const uint16_t *value[4], const bool valid[4],
                                                  int g, float s[2][4], struct flash_rows<HD> *r)
{
    uint32_t a[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) { /* row g + 8 (i % 2), tile i / 2 */
        float x = s[i / 2][2 * (i % 2)], y = s[i / 2][2 * (i % 2) + 1];
        a[i] = pack_pair<BF16>(x, y);
        low[i] = pack_pair<BF16>(x - first_of<BF16>(a[i]), y - second_of<BF16>(a[i]));
    }
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = load_if(value[i] + 64 * c, valid[i] && 64 * c + 8 * g < p->head_dim);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t b[2] = {join_halves(v[0], v[1], j / 2, j % 2),
                             join_halves(v[2], v[3], j / 2, j % 2)};
            mma_16816<BF16>(r->out[c][j], a, b);
            if (SPLIT)
                mma_16816<BF16>(r->out[c][j], low, b);
        }
    }
}

/* Positions 16 step .. of one KV head for a warp's rows; first .. last is what any of them sees. */
template <bool BF16, int HD, bool SPLIT>
static __device__ __forceinline__ void one_step(const struct attention_params *p,
                                                const int32_t *blocks, int pos0, int first,
                                                int last, int kv_head, const uint16_t *high,
                                                const uint16_t *low, struct flash_rows<HD> *r)
{
    int lane = (int)threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
    const uint16_t *key[2], *value[4];
    bool key_valid[2], value_valid[4];
    float s[2][4] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) { /* eight positions lie in one block */
        int from = pos0 + 8 * i;
        bool seen = from + 7 >= first && from <= last;
        int64_t block = seen ? blocks[from >> p->block_shift] : 0;
        key_valid[i] = seen && from + g >= first && from + g <= last;
        key[i] = (const uint16_t *)p->k + attention_place(p, block, kv_head, from + g) + 8 * t;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int pos = from + 2 * t + j;
            value_valid[2 * i + j] = seen && pos >= first && pos <= last;
            value[2 * i + j] =
                (const uint16_t *)p->v + attention_place(p, block, kv_head, pos) + 8 * g;
        }
    }
    scores<BF16, HD, SPLIT>(p, key, key_valid, high, low, g, t, s);
    weigh<HD>(p, pos0, t, s, r);
    add_values<BF16, HD, SPLIT>(p, value, value_valid, g, s, r);
}

template <int HD> static __device__ __forceinline__ void clear(struct flash_rows<HD> *r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r->most[h] = -INFINITY;
        r->total[h] = 0;
    }
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                r->out[c][j][i] = 0;
}

template <int HD> static __device__ __forceinline__ void sum_totals(struct flash_rows<HD> *r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r->total[h] += __shfl_xor_sync(0xffffffffu, r->total[h], 1);
        r->total[h] += __shfl_xor_sync(0xffffffffu, r->total[h], 2);
    }
}

/* Value 64 c + 16 t + 8 (i % 2) + j of row g + 8 h is out[c][j][2 h + i % 2]. */
template <int HD>
static __device__ __forceinline__ void write_row(const struct flash_rows<HD> *r, int h, int t,
                                                 int head_dim, float by, float *to)
{
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int col = 64 * c + 16 * t + 8 * i;
            if (col >= head_dim)
                continue;
#pragma unroll
            for (int j = 0; j < 8; j += 4)
                *(float4 *)(to + col + j) =
                    make_float4(r->out[c][j][2 * h + i] * by, r->out[c][j + 1][2 * h + i] * by,
                                r->out[c][j + 2][2 * h + i] * by, r->out[c][j + 3][2 * h + i] * by);
        }
}

/* ---- long parts: grid (tiles, KV heads) */

template <bool BF16, int HD>
static __global__ void __launch_bounds__(THREADS) flash_tile(struct attention_params p)
{
    CUDA_SHARED(uint16_t, queries);
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, kv_head = (int)blockIdx.y;
    /* the last tiles see most: they start first */
    const struct cuda_tile tile = p.tiles[gridDim.x - 1 - blockIdx.x];
    const struct cuda_seq seq = p.seqs[tile.seq];
    int end = seq.q_len * p.group, row0 = tile.first + ROWS * warp;
    struct flash_rows<HD> r;

    load_queries<BF16, HD>(&p, &seq, tile.first, end, kv_head, TILE_ROWS, queries, NULL);
    __syncthreads();
    if (row0 >= end)
        return;
    int start = seq.kv_len - seq.q_len, bottom = row0 + ROWS < end ? row0 + ROWS : end;
    int last = start + (bottom - 1) / p.group;
    int first = start + row0 / p.group - p.window + 1;
    first = p.window > 0 && first > 0 ? first : 0;
    clear(&r);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = row0 + g + 8 * h;
        r.last[h] = row < end ? start + row / p.group : -1;
        r.first[h] = p.window > 0 ? r.last[h] - p.window + 1 : 0;
    }
    const uint16_t *high = queries + ROWS * warp * flash_shape<HD>::Q_STRIDE;
    for (int pos = first / STEP * STEP; pos <= last; pos += STEP)
        one_step<BF16, HD, false>(&p, p.blocks + seq.blocks, pos, first, last, kv_head, high, NULL,
                                  &r);
    sum_totals(&r);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = row0 + g + 8 * h;
        if (row >= end)
            continue;
        int64_t token = seq.q_start + row / p.group;
        int head = kv_head * p.group + row % p.group;
        write_row(&r, h, t, p.head_dim, 1 / r.total[h],
                  p.out + (token * p.n_heads + head) * p.head_dim);
    }
}

/* ---- queries one by one: grid (rows, KV heads times tiles of 16 heads, splits) */

/* Warps upper .. leave what they have in shared memory, as [warp][lane][values], and the warps
 * below take it in; twice, so that half of the room is enough. */
template <int HD>
static __device__ __forceinline__ void merge(struct flash_rows<HD> *r, float *shared)
{
    enum { VALUES = flash_shape<HD>::V_PIECES * 32 + 4 };
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
#pragma unroll
    for (int upper = WARPS / 2; upper; upper /= 2) {
        __syncthreads();
        if (warp >= upper && warp < 2 * upper) {
            float *to = shared + (warp - upper) * CUDA_WARP * VALUES + lane;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                to[2 * h * CUDA_WARP] = r->most[h];
                to[(2 * h + 1) * CUDA_WARP] = r->total[h];
            }
#pragma unroll
            for (int i = 0; i < VALUES - 4; i++)
                to[(i + 4) * CUDA_WARP] = r->out[i / 32][i / 4 % 8][i % 4];
        }
        __syncthreads();
        if (warp >= upper)
            continue;
        const float *from = shared + warp * CUDA_WARP * VALUES + lane;
        float mine[2], theirs[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float other = from[2 * h * CUDA_WARP], most = fmaxf(r->most[h], other);
            float base = most > -INFINITY ? most : 0;
            mine[h] = exp2f(r->most[h] - base);
            theirs[h] = exp2f(other - base);
            r->total[h] = r->total[h] * mine[h] + from[(2 * h + 1) * CUDA_WARP] * theirs[h];
            r->most[h] = most;
        }
#pragma unroll
        for (int i = 0; i < VALUES - 4; i++) {
            float *x = &r->out[i / 32][i / 4 % 8][i % 4];
            *x = *x * mine[i % 4 / 2] + from[(i + 4) * CUDA_WARP] * theirs[i % 4 / 2];
        }
    }
}

template <bool BF16, int HD>
static __global__ void __launch_bounds__(THREADS) flash_row(struct attention_params p)
{
    CUDA_SHARED(uint16_t, queries);
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, split = (int)blockIdx.z;
    int kv_head = (int)blockIdx.y % p.n_kv_heads, head0 = (int)blockIdx.y / p.n_kv_heads * ROWS;
    const struct cuda_row row = p.rows[blockIdx.x];
    const struct cuda_seq seq = p.seqs[row.seq];
    int last = seq.kv_len - seq.q_len + row.query;
    struct attention_range share = attention_share(last, p.window, STEP, WARPS, split, p.n_splits);
    uint16_t *low = queries + ROWS * flash_shape<HD>::Q_STRIDE;
    struct flash_rows<HD> r;

    load_queries<BF16, HD>(&p, &seq, row.query * p.group + head0, (row.query + 1) * p.group,
                           kv_head, ROWS, queries, low);
    __syncthreads();
    clear(&r);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r.first[h] = share.first;
        r.last[h] = last;
    }
    for (int step = share.from + warp; step < share.to; step += WARPS)
        one_step<BF16, HD, true>(&p, p.blocks + seq.blocks, STEP * step, share.first, last, kv_head,
                                 queries, low, &r);
    merge<HD>(&r, (float *)queries);
    if (warp)
        return;
    sum_totals(&r);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int in_group = head0 + g + 8 * h;
        if (in_group >= p.group)
            continue;
        int head = kv_head * p.group + in_group;
        if (p.n_splits == 1) {
            int64_t token = seq.q_start + row.query;
            write_row(&r, h, t, p.head_dim, 1 / r.total[h],
                      p.out + (token * p.n_heads + head) * p.head_dim);
            continue;
        }
        int64_t part = ((int64_t)blockIdx.x * p.n_heads + head) * p.n_splits + split;
        write_row(&r, h, t, p.head_dim, 1, p.partial + part * p.head_dim);
        if (t == 0) {
            p.partial_totals[2 * part] = r.most[h] / LOG2_E;
            p.partial_totals[2 * part + 1] = r.total[h];
        }
    }
}

/* ---- the launch */

bool cuda_flash_fits(const struct device *d, int n_heads)
{
    const struct kv_options *o = &d->kv.o;
    return d->tensor && o->type != QUANT_F32 && o->head_dim % 8 == 0 && n_heads <= 65535;
}

int cuda_flash_row_blocks(const struct attention_params *p)
{
    return p->n_kv_heads * ((p->group + ROWS - 1) / ROWS);
}

template <bool BF16, int HD>
static void launch_tiles(struct device *d, const struct attention_params *p, int n)
{
    auto kernel = flash_tile<BF16, HD>;
    size_t shared = (size_t)TILE_ROWS * flash_shape<HD>::Q_STRIDE * sizeof(uint16_t);
    CUDA_LAUNCH(kernel, dim3((unsigned)n, (unsigned)p->n_kv_heads), dim3(THREADS), shared,
                d->stream, *p);
}

template <bool BF16, int HD>
static void launch_rows(struct device *d, const struct attention_params *p, int n)
{
    auto kernel = flash_row<BF16, HD>;
    size_t shared = (size_t)ROWS * flash_shape<HD>::Q_STRIDE * 2 * sizeof(uint16_t);
    size_t merged = (size_t)(flash_shape<HD>::V_PIECES * 32 + 4) * (WARPS / 2) * CUDA_WARP *
                    sizeof(float);
    CUDA_LAUNCH(kernel, dim3((unsigned)n, (unsigned)cuda_flash_row_blocks(p),
                             (unsigned)p->n_splits),
                dim3(THREADS), shared > merged ? shared : merged, d->stream, *p);
}

template <bool BF16>
static void choose(struct device *d, const struct attention_params *p, int n, bool tiles)
{
    int hd = p->head_dim;
    if (hd <= 64)
        tiles ? launch_tiles<BF16, 64>(d, p, n) : launch_rows<BF16, 64>(d, p, n);
    else if (hd <= 128)
        tiles ? launch_tiles<BF16, 128>(d, p, n) : launch_rows<BF16, 128>(d, p, n);
    else if (hd <= 192)
        tiles ? launch_tiles<BF16, 192>(d, p, n) : launch_rows<BF16, 192>(d, p, n);
    else
        tiles ? launch_tiles<BF16, 256>(d, p, n) : launch_rows<BF16, 256>(d, p, n);
}

void cuda_flash_tiles(struct device *d, const struct attention_params *p, int n_tiles)
{
    if (d->kv.o.type == QUANT_BF16)
        choose<true>(d, p, n_tiles, true);
    else
        choose<false>(d, p, n_tiles, true);
}

void cuda_flash_rows(struct device *d, const struct attention_params *p, int n_rows)
{
    if (d->kv.o.type == QUANT_BF16)
        choose<true>(d, p, n_rows, false);
    else
        choose<false>(d, p, n_rows, false);
}
