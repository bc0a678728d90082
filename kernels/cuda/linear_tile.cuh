/* linear_tile: weights times more inputs than linear_float.cu and linear_quant.cu take and fewer
 * than the library is for; quantized weights become operands on their way to the tensor cores.
 * Private to linear_tile*.cu.
 *
 * A block of 8 warps computes 128 rows by 8 NT inputs over its share of the columns; a warp has 16
 * rows and all the inputs. Weights and inputs arrive by cp.async in a ring of stages of 128
 * columns; a warp reads the weights that it brought itself, the inputs are everyone's. Inputs are
 * read by 16 bytes a lane, in the order of the weights' fragments. In shared memory the 16-byte
 * units of a row are permuted by the row (tile_swizzle), so that lanes that read together meet no
 * bank twice.
 *
 * Few rows and inputs make few blocks, and the columns are split: the parts of a tile are added up
 * in order by the block that ends last, whichever it is, so results do not depend on which. */
#ifndef SIROCCO_KERNELS_CUDA_LINEAR_TILE_CUH
#define SIROCCO_KERNELS_CUDA_LINEAR_TILE_CUH

#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/skinny.cuh"

enum {
    TILE_WARPS = 8,
    TILE_THREADS = TILE_WARPS * CUDA_WARP,
    TILE_ROWS = TILE_WARPS * CUDA_TILE_ROWS,
    TILE_X_BYTES = CUDA_CHUNK * 2, /* of an input's chunk */
    TILE_GROUP = 4,                /* of 8 inputs: what one pass over the fragments computes */
    TILE_STAGES_MAX = 4,
    TILE_SPLITS_MAX = 16
};

struct tile_job {
    struct tile_at planes; /* floats: codes are the values */
    struct skinny_out out;
};
struct tile_work {
    struct tile_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1]; /* in blocks of rows */
    const uint16_t *x; /* [n rounded to 8][padded] */
    const float *sums; /* [the same][padded / 32], two float16 each: see split in linear.cu */
    int n, cols, padded, n_chunks;
    int n_parts; /* of the inputs, 8 NT each */
    int x_rows;  /* that a stage has room for */
    int stages, stage_bytes;
    float *partial; /* [tile][split][8 NT / 8][TILE_THREADS][4] */
    int *counters;  /* [tile]: 0 between launches */
};

/* Bytes of a warp's weights in a stage. */
template <enum quant_type T> static __host__ __device__ constexpr int tile_warp_bytes()
{
    return T == QUANT_F16 || T == QUANT_BF16 ? CUDA_TILE_ROWS * CUDA_CHUNK * 2 : chunk_bytes<T>();
}

/* A warp's weights of one chunk; floats: rows row0 .. row0 + 15 of `rows`. */
template <enum quant_type T>
static __device__ __forceinline__ void tile_load_weights(const struct tile_work *w,
                                                         const struct tile_job *job, char *to,
                                                         int row0, int chunk, int lane)
{
    if (row0 >= job->out.rows)
        return;
    if (T == QUANT_F16 || T == QUANT_BF16) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int row = 2 * i + lane / 16, unit = lane % 16, col = chunk * CUDA_CHUNK + 8 * unit;
            const uint8_t *from =
                job->planes.codes + ((int64_t)(row0 + row) * w->cols + col) * 2;
            copy_async_16(to + row * TILE_X_BYTES + 16 * (unit ^ tile_swizzle(row)), from,
                          row0 + row < job->out.rows && col < w->cols);
        }
        return;
    }
    struct tile_at at =
        tile_at_of<T>(&job->planes, row0 / CUDA_TILE_ROWS, chunk, w->n_chunks);
    copy_chunk<T>(&at, to, lane);
}

/* The inputs of one chunk, zeros beyond the last, and behind them their sums. */
template <enum quant_type T>
static __device__ __forceinline__ void tile_load_inputs(const struct tile_work *w, char *to,
                                                        int input0, int chunk)
{
    const int ROWS = TILE_THREADS / 16; /* at a time; their swizzle repeats */
    int rows = (w->n + 7) / 8 * 8, row = (int)threadIdx.x / 16, unit = (int)threadIdx.x % 16;
    char *at = to + row * TILE_X_BYTES + 16 * (unit ^ tile_swizzle(row));
    const uint16_t *from =
        w->x + (int64_t)(input0 + row) * w->padded + chunk * CUDA_CHUNK + 8 * unit;
    for (; row < w->x_rows; row += ROWS) {
        copy_async_16(at, from, input0 + row < rows);
        at += ROWS * TILE_X_BYTES;
        from += ROWS * w->padded;
    }
    if (!tiles<T>::LEAST)
        return;
    to += w->x_rows * TILE_X_BYTES;
    for (row = (int)threadIdx.x; row < w->x_rows; row += TILE_THREADS)
        copy_async_16(to + 16 * row,
                      w->sums + ((int64_t)(input0 + row) * w->padded + chunk * CUDA_CHUNK) / 32,
                      input0 + row < rows);
}

/* A group's scale as an operand: what the codes are multiplied by before the product, exactly or
 * with the rounding of float16 weights; the rest is tile_factor. */
template <enum quant_type T>
static __device__ __forceinline__ uint32_t tile_operand_scale(const struct share<T> *s, int half,
                                                              int k, int sixteenth)
{
    uint32_t bits = scale_bits<T>(s, half, k);
    if (!tiles<T>::SUPERS)
        return twice(bits);
    if (tiles<T>::SIXTEEN)
        return subtract_f16(twice((bits >> 8 * sixteenth & 255) ^ 0x6480u), 0x64806480u);
    return subtract_f16(twice((bits & 255) | 0x6400u), 0x64006400u);
}

/* What a chunk's products are multiplied by afterwards (G4, G8: each group's). */
template <enum quant_type T>
static __device__ __forceinline__ float tile_factor(const struct share<T> *s, int half, int k)
{
    return tiles<T>::SUPERS ? f16_float((uint16_t)s->supers[half]) : scale_of<T>(s, half, k, 0);
}

/* The sums of an input's groups (split in linear.cu) as an operand of 16 columns: 0..3 their
 * float16, 8..11 what is left of them, the others anything; and least values as the other operand,
 * 0 there. */
static __device__ __forceinline__ void tile_sums(const char *sums, int g, int t, uint32_t b[2])
{
    uint2 two = *(const uint2 *)(sums + 16 * g + 8 * (t % 2));
    b[0] = two.x;
    b[1] = two.y;
}
template <enum quant_type T>
static __device__ __forceinline__ void tile_leasts(const struct share<T> *s, int t, uint32_t a[4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        /* pairs (scale, least) of groups 2 t, 2 t + 1 */
        uint32_t word = t % 2 ? s->scales[half][1] : s->scales[half][0];
        uint32_t pair = (word >> 8 & 0x00ff00ffu) | 0x64006400u;
        a[half] = a[half + 2] = t < 2 ? subtract_f16(pair, 0x64006400u) : 0;
    }
}

/* The weights of group k of 32 as operands. */
template <enum quant_type T>
static __device__ __forceinline__ void tile_operands(const struct share<T> *s, int k,
                                                     uint32_t a[2][4])
{
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair = pair_of<T, false>(s, i % 2, k, 2 * m + i / 2);
            if (!tiles<T>::CENTERED && !tiles<T>::FLOATS)
                pair = multiply_f16(pair, tile_operand_scale<T>(s, i % 2, k, m));
            a[m][i] = pair;
        }
}

/* acc += a chunk's products of a quantized tile with TILE_GROUP times 8 inputs, at x. made: its
 * operands, or NULL: they are used but once */
template <enum quant_type T, bool MADE>
static __device__ __forceinline__ void
tile_add(const struct share<T> *s, const uint32_t made[4][2][4], const char *x, const char *sums,
         int g, int t, float acc[TILE_GROUP][4])
{
    typedef tiles<T> F;
    const bool GROUPED = F::CENTERED && !F::LONG, AFTER = F::SUPERS || F::LONG || GROUPED;
    float part[TILE_GROUP][4] = {};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t own[2][4];
        if (!MADE)
            tile_operands<T>(s, k, own);
        const uint32_t(*a)[4] = MADE ? made[k] : own;
#pragma unroll
        for (int i = 0; i < TILE_GROUP; i++) {
            uint32_t b[4];
            tile_inputs<T>(x + 8 * i * TILE_X_BYTES, g, t, k, b);
            mma_16816<false>(AFTER ? part[i] : acc[i], a[0], b);
            mma_16816<false>(AFTER ? part[i] : acc[i], a[1], b + 2);
        }
        if constexpr (AFTER) {
#pragma unroll
            for (int i = 0; i < (GROUPED || k == 3 ? TILE_GROUP : 0); i++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    acc[i][e] += tile_factor<T>(s, e / 2, k) * part[i][e];
                    part[i][e] = 0;
                }
        }
    }
    if (!F::LEAST)
        return;
    uint32_t leasts[4], b[2];
    tile_leasts<T>(s, t, leasts);
#pragma unroll
    for (int i = 0; i < TILE_GROUP; i++) {
        float least[4] = {0, 0, 0, 0};
        tile_sums(sums + 8 * i * 16, g, t, b);
        mma_16816<false>(least, leasts, b);
#pragma unroll
        for (int e = 0; e < 4; e++)
            acc[i][e] -= 32 * f16_float((uint16_t)(s->supers[e / 2] >> 16)) * least[e];
    }
}

/* A stage's products of a quantized tile. */
template <enum quant_type T, int NT>
static __device__ __forceinline__ void tile_quant_stage(const struct tile_work *w,
                                                        const char *stage, const char *weights,
                                                        int n_left, float acc[NT][4])
{
    int lane = (int)threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
    struct share<T> s;
    load_copied<T>(weights, g, t, &s);
    const char *sums = stage + w->x_rows * TILE_X_BYTES;
    if constexpr (NT == TILE_GROUP) {
        tile_add<T, false>(&s, NULL, stage + g * TILE_X_BYTES, sums, g, t, acc);
    } else {
        uint32_t a[4][2][4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            tile_operands<T>(&s, k, a[k]);
#pragma unroll
        for (int nt = 0; nt < NT; nt += TILE_GROUP)
            if (nt == 0 || 8 * nt < n_left)
                tile_add<T, true>(&s, a, stage + (8 * nt + g) * TILE_X_BYTES, sums + 8 * nt * 16, g,
                                  t, acc + nt);
    }
}

/* A stage's products of a tile of 16-bit floats. */
template <enum quant_type T, int NT>
static __device__ __forceinline__ void tile_float_stage(const char *stage, const char *weights,
                                                        int n_left, float acc[NT][4])
{
    const bool BF16 = T == QUANT_BF16;
    int lane = (int)threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int at = 16 * ((4 * k + t) ^ tile_swizzle(g));
        uint4 a = *(const uint4 *)(weights + g * TILE_X_BYTES + at);
        uint4 b = *(const uint4 *)(weights + (g + 8) * TILE_X_BYTES + at);
        uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
            if (nt >= TILE_GROUP && 8 * (nt / TILE_GROUP * TILE_GROUP) >= n_left)
                continue;
            uint4 v = *(const uint4 *)(stage + (8 * nt + g) * TILE_X_BYTES + at);
            uint32_t x[4] = {v.x, v.y, v.z, v.w};
            mma_16816<BF16>(acc[nt], first, x);
            mma_16816<BF16>(acc[nt], second, x + 2);
        }
    }
}

static __device__ __forceinline__ void tile_wait(int stages)
{
    if (stages >= 4)
        copy_async_wait<2>();
    else if (stages == 3)
        copy_async_wait<1>();
    else
        copy_async_wait<0>();
}

/* The parts of a tile meet. True: this block has them all in acc. */
template <int NT>
static __device__ __forceinline__ bool tile_meet(const struct tile_work *w, int n_left,
                                                 float acc[NT][4])
{
    CUDA_SHARED(int, last);
    int splits = (int)gridDim.y, tile = (int)blockIdx.x;
    float4 *mine = (float4 *)w->partial +
                   ((int64_t)tile * splits + blockIdx.y) * NT * TILE_THREADS + threadIdx.x;
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
        if (8 * nt < n_left)
            mine[nt * TILE_THREADS] = make_float4(acc[nt][0], acc[nt][1], acc[nt][2], acc[nt][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        *last = atomicAdd(&w->counters[tile], 1) == splits - 1;
    __syncthreads();
    if (!*last)
        return false;
    __threadfence();
    if (threadIdx.x == 0)
        w->counters[tile] = 0;
    const float4 *all =
        (const float4 *)w->partial + (int64_t)tile * splits * NT * TILE_THREADS + threadIdx.x;
#pragma unroll
    for (int nt = 0; nt < NT; nt += TILE_GROUP) { /* loads of a group follow each other unwaited */
        if (8 * nt >= n_left)
            continue;
#pragma unroll
        for (int i = 0; i < 4 * TILE_GROUP; i++)
            acc[nt + i / 4][i % 4] = 0;
#pragma unroll 2
        for (int s = 0; s < splits; s++) {
            float4 v[TILE_GROUP];
#pragma unroll
            for (int i = 0; i < TILE_GROUP; i++)
                v[i] = 8 * (nt + i) < n_left ? __ldcg(&all[(s * NT + nt + i) * TILE_THREADS])
                                             : make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < TILE_GROUP; i++) {
                acc[nt + i][0] += v[i].x, acc[nt + i][1] += v[i].y;
                acc[nt + i][2] += v[i].z, acc[nt + i][3] += v[i].w;
            }
        }
    }
    return true;
}

/* A thread's sums, at inputs input0 .. and rows row0 .. of the tile. What is read is read before
 * anything is written: else each load would wait for the one before. */
template <int NT>
static __device__ __forceinline__ void tile_write(const struct skinny_out *o, int n, int input0,
                                                  int row0, const float acc[NT][4])
{
    int lane = (int)threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
    int row = row0 + g, input = input0 + 2 * t;
    float *to = o->out + (int64_t)input * o->rows + row;
    float bias[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 2; half++)
        if (o->bias && row + 8 * half < o->rows)
            bias[half] = o->bias[row + 8 * half];
#pragma unroll
    for (int nt = 0; nt < NT; nt += TILE_GROUP) {
        float before[TILE_GROUP][4];
        if (input0 + 8 * nt >= n)
            continue;
#pragma unroll
        for (int i = 0; i < 4 * TILE_GROUP; i++) {
            int down = 8 * (nt + i / 4) + i % 2, right = i % 4 / 2 * 8;
            bool inside = input + down < n && row + right < o->rows;
            before[i / 4][i % 4] =
                o->add && inside ? to[(int64_t)down * o->rows + right] : 0;
        }
#pragma unroll
        for (int i = 0; i < 4 * TILE_GROUP; i++) {
            int down = 8 * (nt + i / 4) + i % 2, right = i % 4 / 2 * 8;
            float sum = acc[nt + i / 4][i % 4] + bias[i % 4 / 2];
            if (input + down < n && row + right < o->rows)
                to[(int64_t)down * o->rows + right] = o->add ? before[i / 4][i % 4] + sum : sum;
        }
    }
}

/* Two blocks to a multiprocessor where 128 registers are enough. */
template <enum quant_type T, int NT> static constexpr int tile_blocks()
{
    return NT <= TILE_GROUP && !tiles<T>::CENTERED && T != QUANT_Q5_K ? 2 : 1;
}

template <enum quant_type T, int NT>
static __global__ void __launch_bounds__(TILE_THREADS, (tile_blocks<T, NT>()))
    tile_kernel(const __grid_constant__ struct tile_work w)
{
    CUDA_SHARED(char, shared);
    int part = (int)blockIdx.x % w.n_parts, block = (int)blockIdx.x / w.n_parts, j = 0;
    while (j + 1 < SKINNY_JOBS && block >= w.first_block[j + 1])
        j++;
    const struct tile_job &job = w.job[j]; /* stays where the arguments are */
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int row0 = (block - w.first_block[j]) * TILE_ROWS + warp * CUDA_TILE_ROWS;
    int input0 = part * 8 * NT, n_left = w.n - input0;
    int begin = (int)((unsigned)w.n_chunks * blockIdx.y / gridDim.y); /* below 2^24 * 2^4 */
    int end = (int)((unsigned)w.n_chunks * (blockIdx.y + 1) / gridDim.y);
    int mine = w.stage_bytes - (TILE_WARPS - warp) * tile_warp_bytes<T>();
    float acc[NT][4] = {};

    /* the first stages: weights before the inputs are there */
    for (int i = 0; i < w.stages - 1 && begin + i < end; i++)
        tile_load_weights<T>(&w, &job, shared + i * w.stage_bytes + mine, row0, begin + i, lane);
    grid_wait();
    grid_trigger();
    for (int i = 0; i < w.stages - 1; i++) {
        if (begin + i < end)
            tile_load_inputs<T>(&w, shared + i * w.stage_bytes, input0, begin + i);
        copy_async_commit(); /* the first of them holds all the weights above */
    }
    for (int chunk = begin, at = 0; chunk < end; chunk++) {
        tile_wait(w.stages);
        __syncthreads(); /* all copies are there, and the stage before was read by all */
        int next = chunk + w.stages - 1, to = at ? at - 1 : w.stages - 1;
        if (next < end) {
            tile_load_weights<T>(&w, &job, shared + to * w.stage_bytes + mine, row0, next, lane);
            tile_load_inputs<T>(&w, shared + to * w.stage_bytes, input0, next);
        }
        copy_async_commit();
        const char *stage = shared + at * w.stage_bytes;
        if (row0 < job.out.rows) {
            if constexpr (T == QUANT_F16 || T == QUANT_BF16)
                tile_float_stage<T, NT>(stage, stage + mine, n_left, acc);
            else
                tile_quant_stage<T, NT>(&w, stage, stage + mine, n_left, acc);
        }
        at = at + 1 < w.stages ? at + 1 : 0;
    }
    copy_async_wait<0>();
    __syncthreads();
    if (gridDim.y > 1 && !tile_meet<NT>(&w, n_left, acc))
        return;
    tile_write<NT>(&job.out, w.n, input0, row0, acc);
}

/* ---- launches */

/* As many blocks as there are multiprocessors, where parts are worth their meeting. */
static inline int tile_splits(const struct device *d, int n_tiles, int n_chunks, size_t tile_bytes)
{
    int splits = d->n_sm / n_tiles;
    size_t room = d->partial_bytes / (tile_bytes * (size_t)n_tiles);
    splits = splits < n_chunks / 2 ? splits : n_chunks / 2;
    splits = splits < TILE_SPLITS_MAX ? splits : TILE_SPLITS_MAX;
    splits = (size_t)splits < room ? splits : (int)room;
    return splits > 1 && n_tiles <= CUDA_COUNTERS ? splits : 1;
}

/* The same whatever n is, for a deterministic device: as if CUDA_FIXED_INPUTS were one tile. What a
 * launch then needs of `partial` is at most that of 128 inputs. */
static inline int tile_splits_fixed(const struct device *d, int blocks, int n_chunks)
{
    return tile_splits(d, blocks, n_chunks, (size_t)16 * TILE_THREADS * 4 * sizeof(float));
}

/* Rows of inputs that a stage has room for. */
static inline int tile_x_rows(int n, int nt)
{
    return n < 8 * nt ? (n + 31) / 32 * 32 : 8 * nt;
}

template <enum quant_type T> static int tile_stage_bytes(int n, int nt)
{
    return tile_x_rows(n, nt) * (TILE_X_BYTES + (tiles<T>::LEAST ? 16 : 0)) +
           TILE_WARPS * tile_warp_bytes<T>();
}

template <enum quant_type T, int NT>
static void tile_launch(struct device *d, const struct linear_args *a, int64_t padded)
{
    struct tile_work w = {};
    int blocks = 0;
    w.x = d->split_high;
    w.sums = d->split_sums;
    w.n = a->n;
    w.cols = (int)a->jobs[0].w->cols;
    w.padded = (int)padded;
    w.n_chunks = (int)(padded / CUDA_CHUNK);
    w.n_parts = (a->n + 8 * NT - 1) / (8 * NT);
    w.x_rows = tile_x_rows(a->n, NT);
    for (int j = 0; j < a->n_jobs; j++) {
        const struct linear_job *job = &a->jobs[j];
        const struct cuda_matrix *c = (const struct cuda_matrix *)job->w->packed;
        const uint8_t *codes = c->tiled ? c->codes : (const uint8_t *)c->raw;
        w.first_block[j] = blocks;
        w.job[j] = (struct tile_job){{codes, c->high, c->scales, c->supers, 0},
                                     {job->out, job->bias, (int)job->w->rows, a->add}};
        blocks += (int)((job->w->rows + TILE_ROWS - 1) / TILE_ROWS);
    }
    for (int j = a->n_jobs; j <= SKINNY_JOBS; j++)
        w.first_block[j] = blocks;
    w.stage_bytes = tile_stage_bytes<T>(a->n, NT);
    int stages = (int)(d->shared_max / (size_t)w.stage_bytes);
    w.stages = stages < TILE_STAGES_MAX ? stages : TILE_STAGES_MAX;
    w.partial = d->partial;
    w.counters = d->counters;
    auto kernel = tile_kernel<T, NT>;
    int shared = w.stages * w.stage_bytes, tiles = blocks * w.n_parts;
    int splits = tile_splits(d, tiles, w.n_chunks, (size_t)NT * TILE_THREADS * 4 * sizeof(float));
    if (d->deterministic)
        splits = tile_splits_fixed(d, blocks, w.n_chunks);
    /* always the most: a graph may hold launches of this kernel with more than this one needs */
    if (cuda_check(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)d->shared_max),
                   "shared memory"))
        return;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)tiles, (unsigned)splits), dim3(TILE_THREADS),
                      (size_t)shared, d, w);
}

/* Many inputs together where two stages of them fit a multiprocessor, else 32 at a time. */
template <enum quant_type T, int MANY>
static void tile_choose(struct device *d, const struct linear_args *a, int64_t padded)
{
    if (a->n <= 32 || (size_t)tile_stage_bytes<T>(a->n, MANY) * 2 > d->shared_max)
        tile_launch<T, TILE_GROUP>(d, a, padded);
    else
        tile_launch<T, MANY>(d, a, padded);
}

#endif
