#ifndef PLIM_SCRATCH_H
#define PLIM_SCRATCH_H

/*
 * A directory for files that nobody needs afterwards, below $TMPDIR or /tmp. While it is open it is the current directory:
 * paths in it are short and the same wherever it lies, and so are the bytes that the engine keeps them in.
 *
 * It is locked while it is open, so that one that is not was left by a process that was killed, and can be removed.
 */

#include "plimsoll/err.h"

struct scratch {
    char *path;    /* absolute; NULL: not open */
    int home;      /* the directory that was current before; -1: none */
    int lock;      /* held on the directory; -1: not open */
};

#define SCRATCH_INIT { .home = -1, .lock = -1 }

/* Sweeps before. On failure nothing is left. */
int scratch_open(struct scratch *scratch, struct plim_err *err);

/* Goes back, and removes the directory with all that is in it (links, not what they lead to). Also when not open. */
void scratch_close(struct scratch *scratch);

/* Removes the directories that killed processes left. */
void scratch_sweep(void);

#endif
