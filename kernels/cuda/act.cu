/* act: gate = activation(gate) * up, element by element. Engine thread. Gate and up are floats, or
 * bfloat16 where linear left them so; the products that read the outcome may take it as 16-bit
 * values (halves.cuh) or as FP8 (fp8.cuh), a block to a row then: what it reads twice is in the
 * caches the second time, and computed twice. What comes as bfloat16 is activated by the fast
 * instructions, some 13 a value instead of 40: else they, and not memory, would take the time. */
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/halves.cuh"

enum { THREADS = 256, WARPS = THREADS / CUDA_WARP };

struct act_work {
    float *gate;
    const float *up;
    const uint16_t *gate_bf16, *up_bf16; /* instead of the floats */
    struct cuda_halves halves;
    int64_t n; /* values */
    int dim;
};

/* SiLU (Elfwing et al. 2017), GELU (Hendrycks and Gimpel 2016) in its tanh form. */
template <bool GELU> static __device__ __forceinline__ float activate(float x)
{
    if (GELU)
        return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    float e = expf(-fabsf(x)); /* does not overflow */
    return (x >= 0 ? x : x * e) / (1 + e);
}

/* The same, off by 2^-17 of itself at most: 1 + tanh(u) is 2 / (1 + exp(-2 u)). */
template <bool GELU> static __device__ __forceinline__ float activate_fast(float x)
{
    float u = GELU ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
    return x * inverse_fast(1 + exp2_fast(-1.4426950409f * u));
}

template <bool BF16>
static __device__ __forceinline__ float4 four_of(const float *floats, const uint16_t *bf16,
                                                 int64_t i)
{
    if (!BF16)
        return *(const float4 *)(floats + i);
    uint2 v = *(const uint2 *)(bf16 + i);
    return make_float4(first_of<true>(v.x), second_of<true>(v.x), first_of<true>(v.y),
                       second_of<true>(v.y));
}

/* Values i .. i + 3 */
template <bool GELU, bool BF16>
static __device__ __forceinline__ float4 outcome(const struct act_work *w, int64_t i)
{
    float4 g = four_of<BF16>(w->gate, w->gate_bf16, i), u = four_of<BF16>(w->up, w->up_bf16, i);
    if (BF16)
        return make_float4(activate_fast<GELU>(g.x) * u.x, activate_fast<GELU>(g.y) * u.y,
                           activate_fast<GELU>(g.z) * u.z, activate_fast<GELU>(g.w) * u.w);
    return make_float4(activate<GELU>(g.x) * u.x, activate<GELU>(g.y) * u.y,
                       activate<GELU>(g.z) * u.z, activate<GELU>(g.w) * u.w);
}

template <bool GELU, bool BF16> static __global__ void act_mul(struct act_work w)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    grid_wait();
    grid_trigger(); /* the product behind this may begin to fetch weights */
    if (i + 4 <= w.n) {
        float4 y = outcome<GELU, BF16>(&w, i);
        if (w.halves.high) /* whole warps are here: rows are a multiple of 128 */
            store_all(&w.halves, i, y);
        else
            *(float4 *)(w.gate + i) = y;
        return;
    }
    for (; !BF16 && i < w.n; i++)
        w.gate[i] = activate<GELU>(w.gate[i]) * w.up[i];
}

template <bool GELU, bool BF16> static __global__ void act_mul_fp8(struct act_work w)
{
    CUDA_SHARED(float, scratch);
    int64_t row = (int64_t)blockIdx.x * w.dim;
    struct fp8_seen seen = {0, 0};
    float scale;
    grid_wait();
    grid_trigger();
    for (int i = 4 * (int)threadIdx.x; i < w.dim; i += 4 * THREADS)
        fp8_see(&seen, outcome<GELU, BF16>(&w, row + i));
    float up = fp8_up(seen, scratch, &scale);
    for (int i = 4 * (int)threadIdx.x; i < w.dim; i += 4 * THREADS)
        *(uint32_t *)(w.halves.fp8 + row + i) = fp8_four(outcome<GELU, BF16>(&w, row + i), up);
    if (threadIdx.x == 0)
        w.halves.scales[blockIdx.x] = scale;
}

template <bool GELU, bool BF16>
static void run(struct device *d, const struct act_work *w)
{
    dim3 grid((unsigned)((w->n + 4 * THREADS - 1) / (4 * THREADS)));
    auto by_row = act_mul_fp8<GELU, BF16>;
    auto any = act_mul<GELU, BF16>;
    if (w->halves.fp8)
        CUDA_LAUNCH_EARLY(by_row, dim3((unsigned)(w->n / w->dim)), dim3(THREADS),
                          2 * WARPS * sizeof(float), d, *w);
    else
        CUDA_LAUNCH_EARLY(any, grid, dim3(THREADS), 0, d, *w);
}

int cuda_act_mul(struct device *d, const struct act_mul_args *a)
{
    struct act_work w = {};
    w.gate = a->gate;
    w.up = a->up;
    w.n = (int64_t)a->n * a->dim;
    w.dim = a->dim;
    if (cuda_failed(d))
        return -1;
    if (w.n < 1)
        return 0;
    if (!cuda_owns(d, a->gate, (size_t)w.n * sizeof(float), "act_mul's gate") ||
        !cuda_owns(d, a->up, (size_t)w.n * sizeof(float), "act_mul's up"))
        return -1;
    if (((uintptr_t)a->gate | (uintptr_t)a->up) & 15)
        return cuda_fail(d, "act_mul: an array is not on 16 bytes");
    bool bf16 = d->gated.gate != NULL, gelu = a->act == ACTIVATION_GELU_TANH;
    if (bf16 && (d->gated.gate != a->gate || d->gated.up != a->up || d->gated.n != w.n))
        return cuda_fail(d, "act_mul: another's gate and up were left as bfloat16");
    w.gate_bf16 = d->gated.gate_bf16;
    w.up_bf16 = d->gated.up_bf16;
    w.halves = cuda_halves_for(d, &a->readers, a->gate, a->n, true);
    d->gated.gate = NULL; /* this was their reader */
    if (gelu && bf16)
        run<true, true>(d, &w);
    else if (gelu)
        run<true, false>(d, &w);
    else if (bf16)
        run<false, true>(d, &w);
    else
        run<false, false>(d, &w);
    return cuda_launched(d, "act_mul");
}
