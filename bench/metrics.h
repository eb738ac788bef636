#ifndef PLIM_METRICS_H
#define PLIM_METRICS_H

/*
 * The metrics that this program measures: name, unit, class, direction and one line of help, in one table.
 *
 * A row whose name contains TAG stands for one metric a memory tag: peak_TAG_bytes is peak_weights_bytes,
 * peak_kv_cache_bytes, and so on; one with PHASE for one a phase of the quantizer. Metrics of workers from other builds need not be in the table (they describe
 * themselves on the wire); suites may only name metrics that are.
 */

#include <stdbool.h>

#include "result.h"

struct metric_row {
    const char *name;
    const char *unit;
    enum metric_class class;
    enum metric_direction direction;
    const char *help;
};

/* The rows, ended by a NULL name. */
const struct metric_row *metric_rows(void);

/* The row that describes `name`, TAG or PHASE filled in; NULL when there is none. */
const struct metric_row *metric_find(const char *name);

/*
 * True for what only explains other metrics: what each tag held at the peak, what was predicted (its error is a metric of
 * its own), what the machine could do beside, a speed in a second unit. It is recorded, but gated only where a suite
 * names it: else a peak that falls, which is welcome, would fail the gate through its parts.
 */
bool metric_only_explains(const char *name);

/*
 * True for a peak that is not reported where it is 0: that of a tag or a phase which never held anything on its tier.
 */
bool metric_is_silent_peak(const char *name);

/* The valid name nearest to a misspelt one, or NULL. */
const char *metric_nearest(const char *name);

/* The speed of a case's workload, which tables and gates look at first; NULL when it has none. */
const struct metric *case_headline(const struct result_case *c);

/* The metric `name` of a case, added from its row if it isn't there. The name must be in the table. */
struct metric *metric_of_case(struct result_case *c, const char *name, struct plim_err *err);

#endif
