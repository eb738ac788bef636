/* Linear layers made ready: one block of device memory each, filled from the mapped file, and predicted. */

#include "linear.h"

#include <stdatomic.h>
#include <string.h>

#include "half.h"
#include "plimsoll/units.h"
#include "threads.h"

/* Columns of a piece of codes: 32 rows of the widest codes fill a pinned piece. */
#define WIDEST_PIECE (CUDA_PIECE_BYTES / (8 * sizeof(uint32_t)) / 32 * 32)

/* Host copies below this are not worth another thread. */
#define COPY_GRAIN_BYTES ((size_t)64 << 10)

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

/* Of two different permutations the digests agree once in 2^64. */
static uint64_t order_digest(const uint16_t *invperm, size_t n)
{
    uint64_t digest = n;

    for (size_t i = 0; i < n; i++) {
        digest = (digest ^ invperm[i]) * 0x9e3779b97f4a7c15u;
        digest ^= digest >> 29;
    }
    return digest;
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
    made->order_digest = order_digest(exl2->invperm, exl2->in_features);
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
