/*
 * Linear layers on CUDA against double precision on decoded weights: every width and mixed groups, every path, odd rows,
 * bias, prescale, accumulation; predicted memory to the byte; the same bits every time; failures.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/linear.h"
#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "test_cuda_layers.h"

/* ---- one product, with all that must hold for it ---- */

static void check(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before, const char *what)
{
    size_t n = rows * layer->source.out_features;
    double *wide = malloc(rows * layer->source.in_features * sizeof *wide);

    for (size_t i = 0; i < rows * layer->source.in_features; i++)
        wide[i] = (double)x[i];
    double *expected = layer_product(layer, wide, rows);
    for (size_t i = 0; i < n; i++)
        expected[i] += y_before;
    check_relative(y, expected, n, HALF_ERROR, what, rows);
    free(wide), free(expected);
}

/* y = x W through the backend; the scratch it took is what was predicted. The result is the caller's. */
static float *product(struct cuda_fixture *f, const struct layer *layer, const struct matrix *matrix, const float *x,
                      size_t rows, bool accumulate)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;
    size_t n = rows * layer->source.out_features;
    float *start = malloc(n * sizeof *start);

    for (size_t i = 0; i < n; i++)
        start[i] = 1.5f;
    float *device_x = device_floats(f, x, rows * layer->source.in_features);
    float *device_y = device_floats(f, accumulate ? start : NULL, n);
    plim_pool_reset_peak(f->pool);
    plim_pool_stats(f->pool, &before);
    cr_assert_eq(f->backend.ops->linear(&f->backend, matrix, device_x, rows, device_y, accumulate, &err), 0, "%s",
                 err.message);
    plim_pool_stats(f->pool, &after);
    struct linear_scratch scratch = backend_predict("cuda")->linear_scratch(&layer->shape, rows, &f->parameters);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_DEQUANT], scratch.dequant_bytes);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], scratch.workspace_bytes);
    cr_assert_eq(after.peak[PLIM_FAST].total_bytes,
                 before.current[PLIM_FAST].total_bytes + scratch.dequant_bytes + scratch.workspace_bytes);
    cr_assert_leq(scratch.dequant_bytes, 2 * (size_t)f->parameters.count[PLIM_MAX_DQ_SIZE]);
    float *y = host_floats(f, device_y, n);
    device_free(f, device_x);
    device_free(f, device_y);
    free(start);
    return y;
}

static void check_rows(struct cuda_fixture *f, const struct layer *layer, const struct matrix *matrix, size_t rows,
                       const char *what)
{
    float *x = normal_floats(rows * layer->source.in_features, 1, rows);
    bool accumulate = rows % 2 == 0;
    float *y = product(f, layer, matrix, x, rows, accumulate);

    check(layer, x, rows, y, accumulate ? 1.5 : 0, what);
    free(x), free(y);
}

/* ---- EXL2 ---- */

Test(cuda_linear, fused_rows_1_to_66)
{
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open_with(&f, NULL, "dq_rows=4096");
    layer_exl2(&layer, mixed_groups, 75, 0.75f, true, 1);
    layer_init(&f, &matrix, &layer);
    size_t step = cuda_count(1, 15);
    for (size_t rows = 1; rows <= 66; rows += step)
        check_rows(&f, &layer, &matrix, rows, "fused");
    cr_assert_eq(f.backend.counters.fused_calls, 65 / step + 1);
    cr_assert_eq(f.backend.counters.chunked_calls, 0);
    f.backend.ops->matrix_release(&f.backend, &matrix);
    layer_free(&layer);
    cuda_fixture_close(&f);
}

Test(cuda_linear, every_width_alone)
{
    static const unsigned widths[] = { 2, 3, 4, 5, 6, 8 };
    static const size_t rows[] = { 1, 2, 9, 33, 200 };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (size_t i = 0; i < 6; i++) {
        const struct group_spec groups[] = { { widths[i], 128 }, { widths[i], 128 }, { widths[i], 96 }, { 0, 0 } };
        struct layer layer;
        struct matrix matrix;
        char what[32];
        layer_exl2(&layer, groups, 96, 1.0f, false, widths[i]);
        layer_init(&f, &matrix, &layer);
        snprintf(what, sizeof what, "%u bits", widths[i]);
        for (size_t r = 0; r < cuda_count(5, 4); r++)
            check_rows(&f, &layer, &matrix, rows[r], what);
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cuda_fixture_close(&f);
}

/* More rows than tiles of rows are good for: on compute capability 9.0, one kernel. */
Test(cuda_linear, fused_many_rows)
{
    static const size_t rows[] = { 128, 200, 333 };
    struct cuda_fixture f;

    cuda_fixture_open_with(&f, NULL, "dq_rows=4096");
    for (size_t out = 75; out <= 300; out += 225) {
        struct layer layer;
        struct matrix matrix;
        layer_exl2(&layer, mixed_groups, out, 1.0f, true, out);
        layer_init(&f, &matrix, &layer);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            check_rows(&f, &layer, &matrix, rows[r], "fused, many rows");
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cr_assert_eq(f.backend.counters.chunked_calls, 0);
    cuda_fixture_close(&f);
}

/* One call of linear_wgmma, cut as it says: against double precision, as fp32 and, where it can, as fp16. */
static void check_cut(struct cuda_fixture *f, const struct layer *layer, const struct matrix *matrix, size_t rows,
                      uint32_t variant, uint32_t cluster)
{
    const struct cuda_matrix *made = matrix->impl;
    cudaStream_t stream = cuda_of(&f->backend)->stream;
    size_t in = layer->source.in_features, n = rows * layer->source.out_features;
    bool accumulate = rows % 2 == 0, halves = layer->source.out_features % 4 == 0;
    float *x = normal_floats(rows * in, 1, rows), *start = malloc(n * sizeof *start);
    char what[48];

    snprintf(what, sizeof what, "cut %u, cluster %u", variant, cluster);
    for (size_t i = 0; i < n; i++)
        start[i] = 1.5f;
    float *device_x = device_floats(f, x, rows * in), *y = device_floats(f, accumulate ? start : NULL, n);
    uint16_t *x_half = device_bytes(f, NULL, rows * in * sizeof *x_half);
    uint16_t *y_half = device_bytes(f, NULL, n * sizeof *y_half);
    struct linear_wgmma call = {
        .matrix = { made->tiles }, .x_half = { x_half }, .y = { y }, .matrix_count = 1, .rows = (uint32_t)rows,
        .accumulate = accumulate, .variant = variant, .cluster = cluster,
    };
    cr_assert_eq(linear_gather(device_x, made->tiles.invperm, rows, rows, in, LINEAR_WGMMA, x_half, false, stream), 0);
    cr_assert_eq(linear_wgmma(&call, stream), 0);
    float *got = host_floats(f, y, n);
    check(layer, x, rows, got, accumulate ? 1.5 : 0, what);
    if (halves) {
        call.y_half[0] = y_half;
        cr_assert_eq(linear_wgmma(&call, stream), 0);
        uint16_t *narrow = host_bytes(f, y_half, n * sizeof *narrow);
        for (size_t i = 0; i < n; i++)
            got[i] = half_to_float(narrow[i]);
        check(layer, x, rows, got, 0, what);
        free(narrow);
    }
    device_free(f, device_x), device_free(f, y), device_free(f, x_half), device_free(f, y_half);
    free(x), free(start), free(got);
}

/* One width, and stages of two tiles: the last group shorter. */
static const struct group_spec uniform[] = { { 4, 128 }, { 4, 128 }, { 4, 128 }, { 4, 64 }, { 0, 0 } };

Test(cuda_linear, many_rows_cut_in_every_way)
{
    static const struct {
        uint32_t variant, cluster;
    } cuts[] = { { 1, 1 }, { 1, 2 }, { 1, 4 }, { 2, 1 }, { 2, 2 }, { 3, 1 }, { 3, 2 } };
    static const size_t rows[] = { 5, 64, 130, 300 };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (size_t l = 0; l < 3 && cuda_of(&f.backend)->compute_capability == 90; l++) {
        struct layer layer;
        struct matrix matrix;
        layer_exl2(&layer, l == 2 ? uniform : mixed_groups, l == 0 ? 75 : 300, 1.0f, true, l);
        layer_init(&f, &matrix, &layer);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
            for (size_t r = 0; r < cuda_count(sizeof rows / sizeof *rows, 1); r++)
                check_cut(&f, &layer, &matrix, rows[r], cuts[c].variant, cuts[c].cluster);
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cuda_fixture_close(&f);
}

/* Chunks that cut columns, rows, both; one buffer; a bound below a tile. */
Test(cuda_linear, chunks_of_any_bound)
{
    static const char *const settings[] = {
        "dq_rows=0", "dq_rows=0 max_dq_size=80Ki", "dq_rows=0 max_dq_size=20000", "dq_rows=0 max_dq_size=4Ki",
        "dq_rows=0 max_dq_size=1Ki", "dq_rows=0 max_dq_size=100", "dq_rows=0 max_dq_size=20000 dq_mode=gated",
    };
    static const size_t rows[] = { 2, 37, 64 };   /* more may be fused all the same where a bound is small */
    struct layer layer;

    layer_exl2(&layer, mixed_groups, 75, 1.0f, true, 2);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct cuda_fixture f;
        struct matrix matrix;
        cuda_fixture_open_with(&f, NULL, settings[i]);
        layer_init(&f, &matrix, &layer);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            check_rows(&f, &layer, &matrix, rows[r], settings[i]);
        bool fused = i >= 5;
        cr_assert_eq(f.backend.counters.chunked_calls, fused ? 0 : 3, "%s", settings[i]);
        cr_assert_eq(f.backend.counters.dequantised_elements, fused ? 0 : 3 * 864 * 96, "%s", settings[i]);
        f.backend.ops->matrix_release(&f.backend, &matrix);
        cuda_fixture_close(&f);
    }
    layer_free(&layer);
}

/* What dq_mode=gated may not expand reads its weights once for each 64 rows, as ExLlamaV2 does. */
Test(cuda_linear, gated_takes_tiles_of_rows)
{
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open_with(&f, NULL, "dq_rows=32 max_dq_size=20000 dq_mode=gated");
    layer_exl2(&layer, mixed_groups, 300, 1.0f, true, 2);
    layer_init(&f, &matrix, &layer);
    check_rows(&f, &layer, &matrix, 130, "gated");
    const struct cuda_matrix *made = matrix.impl;
    cr_assert_eq(f.backend.counters.weight_bytes_read, 3 * made->stored_bytes);
    cr_assert_eq(f.backend.counters.dequantised_elements, 0);
    f.backend.ops->matrix_release(&f.backend, &matrix);
    layer_free(&layer);
    cuda_fixture_close(&f);
}

Test(cuda_linear, results_repeat_to_the_bit)
{
    static const struct group_spec groups[] = { { 6, 128 }, { 4, 1920 }, { 0, 0 } };
    static const size_t rows[] = { 1, 3, 16, 64, 250 };
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open(&f);
    layer_exl2(&layer, groups, 1000, 1.0f, false, 3);
    layer_init(&f, &matrix, &layer);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        float *x = normal_floats(rows[r] * 2048, 1, r), *first = product(&f, &layer, &matrix, x, rows[r], false);
        for (size_t repeat = 0; repeat < cuda_count(20, 1); repeat++) {
            float *y = product(&f, &layer, &matrix, x, rows[r], false);
            cr_assert_arr_eq(y, first, rows[r] * 1000 * sizeof *y, "%zu rows", rows[r]);
            free(y);
        }
        free(x), free(first);
    }
    f.backend.ops->matrix_release(&f.backend, &matrix);
    layer_free(&layer);
    cuda_fixture_close(&f);
}

/* ---- one row ---- */

/* More strips of columns than a block adds up at once, fewer rows than warps: and what runs ahead runs across strips. */
Test(cuda_linear, one_row_through_many_strips)
{
    static const struct group_spec groups[][6] = {
        { { 6, 32 }, { 5, 32 }, { 3, 64 }, { 0, 0 } },
        { { 8, 320 }, { 6, 320 }, { 6, 32 }, { 3, 96 }, { 2, 32 }, { 0, 0 } },
    };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (size_t i = 0; i < 2; i++) {
        struct layer layer;
        struct matrix matrix;
        layer_exl2(&layer, groups[i], i ? 9000 : 40000, 1.0f, i == 1, i);
        layer_init(&f, &matrix, &layer);
        check_rows(&f, &layer, &matrix, 1, "many strips");
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cuda_fixture_close(&f);
}

/* ---- dense ---- */

Test(cuda_linear, dense_of_every_type)
{
    static const size_t rows[] = { 1, 2, 7, 8, 9, 100 };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        for (size_t in = 100; in <= 128; in += 28) {
            struct layer layer;
            struct matrix matrix;
            layer_dense(&layer, dtype, in, 50, 0.5f, true, in);
            layer_init(&f, &matrix, &layer);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                check_rows(&f, &layer, &matrix, rows[r], dtype_name(dtype));
            f.backend.ops->matrix_release(&f.backend, &matrix);
            layer_free(&layer);
        }
    }
    cuda_fixture_close(&f);
}

/* ---- failures ---- */

static void expect_refused(struct cuda_fixture *f, const struct layer *layer, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;
    struct matrix matrix;

    plim_pool_stats(f->pool, &before);
    cr_assert_eq(f->backend.ops->matrix_init(&f->backend, &matrix, &layer->source, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, text), "%s", err.message);
    plim_pool_stats(f->pool, &after);
    cr_assert_eq(after.live_blocks, before.live_blocks);
}

Test(cuda_linear, bad_weights_are_refused)
{
    struct cuda_fixture f;
    struct layer layer;

    cuda_fixture_open(&f);
    layer_dense(&layer, DTYPE_F32, 40, 50, 0.5f, true, 4);
    ((float *)(uintptr_t)layer.source.weight)[999] = NAN;
    expect_refused(&f, &layer, "layer.weight: NaN or infinity");
    layer_free(&layer);

    layer_exl2(&layer, mixed_groups, 75, 1.0f, true, 5);
    ((uint16_t *)(uintptr_t)layer.source.bias)[74] = 0x7e00;
    expect_refused(&f, &layer, "layer.bias: NaN or infinity");
    layer.source.bias = NULL;
    layer.source.out_features = 97;
    expect_refused(&f, &layer, "864 x 96, expected 864 x 97");
    layer_free(&layer);
    cuda_fixture_close(&f);
}

/* Every allocation fails once: an error, nothing kept, and the next try works. */
Test(cuda_linear, every_allocation_may_fail)
{
    for (int kind = 0; kind < 2; kind++) {
        struct cuda_fixture f;
        struct layer layer;
        struct matrix matrix;
        enum { OUT = 75, ROWS = 40 };

        cuda_fixture_open_with(&f, NULL, "dq_rows=8");
        if (kind == 0)
            layer_exl2(&layer, mixed_groups, OUT, 1.0f, true, 6);
        else
            layer_dense(&layer, DTYPE_F16, 100, OUT, 0.5f, true, 7);
        size_t in = layer.source.in_features;
        float *host = normal_floats(ROWS * in, 1, 8), *x = device_floats(&f, host, ROWS * in);
        float *y = device_floats(&f, NULL, ROWS * OUT);
        int failures = 0;
        for (uint64_t nth = 1;; nth++, failures++) {
            static const size_t rows[] = { 1, 2, ROWS };
            struct plim_err err = PLIM_ERR_INIT;
            struct plim_pool_stats before, after;
            plim_pool_stats(f.pool, &before);
            plim_pool_fail_allocation(f.pool, nth);
            int rc = f.backend.ops->matrix_init(&f.backend, &matrix, &layer.source, &err);
            for (size_t r = 0; r < 3 && rc == 0; r++)
                rc = f.backend.ops->linear(&f.backend, &matrix, x, rows[r], y, false, &err);
            plim_pool_fail_allocation(f.pool, 0);
            f.backend.ops->matrix_release(&f.backend, &matrix);
            plim_pool_stats(f.pool, &after);
            cr_assert_eq(after.live_blocks, before.live_blocks);
            if (rc == 0)
                break;
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
        }
        float *got = host_floats(&f, y, ROWS * OUT);
        check(&layer, host, ROWS, got, 0, "after failures");
        cr_assert_geq(failures, kind == 0 ? 7 : 4);
        device_free(&f, x);
        device_free(&f, y);
        free(host), free(got);
        layer_free(&layer);
        cuda_fixture_close(&f);
    }
}
