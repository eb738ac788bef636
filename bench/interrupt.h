#ifndef PLIM_INTERRUPT_H
#define PLIM_INTERRUPT_H

/*
 * Ctrl-C, politely. The first SIGINT, SIGTERM or SIGHUP is remembered and wakes whoever polls interrupt_fd; the second
 * one ends the program as usual.
 */

#include <stdbool.h>

#include "plimsoll/err.h"

int interrupt_install(struct plim_err *err);
bool interrupt_requested(void);

/* Readable from the first signal on (never read it); -1 before interrupt_install. */
int interrupt_fd(void);

#endif
