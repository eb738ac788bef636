/*
 * Who made the peak. Two passes over the trace: the first finds when each tier's total was highest, the second stops
 * there and writes down who held what.
 */

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "trace.h"

/* The number of the event behind which a tier's total is highest for the first time; 0: before any event. */
struct summit {
    uint64_t event, bytes;
};

static int find_summits(struct trace *trace, struct summit *summits, struct trace_peak *peak, struct plim_err *err)
{
    struct trace_event event;
    uint64_t number = 0;
    int got;

    while ((got = trace_next(trace, &event, err)) > 0) {
        number++;
        peak->change_count += event.is_change;
        for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++)
            if (trace->held[tier].total_bytes > summits[tier].bytes)
                summits[tier] = (struct summit){ number, trace->held[tier].total_bytes };
    }
    peak->duration_ns = trace->time_ns;
    peak->complete = trace->complete;
    return got;
}

static int larger_first(const void *a, const void *b)
{
    const struct trace_holder *x = a, *y = b;
    int by_scope;

    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    if (x->tag != y->tag)
        return x->tag < y->tag ? -1 : 1;
    by_scope = strcmp(x->scope, y->scope);
    return by_scope ? by_scope : strcmp(x->site, y->site);
}

static int add_holder(struct trace_peak *peak, const struct trace *trace, enum plim_tier tier, enum plim_tag tag,
                      size_t origin, struct plim_err *err)
{
    struct trace_holder *moved = heap_room(peak->holders[tier], peak->holder_count[tier], sizeof *moved, err);
    struct trace_holder *holder;

    if (!moved)
        return -1;
    peak->holders[tier] = moved;
    holder = &moved[peak->holder_count[tier]++];
    holder->tag = tag;
    holder->bytes = trace->origins[origin].held[tier][tag];
    holder->scope = heap_strdup(trace_scope_of(trace, origin), err);
    holder->site = heap_strdup(trace_site_of(trace, origin), err);
    return holder->scope && holder->site ? 0 : -1;
}

static int take_snapshot(struct trace_peak *peak, const struct trace *trace, enum plim_tier tier, struct plim_err *err)
{
    peak->held[tier] = trace->held[tier];
    peak->time_ns[tier] = trace->time_ns;
    peak->scope[tier] = heap_strdup(trace->scopes[trace->scope], err);
    if (!peak->scope[tier])
        return -1;
    for (size_t origin = 0; origin < trace->origin_count; origin++)
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            if (trace->origins[origin].held[tier][tag] &&
                add_holder(peak, trace, tier, (enum plim_tag)tag, origin, err) < 0)
                return -1;
    if (peak->holder_count[tier])
        qsort(peak->holders[tier], peak->holder_count[tier], sizeof *peak->holders[tier], larger_first);
    return 0;
}

static int take_snapshots(struct trace *trace, const struct summit *summits, struct trace_peak *peak,
                          struct plim_err *err)
{
    struct trace_event event;
    uint64_t number = 0;
    int got = 1;

    while (got > 0 && (!peak->scope[PLIM_FAST] || !peak->scope[PLIM_SLOW])) {
        for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++)
            if (number == summits[tier].event && take_snapshot(peak, trace, tier, err) < 0)
                return -1;
        got = trace_next(trace, &event, err);
        number++;
    }
    return got < 0 ? -1 : 0;
}

int trace_peak_read(struct trace_peak *peak, const char *path, struct plim_err *err)
{
    struct summit summits[PLIM_TIER_COUNT] = { 0 };
    struct trace trace;
    int rc = -1;

    *peak = (struct trace_peak){ 0 };
    if (trace_open(&trace, path, err) < 0)
        return -1;
    if (find_summits(&trace, summits, peak, err) < 0)
        goto out;
    trace_rewind(&trace);
    rc = take_snapshots(&trace, summits, peak, err);

out:
    trace_close(&trace);
    if (rc < 0)
        trace_peak_release(peak);
    return rc;
}

void trace_peak_release(struct trace_peak *peak)
{
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t i = 0; i < peak->holder_count[tier]; i++) {
            free(peak->holders[tier][i].scope);
            free(peak->holders[tier][i].site);
        }
        free(peak->holders[tier]);
        free(peak->scope[tier]);
    }
    *peak = (struct trace_peak){ 0 };
}
