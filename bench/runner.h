#ifndef PLIM_RUNNER_H
#define PLIM_RUNNER_H

/*
 * The runner: takes the cases of a suite through an executor, one after the other, and writes the result after each, so
 * that a run that dies is a valid file that --resume continues.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "case_patterns.h"
#include "executor.h"
#include "plimsoll/err.h"
#include "result.h"
#include "suite.h"

struct run_options {
    const char *output;             /* the result file; NULL: only in memory */
    const char *resume;             /* a result of this suite to continue; NULL: start anew */
    struct case_patterns cases;     /* those to run */
    const char *models_directory;   /* where the suite's models are */
    int repeats;                    /* 0: as the suite says */
    const char *trace_directory;    /* exists; each case leaves its memory trace there; NULL: none */
    bool force_yardsticks;          /* also when the suite has nothing to time */
    FILE *progress;                 /* bar or lines; NULL: silent */
};

/*
 * Runs. `result` is empty before, and holds what was measured so far after a failure too: an interrupt
 * (PLIM_ERR_INTERRUPTED), a full disk, a worker that cannot be started. Cases that crash are no failure.
 */
int runner_run(const struct suite *suite, const struct executor *executor, const struct run_options *options,
               struct result *result, struct plim_err *err);

/*
 * Runs one case of the suite, apart from a run: `out`, empty before, becomes all that a result holds about it. -1 when it
 * has no outcome (executor.h). Of the options, models_directory and repeats are used.
 */
int runner_run_case(const struct suite *suite, const struct suite_case *c, const struct executor *executor,
                    const struct run_options *options, struct result_case *out, struct plim_err *err);

/* What a result says of a case before it has run: `out`, empty before, gets id, model, workload, parameters and arguments. */
int runner_describe_case(const struct suite *suite, const struct suite_case *c, struct result_case *out,
                         struct plim_err *err);

/* Whether a recorded case ended as its suite expects; with `ok` where the suite (NULL: none) doesn't know it. */
bool runner_expects(const struct suite *suite, const struct result_case *c);

/* How many recorded cases of the suite did not end as it expects. */
size_t runner_unexpected(const struct suite *suite, const struct result *result);

/* A case's memory trace, "DIRECTORY/tiny~prefill~max_dq_size=1Mi.trace"; free(). */
char *runner_trace_path(const char *directory, const char *id, struct plim_err *err);

/*
 * The table that ends a run: cases that did not end as the suite (may be NULL) expects first, then the others as they
 * ran; what the refused and failed ones said; the machine. As Markdown the details are folded.
 */
int runner_print(const struct suite *suite, const struct result *result, FILE *out, struct plim_err *err);
int runner_print_markdown(const struct suite *suite, const struct result *result, FILE *out, struct plim_err *err);

#endif
