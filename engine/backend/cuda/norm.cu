/* RMS norm: one block a row, or one warp a row where rows are short (heads). */

#include "cuda_kernels.cuh"

#define THREADS 256

/* out = x * (weight + offset) / sqrt(mean(x^2) + eps). Rows are read twice; the second time from L1 or L2. */
static __global__ void rms_norm_kernel(const float *x, const float *weight, float offset, float eps, size_t width,
                                       float *out)
{
    __shared__ float partial[CUDA_WARP];
    const float *row = x + blockIdx.x * width;
    float *to = out + blockIdx.x * width;
    float sum = 0.0f;

    cuda_wait_for_previous();
    cuda_let_next_start();
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        sum += row[i] * row[i];
    float factor = rsqrtf(cuda_block_sum(sum, partial) / (float)width + eps);
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = row[i] * factor * (weight[i] + offset);
}

extern "C" int cuda_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps,
                             size_t rows, size_t width, float *out, struct plim_err *err)
{
    unsigned threads = width >= 4096 ? 1024 : width > 128 ? THREADS : CUDA_WARP;

    if (rows == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "rms_norm", err, rms_norm_kernel, dim3((unsigned)rows), dim3(threads), 0, x,
                       weight, offset, (float)eps, width, out);
}
