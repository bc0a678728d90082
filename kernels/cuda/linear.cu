/* linear: out = W in + bias; which kernel runs, the plain kernel, and the preparation of inputs.
 *
 * Engine thread. Few inputs: own tensor core kernels that read weights once, near the bandwidth of
 * memory (linear_float.cu, linear_quant.cu). Up to tile_max: linear_tile.cuh's. More: the library
 * (linear_library.cu). The plain kernel below takes what none does: rare formats and few inputs,
 * odd column counts; it computes in float32.
 *
 * Gate and up of BF16 or FP8 weights that the library multiplies are left as bfloat16, as other
 * engines leave all that stands between two ops: at a prompt's 2,048 rows of 14,336 they are most
 * of what a layer writes and reads beside its weights. act.cu reads them. */
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/skinny.cuh"

enum { PLAIN_THREADS = 256, PLAIN_WARPS = PLAIN_THREADS / CUDA_WARP, PLAIN_INPUTS = 8 };

/* ---- the plain kernel: a warp per row, eight inputs at a time */

static __global__ void linear_plain(struct quant_view v, struct skinny_inputs x,
                                    struct skinny_out o, struct cuda_experts experts, int n_jobs,
                                    int job)
{
    if (experts.ids)
        v = *skinny_expert(&experts, n_jobs, job, &x);
    o = skinny_out_of(o);
    const float *in = x.x;
    int n = x.n;
    int64_t row = (int64_t)blockIdx.x * PLAIN_WARPS + threadIdx.x / CUDA_WARP;
    int lane = (int)threadIdx.x % CUDA_WARP, t0 = (int)blockIdx.z * PLAIN_INPUTS;
    float sums[PLAIN_INPUTS] = {0};
    if (row >= v.rows)
        return;
    for (int c = lane; c < v.cols; c += CUDA_WARP) {
        float w = view_value(&v, row, c);
#pragma unroll
        for (int t = 0; t < PLAIN_INPUTS; t++)
            if (t0 + t < n)
                sums[t] += w * in[(int64_t)(t0 + t) * v.cols + c];
    }
#pragma unroll
    for (int t = 0; t < PLAIN_INPUTS; t++) {
        float sum = warp_sum(sums[t]);
        if (lane || t0 + t >= n)
            continue;
        float *to = o.out + (int64_t)(t0 + t) * v.rows + row;
        if (o.bias)
            sum += o.bias[row];
        *to = o.add ? *to + sum : sum;
    }
}

static void run_plain(struct device *d, const struct linear_args *a, int j,
                      const struct cuda_experts *experts)
{
    const struct linear_job *job = &a->jobs[j];
    struct skinny_inputs x = {a->in, NULL, NULL, a->n, (int)job->w->cols, 0};
    struct skinny_out o = {job->out, job->bias, (int)job->w->rows, a->add};
    unsigned rows = (unsigned)((job->w->rows + PLAIN_WARPS - 1) / PLAIN_WARPS);
    unsigned inputs = (unsigned)((a->n + PLAIN_INPUTS - 1) / PLAIN_INPUTS);
    CUDA_LAUNCH(linear_plain, dim3(rows, experts->ids ? (unsigned)experts->n_pairs : 1, inputs),
                dim3(PLAIN_THREADS), 0, d->stream, quant_view_of(job->w), x, o, *experts,
                a->n_jobs, j);
}

/* ---- inputs as 16-bit values, padded with zeros: high and, where wanted, low parts, and sums of
 * the high ones over 32 columns (halves.cuh). The op that makes the inputs may have done it. */

template <bool BF16>
static __global__ void split(const float *in, int n, int cols, int padded, uint16_t *high,
                             uint16_t *low, float *sums)
{
    unsigned eighth = blockIdx.x * PLAIN_THREADS + threadIdx.x, each = (unsigned)padded / 8;
    int row = (int)(eighth / each), col = (int)(eighth % each * 8), rows = (n + 7) / 8 * 8;
    int64_t at = (int64_t)eighth * 8;
    bool inside = row < rows;
    float x[8], sum = 0;
    uint32_t h[4], l[4];
    grid_wait();
    grid_trigger();
    if (inside && row < n && col + 8 <= cols && cols % 4 == 0) {
        const float4 *from = (const float4 *)(in + (int64_t)row * cols + col);
        float4 a = from[0], b = from[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = inside && row < n && col + i < cols ? in[(int64_t)row * cols + col + i] : 0;
    }
    split_eight<BF16>(x, h, l);
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum += first_of<BF16>(h[i]) + second_of<BF16>(h[i]);
    /* four lanes hold 32 columns */
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (!inside)
        return;
    *(uint4 *)(high + at) = make_uint4(h[0], h[1], h[2], h[3]);
    if (low)
        *(uint4 *)(low + at) = make_uint4(l[0], l[1], l[2], l[3]);
    if (sums && col % 32 == 0)
        store_sum(sums, at, sum);
}

enum way { PLAIN, SKINNY, TILE, LIBRARY, LIBRARY_FP8 };

/* What the products with w that go this way take. */
static struct cuda_halves halves_of(const struct device *d, const struct matrix *w, int n,
                                    enum way way)
{
    struct cuda_halves h = {};
    bool half = (way == LIBRARY && w->type != QUANT_F32) || way == TILE || (way == SKINNY && n > 8);
    if (way == LIBRARY_FP8) {
        h.fp8 = (uint8_t *)d->split_high;
        h.scales = d->split_sums;
    }
    if (!half)
        return h;
    h.high = d->split_high;
    h.low = way == SKINNY ? d->split_low : NULL;
    h.sums = way == TILE && (w->type == QUANT_Q4_K || w->type == QUANT_Q5_K) ? d->split_sums : NULL;
    h.bf16 = w->type == QUANT_BF16;
    return h;
}

static bool has(const struct cuda_halves *made, const struct cuda_halves *wanted)
{
    return made->high == wanted->high && made->bf16 == wanted->bf16 && made->fp8 == wanted->fp8 &&
           (!wanted->low || made->low) && (!wanted->sums || made->sums);
}

/* Rows in the form that the products take. Returns their columns with padding, of which there may
 * be none for the library; -1: latched. */
static int64_t prepare(struct device *d, const struct linear_args *a, const struct cuda_halves *h,
                       enum way way)
{
    int64_t cols = a->jobs[0].w->cols;
    int64_t padded = way == LIBRARY ? cols : (cols + CUDA_CHUNK - 1) / CUDA_CHUNK * CUDA_CHUNK;
    int64_t threads = (a->n + 7) / 8 * padded; /* eight values each, eight rows */
    dim3 grid((unsigned)((threads + PLAIN_THREADS - 1) / PLAIN_THREADS));
    if (d->made.of == a->in && d->made.n == a->n && d->made.cols == cols && has(&d->made.halves, h))
        return padded; /* cols: see cuda_halves_for */
    if (d->made.of)
        return cuda_fail(d, "linear: its input, or one made before, was left in another form");
    if (h->fp8)
        cuda_fp8_round(d, a);
    else if (h->bf16)
        CUDA_LAUNCH_EARLY(split<true>, grid, dim3(PLAIN_THREADS), 0, d, a->in, a->n, (int)cols,
                          (int)padded, h->high, h->low, h->sums);
    else
        CUDA_LAUNCH_EARLY(split<false>, grid, dim3(PLAIN_THREADS), 0, d, a->in, a->n, (int)cols,
                          (int)padded, h->high, h->low, h->sums);
    return padded;
}

/* ---- the library's failures */

/* What the library refuses after all is multiplied from floats. */
static __global__ void to_floats(const uint16_t *high, bool bf16, int64_t n, float *out)
{
    int64_t i = (int64_t)blockIdx.x * PLAIN_THREADS + threadIdx.x;
    if (i < n)
        out[i] = bf16 ? bf16_float(high[i]) : f16_float(high[i]);
}

static void need_floats(struct device *d, const struct linear_args *a)
{
    int64_t cols = a->jobs[0].w->cols, n = a->n * cols;
    if (d->made.of == a->in && d->made.halves.fp8)
        cuda_fp8_floats(d, &d->made.halves, a->n, cols, (float *)a->in);
    else if (d->made.of == a->in)
        CUDA_LAUNCH(to_floats, dim3((unsigned)((n + PLAIN_THREADS - 1) / PLAIN_THREADS)),
                    dim3(PLAIN_THREADS), 0, d->stream, d->made.halves.high, d->made.halves.bf16, n,
                    (float *)a->in);
}

/* As many of the jobs from i on as go at once; what the library cannot do the plain kernel does. */
static int run_many(struct device *d, const struct linear_args *a, int i,
                    const struct cuda_experts *none, int *n_done)
{
    int rc = 1;
    *n_done = cuda_library_pair(d, a, i) ? 2 : 1;
    if (*n_done == 2)
        rc = cuda_library(d, a, i, 2, false);
    for (int j = i; rc == 1 && j < i + *n_done; j++) {
        int alone = cuda_library(d, a, j, 1, false);
        if (alone < 0)
            return -1;
        if (alone) {
            need_floats(d, a);
            run_plain(d, a, j, none);
        }
    }
    return rc < 0 ? -1 : 0;
}

/* ---- the choice */

/* Up to how many inputs the own kernels are faster than the library. Floats: as long as reading the
 * weights is what takes time. Quantized weights cost the library a pass that writes and reads them
 * as float16, about 4.6 bytes of traffic a weight; against it stands that mma.sync reaches some
 * half of what the library's instructions do on 9.0 and 10.0, and nearly all of it elsewhere. At 4
 * TB/s and 350 for 790 TFLOP/s the sides are even near 330 inputs. None of this was measured. */
static int tile_max(const struct device *d, bool half)
{
    bool wide = d->capability >= 90 && d->capability < 120;
    return half ? 64 : wide ? 256 : 1024;
}

static enum way way_of(const struct device *d, const struct matrix *w, int n)
{
    const struct cuda_matrix *c = (const struct cuda_matrix *)w->packed;
    bool half = w->type == QUANT_F16 || w->type == QUANT_BF16;
    bool fits = w->cols <= d->cols_max && n <= d->n_max;
    if (d->deterministic) {
        bool own = d->tensor && w->cols <= d->cols_max && (half ? w->cols % 32 == 0 : c->tiled);
        return own ? TILE : PLAIN;
    }
    if (w->type == QUANT_F32)
        return n > PLAIN_INPUTS && w->cols % 4 == 0 ? LIBRARY : PLAIN;
    if (!fits)
        return PLAIN;
    if (cuda_fp8_fits(d, w, n))
        return LIBRARY_FP8;
    if (d->tensor && (half ? w->cols % 32 == 0 : c->tiled) && n <= tile_max(d, half))
        return n <= (half ? 16 : 8) ? SKINNY : TILE;
    if (n <= PLAIN_INPUTS || (w->type == QUANT_BF16 && !d->tensor))
        return PLAIN;
    /* rows of 16-bit values on 16 bytes; slices of at least one row */
    return w->cols % 8 == 0 && w->cols <= 1 << 20 ? LIBRARY : PLAIN;
}

static int check(struct device *d, const struct linear_args *a)
{
    if (a->n_jobs < 1 || a->n_jobs > 3)
        return cuda_fail(d, "linear with %d jobs", a->n_jobs);
    int64_t cols = a->jobs[0].w->cols;
    if (!cuda_owns(d, a->in, (size_t)a->n * (size_t)cols * sizeof(float), "linear's input"))
        return -1;
    for (int j = 0; j < a->n_jobs; j++) {
        const struct linear_job *job = &a->jobs[j];
        size_t rows = (size_t)job->w->rows * sizeof(float);
        if (job->w->cols != cols)
            return cuda_fail(d, "linear jobs of one call differ in their columns");
        if (!job->w->packed)
            return cuda_fail(d, "linear: a matrix that was not loaded");
        if (!cuda_owns(d, job->out, (size_t)a->n * rows, "linear's output") ||
            (job->bias && !cuda_owns(d, job->bias, rows, "linear's bias")))
            return -1;
    }
    return 0;
}

/* Jobs of the same format and way as `like` run together. */
static struct linear_args select(const struct device *d, const struct linear_args *a,
                                 const struct matrix *like, bool *done)
{
    struct linear_args some = {};
    some.in = a->in;
    some.n = a->n;
    some.add = a->add;
    for (int j = 0; j < a->n_jobs; j++)
        if (!done[j] && a->jobs[j].w->type == like->type &&
            way_of(d, a->jobs[j].w, a->n) == way_of(d, like, a->n)) {
            some.jobs[some.n_jobs++] = a->jobs[j];
            done[j] = true;
        }
    return some;
}

static int run(struct device *d, const struct linear_args *a)
{
    const struct cuda_experts none = {NULL, NULL, 1, 1, false};
    bool done[3] = {false};
    for (int j = 0; j < a->n_jobs; j++) {
        if (done[j])
            continue;
        const struct matrix *w = a->jobs[j].w;
        struct linear_args some = select(d, a, w, done);
        enum way way = way_of(d, w, a->n);
        bool half = w->type == QUANT_F16 || w->type == QUANT_BF16;
        struct cuda_halves halves = halves_of(d, w, a->n, way);
        bool floats = !halves.high && !halves.fp8;
        int64_t padded = floats ? 0 : prepare(d, &some, &halves, way);
        if (padded < 0)
            return -1;
        if (floats && d->made.of)
            return cuda_fail(d, "linear: its input, or one made before, is not there as floats");
        if (way == LIBRARY_FP8) {
            int n_done = cuda_linear_fp8(d, &some, false);
            if (n_done < 0)
                return -1;
            some.n_jobs -= n_done;
            if (!some.n_jobs)
                continue;
            for (int i = 0; i < some.n_jobs; i++)
                some.jobs[i] = some.jobs[i + n_done];
            need_floats(d, &some);
            d->made.of = NULL;
            if (run(d, &some)) /* the first of them goes another way now */
                return -1;
            continue;
        }
        if (way == TILE)
            cuda_tile(d, &some, padded);
        else if (way == SKINNY && half)
            cuda_skinny_float(d, &some, padded, &none);
        else if (way == SKINNY)
            cuda_skinny_quant(d, &some, &none);
        bool apart = way == PLAIN || way == LIBRARY;
        for (int i = 0, n_done = 1; apart && i < some.n_jobs; i += n_done) {
            if (way == PLAIN)
                run_plain(d, &some, i, &none);
            else if (run_many(d, &some, i, &none, &n_done))
                return -1;
        }
    }
    return cuda_launched(d, "linear");
}

/* May gate and up be left as bfloat16? */
static bool may_be_bf16(const struct device *d, const struct linear_args *a)
{
    if (!a->gated || d->deterministic || a->n_jobs != 2 || a->add)
        return false;
    const struct matrix *gate = a->jobs[0].w, *up = a->jobs[1].w;
    enum way way = way_of(d, gate, a->n);
    return gate->type == up->type && gate->rows == up->rows && gate->rows % CUDA_CHUNK == 0 &&
           !a->jobs[0].bias && !a->jobs[1].bias && way == way_of(d, up, a->n) &&
           (way == LIBRARY_FP8 || (way == LIBRARY && gate->type == QUANT_BF16));
}

/* Both lie where up's floats would: act_mul may write gate's. 1: the library has no kernel for
 * this, and no output of a was touched that does not come again. */
static int run_bf16(struct device *d, const struct linear_args *a)
{
    enum way way = way_of(d, a->jobs[0].w, a->n);
    struct cuda_halves halves = halves_of(d, a->jobs[0].w, a->n, way);
    int64_t n = a->n * a->jobs[0].w->rows;
    uint16_t *gate = (uint16_t *)a->jobs[1].out, *up = gate + n;
    struct linear_args b = *a;
    int rc = prepare(d, a, &halves, way) < 0 ? -1 : 1;
    b.jobs[0].out = (float *)gate;
    b.jobs[1].out = (float *)up;
    if (rc == 1 && way == LIBRARY_FP8) {
        int n_done = cuda_linear_fp8(d, &b, true);
        rc = n_done < 0 ? -1 : n_done < 2;
    } else if (rc == 1 && cuda_library_pair(d, &b, 0)) {
        rc = cuda_library(d, &b, 0, 2, true);
    }
    if (rc == 1 && way == LIBRARY) {
        rc = cuda_library(d, &b, 0, 1, true);
        if (!rc)
            rc = cuda_library(d, &b, 1, 1, true);
    }
    if (!rc) {
        d->gated.gate = a->jobs[0].out;
        d->gated.up = a->jobs[1].out;
        d->gated.n = n;
        d->gated.gate_bf16 = gate;
        d->gated.up_bf16 = up;
    }
    return rc;
}

int cuda_linear(struct device *d, const struct linear_args *a)
{
    if (cuda_failed(d))
        return -1;
    if (a->n < 1)
        return 0;
    if (check(d, a))
        return -1;
    d->gated.gate = NULL; /* set: by a step that was given up before its act_mul */
    int step = d->deterministic ? CUDA_FIXED_INPUTS : a->n, rc = 0;
    for (int i = 0; !rc && i < a->n; i += step) {
        struct linear_args part = *a;
        part.n = a->n - i < step ? a->n - i : step;
        part.in += (int64_t)i * a->jobs[0].w->cols;
        for (int j = 0; j < a->n_jobs; j++)
            part.jobs[j].out += (int64_t)i * a->jobs[j].w->rows;
        rc = may_be_bf16(d, &part) ? run_bf16(d, &part) : 1;
        if (rc == 1)
            rc = run(d, &part);
    }
    d->made.of = NULL; /* this was their reader */
    return rc;
}

/* A deterministic device's products take inputs in parts, whose halves would lie elsewhere. */
struct cuda_halves cuda_halves_for(struct device *d, const struct linear_readers *readers,
                                   const float *of, int n, bool all)
{
    const struct cuda_halves none = {};
    struct cuda_halves made = {};
    int64_t cols = readers->n ? readers->w[0]->cols : 0;
    if (d->made.of == of)
        d->made.of = NULL;
    if (d->deterministic || d->made.of || !cols || cols % CUDA_CHUNK)
        return none;
    for (int i = 0; i < readers->n; i++) {
        const struct matrix *w = readers->w[i];
        if (!w->packed || w->cols != cols)
            return none;
        struct cuda_halves h = halves_of(d, w, n, way_of(d, w, n));
        if ((!h.high && !h.fp8) || ((h.low || h.sums || h.fp8) && !all) ||
            (i && (h.bf16 != made.bf16 || h.fp8 != made.fp8)))
            return none;
        made.high = h.high;
        made.fp8 = h.fp8;
        made.scales = h.scales;
        made.low = made.low ? made.low : h.low;
        made.sums = made.sums ? made.sums : h.sums;
        made.bf16 = h.bf16;
    }
    d->made.of = of;
    d->made.n = n;
    d->made.cols = cols;
    d->made.halves = made;
    if (made.fp8)
        return made;
    /* readers take rows by eight; what is in those beyond n reaches no output */
    size_t at = (size_t)n * (size_t)cols, more = (size_t)(-n & 7) * (size_t)cols;
    CUDA_ANY_VALUE(made.high + at, more * sizeof *made.high);
    if (made.low)
        CUDA_ANY_VALUE(made.low + at, more * sizeof *made.low);
    if (made.sums)
        CUDA_ANY_VALUE(made.sums + at / 32, more / 32 * sizeof *made.sums);
    return made;
}

/* The matrices of an expert are of one format, but nothing in a file says so. */
static bool alike(const struct linear_args *a)
{
    for (int j = 1; j < a->n_jobs; j++)
        if (a->jobs[j].w->type != a->jobs[0].w->type)
            return false;
    return true;
}

int cuda_linear_experts(struct device *d, const struct linear_args *a,
                        const struct cuda_experts *experts)
{
    const struct matrix *w = a->jobs[0].w;
    bool skinny = !experts->mixed && alike(a) && way_of(d, w, 1) == SKINNY;
    if (skinny && (w->type == QUANT_F16 || w->type == QUANT_BF16))
        cuda_skinny_float(d, a, 0, experts);
    else if (skinny)
        cuda_skinny_quant(d, a, experts);
    for (int j = 0; !skinny && j < a->n_jobs; j++)
        run_plain(d, a, j, experts);
    return cuda_launched(d, "experts");
}
