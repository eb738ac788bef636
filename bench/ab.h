#ifndef PLIM_AB_H
#define PLIM_AB_H

/*
 * Two builds, A and B, side by side on this machine: is B slower, and does it need more memory?
 *
 *     struct ab_report report;
 *     if (ab_run(&suite, sides, &options, &report, &err) == 0)
 *         ...                               // report.comparison: sorted findings; ab_exit_status
 *     ab_release(&report);                  // also after a failure
 *
 * Every measurement is a fresh process, in pairs ABBA BAAB ..., all cases taking turns in a random order, so that what
 * the machine does meanwhile happens to both builds alike. How pairs become verdicts is in ab_judge.h. Exact, bounded
 * and system metrics of all these processes are compared as `plimsoll compare` does.
 *
 * Each run also has two hidden cases of its own, in which it plants a slowdown and a page of memory. If it doesn't find
 * them, its other verdicts are worth nothing, and it says so with an exit status of its own.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "ab_judge.h"
#include "ab_watch.h"
#include "compare.h"
#include "executor.h"
#include "runner.h"
#include "suite.h"

enum ab_side { AB_A, AB_B, AB_SIDES };
enum ab_stage { AB_SCREEN, AB_CONFIRM, AB_STAGES };
enum ab_control { AB_CONTROL_DELAY, AB_CONTROL_PAGE, AB_CONTROLS };

struct ab_options {
    struct case_patterns cases;      /* those to run */
    const char *models_directory;
    const char *metric;              /* the timing to judge in the suite's cases; NULL: the headline of each */
    int repeats;                     /* within a process; 0: as the suite says, more in short ones (ab_repeats) */
    uint64_t budget_ns;              /* of time for the whole suite */
    uint64_t seed;                   /* of the cases' order */
    struct ab_rules rules;
    const struct ab_watch *watch;    /* NULL: nobody looks for disturbances */
    struct executor control;         /* runs the controls; run_case NULL: no controls, and no promise */
    bool timings_only;               /* memory and counts are judged elsewhere, against what was accepted */
    bool blind;                      /* the controls plant nothing, so that people can see the alarm */
    const char *labels[AB_SIDES];    /* how the builds are called; borrowed */
    FILE *progress;                  /* NULL: silent */
};

/* The pairs of one stage. */
struct ab_pairs {
    double *values[AB_SIDES];        /* one a process: ab_process_timing of its repeats */
    double *log_ratios;              /* of how many times worse B was */
    size_t count;
};

struct ab_case {
    const struct suite *suite;
    const struct suite_case *spec;
    struct executor sides[AB_SIDES];
    struct result_case *merged[AB_SIDES];    /* everything measured; in the report's results */
    const char *asked_metric;                /* the timing to judge; NULL: its headline */
    char metric[100];                        /* the timing that is judged; "" for none */
    double min_effect;
    struct ab_pairs stages[AB_STAGES];
    int repeats;                             /* within a process, once it is known how long one takes; 0: the suite's */
    size_t wanted;                           /* pairs in the stage that runs */
    size_t attempts, replaced, disturbed;    /* pairs begun; thrown away as disturbed; disturbed, but kept */
    char disturbance[80];                    /* the last one, in words */
    uint64_t spent_ns;
    bool started, broken;                    /* broken: a side has no proper outcome; nothing more to time */
    bool confirmed, out_of_time;
    enum ab_suspicion suspicion;
    struct ab_evidence evidence;             /* what the verdict rests on */
    double p_slower, p_faster;               /* corrected; 1 when not confirmed */
    double mann_whitney_p;                   /* for readers only */
    enum verdict verdict;                    /* of the timing */
};

struct ab_report {
    struct result results[AB_SIDES], control_results[AB_SIDES];
    struct suite control_suite;
    struct ab_case *cases;                   /* the suite's, then the controls */
    size_t case_count, control_count;
    struct comparison comparison;            /* of the suite's cases; points into the results */
    bool timings_only;                       /* as the options say */
    bool missed[AB_CONTROLS];
    char control_details[AB_CONTROLS][200];  /* what became of them, in words */
    uint64_t spent_ns;
};

/* `sides` run the suite's cases for A and for B. -1 when there is nothing to judge: a worker doesn't start, an
 * interrupt. */
int ab_run(const struct suite *suite, const struct executor sides[AB_SIDES], const struct ab_options *options,
           struct ab_report *report, struct plim_err *err);

/*
 * How often a process repeats a case, if one took `process_ns` with the suite's repeats: as often, and up to a tenth of a
 * second. On two shared cores the medians of a case of milliseconds spread by half as much with 20 repeats as with 5, and
 * hardly less with 60: from there on it is the processes that differ.
 */
int ab_repeats(const struct suite_case *c, uint64_t process_ns);

bool ab_controls_caught(const struct ab_report *report);

/* As comparison_exit_status, and 6 above all when a control was missed. */
int ab_exit_status(const struct ab_report *report, bool strict);

/* ab_print.c: the comparison's view, and how it was measured. */
int ab_print(const struct ab_report *report, const struct comparison_view *view, FILE *out, struct plim_err *err);

void ab_release(struct ab_report *report);

#endif
