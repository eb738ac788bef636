#ifndef PLIM_REPORT_PARTS_H
#define PLIM_REPORT_PARTS_H

/* The report's sections; nobody else includes this. Each writes nothing at all when it has nothing to show. */

#include "report.h"

extern const char report_style[];

void report_summary(const struct report_input *input, FILE *out);
/* What each tag held at the peak, before and after. */
int report_memory(const struct report_input *input, FILE *out, struct plim_err *err);
/* Memory over time, of the cases that have a trace. */
int report_traces(const struct report_input *input, FILE *out, struct plim_err *err);
/* Every sample of each case's leading timing. */
int report_timings(const struct report_input *input, FILE *out, struct plim_err *err);
/* The suite's curves, and the Pareto fronts. */
int report_curves(const struct report_input *input, FILE *out, struct plim_err *err);
int report_fronts(const struct report_input *input, FILE *out, struct plim_err *err);
/* Each case, folded, as far as `room_bytes` go; then the machine. */
int report_cases(const struct report_input *input, size_t room_bytes, FILE *out, struct plim_err *err);
void report_environment(const struct report_input *input, FILE *out);

/* A case's id that may break behind its separators, and only there. */
void report_put_id(FILE *out, const char *id);

/* A folded part with `count` things in it, "12 more cases"; closed with "</details>". */
void report_fold(FILE *out, size_t count, const char *what);

/* The case before, or NULL. */
const struct result_case *report_case_before(const struct result *before, const struct result_case *c);

/* The worst verdict of a case's findings; VERDICT_PASS without any. */
enum verdict report_case_verdict(const struct report_input *input, const struct result_case *c);

/* The case's tokens/s or, without one, its first time; NULL when it has no timing with a sample. */
const struct metric *report_leading_timing(const struct result_case *c);

/* A phone's width, so that text is readable there; wider screens have more columns. */
#define REPORT_CHART_WIDTH 360.0

#endif
