/* linear_quant: TILED weights times up to eight inputs, on tensor cores (skinny.cuh). Engine
 * thread.
 *
 * The products of a group of columns are summed by themselves and then times the group's scale, so
 * weights are exact (codes.cuh); a group's least value is taken times the sum of its inputs. A warp
 * loads its next chunk before it computes with this one, and its first before it waits for the
 * kernel that makes its inputs. */
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/skinny.cuh"

struct quant_job {
    struct tile_at planes;
    struct skinny_out out;
};
struct quant_jobs {
    struct quant_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1], n_jobs;
};

/* The eight inputs of lane (g, t) in group k of a chunk that begins at col, and for formats with a
 * least value the sums of inputs 2 t and 2 t + 1 over these columns. */
template <enum quant_type T>
static __device__ __forceinline__ void load_inputs(const struct skinny_inputs *x, int g, int t,
                                                   int col, int k, uint32_t high[4],
                                                   uint32_t low[4], float sums[2])
{
    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (g < x->n && col + 32 * k < x->cols) {
        const float *from = x->x + (int64_t)g * x->cols + col;
        float4 a = *(const float4 *)(from + first_column<T>(k, t));
        float4 b = *(const float4 *)(from + second_column<T>(k, t));
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
    split_eight<tiles<T>::BF16>(v, high, low);
    if (tiles<T>::LEAST) {
        float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        sums[0] = __shfl_sync(0xffffffffu, sum, 8 * t);
        sums[1] = __shfl_sync(0xffffffffu, sum, 8 * t + 4);
    }
}

/* acc += the products of R tiles' share of the chunk that begins at col */
template <enum quant_type T, int R>
static __device__ __forceinline__ void add_chunk(const struct share<T> *s,
                                                 const struct skinny_inputs *x, int g, int t,
                                                 int col, float acc[R][1][4])
{
    typedef tiles<T> F;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t high[4], low[4];
        float sums[2] = {0, 0};
        load_inputs<T>(x, g, t, col, k, high, low, sums);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float part[4] = {0, 0, 0, 0}, other[4] = {0, 0, 0, 0};
#pragma unroll
            for (int m = 0; m < 2; m++) {
                uint32_t a[4];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[i] = pair_of<T, F::BF16>(&s[r], i % 2, k, 2 * m + i / 2);
                float *to = F::SIXTEEN && m ? other : part;
                mma_16816<F::BF16>(to, a, high + 2 * m);
                mma_16816<F::BF16>(to, a, low + 2 * m);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float *to = &acc[r][0][i];
                *to += scale_of<T>(&s[r], i / 2, k, 0) * part[i];
                if (F::SIXTEEN)
                    *to += scale_of<T>(&s[r], i / 2, k, 1) * other[i];
                if (F::LEAST)
                    *to -= least_of<T>(&s[r], i / 2, k) * sums[i % 2];
            }
        }
    }
}

/* beyond the last tile: the last once more, not written */
template <enum quant_type T, int R>
static __device__ __forceinline__ void load_tiles(const struct tile_at *planes, int tile0,
                                                  int n_tiles, int chunk, int n_chunks, int g,
                                                  int t, struct share<T> s[R])
{
#pragma unroll
    for (int r = 0; r < R; r++) {
        int tile = tile0 + r < n_tiles ? tile0 + r : n_tiles - 1;
        struct tile_at at = tile_at_of<T>(planes, tile, chunk, n_chunks);
        load_share<T, false>(&at, g, t, &s[r]);
    }
}

template <enum quant_type T, int R>
static __global__ void __launch_bounds__(SKINNY_THREADS)
    skinny_quant(const __grid_constant__ struct quant_jobs jobs, struct skinny_inputs x,
                 int n_chunks, struct cuda_experts experts)
{
    CUDA_SHARED(float, shared);
    int j = 0;
    while (j + 1 < SKINNY_JOBS && (int)blockIdx.x >= jobs.first_block[j + 1])
        j++;
    struct quant_job job = jobs.job[j];
    if (R == 1 && experts.ids) {
        grid_wait(); /* ids are of an earlier kernel */
        const struct quant_view *v = skinny_expert(&experts, jobs.n_jobs, j, &x, &job.out);
        job.planes = (struct tile_at){v->codes, v->high, v->scales, v->supers, 0};
    }
    int tile0 = ((int)blockIdx.x - jobs.first_block[j]) * R;
    int n_tiles = (job.out.rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS;
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, chunk = warp;
    float acc[R][1][4] = {};
    struct share<T> now[R], next[R];

    if (chunk < n_chunks)
        load_tiles<T, R>(&job.planes, tile0, n_tiles, chunk, n_chunks, g, t, now);
    grid_wait();
    for (; chunk < n_chunks; chunk += SKINNY_WARPS) {
        int after = chunk + SKINNY_WARPS;
        if (after < n_chunks)
            load_tiles<T, R>(&job.planes, tile0, n_tiles, after, n_chunks, g, t, next);
        add_chunk<T, R>(now, &x, g, t, chunk * CUDA_CHUNK, acc);
#pragma unroll
        for (int r = 0; r < R; r++)
            now[r] = next[r];
    }
    reduce_write<1, R>(acc, shared, &job.out, x.n, tile0 * CUDA_TILE_ROWS);
}

template <enum quant_type T, int R>
static void launch(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    struct quant_jobs jobs = {};
    int blocks = 0, n_chunks = 0;
    jobs.n_jobs = a->n_jobs;
    for (int j = 0; j < a->n_jobs; j++) {
        const struct linear_job *job = &a->jobs[j];
        const struct cuda_matrix *c = (const struct cuda_matrix *)job->w->packed;
        jobs.first_block[j] = blocks;
        jobs.job[j] = (struct quant_job){{c->codes, c->high, c->scales, c->supers, 0},
                                         {job->out, job->bias, (int)job->w->rows, a->add}};
        blocks += (c->n_tiles + R - 1) / R;
        n_chunks = c->n_chunks;
    }
    for (int j = a->n_jobs; j <= SKINNY_JOBS; j++)
        jobs.first_block[j] = blocks;
    auto kernel = skinny_quant<T, R>;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)blocks, (unsigned)experts->n_pairs),
                      dim3(SKINNY_THREADS), skinny_shared(1), d, jobs, *x, n_chunks, *experts);
}

/* Two tiles share the inputs that they read once those weigh as much as the codes. */
template <enum quant_type T>
static void choose(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    if (a->n <= 2)
        launch<T, 1>(d, a, x, experts);
    else
        launch<T, 2>(d, a, x, experts);
}

void cuda_skinny_quant(struct device *d, const struct linear_args *a,
                       const struct cuda_experts *experts)
{
    struct skinny_inputs x = {a->in, NULL, NULL, a->n, (int)a->jobs[0].w->cols, 0};
    switch (a->jobs[0].w->type) {
    case QUANT_Q8_0: choose<QUANT_Q8_0>(d, a, &x, experts); break;
    case QUANT_Q4_0: choose<QUANT_Q4_0>(d, a, &x, experts); break;
    case QUANT_Q4_K: choose<QUANT_Q4_K>(d, a, &x, experts); break;
    case QUANT_Q5_K: choose<QUANT_Q5_K>(d, a, &x, experts); break;
    case QUANT_Q6_K: choose<QUANT_Q6_K>(d, a, &x, experts); break;
    case QUANT_G4: choose<QUANT_G4>(d, a, &x, experts); break;
    case QUANT_G4_128: choose<QUANT_G4_128>(d, a, &x, experts); break;
    case QUANT_G8: choose<QUANT_G8>(d, a, &x, experts); break;
    case QUANT_G8_128: choose<QUANT_G8_128>(d, a, &x, experts); break;
    default: choose<QUANT_F8_128>(d, a, &x, experts); break;
    }
}
