/* linear_quant: TILED weights times up to eight inputs, on tensor cores (skinny.cuh). Engine
 * thread.
 *
 * The products of a group of columns are summed by themselves and then times the group's scale, so
 * weights are exact (codes.cuh); a group's least value is taken times the sum of its inputs. A
 * warp's chunks come by cp.async to a ring of its own, up to three ahead of the one that it
 * computes with, the first before it waits for the kernel that makes its inputs: as many bytes on
 * their way would take too many registers.
 *
 * At one or two inputs what limits is not memory alone but the number of instructions: the lanes of
 * a warp split the inputs of a chunk together, and one product serves high and low parts
 * (meeting.cuh). */
#include "kernels/cuda/meeting.cuh"

struct quant_job {
    struct tile_at planes;
    struct skinny_out out;
};
struct quant_jobs {
    struct quant_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1], n_jobs;
};

/* acc += the products of a tile's share of a chunk: rows g and g + 8, inputs t (PAIRED: acc 0 and
 * 2) or 2 t and 2 t + 1. */
template <enum quant_type T, int N>
static __device__ __forceinline__ void add_chunk(const struct share<T> *s,
                                                 const struct meeting<N> *m, int g, int t,
                                                 float acc[4])
{
    typedef tiles<T> F;
    const bool PAIRED = meeting<N>::PAIRED;
    const int EACH = PAIRED ? 1 : 2;
    float sums[EACH][4] = {};
#pragma unroll
    for (int i = 0; F::LEAST && i < EACH; i++) {
        int input = EACH * t + i;
        float4 four = *(const float4 *)m->sums[input < N ? input : N - 1];
        sums[i][0] = four.x, sums[i][1] = four.y, sums[i][2] = four.z, sums[i][3] = four.w;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t high[4], low[4];
        tile_inputs<T>((const char *)m->rows[g], g, t, k, high);
        if (!PAIRED)
            tile_inputs<T>((const char *)m->rows[8 * !PAIRED + g], g, t, k, low);
        float part[4] = {0, 0, 0, 0}, other[4] = {0, 0, 0, 0};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t a[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[i] = pair_of<T, F::BF16>(s, i % 2, k, 2 * half + i / 2);
            float *to = F::SIXTEEN && half ? other : part;
            mma_16816<F::BF16>(to, a, high + 2 * half);
            if (!PAIRED)
                mma_16816<F::BF16>(to, a, low + 2 * half);
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const float *p = part + 2 * half + i, *o = other + 2 * half + i;
                float *to = &acc[2 * half + i];
                *to += scale_of<T>(s, half, k, 0) * (PAIRED ? p[0] + p[1] : p[0]);
                if (F::SIXTEEN)
                    *to += scale_of<T>(s, half, k, 1) * (PAIRED ? o[0] + o[1] : o[0]);
                if (F::LEAST)
                    *to -= least_of<T>(s, half, k) * sums[i][k];
            }
    }
}

/* Blocks to a multiprocessor, as many as registers are enough for. */
template <enum quant_type T, int N> static constexpr int quant_blocks()
{
    bool more = N == 1 && (tiles<T>::SIXTEEN || T == QUANT_G8_128); /* than 80 registers */
    bool two = N > 4 || tiles<T>::FLOATS || more;
    return tiles<T>::SCALES > 8 ? (N > 4 ? 1 : 2) : two ? 2 : 3;
}

/* Shared memory: a warp's meeting, and its ring of STAGES chunks. */
template <int N> static __host__ __device__ constexpr int quant_stages() { return N > 4 ? 3 : 4; }
template <enum quant_type T, int N> static constexpr int quant_shared()
{
    return SKINNY_WARPS * ((int)sizeof(struct meeting<N>) + quant_stages<N>() * chunk_bytes<T>());
}

/* Up to N inputs: 1, 4 or 8. */
template <enum quant_type T, int N>
static __global__ void __launch_bounds__(SKINNY_THREADS, (quant_blocks<T, N>()))
    skinny_quant(const __grid_constant__ struct quant_jobs jobs, struct skinny_inputs x,
                 int n_chunks, struct cuda_experts experts)
{
    CUDA_SHARED(struct meeting<N>, meetings);
    const int STAGES = quant_stages<N>(), BYTES = chunk_bytes<T>();
    const bool BF16 = tiles<T>::BF16, LEAST = tiles<T>::LEAST;
    const bool EARLY = N == 1; /* registers are enough */
    int j = 0;
    while (j + 1 < SKINNY_JOBS && (int)blockIdx.x >= jobs.first_block[j + 1])
        j++;
    struct tile_at planes = jobs.job[j].planes;
    if (meeting<N>::PAIRED && experts.ids) {
        grid_wait(); /* ids are of an earlier kernel */
        const struct quant_view *v = skinny_expert(&experts, jobs.n_jobs, j, &x);
        planes = (struct tile_at){v->codes, v->high, v->scales, v->supers, 0};
    }
    int tile = (int)blockIdx.x - jobs.first_block[j];
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4, chunk = warp, stage = 0;
    struct meeting<N> *m = &meetings[warp];
    char *ring = (char *)(meetings + SKINNY_WARPS) + warp * STAGES * BYTES;
    CUDA_ANY_VALUE(m, sizeof *m); /* of inputs that are not there */
    float acc[1][1][4] = {};
    float4 ahead[N];

    struct tile_at at = tile_at_of<T>(&planes, tile, chunk, n_chunks);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (chunk + i * SKINNY_WARPS < n_chunks)
            copy_chunk<T>(&at, ring + i * BYTES, lane);
        copy_async_commit();
        tile_at_step<T>(&at, SKINNY_WARPS);
    }
    grid_wait();
    grid_trigger();
    load_inputs<N>(&x, chunk * CUDA_CHUNK, lane, ahead);
    put_inputs<BF16, LEAST, N>(m, x.n, lane, ahead);
    for (; chunk < n_chunks; chunk += SKINNY_WARPS) {
        struct share<T> now;
        int after = chunk + SKINNY_WARPS;
        char *to = ring + (stage ? stage - 1 : STAGES - 1) * BYTES; /* was read in the last round */
        if (chunk + (STAGES - 1) * SKINNY_WARPS < n_chunks)
            copy_chunk<T>(&at, to, lane);
        copy_async_commit();
        tile_at_step<T>(&at, SKINNY_WARPS);
        if (EARLY)
            load_inputs<N>(&x, after * CUDA_CHUNK, lane, ahead);
        copy_async_wait<STAGES - 1>();
        __syncwarp(); /* all lanes' copies and the inputs are there */
        load_copied<T>(ring + stage * BYTES, g, t, &now);
        add_chunk<T, N>(&now, m, g, t, acc[0][0]);
        __syncwarp(); /* and were read */
        if (!EARLY)
            load_inputs<N>(&x, after * CUDA_CHUNK, lane, ahead);
        put_inputs<BF16, LEAST, N>(m, x.n, lane, ahead);
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }
    struct skinny_out out = skinny_out_of(jobs.job[j].out);
    reduce_write<1, 1, meeting<N>::PAIRED>(acc, (float *)meetings, &out, x.n,
                                           tile * CUDA_TILE_ROWS);
}

template <enum quant_type T, int N>
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
        blocks += c->n_tiles;
        n_chunks = c->n_chunks;
    }
    for (int j = a->n_jobs; j <= SKINNY_JOBS; j++)
        jobs.first_block[j] = blocks;
    auto kernel = skinny_quant<T, N>;
    if (cuda_check(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           quant_shared<T, N>()),
                   "shared memory"))
        return;
    CUDA_LAUNCH_EARLY(kernel, dim3((unsigned)blocks, (unsigned)experts->n_pairs),
                      dim3(SKINNY_THREADS), (quant_shared<T, N>()), d, jobs, *x, n_chunks,
                      *experts);
}

template <enum quant_type T>
static void choose(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    if (a->n == 1)
        launch<T, 1>(d, a, x, experts);
    else if (a->n <= 4)
        launch<T, 4>(d, a, x, experts);
    else
        launch<T, 8>(d, a, x, experts);
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
