/* act: gate = activation(gate) * up, element by element. Engine thread. */
#include "kernels/cuda/halves.cuh"
#include "kernels/cuda/ptx.cuh"

enum { THREADS = 256 };

/* SiLU (Elfwing et al. 2017), GELU (Hendrycks and Gimpel 2016) in its tanh form. */
template <bool GELU> static __device__ __forceinline__ float activate(float x)
{
    if (GELU)
        return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    float e = expf(-fabsf(x)); /* does not overflow */
    return (x >= 0 ? x : x * e) / (1 + e);
}

template <bool GELU>
static __global__ void act_mul(float *gate, struct cuda_halves halves, const float *up, int64_t n)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    grid_wait();
    grid_trigger(); /* the product behind this may begin to fetch weights */
    if (i + 4 <= n) {
        float4 g = *(const float4 *)(gate + i), u = *(const float4 *)(up + i);
        g.x = activate<GELU>(g.x) * u.x;
        g.y = activate<GELU>(g.y) * u.y;
        g.z = activate<GELU>(g.z) * u.z;
        g.w = activate<GELU>(g.w) * u.w;
        if (halves.high) /* whole warps are here: rows are a multiple of 128 */
            store_all(&halves, i, g);
        else
            *(float4 *)(gate + i) = g;
        return;
    }
    for (; i < n; i++)
        gate[i] = activate<GELU>(gate[i]) * up[i];
}

int cuda_act_mul(struct device *d, const struct act_mul_args *a)
{
    int64_t n = (int64_t)a->n * a->dim;
    if (cuda_failed(d))
        return -1;
    if (n < 1)
        return 0;
    if (!cuda_owns(d, a->gate, (size_t)n * sizeof(float), "act_mul's gate") ||
        !cuda_owns(d, a->up, (size_t)n * sizeof(float), "act_mul's up"))
        return -1;
    if (((uintptr_t)a->gate | (uintptr_t)a->up) & 15)
        return cuda_fail(d, "act_mul: an array is not on 16 bytes");
    struct cuda_halves halves = cuda_halves_for(d, &a->readers, a->gate, a->n, true);
    dim3 grid((unsigned)((n + 4 * THREADS - 1) / (4 * THREADS)));
    if (a->act == ACTIVATION_GELU_TANH)
        CUDA_LAUNCH_EARLY(act_mul<true>, grid, dim3(THREADS), 0, d, a->gate, halves, a->up, n);
    else
        CUDA_LAUNCH_EARLY(act_mul<false>, grid, dim3(THREADS), 0, d, a->gate, halves, a->up, n);
    return cuda_launched(d, "act_mul");
}
