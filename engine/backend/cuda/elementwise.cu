/* Operations that treat every element by itself: bound by memory, or by latency when there is one row. */

#include "cuda_kernels.cuh"

#define THREADS 256

/* An element for each thread of as many blocks as fill the device twice; more elements go round again. */
static dim3 blocks_for(const struct cuda *cuda, size_t elements)
{
    size_t wanted = (elements + THREADS - 1) / THREADS, most = 16 * (size_t)cuda->multiprocessors;

    return dim3((unsigned)(wanted < most ? wanted : most));
}

/* body(i) for each of this thread's elements. Neighbouring threads take neighbouring elements. */
template <typename Body>
static __device__ __forceinline__ void each_element(size_t n, Body body)
{
#pragma unroll 4
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        body(i);
}

static __device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
static __device__ __forceinline__ float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

static __global__ void silu_mul_kernel(float *gate, const float *up, size_t n)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    each_element(n, [=](size_t i) { gate[i] = silu(gate[i]) * up[i]; });
}

static __global__ void gelu_tanh_mul_kernel(float *gate, const float *up, size_t n)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    each_element(n, [=](size_t i) { gate[i] = gelu_tanh(gate[i]) * up[i]; });
}

static __global__ void add_kernel(float *x, const float *y, float scale, size_t n)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    each_element(n, [=](size_t i) { x[i] += y[i] * scale; });
}

static __global__ void softcap_kernel(float *x, float cap, size_t n)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    each_element(n, [=](size_t i) { x[i] = cap * tanhf(x[i] / cap); });
}

extern "C" int cuda_act_mul(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                            struct plim_err *err)
{
    if (n == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "act_mul", err,
                       activation == ACTIVATION_GELU_TANH ? gelu_tanh_mul_kernel : silu_mul_kernel, blocks_for(cuda_of(backend), n),
                       THREADS, 0, gate, up, n);
}

extern "C" int cuda_add(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err)
{
    if (n == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "add", err, add_kernel, blocks_for(cuda_of(backend), n), THREADS, 0, x, y, scale, n);
}

extern "C" int cuda_softcap(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err)
{
    if (n == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "softcap", err, softcap_kernel, blocks_for(cuda_of(backend), n), THREADS, 0, x, cap, n);
}
