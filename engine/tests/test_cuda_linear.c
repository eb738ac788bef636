/*
 * Linear layers on CUDA against double precision on decoded weights: every width and mixed groups, every path, odd rows,
 * bias, prescale, accumulation; predicted memory to the byte; the same bits every time; failures.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "test_cuda.h"

/* ---- layers ---- */

/* A layer with everything that it points to, and its weights decoded. */
struct layer {
    struct linear_source source;
    struct linear_shape shape;
    double *w;                  /* [in_features, stored_out_features] */
    double *bias;               /* [out_features] or NULL */
    void *owned[10];
    int owned_count;
};

static void *own(struct layer *layer, size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    cr_assert_not_null(p);
    layer->owned[layer->owned_count++] = p;
    return p;
}

static void layer_free(struct layer *layer)
{
    while (layer->owned_count > 0)
        free(layer->owned[--layer->owned_count]);
}

static void decode(struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;
    struct exl2_matrix matrix;

    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(exl2_matrix_init(&matrix, pool, &layer->source.exl2, layer->source.prescale, &err), 0, "%s", err.message);
    size_t n = matrix.in_features * matrix.out_features;
    uint16_t *halves = malloc(n * sizeof *halves);
    exl2_dequantise(&matrix, halves);
    layer->w = own(layer, n * sizeof *layer->w);
    for (size_t i = 0; i < n; i++)
        layer->w[i] = (double)half_to_float(halves[i]);
    free(halves);
    exl2_matrix_release(&matrix, pool);
    plim_pool_close(pool);
}

struct group_spec {
    unsigned bits, rows;
};

/* Groups end with bits 0. Every other group's scales are subnormal. */
static void layer_exl2(struct layer *layer, const struct group_spec *groups, size_t out, float prescale, bool bias,
                       uint64_t seed)
{
    struct plim_random random;
    size_t group_count = 0, in = 0, word_rows = 0, stored = plim_round_up(out, 32);

    memset(layer, 0, sizeof *layer);
    plim_random_seed(&random, seed, 0);
    int16_t *q_groups = own(layer, 64 * sizeof *q_groups);
    uint16_t *scale_max = own(layer, 32 * sizeof *scale_max);
    for (; groups[group_count].bits; group_count++) {
        q_groups[2 * group_count] = (int16_t)groups[group_count].bits;
        q_groups[2 * group_count + 1] = (int16_t)word_rows;
        scale_max[group_count] = half_from_float((float)((group_count % 2 ? 0.002 : 0.03) + 0.01 * plim_random_double(&random)));
        word_rows += groups[group_count].rows * groups[group_count].bits / 32;
        in += groups[group_count].rows;
    }
    uint32_t *q_weight = own(layer, word_rows * stored * 4), *q_scale = own(layer, group_count * stored / 8 * 4);
    uint32_t *order = own(layer, in * sizeof *order);
    for (size_t i = 0; i < word_rows * stored; i++)
        q_weight[i] = (uint32_t)plim_random_u64(&random);
    for (size_t i = 0; i < group_count * stored / 8; i++)
        q_scale[i] = (uint32_t)plim_random_u64(&random);
    plim_random_permutation(&random, order, in);
    layer->source = (struct linear_source){
        .name = "layer", .is_exl2 = true, .in_features = in, .out_features = out, .prescale = prescale,
        .exl2 = { .name = "layer", .q_weight = (int32_t *)q_weight, .word_rows = word_rows, .out_features = stored,
                  .q_scale = (int32_t *)q_scale, .group_count = group_count, .q_scale_max = scale_max,
                  .q_groups = q_groups, .q_invperm = (int32_t *)order, .in_features = in },
    };
    layer->shape = (struct linear_shape){
        .is_exl2 = true, .in_features = in, .out_features = out, .stored_out_features = stored,
        .group_count = group_count, .word_rows = word_rows, .has_bias = bias, .prescale = prescale,
    };
    decode(layer);
    if (bias) {
        uint16_t *halves = own(layer, stored * sizeof *halves);
        layer->bias = own(layer, stored * sizeof *layer->bias);
        for (size_t n = 0; n < stored; n++) {
            halves[n] = half_from_float((float)plim_random_normal(&random));
            layer->bias[n] = (double)half_to_float(halves[n]);
        }
        layer->source.bias = halves;
        layer->source.bias_dtype = DTYPE_F16;
    }
}

static void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, uint64_t seed)
{
    struct plim_random random;

    memset(layer, 0, sizeof *layer);
    plim_random_seed(&random, seed, 0);
    char *weight = own(layer, in * out * 4);
    float *bias = own(layer, out * sizeof *bias);
    layer->w = own(layer, in * out * sizeof *layer->w);
    layer->bias = own(layer, out * sizeof *layer->bias);
    for (size_t n = 0; n < out; n++) {
        for (size_t k = 0; k < in; k++) {
            float value = 0.1f * (float)plim_random_normal(&random);
            uint16_t half = dtype == DTYPE_F16 ? half_from_float(value) : bfloat_from_float(value);
            if (dtype != DTYPE_F32)
                value = dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
            memcpy(weight + (n * in + k) * dtype_bytes(dtype), dtype == DTYPE_F32 ? (void *)&value : (void *)&half,
                   dtype_bytes(dtype));
            layer->w[k * out + n] = (double)value * 0.5;
        }
        bias[n] = (float)plim_random_normal(&random);
        layer->bias[n] = (double)bias[n];
    }
    layer->source = (struct linear_source){
        .name = "layer", .dtype = dtype, .weight = weight, .in_features = in, .out_features = out, .bias = bias,
        .bias_dtype = DTYPE_F32, .prescale = 0.5f,
    };
    layer->shape = (struct linear_shape){
        .dtype = dtype, .in_features = in, .out_features = out, .stored_out_features = out, .has_bias = true,
        .prescale = 0.5f,
    };
}

/* ---- one product, with all that must hold for it ---- */

static void init(struct cuda_fixture *f, struct matrix *matrix, const struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;

    plim_pool_stats(f->pool, &before);
    cr_assert_eq(f->backend.ops->matrix_init(&f->backend, matrix, &layer->source, &err), 0, "%s", err.message);
    plim_pool_stats(f->pool, &after);
    const struct backend_predict_ops *predict = backend_predict("cuda");
    cr_assert_eq(after.current[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes,
                 predict->matrix_bytes(&layer->shape, &f->parameters));
    cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS] - before.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS],
                 predict->matrix_bytes(&layer->shape, &f->parameters));
    cr_assert_eq(after.current[PLIM_SLOW].total_bytes - before.current[PLIM_SLOW].total_bytes,
                 predict->matrix_host_bytes(&layer->shape));
}

/*
 * Relative error of y, as ||y - expected|| / ||expected||. Activations are rounded to fp16, half a unit in 2^-11 at most,
 * and so may weights be; such errors hardly add up. NaN never passes.
 */
#define HALF_ERROR 6e-4

static void check(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before, const char *what)
{
    size_t in = layer->source.in_features, out = layer->source.out_features, stored = layer->shape.stored_out_features;
    double off = 0, all = 0;

    for (size_t r = 0; r < rows; r++) {
        for (size_t n = 0; n < out; n++) {
            double sum = y_before + (layer->bias ? layer->bias[n] : 0);
            for (size_t k = 0; k < in; k++)
                sum += (double)x[r * in + k] * layer->w[k * stored + n];
            double error = (double)y[r * out + n] - sum;
            off += error * error;
            all += sum * sum;
        }
    }
    cr_assert(sqrt(off / all) < HALF_ERROR, "%s: %zu rows, relative error %g", what, rows, sqrt(off / all));
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

/* Widths mixed, sizes from 32 up, sizes that change within a width, short last groups. */
static const struct group_spec mixed[] = { { 8, 32 }, { 6, 64 }, { 5, 96 }, { 4, 128 }, { 4, 160 }, { 3, 288 },
                                           { 2, 64 }, { 2, 32 }, { 0, 0 } };

/* ---- EXL2 ---- */

Test(cuda_linear, fused_rows_1_to_66)
{
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open_with(&f, NULL, "dq_rows=4096");
    layer_exl2(&layer, mixed, 75, 0.75f, true, 1);
    init(&f, &matrix, &layer);
    size_t step = cuda_count(1, 13);
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
        init(&f, &matrix, &layer);
        snprintf(what, sizeof what, "%u bits", widths[i]);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
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
        layer_exl2(&layer, mixed, out, 1.0f, true, out);
        init(&f, &matrix, &layer);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            check_rows(&f, &layer, &matrix, rows[r], "fused, many rows");
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cr_assert_eq(f.backend.counters.chunked_calls, 0);
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

    layer_exl2(&layer, mixed, 75, 1.0f, true, 2);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        struct cuda_fixture f;
        struct matrix matrix;
        cuda_fixture_open_with(&f, NULL, settings[i]);
        init(&f, &matrix, &layer);
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

Test(cuda_linear, results_repeat_to_the_bit)
{
    static const struct group_spec groups[] = { { 6, 128 }, { 4, 1920 }, { 0, 0 } };
    static const size_t rows[] = { 1, 3, 16, 64, 250 };
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open(&f);
    layer_exl2(&layer, groups, 1000, 1.0f, false, 3);
    init(&f, &matrix, &layer);
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
            layer_dense(&layer, dtype, in, 50, in);
            init(&f, &matrix, &layer);
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
    layer_dense(&layer, DTYPE_F32, 40, 50, 4);
    ((float *)(uintptr_t)layer.source.weight)[999] = NAN;
    expect_refused(&f, &layer, "layer.weight: NaN or infinity");
    layer_free(&layer);

    layer_exl2(&layer, mixed, 75, 1.0f, true, 5);
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
            layer_exl2(&layer, mixed, OUT, 1.0f, true, 6);
        else
            layer_dense(&layer, DTYPE_F16, 100, OUT, 7);
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
