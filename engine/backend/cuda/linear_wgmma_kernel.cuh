#ifndef PLIM_CUDA_LINEAR_WGMMA_KERNEL_CUH
#define PLIM_CUDA_LINEAR_WGMMA_KERNEL_CUH

/*
 * Many rows on Hopper (sm_90a): a kernel that expands codes in registers, where wgmma takes its A operand from, so that
 * no expanded weight is ever in memory.
 *
 * A block makes 128 columns by N rows of y. Two warpgroups multiply: a warp has 32 columns, one tile (linear_tile.cuh; the
 * registers are those of mma.m16n8k16), of which the first warpgroup takes columns 0 to 15, the second 16 to 31. A stage is
 * two tiles, 64 rows of W: four wgmma of 64 columns by 16 rows, which read x from shared memory; while they run, the next
 * stage is expanded into other registers. A ninth warp brings stages: codes by bulk copies, x by tensor copies, which put in
 * the 128-byte swizzle that wgmma wants, and zeros where x ends. Barriers say which stages are full and which empty.
 *
 *   x_half [rows][in_features] in LINEAR_WGMMA order: within 32 columns, packed row 8 q + 4 s + 2 j + e stands at
 *   16 s + 8 j + 2 q + e, which is where wgmma looks for what lane q holds.
 *
 * Blocks come in clusters. Many rows: of two neighbours in columns, each of which brings half of x for both; they go on from
 * unit to unit of y until all are done. Few (SPLIT): of blocks that share the rows of W, and whose sums are added, always in
 * the same order, through shared memory.
 */

#include "hopper.cuh"
#include "linear_operands.cuh"
#include "linear_wgmma.cuh"

#define WORKERS       8u                  /* warps that multiply */
#define CODES_BYTES   2048u               /* of a column block in a stage, at most */
#define SUM_STRIDE    (BLOCK_COLUMNS + 4u)

/* What a block has in shared memory: stages of x and codes, then their barriers; in the end sums [N][SUM_STRIDE]. */
template <int N> struct layout {
    static constexpr uint32_t stages = N == 256 ? 5 : N == 128 ? 8 : 6;
    static constexpr uint32_t x_bytes = N * 128, stage_bytes = x_bytes + 4 * CODES_BYTES;
    static constexpr uint32_t barriers = stages * stage_bytes, bytes = barriers + stages * 16;
    static constexpr int blocks = N <= 64 ? 2 : 1;   /* of a multiprocessor */
    /* The bringing warp comes as a warpgroup where it has registers to give away. */
    static constexpr uint32_t threads = 32 * WORKERS + (N == 256 ? 128 : 32);
    static_assert(N * SUM_STRIDE * 4 <= barriers, "sums fit");

    uint32_t base;
    __device__ __forceinline__ uint32_t x(uint32_t slot) const
    {
        return base + slot * stage_bytes;
    }
    __device__ __forceinline__ uint32_t codes(uint32_t slot) const
    {
        return base + slot * stage_bytes + x_bytes;
    }
    __device__ __forceinline__ uint32_t full(uint32_t slot) const
    {
        return base + barriers + slot * 16;
    }
    __device__ __forceinline__ uint32_t empty(uint32_t slot) const
    {
        return base + barriers + slot * 16 + 8;
    }
};

#ifdef HAVE_HOPPER
/* ---- a block's work ---- */

__device__ __forceinline__ void workers_sync()
{
    asm volatile("bar.sync 1, %0;" ::"n"(32 * WORKERS) : "memory");
}

struct work {
    const linear_tiles *matrix;
    uint32_t which;
    uint32_t column_block;            /* of 32 columns, the first */
    uint32_t first_row, rows;         /* of x */
    uint32_t rank, cluster;
    uint32_t first_stage, end_stage;
};

template <int N, enum cut CUT> __device__ __forceinline__ work find_work(const wide_args &args, uint32_t unit)
{
    const struct linear_wgmma &call = args.call;
    const uint32_t column_unit = unit / args.row_blocks;
    work w;

    w.which = 0;
    while (w.which + 1 < call.matrix_count && column_unit >= args.first_unit[w.which + 1])
        w.which++;
    w.matrix = &call.matrix[w.which];
    w.rank = blockIdx.x % args.cluster;
    w.cluster = args.cluster;
    w.first_row = unit % args.row_blocks * N;
    w.rows = min(call.rows - w.first_row, (uint32_t)N);
    const uint32_t local = column_unit - args.first_unit[w.which], stages = (w.matrix->in_features + STAGE_ROWS - 1) / STAGE_ROWS;
    w.column_block = (CUT == SPLIT ? local : local * args.cluster + w.rank) * (BLOCK_COLUMNS / TILE_COLUMNS);
    w.first_stage = CUT == SPLIT ? stages * w.rank / args.cluster : 0;
    w.end_stage = CUT == SPLIT ? stages * (w.rank + 1) / args.cluster : stages;
    return w;
}

/* Stages in turn: slot, and which time round. */
template <int N> struct turn {
    uint32_t slot, round;

    __device__ __forceinline__ void next()
    {
        if (++slot == layout<N>::stages)
            slot = 0, round++;
    }
};

/* ---- bringing: one thread ---- */

/* Of one matrix: where its next codes are, of a column block each, and the widths they have. */
struct code_feed {
    const char *codes[BLOCK_COLUMNS / TILE_COLUMNS];
    tile_place place;

    __device__ __forceinline__ void open(const linear_tiles &m, uint32_t column_block, uint32_t stage)
    {
        const uint32_t last_block = m.stored_out_features / TILE_COLUMNS - 1;
        find_place(m, stage * 2, 0, place);
#pragma unroll
        for (uint32_t i = 0; i < BLOCK_COLUMNS / TILE_COLUMNS; i++)
            codes[i] = reinterpret_cast<const char *>(m.tiles) +
                       ((size_t)min(column_block + i, last_block) * m.word_rows + place.word_row) * 128;
    }
    /* Bytes of a stage's two tiles. */
    __device__ __forceinline__ uint32_t stage_bytes(const linear_tiles &m, uint32_t stage)
    {
        uint32_t bytes = 0;
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
            if (stage * 2 + h < m.in_features / TILE_ROWS) {
                if (stage * 2 + h == place.group_end)
                    next_group(m, place);
                bytes += place.bits * 128;
            }
        return bytes;
    }
    __device__ __forceinline__ void copy(uint32_t to, uint32_t bytes, uint32_t full)
    {
#pragma unroll
        for (uint32_t i = 0; i < BLOCK_COLUMNS / TILE_COLUMNS; i++) {
            copy_bulk(to + i * CODES_BYTES, codes[i], bytes, full);
            codes[i] += bytes;
        }
    }
};

template <int N, enum cut CUT>
__device__ __forceinline__ void bring(const wide_args &args, const work &w, layout<N> shared, turn<N> &at)
{
    const linear_tiles &m = *w.matrix;
    const bool both = CUT != SPLIT && w.cluster == 2;
    const uint32_t first = both ? w.rank * (N / 2) : 0;   /* row of the block's x that this one brings */
    const CUtensorMap *x = &args.x[w.which];
    code_feed feed;

    feed.open(m, w.column_block, w.first_stage);
    for (uint32_t stage = w.first_stage; stage < w.end_stage; stage++, at.next()) {
        const uint32_t slot = at.slot, full = shared.full(slot);
        barrier_wait(shared.empty(slot), ~at.round & 1);   /* the first time round it is as if one had been emptied */
        const uint32_t bytes = feed.stage_bytes(m, stage);
        barrier_expect(full, shared.x_bytes + 4 * bytes);
        feed.copy(shared.codes(slot), bytes, full);
        if (stage == w.first_stage)
            wait_for_previous();
        if (both)
            copy_box_to_both(shared.x(slot) + first * 128, x, stage * STAGE_ROWS, w.first_row + first, full);
        else
            copy_box(shared.x(slot), x, stage * STAGE_ROWS, w.first_row, full);
    }
}

/* ---- multiplying ---- */

/*
 * B: the width of all tiles, 0: any. Not zeroed before: the first products overwrite. The compiler would put the zeros amid
 * the asynchronous products. `there`: true, see operand_feed.
 */
template <int N, enum cut CUT, int B, int STRIP>
__device__ __forceinline__ void multiply(const work &w, layout<N> shared, uint32_t warp, uint32_t lane, bool there, turn<N> &at,
                                         float (&y)[N / 2])
{
    const uint32_t tiles = w.matrix->in_features / TILE_ROWS;
    const uint32_t block = warp % 4;
    const bool both = CUT != SPLIT && w.cluster == 2;
    operand_feed<STRIP> feed(*w.matrix, w.column_block + block, w.first_stage * 2, lane);
    uint32_t a[2][2][8], stage = w.first_stage, add = 0, before = 0, before_that = 0;   /* slots of the last two stages */

    auto release = [&](uint32_t slot) {
        const uint32_t empty = shared.empty(slot);
        __syncwarp();   /* the whole warp has read */
        if (both ? lane < 2 : lane == 0)
            barrier_arrive_at(in_block(empty, both ? lane : w.rank));
    };
    auto step = [&](uint32_t (&a)[2][8]) {
        const uint64_t x = swizzled_operand(shared.x(at.slot));
        uint32_t words = shared.codes(at.slot) + block * CODES_BYTES;
        barrier_wait(shared.full(at.slot), at.round & 1);
        wgmma_wait<1>();   /* the products before last are done: these registers are free, and so is their stage */
        if (stage > w.first_stage + 1)
            release(before_that);
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
            if (B > 0 || stage * 2 + h < tiles) {
                feed.template next<B>(stage * 2 + h, there, words, a[h]);
            } else {
#pragma unroll
                for (uint32_t i = 0; i < 8; i++)
                    a[h][i] = 0;
            }
        wgmma_fence();
#pragma unroll
        for (uint32_t h = 0; h < 2; h++)
#pragma unroll
            for (uint32_t s = 0; s < 2; s++)
                wgmma(y, a[h][2 * s], a[h][4 + 2 * s], a[h][1 + 2 * s], a[h][5 + 2 * s], x + (4 * h + 2 * s), add | h | s);
        wgmma_commit();
        before_that = before, before = at.slot, add = 1;
        stage++, at.next();
    };
    while (true) {
        step(a[0]);
        if (stage == w.end_stage)
            break;
        step(a[1]);
        if (stage == w.end_stage)
            break;
    }
    wgmma_wait<0>();
    if (stage > w.first_stage + 1)
        release(before_that);
    release(before);
}

/* ---- sums to y ---- */

template <int N> __device__ __forceinline__ void leave_sums(uint32_t base, uint32_t warp, uint32_t lane, const float (&y)[N / 2])
{
    const uint32_t column = warp % 4 * 32 + warp / 4 * 16 + lane / 4;
#pragma unroll
    for (uint32_t n = 0; n < N / 8; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = 8 * n + lane % 4 * 2 + i % 2;
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(base + (row * SUM_STRIDE + column + i / 2 * 8) * 4), "f"(y[4 * n + i])
                         : "memory");
        }
}

__device__ __forceinline__ float4 load_sums(uint32_t there)
{
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there));
    return v;
}

/* Four columns of a row. */
__device__ __forceinline__ void store(const struct linear_wgmma &call, const work &w, uint32_t row, uint32_t column, float4 sum)
{
    const linear_tiles &m = *w.matrix;
    const size_t at = (size_t)row * m.out_features + column;
    float v[4] = { sum.x, sum.y, sum.z, sum.w };

    if (column >= m.out_features)
        return;
    const uint32_t count = min(m.out_features - column, 4u);
    if (m.bias)
        for (uint32_t i = 0; i < count; i++)
            v[i] += m.bias[column + i];
    if (call.y_half[w.which]) {
        half2 low = __floats2half2_rn(v[0], v[1]), high = __floats2half2_rn(v[2], v[3]);
        *reinterpret_cast<uint2 *>(call.y_half[w.which] + at) = make_uint2(half2_bits(low), half2_bits(high));
        return;
    }
    float *to = call.y[w.which] + at;
    if (m.out_features % 4 == 0) {
        float4 *four = reinterpret_cast<float4 *>(to);
        if (call.accumulate) {
            const float4 old = *four;
            v[0] += old.x, v[1] += old.y, v[2] += old.z, v[3] += old.w;
        }
        *four = make_float4(v[0], v[1], v[2], v[3]);
    } else {
        for (uint32_t i = 0; i < count; i++)
            to[i] = call.accumulate ? to[i] + v[i] : v[i];
    }
}

/* Adds without waiting for what is there. One thread adds to each element, so it is the same sum every time. */
__device__ __forceinline__ void add_to(float *at, float value)
{
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(at), "f"(value) : "memory");
}

/* Sums straight to y. */
template <int N, int STRIP>
__device__ __forceinline__ void store_sums(const struct linear_wgmma &call, const work &w, uint32_t warp, uint32_t lane,
                                           float (&y)[N / 2])
{
    const linear_tiles &m = *w.matrix;
    const uint32_t block = w.column_block + warp % 4, c = lane / 4, q = lane % 4;
    const uint32_t strip = block * TILE_COLUMNS + STRIP * 16, column = strip + c;
    const size_t stride = m.out_features;
    const bool there[2] = { column < stride, column + 8 < stride };

    if (block * TILE_COLUMNS >= m.stored_out_features)
        return;
    if (m.bias) {
        const float bias[2] = { there[0] ? m.bias[column] : 0.0f, there[1] ? m.bias[column + 8] : 0.0f };
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            y[i] += bias[i / 2 % 2];
    }
    if (call.y_half[w.which]) {
        /* Transposed in eights and shared between neighbours: four columns a lane, the strip's 16 by four lanes. */
        const uint32_t first = q % 2 * 8 + q / 2 * 4;
        uint16_t *to = call.y_half[w.which] + (size_t)(w.first_row + c) * stride + strip + first;
#pragma unroll
        for (uint32_t n = 0; n < N / 8; n++) {
            uint32_t low, high;
            half2 pair[2] = { __floats2half2_rn(y[4 * n], y[4 * n + 1]), __floats2half2_rn(y[4 * n + 2], y[4 * n + 3]) };
            asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(low) : "r"(half2_bits(pair[0])));
            asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(high) : "r"(half2_bits(pair[1])));
            const uint32_t other = __shfl_xor_sync(0xffffffffu, q % 2 ? low : high, 1);
            if (8 * n + c < w.rows && strip + first < stride)
                *reinterpret_cast<uint2 *>(to + 8 * n * stride) = q % 2 ? make_uint2(other, high) : make_uint2(low, other);
        }
        return;
    }
    float *to = call.y[w.which] + (size_t)(w.first_row + 2 * q) * stride + column;
#pragma unroll
    for (uint32_t n = 0; n < N / 8; n++)
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            float *at = to + (8 * n + i % 2) * stride + i / 2 * 8;
            if (8 * n + 2 * q + i % 2 >= w.rows || !there[i / 2])
                continue;
            if (call.accumulate)
                add_to(at, y[4 * n + i]);
            else
                *at = y[4 * n + i];
        }
}

template <int N, enum cut CUT, int B, int STRIP>
__device__ __forceinline__ void work_on(const wide_args &args, layout<N> shared, uint32_t warp, uint32_t lane)
{
    turn<N> at = { 0, 0 };

    for (uint32_t unit = blockIdx.x / args.cluster; unit < args.units; unit += gridDim.x / args.cluster) {
        const work w = find_work<N, CUT>(args, unit);
        float y[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            asm volatile("" : "=f"(y[i]));
        multiply<N, CUT, B, STRIP>(w, shared, warp, lane, args.call.rows > 0, at, y);
        if (CUT == SPLIT) {
            workers_sync();   /* nobody reads x any more */
            leave_sums<N>(shared.base, warp, lane, y);
            wait_for_previous();
        } else {
            wait_for_previous();
            store_sums<N, STRIP>(args.call, w, warp, lane, y);
        }
    }
}

template <int N, enum cut CUT, int B>
__global__ void __launch_bounds__(layout<N>::threads, layout<N>::blocks) many_rows(const __grid_constant__ wide_args args)
{
    extern __shared__ __align__(1024) char memory[];
    const layout<N> shared = { (uint32_t)__cvta_generic_to_shared(memory) };
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    if (threadIdx.x < shared.stages) {
        barrier_init(shared.full(threadIdx.x), 1);
        barrier_init(shared.empty(threadIdx.x), WORKERS * (CUT == SPLIT ? 1 : args.cluster));
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    let_next_start();
    __syncthreads();
    cluster_meet();
    if (warp >= WORKERS) {
        if (N == 256)
            fewer_registers<40>();
        if (warp == WORKERS && lane == 0) {
            turn<N> at = { 0, 0 };
            for (uint32_t unit = blockIdx.x / args.cluster; unit < args.units; unit += gridDim.x / args.cluster)
                bring<N, CUT>(args, find_work<N, CUT>(args, unit), shared, at);
        }
        __syncwarp();
    } else {
        if (N == 256)
            more_registers<232>();
        if (warp < 4)
            work_on<N, CUT, B, 0>(args, shared, warp, lane);
        else
            work_on<N, CUT, B, 1>(args, shared, warp, lane);
    }
    if (CUT == SPLIT) {
        cluster_sync();
        const work w = find_work<N, CUT>(args, blockIdx.x / args.cluster);
        for (uint32_t row = w.rank * WORKERS + warp; warp < WORKERS && row < w.rows; row += WORKERS * w.cluster) {
            const uint32_t at = shared.base + (row * SUM_STRIDE + lane * 4) * 4;
            float4 sum = load_sums(in_block(at, 0));
            for (uint32_t q = 1; q < w.cluster; q++) {
                const float4 more = load_sums(in_block(at, q));
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            store(args.call, w, w.first_row + row, w.column_block * TILE_COLUMNS + lane * 4, sum);
        }
    }
    cluster_meet();   /* barriers and sums of one are used by the others */
}
#else
template <int N, enum cut CUT, int B> __global__ void many_rows(const __grid_constant__ wide_args args)
{
}
#endif

/* ---- to be launched ---- */

#define WIDE_VARIANT(n, cut, bits, stage_ns) { many_rows<n, cut, bits>, n, layout<n>::bytes, layout<n>::threads, cut, stage_ns }

#endif
