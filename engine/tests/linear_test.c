#include "linear_test.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear_internal.h"
#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

const struct group_spec mixed_groups[] = { { 8, 32 }, { 6, 64 }, { 5, 96 }, { 4, 128 }, { 4, 160 }, { 3, 288 },
                                         { 2, 64 }, { 2, 32 }, { 0, 0 } };

void linear_rig_open(struct linear_rig *rig, enum plim_isa isa, int threads)
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

void linear_rig_close(struct linear_rig *rig)
{
    backend_close(&rig->backend);
    threads_close(rig->threads);
    cr_assert_eq(plim_pool_close(rig->pool), 0, "something leaked");
}

enum plim_isa best_isa(void)
{
    enum plim_isa best = PLIM_ISA_PORTABLE;
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++)
        if (plim_isa_supported(isa))
            best = isa;
    return best;
}

/* ---- layers ---- */

void *layer_own(struct layer *layer, size_t bytes)
{
    void *p = calloc(1, bytes + 1);
    cr_assert_not_null(p);
    layer->owned[layer->owned_count++] = p;
    return p;
}

void layer_free(struct layer *layer)
{
    while (layer->owned_count > 0)
        free(layer->owned[--layer->owned_count]);
}

static float normal(struct plim_random *random)
{
    return (float)plim_random_normal(random);
}

void layer_decode(struct layer *layer, struct linear_rig *rig)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct exl2_matrix matrix;
    cr_assert_eq(exl2_matrix_init(&matrix, rig->pool, &layer->source.exl2, layer->source.prescale, &err), 0, "%s",
                 err.message);
    size_t n = matrix.in_features * matrix.out_features;
    uint16_t *halves = malloc(n * sizeof *halves);
    exl2_dequantise(&matrix, halves);
    layer->w = layer_own(layer, n * sizeof *layer->w);
    for (size_t i = 0; i < n; i++)
        layer->w[i] = half_to_float(halves[i]);
    free(halves);
    exl2_matrix_release(&matrix, rig->pool);
}

void layer_exl2(struct layer *layer, struct linear_rig *rig, const struct group_spec *groups, size_t out, bool bias,
                uint64_t seed)
{
    struct plim_random random;
    size_t group_count = 0, in = 0, word_rows = 0, stored = plim_round_up(out, 32);

    memset(layer, 0, sizeof *layer);
    plim_random_seed(&random, seed, 0);
    int16_t *q_groups = layer_own(layer, 64 * sizeof *q_groups);
    uint16_t *scale_max = layer_own(layer, 32 * sizeof *scale_max);
    for (; groups[group_count].bits; group_count++) {
        q_groups[2 * group_count] = (int16_t)groups[group_count].bits;
        q_groups[2 * group_count + 1] = (int16_t)word_rows;
        scale_max[group_count] = half_from_float((float)(0.002 + 0.03 * plim_random_double(&random)));
        word_rows += groups[group_count].rows * groups[group_count].bits / 32;
        in += groups[group_count].rows;
    }
    uint32_t *q_weight = layer_own(layer, word_rows * stored * 4);
    uint32_t *q_scale = layer_own(layer, group_count * stored / 8 * 4);
    uint32_t *order = layer_own(layer, in * sizeof *order);
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
    layer_decode(layer, rig);
    if (bias) {
        uint16_t *halves = layer_own(layer, stored * sizeof *halves);
        layer->bias = layer_own(layer, stored * sizeof *layer->bias);
        for (size_t n = 0; n < stored; n++) {
            halves[n] = half_from_float(normal(&random));
            layer->bias[n] = half_to_float(halves[n]);
        }
        layer->source.bias = halves;
        layer->source.bias_dtype = DTYPE_F16;
    }
}

void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, float prescale, uint64_t seed)
{
    struct plim_random random;

    memset(layer, 0, sizeof *layer);
    plim_random_seed(&random, seed, 0);
    char *weight = layer_own(layer, in * out * 4);
    float *bias = layer_own(layer, out * sizeof *bias);
    layer->w = layer_own(layer, in * out * sizeof *layer->w);
    layer->bias = layer_own(layer, out * sizeof *layer->bias);
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

float *some_inputs(size_t n, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc(n * sizeof *x);
    plim_random_seed(&random, seed, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = normal(&random);
    return x;
}

void layer_init(struct linear_rig *rig, struct matrix *matrix, const struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(rig->backend.ops->matrix_init(&rig->backend, matrix, &layer->source, &err), 0, "%s", err.message);
}

void layer_product(struct linear_rig *rig, const struct layer *layer, const struct matrix *matrix, const float *x,
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
void layer_check_product(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before,
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
