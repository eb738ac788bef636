#ifndef PLIM_GATE_CONTROL_H
#define PLIM_GATE_CONTROL_H

/*
 * The positive control of `plimsoll gate`, which measures nothing: a page is added to a memory metric in a copy of one
 * of the result's cases, and a quarter to a timing of a hidden one; comparing the copies must find both. It is the
 * gate's own comparison, under the run's own policy and the suite's own gates, that is tested.
 */

#include <stdbool.h>

#include "compare.h"
#include "result.h"

struct gate_control {
    bool page_planted, page_found;     /* not planted: no memory metric is gated, or the policy leaves exact ones out */
    bool delay_planted, delay_found;   /* not planted: the policy leaves timings out */
};

int gate_control_run(const struct result *result, const struct compare_policy *policy, struct gate_control *out,
                     struct plim_err *err);

bool gate_control_missed(const struct gate_control *control);

#endif
