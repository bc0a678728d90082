/* cuda: the CUDA backend's device: open and close, its one reservation of memory, errors, the
 * table.
 *
 * Engine thread only. The reservation is cut first-fit into spans, whose list lives on the host in
 * order of address; neighbours that are free are one span. The first error latches in device.error
 * and every later op returns -1. The plugin exports one symbol, sirocco_plugin. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/kv_cache.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEQUANTIZED_BYTES = 64 << 20, PARTIAL_BYTES = 32 << 20, SHARED_KEPT = 1 << 10 };

/* ---- errors */

int cuda_fail(struct device *d, const char *format, ...)
{
    va_list list;
    if (cuda_failed(d))
        return -1;
    va_start(list, format);
    vsnprintf(d->error, sizeof d->error, format, list);
    va_end(list);
    return -1;
}

int cuda_check(struct device *d, cudaError_t e, const char *what)
{
    return e == cudaSuccess ? 0 : cuda_fail(d, "%s: %s", what, cudaGetErrorString(e));
}

int cuda_launched(struct device *d, const char *what)
{
    return cuda_check(d, cudaGetLastError(), what);
}

bool cuda_owns(struct device *d, const void *at, size_t bytes, const char *what)
{
    const char *first = (const char *)at;
    if (first >= d->arena && bytes <= d->arena_bytes &&
        (size_t)(first - d->arena) <= d->arena_bytes - bytes)
        return true;
    cuda_fail(d, "%s: not memory of the device", what);
    return false;
}

/* ---- memory */

void *cuda_take(struct device *d, size_t bytes, bool zeroed)
{
    if (cuda_failed(d) || bytes > d->arena_bytes)
        return NULL;
    size_t asked = bytes;
    bytes = ((bytes ? bytes : 1) + CUDA_SPAN_GAP + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
    struct cuda_span *s = d->spans;
    while (s && (s->used || s->bytes < bytes))
        s = s->next;
    if (!s)
        return NULL;
    if (s->bytes > bytes) {
        struct cuda_span *rest = (struct cuda_span *)malloc(sizeof *rest);
        if (!rest)
            return NULL;
        *rest = (struct cuda_span){s->at + bytes, s->bytes - bytes, false, s->next};
        s->next = rest;
        s->bytes = bytes;
    }
    s->used = true;
    void *memory = d->arena + s->at;
    CUDA_SPAN(memory, asked, zeroed);
    if (zeroed && cuda_check(d, cudaMemsetAsync(memory, 0, asked, d->stream), "cudaMemset"))
        return NULL;
    return memory;
}

static void join_next(struct cuda_span *s)
{
    struct cuda_span *next = s->next;
    if (s->used || !next || next->used)
        return;
    s->bytes += next->bytes;
    s->next = next->next;
    free(next);
}

void cuda_give(struct device *d, void *memory)
{
    struct cuda_span *before = NULL, *s = d->spans;
    if (!memory)
        return;
    while (s && d->arena + s->at != (char *)memory) {
        before = s;
        s = s->next;
    }
    if (!s)
        return;
    CUDA_SPAN_END(memory);
    s->used = false;
    join_next(s);
    if (before)
        join_next(before);
}

static void *device_alloc(struct device *d, size_t bytes)
{
    return cuda_take(d, bytes, true);
}

static size_t device_memory_free(const struct device *d)
{
    size_t bytes = 0;
    for (const struct cuda_span *s = d->spans; s; s = s->next)
        bytes += s->used ? 0 : s->bytes;
    return bytes;
}

static int device_download(struct device *d, void *to_host, const void *from, size_t bytes)
{
    if (cuda_failed(d) || !cuda_owns(d, from, bytes, "download"))
        return -1;
    return cuda_check(d, cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, d->stream),
                      "download");
}

static int device_sync(struct device *d)
{
    if (cuda_failed(d))
        return -1;
    return cuda_check(d, cudaStreamSynchronize(d->stream), "the GPU failed");
}

static int device_mark(struct device *d)
{
    return cuda_failed(d) ? -1 : cuda_check(d, cudaEventRecord(d->mark, d->stream), "an event");
}

static int device_wait(struct device *d)
{
    return cuda_failed(d) ? -1 : cuda_check(d, cudaEventSynchronize(d->mark), "the GPU failed");
}

static void *device_host_alloc(struct device *d, size_t bytes)
{
    void *memory = NULL;
    if (cuda_failed(d))
        return NULL;
    if (cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError(); /* the failure must not be found by a later call */
        return NULL;
    }
    memset(memory, 0, bytes);
    return memory;
}

static void device_host_free(struct device *d, void *memory)
{
    (void)d;
    if (memory)
        cudaFreeHost(memory);
}

/* ---- the KV pool and scratch */

static size_t kv_bytes_per_block(const struct kv_options *o)
{
    return o->head_dim <= CUDA_HEAD_DIM_MAX ? kv_cache_block_bytes(o) : 0;
}

static int kv_open(struct device *d, const struct kv_options *o)
{
    size_t bytes = kv_cache_half_bytes(o);
    if (cuda_failed(d))
        return -1;
    if (d->kv.k)
        return cuda_fail(d, "the KV pool is already open");
    if (!bytes || !kv_bytes_per_block(o))
        return cuda_fail(d, "the KV pool's options are out of range");
    d->kv.k = (char *)cuda_take(d, bytes, true);
    d->kv.v = (char *)cuda_take(d, bytes, true);
    if (!d->kv.k || !d->kv.v)
        return cuda_fail(d, "no memory for a KV pool of 2 x %zu bytes", bytes);
    d->kv.o = *o;
    d->kv.block_shift = __builtin_ctz((unsigned)o->block_size);
    d->kv.layer_values = kv_cache_values(o) / (size_t)o->n_layers;
    d->kv.layer_bytes = d->kv.layer_values * (size_t)kv_cache_value_bytes(o->type);
    if (o->type == QUANT_Q8_0) {
        d->kv.k_scales = (uint16_t *)(d->kv.k + kv_cache_values(o));
        d->kv.v_scales = (uint16_t *)(d->kv.v + kv_cache_values(o));
    }
    return 0;
}

static size_t rows_padded(int n_max)
{
    return n_max < CUDA_FIXED_INPUTS ? (size_t)CUDA_FIXED_INPUTS : ((size_t)n_max + 7) / 8 * 8;
}

static size_t cols_padded(int cols_max)
{
    return ((size_t)cols_max + CUDA_CHUNK - 1) / CUDA_CHUNK * CUDA_CHUNK;
}

static size_t device_linear_workspace(int n_max, int cols_max)
{
    size_t n = rows_padded(n_max), cols = cols_padded(cols_max);
    return n * cols * 2 * sizeof(uint16_t) + n * (cols / 32) * sizeof(float) +
           (size_t)n_max * sizeof(struct pick_result) + (size_t)DEQUANTIZED_BYTES + PARTIAL_BYTES +
           CUDA_COUNTERS * sizeof(int) + 9 * (size_t)CUDA_ALIGN;
}

static int device_reserve(struct device *d, int n_max, int cols_max)
{
    if (cuda_failed(d))
        return -1;
    if (d->n_max)
        return cuda_fail(d, "scratch memory is already reserved");
    if (n_max < 1 || cols_max < 1)
        return cuda_fail(d, "scratch memory for %d x %d values", n_max, cols_max);
    size_t n = rows_padded(n_max), cols = cols_padded(cols_max);
    d->split_high = (uint16_t *)cuda_take(d, n * cols * sizeof(uint16_t), false);
    d->split_low = (uint16_t *)cuda_take(d, n * cols * sizeof(uint16_t), false);
    d->split_sums = (float *)cuda_take(d, n * (cols / 32) * sizeof(float), false);
    d->dequantized = (uint16_t *)cuda_take(d, DEQUANTIZED_BYTES, false);
    d->dequantized_bytes = DEQUANTIZED_BYTES;
    d->partial = (float *)cuda_take(d, PARTIAL_BYTES, false);
    d->partial_bytes = PARTIAL_BYTES;
    d->counters = (int *)cuda_take(d, CUDA_COUNTERS * sizeof(int), true);
    d->picks =
        (struct pick_result *)cuda_take(d, (size_t)n_max * sizeof(struct pick_result), false);
    CUDA_SCRATCH(d->split_high, n * cols * sizeof(uint16_t));
    CUDA_SCRATCH(d->split_low, n * cols * sizeof(uint16_t));
    CUDA_SCRATCH(d->split_sums, n * (cols / 32) * sizeof(float));
    CUDA_SCRATCH(d->partial, PARTIAL_BYTES);
    CUDA_SCRATCH(d->picks, (size_t)n_max * sizeof(struct pick_result));
    size_t routes = (size_t)n_max * CUDA_EXPERTS_USED_MAX * 3 * sizeof(int32_t);
    d->routes = (int32_t *)device_host_alloc(d, routes);
    if (!d->routes || !d->split_high || !d->split_low || !d->split_sums || !d->dequantized ||
        !d->partial || !d->counters || !d->picks)
        return cuda_fail(d, "no memory for %zu bytes of scratch",
                         device_linear_workspace(n_max, cols_max));
    d->n_max = n_max;
    d->cols_max = cols_max;
    return 0;
}

/* ---- open and close */

static const char *device_error(const struct device *d)
{
    return d->error;
}

static const char *device_describe(const struct device *d)
{
    return d->name;
}

static const char *device_warning(const struct device *d)
{
    return d->capability != 90 || d->wgmma
               ? ""
               : "wgmma of this GPU did not give what it should, or the plugin was not compiled "
                 "for 9.0a: attention of prompts goes without";
}

static void device_close(struct device *d)
{
    if (!d)
        return;
    cudaSetDevice(d->gpu);
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    cuda_step_close(d);
    cuda_moe_close(d);
    cuda_blas_close(d);
    if (d->routes)
        cudaFreeHost(d->routes);
    if (d->arena)
        cudaFree(d->arena);
    if (d->mark)
        cudaEventDestroy(d->mark);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    while (d->spans) {
        struct cuda_span *next = d->spans->next;
        free(d->spans);
        d->spans = next;
    }
    free(d);
}

static int find_gpu(struct device *d)
{
    struct cudaDeviceProp p;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n < 1)
        return cuda_fail(d, "no CUDA GPU: %s",
                         e != cudaSuccess ? cudaGetErrorString(e) : "none found");
    if (d->gpu < 0 || d->gpu >= n)
        return cuda_fail(d, "there is no GPU %d: the last is %d", d->gpu, n - 1);
    if (cuda_check(d, cudaSetDevice(d->gpu), "the GPU cannot be opened") ||
        cuda_check(d, cudaGetDeviceProperties(&p, d->gpu), "the GPU tells nothing of itself"))
        return -1;
    d->n_sm = p.multiProcessorCount;
    d->capability = p.major * 10 + p.minor;
    d->tensor = d->capability >= 80;
    /* binaries for 9.0 and later declare the kilobyte that the system keeps of each block as if it
     * were the kernel's own: whether the limit counts it, too, is told nowhere */
    d->shared_max = p.sharedMemPerBlockOptin - (d->capability >= 90 ? SHARED_KEPT : 0);
    snprintf(d->name, sizeof d->name, "cuda, %.120s (%d.%d), %.1f GiB", p.name, p.major, p.minor,
             (double)p.totalGlobalMem / 1073741824.0);
    if (d->capability < 75)
        return cuda_fail(d, "%.120s has compute capability %d.%d; 7.5 is the least", p.name,
                         p.major, p.minor);
    return 0;
}

/* The share of the whole memory, or what is left of it; a little stays for the driver's own. */
static int reserve_memory(struct device *d, double fraction)
{
    enum { SLACK = 256 << 20 };
    size_t left = 0, total = 0;
    if (cuda_check(d, cudaMemGetInfo(&left, &total), "the GPU's memory cannot be asked"))
        return -1;
    double wanted = (double)total * fraction;
    size_t bytes = left > 2 * (size_t)SLACK ? left - SLACK : left / 2;
    if (wanted < (double)bytes)
        bytes = (size_t)wanted;
    bytes = bytes / CUDA_ALIGN * CUDA_ALIGN;
    void *arena = NULL;
    if (!bytes || cudaMalloc(&arena, bytes) != cudaSuccess) {
        cudaGetLastError(); /* the failure must not be found by a later call */
        return cuda_fail(d, "%.0f MiB of GPU memory cannot be taken, %.0f of %.0f MiB are free",
                         (double)bytes / 1048576, (double)left / 1048576, (double)total / 1048576);
    }
    d->arena = (char *)arena;
    d->arena_bytes = bytes;
    d->spans = (struct cuda_span *)malloc(sizeof *d->spans);
    if (!d->spans)
        return cuda_fail(d, "no memory");
    *d->spans = (struct cuda_span){0, bytes, false, NULL};
    return 0;
}

static int complain(char *error, size_t error_bytes, const char *text)
{
    if (error && error_bytes)
        snprintf(error, error_bytes, "%s", text);
    return -1;
}

static int device_open(const struct device_options *options, struct device **out, char *error,
                       size_t error_bytes)
{
    double fraction = options->gpu_memory_fraction;
    *out = NULL;
    if (!(fraction > 0 && fraction <= 1))
        return complain(error, error_bytes, "the share of GPU memory must be above 0, at most 1");
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (!d)
        return complain(error, error_bytes, "no memory for the CUDA device");
    d->host_bound = INT_MAX;
    d->gpu = options->gpu;
    d->deterministic = options->deterministic;
    if (find_gpu(d) ||
        cuda_check(d, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "a stream") ||
        cuda_check(d, cudaEventCreateWithFlags(&d->mark, cudaEventDisableTiming), "an event") ||
        reserve_memory(d, fraction) || cuda_step_open(d) || cuda_blas_open(d) ||
        cuda_wgmma_probe(d)) {
        complain(error, error_bytes, d->error);
        device_close(d);
        return -1;
    }
    *out = d;
    return 0;
}

static const struct kernels table = {
    .name = "cuda",
    .open = device_open,
    .close = device_close,
    .device_error = device_error,
    .describe = device_describe,
    .warning = device_warning,
    .memory_free = device_memory_free,
    .alloc = device_alloc,
    .free = cuda_give,
    .upload = cuda_upload,
    .download = device_download,
    .sync = device_sync,
    .mark = device_mark,
    .wait = device_wait,
    .host_alloc = device_host_alloc,
    .host_free = device_host_free,
    .matrix_load = cuda_matrix_load,
    .matrix_free = cuda_matrix_free,
    .kv_bytes_per_block = kv_bytes_per_block,
    .kv_open = kv_open,
    .moe_workspace = cuda_moe_workspace,
    .linear_workspace = device_linear_workspace,
    .reserve = device_reserve,
    .step_begin = cuda_step_begin,
    .step_end = cuda_step_end,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_linear,
    .rope_table = cuda_rope_table,
    .rope_store = cuda_rope_store,
    .attention = cuda_attention,
    .act_mul = cuda_act_mul,
    .moe = cuda_moe,
    .gather = cuda_gather,
    .pick = cuda_pick,
    .draw = cuda_draw,
    .limits = cuda_limits,
};

extern "C" __attribute__((visibility("default"))) const struct kernels *
sirocco_plugin(int version, size_t struct_bytes)
{
    return version == KERNELS_VERSION && struct_bytes == sizeof table ? &table : NULL;
}
