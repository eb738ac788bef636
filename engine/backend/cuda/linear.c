/* Linear layers: making them ready, choosing the way through them, and saying in advance what that will hold. */

#include "linear.h"

#include <stdatomic.h>
#include <string.h>

#include "half.h"
#include "plimsoll/units.h"
#include "threads.h"

/*
 * Chunks smaller than this leave cuBLAS too few columns at a time (2048 rows of 4096 x 14336: 698 us at 2 Mi elements, 920 at
 * 1 Mi); linear_wgmma, where it can run, needs no buffer.
 */
#define CUDA_SMALL_CHUNK ((size_t)4 << 20)

/* Columns of a piece of codes: 32 rows of the widest codes fill a pinned piece. */
#define WIDEST_PIECE (CUDA_PIECE_BYTES / (8 * sizeof(uint32_t)) / 32 * 32)

/* Host copies below this are not worth another thread. */
#define COPY_GRAIN_BYTES ((size_t)64 << 10)

/* ---- choosing ---- */

/*
 * Whether linear_wgmma can run. The one thing that hangs on the device, with what follows from it for memory; without a
 * device the answer is that of the cards that have it.
 */
static bool wgmma_there(void)
{
    static atomic_int known;   /* 0: not yet; 1: no; 2: yes */
    int answer = atomic_load_explicit(&known, memory_order_relaxed), major = 9;

    if (!answer) {
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess) {
            cudaGetLastError();
            major = 9;
        }
        answer = major == 9 ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}

/*
 * What ways cost, in ns, as one H100 was measured (bench_cuda_linear); they decide dq_rows=auto, and which kernel takes
 * many rows of packed weights.
 */

/* linear_wgmma: blocks of 256 columns by 128 rows, 132 at a time; a wave takes so long for each row of W. */
#define WIDE_NS_PER_ROW ((size_t)20)

static size_t wide_ns(size_t in_features, size_t columns, size_t rows)
{
    size_t blocks = plim_ceil_div(columns, 256) * plim_ceil_div(rows, 128);
    return plim_ceil_div(blocks, 132) * in_features * WIDE_NS_PER_ROW;
}

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

/* Whether packed weights meet these rows in linear_wgmma, or else in tiles of LINEAR_MAX_FUSED_ROWS rows. */
static bool is_wide(size_t in_features, size_t columns, size_t rows)
{
    return rows > LINEAR_MAX_FUSED_ROWS &&
           wide_ns(in_features, columns, rows) < tiles_ns(in_features, columns, rows) && wgmma_there();
}

/*
 * Up to dq_rows rows, packed weights are multiplied as they are; auto: where that is the faster way. One row always is: a
 * decoded token's graph then needs no scratch.
 */
static bool is_few(const struct cuda_linear_shape *shape, int64_t dq_rows)
{
    size_t in = shape->in_features, columns = shape->stored_out_features, rows = shape->rows;

    if (dq_rows >= 0)
        return rows <= (size_t)dq_rows || rows == 1;
    size_t fused = is_wide(in, columns, rows) ? wide_ns(in, columns, rows) : tiles_ns(in, columns, rows);
    return rows <= LINEAR_MAX_FUSED_ROWS || fused < chunks_ns(in, columns, rows);
}

/* dq_mode=gated, as ExLlamaV2 decides (memory-model notes, 1.3). */
static bool gate_expands(const struct cuda_linear_shape *shape, size_t max_elements)
{
    return shape->in_features <= max_elements / shape->stored_out_features / 128 * 128;
}

enum cuda_linear_path cuda_linear_path(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters)
{
    size_t limit = (size_t)parameters->count[PLIM_MAX_DQ_SIZE];

    if (!shape->is_exl2)
        return shape->rows <= LINEAR_DENSE_ROWS ? CUDA_LINEAR_DOTS : CUDA_LINEAR_PRODUCT;
    if (is_few(shape, parameters->count[PLIM_DQ_ROWS]))
        return CUDA_LINEAR_FUSED;
    if (parameters->count[PLIM_DQ_MODE] == PLIM_DQ_GATED && !gate_expands(shape, limit))
        return CUDA_LINEAR_FUSED;
    if (limit < CUDA_SMALL_CHUNK && limit / shape->in_features < shape->stored_out_features &&
        is_wide(shape->in_features, shape->stored_out_features, shape->rows))
        return CUDA_LINEAR_FUSED;
    /* Below a tile there is nothing that could be expanded by itself. */
    return limit < 32 * 32 ? CUDA_LINEAR_FUSED : CUDA_LINEAR_CHUNKED;
}

/* ---- one block of device memory for each matrix ---- */

struct block_layout {
    size_t tiles, scales, units, invperm, segments, weight, bias;   /* offsets */
    size_t total;
};

static size_t place(struct block_layout *layout, size_t bytes)
{
    size_t at = layout->total;
    layout->total = plim_round_up(at + bytes, CUDA_LINEAR_ALIGN);
    return at;
}

static struct block_layout block_layout(const struct linear_shape *shape)
{
    struct block_layout l = { 0 };

    if (shape->is_exl2) {
        l.tiles = place(&l, shape->word_rows * shape->stored_out_features * sizeof(uint32_t));
        l.scales = place(&l, shape->group_count * shape->stored_out_features / 2);
        l.units = place(&l, shape->group_count * sizeof(uint16_t));
        l.invperm = place(&l, shape->in_features * sizeof(uint16_t));
        l.segments = place(&l, shape->group_count * sizeof(struct linear_segment));
    } else {
        l.weight = place(&l, shape->in_features * shape->out_features * dtype_bytes(shape->dtype));
    }
    if (shape->has_bias)
        l.bias = place(&l, shape->out_features * sizeof(float));
    return l;
}

static struct linear_shape shape_of_source(const struct linear_source *source)
{
    return (struct linear_shape){
        .is_exl2 = source->is_exl2,
        .dtype = source->dtype,
        .in_features = source->in_features,
        .out_features = source->out_features,
        .stored_out_features = source->is_exl2 ? source->exl2.out_features : source->out_features,
        .group_count = source->is_exl2 ? source->exl2.group_count : 0,
        .word_rows = source->is_exl2 ? source->exl2.word_rows : 0,
        .has_bias = source->bias != NULL,
        .prescale = source->prescale,
    };
}

static size_t stored_bytes(const struct linear_shape *shape)
{
    if (!shape->is_exl2)
        return shape->in_features * shape->out_features * dtype_bytes(shape->dtype);
    return shape->word_rows * shape->stored_out_features * sizeof(uint32_t) +
           shape->group_count * (shape->stored_out_features / 8) * sizeof(uint32_t);
}

/* Units, permutation and segments, which lie side by side. */
static size_t tables_bytes(const struct linear_shape *shape)
{
    struct block_layout layout = block_layout(shape);
    return layout.segments - layout.units + shape->group_count * sizeof(struct linear_segment);
}

size_t cuda_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters)
{
    (void)parameters;
    return block_layout(shape).total;
}

size_t cuda_matrix_host_bytes(const struct linear_shape *shape)
{
    (void)shape;
    return sizeof(struct cuda_matrix);
}

struct matrix_loading cuda_matrix_loading(const struct linear_shape *shape)
{
    struct matrix_loading loading = { .bias_io_bytes = shape->has_bias ? shape->out_features * sizeof(float) : 0 };

    if (shape->is_exl2) {
        loading.tables_bytes = exl2_matrix_bytes(shape->in_features, shape->group_count);
        loading.io_bytes = tables_bytes(shape);
    }
    return loading;
}

/* Nothing is read in place. */
size_t cuda_matrix_mapped_bytes(const struct linear_shape *shape)
{
    (void)shape;
    return 0;
}

/* ---- EXL2 ---- */

/* Runs of groups of one width and size; the last of a run may be shorter. */
static uint32_t find_segments(const struct exl2_matrix *exl2, struct linear_segment *segments)
{
    uint32_t count = 0;
    bool closed = true;   /* the run's last group was shorter than the others */

    for (size_t g = 0; g < exl2->group_count; g++) {
        const struct exl2_group *group = &exl2->groups[g];
        uint16_t tiles = (uint16_t)(group->row_count / 32);
        struct linear_segment *run = count ? &segments[count - 1] : NULL;
        if (closed || run->bits != group->bits || tiles > run->group_tiles) {
            segments[count++] = (struct linear_segment){
                .first_tile = (uint16_t)(group->first_row / 32),
                .first_word_row = (uint16_t)group->first_word,
                .first_group = (uint16_t)g,
                .group_tiles = tiles,
                .bits = (uint16_t)group->bits,
            };
            closed = false;
        } else if (tiles < run->group_tiles) {
            closed = true;
        }
    }
    return count;
}

/* The first tile after `tile` whose words don't fit into `rows` word rows any more; `word_row`: where `tile` begins. */
static uint32_t last_fitting_tile(const struct exl2_matrix *exl2, size_t *group, uint32_t tile, size_t rows,
                                  size_t *taken)
{
    uint32_t all = (uint32_t)(exl2->in_features / 32);

    *taken = 0;
    while (tile < all) {
        const struct exl2_group *g = &exl2->groups[*group];
        uint32_t end = (g->first_row + g->row_count) / 32;
        uint32_t fit = (uint32_t)plim_min(end - tile, (rows - *taken) / g->bits);
        *taken += (size_t)fit * g->bits;
        tile += fit;
        if (tile < end)
            break;
        ++*group;
    }
    return tile;
}

/* Rows of a piece of a table, copied side by side. */
struct row_copy {
    char *to;
    const char *from;
    size_t row_bytes, from_stride;
};

static void copy_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct row_copy *copy = context;
    (void)thread;

    for (size_t row = begin; row < end; row++)
        memcpy(copy->to + row * copy->row_bytes, copy->from + row * copy->from_stride, copy->row_bytes);
}

/* Takes a pinned piece and fills it; the caller's kernel reads it and marks it used. */
static int stage_rows(struct backend *backend, struct cuda_piece *piece, const void *from, size_t rows, size_t row_bytes,
                      size_t from_stride, struct plim_err *err)
{
    struct row_copy copy = { NULL, from, row_bytes, from_stride };

    if (cuda_staging_take(cuda_of(backend), piece, err) < 0)
        return -1;
    copy.to = piece->host;
    threads_run(backend->threads, rows, plim_max(COPY_GRAIN_BYTES / row_bytes, 1), copy_rows, &copy);
    return 0;
}

/*
 * Codes go from the mapped file into pinned memory, and from there a kernel puts them where they belong: nothing is on
 * the device twice. A piece is whole tiles of rows, of all columns if 32 rows of those fit.
 */
static int load_codes(struct backend *backend, const struct linear_tiles *tiles, uint32_t *to,
                      const struct exl2_matrix *exl2, const struct exl2_tensors *tensors, size_t first_column,
                      size_t columns, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    size_t row_bytes = columns * sizeof(uint32_t), stride = exl2->out_features * sizeof(uint32_t);
    size_t word_row = 0, group = 0, taken;

    for (uint32_t tile = 0, end; tile < exl2->in_features / 32; tile = end, word_row += taken) {
        struct cuda_piece piece;
        end = last_fitting_tile(exl2, &group, tile, CUDA_PIECE_BYTES / row_bytes, &taken);
        if (stage_rows(backend, &piece,
                       (const char *)tensors->q_weight + word_row * stride + first_column * sizeof(uint32_t), taken,
                       row_bytes, stride, err) < 0)
            return -1;
        struct linear_piece words = {
            .words = (const uint32_t *)(const void *)piece.device,
            .first_word_row = (uint32_t)word_row,
            .first_tile = tile,
            .end_tile = end,
            .first_column = (uint32_t)first_column,
            .columns = (uint32_t)columns,
        };
        if (cuda_check(linear_load_codes(tiles, to, &words, cuda->stream), "arranging EXL2 codes", err) < 0 ||
            cuda_staging_used(cuda, &piece, err) < 0)
            return -1;
    }
    return 0;
}

static int load_scales(struct backend *backend, const struct linear_tiles *tiles, uint16_t *to,
                       const struct exl2_tensors *tensors, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    size_t row_bytes = tiles->stored_out_features / 8 * sizeof(uint32_t), fit = CUDA_PIECE_BYTES / row_bytes;

    for (size_t g = 0, n; g < tiles->group_count; g += n) {
        struct cuda_piece piece;
        n = plim_min(fit, tiles->group_count - g);
        if (stage_rows(backend, &piece, (const char *)tensors->q_scale + g * row_bytes, n, row_bytes, row_bytes, err) < 0 ||
            cuda_check(linear_load_scales(tiles, to, (const uint32_t *)(const void *)piece.device, (uint32_t)g,
                                          (uint32_t)n, cuda->stream),
                       "arranging EXL2 scales", err) < 0 ||
            cuda_staging_used(cuda, &piece, err) < 0)
            return -1;
    }
    return 0;
}

/* The small tables, gathered in host memory and uploaded at once. */
static int load_tables(struct backend *backend, struct cuda_matrix *made, const struct exl2_matrix *exl2,
                       const struct block_layout *layout, struct plim_err *err)
{
    size_t bytes = layout->segments - layout->units + exl2->group_count * sizeof(struct linear_segment);
    char *tables = plim_pool_calloc(backend->pool, PLIM_HOST, PLIM_TAG_IO, 1, bytes, err);
    int rc = -1;

    if (!tables)
        return -1;
    uint16_t *units = (uint16_t *)(void *)tables;
    struct linear_segment *segments = (void *)(tables + (layout->segments - layout->units));
    for (size_t g = 0; g < exl2->group_count; g++)
        units[g] = half_from_float(exl2->groups[g].scale_unit);
    memcpy(tables + (layout->invperm - layout->units), exl2->invperm, exl2->in_features * sizeof(uint16_t));
    made->tiles.segment_count = find_segments(exl2, segments);
    memcpy(made->tiles.near_segments, segments,
           plim_min(made->tiles.segment_count, LINEAR_NEAR_SEGMENTS) * sizeof *segments);
    rc = cuda_upload(backend, (char *)made->block + layout->units, tables, bytes, err);
    plim_pool_free(backend->pool, tables);
    return rc;
}

static int load_exl2(struct backend *backend, struct cuda_matrix *made, const struct linear_source *source,
                     const struct exl2_matrix *exl2, const struct block_layout *layout, struct plim_err *err)
{
    char *block = made->block;
    uint32_t *codes = (uint32_t *)(void *)(block + layout->tiles);
    uint16_t *scales = (uint16_t *)(void *)(block + layout->scales);

    made->tiles = (struct linear_tiles){
        .tiles = codes,
        .scales = scales,
        .units = (uint16_t *)(void *)(block + layout->units),
        .invperm = (uint16_t *)(void *)(block + layout->invperm),
        .segments = (struct linear_segment *)(void *)(block + layout->segments),
        .in_features = (uint32_t)exl2->in_features,
        .stored_out_features = (uint32_t)exl2->out_features,
        .out_features = (uint32_t)source->out_features,
        .group_count = (uint32_t)exl2->group_count,
        .word_rows = (uint32_t)exl2->word_rows,
    };
    if (load_tables(backend, made, exl2, layout, err) < 0)
        return -1;
    for (size_t column = 0, n; column < exl2->out_features; column += n) {
        n = plim_min(WIDEST_PIECE, exl2->out_features - column);
        if (load_codes(backend, &made->tiles, codes, exl2, &source->exl2, column, n, err) < 0)
            return -1;
    }
    return load_scales(backend, &made->tiles, scales, &source->exl2, err);
}

static int init_exl2(struct backend *backend, struct cuda_matrix *made, const struct linear_source *source,
                     struct plim_err *err)
{
    struct linear_shape shape = shape_of_source(source);
    struct block_layout layout = block_layout(&shape);
    struct exl2_matrix exl2;
    int rc = -1;

    if (exl2_matrix_tables(&exl2, backend->pool, &source->exl2, source->prescale, err) < 0)
        return -1;
    if (exl2.in_features != source->in_features || exl2.out_features < source->out_features) {
        plim_err_input(err, "layer %s: stored as %zu x %zu, expected %zu x %zu", source->name, exl2.in_features,
                       exl2.out_features, source->in_features, source->out_features);
        goto out;
    }
    made->is_exl2 = true;
    made->alpha = 1.0f;   /* the prescale is in the scales */
    made->block = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WEIGHTS, layout.total, err);
    if (!made->block)
        goto out;
    rc = load_exl2(backend, made, source, &exl2, &layout, err);

out:
    exl2_matrix_release(&exl2, backend->pool);
    return rc;
}

/* ---- dense ---- */

static bool all_finite(enum dtype dtype, const void *values, size_t n)
{
    const char *bytes = values;   /* a file may hold them at odd addresses */
    bool finite = true;

    if (dtype == DTYPE_F32) {
        for (size_t i = 0; i < n; i++) {
            uint32_t value;
            memcpy(&value, bytes + i * sizeof value, sizeof value);
            finite &= (value & 0x7f800000u) != 0x7f800000u;
        }
    } else {
        uint16_t infinity = dtype == DTYPE_F16 ? 0x7c00u : 0x7f80u;
        for (size_t i = 0; i < n; i++) {
            uint16_t value;
            memcpy(&value, bytes + i * sizeof value, sizeof value);
            finite &= (value & infinity) != infinity;
        }
    }
    return finite;
}

struct finite_scan {
    const struct linear_source *source;
    atomic_bool bad;
};

static void scan_rows(void *context, size_t begin, size_t end, int thread)
{
    struct finite_scan *scan = context;
    size_t row_bytes = scan->source->in_features * dtype_bytes(scan->source->dtype);
    (void)thread;

    if (!all_finite(scan->source->dtype, (const char *)scan->source->weight + begin * row_bytes,
                    (end - begin) * scan->source->in_features))
        atomic_store_explicit(&scan->bad, true, memory_order_relaxed);
}

static int init_dense(struct backend *backend, struct cuda_matrix *made, const struct linear_source *source,
                      struct plim_err *err)
{
    struct linear_shape shape = shape_of_source(source);
    struct block_layout layout = block_layout(&shape);
    size_t n = source->in_features * source->out_features;

    if (source->dtype != DTYPE_F32 && source->dtype != DTYPE_F16 && source->dtype != DTYPE_BF16)
        return plim_err_input(err, "tensor %s.weight: dtype %s, expected F32, F16 or BF16", source->name,
                              dtype_name(source->dtype));
    struct finite_scan scan = { .source = source };
    threads_run(backend->threads, source->out_features, 16, scan_rows, &scan);
    if (atomic_load(&scan.bad))
        return plim_err_input(err, "tensor %s.weight: NaN or infinity, expected finite values", source->name);
    made->dtype = source->dtype;
    made->alpha = source->prescale;
    made->block = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WEIGHTS, layout.total, err);
    if (!made->block)
        return -1;
    made->weight = (char *)made->block + layout.weight;
    return cuda_upload(backend, made->weight, source->weight, n * dtype_bytes(source->dtype), err);
}

/* ---- both ---- */

static float widen(enum dtype dtype, const void *values, size_t i)
{
    float value;
    uint16_t bits;

    if (dtype == DTYPE_F32) {
        memcpy(&value, (const char *)values + i * sizeof value, sizeof value);
        return value;
    }
    memcpy(&bits, (const char *)values + i * sizeof bits, sizeof bits);
    return dtype == DTYPE_F16 ? half_to_float(bits) : bfloat_to_float(bits);
}

static int init_bias(struct backend *backend, struct cuda_matrix *made, const struct linear_source *source,
                     struct plim_err *err)
{
    struct linear_shape shape = shape_of_source(source);
    size_t bytes = source->out_features * sizeof(float);
    int rc = -1;

    float *bias = plim_pool_alloc(backend->pool, PLIM_HOST, PLIM_TAG_IO, bytes, err);
    if (!bias)
        return -1;
    for (size_t n = 0; n < source->out_features; n++)
        bias[n] = widen(source->bias_dtype, source->bias, n);
    if (!all_finite(DTYPE_F32, bias, source->out_features)) {
        plim_err_input(err, "tensor %s.bias: NaN or infinity, expected finite values", source->name);
        goto out;
    }
    made->bias = (float *)(void *)((char *)made->block + block_layout(&shape).bias);
    made->tiles.bias = made->bias;
    rc = cuda_upload(backend, made->bias, bias, bytes, err);

out:
    plim_pool_free(backend->pool, bias);
    return rc;
}

int cuda_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                     struct plim_err *err)
{
    struct linear_shape shape = shape_of_source(source);

    *matrix = (struct matrix){ source->in_features, source->out_features, NULL };
    struct cuda_matrix *made = plim_pool_calloc(backend->pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *made, err);
    if (!made)
        return -1;
    matrix->impl = made;
    made->stored_bytes = stored_bytes(&shape);
    if ((source->is_exl2 ? init_exl2 : init_dense)(backend, made, source, err) < 0 ||
        (source->bias && init_bias(backend, made, source, err) < 0)) {
        cuda_matrix_release(backend, matrix);
        return -1;
    }
    return 0;
}

void cuda_matrix_release(struct backend *backend, struct matrix *matrix)
{
    struct cuda_matrix *made = matrix->impl;

    if (!made)
        return;
    plim_pool_free(backend->pool, made->block);
    plim_pool_free(backend->pool, made);
    matrix->impl = NULL;
}

/* ---- fused, in one kernel ---- */

static int wide_linear(const struct cuda_linear_call *call, char *workspace, struct plim_err *err)
{
    const struct cuda_linear_shape *shape = &call->shape;
    struct cuda *cuda = cuda_of(call->backend);
    uint16_t *x_half = (uint16_t *)(void *)workspace;
    struct linear_wgmma wide = {
        .matrix = call->matrix->tiles,
        .x_half = x_half,
        .y = call->y,
        .rows = (uint32_t)shape->rows,
        .accumulate = call->accumulate,
        .overlap = cuda->overlap_launches,
    };

    if (cuda_check(linear_gather(call->x, wide.matrix.invperm, shape->rows, shape->rows, shape->in_features, LINEAR_WGMMA,
                                 x_half, wide.overlap, cuda->stream),
                   "gathering activations", err) < 0)
        return -1;
    call->backend->counters.weight_bytes_read += call->matrix->stored_bytes;
    return cuda_check(linear_wgmma(&wide, cuda->stream), "multiplying packed weights", err);
}

/* ---- fused, a tile of rows at a time ---- */

/* Rows of x that go through the packed weights at once, as the kernel counts them. */
static size_t padded_rows(size_t rows)
{
    size_t padded = 8;
    while (padded < rows && padded < LINEAR_MAX_FUSED_ROWS)
        padded *= 2;
    return padded;
}

/* Workspace of a call of `rows` rows: gathered x for each matrix, then sums of blocks that share columns. */
struct fused_layout {
    size_t x_half[LINEAR_MAX_MATRICES], partial, total;
};

static struct fused_layout fused_layout(const struct linear_few *call)
{
    struct fused_layout l = { 0 };

    for (uint32_t i = 0; i < call->matrix_count && call->rows > 1; i++) {
        l.x_half[i] = l.total;
        l.total += plim_round_up(padded_rows(call->rows) * call->matrix[i].in_features * sizeof(uint16_t),
                                 CUDA_LINEAR_ALIGN);
    }
    l.partial = l.total;
    l.total += linear_few_scratch(call).partial_bytes;
    return l;
}

/* What fused_layout needs of a call that has only shapes yet. */
static struct linear_few shape_call(size_t in_features, size_t stored_out_features, size_t rows)
{
    struct linear_few call = { .matrix_count = 1, .rows = (uint32_t)plim_min(rows, LINEAR_MAX_FUSED_ROWS) };
    call.matrix[0].in_features = (uint32_t)in_features;
    call.matrix[0].stored_out_features = (uint32_t)stored_out_features;
    return call;
}

/* A last tile of fewer rows may be cut otherwise than the ones before. */
static size_t fused_workspace_bytes(size_t in_features, size_t stored_out_features, size_t rows)
{
    if (is_wide(in_features, stored_out_features, rows))
        return rows * in_features * sizeof(uint16_t);

    struct linear_few call = shape_call(in_features, stored_out_features, rows);
    size_t bytes = fused_layout(&call).total, rest = rows % LINEAR_MAX_FUSED_ROWS;

    if (rows > LINEAR_MAX_FUSED_ROWS && rest) {
        call.rows = (uint32_t)rest;
        bytes = plim_max(bytes, fused_layout(&call).total);
    }
    return bytes;
}

/* One tile of rows through up to three matrices; `workspace` has what fused_layout says. */
static int fused_tile(struct cuda *cuda, struct linear_few *call, const float *x, char *workspace, struct plim_err *err)
{
    struct fused_layout layout = fused_layout(call);

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

static int fused_linear(const struct cuda_linear_call *call, struct plim_err *err)
{
    struct backend *backend = call->backend;
    size_t in = call->shape.in_features, rows = call->shape.rows;
    size_t bytes = fused_workspace_bytes(in, call->shape.stored_out_features, rows);
    char *workspace = NULL;
    bool wide = is_wide(in, call->shape.stored_out_features, rows);
    int rc = 0;

    if (bytes > 0) {
        workspace = cuda_scratch_take(backend, PLIM_TAG_WORKSPACE, bytes, err);
        if (!workspace)
            return -1;
    }
    if (wide)
        rc = wide_linear(call, workspace, err);
    for (size_t row = 0; row < rows && rc == 0 && !wide; row += LINEAR_MAX_FUSED_ROWS) {
        struct linear_few few = {
            .matrix = { call->matrix->tiles },
            .y = { call->y + row * call->shape.out_features },
            .matrix_count = 1,
            .rows = (uint32_t)plim_min(rows - row, LINEAR_MAX_FUSED_ROWS),
            .accumulate = call->accumulate,
        };
        rc = fused_tile(cuda_of(backend), &few, call->x + row * in, workspace, err);
        backend->counters.weight_bytes_read += call->matrix->stored_bytes;
    }
    if (rc == 0)
        backend->counters.fused_calls++;
    cuda_scratch_give(backend, workspace);
    return rc;
}

/* ---- multiplying ---- */

int cuda_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                bool accumulate, struct plim_err *err)
{
    const struct cuda_matrix *made = matrix->impl;
    struct cuda_linear_call call = {
        .backend = backend,
        .matrix = made,
        .shape = { made->is_exl2, made->dtype, matrix->in_features, matrix->out_features,
                   made->is_exl2 ? made->tiles.stored_out_features : matrix->out_features, rows },
        .x = x,
        .y = y,
        .accumulate = accumulate,
    };

    if (rows == 0)
        return 0;
    switch (cuda_linear_path(&call.shape, backend->parameters)) {
    case CUDA_LINEAR_FUSED:
        return fused_linear(&call, err);
    case CUDA_LINEAR_CHUNKED:
        return cuda_chunked_linear(&call, err);
    case CUDA_LINEAR_DOTS:
    case CUDA_LINEAR_PRODUCT:
        break;
    }
    return cuda_dense_linear(&call, err);
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
    return fused_tile(cuda_of(backend), &few, x, NULL, err);
}

/* ---- prediction ---- */

struct linear_scratch cuda_linear_scratch(const struct linear_shape *shape, size_t rows,
                                          const struct plim_parameters *parameters)
{
    struct cuda_linear_shape asked = { shape->is_exl2, shape->dtype, shape->in_features, shape->out_features,
                                       shape->stored_out_features, rows };
    struct linear_scratch scratch = { 0 };

    if (rows == 0)
        return scratch;
    switch (cuda_linear_path(&asked, parameters)) {
    case CUDA_LINEAR_FUSED:
        scratch.workspace_bytes = fused_workspace_bytes(shape->in_features, shape->stored_out_features, rows);
        return scratch;
    case CUDA_LINEAR_CHUNKED:
        return cuda_chunked_scratch(&asked, parameters);
    case CUDA_LINEAR_DOTS:
    case CUDA_LINEAR_PRODUCT:
        break;
    }
    return cuda_dense_scratch(&asked);
}

/* ---- counters that blocks of one strip of columns use ---- */

int cuda_linear_open(struct backend *backend, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

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
