/* Linear layers: making them ready, choosing the way through them, and saying in advance what that will hold. */

#include "linear.h"

#include <stdatomic.h>

#include "linear_internal.h"
#include "plimsoll/units.h"
#include "tasks.h"

/* ---- choosing ---- */

/*
 * dq_mode=gated, as ExLlamaV2 decides: a matrix is expanded if whole units of 128 rows within max_dq_size cover it,
 * otherwise it takes the fused kernel whatever the rows (memory-model notes, 1.3).
 */
static bool gate_expands(size_t in_features, size_t stored_out_features, size_t max_elements)
{
    return in_features <= max_elements / stored_out_features / 128 * 128;
}

/* Dense dot products stream the weights once for each few rows: beyond this, sgemm on converted chunks is faster. */
#define DENSE_DOT_ROWS ((size_t)32)

/* dq_rows=auto: the fused kernel is the faster one at every count (linear.h), up to the parameter's limit. */
#define DQ_ROWS ((size_t)4096)

enum linear_path linear_path(bool is_exl2, size_t in_features, size_t stored_out_features, size_t rows,
                             const struct plim_parameters *parameters)
{
    int64_t dq_rows = parameters->count[PLIM_DQ_ROWS];
    size_t few_rows = dq_rows < 0 ? DQ_ROWS : (size_t)dq_rows;
    if (!is_exl2)
        few_rows = plim_min(few_rows, DENSE_DOT_ROWS);
    if (rows <= few_rows)
        return is_exl2 ? LINEAR_FUSED : LINEAR_DOTS;
    if (is_exl2 && parameters->count[PLIM_DQ_MODE] == PLIM_DQ_GATED &&
        !gate_expands(in_features, stored_out_features, (size_t)parameters->count[PLIM_MAX_DQ_SIZE]))
        return LINEAR_FUSED;
    return LINEAR_CHUNKED;
}

struct piece_run {
    threads_body *body;
    void *context;
    size_t columns, piece;
};

static void run_piece(void *context, size_t task)
{
    const struct piece_run *run = context;
    size_t begin = task * run->piece;
    run->body(run->context, begin, plim_min(begin + run->piece, run->columns), 0);
}

/*
 * A BLAS takes other kernels at the edges of a product, which round otherwise. Pieces of about 192 columns: at 256 rows
 * of x, packing x again for each costs some 5%.
 */
static void run_fixed_pieces(const struct linear_call *call, size_t columns, size_t step, threads_body *body,
                             void *context)
{
    size_t count = 4 * plim_ceil_div(columns, 768);
    struct piece_run run = { body, context, columns, plim_round_up(plim_ceil_div(columns, count), plim_max(step, 32)) };
    cpu_run_tasks(call->backend, plim_ceil_div(columns, run.piece), run_piece, &run);
}

void linear_run(const struct linear_call *call, size_t columns, size_t step, threads_body *body, void *context)
{
    if (call->backend->fixed_pieces) {
        run_fixed_pieces(call, columns, step, body, context);
        return;
    }
    /* A multiply-add of a kernel takes about an eighth of the time of an element of other operations. */
    size_t work = call->rows * call->in_features / 8 * columns;
    cpu_run(call->backend, work, columns, step, body, context);
}

/* ---- making ready ---- */

static float *bias_to_float(struct plim_pool *pool, const struct linear_source *source, struct plim_err *err)
{
    float *bias = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, source->out_features * sizeof *bias, err);
    if (!bias)
        return NULL;
    linear_kernels_portable.widen[source->bias_dtype](source->bias, source->out_features, bias);
    if (!linear_kernels_portable.all_finite[DTYPE_F32](bias, source->out_features)) {
        plim_err_input(err, "tensor %s.bias: NaN or infinity, expected finite values", source->name);
        plim_pool_free(pool, bias);
        return NULL;
    }
    return bias;
}

struct finite_scan {
    const struct cpu_matrix *matrix;
    size_t in_features;
    atomic_bool bad;
};

static void scan_rows(void *context, size_t begin, size_t end, int thread)
{
    struct finite_scan *scan = context;
    const struct cpu_matrix *matrix = scan->matrix;
    (void)thread;

    const char *weight = matrix->weight;
    for (size_t n = begin; n < end; n++)
        if (!matrix->kernels->all_finite[matrix->dtype](weight + n * scan->in_features * dtype_bytes(matrix->dtype),
                                                        scan->in_features))
            atomic_store_explicit(&scan->bad, true, memory_order_relaxed);
}

static int init_dense(struct backend *backend, struct cpu_matrix *matrix, const struct linear_source *source,
                      struct plim_err *err)
{
    if (source->dtype != DTYPE_F32 && source->dtype != DTYPE_F16 && source->dtype != DTYPE_BF16)
        return plim_err_input(err, "tensor %s.weight: dtype %s, expected F32, F16 or BF16", source->name,
                              dtype_name(source->dtype));
    matrix->dtype = source->dtype;
    matrix->weight = source->weight;
    matrix->alpha = source->prescale;
    matrix->stored_out_features = source->out_features;
    matrix->stored_bytes = source->in_features * source->out_features * dtype_bytes(source->dtype);
    matrix->mapped_bytes = matrix->stored_bytes;

    struct finite_scan scan = { .matrix = matrix, .in_features = source->in_features };
    cpu_run(backend, source->in_features / 8 * source->out_features, source->out_features, 16, scan_rows, &scan);
    if (atomic_load(&scan.bad))
        return plim_err_input(err, "tensor %s.weight: NaN or infinity, expected finite values", source->name);
    return 0;
}

static int init_exl2(struct backend *backend, struct cpu_matrix *matrix, const struct linear_source *source,
                     struct plim_err *err)
{
    if (exl2_matrix_init(&matrix->exl2, backend->pool, &source->exl2, source->prescale, err) < 0)
        return -1;
    matrix->is_exl2 = true;

    const struct exl2_matrix *exl2 = &matrix->exl2;
    if (exl2->in_features != source->in_features || exl2->out_features < source->out_features)
        return plim_err_input(err, "layer %s: stored as %zu x %zu, expected %zu x %zu", source->name,
                              exl2->in_features, exl2->out_features, source->in_features, source->out_features);
    matrix->alpha = 1.0f;   /* the prescale is in the scales */
    matrix->stored_out_features = exl2->out_features;
    matrix->stored_bytes = exl2->word_rows * exl2->out_features * sizeof(uint32_t) +
                           exl2->group_count * (exl2->out_features / 8) * sizeof(uint32_t);
    matrix->mapped_bytes = matrix->stored_bytes - exl2_copied_bytes(&source->exl2);
    return 0;
}

int cpu_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                    struct plim_err *err)
{
    *matrix = (struct matrix){ source->in_features, source->out_features, NULL };
    struct cpu_matrix *made = plim_pool_calloc(backend->pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 1, sizeof *made, err);
    if (!made)
        return -1;
    matrix->impl = made;
    made->kernels = linear_kernels(cpu_isa(backend));
    if ((source->is_exl2 ? init_exl2 : init_dense)(backend, made, source, err) < 0)
        goto fail;
    if (source->bias) {
        made->bias = bias_to_float(backend->pool, source, err);
        if (!made->bias)
            goto fail;
    }
    plim_pool_note_mapped(backend->pool, (int64_t)made->mapped_bytes);
    return 0;

fail:
    made->mapped_bytes = 0;
    cpu_matrix_release(backend, matrix);
    return -1;
}

void cpu_matrix_release(struct backend *backend, struct matrix *matrix)
{
    struct cpu_matrix *made = matrix->impl;
    if (!made)
        return;
    plim_pool_note_mapped(backend->pool, -(int64_t)made->mapped_bytes);
    if (made->is_exl2)
        exl2_matrix_release(&made->exl2, backend->pool);
    plim_pool_free(backend->pool, made->bias);
    plim_pool_free(backend->pool, made);
    matrix->impl = NULL;
}

/* ---- multiplying ---- */

void linear_add_bias(const struct linear_call *call, size_t row, size_t rows, size_t begin, size_t end)
{
    const float *bias = call->matrix->bias;

    if (!bias)
        return;
    for (size_t r = row; r < row + rows; r++) {
        float *y = call->y + r * call->out_features;
        for (size_t n = begin; n < end; n++)
            y[n] += bias[n];
    }
}

int cpu_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
               bool accumulate, struct plim_err *err)
{
    const struct cpu_matrix *made = matrix->impl;
    struct linear_call call = {
        .backend = backend,
        .matrix = made,
        .in_features = matrix->in_features,
        .out_features = matrix->out_features,
        .x = x,
        .rows = rows,
        .y = y,
        .accumulate = accumulate,
    };
    int rc = 0;

    if (rows == 0)
        return 0;
    switch (linear_path(made->is_exl2, matrix->in_features, made->stored_out_features, rows, backend->parameters)) {
    case LINEAR_FUSED:
        rc = fused_linear(&call, err);
        break;
    case LINEAR_DOTS:
        dense_linear(&call);
        break;
    case LINEAR_CHUNKED:
        rc = chunked_linear(&call, err);
        break;
    }
    return rc;
}

/* ---- prediction ---- */

size_t cpu_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters)
{
    (void)parameters;
    return sizeof(struct cpu_matrix) + (shape->is_exl2 ? exl2_matrix_bytes(shape->in_features, shape->group_count) : 0) +
           shape->copied_bytes + (shape->has_bias ? shape->out_features * sizeof(float) : 0);
}

size_t cpu_matrix_mapped_bytes(const struct linear_shape *shape)
{
    if (!shape->is_exl2)
        return shape->in_features * shape->out_features * dtype_bytes(shape->dtype);
    return shape->word_rows * shape->stored_out_features * sizeof(uint32_t) +
           shape->group_count * (shape->stored_out_features / 8) * sizeof(uint32_t) - shape->copied_bytes;
}

struct linear_scratch cpu_linear_scratch(const struct linear_shape *shape, size_t rows,
                                         const struct plim_parameters *parameters)
{
    struct linear_scratch scratch = { 0 };

    if (rows == 0)
        return scratch;
    switch (linear_path(shape->is_exl2, shape->in_features, shape->stored_out_features, rows, parameters)) {
    case LINEAR_FUSED:
        scratch.workspace_bytes = fused_workspace_bytes(shape->in_features, shape->group_count, rows);
        break;
    case LINEAR_DOTS:
        break;
    case LINEAR_CHUNKED:
        if (!shape->is_exl2 && shape->dtype == DTYPE_F32)
            break;
        scratch.dequant_bytes = sizeof(float) * chunk_plan(shape->in_features, shape->stored_out_features,
                                                           (size_t)parameters->count[PLIM_MAX_DQ_SIZE])
                                                    .buffer_elements;
        if (shape->is_exl2)
            scratch.workspace_bytes = rows * shape->in_features * sizeof(float);
        break;
    }
    return scratch;
}
