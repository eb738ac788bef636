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
        init(&f, &matrix, &layer);
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

Test(cuda_linear, many_rows_cut_in_every_way)
{
    static const struct {
        uint32_t variant, cluster;
    } cuts[] = { { 1, 1 }, { 1, 2 }, { 1, 4 }, { 2, 1 }, { 2, 2 }, { 3, 1 }, { 3, 2 } };
    static const size_t rows[] = { 5, 64, 130, 300 };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (size_t out = 75; out <= 300 && cuda_of(&f.backend)->compute_capability == 90; out += 225) {
        struct layer layer;
        struct matrix matrix;
        layer_exl2(&layer, mixed, out, 1.0f, true, out);
        init(&f, &matrix, &layer);
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
        init(&f, &matrix, &layer);
        check_rows(&f, &layer, &matrix, 1, "many strips");
        f.backend.ops->matrix_release(&f.backend, &matrix);
        layer_free(&layer);
    }
    cuda_fixture_close(&f);
}

/* Gates against double precision; the two matrices have their widths at different rows, and one of them may have a bias. */
static double activated(enum activation activation, double x)
{
    return activation == ACTIVATION_SILU ? x / (1 + exp(-x))
                                         : 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static double dot(const struct layer *layer, const float *x, size_t n)
{
    double sum = layer->bias ? layer->bias[n] : 0;
    for (size_t k = 0; k < layer->source.in_features; k++)
        sum += (double)x[k] * layer->w[k * layer->shape.stored_out_features + n];
    return sum;
}

static void check_gated(struct cuda_fixture *f, const struct group_spec *const *groups, size_t in, size_t out,
                        enum activation activation)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct layer layer[2];
    struct matrix matrix[2];
    float *x = normal_floats(in, 1, out), *device_x = device_floats(f, x, in), *y = device_floats(f, NULL, out);
    double off = 0, all = 0;

    for (size_t i = 0; i < 2; i++) {
        layer_exl2(&layer[i], groups[i], out, 1.0f, i == 1, in + i);
        init(f, &matrix[i], &layer[i]);
    }
    cr_assert_eq(f->backend.ops->linear_gated(&f->backend, activation, &matrix[0], &matrix[1], device_x, y, &err), 0, "%s",
                 err.message);
    float *got = host_floats(f, y, out);
    for (size_t n = 0; n < out; n++) {
        double expected = activated(activation, dot(&layer[0], x, n)) * dot(&layer[1], x, n);
        off += ((double)got[n] - expected) * ((double)got[n] - expected);
        all += expected * expected;
    }
    cr_expect(sqrt(off / all) < 2 * HALF_ERROR, "%zu columns: relative error %g", out, sqrt(off / all));
    free(got), free(x);
    device_free(f, device_x), device_free(f, y);
    for (size_t i = 0; i < 2; i++) {
        f->backend.ops->matrix_release(&f->backend, &matrix[i]);
        layer_free(&layer[i]);
    }
}

Test(cuda_linear, gated_pairs)
{
    static const struct group_spec even[] = { { 4, 128 }, { 4, 128 }, { 4, 128 }, { 4, 128 }, { 4, 128 }, { 0, 0 } };
    static const struct group_spec uneven[] = { { 8, 32 }, { 5, 96 }, { 4, 128 }, { 4, 256 }, { 3, 128 }, { 0, 0 } };
    static const struct group_spec few[] = { { 6, 32 }, { 2, 64 }, { 0, 0 } }, others[] = { { 3, 96 }, { 0, 0 } };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    check_gated(&f, (const struct group_spec *[]){ even, even }, 640, 1000, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ even, uneven }, 640, 9000, ACTIVATION_GELU_TANH);
    check_gated(&f, (const struct group_spec *[]){ uneven, even }, 640, 75, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ few, others }, 96, 20000, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ others, few }, 96, 32, ACTIVATION_GELU_TANH);
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

/* ---- a norm or a gate on the way ---- */

/* norm(x) by its formula, then rounded as an operand is; the sum of squares in fp64. */
static double *norm_reference(const float *x, const float *weight, double offset, double eps, size_t rows, size_t width)
{
    double *out = malloc(rows * width * sizeof *out);

    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t k = 0; k < width; k++)
            sum += (double)x[r * width + k] * (double)x[r * width + k];
        for (size_t k = 0; k < width; k++)
            out[r * width + k] = (double)x[r * width + k] * ((double)weight[k] + offset) / sqrt(sum / (double)width + eps);
    }
    return out;
}

static double *product_reference(const struct layer *layer, const double *x, size_t rows)
{
    size_t in = layer->source.in_features, out = layer->source.out_features, stored = layer->shape.stored_out_features;
    double *y = calloc(rows * out, sizeof *y);

    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < in; k++)
            for (size_t n = 0; n < out; n++)
                y[r * out + n] += x[r * in + k] * layer->w[k * stored + n];
    for (size_t i = 0; i < rows * out && layer->bias; i++)
        y[i] += layer->bias[i % out];
    return y;
}

static void check_norm(const float *y, const double *expected, size_t n, double most, const char *what, size_t rows)
{
    double off = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        off += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
        all += expected[i] * expected[i];
    }
    cr_assert(sqrt(off / all) < most, "%s: %zu rows, relative error %g", what, rows, sqrt(off / all));
}

/* What a call took from the pool is what was predicted for the largest of its products. */
static void check_scratch(struct cuda_fixture *f, const struct layer *layers, size_t count, size_t rows, const char *what)
{
    struct linear_scratch most = { 0 };
    struct plim_pool_stats stats;

    for (size_t i = 0; i < count; i++) {
        struct linear_scratch s = backend_predict("cuda")->halves_scratch(&layers[i].shape, rows, &f->parameters);
        most.dequant_bytes = plim_max(most.dequant_bytes, s.dequant_bytes);
        most.workspace_bytes = plim_max(most.workspace_bytes, s.workspace_bytes);
    }
    plim_pool_stats(f->pool, &stats);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_DEQUANT], most.dequant_bytes, "%s", what);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], most.workspace_bytes, "%s", what);
}

struct at_once {
    struct layer layers[3];            /* gate, up, down; or three of one input */
    struct matrix matrices[3];
    float *weight;                     /* of the norm; host and device */
    float *device_weight;
    struct norm norm;
    size_t width;
};

static void at_once_open(struct at_once *a, struct cuda_fixture *f)
{
    a->width = a->layers[0].source.in_features;
    for (size_t i = 0; i < 3; i++)
        init(f, &a->matrices[i], &a->layers[i]);
    a->weight = normal_floats(a->width, 1, 77);
    a->device_weight = device_floats(f, a->weight, a->width);
    a->norm = (struct norm){ a->device_weight, 0.5f, 1e-5 };
}

static void at_once_close(struct at_once *a, struct cuda_fixture *f)
{
    device_free(f, a->device_weight);
    free(a->weight);
    for (size_t i = 0; i < 3; i++)
        f->backend.ops->matrix_release(&f->backend, &a->matrices[i]);
}

static const char *const ways[] = { "dq_rows=0", "dq_rows=4096", "dq_rows=0 max_dq_size=300Ki", "" };
static const size_t many_rows[] = { 37, 130, 200 };

Test(cuda_linear, projections_behind_a_norm)
{
    struct at_once a = { 0 };

    layer_exl2(&a.layers[0], mixed, 96, 0.5f, true, 11);
    layer_exl2(&a.layers[1], mixed, 75, 0.5f, false, 12);   /* another order of rows */
    layer_exl2(&a.layers[2], mixed, 300, 0.5f, false, 12);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct cuda_fixture f;
        size_t taken = 0;
        cuda_fixture_open_with(&f, NULL, ways[w]);
        at_once_open(&a, &f);
        const struct matrix *const matrices[] = { &a.matrices[0], &a.matrices[1], &a.matrices[2] };
        const struct linear_shape *const shapes[] = { &a.layers[0].shape, &a.layers[1].shape, &a.layers[2].shape };
        for (size_t r = 0; r < sizeof many_rows / sizeof *many_rows; r++) {
            size_t rows = many_rows[r];
            size_t bytes = f.backend.ops->norm_linear_work(&f.backend, matrices, 3, rows);
            cr_assert_eq(bytes, backend_predict("cuda")->norm_linear_work(shapes, 3, rows, &f.parameters));
            if (bytes == 0)
                continue;
            taken++;
            float *x = normal_floats(rows * a.width, 3, rows), *device_x = device_floats(&f, x, rows * a.width);
            void *work = device_bytes(&f, NULL, bytes);
            float *y[3];
            for (size_t i = 0; i < 3; i++)
                y[i] = device_floats(&f, NULL, rows * a.layers[i].source.out_features);
            plim_pool_reset_peak(f.pool);
            cr_assert_eq(f.backend.ops->norm_linear(&f.backend, &a.norm, matrices, 3, device_x, rows, work, y, false, &err), 0,
                         "%s", err.message);
            check_scratch(&f, a.layers, 3, rows, ways[w]);
            double *normed = norm_reference(x, a.weight, 0.5, 1e-5, rows, a.width);
            for (size_t i = 0; i < 3; i++) {
                size_t n = rows * a.layers[i].source.out_features;
                float *got = host_floats(&f, y[i], n);
                double *expected = product_reference(&a.layers[i], normed, rows);
                check_norm(got, expected, n, HALF_ERROR, ways[w], rows);
                free(got), free(expected);
                device_free(&f, y[i]);
            }
            free(host_bytes(&f, work, bytes));
            device_free(&f, work);
            device_free(&f, device_x);
            free(x), free(normed);
        }
        cr_assert_gt(taken, 0, "%s", ways[w]);
        at_once_close(&a, &f);
        cuda_fixture_close(&f);
    }
    for (size_t i = 0; i < 3; i++)
        layer_free(&a.layers[i]);
}

static double *mlp_reference(const struct at_once *a, const float *x, size_t rows, bool gelu)
{
    size_t inner = a->layers[2].source.in_features;
    double *normed = norm_reference(x, a->weight, 0.5, 1e-5, rows, a->width);
    double *gate = product_reference(&a->layers[0], normed, rows), *up = product_reference(&a->layers[1], normed, rows);

    for (size_t i = 0; i < rows * inner; i++) {
        double g = gate[i];
        gate[i] = up[i] * (gelu ? 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) : g / (1 + exp(-g)));
    }
    double *out = product_reference(&a->layers[2], gate, rows);
    free(normed), free(gate), free(up);
    return out;
}

/* Rounded to fp16 four times on its way: normed, gate and up, their product. */
#define MLP_ERROR (2 * HALF_ERROR)

static void check_mlp(struct cuda_fixture *f, const struct at_once *a, size_t rows, size_t bytes, bool gelu, const char *what)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct mlp mlp = { &a->matrices[0], &a->matrices[1], &a->matrices[2], gelu ? ACTIVATION_GELU_TANH : ACTIVATION_SILU };
    size_t n = rows * a->width;
    float *x = normal_floats(n, 3, rows), *first = NULL;

    double *expected = mlp_reference(a, x, rows, gelu);
    for (int add = 0; add < 3; add++) {   /* apart, then onto x, twice */
        float *device_x = device_floats(f, x, n), *out = add ? device_x : device_floats(f, NULL, n);
        void *work = device_bytes(f, NULL, bytes);
        plim_pool_reset_peak(f->pool);
        cr_assert_eq(f->backend.ops->mlp(&f->backend, &a->norm, &mlp, device_x, rows, work, out, add, &err), 0, "%s",
                     err.message);
        check_scratch(f, a->layers, 3, rows, what);
        float *got = host_floats(f, out, n);
        if (add == 2)
            cr_assert_arr_eq(got, first, n * sizeof *got, "%s: other bits", what);
        for (size_t i = 0; i < n && add == 1; i++)
            expected[i] += (double)x[i];
        check_norm(got, expected, n, MLP_ERROR, what, rows);
        free(host_bytes(f, work, bytes));
        free(first);
        first = got;
        device_free(f, work);
        if (!add)
            device_free(f, out);
        device_free(f, device_x);
    }
    free(x), free(expected), free(first);
}

Test(cuda_linear, mlp_at_once)
{
    static const struct group_spec inner[] = { { 5, 96 }, { 4, 288 }, { 3, 128 }, { 0, 0 } };
    struct at_once a = { 0 };

    for (int same_order = 0; same_order < (int)cuda_count(2, 1); same_order++) {
        layer_exl2(&a.layers[0], mixed, 512, 0.25f, false, 21);
        layer_exl2(&a.layers[1], mixed, 512, 0.25f, false, same_order ? 21 : 22);
        layer_exl2(&a.layers[2], inner, 864, 0.25f, true, 23);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            struct cuda_fixture f;
            size_t taken = 0;
            cuda_fixture_open_with(&f, NULL, ways[w]);
            at_once_open(&a, &f);
            struct mlp mlp = { &a.matrices[0], &a.matrices[1], &a.matrices[2], ACTIVATION_SILU };
            for (size_t r = 0; r < sizeof many_rows / sizeof *many_rows; r++) {
                size_t bytes = f.backend.ops->mlp_work(&f.backend, &mlp, many_rows[r]);
                cr_assert_eq(bytes, backend_predict("cuda")->mlp_work(&a.layers[0].shape, &a.layers[1].shape, &a.layers[2].shape,
                                                                      many_rows[r], &f.parameters));
                if (bytes) {
                    check_mlp(&f, &a, many_rows[r], bytes, r % 2, ways[w]);
                    taken++;
                }
            }
            cr_assert_gt(taken, 0, "%s", ways[w]);
            at_once_close(&a, &f);
            cuda_fixture_close(&f);
        }
        for (size_t i = 0; i < 3; i++)
            layer_free(&a.layers[i]);
    }
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
