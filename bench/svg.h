#ifndef PLIM_SVG_H
#define PLIM_SVG_H

/*
 * A small writer of inline SVG: shapes, text and axes. Colours and fonts come from the page's style sheet, through
 * classes, so that a drawing follows light and dark. Coordinates are CSS pixels at the drawing's natural size.
 *
 *     svg_begin(out, 360, 200, "peak bytes against max_dq_size");
 *     svg_line(out, 0, 0, 360, 200, "axis");
 *     svg_end(out);
 *
 * Text and titles are escaped here; classes are our own words.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* `label` is read aloud in place of the drawing. */
void svg_begin(FILE *out, double width, double height, const char *label);
void svg_end(FILE *out);

/* `title` is shown when a pointer rests on the shape; NULL or "": none. */
void svg_rect(FILE *out, double x, double y, double width, double height, const char *class, const char *title);
void svg_dot(FILE *out, double x, double y, double radius, const char *class, const char *title);
void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *class);
/* `anchor`: "start", "middle" or "end". */
void svg_text(FILE *out, double x, double y, const char *anchor, const char *class, const char *text);

struct svg_point {
    double x, y;
};

void svg_polyline(FILE *out, const struct svg_point *points, size_t count, const char *class);

void svg_polygon(FILE *out, const struct svg_point *points, size_t count, const char *class, const char *title);

/* Where values lie: `from`..`to` in data is `start`..`end` in pixels. */
struct svg_axis {
    double from, to, start, end;
    bool log;            /* then from and to are > 0 */
};

double svg_at(const struct svg_axis *axis, double value);

#define SVG_TICK_LIMIT 12

/*
 * Round values inside a linear axis, steps of 1, 2 or 5 times a power of ten times `unit` (1048576 for MiB), about
 * `wanted` of them. Returns how many.
 */
size_t svg_ticks(const struct svg_axis *axis, double unit, size_t wanted, double ticks[SVG_TICK_LIMIT]);

#endif
