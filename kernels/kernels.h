/* kernels: the compute backend as a table of functions, and one argument struct per op.
 *
 * The engine thread is the only caller of a device's functions. Every op takes the device and one
 * argument struct, is enqueued in order, and its arguments are read before it returns. Device
 * memory comes from alloc; on the CPU backend it is plain memory. Arrays are row-major, rows first,
 * float32 unless said, and contiguous: x[n][dim] means n rows of dim floats. Outputs never alias
 * inputs unless the op says "in place". Arrays lie in device memory, but for those marked "host":
 * they are plain memory of the caller, small, and read before the op returns or copied in a step.
 *
 * Exactness, CPU backend: every output row is computed by the same sequence of operations whatever
 * else is in the batch, so results do not depend on n, on chunking or on the number of threads.
 * CUDA backend: attention scores and sums, norms and rotations are float32. linear rounds inputs to
 * bfloat16 twice (the value and what is left of it: 16 bits) for few rows, once for many, or to
 * float16 (saturating) where the weights are F16 or quantized; quantized weights are exact for few
 * rows, rounded to float16 for many, but FP8 ones of one scale per row, where the GPU multiplies
 * FP8: there inputs of more than 64 rows are rounded to E4M3 with a scale per row; products are
 * summed in float32.
 * Which kernel runs, and so the order of sums, depends on n, unless the device was opened
 * `deterministic`: then every row is computed as on the CPU, by one sequence of operations.
 *
 * Errors: int functions return 0 or -1 and then device error text is set (device_error). An op's
 * error latches: later ops return -1 at once (R6). Nothing here aborts. */
#ifndef SIROCCO_KERNELS_H
#define SIROCCO_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

struct device; /* one open backend: its threads or its GPU, its KV pool, its latched error */

struct device_options {
    int n_threads;       /* CPU: worker threads incl. the caller; 0: physical cores of the cpuset */
    const char *cpu_isa; /* "auto" or the strongest level that may be used: "base", "avx2",
                             "avx512", "avx512-bf16" (BF16 weights with inputs rounded to BF16) */
    int gpu;                    /* CUDA: number of the GPU, from 0 */
    double gpu_memory_fraction; /* CUDA: share of the GPU's memory that open takes, above 0..1 */
    bool deterministic;         /* CUDA: see "Exactness"; the CPU is always so */
};

/* A weight matrix of rows outputs by cols inputs. data is the host's (mmapped) storage, which must
 * outlive the device; packed is the backend's own form, made by matrix_load, freed by matrix_free.
 */
struct matrix {
    enum quant_type type;
    int64_t rows, cols;
    const void *data; /* rows * quant_row_bytes(type, cols) bytes, any alignment */
    void *packed;
};

/* The paged KV cache. A slot number is block * block_size + offset; only the backend turns it into
 * an address. Freed blocks keep their bytes; the pool is zeroed once. */
struct kv_options {
    int n_layers, n_kv_heads, head_dim;
    int n_blocks, block_size; /* block_size: power of two, 8..256 */
    enum quant_type type;     /* see kv_cache.h; Q8_0 if head_dim % 32 is 0 */
};

/* out[i] = scale * table[tokens[i]]; tokens in [0, table.rows) are checked by the caller */
struct embed_args {
    float *out; /* [n][cols] */
    const struct matrix *table;
    const int32_t *tokens; /* [n], host */
    int n;
    float scale;
};

/* Who reads what an op puts out: the next call of linear, with these matrices for its jobs and as
 * many inputs, and nobody else. Then a device may keep the rows in the form which those products
 * take, and leave the floats unwritten. n 0: anyone may read them. */
struct linear_readers {
    int n;
    const struct matrix *w[3];
};

/* RMSNorm (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * weight, row by row; mean in
 * float32 over the row. out may be in (in place). add: out += y instead of out = y (then out must
 * not be in). */
struct norm_args {
    float *out;          /* [n][dim] */
    const float *in;     /* [n][dim] */
    const float *weight; /* [dim] */
    int n, dim;
    float eps;
    bool add;
    struct linear_readers readers; /* of out; none with add */
};

/* out[i][r] (+)= sum_c w[r][c] * in[i][c] + bias[r]. Several matrices that share their input can
 * be given at once (QKV, gate and up): job j writes its own out. */
struct linear_job {
    const struct matrix *w; /* [rows][cols] */
    const float *bias;      /* [rows] or NULL */
    float *out;             /* [n][rows] */
};
struct linear_args {
    const float *in; /* [n][cols], the same cols for all jobs */
    int n;
    bool add; /* out += instead of out = */
    /* The jobs are two, the gate and the up of the act_mul that is called next, and nobody else
     * reads their outputs: a device may keep these in a form of its own and leave the floats
     * unwritten. */
    bool gated;
    int n_jobs;
    struct linear_job jobs[3];
};

/* cos_sin[i][j] = (cos, sin)(pos[i] * inv_freq[j]) * mscale, j < n_freq; once per step and rope */
struct rope_table_args {
    float *cos_sin;          /* [n][n_freq][2] */
    const int32_t *pos;      /* [n], host */
    const float *inv_freq;   /* [n_freq], host */
    int n, n_freq;
    float mscale;
};

/* Rotary embedding (Su et al. 2021) of q (in place) and k (in place), then k and v are stored to
 * the KV cache of `layer` at slots[i]. The rotation pairs element j with j + n_freq (half split, as
 * Hugging Face checkpoints) or 2j with 2j + 1 (interleaved, as GGUF llama and Mistral's own files):
 * (a, b) -> (a cos - b sin, a sin + b cos). Elements beyond 2 * n_freq of a head pass unchanged. */
struct rope_store_args {
    float *q;             /* [n][n_heads][head_dim] */
    float *k;             /* [n][n_kv_heads][head_dim] */
    const float *v;       /* [n][n_kv_heads][head_dim] */
    const float *cos_sin; /* [n][n_freq][2] */
    const int64_t *slots; /* [n], host */
    int n, n_heads, n_freq, layer;
    bool interleaved;
    const float *q_scale; /* [n], host: factor on a token's rotated query; NULL: 1 */
};

/* One sequence's part of a ragged batch: q_len queries, rows q_start.. of q; the last query is at
 * position kv_len - 1 and query i at position kv_len - q_len + i. blocks[p / block_size] is the
 * block of position p; entries wholly before every query's window may hold anything. */
struct attention_seq {
    int q_start, q_len, kv_len;
    const int32_t *blocks; /* host */
};

/* Causal softmax(scale * q k^T) v per head; query head h reads KV head h / (n_heads / n_kv_heads).
 * window > 0: a query at p sees positions max(0, p - window + 1)..p. softcap > 0: scores become
 * softcap * tanh(score / softcap). The new keys and values are already stored (rope_store). */
struct attention_args {
    float *out;     /* [n][n_heads][head_dim] */
    const float *q; /* [n][n_heads][head_dim] */
    const struct attention_seq *seqs; /* host */
    int n_seqs, n_heads, layer, window;
    float scale, softcap;
    struct linear_readers readers; /* of out */
};

enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH };

/* gate[i][j] = act(gate[i][j]) * up[i][j], in place */
struct act_mul_args {
    float *gate;     /* [n][dim] */
    const float *up; /* [n][dim] */
    int n, dim;
    enum activation act;
    struct linear_readers readers; /* of gate */
};

/* Mixture of experts (Jiang et al. 2024, Mixtral): per row, logits = router x; the n_used experts
 * of highest logit (lowest index on ties), weights = softmax over all logits, then, with renorm,
 * divided by their sum; out += sum_e weight_e * down_e(act(gate_e x) * up_e x), experts in index
 * order. workspace: moe_workspace(...) bytes. */
struct moe_args {
    float *out;      /* [n][dim], added to */
    const float *in; /* [n][dim] */
    const struct matrix *router;                /* [n_experts][dim] */
    const struct matrix *gate, *up, *down;      /* [n_experts] each: [ffn][dim] x2, [dim][ffn] */
    int n, dim, ffn, n_experts, n_used;
    bool renorm;
    enum activation act;
    void *workspace;
};

/* out[i] = in[rows[i]] */
struct gather_args {
    float *out;          /* [n][dim] */
    const float *in;     /* [..][dim] */
    const int32_t *rows; /* [n], host */
    int n, dim;
};

/* Of each row of logits (first replaced by softcap * tanh(x / softcap) in place when softcap > 0):
 * the index of the maximum (the lowest on ties), the maximum, the log of the sum of exp, and
 * whether any value is NaN or infinite (then the others are unspecified). */
struct pick_result {
    int32_t best;
    float best_logit, log_sum_exp;
    bool bad;
};
struct pick_args {
    float *logits;              /* [n][vocab] */
    struct pick_result *result; /* [n], host, ready after sync */
    int n, vocab;
    float softcap;
};

/* One token drawn from each row of logits, as engine/sample.h defines it (which has the formulas'
 * sources): softcap as in pick; what pick tells; the best raw logits; then, token by token, the
 * row's changes: x += bias; with in_text, x > 0 ? x / repetition : x * repetition; with count > 0,
 * x -= presence + count * frequency; above FLT_MAX it becomes that; banned: -inf. Of the ids below
 * n_valid whose bit of allowed is set: the highest logit (the lowest id on ties) if temperature is
 * below 1e-5, else weights exp((x - max) / temperature); the top_k best of them; of these the
 * fewest best whose weights reach top_p of their sum; of these those of at least min_p times the
 * best; the first, in the order of ids, at which the running sum exceeds uniform times the sum.
 * Order is by logit, then the lower id. Weights are summed as multiples of 2^-44, so that no sum
 * depends on its order; less than that counts as nothing. */
enum { DRAW_TOP_MAX = 20, DRAW_VOCAB_MAX = 1 << 19, DRAW_CHANGES_MAX = 1 << 17 };

struct draw_change { /* a token whose logit is not the model's; at most one per token and row */
    int32_t token; /* below n_valid */
    float bias;
    int32_t count; /* in the output */
    bool in_text;  /* in prompt or output */
    bool banned;
};
struct draw_row {
    bool wanted; /* else only the pick is made, and the row's logits stay the model's */
    float temperature, top_p, min_p;
    float repetition, presence, frequency;
    int32_t top_k;   /* 0: all */
    int32_t n_valid; /* 1..vocab */
    int32_t n_top;   /* 0..DRAW_TOP_MAX: how many of the best raw logits to tell */
    int32_t first_change, n_changes; /* of draw_args.changes */
    /* -1, or in a step's draw a row of step_args.tokens: that token, which the host may not know,
     * is one more of the output, and adds to its change or makes one */
    int32_t pending;
    const uint32_t *allowed; /* [(n_valid + 31) / 32] host, bit id % 32 of word id / 32; or NULL */
    double uniform;          /* [0, 1) */
};
struct draw_top {
    int32_t token;
    float logit;
};
struct draw_result {
    struct pick_result pick;
    int32_t token; /* -1: not wanted, pick.bad, or nothing is allowed */
    float logit;   /* the token's, before changes */
    int32_t n_top; /* fewer than asked for when there are not so many ids */
    struct draw_top top[DRAW_TOP_MAX]; /* descending, the lower id first on ties */
};
struct draw_args {
    float *logits;                     /* [n][vocab]; on return unspecified where wanted */
    struct draw_result *result;        /* [n] */
    const struct draw_row *rows;       /* [n], host */
    const struct draw_change *changes; /* host; all rows' together at most DRAW_CHANGES_MAX */
    int n, vocab;                      /* vocab: at most DRAW_VOCAB_MAX */
    float softcap;
};

/* One forward pass over a batch: what is the same for all its ops. Until step_end the arrays below
 * stay as they are, and ops that are given these very pointers may use what step_begin copied. */
struct step_args {
    const int32_t *tokens, *pos;      /* [n], host; token ~i: that of drawn[i] */
    const int64_t *slots;             /* [n], host */
    const float *q_scale;             /* [n], host, or NULL */
    const struct attention_seq *seqs; /* [n_seqs], host */
    int n, n_seqs;
    const struct draw_args *draw; /* of the rows below, gathered; NULL: the pass ends before */
    const int32_t *rows;          /* [draw->n], host, or NULL */
    const struct draw_result *drawn; /* the last draw's result (no token: 0 is taken), or NULL */
};

/* What a device reaches at best, measured: by all its cores at once. */
struct device_limits {
    double read_bytes; /* per second, from memory */
    double operations; /* per second, two to a multiply-add, of what linear computes with */
    const char *instruction; /* "int8", "bfloat16", "float32" */
};

struct kernels {
    const char *name; /* "cpu", "cuda" */

    /* error: NULL or a buffer of error_bytes that receives one sentence */
    int (*open)(const struct device_options *options, struct device **out, char *error,
                size_t error_bytes);
    void (*close)(struct device *device);              /* NULL allowed */
    const char *(*device_error)(const struct device *device); /* "" when none latched */
    const char *(*describe)(const struct device *device);     /* "avx512, 2 threads" */
    /* One sentence that the log should have of what was found at open, or ""; NULL: never any */
    const char *(*warning)(const struct device *device);
    size_t (*memory_free)(const struct device *device);       /* bytes that may be taken now */

    void *(*alloc)(struct device *device, size_t bytes); /* zeroed, 64-byte aligned; NULL: none */
    void (*free)(struct device *device, void *memory);   /* NULL allowed */
    int (*upload)(struct device *device, void *to, const void *from_host, size_t bytes);
    int (*download)(struct device *device, void *to_host, const void *from, size_t bytes);
    int (*sync)(struct device *device); /* wait for all ops; CPU: nothing to do */
    int (*mark)(struct device *device); /* note how far ops were given; there is one mark */
    int (*wait)(struct device *device); /* for all that came before the mark */
    /* host memory that downloads reach fastest; zeroed; NULL: none */
    void *(*host_alloc)(struct device *device, size_t bytes);
    void (*host_free)(struct device *device, void *memory); /* NULL allowed */

    int (*matrix_load)(struct device *device, struct matrix *m); /* sets m->packed if it repacks */
    void (*matrix_free)(struct device *device, struct matrix *m);
    size_t (*kv_bytes_per_block)(const struct kv_options *options); /* all layers, K and V */
    int (*kv_open)(struct device *device, const struct kv_options *options); /* once per device */
    size_t (*moe_workspace)(int n_max, int dim, int ffn, int n_experts, int n_used);
    size_t (*linear_workspace)(int n_max, int cols_max); /* reserved by reserve */
    int (*reserve)(struct device *device, int n_max, int cols_max); /* scratch of all ops, once */

    /* Bracket the ops of a forward pass. begin returns 0: call the ops, then end; 1: the pass was
     * enqueued whole, as it ran before for this n (every sequence has one token, and with draw each
     * of these is a row): call neither. For that, a step's ops must depend on nothing but n, on
     * there being a draw or none, and on the arrays of step_args and of its draw. end may return
     * 1: nothing was enqueued, whatever the ops returned; begin again and call them once more. */
    int (*step_begin)(struct device *device, const struct step_args *args);
    int (*step_end)(struct device *device);

    int (*embed)(struct device *device, const struct embed_args *args);
    int (*norm)(struct device *device, const struct norm_args *args);
    int (*linear)(struct device *device, const struct linear_args *args);
    int (*rope_table)(struct device *device, const struct rope_table_args *args);
    int (*rope_store)(struct device *device, const struct rope_store_args *args);
    int (*attention)(struct device *device, const struct attention_args *args);
    int (*act_mul)(struct device *device, const struct act_mul_args *args);
    int (*moe)(struct device *device, const struct moe_args *args);
    int (*gather)(struct device *device, const struct gather_args *args);
    int (*pick)(struct device *device, const struct pick_args *args);
    /* NULL: the device draws no tokens, the host's sampler does */
    int (*draw)(struct device *device, const struct draw_args *args);

    /* Takes about a second; weights: the type whose products are meant. NULL: not measured. Before
     * the first sequence, as the KV pool may be written and zeroed again. */
    int (*limits)(struct device *device, enum quant_type weights, struct device_limits *out);
};

const struct kernels *kernels_cpu(void);

/* The plugin's only exported symbol; NULL when it was built for another version of this header. */
#define KERNELS_VERSION 5
#define KERNELS_PLUGIN_SYMBOL "sirocco_plugin"
typedef const struct kernels *kernels_plugin_fn(int version, size_t struct_bytes);
/* Load the plugin at path; NULL: sirocco-cuda.so beside the program, then in ../lib/sirocco. It
 * stays loaded. NULL and one sentence in error when that fails, "" when path is NULL and there is
 * no such file. */
const struct kernels *kernels_plugin(const char *path, char *error, size_t error_bytes);

#ifdef __cplusplus
}
#endif

#endif
