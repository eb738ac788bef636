#include "test_layers.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

const struct group_spec mixed_groups[] = { { 8, 32 }, { 6, 64 }, { 5, 96 }, { 4, 128 }, { 4, 160 }, { 3, 288 },
                                           { 2, 64 }, { 2, 32 }, { 0, 0 } };

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

void layer_decode(struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;
    struct exl2_matrix matrix;

    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(exl2_matrix_init(&matrix, pool, &layer->source.exl2, layer->source.prescale, &err), 0, "%s", err.message);
    size_t n = matrix.in_features * matrix.out_features;
    uint16_t *halves = malloc(n * sizeof *halves);
    exl2_dequantise(&matrix, halves);
    layer->w = layer_own(layer, n * sizeof *layer->w);
    for (size_t i = 0; i < n; i++)
        layer->w[i] = (double)half_to_float(halves[i]);
    free(halves);
    exl2_matrix_release(&matrix, pool);
    plim_pool_close(pool);
}

void layer_exl2(struct layer *layer, const struct group_spec *groups, size_t out, float prescale, bool bias, uint64_t seed)
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
        scale_max[group_count] = half_from_float((float)((group_count % 2 ? 0.002 : 0.03) + 0.01 * plim_random_double(&random)));
        word_rows += groups[group_count].rows * groups[group_count].bits / 32;
        in += groups[group_count].rows;
    }
    uint32_t *q_weight = layer_own(layer, word_rows * stored * 4), *q_scale = layer_own(layer, group_count * stored / 8 * 4);
    uint32_t *order = layer_own(layer, in * sizeof *order);
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
    layer_decode(layer);
    if (bias) {
        uint16_t *halves = layer_own(layer, stored * sizeof *halves);
        layer->bias = layer_own(layer, stored * sizeof *layer->bias);
        for (size_t n = 0; n < stored; n++) {
            halves[n] = half_from_float((float)plim_random_normal(&random));
            layer->bias[n] = (double)half_to_float(halves[n]);
        }
        layer->source.bias = halves;
        layer->source.bias_dtype = DTYPE_F16;
    }
}

void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, float prescale, bool has_bias, uint64_t seed)
{
    struct plim_random random;

    memset(layer, 0, sizeof *layer);
    plim_random_seed(&random, seed, 0);
    char *weight = layer_own(layer, in * out * 4);
    float *bias = has_bias ? layer_own(layer, out * sizeof *bias) : NULL;
    layer->w = layer_own(layer, in * out * sizeof *layer->w);
    layer->bias = has_bias ? layer_own(layer, out * sizeof *layer->bias) : NULL;
    for (size_t n = 0; n < out; n++) {
        for (size_t k = 0; k < in; k++) {
            float value = 0.1f * (float)plim_random_normal(&random);
            uint16_t half = dtype == DTYPE_F16 ? half_from_float(value) : bfloat_from_float(value);
            if (dtype != DTYPE_F32)
                value = dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
            memcpy(weight + (n * in + k) * dtype_bytes(dtype), dtype == DTYPE_F32 ? (void *)&value : (void *)&half,
                   dtype_bytes(dtype));
            layer->w[k * out + n] = (double)value * (double)prescale;
        }
        if (has_bias) {
            bias[n] = (float)plim_random_normal(&random);
            layer->bias[n] = (double)bias[n];
        }
    }
    layer->source = (struct linear_source){
        .name = "layer", .dtype = dtype, .weight = weight, .in_features = in, .out_features = out, .bias = bias,
        .bias_dtype = DTYPE_F32, .prescale = prescale,
    };
    layer->shape = (struct linear_shape){
        .dtype = dtype, .in_features = in, .out_features = out, .stored_out_features = out, .has_bias = has_bias,
        .prescale = prescale,
    };
}
