#ifndef PLIM_CUDA_LINEAR_TILE_CUH
#define PLIM_CUDA_LINEAR_TILE_CUH

/*
 * One tile of EXL2 codes, 32 packed rows by 32 columns, in the hands of one warp.
 *
 * Lane l holds 32 codes: of columns c, c + 8, c + 16, c + 24 (c = l / 4) the rows 8 q .. 8 q + 7 (q = l % 4). Column
 * c + 8 t, rows 8 q + 2 p and + 1 are pair P = 4 t + p, and a pair becomes one half2 register. Those 16 registers are
 * the A operands of four mma.m16n8k16 (two strips of 16 columns, two steps of 16 rows); which rows a step means is
 * free as long as x is read alike: step s, register pair j of lane q is rows 8 q + 4 s + 2 j and + 1.
 *
 * A pair's two codes stand at the same bits of the low and the high half-word of one word. A field at bits p .. p + b - 1
 * with p + b <= 10 lies inside the mantissa of an fp16: (word & mask) | 0x6400 is the number 1024 + code * 2^p, and one
 * fused multiply-add makes code - 2^(b-1) of it, exactly. So most codes cost two instructions a pair and no shift.
 *
 *   b  words  pairs of word v                          the rest
 *   2  2      8 v + i at bits 2 i                      -
 *   3  3      5 v + i at bits 3 i                      pair 15: bit v of its code is bit 15 of word v
 *   4  4      4 v + i at bits 4 i                      -
 *   5  5      3 v + i at bits 5 i                      pair 15: bit v is bit 15 of word v
 *   6  6      8 h + 2 v' + i at bits 6 i               v = 3 h + v'; pair 8 h + 6: bits 0-3 are bits 12-15 of v' = 0,
 *                                                      bits 4-5 are bits 12-13 of v' = 2; pair 8 h + 7: bits 0-3 of
 *                                                      v' = 1 alike, bits 4-5 are bits 14-15 of v' = 2
 *   8  8      2 v and 2 v + 1 at bits 0 and 8          -
 */

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "linear_kernels.h"

#define TILE_ROWS 32
#define TILE_COLUMNS 32

/* ---- launching: see cuda_kernels.cuh, which kernels that know the backend use ---- */

template <typename... Parameters, typename... Arguments>
static inline cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, bool overlap,
                                 cudaStream_t stream, Arguments... arguments)
{
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = {};

    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = overlap ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

__device__ __forceinline__ void wait_for_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Where packed row `i` goes in LINEAR_WGMMA order: its bits are q q s j e, and s j q q e are wanted. */
__device__ __forceinline__ uint32_t wgmma_place(uint32_t i)
{
    return (i & ~31u) | (i & 1) | (i >> 3 & 3) << 1 | (i >> 1 & 1) << 3 | (i >> 2 & 1) << 4;
}

/* ---- codes ---- */

__device__ __forceinline__ uint32_t half2_bits(half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

__device__ __forceinline__ half2 bits_half2(uint32_t u)
{
    return *reinterpret_cast<half2 *>(&u);
}

/* (w & mask) | base in one instruction */
__device__ __forceinline__ uint32_t and_or(uint32_t w, uint32_t mask, uint32_t base)
{
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(w), "r"(mask), "r"(base));
    return out;
}

/* The codes at bits SHIFT .. SHIFT + B - 1 of both half-words, less 2^(B - 1). */
template <int B, int SHIFT>
__device__ __forceinline__ uint32_t field(uint32_t w)
{
    static_assert(B + SHIFT <= 10, "the field lies in the mantissa");
    constexpr uint32_t mask = ((1u << B) - 1) << SHIFT;
    half2 h = bits_half2(and_or(w, mask | mask << 16, 0x64006400u));
    constexpr int zero = 1 << (B - 1);
    if (SHIFT == 0)
        return half2_bits(__hsub2(h, __float2half2_rn(1024.0f + zero)));
    constexpr float step = 1.0f / (1 << SHIFT);
    return half2_bits(__hfma2(h, __float2half2_rn(step), __float2half2_rn(-(1024.0f * step + zero))));
}

/* Both half-words of `w` are 0x6400 | code. */
template <int B>
__device__ __forceinline__ uint32_t centred(uint32_t w)
{
    return half2_bits(__hsub2(bits_half2(w), __float2half2_rn(1024.0f + (1 << (B - 1)))));
}

/* A lane's words -> its 16 pairs of codes less 2^(b-1). */
template <int B> struct unpack;

template <> struct unpack<2> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[2], uint32_t (&out)[16])
    {
#pragma unroll
        for (int v = 0; v < 2; v++) {
            uint32_t high = w[v] >> 10;
            out[8 * v + 0] = field<2, 0>(w[v]);
            out[8 * v + 1] = field<2, 2>(w[v]);
            out[8 * v + 2] = field<2, 4>(w[v]);
            out[8 * v + 3] = field<2, 6>(w[v]);
            out[8 * v + 4] = field<2, 8>(w[v]);
            out[8 * v + 5] = field<2, 0>(high);
            out[8 * v + 6] = field<2, 2>(high);
            out[8 * v + 7] = field<2, 4>(high);
        }
    }
};

template <> struct unpack<3> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[3], uint32_t (&out)[16])
    {
#pragma unroll
        for (int v = 0; v < 3; v++) {
            uint32_t high = w[v] >> 9;
            out[5 * v + 0] = field<3, 0>(w[v]);
            out[5 * v + 1] = field<3, 3>(w[v]);
            out[5 * v + 2] = field<3, 6>(w[v]);
            out[5 * v + 3] = field<3, 0>(high);
            out[5 * v + 4] = field<3, 3>(high);
        }
        uint32_t rest = and_or(w[0] >> 15, 0x00010001u, 0x64006400u);
        rest = and_or(w[1] >> 14, 0x00020002u, rest);
        rest = and_or(w[2] >> 13, 0x00040004u, rest);
        out[15] = centred<3>(rest);
    }
};

template <> struct unpack<4> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[4], uint32_t (&out)[16])
    {
#pragma unroll
        for (int v = 0; v < 4; v++) {
            uint32_t high = w[v] >> 8;
            out[4 * v + 0] = field<4, 0>(w[v]);
            out[4 * v + 1] = field<4, 4>(w[v]);
            out[4 * v + 2] = field<4, 0>(high);
            out[4 * v + 3] = field<4, 4>(high);
        }
    }
};

template <> struct unpack<5> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[5], uint32_t (&out)[16])
    {
        uint32_t rest = 0x64006400u;
#pragma unroll
        for (int v = 0; v < 5; v++) {
            out[3 * v + 0] = field<5, 0>(w[v]);
            out[3 * v + 1] = field<5, 5>(w[v]);
            out[3 * v + 2] = field<5, 0>(w[v] >> 10);
            rest = and_or(w[v] >> (15 - v), 0x00010001u << v, rest);
        }
        out[15] = centred<5>(rest);
    }
};

template <> struct unpack<6> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[6], uint32_t (&out)[16])
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t a = w[3 * h], b = w[3 * h + 1], c = w[3 * h + 2];
            out[8 * h + 0] = field<6, 0>(a);
            out[8 * h + 1] = field<6, 0>(a >> 6);
            out[8 * h + 2] = field<6, 0>(b);
            out[8 * h + 3] = field<6, 0>(b >> 6);
            out[8 * h + 4] = field<6, 0>(c);
            out[8 * h + 5] = field<6, 0>(c >> 6);
            out[8 * h + 6] = centred<6>(and_or(c >> 8, 0x00300030u, and_or(a >> 12, 0x000f000fu, 0x64006400u)));
            out[8 * h + 7] = centred<6>(and_or(c >> 10, 0x00300030u, and_or(b >> 12, 0x000f000fu, 0x64006400u)));
        }
    }
};

template <> struct unpack<8> {
    static __device__ __forceinline__ void run(const uint32_t (&w)[8], uint32_t (&out)[16])
    {
#pragma unroll
        for (int v = 0; v < 8; v++) {
            out[2 * v + 0] = centred<8>(__byte_perm(w[v], 0x64646464u, 0x4240));
            out[2 * v + 1] = centred<8>(__byte_perm(w[v], 0x64646464u, 0x4341));
        }
    }
};

/*
 * The inverse, for loading: codes[2 P + e] is code e of pair P. Plain, one bit field at a time.
 */
template <int B>
__device__ __forceinline__ void pack_lane(const uint8_t (&codes)[32], uint32_t (&w)[B])
{
#pragma unroll
    for (int v = 0; v < B; v++)
        w[v] = 0;
#pragma unroll
    for (int P = 0; P < 16; P++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            uint32_t code = codes[2 * P + e];
            int at = 16 * e;
            if (B == 2)
                w[P / 8] |= code << (at + P % 8 * 2);
            else if (B == 4)
                w[P / 4 % B] |= code << (at + P % 4 * 4);
            else if (B == 8)
                w[P / 2 % B] |= code << (at + P % 2 * 8);
            else if (B == 3 || B == 5) {
                constexpr int each = B == 3 ? 5 : 3;
                if (P < 15)
                    w[P / each % B] |= code << (at + P % each * B);
                else
#pragma unroll
                    for (int v = 0; v < B; v++)
                        w[v] |= (code >> v & 1) << (at + 15);
            } else {
                int h = P / 8 * 3, i = P % 8;
                if (i < 6)
                    w[(h + i / 2) % B] |= code << (at + i % 2 * 6);
                else {
                    w[(h + i - 6) % B] |= (code & 15) << (at + 12);
                    w[(h + 2) % B] |= (code >> 4) << (at + 12 + (i - 6) * 2);
                }
            }
        }
    }
}

/* The group that a tile belongs to. */
struct tile_place {
    uint32_t segment, segment_end;   /* its segment, and the first tile after that */
    uint32_t bits, group_tiles;
    uint32_t group, group_end;       /* its group, and the first tile after that */
    uint32_t word_row;
};

__device__ __forceinline__ struct linear_segment segment_of(const linear_tiles &m, uint32_t s)
{
    return s < LINEAR_NEAR_SEGMENTS ? m.near_segments[s] : m.segments[s];
}

/* `place` becomes the one of `tile`, which lies in `segment` or after it. */
__device__ __forceinline__ void find_place(const linear_tiles &m, uint32_t tile, uint32_t segment, tile_place &place)
{
    struct linear_segment here = segment_of(m, segment);
    uint32_t end;
    while (true) {
        if (segment + 1 == m.segment_count) {
            end = m.in_features / TILE_ROWS;
            break;
        }
        struct linear_segment next = segment_of(m, segment + 1);
        end = next.first_tile;
        if (tile < end)
            break;
        here = next;
        segment++;
    }
    uint32_t past = tile - here.first_tile, groups = past / here.group_tiles;
    place.segment = segment;
    place.segment_end = end;
    place.bits = here.bits;
    place.group_tiles = here.group_tiles;
    place.group = here.first_group + groups;
    place.group_end = min(here.first_tile + (groups + 1) * here.group_tiles, end);
    place.word_row = here.first_word_row + past * here.bits;
}

/* `place` moves on to the group after its own; word_row is not kept up. */
__device__ __forceinline__ void next_group(const linear_tiles &m, tile_place &place)
{
    if (place.group_end < place.segment_end) {
        place.group++;
        place.group_end = min(place.group_end + place.group_tiles, place.segment_end);
    } else {
        find_place(m, place.group_end, place.segment + 1, place);
    }
}

/* Where word v of lane l stands in a tile, in words. */
template <int B>
__device__ __forceinline__ constexpr int word_place(int v, int lane)
{
    int plane = 0, left = B;
    while (true) {
        int wide = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (v < wide)
            return plane * 32 + lane * wide + v;
        v -= wide;
        left -= wide;
        plane += wide;
    }
}

/* d += a b: a 16 columns of W by 16 rows, b 16 rows by 8 rows of x. */
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                            uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The scales of columns c, c + 8 (in .x) and c + 16, c + 24 (in .y) from four nibbles: h(h((code + 1)^2) * unit). */
__device__ __forceinline__ uint2 lane_scales(uint32_t nibbles, uint32_t unit)
{
    uint32_t spread = nibbles | nibbles << 12;
    half2 unit2 = bits_half2(unit | unit << 16), out[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        half2 level = __hsub2(bits_half2(and_or(spread >> (8 * i), 0x000f000fu, 0x64006400u)), __float2half2_rn(1023.0f));
        out[i] = __hmul2(__hmul2(level, level), unit2);
    }
    return make_uint2(half2_bits(out[0]), half2_bits(out[1]));
}

/* ---- shared memory by address: 16, 8, 4 and 2 bytes ---- */

__device__ __forceinline__ uint4 load_shared_16(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}

__device__ __forceinline__ uint2 load_shared_8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}

__device__ __forceinline__ uint32_t load_shared_2(uint32_t at)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}

__device__ __forceinline__ uint32_t load_shared_4(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

#endif
