/* EXL2 tensors into the layout of linear_kernels.h: once, when a matrix is loaded. */

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define LOAD_WARPS 4

/* Code of row r, column n of a tile whose words are `words` [bits, 32]. */
__device__ uint8_t stored_code(const uint32_t *words, int bits, int r, int n)
{
    uint32_t at = (uint32_t)(r * bits);
    uint32_t code = words[at / 32 * 32 + n] >> (at % 32);
    if (at % 32 + (uint32_t)bits > 32)
        code |= words[(at / 32 + 1) * 32 + n] << (32 - at % 32);
    return (uint8_t)(code & ((1u << bits) - 1));
}

template <int B> __device__ void load_tile(const uint32_t *words, uint32_t *tile, int lane)
{
    uint8_t codes[32];
    uint32_t packed[B];

#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            codes[8 * t + i] = stored_code(words, B, lane % 4 * 8 + i, lane / 4 + 8 * t);
    pack_lane<B>(codes, packed);
#pragma unroll
    for (int v = 0; v < B; v++)
        tile[word_place<B>(v, lane)] = packed[v];
}

/* One warp a tile. Each word is read once: `words` may be the host's memory. */
__global__ void __launch_bounds__(32 * LOAD_WARPS) load_codes(linear_tiles matrix, uint32_t *tiles, linear_piece piece)
{
    __shared__ uint32_t tile_words[LOAD_WARPS][8 * 32];
    uint32_t lane = threadIdx.x, *words = tile_words[threadIdx.y];
    uint32_t tile = piece.first_tile + blockIdx.x, column = (blockIdx.y * LOAD_WARPS + threadIdx.y) * TILE_COLUMNS;
    if (column >= piece.columns)
        return;
    tile_place place;
    find_place(matrix, tile, 0, place);
    const uint32_t *from = piece.words + (size_t)(place.word_row - piece.first_word_row) * piece.columns + column;
    uint32_t block = (piece.first_column + column) / TILE_COLUMNS;
    uint32_t *to = tiles + ((size_t)block * matrix.word_rows + place.word_row) * 32;

    for (uint32_t row = 0; row < place.bits; row++)
        words[row * 32 + lane] = from[(size_t)row * piece.columns + lane];
    __syncwarp();
    switch (place.bits) {
    case 2: load_tile<2>(words, to, (int)lane); break;
    case 3: load_tile<3>(words, to, (int)lane); break;
    case 4: load_tile<4>(words, to, (int)lane); break;
    case 5: load_tile<5>(words, to, (int)lane); break;
    case 6: load_tile<6>(words, to, (int)lane); break;
    case 8: load_tile<8>(words, to, (int)lane); break;
    }
}

cudaError_t linear_load_codes(const struct linear_tiles *matrix, uint32_t *tiles, const struct linear_piece *piece,
                              cudaStream_t stream)
{
    uint32_t blocks = piece->columns / TILE_COLUMNS;
    dim3 grid(piece->end_tile - piece->first_tile, (blocks + LOAD_WARPS - 1) / LOAD_WARPS);
    load_codes<<<grid, dim3(32, LOAD_WARPS), 0, stream>>>(*matrix, tiles, *piece);
    return cudaGetLastError();
}

/* blockIdx.x: group of the piece; a thread an entry: column block and c. */
__global__ void load_scales(const uint32_t *words, uint16_t *scales, uint32_t first_group, uint32_t groups, uint32_t entries)
{
    const uint32_t *row = words + (size_t)blockIdx.x * (entries / 2);
    for (uint32_t entry = threadIdx.x; entry < entries; entry += blockDim.x) {
        uint32_t block = entry / 8, c = entry % 8, out = 0;
        for (uint32_t t = 0; t < 4; t++)
            out |= (row[block * 4 + t] >> (4 * c) & 15) << (4 * t);
        scales[((size_t)block * groups + first_group + blockIdx.x) * 8 + c] = (uint16_t)out;
    }
}

cudaError_t linear_load_scales(const struct linear_tiles *matrix, uint16_t *scales, const uint32_t *words,
                               uint32_t first_group, uint32_t groups, cudaStream_t stream)
{
    load_scales<<<groups, 256, 0, stream>>>(words, scales, first_group, matrix->group_count,
                                            matrix->stored_out_features / 4);
    return cudaGetLastError();
}
