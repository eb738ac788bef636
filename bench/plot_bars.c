/*
 * Bars of memory by tag: for each case what every tag held at the moment of the peak, stacked to the peak itself.
 *
 * Bars lie, so that their labels can be read, under a heading for each value of the first group. A case that did not
 * finish has its outcome in the place of a bar.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/pool.h"
#include "plot_parts.h"
#include "table.h"

#define HEADING_LIMIT 32

struct bar {
    const struct plot_case *like;
    double y;                               /* row, from the top */
    double bytes[PLIM_TAG_COUNT];
    double total, predicted;                /* predicted: NaN when unknown */
};

struct bars {
    struct bar *items;
    size_t count;
    bool grouped;                           /* more than one dimension: headings */
    bool used[PLIM_TAG_COUNT];
    struct {
        const char *text;
        double y;
    } headings[HEADING_LIMIT];
    size_t heading_count;
    double rows;
    double most;
};

static bool take_bytes(struct bar *bar, const struct result_case *c)
{
    bool any = false;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        char name[96];
        snprintf(name, sizeof name, "at_peak_%s_bytes", plim_tag_name((enum plim_tag)tag));
        const struct metric *metric = case_find_metric(c, name);
        if (!metric || !metric->sample_count || tag == PLIM_TAG_WEIGHTS_MAPPED)   /* mapped files are not in the total */
            continue;
        bar->bytes[tag] = metric->samples[0];
        bar->total += metric->samples[0];
        any = true;
    }
    const struct metric *predicted = case_find_metric(c, "predicted_peak_bytes");
    bar->predicted = predicted ? metric_median(predicted) : NAN;
    return any;
}

static int add_bar(struct bars *bars, const struct plot_case *item, struct plim_err *err)
{
    struct bar bar = { .like = item, .predicted = NAN };
    if (item->c->outcome == OUTCOME_OK && !take_bytes(&bar, item->c))
        return 0;
    for (size_t i = 0; i < bars->count; i++) {
        if (strcmp(bars->items[i].like->label, item->label) == 0)
            return plim_err_input(err, "%s and %s are one bar: add what tells them apart to \"groups\"",
                                  bars->items[i].like->c->id, item->c->id);
    }
    struct bar *items = heap_room(bars->items, bars->count, sizeof *items, err);
    if (!items)
        return -1;
    bars->items = items;
    items[bars->count++] = bar;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        bars->used[tag] |= bar.bytes[tag] > 0;
    bars->most = fmax(bars->most, bar.total);
    bars->grouped |= *item->rest != '\0';
    return 0;
}

/* Rows from the top, bars with one first value together, in the order in which they appear. */
static void lay_out(struct bars *bars)
{
    double y = 0;
    for (size_t i = 0; i < bars->count; i++)
        bars->items[i].y = -1;
    for (size_t i = 0; i < bars->count; i++) {
        if (bars->items[i].y >= 0)
            continue;
        const char *first = bars->items[i].like->first;
        if (bars->grouped && bars->heading_count < HEADING_LIMIT) {
            bars->headings[bars->heading_count].text = first;
            bars->headings[bars->heading_count++].y = y + 0.15;
            y += 0.85;
        }
        for (size_t k = i; k < bars->count; k++) {
            if (!bars->grouped ? k == i : strcmp(bars->items[k].like->first, first) == 0)
                bars->items[k].y = y++;
        }
        y += bars->grouped ? 0.25 : 0;
    }
    bars->rows = y;
}

static const char *bar_label(const struct bars *bars, const struct bar *bar)
{
    const char *label = bars->grouped ? bar->like->rest : bar->like->label;
    return *label ? label : bar->like->c->id;
}

static void put_data(FILE *out, const struct bars *bars)
{
    char number[32];
    fprintf(out, "# row\tpredicted\ttotal");
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        if (bars->used[tag])
            fprintf(out, "\t%s", plim_tag_name((enum plim_tag)tag));
    }
    fprintf(out, "\t(bytes, at the peak)\n");
    for (size_t i = 0; i < bars->count; i++) {
        const struct bar *bar = &bars->items[i];
        fprintf(out, "%s", format_number(number, sizeof number, bar->y));
        fprintf(out, "\t%s", isnan(bar->predicted) ? "NaN" : format_number(number, sizeof number, bar->predicted));
        fprintf(out, "\t%s", format_number(number, sizeof number, bar->total));
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
            if (bars->used[tag])
                fprintf(out, "\t%s", format_number(number, sizeof number, bar->bytes[tag]));
        }
        fputc('\n', out);
    }
}

static void put_preamble(FILE *out, const struct bars *bars)
{
    struct plot_unit unit = plot_unit_for("bytes", bars->most);
    char number[32];
    int used = 0;
    put_real(out, "rows", bars->rows);
    put_real(out, "scale", unit.scale);
    put_variable(out, "unit", unit.unit);
    put_real(out, "most", bars->most);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        used += bars->used[tag];
    fprintf(out, "tags = %d\narray tag_name[%d]\n", used, used ? used : 1);
    used = 0;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        if (bars->used[tag])
            fprintf(out, "tag_name[%d] = '%s'\n", ++used, plim_tag_name((enum plim_tag)tag));
    }

    size_t n = bars->count, widest = 0;
    fprintf(out, "bars = %zu\narray bar_y[%zu]\narray bar_label[%zu]\narray bar_note[%zu]\n", n, n, n, n);
    for (size_t i = 0; i < n; i++) {
        const struct bar *bar = &bars->items[i];
        fprintf(out, "bar_y[%zu] = %s; bar_label[%zu] = ", i + 1, format_number(number, sizeof number, bar->y), i + 1);
        put_quoted(out, bar_label(bars, bar));
        size_t columns = text_columns(bar_label(bars, bar));
        widest = columns > widest ? columns : widest;
        fprintf(out, "; bar_note[%zu] = ", i + 1);
        put_quoted(out, bar->like->c->outcome == OUTCOME_OK ? "" : outcome_name(bar->like->c->outcome));
        fputc('\n', out);
    }
    size_t h = bars->heading_count;
    for (size_t i = 0; i < h; i++) {
        size_t columns = text_columns(bars->headings[i].text);
        widest = columns > widest ? columns : widest;
    }
    put_real(out, "label_columns", (double)(widest < 60 ? widest : 60));
    fprintf(out, "headings = %zu\narray heading[%zu]\narray heading_y[%zu]\n", h, h ? h : 1, h ? h : 1);
    for (size_t i = 0; i < h; i++) {
        fprintf(out, "heading_y[%zu] = %s; heading[%zu] = ", i + 1,
                format_number(number, sizeof number, bars->headings[i].y), i + 1);
        put_quoted(out, bars->headings[i].text);
        fputc('\n', out);
    }
}

int plot_tag_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                  struct plim_err *err)
{
    struct bars bars = { .count = 0 };
    struct plot_streams streams = { NULL, NULL, 0, 0 };
    int rc = -1;

    (void)job;
    text->style = "tag_bars.gp";
    for (size_t i = 0; i < cases->count; i++) {
        if (add_bar(&bars, &cases->items[i], err) < 0)
            goto out;
    }
    rc = 0;
    if (bars.most <= 0)
        goto out;
    lay_out(&bars);
    if (plot_streams_open(&streams, text, err) == 0) {
        put_data(streams.data, &bars);
        put_preamble(streams.preamble, &bars);
    }
    rc = plot_streams_close(&streams, err);

out:
    free(bars.items);
    return rc;
}
