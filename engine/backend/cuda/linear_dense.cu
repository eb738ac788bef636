/* Dense weights: dot products along the stored rows for few rows of x, and x in the weights' type for cuBLAS. */

#include <cuda_bf16.h>

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define DOT_WARPS 8   /* columns of a block */

template <typename T> __device__ __forceinline__ float widen(T value);
template <> __device__ __forceinline__ float widen(float value)
{
    return value;
}
template <> __device__ __forceinline__ float widen(half value)
{
    return __half2float(value);
}
template <> __device__ __forceinline__ float widen(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

template <int ROWS>
__device__ __forceinline__ void finish_dot(float (&sum)[ROWS], const struct linear_dense &call, uint32_t column, uint32_t lane)
{
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2)
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], offset);
        if (lane == 0 && r < (int)call.rows) {
            float *y = call.y + (size_t)r * call.out_features + column;
            float value = sum[r] * call.alpha + (call.bias ? call.bias[column] : 0.0f);
            *y = call.accumulate ? *y + value : value;
        }
    }
}

/* One warp a column, ROWS rows of x at once; WIDE: whole 16 bytes of weights a lane. */
template <typename T, int ROWS, bool WIDE>
__global__ void __launch_bounds__(32 * DOT_WARPS) dots(struct linear_dense call)
{
    constexpr uint32_t each = WIDE ? 16 / sizeof(T) : 1;
    uint32_t column = blockIdx.x * DOT_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;

    let_next_start();
    wait_for_previous();
    if (column >= call.out_features)
        return;
    const T *w = (const T *)call.weight + (size_t)column * call.in_features;
    float sum[ROWS] = {};
    for (uint32_t k = lane * each; k < call.in_features; k += 32 * each) {
        T values[each];
        if (WIDE)
            *reinterpret_cast<uint4 *>(values) = *reinterpret_cast<const uint4 *>(w + k);
        else
            values[0] = w[k];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= (int)call.rows)
                break;
            const float *x = call.x + (size_t)r * call.in_features + k;
#pragma unroll
            for (uint32_t i = 0; i < each; i++)
                sum[r] = fmaf(widen(values[i]), x[i], sum[r]);
        }
    }
    finish_dot<ROWS>(sum, call, column, lane);
}

template <typename T, int ROWS> static cudaError_t launch_dots(const struct linear_dense *call, cudaStream_t stream)
{
    dim3 grid((call->out_features + DOT_WARPS - 1) / DOT_WARPS), block(32 * DOT_WARPS);
    if (call->in_features * sizeof(T) % 16 == 0)
        return launch(dots<T, ROWS, true>, grid, block, 0, call->overlap, stream, *call);
    return launch(dots<T, ROWS, false>, grid, block, 0, call->overlap, stream, *call);
}

template <typename T> static cudaError_t launch_type(const struct linear_dense *call, cudaStream_t stream)
{
    return call->rows == 1 ? launch_dots<T, 1>(call, stream) : launch_dots<T, LINEAR_DENSE_ROWS>(call, stream);
}

cudaError_t linear_dense_dots(const struct linear_dense *call, cudaStream_t stream)
{
    switch (call->type) {
    case LINEAR_F32:
        return launch_type<float>(call, stream);
    case LINEAR_F16:
        return launch_type<half>(call, stream);
    case LINEAR_BF16:
        break;
    }
    return launch_type<__nv_bfloat16>(call, stream);
}

__global__ void split(const float *x, size_t n, __nv_bfloat16 *high, __nv_bfloat16 *low)
{
    size_t step = (size_t)gridDim.x * blockDim.x;

    let_next_start();
    wait_for_previous();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += step) {
        high[i] = __float2bfloat16_rn(x[i]);
        low[i] = __float2bfloat16_rn(x[i] - __bfloat162float(high[i]));
    }
}

cudaError_t linear_split(const float *x, size_t n, uint16_t *high, uint16_t *low, bool overlap, cudaStream_t stream)
{
    size_t blocks = (n + 255) / 256;
    return launch(split, dim3((unsigned)(blocks < 2048 ? blocks : 2048)), dim3(256), 0, overlap, stream, x, n,
                  (__nv_bfloat16 *)high, (__nv_bfloat16 *)low);
}

__global__ void halve(const float *x, size_t n, half *out)
{
    size_t step = (size_t)gridDim.x * blockDim.x;

    let_next_start();
    wait_for_previous();
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += step)
        out[i] = __float2half_rn(x[i]);
}

cudaError_t linear_halve(const float *x, size_t n, uint16_t *out, bool overlap, cudaStream_t stream)
{
    size_t blocks = (n + 255) / 256;
    return launch(halve, dim3((unsigned)(blocks < 2048 ? blocks : 2048)), dim3(256), 0, overlap, stream, x, n, (half *)out);
}
