#ifndef PLIM_CONTROL_H
#define PLIM_CONTROL_H

/*
 * Positive controls: a slowdown and bytes that are put into a case on purpose, by the worker, so that a gate can show
 * that it would have seen them. Travels in the request; zeros plant nothing.
 */

#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

struct control {
    double delay_fraction;   /* the measured part takes this much longer: 0.25 for a quarter */
    uint64_t extra_bytes;    /* held on the fast tier, as workspace, while the case runs */
};

/* Ends a measured part that began at `start_ns`: keeps the processor busy for the planted fraction of what passed. */
void control_delay(const struct control *control, uint64_t start_ns);

/* Takes the planted bytes; *block is NULL when there are none. The caller frees it before the pool closes. */
int control_hold(const struct control *control, struct plim_pool *pool, void **block, struct plim_err *err);

#endif
