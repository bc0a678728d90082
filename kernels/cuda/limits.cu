/* limits: what this GPU reaches at best, measured: memory read by all its cores at once, and the
 * library's product of two large matrices of 16-bit floats. Rates of steps are judged as shares of
 * these. Engine thread.
 *
 * Memory that is read is the reservation as it lies there; the matrices lie in the KV pool, which
 * is zeroed again, or in scratch memory where that is larger. Time is the host's, around launches
 * that follow each other unwaited, so that starting them does not count. */
#include "kernels/cuda/cuda.cuh"

#include <stdlib.h>
#include <time.h>

enum {
    THREADS = 256,
    BLOCKS_PER_SM = 8,
    UNROLL = 4,
    TRIES = 7,
    LAUNCHES_MAX = 16,      /* in a try, of */
    TRY_US = 10000,         /* microseconds, about */
    READ_PER_SM = 16 << 20, /* bytes: all together more than any L2 cache */
    EDGE_PER_SM = 64,       /* of the matrices: enough tiles for all cores */
    EDGE_MIN = 128,
    EDGE_MAX = 8192,
};

/* The sum is written if it is what nobody can foretell: else the loads would be left out. */
static __global__ void read_all(const uint4 *from, int64_t n, uint32_t never, uint32_t *to)
{
    int64_t step = (int64_t)gridDim.x * THREADS;
    uint32_t sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step * UNROLL) {
        uint4 x[UNROLL];
        for (int k = 0; k < UNROLL; k++)
            x[k] = i + k * step < n ? __ldg(from + i + k * step) : make_uint4(0, 0, 0, 0);
        for (int k = 0; k < UNROLL; k++)
            sum += (x[k].x ^ x[k].y) + (x[k].z ^ x[k].w);
    }
    if (sum == never)
        *to = sum;
}

/* Values in (-1, 1) as bfloat16 or float16, n a multiple of 2. */
static __global__ void fill(uint32_t *at, int64_t n, bool bf16)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i * 2 >= n)
        return;
    uint32_t z = (uint32_t)i * 0x9e3779b9u; /* a mixing step of murmur3 (Appleby 2011) */
    z = (z ^ z >> 16) * 0x85ebca6bu;
    z ^= z >> 13;
    float low = (float)(z & 0xffff) / 32768.0f - 1, high = (float)(z >> 16) / 32768.0f - 1;
    at[i] = bf16 ? pack_bf16(low, high) : pack_f16(low, high);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct work { /* what a launch does */
    struct cuda_gemm gemm; /* rows 0: read */
    const uint4 *from;
    int64_t n;
    uint32_t *to;
};

static int launch(struct device *d, const struct work *w)
{
    if (w->gemm.rows) {
        int rc = cuda_blas_run(d, &w->gemm);
        return rc > 0 ? cuda_fail(d, "the library multiplies no matrices of 16-bit floats") : rc;
    }
    CUDA_LAUNCH(read_all, dim3((unsigned)(d->n_sm * BLOCKS_PER_SM)), dim3(THREADS), 0, d->stream,
                w->from, w->n, 0x6b43a9b5u, w->to);
    return cuda_launched(d, "read_all");
}

/* Median seconds of a launch; 0: it failed. The first try warms up, and shows how long one is. */
static double timed(struct device *d, const struct work *w)
{
    double took[TRIES + 1];
    int launches = 1;
    for (int i = 0; i <= TRIES; i++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (int k = 0; k < launches; k++)
            if (launch(d, w))
                return 0;
        if (cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed"))
            return 0;
        clock_gettime(CLOCK_MONOTONIC, &end);
        took[i] = ((double)(end.tv_sec - start.tv_sec) +
                   (double)(end.tv_nsec - start.tv_nsec) * 1e-9) /
                  launches;
        if (i == 0)
            launches = took[0] * LAUNCHES_MAX * 1e6 < TRY_US ? LAUNCHES_MAX
                       : took[0] * 1e6 < TRY_US              ? (int)(TRY_US / (took[0] * 1e6))
                                                             : 1;
    }
    qsort(took + 1, TRIES, sizeof took[0], compare);
    return took[1 + TRIES / 2];
}

/* Both inputs have two bytes a value and the output four: 8 edge^2 in all. */
static int64_t edge_for(const struct device *d, size_t bytes)
{
    int64_t edge = EDGE_MIN;
    while (edge * 2 <= EDGE_MAX && edge * 2 <= (int64_t)d->n_sm * EDGE_PER_SM &&
           (size_t)(edge * 2) * (size_t)(edge * 2) * 8 <= bytes)
        edge *= 2;
    return edge;
}

static double multiply(struct device *d, char *memory, size_t bytes)
{
    int64_t edge = edge_for(d, bytes), n = edge * edge;
    struct work w = {};
    w.gemm.type = d->tensor ? QUANT_BF16 : QUANT_F16;
    w.gemm.batch = 1;
    w.gemm.w = memory;
    w.gemm.in = memory + 2 * n;
    w.gemm.out = (float *)(memory + 4 * n);
    w.gemm.rows = w.gemm.cols = w.gemm.n = w.gemm.out_stride = edge;
    CUDA_LAUNCH(fill, dim3((unsigned)(n / THREADS)), dim3(THREADS), 0, d->stream,
                (uint32_t *)memory, 2 * n, d->tensor);
    if (cuda_launched(d, "fill"))
        return 0;
    double seconds = timed(d, &w);
    return seconds > 0 ? 2.0 * (double)n * (double)edge / seconds : 0;
}

int cuda_limits(struct device *d, enum quant_type weights, struct device_limits *out)
{
    size_t pool = d->kv.k ? d->kv.layer_bytes * (size_t)d->kv.o.n_layers : 0;
    bool in_pool = pool > d->dequantized_bytes;
    char *memory = in_pool ? d->kv.k : (char *)d->dequantized;
    size_t bytes = in_pool ? pool : d->dequantized_bytes;
    size_t read = (size_t)d->n_sm * READ_PER_SM;
    (void)weights; /* quantized ones, too, are multiplied as 16-bit floats */
    if (cuda_failed(d))
        return -1;
    if (!memory || bytes < (size_t)EDGE_MIN * EDGE_MIN * 8)
        return cuda_fail(d, "no memory to measure with: neither a KV pool nor scratch");
    read = (read < d->arena_bytes ? read : d->arena_bytes) / sizeof(uint4) * sizeof(uint4);
    struct work w = {};
    w.from = (const uint4 *)d->arena;
    w.n = (int64_t)(read / sizeof(uint4));
    w.to = (uint32_t *)memory;
    double seconds = timed(d, &w);
    if (!cuda_failed(d))
        out->operations = multiply(d, memory, bytes);
    if (!cuda_failed(d) && in_pool &&
        !cuda_check(d, cudaMemsetAsync(memory, 0, bytes, d->stream), "cudaMemset"))
        cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed");
    if (cuda_failed(d))
        return -1;
    out->read_bytes = (double)read / seconds;
    out->instruction = d->tensor ? "bfloat16" : "float16";
    return 0;
}
