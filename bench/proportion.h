#ifndef PLIM_PROPORTION_H
#define PLIM_PROPORTION_H

/* How often something happened, and what that says about how often it happens. */

#include <stddef.h>

#include "statistics.h"

/*
 * `count` of `n` trials (n >= 1), with the exact interval of Clopper and Pearson (1934): never covers less than
 * `level`. 0 of 300 at 0.95 gives 0 to 0.0122.
 */
struct interval proportion(size_t count, size_t n, double level);

#endif
