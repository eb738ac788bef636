/* What a run found, as a table for the person in front of it. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "metrics.h"
#include "runner.h"
#include "table.h"

static const char *const fractions[] = { "read_bandwidth_fraction", "sgemm_fraction", "fp16_product_fraction", NULL };

/* ---- of the machine ---- */

static double median_of(const struct result_case *c, const char *name)
{
    const struct metric *metric = case_find_metric(c, name);

    return metric ? metric_median(metric) : NAN;
}

/* A yardstick for as many threads as the case had: there are figures for one and for all cores. */
static double yardstick_of(const struct result *result, const struct result_case *c, const char *one, const char *all)
{
    const struct fact *threads = facts_find(&c->parameters, "cpu_threads");
    bool single = threads && threads->text && strcmp(threads->text, "1") == 0;
    const struct fact *fact = facts_find(&result->yardsticks, single ? one : all);

    return fact ? fact->number : NAN;
}

static bool is_cuda(const struct result_case *c)
{
    const struct fact *backend = facts_find(&c->parameters, "backend");

    return backend && backend->text && strcmp(backend->text, "cuda") == 0;
}

/* Weights that stay in the caches are not read from memory, so its speed is no measure for them. */
static bool reads_memory(const struct result *result, const struct result_case *c)
{
    const struct fact *cache = facts_find(&result->machine, "last_level_cache_bytes");
    const struct fact *steps = facts_find(&c->arguments, "decode_tokens");

    return cache && steps && median_of(c, "weight_bytes_read") / steps->number >= 2 * cache->number;
}

/*
 * The speed as a share of what the machine can do: measured beside the repeats where the case did that, else against the
 * yardsticks of the run, which were taken minutes earlier (then *paired is false). NaN where nothing compares.
 */
static double machine_fraction(const struct result *result, const struct result_case *c, bool *paired)
{
    *paired = true;
    for (const char *const *name = fractions; *name; name++)
        if (case_find_metric(c, *name))
            return median_of(c, *name);
    *paired = false;
    if (is_cuda(c) && case_find_metric(c, "prefill_flops_per_s"))
        return median_of(c, "prefill_flops_per_s") / yardstick_of(result, c, "gpu_fp16_flops_per_s", "gpu_fp16_flops_per_s");
    if (is_cuda(c))
        return NAN;   /* whether weights exceed the device's cache is known beside the repeats only */
    if (case_find_metric(c, "prefill_flops_per_s"))
        return median_of(c, "prefill_flops_per_s") / yardstick_of(result, c, "sgemm_1_flops_per_s", "sgemm_flops_per_s");
    if (case_find_metric(c, "weight_read_bytes_per_s") && reads_memory(result, c))
        return median_of(c, "weight_read_bytes_per_s") /
               yardstick_of(result, c, "read_bandwidth_1_bytes_per_s", "read_bandwidth_bytes_per_s");
    return NAN;
}

static void fraction_cell(struct table *t, const struct result *result, const struct result_case *c)
{
    bool paired;
    double fraction = machine_fraction(result, c, &paired);

    if (isnan(fraction))
        table_cell(t, STYLE_PLAIN, "%s", "");
    else
        table_cell(t, paired ? STYLE_PLAIN : STYLE_DIM, "%s%.0f%%", paired ? "" : "~", 100 * fraction);
}

/* ---- cells ---- */

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

static void row(struct table *t, const struct result *result, const struct result_case *c, bool expected)
{
    table_cell(t, STYLE_PLAIN, "%s", c->id);
    table_cell(t, expected ? STYLE_PLAIN : STYLE_BAD, "%s", outcome_name(c->outcome));
    speed_cells(t, case_headline(c));
    fraction_cell(t, result, c);
    value_cell(t, c, "peak_requested_fast_bytes");
    largest_tag_cell(t, c);
    value_cell(t, c, "peak_rss_bytes");
}

/* ---- the table ---- */

static void fill(struct table *t, const struct suite *suite, const struct result *result)
{
    table_column(t, "case", TABLE_LEFT);
    table_column(t, "outcome", TABLE_LEFT);
    table_column(t, "speed", TABLE_RIGHT);
    table_column(t, "", TABLE_RIGHT);
    table_column(t, "of machine", TABLE_RIGHT);
    table_column(t, "peak memory", TABLE_RIGHT);
    table_column(t, "mostly", TABLE_LEFT);
    table_column(t, "peak RSS", TABLE_RIGHT);
    for (int expected = 0; expected < 2; expected++)
        for (size_t i = 0; i < result->case_count; i++)
            if (runner_expects(suite, &result->cases[i]) == (expected == 1))
                row(t, result, &result->cases[i], expected == 1);
}

static void print_gpu_yardsticks(const struct result *result, FILE *out)
{
    const struct fact *gpu = facts_find(&result->machine, "gpu");
    const struct fact *read = facts_find(&result->yardsticks, "gpu_read_bytes_per_s");
    const struct fact *copy = facts_find(&result->yardsticks, "gpu_copy_bytes_per_s");
    const struct fact *product = facts_find(&result->yardsticks, "gpu_fp16_flops_per_s");
    char a[40], b[40], c[40];

    if (gpu && gpu->text && read && copy && product)
        fprintf(out, "%s: reads %s, copies %s, fp16 products %s\n", gpu->text,
                format_value(a, sizeof a, read->number, "bytes/s"), format_value(b, sizeof b, copy->number, "bytes/s"),
                format_value(c, sizeof c, product->number, "flop/s"));
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
    print_gpu_yardsticks(result, out);
}

static void print_details(const struct result *result, const char *before, FILE *out)
{
    for (size_t i = 0; i < result->case_count; i++) {
        const struct result_case *c = &result->cases[i];

        if (c->outcome != OUTCOME_OK)
            fprintf(out, "%s%s: %s%s%s\n", before, c->id, outcome_name(c->outcome), c->detail && *c->detail ? ": " : "",
                    c->detail ? c->detail : "");
    }
}

int runner_print(const struct suite *suite, const struct result *result, FILE *out, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    int rc;

    fill(&t, suite, result);
    rc = table_print(&t, out, table_colours(out), err);
    table_release(&t);
    print_details(result, "", out);
    print_yardsticks(result, out);
    return rc;
}

static size_t count_unexpected(const struct suite *suite, const struct result *result)
{
    size_t count = 0;

    for (size_t i = 0; i < result->case_count; i++)
        count += !runner_expects(suite, &result->cases[i]);
    return count;
}

int runner_print_markdown(const struct suite *suite, const struct result *result, FILE *out, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    size_t unexpected = count_unexpected(suite, result);
    int rc;

    fprintf(out, "### %s %s: ", unexpected ? "❌" : "✅", result->suite_name);
    if (unexpected)
        fprintf(out, "%zu of %zu cases did not end as they should\n\n", unexpected, result->case_count);
    else
        fprintf(out, "%zu cases\n\n", result->case_count);
    fill(&t, suite, result);
    rc = table_print_markdown(&t, out, err);
    table_release(&t);
    fputs("\n<details><summary>How it ran</summary>\n\n", out);
    print_details(result, "- ", out);
    fprintf(out, "- started %s%s\n", result->started_utc, result->complete ? "" : ", not finished");
    fprintf(out, "- machine class `%s`\n\n</details>\n", result->machine_class);
    return rc;
}
