#ifndef PLIM_CHECKPOINT_H
#define PLIM_CHECKPOINT_H

/*
 * The states before a block, saved in the job directory from time to time, so that a job that goes on does not run all
 * blocks before that one again:
 *
 *     states-measure-00012.bin    before block 12 of the measurement
 *     states-quantise-00012.bin   of the quantisation
 *     dense-quantise-00012.bin    the dense model's beside them, written before them
 *
 * At most one of each stays. They spare time and nothing else: without one the states are computed again, bit for bit.
 */

#include <stddef.h>

#include "conversion.h"

/* Saves c->current, and c->dense if there is one, before block `next` if the last time is long enough ago. That it cannot be saved is logged, no error. */
void checkpoint_save(struct conversion *c, const char *stage, size_t next);

/*
 * Loads the latest states saved before a block of at most `last` into c->current and c->dense, and returns that block: the first one
 * that is left to run. Without any returns 0, with c->current as it was.
 */
size_t checkpoint_load(struct conversion *c, const char *stage, size_t last);

/* Removes a stage's files: it is over. */
void checkpoint_clear(struct conversion *c, const char *stage);

#endif
