#ifndef PLIM_SCRATCH_H
#define PLIM_SCRATCH_H

/*
 * A directory for files that nobody needs afterwards, below $TMPDIR or /tmp. While it is open it is the current directory:
 * paths in it are short and the same wherever it lies, and so are the bytes that the engine keeps them in.
 */

#include "plimsoll/err.h"

struct scratch {
    char *path;    /* absolute; NULL: not open */
    int home;      /* the directory that was current before; -1: none */
};

#define SCRATCH_INIT { .home = -1 }

/* On failure nothing is left. */
int scratch_open(struct scratch *scratch, struct plim_err *err);

/* Goes back, and removes the directory with all that is in it (links, not what they lead to). Also when not open. */
void scratch_close(struct scratch *scratch);

#endif
