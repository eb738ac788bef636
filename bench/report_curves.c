/* The curves that the suite asks for, and the Pareto fronts of its sweeps. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "markup.h"
#include "pareto.h"
#include "plimsoll/units.h"
#include "plot_parts.h"
#include "report_parts.h"
#include "svg.h"
#include "table.h"

#define CHART_HEIGHT 210.0
#define CURVE_POINTS 128
#define SERIES_LIMIT 6       /* as many as there are colours */
#define FRONT_LIMIT 12

/* ---- a frame: two axes with their ticks ---- */

struct frame {
    struct svg_axis x, y;
    struct plot_unit y_unit;
};

static void put_y_axis(FILE *out, const struct frame *frame, const char *name)
{
    double ticks[SVG_TICK_LIMIT];
    char text[60];
    size_t count = svg_ticks(&frame->y, frame->y_unit.scale, 4, ticks);
    for (size_t i = 0; i < count; i++) {
        double y = svg_at(&frame->y, ticks[i]);
        snprintf(text, sizeof text, "%.6g", ticks[i] / frame->y_unit.scale);
        svg_line(out, frame->x.start, y, frame->x.end, y, "grid");
        svg_text(out, frame->x.start - 5, y + 4, "end", "soft", text);
    }
    snprintf(text, sizeof text, "%s", *frame->y_unit.unit ? frame->y_unit.unit : name);
    svg_text(out, 0, 11, "start", "soft", text);
    svg_line(out, frame->x.start, frame->y.start, frame->x.end, frame->y.start, "axis");
}

static void put_tick(FILE *out, const struct frame *frame, double value, const char *text)
{
    double x = svg_at(&frame->x, value);
    svg_line(out, x, frame->y.start, x, frame->y.start + 4, "axis");
    svg_text(out, x, frame->y.start + 16, "middle", "soft", text);
}

static struct frame make_frame(double x_from, double x_to, double y_from, double y_to, const char *y_unit)
{
    struct frame frame = {
        .x = { x_from, x_to, 46, REPORT_CHART_WIDTH - 20, false },
        .y = { y_from, y_to, CHART_HEIGHT - 38, 20, false },
        .y_unit = plot_unit_for(y_unit, y_to),
    };
    return frame;
}

/* ---- curves ---- */

struct curve_point {
    double x, y;
    size_t series;
    const char *id;
};

struct curve {
    const struct suite_plot *plot;
    const char *metric, *unit;
    struct curve_point points[CURVE_POINTS];   /* of the result */
    size_t count;
    const char *series[SERIES_LIMIT];          /* labels, borrowed from the cases */
    size_t series_count;
};

static bool find_series(struct curve *curve, const char *label, size_t *series)
{
    for (*series = 0; *series < curve->series_count; (*series)++) {
        if (strcmp(curve->series[*series], label) == 0)
            return true;
    }
    if (curve->series_count == SERIES_LIMIT)
        return false;
    curve->series[curve->series_count++] = label;
    return true;
}

static void take_points(struct curve *curve, const struct plot_cases *cases)
{
    for (size_t i = 0; i < cases->count && curve->count < CURVE_POINTS; i++) {
        const struct result_case *c = cases->items[i].c;
        const struct metric *metric = case_find_metric(c, curve->metric);
        double x = plot_dimension(c, curve->plot->x);
        size_t series;
        if (!metric || !metric->sample_count || !isfinite(x) || (curve->plot->x_is_log && x <= 0) ||
            !find_series(curve, cases->items[i].label, &series))
            continue;
        curve->unit = metric->unit;
        curve->points[curve->count++] = (struct curve_point){ x, metric_median(metric), series, c->id };
    }
}

static int by_series_and_x(const void *a, const void *b)
{
    const struct curve_point *p = a, *q = b;
    if (p->series != q->series)
        return p->series < q->series ? -1 : 1;
    return (p->x > q->x) - (p->x < q->x);
}

/* Ticks stand where the sweep has points; where that gets narrow some are left out. */
static void put_curve_ticks(FILE *out, const struct frame *frame, const struct curve *curve)
{
    double last = -INFINITY;
    char text[40];
    for (size_t n = 0; n < curve->count; n++) {
        double next = INFINITY;
        for (size_t i = 0; i < curve->count; i++) {
            double at = svg_at(&frame->x, curve->points[i].x);
            if (at > last + 52 && curve->points[i].x < next)
                next = curve->points[i].x;
        }
        if (!isfinite(next))
            return;
        last = svg_at(&frame->x, next);
        if (next == floor(next) && next >= 0 && next < 1e15)
            plim_format_count(text, sizeof text, (uint64_t)next);
        else
            snprintf(text, sizeof text, "%.4g", next);
        put_tick(out, frame, next, text);
    }
}

static void put_series(FILE *out, const struct frame *frame, const struct curve *curve)
{
    struct svg_point line[CURVE_POINTS];
    char class[16], title[300], value[40];
    for (size_t i = 0; i < curve->count;) {
        size_t series = curve->points[i].series, n = 0;
        for (; i < curve->count && curve->points[i].series == series; i++)
            line[n++] =
                (struct svg_point){ svg_at(&frame->x, curve->points[i].x), svg_at(&frame->y, curve->points[i].y) };
        snprintf(class, sizeof class, "line s%zu", series);
        svg_polyline(out, line, n, class);
    }
    for (size_t i = 0; i < curve->count; i++) {
        const struct curve_point *p = &curve->points[i];
        snprintf(class, sizeof class, "line s%zu", p->series);
        snprintf(title, sizeof title, "%.200s: %s", p->id, format_value(value, sizeof value, p->y, curve->unit));
        svg_dot(out, svg_at(&frame->x, p->x), svg_at(&frame->y, p->y), 3.5, class, title);
    }
}

static void put_curve(FILE *out, struct curve *curve)
{
    double low = INFINITY, high = -INFINITY, most = 0;
    for (size_t i = 0; i < curve->count; i++) {
        low = fmin(low, curve->points[i].x);
        high = fmax(high, curve->points[i].x);
        most = fmax(most, curve->points[i].y);
    }
    qsort(curve->points, curve->count, sizeof *curve->points, by_series_and_x);
    struct frame frame = make_frame(low, high, 0, most > 0 ? most * 1.08 : 1, curve->unit);
    frame.x.log = curve->plot->x_is_log;
    fputs("<figure><figcaption>", out);
    markup_put(out, curve->metric);
    fputs("<span> against ", out);
    markup_put(out, curve->plot->x);
    fputs("</span></figcaption>\n", out);
    svg_begin(out, REPORT_CHART_WIDTH, CHART_HEIGHT, curve->metric);
    put_y_axis(out, &frame, curve->metric);
    put_curve_ticks(out, &frame, curve);
    const char *unit = plot_dimension_unit(curve->plot->x);
    char name[120];
    snprintf(name, sizeof name, "%s%s%s", curve->plot->x, *unit ? ", " : "", unit);
    svg_text(out, frame.x.end, CHART_HEIGHT - 4, "end", "soft", name);
    put_series(out, &frame, curve);
    svg_end(out);
    if (curve->series_count > 1 || *curve->series[0]) {
        fputs("<ul class=\"legend\">", out);
        for (size_t s = 0; s < curve->series_count; s++) {
            fprintf(out, "<li><i class=\"line s%zu\"></i>", s);
            markup_put(out, curve->series[s]);
            fputs("</li>", out);
        }
        fputs("</ul>", out);
    }
    fputs("</figure>\n", out);
}

static int put_plot(FILE *out, const struct report_input *input, const struct suite_plot *plot, bool *headed,
                    struct plim_err *err)
{
    struct plot_job job = { plot, input->result, 1, "", "" };
    struct plot_cases cases = { 0 };
    bool titled = false;
    int rc = plot_cases_find(&cases, &job, err);
    for (size_t y = 0; rc == 0 && plot->y && plot->y[y]; y++) {
        struct curve curve = { .plot = plot, .metric = plot->y[y], .unit = "" };
        take_points(&curve, &cases);
        if (curve.count < 2)
            continue;
        if (!*headed)
            fputs("<h2>Sweeps</h2>\n", out);
        *headed = true;
        if (!titled) {
            fputs("<h3>", out);
            markup_put(out, plot->title ? plot->title : plot->name);
            fputs("</h3>\n<div class=\"charts\">\n", out);
        }
        titled = true;
        put_curve(out, &curve);
    }
    if (titled)
        fputs("</div>\n", out);
    free(cases.items);
    return rc;
}

int report_curves(const struct report_input *input, FILE *out, struct plim_err *err)
{
    bool headed = false;
    for (size_t i = 0; input->suite && i < input->suite->plot_count; i++) {
        const struct suite_plot *plot = &input->suite->plots[i];
        if (plot->kind == PLOT_CURVE && put_plot(out, input, plot, &headed, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- Pareto fronts ---- */

static void measure(const struct pareto_front *front, double *low, double *high, double *most)
{
    for (size_t i = 0; front && i < front->count; i++) {
        *low = fmin(*low, front->points[i].bytes);
        *high = fmax(*high, front->points[i].bytes);
        *most = fmax(*most, front->points[i].tokens_per_s);
    }
}

/* A step: that speed is to be had from these bytes on. */
static void put_front(FILE *out, const struct frame *frame, const struct pareto_front *front, const char *class,
                      bool dashed)
{
    struct svg_point *line = calloc(2 * front->count + 1, sizeof *line);
    char text[32], title[300], bytes[40], speed[40];
    size_t n = 0;
    for (size_t i = 0; line && i < front->count; i++) {
        const struct pareto_point *p = &front->points[i];
        if (!p->on_front)
            continue;
        double x = svg_at(&frame->x, p->bytes), y = svg_at(&frame->y, p->tokens_per_s);
        if (n) {
            line[n] = (struct svg_point){ x, line[n - 1].y };
            n++;
        }
        line[n++] = (struct svg_point){ x, y };
    }
    if (n) {
        line[n] = (struct svg_point){ frame->x.end, line[n - 1].y };
        n++;
    }
    snprintf(text, sizeof text, "%s%s", class, dashed ? " dash" : "");
    if (n)
        svg_polyline(out, line, n, text);
    free(line);
    for (size_t i = 0; i < front->count; i++) {
        const struct pareto_point *p = &front->points[i];
        snprintf(text, sizeof text, "%s%s", class, p->on_front ? "" : " weak");
        snprintf(title, sizeof title, "%.200s: %s, %s", p->c->id, format_value(bytes, sizeof bytes, p->bytes, "bytes"),
                 format_value(speed, sizeof speed, p->tokens_per_s, "tokens/s"));
        svg_dot(out, svg_at(&frame->x, p->bytes), svg_at(&frame->y, p->tokens_per_s), p->on_front ? 4 : 3, text, title);
    }
}

static const struct pareto_front *same_front(const struct pareto_fronts *fronts, const struct pareto_front *like)
{
    for (size_t i = 0; i < fronts->count; i++) {
        const struct pareto_front *f = &fronts->items[i];
        if (strcmp(f->model, like->model) == 0 && strcmp(f->workload, like->workload) == 0 &&
            strcmp(f->speed_name, like->speed_name) == 0 && f->count == like->count &&
            strcmp(f->points[0].c->id, like->points[0].c->id) == 0)
            return f;
    }
    return NULL;
}

static void put_front_chart(FILE *out, const struct pareto_front *now, const struct pareto_front *before)
{
    double low = INFINITY, high = 0, most = 0, ticks[SVG_TICK_LIMIT];
    char text[40];
    measure(now, &low, &high, &most);
    measure(before, &low, &high, &most);
    double pad = fmax((high - low) * 0.06, high * 0.02);
    struct frame frame = make_frame(fmax(low - pad, 0), high + pad, 0, most * 1.1, "tokens/s");
    struct plot_unit unit = plot_unit_for("bytes", high);
    fputs("<figure><figcaption>", out);
    markup_printf(out, "%s, %s", now->model, now->workload);
    markup_printf(out, ": %zu of %zu points on the front", now->front_count, now->count);
    fputs("<span>; peak bytes against ", out);
    markup_put(out, now->speed_name);
    fputs("</span></figcaption>\n", out);
    svg_begin(out, REPORT_CHART_WIDTH, CHART_HEIGHT, "peak memory against speed");
    put_y_axis(out, &frame, "tokens/s");
    size_t count = svg_ticks(&frame.x, unit.scale, 4, ticks);
    for (size_t i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%.6g", ticks[i] / unit.scale);
        put_tick(out, &frame, ticks[i], text);
    }
    snprintf(text, sizeof text, "peak, %s", unit.unit);
    svg_text(out, frame.x.end, CHART_HEIGHT - 4, "end", "soft", text);
    if (before)
        put_front(out, &frame, before, "before", true);
    put_front(out, &frame, now, "after", false);
    svg_end(out);
    fputs("</figure>\n", out);
}

int report_fronts(const struct report_input *input, FILE *out, struct plim_err *err)
{
    struct pareto_fronts now = { 0 }, before = { 0 };
    int rc = -1;
    if (pareto_find(&now, input->result, input->result, err) < 0)
        goto out;
    if (input->memory_before && input->timings_before &&
        pareto_find(&before, input->memory_before, input->timings_before, err) < 0)
        goto out;
    if (now.count) {
        fputs(
            "<h2>Memory against speed</h2>\n<p>Settings of one job. On the line: nothing else is as fast in as little "
            "memory (the Pareto front).</p>\n",
            out);
        if (before.count)
            fputs("<ul class=\"legend\"><li><i class=\"before\"></i>before</li><li><i "
                  "class=\"after\"></i>after</li></ul>\n",
                  out);
        fputs("<div class=\"charts\">\n", out);
        for (size_t i = 0; i < now.count && i < FRONT_LIMIT; i++)
            put_front_chart(out, &now.items[i], same_front(&before, &now.items[i]));
        fputs("</div>\n", out);
    }
    rc = 0;

out:
    pareto_release(&now);
    pareto_release(&before);
    return rc;
}
