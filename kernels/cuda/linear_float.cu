/* linear_float: BF16 and F16 weights times few inputs, on tensor cores (skinny.cuh). Engine thread.
 *
 * A warp's turn is 128 columns of R tiles: per lane and tile 8 loads of 16 bytes, the first before
 * the kernel waits for the one that makes its inputs, and the next turn's as soon as there are
 * registers for them. Lane (g, t) loads columns 32 c + 8 t .. + 7 of rows g and g + 8: of its 8
 * values the first four feed one mma and the others the next, and inputs are taken likewise. Up to
 * eight inputs are split by the warp itself (meeting.cuh); more arrive split. */
#include "kernels/cuda/meeting.cuh"

enum { PIECES = 4, TURN = PIECES * 32 };

struct float_job {
    const uint16_t *w;
    struct skinny_out out;
};
struct float_jobs {
    struct float_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1], n_jobs;
};

/* Where a lane's loads go on: rows g and g + 8 of R tiles; in the place of rows beyond the last,
 * whose outputs are not written, the last. */
template <int R> struct places {
    const uint16_t *at[R][2];
};

template <int R>
static __device__ __forceinline__ struct places<R> places_of(const uint16_t *from, int rows,
                                                             int cols, int row, int col)
{
    struct places<R> s;
#pragma unroll
    for (int i = 0; i < 2 * R; i++)
        s.at[i / 2][i % 2] =
            from + (int64_t)(row + 8 * i < rows ? row + 8 * i : rows - 1) * cols + col;
    return s;
}

/* Piece p of a turn, which begins at col for this lane; zeros beyond the columns. */
template <int R>
static __device__ __forceinline__ void load_piece(const struct places<R> *s, int cols, int col,
                                                  int p, uint4 w[R][2][PIECES])
{
#pragma unroll
    for (int i = 0; i < 2 * R; i++)
        w[i / 2][i % 2][p] = load_once_if(s->at[i / 2][i % 2] + 32 * p, col + 32 * p < cols);
}

template <int R> static __device__ __forceinline__ void next_turn(struct places<R> *s)
{
#pragma unroll
    for (int i = 0; i < 2 * R; i++)
        s->at[i / 2][i % 2] += SKINNY_WARPS * TURN;
}

/* The job of this block, and its first row among the job's. */
static __device__ __forceinline__ int job_of(const struct float_jobs *jobs, int tile_rows,
                                             int *row0)
{
    int j = 0;
    while (j + 1 < SKINNY_JOBS && (int)blockIdx.x >= jobs->first_block[j + 1])
        j++;
    *row0 = ((int)blockIdx.x - jobs->first_block[j]) * tile_rows;
    return j;
}

/* Blocks of a multiprocessor: as many as leave room for all registers. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
enum { FEW_BLOCKS = 2 };
#else
enum { FEW_BLOCKS = 3 };
#endif

/* Up to N inputs: 1, 4 or 8. */
template <bool BF16, int N>
static __global__ void __launch_bounds__(SKINNY_THREADS, N > 4 ? 2 : (int)FEW_BLOCKS)
    float_few(const __grid_constant__ struct float_jobs jobs, struct skinny_inputs x,
              struct cuda_experts experts)
{
    CUDA_SHARED(struct meeting<N>, meetings);
    const bool PAIRED = meeting<N>::PAIRED;
    int row0, j = job_of(&jobs, 16, &row0);
    const uint16_t *weights = jobs.job[j].w;
    if (PAIRED && experts.ids) {
        grid_wait(); /* ids are of an earlier kernel */
        weights = (const uint16_t *)skinny_expert(&experts, jobs.n_jobs, j, &x)->raw;
    }
    int rows = jobs.job[j].out.rows;
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, col = warp * TURN;
    struct meeting<N> *m = &meetings[warp];
    CUDA_ANY_VALUE(m, sizeof *m); /* of inputs that are not there */
    float acc[2][4] = {}, sum[1][1][4];
    float4 ahead[N];
    uint4 w[1][2][PIECES];

    struct places<1> from = places_of<1>(weights, rows, x.cols, row0 + g, col + 8 * t);
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        load_piece<1>(&from, x.cols, col + 8 * t, p, w);
    grid_wait();
    grid_trigger();
    load_inputs<N>(&x, col, lane, ahead);
    put_inputs<BF16, false, N>(m, x.n, lane, ahead);
    while (col < x.cols) {
        col += SKINNY_WARPS * TURN;
        next_turn<1>(&from);
        __syncwarp(); /* the inputs are there */
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            if (N == 1 && p == 1)
                load_inputs<N>(&x, col, lane, ahead);
            uint4 a = w[0][0][p], b = w[0][1][p];
            uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w}, in[4];
            tile_inputs<QUANT_BF16>((const char *)m->rows[g], g, t, p, in);
            mma_16816<BF16>(acc[0], first, in);
            mma_16816<BF16>(acc[1], second, in + 2);
            if (!PAIRED) {
                tile_inputs<QUANT_BF16>((const char *)m->rows[8 * !PAIRED + g], g, t, p, in);
                mma_16816<BF16>(acc[0], first, in);
                mma_16816<BF16>(acc[1], second, in + 2);
            }
            load_piece<1>(&from, x.cols, col + 8 * t, p, w);
        }
        __syncwarp(); /* and were read */
        if (N > 1) /* there are no registers for more of them while the weights are loaded */
            load_inputs<N>(&x, col, lane, ahead);
        put_inputs<BF16, false, N>(m, x.n, lane, ahead);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        sum[0][0][i] = acc[0][i] + acc[1][i];
#pragma unroll
    for (int i = 0; PAIRED && i < 4; i += 2) /* high and low parts */
        sum[0][0][i] += sum[0][0][i + 1];
    struct skinny_out out = skinny_out_of(jobs.job[j].out);
    reduce_write<1, 1, meeting<N>::PAIRED>(sum, (float *)meetings, &out, x.n, row0);
}

/* Up to 8 NT inputs, already split, times R tiles. */
template <bool BF16, int NT, int R>
static __global__ void __launch_bounds__(SKINNY_THREADS, 2)
    float_some(const __grid_constant__ struct float_jobs jobs, struct skinny_inputs x)
{
    CUDA_SHARED(float, shared);
    int row0, j = job_of(&jobs, 16 * R, &row0);
    const uint16_t *weights = jobs.job[j].w;
    int rows = jobs.job[j].out.rows;
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, col = warp * TURN + 8 * t;
    float acc[R][NT][4] = {};
    uint4 w[R][2][PIECES];

    struct places<R> from = places_of<R>(weights, rows, x.cols, row0 + g, col);
#pragma unroll
    for (int p = 0; p < PIECES; p++)
        load_piece<R>(&from, x.cols, col, p, w);
    const uint16_t *high = x.high + (int64_t)g * x.padded + col;
    const uint16_t *low = x.low + (int64_t)g * x.padded + col;
    grid_wait();
    grid_trigger();
    while (col < x.cols) {
        int left = x.cols - col;
        col += SKINNY_WARPS * TURN;
        next_turn<R>(&from);
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            if (32 * p >= left) /* keeps the inputs of all pieces from taking registers at once */
                break;
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                uint4 in[2] = {*(const uint4 *)(high + 8 * nt * x.padded + 32 * p),
                               *(const uint4 *)(low + 8 * nt * x.padded + 32 * p)};
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    uint32_t four[4] = {in[part].x, in[part].y, in[part].z, in[part].w};
#pragma unroll
                    for (int r = 0; r < R; r++) {
                        uint4 a = w[r][0][p], b = w[r][1][p];
                        uint32_t first[4] = {a.x, b.x, a.y, b.y};
                        uint32_t second[4] = {a.z, b.z, a.w, b.w};
                        mma_16816<BF16>(acc[r][nt], first, four);
                        mma_16816<BF16>(acc[r][nt], second, four + 2);
                    }
                }
            }
        }
#pragma unroll
        for (int p = 0; p < PIECES; p++)
            load_piece<R>(&from, x.cols, col, p, w);
        high += SKINNY_WARPS * TURN;
        low += SKINNY_WARPS * TURN;
    }
    struct skinny_out out = jobs.job[j].out;
    reduce_write<NT, R>(acc, shared, &out, x.n, row0);
}

/* Tiles of tile_rows rows; returns how many. */
static int cut(const struct linear_args *a, int tile_rows, struct float_jobs *jobs)
{
    int blocks = 0;
    jobs->n_jobs = a->n_jobs;
    for (int j = 0; j < a->n_jobs; j++) {
        const struct linear_job *job = &a->jobs[j];
        const struct cuda_matrix *c = (const struct cuda_matrix *)job->w->packed;
        jobs->first_block[j] = blocks;
        jobs->job[j].w = (const uint16_t *)c->raw;
        jobs->job[j].out = (struct skinny_out){job->out, job->bias, (int)job->w->rows, a->add};
        blocks += (int)((job->w->rows + tile_rows - 1) / tile_rows);
    }
    for (int j = a->n_jobs; j <= SKINNY_JOBS; j++)
        jobs->first_block[j] = blocks;
    return blocks;
}

template <bool BF16, int N>
static void few(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                const struct cuda_experts *experts)
{
    struct float_jobs jobs = {};
    int blocks = cut(a, 16, &jobs);
    auto kernel = float_few<BF16, N>;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)blocks, (unsigned)experts->n_pairs),
                      dim3(SKINNY_THREADS), SKINNY_WARPS * sizeof(struct meeting<N>), d, jobs, *x,
                      *experts);
}

template <bool BF16>
static void choose(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    enum { NT = 2, R = 2 };
    struct float_jobs jobs = {};
    if (a->n == 1)
        return few<BF16, 1>(d, a, x, experts);
    if (a->n <= 4)
        return few<BF16, 4>(d, a, x, experts);
    if (a->n <= 8)
        return few<BF16, 8>(d, a, x, experts);
    int blocks = cut(a, 16 * R, &jobs);
    auto kernel = float_some<BF16, NT, R>;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)blocks), dim3(SKINNY_THREADS), skinny_shared(NT), d,
                      jobs, *x);
}

void cuda_skinny_float(struct device *d, const struct linear_args *a, int64_t padded,
                       const struct cuda_experts *experts)
{
    struct skinny_inputs x = {a->in, d->split_high, d->split_low,
                              a->n,  (int)a->jobs[0].w->cols, (int)padded};
    if (a->jobs[0].w->type == QUANT_BF16)
        choose<true>(d, a, &x, experts);
    else
        choose<false>(d, a, &x, experts);
}
