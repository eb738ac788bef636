/* GPTQ's loop over the rows of one group, the spreading of errors to later groups, and packing, on CUDA. */

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "quantize_cuda.h"
#include "plimsoll/units.h"

#define GROUP_ROWS 128     /* no layout has larger groups */
#define STRIP 32           /* rows that one warp holds in registers; columns of a block */
#define STRIPS (GROUP_ROWS / STRIP)

__device__ static float stored_scale(int level, float scale_unit)
{
    return __half2float(__float2half_rn((float)(level * level) * scale_unit));
}

/* A zero scale divides to NaN or infinity: NaN becomes the highest code, as the reference has it. */
__device__ static float nearest_code(float value, float scale, float zero, float highest)
{
    float q = __fadd_rn(rintf(value / scale), zero);
    q = q < highest ? q : highest;
    return q > 0.0f ? q : 0.0f;
}

__global__ static void round_rows(const float *w, int rows, size_t n, float zero, const uint8_t *levels,
                                  const struct group_scales *scales, uint8_t *codes)
{
    size_t column = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (column >= n)
        return;
    float scale = stored_scale(levels[column], scales->scale_unit);
    for (int r = (int)blockIdx.y; r < rows; r += (int)gridDim.y)
        codes[(size_t)r * n + column] =
            (uint8_t)nearest_code(w[(size_t)r * n + column], scale, zero, 2.0f * zero - 1.0f);
}

struct group_shared {
    float u[GROUP_ROWS][GROUP_ROWS];
    float errors[GROUP_ROWS][STRIP];
};

/*
 * One block: 32 columns, a lane each, through all rows of the group. Warp s holds rows 32 s .. 32 s + 31 in registers. In
 * turn, each warp quantises its rows one after the other, and then all later warps take its errors from theirs. Rounded
 * step by step as on the processor, so that both give the same codes from the same inputs.
 */
__global__ static void __launch_bounds__(STRIPS * 32)
quantise_group(const float *w, int rows, size_t n, float zero, const uint8_t *levels, const struct group_scales *scales,
               const float *u, size_t u_stride, uint8_t *codes, float *errors)
{
    extern __shared__ __align__(16) unsigned char memory[];
    struct group_shared *shared = (struct group_shared *)memory;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int first = warp * STRIP, count = min(STRIP, rows - first);
    size_t column = blockIdx.x * (size_t)STRIP + (size_t)lane;
    bool live = column < n;
    float highest = 2.0f * zero - 1.0f;
    float scale = live ? stored_scale(levels[column], scales->scale_unit) : 1.0f;
    float value[STRIP];

    for (int r = warp; r < rows; r += STRIPS)
        for (int c = lane; c < GROUP_ROWS; c += 32)
            shared->u[r][c] = c >= r && c < rows ? u[(size_t)r * u_stride + (size_t)c] : 0.0f;
#pragma unroll
    for (int i = 0; i < STRIP; i++)
        value[i] = live && i < count ? w[(size_t)(first + i) * n + column] : 0.0f;
    __syncthreads();

    for (int turn = 0; turn * STRIP < rows; turn++) {
        if (warp == turn) {
#pragma unroll
            for (int i = 0; i < STRIP; i++) {
                if (i >= count)
                    break;
                const float *line = shared->u[first + i] + first;
                float q = nearest_code(value[i], scale, zero, highest);
                float stored = __half2float(__float2half_rn(__fmul_rn(__fsub_rn(q, zero), scale)));
                float error = __fsub_rn(value[i], stored) / line[i];
                shared->errors[first + i][lane] = error;
                if (live) {
                    codes[(size_t)(first + i) * n + column] = (uint8_t)q;
                    errors[(size_t)(first + i) * n + column] = error;
                }
#pragma unroll
                for (int later = i + 1; later < STRIP; later++)
                    value[later] = __fsub_rn(value[later], __fmul_rn(line[later], error));
            }
        }
        __syncthreads();
        if (warp > turn && count > 0) {
            for (int r = turn * STRIP; r < (turn + 1) * STRIP; r++) {
                float error = shared->errors[r][lane];
                const float4 *line = (const float4 *)(shared->u[r] + first);
#pragma unroll
                for (int i = 0; i < STRIP / 4; i++) {
                    float4 factor = line[i];
                    value[4 * i] = __fsub_rn(value[4 * i], __fmul_rn(factor.x, error));
                    value[4 * i + 1] = __fsub_rn(value[4 * i + 1], __fmul_rn(factor.y, error));
                    value[4 * i + 2] = __fsub_rn(value[4 * i + 2], __fmul_rn(factor.z, error));
                    value[4 * i + 3] = __fsub_rn(value[4 * i + 3], __fmul_rn(factor.w, error));
                }
            }
        }
    }
}

int cuda_quantise_rows(struct backend *backend, float *w, size_t rows, size_t out_features, unsigned bits,
                       const uint8_t *levels, const struct group_scales *scales, const float *u, size_t u_stride,
                       uint8_t *codes, float *errors, struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    float zero = (float)(1u << (bits - 1));

    if (rows > GROUP_ROWS)
        return plim_err_input(err, "a group of %zu rows; this backend takes up to %d", rows, GROUP_ROWS);
    if (!u) {
        round_rows<<<dim3((unsigned)plim_ceil_div(out_features, (size_t)128), 16), 128, 0, stream>>>(
            w, (int)rows, out_features, zero, levels, scales, codes);
        return cuda_launch_check("rounding rows", err);
    }
    if (cuda_check(cudaFuncSetAttribute(quantise_group, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)sizeof(struct group_shared)), "preparing a kernel", err) < 0)
        return -1;
    quantise_group<<<(unsigned)plim_ceil_div(out_features, (size_t)STRIP), STRIPS * 32, sizeof(struct group_shared),
                     stream>>>(w, (int)rows, out_features, zero, levels, scales, u, u_stride, codes, errors);
    return cuda_launch_check("quantising rows", err);
}

size_t cuda_spread_bytes(void)
{
    return CUDA_BLAS_WORKSPACE_BYTES;
}

int cuda_spread_errors(struct backend *backend, float *rest, size_t rest_rows, size_t out_features, const float *u,
                       size_t u_stride, const float *errors, size_t rows, struct plim_err *err)
{
    struct product product = {};
    product.transpose_a = true;
    product.m = rest_rows;
    product.n = out_features;
    product.k = rows;
    product.alpha = -1.0f;
    product.beta = 1.0f;
    product.a = u;
    product.b = errors;
    product.c = rest;
    product.a_stride = u_stride;
    product.b_stride = product.c_stride = out_features;
    void *workspace = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, cuda_spread_bytes(), err);
    int rc = workspace ? quantize_product(backend, workspace, &product, err) : -1;
    plim_pool_free(backend->pool, workspace);
    return rc;
}

/* ---- packing ---- */

#define PACK_COLUMNS 128

/* blockIdx.y: 32 rows, `bits` words. The last may have fewer. */
__global__ static void pack_codes(const uint8_t *codes, int rows, size_t n, int bits, uint32_t *words)
{
    size_t column = blockIdx.x * (size_t)PACK_COLUMNS + threadIdx.x;
    int first = (int)blockIdx.y * 32, count = min(32, rows - first);
    if (column >= n)
        return;
    uint32_t *out = words + (size_t)blockIdx.y * (size_t)bits * n + column;
    uint64_t waiting = 0;
    int filled = 0;
    for (int r = 0; r < count; r++) {
        waiting |= (uint64_t)codes[(size_t)(first + r) * n + column] << filled;
        filled += bits;
        if (filled >= 32) {
            *out = (uint32_t)waiting;
            out += n;
            waiting >>= 32;
            filled -= 32;
        }
    }
}

__global__ static void pack_levels(const uint8_t *levels, size_t words, uint32_t *q_scale)
{
    size_t word = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    uint32_t packed = 0;
    if (word >= words)
        return;
    for (int i = 0; i < 8; i++)
        packed |= (uint32_t)(levels[8 * word + (size_t)i] - 1) << (4 * i);
    q_scale[word] = packed;
}

int cuda_pack_group(struct backend *backend, const uint8_t *codes, const uint8_t *levels, size_t rows,
                    size_t out_features, unsigned bits, uint32_t *q_weight, uint32_t *q_scale, struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    dim3 grid((unsigned)plim_ceil_div(out_features, (size_t)PACK_COLUMNS), (unsigned)plim_ceil_div(rows, (size_t)32));

    pack_codes<<<grid, PACK_COLUMNS, 0, stream>>>(codes, (int)rows, out_features, (int)bits, q_weight);
    pack_levels<<<(unsigned)plim_ceil_div(out_features / 8, (size_t)128), 128, 0, stream>>>(levels, out_features / 8,
                                                                                           q_scale);
    return cuda_launch_check("packing a group", err);
}
