#ifndef PLIM_AB_BUILD_H
#define PLIM_AB_BUILD_H

/* What `--a` and `--b` of an A/B run may name, and how it becomes a program to run. */

#include <stdio.h>

#include "plimsoll/err.h"

/*
 * The program to run as a worker; free(). `name` is, in this order,
 *
 *   - a plimsoll program,
 *   - a build directory with a program `plimsoll` in it,
 *   - a git revision of the repository that the current directory belongs to. It is built for release, with what
 *     $PLIMSOLL_CMAKE_OPTIONS adds, in a worktree that nobody else uses and that is removed again; the program is kept in
 *     $XDG_CACHE_HOME/plimsoll/builds/COMMIT (or ~/.cache/...; COMMIT-DIGEST with options), and found there the next time. An interrupt leaves nothing of it; what a killed build left is removed
 *     by the next one.
 *
 * What building says goes to `log` (NULL: nowhere).
 */
char *ab_build_resolve(const char *name, FILE *log, struct plim_err *err);

#endif
