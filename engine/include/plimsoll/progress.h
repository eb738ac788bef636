#ifndef PLIMSOLL_PROGRESS_H
#define PLIMSOLL_PROGRESS_H

/*
 * Progress of long work: a bar with ETA that redraws itself on a terminal, plain lines (at most one each few seconds)
 * elsewhere. Written to standard error.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct plim_progress {
    FILE *stream;            /* NULL: silent */
    bool terminal;
    const char *title;       /* borrowed */
    const char *unit;        /* borrowed: "tensors", "cases" */
    uint64_t total, done;
    uint64_t start_ns, last_drawn_ns;
    bool drawn;
};

void plim_progress_start(struct plim_progress *progress, FILE *stream, const char *title, const char *unit,
                         uint64_t total);

/* Sets how much is done; `detail` (may be NULL) says what is being done now. */
void plim_progress_update(struct plim_progress *progress, uint64_t done, const char *detail);

/* Clears the bar, so that ordinary lines can follow. */
void plim_progress_finish(struct plim_progress *progress);

#endif
