/*
 * One row: y = x W straight from the packed codes, for the layers that a decoded token goes through one after the other.
 *
 * What counts is that memory never rests, and that a tile costs few instructions: at 3 TB/s a multiprocessor has some 40 ns for
 * each tile of 512 bytes. So there is one block a multiprocessor, which gathers x once and goes through as many strips of
 * 32 columns as fall to it, and its warps, each in its own stretch of the rows, of one width, keep the words of the next tiles on
 * their way from memory straight into registers, across strips. The first of them are asked for before the layer before is
 * done, for nobody writes weights.
 *
 *     xs      [1 or 2][in_features] fp16     x in the packed order of each matrix that the block multiplies with
 *     sums    [strips][WARPS][32 columns]    added up at the end, in order of the warps
 *     units, scales                          of each warp
 *
 * Of a pair of matrices (gate, up) only act(y[0]) * y[1] is written.
 *
 * Measured and no better: norms made while x is gathered (13% slower on the Llama-3-8B shape than in launches of their own),
 * asking the second-level cache for more of the weights meanwhile, smaller blocks that stand beside the next layer's (two of
 * one layer then share a multiprocessor while another has none), one launch from o to the next q, k and v, whose blocks wait for
 * each other while bulk copies fill rings in shared memory (3.2 ms a token of that shape instead of 2.4; why was not found out).
 */

#include "linear_kernels.h"
#include "linear_tile.cuh"

#define WARPS       16u
#define SCALE_SLOTS 4u     /* strips whose scales are on their way */

/* A warp's stretch of the rows of one matrix, the same in every strip: tiles of one segment. */
struct stretch {
    uint16_t first_tile, tiles;
    uint16_t first_word_row, bits;
    uint16_t first_group, groups;
    uint16_t group_tiles, first_left;   /* tiles of a group; of the first one, which may begin before the stretch */
};

struct one_args {
    struct linear_one call;
    struct stretch stretches[LINEAR_MAX_MATRICES][WARPS];
    uint32_t first_block[LINEAR_MAX_MATRICES + 1];   /* blockIdx.x where each matrix begins; a pair: all are the first's */
    uint32_t sums_offset, x_stride;                  /* in shared memory, bytes */
    uint32_t warp_offset, warp_stride;               /* a warp's own: units, scales */
    uint32_t units_stride, scales_stride;            /* of one matrix, of one strip */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void copy_async_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

__device__ __forceinline__ void copy_async_4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from));
}

/* ---- strips ---- */

/* The strips of a block, one after the other: a pair's first matrix's, then its second's. */
template <bool PAIR> struct strips {
    uint32_t which, first, step, each, count;   /* each: of one matrix */

    __device__ __forceinline__ void open(const one_args &args)
    {
        which = 0;
        if (!PAIR)
            while (which + 1 < args.call.matrix_count && blockIdx.x >= args.first_block[which + 1])
                which++;
        first = blockIdx.x - args.first_block[which];
        step = PAIR ? gridDim.x : args.first_block[which + 1] - args.first_block[which];
        uint32_t all = args.call.matrix[which].stored_out_features / TILE_COLUMNS;
        each = (all - first + step - 1) / step;
        count = PAIR ? 2 * each : each;
    }
    __device__ __forceinline__ uint32_t matrix(uint32_t n) const
    {
        return PAIR ? n >= each : which;
    }
    __device__ __forceinline__ uint32_t block(uint32_t n) const
    {
        return first + (PAIR && n >= each ? n - each : n) * step;
    }
};

/* ---- a warp's tiles ---- */

/* Read once, so the first-level cache needn't keep it. */
__device__ __forceinline__ uint4 load_words_4(const char *from)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

__device__ __forceinline__ uint2 load_words_2(const char *from)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}

__device__ __forceinline__ uint32_t load_words_1(const char *from)
{
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.u32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}

/* A lane's words of the tile at `from`. */
template <int B> __device__ __forceinline__ void load_tile(const char *from, uint32_t lane, uint32_t (&w)[B])
{
    int v = 0;
    if (B >= 4) {
        uint4 a = load_words_4(from + lane * 16);
        w[0] = a.x, w[1 % B] = a.y, w[2 % B] = a.z, w[3 % B] = a.w;
        from += 512, v = 4;
    }
    if (B == 8) {
        uint4 a = load_words_4(from + lane * 16);
        w[4 % B] = a.x, w[5 % B] = a.y, w[6 % B] = a.z, w[7 % B] = a.w;
    }
    if (B == 2 || B == 3 || B == 6) {
        uint2 a = load_words_2(from + lane * 8);
        w[v % B] = a.x, w[(v + 1) % B] = a.y;
        from += 256, v += 2;
    }
    if (B == 3 || B == 5)
        w[v % B] = load_words_1(from + lane * 4);
}

/* Where the warp's stretch of strip n begins. */
template <bool PAIR>
__device__ __forceinline__ const char *strip_words(const one_args &args, const strips<PAIR> &s, uint32_t warp, uint32_t n)
{
    const linear_tiles &m = args.call.matrix[s.matrix(n)];
    const stretch &here = args.stretches[s.matrix(n)][warp];
    return reinterpret_cast<const char *>(m.tiles + ((size_t)s.block(n) * m.word_rows + here.first_word_row) * 32);
}

/* Strip n's scales on their way to shared memory, or nothing, as one group of copies. */
template <bool PAIR>
__device__ __forceinline__ void fetch_scales(const one_args &args, const strips<PAIR> &s, uint32_t warp, uint32_t n,
                                             uint32_t slots, uint32_t lane)
{
    if (n < s.count) {
        const linear_tiles &m = args.call.matrix[s.matrix(n)];
        const stretch &here = args.stretches[s.matrix(n)][warp];
        const uint16_t *codes = m.scales + ((size_t)s.block(n) * m.group_count + here.first_group) * 8;
        for (uint32_t g = lane; g < here.groups; g += 32)
            copy_async_16(slots + n % SCALE_SLOTS * args.scales_stride + g * 16, codes + g * 8);
    }
    asm volatile("cp.async.commit_group;");
}

/*
 * Strips [from, to), in which this warp's tiles all have B bits. AHEAD tiles are always on their way. `ready` is called once
 * the first of them are: what it leaves in xs is the row.
 */
template <int B, bool PAIR, class Ready>
__device__ __forceinline__ void run(const one_args &args, const strips<PAIR> &s, uint32_t from, uint32_t to, uint32_t warp,
                                    uint32_t lane, uint32_t units, uint32_t slots, uint32_t xs, float *sums, Ready ready)
{
    constexpr uint32_t AHEAD = B == 8 ? 4 : B == 6 ? 5 : B == 5 ? 6 : 8;
    const stretch &shape = args.stretches[s.matrix(from)][warp];
    const uint32_t tiles = shape.tiles;   /* of each strip */
    uint32_t w[AHEAD][B];
    const char *next = strip_words(args, s, warp, from);
    uint32_t next_strip = from, next_left = tiles;

    auto advance = [&]() {
        next += B * 128;
        if (--next_left == 0) {
            next_left = tiles;
            if (++next_strip < to)
                next = strip_words(args, s, warp, next_strip);
        }
    };
#pragma unroll
    for (uint32_t j = 0; j < AHEAD; j++)
        if (next_strip < to) {
            load_tile<B>(next, lane, w[j]);
            advance();
        }
    ready();

    uint32_t n = from, left = tiles, group_left = 0, group = 0, x = 0;
    float sum[2][4] = {}, y[4] = {};
    while (n < to) {
#pragma unroll
        for (uint32_t j = 0; j < AHEAD; j++) {
            uint32_t a[16];
            if (left == tiles) {   /* a strip begins */
                const uint32_t which = s.matrix(n);
                asm volatile("cp.async.wait_group %0;" ::"n"(SCALE_SLOTS - 1) : "memory");
                __syncwarp();
                x = xs + (PAIR ? which * args.x_stride : 0) + args.stretches[which][warp].first_tile * (2 * TILE_ROWS) +
                    lane % 4 * 16;
                group_left = args.stretches[which][warp].first_left;
                group = 0;
            }
            const uint4 b = load_shared_16(x);
            unpack<B>::run(w[j], a);
            if (next_strip < to) {
                load_tile<B>(next, lane, w[j]);
                advance();
            }
            x += 2 * TILE_ROWS;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_16x8x16(sum[i], a[8 * i], a[8 * i + 4], a[8 * i + 1], a[8 * i + 5], b.x, b.y);
                mma_16x8x16(sum[i], a[8 * i + 2], a[8 * i + 6], a[8 * i + 3], a[8 * i + 7], b.z, b.w);
            }
            left--;
            if (--group_left == 0 || left == 0) {   /* the group's sums get its scales */
                const uint32_t which = s.matrix(n);
                const uint2 scales =
                    lane_scales(load_shared_2(slots + n % SCALE_SLOTS * args.scales_stride + group * 16 + lane / 4 * 2),
                                load_shared_2(units + (PAIR ? which * args.units_stride : 0) +
                                              (group + args.stretches[which][warp].first_group % 2) * 2));
                const float2 low = __half22float2(bits_half2(scales.x)), high = __half22float2(bits_half2(scales.y));
                y[0] += low.x * sum[0][0];
                y[1] += low.y * sum[0][2];
                y[2] += high.x * sum[1][0];
                y[3] += high.y * sum[1][2];
#pragma unroll
                for (int i = 0; i < 8; i++)
                    sum[i / 4][i % 4] = 0.0f;
                group++;
                group_left = args.stretches[which][warp].group_tiles;
                if (left == 0) {
                    if (lane % 4 == 0) {
                        float *at = sums + (n * WARPS + warp) * 32 + lane / 4;
#pragma unroll
                        for (int i = 0; i < 4; i++)
                            at[8 * i] = y[i];
                    }
                    y[0] = y[1] = y[2] = y[3] = 0.0f;
                    __syncwarp();
                    fetch_scales(args, s, warp, n + SCALE_SLOTS, slots, lane);
                    left = tiles;
                    if (++n == to)
                        break;
                }
            }
        }
    }
}

/* ---- x ---- */

#define GATHERED 2u   /* times four elements a thread are gathered at once; 4 took 4% longer, a token of the 8B shape */

__device__ __forceinline__ void scatter(uint16_t *xs, ushort4 to, float4 v)
{
    xs[to.x] = __half_as_ushort(__float2half_rn(v.x));
    xs[to.y] = __half_as_ushort(__float2half_rn(v.y));
    xs[to.z] = __half_as_ushort(__float2half_rn(v.z));
    xs[to.w] = __half_as_ushort(__float2half_rn(v.w));
}

/* Places of the first elements, which don't hang on the layer before. */
template <bool PAIR> struct places {
    ushort4 to[PAIR ? 2 : 1][GATHERED];
};

template <bool PAIR>
__device__ __forceinline__ void fetch_places(const struct linear_one &call, uint32_t which, uint32_t base, places<PAIR> &p)
{
#pragma unroll
    for (uint32_t i = 0; i < GATHERED; i++) {
        uint32_t k = base + (threadIdx.x + i * 32 * WARPS) * 4;
        if (k >= call.matrix[0].in_features)
            break;
        p.to[0][i] = *reinterpret_cast<const ushort4 *>(call.matrix[which].invperm + k);
        if (PAIR)
            p.to[PAIR ? 1 : 0][i] = *reinterpret_cast<const ushort4 *>(call.matrix[1].invperm + k);
    }
}

template <bool PAIR>
__device__ __forceinline__ void gather(const struct linear_one &call, uint32_t which, places<PAIR> &p, uint16_t *xs,
                                       uint16_t *xs_other)
{
    const uint32_t width = call.matrix[0].in_features;
    for (uint32_t base = 0; base < width; base += GATHERED * 32 * WARPS * 4) {
        float4 v[GATHERED];
#pragma unroll
        for (uint32_t i = 0; i < GATHERED; i++) {
            uint32_t k = base + (threadIdx.x + i * 32 * WARPS) * 4;
            v[i] = k < width ? *reinterpret_cast<const float4 *>(call.x + k) : make_float4(0, 0, 0, 0);
        }
        if (base > 0)
            fetch_places(call, which, base, p);
#pragma unroll
        for (uint32_t i = 0; i < GATHERED; i++) {
            if (base + (threadIdx.x + i * 32 * WARPS) * 4 >= width)
                break;
            scatter(xs, p.to[0][i], v[i]);
            if (PAIR)
                scatter(xs_other, p.to[PAIR ? 1 : 0][i], v[i]);
        }
    }
}

/* ---- y ---- */

/* Both to some 2^-20, like the CPU's; gelu as x / (1 + exp(-2 u)), for (1 + tanh u) / 2 is just that. */
__device__ __forceinline__ float activate(enum linear_gate gate, float x)
{
    float u = gate == LINEAR_GATE_SILU ? -x : -1.5957691216057308f * (x + 0.044715f * x * x * x);
    return x / (1.0f + __expf(u));
}

__device__ __forceinline__ float add_up(const float *sums, uint32_t lane)
{
    float sum = sums[lane];
#pragma unroll
    for (int k = 1; k < WARPS; k++)
        sum += sums[k * 32 + lane];
    return sum;
}

/* All strips of the block, a warp each, or for each two of a pair. */
template <bool PAIR>
__device__ __forceinline__ void finish(const struct linear_one &call, const strips<PAIR> &s, const float *sums)
{
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t n = threadIdx.x / 32; n < s.each; n += WARPS) {
        const uint32_t which = s.matrix(n), column = s.block(n) * TILE_COLUMNS + lane;
        const linear_tiles &m = call.matrix[which];
        if (column >= m.out_features)
            continue;
        float value = add_up(sums + n * WARPS * 32, lane) + (m.bias ? m.bias[column] : 0.0f);
        if (PAIR) {
            const float *bias = call.matrix[1].bias;
            const float other = add_up(sums + (s.each + n) * WARPS * 32, lane) + (bias ? bias[column] : 0.0f);
            value = activate(call.gate, value) * other;
        }
        float *at = call.y[which] + column;
        *at = call.accumulate ? *at + value : value;
    }
}

/* ---- the kernel ---- */

template <bool PAIR>
__global__ void __launch_bounds__(32 * WARPS, 1) one_row(const __grid_constant__ one_args args)
{
    extern __shared__ __align__(128) char shared[];
    const struct linear_one &call = args.call;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t units = shared_address(shared) + args.warp_offset + warp * args.warp_stride;
    const uint32_t slots = units + args.units_stride * (PAIR ? 2 : 1);
    uint16_t *xs = reinterpret_cast<uint16_t *>(shared);
    float *sums = reinterpret_cast<float *>(shared + args.sums_offset);
    strips<PAIR> s;

    let_next_start();
    s.open(args);
    for (uint32_t i = 0; i < (PAIR ? 2 : 1); i++) {
        const stretch &here = args.stretches[PAIR ? i : s.which][warp];
        const uint16_t *from = call.matrix[PAIR ? i : s.which].units + here.first_group / 2 * 2;
        for (uint32_t g = lane * 2; g < here.groups + 1u; g += 64)   /* pairs, for the first may be odd */
            copy_async_4(units + i * args.units_stride + g * 2, from + g);
    }
    for (uint32_t n = 0; n < SCALE_SLOTS; n++)
        fetch_scales(args, s, warp, n, slots, lane);
    places<PAIR> first;
    fetch_places(call, s.which, 0, first);

    /* Weights are nobody's output; from here on, what other kernels wrote is read. */
    auto ready = [&]() {
        wait_for_previous();
        gather(call, s.which, first, xs, xs + args.x_stride / 2);
        __syncthreads();
    };
    auto nothing = []() {};
    const uint32_t bits = args.stretches[s.matrix(0)][warp].bits;
    const uint32_t others = PAIR ? args.stretches[1][warp].bits : bits;
    const bool alike = !PAIR || (others == bits && args.stretches[0][warp].tiles == args.stretches[1][warp].tiles);
    const uint32_t to = alike ? s.count : s.each;
    const uint32_t x = shared_address(xs);
    switch (bits) {
    case 2: run<2>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    case 3: run<3>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    case 4: run<4>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    case 5: run<5>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    case 6: run<6>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    case 8: run<8>(args, s, 0, to, warp, lane, units, slots, x, sums, ready); break;
    default:
        ready();
        for (uint32_t n = 0; n < to; n++)
            fetch_scales(args, s, warp, n + SCALE_SLOTS, slots, lane);
    }
    if (PAIR && to < s.count) {
        switch (others) {
        case 2: run<2>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        case 3: run<3>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        case 4: run<4>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        case 5: run<5>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        case 6: run<6>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        case 8: run<8>(args, s, to, s.count, warp, lane, units, slots, x, sums, nothing); break;
        }
    }
    /* A warp without tiles adds nothing. */
    for (uint32_t n = 0; n < s.count; n++)
        if (args.stretches[s.matrix(n)][warp].tiles == 0)
            sums[(n * WARPS + warp) * 32 + lane] = 0.0f;
    __syncthreads();
    finish(call, s, sums);
}

/* ---- launching ---- */

/* Multiprocessors to spread over: an H100's. Not the device's own, so that memory is the same on every card. */
#define SPREAD_BLOCKS 132u

typedef void one_kernel(const one_args);
static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t strips_of(const struct linear_tiles *m)
{
    return m->stored_out_features / TILE_COLUMNS;
}

/*
 * Each segment, which has one width, gets warps by its share of the bytes, and at least one; those cut it evenly. False
 * when there are more segments than can be looked at here.
 */
static bool stretch_out(const struct linear_tiles *m, struct stretch *out)
{
    const uint32_t count = m->segment_count, tiles = m->in_features / TILE_ROWS;
    uint32_t words_left = m->word_rows, warps_left = WARPS;

    if (count > LINEAR_NEAR_SEGMENTS)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct linear_segment *s = &m->near_segments[i];
        const uint32_t end = i + 1 < count ? m->near_segments[i + 1].first_tile : tiles, length = end - s->first_tile;
        const uint32_t words = length * s->bits, others = count - i - 1;
        uint32_t warps = others ? (words * warps_left + words_left / 2) / words_left : warps_left;
        warps = least(most(warps, 1), warps_left - others);
        for (uint32_t k = 0; k < warps; k++) {
            const uint32_t begin = length * k / warps, stop = length * (k + 1) / warps;
            struct stretch *here = out++;
            *here = {};
            if (begin == stop)
                continue;
            const uint32_t group = begin / s->group_tiles, last = (stop - 1) / s->group_tiles;
            here->first_tile = (uint16_t)(s->first_tile + begin);
            here->tiles = (uint16_t)(stop - begin);
            here->first_word_row = (uint16_t)(s->first_word_row + begin * s->bits);
            here->bits = s->bits;
            here->first_group = (uint16_t)(s->first_group + group);
            here->groups = (uint16_t)(last - group + 1);
            here->group_tiles = s->group_tiles;
            here->first_left = (uint16_t)((group + 1) * s->group_tiles - begin);
        }
        words_left -= words;
        warps_left -= warps;
    }
    return true;
}

/* How many blocks each matrix gets, by its strips. */
static uint32_t spread(const struct linear_one *call, uint32_t blocks, uint32_t *first_block)
{
    uint32_t strips[LINEAR_MAX_MATRICES], all = 0, largest = 0, used = 0;

    for (uint32_t i = 0; i < call->matrix_count; i++) {
        strips[i] = call->matrix[i].stored_out_features / TILE_COLUMNS;
        all += strips[i];
        largest = strips[i] > strips[largest] ? i : largest;
    }
    uint32_t share[LINEAR_MAX_MATRICES];
    for (uint32_t i = 0; i < call->matrix_count; i++) {
        share[i] = all <= blocks ? strips[i] : strips[i] * blocks / all;
        share[i] = share[i] ? share[i] : 1;
        used += share[i];
    }
    if (used < blocks && used < all)
        share[largest] += (blocks < all ? blocks : all) - used;
    first_block[0] = 0;
    for (uint32_t i = 0; i < call->matrix_count; i++)
        first_block[i + 1] = first_block[i] + share[i];
    return first_block[call->matrix_count];
}

/* Bytes of shared memory; 0: the matrices are none for this kernel. */
static size_t prepare(const struct linear_one *call, struct one_args *args, uint32_t *blocks)
{
    const bool pair = call->gate != LINEAR_GATE_NONE;
    uint32_t strips = 0, groups = 0;

    *args = {};
    args->call = *call;
    for (uint32_t i = 0; i < call->matrix_count; i++)
        if (!stretch_out(&call->matrix[i], args->stretches[i]))
            return 0;
    if (pair) {
        *blocks = least(strips_of(&call->matrix[0]), SPREAD_BLOCKS);
        strips = 2 * ((strips_of(&call->matrix[0]) + *blocks - 1) / *blocks);
    } else {
        *blocks = spread(call, SPREAD_BLOCKS, args->first_block);
        for (uint32_t i = 0; i < call->matrix_count; i++) {
            const uint32_t share = args->first_block[i + 1] - args->first_block[i];
            strips = most(strips, (strips_of(&call->matrix[i]) + share - 1) / share);
        }
    }
    for (uint32_t i = 0; i < call->matrix_count; i++)
        for (uint32_t k = 0; k < WARPS; k++)
            groups = most(groups, args->stretches[i][k].groups);
    args->x_stride = call->matrix[0].in_features * (uint32_t)sizeof(uint16_t);
    args->sums_offset = args->x_stride * (pair ? 2 : 1);
    args->warp_offset = args->sums_offset + strips * WARPS * 32 * (uint32_t)sizeof(float);
    args->units_stride = (2 * groups + 4 + 15) / 16 * 16;
    args->scales_stride = 16 * groups;
    args->warp_stride = args->units_stride * (pair ? 2 : 1) + args->scales_stride * SCALE_SLOTS;
    return args->warp_offset + (size_t)args->warp_stride * WARPS;
}

bool linear_one_takes(const struct linear_one *call, size_t shared_bytes)
{
    struct one_args args;
    uint32_t blocks;
    size_t bytes = prepare(call, &args, &blocks);

    return bytes > 0 && bytes + 1024 <= shared_bytes;
}


cudaError_t linear_one(const struct linear_one *call, cudaStream_t stream)
{
    struct one_args args;
    uint32_t blocks;
    const size_t bytes = prepare(call, &args, &blocks);
    one_kernel *kernel = call->gate == LINEAR_GATE_NONE ? one_row<false> : one_row<true>;

    if (bytes == 0)
        return cudaErrorInvalidValue;
    if (bytes > 40 * 1024) {   /* beside what the kernel has of its own, 48 KiB are free to all */
        cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
        if (rc != cudaSuccess)
            return rc;
    }
    return launch(kernel, dim3(blocks), dim3(32 * WARPS), bytes, call->overlap, stream, args);
}
