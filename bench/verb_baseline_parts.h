#ifndef PLIM_VERB_BASELINE_PARTS_H
#define PLIM_VERB_BASELINE_PARTS_H

/* Between the files of `plimsoll baseline`; nobody else includes this. */

#include <argp.h>

#include "plimsoll/err.h"

/* Calls `visit` with each CLASS/SUITE.json below `directory`, in alphabetical order, until one returns -1. */
int each_baseline_path(const char *directory, int (*visit)(void *context, const char *path, struct plim_err *err),
                       void *context, struct plim_err *err);

/* Says what went wrong, if anything did; the verb's exit status. */
int finish_verb(int rc, const struct plim_err *err);

/* The verbs; argv[0] is what argp calls the program. */
int baseline_accept_verb(int argc, char **argv);
int baseline_allow_verb(int argc, char **argv);
int baseline_prune_verb(int argc, char **argv);
int baseline_migrate_verb(int argc, char **argv);

#endif
