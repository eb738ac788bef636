/*
 * The scale searches of one group on CUDA: ExLlamaV2's (format notes, 6.5) and our own. Kernels after another, and the result
 * stays on the device.
 *
 *   column_maximum   the largest magnitude of each column, as the scale that fills its range; the largest of a tile
 *   search_tile      levels from these; then each warp sums the errors of a few candidates over a tile of 32 columns
 *   choose_candidate the sums over the tiles, in order, and the best candidate
 *
 *   column_maximum   likewise
 *   fit_tile         each warp tries one size of the group's maximum on a tile: the best of the levels for each column
 *   choose_maximum   the sums over the tiles, in order, and the best size; take_levels: the levels that go with it
 */

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "quantize_cuda.h"
#include "cpu/gptq_kernels.h"
#include "plimsoll/units.h"

#define TILE 32                 /* columns of a block: one a lane */
#define TILE_ROWS 128           /* rows in shared memory at a time: as the processor's kernels, which sum as many in fp32 */
#define CANDIDATES_EACH 4       /* of a warp: each weight that it reads serves so many */
#define SEARCH_WARPS 5
#define SEARCH_SLICES 5         /* 5 x 5 warps x 4 candidates: all 97 at once */

static_assert(SEARCH_WARPS * SEARCH_SLICES * CANDIDATES_EACH >= GPTQ_CANDIDATES, "every candidate has a warp");

struct search_scratch {
    float *base;        /* [N]: the scale that a column would have by itself */
    float *tile_base;   /* [tiles]: the largest of each tile */
    double *sums;       /* [tiles, GPTQ_CANDIDATES]; our own search: [tiles, FIT_MAXIMA] */
    uint8_t *fitted;    /* [FIT_MAXIMA, N] levels, and which is the best: behind those sums, where the others' would be */
    int *best;
};

static size_t tile_count(size_t out_features)
{
    return plim_ceil_div(out_features, (size_t)TILE);
}

static size_t base_bytes(size_t out_features)
{
    return plim_round_up(out_features * sizeof(float), PLIM_POOL_ALIGN);
}

static size_t tile_base_bytes(size_t out_features)
{
    return plim_round_up(tile_count(out_features) * sizeof(float), PLIM_POOL_ALIGN);
}

size_t cuda_search_bytes(size_t out_features)
{
    return base_bytes(out_features) + tile_base_bytes(out_features) +
           tile_count(out_features) * GPTQ_CANDIDATES * sizeof(double);
}

#define MAXIMUM_WARPS 8

/* `least` is added to the maximum, so that no scale is zero. */
__global__ static void column_maximum(const float *w, int rows, size_t n, float least, float half_range, float *base,
                                      float *tile_base)
{
    __shared__ float part[MAXIMUM_WARPS][TILE];
    int lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    size_t column = blockIdx.x * (size_t)TILE + (size_t)lane;
    float largest = 0.0f;

    if (column < n)
        for (int r = warp; r < rows; r += MAXIMUM_WARPS)
            largest = fmaxf(largest, fabsf(w[(size_t)r * n + column]));
    part[warp][lane] = largest;
    __syncthreads();
    if (warp > 0)
        return;
    for (int i = 1; i < MAXIMUM_WARPS; i++)
        largest = fmaxf(largest, part[i][lane]);
    float scale = (largest + least) / half_range;
    if (column < n)
        base[column] = scale;
    else
        scale = 0.0f;
    for (int offset = TILE / 2; offset > 0; offset /= 2)
        scale = fmaxf(scale, __shfl_xor_sync(0xffffffffu, scale, offset));
    if (lane == 0)
        tile_base[blockIdx.x] = scale;
}

/* The i-th factor tried, as gptq_candidate has it: no product is fused with the sum. */
__device__ static float candidate_factor(int i)
{
    float t = (float)i / 96.0f;
    return __fadd_rn(__fmul_rn(0.70f, __fsub_rn(1.0f, t)), __fmul_rn(1.20f, t));
}

/* The largest of tile_base, in every thread of the block; `threads` is a multiple of 32, at most 1024. */
__device__ static float group_maximum(const float *tile_base, int tiles, int threads, float *part)
{
    float largest = 0.0f;
    for (int i = (int)threadIdx.x; i < tiles; i += threads)
        largest = fmaxf(largest, tile_base[i]);
    for (int offset = 16; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < threads / 32; i++)
        largest = fmaxf(largest, part[i]);
    return largest;
}

__global__ static void __launch_bounds__(SEARCH_WARPS * 32)
search_tile(const float *w, int rows, size_t n, float zero, struct search_scratch scratch, int tiles, uint8_t *levels)
{
    __shared__ float tile[TILE_ROWS][TILE];
    __shared__ float part[32];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int first = ((int)blockIdx.y * SEARCH_WARPS + warp) * CANDIDATES_EACH;
    size_t column = blockIdx.x * (size_t)TILE + (size_t)lane;
    float highest = zero - 1.0f;

    float largest = group_maximum(scratch.tile_base, tiles, SEARCH_WARPS * 32, part);
    float base = column < n ? scratch.base[column] : largest;
    float level = fminf(fmaxf(rintf(16.0f * sqrtf(base / largest)), 1.0f), 16.0f);
    float share = level / 16.0f, unit = largest * (share * share);
    if (blockIdx.y == 0 && warp == 0 && column < n)
        levels[column] = (uint8_t)level;

    float scale[CANDIDATES_EACH], inverse[CANDIDATES_EACH];
    double sum[CANDIDATES_EACH];
#pragma unroll
    for (int i = 0; i < CANDIDATES_EACH; i++) {
        scale[i] = unit * candidate_factor(first + i);
        inverse[i] = 1.0f / scale[i];
        sum[i] = 0.0;
    }
    for (int begin = 0; begin < rows; begin += TILE_ROWS) {
        int count = min(TILE_ROWS, rows - begin);
        __syncthreads();
        for (int r = warp; r < count; r += SEARCH_WARPS)
            tile[r][lane] = column < n ? w[(size_t)(begin + r) * n + column] : 0.0f;
        __syncthreads();
        float total[CANDIDATES_EACH] = {};
#pragma unroll 4
        for (int r = 0; r < count; r++) {
            float value = tile[r][lane];
#pragma unroll
            for (int i = 0; i < CANDIDATES_EACH; i++) {
                float q = fminf(fmaxf(rintf(value * inverse[i]), -zero), highest);
                float d = fabsf(__fsub_rn(__fmul_rn(q, scale[i]), value));
                float root;
                asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(d));
                total[i] = __fadd_rn(total[i], __fmul_rn(__fmul_rn(__fmul_rn(d, d), d), root));
            }
        }
#pragma unroll
        for (int i = 0; i < CANDIDATES_EACH; i++)
            sum[i] += (double)total[i];
    }
#pragma unroll
    for (int i = 0; i < CANDIDATES_EACH; i++) {
        for (int offset = 16; offset > 0; offset /= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], offset);
        if (lane == 0 && first + i < GPTQ_CANDIDATES)
            scratch.sums[blockIdx.x * (size_t)GPTQ_CANDIDATES + (size_t)(first + i)] = sum[i];
    }
}

#define CHOOSE_PARTS 8
#define CHOOSE_LANES 128

static_assert(CHOOSE_LANES >= GPTQ_CANDIDATES, "a thread a candidate");

__global__ static void choose_candidate(struct search_scratch scratch, int tiles, struct group_scales *scales)
{
    __shared__ double part[CHOOSE_PARTS][CHOOSE_LANES];
    __shared__ float maximum[32];
    int candidate = (int)threadIdx.x % CHOOSE_LANES, slice = (int)threadIdx.x / CHOOSE_LANES;
    double sum = 0.0;

    float largest = group_maximum(scratch.tile_base, tiles, CHOOSE_PARTS * CHOOSE_LANES, maximum);
    if (candidate < GPTQ_CANDIDATES)
#pragma unroll 4
        for (int t = slice; t < tiles; t += CHOOSE_PARTS)
            sum += scratch.sums[(size_t)t * GPTQ_CANDIDATES + (size_t)candidate];
    part[slice][candidate] = sum;
    __syncthreads();
    if (slice > 0)
        return;
    for (int i = 1; i < CHOOSE_PARTS; i++)
        sum += part[i][candidate];
    part[0][candidate] = sum;
    asm volatile("bar.sync 1, 128;" ::: "memory");
    if (candidate > 0)
        return;
    int best = 0;
    double least = INFINITY;
    for (int i = 0; i < GPTQ_CANDIDATES; i++)
        if (part[0][i] < least) {
            least = part[0][i];
            best = i;
        }
    __half scale_max = __float2half_rn(largest * candidate_factor(best));
    scales->scale_max = __half_as_ushort(scale_max);
    scales->scale_unit = __half2float(__float2half_rn(__half2float(scale_max) / 256.0f));
}

static int scratch_open(struct search_scratch *scratch, char **memory, struct backend *backend, size_t out_features,
                        struct plim_err *err)
{
    size_t tiles = tile_count(out_features);
    *memory = (char *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, cuda_search_bytes(out_features), err);
    if (!*memory)
        return -1;
    scratch->base = (float *)*memory;
    scratch->tile_base = (float *)(*memory + base_bytes(out_features));
    scratch->sums = (double *)(*memory + base_bytes(out_features) + tile_base_bytes(out_features));
    scratch->best = (int *)(scratch->sums + tiles * FIT_MAXIMA);
    scratch->fitted = (uint8_t *)(scratch->best + 2);
    return 0;
}

int cuda_scale_search(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                      uint8_t *levels, struct group_scales *scales, struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    size_t tiles = tile_count(out_features);
    float zero = (float)(1u << (bits - 1)), half_range = (float)((1u << bits) - 1) / 2.0f;
    struct search_scratch scratch;
    char *memory;

    if (scratch_open(&scratch, &memory, backend, out_features, err) < 0)
        return -1;
    column_maximum<<<(unsigned)tiles, dim3(TILE, MAXIMUM_WARPS), 0, stream>>>(w, (int)rows, out_features, 1e-12f, half_range,
                                                                              scratch.base, scratch.tile_base);
    search_tile<<<dim3((unsigned)tiles, SEARCH_SLICES), SEARCH_WARPS * 32, 0, stream>>>(w, (int)rows, out_features, zero,
                                                                                       scratch, (int)tiles, levels);
    choose_candidate<<<1, CHOOSE_PARTS * CHOOSE_LANES, 0, stream>>>(scratch, (int)tiles, scales);
    int rc = cuda_launch_check("searching scales", err);
    plim_pool_free(backend->pool, memory);
    return rc;
}

/* ---- our own ---- */

static_assert(GPTQ_CANDIDATES * sizeof(double) >= FIT_MAXIMA * (sizeof(double) + TILE) + 2 * sizeof(int),
              "the levels fit behind the sums");

#define FIT_LEVELS (FIT_LEVELS_BELOW + 1 + FIT_LEVELS_ABOVE)

__device__ static struct group_scales fit_scales_of(float largest, int maximum)
{
    struct group_scales scales;
    __half scale_max = __float2half_rn(largest * __fadd_rn(FIT_FIRST, __fmul_rn(FIT_STEP, (float)maximum)));
    scales.scale_max = __half_as_ushort(scale_max);
    scales.scale_unit = __half2float(__float2half_rn(__half2float(scale_max) / 256.0f));
    return scales;
}

__device__ static int within_levels(int level)
{
    return min(max(level, 1), 16);
}

/* Warp m tries size m. Sums over rows are taken in the processor's order, so a column's best level is its best there. */
__global__ static void __launch_bounds__(FIT_MAXIMA * 32)
fit_tile(const float *w, int rows, size_t n, float zero, const float *u, size_t u_stride, struct search_scratch scratch,
         int tiles)
{
    __shared__ float tile[TILE_ROWS][TILE];
    __shared__ float weight[TILE_ROWS];
    __shared__ float part[32];
    int lane = (int)threadIdx.x % 32, maximum = (int)threadIdx.x / 32;
    size_t column = blockIdx.x * (size_t)TILE + (size_t)lane;
    bool live = column < n;
    float highest = zero - 1.0f;

    float largest = group_maximum(scratch.tile_base, tiles, FIT_MAXIMA * 32, part);
    struct group_scales scales = fit_scales_of(largest, maximum);
    /* A group of zeros: any scale serves, and zero must not divide. */
    float scale_max = fmaxf(__half2float(__ushort_as_half(scales.scale_max)), 1e-30f);
    float exact = rintf(16.0f * sqrtf((live ? scratch.base[column] : 0.0f) / scale_max));
    int nearest = exact < 1.0f ? 1 : exact > 16.0f ? 16 : (int)exact;
    float scale[FIT_LEVELS], inverse[FIT_LEVELS], total[FIT_LEVELS];
#pragma unroll
    for (int i = 0; i < FIT_LEVELS; i++) {
        int level = within_levels(nearest + i - FIT_LEVELS_BELOW);
        scale[i] = __half2float(__float2half_rn((float)(level * level) * scales.scale_unit));
        inverse[i] = scale[i] > 0.0f ? 1.0f / scale[i] : 0.0f;
        total[i] = 0.0f;
    }
    for (int begin = 0; begin < rows; begin += TILE_ROWS) {
        int count = min(TILE_ROWS, rows - begin);
        __syncthreads();
        for (int r = maximum; r < count; r += FIT_MAXIMA)
            tile[r][lane] = live ? w[(size_t)(begin + r) * n + column] : 0.0f;
        for (int r = (int)threadIdx.x; r < count; r += FIT_MAXIMA * 32) {
            float diagonal = u ? u[(size_t)(begin + r) * (u_stride + 1)] : 1.0f;
            weight[r] = 1.0f / (diagonal * diagonal);
        }
        __syncthreads();
#pragma unroll 4
        for (int r = 0; r < count; r++) {
            float value = tile[r][lane], row_weight = weight[r];
#pragma unroll
            for (int i = 0; i < FIT_LEVELS; i++) {
                float q = fminf(fmaxf(rintf(value * inverse[i]), -zero), highest);
                float d = __fsub_rn(__fmul_rn(q, scale[i]), value);
                total[i] = __fadd_rn(total[i], __fmul_rn(__fmul_rn(row_weight, d), d));
            }
        }
    }
    float best = INFINITY;
    int best_level = nearest;
#pragma unroll
    for (int i = 0; i < FIT_LEVELS; i++)
        if (total[i] < best) {
            best = total[i];
            best_level = within_levels(nearest + i - FIT_LEVELS_BELOW);
        }
    if (live)
        scratch.fitted[(size_t)maximum * n + column] = (uint8_t)best_level;
    double sum = live ? (double)best : 0.0;
    for (int offset = 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0)
        scratch.sums[blockIdx.x * (size_t)FIT_MAXIMA + (size_t)maximum] = sum;
}

/* One warp a size; lanes take every 32nd tile. */
__global__ static void choose_maximum(struct search_scratch scratch, int tiles, struct group_scales *scales)
{
    __shared__ double sums[FIT_MAXIMA];
    __shared__ float part[32];
    int lane = (int)threadIdx.x % 32, maximum = (int)threadIdx.x / 32;
    float largest = group_maximum(scratch.tile_base, tiles, FIT_MAXIMA * 32, part);
    double sum = 0.0;

    for (int t = lane; t < tiles; t += 32)
        sum += scratch.sums[(size_t)t * FIT_MAXIMA + (size_t)maximum];
    for (int offset = 16; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0)
        sums[maximum] = sum;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    int best = 0;
    double least = INFINITY;
    for (int i = 0; i < FIT_MAXIMA; i++)
        if (sums[i] < least) {
            least = sums[i];
            best = i;
        }
    *scratch.best = best;
    *scales = fit_scales_of(largest, best);
}

__global__ static void take_levels(struct search_scratch scratch, size_t n, uint8_t *levels)
{
    size_t column = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (column < n)
        levels[column] = scratch.fitted[(size_t)*scratch.best * n + column];
}

int cuda_fit_scales(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                    const float *u, size_t u_stride, uint8_t *levels, struct group_scales *scales, struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    size_t tiles = tile_count(out_features);
    float zero = (float)(1u << (bits - 1)), half_range = (float)((1u << bits) - 1) / 2.0f;
    struct search_scratch scratch;
    char *memory;

    if (scratch_open(&scratch, &memory, backend, out_features, err) < 0)
        return -1;
    column_maximum<<<(unsigned)tiles, dim3(TILE, MAXIMUM_WARPS), 0, stream>>>(w, (int)rows, out_features, 0.0f, half_range,
                                                                              scratch.base, scratch.tile_base);
    fit_tile<<<(unsigned)tiles, FIT_MAXIMA * 32, 0, stream>>>(w, (int)rows, out_features, zero, u, u_stride, scratch,
                                                              (int)tiles);
    choose_maximum<<<1, FIT_MAXIMA * 32, 0, stream>>>(scratch, (int)tiles, scales);
    take_levels<<<(unsigned)plim_ceil_div(out_features, (size_t)256), 256, 0, stream>>>(scratch, out_features, levels);
    int rc = cuda_launch_check("fitting scales", err);
    plim_pool_free(backend->pool, memory);
    return rc;
}
