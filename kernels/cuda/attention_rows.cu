/* attention_rows: attention of queries one by one on tensor cores (Dao et al. 2022), as decoding
 * wants it. Engine thread. Reader of the KV layout (writer: rope.cu).
 *
 * Keys and values go from memory straight into the fragments of m16n8k16, by loads of eight values
 * and without shared memory; FP8 and Q8_0 become F16 on the way. That takes two liberties with the
 * order of what is summed:
 *   scores  lane (g, t) loads values 32 c + 8 t .. + 7 of the key at position g; the first four
 *           feed one mma and the others the next, and queries are taken likewise
 *   values  lane (g, t) loads values 64 c + 8 g .. + 7 of the positions 2 t, 2 t + 1, 8 + 2 t,
 *           9 + 2 t; column g of output tile j is value 64 c + 8 g + j, and pairs of positions
 *           are joined in registers
 * so a step of a warp is 16 positions, scores become weights where they lie, and warps do not wait
 * for each other.
 *
 * A block is one query's heads of one KV head (up to 16), so that they read it once; its warps
 * share the positions and are added up at the end. Queries and weights are taken as high + low. */
#include "kernels/cuda/attention.cuh"

enum { THREADS = 128, WARPS = THREADS / CUDA_WARP, ROWS = 16, STEP = CUDA_FLASH_ROW_STEP };

/* Queries in shared memory: rows of HD values and 8 more, so that rows begin in different banks. */
template <int HD> struct flash_shape {
    enum { K_PIECES = HD / 32, V_PIECES = HD / 64, Q_STRIDE = HD + 8 };
};

template <bool BF16, int HD>
static __device__ __forceinline__ void load_queries(const struct attention_params *p,
                                                    const float *from, int n_rows, uint16_t *high,
                                                    uint16_t *low)
{
    for (int i = (int)threadIdx.x; i < ROWS * (HD / 8); i += THREADS) {
        int r = i / (HD / 8), col = i % (HD / 8) * 8;
        float4 a = make_float4(0, 0, 0, 0), b = a;
        uint32_t h[4], l[4];
        if (r < n_rows && col < p->head_dim) {
            a = *(const float4 *)(from + r * p->head_dim + col);
            b = *(const float4 *)(from + r * p->head_dim + col + 4);
        }
        float x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        split_eight<BF16>(x, h, l);
        int at = r * flash_shape<HD>::Q_STRIDE + col;
        *(uint4 *)(high + at) = make_uint4(h[0], h[1], h[2], h[3]);
        *(uint4 *)(low + at) = make_uint4(l[0], l[1], l[2], l[3]);
    }
}

/* Running maximum, total and outputs of rows g and g + 8 of a warp. */
template <int HD> struct flash_rows {
    float most[2], total[2]; /* total: of the lane's own columns until the end */
    float out[flash_shape<HD>::V_PIECES][8][4];
};

/* The positions of a step: two times eight, which lie in one block each. */
struct flash_step {
    int pos, first, last; /* the first one; what the rows see */
    int64_t place[2];     /* of K and V, in values */
};

static __device__ __forceinline__ bool flash_seen(const struct flash_step *at, int i)
{
    return at->pos + i >= at->first && at->pos + i <= at->last;
}

/* Eight values on their way: as they lie in memory. */
template <enum quant_type T> struct loaded {
    uint4 bits; /* 8-bit formats: x and y */
    uint16_t scale;
};

template <enum quant_type T>
static __device__ __forceinline__ struct loaded<T> load(const char *pool, const uint16_t *scales,
                                                        int64_t place, bool valid)
{
    struct loaded<T> v;
    v.scale = 0;
    if (T == QUANT_F16 || T == QUANT_BF16) {
        v.bits = load_if(pool + 2 * place, valid);
    } else {
        uint2 two = load_if_8(pool + place, valid);
        v.bits = make_uint4(two.x, two.y, 0, 0);
    }
    if (T == QUANT_Q8_0 && valid)
        v.scale = scales[place / CUDA_KV_GROUP];
    return v;
}

template <enum quant_type T>
static __device__ __forceinline__ uint4 as_halves(const struct loaded<T> &v)
{
    return T == QUANT_F16 || T == QUANT_BF16 ? v.bits
                                             : eight_f16<T>(v.bits.x, v.bits.y, v.scale);
}

template <enum quant_type T, int HD>
static __device__ __forceinline__ void scores(const struct attention_params *p,
                                              const struct flash_step *at, const uint16_t *high,
                                              const uint16_t *low, int g, int t, float s[2][4])
{
    enum { BF16 = T == QUANT_BF16, PIECES = flash_shape<HD>::K_PIECES };
    enum { AT_ONCE = PIECES < 4 ? PIECES : PIECES % 4 ? 3 : 4 }; /* loads in flight, by two */
#pragma unroll
    for (int c0 = 0; c0 < PIECES; c0 += AT_ONCE) {
        struct loaded<T> k[2][AT_ONCE];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < AT_ONCE; c++)
                k[i][c] = load<T>(p->k, p->k_scales,
                                  at->place[i] + g * p->head_dim + 32 * (c0 + c) + 8 * t,
                                  flash_seen(at, 8 * i + g) &&
                                      32 * (c0 + c) + 8 * t < p->head_dim);
#pragma unroll
        for (int c = 0; c < AT_ONCE; c++) {
            uint4 b[2] = {as_halves<T>(k[0][c]), as_halves<T>(k[1][c])};
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint16_t *q = (part ? low : high) + g * flash_shape<HD>::Q_STRIDE +
                                    32 * (c0 + c) + 8 * t;
                uint4 x = *(const uint4 *)q;
                uint4 y = *(const uint4 *)(q + 8 * flash_shape<HD>::Q_STRIDE);
                uint32_t first[4] = {x.x, y.x, x.y, y.y}, second[4] = {x.z, y.z, x.w, y.w};
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t low_half[2] = {b[i].x, b[i].y}, high_half[2] = {b[i].z, b[i].w};
                    mma_16816<BF16>(s[i], first, low_half);
                    mma_16816<BF16>(s[i], second, high_half);
                }
            }
        }
    }
}

/* Scores become weights; what was summed so far is scaled to the new maximum. */
template <int HD>
static __device__ __forceinline__ void weigh(const struct attention_params *p,
                                             const struct flash_step *at, int t, float s[2][4],
                                             struct flash_rows<HD> *r)
{
    float keep[2];
    attention_cap<2>(p, s);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = r->most[h];
#pragma unroll
        for (int i = 0; i < 4; i++) { /* columns 2 t, 2 t + 1 of both tiles */
            float *x = &s[i / 2][2 * h + i % 2];
            *x = flash_seen(at, 8 * (i / 2) + 2 * t + i % 2) ? *x : -INFINITY;
            most = fmaxf(most, *x);
        }
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        /* a row that sees nothing here, or NaN scores alone: nothing to subtract, NaN stays NaN */
        float base = most > -INFINITY ? most : 0;
        keep[h] = exp2_fast(r->most[h] - base);
        r->most[h] = most;
        r->total[h] *= keep[h];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *x = &s[i / 2][2 * h + i % 2];
            *x = exp2_fast(*x - base);
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

template <enum quant_type T, int HD>
static __device__ __forceinline__ void add_values(const struct attention_params *p,
                                                  const struct flash_step *at, int g, int t,
                                                  float s[2][4], struct flash_rows<HD> *r)
{
    enum { BF16 = T == QUANT_BF16 };
    uint32_t a[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) { /* row g + 8 (i % 2), tile i / 2 */
        float x = s[i / 2][2 * (i % 2)], y = s[i / 2][2 * (i % 2) + 1];
        a[i] = pack_pair<BF16>(x, y);
        low[i] = pack_pair<BF16>(x - first_of<BF16>(a[i]), y - second_of<BF16>(a[i]));
    }
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++) {
        struct loaded<T> from[4];
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            from[i] = load<T>(p->v, p->v_scales,
                              at->place[i / 2] + (2 * t + i % 2) * p->head_dim + 64 * c + 8 * g,
                              flash_seen(at, 8 * (i / 2) + 2 * t + i % 2) &&
                                  64 * c + 8 * g < p->head_dim);
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = as_halves<T>(from[i]);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t b[2] = {join_halves(v[0], v[1], j / 2, j % 2),
                             join_halves(v[2], v[3], j / 2, j % 2)};
            mma_16816<BF16>(r->out[c][j], a, b);
            mma_16816<BF16>(r->out[c][j], low, b);
        }
    }
}

/* Positions pos0 .. pos0 + 15 of one KV head; the rows see first .. last. */
template <enum quant_type T, int HD>
static __device__ __forceinline__ void one_step(const struct attention_params *p,
                                                const int32_t *blocks, int pos0, int first,
                                                int last, int kv_head, const uint16_t *high,
                                                const uint16_t *low, struct flash_rows<HD> *r)
{
    int lane = (int)threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
    struct flash_step at = {pos0, first, last, {0, 0}};
    float s[2][4] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int from = pos0 + 8 * i;
        bool seen = from + 7 >= first && from <= last;
        int64_t block = seen ? blocks[from >> p->block_shift] : 0;
        at.place[i] = attention_place(p, block, kv_head, from);
    }
    scores<T, HD>(p, &at, high, low, g, t, s);
    weigh<HD>(p, &at, t, s, r);
    add_values<T, HD>(p, &at, g, t, s, r);
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

/* Value 64 c + 16 t + 8 (i % 2) + j of row g + 8 h is out[c][j][2 h + i % 2]. part: it is a
 * split's, and stays in floats. */
template <int HD>
static __device__ __forceinline__ void write_row(const struct flash_rows<HD> *r, int h, int t,
                                                 const struct attention_params *p, bool part,
                                                 float by, int64_t at)
{
#pragma unroll
    for (int c = 0; c < flash_shape<HD>::V_PIECES; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int col = 64 * c + 16 * t + 8 * i;
            if (col >= p->head_dim)
                continue;
#pragma unroll
            for (int j = 0; j < 8; j += 4) {
                float4 four =
                    make_float4(r->out[c][j][2 * h + i] * by, r->out[c][j + 1][2 * h + i] * by,
                                r->out[c][j + 2][2 * h + i] * by, r->out[c][j + 3][2 * h + i] * by);
                if (part || !p->halves.high)
                    *(float4 *)((part ? p->partial : p->out) + at + col + j) = four;
                else
                    store_four(&p->halves, at + col + j, four);
            }
        }
}

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
            mine[h] = exp2_fast(r->most[h] - base);
            theirs[h] = exp2_fast(other - base);
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

/* Where the block's query has its head, in q and in out. */
static __device__ __forceinline__ int64_t row_at(const struct attention_params *p, int head)
{
    const struct cuda_row row = p->rows[blockIdx.x];
    int64_t token = p->seqs[row.seq].q_start + row.query;
    return (token * p->n_heads + head) * p->head_dim;
}

/* Blocks of a multiprocessor: as many as leave room for all registers. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
enum { BLOCKS_128 = 2 };
#else
enum { BLOCKS_128 = 3 };
#endif
static constexpr int flash_blocks(enum quant_type type, int hd)
{
    bool wide = type == QUANT_F16 || type == QUANT_BF16;
    return hd <= 64 ? 4 : hd > 128 ? 2 : wide ? (int)BLOCKS_128 : 3;
}

/* grid (rows, KV heads times tiles of 16 heads, splits) */
template <enum quant_type T, int HD>
static __global__ void __launch_bounds__(THREADS, flash_blocks(T, HD))
    flash_row(struct attention_params p)
{
    CUDA_SHARED(uint16_t, queries);
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, split = (int)blockIdx.z;
    int kv_head = (int)blockIdx.y % p.n_kv_heads, head0 = (int)blockIdx.y / p.n_kv_heads * ROWS;
    const struct cuda_row row = p.rows[blockIdx.x];
    const struct cuda_seq seq = p.seqs[row.seq];
    const int32_t *blocks = p.blocks + seq.blocks;
    int last = seq.kv_len - seq.q_len + row.query;
    struct attention_range share = attention_share(&p, last, split);
    uint16_t *low = queries + ROWS * flash_shape<HD>::Q_STRIDE;
    struct flash_rows<HD> r;

    grid_wait();
    grid_trigger();
    if (share.from >= share.to)
        return; /* `join` does not ask for it */
    load_queries<T == QUANT_BF16, HD>(&p, p.q + row_at(&p, kv_head * p.group + head0),
                                      p.group - head0, queries, low);
    __syncthreads();
    clear(&r);
    for (int step = share.from + warp; step < share.to; step += WARPS)
        one_step<T, HD>(&p, blocks, STEP * step, share.first, last, kv_head, queries, low, &r);
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
            write_row(&r, h, t, &p, false, 1 / r.total[h], row_at(&p, head));
            continue;
        }
        int64_t part = ((int64_t)blockIdx.x * p.n_heads + head) * p.n_splits + split;
        write_row(&r, h, t, &p, true, 1, part * p.head_dim);
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
    int align = o->type == QUANT_FP8 || o->type == QUANT_Q8_0 ? 16 : 8; /* 16 bytes, for tiles */
    return d->tensor && o->type != QUANT_F32 && o->head_dim % align == 0 && n_heads <= 65535;
}

int cuda_flash_row_blocks(const struct attention_params *p)
{
    return p->n_kv_heads * ((p->group + ROWS - 1) / ROWS);
}

template <enum quant_type T, int HD>
static void launch(struct device *d, const struct attention_params *p, int n)
{
    auto kernel = flash_row<T, HD>;
    size_t shared = (size_t)ROWS * flash_shape<HD>::Q_STRIDE * 2 * sizeof(uint16_t);
    size_t merged = (size_t)(flash_shape<HD>::V_PIECES * 32 + 4) * (WARPS / 2) * CUDA_WARP *
                    sizeof(float);
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)n, (unsigned)cuda_flash_row_blocks(p),
                                   (unsigned)p->n_splits),
                      dim3(THREADS), shared > merged ? shared : merged, d, *p);
}

template <enum quant_type T>
static void choose(struct device *d, const struct attention_params *p, int n)
{
    if (p->head_dim <= 64)
        launch<T, 64>(d, p, n);
    else if (p->head_dim <= 128)
        launch<T, 128>(d, p, n);
    else if (p->head_dim <= 192)
        launch<T, 192>(d, p, n);
    else
        launch<T, 256>(d, p, n);
}

void cuda_flash_rows(struct device *d, const struct attention_params *p, int n_rows)
{
    switch (d->kv.o.type) {
    case QUANT_BF16: choose<QUANT_BF16>(d, p, n_rows); break;
    case QUANT_FP8: choose<QUANT_FP8>(d, p, n_rows); break;
    case QUANT_Q8_0: choose<QUANT_Q8_0>(d, p, n_rows); break;
    default: choose<QUANT_F16>(d, p, n_rows); break; /* see cuda_flash_fits */
    }
}
