/* Linear layers: which way a product of so many rows takes, as measured. */

#include "linear.h"

#include <stdatomic.h>

#include "plimsoll/units.h"

/*
 * Chunks smaller than this leave cuBLAS too few columns at a time (2048 rows of 4096 x 14336: 698 us at 2 Mi elements, 920 at
 * 1 Mi); linear_wgmma, where it can run, needs no buffer.
 */
#define CUDA_SMALL_CHUNK ((size_t)4 << 20)

bool cuda_linear_has_wgmma(const struct plim_parameters *parameters)
{
    enum { MOST_DEVICES = 64 };
    static atomic_int known[MOST_DEVICES];   /* 0: not yet; 1: no; 2: yes */
    int device = cuda_device_at(parameters, 0), major = 9;

    if (device < 0 || device >= MOST_DEVICES)
        return true;
    int answer = atomic_load_explicit(&known[device], memory_order_relaxed);
    if (!answer) {
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) {
            cudaGetLastError();
            major = 9;
        }
        answer = major == 9 ? 2 : 1;
        atomic_store_explicit(&known[device], answer, memory_order_relaxed);
    }
    return answer == 2;
}

/*
 * What ways cost, in ns, as one H100 was measured (bench_cuda_linear); they decide dq_rows=auto, and which kernel takes
 * many rows of packed weights.
 */

/* linear_few: 46 us for 64 rows of 4096 x 14336, 20 of 4096 x 4096. */
static size_t tiles_ns(size_t in_features, size_t columns, size_t rows)
{
    return plim_ceil_div(rows, LINEAR_MAX_FUSED_ROWS) * (6000 + in_features * columns / 1468);
}

/* Expanding at the memory's rate, and cuBLAS: reading fp16 weights or 700 TFLOP/s, whichever takes longer. */
static size_t chunks_ns(size_t in_features, size_t columns, size_t rows)
{
    size_t elements = in_features * columns;
    return 8000 + elements / 1080 + plim_max(elements / 1300, rows * elements / 350000);
}

/* Rows from which on linear_wgmma may be the faster one: 32 rows of 4096 x 14336 take it 30 us, linear_few 27. */
#define WIDE_ROWS ((size_t)33)

/* Whether packed weights meet these rows in linear_wgmma, or else in tiles of LINEAR_MAX_FUSED_ROWS rows. */
static bool is_wide(size_t in_features, size_t columns, size_t rows, const struct plim_parameters *parameters)
{
    return rows >= WIDE_ROWS &&
           linear_wgmma_ns(in_features, columns, rows) < tiles_ns(in_features, columns, rows) && cuda_linear_has_wgmma(parameters);
}

/*
 * Up to dq_rows rows, packed weights are multiplied as they are; auto: where that is the faster way. One row always is: a
 * decoded token's graph then needs no scratch.
 */
static bool is_few(const struct cuda_linear_shape *shape, enum cuda_linear_path packed, int64_t dq_rows)
{
    size_t in = shape->in_features, columns = shape->stored_out_features, rows = shape->rows;

    if (dq_rows >= 0)
        return rows <= (size_t)dq_rows || rows == 1;
    size_t fused = packed == CUDA_LINEAR_WIDE ? linear_wgmma_ns(in, columns, rows) : tiles_ns(in, columns, rows);
    /* Narrow projections (k, v) can share a launch, and a gathered x, with a wide one; alone they would gain by chunks. */
    return rows <= LINEAR_MAX_FUSED_ROWS || fused < chunks_ns(in, columns, rows) * 5 / 4;
}

/* dq_mode=gated, as ExLlamaV2 decides (memory-model notes, 1.3). What is over the limit goes as it does there, too. */
static bool gate_expands(const struct cuda_linear_shape *shape, size_t max_elements)
{
    return shape->in_features <= max_elements / shape->stored_out_features / 128 * 128;
}

enum cuda_linear_path cuda_linear_path(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters)
{
    size_t limit = (size_t)parameters->count[PLIM_MAX_DQ_SIZE];

    if (!shape->is_exl2)
        return shape->rows <= LINEAR_DENSE_ROWS ? CUDA_LINEAR_DOTS : CUDA_LINEAR_PRODUCT;
    bool wide = is_wide(shape->in_features, shape->stored_out_features, shape->rows, parameters);
    enum cuda_linear_path packed = wide ? CUDA_LINEAR_WIDE : CUDA_LINEAR_TILES;
    if (is_few(shape, packed, parameters->count[PLIM_DQ_ROWS]))
        return packed;
    if (parameters->count[PLIM_DQ_MODE] == PLIM_DQ_GATED && !gate_expands(shape, limit))
        return CUDA_LINEAR_TILES;
    if (limit < CUDA_SMALL_CHUNK && limit / shape->in_features < shape->stored_out_features && packed == CUDA_LINEAR_WIDE)
        return packed;
    /* Below a tile there is nothing that could be expanded by itself. */
    return limit < 32 * 32 ? packed : CUDA_LINEAR_CHUNKED;
}

bool cuda_linear_takes_halves(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters,
                              enum linear_order *order)
{
    enum cuda_linear_path path = cuda_linear_path(shape, parameters);

    *order = path == CUDA_LINEAR_WIDE ? LINEAR_WGMMA : LINEAR_ROWS;
    if (path == CUDA_LINEAR_PRODUCT)   /* rows of x are written 32 columns at a time */
        return shape->dtype == DTYPE_F16 && shape->in_features % 32 == 0;
    return path == CUDA_LINEAR_CHUNKED || path == CUDA_LINEAR_WIDE;
}

/* Products of pieces of W's rows add up in y, and so does a bias: each would round again. */
bool cuda_linear_gives_halves(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters)
{
    enum linear_order order;

    if (!cuda_linear_takes_halves(shape, parameters, &order))
        return false;
    if (order == LINEAR_WGMMA)
        return shape->out_features % 4 == 0;   /* it stores four at once */
    if (!shape->is_exl2)
        return !shape->has_bias;
    struct cuda_chunk_plan plan = cuda_chunk_plan(shape->in_features, shape->stored_out_features,
                                                  (size_t)parameters->count[PLIM_MAX_DQ_SIZE]);
    return plan.chunk_rows == shape->in_features && !shape->has_bias;
}
