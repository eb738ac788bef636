#ifndef PLIM_CROSSING_H
#define PLIM_CROSSING_H

/*
 * Where two cost curves cross: two ways of doing the same work, timed at several sizes, each fitted by a curve.
 *
 * Two curves are tried, and the one that leaves the smaller relative residuals is used for both arms: a line,
 * t = a + b x (a fixed cost and a cost per unit), and a power, ln t = a + b ln x. Both are fitted by least squares of the
 * relative error to the median at each size, which a rare slow sample does not move. The interval is a percentile
 * bootstrap: samples are redrawn within each size and arm, and curves and crossing found again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "statistics.h"

enum crossing_curve { CURVE_LINE, CURVE_POWER };

/* Arm 0 is what is done below the switch, arm 1 above it. */
struct crossing_data {
    const double *x;            /* [size_count], ascending, > 0; at least 3 */
    size_t size_count;
    size_t rounds;              /* samples of each arm at each size; at least 3 */
    const double *times[2];     /* [size_count][rounds], > 0 */
};

struct crossing {
    enum crossing_curve curve;
    double a[2], b[2];          /* of the arms' curves */
    double residual;            /* root mean square of the relative error, both arms */
    struct interval at;         /* 0: arm 1 is faster from the first size on; infinite: arm 0 is, to the last */
    double reversed;            /* the fraction of redraws whose curves cross the wrong way round, left out above */
    bool crosses_backwards;     /* the curves themselves do: arm 1 is better for small sizes; `at` means nothing */
};

/* Kind input when the data are too few or not positive. */
int crossing_find(const struct crossing_data *data, const struct bootstrap_options *options, struct crossing *out,
                  struct plim_err *err);

/* The fitted time of an arm at x. */
double crossing_time(const struct crossing *crossing, int arm, double x);

#endif
