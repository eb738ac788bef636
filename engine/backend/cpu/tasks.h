#ifndef PLIM_CPU_TASKS_H
#define PLIM_CPU_TASKS_H

/*
 * Tasks of unequal size for the team: each thread takes the next one that nobody has. Which thread runs a task is a
 * matter of luck, so a task's result must not depend on it: fixed borders, no shared sums.
 */

#include <stddef.h>

#include "backend.h"

typedef void cpu_task(void *context, size_t task);

/* Runs tasks 0 .. count-1, with BLAS single-threaded meanwhile. */
void cpu_run_tasks(struct backend *backend, size_t count, cpu_task *run, void *context);

#endif
