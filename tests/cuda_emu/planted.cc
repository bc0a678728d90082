/* planted: one fault of each kind that sanitize.cc is to find, and the same without, which it is not
 * to. tests/kernels/check_sanitize.c runs each in a process of its own. */
#ifdef CUDA_EMU_SAN
#include "kernels/cuda/ptx.cuh"

enum { THREADS = 64, BLOCKS = 4 };

struct plant {
    const char *name, *found; /* found: what is said of it; NULL: nothing */
};

static const struct plant plants[] = {
    {"none", NULL},
    {"no __syncthreads", "without a barrier between"},
    {"no __syncthreads before a write", "what another thread read, without a barrier between"},
    {"no __syncwarp", "without a barrier between"},
    {"a shuffle in place of __syncwarp", "without a barrier between"},
    {"no __syncwarp before ldmatrix", "without a barrier between"},
    {"no copy_async_wait", "a cp.async that was not waited for"},
    {"no barrier behind copy_async_wait", "without a barrier between"},
    {"one element beyond shared memory", "beyond the launch's shared memory"},
    {"shared memory that nobody wrote", "was never written"},
    {"one element beyond a span", "outside of any span"},
    {"a span that was given back", "outside of any span"},
    {"a span that nobody wrote", "was never written"},
    {"scratch of the work before", "was never written"},
    {"the host's memory", "not the device's"},
    {"blocks write the same place", "what another block writes"},
    {"a block reads what another writes", "what another block writes"},
    {"parts that meet without __threadfence", "what another block writes"},
    {"parts that meet, read without __threadfence", "what another block writes"},
    {"a read before grid_wait", "before grid_wait"},
    {"a write before grid_wait", "before grid_wait"},
    {"no grid_wait", "ends without grid_wait"},
    {"grid_trigger before grid_wait", "comes before grid_wait"},
    {"a vector load off its alignment", "misaligned"},
    {"a host buffer changed before its copy", "changed before it was copied"},
};
enum {
    NONE, BARRIER, BARRIER_BEFORE_WRITE, SYNCWARP, SHUFFLE, LDMATRIX, COPY_WAIT, COPY_BARRIER,
    SHARED_END, SHARED_UNWRITTEN, SPAN_END, SPAN_FREED, SPAN_UNWRITTEN, SCRATCH, HOST, SAME_PLACE,
    OTHER_BLOCK, MEET_WRITE, MEET_READ, EARLY_READ, EARLY_WRITE, EARLY_NO_WAIT, EARLY_TRIGGER,
    MISALIGNED, HOST_CHANGED
};

static __global__ void within_block(int fault, const float *in, float *out)
{
    CUDA_SHARED(float, shared);
    int t = (int)threadIdx.x, lane = t % 32;
    uint32_t r[4] = {0, 0, 0, 0};
    float *copied = shared + THREADS;

    shared[t] = in[t];
    if (fault != BARRIER)
        __syncthreads();
    float x = shared[(t + 33) % THREADS];
    if (fault != BARRIER_BEFORE_WRITE)
        __syncthreads();
    shared[t] = x;
    if (fault == SHUFFLE)
        x += __shfl_sync(0xffffffffu, x, 0);
    else if (fault != SYNCWARP)
        __syncwarp();
    x += shared[t - lane + (lane + 1) % 32];
    __syncthreads();

    if (t < 16) {
        copy_async_16(copied + 4 * t, in + 4 * t, true);
        copy_async_commit();
        if (fault != COPY_WAIT)
            copy_async_wait<0>();
    }
    if (fault != COPY_BARRIER)
        __syncthreads();
    x += copied[THREADS - 1 - t];
    __syncthreads();

    copied[t] = x;
    if (fault != LDMATRIX)
        __syncwarp();
    ldmatrix_4(r, copied + (t - lane) + 4 * (lane % 8));
    __syncthreads();
    if (fault == SHARED_END)
        shared[2 * THREADS + t] = x;
    if (fault == SHARED_UNWRITTEN)
        x += shared[2 * THREADS - 1 - t + 2 * THREADS];
    out[blockIdx.x * THREADS + threadIdx.x] = x + (float)(r[0] & 1);
}

/* The blocks' parts meet in the last one. */
static __global__ void between_blocks(int fault, float *parts, int *counter, float *out)
{
    CUDA_SHARED(int, last);
    int t = (int)threadIdx.x, b = (int)blockIdx.x;
    float sum = 0;
    parts[(fault == SAME_PLACE ? 0 : b) * THREADS + t] = (float)b;
    if (fault == OTHER_BLOCK && b)
        sum += parts[t];
    if (fault != MEET_WRITE)
        __threadfence();
    __syncthreads();
    if (t == 0)
        *last = atomicAdd(counter, 1) == BLOCKS - 1;
    __syncthreads();
    if (!*last)
        return;
    if (fault != MEET_READ)
        __threadfence();
    if (t == 0)
        *counter = 0;
    for (int i = 0; i < BLOCKS; i++)
        sum += parts[i * THREADS + t];
    out[t] = sum;
}

static __global__ void follows(int fault, const float *weights, const float *made, float *out)
{
    int t = (int)threadIdx.x;
    float x = weights[t] + (fault == EARLY_READ ? made[t] : 0);
    if (fault == EARLY_WRITE)
        out[t] = x;
    if (fault == EARLY_TRIGGER)
        grid_trigger();
    if (fault != EARLY_NO_WAIT)
        grid_wait();
    if (fault != EARLY_NO_WAIT)
        out[t] = x + made[t];
}

static __global__ void reads(const float *at, int n, float *out)
{
    int t = (int)threadIdx.x;
    out[t] = at[t < n ? t : n - 1];
}

static __global__ void reads_four(const char *at, float *out)
{
    float4 v = *(const float4 *)at;
    out[threadIdx.x] = v.x + v.w;
}

static float *take(char *arena, int i, size_t n)
{
    float *at = (float *)(arena + 65536 * i);
    emu_span(at, n * sizeof *at, false);
    return at;
}

extern "C" __attribute__((visibility("default"))) const char *emu_planted(int fault,
                                                                          const char **found)
{
    if (fault < 0 || fault >= (int)(sizeof plants / sizeof *plants))
        return NULL;
    *found = plants[fault].found;
    return plants[fault].name;
}

extern "C" __attribute__((visibility("default"))) void emu_plant(int fault)
{
    struct device *d = NULL;
    static float host[BLOCKS * THREADS];
    void *memory = NULL;
    if (cudaMalloc(&memory, 1 << 20) != cudaSuccess)
        return;
    char *arena = (char *)memory;
    float *in = take(arena, 0, THREADS), *out = take(arena, 1, BLOCKS * THREADS);
    float *parts = take(arena, 2, BLOCKS * THREADS), *counter = take(arena, 3, 1);
    float *scratch = take(arena, 4, THREADS);
    dim3 one(1), all(BLOCKS), threads(THREADS);
    size_t shared = 2 * THREADS * sizeof(float);

    emu_scratch(scratch, THREADS * sizeof(float));
    cudaMemcpyAsync(in, host, THREADS * sizeof *in, cudaMemcpyHostToDevice, NULL);
    if (fault == HOST_CHANGED)
        host[1] = 1;
    cudaMemsetAsync(counter, 0, sizeof *counter, NULL);
    CUDA_LAUNCH(within_block, all, threads, shared * (fault == SHARED_UNWRITTEN ? 2 : 1), NULL,
                fault, (const float *)in, out);
    CUDA_LAUNCH(between_blocks, all, threads, sizeof(int), NULL, fault, parts, (int *)counter, out);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)in, THREADS, scratch);
    CUDA_LAUNCH_EARLY(follows, one, threads, 0, d, fault, (const float *)in,
                      (const float *)scratch, out);
    if (fault == SCRATCH)
        cudaStreamSynchronize(NULL);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)scratch, THREADS, out);
    if (fault == SPAN_FREED)
        emu_span_end(in);
    CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)in,
                fault == SPAN_END ? THREADS + 1 : THREADS, out);
    if (fault == SPAN_END)
        CUDA_LAUNCH(reads, one, dim3(THREADS + 1), 0, NULL, (const float *)in, THREADS + 1, parts);
    if (fault == SPAN_UNWRITTEN)
        CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)take(arena, 5, THREADS), THREADS,
                    out);
    if (fault == HOST)
        CUDA_LAUNCH(reads, one, threads, 0, NULL, (const float *)malloc(sizeof host), THREADS, out);
    CUDA_LAUNCH(reads_four, one, dim3(1), 0, NULL,
                (const char *)in + (fault == MISALIGNED ? 4 : 0), out);
    cudaStreamSynchronize(NULL);
    cudaFree(memory);
}
#endif
