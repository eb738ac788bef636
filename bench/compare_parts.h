#ifndef PLIM_COMPARE_PARTS_H
#define PLIM_COMPARE_PARTS_H

/* Between the files that compare; nobody else includes this. */

#include "compare.h"

/*
 * Fills in verdict, values and detail of a finding whose two metrics may be compared. -1 only when memory is out. How the
 * suite gates the metric is the caller's business, its tolerances are not.
 */
int judge_metric(struct finding *f, const struct compare_policy *policy, struct plim_err *err);

/* For a judged timing of a baseline: it is gated only as far as the baseline's pooled runs agree with each other. */
void limit_stored_timing(struct finding *f, const struct compare_policy *policy);

/* Sets the finding's detail. */
void finding_say(struct finding *f, const char *format, ...) PLIM_PRINTF(2, 3);

#endif
