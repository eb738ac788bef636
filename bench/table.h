#ifndef PLIM_TABLE_H
#define PLIM_TABLE_H

/*
 * Tables for people: aligned columns on a terminal, or Markdown for a pull request.
 *
 *     struct table t = TABLE_INIT;
 *     table_column(&t, "case", TABLE_LEFT);
 *     table_column(&t, "speed", TABLE_RIGHT);
 *     table_cell(&t, STYLE_PLAIN, "%s", id);
 *     table_cell(&t, STYLE_BAD, "%.1f tokens/s", speed);      // cells fill row after row
 *     rc = table_print(&t, stdout, table_colours(stdout), err);
 *     table_release(&t);
 *
 * Memory that runs out is remembered and reported by the print, so that building needs no checks. Columns are as wide
 * as their widest cell in terminal columns (UTF-8, wide and combining characters counted as terminals do).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "plimsoll/err.h"

enum text_style {
    STYLE_PLAIN,
    STYLE_STRONG,
    STYLE_DIM,
    STYLE_GOOD,
    STYLE_WARN,
    STYLE_BAD,
    STYLE_CODE,    /* plain on a terminal, a code span in Markdown */
    STYLE_COUNT
};

enum table_align { TABLE_LEFT, TABLE_RIGHT };

#define TABLE_COLUMN_LIMIT 16

struct table {
    const char *titles[TABLE_COLUMN_LIMIT];   /* borrowed */
    enum table_align aligns[TABLE_COLUMN_LIMIT];
    size_t column_count;
    struct table_cell *cells;                 /* row after row */
    size_t cell_count;
    bool failed;                              /* memory ran out */
};

#define TABLE_INIT { .column_count = 0 }

/* Adds a column; all of them before the first cell. More than TABLE_COLUMN_LIMIT is a bug and ignored. */
void table_column(struct table *table, const char *title, enum table_align align);

/* The next cell. Line breaks become spaces. */
void table_cell(struct table *table, enum text_style style, const char *format, ...) PLIM_PRINTF(3, 4);

/* Empty cells up to the end of the row that was begun; does nothing at the start of a row. */
void table_end_row(struct table *table);

/* Prints heading and rows. Kind memory or system on failure. */
int table_print(const struct table *table, FILE *out, bool colours, struct plim_err *err);

/* The same as a GitHub-flavoured Markdown table; what would be markup is escaped, styles WARN and BAD are bold. */
int table_print_markdown(const struct table *table, FILE *out, struct plim_err *err);

void table_release(struct table *table);

/* Whether `stream` should get colours: a terminal, NO_COLOR unset or empty (no-color.org), TERM not "dumb". */
bool table_colours(FILE *stream);

/* Escape sequences around one styled piece of text; "" when `colours` is false. */
const char *style_begin(enum text_style style, bool colours);
const char *style_end(enum text_style style, bool colours);

/* How many terminal columns `text` takes. */
size_t text_columns(const char *text);

/*
 * A value with its unit as people read it: bytes as "1.50 GiB", "ns" as "13.4 ms", "bytes/s" as "12.3 GB/s", "flop/s" as
 * "88.1 GFLOP/s", whole counts in full, others with four digits and the unit behind. 40 bytes are enough for units of
 * up to 12; returns `buffer`.
 */
char *format_value(char *buffer, size_t size, double value, const char *unit);

/* The same for a difference: with a sign, and bytes below 1 MiB in full ("+4096 B"). */
char *format_difference(char *buffer, size_t size, double difference, const char *unit);

#endif
