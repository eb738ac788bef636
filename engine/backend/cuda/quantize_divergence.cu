/* KL divergence between rows of logits on CUDA: a block a row. Twice over both: their maxima, then their sums. */

#include <math.h>

#include "cuda_kernels.cuh"
#include "quantize_cuda.h"

#define THREADS 256

/* All threads get the result; values are joined in one order. */
template <class Join>
__device__ static double join(double value, double *shared, Join both)
{
    __syncthreads();
    shared[threadIdx.x] = value;
    for (unsigned step = THREADS / 2; step > 0; step /= 2) {
        __syncthreads();
        if (threadIdx.x < step)
            shared[threadIdx.x] = both(shared[threadIdx.x], shared[threadIdx.x + step]);
    }
    __syncthreads();
    return shared[0];
}

static __global__ void divergence_kernel(const float *reference, const float *logits, size_t vocab, double *divergence)
{
    __shared__ double shared[THREADS];
    const float *p = reference + blockIdx.x * vocab, *q = logits + blockIdx.x * vocab;
    auto larger = [](double a, double b) { return a > b ? a : b; };
    auto plus = [](double a, double b) { return a + b; };
    float p_max = -INFINITY, q_max = -INFINITY;
    double p_sum = 0, q_sum = 0, weighted = 0;

    for (size_t i = threadIdx.x; i < vocab; i += THREADS) {
        p_max = fmaxf(p_max, p[i]);
        q_max = fmaxf(q_max, q[i]);
    }
    p_max = (float)join(p_max, shared, larger);
    q_max = (float)join(q_max, shared, larger);
    for (size_t i = threadIdx.x; i < vocab; i += THREADS) {
        double weight = exp((double)p[i] - p_max);   /* in fp32 small divergences would drown in what it rounds */
        p_sum += weight;
        q_sum += exp((double)q[i] - q_max);
        weighted += weight * ((double)p[i] - (double)q[i]);
    }
    p_sum = join(p_sum, shared, plus);
    q_sum = join(q_sum, shared, plus);
    weighted = join(weighted, shared, plus);
    if (threadIdx.x == 0)
        divergence[blockIdx.x] = weighted / p_sum - (p_max + log(p_sum)) + (q_max + log(q_sum));
}

int cuda_divergence(struct backend *backend, const float *reference, const float *logits, size_t rows, size_t vocab,
                    double *divergence, struct plim_err *err)
{
    double *device =
        (double *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, rows * sizeof(double), err);
    int rc = -1;

    if (!device)
        return -1;
    divergence_kernel<<<(unsigned)rows, THREADS, 0, cuda_of(backend)->stream>>>(reference, logits, vocab, device);
    if (cuda_launch_check("divergence", err) == 0)
        rc = backend->ops->download(backend, divergence, device, rows * sizeof(double), err);
    plim_pool_free(backend->pool, device);
    return rc;
}
