/* Linear layers: taking the way that linear_path.c chooses, and saying in advance what that will hold. */

#include "linear.h"

#include "plimsoll/units.h"

/* ---- wide ---- */

static size_t wide_workspace_bytes(const struct cuda_linear_shape *shape)
{
    return shape->x_ready ? 0 : shape->rows * shape->in_features * sizeof(uint16_t);
}

/* Calls with the same x and rows; `workspace` has the first's x, unless that comes ready. */
static int wide_linear(const struct cuda_linear_call *calls, size_t count, char *workspace, struct plim_err *err)
{
    const struct cuda_linear_shape *shape = &calls->shape;
    struct cuda *cuda = cuda_of(calls->backend);
    uint16_t *x_half = (uint16_t *)(void *)workspace;
    struct linear_wgmma wide = {
        .matrix_count = (uint32_t)count,
        .rows = (uint32_t)shape->rows,
        .accumulate = calls->accumulate,
        .overlap = cuda->overlap_launches,
    };

    if (!shape->x_ready &&
        cuda_check(linear_gather(calls->x, calls->matrix->tiles.invperm, shape->rows, shape->rows, shape->in_features,
                                 LINEAR_WGMMA, x_half, wide.overlap, cuda->stream),
                   "gathering activations", err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        wide.matrix[i] = calls[i].matrix->tiles;
        wide.x_half[i] = shape->x_ready ? calls[i].x_half : x_half;
        wide.y[i] = calls[i].y;
        wide.y_half[i] = calls[i].y_half;
        calls->backend->counters.weight_bytes_read += calls[i].matrix->stored_bytes;
    }
    return cuda_check(linear_wgmma(&wide, cuda->stream), "multiplying packed weights", err);
}

static int wide_alone(const struct cuda_linear_call *call, struct plim_err *err)
{
    struct backend *backend = call->backend;
    size_t bytes = wide_workspace_bytes(&call->shape);
    char *workspace = NULL;
    int rc;

    if (bytes > 0) {
        workspace = cuda_scratch_take(backend, PLIM_TAG_WORKSPACE, bytes, err);
        if (!workspace)
            return -1;
    }
    rc = wide_linear(call, 1, workspace, err);
    if (rc == 0)
        backend->counters.fused_calls++;
    cuda_scratch_give(backend, workspace);
    return rc;
}

/* ---- a tile of rows at a time ---- */

/* Rows of x that go through the packed weights at once, as the kernel counts them. */
static size_t padded_rows(size_t rows)
{
    size_t padded = 8;
    while (padded < rows && padded < LINEAR_MAX_FUSED_ROWS)
        padded *= 2;
    return padded;
}

/* Workspace of a call of `rows` rows: gathered x for each matrix, then sums of blocks that share columns. */
struct tile_layout {
    size_t x_half[LINEAR_MAX_MATRICES], partial, total;
};

static struct tile_layout tile_layout(const struct linear_few *call)
{
    struct tile_layout l = { 0 };

    for (uint32_t i = 0; i < call->matrix_count && call->rows > 1; i++) {
        l.x_half[i] = l.total;
        l.total += plim_round_up(padded_rows(call->rows) * call->matrix[i].in_features * sizeof(uint16_t),
                                 CUDA_LINEAR_ALIGN);
    }
    l.partial = l.total;
    l.total += linear_few_scratch(call).partial_bytes;
    return l;
}

/* What tile_layout needs of a call that has only shapes yet. */
static struct linear_few shape_call(size_t in_features, size_t stored_out_features, size_t rows)
{
    struct linear_few call = { .matrix_count = 1, .rows = (uint32_t)plim_min(rows, LINEAR_MAX_FUSED_ROWS) };
    call.matrix[0].in_features = (uint32_t)in_features;
    call.matrix[0].stored_out_features = (uint32_t)stored_out_features;
    return call;
}

/* A last tile of fewer rows may be cut otherwise than the ones before. */
static size_t tiles_workspace_bytes(const struct cuda_linear_shape *shape)
{
    size_t rows = shape->rows;
    struct linear_few call = shape_call(shape->in_features, shape->stored_out_features, rows);
    size_t bytes = tile_layout(&call).total, rest = rows % LINEAR_MAX_FUSED_ROWS;

    if (rows > LINEAR_MAX_FUSED_ROWS && rest) {
        call.rows = (uint32_t)rest;
        bytes = plim_max(bytes, tile_layout(&call).total);
    }
    return bytes;
}

/* One tile of rows through up to three matrices; `workspace` has what tile_layout says. */
static int multiply_tile(struct cuda *cuda, struct linear_few *call, const float *x, char *workspace, struct plim_err *err)
{
    struct tile_layout layout = tile_layout(call);

    if (call->rows == 1) {
        struct linear_one one = { .x = x, .matrix_count = call->matrix_count, .accumulate = call->accumulate,
                                  .overlap = cuda->overlap_launches };
        for (uint32_t i = 0; i < call->matrix_count; i++) {
            one.matrix[i] = call->matrix[i];
            one.y[i] = call->y[i];
        }
        if (linear_one_takes(&one, cuda->shared_bytes))
            return cuda_check(linear_one(&one, cuda->stream), "multiplying packed weights", err);
    }
    call->overlap = cuda->overlap_launches;
    call->counters = cuda->linear_counters;
    call->partial = workspace ? (float *)(void *)(workspace + layout.partial) : NULL;
    call->x = x;
    for (uint32_t i = 0; i < call->matrix_count && call->rows > 1; i++) {
        uint16_t *x_half = (uint16_t *)(void *)(workspace + layout.x_half[i]);
        call->x_half[i] = x_half;
        if (cuda_check(linear_gather(x, call->matrix[i].invperm, call->rows, padded_rows(call->rows),
                                     call->matrix[i].in_features, LINEAR_TILED, x_half, call->overlap, cuda->stream),
                       "gathering activations", err) < 0)
            return -1;
    }
    return cuda_check(linear_few(call, cuda->stream), "multiplying packed weights", err);
}

static int tiles_linear(const struct cuda_linear_call *call, struct plim_err *err)
{
    struct backend *backend = call->backend;
    size_t in = call->shape.in_features, rows = call->shape.rows;
    size_t bytes = tiles_workspace_bytes(&call->shape);
    char *workspace = NULL;
    int rc = 0;

    if (bytes > 0) {
        workspace = cuda_scratch_take(backend, PLIM_TAG_WORKSPACE, bytes, err);
        if (!workspace)
            return -1;
    }
    for (size_t row = 0; row < rows && rc == 0; row += LINEAR_MAX_FUSED_ROWS) {
        struct linear_few few = {
            .matrix = { call->matrix->tiles },
            .y = { call->y + row * call->shape.out_features },
            .matrix_count = 1,
            .rows = (uint32_t)plim_min(rows - row, LINEAR_MAX_FUSED_ROWS),
            .accumulate = call->accumulate,
        };
        rc = multiply_tile(cuda_of(backend), &few, call->x + row * in, workspace, err);
        backend->counters.weight_bytes_read += call->matrix->stored_bytes;
    }
    if (rc == 0)
        backend->counters.fused_calls++;
    cuda_scratch_give(backend, workspace);
    return rc;
}

/* ---- multiplying ---- */

struct cuda_linear_shape cuda_linear_shape_of(const struct matrix *matrix, size_t rows)
{
    const struct cuda_matrix *made = matrix->impl;

    return (struct cuda_linear_shape){
        .is_exl2 = made->is_exl2,
        .dtype = made->dtype,
        .in_features = matrix->in_features,
        .out_features = matrix->out_features,
        .stored_out_features = made->is_exl2 ? made->tiles.stored_out_features : matrix->out_features,
        .rows = rows,
        .has_bias = made->is_exl2 ? made->tiles.bias != NULL : made->bias != NULL,
    };
}

static int multiply(const struct cuda_linear_call *call, struct plim_err *err)
{
    if (call->shape.rows == 0)
        return 0;
    switch (cuda_linear_path(&call->shape, call->backend->parameters)) {
    case CUDA_LINEAR_TILES:
        return tiles_linear(call, err);
    case CUDA_LINEAR_WIDE:
        return wide_alone(call, err);
    case CUDA_LINEAR_CHUNKED:
        return cuda_chunked_linear(call, err);
    case CUDA_LINEAR_DOTS:
    case CUDA_LINEAR_PRODUCT:
        break;
    }
    return cuda_dense_linear(call, err);
}

int cuda_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                bool accumulate, struct plim_err *err)
{
    struct cuda_linear_call call = {
        .backend = backend,
        .matrix = matrix->impl,
        .shape = cuda_linear_shape_of(matrix, rows),
        .x = x,
        .y = y,
        .accumulate = accumulate,
    };
    return multiply(&call, err);
}

static struct cuda_linear_call halves_call(struct backend *backend, const struct matrix *matrix,
                                           const struct cuda_halves *halves)
{
    struct cuda_linear_call call = {
        .backend = backend,
        .matrix = matrix->impl,
        .shape = cuda_linear_shape_of(matrix, halves->rows),
        .x_half = halves->x,
        .y = halves->y,
        .y_half = halves->y_half,
        .accumulate = halves->accumulate,
    };
    call.shape.x_ready = true;
    return call;
}

static bool takes_wide(const struct cuda_linear_call *call)
{
    return cuda_linear_path(&call->shape, call->backend->parameters) == CUDA_LINEAR_WIDE;
}

int cuda_linear_halves(struct backend *backend, const struct matrix *const *matrices, const struct cuda_halves *halves,
                       size_t count, struct plim_err *err)
{
    struct cuda_linear_call calls[LINEAR_MAX_MATRICES];
    bool together = count > 1 && count <= LINEAR_MAX_MATRICES;

    for (size_t i = 0; i < count && together; i++) {
        calls[i] = halves_call(backend, matrices[i], &halves[i]);
        together = takes_wide(&calls[i]);
    }
    if (together) {
        backend->counters.fused_calls += count;
        return wide_linear(calls, count, NULL, err);
    }
    for (size_t i = 0; i < count; i++) {
        struct cuda_linear_call call = halves_call(backend, matrices[i], &halves[i]);
        if (multiply(&call, err) < 0)
            return -1;
    }
    return 0;
}

/* One launch for a decoded token's projections of the same input. */
static bool go_together(const struct matrix *const *matrices, size_t count)
{
    const struct cuda_matrix *first = matrices[0]->impl;

    if (count > LINEAR_MAX_MATRICES)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct cuda_matrix *made = matrices[i]->impl;
        if (!made->is_exl2 || made->tiles.in_features != first->tiles.in_features)
            return false;
    }
    return true;
}

int cuda_linear_many(struct backend *backend, const struct matrix *const *matrices, size_t count, const float *x,
                     size_t rows, float *const *y, struct plim_err *err)
{
    struct linear_few few = { .matrix_count = (uint32_t)count, .rows = 1 };

    if (rows != 1 || !go_together(matrices, count)) {
        for (size_t i = 0; i < count; i++)
            if (cuda_linear(backend, matrices[i], x, rows, y[i], false, err) < 0)
                return -1;
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        const struct cuda_matrix *made = matrices[i]->impl;
        few.matrix[i] = made->tiles;
        few.y[i] = y[i];
        backend->counters.weight_bytes_read += made->stored_bytes;
        backend->counters.fused_calls++;
    }
    return multiply_tile(cuda_of(backend), &few, x, NULL, err);
}

int cuda_linear_gated(struct backend *backend, enum activation activation, const struct matrix *gate,
                      const struct matrix *up, const float *x, float *y, struct plim_err *err)
{
    const struct matrix *const matrices[] = { gate, up };
    struct cuda *cuda = cuda_of(backend);
    struct linear_one one = {
        .x = x,
        .y = { y },
        .matrix_count = 2,
        .gate = activation == ACTIVATION_GELU_TANH ? LINEAR_GATE_GELU_TANH : LINEAR_GATE_SILU,
        .overlap = cuda->overlap_launches,
    };

    if (!go_together(matrices, 2) || gate->out_features != up->out_features)
        return 1;
    for (size_t i = 0; i < 2; i++)
        one.matrix[i] = ((const struct cuda_matrix *)matrices[i]->impl)->tiles;
    if (!linear_one_takes(&one, cuda->shared_bytes))
        return 1;
    for (size_t i = 0; i < 2; i++) {
        backend->counters.weight_bytes_read += ((const struct cuda_matrix *)matrices[i]->impl)->stored_bytes;
        backend->counters.fused_calls++;
    }
    return cuda_check(linear_one(&one, cuda->stream), "multiplying packed weights", err);
}

/* ---- prediction ---- */

struct cuda_linear_shape cuda_linear_shape_planned(const struct linear_shape *shape, size_t rows)
{
    return (struct cuda_linear_shape){
        .is_exl2 = shape->is_exl2,
        .dtype = shape->dtype,
        .in_features = shape->in_features,
        .out_features = shape->out_features,
        .stored_out_features = shape->stored_out_features,
        .rows = rows,
        .has_bias = shape->has_bias,
    };
}

static struct linear_scratch scratch_of(const struct linear_shape *shape, size_t rows, bool x_ready,
                                        const struct plim_parameters *parameters)
{
    struct cuda_linear_shape asked = cuda_linear_shape_planned(shape, rows);
    struct linear_scratch scratch = { 0 };

    asked.x_ready = x_ready;
    if (rows == 0)
        return scratch;
    switch (cuda_linear_path(&asked, parameters)) {
    case CUDA_LINEAR_TILES:
        scratch.workspace_bytes = tiles_workspace_bytes(&asked);
        return scratch;
    case CUDA_LINEAR_WIDE:
        scratch.workspace_bytes = wide_workspace_bytes(&asked);
        return scratch;
    case CUDA_LINEAR_CHUNKED:
        return cuda_chunked_scratch(&asked, parameters);
    case CUDA_LINEAR_DOTS:
    case CUDA_LINEAR_PRODUCT:
        break;
    }
    return cuda_dense_scratch(&asked);
}

struct linear_scratch cuda_linear_scratch(const struct linear_shape *shape, size_t rows,
                                          const struct plim_parameters *parameters)
{
    return scratch_of(shape, rows, false, parameters);
}

struct linear_scratch cuda_halves_scratch(const struct linear_shape *shape, size_t rows,
                                          const struct plim_parameters *parameters)
{
    return scratch_of(shape, rows, true, parameters);
}

/* ---- counters that blocks of one strip of columns use ---- */

int cuda_linear_open(struct backend *backend, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

    if ((cuda->compute_capability / 10 == 9) != cuda_linear_has_wgmma(backend->parameters))
        return plim_err_input(err, "device %d has compute capability %d.%d, the first of those that share the model %s: all must "
                              "have 9.0, or none", cuda->device, cuda->compute_capability / 10, cuda->compute_capability % 10,
                              cuda_linear_has_wgmma(backend->parameters) ? "has 9.0" : "hasn't 9.0");
    cuda->linear_counters = plim_pool_calloc(backend->pool, PLIM_FAST, PLIM_TAG_METADATA, 1,
                                             LINEAR_COUNTERS * sizeof *cuda->linear_counters, err);
    return cuda->linear_counters ? 0 : -1;
}

void cuda_linear_close(struct backend *backend)
{
    plim_pool_free(backend->pool, cuda_of(backend)->linear_counters);
    cuda_of(backend)->linear_counters = NULL;
}

size_t cuda_linear_open_bytes(void)
{
    return LINEAR_COUNTERS * sizeof(uint32_t);
}
