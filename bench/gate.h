#ifndef PLIM_GATE_H
#define PLIM_GATE_H

/*
 * The gate: a result against its suite's baselines, the one for all machines and the one of its machine class.
 *
 *     struct gate gate;
 *     if (gate_compare(&gate, &result, &options, &err) == 0)
 *         ...                                   // gate.comparison: sorted findings, exit status
 *     gate_release(&gate);                      // also after a failure
 */

#include <stdbool.h>

#include "compare.h"
#include "result.h"

struct gate_options {
    const char *directory;         /* of the baselines */
    struct compare_policy policy;  /* its classes say which baselines to look for */
    bool demand_timings;           /* no timings baseline of this machine class is an error, not a note */
};

struct gate {
    struct result exact, machine;  /* baselines; empty where there is none */
    struct comparison comparison;  /* points into them and into the result */
};

/*
 * Compares. Kind compare when the suite has no baseline at all, when the run is incomplete (what did not run cannot be
 * judged), or when timings are demanded and there are none of this machine class.
 */
int gate_compare(struct gate *gate, const struct result *result, const struct gate_options *options,
                 struct plim_err *err);

void gate_release(struct gate *gate);

#endif
