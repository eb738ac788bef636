#ifndef PLIM_YARDSTICK_THREADS_H
#define PLIM_YARDSTICK_THREADS_H

/*
 * A few threads that do the same pass together, again and again, for a given time. Between passes all meet at a barrier,
 * so that every pass is timed from the first start to the last end.
 */

#include <stdint.h>

#include "plimsoll/err.h"

typedef void pass_function(void *context, int thread);

/*
 * *median_ns receives the median time of a pass. The first pass, which warms caches and clocks up, is not counted.
 * Thread 0 is the caller.
 */
int timed_passes(int threads, uint64_t duration_ns, pass_function *pass, void *context, double *median_ns,
                 struct plim_err *err);

#endif
