#ifndef PLIM_CUDA_KERNELS_CUH
#define PLIM_CUDA_KERNELS_CUH

/* What kernels share. Only .cu files include this. */

#include "cuda_internal.h"

#define CUDA_WARP 32

/* ---- launching ---- */

/*
 * kernel<<<grid, block, shared, cuda->stream>>>(arguments...), checked. Where the device can (compute capability 9.0) it may
 * start while the kernel before it on the stream is still running, so a kernel launched this way begins with
 * cuda_wait_for_previous(), in every thread, before it reads or writes anything that another kernel touches. What comes
 * before that call (indices, shared memory that is the block's own, prefetching weights, which nobody writes) overlaps with
 * the kernel before.
 */
template <typename... Parameters, typename... Arguments>
static inline int cuda_launch(const struct cuda *cuda, const char *name, struct plim_err *err, void (*kernel)(Parameters...),
                              dim3 grid, dim3 block, size_t shared, Arguments... arguments)
{
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = {};

    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = cuda->stream;
    config.attrs = &attribute;
    config.numAttrs = cuda->overlap_launches ? 1 : 0;
    return cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name, err);
}

/* Waits until the kernels before this one are done and their writes are seen. */
__device__ __forceinline__ void cuda_wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/*
 * The next kernel may be started: it still waits for all of this one, in its own cuda_wait_for_previous(). Called before
 * this kernel's own wait, so that the next one's blocks, and those of the one after that, fetch their weights as soon as
 * there is room for them; order is kept, for each waits for the whole of the kernel before it, which has waited itself.
 */
__device__ __forceinline__ void cuda_let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- the step ---- */

__device__ __forceinline__ uint32_t cuda_position(const struct cuda_step *step, uint32_t by_value)
{
    return step ? step->past : by_value;
}

/* ---- reductions ---- */

__device__ __forceinline__ float cuda_warp_sum(float value)
{
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

__device__ __forceinline__ float cuda_warp_max(float value)
{
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

/*
 * The sum over a block of whole warps, at most 1024 threads, in every thread, in a fixed order. `partial`: shared memory
 * of 32 floats; it may be used again after a __syncthreads().
 */
__device__ __forceinline__ float cuda_block_sum(float value, float *partial)
{
    unsigned lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP, warps = blockDim.x / CUDA_WARP;

    value = cuda_warp_sum(value);
    if (lane == 0)
        partial[warp] = value;
    __syncthreads();
    return cuda_warp_sum(lane < warps ? partial[lane] : 0.0f);
}

#endif
