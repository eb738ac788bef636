/* Rows made into fp16 operands: norms and gates, scattered into packed row order on their way out. */

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define KEPT 2   /* quads of elements of a row that a thread keeps in registers: rows of up to 4096 are read once */

__device__ __forceinline__ float warp_sum(float value)
{
    for (int offset = 16; offset > 0; offset /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

/* Elements k .. k + 3 of a row to their places; invperm NULL: they stay in order. */
__device__ __forceinline__ void scatter(uint16_t *row, const uint16_t *invperm, uint32_t k, bool wgmma, const float (&v)[4])
{
    ushort4 to = invperm ? *reinterpret_cast<const ushort4 *>(invperm + k)
                         : make_ushort4((unsigned short)k, (unsigned short)(k + 1), (unsigned short)(k + 2), (unsigned short)(k + 3));
    if (wgmma)
        to = make_ushort4((unsigned short)wgmma_place(to.x), (unsigned short)wgmma_place(to.y),
                          (unsigned short)wgmma_place(to.z), (unsigned short)wgmma_place(to.w));
    row[to.x] = __half_as_ushort(__float2half_rn(v[0]));
    row[to.y] = __half_as_ushort(__float2half_rn(v[1]));
    row[to.z] = __half_as_ushort(__float2half_rn(v[2]));
    row[to.w] = __half_as_ushort(__float2half_rn(v[3]));
}

__device__ __forceinline__ void write_row(uint16_t *to, const uint16_t *row, uint32_t width)
{
    __syncthreads();
    for (uint32_t k = threadIdx.x * 8; k < width; k += blockDim.x * 8)
        *reinterpret_cast<uint4 *>(to + k) = *reinterpret_cast<const uint4 *>(row + k);
}

/* One block a row of 512 threads; width a multiple of 32. */
__global__ void __launch_bounds__(512) norm_gather(linear_norm norm, const uint16_t *invperm, uint32_t width, bool wgmma,
                                                   uint16_t *out)
{
    extern __shared__ __align__(16) uint16_t row[];
    __shared__ float partial[32];
    const float *from = norm.x + (size_t)blockIdx.x * width;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float4 kept[KEPT];
    float sum = 0;

    let_next_start();
    wait_for_previous();
    auto square = [](const float4 &v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t k = (i * blockDim.x + threadIdx.x) * 4;
        kept[i] = k < width ? *reinterpret_cast<const float4 *>(from + k) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++)
        sum += square(kept[i]);
    for (uint32_t k = (KEPT * blockDim.x + threadIdx.x) * 4; k < width; k += blockDim.x * 4)
        sum += square(*reinterpret_cast<const float4 *>(from + k));
    sum = warp_sum(sum);
    if (lane == 0)
        partial[warp] = sum;
    __syncthreads();
    sum = warp_sum(lane < warps ? partial[lane] : 0.0f);

    const float factor = rsqrtf(sum / (float)width + norm.eps);
    auto put = [&](uint32_t k, const float4 &x) {
        const float *w = norm.weight + k;   /* which may not be aligned: norms of heads lie between them */
        const float v[4] = { x.x * factor * (w[0] + norm.offset), x.y * factor * (w[1] + norm.offset),
                             x.z * factor * (w[2] + norm.offset), x.w * factor * (w[3] + norm.offset) };
        scatter(row, invperm, k, wgmma, v);
    };
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t k = (i * blockDim.x + threadIdx.x) * 4;
        if (k < width)
            put(k, kept[i]);
    }
    for (uint32_t k = (KEPT * blockDim.x + threadIdx.x) * 4; k < width; k += blockDim.x * 4)
        put(k, *reinterpret_cast<const float4 *>(from + k));
    write_row(out + (size_t)blockIdx.x * width, row, width);
}

__device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); tanh(u) = 1 - 2 / (exp(2u) + 1) */
__device__ __forceinline__ float gelu_tanh(float x)
{
    float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x * (1.0f - 1.0f / (__expf(2.0f * u) + 1.0f));
}

__device__ __forceinline__ float2 widen(uint32_t pair)
{
    return __half22float2(bits_half2(pair));
}

/* One block a row; all of gate's row is read before any of it is written. A product beyond fp16 becomes its largest number. */
template <bool GELU>
__global__ void __launch_bounds__(512) act_gather(uint16_t *gate, const uint16_t *up, const uint16_t *invperm, uint32_t width,
                                                  bool wgmma)
{
    extern __shared__ __align__(16) uint16_t row[];
    uint16_t *gates = gate + (size_t)blockIdx.x * width;
    const uint16_t *ups = up + (size_t)blockIdx.x * width;

    let_next_start();
    wait_for_previous();
#pragma unroll 2
    for (uint32_t k = threadIdx.x * 8; k < width; k += blockDim.x * 8) {
        uint4 g = *reinterpret_cast<const uint4 *>(gates + k), u = *reinterpret_cast<const uint4 *>(ups + k);
        const uint32_t gs[4] = { g.x, g.y, g.z, g.w }, us[4] = { u.x, u.y, u.z, u.w };
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float v[4];
#pragma unroll
            for (int p = 0; p < 2; p++) {
                float2 x = widen(gs[2 * h + p]), y = widen(us[2 * h + p]);
                v[2 * p] = (GELU ? gelu_tanh(x.x) : silu(x.x)) * y.x;
                v[2 * p + 1] = (GELU ? gelu_tanh(x.y) : silu(x.y)) * y.y;
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                v[i] = fminf(fmaxf(v[i], -65504.0f), 65504.0f);
            scatter(row, invperm, k + 4 * h, wgmma, v);
        }
    }
    write_row(gates, row, width);
}

/* ---- launching ---- */

template <typename Kernel> static cudaError_t allow_row(Kernel kernel, size_t bytes)
{
    return bytes > 48 * 1024 ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
                             : cudaSuccess;
}

cudaError_t linear_norm_gather(const struct linear_norm *norm, const uint16_t *invperm, size_t rows, size_t width,
                               enum linear_order order, uint16_t *out, bool overlap, cudaStream_t stream)
{
    size_t shared = width * sizeof(uint16_t);
    cudaError_t rc = allow_row(norm_gather, shared);
    if (rc != cudaSuccess)
        return rc;
    return launch(norm_gather, dim3((unsigned)rows), dim3(width >= 4096 ? 512 : 256), shared, overlap, stream, *norm, invperm,
                  (uint32_t)width, order == LINEAR_WGMMA, out);
}

cudaError_t linear_act_gather(bool gelu, uint16_t *gate, const uint16_t *up, const uint16_t *invperm, size_t rows,
                              size_t width, enum linear_order order, bool overlap, cudaStream_t stream)
{
    void (*kernel)(uint16_t *, const uint16_t *, const uint16_t *, uint32_t, bool) = gelu ? act_gather<true> : act_gather<false>;
    size_t shared = width * sizeof(uint16_t);
    cudaError_t rc = allow_row(kernel, shared);
    if (rc != cudaSuccess)
        return rc;
    return launch(kernel, dim3((unsigned)rows), dim3(width >= 4096 ? 512 : 256), shared, overlap, stream, gate, up, invperm,
                  (uint32_t)width, order == LINEAR_WGMMA);
}
