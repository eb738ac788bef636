#ifndef PLIM_CUDA_LINEAR_OPERANDS_CUH
#define PLIM_CUDA_LINEAR_OPERANDS_CUH

/* Codes in shared memory made into operands of wgmma, tile after tile (linear_tile.cuh), in the registers of a warp. */

#include "linear_tile.cuh"

/* This lane's words of a tile, in planes. */
template <int B> __device__ __forceinline__ void load_words(uint32_t words, uint32_t lane, uint32_t (&w)[B])
{
    int v = 0;
    if (B >= 4) {
        uint4 four = load_shared_16(words + lane * 16);
        w[0] = four.x, w[1 % B] = four.y, w[2 % B] = four.z, w[3 % B] = four.w;
        v = 4;
    }
    if (B == 8) {
        uint4 four = load_shared_16(words + 512 + lane * 16);
        w[4 % B] = four.x, w[5 % B] = four.y, w[6 % B] = four.z, w[7 % B] = four.w;
    }
    if (B == 2 || B == 3 || B == 6) {
        uint2 two = load_shared_8(words + v * 128 + lane * 8);
        w[v % B] = two.x, w[(v + 1) % B] = two.y;
        v += 2;
    }
    if (B == 3 || B == 5)
        w[v % B] = load_shared_4(words + v * 128 + lane * 4);
}

/* Four pairs of a column, times its scale. */
template <int FIRST>
__device__ __forceinline__ void scaled(const uint32_t (&pairs)[16], half2 scale, uint32_t *a)
{
#pragma unroll
    for (int p = 0; p < 4; p++)
        a[p] = half2_bits(__hmul2(bits_half2(pairs[FIRST + p]), scale));
}

/* Columns c and c + 8 of strip STRIP of a tile at `words`, as operands of two steps; both: their scales. */
template <int B, int STRIP> __device__ __forceinline__ void expand(uint32_t words, uint32_t lane, half2 both, uint32_t (&a)[8])
{
    uint32_t w[B], pairs[16];

    load_words<B>(words, lane, w);
    unpack<B>::run(w, pairs);
    scaled<8 * STRIP>(pairs, __low2half2(both), a);
    scaled<8 * STRIP + 4>(pairs, __high2half2(both), a + 4);
}

/* The scales of this lane's columns, one group after the other; the next one's codes are asked for early. */
template <int STRIP> struct scale_feed {
    const uint16_t *codes, *units;
    uint32_t last, nibbles, unit;

    __device__ __forceinline__ void open(const linear_tiles &m, uint32_t block, uint32_t group, uint32_t lane)
    {
        codes = m.scales + (size_t)block * m.group_count * 8 + lane / 4;
        units = m.units;
        last = m.group_count - 1;
        ask(group);
    }
    __device__ __forceinline__ void ask(uint32_t group)
    {
        group = min(group, last);
        nibbles = __ldg(codes + group * 8);
        unit = __ldg(units + group);
    }
    __device__ __forceinline__ half2 take(uint32_t next)
    {
        const uint2 scales = lane_scales(nibbles, unit);
        ask(next);
        return bits_half2(STRIP ? scales.y : scales.x);
    }
};

/* A matrix' tiles as operands, one after the other. */
template <int STRIP> struct operand_feed {
    const linear_tiles &m;
    tile_place place;
    scale_feed<STRIP> feed;
    half2 scales;
    uint32_t lane;

    __device__ __forceinline__ operand_feed(const linear_tiles &matrix, uint32_t block, uint32_t tile, uint32_t lane)
        : m(matrix), lane(lane)
    {
        find_place(m, tile, 0, place);
        feed.open(m, min(block, m.stored_out_features / TILE_COLUMNS - 1), place.group, lane);
        scales = feed.take(place.group + 1);
    }
    /*
     * The next tile: of width B, of which all are, in groups of one size; 0: of any. `there` is true, but the compiler must
     * not know: it would put these instructions amid the products that want their results, and then wait for each product.
     */
    template <int B> __device__ __forceinline__ void next(uint32_t tile, bool there, uint32_t &words, uint32_t (&to)[8])
    {
        if (B > 0) {
            if (tile == place.group_end) {
                place.group++;
                place.group_end += place.group_tiles;
                scales = feed.take(place.group + 1);
            }
            if (there) {
                expand<B ? B : 4, STRIP>(words, lane, scales, to);
            } else {
#pragma unroll
                for (int i = 0; i < 8; i++)
                    to[i] = 0;
            }
            words += B * 128;
            return;
        }
        if (tile == place.group_end) {
            next_group(m, place);
            scales = feed.take(place.group + 1);
        }
        if (place.bits == 4) {
            expand<4, STRIP>(words, lane, scales, to);
            words += 512;
            return;
        }
        switch (place.bits) {
        case 2: expand<2, STRIP>(words, lane, scales, to); break;
        case 3: expand<3, STRIP>(words, lane, scales, to); break;
        case 5: expand<5, STRIP>(words, lane, scales, to); break;
        case 6: expand<6, STRIP>(words, lane, scales, to); break;
        default: expand<8, STRIP>(words, lane, scales, to); break;
        }
        words += place.bits * 128;
    }
};

#endif
