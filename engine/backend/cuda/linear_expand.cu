/* Many rows: activations to fp16 in packed row order, columns of W to fp16, bias; the product is cuBLAS'. */

#include "linear_kernels.h"
#include "linear_tile.cuh"

/* ---- activations ---- */

/*
 * One block a row: scattered into shared memory (random places there cost a few cycles, in device memory whole
 * sectors), then out in order.
 */
__global__ void gather_row(const float *x, const uint16_t *invperm, uint32_t rows, uint32_t padded_rows, uint32_t width,
                           linear_order order, uint16_t *out)
{
    let_next_start();
    wait_for_previous();
    extern __shared__ __align__(16) uint16_t row[];
    uint32_t r = blockIdx.x;

    if (r < rows) {
        const float *from = x + (size_t)r * width;
        for (uint32_t k = threadIdx.x * 4; k < width; k += blockDim.x * 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + k);
            const float v[4] = { four.x, four.y, four.z, four.w };
            if (invperm) {
                ushort4 to = *reinterpret_cast<const ushort4 *>(invperm + k);
                if (order == LINEAR_WGMMA)
                    to = make_ushort4((unsigned short)wgmma_place(to.x), (unsigned short)wgmma_place(to.y),
                                      (unsigned short)wgmma_place(to.z), (unsigned short)wgmma_place(to.w));
                row[to.x] = __half_as_ushort(__float2half_rn(v[0]));
                row[to.y] = __half_as_ushort(__float2half_rn(v[1]));
                row[to.z] = __half_as_ushort(__float2half_rn(v[2]));
                row[to.w] = __half_as_ushort(__float2half_rn(v[3]));
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    row[k + i] = __half_as_ushort(__float2half_rn(v[i]));
            }
        }
    } else {
        for (uint32_t k = threadIdx.x; k < width; k += blockDim.x)
            row[k] = 0;
    }
    __syncthreads();
    for (uint32_t k = threadIdx.x * 8; k < width; k += blockDim.x * 8) {
        size_t to = order != LINEAR_TILED
                        ? (size_t)r * width + k
                        : (((size_t)(k / 32) * (padded_rows / 8) + r / 8) * 8 + r % 8) * 32 + k % 32;
        *reinterpret_cast<uint4 *>(out + to) = *reinterpret_cast<const uint4 *>(row + k);
    }
}

cudaError_t linear_gather(const float *x, const uint16_t *invperm, size_t rows, size_t padded_rows, size_t width,
                          enum linear_order order, uint16_t *out, bool overlap, cudaStream_t stream)
{
    size_t shared = width * sizeof(uint16_t);
    if (shared > 48 * 1024) {
        cudaError_t rc = cudaFuncSetAttribute(gather_row, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (rc != cudaSuccess)
            return rc;
    }
    return launch(gather_row, dim3((unsigned)padded_rows), dim3(width >= 4096 ? 512 : 256), shared, overlap, stream, x,
                  invperm, (uint32_t)rows, (uint32_t)padded_rows, (uint32_t)width, order, out);
}

/* ---- weights ---- */

template <int B>
__device__ __forceinline__ void expand_tile(const uint32_t *tile, uint2 scales, uint16_t *out, size_t stride, int lane)
{
    uint32_t w[B], pairs[16];
#pragma unroll
    for (int v = 0; v < B; v++)
        w[v] = __ldg(tile + word_place<B>(v, lane));
    unpack<B>::run(w, pairs);
#pragma unroll
    for (int t = 0; t < 4; t++) {
        half2 both = bits_half2(t < 2 ? scales.x : scales.y);
        half2 scale = t % 2 ? __high2half2(both) : __low2half2(both);
        uint32_t v[4];
#pragma unroll
        for (int p = 0; p < 4; p++)
            v[p] = half2_bits(__hmul2(bits_half2(pairs[4 * t + p]), scale));
        *reinterpret_cast<uint4 *>(out + (size_t)(lane / 4 + 8 * t) * stride + lane % 4 * 8) =
            make_uint4(v[0], v[1], v[2], v[3]);
    }
}

/* One warp a tile; neighbouring warps take neighbouring tiles of one column block. */
__global__ void __launch_bounds__(256) expand(linear_tiles m, uint32_t first_block, uint32_t first_tile, uint32_t tiles, uint16_t *out)
{
    uint32_t tile = blockIdx.x * 8 + threadIdx.x / 32, block = first_block + blockIdx.y;
    int lane = (int)threadIdx.x % 32;
    if (tile >= tiles)
        return;
    size_t stride = (size_t)tiles * TILE_ROWS;
    uint16_t *to = out + (size_t)blockIdx.y * TILE_COLUMNS * stride + tile * TILE_ROWS;
    tile += first_tile;
    tile_place place;
    find_place(m, tile, 0, place);
    const uint32_t *from = m.tiles + ((size_t)block * m.word_rows + place.word_row) * 32;
    uint2 scales = lane_scales(m.scales[((size_t)block * m.group_count + place.group) * 8 + lane / 4],
                               m.units[place.group]);

    switch (place.bits) {
    case 2: expand_tile<2>(from, scales, to, stride, lane); break;
    case 3: expand_tile<3>(from, scales, to, stride, lane); break;
    case 4: expand_tile<4>(from, scales, to, stride, lane); break;
    case 5: expand_tile<5>(from, scales, to, stride, lane); break;
    case 6: expand_tile<6>(from, scales, to, stride, lane); break;
    case 8: expand_tile<8>(from, scales, to, stride, lane); break;
    }
}

cudaError_t linear_expand(const struct linear_tiles *matrix, size_t column, size_t columns, size_t row, size_t rows,
                          uint16_t *out, cudaStream_t stream)
{
    uint32_t tiles = (uint32_t)(rows / TILE_ROWS);
    dim3 grid((tiles + 7) / 8, (unsigned)(columns / TILE_COLUMNS));
    expand<<<grid, 256, 0, stream>>>(*matrix, (uint32_t)(column / TILE_COLUMNS), (uint32_t)(row / TILE_ROWS), tiles, out);
    return cudaGetLastError();
}

/* ---- bias ---- */

__global__ void add_bias(float *y, const float *bias, uint32_t columns)
{
    float *row = y + (size_t)blockIdx.y * columns;
    uint32_t n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n < columns)
        row[n] += bias[n];
}

cudaError_t linear_bias(float *y, const float *bias, size_t rows, size_t columns, cudaStream_t stream)
{
    add_bias<<<dim3((unsigned)((columns + 255) / 256), (unsigned)rows), 256, 0, stream>>>(y, bias, (uint32_t)columns);
    return cudaGetLastError();
}
