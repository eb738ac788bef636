/* plimsoll baseline accept: what was measured becomes what is expected. */

#include <stdio.h>
#include <stdlib.h>

#include "baseline.h"
#include "heap.h"
#include "table.h"
#include "verb_baseline_parts.h"

enum { OPTION_BASELINES = 1000, OPTION_CASE, OPTION_METRIC, OPTION_REASON, OPTION_EXACT, OPTION_TIMINGS, OPTION_PRUNE,
       OPTION_POOL };

#define RUN_LIMIT 20

struct arguments {
    const char *paths[RUN_LIMIT];
    size_t path_count;
    struct baseline_accept_options accept;
};

static void print_file(const struct baseline_file_report *file, bool colours)
{
    if (!file->path || (file->created && !file->written))
        return;   /* not asked for, or nothing to put into it */
    if (!file->written) {
        printf("%s: %zu values, all as they were\n", file->path, file->unchanged);
        return;
    }
    printf("%s%s%s: %s%zu new, %zu changed, %zu dropped, %zu as they were\n", style_begin(STYLE_STRONG, colours),
           file->path, style_end(STYLE_STRONG, colours), file->created ? "created, " : "", file->added, file->changed,
           file->dropped, file->unchanged);
}

static int print_report(const struct baseline_report *report, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    bool colours = table_colours(stdout);
    int rc = 0;
    table_column(&t, "case", TABLE_LEFT);
    table_column(&t, "accepted", TABLE_LEFT);
    table_column(&t, "was", TABLE_RIGHT);
    table_column(&t, "is", TABLE_RIGHT);
    for (size_t i = 0; i < report->change_count; i++) {
        const struct baseline_change *change = &report->changes[i];
        table_cell(&t, STYLE_PLAIN, "%s", change->case_id);
        table_cell(&t, STYLE_PLAIN, "%s", change->metric ? change->metric : "outcome");
        table_cell(&t, STYLE_PLAIN, "%s", change->before);
        table_cell(&t, STYLE_STRONG, "%s", change->after);
    }
    if (report->change_count)
        rc = table_print(&t, stdout, colours, err);
    table_release(&t);
    print_file(&report->exact, colours);
    print_file(&report->machine, colours);
    if (report->skipped_cases)
        printf("%zu case%s that crashed, timed out or failed: not accepted\n", report->skipped_cases,
               report->skipped_cases == 1 ? "" : "s");
    return rc;
}

/* Timings that are reported and not gated, as long as few runs are pooled. */
static void advise_pooling(const struct baseline_report *report, const struct result *pooled)
{
    size_t runs = 0;
    if (!report->machine.written)
        return;
    for (size_t i = 0; i < pooled->case_count; i++) {
        for (size_t k = 0; k < pooled->cases[i].metric_count; k++) {
            if (pooled->cases[i].metrics[k].run_count > runs)
                runs = pooled->cases[i].metrics[k].run_count;
        }
    }
    if (runs < 3)
        printf("Timings are gated once three runs of different days are pooled: accept --timings R1 R2 R3, or --pool.\n");
}

static int accept_files(struct arguments *a, struct plim_err *err)
{
    struct result runs[RUN_LIMIT] = { { 0 } }, pooled = { 0 };
    struct baseline_report report = { 0 };
    bool busy = false;
    double load, heaviest = 0;
    int rc = -1;

    if (!a->accept.directory)
        a->accept.directory = "baselines";
    if (!a->accept.classes)
        a->accept.classes = COMPARE_ALL;
    for (size_t i = 0; i < a->path_count; i++) {
        if (result_read(&runs[i], a->paths[i], err) < 0)
            goto out;
        if (result_was_busy(&runs[i], &load)) {
            busy = true;
            heaviest = load > heaviest ? load : heaviest;
        }
    }
    if (baseline_pool(runs, a->path_count, &pooled, err) < 0 ||
        baseline_accept(&pooled, &a->accept, &report, err) < 0 || print_report(&report, err) < 0)
        goto out;
    if (report.machine.written && busy)
        printf("%sThe machine was busy when this was measured (load average %.1f): its timings make a poor baseline.%s\n",
               style_begin(STYLE_WARN, table_colours(stdout)), heaviest, style_end(STYLE_WARN, table_colours(stdout)));
    if (!a->accept.pool)
        advise_pooling(&report, &pooled);
    rc = 0;

out:
    baseline_report_release(&report);
    result_release(&pooled);
    for (size_t i = 0; i < a->path_count; i++)
        result_release(&runs[i]);
    return rc;
}

/* ---- the command line ---- */

static const struct argp_option options[] = {
    { "case", OPTION_CASE, "GLOB", 0, "Only cases whose id matches", 0 },
    { "metric", OPTION_METRIC, "GLOB", 0, "Only metrics whose name matches", 0 },
    { "reason", OPTION_REASON, "TEXT", 0, "Why the change is right; kept with each value that changes", 0 },
    { "exact", OPTION_EXACT, NULL, 0, "Only what holds on every machine", 0 },
    { "timings", OPTION_TIMINGS, NULL, 0, "Only timings and system metrics, for this machine class", 0 },
    { "pool", OPTION_POOL, NULL, 0, "Timings join those accepted before, as one more run; the newest ten stay", 0 },
    { "prune", OPTION_PRUNE, NULL, 0, "Also drop what the result no longer has", 0 },
    { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case OPTION_CASE:
        a->accept.case_pattern = text;
        return 0;
    case OPTION_METRIC:
        a->accept.metric_pattern = text;
        return 0;
    case OPTION_REASON:
        a->accept.reason = text;
        return 0;
    case OPTION_EXACT:
        a->accept.classes |= COMPARE_PORTABLE;
        return 0;
    case OPTION_TIMINGS:
        a->accept.classes |= COMPARE_MACHINE;
        return 0;
    case OPTION_PRUNE:
        a->accept.prune = true;
        return 0;
    case OPTION_POOL:
        a->accept.pool = true;
        return 0;
    case OPTION_BASELINES:
        a->accept.directory = text;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path_count == RUN_LIMIT)
            argp_error(state, "more than %d results", RUN_LIMIT);
        a->paths[a->path_count++] = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->path_count)
            argp_error(state, "a result file is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int baseline_accept_verb(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "RESULT...",
        "Accepts a result's values as the baseline. Values that did not change, and their reasons, stay as they are.\v"
        "Several results are pooled: runs of one suite on one machine, best of different days. Exact metrics must be the "
        "same in all; timings keep every sample, and how far the runs are apart decides whether they are gated.",
        NULL, NULL, NULL
    };
    struct arguments a = { .path_count = 0 };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return finish_verb(accept_files(&a, &err), &err);
}
