/*
 * Many rows: W is expanded to fp16 a chunk at a time, and cuBLAS multiplies.
 *
 * Chunks stay in packed row order: x is brought into that order, as fp16, once (tag workspace). A chunk is columns of W
 * from the first row to the last, so that each product finishes its columns of y; only when max_dq_size leaves too few
 * columns for a product to fill the device are the rows cut too, and the products add up in y.
 *
 * Two streams take the pieces of columns in turn, each with a buffer of its own: while one multiplies, the other expands,
 * and the last blocks of one product share the device with the first of the next.
 */

#include "cuda_libraries.h"
#include "linear.h"
#include "plimsoll/units.h"

/*
 * What a chunk should be, from 2048 rows of 4096 x 14336 on one H100 (cuBLAS on ready weights 329 us), us by max_dq_size and
 * buffers: 64Mi/2 392, 32Mi/2 419, 16Mi/2 414, 16Mi/1 434, 8Mi/2 450, 8Mi/1 433, 4Mi/2 583, 4Mi/1 450, 2Mi/1 595, 1Mi/1 841.
 * So: two buffers of 8 Mi elements (they stay in the second-level cache, and little is gained by more memory), one below
 * that, as a product of few columns doesn't fill the device. Cutting rows as well costs passes over y: 683 at 2Mi (512
 * columns), 1090 (2048 columns).
 */
#define CHUNK_ELEMENTS ((size_t)8 << 20)

/* Columns of a chunk below which rows are cut. */
#define CHUNK_COLUMNS ((size_t)256)

/* Tile: 32 rows by 32 columns. */
#define TILE ((size_t)32)

/* The size of pieces that `whole` falls into: even, multiples of a tile, none above `limit` (at least a tile). */
static size_t even_pieces(size_t whole, size_t limit)
{
    if (limit >= whole)
        return whole;
    size_t piece = plim_max(limit / TILE * TILE, TILE);
    size_t count = plim_ceil_div(whole, piece);
    return plim_min(plim_round_up(plim_ceil_div(whole, count), TILE), piece);
}

struct cuda_chunk_plan cuda_chunk_plan(size_t in_features, size_t stored_out_features, size_t max_elements)
{
    struct cuda_chunk_plan plan = { .buffer_count = max_elements >= 2 * CHUNK_ELEMENTS ? 2 : 1 };
    size_t limit = plim_min(max_elements / plan.buffer_count, CHUNK_ELEMENTS);

    if (limit / in_features >= plim_min(CHUNK_COLUMNS, stored_out_features)) {
        plan.chunk_rows = in_features;
        plan.chunk_columns = even_pieces(stored_out_features, limit / in_features);
    } else {
        size_t columns = plim_min(plim_min(CHUNK_COLUMNS, stored_out_features), limit / TILE);
        plan.chunk_columns = even_pieces(stored_out_features, columns);
        plan.chunk_rows = even_pieces(in_features, limit / plan.chunk_columns);
    }
    size_t pieces = plim_ceil_div(stored_out_features, plan.chunk_columns);
    plan.buffer_count = plim_min(plan.buffer_count, pieces);
    plan.buffer_elements = plan.chunk_rows * plan.chunk_columns;
    plan.chunk_count = pieces * plim_ceil_div(in_features, plan.chunk_rows);
    return plan;
}

static size_t gathered_bytes(const struct cuda_linear_shape *shape)
{
    return shape->x_ready ? 0 : plim_round_up(shape->rows * shape->in_features * sizeof(uint16_t), CUDA_LINEAR_ALIGN);
}

static size_t buffer_bytes(const struct cuda_chunk_plan *plan)
{
    return plan->buffer_elements * sizeof(uint16_t);
}

struct linear_scratch cuda_chunked_scratch(const struct cuda_linear_shape *shape,
                                           const struct plim_parameters *parameters)
{
    struct cuda_chunk_plan plan = cuda_chunk_plan(shape->in_features, shape->stored_out_features,
                                                  (size_t)parameters->count[PLIM_MAX_DQ_SIZE]);
    return (struct linear_scratch){
        .dequant_bytes = plan.buffer_count * buffer_bytes(&plan),
        .workspace_bytes = gathered_bytes(shape) + plan.buffer_count * CUDA_LINEAR_BLAS_BYTES,
    };
}

/* A call on its way. */
struct chunk_run {
    const struct cuda_linear_call *call;
    const struct cuda_blas *blas;
    struct cuda_chunk_plan plan;
    const uint16_t *x;             /* in packed row order, [rows, in_features] */
    char *buffers, *workspaces;
};

/* y[:, column ...] (+)= x[:, row ...] W[row ..., column ...] on one of the streams. */
static int multiply_chunk(const struct chunk_run *run, size_t row, size_t column, size_t which, struct plim_err *err)
{
    const struct cuda_linear_call *call = run->call;
    const struct cuda_linear_shape *shape = &call->shape;
    struct cuda *cuda = cuda_of(call->backend);
    cudaStream_t stream = which ? cuda->side : cuda->stream;
    size_t rows = plim_min(run->plan.chunk_rows, shape->in_features - row);
    size_t columns = plim_min(run->plan.chunk_columns, shape->stored_out_features - column);
    size_t valid = plim_min(columns, shape->out_features - column);
    uint16_t *buffer = (uint16_t *)(void *)(run->buffers + which * buffer_bytes(&run->plan));
    const float alpha = 1.0f, beta = row > 0 || call->accumulate ? 1.0f : 0.0f;
    void *y = call->y_half ? (void *)(call->y_half + column) : (void *)(call->y + column);

    if (cuda_check(linear_expand(&call->matrix->tiles, column, columns, row, rows, buffer, stream), "expanding a chunk",
                   err) < 0)
        return -1;
    return cuda_blas_check(run->blas->gemm_ex(run->blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)valid, (int)shape->rows,
                                              (int)rows, &alpha, buffer, CUDA_R_16F, (int)rows, run->x + row,
                                              CUDA_R_16F, (int)shape->in_features, &beta, y,
                                              call->y_half ? CUDA_R_16F : CUDA_R_32F, (int)shape->out_features, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                           "cublasGemmEx of a chunk", err);
}

/* One piece of columns, from the first row to the last. */
static int multiply_columns(const struct chunk_run *run, size_t column, size_t which, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(run->call->backend);
    cublasHandle_t handle = run->blas->handle;

    if (cuda_blas_check(run->blas->set_stream(handle, which ? cuda->side : cuda->stream), "cublasSetStream", err) < 0 ||
        cuda_blas_check(run->blas->set_workspace(handle, run->workspaces + which * CUDA_LINEAR_BLAS_BYTES,
                                                 CUDA_LINEAR_BLAS_BYTES),
                        "cublasSetWorkspace", err) < 0)
        return -1;
    for (size_t row = 0; row < run->call->shape.in_features; row += run->plan.chunk_rows)
        if (multiply_chunk(run, row, column, which, err) < 0)
            return -1;
    return 0;
}

/* The side stream's work is joined even after a failure: its buffers are about to be freed. */
static int multiply_all(const struct chunk_run *run, struct plim_err *err)
{
    const struct cuda_linear_shape *shape = &run->call->shape;
    struct cuda *cuda = cuda_of(run->call->backend);
    bool forked = run->plan.buffer_count > 1;
    int rc = 0;

    if (forked) {
        CUDA_TRY(cudaEventRecord(cuda->fork, cuda->stream), err);
        CUDA_TRY(cudaStreamWaitEvent(cuda->side, cuda->fork, 0), err);
    }
    for (size_t column = 0, piece = 0; column < shape->out_features && rc == 0; piece++) {
        rc = multiply_columns(run, column, forked ? piece % 2 : 0, err);
        column += run->plan.chunk_columns;
    }
    if (forked) {
        CUDA_TRY(cudaEventRecord(cuda->join, cuda->side), err);
        CUDA_TRY(cudaStreamWaitEvent(cuda->stream, cuda->join, 0), err);
    }
    return rc;
}

static int run_chunks(struct chunk_run *run, char *workspace, struct plim_err *err)
{
    const struct cuda_linear_call *call = run->call;
    const struct cuda_linear_shape *shape = &call->shape;
    const struct linear_tiles *tiles = &call->matrix->tiles;
    struct cuda *cuda = cuda_of(call->backend);
    uint16_t *x = (uint16_t *)(void *)workspace;

    run->x = shape->x_ready ? call->x_half : x;
    run->workspaces = workspace + gathered_bytes(shape);
    run->blas = cuda_blas(call->backend, run->workspaces, CUDA_LINEAR_BLAS_BYTES, err);
    if (!run->blas)
        return -1;
    if (!shape->x_ready &&
        cuda_check(linear_gather(call->x, tiles->invperm, shape->rows, shape->rows, shape->in_features, LINEAR_ROWS, x,
                                 cuda->overlap_launches, cuda->stream),
                   "gathering activations", err) < 0)
        return -1;
    if (multiply_all(run, err) < 0)
        return -1;
    if (!tiles->bias)
        return 0;
    return cuda_check(linear_bias(call->y, tiles->bias, shape->rows, shape->out_features, cuda->stream),
                      "adding a bias", err);
}

int cuda_chunked_linear(const struct cuda_linear_call *call, struct plim_err *err)
{
    const struct plim_parameters *parameters = call->backend->parameters;
    struct backend_counters *counters = &call->backend->counters;
    struct plim_pool *pool = call->backend->pool;
    struct linear_scratch scratch = cuda_chunked_scratch(&call->shape, parameters);
    struct chunk_run run = {
        .call = call,
        .plan = cuda_chunk_plan(call->shape.in_features, call->shape.stored_out_features,
                                (size_t)parameters->count[PLIM_MAX_DQ_SIZE]),
    };
    char *workspace = NULL;
    int rc = -1;

    run.buffers = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, scratch.dequant_bytes, err);
    if (!run.buffers)
        goto out;
    workspace = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, scratch.workspace_bytes, err);
    if (!workspace || run_chunks(&run, workspace, err) < 0)
        goto out;
    counters->chunked_calls++;
    counters->dequant_chunks += run.plan.chunk_count;
    counters->dequantised_elements += call->shape.in_features * call->shape.stored_out_features;
    counters->weight_bytes_read += call->matrix->stored_bytes;
    rc = 0;

out:
    plim_pool_free(pool, workspace);
    plim_pool_free(pool, run.buffers);
    return rc;
}
