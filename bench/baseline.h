#ifndef PLIM_BASELINE_H
#define PLIM_BASELINE_H

/*
 * Baselines: accepted values, in files that people review.
 *
 *     baselines/exact/SUITE.json            exact and bounded metrics: they hold on every machine
 *     baselines/MACHINE-CLASS/SUITE.json    system metrics and timings of one class of machine
 *
 * Accepting changes what was accepted and nothing else: a metric is a line, known cases and metrics keep their place,
 * new ones follow the neighbour that they have in the result, and an exact value that did not change keeps its reason.
 *
 *   - Metrics that the suite gates are kept, and, gated or not, what each tag held at the peak (at_peak_TAG_bytes): a
 *     memory regression is explained with it. An exact metric keeps one sample; how it is gated stays with the suite.
 *   - A digest that holds under a key (ISA and BLAS core) is added beside those of other keys.
 *   - A case that crashed, timed out or failed is never accepted; one that ran out of memory may be meant to.
 *   - An exact metric whose repeats differ is an error: it is not exact.
 *   - An allowance ends with the value that it was for.
 *
 * Stored timings carry the offset of the session in which they were measured. Those of several days, pooled, show how
 * large that is, and only then are they gated (compare.h).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "compare.h"
#include "result.h"

/* DIRECTORY/exact/SUITE.json, or DIRECTORY/CLASS/SUITE.json; free(). `machine_class` NULL means the exact one. */
char *baseline_path(const char *directory, const char *machine_class, const char *suite, struct plim_err *err);

/*
 * Reads the baseline at `path`, checking that it is one and of the right suite and class. A missing file is no error:
 * `*found` is false and `baseline` empty.
 */
int baseline_read(struct result *baseline, const char *path, const char *machine_class, const char *suite, bool *found,
                  struct plim_err *err);

struct baseline_accept_options {
    const char *directory;
    const char *case_pattern;      /* fnmatch, '*' matches '/' too; NULL: all */
    const char *metric_pattern;
    const char *reason;            /* kept with each value that changes or is new; or NULL */
    unsigned classes;              /* COMPARE_PORTABLE, COMPARE_MACHINE or both */
    bool prune;                    /* also drop cases and metrics that the result does not have */
    bool pool;                     /* timings and system metrics join those accepted before, as another run */
};

#define BASELINE_POOLED_RUNS 10    /* at most; the oldest go */

struct baseline_change {
    char *case_id;
    char *metric;                  /* NULL: the case's outcome */
    char before[48], after[48];    /* "" where there was or is none; timings as their medians */
};

struct baseline_file_report {
    char *path;                    /* NULL: this kind of baseline was not asked for */
    bool created, written;         /* a file without changes is not written */
    size_t added, changed, dropped, unchanged;    /* metrics */
};

struct baseline_report {
    struct baseline_file_report exact, machine;
    struct baseline_change *changes;               /* exact and bounded values that changed; not what is new */
    size_t change_count;
    size_t skipped_cases;                          /* crashed, timed out or failed */
};

/*
 * Accepts a result into the baselines. Nothing is written unless all of it is acceptable. A pattern that matches
 * nothing is an input error.
 */
int baseline_accept(const struct result *result, const struct baseline_accept_options *options,
                    struct baseline_report *report, struct plim_err *err);

/*
 * Makes one result of several runs of a suite on one machine: samples one after the other, each metric knowing how many
 * came from each run. Kind input when they are not runs of the same suite file, when one is there twice, when a case
 * ended differently, or when an exact metric is not the same in all: it is nondeterministic. Kind compare when their
 * machine classes differ.
 */
int baseline_pool(const struct result *runs, size_t count, struct result *pooled, struct plim_err *err);

/* ---- baseline_upkeep.c ---- */

/* Counts of what one file's upkeep did. */
struct baseline_upkeep {
    size_t metrics;                /* allow: that carry the allowance now; prune: dropped with their cases */
    size_t cases;                  /* prune: dropped */
    size_t allowances;             /* prune: expired, dropped */
    int from_minor;                /* migrate: the schema's minor version before; that of this program for no change */
};

/*
 * Lets the exact values of a suite that match rise by so much until a day ("2026-12-31"), for a reason that reviewers
 * read; a rise of 0 takes allowances away. Kind input when nothing matches.
 */
int baseline_allow(const char *directory, const char *suite, const char *case_pattern, const char *metric_pattern,
                   const struct allowance *allowance, struct baseline_upkeep *done, struct plim_err *err);

/*
 * Drops from the file at `path` the cases that the suite doesn't have any more, and allowances that expired before
 * `today`. `ids` are the suite's cases. Written only when something was dropped, and not when `dry`.
 */
int baseline_prune(const char *path, const char *const *ids, size_t count, const char *today, bool dry,
                   struct baseline_upkeep *done, struct plim_err *err);

/* Rewrites a file of an older minor version of the schema as of this program's. */
int baseline_migrate(const char *path, bool dry, struct baseline_upkeep *done, struct plim_err *err);

void baseline_report_release(struct baseline_report *report);

#endif
