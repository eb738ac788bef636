/* Hessians on CUDA: accumulation, scaling, and the permuted, damped copy. See quantize_ops.h for the one-buffer layout. */

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "quantize_cuda.h"

extern "C" {
#include "cpu/quantize_cpu.h"
}
#include "plimsoll/units.h"

/*
 * ---- accumulation ----
 *
 * x^T x on the tensor cores at fp32's accuracy. Each feature is scaled by a power of two to fit fp16 and cut in two parts of
 * 11 bits, x = high + low but for 2^-22, and
 *
 *     high high + high low + low high
 *
 * is summed; low low is below fp32's rounding. Tensor cores cut their sums where fp32 rounds them, which over 2048 tokens
 * leaves 1e-5, and on the diagonal more than off it: enough to make a Hessian with a few loud features indefinite. So a chain
 * of products is STEP tokens long, and the chains are added up in ordinary fp32.
 *
 * Measured on an H100 at K = 14336, 2048 tokens: 4.5 ms and at most 5e-7 of sqrt(H[i][i] H[j][j]) from fp64; cuBLAS in fp32
 * 9.5 ms (its ssyrk 9.4) and 2e-6, in two parts of bfloat16 2.3 ms and 9e-6.
 *
 * One block makes one TILE x TILE tile of the upper triangle. Both operands are stripes of the same parts [tokens, K], K and
 * tokens padded with zeros, brought to shared memory some steps ahead.
 */
#define TILE   128
#define STEP   32
#define STAGES 3
#define TILE_THREADS 512
#define SUPERTILE 12   /* blocks that run together work on a square of tiles, whose stripes the L2 cache holds */

/* The parts of a piece of rows fit this, whatever the memory budget: other pieces would be other sums. */
#define PARTS_BYTES ((size_t)128 << 20)
#define PARTS_ROWS  ((size_t)65504)   /* whole steps; a grid has no more rows of blocks */

#define CHUNK 8                          /* halves that are copied at once: 16 bytes */
#define ROW_CHUNKS (TILE / CHUNK)
#define STRIPE (STEP * TILE)             /* halves of one part of one operand in a stage */
#define STAGE_BYTES (4 * STRIPE * sizeof(__half))

/* Where chunk `chunk` of token `token` lies: moved so that eight tokens' equal chunks lie in different banks. */
__device__ static unsigned chunk_at(unsigned token, unsigned chunk)
{
    return token * ROW_CHUNKS + (chunk ^ (token % 8));
}

/* One stage: [left high][left low][right high][right low], each [STEP, TILE]. */
__device__ static void load_stage(__half *stage, const __half *high, const __half *low, size_t stride, size_t left,
                                  size_t right, size_t token)
{
#pragma unroll
    for (unsigned q = 0; q < 4 * STEP * ROW_CHUNKS / TILE_THREADS; q++) {
        unsigned index = q * TILE_THREADS + threadIdx.x, stripe = index / (STEP * ROW_CHUNKS);
        unsigned row = index / ROW_CHUNKS % STEP, chunk = index % ROW_CHUNKS;
        const __half *from = (stripe % 2 ? low : high) + (token + row) * stride + (stripe < 2 ? left : right) + chunk * CHUNK;
        unsigned to = (unsigned)__cvta_generic_to_shared(stage + stripe * STRIPE + chunk_at(row, chunk) * CHUNK);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
}

__device__ static void commit_stage()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Four 8 x 8 blocks of a stripe, transposed: tokens become the fragments' inner axis. */
__device__ static void load_fragment(uint32_t fragment[4], const __half *stripe, unsigned token, unsigned chunk)
{
    unsigned from = (unsigned)__cvta_generic_to_shared(stripe + chunk_at(token, chunk) * CHUNK);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(from));
}

/* sum = start + A B; A 16 x 16, B 16 x 8 */
__device__ static void multiply_add(float sum[4], const uint32_t a[4], const uint32_t b[2], float start0, float start1,
                                    float start2, float start3)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(start0), "f"(start1), "f"(start2),
          "f"(start3));
}

/* Of a warp: 32 x 32 of the tile, in blocks of 16 x 8. 64 x 32 reads less from shared memory, and hides less latency. */
#define WARP_ROWS 2
#define WARP_COLUMNS 4

/* total += the products of one stage */
__device__ static void multiply_stage(float total[WARP_ROWS][WARP_COLUMNS][4], const __half *stage, unsigned row,
                                      unsigned column, unsigned lane)
{
    float chain[WARP_ROWS][WARP_COLUMNS][4];
#pragma unroll
    for (unsigned k = 0; k < STEP; k += 16) {
        uint32_t left[2][WARP_ROWS][4], right[2][WARP_COLUMNS / 2][4];   /* high, low */
#pragma unroll
        for (unsigned part = 0; part < 2; part++) {
#pragma unroll
            for (unsigned i = 0; i < WARP_ROWS; i++)
                load_fragment(left[part][i], stage + part * STRIPE, k + lane / 16 * 8 + lane % 8,
                              (row + 16 * i) / CHUNK + lane / 8 % 2);
#pragma unroll
            for (unsigned j = 0; j < WARP_COLUMNS / 2; j++)
                load_fragment(right[part][j], stage + (2 + part) * STRIPE, k + lane / 8 % 2 * 8 + lane % 8,
                              (column + 16 * j) / CHUNK + lane / 16);
        }
        /* Small products first. */
#pragma unroll
        for (int product = 0; product < 3; product++)
#pragma unroll
            for (int i = 0; i < WARP_ROWS; i++)
#pragma unroll
                for (int j = 0; j < WARP_COLUMNS; j++) {
                    float *sum = chain[i][j];
                    const uint32_t *a = left[product == 0][i], *b = right[product == 1][j / 2] + j % 2 * 2;
                    if (k == 0 && product == 0)
                        multiply_add(sum, a, b, 0.0f, 0.0f, 0.0f, 0.0f);
                    else
                        multiply_add(sum, a, b, sum[0], sum[1], sum[2], sum[3]);
                }
    }
#pragma unroll
    for (int i = 0; i < WARP_ROWS; i++)
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS; j++)
#pragma unroll
            for (int v = 0; v < 4; v++)
                total[i][j][v] += chain[i][j][v];
}

/* The upper triangle of h [k, k] += the products of the parts [steps * STEP, stride]; unit [stride]: a feature's scale. */
__global__ static void __launch_bounds__(TILE_THREADS, 1)
add_tile(float *h, size_t k, const __half *high, const __half *low, size_t stride, int steps, const float *unit, unsigned tiles)
{
    extern __shared__ __align__(16) unsigned char memory[];
    __half *stages = (__half *)memory;
    unsigned super = blockIdx.x / (SUPERTILE * SUPERTILE), within = blockIdx.x % (SUPERTILE * SUPERTILE);
    unsigned supers = (tiles + SUPERTILE - 1) / SUPERTILE;
    unsigned i = super / supers * SUPERTILE + within / SUPERTILE, j = super % supers * SUPERTILE + within % SUPERTILE;
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp % 4 * 32, column = warp / 4 * 32;
    size_t left = (size_t)i * TILE, right = (size_t)j * TILE;
    float total[WARP_ROWS][WARP_COLUMNS][4] = {};

    if (i > j || j >= tiles)
        return;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage(stages + s * 4 * STRIPE, high, low, stride, left, right, (size_t)s * STEP);
        commit_stage();
    }
    for (int s = 0; s < steps; s++) {
        int ahead = s + STAGES - 1;
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (ahead < steps)
            load_stage(stages + ahead % STAGES * 4 * STRIPE, high, low, stride, left, right, (size_t)ahead * STEP);
        commit_stage();
        multiply_stage(total, stages + s % STAGES * 4 * STRIPE, row, column, lane);
    }
#pragma unroll
    for (int a = 0; a < WARP_ROWS; a++)
#pragma unroll
        for (int b = 0; b < WARP_COLUMNS; b++)
#pragma unroll
            for (int v = 0; v < 4; v++) {
                size_t r = left + row + (unsigned)(16 * a + v / 2 * 8) + lane / 4;
                size_t c = right + column + (unsigned)(8 * b + v % 2) + lane % 4 * 2;
                if (c < k && r <= c)
                    h[r * k + c] += total[a][b][v] * unit[r] * unit[c];
            }
}

/* ---- the parts ---- */

#define MAXIMUM_ROWS 64   /* of a block */

/* The bits of the largest magnitude of each feature, which order as the magnitudes do. */
__global__ static void feature_maximum(const float *x, size_t rows, size_t k, uint32_t *maximum)
{
    size_t feature = blockIdx.x * (size_t)blockDim.x + threadIdx.x, first = blockIdx.y * (size_t)MAXIMUM_ROWS;
    uint32_t largest = 0;
    if (feature >= k)
        return;
    for (size_t r = first; r < first + MAXIMUM_ROWS && r < rows; r++)
        largest = max(largest, __float_as_uint(x[r * k + feature]) & 0x7fffffffu);
    atomicMax(&maximum[feature], largest);
}

/* A power of two that takes the largest magnitude below 2^14; what isn't finite stays so, whatever the scale. */
__device__ static int scale_exponent(uint32_t maximum)
{
    int exponent = (int)(maximum >> 23) - 127 - 13;
    return maximum == 0 || maximum >= 0x7f800000u ? 0 : min(max(exponent, -100), 100);
}

__device__ static float power_of_two(int exponent)
{
    return __uint_as_float((uint32_t)(127 + exponent) << 23);
}

/* blockIdx.y: a padded row. */
__global__ static void split_parts(const float *x, size_t rows, size_t k, const uint32_t *maximum, __half *high, __half *low,
                                   size_t stride, float *unit)
{
    size_t feature = blockIdx.x * (size_t)blockDim.x + threadIdx.x, row = blockIdx.y;
    if (feature >= stride)
        return;
    int exponent = feature < k ? scale_exponent(maximum[feature]) : 0;
    float value = feature < k && row < rows ? x[row * k + feature] * power_of_two(-exponent) : 0.0f;
    __half top = __float2half_rn(value);
    high[row * stride + feature] = top;
    low[row * stride + feature] = __float2half_rn(value - __half2float(top));
    if (row == 0)
        unit[feature] = power_of_two(exponent);
}

/* Of rows that are added at once, in the pool's memory: two parts, the features' maxima, their units. */
struct parts {
    size_t stride, piece_rows;          /* K and the rows, padded */
    size_t part_bytes, feature_bytes;
};

static struct parts parts_of(size_t rows, size_t in_features)
{
    struct parts p;
    p.stride = plim_round_up(in_features, (size_t)TILE);
    size_t fit = PARTS_BYTES / (2 * sizeof(__half) * p.stride) / STEP * STEP;
    p.piece_rows = plim_min(plim_round_up(rows, (size_t)STEP), plim_min(plim_max((size_t)STEP, fit), PARTS_ROWS));
    p.part_bytes = p.piece_rows * p.stride * sizeof(__half);
    p.feature_bytes = p.stride * sizeof(float);
    return p;
}

static int add_piece(struct backend *backend, float *h, const float *x, size_t rows, size_t k, char *memory,
                     const struct parts *p, struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    __half *high = (__half *)memory, *low = (__half *)(memory + p->part_bytes);
    uint32_t *maximum = (uint32_t *)(memory + 2 * p->part_bytes);
    float *unit = (float *)(memory + 2 * p->part_bytes + p->feature_bytes);
    unsigned blocks = (unsigned)plim_ceil_div(p->stride, (size_t)128), tiles = (unsigned)(p->stride / TILE);
    unsigned steps = (unsigned)plim_ceil_div(rows, (size_t)STEP), supers = (tiles + SUPERTILE - 1) / SUPERTILE;

    CUDA_TRY(cudaMemsetAsync(maximum, 0, p->feature_bytes, stream), err);
    feature_maximum<<<dim3(blocks, (unsigned)plim_ceil_div(rows, (size_t)MAXIMUM_ROWS)), 128, 0, stream>>>(x, rows, k,
                                                                                                         maximum);
    split_parts<<<dim3(blocks, steps * STEP), 128, 0, stream>>>(x, rows, k, maximum, high, low, p->stride, unit);
    CUDA_TRY(cudaFuncSetAttribute(add_tile, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(STAGES * STAGE_BYTES)), err);
    add_tile<<<supers * supers * SUPERTILE * SUPERTILE, TILE_THREADS, STAGES * STAGE_BYTES, stream>>>(
        h, k, high, low, p->stride, (int)steps, unit, tiles);
    return cuda_launch_check("adding to a Hessian", err);
}

size_t cuda_hessian_bytes(size_t rows, size_t in_features)
{
    struct parts p = parts_of(rows, in_features);
    return 2 * p.part_bytes + 2 * p.feature_bytes;
}

int cuda_hessian_add(struct backend *backend, float *h, const float *x, size_t rows, size_t in_features,
                     struct plim_err *err)
{
    struct parts p = parts_of(rows, in_features);
    int rc = 0;

    if (rows == 0)
        return 0;
    char *memory = (char *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                           cuda_hessian_bytes(rows, in_features), err);
    if (!memory)
        return -1;
    for (size_t row = 0; row < rows && rc == 0; row += p.piece_rows)
        rc = add_piece(backend, h, x + row * in_features, plim_min(p.piece_rows, rows - row), in_features, memory, &p, err);
    plim_pool_free(backend->pool, memory);
    return rc;
}

/* ---- scaling ---- */

__global__ static void scale_upper(float *h, size_t k, float divisor, bool identity, float *diagonal)
{
    size_t row = blockIdx.x;
    float *line = h + row * k;

    if (identity && threadIdx.x == 0)
        line[row] = 1.0f;
    if (!identity && divisor != 1.0f)
        for (size_t j = row + threadIdx.x; j < k; j += blockDim.x)
            line[j] = line[j] / divisor;
    __syncthreads();
    if (threadIdx.x == 0)
        diagonal[row] = line[row];
}

int cuda_hessian_scale(struct backend *backend, float *h, size_t in_features, uint64_t row_count, float *diagonal,
                       struct plim_err *err)
{
    size_t bytes = in_features * sizeof(float);
    float *found = (float *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, err);
    if (!found)
        return -1;
    scale_upper<<<(unsigned)in_features, 256, 0, cuda_of(backend)->stream>>>(h, in_features, (float)row_count,
                                                                            row_count == 0, found);
    int rc = cuda_launch_check("scaling a Hessian", err);
    if (rc == 0)
        rc = cuda_download(backend, diagonal, found, bytes, err);
    plim_pool_free(backend->pool, found);
    return rc;
}

/* ---- permutation ---- */

/* Reads above the diagonal only, writes below it and on it, so rows may be done in any order. */
__global__ static void permute_row(float *h, const float *diagonal, const uint16_t *order, size_t k, float damping)
{
    size_t i = k - 1 - blockIdx.x;   /* long rows first */
    size_t a = order[i];
    float *out = h + i * k;

    for (size_t j = threadIdx.x; j < i; j += blockDim.x) {
        size_t b = order[j];
        out[j] = a < b ? h[a * k + b] : h[b * k + a];
    }
    if (threadIdx.x == 0)
        out[i] = diagonal[a] + damping;
}

size_t cuda_order_bytes(size_t in_features)
{
    return in_features * (sizeof(float) + sizeof(uint16_t));
}

static bool in_host_memory(const void *pointer)
{
    struct cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
        cudaGetLastError();
        return true;
    }
    return attributes.type == cudaMemoryTypeUnregistered || attributes.type == cudaMemoryTypeHost;
}

int cuda_hessian_permute(struct backend *backend, float *h, const float *diagonal, const uint16_t *order,
                         size_t in_features, float damping, struct plim_err *err)
{
    size_t diagonal_bytes = in_features * sizeof *diagonal, order_bytes = in_features * sizeof *order;

    /* A matrix that was moved to the slow tier is permuted there, by the processor. */
    if (in_host_memory(h))
        return cpu_hessian_permute(backend, h, diagonal, order, in_features, damping, err);
    float *values = (float *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, cuda_order_bytes(in_features),
                                             err);
    if (!values)
        return -1;
    uint16_t *features = (uint16_t *)(values + in_features);
    int rc = cuda_upload(backend, values, diagonal, diagonal_bytes, err);
    if (rc == 0)
        rc = cuda_upload(backend, features, order, order_bytes, err);
    if (rc == 0) {
        permute_row<<<(unsigned)in_features, 256, 0, cuda_of(backend)->stream>>>(h, values, features, in_features,
                                                                                damping);
        rc = cuda_launch_check("permuting a Hessian", err);
    }
    plim_pool_free(backend->pool, values);
    return rc;
}
