#ifndef PLIM_THREADS_H
#define PLIM_THREADS_H

/*
 * A team of threads for parallel loops.
 *
 * The caller is one of the team. Workers spin for a short while after each loop, so that the hundreds of loops of one
 * decoded token cost no system calls, and then sleep. A loop's range is cut into pieces that depend only on the range,
 * the grain and the number of threads, so results that depend on the cut are repeatable. Which thread runs a piece is
 * left to the moment.
 */

#include <stddef.h>

#include "plimsoll/err.h"

struct threads;

/* One piece: [begin, end) of the range; `thread` is 0 .. count-1 and runs one piece at a time. */
typedef void threads_body(void *context, size_t begin, size_t end, int thread);

/* `count` threads in all, the caller included. */
int threads_open(struct threads **threads, int count, struct plim_err *err);
void threads_close(struct threads *threads);

/* NULL counts as one thread. */
int threads_count(const struct threads *threads);

/*
 * Runs `body` over [0, range) in at most `count` contiguous pieces, whose borders are multiples of `grain`. Returns when
 * all pieces are done. With one thread, or a range of at most one grain, it is a plain call. Not reentrant.
 */
void threads_run(struct threads *threads, size_t range, size_t grain, threads_body *body, void *context);

#endif
