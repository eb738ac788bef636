/* EXL2 tensors into the layout of linear_kernels.h: once, when a matrix is loaded. */

#include "linear_kernels.h"
#include "linear_tile.cuh"

/* Code of row r, column n of a tile whose words lie at `words`. */
__device__ uint8_t stored_code(const uint32_t *words, uint32_t stride, int bits, int r, int n)
{
    uint32_t at = (uint32_t)(r * bits);
    uint32_t code = words[(size_t)(at / 32) * stride + n] >> (at % 32);
    if (at % 32 + (uint32_t)bits > 32)
        code |= words[(size_t)(at / 32 + 1) * stride + n] << (32 - at % 32);
    return (uint8_t)(code & ((1u << bits) - 1));
}

template <int B>
__device__ void load_tile(const uint32_t *words, uint32_t stride, uint32_t *tile, int lane)
{
    uint8_t codes[32];
    uint32_t packed[B];

#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            codes[8 * t + i] = stored_code(words, stride, B, lane % 4 * 8 + i, lane / 4 + 8 * t);
    pack_lane<B>(codes, packed);
#pragma unroll
    for (int v = 0; v < B; v++)
        tile[word_place<B>(v, lane)] = packed[v];
}

/* One warp a tile; blockIdx.x: tile of the piece, blockIdx.y * warps + warp: column block. */
__global__ void load_codes(linear_tiles matrix, uint32_t *tiles, const uint32_t *words, uint32_t first_word_row,
                           uint32_t first_tile)
{
    uint32_t tile = first_tile + blockIdx.x;
    uint32_t block = blockIdx.y * blockDim.y + threadIdx.y;
    if (block >= matrix.stored_out_features / TILE_COLUMNS)
        return;
    tile_place place;
    find_place(matrix, tile, 0, place);
    const uint32_t *from = words + (size_t)(place.word_row - first_word_row) * matrix.stored_out_features + block * TILE_COLUMNS;
    uint32_t *to = tiles + ((size_t)block * matrix.word_rows + place.word_row) * 32;
    uint32_t stride = matrix.stored_out_features;
    int lane = (int)threadIdx.x;

    switch (place.bits) {
    case 2: load_tile<2>(from, stride, to, lane); break;
    case 3: load_tile<3>(from, stride, to, lane); break;
    case 4: load_tile<4>(from, stride, to, lane); break;
    case 5: load_tile<5>(from, stride, to, lane); break;
    case 6: load_tile<6>(from, stride, to, lane); break;
    case 8: load_tile<8>(from, stride, to, lane); break;
    }
}

cudaError_t linear_load_codes(const struct linear_tiles *matrix, uint32_t *tiles, const uint32_t *words,
                              uint32_t first_word_row, uint32_t first_tile, uint32_t end_tile, cudaStream_t stream)
{
    uint32_t blocks = matrix->stored_out_features / TILE_COLUMNS;
    dim3 grid(end_tile - first_tile, (blocks + 3) / 4);
    load_codes<<<grid, dim3(32, 4), 0, stream>>>(*matrix, tiles, words, first_word_row, first_tile);
    return cudaGetLastError();
}

/* One thread an entry: blockIdx.x: group, then column block and c. */
__global__ void load_scales(const uint32_t *words, uint16_t *scales, uint32_t groups, uint32_t entries)
{
    uint32_t group = blockIdx.x;
    for (uint32_t entry = threadIdx.x; entry < entries; entry += blockDim.x) {
        uint32_t block = entry / 8, c = entry % 8, out = 0;
        for (uint32_t t = 0; t < 4; t++)
            out |= (words[(size_t)group * (entries / 2) + block * 4 + t] >> (4 * c) & 15) << (4 * t);
        scales[((size_t)block * groups + group) * 8 + c] = (uint16_t)out;
    }
}

cudaError_t linear_load_scales(const struct linear_tiles *matrix, uint16_t *scales, const uint32_t *words,
                               cudaStream_t stream)
{
    load_scales<<<matrix->group_count, 256, 0, stream>>>(words, scales, matrix->group_count,
                                                         matrix->stored_out_features / 4);
    return cudaGetLastError();
}
