/* cuda: what the files of the CUDA backend share: the open device, launches, number formats, the
 * layouts of the KV pool and of weights. Private to kernels/cuda.
 *
 * Engine thread only. Ops are enqueued on one stream. Device memory is one reservation made by open
 * (cuda.cu); host arrays reach the device through step.cu. The same sources compile with a host
 * compiler under tests/cuda_emu (CUDA_EMU), which stands in for the CUDA headers; hence the macros
 * for launches and shared memory, and number formats as their bits. */
#ifndef SIROCCO_KERNELS_CUDA_CUDA_CUH
#define SIROCCO_KERNELS_CUDA_CUDA_CUH

#ifndef CUDA_EMU
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define CUDA_LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define CUDA_SHARED(type, name)                                                                    \
    extern __shared__ __align__(128) unsigned char cuda_shared_memory[];                           \
    type *name = (type *)cuda_shared_memory
/* To the emulation's checks: a span came, went; nothing stays there when the stream is waited for;
 * this may be read unwritten, for nothing comes of it. */
#define CUDA_SPAN(at, bytes, zeroed) ((void)0)
#define CUDA_SPAN_END(at) ((void)0)
#define CUDA_SCRATCH(at, bytes) ((void)0)
#define CUDA_ANY_VALUE(at, bytes) ((void)(at), (void)(bytes))
#endif
#ifndef CUDA_SPAN_GAP
#define CUDA_SPAN_GAP 0 /* bytes between spans, for the same checks */
#endif

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

enum {
    CUDA_WARP = 32,
    CUDA_ERROR_MAX = 256,
    CUDA_NAME_MAX = 192,
    CUDA_ALIGN = 256,
    CUDA_FIXED_INPUTS = 64,    /* a deterministic device's products take so many at a time */
    CUDA_TILE_ROWS = 16,       /* rows of a tile of repacked weights */
    CUDA_CHUNK = 128,          /* columns of a tile of repacked weights */
    CUDA_HEAD_DIM_MAX = 256,
    CUDA_FLASH_ROW_STEP = 16, /* positions of a step of attention_rows.cu */
    CUDA_KV_GROUP = 32, /* values of a head that share a scale, with Q8_0 */
    CUDA_GRAPHS_MAX = 256,     /* decode steps of up to so many sequences are captured */
    CUDA_EXPERTS_USED_MAX = 16,
    CUDA_COUNTERS = 4096, /* tiles of a product whose parts meet */
};

/* A stretch of the reservation; the list is in order of address and without gaps. */
struct cuda_span {
    size_t at, bytes;
    bool used;
    struct cuda_span *next;
};

/* The KV pool, written by rope.cu, read by attention*.cu:
 *   k[layer][block][kv_head][block_size][head_dim], v the same
 * Q8_0 keeps int8 there and behind it, for both, a float16 scale for each CUDA_KV_GROUP values:
 *   d[layer][block][kv_head][block_size][head_dim / CUDA_KV_GROUP] */
struct cuda_kv {
    struct kv_options o;
    int block_shift;
    char *k, *v;
    uint16_t *k_scales, *v_scales;    /* Q8_0 only */
    size_t layer_values, layer_bytes; /* of k and of v */
};

/* Device copies of a step's sequences. */
struct cuda_seq {
    int q_start, q_len, kv_len;
    int blocks; /* index of its first block in the table */
};
struct cuda_row { /* query of sequence seq */
    int seq, query;
};
struct cuda_tile { /* rows from first on of sequence seq, row = query * group + head */
    int seq, first;
};

/* How attention runs over a step: queries of short parts one by one, longer parts in tiles. */
struct cuda_plan {
    int n_rows, n_tiles, n_seqs; /* queries run one by one; tiles of rows */
    int group;
    struct cuda_seq *seqs;  /* device */
    struct cuda_row *rows;   /* device */
    struct cuda_tile *tiles; /* device */
    int32_t *blocks;        /* device */
};

/* A weight matrix on the device. RAW: as in the file; rows start row_bytes apart. TILED: see
 * quant.cuh. */
struct cuda_matrix {
    bool tiled;
    char *raw;
    size_t row_bytes, bytes;
    uint8_t *codes, *high, *scales, *supers;
    int n_chunks, n_tiles;
    float *row_scales; /* F8_128: [rows] scales of the rows, where by_row */
    bool by_row;       /* each row has but one, and no code is NaN */
    bool no_fp8;       /* the library refused an FP8 product with this matrix */
};

struct cuda_graph {
    cudaGraphExec_t exec;
    bool seen; /* ran once without a graph */
};

/* A row of a draw on the device. */
struct cuda_draw {
    struct draw_row row;
    struct draw_change *changes; /* device; room for one more than the row has */
    const int32_t *pending;      /* device, or NULL: a token that is one more of the output */
    const uint32_t *allowed;     /* device, or NULL */
    float scale;                 /* 1 / temperature */
    double margin;               /* min_p's: temperature * log(min_p) */
};

/* Rows as the products that read them take them: 16-bit values, float16 or bfloat16, what is left
 * of them, sums (halves.cuh); or E4M3 values times a scale of the row (fp8.cuh). high and fp8 NULL:
 * floats. */
struct cuda_halves {
    uint16_t *high, *low; /* [n][cols]; low NULL: not wanted */
    float *sums;          /* or NULL */
    uint8_t *fp8;         /* [n][cols] */
    float *scales;        /* [n], with fp8 */
    bool bf16;
};

struct device {
    char error[CUDA_ERROR_MAX]; /* "" or the latched error */
    char name[CUDA_NAME_MAX];
    int gpu, n_sm, capability; /* 90: 9.0 */
    bool deterministic;   /* no kernel is chosen by how many rows there are */
    bool tensor;          /* mma.m16n8k16 with bfloat16, cp.async: 8.0 and later */
    bool wgmma;           /* 9.0, and what its products gave at start was right (wgmma_probe.cu) */
    size_t shared_max;
    cudaStream_t stream;
    cudaEvent_t mark;

    char *arena;
    size_t arena_bytes;
    struct cuda_span *spans;

    /* step.cu: pinned ring and its device twin; the fixed place of a step's arrays */
    char *ring_host, *ring_device, *step_device;
    size_t ring_bytes, ring_at, step_bytes;
    struct step_args step;
    bool in_step, capturing;
    int host_bound; /* with so many rows or more an op waits for the device: not captured */
    struct cuda_plan plan;
    int32_t *step_tokens, *step_pos;
    int64_t *step_slots;
    float *step_q_scale;
    int32_t *step_rows;
    struct cuda_draw *step_draws;
    struct cuda_graph *capture; /* what is being captured, while capturing */
    struct cuda_graph graphs[2][CUDA_GRAPHS_MAX + 1]; /* without and with a draw */
    bool plan_made;  /* plan is the step's */
    int plan_heads;  /* of the model, known from the first attention; 0: not yet */

    struct cuda_kv kv;

    /* made by reserve */
    int n_max, cols_max;
    uint16_t *split_high, *split_low; /* [n_max rounded to 8][cols padded to CUDA_CHUNK] */
    float *split_sums; /* [the same rows][padded cols / 32]: two float16 each, see split (linear.cu)
                        * or, of inputs that are rounded to FP8, their scales [n] */
    struct { /* rows whose maker left them as halves, until linear has read them */
        const float *of; /* where the floats would be; NULL: there are none */
        int n;
        int64_t cols;
        struct cuda_halves halves;
    } made;
    struct { /* outputs of linear that are bfloat16, until act_mul has read them */
        const float *gate, *up; /* where the floats would be; NULL: there are none */
        int64_t n;              /* values of each */
        const uint16_t *gate_bf16, *up_bf16;
    } gated;
    uint16_t *dequantized;            /* slices of a matrix on their way to the library */
    size_t dequantized_bytes;
    float *partial; /* sums of parts: of split attention and of split products */
    size_t partial_bytes;
    int *counters; /* [CUDA_COUNTERS], 0 between ops: parts of a product that have ended */
    struct pick_result *picks; /* [n_max] */
    int32_t *routes;           /* pinned: the experts of n_max rows, their order, their weights */
    struct cuda_moe *moes;     /* moe.cu: what it keeps of each layer */
    void *blas;
};

/* ---- errors (cuda.cu) */

int cuda_fail(struct device *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cuda_check(struct device *d, cudaError_t e, const char *what);
static inline bool cuda_failed(const struct device *d)
{
    return d->error[0] != 0;
}
/* After launches: latches what they refused. */
int cuda_launched(struct device *d, const char *what);
/* Does [at, at + bytes) lie in the reservation? Latches when not: a host pointer in its place. */
bool cuda_owns(struct device *d, const void *at, size_t bytes, const char *what);

/* ---- memory (cuda.cu) */

void *cuda_take(struct device *d, size_t bytes, bool zeroed);
void cuda_give(struct device *d, void *memory);

/* ---- host arrays (step.cu) */

/* A device copy, valid for the ops enqueued before the next call that is not in the same step. */
const void *cuda_stage(struct device *d, const void *from_host, size_t bytes);
int cuda_step_open(struct device *d);
int cuda_step_begin(struct device *d, const struct step_args *a);
int cuda_step_end(struct device *d);
void cuda_step_close(struct device *d);
int cuda_plan_get(struct device *d, const struct attention_seq *seqs, int n_seqs, int n_heads,
                  struct cuda_plan *plan);
/* A draw's rows on the device, in the same way. */
const struct cuda_draw *cuda_draw_stage(struct device *d, const struct draw_args *a);
int cuda_upload(struct device *d, void *to, const void *from_host, size_t bytes);

/* ---- matrices (matrix.cu), the library (blas.cu) */

int cuda_matrix_load(struct device *d, struct matrix *m);
void cuda_matrix_free(struct device *d, struct matrix *m);
/* Rows row0 .. row0 + n of a quantized matrix as float16 [n][cols] */
void cuda_dequantize(struct device *d, const struct matrix *m, int64_t row0, int64_t n,
                     uint16_t *out);

int cuda_blas_open(struct device *d);
void cuda_blas_close(struct device *d);
/* out[n][out_stride] (+)= in[n][cols] w[rows][cols]^T + bias. w and in are of the type, F32, F16 or
 * BF16, or E4M3 (F8_128): then the product is times w_scales[rows] and in_scales[n]. batch > 1: as
 * many matrices, the next w_step and out_step bytes on, of the same inputs. */
struct cuda_gemm {
    enum quant_type type;
    int batch;
    const void *w, *in;
    const float *w_scales, *in_scales; /* NULL but for E4M3 */
    void *out;         /* float, or bfloat16 */
    const float *bias; /* [rows] or NULL */
    int64_t rows, cols, n, out_stride, w_step, out_step;
    bool add, out_bf16; /* out_bf16: without bias and add */
};
/* 1: the library has no kernel for this, nothing was done. */
int cuda_blas_run(struct device *d, const struct cuda_gemm *g);

/* ---- the tensor core kernels (linear_*.cu, attention_*.cu) */

/* Which matrices the jobs of pair blockIdx.y use: of expert ids[pair], jobs n_jobs each. The pair's
 * input is row pair / used, its output row pair. ids NULL: the jobs' own, one pair. */
struct cuda_experts {
    const int32_t *ids;             /* device [pairs] */
    const struct quant_view *views; /* device [n_experts][n_jobs] */
    int n_pairs, used;
    bool mixed; /* experts differ in their formats */
};

void cuda_skinny_float(struct device *d, const struct linear_args *a, int64_t padded,
                       const struct cuda_experts *experts);
void cuda_skinny_quant(struct device *d, const struct linear_args *a,
                       const struct cuda_experts *experts);
void cuda_tile(struct device *d, const struct linear_args *a, int64_t padded);
void cuda_tile_8(struct device *d, const struct linear_args *a, int64_t padded);
/* FP8 matrices of one scale per row times inputs that were rounded to FP8 (cuda_fp8_round). How
 * many jobs, the first ones, were done; the library refuses the next, whose output was not touched
 * and which no longer fits. out_bf16: see cuda_gemm. -1: failed. */
int cuda_linear_fp8(struct device *d, const struct linear_args *a, bool out_bf16);
bool cuda_fp8_fits(const struct device *d, const struct matrix *w, int n);
void cuda_fp8_round(struct device *d, const struct linear_args *a);
/* out[n][cols] from such inputs. */
void cuda_fp8_floats(struct device *d, const struct cuda_halves *from, int n, int64_t cols,
                     float *out);
/* Jobs i .. i + n_jobs - 1 (one, or two that are cuda_library_pair) by the library, from the inputs
 * that they take. 1: it has no kernel for this. */
int cuda_library(struct device *d, const struct linear_args *a, int i, int n_jobs, bool out_bf16);
bool cuda_library_pair(const struct device *d, const struct linear_args *a, int i);
/* One product by the library, its bias added apart where need be. 1: it has no kernel for this. */
int cuda_multiply(struct device *d, struct cuda_gemm *g);
/* How an op is to leave n rows at `of` for the readers: as floats, or from now on in this form
 * alone, their columns a multiple of CUDA_CHUNK. all: the op can make low parts, sums and FP8. */
struct cuda_halves cuda_halves_for(struct device *d, const struct linear_readers *readers,
                                   const float *of, int n, bool all);
/* The jobs of a, whose matrices are of expert 0, for each pair on its own (n is 1). */
int cuda_linear_experts(struct device *d, const struct linear_args *a,
                        const struct cuda_experts *experts);
struct attention_params;
bool cuda_flash_fits(const struct device *d, int n_heads);
int cuda_flash_row_blocks(const struct attention_params *p); /* blocks per row of the plan */
int cuda_flash_tile_rows(int head_dim);
int cuda_flash_tiles(struct device *d, const struct attention_params *p, int n_tiles);
/* Try wgmma, where there is one: sets d->wgmma. Waits for the device. */
int cuda_wgmma_probe(struct device *d);
bool cuda_wgmma_fits(const struct device *d, const struct attention_params *p);
int cuda_wgmma_tiles(struct device *d, const struct attention_params *p, int n_tiles);
void cuda_flash_rows(struct device *d, const struct attention_params *p, int n_rows);

/* ---- a draw's arguments (draw.cu) */

/* n_tokens: of the step that the draw is part of, 0: of none */
int cuda_draw_check(struct device *d, const struct draw_args *a, int n_tokens);
size_t cuda_draw_extra(const struct draw_args *a); /* bytes of changes and masks */
/* Fill rows[a->n] and extra, host memory whose copies will lie at extra_device. tokens: the step's
 * on the device, or NULL. */
void cuda_draw_fill(const struct draw_args *a, const int32_t *tokens, struct cuda_draw *rows,
                    char *extra, char *extra_device);

/* ---- the ops */

int cuda_embed(struct device *d, const struct embed_args *a);
int cuda_norm(struct device *d, const struct norm_args *a);
int cuda_linear(struct device *d, const struct linear_args *a);
int cuda_rope_table(struct device *d, const struct rope_table_args *a);
int cuda_rope_store(struct device *d, const struct rope_store_args *a);
int cuda_attention(struct device *d, const struct attention_args *a);
int cuda_act_mul(struct device *d, const struct act_mul_args *a);
int cuda_moe(struct device *d, const struct moe_args *a);
void cuda_moe_close(struct device *d);
size_t cuda_moe_workspace(int n_max, int dim, int ffn, int n_experts, int n_used);
int cuda_gather(struct device *d, const struct gather_args *a);
int cuda_pick(struct device *d, const struct pick_args *a);
int cuda_draw(struct device *d, const struct draw_args *a);
int cuda_limits(struct device *d, enum quant_type weights, struct device_limits *out);

/* ---- numbers, in kernels */

#ifndef CUDA_EMU
static __device__ __forceinline__ float f16_float(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}
static __device__ __forceinline__ uint16_t float_f16(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}
static __device__ __forceinline__ uint16_t float_bf16(float f)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(f));
}
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}
static __device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    __half2 both = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}
/* a - b of two bfloat16 pairs */
static __device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b)
{
    __nv_bfloat162 x, y;
    memcpy(&x, &a, sizeof a);
    memcpy(&y, &b, sizeof b);
    x = __hsub2(x, y);
    memcpy(&a, &x, sizeof a);
    return a;
}
/* a - b and a b of two float16 pairs */
static __device__ __forceinline__ uint32_t subtract_f16(uint32_t a, uint32_t b)
{
    __half2 x, y;
    memcpy(&x, &a, sizeof a);
    memcpy(&y, &b, sizeof b);
    x = __hsub2(x, y);
    memcpy(&a, &x, sizeof a);
    return a;
}
static __device__ __forceinline__ uint32_t multiply_f16(uint32_t a, uint32_t b)
{
    __half2 x, y;
    memcpy(&x, &a, sizeof a);
    memcpy(&y, &b, sizeof b);
    x = __hmul2(x, y);
    memcpy(&a, &x, sizeof a);
    return a;
}
#else
static inline float f16_float(uint16_t h) { return quant_f16_to_f32(h); }
static inline uint16_t float_f16(float f) { return quant_f32_to_f16(f); }
static inline uint16_t float_bf16(float f) { return quant_f32_to_bf16(f); }
static inline uint32_t pack_bf16(float low, float high)
{
    return (uint32_t)float_bf16(high) << 16 | float_bf16(low);
}
static inline uint32_t pack_f16(float low, float high)
{
    return (uint32_t)float_f16(high) << 16 | float_f16(low);
}
static inline uint32_t subtract_bf16(uint32_t a, uint32_t b)
{
    return pack_bf16(quant_bf16_to_f32((uint16_t)a) - quant_bf16_to_f32((uint16_t)b),
                     quant_bf16_to_f32((uint16_t)(a >> 16)) -
                         quant_bf16_to_f32((uint16_t)(b >> 16)));
}
static inline uint32_t subtract_f16(uint32_t a, uint32_t b)
{
    return pack_f16(f16_float((uint16_t)a) - f16_float((uint16_t)b),
                    f16_float((uint16_t)(a >> 16)) - f16_float((uint16_t)(b >> 16)));
}
static inline uint32_t multiply_f16(uint32_t a, uint32_t b)
{
    return pack_f16(f16_float((uint16_t)a) * f16_float((uint16_t)b),
                    f16_float((uint16_t)(a >> 16)) * f16_float((uint16_t)(b >> 16)));
}
#endif

static __device__ __forceinline__ float bf16_float(uint32_t h)
{
    return __uint_as_float(h << 16);
}

/* float16 has no room above 65504: finite values stay finite. */
static __device__ __forceinline__ float saturate_f16(float x)
{
    return fabsf(x) <= 3.402823466e38f ? fminf(fmaxf(x, -65504.0f), 65504.0f) : x;
}

/* quant_f32_to_fp8's bits; ptx.cuh has four_f32_fp8 */
static __device__ __forceinline__ uint8_t float_fp8(float x)
{
    uint32_t u = __float_as_uint(x), magnitude = u & 0x7fffffffu;
    uint32_t code = (magnitude + 0x7ffffu + (magnitude >> 20 & 1u) - 0x3c000000u) >> 20;
    if (magnitude < 0x3c800000u)
        code = __float_as_uint(__fadd_rn(fabsf(x), 16384.0f)) - 0x46800000u;
    if (magnitude >= 0x43e00000u)
        code = magnitude > 0x7f800000u ? 0x7f : 0x7e;
    return (uint8_t)((u >> 24 & 0x80u) | code);
}

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int mask = 16; mask; mask /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

/* The sum over a block of whole warps, in all its threads; scratch: one float per warp. */
static __device__ __forceinline__ float block_sum(float x, float *scratch)
{
    int warp = (int)threadIdx.x / CUDA_WARP, n_warps = (int)blockDim.x / CUDA_WARP;
    float sum = 0;
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % CUDA_WARP == 0)
        scratch[warp] = x;
    __syncthreads();
    for (int i = 0; i < n_warps; i++)
        sum += scratch[i];
    return sum;
}

#endif
