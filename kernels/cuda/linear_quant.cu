/* linear_quant: repacked weights times few inputs, on tensor cores (skinny.cuh). Engine thread.
 * Reader of the TILED layout (quant.cuh; writer: matrix.cu).
 *
 * Codes less their center are integers up to 128 and exact in bfloat16. The products of a group of
 * columns are summed by themselves and then times the group's scale, so weights are exact; a
 * group's least value is taken times the sum of its inputs. A 4 to 6 bit code is or-ed into the
 * bits of the bfloat16 128, whose units are ones, and 128 + center subtracted. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/skinny.cuh"

struct quant_job {
    const uint8_t *codes, *high, *scales, *supers;
    struct skinny_out out;
};
struct quant_jobs {
    struct quant_job job[SKINNY_JOBS];
    int first_block[SKINNY_JOBS + 1], n_jobs;
};

/* A lane's share of one chunk of rows g and g + 8: codes, high bits, scales. */
template <enum quant_type T> struct share {
    enum { CODES = T == QUANT_Q8_0 ? 2 : 1 };
    uint4 codes[2][CODES];
    uint2 high[2]; /* Q5_K: x alone */
    uint2 scales[2];
    uint32_t supers[2];
};

template <enum quant_type T>
static __device__ __forceinline__ void load_share(const struct quant_job *job, int64_t tile,
                                                  int chunk, int n_chunks, int g, int t,
                                                  struct share<T> *s)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int64_t place = (tile * n_chunks + chunk) * CUDA_TILE_ROWS + 8 * half + g;
        const uint8_t *codes = job->codes + place * (T == QUANT_Q8_0 ? 128 : 64) + 16 * t;
#pragma unroll
        for (int i = 0; i < share<T>::CODES; i++)
            s->codes[half][i] = load_once(codes + 64 * i);
        if (T == QUANT_Q5_K)
            s->high[half].x = *(const uint32_t *)(job->high + place * 16 + 4 * t);
        if (T == QUANT_Q6_K)
            s->high[half] = *(const uint2 *)(job->high + place * 32 + 8 * t);
        s->scales[half] = *(const uint2 *)(job->scales + place * 8);
        if (T == QUANT_Q4_K || T == QUANT_Q5_K || T == QUANT_Q6_K) {
            int64_t super = (tile * (n_chunks / 2) + chunk / 2) * CUDA_TILE_ROWS + 8 * half + g;
            s->supers[half] = *(const uint32_t *)(job->supers + super * 4);
        }
    }
}

static __device__ __forceinline__ uint32_t word_of(uint4 v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Two int8, bytes 2 i and 2 i + 1 of a pair of words, as bfloat16. */
static __device__ __forceinline__ uint32_t int8_pair(uint32_t low, uint32_t high, int i)
{
    uint32_t word = i < 2 ? low : high;
    int a = (int)(int8_t)(word >> 16 * (i % 2)), b = (int)(int8_t)(word >> (16 * (i % 2) + 8));
    return pack_bf16((float)a, (float)b);
}

/* Elements 2 i and 2 i + 1 of the 32 columns of j, less the center. */
template <enum quant_type T>
static __device__ __forceinline__ uint32_t pair_of(const struct share<T> *s, int half, int j, int i)
{
    if (T == QUANT_Q8_0) {
        uint4 v = s->codes[half][share<T>::CODES > 1 ? j / 2 : 0];
        return int8_pair(word_of(v, 2 * (j % 2)), word_of(v, 2 * (j % 2) + 1), i);
    }
    uint32_t pair = word_of(s->codes[half][0], j) >> 4 * i & 0x000f000fu;
    if (T == QUANT_Q5_K)
        pair |= (s->high[half].x >> (4 * j + i) & 0x00010001u) << 4;
    if (T == QUANT_Q6_K) {
        uint32_t word = j / 2 ? s->high[half].y : s->high[half].x;
        pair |= (word >> 2 * (4 * (j % 2) + i) & 0x00030003u) << 4;
    }
    /* 128 = 0x4300; 128 + center: 136 = 0x4308, 160 = 0x4320 */
    const uint32_t center = T == QUANT_Q4_0 ? 0x43084308u : T == QUANT_Q6_K ? 0x43204320u
                                                                              : 0x43004300u;
    return subtract_bf16(pair | 0x43004300u, center);
}

/* Scale of group j of 32, or 2 j + sixteenth of 16; least: of Q4_K and Q5_K. */
template <enum quant_type T>
static __device__ __forceinline__ float scale_of(const struct share<T> *s, int half, int j,
                                                 int sixteenth)
{
    uint32_t word = j / 2 ? s->scales[half].y : s->scales[half].x;
    uint32_t two = word >> 16 * (j % 2);
    if (T == QUANT_Q8_0 || T == QUANT_Q4_0)
        return f16_float((uint16_t)two);
    float d = f16_float((uint16_t)s->supers[half]);
    if (T == QUANT_Q6_K)
        return d * (float)(int8_t)(two >> 8 * sixteenth);
    return d * (float)(two & 255);
}
template <enum quant_type T>
static __device__ __forceinline__ float least_of(const struct share<T> *s, int half, int j)
{
    uint32_t word = j / 2 ? s->scales[half].y : s->scales[half].x;
    return f16_float((uint16_t)(s->supers[half] >> 16)) * (float)(word >> (16 * (j % 2) + 8) & 255);
}

/* The eight inputs of lane (g, t) in the 32 columns from col, and for formats with a least value
 * the sums of inputs 2 t and 2 t + 1 of the tile over these columns. */
template <bool SIXTEEN, bool LEAST, int NT>
static __device__ __forceinline__ void load_inputs(const struct skinny_inputs *x, int nt, int g,
                                                   int t, int col, uint32_t high[4],
                                                   uint32_t low[4], float sums[2])
{
    int first = col + (SIXTEEN ? 4 * t : 8 * t), second = SIXTEEN ? first + 16 : first + 4;
    if (NT == 1) {
        float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (g < x->n && col < x->cols) {
            const float *from = x->x + (int64_t)g * x->cols;
            float4 a = *(const float4 *)(from + first), b = *(const float4 *)(from + second);
            v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
            v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        }
        split_eight<true>(v, high, low);
        if (LEAST) {
            float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            sums[0] = __shfl_sync(0xffffffffu, sum, 8 * t);
            sums[1] = __shfl_sync(0xffffffffu, sum, 8 * t + 4);
        }
        return;
    }
    int64_t row = (int64_t)(8 * nt + g) * x->padded;
    uint2 a = *(const uint2 *)(x->high + row + first), b = *(const uint2 *)(x->high + row + second);
    high[0] = a.x, high[1] = a.y, high[2] = b.x, high[3] = b.y;
    if (LEAST)
        for (int i = 0; i < 2; i++)
            sums[i] = x->sums[((int64_t)(8 * nt + 2 * t + i) * x->padded + col) / 32];
}

template <enum quant_type T, int NT, int R>
static __global__ void __launch_bounds__(SKINNY_THREADS)
    skinny_quant(struct quant_jobs jobs, struct skinny_inputs x, int n_chunks,
                 struct cuda_experts experts)
{
    CUDA_SHARED(float, shared);
    const bool SIXTEEN = T == QUANT_Q6_K, LEAST = T == QUANT_Q4_K || T == QUANT_Q5_K;
    int j = 0;
    while (j + 1 < SKINNY_JOBS && (int)blockIdx.x >= jobs.first_block[j + 1])
        j++;
    struct quant_job job = jobs.job[j];
    if (NT == 1 && R == 1 && experts.ids) {
        const struct quant_view *v = skinny_expert(&experts, jobs.n_jobs, j, &x, &job.out);
        job.codes = v->codes, job.high = v->high;
        job.scales = v->scales, job.supers = v->supers;
    }
    int tile0 = ((int)blockIdx.x - jobs.first_block[j]) * R;
    int n_tiles = (job.out.rows + CUDA_TILE_ROWS - 1) / CUDA_TILE_ROWS;
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    int g = lane / 4, t = lane % 4;
    float acc[R][NT][4] = {};

    for (int chunk = warp; chunk < n_chunks; chunk += SKINNY_WARPS) {
        struct share<T> s[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            /* beyond the last tile: the last once more, not written */
            int tile = tile0 + r < n_tiles ? tile0 + r : n_tiles - 1;
            load_share<T>(&job, tile, chunk, n_chunks, g, t, &s[r]);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t a[R][2][4];
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        a[r][m][i] = pair_of<T>(&s[r], i % 2, k, 2 * m + i / 2);
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                uint32_t high[4], low[4] = {0, 0, 0, 0};
                float sums[2] = {0, 0};
                load_inputs<SIXTEEN, LEAST, NT>(&x, nt, g, t, chunk * CUDA_CHUNK + 32 * k, high,
                                                low, sums);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    float part[4] = {0, 0, 0, 0}, other[4] = {0, 0, 0, 0};
                    mma_16816<true>(part, a[r][0], high);
                    mma_16816<true>(SIXTEEN ? other : part, a[r][1], high + 2);
                    if (NT == 1) {
                        mma_16816<true>(part, a[r][0], low);
                        mma_16816<true>(SIXTEEN ? other : part, a[r][1], low + 2);
                    }
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float *to = &acc[r][nt][i];
                        *to += scale_of<T>(&s[r], i / 2, k, 0) * part[i];
                        if (SIXTEEN)
                            *to += scale_of<T>(&s[r], i / 2, k, 1) * other[i];
                        if (LEAST)
                            *to -= least_of<T>(&s[r], i / 2, k) * sums[i % 2];
                    }
                }
            }
        }
    }
    reduce_write<NT, R>(acc, shared, &job.out, x.n, tile0 * CUDA_TILE_ROWS);
}

template <enum quant_type T, int NT, int R>
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
        jobs.job[j] = (struct quant_job){c->codes, c->high, c->scales, c->supers,
                                         {job->out, job->bias, (int)job->w->rows, a->add}};
        blocks += (c->n_tiles + R - 1) / R;
        n_chunks = c->n_chunks;
    }
    for (int j = a->n_jobs; j <= SKINNY_JOBS; j++)
        jobs.first_block[j] = blocks;
    auto kernel = skinny_quant<T, NT, R>;
    CUDA_LAUNCH(kernel, dim3((unsigned)blocks, (unsigned)experts->n_pairs), dim3(SKINNY_THREADS),
                skinny_shared(NT), d->stream, jobs, *x, n_chunks, *experts);
}

template <enum quant_type T>
static void choose(struct device *d, const struct linear_args *a, const struct skinny_inputs *x,
                   const struct cuda_experts *experts)
{
    if (a->n <= 8)
        launch<T, 1, 1>(d, a, x, experts);
    else if (a->n <= 16)
        launch<T, 2, 2>(d, a, x, experts);
    else if (a->n <= 32)
        launch<T, 4, 2>(d, a, x, experts);
    else /* one tile where two would not fit the registers */
        launch<T, 8, T == QUANT_Q4_K || T == QUANT_Q5_K ? 1 : 2>(d, a, x, experts);
}

void cuda_skinny_quant(struct device *d, const struct linear_args *a, int64_t padded,
                       const struct cuda_experts *experts)
{
    struct skinny_inputs x = {a->in, d->split_high, d->split_low, d->split_sums,
                              a->n,  (int)a->jobs[0].w->cols, (int)padded};
    switch (a->jobs[0].w->type) {
    case QUANT_Q8_0: choose<QUANT_Q8_0>(d, a, &x, experts); break;
    case QUANT_Q4_0: choose<QUANT_Q4_0>(d, a, &x, experts); break;
    case QUANT_Q4_K: choose<QUANT_Q4_K>(d, a, &x, experts); break;
    case QUANT_Q5_K: choose<QUANT_Q5_K>(d, a, &x, experts); break;
    default: choose<QUANT_Q6_K>(d, a, &x, experts); break;
    }
}
