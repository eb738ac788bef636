#ifndef PLIM_SHARE_H
#define PLIM_SHARE_H

/* Where the files that come with the program are: suites, baselines, plot styles. */

#include "plimsoll/err.h"

/*
 * The path of `relative` ("suites/smoke.json"): below the current directory if it exists there, else below
 * ../share/plimsoll beside the installed program, else in the source tree above a build directory. Where none exists,
 * `relative` itself, so that errors name what was looked for. free(); NULL with `err` when memory is out.
 */
char *share_locate(const char *relative, struct plim_err *err);

#endif
