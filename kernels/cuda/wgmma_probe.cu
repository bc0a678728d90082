/* wgmma_probe: do this GPU's products out of shared memory (wgmma.cuh) give what plain arithmetic
 * gives? Asked once, at start. Engine thread.
 *
 * One warpgroup multiplies tiles of small integers, whose sums are exact in any order, as
 * attention_wgmma.cu does: K-major by K-major from shared memory, and registers by MN-major, of 64
 * and of 128 columns, so that every panel and every piece of the swizzle is read. */
#include "kernels/cuda/wgmma.cuh"

enum { ROWS = 128, DEPTH = 128, PANEL = ROWS * WGMMA_PANEL * 2 };
enum { SHARED = WGMMA_ALIGN + (WGMMA_ROWS + ROWS) * DEPTH * 2 };

#if WGMMA_THERE
/* -4 to 4, the same for the same place */
static __device__ __forceinline__ int small(int tile, int row, int col)
{
    uint32_t x = (uint32_t)(tile << 16 | row << 8 | col) * 0x9e3779b1u;
    x = (x ^ x >> 15) * 0x85ebca77u;
    return (int)((x ^ x >> 13) % 9) - 4;
}

template <int N> static __device__ __forceinline__ void fill(int tile, uint16_t *at)
{
    for (int i = (int)threadIdx.x; i < N * DEPTH; i += WGMMA_THREADS) {
        int r = i / DEPTH, c = i % DEPTH;
        at[wgmma_place<N>(r, c / 8) + c % 8] = float_f16((float)small(tile, r, c));
    }
}

/* Are the sums, of N columns, those of left (tile 0) and right (tile 1)? keys: right is transposed.
 */
template <int N, bool KEYS>
static __device__ __forceinline__ bool right(const uint16_t *left, const uint16_t *other,
                                             const float d[N / 8][4])
{
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    bool same = true;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = 16 * warp + lane / 4 + 8 * h;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float sums[N / 8] = {};
            for (int k = 0; k < DEPTH; k++) {
                float a = f16_float(left[wgmma_place<WGMMA_ROWS>(row, k / 8) + k % 8]);
#pragma unroll
                for (int i = 0; i < N / 8; i++) {
                    int col = 8 * i + 2 * (lane % 4) + j, r = KEYS ? col : k, c = KEYS ? k : col;
                    sums[i] += a * f16_float(other[wgmma_place<ROWS>(r, c / 8) + c % 8]);
                }
            }
#pragma unroll
            for (int i = 0; i < N / 8; i++)
                same &= d[i][2 * h + j] == sums[i];
        }
    }
    return same;
}

/* left times the first N columns of the values, as weights are. */
template <int N>
static __device__ __forceinline__ bool values_right(const uint16_t *left, const uint16_t *values)
{
    int warp = (int)threadIdx.x / CUDA_WARP, lane = (int)threadIdx.x % CUDA_WARP;
    uint64_t tile = wgmma_tile(values, PANEL);
    uint32_t a[DEPTH / WGMMA_K][4];
    float d[N / 8][4];
#pragma unroll
    for (int i = 0; i < DEPTH / 4; i++) {
        int row = 16 * warp + lane / 4 + 8 * (i % 2), k = i / 4 * 16 + i % 4 / 2 * 8 + lane % 4 * 2;
        memcpy(&a[i / 4][i % 4], left + wgmma_place<WGMMA_ROWS>(row, k / 8) + k % 8, 4);
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[i / 4][i % 4] = 0;
    wgmma_hold<DEPTH / WGMMA_K>(a);
    wgmma_hold<N / 8>(d);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < DEPTH / WGMMA_K; k++)
        wgmma_values<false, N>(d, a[k], tile + k * 2048 / 16);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold<N / 8>(d);
    return right<N, false>(left, values, d);
}
#endif

static __global__ void __launch_bounds__(WGMMA_THREADS) wgmma_probe(int *wrong)
{
#if WGMMA_THERE
    CUDA_SHARED(char, shared);
    uint16_t *left = (uint16_t *)(shared + (-shared_address(shared) & (WGMMA_ALIGN - 1)));
    uint16_t *other = left + WGMMA_ROWS * DEPTH;
    uint64_t a = wgmma_tile(left, 0), b = wgmma_tile(other, 0);
    float d[ROWS / 8][4];

    fill<WGMMA_ROWS>(0, left);
    fill<ROWS>(1, other);
    async_proxy_fence();
    __syncthreads();
    wgmma_fence();
    wgmma_keys<false, false>(d, a, b);
#pragma unroll
    for (int k = 1; k < DEPTH / WGMMA_K; k++)
        wgmma_keys<false, true>(d, a + (k / 4 * WGMMA_ROWS * 128 + k % 4 * 32) / 16,
                                b + (k / 4 * PANEL + k % 4 * 32) / 16);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold<ROWS / 8>(d);
    bool same = right<ROWS, true>(left, other, d);
    same &= values_right<64>(left, other);
    same &= values_right<128>(left, other);
    if (!same)
        atomicAdd(wrong, 1);
#else
    atomicAdd(wrong, 1); /* the plugin was compiled without 9.0a */
#endif
}

int cuda_wgmma_probe(struct device *d)
{
    int wrong = 1;
    if (d->capability != 90)
        return 0;
    int *at = (int *)cuda_take(d, sizeof *at, true);
    if (!at || cuda_check(d,
                          cudaFuncSetAttribute(wgmma_probe,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED),
                          "the probe's shared memory"))
        return cuda_fail(d, "no memory for a probe of 4 bytes");
    CUDA_LAUNCH(wgmma_probe, dim3(1), dim3(WGMMA_THREADS), SHARED, d->stream, at);
    if (cuda_launched(d, "the probe of wgmma") ||
        cuda_check(d, cudaMemcpyAsync(&wrong, at, sizeof wrong, cudaMemcpyDeviceToHost, d->stream),
                   "the probe of wgmma") ||
        cuda_check(d, cudaStreamSynchronize(d->stream), "the probe of wgmma"))
        return -1;
    cuda_give(d, at);
    d->wgmma = !wrong;
    return 0;
}
