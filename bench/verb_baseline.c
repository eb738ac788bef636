/* plimsoll baseline accept|list|show: the accepted values. */

#include "verb.h"

#include <argp.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "baseline.h"
#include "heap.h"
#include "share.h"
#include "table.h"

enum {
    OPTION_BASELINES = 1000,
    OPTION_CASE,
    OPTION_METRIC,
    OPTION_REASON,
    OPTION_EXACT,
    OPTION_TIMINGS,
    OPTION_PRUNE
};

struct arguments {
    const char *name;            /* accept: the result file; show: the suite */
    const char *baselines;       /* NULL: ./baselines (accept), or also those that came with the program */
    struct baseline_accept_options accept;
};

/* ---- accept ---- */

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

static int accept_file(struct arguments *a, struct plim_err *err)
{
    struct result result = { 0 };
    struct baseline_report report = { 0 };
    double load;
    int rc = -1;

    a->accept.directory = a->baselines ? a->baselines : "baselines";
    if (!a->accept.classes)
        a->accept.classes = COMPARE_ALL;
    if (result_read(&result, a->name, err) < 0)
        goto out;
    if (result.is_baseline) {
        plim_err_input(err, "%s: a baseline already; a result is accepted", a->name);
        goto out;
    }
    if (baseline_accept(&result, &a->accept, &report, err) < 0 || print_report(&report, err) < 0)
        goto out;
    if (report.machine.written && result_was_busy(&result, &load))
        printf("%sThe machine was busy when this was measured (load average %.1f): its timings make a poor baseline.%s\n",
               style_begin(STYLE_WARN, table_colours(stdout)), load, style_end(STYLE_WARN, table_colours(stdout)));
    rc = 0;

out:
    baseline_report_release(&report);
    result_release(&result);
    return rc;
}

/* ---- list and show ---- */

/* Reads every CLASS/SUITE.json in alphabetical order and hands it on; -1 stops. */
static int each_baseline(const char *directory,
                         int (*visit)(void *context, const struct result *baseline, struct plim_err *err), void *context,
                         struct plim_err *err)
{
    char *pattern = heap_printf(err, "%s/*/*.json", directory);
    glob_t found = { 0 };
    int rc = pattern ? 0 : -1;
    if (pattern && glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && rc == 0; i++) {
            struct result baseline = { 0 };
            rc = result_read(&baseline, found.gl_pathv[i], err);
            if (rc == 0)
                rc = visit(context, &baseline, err);
            result_release(&baseline);
        }
    }
    globfree(&found);
    free(pattern);
    return rc;
}

static const char *class_of(const struct result *baseline)
{
    return baseline->machine_class ? baseline->machine_class : "exact";
}

static int list_one(void *context, const struct result *baseline, struct plim_err *err)
{
    struct table *t = context;
    size_t metrics = 0;
    (void)err;
    for (size_t i = 0; i < baseline->case_count; i++)
        metrics += baseline->cases[i].metric_count;
    table_cell(t, STYLE_PLAIN, "%s", class_of(baseline));
    table_cell(t, STYLE_PLAIN, "%s", baseline->suite_name);
    table_cell(t, STYLE_PLAIN, "%zu", baseline->case_count);
    table_cell(t, STYLE_PLAIN, "%zu", metrics);
    table_cell(t, STYLE_DIM, "%s", baseline->path);
    return 0;
}

static int list_baselines(const struct arguments *a, const char *directory, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    (void)a;
    table_column(&t, "machine class", TABLE_LEFT);
    table_column(&t, "suite", TABLE_LEFT);
    table_column(&t, "cases", TABLE_RIGHT);
    table_column(&t, "metrics", TABLE_RIGHT);
    table_column(&t, "file", TABLE_LEFT);
    int rc = each_baseline(directory, list_one, &t, err);
    if (rc == 0 && t.cell_count == 0)
        printf("no baselines in %s; accept one with plimsoll baseline accept RESULT\n", directory);
    else if (rc == 0)
        rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

struct show {
    struct table table;
    const struct arguments *arguments;
    bool found;               /* a file of the suite */
};

static void show_metric(struct show *show, const char *class, const struct result_case *c, const struct metric *metric)
{
    char value[40];
    size_t rows = metric->texts.count ? metric->texts.count : 1;
    for (size_t i = 0; i < rows; i++) {
        const struct fact *text = metric->texts.count ? &metric->texts.items[i] : NULL;
        table_cell(&show->table, STYLE_DIM, "%s", class);
        table_cell(&show->table, STYLE_PLAIN, "%s", c->id);
        table_cell(&show->table, STYLE_PLAIN, "%s%s%s", metric->name, text ? " of " : "", text ? text->name : "");
        table_cell(&show->table, STYLE_STRONG, "%s",
                   text ? text->text : format_value(value, sizeof value, metric_median(metric), metric->unit));
        table_cell(&show->table, STYLE_DIM, "%zu", metric->sample_count);
        table_cell(&show->table, STYLE_PLAIN, "%s", metric->reason ? metric->reason : "");
    }
}

static int show_one(void *context, const struct result *baseline, struct plim_err *err)
{
    struct show *show = context;
    const struct baseline_accept_options *patterns = &show->arguments->accept;
    (void)err;
    if (strcmp(baseline->suite_name, show->arguments->name) != 0)
        return 0;
    show->found = true;
    for (size_t i = 0; i < baseline->case_count; i++) {
        const struct result_case *c = &baseline->cases[i];
        if (patterns->case_pattern && fnmatch(patterns->case_pattern, c->id, 0) != 0)
            continue;
        for (size_t k = 0; k < c->metric_count; k++) {
            if (!patterns->metric_pattern || fnmatch(patterns->metric_pattern, c->metrics[k].name, 0) == 0)
                show_metric(show, class_of(baseline), c, &c->metrics[k]);
        }
    }
    return 0;
}

static int show_baseline(const struct arguments *a, const char *directory, struct plim_err *err)
{
    struct show show = { TABLE_INIT, a, false };
    struct table *t = &show.table;
    table_column(t, "machine class", TABLE_LEFT);
    table_column(t, "case", TABLE_LEFT);
    table_column(t, "metric", TABLE_LEFT);
    table_column(t, "value", TABLE_RIGHT);
    table_column(t, "samples", TABLE_RIGHT);
    table_column(t, "reason", TABLE_LEFT);
    int rc = each_baseline(directory, show_one, &show, err);
    if (rc == 0 && !show.found)
        rc = plim_err_input(err, "no baseline of suite \"%s\" in %s; plimsoll baseline list shows what is there", a->name,
                            directory);
    if (rc == 0)
        rc = table_print(t, stdout, table_colours(stdout), err);
    table_release(t);
    return rc;
}

/* ---- the command line ---- */

static const struct argp_option accept_options[] = {
    { "case", OPTION_CASE, "GLOB", 0, "Only cases whose id matches", 0 },
    { "metric", OPTION_METRIC, "GLOB", 0, "Only metrics whose name matches", 0 },
    { "reason", OPTION_REASON, "TEXT", 0, "Why the change is right; kept with each value that changes", 0 },
    { "exact", OPTION_EXACT, NULL, 0, "Only what holds on every machine", 0 },
    { "timings", OPTION_TIMINGS, NULL, 0, "Only timings and system metrics, for this machine class", 0 },
    { "prune", OPTION_PRUNE, NULL, 0, "Also drop what the result no longer has", 0 },
    { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
    { 0 }
};

static const struct argp_option show_options[] = {
    { "case", OPTION_CASE, "GLOB", 0, "Only cases whose id matches", 0 },
    { "metric", OPTION_METRIC, "GLOB", 0, "Only metrics whose name matches", 0 },
    { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
    { 0 }
};

static const struct argp_option list_options[] = {
    { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
    { 0 }
};

static error_t parse_common(int key, char *text, struct argp_state *state)
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
    case OPTION_BASELINES:
        a->baselines = text;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_with_name(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    if (key == ARGP_KEY_ARG) {
        if (a->name)
            argp_error(state, "\"%s\" is one too many", text);
        a->name = text;
        return 0;
    }
    if (key == ARGP_KEY_END && !a->name)
        argp_error(state, "it needs to know which one");
    return key == ARGP_KEY_END ? 0 : parse_common(key, text, state);
}

static int finish(int rc, const struct plim_err *err)
{
    if (rc < 0)
        fprintf(stderr, "plimsoll: %s\n", err->message);
    return rc < 0 ? plim_err_exit_status(err) : 0;
}

static int run_accept(int argc, char **argv)
{
    static const struct argp argp = { accept_options, parse_with_name, "RESULT",
                                      "Accepts a result's values as the baseline. Values that did not change, and their "
                                      "reasons, stay as they are.",
                                      NULL, NULL, NULL };
    struct arguments a = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return finish(accept_file(&a, &err), &err);
}

static int run_reader(int argc, char **argv, const struct argp *argp,
                      int (*read)(const struct arguments *a, const char *directory, struct plim_err *err))
{
    struct arguments a = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(argp, argc, argv, 0, NULL, &a);
    char *shared = a.baselines ? NULL : share_locate("baselines", &err);
    int rc = a.baselines || shared ? read(&a, a.baselines ? a.baselines : shared, &err) : -1;
    free(shared);
    return finish(rc, &err);
}

static int run_list(int argc, char **argv)
{
    static const struct argp argp = { list_options, parse_common, NULL, "Lists the baselines.", NULL, NULL, NULL };
    return run_reader(argc, argv, &argp, list_baselines);
}

static int run_show(int argc, char **argv)
{
    static const struct argp argp = { show_options, parse_with_name, "SUITE",
                                      "Shows the accepted values of a suite, with their reasons.", NULL, NULL, NULL };
    return run_reader(argc, argv, &argp, show_baseline);
}

int verb_baseline(int argc, char **argv)
{
    static const char usage[] = "usage: plimsoll baseline accept RESULT [--case GLOB] [--metric GLOB] [--reason TEXT]\n"
                                "                                       [--exact|--timings] [--prune]\n"
                                "       plimsoll baseline list\n"
                                "       plimsoll baseline show SUITE [--case GLOB] [--metric GLOB]\n";
    static const struct {
        const char *name, *title;
        int (*run)(int argc, char **argv);
    } verbs[] = { { "accept", "plimsoll baseline accept", run_accept },
                  { "list", "plimsoll baseline list", run_list },
                  { "show", "plimsoll baseline show", run_show } };
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(name, verbs[i].name) != 0)
            continue;
        argv[1] = (char *)verbs[i].title;
        return verbs[i].run(argc - 1, argv + 1);
    }
    if (*name)
        fprintf(stderr, "plimsoll: baseline: no verb \"%s\"\n%s", name, usage);
    else
        fputs(usage, stderr);
    return 2;
}
