#ifndef PLIM_GATE_CONTROL_H
#define PLIM_GATE_CONTROL_H

/*
 * The positive controls of `plimsoll gate`: what it must find, or its verdicts mean nothing.
 *
 *   copy    a page is added to a memory metric in a copy of one of the result's own cases: judged under the run's own
 *           policy and the suite's own gates
 *   page    two processes run a hidden case, one of them with a page of memory planted by the worker
 *   delay   pairs of processes run another, one of each with a quarter more time planted
 *
 * The hidden cases go the whole way that a measurement goes: worker, pool, protocol, result, comparison. Noise can hide
 * the delay once, but not for long: up to three times eight pairs are run before it counts as missed.
 */

#include <stdbool.h>

#include "compare.h"
#include "executor.h"
#include "result.h"

struct gate_control_part {
    bool planted;                /* false: the policy leaves it out, or no memory metric of the result is gated */
    bool found;
};

struct gate_control {
    struct gate_control_part copy, page, delay;
};

struct gate_control_options {
    struct executor executor;    /* runs the hidden cases; run_case NULL: only the copy is controlled */
    bool blind;                  /* plant nothing, so that people can see the alarm */
};

int gate_control_run(const struct result *result, const struct compare_policy *policy,
                     const struct gate_control_options *options, struct gate_control *out, struct plim_err *err);

/* What was planted and not found, in words; NULL when all was found. */
const char *gate_control_missed(const struct gate_control *control);

#endif
