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
};

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

void baseline_report_release(struct baseline_report *report);

#endif
