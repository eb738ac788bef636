/* The made-up layer: the same bits on every path, memory as predicted, on the tier that the threshold says. */

#include <string.h>

#include "conversion_support.h"

#define K 256

static const struct plim_quantize_layer_options ordinary = {
    .in_features = K, .out_features = 100, .rows = 3, .length = 70, .bits = 4, .seed = 1
};

static void run_layer(const struct plim_quantize_layer_options *options, const char *settings,
                      struct plim_quantize_layer_result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_engine *engine;

    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0);
    cr_assert_eq(plim_quantize_layer(engine, options, result, &err), 0, "%s", err.message);
    cr_assert_eq(plim_engine_close(engine), 0);
    cr_assert_eq(result->floor_bytes, 0);
}

Test(layer, is_quantised_the_same_with_and_without_the_slow_tier)
{
    struct plim_quantize_layer_options rounding = ordinary;
    struct plim_quantize_layer_result near, far, rounded;

    rounding.round_to_nearest = true;
    run_layer(&ordinary, "", &near);
    run_layer(&ordinary, "hessian_offload_threshold=1000 cpu_threads=1", &far);
    run_layer(&rounding, "", &rounded);
    cr_assert_not(near.offloaded);
    cr_assert(far.offloaded);
    cr_assert_str_eq(near.digest, far.digest);
    cr_assert_eq(near.error, far.error);
    cr_assert_lt(near.error, 0.9 * rounded.error, "GPTQ %g, rounding %g", near.error, rounded.error);
}

/* The phase's peak falls by the matrix, the run's does not: what the threshold buys is room during the permutation. */
Test(layer, above_the_threshold_the_permutation_leaves_the_fast_tier)
{
    const uint64_t matrix = 4 * K * K;
    struct plim_quantize_layer_result at, above;

    run_layer(&ordinary, "hessian_offload_threshold=65536", &at);
    run_layer(&ordinary, "hessian_offload_threshold=65535", &above);
    cr_assert_not(at.offloaded);
    cr_assert(above.offloaded);
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        cr_expect_eq(at.usage.phase_peak_bytes[PLIM_FAST][phase] - above.usage.phase_peak_bytes[PLIM_FAST][phase],
                     phase == PLIM_QUANTIZE_PERMUTE ? matrix : 0, "%s",
                     plim_quantize_phase_name((enum plim_quantize_phase)phase));
    cr_expect_eq(at.usage.peak_bytes[PLIM_FAST], above.usage.peak_bytes[PLIM_FAST]);
    cr_expect_eq(at.usage.peak_bytes[PLIM_SLOW], 0);
    cr_expect_eq(above.usage.peak_bytes[PLIM_SLOW], matrix);
    cr_expect_geq(above.reserved_peak_bytes[PLIM_SLOW], matrix);
}

/* What an engine holds before it does anything, all of it metadata. */
static uint64_t engine_bytes(const struct plim_parameters *parameters)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_engine *engine;
    struct plim_pool_stats stats;

    cr_assert_eq(plim_engine_open(&engine, "cpu", parameters, NULL, &err), 0);
    plim_pool_stats(plim_engine_pool(engine), &stats);
    plim_engine_close(engine);
    return stats.current[PLIM_FAST].total_bytes;
}

static void check_prediction(const struct plim_quantize_layer_options *options, const char *settings)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_quantize_layer_result result;
    struct plim_quantize_usage predicted;

    run_layer(options, settings, &result);
    cr_assert_eq(plim_quantize_layer_predict("cpu", &parameters, options, &predicted, &err), 0, "%s", err.message);
    predicted.peak_bytes[PLIM_FAST] += engine_bytes(&parameters);
    predicted.tag_peak_bytes[PLIM_FAST][PLIM_TAG_METADATA] += engine_bytes(&parameters);
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        if (predicted.phase_peak_bytes[PLIM_FAST][phase])
            predicted.phase_peak_bytes[PLIM_FAST][phase] += engine_bytes(&parameters);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        const char *name = plim_tier_name((enum plim_tier)tier);
        cr_expect_eq(result.usage.peak_bytes[tier], predicted.peak_bytes[tier], "%zu, %s, %s", options->in_features,
                     settings, name);
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            cr_expect_eq(result.usage.phase_peak_bytes[tier][phase], predicted.phase_peak_bytes[tier][phase],
                         "%zu, %s, %s, %s: %llu, predicted %llu", options->in_features, settings, name,
                         plim_quantize_phase_name((enum plim_quantize_phase)phase),
                         (unsigned long long)result.usage.phase_peak_bytes[tier][phase],
                         (unsigned long long)predicted.phase_peak_bytes[tier][phase]);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            cr_expect_eq(result.usage.tag_peak_bytes[tier][tag], predicted.tag_peak_bytes[tier][tag],
                         "%zu, %s, %s, %s: %llu, predicted %llu", options->in_features, settings, name,
                         plim_tag_name((enum plim_tag)tag), (unsigned long long)result.usage.tag_peak_bytes[tier][tag],
                         (unsigned long long)predicted.tag_peak_bytes[tier][tag]);
    }
}

Test(layer, takes_the_memory_that_was_predicted_to_the_byte)
{
    static const char *const settings[] = { "", "hessian_offload_threshold=1000" };
    static const int bits[] = { 2, 4, 8 };

    for (size_t s = 0; s < 2; s++) {
        struct plim_quantize_layer_options options = ordinary;
        for (size_t b = 0; b < 3; b++) {
            options.bits = bits[b];
            options.round_to_nearest = false;
            check_prediction(&options, settings[s]);
            options.round_to_nearest = true;
            check_prediction(&options, settings[s]);
        }
        options.round_to_nearest = false;
        options.as_exllamav2 = true;
        check_prediction(&options, settings[s]);
        options = (struct plim_quantize_layer_options){ .in_features = 608, .out_features = 32, .rows = 1, .length = 20,
                                                        .bits = 6 };
        check_prediction(&options, settings[s]);
        options = (struct plim_quantize_layer_options){ .in_features = 301, .rows = 2, .length = 40, .factor_only = true };
        check_prediction(&options, settings[s]);
    }
}

/* The original's threshold lies between 24494 and 24495 inputs, and neither is a size that the format knows. */
Test(layer, a_factor_alone_has_any_number_of_inputs)
{
    struct plim_quantize_layer_options options = { .in_features = 245, .rows = 2, .length = 50, .factor_only = true };
    struct plim_quantize_layer_result below, above;

    run_layer(&options, "hessian_offload_threshold=60025", &below);
    cr_assert_not(below.offloaded);
    options.in_features = 246;
    run_layer(&options, "hessian_offload_threshold=60025", &above);
    cr_assert(above.offloaded);
    cr_assert_eq(above.usage.peak_bytes[PLIM_SLOW], 4 * 246 * 246);
    cr_assert_str_neq(below.digest, above.digest);
    cr_assert_eq(below.bits_per_weight, 0);
}

Test(layer, refuses_what_the_format_does_not_take)
{
    static const struct {
        struct plim_quantize_layer_options options;
        const char *words;
    } bad[] = {
        { { .in_features = 100, .out_features = 32, .rows = 1, .length = 1, .bits = 4 }, "multiples of 32" },
        { { .in_features = 65568, .out_features = 32, .rows = 1, .length = 1, .bits = 4 }, "1 to 65536" },
        { { .in_features = 64, .out_features = 0, .rows = 1, .length = 1, .bits = 4 }, "output features" },
        { { .in_features = 64, .out_features = 32, .rows = 0, .length = 1, .bits = 4 }, "rows and length" },
        { { .in_features = 64, .out_features = 32, .rows = 1, .length = 1, .bits = 7 }, "7 bits" },
        { { .in_features = 64, .rows = 1, .length = 1, .factor_only = true, .round_to_nearest = true }, "no factor" },
    };
    struct plim_parameters parameters = parameters_from("");
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_engine *engine;

    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct plim_quantize_layer_result result;
        struct plim_quantize_usage usage;
        err = (struct plim_err)PLIM_ERR_INIT;
        cr_expect_eq(plim_quantize_layer(engine, &bad[i].options, &result, &err), -1);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
        cr_expect(strstr(err.message, bad[i].words), "%s", err.message);
        cr_expect_eq(plim_quantize_layer_predict("cpu", &parameters, &bad[i].options, &usage, &err), -1);
    }
    cr_assert_eq(plim_engine_close(engine), 0);
}
