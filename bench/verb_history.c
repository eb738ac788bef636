/* plimsoll history add|show|plot: results over commits. */

#include "verb.h"

#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "history.h"
#include "history_plot.h"
#include "plimsoll/file.h"
#include "plimsoll/json.h"
#include "plot.h"
#include "table.h"

enum { OPTION_REVISION = 1000, OPTION_AT, OPTION_SUITE, OPTION_CLASS, OPTION_NO_DRAW };

struct arguments {
    const char *verb;
    const char *database, *revision, *at_utc, *directory;
    const char *results[256];
    size_t result_count;
    struct history_filter filter;
    bool all, no_draw;
};

static const struct argp_option options[] = {
    { "database", 'd', "FILE", 0, "The history (default: history.sqlite)", 0 },
    { "revision", OPTION_REVISION, "REV", 0, "add: the commit that was measured (default: as the result says)", 0 },
    { "at", OPTION_AT, "UTC", 0, "add: its place in time, 2026-11-24T07:30:00Z (default: when the run started)", 0 },
    { "suite", OPTION_SUITE, "NAME", 0, "show, plot: only this suite", 0 },
    { "machine-class", OPTION_CLASS, "NAME", 0, "show, plot: only this class of machine", 0 },
    { "case", 'c', "PATTERN", 0, "show, plot: only cases like this", 0 },
    { "metric", 'm', "PATTERN", 0, "show, plot: only metrics like this", 0 },
    { "all", 'a', NULL, 0, "show: also series that did not change", 0 },
    { "output", 'o', "DIR", 0, "plot: where the plots go (default: .)", 0 },
    { "no-draw", OPTION_NO_DRAW, NULL, 0, "plot: write script and data, leave gnuplot out", 0 },
    { 0 }
};

static const char *const verbs[] = { "add", "show", "plot", NULL };

static void take_word(struct arguments *a, char *text, struct argp_state *state)
{
    if (!a->verb) {
        const char *nearest = plim_nearest_name(text, verbs);
        for (size_t i = 0; verbs[i]; i++)
            a->verb = strcmp(verbs[i], text) == 0 ? verbs[i] : a->verb;
        if (!a->verb)
            argp_error(state, "no verb \"%s\": add, show or plot%s%s", text, nearest ? "; did you mean " : "",
                       nearest ? nearest : "");
    } else if (strcmp(a->verb, "add") != 0) {
        argp_error(state, "%s takes no file, \"%s\" is one", a->verb, text);
    } else if (a->result_count == sizeof a->results / sizeof a->results[0]) {
        argp_error(state, "at most %zu results at once", a->result_count);
    } else {
        a->results[a->result_count++] = text;
    }
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'd':
        a->database = text;
        return 0;
    case OPTION_REVISION:
        a->revision = text;
        return 0;
    case OPTION_AT:
        a->at_utc = text;
        return 0;
    case OPTION_SUITE:
        a->filter.suite = text;
        return 0;
    case OPTION_CLASS:
        a->filter.machine_class = text;
        return 0;
    case 'c':
        a->filter.case_pattern = text;
        return 0;
    case 'm':
        a->filter.metric_pattern = text;
        return 0;
    case 'a':
        a->all = true;
        return 0;
    case 'o':
        a->directory = text;
        return 0;
    case OPTION_NO_DRAW:
        a->no_draw = true;
        return 0;
    case ARGP_KEY_ARG:
        take_word(a, text, state);
        return 0;
    case ARGP_KEY_END:
        if (!a->verb)
            argp_error(state, "add, show or plot?");
        if (strcmp(a->verb, "add") == 0 && !a->result_count)
            argp_error(state, "add needs a result file");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int add_results(const struct arguments *a, struct history *history, struct plim_err *err)
{
    for (size_t i = 0; i < a->result_count; i++) {
        struct result result = { 0 };
        bool added = false;
        int rc = result_read(&result, a->results[i], err);
        if (rc == 0)
            rc = history_add(history, &result, a->revision, a->at_utc, &added, err);
        if (rc == 0)
            printf("%s: %s\n", a->results[i], added ? "added" : "was there already");
        result_release(&result);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static bool is_interesting(const struct series *s)
{
    return s->changes.count > 0 || s->changes.crept;
}

static void add_row(struct table *t, const struct series *s, const struct change_point *change)
{
    char value[48];
    double worse = series_worsening(s, change);
    enum text_style style = s->direction == DIRECTION_NONE ? STYLE_WARN : worse > 0 ? STYLE_BAD : STYLE_GOOD;
    table_cell(t, STYLE_PLAIN, "%s", s->case_id);
    table_cell(t, STYLE_PLAIN, "%s", s->metric);
    table_cell(t, STYLE_PLAIN, "%.12s", s->points[change->index].revision);
    table_cell(t, STYLE_PLAIN, "%.10s", s->points[change->index].at_utc);
    table_cell(t, STYLE_PLAIN, "%s", format_value(value, sizeof value, change->before, s->unit));
    table_cell(t, STYLE_PLAIN, "%s", format_value(value, sizeof value, change->after, s->unit));
    if (s->class == METRIC_EXACT)
        table_cell(t, style, "%s", format_difference(value, sizeof value, change->after - change->before, s->unit));
    else
        table_cell(t, style, "%+.1f%%", 100 * (change->after / change->before - 1));
    if (s->class == METRIC_EXACT)
        table_cell(t, STYLE_DIM, "%s", "");
    else
        table_cell(t, STYLE_DIM, "%s p=%.1g", s->machine_class, change->p);
}

static void add_creep(struct table *t, const struct series *s)
{
    char value[48];
    const struct change_points *c = &s->changes;
    table_cell(t, STYLE_PLAIN, "%s", s->case_id);
    table_cell(t, STYLE_PLAIN, "%s", s->metric);
    table_cell(t, STYLE_PLAIN, "since %.12s", s->points[c->best_index].revision);
    table_cell(t, STYLE_PLAIN, "%.10s", s->points[c->best_index].at_utc);
    table_cell(t, STYLE_PLAIN, "%s", format_value(value, sizeof value, c->best_level, s->unit));
    table_cell(t, STYLE_PLAIN, "%s", format_value(value, sizeof value, c->last_level, s->unit));
    table_cell(t, STYLE_BAD, "%.1f%% worse", 100 * c->creep);
    table_cell(t, STYLE_DIM, "%s", "than at its best");
}

static void add_quiet(struct table *t, const struct series *s)
{
    char value[48];
    table_cell(t, STYLE_DIM, "%s", s->case_id);
    table_cell(t, STYLE_DIM, "%s", s->metric);
    for (int i = 0; i < 3; i++)
        table_cell(t, STYLE_PLAIN, "%s", "");
    table_cell(t, STYLE_DIM, "%s", format_value(value, sizeof value, s->changes.last_level, s->unit));
    table_cell(t, STYLE_DIM, "%s", "unchanged");
    table_cell(t, STYLE_DIM, "%s", s->machine_class);
}

static int show(const struct arguments *a, const struct series_list *list, struct plim_err *err)
{
    static const char *const titles[] = { "case", "metric", "commit", "date", "before", "after", "change", "" };
    struct table t = TABLE_INIT;
    size_t changed = 0, most = 0;
    for (size_t i = 0; i < sizeof titles / sizeof titles[0]; i++)
        table_column(&t, titles[i], i >= 4 && i <= 6 ? TABLE_RIGHT : TABLE_LEFT);
    for (size_t i = 0; i < list->count; i++) {
        const struct series *s = &list->items[i];
        most = s->count > most ? s->count : most;
        changed += is_interesting(s);
        for (size_t k = 0; k < s->changes.count; k++)
            add_row(&t, s, &s->changes.items[k]);
        if (s->changes.crept && !s->changes.count)   /* else the steps say it */
            add_creep(&t, s);
        if (a->all && !is_interesting(s))
            add_quiet(&t, s);
    }
    int rc = t.cell_count ? table_print(&t, stdout, table_colours(stdout), err) : 0;
    table_release(&t);
    printf("%zu of %zu series changed, over up to %zu commits\n", changed, list->count, most);
    return rc;
}

static int plot(const struct arguments *a, const struct series_list *list, struct plim_err *err)
{
    size_t drawn = 0;
    if (plim_make_directories(a->directory, err) < 0)
        return -1;
    for (size_t i = 0; i < list->count; i++) {
        char *name = NULL;
        /* Without a pattern there are hundreds: what changed is what is looked for. */
        if (!a->filter.metric_pattern && !a->filter.case_pattern && !is_interesting(&list->items[i]))
            continue;
        int rc = history_plot_write(&list->items[i], a->directory, "svg png", &name, err);
        if (rc == 0 && !a->no_draw)
            rc = plot_draw(a->directory, name, err);
        if (rc == 0)
            printf("%s/%s.%s\n", a->directory, name, a->no_draw ? "gp" : "svg");
        free(name);
        if (rc < 0)
            return -1;
        drawn++;
    }
    if (!drawn)
        return plim_err_input(err, "%s: %s", a->database,
                              list->count ? "no series changed; --case and --metric choose one"
                                          : "no series like that");
    return 0;
}

static int run(const struct arguments *a, struct plim_err *err)
{
    struct history history = { 0 };
    struct series_list list = { 0 };
    bool adds = strcmp(a->verb, "add") == 0;
    int rc = history_open(&history, a->database, adds, err);
    if (rc == 0 && adds)
        rc = add_results(a, &history, err);
    else if (rc == 0)
        rc = history_read(&history, &a->filter, &list, err);
    if (rc == 0 && !adds)
        rc = strcmp(a->verb, "show") == 0 ? show(a, &list, err) : plot(a, &list, err);
    series_list_release(&list);
    history_close(&history);
    return rc;
}

int verb_history(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "add RESULT...\nshow\nplot",
        "Keeps results over commits in an SQLite file, and finds where a metric changed its level.\v"
        "Exact metrics change at the first byte. For others a change has lasted three commits, is at least 3%, and is "
        "no chance (a Potts fit in L1 chosen by BIC, then Mann-Whitney with p < 0.01). History is for finding causes: "
        "what stops a pull request is `plimsoll gate`.",
        NULL, NULL, NULL
    };
    struct arguments a = { .database = "history.sqlite", .directory = "." };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (run(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
