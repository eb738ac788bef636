/* The workloads of the quantizer in real workers: phases, memory as predicted, the same bits on every path. */

#include <stdio.h>
#include <string.h>

#include "plimsoll/quantize.h"
#include "workload_support.h"

/* ---- one layer ---- */

#define SMALL { "in_features", "256" }, { "out_features", "96" }, { "rows", "2" }, { "length", "64" }

static const struct wanted layer = { "quantize_layer", NULL, { SMALL } };
static const struct wanted offloaded = { "quantize_layer", NULL, { SMALL, { "hessian_offload_threshold", "65535" } } };
static const struct wanted rounded = { "quantize_layer", NULL, { SMALL, { "method", "rtn" } } };
static const struct wanted factor = { "quantize_layer", NULL,
                                      { { "method", "factor" }, { "in_features", "301" }, { "length", "64" } } };

Test(workloads, a_layer_takes_the_memory_that_was_predicted)
{
    const struct wanted *all[] = { &layer, &offloaded, &rounded, &factor };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct result_case c;

        run_ok(all[i], &c);
        cr_expect_eq(value(&c, "prediction_error_bytes"), 0, "%zu", i);
        cr_expect_eq(value(&c, "predicted_peak_bytes"), value(&c, "peak_requested_fast_bytes"));
        cr_expect_eq(value(&c, "predicted_in_hessian_bytes"), value(&c, "peak_in_hessian_bytes"));
        cr_expect_eq(value(&c, "boundary_floor_bytes"), 0);
        cr_expect_eq(value(&c, "leaked_blocks"), 0);
        cr_expect_gt(value(&c, "peak_rss_bytes"), 0);
        cr_expect_geq(value(&c, "peak_reserved_fast_bytes"), value(&c, "peak_requested_fast_bytes"));
        cr_expect_null(case_find_metric(&c, "harness_time_ns"));
        case_release(&c);
    }
}

Test(workloads, a_layer_tells_its_phases)
{
    struct result_case c;
    double sum = 0;

    run_ok(&layer, &c);
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++) {
        char name[64];
        const struct metric *metric;

        snprintf(name, sizeof name, "phase_%s_time_ns", plim_quantize_phase_name((enum plim_quantize_phase)phase));
        metric = case_find_metric(&c, name);
        if (metric && phase != PLIM_QUANTIZE_OTHER)
            sum += metric->samples[0];
    }
    cr_expect_float_eq(sum, value(&c, "quantize_time_ns"), 0.01 * sum, "%g", sum);
    cr_expect_gt(value(&c, "phase_cholesky_time_ns"), 0);
    cr_expect_gt(value(&c, "phase_search_time_ns"), 0);
    cr_expect_gt(value(&c, "quantisation_error"), 0);
    cr_expect_float_eq(value(&c, "bits_per_weight"), 4.5, 0.6);
    cr_expect_eq(value(&c, "damping_attempts"), 1);
    cr_expect(strchr(case_find_metric(&c, "quantised_digest")->texts.items[0].name, '/'));
    case_release(&c);
}

Test(workloads, a_layer_is_the_same_on_both_sides_of_the_threshold)
{
    struct result_case fast, slow, nearest;

    run_ok(&layer, &fast);
    run_ok(&offloaded, &slow);
    run_ok(&rounded, &nearest);
    cr_expect_str_eq(digest(&fast, "quantised_digest"), digest(&slow, "quantised_digest"));
    cr_expect_eq(value(&fast, "peak_in_permute_bytes") - value(&slow, "peak_in_permute_bytes"), 4 * 256 * 256);
    cr_expect_eq(value(&slow, "peak_slow_in_permute_bytes"), 4 * 256 * 256);
    cr_expect_eq(value(&fast, "peak_requested_slow_bytes"), 0);
    cr_expect_eq(value(&fast, "peak_requested_fast_bytes"), value(&slow, "peak_requested_fast_bytes"));
    cr_expect_lt(value(&fast, "quantisation_error"), 0.95 * value(&nearest, "quantisation_error"));
    cr_expect_null(case_find_metric(&nearest, "phase_cholesky_time_ns"));
    case_release(&fast);
    case_release(&slow);
    case_release(&nearest);
}

Test(workloads, a_layer_that_does_not_fit_is_out_of_memory)
{
    static const struct wanted tight = { "quantize_layer", NULL, { SMALL, { "memory_budget", "300Ki" } } };
    static const struct wanted odd = { "quantize_layer", NULL, { { "in_features", "100" } } };
    struct result_case c;

    run_wanted(&tight, &c);
    cr_expect_eq(c.outcome, OUTCOME_OUT_OF_MEMORY, "%s", c.detail);
    cr_expect_str_eq(facts_find(&c.refusal, "tag")->text, "hessian");
    case_release(&c);
    run_wanted(&odd, &c);
    cr_expect_eq(c.outcome, OUTCOME_FAILED);
    cr_expect(strstr(c.detail, "multiples of 32"), "%s", c.detail);
    case_release(&c);
}
