#ifndef PLIM_PLOT_PARTS_H
#define PLIM_PLOT_PARTS_H

/* Between the files that write plots; nobody else includes this. */

#include <stdio.h>

#include "plot.h"

#define PLOT_DIMENSION_LIMIT 6   /* series or groups, the result included */
#define PLOT_PANEL_LIMIT 4
#define PLOT_HEADING_LIMIT 32

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

/*
 * What a panel shows, in words: "prefill_tokens_per_s" is "prefill (tokens/s)", since the unit that is shown replaces the
 * one in the name.
 */
void plot_panel_title(const char *metric, const char *unit, bool is_log, char *out, size_t size);

/* ---- lying bars (plot_rows.c): a row for each case, under a heading for each value of the first group ---- */

struct plot_row {
    const struct plot_case *like;
    double y;                     /* from the top; once laid out */
};

struct plot_rows {
    struct plot_row *items;
    size_t count;
    bool grouped;                 /* more than one dimension: headings */
    struct {
        const char *text;
        double y;
    } headings[PLOT_HEADING_LIMIT];
    size_t heading_count;
    double height;
};

/* Kind input when there is a bar with this label already. */
int plot_rows_add(struct plot_rows *rows, const struct plot_case *item, struct plim_err *err);
void plot_rows_lay_out(struct plot_rows *rows);
/* bars, bar_y[], bar_label[], bar_note[] (how a case ended), label_columns, headings, heading[], heading_y[]. */
void plot_rows_put(FILE *out, const struct plot_rows *rows);
void plot_rows_release(struct plot_rows *rows);

/* Each returns 0 with `text->data` NULL when there is nothing to draw. */
int plot_curve(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
               struct plim_err *err);
int plot_tag_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                  struct plim_err *err);
int plot_metric_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                     struct plim_err *err);

#endif
