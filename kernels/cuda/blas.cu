/* blas: matrices times many inputs, by cuBLASLt. Engine thread.
 *
 * The library's heuristic chooses an algorithm (tile, stages, parts of a split sum) once per shape
 * and class of input counts; the choice is kept in a table of fixed size. An algorithm that refuses
 * some count of its class is chosen for each count by itself from then on. Descriptors live on the
 * stack and the workspace is of the reservation, so that a call takes no memory and can be
 * captured. Sums are float32; float32 inputs are multiplied as they are (no TF32). Bias and what
 * `out` held before are added by the same kernel where the library has one that does. */
#include "kernels/cuda/cuda.cuh"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_BYTES = 32 << 20, CHOICES = 1024, PROBES = 8, ALIGN_MAX = 256 };

/* What a choice depends on. All bytes are compared: no padding, zeroed where unused. */
struct choice_key {
    int64_t rows, cols, out_stride, n, offset, batch;
    int32_t type, align, bias, out_bf16;
};
struct choice {
    struct choice_key key; /* rows 0: free */
    cublasLtMatmulAlgo_t algo;
    bool found, each; /* each: of a class, which has no algorithm for all its members */
};
struct blas {
    cublasLtHandle_t handle;
    void *workspace;
    struct choice choices[CHOICES];
};

/* The problem as the library describes it; it counts columns first: its out is [rows] by [n]. */
struct problem {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, in, out;
};

static int blas_check(struct device *d, cublasStatus_t s, const char *what)
{
    return s == CUBLAS_STATUS_SUCCESS ? 0
                                      : cuda_fail(d, "%s: %s", what, cublasLtGetStatusString(s));
}

int cuda_blas_open(struct device *d)
{
    struct blas *b = (struct blas *)calloc(1, sizeof *b);
    if (!b)
        return cuda_fail(d, "no memory");
    d->blas = b;
    b->workspace = cuda_take(d, WORKSPACE_BYTES, false);
    if (!b->workspace)
        return cuda_fail(d, "too little GPU memory");
    return blas_check(d, cublasLtCreate(&b->handle), "cuBLASLt cannot be opened");
}

void cuda_blas_close(struct device *d)
{
    struct blas *b = (struct blas *)d->blas;
    if (b && b->handle)
        cublasLtDestroy(b->handle);
    free(b);
    d->blas = NULL;
}

/* The class of n: its largest member, which the choice is made for. Workspace grows with n, and
 * nothing's alignment depends on it, so that what is right for the largest is right for all. */
static int64_t class_of(int64_t n)
{
    int64_t step = n <= 64 ? 16 : n <= 512 ? 64 : 256;
    return (n + step - 1) / step * step;
}

static int align_of(const struct cuda_gemm *g)
{
    uintptr_t bits = (uintptr_t)g->w | (uintptr_t)g->in | (uintptr_t)g->out | ALIGN_MAX;
    if (g->batch > 1)
        bits |= (uintptr_t)(g->w_step | g->out_step);
    return (int)(bits & -bits);
}

static cudaDataType_t kind_of(enum quant_type type)
{
    return type == QUANT_F32      ? CUDA_R_32F
           : type == QUANT_F16    ? CUDA_R_16F
           : type == QUANT_F8_128 ? CUDA_R_8F_E4M3
                                  : CUDA_R_16BF;
}

static size_t kind_bytes(enum quant_type type)
{
    return type == QUANT_F32 ? 4 : type == QUANT_F8_128 ? 1 : 2;
}

static cublasStatus_t describe(cublasLtMatmulDesc_t desc, const struct cuda_gemm *g)
{
    cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t s = cublasLtMatmulDescInit(desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s)
        s = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed);
    if (!s && g->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        s = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue);
        if (!s)
            s = cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                                               sizeof g->bias);
    }
    if (s || g->type != QUANT_F8_128)
        return s;
    cublasLtMatmulMatrixScale_t outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const cublasLtMatmulDescAttributes_t modes[2] = {CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
                                                     CUBLASLT_MATMUL_DESC_B_SCALE_MODE};
    const cublasLtMatmulDescAttributes_t at[2] = {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                                  CUBLASLT_MATMUL_DESC_B_SCALE_POINTER};
    const float *const scales[2] = {g->w_scales, g->in_scales};
    for (int i = 0; !s && i < 2; i++) {
        s = cublasLtMatmulDescSetAttribute(desc, modes[i], &outer, sizeof outer);
        if (!s)
            s = cublasLtMatmulDescSetAttribute(desc, at[i], &scales[i], sizeof scales[i]);
    }
    return s;
}

static cublasStatus_t repeat(cublasLtMatrixLayout_t layout, int32_t count, int64_t step)
{
    cublasStatus_t s = cublasLtMatrixLayoutSetAttribute(
        layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    return s ? s
             : cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &step, sizeof step);
}

static cublasStatus_t lay_out(const struct cuda_gemm *g, int64_t n, struct problem *p)
{
    cudaDataType_t kind = kind_of(g->type);
    cublasStatus_t s = describe(&p->desc, g);
    if (!s)
        s = cublasLtMatrixLayoutInit(&p->w, kind, (uint64_t)g->cols, (uint64_t)g->rows, g->cols);
    if (!s)
        s = cublasLtMatrixLayoutInit(&p->in, kind, (uint64_t)g->cols, (uint64_t)n, g->cols);
    if (!s)
        s = cublasLtMatrixLayoutInit(&p->out, g->out_bf16 ? CUDA_R_16BF : CUDA_R_32F,
                                     (uint64_t)g->rows, (uint64_t)n, g->out_stride);
    if (!s && g->batch > 1) {
        s = repeat(&p->w, g->batch, g->w_step / (int64_t)kind_bytes(g->type));
        if (!s)
            s = repeat(&p->in, g->batch, 0);
        if (!s)
            s = repeat(&p->out, g->batch, g->out_step / (g->out_bf16 ? 2 : 4));
    }
    return s;
}

/* Ask the library. False: it has nothing for this, or is older than what describes it. */
static bool ask(const struct device *d, const struct cuda_gemm *g, const struct choice_key *key,
                cublasLtMatmulAlgo_t *algo)
{
    const struct blas *b = (const struct blas *)d->blas;
    struct problem p;
    cublasLtMatmulPreferenceOpaque_t wish;
    cublasLtMatmulHeuristicResult_t best;
    size_t bytes = WORKSPACE_BYTES;
    uint32_t align = (uint32_t)key->align, reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int n_found = 0;
    if (lay_out(g, key->n, &p))
        return false;
    const cublasLtMatmulPreferenceAttributes_t aligned[4] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    if (cublasLtMatmulPreferenceInit(&wish) ||
        cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &bytes, sizeof bytes))
        return false;
    for (int i = 0; i < 4; i++)
        if (cublasLtMatmulPreferenceSetAttribute(&wish, aligned[i], &align, sizeof align))
            return false;
    if (g->out_bf16 && /* the parts of a split sum are no bfloat16 */
        cublasLtMatmulPreferenceSetAttribute(&wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                             &reduction, sizeof reduction))
        return false;
    if (cublasLtMatmulAlgoGetHeuristic(b->handle, &p.desc, &p.w, &p.in, &p.out, &p.out, &wish, 1,
                                       &best, &n_found) ||
        n_found < 1 || best.state)
        return false;
    *algo = best.algo;
    return true;
}

/* What was chosen for products with n inputs. */
static struct choice *choose(struct device *d, const struct cuda_gemm *g, int64_t n)
{
    struct blas *b = (struct blas *)d->blas;
    struct choice_key key;
    memset(&key, 0, sizeof key);
    key.rows = g->rows;
    key.cols = g->cols;
    key.out_stride = g->out_stride;
    key.n = n;
    key.type = g->type;
    key.align = align_of(g);
    key.bias = g->bias ? 1 : 0;
    key.out_bf16 = g->out_bf16;
    key.batch = g->batch;
    key.offset = g->batch > 1 ? g->w_step : 0;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof key; i++)
        hash = (hash ^ ((const uint8_t *)&key)[i]) * 0x100000001b3u;
    struct choice *c = NULL;
    for (uint64_t i = 0; i < PROBES; i++) {
        c = &b->choices[(hash + i) % CHOICES];
        if (c->key.rows && !memcmp(&c->key, &key, sizeof key))
            return c;
        if (!c->key.rows)
            break;
    }
    c->key = key; /* a free place, or the last looked at */
    c->each = false;
    c->found = ask(d, g, &key, &c->algo);
    return c;
}

static cublasStatus_t multiply(const struct device *d, const struct cuda_gemm *g,
                               const struct choice *c)
{
    const struct blas *b = (const struct blas *)d->blas;
    const float one = 1, beta = g->add ? 1 : 0;
    struct problem p;
    cublasStatus_t s = lay_out(g, g->n, &p);
    return s ? s
             : cublasLtMatmul(b->handle, &p.desc, &one, g->w, &p.w, g->in, &p.in, &beta, g->out,
                              &p.out, g->out, &p.out, &c->algo, b->workspace, WORKSPACE_BYTES,
                              d->stream);
}

/* Before anything was enqueued. */
static bool refused(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE;
}

int cuda_blas_run(struct device *d, const struct cuda_gemm *g)
{
    int64_t largest = class_of(g->n);
    struct choice *c = choose(d, g, largest);
    cublasStatus_t s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (c->found && !c->each)
        s = multiply(d, g, c);
    if (c->found && refused(s) && g->n < largest) {
        c->each = true;
        c = choose(d, g, g->n);
        s = c->found ? multiply(d, g, c) : s;
    }
    if (!refused(s))
        return blas_check(d, s, "matrix multiplication");
    c->found = false;
    return 1;
}
