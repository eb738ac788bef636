#ifndef PLIM_REPORT_H
#define PLIM_REPORT_H

/*
 * The report: a result, and what became of its baseline, as one HTML page for people.
 *
 * The page stands alone: no scripts, no files beside it, nothing from a network. It is well-formed XML too, follows the
 * reader's light or dark setting, fits a phone, and stays below REPORT_BYTES_LIMIT whatever the result holds: charts
 * are for the cases that matter most, and details of cases end when the room does (worst first, and it says so).
 */

#include <stdio.h>

#include "compare.h"
#include "result.h"
#include "suite.h"

#define REPORT_BYTES_LIMIT (1000 * 1000)

struct report_input {
    const struct result *result;
    /* What came before: one result for both, or a suite's two baselines; NULL where there is none. */
    const struct result *memory_before, *timings_before;
    const struct comparison *comparison;   /* sorted; NULL when nothing came before */
    const struct suite *suite;             /* says which curves to draw; NULL: none */
    const char *trace_directory;           /* of the result's memory traces; NULL: none */
    int exit_status;                       /* of the comparison */
};

/* Kind memory when there is not enough to prepare it. The caller looks at the stream's own errors. */
int report_write(const struct report_input *input, FILE *out, struct plim_err *err);

#endif
