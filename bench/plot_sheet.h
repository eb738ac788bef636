#ifndef PLIM_PLOT_SHEET_H
#define PLIM_PLOT_SHEET_H

/*
 * Plots of numbers that come from no suite's result: memory traces, frontiers, thresholds. The same two files as for a
 * suite's plots (plot.h), NAME.tsv and NAME.gp, and the same look.
 *
 *     struct plot_sheet sheet = { .name = "frontier", .style = "frontier.gp", .title = "...", ... };
 *     if (plot_sheet_open(&sheet, &err) == 0) {
 *         fprintf(sheet.data, ...);          // rows, tab-separated
 *         put_real(sheet.preamble, ...);     // what the style needs (plot_parts.h)
 *     }
 *     rc = plot_sheet_finish(&sheet, draw, &err);
 */

#include <stdbool.h>
#include <stdio.h>

#include "plimsoll/err.h"

struct plot_sheet {
    const char *directory;      /* made when it isn't there */
    const char *name;           /* of the files, without ending */
    const char *style;          /* in tools/gnuplot */
    const char *title, *subtitle;
    const char *formats;        /* "png svg" */
    FILE *data, *preamble;      /* between open and finish */
    char *data_text, *preamble_text;
    size_t data_bytes, preamble_bytes;
};

int plot_sheet_open(struct plot_sheet *sheet, struct plim_err *err);

/* Writes both files, and runs gnuplot if asked. Also after a failed open: releases everything. */
int plot_sheet_finish(struct plot_sheet *sheet, bool draw, struct plim_err *err);

#endif
