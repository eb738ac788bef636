/* Timings: every sample as a dot, the middle half as a box, the median as a line; before above, after below. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "markup.h"
#include "plot_parts.h"
#include "report_parts.h"
#include "statistics.h"
#include "svg.h"
#include "table.h"

#define STRIPS_IN_SIGHT 6
#define TIMING_CASES 60
#define DOT_LIMIT 60

struct strip {
    const struct result_case *c;
    const struct metric *before, *after;
    double change;   /* of the medians, relative; how far apart they are decides the order */
};

static int by_change(const void *a, const void *b)
{
    const struct strip *x = a, *y = b;
    if (fabs(x->change) != fabs(y->change))
        return fabs(x->change) > fabs(y->change) ? -1 : 1;
    return strcmp(x->c->id, y->c->id);
}

static struct strip make_strip(const struct report_input *input, const struct result_case *c)
{
    struct strip strip = { c, NULL, report_leading_timing(c), 0 };
    const struct result_case *before = report_case_before(input->timings_before, c);
    if (!strip.after || !before)
        return strip;
    strip.before = case_find_metric(before, strip.after->name);
    if (strip.before && !strip.before->sample_count)
        strip.before = NULL;
    double base = strip.before ? metric_median(strip.before) : 0;
    if (base > 0)
        strip.change = metric_median(strip.after) / base - 1;
    return strip;
}

static void widen(struct svg_axis *axis, const struct metric *metric)
{
    for (size_t i = 0; metric && i < metric->sample_count; i++) {
        axis->from = fmin(axis->from, metric->samples[i]);
        axis->to = fmax(axis->to, metric->samples[i]);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int put_samples(FILE *out, const struct metric *metric, const struct svg_axis *axis, double y,
                       const char *class, struct plim_err *err)
{
    char text[60], value[40];
    size_t n = metric->sample_count;
    double *sorted = heap_calloc(n, sizeof *sorted, err);
    if (!sorted)
        return -1;
    memcpy(sorted, metric->samples, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    double low = svg_at(axis, quantile_of_sorted(sorted, n, 0.25)),
           high = svg_at(axis, quantile_of_sorted(sorted, n, 0.75));
    double middle = svg_at(axis, quantile_of_sorted(sorted, n, 0.5));
    snprintf(text, sizeof text, "box %s", class);
    svg_rect(out, low, y - 7, fmax(high - low, 1), 14, text, NULL);
    for (size_t i = 0; i < n && i < DOT_LIMIT; i++)
        svg_dot(out, svg_at(axis, metric->samples[i]), y, 3, class,
                format_value(value, sizeof value, metric->samples[i], metric->unit));
    snprintf(text, sizeof text, "middle %s", class);
    svg_line(out, middle, y - 9, middle, y + 9, text);
    free(sorted);
    return 0;
}

static int put_strip(FILE *out, const struct strip *strip, struct plim_err *err)
{
    struct svg_axis axis = { INFINITY, -INFINITY, 48, REPORT_CHART_WIDTH - 10, false };
    double ticks[SVG_TICK_LIMIT], height = strip->before ? 68 : 46;
    char text[48], change[32] = "";
    widen(&axis, strip->before);
    widen(&axis, strip->after);
    double pad = fmax((axis.to - axis.from) * 0.05, fabs(axis.to) * 0.02);
    axis.from -= pad;
    axis.to += pad;
    fputs("<figure><figcaption>", out);
    report_put_id(out, strip->c->id);
    fputs("<br/><span>", out);
    if (strip->before)
        snprintf(change, sizeof change, " (%+.1f%%)", 100 * strip->change);
    markup_printf(out, "%s: median %s%s, %zu sample%s", strip->after->name,
                  format_value(text, sizeof text, metric_median(strip->after), strip->after->unit), change,
                  strip->after->sample_count, strip->after->sample_count == 1 ? "" : "s");
    fputs("</span></figcaption>\n", out);
    svg_begin(out, REPORT_CHART_WIDTH, height, strip->after->name);
    struct plot_unit unit = plot_unit_for(strip->after->unit, axis.to);
    size_t count = svg_ticks(&axis, unit.scale, 3, ticks);
    for (size_t i = 0; i < count; i++) {
        double x = svg_at(&axis, ticks[i]);
        snprintf(text, sizeof text, "%.6g%s%s", ticks[i] / unit.scale, i + 1 == count ? " " : "",
                 i + 1 == count ? unit.unit : "");
        svg_line(out, x, 0, x, height - 16, "grid");
        svg_text(out, x, height - 4, x > REPORT_CHART_WIDTH - 60 ? "end" : "middle", "soft", text);
    }
    int rc = 0;
    if (strip->before) {
        svg_text(out, 0, 16, "start", "soft", "before");
        rc = put_samples(out, strip->before, &axis, 12, "before", err);
    }
    svg_text(out, 0, height - 30, "start", "soft", strip->before ? "after" : "");
    if (rc == 0)
        rc = put_samples(out, strip->after, &axis, height - 34, "after", err);
    svg_end(out);
    fputs("</figure>\n", out);
    return rc;
}

int report_timings(const struct report_input *input, FILE *out, struct plim_err *err)
{
    const struct result *result = input->result;
    struct strip *strips = heap_calloc(result->case_count, sizeof *strips, err);
    size_t count = 0;
    int rc = strips ? 0 : -1;
    for (size_t i = 0; strips && i < result->case_count; i++) {
        struct strip strip = make_strip(input, &result->cases[i]);
        if (strip.after)
            strips[count++] = strip;
    }
    if (count) {
        qsort(strips, count, sizeof *strips, by_change);
        size_t shown = count < TIMING_CASES ? count : TIMING_CASES;
        fputs("<h2>Timings</h2>\n<p>Every sample is a dot, the box holds the middle half, the line is the median; the "
              "largest change comes first. Two runs at different times also differ by what the machine was doing.",
              out);
        if (shown < count)
            fprintf(out, " %zu of %zu cases.", shown, count);
        fputs("</p>\n<div class=\"charts\">\n", out);
        for (size_t i = 0; i < shown && rc == 0; i++) {
            if (i == STRIPS_IN_SIGHT) {
                fputs("</div>\n", out);
                report_fold(out, shown - i, "cases");
                fputs("<div class=\"charts\">\n", out);
            }
            rc = put_strip(out, &strips[i], err);
        }
        fputs(shown > STRIPS_IN_SIGHT ? "</div></details>\n" : "</div>\n", out);
    }
    free(strips);
    return rc;
}
