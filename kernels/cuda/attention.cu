/* attention: causal softmax attention over the paged KV pool: the choice of kernels, the plain one,
 * and the sum of split rows. Engine thread. Reader of the KV layout (writer: rope.cu):
 *   k[layer][block][kv_head][block_size][head_dim], v the same
 *
 * The keys of a row may be split over blocks of threads, which leave partial sums that `join` adds
 * up with the rule of the running maximum (Milakov and Gimelshein 2018; the split: Flash-Decoding,
 * Dao et al. 2023). How many splits there are follows from the number of rows alone, and where they
 * lie is found on the device, so that a captured step stays right as sequences grow. A
 * deterministic device splits nothing, and runs all in tiles where there are tiles. */
#include "kernels/cuda/attention.cuh"

enum { THREADS = 128, WARPS = THREADS / CUDA_WARP, SPLITS_MAX = 32, JOIN_THREADS = 128 };
enum { DIMS_PER_LANE = CUDA_HEAD_DIM_MAX / CUDA_WARP };

/* ---- the plain kernel: a block is one query and head; any format and head size */

template <enum quant_type T>
static __device__ __forceinline__ float value_at(const char *pool, const uint16_t *scales,
                                                 int64_t at)
{
    if (T == QUANT_F32)
        return ((const float *)pool)[at];
    if (T == QUANT_FP8)
        return fp8_float(((const uint8_t *)pool)[at]);
    if (T == QUANT_Q8_0)
        return (float)((const int8_t *)pool)[at] * f16_float(scales[at / CUDA_KV_GROUP]);
    uint16_t h = ((const uint16_t *)pool)[at];
    return T == QUANT_F16 ? f16_float(h) : bf16_float(h);
}

static __device__ __forceinline__ float warp_max(float x)
{
    for (int mask = 16; mask; mask /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}

struct plain_shared {
    float q[CUDA_HEAD_DIM_MAX], weights[WARPS][CUDA_WARP], most[WARPS], total[WARPS];
    int64_t places[WARPS][CUDA_WARP];
    float sums[WARPS][CUDA_HEAD_DIM_MAX];
};

/* A warp's 32 positions from c on: a lane scores one position, then owns every 32nd value. */
template <enum quant_type T>
static __device__ void plain_chunk(const struct attention_params *p, const int32_t *blocks,
                                   const struct attention_range *r, int c, int kv_head,
                                   struct plain_shared *s, float *most, float *total, float *sums)
{
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int pos = c + lane;
    float score = -INFINITY;
    bool seen = pos >= r->first && pos <= r->last;
    __syncwarp(); /* the last chunk's weights were read */
    if (seen) {
        int64_t place = attention_place(p, blocks[pos >> p->block_shift], kv_head, pos);
        float dot = 0;
        for (int j = 0; j < p->head_dim; j++)
            dot += s->q[j] * value_at<T>(p->k, p->k_scales, place + j);
        score = attention_capped(p, dot);
        s->places[warp][lane] = place;
    }
    float greatest = fmaxf(*most, warp_max(score));
    bool any = greatest > -INFINITY;
    float keep = any ? expf(*most - greatest) : 1;
    /* a NaN score is no maximum, but its weight is NaN and so is the sum */
    float weight = !seen ? 0 : any ? expf(score - greatest) : score - score;
    s->weights[warp][lane] = weight;
    *total = *total * keep + warp_sum(weight);
    *most = greatest;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++)
        sums[j] *= keep;
    for (int i = 0; i < CUDA_WARP; i++) {
        if (c + i < r->first || c + i > r->last)
            continue;
        float w = s->weights[warp][i];
        int64_t place = s->places[warp][i];
#pragma unroll
        for (int j = 0; j < DIMS_PER_LANE; j++)
            if (lane + j * CUDA_WARP < p->head_dim)
                sums[j] += w * value_at<T>(p->v, p->v_scales, place + lane + j * CUDA_WARP);
    }
}

template <enum quant_type T>
static __global__ void __launch_bounds__(THREADS) attention_plain(struct attention_params p)
{
    CUDA_SHARED(struct plain_shared, s);
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int head = (int)blockIdx.y, split = (int)blockIdx.z;
    const struct cuda_row row = p.rows[blockIdx.x];
    const struct cuda_seq seq = p.seqs[row.seq];
    int64_t at = ((int64_t)(seq.q_start + row.query) * p.n_heads + head) * p.head_dim;
    int last = seq.kv_len - seq.q_len + row.query;
    struct attention_range r = attention_share(&p, last, split);
    float most = -INFINITY, total = 0, sums[DIMS_PER_LANE] = {0};

    if (r.from >= r.to)
        return; /* `join` does not ask for it */
    for (int j = (int)threadIdx.x; j < p.head_dim; j += THREADS)
        s->q[j] = p.q[at + j];
    __syncthreads();
    for (int step = r.from + warp; step < r.to; step += WARPS)
        plain_chunk<T>(&p, p.blocks + seq.blocks, &r, step * CUDA_WARP, head / p.group, s, &most,
                       &total, sums);
    if (lane == 0) {
        s->most[warp] = most;
        s->total[warp] = total;
    }
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++)
        s->sums[warp][lane + j * CUDA_WARP] = sums[j];
    __syncthreads();
    float greatest = -INFINITY, all = 0;
    for (int w = 0; w < WARPS; w++)
        greatest = fmaxf(greatest, s->most[w]);
    for (int w = 0; w < WARPS; w++)
        all += s->total[w] * (s->most[w] > -INFINITY ? expf(s->most[w] - greatest) : 1);
    int64_t part = ((int64_t)blockIdx.x * p.n_heads + head) * p.n_splits + split;
    float *out = p.partial + part * p.head_dim;
    for (int j = (int)threadIdx.x; j < p.head_dim; j += THREADS) {
        float sum = 0;
        for (int w = 0; w < WARPS; w++)
            sum += s->sums[w][j] * (s->most[w] > -INFINITY ? expf(s->most[w] - greatest) : 1);
        if (p.n_splits > 1)
            out[j] = sum;
        else
            attention_put(&p, at + j, sum / all);
    }
    if (p.n_splits > 1 && threadIdx.x == 0) {
        p.partial_totals[2 * part] = greatest;
        p.partial_totals[2 * part + 1] = all;
    }
}

/* ---- split rows */

static_assert((int)SPLITS_MAX == (int)CUDA_WARP, "a lane of join per split");

/* The totals of a row's splits are a lane's each, and the sums are loaded some at a time: a loop of
 * single loads would wait for memory once a split. */
static __global__ void __launch_bounds__(JOIN_THREADS) join(struct attention_params p)
{
    CUDA_SHARED(float, weights); /* [SPLITS_MAX], and the sum of all */
    enum { AT_ONCE = 8 };
    int head = (int)blockIdx.y, lane = (int)threadIdx.x;
    const struct cuda_row row = p.rows[blockIdx.x];
    int64_t part = ((int64_t)blockIdx.x * p.n_heads + head) * p.n_splits;
    const struct cuda_seq seq = p.seqs[row.seq];
    int64_t at = ((int64_t)(seq.q_start + row.query) * p.n_heads + head) * p.head_dim;
    const float *totals = p.partial_totals + 2 * part;
    int n = attention_takers(&p, seq.kv_len - seq.q_len + row.query);

    grid_wait();
    grid_trigger();
    if (lane < CUDA_WARP) {
        float most = lane < n ? totals[2 * lane] : -INFINITY;
        float total = lane < n ? totals[2 * lane + 1] : 0, greatest = warp_max(most);
        float weight = lane >= n ? 0 : most > -INFINITY ? expf(most - greatest) : 1;
        total = warp_sum(total * weight);
        weights[lane] = weight;
        if (lane == 0)
            weights[SPLITS_MAX] = total;
    }
    __syncthreads();
    for (int j = lane; j < p.head_dim; j += JOIN_THREADS) {
        const float *from = p.partial + part * p.head_dim + j;
        float sum = 0;
        for (int i = 0; i < n; i += AT_ONCE) {
            float x[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                x[k] = i + k < n ? from[(i + k) * p.head_dim] : 0;
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                sum += x[k] * weights[i + k];
        }
        attention_put(&p, at + j, sum / weights[SPLITS_MAX]);
    }
}

/* ---- the launch */

/* Enough blocks for about four per multiprocessor, as far as the partial sums have room. */
static int splits_of(const struct device *d, const struct cuda_plan *plan, int n_heads, int blocks)
{
    size_t part = (size_t)plan->n_rows * (size_t)n_heads *
                  ((size_t)d->kv.o.head_dim + 2) * sizeof(float);
    int n = (4 * d->n_sm + blocks - 1) / blocks;
    size_t room = d->partial_bytes / part;
    n = n < SPLITS_MAX ? n : SPLITS_MAX;
    n = (size_t)n < room ? n : (int)room;
    return n < 1 ? 1 : n;
}

static void run_plain(struct device *d, const struct attention_params *p, int n_rows)
{
    dim3 grid((unsigned)n_rows, (unsigned)p->n_heads, (unsigned)p->n_splits), block(THREADS);
    size_t shared = sizeof(struct plain_shared);
    switch (d->kv.o.type) {
    case QUANT_F16:
        CUDA_LAUNCH(attention_plain<QUANT_F16>, grid, block, shared, d->stream, *p);
        break;
    case QUANT_BF16:
        CUDA_LAUNCH(attention_plain<QUANT_BF16>, grid, block, shared, d->stream, *p);
        break;
    case QUANT_Q8_0:
        CUDA_LAUNCH(attention_plain<QUANT_Q8_0>, grid, block, shared, d->stream, *p);
        break;
    case QUANT_FP8:
        CUDA_LAUNCH(attention_plain<QUANT_FP8>, grid, block, shared, d->stream, *p);
        break;
    default:
        CUDA_LAUNCH(attention_plain<QUANT_F32>, grid, block, shared, d->stream, *p);
        break;
    }
}

static int run_rows(struct device *d, struct attention_params *p, const struct cuda_plan *plan)
{
    bool tensor = cuda_flash_fits(d, p->n_heads);
    int heads = tensor ? cuda_flash_row_blocks(p) : p->n_heads;
    p->n_splits = d->deterministic ? 1 : splits_of(d, plan, p->n_heads, plan->n_rows * heads);
    p->partial = d->partial;
    p->partial_totals = d->partial + (size_t)plan->n_rows * (size_t)p->n_heads *
                                         (size_t)p->n_splits * (size_t)p->head_dim;
    p->step = tensor ? CUDA_FLASH_ROW_STEP : CUDA_WARP;
    p->least = WARPS;
    if (tensor)
        cuda_flash_rows(d, p, plan->n_rows);
    else
        run_plain(d, p, plan->n_rows);
    if (p->n_splits > 1)
        CUDA_LAUNCH_EARLY(join, dim3((unsigned)plan->n_rows, (unsigned)p->n_heads),
                          dim3(JOIN_THREADS), (SPLITS_MAX + 1) * sizeof(float), d, *p);
    return cuda_launched(d, "attention");
}

/* n_rows: of queries and outputs */
static int check(struct device *d, const struct attention_args *a, int64_t *n_rows)
{
    const struct kv_options *o = &d->kv.o;
    int64_t n = 0;
    if (!d->kv.k || !d->n_max || a->layer < 0 || a->layer >= o->n_layers || a->n_heads < 1 ||
        a->n_heads % o->n_kv_heads || a->n_heads > 65535)
        return cuda_fail(d, "attention does not fit the KV pool or the reserved scratch memory");
    for (int i = 0; i < a->n_seqs; i++) {
        const struct attention_seq *s = &a->seqs[i];
        if (s->q_len < 0 || s->kv_len < s->q_len || s->q_start < 0)
            return cuda_fail(d, "attention: %d queries of a sequence of %d", s->q_len, s->kv_len);
        n = s->q_start + s->q_len > n ? s->q_start + s->q_len : n;
    }
    *n_rows = n;
    size_t bytes = (size_t)n * (size_t)a->n_heads * (size_t)o->head_dim * sizeof(float);
    return cuda_owns(d, a->out, bytes, "attention") && cuda_owns(d, a->q, bytes, "attention's q")
               ? 0
               : -1;
}

int cuda_attention(struct device *d, const struct attention_args *a)
{
    struct cuda_plan plan;
    int64_t n_rows = 0;
    if (cuda_failed(d))
        return -1;
    if (a->n_seqs < 1)
        return 0;
    if (check(d, a, &n_rows) || cuda_plan_get(d, a->seqs, a->n_seqs, a->n_heads, &plan))
        return -1;
    int64_t width = (int64_t)a->n_heads * d->kv.o.head_dim;
    bool fits = a->readers.n && a->readers.w[0]->cols == width;
    const struct linear_readers none = {}, readers = fits ? a->readers : none;
    struct attention_params p = {.out = a->out,
                                 .halves = cuda_halves_for(d, &readers, a->out, (int)n_rows, false),
                                 .q = a->q,
                                 .seqs = plan.seqs,
                                 .rows = plan.rows,
                                 .tiles = plan.tiles,
                                 .blocks = plan.blocks,
                                 .k = d->kv.k + (size_t)a->layer * d->kv.layer_bytes,
                                 .v = d->kv.v + (size_t)a->layer * d->kv.layer_bytes,
                                 .k_scales = NULL,
                                 .v_scales = NULL,
                                 .n_heads = a->n_heads,
                                 .n_kv_heads = d->kv.o.n_kv_heads,
                                 .group = plan.group,
                                 .head_dim = d->kv.o.head_dim,
                                 .block_shift = d->kv.block_shift,
                                 .window = a->window,
                                 .n_splits = 1,
                                 .step = 0,
                                 .least = 0,
                                 .scale = a->scale,
                                 .softcap = a->softcap,
                                 .partial = NULL,
                                 .partial_totals = NULL};
    if (d->kv.o.type == QUANT_Q8_0) {
        p.k_scales = d->kv.k_scales + (size_t)a->layer * d->kv.layer_values / CUDA_KV_GROUP;
        p.v_scales = d->kv.v_scales + (size_t)a->layer * d->kv.layer_values / CUDA_KV_GROUP;
    }
    if (plan.n_tiles && cuda_flash_tiles(d, &p, plan.n_tiles))
        return -1;
    return plan.n_rows ? run_rows(d, &p, &plan) : 0;
}
