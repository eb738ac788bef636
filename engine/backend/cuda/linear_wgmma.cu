/*
 * Many rows on Hopper (sm_90a): one kernel that expands codes in registers, where wgmma takes its A operand from, so that
 * no expanded weight is ever in memory.
 *
 * A block makes 256 columns by ROWS rows of y: two warpgroups of four warps, 32 columns a warp. A step is 32 rows of W: each
 * warp expands its tile (linear_tile.cuh; the same registers as for mma.m16n8k16) and the warpgroup issues four wgmma with
 * 64 columns by 16 rows of W each: its warps' left halves and right halves, two steps of 16. They read x from shared memory.
 * While they run, the warps expand the next tile into other registers. A stage is two steps: [ROWS][64] of x (128-byte
 * swizzle) and each warp's own tiles; stages arrive by cp.async.
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

__device__ __forceinline__ void copy_async_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(to), "l"(from));
}

__device__ __forceinline__ void copy_async_4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from));
}

/*
 * A warp's part of a stage, in bytes: the words of two tiles, 1024 for each; their scale codes, 16 each; the pair of units
 * that has the group's, 4 each; and 4 each that say what the tile is: its width (0: there is none) and which unit is its.
 */
#define PART_SCALES 2048u
#define PART_UNITS  2080u
#define PART_KIND   2088u
#define PART_BYTES  2112u

/* Asks for a warp's tiles, one after the other. */
struct tile_feed {
    const char *next;
    const uint16_t *scale_codes;
    tile_place place;
    uint32_t tile, end, lane;

    __device__ __forceinline__ void open(const linear_tiles &m, uint32_t block, uint32_t lane_)
    {
        lane = lane_;
        tile = 0;
        end = block * TILE_COLUMNS < m.stored_out_features ? m.in_features / TILE_ROWS : 0;
        find_place(m, 0, 0, place);
        next = reinterpret_cast<const char *>(m.tiles + (size_t)block * m.word_rows * 32);
        scale_codes = m.scales + (size_t)block * m.group_count * 8;
    }

    /* The next tile, as number h of the part at `part`. */
    __device__ __forceinline__ void ask(const linear_tiles &m, uint32_t part, uint32_t h)
    {
        const uint32_t bytes = tile < end ? place.bits * 128 : 0;
        if (lane * 16 < bytes)
            copy_async_16(part + h * 1024 + lane * 16, next + lane * 16);
        if (512 + lane * 16 < bytes)
            copy_async_16(part + h * 1024 + 512 + lane * 16, next + 512 + lane * 16);
        if (lane == 0 && bytes)
            copy_async_16(part + PART_SCALES + h * 16, scale_codes + place.group * 8);
        if (lane == 1 && bytes)
            copy_async_4(part + PART_UNITS + h * 4, m.units + (place.group & ~1u));
        if (lane == 2)
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(part + PART_KIND + h * 4),
                         "r"(bytes ? place.bits | (place.group & 1) << 8 : 0)
                         : "memory");
        next += bytes;
        tile++;
        if (tile < end && tile == place.group_end)
            next_group(m, place);
    }
};

template <int B> __device__ __forceinline__ void unpack_shared(uint32_t words, uint32_t lane, uint32_t (&a)[16])
{
    uint32_t w[B];
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
    unpack<B>::run(w, a);
}

/* Tile h of a part as operands; zeros where there is none. */
__device__ __forceinline__ void expand(uint32_t part, uint32_t h, uint32_t lane, uint32_t (&a)[16])
{
    const uint32_t kind = load_shared_4(part + PART_KIND + h * 4), words = part + h * 1024;
    const uint32_t nibbles = load_shared_2(part + PART_SCALES + h * 16 + lane / 4 * 2);
    const uint32_t unit = load_shared_2(part + PART_UNITS + h * 4 + (kind >> 8) * 2);

    switch (kind & 0xff) {
    case 2: unpack_shared<2>(words, lane, a); break;
    case 3: unpack_shared<3>(words, lane, a); break;
    case 4: unpack_shared<4>(words, lane, a); break;
    case 5: unpack_shared<5>(words, lane, a); break;
    case 6: unpack_shared<6>(words, lane, a); break;
    case 8: unpack_shared<8>(words, lane, a); break;
    default:
#pragma unroll
        for (int i = 0; i < 16; i++)
            a[i] = 0;
        return;
    }
    const uint2 scales = lane_scales(nibbles, unit);
#pragma unroll
    for (int t = 0; t < 4; t++) {
        half2 both = bits_half2(t < 2 ? scales.x : scales.y);
        half2 scale = t % 2 ? __high2half2(both) : __low2half2(both);
#pragma unroll
        for (int p = 0; p < 4; p++)
            a[4 * t + p] = half2_bits(__hmul2(bits_half2(a[4 * t + p]), scale));
    }
}

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

    /* Not zeroed: the first products overwrite. The compiler would put the zeros amid the asynchronous products. */
    float y[2][ROWS / 2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < ROWS / 2; n++)
            asm volatile("" : "=f"(y[i][n]));

    /* Of a stage, a thread brings 16 bytes of every 32nd row of x, and its share of the warp's own two tiles. */
    const uint32_t piece = threadIdx.x % 8, piece_row = threadIdx.x / 8;
    const uint32_t parts = base + STAGES * stage_bytes + warp * PART_BYTES;
    tile_feed feed;
    feed.open(m, block, lane);
    auto load_weights = [&](uint32_t stage) {
        const uint32_t part = parts + stage % STAGES * (WARPS * PART_BYTES);
        feed.ask(m, part, 0);
        feed.ask(m, part, 1);
    };
    auto load_x = [&](uint32_t stage) {
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

    load_weights(0);
    let_next_start();
    wait_for_previous();
    load_x(0);
    load_weights(1);
    load_x(1);

    uint32_t a[2][16];
    for (uint32_t stage = 0; stage < stage_count; stage++) {
        /*
         * Two stages are on their way. After the barrier everybody has this one, and is done with the one before last: of
         * wgmma, no more than the two groups of the last one are still at work.
         */
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        load_weights(stage + 2);
        load_x(stage + 2);
        const uint64_t x = stage_descriptor(base + stage % STAGES * stage_bytes);
        const uint32_t part = parts + stage % STAGES * (WARPS * PART_BYTES);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            wgmma_wait<1>();   /* the group before last is done: its registers are free */
            expand(part, h, lane, a[h]);
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    wgmma(y[i], a[h][8 * i + 2 * s], a[h][8 * i + 4 + 2 * s], a[h][8 * i + 1 + 2 * s],
                          a[h][8 * i + 5 + 2 * s], x + (4 * h + 2 * s), stage + h + s);
            wgmma_commit();
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
                        size_t at = (size_t)row * m.out_features + column;
                        float value = y[i][4 * n + 2 * half_ + e] + bias;
                        if (call.y_half)
                            call.y_half[at] = __half_as_ushort(__float2half_rn(value));
                        else
                            call.y[at] = call.accumulate ? call.y[at] + value : value;
                    }
                }
        }
    }
}

cudaError_t linear_wgmma(const struct linear_wgmma *call, cudaStream_t stream)
{
    uint32_t rows = call->rows <= 64 ? 64 : 128, blocks = call->matrix.stored_out_features / TILE_COLUMNS;
    void (*kernel)(const struct linear_wgmma) = rows == 64 ? many_rows<64> : many_rows<128>;
    size_t shared = STAGES * (rows * STAGE_COLUMNS * 2 + WARPS * PART_BYTES);
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (rc != cudaSuccess)
        return rc;
    return launch(kernel, dim3((call->rows + rows - 1) / rows, (blocks + WARPS - 1) / WARPS), dim3(32 * WARPS), shared,
                  call->overlap, stream, *call);
}
