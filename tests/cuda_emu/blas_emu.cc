/* blas_emu: what blas.cu does, on the host and in double, for the emulated plugin. */
#include "kernels/cuda/cuda.cuh"

int cuda_blas_open(struct device *d)
{
    (void)d;
    return 0;
}

void cuda_blas_close(struct device *d) { (void)d; }

static float value(enum quant_type type, const void *at, int64_t i)
{
    if (type == QUANT_F32)
        return ((const float *)at)[i];
    uint16_t h = ((const uint16_t *)at)[i];
    return type == QUANT_F16 ? quant_f16_to_f32(h) : quant_bf16_to_f32(h);
}

int cuda_blas_run(struct device *d, enum quant_type type, const void *w, const void *in, float *out,
                  int64_t rows, int64_t cols, int64_t n, int64_t out_stride, bool add)
{
    (void)d;
    emu_enqueue([=] {
        for (int64_t i = 0; i < n; i++)
            for (int64_t r = 0; r < rows; r++) {
                double sum = 0;
                for (int64_t c = 0; c < cols; c++)
                    sum += (double)value(type, w, r * cols + c) *
                           (double)value(type, in, i * cols + c);
                float *to = out + i * out_stride + r;
                *to = (float)(add ? sum + (double)*to : sum);
            }
    });
    return 0;
}
