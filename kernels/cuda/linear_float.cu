/* linear_float: BF16 and F16 weights times few inputs, on tensor cores (skinny.cuh). Engine thread.
 *
 * A warp's turn is 128 columns of R tiles: per lane and tile 8 loads of 16 bytes, all before their
 * use, the first before the kernel waits for the one that makes its inputs. Lane (g, t) loads
 * columns 32 c + 8 t .. + 7 of rows g and g + 8: of its 8 values the first four feed one mma and
 * the others the next, and inputs are taken likewise. */
#include "kernels/cuda/skinny.cuh"

enum { PIECES = 4, TURN = PIECES * 32 };

struct float_job {
    const uint16_t *w;
    struct skinny_out out;
};
struct float_jobs {
    struct float_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1], n_jobs;
};

/* The eight inputs of lane (g, t) for input tile nt, as fragments. */
template <bool BF16, int NT>
static __device__ __forceinline__ void load_inputs(const struct skinny_inputs *x, int nt, int g,
                                                   int col, uint32_t high[4], uint32_t low[4])
{
    if (NT == 1) {
        float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (g < x->n) {
            const float4 *from = (const float4 *)(x->x + (int64_t)g * x->cols + col);
            float4 a = from[0], b = from[1];
            v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
            v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        }
        split_eight<BF16>(v, high, low);
        return;
    }
    int64_t at = (int64_t)(8 * nt + g) * x->padded + col;
    uint4 h = *(const uint4 *)(x->high + at);
    high[0] = h.x, high[1] = h.y, high[2] = h.z, high[3] = h.w;
    uint4 l = *(const uint4 *)(x->low + at);
    low[0] = l.x, low[1] = l.y, low[2] = l.z, low[3] = l.w;
}

/* Loads of a turn; zeros beyond the matrix. */
template <int R>
static __device__ __forceinline__ void load_turn(const uint16_t *from, int rows, int cols, int row0,
                                                 int col, uint4 w[R][2][PIECES])
{
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = row0 + 16 * r + 8 * half;
#pragma unroll
            for (int p = 0; p < PIECES; p++)
                w[r][half][p] = load_once_if(from + (int64_t)row * cols + col + 32 * p,
                                             row < rows && col + 32 * p < cols);
        }
}

template <bool BF16, int NT, int R>
static __global__ void __launch_bounds__(SKINNY_THREADS)
    skinny_float(const __grid_constant__ struct float_jobs jobs, struct skinny_inputs x,
                 struct cuda_experts experts)
{
    CUDA_SHARED(float, shared);
    int j = 0;
    while (j + 1 < SKINNY_JOBS && (int)blockIdx.x >= jobs.first_block[j + 1])
        j++;
    const uint16_t *weights = jobs.job[j].w;
    if (NT == 1 && R == 1 && experts.ids) {
        grid_wait(); /* ids are of an earlier kernel */
        weights = (const uint16_t *)skinny_expert(&experts, jobs.n_jobs, j, &x)->raw;
    }
    int rows = jobs.job[j].out.rows;
    int row0 = ((int)blockIdx.x - jobs.first_block[j]) * 16 * R;
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, col = warp * TURN + 8 * t;
    float acc[R][NT][4] = {};
    uint4 w[R][2][PIECES];

    load_turn<R>(weights, rows, x.cols, row0 + g, col, w);
    grid_wait();
    grid_trigger();
    while (col < x.cols) {
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            if (col + 32 * p >= x.cols)
                break;
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                uint32_t high[4], low[4];
                load_inputs<BF16, NT>(&x, nt, g, col + 32 * p, high, low);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    uint4 a = w[r][0][p], b = w[r][1][p];
                    uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
                    mma_16816<BF16>(acc[r][nt], first, high);
                    mma_16816<BF16>(acc[r][nt], second, high + 2);
                    mma_16816<BF16>(acc[r][nt], first, low);
                    mma_16816<BF16>(acc[r][nt], second, low + 2);
                }
            }
        }
        col += SKINNY_WARPS * TURN;
        load_turn<R>(weights, rows, x.cols, row0 + g, col, w);
    }
    struct skinny_out out = skinny_out_of(jobs.job[j].out);
    reduce_write<NT, R>(acc, shared, &out, x.n, row0);
}

template <bool BF16, int NT, int R>
static void launch(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    struct float_jobs jobs = {};
    int blocks = 0;
    jobs.n_jobs = a->n_jobs;
    for (int j = 0; j < SKINNY_JOBS; j++) {
        jobs.first_block[j] = blocks;
        if (j >= a->n_jobs)
            continue;
        const struct linear_job *job = &a->jobs[j];
        const struct cuda_matrix *c = (const struct cuda_matrix *)job->w->packed;
        jobs.job[j].w = (const uint16_t *)c->raw;
        jobs.job[j].out = (struct skinny_out){job->out, job->bias, (int)job->w->rows, a->add};
        blocks += (int)((job->w->rows + 16 * R - 1) / (16 * R));
    }
    jobs.first_block[SKINNY_JOBS] = blocks;
    for (int j = a->n_jobs; j < SKINNY_JOBS; j++)
        jobs.first_block[j] = blocks;
    auto kernel = skinny_float<BF16, NT, R>;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)blocks, (unsigned)experts->n_pairs),
                      dim3(SKINNY_THREADS), skinny_shared(NT), d, jobs, *x, *experts);
}

template <bool BF16>
static void choose(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    if (a->n <= 8)
        launch<BF16, 1, 1>(d, a, x, experts);
    else
        launch<BF16, 2, 2>(d, a, x, experts);
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
