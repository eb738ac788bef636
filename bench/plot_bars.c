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

struct bar {
    double bytes[PLIM_TAG_COUNT];
    double total, predicted;                /* predicted: NaN when unknown */
};

struct bars {
    struct bar *items;                      /* as many as rows */
    struct plot_rows rows;
    bool used[PLIM_TAG_COUNT];
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
    struct bar bar = { .predicted = NAN };
    if (item->c->outcome == OUTCOME_OK && !take_bytes(&bar, item->c))
        return 0;
    struct bar *items = heap_room(bars->items, bars->rows.count, sizeof *items, err);
    if (!items)
        return -1;
    bars->items = items;
    items[bars->rows.count] = bar;
    if (plot_rows_add(&bars->rows, item, err) < 0)
        return -1;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        bars->used[tag] |= bar.bytes[tag] > 0;
    bars->most = fmax(bars->most, bar.total);
    return 0;
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
    for (size_t i = 0; i < bars->rows.count; i++) {
        const struct bar *bar = &bars->items[i];
        fprintf(out, "%s", format_number(number, sizeof number, bars->rows.items[i].y));
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
    int used = 0;
    put_real(out, "rows", bars->rows.height);
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
    plot_rows_put(out, &bars->rows);
}

int plot_tag_bars(const struct plot_job *job, const struct plot_cases *cases, struct plot_text *text,
                  struct plim_err *err)
{
    struct bars bars = { .most = 0 };
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
    plot_rows_lay_out(&bars.rows);
    if (plot_streams_open(&streams, text, err) == 0) {
        put_data(streams.data, &bars);
        put_preamble(streams.preamble, &bars);
    }
    rc = plot_streams_close(&streams, err);

out:
    plot_rows_release(&bars.rows);
    free(bars.items);
    return rc;
}
