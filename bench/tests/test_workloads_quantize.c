/* The workloads of the quantizer in real workers: phases, memory as predicted, the same bits on every path. */

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* ---- a whole model ---- */

/* The fixture's vocabulary has 300 tokens, and its tokenizer reads the built-in mix byte by byte. */
#define QUICK { "rows", "2" }, { "length", "64" }, { "measurement_rows", "1" }, { "measurement_length", "32" }

static const struct wanted convert = { "quantize", DENSE, { QUICK, { "tokens", "96" }, { "window", "48" } } };

Test(workloads, a_conversion_tells_its_phases_floor_and_quality)
{
    static const char *const wanted[] = {
        "quantize_time_ns", "measurement_time_ns", "phase_hessian_time_ns", "phase_permute_time_ns", "phase_cholesky_time_ns",
        "phase_search_time_ns", "phase_quantise_time_ns", "phase_pack_time_ns", "peak_in_hessian_bytes",
        "peak_in_permute_bytes", "peak_slow_calibration_bytes", "peak_hessian_bytes", "peak_requested_fast_bytes",
        "quantisation_error", "kl_divergence", "perplexity", "reference_perplexity", "peak_rss_bytes",
    };
    struct result_case c;

    run_once(&convert, &c);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const struct metric *metric = case_find_metric(&c, wanted[i]);

        cr_expect(metric && metric->samples[0] > 0, "%s", wanted[i]);
    }
    cr_expect_eq(value(&c, "boundary_floor_spread_bytes"), 0);
    cr_expect_lt(value(&c, "boundary_floor_bytes"), value(&c, "peak_requested_fast_bytes"));
    cr_expect_geq(value(&c, "peak_requested_fast_bytes"), value(&c, "peak_in_quantise_bytes"));
    cr_expect_leq(value(&c, "bits_per_weight"), 4);
    cr_expect_eq(value(&c, "scored_tokens"), 94);
    cr_expect_eq(value(&c, "leaked_blocks"), 0);
    case_release(&c);
}

Test(workloads, a_conversion_is_the_same_whatever_bounds_its_memory)
{
    static const struct wanted kept = { "quantize", DENSE, { QUICK, { "release_at_boundary", "off" } } };
    static const struct wanted offloading = { "quantize", DENSE, { QUICK, { "hessian_offload_threshold", "0" } } };
    static const struct wanted nearest = { "quantize", DENSE, { QUICK, { "method", "rtn" } } };
    struct result_case on, off, slow, rtn;

    run_once(&convert, &on);
    run_once(&kept, &off);
    run_once(&offloading, &slow);
    run_once(&nearest, &rtn);
    cr_expect_str_eq(digest(&on, "quantised_digest"), digest(&off, "quantised_digest"));
    cr_expect_str_eq(digest(&on, "quantised_digest"), digest(&slow, "quantised_digest"));
    cr_expect_str_neq(digest(&on, "quantised_digest"), digest(&rtn, "quantised_digest"));
    cr_expect_eq(value(&on, "boundary_floor_bytes"), value(&off, "boundary_floor_bytes"));
    cr_expect_lt(value(&on, "boundary_reserved_bytes"), value(&off, "boundary_reserved_bytes"));
    cr_expect_lt(value(&slow, "peak_in_permute_bytes"), value(&on, "peak_in_permute_bytes"));
    cr_expect_gt(value(&slow, "peak_slow_hessian_bytes"), 0);
    case_release(&on);
    case_release(&off);
    case_release(&slow);
    case_release(&rtn);
}

static void copy_model(const char *directory)
{
    char command[3 * PATH_MAX];

    snprintf(command, sizeof command, "mkdir -p '%s' && cp '" DENSE "'/*.json '" DENSE "'/*.safetensors '%s'", directory,
             directory);
    cr_assert_eq(system(command), 0);
}

/* Requested bytes must not depend on where model and scratch are either. */
Test(workloads, a_shared_measurement_is_made_once)
{
    char directory[] = "/tmp/plimsoll-measurements-XXXXXX", model[PATH_MAX], command[2 * PATH_MAX];
    struct wanted shared = { "quantize", model, { QUICK, { "measurement", "shared" } } };
    struct result_case own, first, second;
    glob_t found;

    cr_assert_not_null(mkdtemp(directory));
    snprintf(model, sizeof model, "%s/a-model-with-a-long-name", directory);
    copy_model(model);
    run_once(&convert, &own);
    run_once(&shared, &first);
    setenv("TMPDIR", directory, 1);
    run_once(&shared, &second);
    unsetenv("TMPDIR");
    cr_expect_str_eq(digest(&own, "quantised_digest"), digest(&first, "quantised_digest"));
    cr_expect_str_eq(digest(&own, "quantised_digest"), digest(&second, "quantised_digest"));
    cr_expect_null(case_find_metric(&first, "measurement_time_ns"));
    cr_expect_eq(value(&first, "peak_requested_fast_bytes"), value(&second, "peak_requested_fast_bytes"));
    cr_expect_eq(value(&first, "allocation_count"), value(&second, "allocation_count"));
    snprintf(command, sizeof command, "%s/.measurements/*.json", directory);
    cr_assert_eq(glob(command, 0, NULL, &found), 0);
    cr_expect_eq(found.gl_pathc, 1);
    globfree(&found);
    snprintf(command, sizeof command, "%s/plimsoll-*", directory);
    cr_expect_eq(glob(command, 0, NULL, &found), GLOB_NOMATCH, "the scratch directory is removed");
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    cr_expect_eq(system(command), 0);
    case_release(&own);
    case_release(&first);
    case_release(&second);
}

Test(workloads, a_conversion_that_cannot_be_fails_with_one_line)
{
    static const struct wanted quantised = { "quantize", EXL2, { QUICK } };
    static const struct wanted too_low = { "quantize", DENSE, { QUICK, { "bpw", "0.5" } } };
    static const struct wanted tight = { "quantize", DENSE, { QUICK, { "memory_budget", "100Ki" } } };
    struct result_case c;

    run_wanted(&quantised, &c);
    cr_expect_eq(c.outcome, OUTCOME_FAILED);
    cr_expect(strstr(c.detail, "is quantised already"), "%s", c.detail);
    case_release(&c);
    run_wanted(&too_low, &c);
    cr_expect_eq(c.outcome, OUTCOME_FAILED);
    cr_expect(strstr(c.detail, "0.5"), "%s", c.detail);
    case_release(&c);
    run_wanted(&tight, &c);
    cr_expect_eq(c.outcome, OUTCOME_OUT_OF_MEMORY, "%s", c.detail);
    cr_expect_eq(facts_find(&c.refusal, "budget_bytes")->number, 100 << 10);
    case_release(&c);
}
