#ifndef PLIM_POOL_TRACE_H
#define PLIM_POOL_TRACE_H

/*
 * The recorder behind plim_pool_trace_start: turns changes of requested bytes into the file of plimsoll/memory_trace.h.
 *
 * Its memory is plain heap memory, never the pool's: what is measured must not change by being watched. The pool's lock is
 * held around every call.
 */

#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

struct pool_trace;

/* Creates the file and records what is held already, as origin 0. NULL with `err` set. */
struct pool_trace *pool_trace_open(const char *path, const struct plim_pool_stats *stats, const char *scope,
                                   struct plim_err *err);

/* Writes what is left and closes. -1 with `err` when any write failed, at whatever time. Frees the recorder. */
int pool_trace_close(struct pool_trace *trace, struct plim_err *err);

/* The program enters a scope. */
void pool_trace_scope(struct pool_trace *trace, const char *scope);

/* The number of (current scope, site): what a block keeps so that its release is told apart from others'. */
uint16_t pool_trace_origin(struct pool_trace *trace, const char *site);

/* What `tag` holds changes by a difference modulo 2^64. */
void pool_trace_change(struct pool_trace *trace, enum plim_tier tier, enum plim_tag tag, uint16_t origin,
                       uint64_t difference);

/* The same for weights_mapped, which has no blocks to remember origins: one origin for all of it. */
void pool_trace_mapped(struct pool_trace *trace, enum plim_tier tier, uint64_t difference);

#endif
