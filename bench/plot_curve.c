/*
 * Curves: metrics over one parameter, a line for each series.
 *
 * The knee of a curve is where a limit stops mattering: the smallest x from which on y stays within 1% of its value at
 * the largest x. It is the knee only if something comes before it (a point more than 1% off) and a plateau after it (at
 * least one more point). Read it as "between the x before and this one": a sweep knows nothing between its points.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "metrics.h"
#include "plimsoll/units.h"
#include "plot_parts.h"
#include "statistics.h"
#include "table.h"

#define SERIES_LIMIT 24
#define NOTE_LIMIT 5
#define COLOR_COUNT 7          /* style.gp */
#define PLATEAU 0.01
#define LABEL_FRACTION 0.05    /* of the x axis, for the name of a tick */
#define LOG_SCALE_FROM 30.0    /* greatest over least value from which a panel gets a log axis */

struct value {
    double median, low, high, predicted;   /* low and high: quartiles; NaN where there is none */
};

struct point {
    double x;
    struct value y[PLOT_PANEL_LIMIT];
    bool failed;                           /* a case at this x did not finish */
    const struct result_case *c[PLOT_PANEL_LIMIT];   /* whose value it is */
};

struct series {
    const struct plot_case *like;          /* any of its cases, for the labels */
    struct point *points;                  /* by ascending x */
    size_t count;
    double knee;                           /* of the first panel's curve; NaN: none */
    int color, dash;                       /* 1-based */
};

struct curve {
    const struct suite_plot *plot;
    const char *y[PLOT_PANEL_LIMIT];            /* metrics, one a panel; borrowed, as are the units */
    const char *units[PLOT_PANEL_LIMIT];        /* NULL: no case has the metric */
    size_t panels;
    struct series series[SERIES_LIMIT];
    size_t series_count;
};

/* ---- gathering ---- */

/* Whether what stands behind the curve is the dense model's value. */
static bool has_dense_value(const char *metric)
{
    return strcmp(metric, "perplexity") == 0;
}

/*
 * What stands behind a metric's curve: what was predicted for it (predicted_peak_bytes for the total, predicted_TAG_bytes
 * for peak_TAG_bytes), or what the dense model has.
 */
static const struct metric *find_prediction(const struct result_case *c, const char *metric)
{
    char name[96];
    if (has_dense_value(metric))
        return case_find_metric(c, "reference_perplexity");
    if (strcmp(metric, "peak_requested_fast_bytes") == 0)
        return case_find_metric(c, "predicted_peak_bytes");
    if (strncmp(metric, "peak_", 5) != 0)
        return NULL;
    snprintf(name, sizeof name, "predicted_%s", metric + 5);
    return case_find_metric(c, name);
}

/* A tag or a phase that never held anything has no metric; its peak is 0 all the same. */
static bool is_silent(const struct result_case *c, const char *metric)
{
    return metric_is_silent_peak(metric) && case_find_metric(c, "peak_requested_fast_bytes") != NULL;
}

static struct value value_of(const struct result_case *c, const struct metric *metric)
{
    const struct metric *prediction = find_prediction(c, metric->name);
    /* Not the extremes: on a shared machine one sample in a few is far out, and would set the scale for all. */
    struct interval half = middle_half(metric->samples, metric->sample_count);
    return (struct value){ half.estimate, half.low, half.high, prediction ? metric_median(prediction) : NAN };
}

static struct series *series_of(struct curve *curve, const struct plot_case *item, struct plim_err *err)
{
    for (size_t i = 0; i < curve->series_count; i++) {
        if (strcmp(curve->series[i].like->label, item->label) == 0)
            return &curve->series[i];
    }
    if (curve->series_count == SERIES_LIMIT) {
        plim_err_input(err, "more than %d series: more than anybody can read; choose fewer \"cases\"", SERIES_LIMIT);
        return NULL;
    }
    struct series *added = &curve->series[curve->series_count++];
    *added = (struct series){ .like = item, .knee = NAN };
    return added;
}

static struct point *point_at(struct series *series, double x, struct plim_err *err)
{
    size_t place = 0;
    while (place < series->count && series->points[place].x < x)
        place++;
    if (place < series->count && series->points[place].x == x)
        return &series->points[place];
    struct point *points = heap_room(series->points, series->count, sizeof *points, err);
    if (!points)
        return NULL;
    series->points = points;
    memmove(&points[place + 1], &points[place], (series->count - place) * sizeof *points);
    points[place] = (struct point){ .x = x };
    for (size_t p = 0; p < PLOT_PANEL_LIMIT; p++)
        points[place].y[p] = (struct value){ NAN, NAN, NAN, NAN };
    series->count++;
    return &points[place];
}

static int add_case(struct curve *curve, const struct plot_case *item, struct plim_err *err)
{
    const struct result_case *c = item->c;
    double x = plot_dimension(c, curve->plot->x);
    bool has_metric = false;
    for (size_t p = 0; p < curve->panels; p++)
        has_metric |= case_find_metric(c, curve->y[p]) != NULL;
    if (isnan(x) || (curve->plot->x_is_log && x <= 0) || (!has_metric && c->outcome == OUTCOME_OK))
        return 0;   /* a case of another kind; nothing to place it by, or nothing to show */
    struct series *series = series_of(curve, item, err);
    struct point *point = series ? point_at(series, x, err) : NULL;
    if (!point)
        return -1;
    point->failed |= c->outcome != OUTCOME_OK;
    for (size_t p = 0; p < curve->panels && c->outcome == OUTCOME_OK; p++) {
        const struct metric *metric = case_find_metric(c, curve->y[p]);
        bool is_zero = !metric && is_silent(c, curve->y[p]);
        if (!is_zero && (!metric || !metric->sample_count))
            continue;
        if (point->c[p])
            return plim_err_input(err, "%s and %s fall on one point: add what tells them apart to \"series\"",
                                  point->c[p]->id, c->id);
        point->c[p] = c;
        point->y[p] = is_zero ? (struct value){ 0, 0, 0, 0 } : value_of(c, metric);
        curve->units[p] = is_zero ? "bytes" : metric->unit;
    }
    return 0;
}

/* ---- the knee, colours ---- */

static double find_knee(const struct series *series)
{
    const struct point *points = series->points;
    size_t last = series->count;
    while (last > 0 && isnan(points[last - 1].y[0].median))
        last--;
    if (last < 3)
        return NAN;
    double plateau = points[last - 1].y[0].median;
    size_t first = last - 1;
    while (first > 0 && fabs(points[first - 1].y[0].median - plateau) <= PLATEAU * fabs(plateau))
        first--;
    return first > 0 && first < last - 1 ? points[first].x : NAN;
}

/* One colour for each value of the first dimension, one kind of dash for each of the others; or only colours. */
static void choose_styles(struct curve *curve)
{
    const char *firsts[SERIES_LIMIT], *rests[SERIES_LIMIT];
    size_t first_count = 0, rest_count = 0;
    for (size_t i = 0; i < curve->series_count; i++) {
        struct series *s = &curve->series[i];
        size_t f = 0, r = 0;
        while (f < first_count && strcmp(firsts[f], s->like->first) != 0)
            f++;
        while (r < rest_count && strcmp(rests[r], s->like->rest) != 0)
            r++;
        if (f == first_count)
            firsts[first_count++] = s->like->first;
        if (r == rest_count)
            rests[rest_count++] = s->like->rest;
        s->color = (int)(f % COLOR_COUNT) + 1;
        s->dash = (int)(r % 5) + 1;
    }
    for (size_t i = 0; i < curve->series_count && first_count == 1; i++) {
        curve->series[i].color = (int)(i % COLOR_COUNT) + 1;
        curve->series[i].dash = 1;
    }
}

/* ---- data and script ---- */

static void put_value(FILE *out, double value)
{
    char text[32];
    fprintf(out, "\t%s", isnan(value) ? "NaN" : format_number(text, sizeof text, value));
}

static void put_data(FILE *out, const struct curve *curve)
{
    char text[32];
    fprintf(out, "# x: %s; then median, lower quartile, upper quartile, predicted of", curve->plot->x);
    for (size_t p = 0; p < curve->panels; p++)
        fprintf(out, "%s %s", p ? "," : "", curve->y[p]);
    fprintf(out, "; then 1 where a case did not finish\n");
    for (size_t i = 0; i < curve->series_count; i++) {
        const struct series *s = &curve->series[i];
        fprintf(out, "%s# %s\n", i ? "\n\n" : "", s->like->label);
        for (size_t k = 0; k < s->count; k++) {
            const struct point *point = &s->points[k];
            fputs(format_number(text, sizeof text, point->x), out);
            for (size_t p = 0; p < curve->panels; p++) {
                put_value(out, point->y[p].median);
                put_value(out, point->y[p].low);
                put_value(out, point->y[p].high);
                put_value(out, point->y[p].predicted);
            }
            fprintf(out, "\t%d\n", point->failed ? 1 : 0);
        }
    }
}

/* "256 Ki", "1.5": counts as people write them. */
static char *format_x(double x, char *buffer, size_t size)
{
    if (x >= 1024 && fmod(x, 128) == 0)
        return plim_format_count(buffer, size, (uint64_t)x);
    return format_number(buffer, size, x);
}

static double axis_place(double x, bool is_log)
{
    return is_log ? log2(x) : x;
}

static void put_x(FILE *out, const struct curve *curve)
{
    double low = INFINITY, high = -INFINITY, seen[64];
    size_t seen_count = 0;
    for (size_t i = 0; i < curve->series_count; i++) {
        for (size_t k = 0; k < curve->series[i].count; k++) {
            double x = curve->series[i].points[k].x;
            size_t j = 0;
            low = fmin(low, x);
            high = fmax(high, x);
            while (j < seen_count && seen[j] < x)
                j++;
            if ((j < seen_count && seen[j] == x) || seen_count == sizeof seen / sizeof seen[0])
                continue;
            memmove(&seen[j + 1], &seen[j], (seen_count - j) * sizeof *seen);
            seen[j] = x;
            seen_count++;
        }
    }
    bool is_log = curve->plot->x_is_log;
    double margin = is_log ? pow(high / low, 0.03) : 0.03 * (high - low);
    if (!(high > low))
        margin = is_log ? 1.5 : 1;
    const char *unit = plot_dimension_unit(curve->plot->x);
    char label[160], text[32];
    snprintf(label, sizeof label, "%s%s%s%s%s", curve->plot->x, *unit ? " (" : "", unit, *unit ? ")" : "",
             is_log ? ", log scale" : "");
    put_variable(out, "x_label", label);
    fprintf(out, "x_low = real(%.6g)\nx_high = real(%.6g)\n", is_log ? low / margin : low - margin,
            is_log ? high * margin : high + margin);
    fprintf(out, "x_log = %d\n", is_log);

    /* A tick where there is a point; gnuplot's own where that would be too many. Where two are neighbours one is named. */
    if (seen_count > 14)
        return;
    double named = -INFINITY, width = axis_place(high, is_log) - axis_place(low, is_log);
    fprintf(out, "set xtics (");
    for (size_t j = 0; j < seen_count; j++) {
        bool has_room = axis_place(seen[j], is_log) - named >= LABEL_FRACTION * width;
        if (has_room)
            named = axis_place(seen[j], is_log);
        fprintf(out, "%s'%s' ", j ? ", " : "", has_room ? format_x(seen[j], text, sizeof text) : "");
        fputs(format_number(text, sizeof text, seen[j]), out);
    }
    fprintf(out, ")\n");
}

void plot_panel_title(const char *metric, const char *unit, bool is_log, char *out, size_t size)
{
    static const char *const endings[] = { "_bytes_per_s", "_tokens_per_s", "_flops_per_s", "_bytes", "_ns", NULL };
    size_t length = strlen(metric);
    if (strcmp(metric, "peak_requested_fast_bytes") == 0) {
        snprintf(out, size, "peak requested memory (%s%s)", unit, is_log ? ", log scale" : "");
        return;
    }
    for (size_t i = 0; endings[i]; i++) {
        size_t ending = strlen(endings[i]);
        if (length > ending && strcmp(metric + length - ending, endings[i]) == 0) {
            length -= ending;
            break;
        }
    }
    int used = snprintf(out, size, "%.*s", (int)length, metric);
    for (char *c = out; *c; c++) {
        if (*c == '_')
            *c = ' ';
    }
    if (*unit || is_log)
        snprintf(out + used, size - (size_t)used, " (%s%s%s)", unit, *unit && is_log ? ", " : "",
                 is_log ? "log scale" : "");
}

static void put_panel(FILE *out, const struct curve *curve, size_t p)
{
    double least = INFINITY, most = 0;
    bool predicted = false;
    for (size_t i = 0; i < curve->series_count; i++) {
        for (size_t k = 0; k < curve->series[i].count; k++) {
            const struct value *v = &curve->series[i].points[k].y[p];
            if (isnan(v->median))
                continue;
            least = fmin(least, v->low);
            most = fmax(most, v->high);
            predicted |= !isnan(v->predicted);
        }
    }
    struct plot_unit unit = plot_unit_for(curve->units[p], most);
    bool is_log = least > 0 && most / least >= LOG_SCALE_FROM;
    char title[160], text[32];
    plot_panel_title(curve->y[p], unit.unit, is_log, title, sizeof title);
    fprintf(out, "panel_label[%zu] = ", p + 1);
    put_quoted(out, title);
    int log_base = !is_log ? 0 : *unit.unit ? 2 : 10;   /* powers of two suit bytes and rates, of ten fractions */
    fprintf(out, "; panel_scale[%zu] = real(%s); panel_log[%zu] = %d; panel_predicted[%zu] = %d\n", p + 1,
            format_number(text, sizeof text, unit.scale), p + 1, log_base, p + 1, predicted);
}

static void series_title(const struct series *s, char *out, size_t size)
{
    const char *label = *s->like->label ? s->like->label : "all cases";
    char knee[32];
    if (isnan(s->knee))
        snprintf(out, size, "%s", label);
    else
        snprintf(out, size, "%s, knee %s", label, format_x(s->knee, knee, sizeof knee));
}

static void put_series(FILE *out, const struct curve *curve, size_t i)
{
    const struct series *s = &curve->series[i];
    char knee[32] = "NaN", title[280];
    if (!isnan(s->knee))
        format_number(knee, sizeof knee, s->knee);
    series_title(s, title, sizeof title);
    fprintf(out, "series_title[%zu] = ", i + 1);
    put_quoted(out, title);
    fprintf(out, "; series_color[%zu] = %d; series_dash[%zu] = %d; series_knee[%zu] = %s\n", i + 1, s->color, i + 1,
            s->dash, i + 1, knee);
}

/* What the marks mean that this plot really has. */
static void put_notes(FILE *out, const struct curve *curve)
{
    bool failed = false, knee = false, predicted = false, dense = false, spread = false;
    const char *notes[NOTE_LIMIT];
    int count = 0;
    for (size_t i = 0; i < curve->series_count; i++) {
        knee |= !isnan(curve->series[i].knee);
        for (size_t k = 0; k < curve->series[i].count; k++) {
            failed |= curve->series[i].points[k].failed;
            for (size_t p = 0; p < curve->panels; p++) {
                const struct value *v = &curve->series[i].points[k].y[p];
                *(has_dense_value(curve->y[p]) ? &dense : &predicted) |= !isnan(v->predicted);
                spread |= v->high > v->low;
            }
        }
    }
    if (knee) {
        notes[count++] = "ring: the knee, from where on";
        notes[count++] = "the top panel is level";
    }
    if (predicted)
        notes[count++] = "wide pale line: predicted";
    if (dense)
        notes[count++] = "wide pale line: the dense model";
    if (spread)
        notes[count++] = "bar: middle half of the samples";
    if (failed)
        notes[count++] = "gap: a case did not finish";
    fprintf(out, "notes = %d\narray note[%d]\n", count, NOTE_LIMIT);
    for (int i = 0; i < count; i++)
        fprintf(out, "note[%d] = '%s'\n", i + 1, notes[i]);
}

static void put_preamble(FILE *out, const struct curve *curve)
{
    size_t panels = curve->panels, n = curve->series_count, widest = 30;   /* columns of the notes */
    char title[280];
    put_x(out, curve);
    put_notes(out, curve);
    fprintf(out, "panels = %zu\narray panel_label[%zu]\narray panel_scale[%zu]\narray panel_log[%zu]\n"
                 "array panel_predicted[%zu]\n",
            panels, panels, panels, panels, panels);
    for (size_t p = 0; p < panels; p++)
        put_panel(out, curve, p);
    fprintf(out, "series = %zu\narray series_title[%zu]\narray series_color[%zu]\narray series_dash[%zu]\n"
                 "array series_knee[%zu]\n",
            n, n, n, n, n);
    for (size_t i = 0; i < n; i++) {
        put_series(out, curve, i);
        series_title(&curve->series[i], title, sizeof title);
        widest = text_columns(title) > widest ? text_columns(title) : widest;
    }
    put_real(out, "legend_columns", (double)(widest < 60 ? widest : 60));
}

/* Panels without a single value are left out: the cases that ran may all be of another workload. */
static void drop_empty_panels(struct curve *curve)
{
    size_t kept = 0;
    for (size_t p = 0; p < curve->panels; p++) {
        if (!curve->units[p])
            continue;
        for (size_t i = 0; i < curve->series_count; i++) {
            for (size_t k = 0; k < curve->series[i].count; k++)
                curve->series[i].points[k].y[kept] = curve->series[i].points[k].y[p];
        }
        curve->units[kept] = curve->units[p];
        curve->y[kept++] = curve->y[p];
    }
    curve->panels = kept;
}

static int gather(struct curve *curve, const struct plot_cases *cases, struct plim_err *err)
{
    for (; curve->plot->y[curve->panels]; curve->panels++) {
        if (curve->panels == PLOT_PANEL_LIMIT)
            return plim_err_input(err, "more than %d metrics in \"y\"", PLOT_PANEL_LIMIT);
        curve->y[curve->panels] = curve->plot->y[curve->panels];
    }
    for (size_t i = 0; i < cases->count; i++) {
        if (add_case(curve, &cases->items[i], err) < 0)
            return -1;
    }
    drop_empty_panels(curve);
    for (size_t i = 0; i < curve->series_count && curve->plot->mark_knee; i++)
        curve->series[i].knee = find_knee(&curve->series[i]);
    choose_styles(curve);
    return 0;
}

int plot_curve(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text, struct plim_err *err)
{
    struct curve curve = { .plot = job->plot };
    struct plot_streams streams = { NULL, NULL, 0, 0 };
    int rc = -1;

    text->style = "curve.gp";
    if (gather(&curve, cases, err) < 0)
        goto out;
    rc = 0;
    if (curve.panels == 0)
        goto out;
    if (plot_streams_open(&streams, text, err) == 0) {
        put_data(streams.data, &curve);
        put_preamble(streams.preamble, &curve);
    }
    rc = plot_streams_close(&streams, err);

out:
    for (size_t i = 0; i < curve.series_count; i++)
        free(curve.series[i].points);
    return rc;
}
