#ifndef PLIM_FRONTIER_PRINT_H
#define PLIM_FRONTIER_PRINT_H

/* What a frontier search found: for people, for programs, and drawn. */

#include <stdbool.h>
#include <stdio.h>

#include "frontier.h"

int frontier_print(const struct frontier *frontier, const struct frontier_question *question, FILE *out, bool colours,
                   struct plim_err *err);

/* As JSON; free(). */
char *frontier_format(const struct frontier *frontier, const struct frontier_question *question, struct plim_err *err);

/* The measured points and the front in (peak bytes, tokens/s): DIRECTORY/frontier.{tsv,gp}, and the images if asked. */
int frontier_plot(const struct frontier *frontier, const struct frontier_question *question, const char *directory,
                  bool draw, struct plim_err *err);

#endif
