/* The working copy of a layer's weights: widened, transposed, in the Hessian's order. */

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "quantize_cuda.h"
#include "plimsoll/units.h"

/* The source is in host memory, mapped; it comes in strips of whole outputs that fit this. */
#define STRIP_BYTES ((size_t)8 << 20)

#define TILE 32
#define TILE_THREADS_Y 8

__device__ static float widen(float value)
{
    return value;
}

__device__ static float widen(__half value)
{
    return __half2float(value);
}

__device__ static float widen(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}

/* strip [outputs, k] -> w[i * stride + first + output] for every feature i of the order; outputs past `have` are zeros. */
template <class T>
__global__ static void gather_tile(const T *strip, size_t have, size_t outputs, size_t k, const uint16_t *order,
                                   size_t stride, float *w)
{
    __shared__ float tile[TILE][TILE + 1];
    size_t feature = blockIdx.x * (size_t)TILE, output = blockIdx.y * (size_t)TILE;

    for (int y = (int)threadIdx.y; y < TILE; y += TILE_THREADS_Y) {
        size_t i = feature + threadIdx.x, n = output + (size_t)y;
        tile[y][threadIdx.x] = i < k && n < have ? widen(strip[n * k + order[i]]) : 0.0f;
    }
    __syncthreads();
    for (int y = (int)threadIdx.y; y < TILE; y += TILE_THREADS_Y) {
        size_t i = feature + (size_t)y, n = output + threadIdx.x;
        if (i < k && n < outputs)
            w[i * stride + n] = tile[threadIdx.x][y];
    }
}

struct gather {
    struct backend *backend;
    const struct linear_source *source;
    uint16_t *order;       /* device */
    void *strip;           /* device */
    size_t stride;
    float *w;
};

static int gather_strip(const struct gather *g, size_t first, size_t outputs, struct plim_err *err)
{
    const struct linear_source *s = g->source;
    size_t k = s->in_features, row_bytes = k * dtype_bytes(s->dtype);
    size_t have = first < s->out_features ? plim_min(outputs, s->out_features - first) : 0;
    cudaStream_t stream = cuda_of(g->backend)->stream;
    dim3 grid((unsigned)plim_ceil_div(k, (size_t)TILE), (unsigned)plim_ceil_div(outputs, (size_t)TILE));
    dim3 block(TILE, TILE_THREADS_Y);

    if (have > 0 &&
        cuda_upload(g->backend, g->strip, (const char *)s->weight + first * row_bytes, have * row_bytes, err) < 0)
        return -1;
    float *w = g->w + first;
    if (s->dtype == DTYPE_F32)
        gather_tile<<<grid, block, 0, stream>>>((const float *)g->strip, have, outputs, k, g->order, g->stride, w);
    else if (s->dtype == DTYPE_F16)
        gather_tile<<<grid, block, 0, stream>>>((const __half *)g->strip, have, outputs, k, g->order, g->stride, w);
    else
        gather_tile<<<grid, block, 0, stream>>>((const __nv_bfloat16 *)g->strip, have, outputs, k, g->order, g->stride, w);
    return cuda_launch_check("gathering weights", err);
}

static size_t strip_outputs(size_t row_bytes, size_t columns)
{
    return plim_min(columns, plim_max((size_t)TILE, STRIP_BYTES / row_bytes / TILE * TILE));
}

static size_t order_bytes(size_t in_features)
{
    return plim_round_up(in_features * sizeof(uint16_t), PLIM_POOL_ALIGN);
}

size_t cuda_gather_bytes(enum dtype dtype, size_t in_features, size_t columns)
{
    size_t row_bytes = in_features * dtype_bytes(dtype);
    return order_bytes(in_features) + strip_outputs(row_bytes, columns) * row_bytes;
}

int cuda_gather_weights(struct backend *backend, const struct linear_source *source, const uint16_t *order, size_t columns,
                        size_t stride, float *w, struct plim_err *err)
{
    size_t k = source->in_features, row_bytes = k * dtype_bytes(source->dtype);
    size_t outputs = strip_outputs(row_bytes, columns);
    int rc = 0;

    char *memory = (char *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                           cuda_gather_bytes(source->dtype, k, columns), err);
    if (!memory)
        return -1;
    struct gather g = { backend, source, (uint16_t *)memory, memory + order_bytes(k), stride, w };
    rc = cuda_upload(backend, g.order, order, k * sizeof *order, err);
    for (size_t first = 0; first < columns && rc == 0; first += outputs)
        rc = gather_strip(&g, first, plim_min(outputs, columns - first), err);
    plim_pool_free(backend->pool, memory);
    return rc;
}
