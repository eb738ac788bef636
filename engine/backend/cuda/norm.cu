/* RMS norm: one block a row, or one warp a row where rows are short (heads). */

#include "cuda_kernels.cuh"

#define MOST_THREADS 1024
#define KEPT 8   /* elements of a row that a thread keeps in registers: rows of up to 8192 are read once */

/* out = x * (weight + offset) / sqrt(mean(x^2) + eps). */
static __global__ void rms_norm_kernel(const float *x, const float *weight, float offset, float eps, unsigned width,
                                       float *out)
{
    __shared__ float partial[CUDA_WARP];
    const float *row = x + (size_t)blockIdx.x * width;
    float *to = out + (size_t)blockIdx.x * width;
    float kept[KEPT], scale[KEPT], sum = 0.0f;

    /* Nobody writes weights, so they are fetched while the kernel before this one ends. */
#pragma unroll
    for (unsigned k = 0; k < KEPT; k++) {
        unsigned i = threadIdx.x + k * blockDim.x;
        scale[k] = i < width ? weight[i] + offset : 0.0f;
    }
    cuda_let_next_start();
    cuda_wait_for_previous();
#pragma unroll
    for (unsigned k = 0; k < KEPT; k++) {
        unsigned i = threadIdx.x + k * blockDim.x;
        kept[k] = i < width ? row[i] : 0.0f;
    }
#pragma unroll
    for (unsigned k = 0; k < KEPT; k++)
        sum += kept[k] * kept[k];
    for (unsigned i = threadIdx.x + KEPT * blockDim.x; i < width; i += blockDim.x)
        sum += row[i] * row[i];
    float factor = rsqrtf(cuda_block_sum(sum, partial) / (float)width + eps);
#pragma unroll
    for (unsigned k = 0; k < KEPT; k++) {
        unsigned i = threadIdx.x + k * blockDim.x;
        if (i < width)
            to[i] = kept[k] * factor * scale[k];
    }
    for (unsigned i = threadIdx.x + KEPT * blockDim.x; i < width; i += blockDim.x)
        to[i] = row[i] * factor * (weight[i] + offset);
}

extern "C" int cuda_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps,
                             size_t rows, size_t width, float *out, struct plim_err *err)
{
    /* One row is all latency: few elements a thread. Many rows share the multiprocessors: whole warps of work each. */
    size_t per_thread = rows < 8 ? 4 : KEPT;
    size_t wanted = (width + per_thread * CUDA_WARP - 1) / (per_thread * CUDA_WARP) * CUDA_WARP;
    unsigned threads = (unsigned)(wanted < MOST_THREADS ? wanted : MOST_THREADS);

    if (rows == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "rms_norm", err, rms_norm_kernel, dim3((unsigned)rows), dim3(threads), 0, x,
                       weight, offset, (float)eps, (unsigned)width, out);
}
