/* plimsoll ab: two builds side by side. */

#include "verb.h"

#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ab.h"
#include "ab_build.h"
#include "ab_control.h"
#include "format.h"
#include "heap.h"
#include "interrupt.h"
#include "metrics.h"
#include "model_store.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"

enum { OPTION_A = 1000, OPTION_B, OPTION_BUDGET, OPTION_METRIC, OPTION_REPEATS, OPTION_MODELS, OPTION_SEED, OPTION_JSON,
       OPTION_MARKDOWN, OPTION_STRICT, OPTION_OUTPUT, OPTION_REHEARSE_SLOWDOWN, OPTION_REHEARSE_BYTES, OPTION_REHEARSE_BLIND,
       OPTION_TIMINGS_ONLY };

struct arguments {
    const char *builds[AB_SIDES];
    const char *suite;
    const char *models;
    const char *output;             /* directory for the two results; NULL: not kept */
    struct ab_options run;
    struct comparison_view view;
    struct format_outputs outputs;
    struct control rehearsal;
    bool strict, quiet;
};

static const struct argp_option options[] = {
    { "a", OPTION_A, "BUILD", 0, "The build to compare with: a plimsoll program, a build directory, or a git revision",
      0 },
    { "b", OPTION_B, "BUILD", 0, "The build to judge, likewise", 0 },
    { "case", 'c', "PATTERN", 0, "Only cases whose id matches, such as 'tiny/*'; may be given again", 0 },
    { "budget-s", OPTION_BUDGET, "SECONDS", 0, "Time for all of it, if it takes that long to be sure (default: 60 for each case)", 0 },
    { "metric", OPTION_METRIC, "NAME", 0, "Judge this timing (default: the speed of each case's workload)", 0 },
    { "repeats", OPTION_REPEATS, "N", 0, "Repeats within each process, whose fast quartile counts (default: the suite's, more in short ones)", 0 },
    { "models", OPTION_MODELS, "DIR", 0, "Where models are, and are made (default: $PLIMSOLL_MODELS or models)", 0 },
    { "seed", OPTION_SEED, "N", 0, "Of the order of the cases (default: 1)", 0 },
    { "output", 'o', "DIR", 0, "Keep all samples as the results DIR/a.json and DIR/b.json", 0 },
    { "strict", OPTION_STRICT, NULL, 0, "Inconclusive (4) and missing values (1) are failures", 0 },
    { "all", 'a', NULL, 0, "Also show what passed", 0 },
    { "markdown", OPTION_MARKDOWN, NULL, 0, "Print Markdown, as for a pull request", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON, with every pair", 0 },
    { "rehearse-slowdown", OPTION_REHEARSE_SLOWDOWN, "PERCENT", 0,
      "Make B's measured parts slower on purpose, to see the alarm (prefill, decode, perplexity, spin)", 0 },
    { "rehearse-bytes", OPTION_REHEARSE_BYTES, "BYTES", 0, "Make B hold more memory on purpose, to see the alarm", 0 },
    { "timings-only", OPTION_TIMINGS_ONLY, NULL, 0,
      "Judge only timings and outcomes: memory and counts were gated against the accepted baseline", 0 },
    { "rehearse-blind", OPTION_REHEARSE_BLIND, NULL, 0, "Plant nothing in the controls, to see exit status 6", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
    { 0 }
};

static double parse_number(const char *name, const char *text, double low, double high, struct argp_state *state)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= low && value <= high))
        argp_error(state, "--%s is \"%s\"; wanted %g to %g", name, text, low, high);
    return value;
}

static void parse_bytes(struct arguments *a, const char *text, struct argp_state *state)
{
    struct plim_err err = PLIM_ERR_INIT;
    int64_t bytes;

    if (plim_parse_count(text, &bytes, &err) < 0)
        argp_error(state, "--rehearse-bytes: %s", err.message);
    else
        a->rehearsal.extra_bytes = (uint64_t)bytes;
}

static void check_metric(const char *name, struct argp_state *state)
{
    const struct metric_row *row = metric_find(name);
    const char *nearest = row ? NULL : metric_nearest(name);

    if (row && (row->class != METRIC_TIMING || row->direction == DIRECTION_NONE))
        argp_error(state, "--metric %s is no timing; other metrics are compared anyway", name);
    if (!row)
        argp_error(state, "unknown metric \"%s\"%s%s%s", name, nearest ? "; did you mean " : "", nearest ? nearest : "",
                   nearest ? "?" : "");
}

static void check_complete(const struct arguments *a, struct argp_state *state)
{
    if (!a->suite)
        argp_error(state, "a suite is needed: a file, or a name such as smoke");
    if (!a->builds[AB_A] || !a->builds[AB_B])
        argp_error(state, "two builds are needed: --a BUILD --b BUILD");
    if (a->run.metric)
        check_metric(a->run.metric, state);
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case OPTION_A:
        a->builds[AB_A] = text;
        return 0;
    case OPTION_B:
        a->builds[AB_B] = text;
        return 0;
    case 'c':
        if (!case_patterns_add(&a->run.cases, text))
            argp_error(state, "more than %d times --case", CASE_PATTERN_LIMIT);
        return 0;
    case OPTION_BUDGET:
        a->run.budget_ns = (uint64_t)(1e9 * parse_number("budget-s", text, 0.001, 1e6, state));
        return 0;
    case OPTION_METRIC:
        a->run.metric = text;
        return 0;
    case OPTION_REPEATS:
        a->run.repeats = (int)parse_number("repeats", text, 1, 1000, state);
        return 0;
    case OPTION_MODELS:
        a->models = text;
        return 0;
    case OPTION_SEED:
        a->run.seed = (uint64_t)parse_number("seed", text, 0, 9007199254740992.0, state);
        return 0;
    case 'o':
        a->output = text;
        return 0;
    case OPTION_STRICT:
        a->strict = true;
        return 0;
    case 'a':
        a->view.all = true;
        return 0;
    case OPTION_MARKDOWN:
        a->view.format = COMPARISON_MARKDOWN;
        return 0;
    case OPTION_JSON:
        a->view.format = COMPARISON_JSON;
        return 0;
    case OPTION_REHEARSE_SLOWDOWN:
        a->rehearsal.delay_fraction = parse_number("rehearse-slowdown", text, 0, 1000, state) / 100;
        return 0;
    case OPTION_REHEARSE_BYTES:
        parse_bytes(a, text, state);
        return 0;
    case OPTION_TIMINGS_ONLY:
        a->run.timings_only = true;
        return 0;
    case OPTION_REHEARSE_BLIND:
        a->run.blind = true;
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->outputs;
        return 0;
    case ARGP_KEY_ARG:
        if (a->suite)
            argp_error(state, "one suite at a time: \"%s\" is a second", text);
        a->suite = text;
        return 0;
    case ARGP_KEY_END:
        check_complete(a, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- the two builds ---- */

static bool same_fact(const struct fact *x, const struct fact *y)
{
    if (!x || !y || !x->text || !y->text)
        return x && y && !x->text && !y->text && !(x->number < y->number) && !(x->number > y->number);
    return strcmp(x->text, y->text) == 0;
}

/* Builds made differently are compared all the same, but not silently. */
static int warn_unlike(const struct executor sides[AB_SIDES], FILE *log, struct plim_err *err)
{
    struct result described[AB_SIDES] = { { 0 }, { 0 } };
    int rc = -1;

    for (int side = 0; side < AB_SIDES; side++)
        if (sides[side].describe_machine(sides[side].context, false, &described[side], err) < 0) {
            plim_err_wrap(err, "build %s", side ? "B" : "A");
            goto out;
        }
    for (size_t i = 0; log && i < described[AB_A].machine.count; i++) {
        const struct fact *a = &described[AB_A].machine.items[i], *b = facts_find(&described[AB_B].machine, a->name);

        if (!same_fact(a, b))
            fprintf(log, "note: the builds differ in %s: %s and %s\n", a->name, a->text ? a->text : "a number",
                    b && b->text ? b->text : b ? "a number" : "nothing");
    }
    rc = 0;

out:
    result_release(&described[AB_A]);
    result_release(&described[AB_B]);
    return rc;
}

static int keep_results(const struct arguments *a, const struct ab_report *report, struct plim_err *err)
{
    static const char *const names[AB_SIDES] = { "a.json", "b.json" };
    int rc = 0;

    if (!a->output)
        return 0;
    if (plim_make_directories(a->output, err) < 0)
        return -1;
    for (int side = 0; side < AB_SIDES && rc == 0; side++) {
        char *path = plim_path_join(a->output, names[side], err);

        rc = path ? result_write(&report->results[side], path, err) : -1;
        free(path);
    }
    return rc;
}

static int select_suite(const struct arguments *a, struct suite *suite, struct plim_err *err)
{
    if (suite_read(suite, a->suite, err) < 0)
        return -1;
    return case_patterns_check(&a->run.cases, suite, err);
}

static int run(struct arguments *a, struct plim_err *err)
{
    struct suite suite = { 0 };
    struct ab_report report = { .comparison = COMPARISON_INIT };
    struct process_executor processes[AB_SIDES] = { { 0 }, { 0 } }, own = { 0 };
    struct executor sides[AB_SIDES];
    struct planting planting;
    struct machine_watch watch_state;
    struct ab_watch watch = machine_watch(&watch_state);
    char *programs[AB_SIDES] = { NULL, NULL }, *self = NULL;
    FILE *log = a->quiet ? NULL : stderr;
    int status = -1;

    if (interrupt_install(err) < 0 || !(self = plim_self_path(err)) || select_suite(a, &suite, err) < 0)
        goto out;
    a->run.models_directory = model_store_directory(a->models);
    for (int side = 0; side < AB_SIDES; side++) {
        if (!(processes[side].program = programs[side] = ab_build_resolve(a->builds[side], log, err)))
            goto out;
        sides[side] = process_executor(&processes[side]);
        a->run.labels[side] = a->builds[side];
    }
    own.program = self;
    a->run.control = process_executor(&own);
    if (a->rehearsal.delay_fraction > 0 || a->rehearsal.extra_bytes) {
        planting = (struct planting){ sides[AB_B], a->rehearsal };
        sides[AB_B] = planting_executor(&planting);
    }
    a->run.watch = &watch;
    a->run.progress = log;
    if (model_store_prepare(&suite, &a->run.cases, a->run.models_directory, self, log, err) < 0 ||
        warn_unlike(sides, log, err) < 0 || ab_run(&suite, sides, &a->run, &report, err) < 0 ||
        keep_results(a, &report, err) < 0)
        goto out;
    a->view.exit_status = ab_exit_status(&report, a->strict);
    if (ab_print(&report, &a->view, stdout, err) < 0 ||
        format_outputs_write(&a->outputs, &report.comparison, a->view.exit_status, err) < 0)
        goto out;
    status = a->view.exit_status;

out:
    ab_release(&report);
    suite_release(&suite);
    free(programs[AB_A]);
    free(programs[AB_B]);
    free(self);
    return status;
}

int verb_ab(int argc, char **argv)
{
    static const struct argp_child children[] = { { &format_argp, 0, NULL, 0 }, { 0 } };
    static const struct argp argp = {
        options,
        parse_option,
        "SUITE",
        "Runs the cases of a suite with two builds, in pairs of fresh processes that take turns, and judges whether B "
        "is "
        "slower or needs more memory than A. Suspicious cases are confirmed with fresh pairs; a slowdown and a page of "
        "memory are planted in two hidden cases, and must be found. Revisions are built once, for release, with what "
        "$PLIMSOLL_CMAKE_OPTIONS adds.\v"
        "Exit status: 0 no regression, 1 a regression, 2 bad usage, suite or build, 4 inconclusive under --strict, 5 a "
        "case "
        "is broken with B that was not with A, 6 a planted control was missed.",
        children,
        NULL,
        NULL
    };
    struct arguments a = { .run = { .rules = ab_rules_default(), .seed = 1 } };
    struct plim_err err = PLIM_ERR_INIT;
    int status;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status = run(&a, &err);
    if (status < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        status = plim_err_exit_status(&err);
    }
    return status;
}
