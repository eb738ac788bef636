#ifndef PLIM_CUDA_ACTIVATION_CUH
#define PLIM_CUDA_ACTIVATION_CUH

/* Activation functions, the same wherever an operation is a kernel of its own or part of another. */

__device__ __forceinline__ float cuda_silu(float x)
{
    return x / (1.0f + expf(-x));
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
__device__ __forceinline__ float cuda_gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

/*
 * The same for results that are rounded to fp16 at once: to some 2^-20, in a fifth of the instructions, since every block of a
 * product makes all of its row. The second as x / (1 + exp(-2 u)), for (1 + tanh u) / 2 is just that.
 */
__device__ __forceinline__ float cuda_silu_quick(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

__device__ __forceinline__ float cuda_gelu_tanh_quick(float x)
{
    return __fdividef(x, 1.0f + __expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
}

#endif
