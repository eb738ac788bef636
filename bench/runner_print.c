/* What a run found, as a table for the person in front of it. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "metrics.h"
#include "runner.h"
#include "table.h"

static const char *const fractions[] = { "read_bandwidth_fraction", "sgemm_fraction", NULL };

static const struct metric *first_of(const struct result_case *c, const char *const *names)
{
    for (; *names; names++) {
        const struct metric *metric = case_find_metric(c, *names);

        if (metric)
            return metric;
    }
    return NULL;
}

/* Half the distance between smallest and largest sample, as a share of the median. */
static double spread(const struct metric *metric)
{
    double low = INFINITY, high = -INFINITY;

    for (size_t i = 0; i < metric->sample_count; i++) {
        low = fmin(low, metric->samples[i]);
        high = fmax(high, metric->samples[i]);
    }
    return (high - low) / 2 / metric_median(metric);
}

static void speed_cells(struct table *t, const struct metric *metric)
{
    char text[40];

    if (!metric) {
        table_cell(t, STYLE_PLAIN, "%s", "");
        table_cell(t, STYLE_PLAIN, "%s", "");
        return;
    }
    table_cell(t, STYLE_PLAIN, "%s", format_value(text, sizeof text, metric_median(metric), metric->unit));
    if (metric->sample_count > 1)
        table_cell(t, STYLE_DIM, "±%.0f%%", 100 * spread(metric));
    else
        table_cell(t, STYLE_DIM, "%s", "");
}

static void value_cell(struct table *t, const struct result_case *c, const char *name)
{
    const struct metric *metric = case_find_metric(c, name);
    char text[40];

    table_cell(t, STYLE_PLAIN, "%s",
               metric ? format_value(text, sizeof text, metric_median(metric), metric->unit) : "");
}

/* The tag that holds most of the peak. */
static void largest_tag_cell(struct table *t, const struct result_case *c)
{
    const struct metric *largest = NULL;
    double total = 0;

    for (size_t i = 0; i < c->metric_count; i++) {
        const struct metric *m = &c->metrics[i];

        if (strncmp(m->name, "at_peak_", 8) != 0 || strstr(m->name, "weights_mapped"))
            continue;
        total += metric_median(m);
        if (!largest || metric_median(m) > metric_median(largest))
            largest = m;
    }
    if (!largest || total <= 0) {
        table_cell(t, STYLE_PLAIN, "%s", "");
        return;
    }
    table_cell(t, STYLE_DIM, "%.*s %.0f%%", (int)(strlen(largest->name) - 8 - strlen("_bytes")), largest->name + 8,
               100 * metric_median(largest) / total);
}

static void row(struct table *t, const struct suite_case *wanted, const struct result_case *c)
{
    const struct metric *fraction = first_of(c, fractions);
    bool expected = c->outcome == wanted->expect;

    table_cell(t, STYLE_PLAIN, "%s", c->id);
    table_cell(t, expected ? STYLE_PLAIN : STYLE_BAD, "%s", outcome_name(c->outcome));
    speed_cells(t, case_headline(c));
    if (fraction)
        table_cell(t, STYLE_PLAIN, "%.0f%%", 100 * metric_median(fraction));
    else
        table_cell(t, STYLE_PLAIN, "%s", "");
    value_cell(t, c, "peak_requested_fast_bytes");
    largest_tag_cell(t, c);
    value_cell(t, c, "peak_rss_bytes");
}

static void print_yardsticks(const struct result *result, FILE *out)
{
    const struct fact *read = facts_find(&result->yardsticks, "read_bandwidth_bytes_per_s");
    const struct fact *fma = facts_find(&result->yardsticks, "fma_flops_per_s");
    const struct fact *gemm = facts_find(&result->yardsticks, "sgemm_flops_per_s");
    char a[40], b[40], c[40];

    if (read && fma && gemm)
        fprintf(out, "This machine (%s): reads %s, multiply-adds %s, sgemm %s\n", result->machine_class,
                format_value(a, sizeof a, read->number, "bytes/s"), format_value(b, sizeof b, fma->number, "flop/s"),
                format_value(c, sizeof c, gemm->number, "flop/s"));
}

static void print_details(const struct suite *suite, const struct result *result, FILE *out)
{
    for (size_t i = 0; i < suite->case_count; i++) {
        const struct result_case *c = result_find_case(result, suite->cases[i].id);

        if (c && c->outcome != OUTCOME_OK)
            fprintf(out, "%s: %s%s%s\n", c->id, outcome_name(c->outcome), c->detail && *c->detail ? ": " : "",
                    c->detail ? c->detail : "");
    }
}

int runner_print(const struct suite *suite, const struct result *result, FILE *out, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    int rc;

    table_column(&t, "case", TABLE_LEFT);
    table_column(&t, "outcome", TABLE_LEFT);
    table_column(&t, "speed", TABLE_RIGHT);
    table_column(&t, "", TABLE_RIGHT);
    table_column(&t, "of machine", TABLE_RIGHT);
    table_column(&t, "peak memory", TABLE_RIGHT);
    table_column(&t, "mostly", TABLE_LEFT);
    table_column(&t, "peak RSS", TABLE_RIGHT);
    for (size_t i = 0; i < suite->case_count; i++) {
        const struct result_case *c = result_find_case(result, suite->cases[i].id);

        if (c)
            row(&t, &suite->cases[i], c);
    }
    rc = table_print(&t, out, table_colours(out), err);
    table_release(&t);
    print_details(suite, result, out);
    print_yardsticks(result, out);
    return rc;
}
