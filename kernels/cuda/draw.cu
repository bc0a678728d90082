/* draw: a token from each row of logits (struct draw_args); one block per row, which lies in the
 * second-level cache while it is walked. Engine thread; the kernel's arguments reach the device
 * with the step's arrays or through the ring (step.cu).
 *
 * Weights are integers, multiples of 2^-44 of the best one's: their sums are exact whatever the
 * order, so atomics may add them, and a draw depends on its row alone. A token's key is its logit's
 * order above its id's, descending: keys are unique, and every filter keeps the keys from some key
 * on. That key is found without sorting: a histogram over distances below the maximum, the bin that
 * the limit falls into, finer histograms over the keys of that bin while it holds many, and at last
 * every key of the bin against every other. */
#include "kernels/cuda/pick.cuh"

#include <math.h>

enum {
    THREADS = 1024,
    WARPS = THREADS / CUDA_WARP,
    BINS = 2 * THREADS,
    BINS_PER_UNIT = 64, /* the last bin begins where weights are nothing: exp(-31.98) < 2^-44 */
    FEW = 256,          /* keys that are compared pair by pair */
    TILE = THREADS,
    TILES_MAX = DRAW_VOCAB_MAX / TILE,
};
static_assert(TILES_MAX <= THREADS, "a thread per tile");

#define FINITE_MAX 3.402823466e38f
#define GREEDY_BELOW 1e-5f
#define WEIGHT_ONE 17592186044416.0f /* 2^44 */

struct found { /* a bin, or a key at the end */
    int bin;
    uint32_t n_in;
    uint64_t n_before, weight_before, key; /* before: of all greater keys */
};

struct work { /* a block's shared memory */
    uint32_t counts[BINS], lows[BINS], highs[BINS]; /* weights of 64 bits in two halves */
    uint64_t few_keys[FEW], few_weights[FEW];
    uint64_t tiles[TILES_MAX];
    uint64_t sums[WARPS];
    struct found found;
    float floats[WARPS];
    struct pick_best bests[WARPS];
    unsigned n_few;
    int n_changes;
    float raw;
};

struct view { /* logits that are chosen from */
    const float *x;
    int n;
    float max, scale; /* 1 / temperature */
};

struct tally {
    uint64_t n, weight; /* of all finite logits */
};

/* ---- sums over the block */

/* The sum of x up to this thread, itself included; *total: of all. */
static __device__ __forceinline__ uint64_t scan(uint64_t x, struct work *w, uint64_t *total)
{
    int lane = (int)threadIdx.x % CUDA_WARP, warp = (int)threadIdx.x / CUDA_WARP;
    for (int by = 1; by < CUDA_WARP; by *= 2) {
        uint64_t other = __shfl_up_sync(0xffffffffu, x, (unsigned)by);
        x += lane >= by ? other : 0;
    }
    __syncthreads();
    if (lane == CUDA_WARP - 1)
        w->sums[warp] = x;
    __syncthreads();
    uint64_t before = 0, all = 0;
#pragma unroll 4
    for (int i = 0; i < WARPS; i++) {
        before += i < warp ? w->sums[i] : 0;
        all += w->sums[i];
    }
    *total = all;
    return before + x;
}

static __device__ __forceinline__ uint64_t sum_of(uint64_t x, struct work *w)
{
    uint64_t total;
    scan(x, w, &total);
    return total;
}

static __device__ __forceinline__ uint64_t max_of(uint64_t x, struct work *w)
{
    for (int mask = 16; mask; mask /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, x, mask);
        x = other > x ? other : x;
    }
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0)
        w->sums[threadIdx.x / CUDA_WARP] = x;
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < WARPS; i++)
        x = w->sums[i] > x ? w->sums[i] : x;
    return x;
}

/* ---- keys and weights */

static __device__ __forceinline__ uint64_t key_of(float x, int id)
{
    uint32_t bits = __float_as_uint(x == 0 ? 0.0f : x); /* -0 is 0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~id;
}

static __device__ __forceinline__ int key_id(uint64_t key)
{
    return (int)~(uint32_t)key;
}

/* exp(z) for z <= 0, bit for bit what engine/sampler.c computes: 2^k exp(r), exp by its series; 0
 * below -87. */
static __device__ __forceinline__ float exp_below(float z)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    if (!(z >= -87.0f))
        return 0;
    float shifted = __fadd_rn(__fmul_rn(z, 1.44269504f), magic);
    float k = __fsub_rn(shifted, magic);
    float r = __fadd_rn(__fsub_rn(z, __fmul_rn(k, 0.693359375f)), __fmul_rn(k, 2.12194440e-4f));
    float p = __fadd_rn(__fmul_rn(r, 1.0f / 5040), 1.0f / 720);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 120);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 24);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f / 6);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f);
    p = __fadd_rn(__fmul_rn(p, r), 1.0f);
    uint32_t power = (__float_as_uint(shifted) - 0x4B400000u + 127u) << 23;
    return __fmul_rn(p, __uint_as_float(power));
}

static __device__ __forceinline__ uint64_t weight_of(const struct view *v, float x)
{
    float weight = exp_below(__fmul_rn(__fsub_rn(x, v->max), v->scale));
    return (uint64_t)(weight * WEIGHT_ONE);
}

static __device__ __forceinline__ bool finite(float x)
{
    return x >= -FINITE_MAX;
}

/* Greater logits are in lower bins: every step of the formula keeps the order. */
static __device__ __forceinline__ int bin_of(const struct view *v, float x)
{
    float z = __fmul_rn(__fsub_rn(v->max, x), v->scale * BINS_PER_UNIT);
    return z < BINS - 1 ? (int)z : BINS - 1;
}

/* ---- histograms */

static __device__ __forceinline__ void clear(struct work *w)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < BINS; i += THREADS)
        w->counts[i] = w->lows[i] = w->highs[i] = 0;
    __syncthreads();
}

/* Adds of 32 bits, whose carries are exact whatever the order. */
static __device__ __forceinline__ void add(struct work *w, int bin, uint64_t weight)
{
    uint32_t low = (uint32_t)weight, high = (uint32_t)(weight >> 32);
    atomicAdd(&w->counts[bin], 1u);
    if (low)
        high += atomicAdd(&w->lows[bin], low) > ~low;
    if (high)
        atomicAdd(&w->highs[bin], high);
}

/* Fill the histogram over distances. The last bin, where most of a vocabulary may be, has no
 * weight and is counted apart. */
static __device__ struct tally tally_all(struct work *w, const struct view *v)
{
    struct tally t = {};
    uint64_t n_far = 0;
    clear(w);
    for (int i = (int)threadIdx.x; i < v->n; i += THREADS) {
        float x = v->x[i];
        if (!finite(x))
            continue;
        int bin = bin_of(v, x);
        if (bin == BINS - 1) {
            n_far++;
            continue;
        }
        uint64_t weight = weight_of(v, x);
        add(w, bin, weight);
        t.weight += weight;
        t.n++;
    }
    t.weight = sum_of(t.weight, w);
    n_far = sum_of(n_far, w);
    t.n = sum_of(t.n, w) + n_far;
    if (threadIdx.x == 0)
        w->counts[BINS - 1] = (uint32_t)n_far;
    __syncthreads();
    return t;
}

/* The histogram over the keys of [low, high], 2^shift to a bin, from the greatest on. */
static __device__ void tally_keys(struct work *w, const struct view *v, uint64_t low,
                                  uint64_t high, int shift)
{
    clear(w);
    for (int i = (int)threadIdx.x; i < v->n; i += THREADS) {
        uint64_t key = key_of(v->x[i], i);
        if (finite(v->x[i]) && key >= low && key <= high)
            add(w, (int)((high - key) >> shift), weight_of(v, v->x[i]));
    }
    __syncthreads();
}

/* The bin in which the running count (or weight) reaches limit, 1 to what the histogram holds. */
static __device__ struct found find(struct work *w, uint64_t limit, bool by_count)
{
    uint64_t counts[2], weights[2], total;
    int first = 2 * (int)threadIdx.x;
    for (int i = 0; i < 2; i++) {
        counts[i] = w->counts[first + i];
        weights[i] = (uint64_t)w->highs[first + i] * 4294967296ull + w->lows[first + i];
    }
    uint64_t n = scan(counts[0] + counts[1], w, &total) - counts[0] - counts[1];
    uint64_t weight = scan(weights[0] + weights[1], w, &total) - weights[0] - weights[1];
    for (int i = 0; i < 2; i++) {
        uint64_t before = by_count ? n : weight, own = by_count ? counts[i] : weights[i];
        if (before < limit && limit <= before + own) {
            struct found f = {first + i, (uint32_t)counts[i], n, weight, 0};
            w->found = f;
        }
        n += counts[i];
        weight += weights[i];
    }
    __syncthreads();
    struct found f = w->found;
    __syncthreads();
    return f;
}

/* ---- the cut */

/* Put the keys of [low, high] on the list of few, in any order; at most FEW. Returns how many. */
static __device__ int gather_few(struct work *w, const struct view *v, uint64_t low, uint64_t high,
                                 int bin)
{
    __syncthreads();
    if (threadIdx.x == 0)
        w->n_few = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < v->n; i += THREADS) {
        float x = v->x[i];
        uint64_t key = key_of(x, i);
        if (!finite(x) || key < low || key > high || (bin >= 0 && bin_of(v, x) != bin))
            continue;
        unsigned at = atomicAdd(&w->n_few, 1u);
        if (at >= FEW) /* what was counted is here: not reached */
            break;
        w->few_keys[at] = key;
        w->few_weights[at] = weight_of(v, x);
    }
    __syncthreads();
    return w->n_few < FEW ? (int)w->n_few : FEW;
}

/* Of the n on the list: how many keys are greater than this thread's, and their weight. */
static __device__ struct tally rank_few(const struct work *w, int n)
{
    struct tally before = {};
    uint64_t mine = (int)threadIdx.x < n ? w->few_keys[threadIdx.x] : ~(uint64_t)0;
    for (int i = 0; i < n; i++)
        if (w->few_keys[i] > mine) {
            before.n++;
            before.weight += w->few_weights[i];
        }
    return before;
}

/* Narrow [*low, *high] from the keys of f.bin until it holds few, of which the limit is one. */
static __device__ struct found narrow(struct work *w, const struct view *v, struct found f,
                                      uint64_t limit, bool by_count, uint64_t *low, uint64_t *high)
{
    uint64_t least = 0, most = 0; /* of the bin's keys, least as its complement */
    for (int i = (int)threadIdx.x; i < v->n; i += THREADS) {
        if (!finite(v->x[i]) || bin_of(v, v->x[i]) != f.bin)
            continue;
        uint64_t key = key_of(v->x[i], i);
        most = key > most ? key : most;
        least = ~key > least ? ~key : least;
    }
    *high = max_of(most, w);
    *low = ~max_of(least, w);
    while (f.n_in > FEW) {
        int shift = 0;
        while ((*high - *low) >> shift >= BINS)
            shift++;
        tally_keys(w, v, *low, *high, shift);
        struct found inner =
            find(w, limit - (by_count ? f.n_before : f.weight_before), by_count);
        *high -= (uint64_t)inner.bin << shift;
        uint64_t width = (uint64_t)1 << shift;
        if (*high - *low >= width)
            *low = *high - (width - 1);
        f.n_in = inner.n_in;
        f.n_before += inner.n_before;
        f.weight_before += inner.weight_before;
    }
    return f;
}

/* The last key of the shortest prefix, in the order of keys, whose count (or weight) reaches limit,
 * and the prefix's weight. tally_all was called, and holds so much. */
static __device__ uint64_t cut(struct work *w, const struct view *v, uint64_t limit, bool by_count,
                               uint64_t *weight)
{
    uint64_t low = 0, high = ~(uint64_t)0;
    struct found f = find(w, limit, by_count);
    int bin = f.bin;
    if (f.n_in > FEW) {
        f = narrow(w, v, f, limit, by_count, &low, &high);
        bin = -1;
    }
    int n = gather_few(w, v, low, high, bin), i = (int)threadIdx.x;
    struct tally before = rank_few(w, n);
    if (i < n) {
        before.n += f.n_before;
        before.weight += f.weight_before;
        uint64_t start = by_count ? before.n : before.weight;
        uint64_t end = by_count ? before.n + 1 : before.weight + w->few_weights[i];
        if (start < limit && limit <= end) {
            w->found.key = w->few_keys[i];
            w->found.weight_before = before.weight + w->few_weights[i];
        }
    }
    __syncthreads();
    *weight = w->found.weight_before;
    uint64_t key = w->found.key;
    __syncthreads();
    return key;
}

/* ---- the chain */

/* The greatest key of a row. */
static __device__ uint64_t best_of(struct work *w, const float *x, int n)
{
    uint64_t best = 0;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        uint64_t key = key_of(x[i], i);
        best = key > best ? key : best;
    }
    return max_of(best, w);
}

/* The best raw logits: the keys from a cut on, by rank. */
static __device__ void tell_top(struct work *w, const float *x, const struct draw_row *row,
                                struct draw_result *result)
{
    uint64_t weight, n_top = (uint64_t)row->n_top;
    struct view v = {x, row->n_valid, x[key_id(best_of(w, x, row->n_valid))], 1};
    struct tally all = tally_all(w, &v);
    n_top = all.n < n_top ? all.n : n_top;
    int n = gather_few(w, &v, cut(w, &v, n_top, true, &weight), ~(uint64_t)0, -1);
    struct tally before = rank_few(w, n);
    if ((int)threadIdx.x < n) {
        int id = key_id(w->few_keys[threadIdx.x]);
        result->top[before.n].token = id;
        result->top[before.n].logit = x[id];
    }
    if (threadIdx.x == 0)
        result->n_top = n;
    __syncthreads();
}

static __device__ __forceinline__ float bounded(float x)
{
    return x > FINITE_MAX ? FINITE_MAX : x;
}

/* Count the pending token among the changes; work.n_changes becomes how many these are then. */
static __device__ void add_pending(struct work *w, const struct cuda_draw *d)
{
    int n = d->row.n_changes;
    if (threadIdx.x == 0) {
        w->n_changes = n;
        w->n_few = 0;
    }
    __syncthreads();
    if (!d->pending || *d->pending >= d->row.n_valid)
        return;
    for (int i = (int)threadIdx.x; i < n; i += THREADS)
        if (d->changes[i].token == *d->pending) {
            d->changes[i].count++;
            d->changes[i].in_text = true;
            w->n_few = 1;
        }
    __syncthreads();
    if (threadIdx.x == 0 && !w->n_few) {
        struct draw_change c = {*d->pending, 0, 1, true, false};
        d->changes[n] = c;
        w->n_changes = n + 1;
    }
    __syncthreads();
}

/* Apply changes and mask to the row; a change's bias becomes the logit it found. */
static __device__ void change(float *x, const struct cuda_draw *d, int n_changes)
{
    const struct draw_row *row = &d->row;
    for (int i = (int)threadIdx.x; i < n_changes; i += THREADS) {
        struct draw_change *c = &d->changes[i];
        float raw = x[c->token], y = bounded(__fadd_rn(raw, c->bias));
        if (c->in_text)
            y = y > 0 ? y / row->repetition : __fmul_rn(y, row->repetition);
        if (c->count > 0)
            y = __fsub_rn(y, __fadd_rn(row->presence,
                                       __fmul_rn((float)c->count, row->frequency)));
        x[c->token] = c->banned ? -INFINITY : bounded(y);
        c->bias = raw;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; d->allowed && i < row->n_valid; i += THREADS)
        if (!(d->allowed[i / 32] >> i % 32 & 1u))
            x[i] = -INFINITY;
    __syncthreads();
}

/* The first id, among the keys from `from` on, at which the running sum exceeds uniform of all. */
static __device__ int draw_from(struct work *w, const struct view *v, uint64_t from, double uniform)
{
    int lane = (int)threadIdx.x % CUDA_WARP, warp = (int)threadIdx.x / CUDA_WARP;
    int n_tiles = (v->n + TILE - 1) / TILE;
    uint64_t total, all;
    __syncthreads();
    for (int tile = warp; tile < n_tiles; tile += WARPS) {
        uint64_t sum = 0;
        for (int j = lane; j < TILE; j += CUDA_WARP) {
            int i = tile * TILE + j;
            if (i < v->n && finite(v->x[i]) && key_of(v->x[i], i) >= from)
                sum += weight_of(v, v->x[i]);
        }
        for (int mask = 16; mask; mask /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0)
            w->tiles[tile] = sum;
    }
    __syncthreads();
    uint64_t own = (int)threadIdx.x < n_tiles ? w->tiles[threadIdx.x] : 0;
    uint64_t end = scan(own, w, &total);
    uint64_t target = (uint64_t)(uniform * (double)total);
    target = target < total ? target : total - 1;
    if (end - own <= target && target < end) {
        w->found.bin = (int)threadIdx.x;
        w->found.weight_before = end - own;
    }
    __syncthreads();
    int i = w->found.bin * TILE + (int)threadIdx.x;
    uint64_t before = w->found.weight_before;
    bool kept = i < v->n && finite(v->x[i]) && key_of(v->x[i], i) >= from;
    own = kept ? weight_of(v, v->x[i]) : 0;
    end = before + scan(own, w, &all);
    if (end - own <= target && target < end)
        w->found.key = (uint64_t)i;
    __syncthreads();
    return (int)w->found.key;
}

/* The id that the row, changed, gives; -1: none is left. */
static __device__ int choose(struct work *w, const float *x, const struct cuda_draw *d)
{
    const struct draw_row *row = &d->row;
    uint64_t best = best_of(w, x, row->n_valid), from = 0, weight = 0;
    int id = key_id(best);
    struct view v = {x, row->n_valid, x[id], d->scale};
    if (!finite(v.max))
        return -1;
    if (row->temperature < GREEDY_BELOW)
        return id;
    if (row->top_k > 0 && row->top_k < v.n) {
        struct tally all = tally_all(w, &v);
        weight = all.weight;
        if (all.n > (uint64_t)row->top_k)
            from = cut(w, &v, (uint64_t)row->top_k, true, &weight);
    }
    if (row->top_p < 1) {
        struct tally all = tally_all(w, &v);
        uint64_t whole = from ? weight : all.weight;
        uint64_t limit = (uint64_t)ceil((double)row->top_p * (double)whole);
        limit = limit < 1 ? 1 : limit > whole ? whole : limit;
        from = cut(w, &v, limit, false, &weight);
    }
    if (row->min_p > 0) {
        uint64_t least = key_of((float)((double)v.max + d->margin), -1);
        from = least > from ? least : from;
    }
    return draw_from(w, &v, from, row->uniform);
}

/* The token's logit before changes. */
static __device__ float raw_logit(struct work *w, const float *x, const struct cuda_draw *d,
                                  int n_changes, int token)
{
    if (threadIdx.x == 0)
        w->raw = x[token];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n_changes; i += THREADS)
        if (d->changes[i].token == token)
            w->raw = d->changes[i].bias;
    __syncthreads();
    return w->raw;
}

static __global__ void __launch_bounds__(THREADS)
draw(float *logits, struct draw_result *results, const struct cuda_draw *draws, int vocab,
     float softcap)
{
    CUDA_SHARED(struct work, w);
    float *x = logits + (int64_t)blockIdx.x * vocab;
    struct draw_result *result = &results[blockIdx.x];
    const struct cuda_draw *d = &draws[blockIdx.x];
    struct pick_result pick = pick_row(x, vocab, softcap, w->bests, w->floats);
    int token = -1;
    float logit = -INFINITY;

    if (threadIdx.x == 0) {
        result->pick = pick; /* now: few registers are free further on */
        result->n_top = 0;
    }
    __syncthreads();
    if (d->row.wanted && !pick.bad) {
        if (d->row.n_top > 0)
            tell_top(w, x, &d->row, result);
        add_pending(w, d);
        change(x, d, w->n_changes);
        token = choose(w, x, d);
        if (token >= 0)
            logit = raw_logit(w, x, d, w->n_changes, token);
    }
    if (threadIdx.x == 0) {
        result->token = token;
        result->logit = logit;
    }
}

/* ---- how rows reach the device */

static size_t aligned(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

static size_t mask_bytes(const struct draw_row *row)
{
    return row->wanted && row->allowed ? ((size_t)row->n_valid + 31) / 32 * sizeof(uint32_t) : 0;
}

static size_t changes_bytes(const struct draw_row *row)
{
    return aligned(((size_t)row->n_changes + (row->pending >= 0)) * sizeof(struct draw_change));
}

size_t cuda_draw_extra(const struct draw_args *a)
{
    size_t bytes = 0;
    for (int i = 0; i < a->n; i++)
        if (a->rows[i].wanted)
            bytes += changes_bytes(&a->rows[i]) + aligned(mask_bytes(&a->rows[i]));
    return bytes;
}

int cuda_draw_check(struct device *d, const struct draw_args *a, int n_tokens)
{
    int64_t n_changes = 0;
    if (a->vocab < 1 || a->vocab > DRAW_VOCAB_MAX)
        return cuda_fail(d, "draw from a vocabulary of %d", a->vocab);
    for (int i = 0; i < a->n; i++) {
        const struct draw_row *row = &a->rows[i];
        if (!row->wanted)
            continue;
        n_changes += row->n_changes;
        if (row->n_valid < 1 || row->n_valid > a->vocab || row->n_top < 0 ||
            row->n_top > DRAW_TOP_MAX || row->n_changes < 0 || n_changes > DRAW_CHANGES_MAX ||
            row->pending >= n_tokens)
            return cuda_fail(d, "draw: row %d is out of range", i);
        for (int j = 0; j < row->n_changes; j++) {
            int32_t token = a->changes[row->first_change + j].token;
            if (token < 0 || token >= row->n_valid)
                return cuda_fail(d, "draw: token %d", token);
        }
    }
    return 0;
}

void cuda_draw_fill(const struct draw_args *a, const int32_t *tokens, struct cuda_draw *rows,
                    char *extra, char *extra_device)
{
    for (int i = 0; i < a->n; i++) {
        const struct draw_row *row = &a->rows[i];
        struct cuda_draw *to = &rows[i];
        *to = (struct cuda_draw){};
        to->row = *row;
        if (!row->wanted)
            continue;
        size_t bytes = (size_t)row->n_changes * sizeof *a->changes;
        to->scale = 1.0f / row->temperature;
        to->margin = (double)row->temperature * log((double)row->min_p);
        to->changes = (struct draw_change *)extra_device;
        to->pending = row->pending >= 0 ? tokens + row->pending : NULL;
        if (bytes)
            memcpy(extra, a->changes + row->first_change, bytes);
        extra += changes_bytes(row);
        extra_device += changes_bytes(row);
        bytes = mask_bytes(row);
        to->allowed = bytes ? (const uint32_t *)extra_device : NULL;
        if (bytes)
            memcpy(extra, row->allowed, bytes);
        extra += aligned(bytes);
        extra_device += aligned(bytes);
    }
}

int cuda_draw(struct device *d, const struct draw_args *a)
{
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (!cuda_owns(d, a->logits, (size_t)a->n * (size_t)a->vocab * sizeof(float), "draw") ||
        !cuda_owns(d, a->result, (size_t)a->n * sizeof *a->result, "draw's result"))
        return -1;
    const struct cuda_draw *draws = cuda_draw_stage(d, a);
    if (!draws)
        return -1;
    CUDA_LAUNCH(draw, dim3((unsigned)a->n), dim3(THREADS), sizeof(struct work), d->stream,
                a->logits, a->result, draws, a->vocab, a->softcap);
    return cuda_launched(d, "draw");
}
