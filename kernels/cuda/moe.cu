/* moe: mixture of experts (Jiang et al. 2024, Mixtral). Engine thread.
 *
 * Few rows (decoding): every (row, expert) pair is a product of its own, whose weights are found on
 * the device, so that steps can be captured. Many rows: the choice of experts comes back to the
 * host, rows are gathered by expert and go through linear. Either way a row's experts are added up
 * in index order. */
#include "kernels/cuda/quant.cuh"

#include <stdlib.h>

enum {
    THREADS = 256,
    EXPERTS_MAX = 1024,
    USED_MAX = CUDA_EXPERTS_USED_MAX,
    PAIRWISE_MAX = 16, /* rows up to which pairs are multiplied one by one */
    PARTS = 8
};

/* Of one layer, made at its first call (the pass that warms up): the views of its experts. */
struct cuda_moe {
    const struct matrix *gate; /* names the layer */
    struct quant_view *inner, *outer; /* device: [n_experts][2] gate and up; [n_experts] down */
    bool mixed; /* of experts in different formats */
    struct cuda_moe *next;
};

/* ---- the workspace: its parts are multiples of CUDA_ALIGN */

struct parts {
    float *logits;   /* [n][n_experts] */
    int32_t *ids;    /* [n][n_used] in index order */
    float *weights;  /* [n][n_used] */
    float *in, *gate, *up, *out; /* [m][dim], [m][ffn], [m][ffn], [m][dim] */
};

/* Rows of the products: pairs of few rows, or all rows that may choose one expert. */
static size_t products(size_t n, size_t used)
{
    size_t pairs = (n < PAIRWISE_MAX ? n : (size_t)PAIRWISE_MAX) * used;
    return n > pairs ? n : pairs;
}

static size_t lay_out(struct parts *p, char *base, size_t n, size_t dim, size_t ffn, size_t experts,
                      size_t used)
{
    size_t m = products(n, used), at = 0, offsets[PARTS - 1];
    const size_t counts[PARTS - 1][2] = {{n, experts}, {n, used}, {n, used}, {m, dim},
                                         {m, ffn},     {m, ffn},  {m, dim}};
    for (int i = 0; i < PARTS - 1; i++) {
        size_t bytes;
        offsets[i] = at;
        if (__builtin_mul_overflow(counts[i][0], counts[i][1], &bytes) ||
            __builtin_mul_overflow(bytes, sizeof(float), &bytes) ||
            __builtin_add_overflow(bytes, (size_t)CUDA_ALIGN - 1, &bytes) ||
            __builtin_add_overflow(at, bytes / CUDA_ALIGN * CUDA_ALIGN, &at))
            return SIZE_MAX;
    }
    if (base)
        *p = (struct parts){(float *)(base + offsets[0]),   (int32_t *)(base + offsets[1]),
                            (float *)(base + offsets[2]),   (float *)(base + offsets[3]),
                            (float *)(base + offsets[4]),   (float *)(base + offsets[5]),
                            (float *)(base + offsets[6])};
    return at;
}

size_t cuda_moe_workspace(int n_max, int dim, int ffn, int n_experts, int n_used)
{
    return lay_out(NULL, NULL, (size_t)n_max, (size_t)dim, (size_t)ffn, (size_t)n_experts,
                   (size_t)n_used);
}

/* ---- routing: a warp per row */

struct candidate {
    float logit;
    int index; /* -1: none */
};

static __device__ __forceinline__ bool beats(float logit, int index, float than, int than_index)
{
    return index >= 0 &&
           (than_index < 0 || logit > than || (logit == than && index < than_index));
}

/* A row with a NaN chooses some experts with NaN weights: the guard of pick sees it. */
static __global__ void route(const float *logits, int32_t *ids, float *weights, int n_experts,
                             int n_used, bool renorm)
{
    CUDA_SHARED(int, chosen);
    const float *row = logits + (int64_t)blockIdx.x * n_experts;
    int32_t *my_ids = ids + (int64_t)blockIdx.x * n_used;
    float *my_weights = weights + (int64_t)blockIdx.x * n_used;
    int lane = (int)threadIdx.x;
    float most = -INFINITY, all = 0, used = 0;

    for (int e = lane; e < n_experts; e += CUDA_WARP) {
        chosen[e] = 0;
        most = fmaxf(most, row[e]);
    }
    for (int mask = 16; mask; mask /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, mask));
    for (int e = lane; e < n_experts; e += CUDA_WARP)
        all += expf(row[e] - most);
    all = warp_sum(all);
    for (int k = 0; k < n_used; k++) {
        struct candidate best = {0, -1};
        __syncwarp();
        for (int e = lane; e < n_experts; e += CUDA_WARP)
            if (!chosen[e] && beats(row[e], e, best.logit, best.index)) {
                best.logit = row[e];
                best.index = e;
            }
        for (int mask = 16; mask; mask /= 2) {
            float logit = __shfl_xor_sync(0xffffffffu, best.logit, mask);
            int index = __shfl_xor_sync(0xffffffffu, best.index, mask);
            if (beats(logit, index, best.logit, best.index)) {
                best.logit = logit;
                best.index = index;
            }
        }
        /* lanes may disagree over NaN */
        int index = __shfl_sync(0xffffffffu, best.index, 0);
        __syncwarp(); /* all have looked */
        if (lane == 0)
            chosen[index] = 1;
    }
    __syncwarp();
    if (lane)
        return;
    for (int e = 0, k = 0; e < n_experts && k < n_used; e++)
        if (chosen[e]) {
            my_ids[k] = e;
            my_weights[k] = expf(row[e] - most) / all;
            used += my_weights[k++];
        }
    for (int k = 0; k < n_used && renorm; k++)
        my_weights[k] /= used;
}

/* ---- few rows: pair by pair */

/* out[row] += the row's pairs, weighted, in index order */
static __global__ void add_pairs(float *out, const float *in, const float *weights, int dim,
                                 int n_used)
{
    int64_t row = blockIdx.y, i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= dim)
        return;
    float sum = out[row * dim + i];
    for (int k = 0; k < n_used; k++)
        sum += weights[row * n_used + k] * in[(row * n_used + k) * dim + i];
    out[row * dim + i] = sum;
}

static struct cuda_moe *views_of(struct device *d, const struct moe_args *a)
{
    struct cuda_moe *m = d->moes;
    size_t n = (size_t)a->n_experts, each = sizeof(struct quant_view);
    while (m && m->gate != a->gate)
        m = m->next;
    if (m)
        return m;
    struct quant_view *host = (struct quant_view *)calloc(3 * n, each);
    m = (struct cuda_moe *)calloc(1, sizeof *m);
    if (m)
        m->inner = (struct quant_view *)cuda_take(d, 3 * n * each, false);
    if (!host || !m || !m->inner) {
        free(host);
        free(m);
        cuda_fail(d, "no memory for a table of %zu experts", n);
        return NULL;
    }
    for (size_t e = 0; e < n; e++) {
        host[2 * e] = quant_view_of(&a->gate[e]);
        host[2 * e + 1] = quant_view_of(&a->up[e]);
        host[2 * n + e] = quant_view_of(&a->down[e]);
        m->mixed |= a->gate[e].type != a->gate[0].type || a->up[e].type != a->up[0].type ||
                    a->down[e].type != a->down[0].type || host[2 * e].tiled != host[0].tiled ||
                    host[2 * e + 1].tiled != host[0].tiled ||
                    host[2 * n + e].tiled != host[2 * n].tiled;
    }
    int rc = cuda_upload(d, m->inner, host, 3 * n * each);
    m->outer = m->inner + 2 * n;
    m->gate = a->gate;
    m->next = d->moes;
    d->moes = m;
    free(host);
    return rc ? NULL : m;
}

void cuda_moe_close(struct device *d)
{
    while (d->moes) {
        struct cuda_moe *next = d->moes->next;
        cuda_give(d, d->moes->inner);
        free(d->moes);
        d->moes = next;
    }
}

static int run_pairs(struct device *d, const struct moe_args *a, const struct parts *p)
{
    const struct cuda_moe *m = views_of(d, a);
    int pairs = a->n * a->n_used;
    if (!m)
        return -1;
    struct cuda_experts inner = {p->ids, m->inner, pairs, a->n_used, m->mixed};
    struct cuda_experts outer = {p->ids, m->outer, pairs, 1, m->mixed};
    struct linear_args in = {.in = a->in, .n = 1, .add = false, .gated = false, .n_jobs = 2,
                             .jobs = {{&a->gate[0], NULL, p->gate}, {&a->up[0], NULL, p->up}}};
    struct linear_args out = {.in = p->gate, .n = 1, .add = false, .gated = false, .n_jobs = 1,
                              .jobs = {{&a->down[0], NULL, p->out}}};
    struct act_mul_args act = {p->gate, p->up, pairs, a->ffn, a->act, {0, {NULL}}};
    if (cuda_linear_experts(d, &in, &inner) || cuda_act_mul(d, &act) ||
        cuda_linear_experts(d, &out, &outer))
        return -1;
    CUDA_LAUNCH(add_pairs, dim3((unsigned)((a->dim + THREADS - 1) / THREADS), (unsigned)a->n),
                dim3(THREADS), 0, d->stream, a->out, p->out, p->weights, a->dim, a->n_used);
    return cuda_launched(d, "moe");
}

/* ---- many rows: expert by expert */

static __global__ void take_rows(float *out, const float *in, const int32_t *rows, int dim)
{
    const float *from = in + (int64_t)rows[blockIdx.x] * dim;
    for (int i = (int)threadIdx.x; i < dim; i += THREADS)
        out[(int64_t)blockIdx.x * dim + i] = from[i];
}

/* pairs[i] = row * n_used + place among the row's experts */
static __global__ void add_rows(float *out, const float *in, const int32_t *rows,
                                const int32_t *pairs, const float *weights, int dim)
{
    float *to = out + (int64_t)rows[blockIdx.x] * dim;
    float weight = weights[pairs[blockIdx.x]];
    for (int i = (int)threadIdx.x; i < dim; i += THREADS)
        to[i] += weight * in[(int64_t)blockIdx.x * dim + i];
}

/* rows, pairs: device, [n] */
static int run_expert(struct device *d, const struct moe_args *a, const struct parts *p, int e,
                      const int32_t *rows, const int32_t *pairs, int n)
{
    struct linear_args in = {.in = p->in, .n = n, .add = false, .gated = true, .n_jobs = 2,
                             .jobs = {{&a->gate[e], NULL, p->gate}, {&a->up[e], NULL, p->up}}};
    struct linear_args out = {.in = p->gate, .n = n, .add = false, .gated = false, .n_jobs = 1,
                              .jobs = {{&a->down[e], NULL, p->out}}};
    struct act_mul_args act = {p->gate, p->up, n, a->ffn, a->act, {1, {&a->down[e]}}};
    CUDA_LAUNCH(take_rows, dim3((unsigned)n), dim3(THREADS), 0, d->stream, p->in, a->in, rows,
                a->dim);
    if (cuda_linear(d, &in) || cuda_act_mul(d, &act) || cuda_linear(d, &out))
        return -1;
    CUDA_LAUNCH(add_rows, dim3((unsigned)n), dim3(THREADS), 0, d->stream, a->out, p->out, rows,
                pairs, p->weights, a->dim);
    return cuda_launched(d, "moe");
}

static int run_experts(struct device *d, const struct moe_args *a, const struct parts *p)
{
    int n_pairs = a->n * a->n_used;
    int32_t *ids = d->routes, *rows = ids + n_pairs, *pairs = rows + n_pairs;
    int32_t starts[EXPERTS_MAX + 1] = {0};
    d->host_bound = a->n < d->host_bound ? a->n : d->host_bound;
    if (d->capturing)
        return cuda_fail(d, "experts of %d rows in a captured step", a->n);
    if (a->n > d->n_max)
        return cuda_fail(d, "moe of %d rows, %d are reserved", a->n, d->n_max);
    if (cuda_check(d, cudaMemcpyAsync(ids, p->ids, (size_t)n_pairs * sizeof *ids,
                                      cudaMemcpyDeviceToHost, d->stream), "moe") ||
        cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed"))
        return -1;
    for (int i = 0; i < n_pairs; i++)
        starts[ids[i] + 1]++;
    for (int e = 0; e < a->n_experts; e++)
        starts[e + 1] += starts[e];
    for (int i = 0; i < n_pairs; i++) { /* starts[e] moves to the end of e's pairs */
        int at = starts[ids[i]]++;
        rows[at] = i / a->n_used;
        pairs[at] = i;
    }
    const int32_t *staged =
        (const int32_t *)cuda_stage(d, rows, 2 * (size_t)n_pairs * sizeof *rows);
    if (!staged)
        return -1;
    for (int e = 0, at = 0; e < a->n_experts; at = starts[e++]) {
        int n = starts[e] - at;
        if (n && run_expert(d, a, p, e, staged + at, staged + n_pairs + at, n))
            return -1;
    }
    return 0;
}

/* ---- the op */

static int check(struct device *d, const struct moe_args *a)
{
    size_t x = (size_t)a->n * (size_t)a->dim * sizeof(float);
    if (!a->workspace || a->n_experts < 1 || a->n_experts > EXPERTS_MAX || a->n_used < 1 ||
        a->n_used > a->n_experts || a->n_used > USED_MAX)
        return cuda_fail(d, "%d of %d experts cannot be routed to, or no workspace", a->n_used,
                         a->n_experts);
    for (int e = 0; e < a->n_experts; e++)
        if (!a->gate[e].packed || !a->up[e].packed || !a->down[e].packed)
            return cuda_fail(d, "moe: expert %d was not loaded", e);
    size_t workspace = cuda_moe_workspace(a->n, a->dim, a->ffn, a->n_experts, a->n_used);
    return cuda_owns(d, a->out, x, "moe") && cuda_owns(d, a->in, x, "moe's input") &&
                   cuda_owns(d, a->workspace, workspace, "moe's workspace")
               ? 0
               : -1;
}

int cuda_moe(struct device *d, const struct moe_args *a)
{
    struct parts p = {};
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (check(d, a))
        return -1;
    lay_out(&p, (char *)a->workspace, (size_t)a->n, (size_t)a->dim, (size_t)a->ffn,
            (size_t)a->n_experts, (size_t)a->n_used);
    struct linear_args router = {.in = a->in, .n = a->n, .add = false, .gated = false, .n_jobs = 1,
                                 .jobs = {{a->router, NULL, p.logits}}};
    if (cuda_linear(d, &router))
        return -1;
    CUDA_LAUNCH(route, dim3((unsigned)a->n), dim3(CUDA_WARP), (size_t)a->n_experts * sizeof(int),
                d->stream, p.logits, p.ids, p.weights, a->n_experts, a->n_used, a->renorm);
    if (cuda_launched(d, "moe"))
        return -1;
    return a->n <= PAIRWISE_MAX && !d->deterministic ? run_pairs(d, a, &p) : run_experts(d, a, &p);
}
