#ifndef PLIM_COMPARE_H
#define PLIM_COMPARE_H

/*
 * Comparing a result with a baseline, or with another result: what changed, how sure that is, and what it means for the
 * gate.
 *
 *     struct comparison c = COMPARISON_INIT;
 *     compare_results(&c, &baseline, &result, &policy, &err);
 *     comparison_sort(&c);
 *     view.exit_status = comparison_exit_status(&c, strict);
 *     comparison_print(&c, &view, stdout, &err);
 *     comparison_release(&c);          // before the results, whose parts the findings point to
 *
 * How a metric is compared depends on its class:
 *
 *   exact    must be equal; all samples of one run must agree, else the metric is nondeterministic and fails as such.
 *            Worse fails unless an allowance in the baseline covers it (bytes, reason, last day), better says that the
 *            baseline is stale, and a change of what has no better direction (a digest) fails. Digests are compared under
 *            equal keys only.
 *   bounded  median within a relative (or absolute) bound.
 *   system   minimum of the samples within a tolerance: over max(2%, 2 MiB) is a warning, over max(10%, 10 MiB) fails; a
 *            suite's own tolerance fails at once. The minimum, since other programs only ever add.
 *   timing   the ratio of medians with a bootstrap interval. Fails when the whole interval is slower than the minimum
 *            effect (3%), improved when it is faster by as much, passes when a slowdown of 5/3 of it (5%) is excluded,
 *            and is inconclusive otherwise, with fewer than 5 samples on a side, or when the machine was busy: when the
 *            recorded load average at the start of a run was over 1.25 for each core. Against a baseline a timing can
 *            only fail where the baseline pools three runs or more whose medians agree within 10% (an A/A trial of what
 *            is stored), and only beyond what these differ by; else it is reported, as a warning. Faster with another
 *            output is no improvement: the verdict is invalid_output.
 *
 * Exact and bounded metrics are compared across machines; system and timing only within one machine class.
 *
 * Results of two engines (result_engine) share only timings and bytes: counts and digests are each engine's own. What one of them lacks, a case or a metric, is left out, and the slower one fails nothing.
 *
 * Timings stored earlier carry their session's own offset, which no number of samples removes. Good enough to see large
 * changes; a judgement about small ones needs both builds run interleaved, which fills the same structures.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "result.h"
#include "statistics.h"

/* From harmless to worst; findings are shown in the opposite order. */
enum verdict {
    VERDICT_SKIPPED,       /* not comparable: another machine class, no ratio; the detail says why */
    VERDICT_NEW,           /* no baseline yet */
    VERDICT_PASS,
    VERDICT_IMPROVED,
    VERDICT_ALLOWED,       /* exact and worse, but within an allowance of the baseline that has not expired */
    VERDICT_INCONCLUSIVE,  /* not enough evidence either way */
    VERDICT_STALE,         /* exact, and better than the baseline: accept it, or the gain can be lost unseen */
    VERDICT_MISSING,       /* the baseline has it, the result has not */
    VERDICT_WARN,          /* worse, but the suite or the class's tolerance says: only warn */
    VERDICT_INVALID_OUTPUT,  /* faster, but the output changed: not the same work */
    VERDICT_FAIL,
    VERDICT_BROKEN,        /* the case crashed, timed out, failed or ran out of memory, and did not before */
    VERDICT_COUNT
};

const char *verdict_name(enum verdict verdict);   /* "pass", "fail" ... */

#define COMPARE_EXACT (1u << METRIC_EXACT)
#define COMPARE_BOUNDED (1u << METRIC_BOUNDED)
#define COMPARE_SYSTEM (1u << METRIC_SYSTEM)
#define COMPARE_TIMING (1u << METRIC_TIMING)
#define COMPARE_PORTABLE (COMPARE_EXACT | COMPARE_BOUNDED)   /* what travels between machines */
#define COMPARE_MACHINE (COMPARE_SYSTEM | COMPARE_TIMING)
#define COMPARE_ALL (COMPARE_PORTABLE | COMPARE_MACHINE)

struct compare_policy {
    unsigned classes;                 /* COMPARE_...: what to look at */
    unsigned ungated_classes;         /* of these also what has its gate off; it can warn but not fail */
    double bounded_relative;          /* defaults where a metric carries no tolerance of its own */
    double system_warn_relative, system_fail_relative;
    double system_warn_bytes, system_fail_bytes;
    double timing_effect;
    size_t timing_min_samples;
    char today[11];                   /* "2026-11-24", UTC: allowances end */
    double timing_level;              /* of the interval of a ratio of medians */
};

/* The figures above. */
struct compare_policy compare_policy_default(void);

struct finding {
    const struct result_case *baseline_case, *result_case;   /* borrowed; one may be NULL */
    const struct metric *baseline, *result;                  /* borrowed; both NULL: about the case itself */
    enum metric_class class;                                 /* of metrics */
    enum verdict verdict;
    double baseline_value, result_value;   /* what was compared: the value, minimum or median; NaN for texts */
    struct interval slowdown;              /* timings: how many times worse, 1.05 for 5%; else all 0 */
    double worse;                          /* relative change for the worse, to sort by; 0 when it has no number */
    bool few_samples;                      /* inconclusive for that reason alone */
    bool reported_only;                    /* a stored timing that can't be gated, whatever it shows */
    size_t order;                          /* as they come in the result */
    char detail[240];                      /* why, in words; "" */
};

struct comparison {
    struct finding *findings;         /* worst first, once comparison_sort was called */
    size_t finding_count;
    size_t counts[VERDICT_COUNT];
    size_t compared_count;            /* metrics that were really compared, and outcomes that broke */
    const char *suite_name;           /* borrowed from the result */
    const char *result_path, *baseline_paths[2];
    size_t baseline_count;
    const char *engines[2];           /* borrowed: of the baseline and of the result where they differ, else NULL */
    char baseline_class[104], result_class[104];   /* where machine classes differ, else "" */
    bool machine_refused;             /* system metrics or timings were left out for that */
    size_t reported_only_count;       /* timings that were worse or better, but are not gated */
    char notes[8][320];               /* to print above the table */
    size_t note_count;
};

#define COMPARISON_INIT { .finding_count = 0 }

/*
 * Adds the findings of one baseline (or result taken as such). May be called again with another baseline of the same
 * suite: `plimsoll gate` compares with the exact one and with the machine's. Results of different suites: kind compare.
 */
int compare_results(struct comparison *comparison, const struct result *baseline, const struct result *result,
                    const struct compare_policy *policy, struct plim_err *err);

/*
 * Whether other programs kept the machine busy when the run began: its load average was over 1.25 for each core.
 * `load` (may be NULL) gets the load average. False when the result doesn't say, as baselines don't.
 */
bool result_was_busy(const struct result *result, double *load);

/* Adds a finding that was made elsewhere (ab.h), and counts it. */
int comparison_add(struct comparison *comparison, const struct finding *finding, struct plim_err *err);

/* Worst first; equal ones in the result's order. */
void comparison_sort(struct comparison *comparison);

/* Adds a line to print above the table; more than eight are dropped. */
void comparison_note(struct comparison *comparison, const char *format, ...) PLIM_PRINTF(2, 3);

/*
 * 3 when nothing was compared (a gate that looks at nothing must not be green), 1 on a failure, 5 on a broken case, 4 on
 * an inconclusive one under `strict`, else 0. Under `strict` stale and missing values are failures too.
 */
int comparison_exit_status(const struct comparison *comparison, bool strict);

enum comparison_format { COMPARISON_TERMINAL, COMPARISON_MARKDOWN, COMPARISON_JSON };

struct comparison_view {
    enum comparison_format format;
    bool all;            /* also what passed, is new, or had too few samples; JSON always has everything */
    int exit_status;     /* said, not decided, here */
};

/* compare_print.c. Findings are printed in the order they have: sort first. */
int comparison_print(const struct comparison *comparison, const struct comparison_view *view, FILE *out,
                     struct plim_err *err);

/* The document that COMPARISON_JSON prints, for callers that add to it; incomplete when memory is out. */
struct cJSON *comparison_to_json(const struct comparison *comparison, int exit_status);

void comparison_release(struct comparison *comparison);

#endif
