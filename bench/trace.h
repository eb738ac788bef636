#ifndef PLIM_TRACE_H
#define PLIM_TRACE_H

/*
 * Memory traces (plimsoll/memory_trace.h), read event by event.
 *
 *     struct trace trace;
 *     struct trace_event event;
 *     if (trace_open(&trace, path, &err) < 0)
 *         return -1;
 *     while ((got = trace_next(&trace, &event, &err)) > 0)
 *         ...
 *     trace_close(&trace);
 *
 * The trace keeps what is held by each tag and each origin while it reads. A file that was cut off ends early: `complete`
 * says whether the end was reached. Anything else that is wrong with it is an error (kind input).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/file.h"
#include "plimsoll/pool.h"

struct trace_origin {
    uint32_t scope, site;       /* into the trace's names */
    uint64_t held[PLIM_TIER_COUNT][PLIM_TAG_COUNT];   /* now, by this program's tags */
};

struct trace {
    const char *path;           /* borrowed */
    struct plim_map map;
    size_t position, first;     /* the next byte; that of the first record */
    char **scopes, **sites;     /* [count], 0 is "" */
    size_t scope_count, site_count;
    struct trace_origin *origins;   /* 0: held before the trace */
    size_t origin_count;
    int *tags;                  /* the file's tags as ours; -1: one that we don't know */
    size_t tag_count;
    uint64_t time_ns;           /* since the trace began */
    uint32_t scope;             /* current */
    struct plim_pool_usage held[PLIM_TIER_COUNT];
    bool complete;
};

struct trace_event {
    bool is_change;             /* else a scope was entered */
    uint64_t time_ns;
    enum plim_tier tier;
    enum plim_tag tag;
    size_t origin;
    int64_t bytes;
};

int trace_open(struct trace *trace, const char *path, struct plim_err *err);

/* The next change or scope: 1, 0 at the end, -1 with `err`. The trace's state is that behind the event. */
int trace_next(struct trace *trace, struct trace_event *event, struct plim_err *err);

/* Back to the start, with nothing held. */
void trace_rewind(struct trace *trace);
void trace_close(struct trace *trace);

const char *trace_scope_of(const struct trace *trace, size_t origin);   /* "layers.3.mlp"; "" */
const char *trace_site_of(const struct trace *trace, size_t origin);    /* a function's name; "(before the trace)" */

/* ---- the peak ---- */

/* What one place held of one tag when its tier's total was highest. */
struct trace_holder {
    enum plim_tag tag;
    char *scope, *site;
    uint64_t bytes;
};

struct trace_peak {
    struct plim_pool_usage held[PLIM_TIER_COUNT];       /* at that moment; weights_mapped too */
    char *scope[PLIM_TIER_COUNT];                       /* that the program was in */
    uint64_t time_ns[PLIM_TIER_COUNT];
    struct trace_holder *holders[PLIM_TIER_COUNT];      /* the largest first */
    size_t holder_count[PLIM_TIER_COUNT];
    uint64_t change_count, duration_ns;
    bool complete;
};

/* Reads a whole trace. On failure the peak is empty. */
int trace_peak_read(struct trace_peak *peak, const char *path, struct plim_err *err);
void trace_peak_release(struct trace_peak *peak);

#endif
