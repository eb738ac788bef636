#ifndef PLIM_PARETO_H
#define PLIM_PARETO_H

/*
 * Memory against speed. A sweep of one job (model, workload, arguments) over parameters gives points (peak bytes,
 * tokens/s); those that no other point beats in both are its Pareto front: the best speed for each amount of memory.
 *
 *     struct pareto_fronts fronts = { 0 };
 *     pareto_find(&fronts, &result, &result, &err);
 *     for (size_t i = 0; i < fronts.count; i++) ...   // fronts.items[i].points, ascending in bytes
 *     pareto_release(&fronts);
 *
 * The gate asks what a single metric cannot: whether the best that could be had for an amount of memory can still be
 * had. Trading one for the other along the front is fine; losing a point of it is not.
 */

#include <stdbool.h>
#include <stddef.h>

#include "compare.h"
#include "result.h"

struct pareto_point {
    const struct result_case *c;    /* borrowed: the case that has the bytes */
    const struct metric *speed;     /* borrowed */
    double bytes, tokens_per_s;     /* median */
    bool on_front;
};

struct pareto_front {
    const char *model, *workload, *speed_name;   /* borrowed */
    struct pareto_point *points;                 /* ascending in bytes, then descending in speed */
    size_t count, front_count;
};

struct pareto_fronts {
    struct pareto_front *items;
    size_t count;
};

/*
 * The jobs of a result that have two points or more. Bytes come from `memory` and speeds from `timings`, which are one
 * and the same result, or a suite's two baselines; cases are matched by id.
 */
int pareto_find(struct pareto_fronts *fronts, const struct result *memory, const struct result *timings,
                struct plim_err *err);

void pareto_release(struct pareto_fronts *fronts);

/* Of an amount of memory, and of a stored speed; a stored speed carries its session's offset (gate: 3 to 8%). */
#define PARETO_BYTES_BOUND 0.01
#define PARETO_SPEED_BOUND 0.10

/*
 * Adds a finding for each point of the baseline's front that is lost: no point of the result's sweep with at most its
 * bytes is as fast, beyond the bounds, and for the speed with the whole bootstrap interval. A loss that the samples are
 * too few to show is inconclusive; one whose speed the suite does not gate is a warning. One note for each job says
 * what was kept. Does nothing where the machine classes differ. Sort the comparison afterwards.
 */
int pareto_compare(struct comparison *comparison, const struct result *memory, const struct result *timings,
                   const struct result *result, const struct compare_policy *policy, struct plim_err *err);

#endif
