#ifndef PLIM_AB_PARTS_H
#define PLIM_AB_PARTS_H

/* What the files of an A/B run share. Others include ab.h. */

#include "ab.h"
#include "plimsoll/progress.h"
#include "plimsoll/random.h"

/* ---- ab_measure.c ---- */

/*
 * Measures one pair of a case in fresh processes and keeps it for the stage, unless the machine was disturbed and the
 * case may still replace pairs. Outcomes and all metrics are merged into what is known of the case either way.
 */
int ab_measure_pair(struct ab_case *c, enum ab_stage stage, const struct ab_options *options, struct plim_err *err);

/*
 * The number that a process stands for: the quartile of its repeats on the fast side. Interruptions only make a repeat
 * slower, so the faster repeats tell what the build does, and the slower ones what the neighbours did; a slower build is
 * slower in all. Of A/A pairs on two shared cores, whether quiet, copying files or compiling, the differences spread by 0.45
 * to 1 of what they do with the median (one series of many with two threads: 1.03), and a third to all of those beyond 10%
 * are gone. NaN when there is none that a ratio can be made of.
 */
double ab_process_timing(const struct metric *metric);

/* Whether the case needs another pair in the stage. */
bool ab_wants_pair(const struct ab_case *c, enum ab_stage stage);

/* Exact metrics must have been the same in all processes; where they were not, the case failed. */
int ab_check_exact(struct ab_case *c, struct plim_err *err);

void ab_release_pairs(struct ab_pairs *pairs);

/* ---- ab_plan.c ---- */

/* Judges the screening of a case: its evidence and suspicion. */
int ab_judge_screening(struct ab_case *c, const struct ab_rules *rules, struct plim_err *err);

/*
 * Chooses which of the screened cases are confirmed, and with how many pairs (case.wanted), so that it fits `left_ns`:
 * all that are not clear if possible; with fewer pairs, as long as they can still convict, if not; and else the most
 * suspicious ones. Returns how many.
 */
size_t ab_plan_confirmation(struct ab_case *cases, size_t count, uint64_t left_ns, const struct ab_rules *rules);

/*
 * After an instalment of fresh pairs: which confirmed cases get more (case.wanted), because their interval is still too wide,
 * as far as `left_ns` goes. `extended` is how many.
 */
int ab_plan_more(struct ab_case *cases, size_t count, uint64_t left_ns, const struct ab_rules *rules, size_t *extended,
                 struct plim_err *err);

/* Judges the confirmed cases together, and settles the verdict of every timed case. */
int ab_settle(struct ab_case *cases, size_t count, const struct ab_rules *rules, struct plim_err *err);

/* ---- ab_report.c ---- */

/* Compares what was merged, adds the timings' findings and looks at the controls. */
int ab_report_findings(struct ab_report *report, struct plim_err *err);

/* The timing of a case, in words: the change, its interval, and the smallest slowdown that would have been seen. */
void ab_describe(const struct ab_case *c, char *text, size_t size);

#endif
