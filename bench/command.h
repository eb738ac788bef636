#ifndef PLIM_COMMAND_H
#define PLIM_COMMAND_H

/* Other people's programs (git, cmake), run to their end. */

#include <stdio.h>

#include "plimsoll/err.h"

/*
 * Runs argv (NULL-terminated; argv[0] is looked up in PATH). Returns what it wrote to standard output, without the last
 * line break; free(). Its standard error goes to `log` (NULL: nowhere). NULL with `err`, kind system, when it fails or
 * can't be run: the message ends with the last words of its standard error. An interrupt stops it: it is asked to, so that it
 * can clear up, and killed after a while.
 */
char *command_output(const char *const *argv, FILE *log, struct plim_err *err);

/* The same for its effect alone; standard output goes to `log` too, and may have the last words. */
int command_run(const char *const *argv, FILE *log, struct plim_err *err);

/* For clearing up: runs to its end although we were interrupted, and whether it fails doesn't matter. */
void command_clear_up(const char *const *argv);

#endif
