/*
 * Many rows on Hopper (sm_90a): one kernel that expands codes in registers, where wgmma takes its A operand from, so that
 * no expanded weight is ever in memory.
 *
 * A block makes 256 columns by ROWS rows of y: two warpgroups of four warps, 32 columns a warp. A step is 32 rows of W: each
 * warp expands its tile (linear_tile.cuh; the same registers as for mma.m16n8k16) and the warpgroup issues four wgmma with
 * 64 columns by 16 rows of W each: its warps' left halves and right halves, two steps of 16. They read x from shared memory,
 * where [ROWS][64] stages (128-byte swizzle) arrive by cp.async. While they run, the warps expand the next tile into other
 * registers.
 *
 *   x_half [rows][in_features] in LINEAR_WGMMA order: within 32 columns, packed row 8 q + 4 s + 2 j + e stands at
 *   16 s + 8 j + 2 q + e, which is where wgmma looks for what lane q holds.
 */

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define STAGE_COLUMNS 64u                 /* of x, two tiles: one row of 128 bytes, the unit of the swizzle */
#define STAGES 4u
#define WARPS 8u

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

__device__ __forceinline__ void copy_async_or_zero(uint32_t to, const void *from, bool there)
{
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

/* Operand descriptor of a stage: rows of 128 bytes, swizzled, 1024 bytes from 8 rows to the next 8. */
__device__ __forceinline__ uint64_t stage_descriptor(uint32_t shared)
{
    return (uint64_t)(shared >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

#ifdef HAVE_WGMMA
#define F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

/* d [64 columns, 128 rows] += a [64, 16] x^T, of which this thread holds 64 and 4 x 2. */
__device__ __forceinline__ void wgmma(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t x,
                                      uint32_t add)
{
    asm volatile("{ .reg .pred add; setp.ne.b32 add, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
                 "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"
                 "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, add, 1, 1, 0; }"
                 : F8(d, 0), F8(d, 8), F8(d, 16), F8(d, 24), F8(d, 32), F8(d, 40), F8(d, 48), F8(d, 56)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(x), "r"(add));
}

/* The same for 64 rows. */
__device__ __forceinline__ void wgmma(float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t x,
                                      uint32_t add)
{
    asm volatile("{ .reg .pred add; setp.ne.b32 add, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
                 "%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, add, 1, 1, 0; }"
                 : F8(d, 0), F8(d, 8), F8(d, 16), F8(d, 24)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(x), "r"(add));
}

__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
#else
template <int N> __device__ void wgmma(float (&)[N], uint32_t, uint32_t, uint32_t, uint32_t, uint64_t, uint32_t)
{
}
__device__ void wgmma_fence()
{
}
__device__ void wgmma_commit()
{
}
template <int PENDING> __device__ void wgmma_wait()
{
}
#endif

template <int B> __device__ __forceinline__ void load_words(const uint32_t *tile, uint32_t lane, uint32_t (&w)[8])
{
    int v = 0;
    if (B >= 4) {
        uint4 a = __ldg(reinterpret_cast<const uint4 *>(tile) + lane);
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        v = 4;
    }
    if (B == 8) {
        uint4 a = __ldg(reinterpret_cast<const uint4 *>(tile + 128) + lane);
        w[4] = a.x, w[5] = a.y, w[6] = a.z, w[7] = a.w;
    }
    if (B == 2 || B == 3 || B == 6) {
        uint2 a = __ldg(reinterpret_cast<const uint2 *>(tile + v * 32) + lane);
        w[v] = a.x, w[v + 1] = a.y;
        v += 2;
    }
    if (B == 3 || B == 5)
        w[v] = __ldg(tile + v * 32 + lane);
}

template <int B>
__device__ __forceinline__ void expand_words(const uint32_t (&words)[8], uint2 scales, uint32_t (&a)[16])
{
    uint32_t w[B];
#pragma unroll
    for (int v = 0; v < B; v++)
        w[v] = words[v];
    unpack<B>::run(w, a);
#pragma unroll
    for (int t = 0; t < 4; t++) {
        half2 both = bits_half2(t < 2 ? scales.x : scales.y);
        half2 scale = t % 2 ? __high2half2(both) : __low2half2(both);
#pragma unroll
        for (int p = 0; p < 4; p++)
            a[4 * t + p] = half2_bits(__hmul2(bits_half2(a[4 * t + p]), scale));
    }
}

#define EACH_WIDTH(bits, CASE)                                                                                          \
    switch (bits) {                                                                                                    \
    case 2: CASE(2); break;                                                                                            \
    case 3: CASE(3); break;                                                                                            \
    case 4: CASE(4); break;                                                                                            \
    case 5: CASE(5); break;                                                                                            \
    case 6: CASE(6); break;                                                                                            \
    case 8: CASE(8); break;                                                                                            \
    }

/* A warp's tiles one after the other: the next one's words are on their way while this one is expanded. */
struct tile_walk {
    const uint32_t *next;          /* the tile whose words are in `words` or on their way there */
    const uint16_t *scale_codes;
    tile_place place;
    uint32_t tile, end, lane;
    uint32_t words[8];
    uint2 scales;
    uint32_t next_nibbles, next_unit;
    bool busy;

    __device__ __forceinline__ void fetch()
    {
#define CASE(B) load_words<B>(next, lane, words)
        EACH_WIDTH(place.bits, CASE)
#undef CASE
        if (lane < 4)   /* from device memory to the cache, some steps ahead */
            asm volatile("prefetch.global.L2 [%0];" ::"l"(next + 8 * 128 + lane * 32));
    }

    __device__ __forceinline__ void ask_scales(const linear_tiles &m)
    {
        tile_place after = place;
        if (place.group_end < end)
            next_group(m, after);
        next_nibbles = scale_codes[after.group * 8];
        next_unit = m.units[after.group];
    }

    __device__ __forceinline__ void open(const linear_tiles &m, uint32_t block, uint32_t lane_)
    {
        lane = lane_;
        busy = block * TILE_COLUMNS < m.stored_out_features;
        tile = 0;
        end = m.in_features / TILE_ROWS;
        find_place(m, 0, 0, place);
        if (!busy)
            return;
        next = m.tiles + (size_t)block * m.word_rows * 32;
        scale_codes = m.scales + (size_t)block * m.group_count * 8 + lane / 4;
        scales = lane_scales(scale_codes[place.group * 8], m.units[place.group]);
        ask_scales(m);
        fetch();
    }

    /* The tile's operands; zeros past the last. */
    __device__ __forceinline__ void expand(uint32_t (&a)[16])
    {
        if (!busy || tile >= end) {
#pragma unroll
            for (int i = 0; i < 16; i++)
                a[i] = 0;
            return;
        }
#define CASE(B) expand_words<B>(words, scales, a)
        EACH_WIDTH(place.bits, CASE)
#undef CASE
    }

    __device__ __forceinline__ void advance(const linear_tiles &m)
    {
        if (!busy || tile >= end)
            return;
        next += place.bits * 32;
        tile++;
        if (tile == end)
            return;
        if (tile == place.group_end) {
            next_group(m, place);
            scales = lane_scales(next_nibbles, next_unit);
            ask_scales(m);
        }
        fetch();
    }
};

template <int ROWS>
__global__ void __launch_bounds__(32 * WARPS, 1) many_rows(const __grid_constant__ struct linear_wgmma call)
{
    extern __shared__ __align__(1024) char shared[];
    const linear_tiles &m = call.matrix;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t first_row = blockIdx.x * ROWS, block = blockIdx.y * WARPS + warp;
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(shared);
    const uint32_t stage_count = (m.in_features + STAGE_COLUMNS - 1) / STAGE_COLUMNS;
    constexpr uint32_t stage_bytes = ROWS * STAGE_COLUMNS * 2;

    float y[2][ROWS / 2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < ROWS / 2; n++)
            y[i][n] = 0.0f;

    /* This thread's pieces of a stage: 16 bytes of every 32nd row. */
    const uint32_t piece = threadIdx.x % 8, piece_row = threadIdx.x / 8;
    auto load_stage = [&](uint32_t stage) {
        if (stage < stage_count) {
            uint32_t column = stage * STAGE_COLUMNS + piece * 8;
#pragma unroll
            for (uint32_t r = 0; r < ROWS; r += 32 * WARPS / 8) {
                uint32_t row = r + piece_row;
                bool there = first_row + row < call.rows && column < m.in_features;
                const uint16_t *from = call.x_half + (there ? (size_t)(first_row + row) * m.in_features + column : 0);
                copy_async_or_zero(base + stage % STAGES * stage_bytes + row * 128 + ((piece ^ (row & 7)) << 4), from, there);
            }
        }
        asm volatile("cp.async.commit_group;");
    };

    tile_walk walk;
    walk.open(m, block, lane);
    let_next_start();
    wait_for_previous();
    load_stage(0);
    load_stage(1);

    uint32_t a[2][16];
    walk.expand(a[0]);
    walk.advance(m);
    for (uint32_t stage = 0; stage < stage_count; stage++) {
        /* Two stages are on their way; the one before last has been read (wgmma_wait below) by everyone after the barrier. */
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        load_stage(stage + 2);
        uint64_t x = stage_descriptor(base + stage % STAGES * stage_bytes);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    wgmma(y[i], a[h][8 * i + 2 * s], a[h][8 * i + 4 + 2 * s], a[h][8 * i + 1 + 2 * s],
                          a[h][8 * i + 5 + 2 * s], x + (4 * h + 2 * s), stage + h + s);
            wgmma_commit();
            wgmma_wait<1>();   /* the step before is done: its registers are free */
            walk.expand(a[1 - h]);
            walk.advance(m);
        }
    }
    wgmma_wait<0>();

#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int half_ = 0; half_ < 2; half_++) {
            uint32_t column = block * TILE_COLUMNS + 16 * i + 8 * half_ + lane / 4;
            if (column >= m.out_features)
                continue;
            float bias = m.bias ? m.bias[column] : 0.0f;
#pragma unroll
            for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    uint32_t row = first_row + 8 * n + lane % 4 * 2 + e;
                    if (row < call.rows) {
                        float *at = call.y + (size_t)row * m.out_features + column;
                        float value = y[i][4 * n + 2 * half_ + e] + bias;
                        *at = call.accumulate ? *at + value : value;
                    }
                }
        }
    }
}

cudaError_t linear_wgmma(const struct linear_wgmma *call, cudaStream_t stream)
{
    uint32_t rows = call->rows <= 64 ? 64 : 128, blocks = call->matrix.stored_out_features / TILE_COLUMNS;
    void (*kernel)(const struct linear_wgmma) = rows == 64 ? many_rows<64> : many_rows<128>;
    size_t shared = STAGES * rows * STAGE_COLUMNS * 2;
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (rc != cudaSuccess)
        return rc;
    return launch(kernel, dim3((call->rows + rows - 1) / rows, (blocks + WARPS - 1) / WARPS), dim3(32 * WARPS), shared,
                  call->overlap, stream, *call);
}
