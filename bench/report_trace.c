/* Memory over time, by tag, of the cases that have a trace: stacked areas, and who held the peak. */

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "markup.h"
#include "plimsoll/file.h"
#include "plimsoll/pool.h"
#include "plot_parts.h"
#include "report_parts.h"
#include "runner.h"
#include "svg.h"
#include "table.h"
#include "trace.h"

#define TRACE_CASES 8
#define SLICES 160           /* each shows its highest moment, so no peak is lost */
#define HOLDERS 3
#define HEIGHT 190.0

struct slices {
    struct plim_pool_usage held[SLICES];   /* of the fast tier */
};

static void keep_highest(struct slices *slices, size_t at, const struct plim_pool_usage *held)
{
    if (held->total_bytes >= slices->held[at].total_bytes)
        slices->held[at] = *held;
}

static int read_slices(struct slices *slices, const char *path, uint64_t duration_ns, struct plim_err *err)
{
    struct trace trace;
    struct trace_event event;
    struct plim_pool_usage last;
    size_t at = 0;
    int got;
    if (trace_open(&trace, path, err) < 0)
        return -1;
    last = trace.held[PLIM_FAST];
    while ((got = trace_next(&trace, &event, err)) > 0) {
        size_t slice = duration_ns ? (size_t)((double)event.time_ns / (double)duration_ns * (SLICES - 1)) : 0;
        for (; at < slice && at + 1 < SLICES; at++)   /* what is held when a slice begins is part of it */
            keep_highest(slices, at + 1, &last);
        last = trace.held[PLIM_FAST];
        keep_highest(slices, at, &last);
    }
    for (; at + 1 < SLICES; at++)
        keep_highest(slices, at + 1, &last);
    trace_close(&trace);
    return got;
}

static double tag_bytes(const struct plim_pool_usage *held, int tag)
{
    return tag == PLIM_TAG_WEIGHTS_MAPPED ? 0 : (double)held->bytes[tag];
}

/* One tag's band between what lies below it and its own bytes; `below` is moved up. Whether there is any of it. */
static bool put_band(FILE *out, const struct slices *slices, int tag, const struct svg_axis *x,
                     const struct svg_axis *y, double below[SLICES])
{
    struct svg_point points[2 * SLICES];
    char class[8];
    bool any = false;
    for (size_t i = 0; i < SLICES; i++) {
        points[2 * SLICES - 1 - i] = (struct svg_point){ svg_at(x, (double)i), svg_at(y, below[i]) };
        below[i] += tag_bytes(&slices->held[i], tag);
        points[i] = (struct svg_point){ svg_at(x, (double)i), svg_at(y, below[i]) };
        any |= tag_bytes(&slices->held[i], tag) > 0;
    }
    snprintf(class, sizeof class, "g%d", tag % 12);
    if (any)
        svg_polygon(out, points, 2 * SLICES, class, plim_tag_name((enum plim_tag)tag));
    return any;
}

static void put_axes(FILE *out, const struct svg_axis *x, const struct svg_axis *y, uint64_t duration_ns)
{
    double ticks[SVG_TICK_LIMIT];
    char text[48];
    struct plot_unit unit = plot_unit_for("bytes", y->to);
    size_t count = svg_ticks(y, unit.scale, 4, ticks);
    for (size_t i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%.6g", ticks[i] / unit.scale);
        svg_line(out, x->start, svg_at(y, ticks[i]), x->end, svg_at(y, ticks[i]), "grid");
        svg_text(out, x->start - 5, svg_at(y, ticks[i]) + 4, "end", "soft", text);
    }
    svg_text(out, 0, 11, "start", "soft", unit.unit);
    svg_line(out, x->start, y->start, x->end, y->start, "axis");
    svg_text(out, x->start, y->start + 16, "start", "soft", "0");
    svg_text(out, x->end, y->start + 16, "end", "soft", format_value(text, sizeof text, (double)duration_ns, "ns"));
}

static void put_holders(FILE *out, const struct trace_peak *peak)
{
    char bytes[48];
    fputs("<p class=\"hint\">Peak ", out);
    markup_put(out, format_value(bytes, sizeof bytes, (double)peak->held[PLIM_FAST].total_bytes, "bytes"));
    if (peak->scope[PLIM_FAST] && *peak->scope[PLIM_FAST])
        markup_printf(out, " in %s", peak->scope[PLIM_FAST]);
    for (size_t i = 0, shown = 0; i < peak->holder_count[PLIM_FAST] && shown < HOLDERS; i++) {
        const struct trace_holder *h = &peak->holders[PLIM_FAST][i];
        if (h->tag == PLIM_TAG_WEIGHTS_MAPPED)   /* not in the total */
            continue;
        fputs(shown++ ? ", " : "; most by ", out);
        markup_printf(out, "%s %s (%s%s%s)", plim_tag_name(h->tag),
                      format_value(bytes, sizeof bytes, (double)h->bytes, "bytes"), h->site ? h->site : "",
                      h->scope && *h->scope ? " in " : "", h->scope ? h->scope : "");
    }
    fputs(".</p>\n", out);
}

/* `used` collects the tags that the legend must have. */
static int put_trace(FILE *out, const struct result_case *c, const char *path, bool used[PLIM_TAG_COUNT],
                     struct plim_err *err)
{
    struct slices *slices = heap_calloc(1, sizeof *slices, err);
    struct trace_peak peak = { 0 };
    double below[SLICES] = { 0 };
    int rc = -1;
    if (!slices || trace_peak_read(&peak, path, err) < 0 || read_slices(slices, path, peak.duration_ns, err) < 0)
        goto out;
    struct svg_axis x = { 0, SLICES - 1, 46, REPORT_CHART_WIDTH - 6, false };
    struct svg_axis y = { 0, fmax((double)peak.held[PLIM_FAST].total_bytes * 1.05, 1), HEIGHT - 22, 20, false };
    fputs("<figure><figcaption>", out);
    report_put_id(out, c->id);
    fputs("</figcaption>\n", out);
    svg_begin(out, REPORT_CHART_WIDTH, HEIGHT, "memory over time, by tag");
    put_axes(out, &x, &y, peak.duration_ns);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        used[tag] |= put_band(out, slices, tag, &x, &y, below);
    svg_end(out);
    put_holders(out, &peak);
    fputs("</figure>\n", out);
    rc = 0;

out:
    trace_peak_release(&peak);
    free(slices);
    return rc;
}

static void put_heading(FILE *out, const bool used[PLIM_TAG_COUNT])
{
    fputs("<h2>Memory over time</h2>\n<p>Requested bytes on the fast tier by tag, over the first measured repeat of a "
          "case.</p>\n<ul class=\"legend\">",
          out);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        if (used[tag])
            fprintf(out, "<li><i class=\"g%d\"></i>%s</li>", tag % 12, plim_tag_name((enum plim_tag)tag));
    }
    fputs("</ul>\n", out);
}

/* Twice over the cases: those with news first. *shown counts the charts. */
static int put_traces(FILE *out, const struct report_input *input, bool used[PLIM_TAG_COUNT], size_t *shown,
                      struct plim_err *err)
{
    int rc = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < input->result->case_count && *shown < TRACE_CASES && rc == 0; i++) {
            const struct result_case *c = &input->result->cases[i];
            bool news = report_case_verdict(input, c) >= VERDICT_STALE;
            char *path = news == (pass == 0) ? runner_trace_path(input->trace_directory, c->id, err) : NULL;
            if (path && plim_path_exists(path)) {
                ++*shown;
                rc = put_trace(out, c, path, used, err);
            }
            free(path);
        }
    }
    return rc;
}

/* The charts are made first: they show what the legend above them needs. */
int report_traces(const struct report_input *input, FILE *out, struct plim_err *err)
{
    bool used[PLIM_TAG_COUNT] = { false };
    char *charts = NULL;
    size_t size, shown = 0;
    int rc;
    if (!input->trace_directory)
        return 0;
    FILE *stream = open_memstream(&charts, &size);
    if (!stream)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for charts of memory over time");
    rc = put_traces(stream, input, used, &shown, err);
    if (fclose(stream) != 0 && rc == 0)
        rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for charts of memory over time");
    if (rc == 0 && shown) {
        put_heading(out, used);
        fprintf(out, "<div class=\"charts\">\n%s</div>\n", charts);
    }
    free(charts);
    return rc;
}
