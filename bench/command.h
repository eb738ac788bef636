#ifndef PLIM_COMMAND_H
#define PLIM_COMMAND_H

/* Other people's programs (git, cmake), run to their end. */

#include <stdio.h>

#include "plimsoll/err.h"

/*
 * Runs argv (NULL-terminated; argv[0] is looked up in PATH). Returns what it wrote to standard output, without the last
 * line break; free(). Its standard error goes to `log` (NULL: nowhere). NULL with `err`, kind system, when it fails or
 * can't be run: the message ends with its last words. An interrupt kills it.
 */
char *command_output(const char *const *argv, FILE *log, struct plim_err *err);

/* The same for its effect alone; standard output goes to `log` too. */
int command_run(const char *const *argv, FILE *log, struct plim_err *err);

#endif
