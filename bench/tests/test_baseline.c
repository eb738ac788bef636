/* Baselines and the gate: accepting changes what was accepted and nothing else, and gating finds it again. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "baseline.h"
#include "compare_support.h"
#include "gate.h"
#include "heap.h"

struct fixture {
    char *directory;
    struct result result;
    struct baseline_accept_options options;
};

/* Two cases with something of every class. */
static void begin(struct fixture *f)
{
    static const char *const ids[] = { "tiny/prefill", "tiny/decode" };
    *f = (struct fixture){ .directory = scratch_path("baselines") };
    f->options = (struct baseline_accept_options){ .directory = f->directory, .classes = COMPARE_ALL };
    make_result(&f->result, "smoke", "abacus");
    for (int i = 0; i < 2; i++) {
        struct result_case *c = add_case(&f->result, ids[i]);
        add_exact(c, "peak_bytes", 4096 * (i + 1));
        add_exact(c, "at_peak_bytes", 100)->gate.level = GATE_OFF;
        add_bytes(c, "perplexity", METRIC_BOUNDED, SAMPLES(10.5));
        add_digest(c, "avx2/Haswell", "aaaa");
        add_rate(c, SAMPLES(50, 50.25, 50.5, 50.75, 51));
        add_bytes(c, "rss_bytes", METRIC_SYSTEM, SAMPLES(1e7, 1.1e7))->gate.level = GATE_OFF;
    }
}

static void end(struct fixture *f)
{
    result_release(&f->result);
    free(f->directory);
}

static void accept(struct fixture *f, struct baseline_report *report)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(baseline_accept(&f->result, &f->options, report, &err), 0, "%s", err.message);
}

static void accept_quietly(struct fixture *f)
{
    struct baseline_report report;
    accept(f, &report);
    baseline_report_release(&report);
}

static char *read_baseline_text(const struct fixture *f, const char *class)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = baseline_path(f->directory, class, "smoke", &err), *text = read_text(path);
    free(path);
    return text;
}

/* The lines of `after` that `before` has not in the same place, for files of as many lines. */
static size_t changed_lines(const char *before, const char *after, char *first, size_t size)
{
    size_t changed = 0;
    while (*before || *after) {
        size_t a = strcspn(before, "\n"), b = strcspn(after, "\n");
        if (a != b || memcmp(before, after, a) != 0) {
            if (changed++ == 0)
                snprintf(first, size, "%.*s", (int)b, after);
        }
        before += a + (before[a] == '\n');
        after += b + (after[b] == '\n');
    }
    return changed;
}

static int gate_status(const struct fixture *f, bool strict)
{
    struct gate_options options = { f->directory, compare_policy_default(), false };
    struct gate gate;
    struct plim_err err = PLIM_ERR_INIT;
    int status = gate_compare(&gate, &f->result, &options, &err) < 0 ? plim_err_exit_status(&err)
                                                                     : comparison_exit_status(&gate.comparison, strict);
    gate_release(&gate);
    return status;
}

static struct metric *metric_at(struct fixture *f, size_t index, const char *name)
{
    struct metric *metric = case_find_metric(&f->result.cases[index], name);
    cr_assert_not_null(metric);
    return metric;
}

/* ---- accepting ---- */

Test(baseline, splits_what_travels_from_what_belongs_to_a_machine)
{
    struct fixture f;
    struct baseline_report report;
    begin(&f);
    accept(&f, &report);
    cr_assert(report.exact.created && report.exact.written && report.machine.created);
    cr_assert_eq(report.exact.added, 8);
    cr_assert_eq(report.machine.added, 2);
    baseline_report_release(&report);

    char *text = read_baseline_text(&f, NULL);
    cr_assert_str_eq(text,
                     "{\n"
                     "  \"schema\": { \"name\": \"plimsoll-baseline\", \"major\": 1, \"minor\": 1 },\n"
                     "  \"suite\": { \"name\": \"smoke\", \"digest\": \"00ff\" },\n"
                     "  \"cases\": [\n"
                     "    {\n"
                     "      \"id\": \"tiny/prefill\",\n"
                     "      \"model\": \"tiny\", \"workload\": \"prefill\",\n"
                     "      \"arguments\": { \"prompt_tokens\": 32 },\n"
                     "      \"outcome\": \"ok\", \"detail\": \"\",\n"
                     "      \"metrics\": {\n"
                     "        \"peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", "
                     "\"samples\": [4096] },\n"
                     "        \"at_peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", "
                     "\"samples\": [100] },\n"
                     "        \"perplexity\": { \"unit\": \"bytes\", \"class\": \"bounded\", \"direction\": \"lower\", "
                     "\"samples\": [10.5] },\n"
                     "        \"digest\": { \"unit\": \"\", \"class\": \"exact\", \"direction\": \"none\", \"texts\": { "
                     "\"avx2/Haswell\": \"aaaa\" } }\n"
                     "      }\n"
                     "    },\n"
                     "    {\n"
                     "      \"id\": \"tiny/decode\",\n"
                     "      \"model\": \"tiny\", \"workload\": \"prefill\",\n"
                     "      \"arguments\": { \"prompt_tokens\": 32 },\n"
                     "      \"outcome\": \"ok\", \"detail\": \"\",\n"
                     "      \"metrics\": {\n"
                     "        \"peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", "
                     "\"samples\": [8192] },\n"
                     "        \"at_peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", "
                     "\"samples\": [100] },\n"
                     "        \"perplexity\": { \"unit\": \"bytes\", \"class\": \"bounded\", \"direction\": \"lower\", "
                     "\"samples\": [10.5] },\n"
                     "        \"digest\": { \"unit\": \"\", \"class\": \"exact\", \"direction\": \"none\", \"texts\": { "
                     "\"avx2/Haswell\": \"aaaa\" } }\n"
                     "      }\n"
                     "    }\n"
                     "  ]\n"
                     "}\n");
    free(text);
    text = read_baseline_text(&f, "abacus");
    cr_assert_not_null(strstr(text, "\"samples\": [50, 50.25, 50.5, 50.75, 51]"));
    cr_assert_not_null(strstr(text, "Abacus 9000"));
    cr_assert_null(strstr(text, "rss_bytes"), "ungated");
    cr_assert_null(strstr(text, "peak_bytes"), "exact");
    free(text);
    end(&f);
}

Test(baseline, accepting_the_same_again_writes_nothing)
{
    struct fixture f;
    struct baseline_report report;
    begin(&f);
    accept_quietly(&f);
    accept(&f, &report);
    cr_assert_not(report.exact.written);
    cr_assert_not(report.machine.written);
    cr_assert_eq(report.exact.unchanged, 8);
    baseline_report_release(&report);
    end(&f);
}

Test(baseline, one_accepted_value_changes_one_line)
{
    struct fixture f;
    struct baseline_report report;
    char line[400];
    begin(&f);
    accept_quietly(&f);
    char *before = read_baseline_text(&f, NULL);
    for (size_t i = 0; i < 2; i++) {
        metric_at(&f, i, "peak_bytes")->samples[0] = metric_at(&f, i, "peak_bytes")->samples[1] = 5000;
        metric_at(&f, i, "at_peak_bytes")->samples[0] = metric_at(&f, i, "at_peak_bytes")->samples[1] = 200;
    }
    f.options.case_pattern = "*decode";
    f.options.metric_pattern = "peak_*";
    f.options.reason = "the head is chunked too";
    accept(&f, &report);
    cr_assert_eq(report.exact.changed, 1);
    cr_assert_eq(report.change_count, 1);
    cr_assert_str_eq(report.changes[0].case_id, "tiny/decode");
    cr_assert_str_eq(report.changes[0].before, "8192");
    cr_assert_str_eq(report.changes[0].after, "5000");
    baseline_report_release(&report);

    char *after = read_baseline_text(&f, NULL);
    cr_assert_eq(changed_lines(before, after, line, sizeof line), 1);
    cr_assert_str_eq(line, "        \"peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", "
                           "\"samples\": [5000], \"reason\": \"the head is chunked too\" },");
    free(before);
    free(after);
    cr_assert_eq(gate_status(&f, false), 1, "the rest is as it was, so the other case still fails");
    end(&f);
}

Test(baseline, a_value_that_did_not_change_keeps_its_reason)
{
    struct fixture f;
    begin(&f);
    f.options.reason = "first";
    accept_quietly(&f);
    f.options.reason = "second";
    metric_at(&f, 0, "peak_bytes")->samples[0] = metric_at(&f, 0, "peak_bytes")->samples[1] = 1;
    accept_quietly(&f);
    char *text = read_baseline_text(&f, NULL);
    cr_assert_not_null(strstr(text, "\"samples\": [1], \"reason\": \"second\""));
    cr_assert_not_null(strstr(text, "\"samples\": [8192], \"reason\": \"first\""));
    free(text);
    end(&f);
}

Test(baseline, digests_of_several_machines_live_side_by_side)
{
    struct fixture f;
    begin(&f);
    accept_quietly(&f);
    for (size_t i = 0; i < 2; i++) {
        facts_release(&metric_at(&f, i, "digest")->texts);
        add_digest(&f.result.cases[i], "avx512/SkylakeX", "bbbb");
    }
    cr_assert_eq(gate_status(&f, true), 0, "not known yet, so not compared");
    accept_quietly(&f);
    char *text = read_baseline_text(&f, NULL);
    cr_assert_not_null(strstr(text, "\"texts\": { \"avx2/Haswell\": \"aaaa\", \"avx512/SkylakeX\": \"bbbb\" }"));
    free(text);
    cr_assert_eq(gate_status(&f, true), 0);
    facts_release(&metric_at(&f, 0, "digest")->texts);
    add_digest(&f.result.cases[0], "avx2/Haswell", "cccc");
    cr_assert_eq(gate_status(&f, false), 1);
    end(&f);
}

Test(baseline, new_cases_and_metrics_take_the_place_they_have_in_the_result)
{
    struct fixture f, wider;
    begin(&f);
    accept_quietly(&f);
    make_result(&wider.result, "smoke", "abacus");
    static const char *const ids[] = { "first", "tiny/prefill", "between", "tiny/decode", "last" };
    for (size_t i = 0; i < 5; i++) {
        struct result_case *c = add_case(&wider.result, ids[i]);
        add_exact(c, "before_bytes", 1);
        add_exact(c, "peak_bytes", i == 3 ? 8192 : 4096);
        add_exact(c, "after_bytes", 1);
    }
    wider.options = f.options;
    accept_quietly(&wider);
    char *text = read_baseline_text(&f, NULL);
    const char *at = text;
    for (size_t i = 0; i < 5; i++) {
        char id[64];
        snprintf(id, sizeof id, "\"id\": \"%s\"", ids[i]);
        at = strstr(at, id);
        cr_assert_not_null(at, "%s is not in its place", ids[i]);
    }
    static const char *const metrics[] = { "before_bytes", "\"peak_bytes", "after_bytes", "at_peak_bytes" };
    at = strstr(text, "tiny/prefill");
    for (size_t i = 0; i < 4; i++) {
        at = strstr(at, metrics[i]);
        cr_assert_not_null(at, "%s is not in its place", metrics[i]);
    }
    free(text);
    result_release(&wider.result);
    end(&f);
}

Test(baseline, only_pruning_drops_what_the_result_has_not)
{
    struct fixture f;
    struct baseline_report report;
    begin(&f);
    accept_quietly(&f);
    case_release(&f.result.cases[--f.result.case_count]);
    metric_release(&f.result.cases[0].metrics[0]);
    f.result.cases[0].metric_count--;
    memmove(&f.result.cases[0].metrics[0], &f.result.cases[0].metrics[1],
            f.result.cases[0].metric_count * sizeof f.result.cases[0].metrics[0]);
    accept(&f, &report);
    cr_assert_not(report.exact.written);
    baseline_report_release(&report);
    f.options.prune = true;
    accept(&f, &report);
    cr_assert_eq(report.exact.dropped, 5, "a metric, and a case of four");
    baseline_report_release(&report);
    char *text = read_baseline_text(&f, NULL);
    cr_assert_null(strstr(text, "decode"));
    cr_assert_null(strstr(text, "\"peak_bytes\""));
    free(text);
    end(&f);
}

Test(baseline, a_crash_is_never_accepted_and_running_out_of_memory_may_be)
{
    struct fixture f;
    struct baseline_report report;
    begin(&f);
    accept_quietly(&f);
    f.result.cases[0].outcome = OUTCOME_CRASHED;
    f.result.cases[1].outcome = OUTCOME_OUT_OF_MEMORY;
    accept(&f, &report);
    cr_assert_eq(report.skipped_cases, 1);
    cr_assert_str_eq(report.changes[0].after, "out_of_memory");
    baseline_report_release(&report);
    cr_assert_eq(gate_status(&f, false), 5, "the crash is still seen");
    f.result.cases[0].outcome = OUTCOME_OK;
    cr_assert_eq(gate_status(&f, true), 0);
    end(&f);
}

Test(baseline, what_is_not_deterministic_is_refused_and_nothing_is_written)
{
    struct fixture f;
    struct baseline_report report;
    struct plim_err err = PLIM_ERR_INIT;
    begin(&f);
    metric_at(&f, 1, "peak_bytes")->samples[1] = 8193;
    cr_assert_lt(baseline_accept(&f.result, &f.options, &report, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_str_eq(err.message, "case tiny/decode: peak_bytes is exact, but its repeats differ (8192, 8193): not accepted");
    baseline_report_release(&report);
    cr_assert_eq(gate_status(&f, false), 3, "no file came to be");
    end(&f);
}

Test(baseline, a_pattern_that_matches_nothing_is_an_error)
{
    struct fixture f;
    struct baseline_report report;
    struct plim_err err = PLIM_ERR_INIT;
    begin(&f);
    f.options.case_pattern = "tini/*";
    cr_assert_lt(baseline_accept(&f.result, &f.options, &report, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "tini/*"));
    baseline_report_release(&report);
    end(&f);
}

Test(baseline, no_machine_may_be_called_exact)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_null(baseline_path("baselines", "exact", "smoke", &err));
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
}

/* ---- gating ---- */

Test(gate, is_green_against_what_was_just_accepted_and_red_after_a_byte)
{
    struct fixture f;
    begin(&f);
    cr_assert_eq(gate_status(&f, false), 3, "no baseline yet");
    accept_quietly(&f);
    cr_assert_eq(gate_status(&f, true), 0);
    metric_at(&f, 0, "peak_bytes")->samples[0]++;
    metric_at(&f, 0, "peak_bytes")->samples[1]++;
    cr_assert_eq(gate_status(&f, false), 1);
    end(&f);
}

Test(gate, says_how_to_get_a_baseline)
{
    struct fixture f;
    struct gate gate;
    struct plim_err err = PLIM_ERR_INIT;
    begin(&f);
    struct gate_options options = { f.directory, compare_policy_default(), false };
    cr_assert_lt(gate_compare(&gate, &f.result, &options, &err), 0);
    cr_assert_not_null(strstr(err.message, "plimsoll baseline accept"));
    gate_release(&gate);
    end(&f);
}

Test(gate, another_machine_is_gated_on_exact_metrics_and_told_about_timings)
{
    struct fixture f;
    struct gate gate;
    struct plim_err err = PLIM_ERR_INIT;
    begin(&f);
    accept_quietly(&f);
    cr_assert_eq(result_set_string(&f.result.machine_class, "sliderule", &err), 0);
    struct gate_options options = { f.directory, compare_policy_default(), false };
    cr_assert_eq(gate_compare(&gate, &f.result, &options, &err), 0, "%s", err.message);
    cr_assert_eq(comparison_exit_status(&gate.comparison, true), 0);
    cr_assert_eq(gate.comparison.counts[VERDICT_PASS], 6);
    cr_assert_not_null(strstr(gate.comparison.notes[0], "no baseline of machine class sliderule"));
    gate_release(&gate);
    options.demand_timings = true;
    cr_assert_lt(gate_compare(&gate, &f.result, &options, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_COMPARE);
    gate_release(&gate);
    end(&f);
}

Test(gate, an_incomplete_run_is_not_judged)
{
    struct fixture f;
    begin(&f);
    accept_quietly(&f);
    f.result.complete = false;
    cr_assert_eq(gate_status(&f, false), 3);
    end(&f);
}

Test(gate, a_baseline_in_the_wrong_place_is_refused)
{
    struct fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    begin(&f);
    accept_quietly(&f);
    char *exact = baseline_path(f.directory, NULL, "smoke", &err);
    char *machine = baseline_path(f.directory, "abacus", "smoke", &err);
    char *text = read_text(machine);
    write_text(exact, text);
    cr_assert_eq(gate_status(&f, false), 3, "timings of a machine where the exact values belong");
    write_text(exact, "{");
    cr_assert_eq(gate_status(&f, false), 2, "malformed");
    free(text);
    free(exact);
    free(machine);
    end(&f);
}
