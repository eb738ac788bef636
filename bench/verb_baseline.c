/* plimsoll baseline list|show, and the way to its other verbs: the accepted values. */

#include "verb.h"

#include <argp.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "result.h"
#include "share.h"
#include "table.h"
#include "verb_baseline_parts.h"

enum { OPTION_BASELINES = 1000, OPTION_CASE, OPTION_METRIC };

struct arguments {
    const char *suite;           /* show: of which */
    const char *baselines;       /* NULL: ./baselines, or those that came with the program */
    const char *case_pattern, *metric_pattern;
};

/* ---- list and show ---- */

int each_baseline_path(const char *directory, int (*visit)(void *context, const char *path, struct plim_err *err),
                       void *context, struct plim_err *err)
{
    char *pattern = heap_printf(err, "%s/*/*.json", directory);
    glob_t found = { 0 };
    int rc = pattern ? 0 : -1;
    if (pattern && glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && rc == 0; i++)
            rc = visit(context, found.gl_pathv[i], err);
    }
    globfree(&found);
    free(pattern);
    return rc;
}

struct visit {
    int (*visit)(void *context, const struct result *baseline, struct plim_err *err);
    void *context;
};

static int visit_file(void *context, const char *path, struct plim_err *err)
{
    const struct visit *visit = context;
    struct result baseline = { 0 };
    int rc = result_read(&baseline, path, err);
    if (rc == 0)
        rc = visit->visit(visit->context, &baseline, err);
    result_release(&baseline);
    return rc;
}

static int each_baseline(const char *directory,
                         int (*visit)(void *context, const struct result *baseline, struct plim_err *err), void *context,
                         struct plim_err *err)
{
    struct visit both = { visit, context };
    return each_baseline_path(directory, visit_file, &both, err);
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

/* Why it was accepted, and what it is allowed to become. */
static const char *remarks(const struct metric *metric, char *words, size_t size)
{
    char rise[40];
    const char *reason = metric->reason ? metric->reason : "";
    if (metric->allow.rise > 0)
        snprintf(words, size, "%.120s%s%s allowed until %s: %.120s", reason, *reason ? "; " : "",
                 format_difference(rise, sizeof rise, metric->allow.rise, metric->unit), metric->allow.until,
                 metric->allow.reason);
    else
        snprintf(words, size, "%s", reason);
    return words;
}

static void show_metric(struct show *show, const char *class, const struct result_case *c, const struct metric *metric)
{
    char value[40], words[300];
    size_t rows = metric->texts.count ? metric->texts.count : 1;
    for (size_t i = 0; i < rows; i++) {
        const struct fact *text = metric->texts.count ? &metric->texts.items[i] : NULL;
        table_cell(&show->table, STYLE_DIM, "%s", class);
        table_cell(&show->table, STYLE_PLAIN, "%s", c->id);
        table_cell(&show->table, STYLE_PLAIN, "%s%s%s", metric->name, text ? " of " : "", text ? text->name : "");
        table_cell(&show->table, STYLE_STRONG, "%s",
                   text ? text->text : format_value(value, sizeof value, metric_median(metric), metric->unit));
        if (metric->run_count > 1)
            table_cell(&show->table, STYLE_DIM, "%zu in %zu runs", metric->sample_count, metric->run_count);
        else
            table_cell(&show->table, STYLE_DIM, "%zu", metric->sample_count);
        table_cell(&show->table, STYLE_PLAIN, "%s", remarks(metric, words, sizeof words));
    }
}

static int show_one(void *context, const struct result *baseline, struct plim_err *err)
{
    struct show *show = context;
    const struct arguments *patterns = show->arguments;
    (void)err;
    if (strcmp(baseline->suite_name, show->arguments->suite) != 0)
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
        rc = plim_err_input(err, "no baseline of suite \"%s\" in %s; plimsoll baseline list shows what is there", a->suite,
                            directory);
    if (rc == 0)
        rc = table_print(t, stdout, table_colours(stdout), err);
    table_release(t);
    return rc;
}

/* ---- the command line ---- */

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
        a->case_pattern = text;
        return 0;
    case OPTION_METRIC:
        a->metric_pattern = text;
        return 0;
    case OPTION_BASELINES:
        a->baselines = text;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_with_suite(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    if (key == ARGP_KEY_ARG) {
        if (a->suite)
            argp_error(state, "\"%s\" is one too many", text);
        a->suite = text;
        return 0;
    }
    if (key == ARGP_KEY_END && !a->suite)
        argp_error(state, "it needs to know which suite");
    return key == ARGP_KEY_END ? 0 : parse_common(key, text, state);
}

int finish_verb(int rc, const struct plim_err *err)
{
    if (rc < 0)
        fprintf(stderr, "plimsoll: %s\n", err->message);
    return rc < 0 ? plim_err_exit_status(err) : 0;
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
    return finish_verb(rc, &err);
}

static int run_list(int argc, char **argv)
{
    static const struct argp argp = { list_options, parse_common, NULL, "Lists the baselines.", NULL, NULL, NULL };
    return run_reader(argc, argv, &argp, list_baselines);
}

static int run_show(int argc, char **argv)
{
    static const struct argp argp = { show_options, parse_with_suite, "SUITE",
                                      "Shows the accepted values of a suite, with their reasons and allowances.", NULL,
                                      NULL, NULL };
    return run_reader(argc, argv, &argp, show_baseline);
}

int verb_baseline(int argc, char **argv)
{
    static const char usage[] =
        "usage: plimsoll baseline accept RESULT... [--case GLOB] [--metric GLOB] [--reason TEXT]\n"
        "                                          [--exact|--timings] [--pool] [--prune]\n"
        "       plimsoll baseline allow SUITE [--case GLOB] [--metric GLOB] --rise N --until DAY --reason TEXT\n"
        "       plimsoll baseline list\n"
        "       plimsoll baseline show SUITE [--case GLOB] [--metric GLOB]\n"
        "       plimsoll baseline prune [--dry-run]\n"
        "       plimsoll baseline migrate [--dry-run]\n";
    static const struct {
        const char *name, *title;
        int (*run)(int argc, char **argv);
    } verbs[] = { { "accept", "plimsoll baseline accept", baseline_accept_verb },
                  { "allow", "plimsoll baseline allow", baseline_allow_verb },
                  { "list", "plimsoll baseline list", run_list },
                  { "show", "plimsoll baseline show", run_show },
                  { "prune", "plimsoll baseline prune", baseline_prune_verb },
                  { "migrate", "plimsoll baseline migrate", baseline_migrate_verb } };
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
