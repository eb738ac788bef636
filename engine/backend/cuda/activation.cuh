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

#endif
