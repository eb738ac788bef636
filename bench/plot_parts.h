#ifndef PLIM_PLOT_PARTS_H
#define PLIM_PLOT_PARTS_H

/* Between the files that write plots; nobody else includes this. */

#include <stdio.h>

#include "plot.h"

#define PLOT_DIMENSION_LIMIT 6   /* series or groups, the result included */

/* One case that a plot shows. */
struct plot_case {
    const struct result_case *c;
    size_t result;                /* index into the job's results */
    char label[200];              /* of its series or bar: the dimensions' values, joined */
    const char *rest;             /* the label without the first dimension: series of one model share a colour */
    char first[64];
    size_t ranks[PLOT_DIMENSION_LIMIT];   /* of its value in each dimension, by first appearance; to sort by */
};

struct plot_cases {
    struct plot_case *items;
    size_t count;
};

/*
 * The cases that match the plot's pattern, labelled by its series or groups and sorted by them: by the first, then by the
 * second, ..., each value in the place of its first appearance. So "low_mem off" and "on" of one model are neighbours
 * whatever order they ran in.
 */
int plot_cases_find(struct plot_cases *cases, const struct plot_job *job, struct plim_err *err);

/*
 * A parameter's or an argument's value as a number; NaN when the case has none or it is no number ("none", "gated").
 */
double plot_dimension(const struct result_case *c, const char *name);

/* A parameter's or an argument's unit, or "". */
const char *plot_dimension_unit(const char *name);

/* A gnuplot string in single quotes, in which nothing is special. */
void put_quoted(FILE *out, const char *text);

/* NAME = 'text' */
void put_variable(FILE *out, const char *name, const char *text);

/* NAME = a number that gnuplot does not take for an integer, whose division it would cut. */
void put_real(FILE *out, const char *name, double value);

/* The scale and unit that suit values up to `most`: 1048576 and "MiB" for bytes, 1e6 and "ms" for nanoseconds. */
struct plot_unit {
    double scale;
    const char *unit;
};

struct plot_unit plot_unit_for(const char *unit, double most);

/* The text of a file of tools/gnuplot, in the source tree or installed; free(). */
char *plot_read_style(const char *file, struct plim_err *err);

/* The result of a plot's own file: everything that goes in front of the style. */
struct plot_text {
    char *data;          /* NAME.tsv */
    char *preamble;      /* values for the script */
    const char *style;   /* "curve.gp" */
};

/* Two streams that write the texts. Close also after a failed open; it sets `err` for anything that did not work. */
struct plot_streams {
    FILE *data, *preamble;
    size_t data_bytes, preamble_bytes;
};

int plot_streams_open(struct plot_streams *streams, struct plot_text *text, struct plim_err *err);
int plot_streams_close(struct plot_streams *streams, struct plim_err *err);

/* A file of tools/gnuplot, in the source tree or installed; free(). */
char *plot_read_style(const char *file, struct plim_err *err);

/* Each returns 0 with `text->data` NULL when there is nothing to draw. */
int plot_curve(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
               struct plim_err *err);
int plot_tag_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                  struct plim_err *err);

#endif
