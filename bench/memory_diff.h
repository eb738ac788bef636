#ifndef PLIM_MEMORY_DIFF_H
#define PLIM_MEMORY_DIFF_H

/*
 * Two peaks side by side: which tag, which module (scope) and which function made one higher than the other.
 *
 *     struct memory_diff diff;
 *     if (memory_diff_make(&diff, &before, &after, &err) == 0)
 *         rc = memory_diff_print(&diff, stdout, table_colours(stdout), &err);
 *     memory_diff_release(&diff);
 */

#include <stdbool.h>
#include <stdio.h>

#include "plimsoll/err.h"
#include "trace.h"

enum memory_diff_level { DIFF_TAG, DIFF_SCOPE, DIFF_SITE, DIFF_LEVEL_COUNT };

/* One line: what it held at the peak before and after. */
struct memory_diff_row {
    enum memory_diff_level level;
    char *name;               /* "dequant"; "layers.3.mlp"; "dequant in layers.3.mlp, by linear_chunked" */
    uint64_t before, after;
};

struct memory_diff {
    const struct trace_peak *before, *after;          /* borrowed */
    struct memory_diff_row *rows[PLIM_TIER_COUNT];    /* by level, the largest growth first; equal ones left out */
    size_t row_count[PLIM_TIER_COUNT];
};

int memory_diff_make(struct memory_diff *diff, const struct trace_peak *before, const struct trace_peak *after,
                     struct plim_err *err);
void memory_diff_release(struct memory_diff *diff);

/* Whether a tier's peak is higher than before, by however little: requested bytes are exact. */
bool memory_diff_grew(const struct memory_diff *diff);

int memory_diff_print(const struct memory_diff *diff, FILE *out, bool colours, struct plim_err *err);
/* The same as JSON; free(). */
char *memory_diff_format(const struct memory_diff *diff, struct plim_err *err);

#endif
