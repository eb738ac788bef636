/*
 * Linear layers through the backend's table: against double precision on decoded weights, for every path, bound and
 * thread count; predicted memory to the byte; failures.
 */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/blas.h"
#include "cpu/linear_internal.h"
#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "safetensors.h"

/* ---- a backend ---- */

struct rig {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
};

static void rig_open(struct rig *rig, enum plim_isa isa, int threads)
{
    struct plim_err err = PLIM_ERR_INIT;

    memset(rig, 0, sizeof *rig);
    setenv("PLIMSOLL_ISA", plim_isa_name(isa), 1);
    plim_parameters_default(&rig->parameters);
    rig->parameters.count[PLIM_DQ_ROWS] = 32;   /* so that moderate numbers of rows expand chunks */
    rig->parameters.count[PLIM_CPU_THREADS] = threads;
    rig->parameters.count[PLIM_CPU_THREADS_SMALL] = threads;   /* cut the small matrices of these tests too */
    cr_assert_eq(plim_parameters_resolve(&rig->parameters, &err), 0, "%s", err.message);
    cr_assert_eq(plim_pool_open(&rig->pool, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(threads_open(&rig->threads, threads, &err), 0, "%s", err.message);
    cr_assert_eq(backend_open(&rig->backend, "cpu", rig->pool, rig->threads, &rig->parameters, &err), 0, "%s",
                 err.message);
}

static void rig_close(struct rig *rig)
{
    backend_close(&rig->backend);
    threads_close(rig->threads);
    cr_assert_eq(plim_pool_close(rig->pool), 0, "something leaked");
}

static enum plim_isa best_isa(void)
{
    enum plim_isa best = PLIM_ISA_PORTABLE;
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++)
        if (plim_isa_supported(isa))
            best = isa;
    return best;
}

/* ---- layers ---- */

/* A layer with everything that it points to, and its weights decoded in double precision. */
struct layer {
    struct linear_source source;
    struct linear_shape shape;
    double *w;                  /* [in_features, stored_out_features] */
    double *bias;               /* [out_features] or NULL */
    void *owned[8];
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

static float normal(struct plim_random *random)
{
    return (float)plim_random_normal(random);
}

static void decode(struct layer *layer, struct rig *rig)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct exl2_matrix matrix;
    cr_assert_eq(exl2_matrix_init(&matrix, rig->pool, &layer->source.exl2, layer->source.prescale, &err), 0, "%s",
                 err.message);
    size_t n = matrix.in_features * matrix.out_features;
    uint16_t *halves = malloc(n * sizeof *halves);
    exl2_dequantise(&matrix, halves);
    layer->w = own(layer, n * sizeof *layer->w);
    for (size_t i = 0; i < n; i++)
        layer->w[i] = half_to_float(halves[i]);
    free(halves);
    exl2_matrix_release(&matrix, rig->pool);
}

struct group_spec {
    unsigned bits, rows;
};

/* Groups end with bits 0. The result has `out` columns, stored as a multiple of 32. */
static void layer_exl2(struct layer *layer, struct rig *rig, const struct group_spec *groups, size_t out, bool bias,
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
        scale_max[group_count] = half_from_float((float)(0.002 + 0.03 * plim_random_double(&random)));
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
        .name = "layer", .is_exl2 = true, .in_features = in, .out_features = out, .prescale = 1.0f,
        .exl2 = { .name = "layer", .q_weight = (int32_t *)q_weight, .word_rows = word_rows, .out_features = stored,
                  .q_scale = (int32_t *)q_scale, .group_count = group_count, .q_scale_max = scale_max,
                  .q_groups = q_groups, .q_invperm = (int32_t *)order, .in_features = in },
    };
    layer->shape = (struct linear_shape){
        .is_exl2 = true, .in_features = in, .out_features = out, .stored_out_features = stored,
        .group_count = group_count, .word_rows = word_rows, .has_bias = bias, .prescale = 1.0f,
    };
    decode(layer, rig);
    if (bias) {
        uint16_t *halves = own(layer, stored * sizeof *halves);
        layer->bias = own(layer, stored * sizeof *layer->bias);
        for (size_t n = 0; n < stored; n++) {
            halves[n] = half_from_float(normal(&random));
            layer->bias[n] = half_to_float(halves[n]);
        }
        layer->source.bias = halves;
        layer->source.bias_dtype = DTYPE_F16;
    }
}

static void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, float prescale, uint64_t seed)
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
            float value = 0.1f * normal(&random);
            uint16_t half = dtype == DTYPE_F16 ? half_from_float(value) : bfloat_from_float(value);
            if (dtype != DTYPE_F32)
                value = dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
            memcpy(weight + (n * in + k) * dtype_bytes(dtype), dtype == DTYPE_F32 ? (void *)&value : (void *)&half,
                   dtype_bytes(dtype));
            layer->w[k * out + n] = (double)value * prescale;
        }
        bias[n] = normal(&random);
        layer->bias[n] = bias[n];
    }
    layer->source = (struct linear_source){
        .name = "layer", .dtype = dtype, .weight = weight, .in_features = in, .out_features = out, .bias = bias,
        .bias_dtype = DTYPE_F32, .prescale = prescale,
    };
    layer->shape = (struct linear_shape){
        .dtype = dtype, .in_features = in, .out_features = out, .stored_out_features = out, .has_bias = true,
        .prescale = prescale,
    };
}

/* ---- one product, with all that must hold for it ---- */

static float *inputs(size_t n, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc(n * sizeof *x);
    plim_random_seed(&random, seed, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = normal(&random);
    return x;
}

static void init(struct rig *rig, struct matrix *matrix, const struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(rig->backend.ops->matrix_init(&rig->backend, matrix, &layer->source, &err), 0, "%s", err.message);
}

/* y = x W, and the scratch it took is what was predicted. */
static void product(struct rig *rig, const struct layer *layer, const struct matrix *matrix, const float *x,
                    size_t rows, float *y, bool accumulate)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;

    plim_pool_reset_peak(rig->pool);
    plim_pool_stats(rig->pool, &before);
    cr_assert_eq(rig->backend.ops->linear(&rig->backend, matrix, x, rows, y, accumulate, &err), 0, "%s", err.message);
    plim_pool_stats(rig->pool, &after);

    struct linear_scratch scratch = backend_predict("cpu")->linear_scratch(&layer->shape, rows, &rig->parameters);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_DEQUANT], scratch.dequant_bytes);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], scratch.workspace_bytes);
    cr_assert_eq(after.peak[PLIM_FAST].total_bytes,
                 before.current[PLIM_FAST].total_bytes + scratch.dequant_bytes + scratch.workspace_bytes);
    cr_assert_eq(after.current[PLIM_FAST].total_bytes, before.current[PLIM_FAST].total_bytes);
    cr_assert_leq(scratch.dequant_bytes, 4 * (size_t)rig->parameters.count[PLIM_MAX_DQ_SIZE]);
}

/*
 * The largest error that y[r, n] may have. Every path sums in fp32: 2^-24 for each of some in_features additions in
 * the worst order. The fused path rounds activations to 16 bits of their block's largest (half a step of 2^-15), and
 * does not round weights to fp16 as the decoded ones are (half a unit in 2^-10).
 */
static void check_product(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before,
                          bool fused, const char *what)
{
    size_t in = layer->source.in_features, out = layer->source.out_features, stored = layer->shape.stored_out_features;

    for (size_t r = 0; r < rows; r++) {
        double largest = 0;
        for (size_t k = 0; k < in; k++)
            largest = fmax(largest, fabs((double)x[r * in + k]));
        for (size_t n = 0; n < out; n++) {
            double sum = y_before + (layer->bias ? layer->bias[n] : 0), magnitude = fabs(sum), slack = 0;
            for (size_t k = 0; k < in; k++) {
                double value = x[r * in + k], w = layer->w[k * stored + n];
                sum += value * w;
                magnitude += fabs(value * w);
                if (fused)
                    slack += fabs(w) * (largest * 0x1.02p-16 + fabs(value) * 0x1p-11);
            }
            slack += magnitude * (double)(in + 8) * 0x1p-24;
            cr_assert_float_eq(y[r * out + n], sum, slack, "%s: row %zu of %zu, column %zu", what, r, rows, n);
        }
    }
}

/* Widths mixed, sizes from 32 up, over a block and not a multiple of one, short last group. */
static const struct group_spec mixed[] = { { 8, 32 }, { 6, 64 }, { 5, 96 }, { 4, 128 }, { 4, 160 }, { 3, 288 },
                                           { 2, 64 }, { 2, 32 }, { 0, 0 } };
enum { MIXED_IN = 864 };

/* ---- fused ---- */

Test(linear, fused_rows_1_to_40)
{
    struct rig rig;
    struct layer layer;
    struct matrix matrix;
    rig_open(&rig, best_isa(), 2);
    rig.parameters.count[PLIM_DQ_ROWS] = 64;   /* more than one tile */
    layer_exl2(&layer, &rig, mixed, 75, true, 1);
    init(&rig, &matrix, &layer);

    float *x = inputs(40 * MIXED_IN, 2), *y = malloc(40 * 75 * sizeof *y);
    for (size_t rows = 1; rows <= 40; rows++) {
        bool accumulate = rows % 2 == 0;
        for (size_t i = 0; i < rows * 75; i++)
            y[i] = accumulate ? 1.5f : NAN;   /* what is there must not matter */
        product(&rig, &layer, &matrix, x, rows, y, accumulate);
        check_product(&layer, x, rows, y, accumulate ? 1.5 : 0, true, "fused");
    }
    cr_assert_eq(rig.backend.counters.fused_calls, 40);
    cr_assert_eq(rig.backend.counters.chunked_calls, 0);
    cr_assert_eq(rig.backend.counters.weight_bytes_read,
                 (40 + 8) * cpu_matrix_mapped_bytes(&layer.shape), "rows 33 to 40 take two tiles");
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    rig_close(&rig);
}

Test(linear, fused_is_the_same_for_every_isa_and_thread_count)
{
    enum { OUT = 300, ROWS = 5 };
    float *x = inputs(ROWS * MIXED_IN, 3), *expected = malloc(ROWS * OUT * sizeof *x), *y = malloc(ROWS * OUT * sizeof *x);

    for (size_t rows = 1; rows <= ROWS; rows += 2) {
        bool first = true;
        for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
            for (int threads = 1; threads <= 3 && plim_isa_supported(isa); threads++) {
                struct rig rig;
                struct layer layer;
                struct matrix matrix;
                rig_open(&rig, isa, threads);
                layer_exl2(&layer, &rig, mixed, OUT, true, 4);
                init(&rig, &matrix, &layer);
                product(&rig, &layer, &matrix, x, rows, first ? expected : y, false);
                if (!first)
                    cr_assert_arr_eq(y, expected, rows * OUT * sizeof *y, "%s, %d threads, %zu rows",
                                     plim_isa_name(isa), threads, rows);
                first = false;
                cpu_matrix_release(&rig.backend, &matrix);
                layer_free(&layer);
                rig_close(&rig);
            }
        }
    }
    free(x);
    free(expected);
    free(y);
}

/* A matrix wider than a strip, so that strips and threads meet in the middle of the columns. */
Test(linear, fused_wide)
{
    static const struct group_spec groups[] = { { 4, 64 }, { 0, 0 } };
    struct rig rig;
    struct layer layer;
    struct matrix matrix;
    enum { OUT = 20011 };
    rig_open(&rig, best_isa(), 2);
    layer_exl2(&layer, &rig, groups, OUT, false, 5);
    init(&rig, &matrix, &layer);
    float *x = inputs(3 * 64, 6), *y = malloc(3 * OUT * sizeof *y);
    for (size_t rows = 1; rows <= 3; rows++) {
        product(&rig, &layer, &matrix, x, rows, y, false);
        check_product(&layer, x, rows, y, 0, true, "wide");
    }
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    rig_close(&rig);
}

/* ---- chunked ---- */

/* Whatever the shape and the bound: never empty, never over the bound, and all of the matrix. */
Test(linear, chunk_plans)
{
    static const size_t sizes[] = { 1, 31, 32, 33, 64, 96, 320, 864, 4096, 14336, 128256 };
    enum { COUNT = sizeof sizes / sizeof *sizes };
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t j = 0; j < COUNT; j++) {
            for (size_t limit = 1; limit < (size_t)1 << 34; limit += limit / 3 + 1) {
                struct chunk_plan plan = chunk_plan(sizes[i], sizes[j], limit);
                cr_assert(plan.chunk_rows >= 1 && plan.chunk_rows <= sizes[i]);
                cr_assert(plan.chunk_columns >= 1 && plan.chunk_columns <= sizes[j]);
                cr_assert_eq(plan.buffer_elements, plan.chunk_rows * plan.chunk_columns);
                cr_assert_leq(plan.buffer_elements, limit);
                cr_assert_eq(plan.chunk_count, plim_ceil_div(sizes[i], plan.chunk_rows) *
                                                   plim_ceil_div(sizes[j], plan.chunk_columns));
                if (limit >= sizes[i] * sizes[j])
                    cr_assert_eq(plan.chunk_count, 1);
                else if (limit >= 1024)   /* the bound is used: at least a third of it, where units of 32 allow */
                    cr_assert_geq(3 * plan.buffer_elements + 3 * 32 * 32, plim_min(limit, sizes[i] * sizes[j]) / 2);
            }
        }
    }
}

Test(linear, chunked_for_every_bound)
{
    static const int64_t limits[] = { 1, 31, 32, 33, 100, 1023, 1024, 1500, 4096, 10000, 65536, 100000, 259199, 259200,
                                      1 << 20 };
    enum { OUT = 291, STORED = 320, ROWS = 37 };
    struct layer layer;
    struct rig rig;
    rig_open(&rig, PLIM_ISA_PORTABLE, 1);
    layer_exl2(&layer, &rig, mixed, OUT, true, 7);
    rig_close(&rig);
    float *x = inputs(ROWS * MIXED_IN, 8), *y = malloc(ROWS * OUT * sizeof *y);

    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        struct matrix matrix;
        rig_open(&rig, isa, 1 + (int)isa % 3);
        init(&rig, &matrix, &layer);
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
            bool accumulate = i % 2;
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = limits[i];
            rig.backend.counters = (struct backend_counters){ 0 };
            for (size_t k = 0; k < ROWS * OUT; k++)
                y[k] = accumulate ? -2.0f : NAN;
            product(&rig, &layer, &matrix, x, ROWS, y, accumulate);
            check_product(&layer, x, ROWS, y, accumulate ? -2.0 : 0, false, "chunked");

            struct chunk_plan plan = chunk_plan(MIXED_IN, STORED, (size_t)limits[i]);
            cr_assert_eq(rig.backend.counters.dequant_chunks, plan.chunk_count);
            cr_assert_eq(rig.backend.counters.dequantised_elements, MIXED_IN * STORED);
            cr_assert_eq(rig.backend.counters.chunked_calls, 1);
            cr_assert_eq(rig.backend.counters.fused_calls, 0);
            cr_assert_eq(rig.backend.counters.weight_bytes_read, cpu_matrix_mapped_bytes(&layer.shape));
        }
        cpu_matrix_release(&rig.backend, &matrix);
        rig_close(&rig);
    }
    free(x);
    free(y);
    layer_free(&layer);
}

/* Counters and memory of a case are the same for every thread count. */
Test(linear, chunked_threads)
{
    enum { OUT = 320, ROWS = 64 };
    struct backend_counters first = { 0 };
    float *x = inputs(ROWS * MIXED_IN, 9), *y = malloc(ROWS * OUT * sizeof *y);
    for (int threads = 1; threads <= 3; threads++) {
        struct rig rig;
        struct layer layer;
        struct matrix matrix;
        rig_open(&rig, best_isa(), threads);
        layer_exl2(&layer, &rig, mixed, OUT, false, 10);
        init(&rig, &matrix, &layer);
        for (int64_t limit = 2000; limit < 300000; limit *= 5) {
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = limit;
            product(&rig, &layer, &matrix, x, ROWS, y, false);
            check_product(&layer, x, ROWS, y, 0, false, "threads");
        }
        if (threads == 1)
            first = rig.backend.counters;
        cr_assert_arr_eq(&rig.backend.counters, &first, sizeof first);
        cpu_matrix_release(&rig.backend, &matrix);
        layer_free(&layer);
        rig_close(&rig);
    }
    free(x);
    free(y);
}

/* dq_rows is where the paths meet, and both must be right there. */
Test(linear, dq_rows_is_the_border)
{
    enum { OUT = 64 };
    struct rig rig;
    struct layer layer;
    struct matrix matrix;
    rig_open(&rig, best_isa(), 1);
    layer_exl2(&layer, &rig, mixed, OUT, false, 11);
    init(&rig, &matrix, &layer);
    float *x = inputs(4 * MIXED_IN, 12), *y = malloc(4 * OUT * sizeof *y);
    rig.parameters.count[PLIM_DQ_ROWS] = 3;
    product(&rig, &layer, &matrix, x, 3, y, false);
    cr_assert_eq(rig.backend.counters.fused_calls, 1);
    product(&rig, &layer, &matrix, x, 4, y, false);
    cr_assert_eq(rig.backend.counters.chunked_calls, 1);
    rig.parameters.count[PLIM_DQ_ROWS] = 0;
    product(&rig, &layer, &matrix, x, 1, y, false);
    cr_assert_eq(rig.backend.counters.chunked_calls, 2);
    check_product(&layer, x, 1, y, 0, false, "one row, chunked");
    product(&rig, &layer, &matrix, x, 0, y, false);
    cr_assert_eq(rig.backend.counters.fused_calls + rig.backend.counters.chunked_calls, 3);
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    rig_close(&rig);
}

/* dq_mode=gated: expanded whole if 128 * ceil(K / 128) * N fits, otherwise the fused kernel for all rows. */
Test(linear, gated)
{
    enum { OUT = 300, STORED = 320, ROWS = 70 };
    size_t fits = plim_round_up(MIXED_IN, 128) * STORED;
    struct rig rig;
    struct layer layer;
    struct matrix matrix;
    rig_open(&rig, best_isa(), 2);
    layer_exl2(&layer, &rig, mixed, OUT, true, 13);
    init(&rig, &matrix, &layer);
    float *x = inputs(ROWS * MIXED_IN, 14), *y = malloc(ROWS * OUT * sizeof *y);
    rig.parameters.count[PLIM_DQ_MODE] = PLIM_DQ_GATED;

    rig.parameters.count[PLIM_MAX_DQ_SIZE] = (int64_t)fits;
    product(&rig, &layer, &matrix, x, ROWS, y, false);
    check_product(&layer, x, ROWS, y, 0, false, "let through");
    cr_assert_eq(rig.backend.counters.dequant_chunks, 1);
    cr_assert_eq(rig.backend.counters.fused_calls, 0);

    rig.parameters.count[PLIM_MAX_DQ_SIZE] = (int64_t)fits - 1;
    product(&rig, &layer, &matrix, x, ROWS, y, false);
    check_product(&layer, x, ROWS, y, 0, true, "kept out");
    cr_assert_eq(rig.backend.counters.dequant_chunks, 1);
    cr_assert_eq(rig.backend.counters.fused_calls, 1);
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    rig_close(&rig);
}

/* ---- matrices quantised by ExLlamaV2 ---- */

static const void *tensor_data(const struct tensor_store *store, const char *key, const char *part, size_t *rows,
                               size_t *columns)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", key, part);
    const struct tensor *tensor = tensor_store_find(store, name);
    cr_assert_not_null(tensor, "%s", name);
    *rows = tensor->shape[0];
    *columns = tensor->dimension_count > 1 ? tensor->shape[1] : 1;
    return tensor->data;
}

static void layer_from_store(struct layer *layer, struct rig *rig, const struct tensor_store *store, const char *key,
                             size_t out)
{
    size_t ignored;
    memset(layer, 0, sizeof *layer);
    struct exl2_tensors *t = &layer->source.exl2;
    t->name = key;
    t->q_weight = tensor_data(store, key, "q_weight", &t->word_rows, &t->out_features);
    t->q_scale = tensor_data(store, key, "q_scale", &t->group_count, &ignored);
    t->q_scale_max = tensor_data(store, key, "q_scale_max", &ignored, &ignored);
    t->q_groups = tensor_data(store, key, "q_groups", &ignored, &ignored);
    t->q_invperm = tensor_data(store, key, "q_invperm", &t->in_features, &ignored);
    layer->source.name = key;
    layer->source.is_exl2 = true;
    layer->source.in_features = t->in_features;
    layer->source.out_features = out ? out : t->out_features;
    layer->source.prescale = 1.0f;
    layer->shape = (struct linear_shape){
        .is_exl2 = true, .in_features = t->in_features, .out_features = layer->source.out_features,
        .stored_out_features = t->out_features, .group_count = t->group_count, .word_rows = t->word_rows,
        .prescale = 1.0f,
    };
    decode(layer, rig);
}

Test(linear, matrices_of_exllamav2)
{
    static const char *const models[] = { "exl2-2.6", "exl2-4.0" };
    static const char *const keys[] = {
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.gate_proj", "model.layers.0.mlp.down_proj", "lm_head",
    };
    for (size_t m = 0; m < 2; m++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct tensor_store *store;
        struct rig rig;
        char path[512];
        rig_open(&rig, best_isa(), 2);
        snprintf(path, sizeof path, "%s/exl2-llama-tiny/%s", PLIMSOLL_TEST_DATA, models[m]);
        cr_assert_eq(tensor_store_open_directory(&store, rig.pool, path, false, &err), 0, "%s", err.message);
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            struct layer layer;
            struct matrix matrix;
            layer_from_store(&layer, &rig, store, keys[i], strcmp(keys[i], "lm_head") == 0 ? 300 : 0);
            init(&rig, &matrix, &layer);
            size_t out = layer.source.out_features;
            float *x = inputs(40 * layer.source.in_features, 15), *y = malloc(40 * out * sizeof *y);
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = 20000;
            for (size_t rows = 1; rows <= 40; rows += 13) {
                product(&rig, &layer, &matrix, x, rows, y, false);
                check_product(&layer, x, rows, y, 0, rows <= 32, keys[i]);
            }
            free(x);
            free(y);
            cpu_matrix_release(&rig.backend, &matrix);
            layer_free(&layer);
        }
        tensor_store_close(store);
        rig_close(&rig);
    }
}

/* ---- dense ---- */

Test(linear, dense)
{
    static const int64_t limits[] = { 1, 40, 1024, 5000, 1 << 20 };
    enum { IN = 203, OUT = 131, ROWS = 40 };
    float *x = inputs(ROWS * IN, 16), *y = malloc(ROWS * OUT * sizeof *y);

    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            struct rig rig;
            struct layer layer;
            struct matrix matrix;
            rig_open(&rig, isa, 1 + (int)dtype);
            layer_dense(&layer, dtype, IN, OUT, 0.75f, 17);
            init(&rig, &matrix, &layer);
            for (size_t rows = 1; rows <= 32; rows += rows < 6 ? 1 : 13) {
                for (size_t i = 0; i < rows * OUT; i++)
                    y[i] = rows % 2 ? 0.5f : NAN;
                product(&rig, &layer, &matrix, x, rows, y, rows % 2);
                check_product(&layer, x, rows, y, rows % 2 ? 0.5 : 0, false, "dots");
            }
            cr_assert_eq(rig.backend.counters.dequant_chunks, 0);
            for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
                rig.parameters.count[PLIM_MAX_DQ_SIZE] = limits[i];
                rig.backend.counters = (struct backend_counters){ 0 };
                for (size_t k = 0; k < ROWS * OUT; k++)
                    y[k] = i % 2 ? 0.5f : NAN;
                product(&rig, &layer, &matrix, x, ROWS, y, i % 2);
                check_product(&layer, x, ROWS, y, i % 2 ? 0.5 : 0, false, "sgemm");
                cr_assert_eq(rig.backend.counters.dequant_chunks,
                             dtype == DTYPE_F32 ? 0 : chunk_plan(IN, OUT, (size_t)limits[i]).chunk_count);
                cr_assert_eq(rig.backend.counters.weight_bytes_read, cpu_matrix_mapped_bytes(&layer.shape));
            }
            cpu_matrix_release(&rig.backend, &matrix);
            layer_free(&layer);
            rig_close(&rig);
        }
    }
    free(x);
    free(y);
}

/* ---- making ready ---- */

Test(linear, weights_are_counted_as_predicted)
{
    const struct backend_predict_ops *predict = backend_predict("cpu");
    for (int kind = 0; kind < 5; kind++) {
        struct rig rig;
        struct layer layer;
        struct matrix matrix;
        struct plim_pool_stats before, after;
        rig_open(&rig, best_isa(), 1);
        if (kind < 2)
            layer_exl2(&layer, &rig, mixed, 75, kind == 1, 18);
        else
            layer_dense(&layer, DTYPE_F32 + (enum dtype)(kind - 2), 33, 17, 1.0f, 19);
        plim_pool_stats(rig.pool, &before);
        init(&rig, &matrix, &layer);
        plim_pool_stats(rig.pool, &after);
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS],
                     before.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS] +
                         predict->matrix_bytes(&layer.shape, &rig.parameters));
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED],
                     predict->matrix_mapped_bytes(&layer.shape));
        cr_assert_eq(after.peak[PLIM_FAST].total_bytes, after.current[PLIM_FAST].total_bytes);
        cpu_matrix_release(&rig.backend, &matrix);
        plim_pool_stats(rig.pool, &after);
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED], 0);
        cpu_matrix_release(&rig.backend, &matrix);   /* a second time is harmless */
        layer_free(&layer);
        rig_close(&rig);
    }
}

static void expect_refused(struct rig *rig, const struct layer *layer, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct matrix matrix;
    cr_assert_lt(rig->backend.ops->matrix_init(&rig->backend, &matrix, &layer->source, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, text), "%s", err.message);
    cr_assert_null(strchr(err.message, '\n'));
}

Test(linear, bad_weights_are_refused)
{
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        static const size_t places[] = { 0, 40 * 50 - 1, 999 };
        for (size_t i = 0; i < 3; i++) {
            struct rig rig;
            struct layer layer;
            float bad = i ? NAN : -INFINITY;
            uint16_t half = dtype == DTYPE_F16 ? half_from_float(bad) : bfloat_from_float(bad);
            rig_open(&rig, best_isa(), 2);
            layer_dense(&layer, dtype, 40, 50, 1.0f, 20);
            memcpy((char *)(uintptr_t)layer.source.weight + places[i] * dtype_bytes(dtype),
                   dtype == DTYPE_F32 ? (void *)&bad : (void *)&half, dtype_bytes(dtype));
            expect_refused(&rig, &layer, "layer.weight: NaN or infinity");
            layer_free(&layer);
            rig_close(&rig);
        }
    }

    struct rig rig;
    struct layer layer;
    rig_open(&rig, best_isa(), 1);
    layer_exl2(&layer, &rig, mixed, 75, true, 21);
    ((uint16_t *)(uintptr_t)layer.source.bias)[74] = 0x7e00;
    expect_refused(&rig, &layer, "layer.bias: NaN or infinity");
    layer.source.bias = NULL;
    layer.source.in_features -= 32;
    expect_refused(&rig, &layer, "864 x 96, expected 832 x 75");
    layer.source.in_features += 32;
    layer.source.out_features = 97;
    expect_refused(&rig, &layer, "864 x 96, expected 864 x 97");
    layer_free(&layer);
    rig_close(&rig);
}

/* Every allocation fails once: an error, nothing kept, and the next try works. */
Test(linear, every_allocation_may_fail)
{
    for (int kind = 0; kind < 2; kind++) {
        struct rig rig;
        struct layer layer;
        struct matrix matrix;
        enum { OUT = 75, ROWS = 40 };
        rig_open(&rig, best_isa(), 2);
        if (kind == 0)
            layer_exl2(&layer, &rig, mixed, OUT, true, 22);
        else
            layer_dense(&layer, DTYPE_F16, 100, OUT, 1.0f, 23);
        size_t in = layer.source.in_features;
        float *x = inputs(ROWS * in, 24), *y = malloc(ROWS * OUT * sizeof *y);

        int failures = 0;
        for (uint64_t nth = 1;; nth++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct plim_pool_stats before, after;
            plim_pool_stats(rig.pool, &before);
            plim_pool_fail_allocation(rig.pool, nth);
            int rc = rig.backend.ops->matrix_init(&rig.backend, &matrix, &layer.source, &err);
            for (size_t rows = 1; rows <= ROWS && rc == 0; rows += ROWS - 1) {
                rc = rig.backend.ops->linear(&rig.backend, &matrix, x, rows, y, false, &err);
                if (rc == 0)
                    check_product(&layer, x, rows, y, 0, kind == 0 && rows == 1, "after a failure");
            }
            plim_pool_fail_allocation(rig.pool, 0);
            cpu_matrix_release(&rig.backend, &matrix);
            plim_pool_stats(rig.pool, &after);
            cr_assert_eq(after.live_blocks, before.live_blocks);
            cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED], 0);
            if (rc == 0)
                break;
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
            failures++;
        }
        /* EXL2: handle, tables, bias, workspace of one row, chunk, gathered rows. Dense: handle, bias, chunk. */
        cr_assert_eq(failures, kind == 0 ? 6 : 3);
        free(x);
        free(y);
        layer_free(&layer);
        rig_close(&rig);
    }
}

/* OpenBLAS' own thread count is as before after a product: other parts of the engine may want it. */
Test(linear, blas_threads_are_restored)
{
    int before = blas_serial_begin();
    cr_assert_eq(blas_serial_begin(), 1);
    blas_serial_end(1);
    blas_serial_end(before);
    cr_assert_eq(blas_serial_begin(), before);
    blas_serial_end(before);
}
