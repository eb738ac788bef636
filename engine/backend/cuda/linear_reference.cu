/* The plain twin of the linear kernels: one thread an element of y, straight from the format's definition. */

#include <cuda_fp16.h>

#include "linear_kernels.h"

__device__ double stored_weight(const struct linear_reference &m, uint32_t row, uint32_t column)
{
    uint32_t g = m.tile_group[row / 32];
    struct linear_group group = m.groups[g];
    uint32_t bits = group.bits;
    uint32_t at = (row - group.first_tile * 32u) * bits;
    const uint32_t *words = m.q_weight + (size_t)group.first_word_row * m.stored_out_features + column;
    uint32_t code = words[(size_t)(at / 32) * m.stored_out_features] >> (at % 32);
    if (at % 32 + bits > 32)
        code |= words[(size_t)(at / 32 + 1) * m.stored_out_features] << (32 - at % 32);
    code &= (1u << bits) - 1;

    uint32_t nibble = m.q_scale[((size_t)g * m.stored_out_features + column) / 8] >> (column % 8 * 4) & 15;
    half level = __float2half_rn((float)((nibble + 1) * (nibble + 1)));
    half scale = __hmul(level, __ushort_as_half(group.scale_unit));
    return (double)__half2float(__hmul(__float2half_rn((float)code - (float)(1u << (bits - 1))), scale));
}

__global__ void multiply(struct linear_reference m, const float *x, double *y)
{
    uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= m.out_features)
        return;
    const float *row = x + (size_t)blockIdx.y * m.in_features;
    double sum = m.bias ? (double)m.bias[column] : 0.0;
    for (uint32_t i = 0; i < m.in_features; i++)
        sum += (double)row[m.perm[i]] * stored_weight(m, i, column);
    y[(size_t)blockIdx.y * m.out_features + column] = sum;
}

cudaError_t linear_reference(const struct linear_reference *matrix, const float *x, size_t rows, double *y,
                             cudaStream_t stream)
{
    multiply<<<dim3((matrix->out_features + 127) / 128, (unsigned)rows), 128, 0, stream>>>(*matrix, x, y);
    return cudaGetLastError();
}
