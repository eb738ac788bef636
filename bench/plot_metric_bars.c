/*
 * Bars of metrics over settings that are no numbers: lazy and eager, off and on. A row for each case, a panel for each
 * metric, side by side.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plot_parts.h"
#include "statistics.h"

#define COLOR_COUNT 7   /* style.gp */

struct metric_bars {
    const struct suite_plot *plot;
    struct plot_rows rows;
    const char *y[PLOT_PANEL_LIMIT], *units[PLOT_PANEL_LIMIT];   /* borrowed; unit NULL: no case has the metric */
    double most[PLOT_PANEL_LIMIT];
    size_t panels;
};

static struct interval value_of(const struct result_case *c, const char *name)
{
    const struct metric *metric = c->outcome == OUTCOME_OK ? case_find_metric(c, name) : NULL;
    if (!metric || !metric->sample_count)
        return (struct interval){ NAN, NAN, NAN };
    return middle_half(metric->samples, metric->sample_count);
}

static int add_case(struct metric_bars *bars, const struct plot_case *item, struct plim_err *err)
{
    bool any = item->c->outcome != OUTCOME_OK;
    for (size_t p = 0; p < bars->panels; p++) {
        struct interval value = value_of(item->c, bars->y[p]);
        if (isnan(value.estimate))
            continue;
        any = true;
        bars->units[p] = case_find_metric(item->c, bars->y[p])->unit;
        bars->most[p] = fmax(bars->most[p], value.high);
    }
    return any ? plot_rows_add(&bars->rows, item, err) : 0;
}

static void drop_empty_panels(struct metric_bars *bars)
{
    size_t kept = 0;
    for (size_t p = 0; p < bars->panels; p++) {
        if (!bars->units[p])
            continue;
        bars->y[kept] = bars->y[p];
        bars->units[kept] = bars->units[p];
        bars->most[kept++] = bars->most[p];
    }
    bars->panels = kept;
}

/* The value of the last group decides the colour: what is switched there looks the same everywhere. */
static const char *color_label(const struct plot_case *item)
{
    const char *last = item->label, *comma;
    while ((comma = strstr(last, ", ")))
        last = comma + 2;
    return last;
}

static int color_of(const struct metric_bars *bars, size_t row)
{
    const char *mine = color_label(bars->rows.items[row].like);
    int before = 0;
    for (size_t i = 0; i < row; i++) {
        const char *other = color_label(bars->rows.items[i].like);
        if (strcmp(other, mine) == 0)
            return color_of(bars, i);
        size_t k = 0;
        while (k < i && strcmp(color_label(bars->rows.items[k].like), other) != 0)
            k++;
        before += k == i;
    }
    return before % COLOR_COUNT + 1;
}

static void put_number(FILE *out, double value)
{
    char text[32];
    fprintf(out, "\t%s", isnan(value) ? "NaN" : format_number(text, sizeof text, value));
}

static void put_data(FILE *out, const struct metric_bars *bars)
{
    char number[32];
    fprintf(out, "# row\tcolour; then median, lower quartile, upper quartile of");
    for (size_t p = 0; p < bars->panels; p++)
        fprintf(out, "%s %s", p ? "," : "", bars->y[p]);
    fputc('\n', out);
    for (size_t i = 0; i < bars->rows.count; i++) {
        const struct plot_row *row = &bars->rows.items[i];
        fprintf(out, "%s\t%d", format_number(number, sizeof number, row->y), color_of(bars, i));
        for (size_t p = 0; p < bars->panels; p++) {
            struct interval value = value_of(row->like->c, bars->y[p]);
            put_number(out, value.estimate);
            put_number(out, value.low);
            put_number(out, value.high);
        }
        fputc('\n', out);
    }
}

static void put_preamble(FILE *out, const struct metric_bars *bars)
{
    size_t n = bars->panels;
    char title[160], scale[32], most[32];
    put_real(out, "rows", bars->rows.height);
    fprintf(out, "panels = %zu\narray panel_label[%zu]\narray panel_scale[%zu]\narray panel_most[%zu]\n", n, n, n, n);
    for (size_t p = 0; p < n; p++) {
        struct plot_unit unit = plot_unit_for(bars->units[p], bars->most[p]);
        plot_panel_title(bars->y[p], unit.unit, false, title, sizeof title);
        fprintf(out, "panel_label[%zu] = ", p + 1);
        put_quoted(out, title);
        fprintf(out, "; panel_scale[%zu] = real(%s); panel_most[%zu] = real(%s)\n", p + 1,
                format_number(scale, sizeof scale, unit.scale), p + 1,
                format_number(most, sizeof most, bars->most[p] / unit.scale));
    }
    plot_rows_put(out, &bars->rows);
}

int plot_metric_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                     struct plim_err *err)
{
    struct metric_bars bars = { .plot = job->plot };
    struct plot_streams streams = { NULL, NULL, 0, 0 };
    int rc = -1;

    text->style = "metric_bars.gp";
    for (; bars.plot->y[bars.panels]; bars.panels++) {
        if (bars.panels == PLOT_PANEL_LIMIT)
            return plim_err_input(err, "more than %d metrics in \"y\"", PLOT_PANEL_LIMIT);
        bars.y[bars.panels] = bars.plot->y[bars.panels];
    }
    for (size_t i = 0; i < cases->count; i++) {
        if (add_case(&bars, &cases->items[i], err) < 0)
            goto out;
    }
    drop_empty_panels(&bars);
    rc = 0;
    if (bars.panels == 0)
        goto out;
    plot_rows_lay_out(&bars.rows);
    if (plot_streams_open(&streams, text, err) == 0) {
        put_data(streams.data, &bars);
        put_preamble(streams.preamble, &bars);
    }
    rc = plot_streams_close(&streams, err);

out:
    plot_rows_release(&bars.rows);
    return rc;
}
