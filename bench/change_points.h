#ifndef PLIM_CHANGE_POINTS_H
#define PLIM_CHANGE_POINTS_H

/*
 * Where a series of measurements over commits changed its level.
 *
 * The series is fitted by a piecewise constant with least absolute deviations (a Potts fit in L1: medians, so that
 * outliers do not pull), and the number of pieces J + 1 minimises
 *
 *     log(sum of absolute deviations) + J * 4 ln(n) / n
 *
 * which is the Bayesian information criterion for Laplace noise of unknown scale with four degrees of freedom a break,
 * as airspeed velocity (asv) does it (its documentation, "Step detection"; Friedrich, Kempe, Liebscher, Winkler,
 * "Complexity penalized M-estimation", 2008). asv searches over the penalty; here every J is solved exactly by dynamic
 * programming, O(n^2 J).
 *
 * A break counts as a change when both levels lasted (CHANGE_MIN_POINTS), differ by the minimum magnitude, and the
 * points on its two sides differ by Mann-Whitney's test (p < 0.01). Breaks that do not are merged away. Deterministic.
 */

#include <stdbool.h>
#include <stddef.h>

#include "plimsoll/err.h"

#define CHANGE_MIN_POINTS 3
#define CHANGE_MIN_MAGNITUDE 0.03
#define CHANGE_MAX_P 0.01
#define CHANGE_MAX_POINTS 1000   /* of a longer series the last so many are looked at */
#define CHANGE_LIMIT 24          /* breaks */

struct change_point {
    size_t index;                /* the first point of the new level */
    double before, after;        /* levels: medians */
    double ratio;                /* after / before */
    double p;
};

struct change_points {
    struct change_point items[CHANGE_LIMIT];
    size_t count;
    double last_level;           /* median behind the last change */
    double best_level;           /* the best median of any level, or of any CREEP_POINTS points in a row */
    size_t best_index;           /* where that begins */
    double creep;                /* how much worse last is than best, relative; 0 or more */
    bool crept;                  /* and that is beyond magnitude and chance, whether or not there was a single step */
};

/*
 * `values` > 0, oldest first; `higher_is_better` says which way is worse. `exact`: every change counts, however small,
 * from its first point on, since there is no noise (magnitude and test are not applied; unequal neighbours are a
 * break).
 */
int change_points_find(struct change_points *out, const double *values, size_t count, bool higher_is_better, bool exact,
                       struct plim_err *err);

#endif
