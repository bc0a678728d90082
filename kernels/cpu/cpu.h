/* cpu: what the files of the CPU backend share: the open device, the table of variants, the KV
 * layout. Private to kernels/cpu.
 *
 * Each op has a driver (<op>_run, in <op>.c) that cuts the work into slices, and inner loops chosen
 * once per device through struct cpu_variants: <op>_base registers the plain loops, <op>_avx2 and
 * <op>_avx512 replace what they do better. A slice boundary never splits a sum. */
#ifndef SIROCCO_KERNELS_CPU_CPU_H
#define SIROCCO_KERNELS_CPU_CPU_H

#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

/* CPU_AVX512_BF16: also rounds the inputs of BF16 weights to BF16 and multiplies such pairs */
enum cpu_level { CPU_BASE, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16 };

struct cpu_features {
    enum cpu_level level; /* avx2: AVX2, FMA, F16C; avx512: these and F, BW, DQ, VL */
    bool vnni;            /* only with avx512 */
};

/* Rows of activations quantized to int8 in blocks of 32, value = d * q, as the loops over them go:
 * tiles of `tile` rows; a tile is, block after block, int8 q[tile][32] and struct cpu_scale[tile].
 * The rows that the last tile lacks hold anything. A block that holds a NaN or an infinity has
 * d = NaN, so that its outputs are NaN. */
struct cpu_quantized {
    char *tiles;
    int tile;
};
struct cpu_scale {
    float d, sum;         /* d times the sum of the 32 q */
    int32_t whole, right; /* minus the sum of the 32 q, and of the last 16 of them */
};

static inline struct cpu_scale cpu_scale_of(float d, const int32_t sums[2])
{
    int32_t sum = sums[0] + sums[1];
    return (struct cpu_scale){d, d * (float)sum, -sum, -sums[1]};
}

enum { CPU_QUANTIZED_BYTES = 32 + sizeof(struct cpu_scale) }; /* of a row's block */

/* What a variant of linear reads: the floats as they are, or what linear.c made of them once. */
enum cpu_input {
    CPU_INPUT_F32,
    CPU_INPUT_INT8, /* struct cpu_quantized */
    CPU_INPUT_BF16, /* rounded to nearest even, [n][cols] */
    CPU_INPUT_COUNT,
};

/* Keeps x, of which nothing else is used, from being optimised away. */
#define CPU_USE(x, where) __asm__ volatile("" : : where(x))

/* Rows row0 .. row1 - 1 of one job, for all n inputs. */
struct cpu_linear_slice {
    const struct linear_job *job;
    const float *in;                /* [n][cols] */
    const struct cpu_quantized *xq; /* the same inputs, when the variant asks for INT8 */
    const uint16_t *xh;             /* the same inputs, when the variant asks for BF16 */
    int64_t row0, row1;
    int n;
    bool add;
    void *scratch; /* CPU_SCRATCH bytes, this thread's */
};

/* The KV pool. K is stored with positions innermost, so that scores of neighbouring positions fill
 * a vector; V with the head's elements innermost:
 *   k[layer][block][kv_head][head_dim][block_size], v[layer][block][kv_head][block_size][head_dim]
 * Q8_0 keeps int8 there and a scale for each CPU_KV_GROUP elements of a position apart, for both as
 *   d[layer][block][kv_head][head_dim / CPU_KV_GROUP][block_size], F16
 * Each layer begins a huge page divided by their number further within a huge page than the one
 * before, so that blocks used for the first time touch new pages in one layer after the other. For
 * a 7B model the system takes 0.3 s to clear a page of every layer.
 * Written by rope.c, read by attention*.c. */
struct cpu_kv {
    struct kv_options o;
    int value_bytes, block_shift;
    size_t layer_values; /* from a layer to the next */
    char *k, *v;
    uint16_t *k_scales, *v_scales; /* Q8_0 only */
};

/* Index of element 0 of position 0 in k and in v; in the scales it is this / CPU_KV_GROUP. */
static inline size_t cpu_kv_base(const struct cpu_kv *kv, int layer, size_t block, int kv_head)
{
    size_t heads = block * (size_t)kv->o.n_kv_heads + (size_t)kv_head;

    return (size_t)layer * kv->layer_values +
           heads * (size_t)kv->o.head_dim * (size_t)kv->o.block_size;
}

/* A query of one head and its softmax over a part of the positions: out is the sum of
 * exp(score - most) v, total that of exp(score - most). A row that has seen none has total 0. */
struct cpu_attention_row {
    const float *q;  /* [head_dim] */
    float *out;      /* [head_dim] */
    int first, last; /* positions it sees in all */
    float most, total;
};

/* The positions begin .. end - 1 of one sequence and one KV head, a part or the beginning of one,
 * for rows in order of their queries. */
struct cpu_attention_item {
    const struct attention_args *args;
    const struct attention_seq *seq;
    const struct cpu_kv *kv;
    int kv_head, begin, end;
    int ahead; /* positions up to here are worth fetching: who asks for this part asks for them */
    struct cpu_attention_row *rows;
    int n_rows; /* 1 .. CPU_ATTENTION_ROWS */
};

/* What attention.c keeps of a row of one part, and of each sequence of a call. */
struct cpu_partial {
    float most, total;
};
struct cpu_attention_plan {
    int32_t slice, merge; /* its first of each; the entry past the last sequence: their counts */
    int32_t part, n_parts; /* n_parts slices a tile from part on, or 1 for all parts */
    int32_t partial; /* the first of its partials when n_parts > 1 */
};

struct cpu_variants {
    void (*norm_row)(float *out, const float *in, const float *weight, int dim, float eps,
                     bool add);
    void (*linear_rows[QUANT_COUNT])(const struct cpu_linear_slice *s); /* rows of one matrix */
    enum cpu_input linear_input[QUANT_COUNT];
    /* block b goes to q + b * stride and, in bytes, scale + b * stride */
    void (*quantize_row)(const float *in, int64_t cols, int8_t *q, struct cpu_scale *scale,
                         size_t stride);
    int few_inputs, tile_inputs; /* cpu_quantized.tile is n for at most so many, else this */
    void (*round_row)(const float *in, int64_t cols, uint16_t *out);
    void (*rope_head)(float *head, const float *cos_sin, int n_freq, bool interleaved);
    void (*kv_encode)(enum quant_type type, const float *in, void *out, int n);
    /* adds the positions to the rows' sums */
    void (*attention_item[QUANT_COUNT])(const struct cpu_attention_item *item);
    void (*attention_merge)(float *out, float keep, const float *sums, float take, int n);
    void (*act_mul)(float *gate, const float *up, size_t n, enum activation act);
    void (*pick_row)(float *logits, int vocab, float softcap, struct pick_result *result);
    double (*peak[CPU_INPUT_COUNT])(void); /* multiply-adds for some time; operations done */
    void (*read_bytes)(const char *from, size_t bytes); /* a multiple of 512 */
};

enum {
    CPU_SCRATCH = 704 * 1024, /* bytes per thread */
    CPU_ATTENTION_ROWS = 32,
    CPU_ATTENTION_PART = 512, /* positions */
    CPU_HEAD_DIM_MAX = CPU_SCRATCH / CPU_ATTENTION_ROWS / 4,
    CPU_KV_GROUP = 32, /* the block of Q8_0 */
    CPU_NAME_MAX = 64,
    CPU_ERROR_MAX = 256,
};

struct device {
    struct cpu_variants ops;
    struct cpu_features features;
    struct pool *pool;
    int n_threads;
    char *scratch; /* [n_threads][CPU_SCRATCH] */

    struct cpu_kv kv;
    size_t kv_bytes; /* of kv.k and of kv.v, 0 when not open */

    /* sums of parts of attention, made by kv_open */
    int n_partials;
    struct cpu_partial *partials; /* [n_partials] */
    float *partial_sums;          /* [n_partials][head_dim] */

    /* made by reserve, for inputs of up to n_max rows and cols_max columns */
    int n_max, cols_max;
    struct cpu_quantized xq;
    uint16_t *xh;
    struct cpu_attention_plan *attention_plan; /* [n_max + 1] */

    char name[CPU_NAME_MAX];
    char error[CPU_ERROR_MAX]; /* "" or the latched error */
};

/* Latch an error (the first one stays); returns -1. */
int cpu_fail(struct device *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline bool cpu_failed(const struct device *d)
{
    return d->error[0] != 0;
}

static inline void *cpu_scratch(const struct device *d, int thread)
{
    return d->scratch + (size_t)thread * CPU_SCRATCH;
}

/* Run the slices on all threads, or on the caller alone when all of it takes about ns or less than
 * waking the others is worth. */
void cpu_run(struct device *d, pool_fn *fn, void *arg, int n_slices, double ns);

/* The registrations, weakest to strongest. Those of AVX2 and AVX-512 exist on x86-64 only. */
void norm_base(struct cpu_variants *v);
void norm_avx2(struct cpu_variants *v);
void norm_avx512(struct cpu_variants *v);
void linear_base(struct cpu_variants *v);
void linear_avx2(struct cpu_variants *v);
void linear_avx512(struct cpu_variants *v, const struct cpu_features *f);
void rope_base(struct cpu_variants *v);
void rope_avx2(struct cpu_variants *v);
void rope_avx512(struct cpu_variants *v);
void attention_base(struct cpu_variants *v);
void attention_avx2(struct cpu_variants *v);
void attention_avx512(struct cpu_variants *v);
void act_base(struct cpu_variants *v);
void act_avx2(struct cpu_variants *v);
void act_avx512(struct cpu_variants *v);
void pick_base(struct cpu_variants *v);
void pick_avx2(struct cpu_variants *v);
void pick_avx512(struct cpu_variants *v);
void limits_base(struct cpu_variants *v);
void limits_avx2(struct cpu_variants *v);
void limits_avx512(struct cpu_variants *v, const struct cpu_features *f);

/* The ops: entries of struct kernels. */
int embed_run(struct device *d, const struct embed_args *a);
int norm_run(struct device *d, const struct norm_args *a);
int linear_run(struct device *d, const struct linear_args *a);
int rope_table(struct device *d, const struct rope_table_args *a);
int rope_store(struct device *d, const struct rope_store_args *a);
int attention_run(struct device *d, const struct attention_args *a);
int act_mul_run(struct device *d, const struct act_mul_args *a);
int moe_run(struct device *d, const struct moe_args *a);
size_t moe_workspace(int n_max, int dim, int ffn, int n_experts, int n_used);
int gather_run(struct device *d, const struct gather_args *a);
int pick_run(struct device *d, const struct pick_args *a);
int limits_run(struct device *d, enum quant_type weights, struct device_limits *out);

#endif
