/* The decision table of comparing: what is a failure, what only a warning, and what cannot be told. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "compare_support.h"

/* One case with one metric on each side; most tests change one of them. */
struct pair {
    struct result before, after;
    struct result_case *old, *new;
};

static void make_pair(struct pair *pair)
{
    make_result(&pair->before, "smoke", "abacus");
    make_result(&pair->after, "smoke", "abacus");
    pair->old = add_case(&pair->before, "tiny/prefill");
    pair->new = add_case(&pair->after, "tiny/prefill");
}

static void release_pair(struct pair *pair)
{
    result_release(&pair->before);
    result_release(&pair->after);
}

static void compare_pair(struct comparison *c, const struct pair *pair)
{
    struct compare_policy policy = compare_policy_default();
    struct plim_err err = PLIM_ERR_INIT;
    *c = (struct comparison)COMPARISON_INIT;
    cr_assert_eq(compare_results(c, &pair->before, &pair->after, &policy, &err), 0, "%s", err.message);
    comparison_sort(c);
}

static void expect(const struct pair *pair, enum verdict verdict, int status, int strict_status, const char *words)
{
    struct comparison c;
    compare_pair(&c, pair);
    cr_assert_eq(c.finding_count, 1);
    cr_assert_eq(c.findings[0].verdict, verdict, "%s, expected %s: %s", verdict_name(c.findings[0].verdict),
                 verdict_name(verdict), c.findings[0].detail);
    cr_assert_not_null(strstr(c.findings[0].detail, words), "\"%s\" has no \"%s\"", c.findings[0].detail, words);
    cr_assert_eq(c.counts[verdict], 1);
    cr_assert_eq(comparison_exit_status(&c, false), status);
    cr_assert_eq(comparison_exit_status(&c, true), strict_status);
    comparison_release(&c);
}

/* ---- exact ---- */

Test(compare, exact_values_must_be_equal_to_the_byte)
{
    static const struct {
        double before, after;
        enum verdict verdict;
        int status, strict_status;
    } rows[] = { { 4096, 4096, VERDICT_PASS, 0, 0 },  { 4096, 4097, VERDICT_FAIL, 1, 1 },
                 { 4096, 4095, VERDICT_STALE, 0, 1 }, { 0, 0, VERDICT_PASS, 0, 0 },
                 { 0, 1, VERDICT_FAIL, 1, 1 },        { 1, 0, VERDICT_STALE, 0, 1 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        make_pair(&pair);
        add_exact(pair.old, "peak_bytes", rows[i].before);
        add_exact(pair.new, "peak_bytes", rows[i].after);
        expect(&pair, rows[i].verdict, rows[i].status, rows[i].strict_status, "");
        release_pair(&pair);
    }
}

Test(compare, an_exact_value_where_more_is_better_is_stale_when_it_rises)
{
    struct pair pair;
    make_pair(&pair);
    add_exact(pair.old, "hits", 10);
    add_exact(pair.new, "hits", 11)->direction = DIRECTION_HIGHER;
    expect(&pair, VERDICT_STALE, 0, 1, "stale");
    release_pair(&pair);
}

Test(compare, an_exact_value_without_a_better_direction_fails_either_way)
{
    for (int change = -1; change <= 1; change += 2) {
        struct pair pair;
        make_pair(&pair);
        add_exact(pair.old, "calls", 10);
        add_exact(pair.new, "calls", 10 + change)->direction = DIRECTION_NONE;
        expect(&pair, VERDICT_FAIL, 1, 1, "");
        release_pair(&pair);
    }
}

Test(compare, repeats_that_differ_are_not_exact)
{
    struct pair pair;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 4096);
    add_bytes(pair.new, "peak_bytes", METRIC_EXACT, SAMPLES(4096, 4095));
    expect(&pair, VERDICT_FAIL, 1, 1, "nondeterministic");
    release_pair(&pair);
}

Test(compare, a_gate_can_be_lowered_to_a_warning_or_switched_off)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1);
    struct metric *metric = add_exact(pair.new, "peak_bytes", 2);
    metric->gate.level = GATE_WARN;
    expect(&pair, VERDICT_WARN, 0, 0, "");
    metric->gate.level = GATE_OFF;
    compare_pair(&c, &pair);
    cr_assert_eq(c.finding_count, 0);
    cr_assert_eq(comparison_exit_status(&c, false), 3, "a comparison of nothing must not be green");
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, a_peak_names_its_culprit)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    add_exact(pair.old, "peak_requested_fast_bytes", 10000);
    add_exact(pair.old, "at_peak_dequant_bytes", 6000)->gate.level = GATE_OFF;
    add_exact(pair.old, "at_peak_logits_bytes", 4000)->gate.level = GATE_OFF;
    add_exact(pair.new, "peak_requested_fast_bytes", 14096);
    add_exact(pair.new, "at_peak_dequant_bytes", 5996)->gate.level = GATE_OFF;
    add_exact(pair.new, "at_peak_logits_bytes", 4100)->gate.level = GATE_OFF;
    add_exact(pair.new, "at_peak_workspace_bytes", 4000)->gate.level = GATE_OFF;   /* held nothing before */
    compare_pair(&c, &pair);
    cr_assert_eq(c.findings[0].verdict, VERDICT_FAIL);
    cr_assert_str_eq(c.findings[0].detail, "workspace +4000 B");
    comparison_release(&c);
    release_pair(&pair);
}

/* ---- allowances ---- */

static void compare_on(struct comparison *c, const struct pair *pair, const char *today)
{
    struct compare_policy policy = compare_policy_default();
    struct plim_err err = PLIM_ERR_INIT;
    *c = (struct comparison)COMPARISON_INIT;
    strcpy(policy.today, today);
    cr_assert_eq(compare_results(c, &pair->before, &pair->after, &policy, &err), 0, "%s", err.message);
}

Test(compare, a_rise_needs_an_allowance_that_covers_it_and_has_not_ended)
{
    static const struct {
        double after;
        const char *today;
        enum verdict verdict;
        int status;
        const char *words;
    } rows[] = {
        { 8192, "2026-11-24", VERDICT_ALLOWED, 0, "+4096 B allowed until 2026-12-31: the new head" },
        { 8192, "2026-12-31", VERDICT_ALLOWED, 0, "" },   /* the last day still counts */
        { 8192, "2027-01-01", VERDICT_FAIL, 1, "the allowance of +4096 B expired on 2026-12-31 (the new head)" },
        { 8193, "2026-11-24", VERDICT_FAIL, 1, "over the allowance of +4096 B (the new head)" },
        { 4096, "2027-01-01", VERDICT_PASS, 0, "" },      /* nothing rose: an ended allowance is no matter */
        { 4095, "2026-11-24", VERDICT_STALE, 0, "stale" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        struct comparison c;
        struct plim_err err = PLIM_ERR_INIT;
        make_pair(&pair);
        cr_assert_eq(metric_set_allowance(add_exact(pair.old, "peak_bytes", 4096), 4096, "2026-12-31", "the new head",
                                          &err), 0);
        add_exact(pair.new, "peak_bytes", rows[i].after);
        compare_on(&c, &pair, rows[i].today);
        cr_assert_eq(c.findings[0].verdict, rows[i].verdict, "row %zu: %s", i, verdict_name(c.findings[0].verdict));
        cr_assert_not_null(strstr(c.findings[0].detail, rows[i].words), "row %zu: %s", i, c.findings[0].detail);
        cr_assert_eq(comparison_exit_status(&c, true), rows[i].verdict == VERDICT_STALE ? 1 : rows[i].status);
        comparison_release(&c);
        release_pair(&pair);
    }
}

Test(compare, an_allowed_peak_still_names_its_culprit)
{
    struct pair pair;
    struct comparison c;
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    cr_assert_eq(metric_set_allowance(add_exact(pair.old, "peak_requested_fast_bytes", 100), 4096, "2026-12-31", "why",
                                      &err), 0);
    add_exact(pair.new, "peak_requested_fast_bytes", 1100);
    add_exact(pair.new, "at_peak_workspace_bytes", 1000)->gate.level = GATE_OFF;
    compare_on(&c, &pair, "2026-11-24");
    cr_assert_eq(c.findings[0].verdict, VERDICT_ALLOWED);
    cr_assert_str_eq(c.findings[0].detail, "workspace +1000 B; +4096 B allowed until 2026-12-31: why");
    comparison_release(&c);
    release_pair(&pair);
}

/* ---- digests ---- */

Test(compare, faster_with_another_output_is_no_improvement)
{
    for (int same = 0; same < 2; same++) {
        struct pair pair;
        struct comparison c;
        make_pair(&pair);
        add_rate(pair.old, SAMPLES(100, 100.1, 100.2, 100.3, 100.4));
        add_rate(pair.new, SAMPLES(120, 120.1, 120.2, 120.3, 120.4));
        add_digest(pair.old, "any", "aaaa");
        add_digest(pair.new, "any", same ? "aaaa" : "bbbb");
        compare_pair(&c, &pair);
        cr_assert_eq(c.counts[VERDICT_IMPROVED], same ? 1 : 0);
        cr_assert_eq(c.counts[VERDICT_INVALID_OUTPUT], same ? 0 : 1);
        cr_assert_eq(comparison_exit_status(&c, false), same ? 0 : 1);
        comparison_release(&c);
        release_pair(&pair);
    }
}

Test(compare, digests_are_compared_under_their_key)
{
    struct pair pair;
    make_pair(&pair);
    add_digest(pair.old, "avx2/Haswell", "aaaa");
    add_digest(pair.old, "avx512/SkylakeX", "bbbb");
    struct metric *metric = add_digest(pair.new, "avx512/SkylakeX", "bbbb");
    expect(&pair, VERDICT_PASS, 0, 0, "");
    facts_release(&metric->texts);
    add_digest(pair.new, "avx512/SkylakeX", "aaaa");
    expect(&pair, VERDICT_FAIL, 1, 1, "bbbb became aaaa (avx512/SkylakeX)");
    facts_release(&metric->texts);
    add_digest(pair.new, "portable/Generic", "aaaa");
    expect(&pair, VERDICT_NEW, 3, 3, "no digest for portable/Generic");
    release_pair(&pair);
}

/* ---- bounded and system ---- */

Test(compare, bounded_metrics_have_a_relative_bound)
{
    static const struct {
        double after, own_relative;
        enum verdict verdict;
    } rows[] = { { 10.009, 0, VERDICT_PASS },  { 10.011, 0, VERDICT_FAIL },   { 9.9, 0, VERDICT_IMPROVED },
                 { 10.4, 0.05, VERDICT_PASS }, { 10.6, 0.05, VERDICT_FAIL } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        make_pair(&pair);
        add_bytes(pair.old, "perplexity", METRIC_BOUNDED, SAMPLES(10));
        add_bytes(pair.new, "perplexity", METRIC_BOUNDED, &rows[i].after, 1)->gate.relative = rows[i].own_relative;
        int status = rows[i].verdict == VERDICT_FAIL ? 1 : 0;
        expect(&pair, rows[i].verdict, status, status, "");
        release_pair(&pair);
    }
}

Test(compare, system_metrics_use_the_minimum_and_the_larger_tolerance)
{
    const double mib = 1048576;
    const struct {
        double before, after;      /* MiB */
        double own_absolute;       /* MiB */
        enum verdict verdict;
    } rows[] = { { 10, 11.9, 0, VERDICT_PASS },     /* under 2 MiB */
                 { 10, 12.1, 0, VERDICT_WARN },     /* over it */
                 { 10, 20.1, 0, VERDICT_FAIL },     /* over 10 MiB */
                 { 1000, 1019, 0, VERDICT_PASS },   /* under 2% */
                 { 1000, 1021, 0, VERDICT_WARN },
                 { 1000, 1101, 0, VERDICT_FAIL },   /* over 10% */
                 { 1000, 950, 0, VERDICT_IMPROVED },
                 { 1000, 1001.5, 1, VERDICT_FAIL } };   /* the suite's own tolerance fails at once */
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        make_pair(&pair);
        add_bytes(pair.old, "rss_bytes", METRIC_SYSTEM, SAMPLES(rows[i].before * mib + 5e6, rows[i].before * mib));
        struct metric *metric = add_bytes(pair.new, "rss_bytes", METRIC_SYSTEM,
                                          SAMPLES(rows[i].after * mib, rows[i].after * mib + 9e9));
        metric->gate.absolute = rows[i].own_absolute * mib;
        int status = rows[i].verdict == VERDICT_FAIL ? 1 : 0;
        expect(&pair, rows[i].verdict, status, status, "");
        release_pair(&pair);
    }
}

/* ---- timings ---- */

#define NOISE 0.990, 0.994, 0.997, 1.000, 1.002, 1.005, 1.008, 1.011, 0.999
enum { NOISE_COUNT = 9 };

static void timing_pair(struct pair *pair, double factor, double spread, size_t count)
{
    static const double noise[NOISE_COUNT] = { NOISE };
    double before[NOISE_COUNT], after[NOISE_COUNT];
    make_pair(pair);
    for (size_t i = 0; i < NOISE_COUNT; i++) {
        before[i] = 100 * (1 + spread * (noise[i] - 1));
        after[i] = 100 * factor * (1 + spread * (noise[NOISE_COUNT - 1 - i] - 1));
    }
    add_rate(pair->old, before, NOISE_COUNT);
    add_rate(pair->new, after, count);
}

Test(compare, timings_fail_only_when_the_whole_interval_is_slower_than_the_effect)
{
    static const struct {
        double factor;         /* of the rate */
        double spread;         /* of the noise */
        size_t count;
        enum verdict verdict;
        int status, strict_status;
        const char *words;
    } rows[] = {
        { 1.00, 1, 9, VERDICT_PASS, 0, 0, "" },
        { 0.98, 1, 9, VERDICT_PASS, 0, 0, "2.0% slower" },        /* an effect too small to matter, and seen to be */
        { 0.90, 1, 9, VERDICT_FAIL, 1, 1, "11.1% slower" },       /* 100 / 90 */
        { 1.10, 1, 9, VERDICT_IMPROVED, 0, 0, "9.1% faster" },    /* 100 / 110 */
        { 0.96, 4, 9, VERDICT_INCONCLUSIVE, 0, 4, "cannot tell" }, /* slower by 4%, noise of 4%: who knows */
        { 0.50, 1, 4, VERDICT_INCONCLUSIVE, 0, 4, "4 samples" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        timing_pair(&pair, rows[i].factor, rows[i].spread, rows[i].count);
        expect(&pair, rows[i].verdict, rows[i].status, rows[i].strict_status, rows[i].words);
        release_pair(&pair);
    }
}

Test(compare, a_time_is_slower_when_it_is_longer)
{
    struct pair pair;
    timing_pair(&pair, 1.10, 1, NOISE_COUNT);
    pair.new->metrics[0].direction = DIRECTION_LOWER;
    expect(&pair, VERDICT_FAIL, 1, 1, "10.0% slower");
    release_pair(&pair);
}

Test(compare, a_suite_can_ask_for_another_minimum_effect)
{
    struct pair pair;
    timing_pair(&pair, 0.90, 1, NOISE_COUNT);
    pair.new->metrics[0].gate.relative = 0.25;
    expect(&pair, VERDICT_PASS, 0, 0, "");
    release_pair(&pair);
}

/* Three runs of five samples, each run with an offset of its own. */
static void stored_pair(struct pair *pair, size_t runs, double offset, double now)
{
    static const size_t five[] = { 5, 5, 5 };
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(pair);
    pair->before.is_baseline = true;
    struct metric *stored = add_rate(pair->old, NULL, 0), *fresh = add_rate(pair->new, NULL, 0);
    for (size_t i = 0; i < 5 * runs; i++)
        cr_assert_eq(metric_add_sample(stored, 100 * (1 + offset * (double)(i / 5) + 0.001 * (double)(i % 5)), &err), 0);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(metric_add_sample(fresh, now * (1 + 0.001 * (double)i), &err), 0);
    if (runs > 1)
        cr_assert_eq(metric_set_runs(stored, five, runs, &err), 0);
}

Test(compare, a_stored_timing_fails_only_where_pooled_runs_have_shown_that_it_can_be_gated)
{
    static const struct {
        size_t runs;
        double offset, now;   /* offset: between one run and the next */
        enum verdict verdict;
        const char *words;
    } rows[] = {
        { 1, 0, 80, VERDICT_WARN, "not gated" },
        { 2, 0, 80, VERDICT_WARN, "not gated" },
        { 3, 0.001, 80, VERDICT_FAIL, "slower" },
        { 3, 0.04, 80, VERDICT_FAIL, "slower" },                                    /* 25%: more than runs differ by */
        { 3, 0.04, 97, VERDICT_INCONCLUSIVE, "runs of the baseline itself differ" },
        { 3, 0.10, 50, VERDICT_WARN, "not gateable" },
        { 1, 0, 120, VERDICT_IMPROVED, "not gated" },
        { 1, 0, 100, VERDICT_PASS, "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        int status = rows[i].verdict == VERDICT_FAIL ? 1 : 0;
        stored_pair(&pair, rows[i].runs, rows[i].offset, rows[i].now);
        expect(&pair, rows[i].verdict, status, rows[i].verdict == VERDICT_INCONCLUSIVE ? 4 : status, rows[i].words);
        release_pair(&pair);
    }
}

Test(compare, timings_of_zero_have_no_ratio)
{
    struct pair pair;
    make_pair(&pair);
    add_rate(pair.old, SAMPLES(0, 1, 2, 3, 4));
    add_rate(pair.new, SAMPLES(1, 1, 2, 3, 4));
    expect(&pair, VERDICT_SKIPPED, 3, 3, "no ratio");
    release_pair(&pair);
}

Test(compare, timings_of_a_busy_machine_prove_nothing)
{
    for (int side = 0; side < 2; side++) {
        struct pair pair;
        struct comparison c;
        struct plim_err err = PLIM_ERR_INIT;
        timing_pair(&pair, 0.5, 1, NOISE_COUNT);
        cr_assert_eq(facts_set_number(&(side ? &pair.after : &pair.before)->recorded, "load_average", 2.6, &err), 0);
        compare_pair(&c, &pair);
        cr_assert_eq(c.findings[0].verdict, VERDICT_INCONCLUSIVE, "two cores, a load of 2.6");
        cr_assert_not_null(strstr(c.notes[0], "load average 2.6"));
        comparison_release(&c);
        release_pair(&pair);
    }
}

/* ---- machines, cases, files ---- */

Test(compare, another_machine_class_keeps_exact_metrics_and_refuses_timings)
{
    struct pair pair;
    struct comparison c;
    struct plim_err err = PLIM_ERR_INIT;
    timing_pair(&pair, 0.5, 1, NOISE_COUNT);
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 1);
    cr_assert_eq(result_set_string(&pair.after.machine_class, "sliderule", &err), 0);
    compare_pair(&c, &pair);
    cr_assert(c.machine_refused);
    cr_assert_eq(c.counts[VERDICT_SKIPPED], 1);
    cr_assert_eq(c.counts[VERDICT_PASS], 1);
    cr_assert_eq(comparison_exit_status(&c, true), 0);
    cr_assert_eq(c.note_count, 1);
    cr_assert_not_null(strstr(c.notes[0], "sliderule"));
    cr_assert_not_null(strstr(c.notes[0], "abacus"));
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, outcomes_are_ordered)
{
    static const struct {
        enum outcome before, after;
        enum verdict verdict;
        int status;
    } rows[] = {
        { OUTCOME_OK, OUTCOME_OUT_OF_MEMORY, VERDICT_BROKEN, 5 }, { OUTCOME_OK, OUTCOME_CRASHED, VERDICT_BROKEN, 5 },
        { OUTCOME_OK, OUTCOME_TIMEOUT, VERDICT_BROKEN, 5 },       { OUTCOME_OK, OUTCOME_FAILED, VERDICT_BROKEN, 5 },
        { OUTCOME_OUT_OF_MEMORY, OUTCOME_CRASHED, VERDICT_BROKEN, 5 },
        { OUTCOME_CRASHED, OUTCOME_OUT_OF_MEMORY, VERDICT_IMPROVED, 3 },   /* nothing was compared */
        { OUTCOME_OUT_OF_MEMORY, OUTCOME_OK, VERDICT_IMPROVED, 3 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct pair pair;
        make_pair(&pair);
        pair.old->outcome = rows[i].before;
        pair.new->outcome = rows[i].after;
        add_exact(pair.old, "peak_bytes", 1);
        add_exact(pair.new, "peak_bytes", 2);   /* says nothing: the cases are not alike */
        expect(&pair, rows[i].verdict, rows[i].status, rows[i].status, outcome_name(rows[i].after));
        release_pair(&pair);
    }
}

Test(compare, a_case_that_is_meant_to_run_out_of_memory_is_compared_like_any_other)
{
    struct pair pair;
    make_pair(&pair);
    pair.old->outcome = pair.new->outcome = OUTCOME_OUT_OF_MEMORY;
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 2);
    expect(&pair, VERDICT_FAIL, 1, 1, "");
    release_pair(&pair);
}

Test(compare, new_and_missing_cases_and_metrics_are_told)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 1);
    add_exact(pair.old, "gone_bytes", 1);
    add_exact(pair.new, "added_bytes", 1);
    add_exact(add_case(&pair.before, "gone"), "peak_bytes", 1);
    add_exact(add_case(&pair.after, "added"), "peak_bytes", 1);
    compare_pair(&c, &pair);
    cr_assert_eq(c.counts[VERDICT_MISSING], 2);
    cr_assert_eq(c.counts[VERDICT_NEW], 2);
    cr_assert_eq(c.counts[VERDICT_PASS], 1);
    cr_assert_eq(comparison_exit_status(&c, false), 0);
    cr_assert_eq(comparison_exit_status(&c, true), 1);
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, two_engines_share_only_speed_and_bytes)
{
    struct pair pair;
    struct comparison c;
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    cr_assert_eq(facts_set_text(&pair.before.recorded, "engine", "exllamav2 0.3.2", &err), 0);
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 2);
    add_exact(pair.old, "better_bytes", 2);
    add_exact(pair.new, "better_bytes", 1);
    add_exact(pair.old, "gone_bytes", 1);
    add_digest(pair.old, "any", "aa");
    add_digest(pair.new, "any", "bb");
    add_rate(pair.old, SAMPLES(10, 10, 10, 10, 10, 10));
    add_rate(pair.new, SAMPLES(30, 30, 30, 30, 30, 30));
    add_bytes(pair.new, "peak_rss_bytes", METRIC_SYSTEM, SAMPLES(1));
    add_bytes(pair.old, "process_device_bytes", METRIC_SYSTEM, SAMPLES(1e9));
    add_bytes(pair.new, "process_device_bytes", METRIC_SYSTEM, SAMPLES(2e9));
    add_exact(add_case(&pair.before, "gone"), "peak_bytes", 1);
    add_exact(add_case(&pair.after, "added"), "peak_bytes", 1);
    compare_pair(&c, &pair);
    cr_assert_eq(c.counts[VERDICT_IMPROVED], 2);
    cr_assert_eq(c.counts[VERDICT_NEW], 1, "what only the result has is new");
    cr_assert_eq(c.counts[VERDICT_WARN], 2, "more memory than another engine is no failure");
    cr_assert_eq(c.finding_count, 5);
    cr_assert_eq(comparison_exit_status(&c, true), 0);
    cr_assert_not_null(strstr(c.notes[0], "exllamav2 0.3.2 and plimsoll"), "%s", c.notes[0]);
    cr_assert_str_eq(c.engines[1], "plimsoll");
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, a_new_case_that_crashed_is_a_warning)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 1);
    add_case(&pair.after, "added")->outcome = OUTCOME_CRASHED;
    compare_pair(&c, &pair);
    cr_assert_eq(c.findings[0].verdict, VERDICT_WARN);
    cr_assert_str_eq(c.findings[0].detail, "crashed");
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, a_changed_unit_is_not_compared)
{
    struct pair pair;
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1);
    struct metric *metric = add_exact(pair.new, "peak_bytes", 1);
    cr_assert_eq(result_set_string(&metric->unit, "KiB", &err), 0);
    expect(&pair, VERDICT_MISSING, 3, 3, "now exact in KiB, was exact in bytes");
    release_pair(&pair);
}

Test(compare, cases_that_ran_with_other_settings_are_told)
{
    struct pair pair;
    struct comparison c;
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1);
    add_exact(pair.new, "peak_bytes", 1);
    cr_assert_eq(facts_set_text(&pair.old->parameters, "cpu_threads", "2", &err), 0);
    cr_assert_eq(facts_set_text(&pair.new->parameters, "cpu_threads", "2", &err), 0);
    cr_assert_eq(facts_set_text(&pair.new->parameters, "of_a_newer_build", "1", &err), 0);
    compare_pair(&c, &pair);
    cr_assert_eq(c.note_count, 0);
    comparison_release(&c);
    cr_assert_eq(facts_set_text(&pair.new->parameters, "cpu_threads", "4", &err), 0);
    compare_pair(&c, &pair);
    cr_assert_str_eq(c.notes[0], "1 case ran with other settings than the baseline's (cpu_threads 4, was 2)");
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, results_of_two_suites_are_refused)
{
    struct pair pair;
    struct comparison c = COMPARISON_INIT;
    struct compare_policy policy = compare_policy_default();
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    cr_assert_eq(result_set_string(&pair.after.suite_name, "other", &err), 0);
    cr_assert_lt(compare_results(&c, &pair.before, &pair.after, &policy, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_COMPARE);
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, the_worst_comes_first_and_ties_keep_their_order)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    static const struct {
        const char *name;
        double before, after;
    } metrics[] = { { "same_bytes", 5, 5 },  { "fell_bytes", 5, 4 },       { "rose_bytes", 100, 101 },
                    { "again_bytes", 100, 101 }, { "doubled_bytes", 5, 10 } };
    for (size_t i = 0; i < 5; i++) {
        add_exact(pair.old, metrics[i].name, metrics[i].before);
        add_exact(pair.new, metrics[i].name, metrics[i].after);
    }
    compare_pair(&c, &pair);
    static const char *const order[] = { "doubled_bytes", "rose_bytes", "again_bytes", "fell_bytes", "same_bytes" };
    for (size_t i = 0; i < 5; i++)
        cr_assert_str_eq(c.findings[i].result->name, order[i]);
    comparison_release(&c);
    release_pair(&pair);
}

/* A failure outranks a broken case, and that an inconclusive timing: 1, 5, 4. */
Test(compare, exit_statuses_have_their_priority)
{
    struct comparison c = { .compared_count = 1 };
    c.counts[VERDICT_INCONCLUSIVE] = 1;
    cr_assert_eq(comparison_exit_status(&c, true), 4);
    cr_assert_eq(comparison_exit_status(&c, false), 0);
    c.counts[VERDICT_BROKEN] = 1;
    cr_assert_eq(comparison_exit_status(&c, true), 5);
    c.counts[VERDICT_FAIL] = 1;
    cr_assert_eq(comparison_exit_status(&c, true), 1);
    c.compared_count = 0;
    cr_assert_eq(comparison_exit_status(&c, true), 3);
}

/* ---- printing ---- */

static char *print(struct comparison *c, enum comparison_format format)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct comparison_view view = { format, false, comparison_exit_status(c, false) };
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    cr_assert_eq(comparison_print(c, &view, out, &err), 0, "%s", err.message);
    fclose(out);
    return text;
}

Test(compare, prints_tables_and_json)
{
    struct pair pair;
    struct comparison c;
    make_pair(&pair);
    add_exact(pair.old, "peak_bytes", 1 << 20);
    add_exact(pair.new, "peak_bytes", (1 << 20) + 4096);
    add_exact(pair.old, "same_bytes", 1);
    add_exact(pair.new, "same_bytes", 1);
    compare_pair(&c, &pair);
    char *text = print(&c, COMPARISON_TERMINAL);
    cr_assert_str_eq(text, "smoke: the result against the baseline\n"
                           "verdict  case          metric      baseline    result   change  why\n"
                           "FAIL     tiny/prefill  peak_bytes  1.00 MiB  1.00 MiB  +4096 B  \n"
                           "regression: 2 compared: 1 FAIL, 1 pass; exit status 1\n");
    free(text);
    text = print(&c, COMPARISON_MARKDOWN);
    cr_assert_not_null(strstr(text, "| **FAIL** | tiny/prefill | peak_bytes | 1.00 MiB | 1.00 MiB | **+4096 B** |"),
                       "%s", text);
    free(text);
    text = print(&c, COMPARISON_JSON);
    cr_assert_not_null(strstr(text, "\"plimsoll-comparison\""));
    cr_assert_not_null(strstr(text, "\"same_bytes\""), "JSON has everything, what passed too");
    free(text);
    comparison_release(&c);
    release_pair(&pair);
}

Test(compare, prints_two_engines_side_by_side)
{
    struct pair pair;
    struct comparison c;
    struct plim_err err = PLIM_ERR_INIT;
    make_pair(&pair);
    cr_assert_eq(facts_set_text(&pair.before.recorded, "engine", "other 1.0", &err), 0);
    add_exact(pair.old, "peak_bytes", 1 << 20);
    add_exact(pair.new, "peak_bytes", 4 << 20);
    add_rate(pair.old, SAMPLES(10, 10, 10, 10, 10, 10));
    add_rate(pair.new, SAMPLES(30, 30, 30, 30, 30, 30));
    compare_pair(&c, &pair);
    char *text = print(&c, COMPARISON_TERMINAL);
    cr_assert_not_null(strstr(text, "30 tokens/s          3.00\n"), "three times the speed is better:\n%s", text);
    cr_assert_not_null(strstr(text, "4.00 MiB          0.25\n"), "four times the memory is worse:\n%s", text);
    free(text);
    comparison_release(&c);
    release_pair(&pair);
}
