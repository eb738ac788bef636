#include "svg.h"

#include <math.h>

#include "markup.h"

void svg_begin(FILE *out, double width, double height, const char *label)
{
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"",
            width, height);
    markup_put(out, label);
    fputs("\">\n", out);
}

void svg_end(FILE *out)
{
    fputs("</svg>\n", out);
}

static void end_shape(FILE *out, const char *element, const char *title)
{
    if (!title || !*title) {
        fputs("/>\n", out);
        return;
    }
    fputs("><title>", out);
    markup_put(out, title);
    fprintf(out, "</title></%s>\n", element);
}

void svg_rect(FILE *out, double x, double y, double width, double height, const char *class, const char *title)
{
    fprintf(out, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"", class, x, y, width, height);
    end_shape(out, "rect", title);
}

void svg_dot(FILE *out, double x, double y, double radius, const char *class, const char *title)
{
    fprintf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\"", class, x, y, radius);
    end_shape(out, "circle", title);
}

void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *class)
{
    fprintf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x1, y1, x2, y2);
}

void svg_text(FILE *out, double x, double y, const char *anchor, const char *class, const char *text)
{
    fprintf(out, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", class, x, y, anchor);
    markup_put(out, text);
    fputs("</text>\n", out);
}

void svg_polyline(FILE *out, const struct svg_point *points, size_t count, const char *class)
{
    fprintf(out, "<polyline class=\"%s\" points=\"", class);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s%.1f,%.1f", i ? " " : "", points[i].x, points[i].y);
    fputs("\"/>\n", out);
}

void svg_polygon(FILE *out, const struct svg_point *points, size_t count, const char *class, const char *title)
{
    fprintf(out, "<polygon class=\"%s\" points=\"", class);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s%.1f,%.1f", i ? " " : "", points[i].x, points[i].y);
    fputc('"', out);
    end_shape(out, "polygon", title);
}

double svg_at(const struct svg_axis *axis, double value)
{
    double from = axis->log ? log2(axis->from) : axis->from, to = axis->log ? log2(axis->to) : axis->to;
    double at = axis->log ? log2(value) : value;
    if (to == from)
        return (axis->start + axis->end) / 2;
    return axis->start + (at - from) / (to - from) * (axis->end - axis->start);
}

size_t svg_ticks(const struct svg_axis *axis, double unit, size_t wanted, double ticks[SVG_TICK_LIMIT])
{
    double span = (axis->to - axis->from) / unit;
    if (!(span > 0) || !isfinite(span))
        return 0;
    double raw = span / (double)wanted, power = pow(10, floor(log10(raw))), step = power;
    if (raw > 5 * power)
        step = 10 * power;
    else if (raw > 2 * power)
        step = 5 * power;
    else if (raw > power)
        step = 2 * power;
    size_t count = 0;
    for (double n = ceil(axis->from / unit / step - 1e-9); count < SVG_TICK_LIMIT; n++) {
        double value = n * step * unit + 0.0;   /* never -0 */
        if (value > axis->to + 1e-9 * (axis->to - axis->from))
            break;
        ticks[count++] = value;
    }
    return count;
}
