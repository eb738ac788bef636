/*
 * Many rows: W is expanded to fp32 a chunk at a time, and OpenBLAS multiplies.
 *
 * EXL2 chunks stay in packed row order: x is gathered through the permutation once (tag workspace, [rows, K]), so a
 * chunk of rows multiplies a stretch of adjacent columns of the gathered x. Chunks run down the rows first, adding into
 * the same columns of y (beta 1), and each thread expands and multiplies its own columns of a chunk in its own part of
 * the buffer, without waiting for the others in between.
 *
 * Dense fp16 and bf16 weights are widened chunk by chunk in the same way, in their stored [N, K] order. Dense fp32
 * weights are multiplied where they lie.
 */

#include "blas.h"
#include "linear_internal.h"
#include "plimsoll/units.h"

/*
 * Rows of a chunk while max_dq_size does not allow all columns of that many. Each sgemm call packs its columns of x
 * once, so wide chunks cost less of that, and reads and writes its part of y once, so long chunks cost less of that.
 * sgemm alone on chunks in cache, 512 x 4096 x 4096 on one Zen 3 core, GFLOP/s (whole 93.1), by rows x columns:
 * 128 x 1024 89.2, 256 x 512 90.5, 512 x 256 88.2, 1024 x 128 84.7; 256 x 2048 92.3, 1024 x 512 90.4; 256 x 4096 93.7.
 */
#define CHUNK_ROWS 256

/* The size of pieces that `whole` falls into: even, multiples of 32, and none above `limit` (or 32). */
static size_t even_pieces(size_t whole, size_t limit)
{
    if (limit >= whole)
        return whole;
    size_t piece = plim_max(limit / 32 * 32, 32);
    size_t count = plim_ceil_div(whole, piece);
    return plim_min(plim_round_up(plim_ceil_div(whole, count), 32), piece);
}

struct chunk_plan chunk_plan(size_t rows, size_t columns, size_t max_elements)
{
    struct chunk_plan plan;

    max_elements = plim_max(max_elements, 1);
    if (max_elements / columns >= rows) {
        plan.chunk_rows = rows;
        plan.chunk_columns = columns;
    } else if (max_elements < 32 * 32) {
        /* Too small for the unit that kernels work in: slivers, through a tile on the stack. */
        plan.chunk_rows = plim_min(plim_min(max_elements, 32), rows);
        plan.chunk_columns = plim_min(max_elements / plan.chunk_rows, columns);
    } else {
        size_t narrow = plim_max(max_elements / columns, plim_min(CHUNK_ROWS, max_elements / 32));
        plan.chunk_rows = even_pieces(rows, narrow);
        plan.chunk_columns = even_pieces(columns, max_elements / plan.chunk_rows);
    }
    plan.buffer_elements = plan.chunk_rows * plan.chunk_columns;
    plan.chunk_count = plim_ceil_div(rows, plan.chunk_rows) * plim_ceil_div(columns, plan.chunk_columns);
    return plan;
}

struct chunk_run {
    const struct linear_call *call;
    struct chunk_plan plan;
    const float *x;          /* call->x, or gathered into packed order */
    float *buffer;           /* [plan.buffer_elements] */
    size_t first_column;     /* of the chunks now worked on */
};

/* ---- expanding ---- */

/* Packed rows and columns that are whole units of 32. */
static void expand_units(const struct cpu_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                         float *out, size_t out_stride)
{
    const struct exl2_matrix *exl2 = &matrix->exl2;

    for (size_t g = 0; g < exl2->group_count; g++) {
        const struct exl2_group *group = &exl2->groups[g];
        size_t begin = plim_max(row, group->first_row);
        size_t end = plim_min(row + rows, (size_t)group->first_row + group->row_count);
        if (begin >= end)
            continue;
        struct dequant_block block = {
            .bits = group->bits,
            .rows = end - begin,
            .columns = columns,
            .words = exl2->q_weight + column +
                     (group->first_word + (begin - group->first_row) * group->bits / 32) * exl2->out_features,
            .word_stride = exl2->out_features,
            .scale_codes = exl2->q_scale + (g * exl2->out_features + column) / 8,
            .scale_unit = group->scale_unit,
            .out = out + (begin - row) * out_stride,
            .out_stride = out_stride,
        };
        matrix->kernels->dequantise(&block);
    }
}

/* Any rectangle, by way of a tile of 32 x 32. */
static void expand_slivers(const struct cpu_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                           float *out, size_t out_stride)
{
    float tile[32][32];

    for (size_t i = row / 32 * 32; i < row + rows; i += 32) {
        for (size_t n = column / 32 * 32; n < column + columns; n += 32) {
            expand_units(matrix, i, 32, n, 32, &tile[0][0], 32);
            size_t last_row = plim_min(i + 32, row + rows), last_column = plim_min(n + 32, column + columns);
            for (size_t r = plim_max(i, row); r < last_row; r++)
                for (size_t c = plim_max(n, column); c < last_column; c++)
                    out[(r - row) * out_stride + (c - column)] = tile[r - i][c - n];
        }
    }
}

static void expand_exl2(const struct cpu_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                        float *out)
{
    bool units = row % 32 == 0 && rows % 32 == 0 && column % 32 == 0 && columns % 32 == 0;
    (units ? expand_units : expand_slivers)(matrix, row, rows, column, columns, out, columns);
}

/* out [columns, rows], as the weights are stored */
static void expand_dense(const struct linear_call *call, size_t row, size_t rows, size_t column, size_t columns,
                         float *out)
{
    const struct cpu_matrix *matrix = call->matrix;
    const char *weight = matrix->weight;

    for (size_t n = 0; n < columns; n++)
        matrix->kernels->widen[matrix->dtype](
            weight + ((column + n) * call->in_features + row) * dtype_bytes(matrix->dtype), rows, out + n * rows);
}

/* ---- multiplying ---- */

/* [begin, end): columns of the current chunks */
static void multiply_chunk_columns(void *context, size_t begin, size_t end, int thread)
{
    const struct chunk_run *run = context;
    const struct linear_call *call = run->call;
    const struct cpu_matrix *matrix = call->matrix;
    size_t column = run->first_column + begin;
    float *buffer = run->buffer + run->plan.chunk_rows * begin;
    (void)thread;

    if (column >= call->out_features)
        return;   /* padding */
    size_t columns = end - begin;
    size_t valid = plim_min(columns, call->out_features - column);

    for (size_t row = 0; row < call->in_features; row += run->plan.chunk_rows) {
        size_t rows = plim_min(run->plan.chunk_rows, call->in_features - row);
        if (matrix->is_exl2)
            expand_exl2(matrix, row, rows, column, columns, buffer);
        else
            expand_dense(call, row, rows, column, columns, buffer);
        blas_gemm(&(struct blas_gemm){
            .m = call->rows,
            .n = valid,
            .k = rows,
            .alpha = matrix->alpha,
            .beta = row > 0 || call->accumulate ? 1.0f : 0.0f,
            .a = run->x + row,
            .a_stride = call->in_features,
            .b = buffer,
            .b_stride = matrix->is_exl2 ? columns : rows,
            .b_transposed = !matrix->is_exl2,
            .c = call->y + column,
            .c_stride = call->out_features,
        });
    }
    linear_add_bias(call, 0, call->rows, column, column + valid);
}

/* fp32 weights: [begin, end) columns, in place */
static void multiply_in_place(void *context, size_t begin, size_t end, int thread)
{
    const struct linear_call *call = context;
    (void)thread;

    blas_gemm(&(struct blas_gemm){
        .m = call->rows,
        .n = end - begin,
        .k = call->in_features,
        .alpha = call->matrix->alpha,
        .beta = call->accumulate ? 1.0f : 0.0f,
        .a = call->x,
        .a_stride = call->in_features,
        .b = (const float *)call->matrix->weight + begin * call->in_features,
        .b_stride = call->in_features,
        .b_transposed = 1,
        .c = call->y + begin,
        .c_stride = call->out_features,
    });
    linear_add_bias(call, 0, call->rows, begin, end);
}

static void gather_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct chunk_run *run = context;
    const struct linear_call *call = run->call;
    const struct cpu_matrix *matrix = call->matrix;
    (void)thread;

    for (size_t r = begin; r < end; r++)
        matrix->kernels->gather(call->x + r * call->in_features, matrix->exl2.perm, call->in_features,
                                (float *)(uintptr_t)run->x + r * call->in_features);
}

static int multiply_chunks(struct chunk_run *run, struct plim_err *err)
{
    const struct linear_call *call = run->call;
    const struct cpu_matrix *matrix = call->matrix;
    struct plim_pool *pool = call->backend->pool;
    float *gathered = NULL;
    int rc = -1;

    run->buffer = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, run->plan.buffer_elements * sizeof(float), err);
    if (!run->buffer)
        goto out;
    run->x = call->x;
    if (matrix->is_exl2) {
        gathered = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                   call->rows * call->in_features * sizeof(float), err);
        if (!gathered)
            goto out;
        run->x = gathered;
        cpu_run(call->backend, call->rows * call->in_features, call->rows, 8, gather_rows, run);
    }

    for (size_t n = 0; n < matrix->stored_out_features; n += run->plan.chunk_columns) {
        run->first_column = n;
        linear_run(call, plim_min(run->plan.chunk_columns, matrix->stored_out_features - n), 32,
                   multiply_chunk_columns, run);
    }
    call->backend->counters.chunked_calls++;
    call->backend->counters.dequant_chunks += run->plan.chunk_count;
    call->backend->counters.dequantised_elements += call->in_features * matrix->stored_out_features;
    rc = 0;

out:
    plim_pool_free(pool, gathered);
    plim_pool_free(pool, run->buffer);
    return rc;
}

int chunked_linear(const struct linear_call *call, struct plim_err *err)
{
    const struct cpu_matrix *matrix = call->matrix;
    int rc = 0;

    int token = blas_serial_begin();
    if (!matrix->is_exl2 && matrix->dtype == DTYPE_F32) {
        linear_run(call, call->out_features, 16, multiply_in_place, (void *)(uintptr_t)call);
    } else {
        size_t limit = (size_t)call->backend->parameters->count[PLIM_MAX_DQ_SIZE];
        struct chunk_run run = {
            .call = call,
            .plan = chunk_plan(call->in_features, matrix->stored_out_features, limit),
        };
        rc = multiply_chunks(&run, err);
    }
    blas_serial_end(token);
    if (rc == 0)
        call->backend->counters.weight_bytes_read += matrix->stored_bytes;
    return rc;
}
