/* cublas_emu: products as cuBLASLt's descriptors say, on the host and in double (cublasLt.h). An
 * algorithm remembers what it was chosen for and refuses what that does not cover: more inputs,
 * less alignment, less workspace, another epilogue. */
#include "cublasLt.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/quant.h"
#include "tests/cuda_emu/sanitize.h"

static void set(void *to, const void *from, size_t room, size_t bytes)
{
    if (room != bytes) {
        fprintf(stderr, "cublas_emu: an attribute of %zu bytes is given %zu\n", room, bytes);
        abort();
    }
    memcpy(to, from, bytes);
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    static char some;
    *handle = (cublasLtHandle_t)&some;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "invalid value";
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t,
                                      cudaDataType_t scale)
{
    *desc = {};
    desc->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes)
{
    if (emu_gpu() == 2 && what >= CUBLASLT_MATMUL_DESC_A_SCALE_MODE) /* not known there yet */
        return CUBLAS_STATUS_INVALID_VALUE;
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA: set(&desc->transa, value, 4, bytes); break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE: set(&desc->epilogue, value, 4, bytes); break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: set(&desc->bias, value, 8, bytes); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: set(&desc->modes[0], value, 4, bytes); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: set(&desc->modes[1], value, 4, bytes); break;
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: set(&desc->scales[0], value, 8, bytes); break;
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: set(&desc->scales[1], value, 8, bytes); break;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type,
                                        uint64_t rows, uint64_t cols, int64_t ld)
{
    *layout = {type, rows, cols, ld, 0, 1};
    return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t bytes)
{
    if (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
        set(&layout->count, value, 4, bytes);
    else
        set(&layout->step, value, 8, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t wish)
{
    *wish = {0, {256, 256, 256, 256}, CUBLASLT_REDUCTION_SCHEME_MASK};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t bytes)
{
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        set(&wish->workspace, value, 8, bytes);
    else if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        set(&wish->reduction, value, 4, bytes);
    else
        set(&wish->align[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, 4, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* out = op(w) in: w is k by m and transposed, in k by n, out m by n. */
static bool coherent(const cublasLtMatmulDescOpaque_t *desc, const cublasLtMatrixLayoutOpaque_t *a,
                     const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatrixLayoutOpaque_t *c,
                     const cublasLtMatrixLayoutOpaque_t *d)
{
    bool eight = a->type == CUDA_R_8F_E4M3;
    bool outer = desc->modes[0] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F &&
                 desc->modes[1] == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F &&
                 desc->scales[0] && desc->scales[1];
    return desc->transa == CUBLAS_OP_T && a->rows == b->rows && a->cols == d->rows &&
           b->cols == d->cols && a->type == b->type && c->type == d->type &&
           (d->type == CUDA_R_32F || (d->type == CUDA_R_16BF && desc->epilogue ==
                                                                    CUBLASLT_EPILOGUE_DEFAULT)) &&
           c->rows == d->rows && c->cols == d->cols &&
           a->count == b->count && a->count == d->count &&
           (desc->epilogue == CUBLASLT_EPILOGUE_DEFAULT || desc->bias) && outer == eight;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_found)
{
    uint32_t align = 256;
    *n_found = 0;
    if (n_wanted < 1 || !coherent(desc, a, b, c, d))
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        align = wish->align[i] < align ? wish->align[i] : align;
    /* as in the library's tables: 8 bits want 16 bytes; of the others one shape's bias is refused,
     * so that callers are seen to add it themselves, and with 8 bits one shape at all */
    bool eight = a->type == CUDA_R_8F_E4M3, bias = desc->epilogue == CUBLASLT_EPILOGUE_BIAS;
    if (eight && (align < 16 || a->rows % 16 || a->cols % 16 || a->cols % 128 == 80))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (bias && a->rows % 128 == 96)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->type == CUDA_R_16BF && a->rows % 1024 == 640) /* so that floats are asked for instead */
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d->type == CUDA_R_16BF && wish->reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) {
        fprintf(stderr, "cublas_emu: parts of sums may be rounded to bfloat16\n");
        abort();
    }
    results[0] = {};
    results[0].algo = {a->cols, b->cols, a->rows, align, (uint32_t)a->type, (uint32_t)d->type,
                       (uint32_t)desc->epilogue, (uint32_t)wish->workspace, a->count};
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float value(cudaDataType_t type, const void *at, int64_t i)
{
    if (type == CUDA_R_32F)
        return ((const float *)at)[i];
    if (type == CUDA_R_8F_E4M3)
        return quant_fp8_to_f32(((const uint8_t *)at)[i]);
    uint16_t h = ((const uint16_t *)at)[i];
    return type == CUDA_R_16F ? quant_f16_to_f32(h) : quant_bf16_to_f32(h);
}

static size_t bytes_of(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t w, in, out;
    const char *at_w, *at_in;
    char *at_out;
    float alpha, beta;
};

/* What of its operands the library may touch. */
static void watch(const product &p, int32_t part)
{
    size_t w = bytes_of(p.w.type), in = bytes_of(p.in.type), each = bytes_of(p.out.type);
    for (int64_t r = 0; r < (int64_t)p.out.rows; r++)
        san_library(p.at_w + (part * p.w.step + r * p.w.ld) * (int64_t)w, p.w.rows * w, false);
    for (int64_t i = 0; i < (int64_t)p.out.cols; i++) {
        char *out = p.at_out + (part * p.out.step + i * p.out.ld) * (int64_t)each;
        san_library(p.at_in + (part * p.in.step + i * p.in.ld) * (int64_t)in, p.w.rows * in, false);
        if (p.beta != 0)
            san_library(out, p.out.rows * each, false);
        san_library(out, p.out.rows * each, true);
    }
    if (p.desc.scales[0])
        san_library(p.desc.scales[0], p.out.rows * sizeof(float), false);
    if (p.desc.scales[1])
        san_library(p.desc.scales[1], p.out.cols * sizeof(float), false);
    if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS)
        san_library(p.desc.bias, p.out.rows * (p.w.type == CUDA_R_8F_E4M3 ? 2 : 4), false);
}

static void multiply(const product &p, int32_t part)
{
    const void *w = p.at_w + part * p.w.step * (int64_t)bytes_of(p.w.type);
    const void *in = p.at_in + part * p.in.step * (int64_t)bytes_of(p.in.type);
    char *out = p.at_out + part * p.out.step * (int64_t)bytes_of(p.out.type);
    for (int64_t i = 0; i < (int64_t)p.out.cols; i++)
        for (int64_t r = 0; r < (int64_t)p.out.rows; r++) {
            double sum = 0;
            for (int64_t k = 0; k < (int64_t)p.w.rows; k++)
                sum += (double)value(p.w.type, w, r * p.w.ld + k) *
                       (double)value(p.in.type, in, i * p.in.ld + k);
            if (p.desc.scales[0])
                sum *= (double)p.desc.scales[0][r] * (double)p.desc.scales[1][i];
            sum *= (double)p.alpha;
            int64_t to = i * p.out.ld + r;
            if (p.beta != 0)
                sum += (double)p.beta * (double)value(p.out.type, out, to);
            if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS) /* with 8 bits it is bfloat16 */
                sum += (double)value(p.w.type == CUDA_R_8F_E4M3 ? CUDA_R_16BF : CUDA_R_32F,
                                     p.desc.bias, r);
            if (p.out.type == CUDA_R_16BF)
                ((uint16_t *)out)[to] = quant_f32_to_bf16((float)sum);
            else
                ((float *)out)[to] = (float)sum;
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *out,
                              cublasLtMatrixLayout_t out_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t)
{
    uintptr_t addresses = (uintptr_t)a | (uintptr_t)b | (uintptr_t)out;
    if (!coherent(desc, a_layout, b_layout, c_layout, out_layout) || c != out || !workspace ||
        algo->m != out_layout->rows || algo->n < out_layout->cols || algo->k != a_layout->rows ||
        algo->kind != (uint32_t)a_layout->type || algo->out_kind != (uint32_t)out_layout->type ||
        algo->epilogue != (uint32_t)desc->epilogue ||
        algo->workspace > workspace_bytes || algo->count != out_layout->count ||
        addresses % algo->align)
        return CUBLAS_STATUS_INVALID_VALUE;
    product p = {*desc,           *a_layout, *b_layout,           *out_layout, (const char *)a,
                 (const char *)b, (char *)out, *(const float *)alpha, *(const float *)beta};
    emu_enqueue([=] {
        san_launch("cublasLtMatmul", false);
        for (int32_t i = 0; i < p.out.count; i++) {
            watch(p, i);
            multiply(p, i);
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}
