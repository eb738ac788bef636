#ifndef PLIM_MEMORY_PLOT_H
#define PLIM_MEMORY_PLOT_H

/* Memory over time, by tag, drawn from a trace: a panel for each tier that was used, with the modules' boundaries. */

#include <stdbool.h>

#include "plimsoll/err.h"

struct memory_plot {
    const char *trace;        /* the file */
    const char *directory;
    const char *name;         /* of the images */
    const char *formats;      /* "png svg" */
    bool draw;                /* else script and data only */
};

int memory_plot_write(const struct memory_plot *plot, struct plim_err *err);

#endif
