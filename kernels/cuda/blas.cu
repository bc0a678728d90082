/* blas: float matrices times many inputs, by cuBLAS. Engine thread. Its workspace comes out of the
 * reservation, so that it takes no memory later and its calls can be captured. Sums are float32;
 * float32 inputs are multiplied as they are (no TF32). */
#include "kernels/cuda/cuda.cuh"

#include <cublas_v2.h>

enum { WORKSPACE_BYTES = 32 << 20 };

static int blas_check(struct device *d, cublasStatus_t s, const char *what)
{
    return s == CUBLAS_STATUS_SUCCESS ? 0
                                      : cuda_fail(d, "%s: %s", what, cublasGetStatusString(s));
}

int cuda_blas_open(struct device *d)
{
    cublasHandle_t handle = NULL;
    void *workspace = cuda_take(d, WORKSPACE_BYTES, false);
    if (!workspace)
        return cuda_fail(d, "too little GPU memory");
    if (blas_check(d, cublasCreate(&handle), "cuBLAS cannot be opened"))
        return -1;
    d->blas = handle;
    if (blas_check(d, cublasSetStream(handle, d->stream), "cuBLAS") ||
        blas_check(d, cublasSetWorkspace(handle, workspace, WORKSPACE_BYTES), "cuBLAS"))
        return -1;
    return blas_check(d, cublasSetMathMode(handle, CUBLAS_DEFAULT_MATH), "cuBLAS");
}

void cuda_blas_close(struct device *d)
{
    if (d->blas)
        cublasDestroy((cublasHandle_t)d->blas);
    d->blas = NULL;
}

int cuda_blas_run(struct device *d, enum quant_type type, const void *w, const void *in, float *out,
                  int64_t rows, int64_t cols, int64_t n, int64_t out_stride, bool add)
{
    const float one = 1, beta = add ? 1 : 0;
    cudaDataType_t kind = type == QUANT_F32   ? CUDA_R_32F
                          : type == QUANT_F16 ? CUDA_R_16F
                                              : CUDA_R_16BF;
    /* cuBLAS counts columns first: its out is [rows] by [n], out = w^T in */
    return blas_check(d,
                      cublasGemmEx((cublasHandle_t)d->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)rows,
                                   (int)n, (int)cols, &one, w, kind, (int)cols, in, kind, (int)cols,
                                   &beta, out, CUDA_R_32F, (int)out_stride, CUBLAS_COMPUTE_32F,
                                   CUBLAS_GEMM_DEFAULT),
                      "matrix multiplication");
}
