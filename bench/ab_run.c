/* An A/B run: rounds over all cases, screening, confirming. */

#include "ab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ab_control.h"
#include "ab_parts.h"
#include "heap.h"
#include "interrupt.h"
#include "plimsoll/clock.h"

#define BUDGET_A_CASE_NS ((uint64_t)60 * 1000000000)
#define SCREEN_SHARE 0.8     /* of the budget, at most; the rest is for confirming */
#define CERTAIN_ROUNDS 2     /* that are run whatever the time: exact metrics must have been measured twice */

struct run {
    const struct ab_options *options;
    struct ab_report *report;
    struct planting planting[AB_CONTROLS];   /* the B sides of the controls */
    struct plim_progress progress;
    struct plim_random random;
    uint32_t *order;
    uint64_t start_ns, budget_ns, pairs_done;
};

/* ---- cases ---- */

static int add_case(struct ab_report *report, size_t index, const struct suite *suite, const struct suite_case *spec,
                    struct result results[AB_SIDES], struct plim_err *err)
{
    const char *model = spec->model == SIZE_MAX ? "" : suite->models[spec->model].name;
    struct ab_case *c = &report->cases[index];

    c->suite = suite;
    c->spec = spec;
    c->verdict = VERDICT_SKIPPED;
    for (int side = 0; side < AB_SIDES; side++) {
        struct result_case *merged = result_add_case(&results[side], spec->id, err);

        if (!merged || result_set_string(&merged->model, model, err) < 0 ||
            result_set_string(&merged->workload, spec->workload->name, err) < 0 ||
            result_set_string(&merged->detail, "", err) < 0)
            return -1;
    }
    return 0;
}

/* After the last case was added: results no longer move theirs. */
static void find_merged(struct ab_report *report)
{
    for (size_t i = 0; i < report->case_count + report->control_count; i++)
        for (int side = 0; side < AB_SIDES; side++) {
            struct result *result = i < report->case_count ? &report->results[side] : &report->control_results[side];

            report->cases[i].merged[side] = result_find_case(result, report->cases[i].spec->id);
        }
}

static int add_controls(struct run *run, struct plim_err *err)
{
    static const struct control controls[AB_CONTROLS] = {
        [AB_CONTROL_DELAY] = { .delay_fraction = CONTROL_DELAY_FRACTION },
        [AB_CONTROL_PAGE] = { .extra_bytes = CONTROL_EXTRA_BYTES },
    };
    struct ab_report *report = run->report;

    if (!run->options->control.run_case)
        return 0;
    if (control_suite(&report->control_suite, err) < 0)
        return -1;
    for (size_t i = 0; i < AB_CONTROLS; i++) {
        struct ab_case *c = &report->cases[report->case_count + i];

        if (add_case(report, report->case_count + i, &report->control_suite, &report->control_suite.cases[i],
                     report->control_results, err) < 0)
            return -1;
        run->planting[i] = (struct planting){ run->options->control, run->options->blind ? (struct control){ 0 } : controls[i] };
        c->sides[AB_A] = run->options->control;
        c->sides[AB_B] = planting_executor(&run->planting[i]);
        report->control_count++;
    }
    return 0;
}

static const char *label_of(const struct ab_options *options, int side)
{
    static const char *const unnamed[AB_SIDES] = { "A", "B" };

    return options->labels[side] ? options->labels[side] : unnamed[side];
}

static int set_names(struct result results[AB_SIDES], const struct suite *suite, const struct ab_options *options,
                     struct plim_err *err)
{
    for (int side = 0; side < AB_SIDES; side++)
        if (result_set_string(&results[side].suite_name, suite->name, err) < 0 ||
            result_set_string(&results[side].suite_digest, suite->digest, err) < 0 ||
            result_set_string(&results[side].path, label_of(options, side), err) < 0 ||
            result_set_string(&results[side].machine_class, "this-machine", err) < 0)
            return -1;
    return 0;
}

static int prepare(struct run *run, const struct suite *suite, const struct executor sides[AB_SIDES],
                   struct plim_err *err)
{
    struct ab_report *report = run->report;
    size_t selected = case_patterns_count(&run->options->cases, suite);

    report->cases = heap_calloc(selected + AB_CONTROLS, sizeof *report->cases, err);
    run->order = heap_calloc(selected + AB_CONTROLS, sizeof *run->order, err);
    if (!report->cases || !run->order || set_names(report->results, suite, run->options, err) < 0)
        return -1;
    for (size_t i = 0; i < suite->case_count; i++) {
        if (!case_patterns_match(&run->options->cases, &suite->cases[i]))
            continue;
        if (add_case(report, report->case_count, suite, &suite->cases[i], report->results, err) < 0)
            return -1;
        report->cases[report->case_count].asked_metric = run->options->metric;
        for (int side = 0; side < AB_SIDES; side++)
            report->cases[report->case_count].sides[side] = sides[side];
        report->case_count++;
    }
    if (add_controls(run, err) < 0 ||
        (report->control_count && set_names(report->control_results, &report->control_suite, run->options, err) < 0))
        return -1;
    find_merged(report);
    run->budget_ns = run->options->budget_ns ? run->options->budget_ns : selected * BUDGET_A_CASE_NS;
    plim_random_seed(&run->random, run->options->seed, 0);
    return 0;
}

/* ---- rounds ---- */

static size_t total(const struct run *run)
{
    return run->report->case_count + run->report->control_count;
}

static uint64_t spent_ns(const struct run *run)
{
    return plim_now_ns() - run->start_ns;
}

/* Controls are short and the promise rests on them: they are finished whatever the time. */
static bool has_time(const struct run *run, const struct ab_case *c, enum ab_stage stage, uint64_t limit_ns)
{
    bool control = c >= run->report->cases + run->report->case_count;

    return control || (stage == AB_SCREEN && c->attempts < CERTAIN_ROUNDS) || spent_ns(run) < limit_ns;
}

/* One pair of each case that wants one, in a new random order. *measured counts them. */
static int run_round(struct run *run, enum ab_stage stage, uint64_t limit_ns, size_t *measured, struct plim_err *err)
{
    *measured = 0;
    plim_random_permutation(&run->random, run->order, total(run));
    for (size_t i = 0; i < total(run); i++) {
        struct ab_case *c = &run->report->cases[run->order[i]];

        if (!ab_wants_pair(c, stage) || !has_time(run, c, stage, limit_ns))
            continue;
        if (interrupt_requested())
            return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
        plim_progress_update(&run->progress, run->pairs_done++, c->spec->id);
        if (ab_measure_pair(c, stage, run->options, err) < 0)
            return -1;
        ++*measured;
    }
    return 0;
}

static int run_stage(struct run *run, enum ab_stage stage, uint64_t limit_ns, struct plim_err *err)
{
    size_t measured, wanted = 0;
    int rc;

    for (size_t i = 0; i < total(run); i++)
        wanted += run->report->cases[i].wanted;
    plim_progress_start(&run->progress, run->options->progress, stage == AB_SCREEN ? "screening" : "confirming",
                        "pairs", wanted);
    run->pairs_done = 0;
    do {
        rc = run_round(run, stage, limit_ns, &measured, err);
    } while (rc == 0 && measured);
    plim_progress_finish(&run->progress);
    return rc;
}

static int screen(struct run *run, struct plim_err *err)
{
    for (size_t i = 0; i < total(run); i++)
        run->report->cases[i].wanted = run->options->rules.screen_pairs;
    if (run_stage(run, AB_SCREEN, (uint64_t)(SCREEN_SHARE * (double)run->budget_ns), err) < 0)
        return -1;
    for (size_t i = 0; i < total(run); i++)
        if (ab_judge_screening(&run->report->cases[i], &run->options->rules, err) < 0)
            return -1;
    return 0;
}

/* More pairs where they are needed, until all is precise or the time is over. */
static int confirm_further(struct run *run, uint64_t limit_ns, struct plim_err *err)
{
    const struct ab_rules *rules = &run->options->rules;
    struct ab_report *report = run->report;
    struct ab_case *controls = report->cases + report->case_count;
    size_t extended, controls_extended;

    for (;;) {
        uint64_t spent = spent_ns(run), left_ns = run->budget_ns > spent ? run->budget_ns - spent : 0;

        if (ab_plan_more(report->cases, report->case_count, left_ns, rules, &extended, err) < 0 ||
            ab_plan_more(controls, report->control_count, UINT64_MAX, rules, &controls_extended, err) < 0)
            return -1;
        if (extended + controls_extended == 0)
            return 0;
        if (run_stage(run, AB_CONFIRM, limit_ns, err) < 0)
            return -1;
    }
}

/*
 * What is planted is no suspicion: the slowdown is always confirmed, however screening went, and is a family of its own,
 * which must not make the suite's tests stricter. The page needs no timing.
 */
static void suspect_controls(struct ab_report *report)
{
    struct ab_case *controls = report->cases + report->case_count;

    if (!report->control_count)
        return;
    controls[AB_CONTROL_DELAY].suspicion = controls[AB_CONTROL_DELAY].broken ? AB_CLEAR : AB_SLOWER;
    controls[AB_CONTROL_PAGE].suspicion = AB_CLEAR;
}

static int confirm(struct run *run, struct plim_err *err)
{
    const struct ab_rules *rules = &run->options->rules;
    struct ab_report *report = run->report;
    struct ab_case *controls = report->cases + report->case_count;
    uint64_t spent = spent_ns(run);
    /* The plan fits the budget if pairs take as long as before; a quarter more is let pass. */
    uint64_t limit_ns = run->budget_ns + run->budget_ns / 4;

    suspect_controls(report);
    ab_plan_confirmation(report->cases, report->case_count, run->budget_ns > spent ? run->budget_ns - spent : 0, rules);
    ab_plan_confirmation(controls, report->control_count, UINT64_MAX, rules);
    if (run_stage(run, AB_CONFIRM, limit_ns, err) < 0 || confirm_further(run, limit_ns, err) < 0)
        return -1;
    if (ab_settle(report->cases, report->case_count, rules, err) < 0)
        return -1;
    return ab_settle(controls, report->control_count, rules, err);
}

int ab_run(const struct suite *suite, const struct executor sides[AB_SIDES], const struct ab_options *options,
           struct ab_report *report, struct plim_err *err)
{
    struct run run = { .options = options, .report = report, .start_ns = plim_now_ns() };
    int rc = -1;

    *report = (struct ab_report){ .comparison = COMPARISON_INIT, .timings_only = options->timings_only };
    if (prepare(&run, suite, sides, err) < 0 || screen(&run, err) < 0 || confirm(&run, err) < 0)
        goto out;
    for (size_t i = 0; i < total(&run); i++)
        if (ab_check_exact(&report->cases[i], err) < 0)
            goto out;
    report->spent_ns = spent_ns(&run);
    report->results[AB_A].complete = report->results[AB_B].complete = true;
    report->control_results[AB_A].complete = report->control_results[AB_B].complete = true;
    rc = ab_report_findings(report, err);

out:
    free(run.order);
    return rc;
}

/* ---- the report's life ---- */

bool ab_controls_caught(const struct ab_report *report)
{
    for (size_t i = 0; i < report->control_count; i++)
        if (report->missed[i])
            return false;
    return true;
}

int ab_exit_status(const struct ab_report *report, bool strict)
{
    return ab_controls_caught(report) ? comparison_exit_status(&report->comparison, strict) : 6;
}

void ab_release(struct ab_report *report)
{
    for (size_t i = 0; i < report->case_count + report->control_count; i++)
        for (int stage = 0; stage < AB_STAGES; stage++)
            ab_release_pairs(&report->cases[i].stages[stage]);
    free(report->cases);
    comparison_release(&report->comparison);
    for (int side = 0; side < AB_SIDES; side++) {
        result_release(&report->results[side]);
        result_release(&report->control_results[side]);
    }
    suite_release(&report->control_suite);
    *report = (struct ab_report){ .comparison = COMPARISON_INIT };
}
