#ifndef PLIM_HISTORY_PLOT_H
#define PLIM_HISTORY_PLOT_H

/* A series over commits as a plot, through gnuplot like the others (plot.h): points, levels, and where they changed. */

#include "history.h"

/*
 * Writes NAME.tsv and NAME.gp into `directory`, which exists. `*name` is made from the series, free(). Drawing is
 * plot_draw's business.
 */
int history_plot_write(const struct series *series, const char *directory, const char *formats, char **name,
                       struct plim_err *err);

#endif
