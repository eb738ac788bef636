/*
 * Few rows: y = x W straight from the packed codes, on the tensor cores.
 *
 * A warp streams a stretch of tiles of one column block through a ring of its own in shared memory (cp.async, no
 * barrier but its own), unpacks each tile into the A operand of mma.m16n8k16 and multiplies it with rows of x, 8 at a
 * time. The codes' scales are applied to the sums of each group, in fp32 (few rows), or to the weights themselves (many:
 * fewer registers). Warps of a block that share columns add their sums through shared memory, blocks that share them
 * through `partial`: always in the same order, so that results repeat to the bit.
 */

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define CHUNK_BYTES 512u

struct few_args {
    struct linear_few call;
    uint32_t first_block[LINEAR_MAX_MATRICES + 1];   /* blockIdx.x where each matrix begins */
    uint32_t split;
    uint32_t scale_offset, scale_stride, unit_offset;   /* in shared memory: of the first warp's scale codes; of each's units */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void copy_async_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(to), "l"(from));
}

__device__ __forceinline__ void copy_async_4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from));
}

__device__ __forceinline__ void copy_commit()
{
    asm volatile("cp.async.commit_group;");
}

template <int PENDING> __device__ __forceinline__ void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* The bytes of a warp's stretch on their way through its ring of STAGES chunks. */
template <int STAGES> struct ring {
    static constexpr uint32_t mask = STAGES * CHUNK_BYTES - 1;
    const char *next;        /* where this lane copies from next */
    uint32_t base;           /* shared address */
    uint32_t issued;         /* bytes, whole chunks */
    uint32_t end;            /* bytes of the stretch */
    uint32_t at;             /* bytes consumed */
    uint32_t lane16;

    __device__ __forceinline__ void open(uint32_t shared, const uint32_t *from, uint32_t bytes, uint32_t lane)
    {
        lane16 = lane * 16;
        base = shared;
        next = reinterpret_cast<const char *>(from) + lane16;
        issued = 0;
        end = bytes;
        at = 0;
#pragma unroll
        for (int i = 0; i < STAGES; i++)
            issue();
    }

    /* One chunk more, or an empty group past the end, so that the number of groups says what has arrived. */
    __device__ __forceinline__ void issue()
    {
        if (issued + lane16 < end)
            copy_async_16(base + ((issued + lane16) & mask), next);
        copy_commit();
        issued += CHUNK_BYTES;
        next += CHUNK_BYTES;
    }

    /* A lane's words of the tile at the front. */
    template <int B> __device__ __forceinline__ void take(uint32_t (&w)[B], uint32_t lane)
    {
        copy_wait<STAGES - (B > 5 ? 3 : 2)>();   /* a tile lies in so many chunks at most */
        __syncwarp();
        uint32_t plane = at;
        int v = 0;
        if (B >= 4) {
            uint4 a = load_shared_16(base + ((plane + lane * 16) & mask));
            w[0] = a.x, w[1 % B] = a.y, w[2 % B] = a.z, w[3 % B] = a.w;
            plane += 512, v = 4;
        }
        if (B == 8) {
            uint4 a = load_shared_16(base + ((plane + lane * 16) & mask));
            w[4 % B] = a.x, w[5 % B] = a.y, w[6 % B] = a.z, w[7 % B] = a.w;
        }
        if (B == 2 || B == 3 || B == 6) {
            uint2 a = load_shared_8(base + ((plane + lane * 8) & mask));
            w[v % B] = a.x, w[(v + 1) % B] = a.y;
            plane += 256, v += 2;
        }
        if (B == 3 || B == 5)
            w[v % B] = load_shared_4(base + ((plane + lane * 4) & mask));
        at += B * 128;
        __syncwarp();   /* everyone has read before the chunks are filled again */
#pragma unroll
        for (int i = 0; i < (B > 4 ? 2 : 1); i++)
            if (issued + CHUNK_BYTES <= at + STAGES * CHUNK_BYTES)
                issue();
    }
};

/* Rows of x as B operands. */
template <int NT, bool ONE_ROW> struct activations;

/* From device memory, tiled; the next tile's are on their way while this one is multiplied. */
template <int NT> struct activations<NT, false> {
    const uint4 *next;
    uint4 ahead[NT];

    __device__ __forceinline__ void open(const uint16_t *x_half, uint32_t tile, uint32_t lane, const uint16_t *)
    {
        next = reinterpret_cast<const uint4 *>(x_half) + (size_t)tile * NT * 32 + lane;
        fetch();
    }
    __device__ __forceinline__ void fetch()
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
            ahead[n] = __ldg(next + n * 32);
        next += NT * 32;
    }
    __device__ __forceinline__ void take(uint4 (&x)[NT], bool more)
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
            x[n] = ahead[n];
        if (more)
            fetch();
    }
};

/* One row, from shared memory. All 8 columns of B are that row; seven results are not looked at. */
template <> struct activations<1, true> {
    uint32_t at;

    __device__ __forceinline__ void open(const uint16_t *, uint32_t, uint32_t lane, const uint16_t *shared)
    {
        at = shared_address(shared) + lane % 4 * 16;
    }
    __device__ __forceinline__ void take(uint4 (&x)[1], bool)
    {
        x[0] = load_shared_16(at);
        at += 64;
    }
};

template <int NT, int STAGES, bool ONE_ROW> struct worker {
    static constexpr bool scale_weights = NT >= 4;
    ring<STAGES> codes;
    activations<NT, ONE_ROW> x;
    float y[2][NT][4];

    template <int B>
    __device__ __forceinline__ void tile(float (&sum)[2][NT][4], uint2 scales, uint32_t lane, bool more)
    {
        uint32_t w[B], a[16];
        uint4 b[NT];
        codes.template take<B>(w, lane);
        x.take(b, more);
        unpack<B>::run(w, a);
        if (scale_weights) {
#pragma unroll
            for (int t = 0; t < 4; t++) {
                half2 both = bits_half2(t < 2 ? scales.x : scales.y);
                half2 scale = t % 2 ? __high2half2(both) : __low2half2(both);
#pragma unroll
                for (int p = 0; p < 4; p++)
                    a[4 * t + p] = half2_bits(__hmul2(bits_half2(a[4 * t + p]), scale));
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                mma_16x8x16(sum[i][n], a[8 * i], a[8 * i + 4], a[8 * i + 1], a[8 * i + 5], b[n].x, b[n].y);
                mma_16x8x16(sum[i][n], a[8 * i + 2], a[8 * i + 6], a[8 * i + 3], a[8 * i + 7], b[n].z, b[n].w);
            }
    }

    /* `tiles` tiles of one group. */
    template <int B>
    __device__ __forceinline__ void group(uint32_t tiles, uint2 scales, uint32_t lane, bool last)
    {
        if (scale_weights) {
            for (; tiles > 0; tiles--)
                tile<B>(y, scales, lane, !last || tiles > 1);
            return;
        }
        float sum[2][NT][4] = {};
        for (; tiles > 0; tiles--)
            tile<B>(sum, scales, lane, !last || tiles > 1);
        float2 s[2] = { __half22float2(bits_half2(scales.x)), __half22float2(bits_half2(scales.y)) };
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                y[i][n][0] += s[i].x * sum[i][n][0];
                y[i][n][1] += s[i].x * sum[i][n][1];
                y[i][n][2] += s[i].y * sum[i][n][2];
                y[i][n][3] += s[i].y * sum[i][n][3];
            }
    }
};

/*
 * One row of x into shared memory as fp16 in packed row order: xs[i] is packed row first + i. Every block does this, so it
 * has to be quick: GATHER_AHEAD loads are on their way at once, and the permutation's first are asked for before the
 * kernel that makes x is done (`early`).
 */
#define GATHER_AHEAD 4

struct gather_places {
    ushort4 to[GATHER_AHEAD];
};

__device__ __forceinline__ void gather_early(const uint16_t *invperm, uint32_t width, gather_places &early)
{
#pragma unroll
    for (int i = 0; i < GATHER_AHEAD; i++) {
        uint32_t k = (threadIdx.x + i * blockDim.x) * 4;
        early.to[i] = k < width ? *reinterpret_cast<const ushort4 *>(invperm + k) : make_ushort4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ void gather_one_row(const float *x, const uint16_t *invperm, uint32_t width, uint32_t first,
                                               uint32_t count, gather_places places, uint16_t *xs)
{
    for (uint32_t base = threadIdx.x * 4; base < width; base += blockDim.x * 4 * GATHER_AHEAD) {
        float4 v[GATHER_AHEAD];
#pragma unroll
        for (int i = 0; i < GATHER_AHEAD; i++) {
            uint32_t k = base + i * blockDim.x * 4;
            if (k < width)
                v[i] = *reinterpret_cast<const float4 *>(x + k);
        }
        if (base != threadIdx.x * 4) {
#pragma unroll
            for (int i = 0; i < GATHER_AHEAD; i++) {
                uint32_t k = base + i * blockDim.x * 4;
                if (k < width)
                    places.to[i] = *reinterpret_cast<const ushort4 *>(invperm + k);
            }
        }
#pragma unroll
        for (int i = 0; i < GATHER_AHEAD; i++) {
            if (base + i * blockDim.x * 4 >= width)
                break;
            const uint32_t to[4] = { places.to[i].x - first, places.to[i].y - first, places.to[i].z - first,
                                     places.to[i].w - first };
            const float from[4] = { v[i].x, v[i].y, v[i].z, v[i].w };
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (to[e] < count)
                    xs[to[e]] = __half_as_ushort(__float2half_rn(from[e]));
        }
    }
}

/* Where y stands in a warp's registers: visit(value, row of x, column of the block). */
template <int NT, class F> __device__ __forceinline__ void each_sum(float (&y)[2][NT][4], uint32_t lane, F visit)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                visit(y[i][n][e], n * 8 + lane % 4 * 2 + e % 2, lane / 4 + 8 * (e / 2) + 16 * i);
}

__device__ __forceinline__ void store_result(const linear_tiles &m, float *y, bool accumulate, uint32_t row,
                                             uint32_t column, float value)
{
    if (column >= m.out_features)
        return;
    float *at = y + (size_t)row * m.out_features + column;
    if (m.bias)
        value += m.bias[column];
    *at = accumulate ? *at + value : value;
}

template <int NT, int WN, int WK, int STAGES, int BLOCKS, bool ONE_ROW>
__global__ void __launch_bounds__(32 * WN * WK, BLOCKS) few_rows(const __grid_constant__ few_args args)
{
    extern __shared__ __align__(128) char shared[];
    const struct linear_few &call = args.call;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, wn = warp % WN, wk = warp / WN;
    uint32_t which = 0;
    while (which + 1 < call.matrix_count && blockIdx.x >= args.first_block[which + 1])
        which++;
    const linear_tiles &m = call.matrix[which];
    const uint32_t strip = blockIdx.x - args.first_block[which];
    const uint32_t block = strip * WN + wn;
    const bool busy = block * TILE_COLUMNS < m.stored_out_features;

    /* The block's rows of tiles, and this warp's. */
    const uint32_t all = m.in_features / TILE_ROWS;
    const uint32_t block_begin = all * blockIdx.y / args.split, block_end = all * (blockIdx.y + 1) / args.split;
    const uint32_t begin = block_begin + (block_end - block_begin) * wk / WK;
    const uint32_t end = block_begin + (block_end - block_begin) * (wk + 1) / WK;

    worker<NT, STAGES, ONE_ROW> work;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                work.y[i][n][e] = 0.0f;

    const bool streams = busy && begin < end;
    uint16_t *xs = reinterpret_cast<uint16_t *>(shared + WN * WK * STAGES * CHUNK_BYTES);
    const uint32_t scale_codes = shared_address(shared) + args.scale_offset + warp * args.scale_stride;
    const uint32_t units = scale_codes + args.unit_offset;
    tile_place place = {};
    uint32_t first_group = 0;
    if (streams) {
        find_place(m, end - 1, 0, place);
        const uint32_t last_group = place.group, end_word = place.word_row + place.bits;
        find_place(m, begin, 0, place);
        first_group = place.group;
        /* All of the stretch's scales come with its first chunk. */
        const uint16_t *codes = m.scales + ((size_t)block * m.group_count + first_group) * 8;
        for (uint32_t i = lane; i <= last_group - first_group; i += 32)
            copy_async_16(scale_codes + i * 16, codes + i * 8);
        for (uint32_t i = first_group / 2 + lane; i <= last_group / 2; i += 32)
            copy_async_4(units + (i - first_group / 2) * 4, m.units + i * 2);
        work.codes.open(shared_address(shared) + warp * STAGES * CHUNK_BYTES,
                        m.tiles + ((size_t)block * m.word_rows + place.word_row) * 32,
                        (end_word - place.word_row) * 128, lane);
    }
    gather_places places;
    if (ONE_ROW)
        gather_early(m.invperm, m.in_features, places);
    /* Weights are nobody's output; from here on, what other kernels wrote is read. */
    let_next_start();
    wait_for_previous();
    if (ONE_ROW) {
        gather_one_row(call.x, m.invperm, m.in_features, block_begin * TILE_ROWS, (block_end - block_begin) * TILE_ROWS,
                       places, xs);
        __syncthreads();
    }
    if (streams) {
        work.x.open(call.x_half[which], begin, lane, xs + (begin - block_begin) * TILE_ROWS);
        copy_wait<STAGES - 1>();
        __syncwarp();
        for (uint32_t t = begin, stop; t < end; t = stop) {
            stop = min(place.group_end, end);
            const bool last = stop == end;
            const uint2 scales =
                lane_scales(load_shared_2(scale_codes + (place.group - first_group) * 16 + lane / 4 * 2),
                            load_shared_2(units + (place.group - (first_group & ~1u)) * 2));
            switch (place.bits) {
            case 2: work.template group<2>(stop - t, scales, lane, last); break;
            case 3: work.template group<3>(stop - t, scales, lane, last); break;
            case 4: work.template group<4>(stop - t, scales, lane, last); break;
            case 5: work.template group<5>(stop - t, scales, lane, last); break;
            case 6: work.template group<6>(stop - t, scales, lane, last); break;
            case 8: work.template group<8>(stop - t, scales, lane, last); break;
            }
            if (!last)
                next_group(m, place);
        }
    }

    /* Warps of the same columns, in order. */
    if (WK > 1) {
        copy_wait<0>();
        __syncthreads();
        float *sums = reinterpret_cast<float *>(shared);   /* [WK - 1][WN][32 columns][8 NT rows] */
        if (wk > 0) {
            each_sum<NT>(work.y, lane, [&](float &v, uint32_t row, uint32_t column) {
                if (!ONE_ROW || row == 0)
                    sums[((wk - 1) * WN + wn) * (ONE_ROW ? 32 : 256 * NT) + (ONE_ROW ? 0 : row * 32) + column] = v;
            });
        }
        __syncthreads();
        if (wk == 0) {
#pragma unroll 1
            for (uint32_t k = 0; k + 1 < WK; k++)
                each_sum<NT>(work.y, lane, [&](float &v, uint32_t row, uint32_t column) {
                    if (!ONE_ROW || row == 0)
                        v += sums[(k * WN + wn) * (ONE_ROW ? 32 : 256 * NT) + (ONE_ROW ? 0 : row * 32) + column];
                });
        }
    }

    float *y = call.y[which];
    if (args.split == 1) {
        if (wk == 0 && busy)
            each_sum<NT>(work.y, lane, [&](float &v, uint32_t row, uint32_t column) {
                if (row < call.rows)
                    store_result(m, y, call.accumulate, row, block * TILE_COLUMNS + column, v);
            });
        return;
    }

    /* Blocks of the same columns: each leaves its sums, the last to come adds them up, in order. */
    const uint32_t width = 32 * WN, piece = width * call.rows;
    float *partial = call.partial + (size_t)blockIdx.x * args.split * piece;
    if (wk == 0)
        each_sum<NT>(work.y, lane, [&](float &v, uint32_t row, uint32_t column) {
            if (row < call.rows)
                partial[(size_t)blockIdx.y * piece + row * width + wn * 32 + column] = v;
        });
    __threadfence();
    __syncthreads();
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
        is_last = atomicAdd(call.counters + blockIdx.x, 1) == args.split - 1;
        if (is_last)
            call.counters[blockIdx.x] = 0;
    }
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    for (uint32_t i = threadIdx.x; i < piece; i += 32 * WN * WK) {
        float sum = 0.0f;
        for (uint32_t z = 0; z < args.split; z++)
            sum += __ldcg(partial + (size_t)z * piece + i);
        store_result(m, y, call.accumulate, i / width, strip * width + i % width, sum);
    }
}

/* ---- choosing and launching ---- */

typedef void few_kernel(const few_args);

struct few_variant {
    few_kernel *kernel;
    uint32_t row_tiles, strips, depth, stages, blocks;   /* NT, WN, WK, STAGES, BLOCKS */
    bool one_row;
};

#define VARIANT(nt, wn, wk, stages, blocks, one) \
    { few_rows<nt, wn, wk, stages, blocks, one>, nt, wn, wk, stages, blocks, one }

/* Which is the fastest was measured on an H100 (bench_cuda_linear): see choose. */
static const struct few_variant variants[] = {
    VARIANT(1, 1, 8, 8, 4, true),     /* 0 */
    VARIANT(1, 1, 16, 8, 2, true),    /* 1 */
    VARIANT(1, 1, 32, 8, 1, true),    /* 2 */
    VARIANT(1, 1, 16, 16, 1, true),   /* 3 */
    VARIANT(1, 2, 16, 8, 1, true),    /* 4 */
    VARIANT(1, 1, 8, 8, 3, false),    /* 5 */
    VARIANT(1, 4, 4, 8, 2, false),    /* 6 */
    VARIANT(2, 4, 4, 8, 1, false),    /* 7 */
    VARIANT(4, 2, 4, 8, 2, false),    /* 8 */
    VARIANT(8, 2, 4, 8, 1, false),    /* 9 */
    VARIANT(8, 4, 2, 8, 1, false),    /* 10 */
};
enum { VARIANT_COUNT = sizeof variants / sizeof *variants };

static uint32_t strip_count(const struct few_variant *v, const struct linear_tiles *m)
{
    uint32_t blocks = m->stored_out_features / TILE_COLUMNS;
    return (blocks + v->strips - 1) / v->strips;
}

static uint32_t all_strips(const struct few_variant *v, const struct linear_few *call)
{
    uint32_t strips = 0;
    for (uint32_t i = 0; i < call->matrix_count; i++)
        strips += strip_count(v, &call->matrix[i]);
    return strips;
}

/*
 * Multiprocessors to spread over: an H100's. Not the device's own, so that memory and results are the same on every card.
 */
#define SPREAD_SMS 132u

static const struct few_variant *choose(const struct linear_few *call)
{
    if (call->variant > 0 && call->variant <= VARIANT_COUNT)
        return &variants[call->variant - 1];
    const uint32_t strips = all_strips(&variants[0], call);   /* of 32 columns */
    if (call->rows == 1)
        return strips <= SPREAD_SMS / 2 ? &variants[3] : strips <= SPREAD_SMS ? &variants[2]
             : strips <= 2 * SPREAD_SMS ? &variants[1] : &variants[0];
    if (call->rows <= 8)
        return strips <= 2 * SPREAD_SMS ? &variants[5] : &variants[6];
    if (call->rows <= 16)
        return &variants[7];
    if (call->rows <= 32)
        return &variants[8];
    return strips <= 2 * SPREAD_SMS ? &variants[9] : &variants[10];
}

/* As many blocks as run at once, if each warp still gets a few tiles. */
static uint32_t choose_split(const struct few_variant *v, const struct linear_few *call)
{
    if (call->split)
        return call->split;
    if (call->rows == 1)
        return 1;   /* a decoded token's products take no scratch at all */
    uint32_t room = SPREAD_SMS * v->blocks, strips = all_strips(v, call);
    uint32_t tiles = call->matrix[0].in_features / TILE_ROWS / v->depth;   /* of a warp, unsplit */
    uint32_t split = room / strips, most = tiles / 4;
    if (split > most)
        split = most;
    return split > 1 ? split : 1;
}

struct linear_few_scratch linear_few_scratch(const struct linear_few *call)
{
    const struct few_variant *v = choose(call);
    uint32_t split = choose_split(v, call);
    struct linear_few_scratch scratch = { 0, 0 };
    if (split > 1) {
        scratch.counter_count = all_strips(v, call);
        scratch.partial_bytes = (size_t)scratch.counter_count * split * v->strips * TILE_COLUMNS * call->rows * sizeof(float);
    }
    return scratch;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Groups that `tiles` tiles may touch. */
static uint32_t most_groups(const struct linear_few *call, uint32_t tiles)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < call->matrix_count; i++) {
        const struct linear_tiles *m = &call->matrix[i];
        uint32_t smallest = m->segment_count <= LINEAR_NEAR_SEGMENTS ? tiles : 1;
        for (uint32_t s = 0; s < m->segment_count && s < LINEAR_NEAR_SEGMENTS; s++)
            if (m->near_segments[s].group_tiles < smallest)
                smallest = m->near_segments[s].group_tiles;
        /* Whole groups, and for each segment a last one that is shorter; the first is cut. */
        uint32_t groups = tiles / smallest + m->segment_count + 1;
        if (groups > tiles)
            groups = tiles;
        if (groups > most)
            most = groups;
    }
    return most;
}

cudaError_t linear_few(const struct linear_few *call, cudaStream_t stream)
{
    const struct few_variant *v = choose(call);
    struct few_args args;
    args.call = *call;
    args.split = choose_split(v, call);
    uint32_t strips = 0;
    for (uint32_t i = 0; i < call->matrix_count; i++) {
        args.first_block[i] = strips;
        strips += strip_count(v, &call->matrix[i]);
    }

    uint32_t warps = v->strips * v->depth;
    uint32_t tiles = (call->matrix[0].in_features / TILE_ROWS + args.split - 1) / args.split;
    size_t ring_bytes = (size_t)warps * v->stages * CHUNK_BYTES;
    args.scale_offset = (uint32_t)(ring_bytes + (v->one_row ? (size_t)tiles * TILE_ROWS * sizeof(uint16_t) : 0));
    args.unit_offset = 16 * most_groups(call, (tiles + v->depth - 1) / v->depth);
    args.scale_stride = (args.unit_offset + args.unit_offset / 8 + 4 + 15) / 16 * 16;
    size_t sum_bytes = (size_t)(v->depth - 1) * v->strips * (v->one_row ? 32 : 256 * v->row_tiles) * sizeof(float);
    size_t shared = larger(args.scale_offset + (size_t)warps * args.scale_stride, sum_bytes);
    if (shared > 40 * 1024) {   /* beside what the kernel has of its own, 48 KiB are free to all */
        cudaError_t rc = cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (rc != cudaSuccess)
            return rc;
    }
    return launch(v->kernel, dim3(strips, args.split), dim3(32 * warps), shared, call->overlap, stream, args);
}
