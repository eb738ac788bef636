/*
 * A trace may have a million changes, an image has a thousand columns: time is cut into slices, and each slice shows the
 * moment when a tier's total was highest in it. So no peak is lost, however short it was.
 */

#include "memory_plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/units.h"
#include "plot_parts.h"
#include "plot_sheet.h"
#include "trace.h"

#define SLICES 1200
#define SPAN_LIMIT 60            /* more boundaries than that are a grey wall */
#define LABEL_FRACTION 0.012     /* of the width: a rotated name is about as wide as its font is high */

struct slice {
    bool seen;
    struct plim_pool_usage held[PLIM_TIER_COUNT];
};

/* Where the program was, from `from_ns` to the next span. */
struct span {
    char name[64];
    uint64_t from_ns;
};

struct timeline {
    struct slice *slices;
    struct span *entered;     /* every scope, as it came */
    size_t entered_count;
    struct span *spans;       /* those that are drawn */
    size_t span_count;
    uint64_t duration_ns;
};

/* ---- reading ---- */

static int note_scope(struct timeline *line, const struct trace *trace, struct plim_err *err)
{
    struct span *moved = heap_room(line->entered, line->entered_count, sizeof *moved, err);

    if (!moved)
        return -1;
    line->entered = moved;
    snprintf(moved[line->entered_count].name, sizeof moved->name, "%s", trace->scopes[trace->scope]);
    moved[line->entered_count++].from_ns = trace->time_ns;
    return 0;
}

static void keep_highest(struct slice *slice, const struct trace *trace)
{
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++)
        if (!slice->seen || trace->held[tier].total_bytes >= slice->held[tier].total_bytes)
            slice->held[tier] = trace->held[tier];
    slice->seen = true;
}

/* What is held when a slice begins is part of it. */
static void fill_up_to(struct timeline *line, const struct trace *trace, size_t *at, size_t slice)
{
    while (*at < slice)
        keep_highest(&line->slices[++*at], trace);
}

static int read_timeline(struct timeline *line, struct trace *trace, struct plim_err *err)
{
    struct trace_event event;
    size_t at = 0;
    int got;

    while ((got = trace_next(trace, &event, err)) > 0) {
        size_t slice = (size_t)((double)event.time_ns / (double)line->duration_ns * (SLICES - 1));
        struct trace before = *trace;   /* the state behind this event belongs to its own slice only */

        if (event.is_change) {
            before.held[event.tier].bytes[event.tag] -= (uint64_t)event.bytes;
            if (event.tag != PLIM_TAG_WEIGHTS_MAPPED)
                before.held[event.tier].total_bytes -= (uint64_t)event.bytes;
        } else if (note_scope(line, trace, err) < 0) {
            return -1;
        }
        fill_up_to(line, &before, &at, plim_min(slice, SLICES - 1));
        keep_highest(&line->slices[at], trace);
    }
    if (got == 0)
        fill_up_to(line, trace, &at, SLICES - 1);
    return got;
}

/* ---- boundaries ---- */

/* The first `parts` of "layers.3.mlp". */
static void shorten(char *name, int parts)
{
    for (char *c = name; *c; c++) {
        if (*c == '.' && --parts == 0) {
            *c = '\0';
            return;
        }
    }
}

/* Names cut to so many parts, neighbours of one name joined; returns how many spans that gives. */
static size_t join_spans(struct timeline *line, int parts)
{
    line->span_count = 0;
    for (size_t i = 0; i < line->entered_count; i++) {
        struct span span = line->entered[i];

        shorten(span.name, parts);
        if (line->span_count == 0 || strcmp(line->spans[line->span_count - 1].name, span.name) != 0)
            line->spans[line->span_count++] = span;
    }
    return line->span_count;
}

static uint64_t span_end(const struct timeline *line, size_t i)
{
    return i + 1 < line->span_count ? line->spans[i + 1].from_ns : line->duration_ns;
}

/* Only spans that last: many short steps become one stretch without marks and without a name. */
static void join_short_spans(struct timeline *line)
{
    size_t kept = 0;

    for (size_t i = 0; i < line->span_count; i++) {
        struct span span = line->spans[i];

        if ((double)(span_end(line, i) - span.from_ns) < LABEL_FRACTION * (double)line->duration_ns)
            span.name[0] = '\0';
        if (*span.name || kept == 0 || *line->spans[kept - 1].name)
            line->spans[kept++] = span;
    }
    line->span_count = kept;
}

static int choose_spans(struct timeline *line, struct plim_err *err)
{
    line->spans = heap_calloc(line->entered_count, sizeof *line->spans, err);
    if (!line->spans)
        return -1;
    for (int parts = 3; parts > 0; parts--)
        if (join_spans(line, parts) <= SPAN_LIMIT)
            return 0;
    join_spans(line, 3);
    join_short_spans(line);
    return 0;
}

/* ---- script and data ---- */

struct layers {
    int tags[PLIM_TAG_COUNT];   /* that are drawn, from below: the largest first */
    int count;
};

static struct layers choose_layers(const struct trace_peak *peak)
{
    struct layers layers = { .count = 0 };
    uint64_t most[PLIM_TAG_COUNT] = { 0 };

    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        for (int tier = 0; tier < PLIM_TIER_COUNT; tier++)
            if (tag != PLIM_TAG_WEIGHTS_MAPPED && peak->held[tier].bytes[tag] > most[tag])
                most[tag] = peak->held[tier].bytes[tag];
    for (;;) {
        int largest = -1;

        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            if (most[tag] && (largest < 0 || most[tag] > most[largest]))
                largest = tag;
        if (largest < 0)
            return layers;
        layers.tags[layers.count++] = largest;
        most[largest] = 0;
    }
}

/*
 * One data set a tier: time, then for each layer the sum up to it. The last layer, "other", holds what no layer had at the
 * peak. Each slice gives two rows, its beginning and its end: memory changes in steps.
 */
static void put_data(FILE *out, const struct timeline *line, const struct layers *layers)
{
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t row = 0; row < 2 * SLICES; row++) {
            const struct plim_pool_usage *held = &line->slices[row / 2].held[tier];
            uint64_t sum = 0;

            fprintf(out, "%.0f", (double)line->duration_ns * (double)((row + 1) / 2) / SLICES);
            for (int i = 0; i < layers->count; i++)
                fprintf(out, "\t%llu", (unsigned long long)(sum += held->bytes[layers->tags[i]]));
            fprintf(out, "\t%llu\n", (unsigned long long)held->total_bytes);
        }
        fputs("\n\n", out);
    }
}

static void put_array(FILE *out, const char *name, size_t count)
{
    fprintf(out, "array %s[%zu]\n", name, count ? count : 1);
}

static void put_layers(FILE *out, const struct layers *layers)
{
    fprintf(out, "layers = %d\n", layers->count);
    put_array(out, "layer_title", (size_t)layers->count);
    for (int i = 0; i < layers->count; i++) {
        fprintf(out, "layer_title[%d] = ", i + 1);
        put_quoted(out, plim_tag_name((enum plim_tag)layers->tags[i]));
        fputc('\n', out);
    }
}

static void put_spans(FILE *out, const struct timeline *line)
{
    fprintf(out, "spans = %zu\n", line->span_count);
    put_array(out, "span_from", line->span_count);
    put_array(out, "span_name", line->span_count);
    for (size_t i = 0; i < line->span_count; i++) {
        double width = (double)(span_end(line, i) - line->spans[i].from_ns) / (double)line->duration_ns;

        fprintf(out, "span_from[%zu] = real(%llu)\nspan_name[%zu] = ", i + 1,
                (unsigned long long)line->spans[i].from_ns, i + 1);
        put_quoted(out, width >= LABEL_FRACTION ? line->spans[i].name : "");
        fputc('\n', out);
    }
}

static void put_tier(FILE *out, int panel, enum plim_tier tier, const struct trace_peak *peak)
{
    char text[40];

    fprintf(out, "panel_index[%d] = %d\npanel_title[%d] = '%s tier'\n", panel, (int)tier, panel, plim_tier_name(tier));
    fprintf(out, "panel_peak_at[%d] = real(%llu)\npanel_peak[%d] = real(%llu)\npanel_note[%d] = ", panel,
            (unsigned long long)peak->time_ns[tier], panel, (unsigned long long)peak->held[tier].total_bytes, panel);
    char *note = NULL;
    if (asprintf(&note, "peak %s%s%s", plim_format_bytes(text, sizeof text, peak->held[tier].total_bytes),
                 *peak->scope[tier] ? " in " : "", peak->scope[tier]) < 0)
        note = NULL;
    put_quoted(out, note ? note : "peak");
    fputc('\n', out);
    free(note);
}

static void put_panels(FILE *out, const struct trace_peak *peak)
{
    int panels = 1 + (peak->held[PLIM_SLOW].total_bytes > 0);
    uint64_t most = plim_max(peak->held[PLIM_FAST].total_bytes, peak->held[PLIM_SLOW].total_bytes);
    struct plot_unit bytes = plot_unit_for("bytes", (double)most);
    struct plot_unit time = plot_unit_for("ns", (double)peak->duration_ns);

    fprintf(out, "panels = %d\n", panels);
    for (size_t i = 0; i < 5; i++)
        put_array(out, (const char *const[]){ "panel_index", "panel_title", "panel_peak_at", "panel_peak",
                                              "panel_note" }[i], (size_t)panels);
    put_tier(out, 1, PLIM_FAST, peak);
    if (panels == 2)
        put_tier(out, 2, PLIM_SLOW, peak);
    put_real(out, "byte_scale", bytes.scale);
    put_variable(out, "byte_unit", bytes.unit);
    put_real(out, "time_scale", time.scale);
    put_variable(out, "time_unit", time.unit);
    put_real(out, "duration", (double)peak->duration_ns);
}

static int write_sheet(const struct memory_plot *plot, const struct timeline *line, const struct trace_peak *peak,
                       struct plim_err *err)
{
    struct layers layers = choose_layers(peak);
    char subtitle[200], title[200], mapped[40], duration[40];
    struct plot_sheet sheet = { .directory = plot->directory, .name = plot->name, .style = "memory.gp",
                                .title = title, .subtitle = subtitle, .formats = plot->formats };

    snprintf(title, sizeof title, "Requested memory over time: %.150s", plot->name);
    snprintf(subtitle, sizeof subtitle, "%llu changes in %s%s; weights mapped beside at the peak: %s",
             (unsigned long long)peak->change_count,
             plim_format_duration(duration, sizeof duration, peak->duration_ns),
             peak->complete ? "" : " (the file was cut off)",
             plim_format_bytes(mapped, sizeof mapped, peak->held[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED]));
    if (plot_sheet_open(&sheet, err) == 0) {
        put_data(sheet.data, line, &layers);
        put_layers(sheet.preamble, &layers);
        put_spans(sheet.preamble, line);
        put_panels(sheet.preamble, peak);
    }
    return plot_sheet_finish(&sheet, plot->draw, err);
}

int memory_plot_write(const struct memory_plot *plot, struct plim_err *err)
{
    struct timeline line = { 0 };
    struct trace_peak peak;
    struct trace trace;
    int rc = -1;

    if (trace_peak_read(&peak, plot->trace, err) < 0)
        return -1;
    if (trace_open(&trace, plot->trace, err) < 0)
        goto out_peak;
    line.duration_ns = peak.duration_ns ? peak.duration_ns : 1;
    line.slices = heap_calloc(SLICES, sizeof *line.slices, err);
    if (!line.slices || read_timeline(&line, &trace, err) < 0 || choose_spans(&line, err) < 0)
        goto out;
    if (peak.held[PLIM_FAST].total_bytes == 0 && peak.held[PLIM_SLOW].total_bytes == 0)
        plim_err_input(err, "%s: nothing was allocated in this trace", plot->trace);
    else
        rc = write_sheet(plot, &line, &peak, err);

out:
    trace_close(&trace);
    free(line.slices);
    free(line.entered);
    free(line.spans);
out_peak:
    trace_peak_release(&peak);
    return rc;
}
