#ifndef PLIM_PLOT_H
#define PLIM_PLOT_H

/*
 * Plots, through gnuplot: what a suite asks for, drawn from one or several results.
 *
 * A plot is made in two steps. Writing leaves NAME.tsv (the numbers, in base units) and NAME.gp (a script that needs
 * nothing else), and drawing runs gnuplot on the script. Anyone can change either file and redraw:
 *
 *     cd DIRECTORY && gnuplot NAME.gp
 *
 * How a plot looks is written in gnuplot, in tools/gnuplot: style.gp for all of them, curve.gp, metric_bars.gp and
 * tag_bars.gp for the kinds. The script is these files with a plot's own values in front.
 */

#include <stdbool.h>
#include <stddef.h>

#include "plimsoll/err.h"
#include "result.h"
#include "suite.h"

struct plot_job {
    const struct suite_plot *plot;
    const struct result *results;   /* of one suite */
    size_t result_count;
    const char *directory;          /* exists */
    const char *formats;            /* "png svg" */
};

/*
 * Writes script and data. `*name` becomes SUITE-PLOT, free(), or NULL when the results have nothing that the plot could
 * show (no case matches, none has the metrics): that is no error, since a partial run is plotted too.
 */
int plot_write(const struct plot_job *job, char **name, struct plim_err *err);

/* Runs gnuplot on a script that plot_write wrote. Kind system when gnuplot is missing or fails, with its own words. */
int plot_draw(const char *directory, const char *name, struct plim_err *err);

#endif
