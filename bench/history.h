#ifndef PLIM_HISTORY_H
#define PLIM_HISTORY_H

/*
 * Results over commits, in one SQLite file that people may query themselves:
 *
 *     runs(id, suite, revision, at_utc, machine_class, path, digest)
 *     measurements(run, case_id, metric, unit, class, direction, value, samples)
 *
 * `at_utc` orders a series: when the run started, or what was said when it was added (the commit's time, to add old
 * results later). A value is the median of the run's samples; exact metrics keep their one value.
 *
 *     struct history history = { 0 };
 *     if (history_open(&history, "history.sqlite", true, &err) == 0 &&
 *         history_add(&history, &result, NULL, NULL, &added, &err) == 0)
 *         ...
 *     history_close(&history);
 */

#include <stdbool.h>
#include <stddef.h>

#include "change_points.h"
#include "result.h"

struct sqlite3;

struct history {
    struct sqlite3 *database;
    const char *path;        /* borrowed */
};

/* `create`: makes the file when it is missing. A file of something else: kind input; of a newer version: compare. */
int history_open(struct history *history, const char *path, bool create, struct plim_err *err);
void history_close(struct history *history);

/*
 * Adds a complete result; `revision` NULL: the recorded git_revision, `at_utc` NULL: when it started. *added is false,
 * and nothing changes, when this very run is there already.
 */
int history_add(struct history *history, const struct result *result, const char *revision, const char *at_utc,
                bool *added, struct plim_err *err);

/* What to look at; NULL: everything. Patterns are fnmatch's, '*' matches '/' too. */
struct history_filter {
    const char *suite, *machine_class;
    const char *case_pattern, *metric_pattern;
};

struct series_point {
    char *revision, *at_utc;
    double value;
};

/* One metric of one case; timings and system metrics of one machine class, exact and bounded ones of all. */
struct series {
    char *suite, *case_id, *metric, *unit, *machine_class;   /* machine_class "": all */
    enum metric_class class;
    enum metric_direction direction;
    struct series_point *points; /* oldest first; the runs of one revision in a row are one point, their median */
    size_t count;
    struct change_points changes;
};

struct series_list {
    struct series *items;
    size_t count;
};

/* Reads and judges. Exact texts (digests) have no series. */
int history_read(struct history *history, const struct history_filter *filter, struct series_list *list,
                 struct plim_err *err);
void series_list_release(struct series_list *list);

/* How much worse a change made it, relative; negative is better. */
double series_worsening(const struct series *series, const struct change_point *change);

#endif
