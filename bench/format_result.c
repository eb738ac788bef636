/* One result for other programs: cases as tests, metrics as lines, and what went wrong as annotations. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "markup.h"
#include "metrics.h"
#include "plimsoll/file.h"
#include "runner.h"
#include "table.h"

#define ANNOTATION_LIMIT 10   /* GitHub drops the rest of a step's */

/* ---- JUnit ---- */

static void put_speed_and_peak(FILE *out, const struct result_case *c)
{
    const struct metric *shown[] = { case_headline(c), case_find_metric(c, "peak_requested_fast_bytes") };
    const char *separator = "";
    char text[48];

    for (size_t i = 0; i < 2; i++) {
        if (!shown[i] || !shown[i]->sample_count)
            continue;
        markup_printf(out, "%s%s %s", separator, shown[i]->name,
                      format_value(text, sizeof text, metric_median(shown[i]), shown[i]->unit));
        separator = ", ";
    }
}

static void put_case(FILE *out, const struct suite *suite, const struct result *result, const struct result_case *c)
{
    fputs("    <testcase classname=\"", out);
    markup_put(out, result->suite_name);
    fputs("\" name=\"", out);
    markup_put(out, c->id);
    fputs("\">", out);
    if (runner_expects(suite, c)) {
        fputs("<system-out>", out);
        markup_printf(out, "%s: ", outcome_name(c->outcome));
        if (c->outcome == OUTCOME_OK)
            put_speed_and_peak(out, c);
        else
            markup_put(out, c->detail ? c->detail : "");
        fputs("</system-out>", out);
    } else {
        fprintf(out, "<error type=\"%s\" message=\"", outcome_name(c->outcome));
        markup_printf(out, "%s%s%s", outcome_name(c->outcome), c->detail && *c->detail ? ": " : "",
                      c->detail ? c->detail : "");
        fputs("\"/>", out);
    }
    fputs("</testcase>\n", out);
}

static size_t count_unexpected(const struct suite *suite, const struct result *result)
{
    size_t count = 0;

    for (size_t i = 0; i < result->case_count; i++)
        count += !runner_expects(suite, &result->cases[i]);
    return count;
}

void format_result_junit(const struct suite *suite, const struct result *result, FILE *out)
{
    char counts[120];

    snprintf(counts, sizeof counts, "tests=\"%zu\" failures=\"0\" errors=\"%zu\" skipped=\"0\"", result->case_count,
             count_unexpected(suite, result));
    fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"plimsoll\" %s>\n  <testsuite name=\"",
            counts);
    markup_put(out, result->suite_name);
    fprintf(out, "\" %s>\n", counts);
    for (size_t i = 0; i < result->case_count; i++)
        put_case(out, suite, result, &result->cases[i]);
    fputs("  </testsuite>\n</testsuites>\n", out);
}

/* ---- CSV ---- */

static void put_number(FILE *out, double value)
{
    char text[40];

    fprintf(out, ",%s", isfinite(value) ? format_number(text, sizeof text, value) : "");
}

static void put_values(FILE *out, const struct metric *metric)
{
    double low = NAN, high = NAN;

    for (size_t i = 0; i < metric->sample_count; i++) {
        low = fmin(low, metric->samples[i]);   /* fmin(NaN, x) is x */
        high = fmax(high, metric->samples[i]);
    }
    fprintf(out, ",%zu", metric->sample_count);
    put_number(out, metric->sample_count ? metric_median(metric) : NAN);
    put_number(out, low);
    put_number(out, high);
    fputc(',', out);
    for (size_t i = 0; i < metric->texts.count; i++) {
        fputs(i ? " " : "", out);
        format_csv_text(out, metric->texts.items[i].text);
    }
}

void format_result_csv(const struct suite *suite, const struct result *result, FILE *out)
{
    (void)suite;
    fputs("suite,case,model,workload,outcome,metric,class,unit,samples,median,minimum,maximum,text\r\n", out);
    for (size_t i = 0; i < result->case_count; i++) {
        const struct result_case *c = &result->cases[i];

        for (size_t k = 0; k < (c->metric_count ? c->metric_count : 1); k++) {
            const struct metric *metric = c->metric_count ? &c->metrics[k] : NULL;
            const char *texts[] = { result->suite_name, c->id, c->model ? c->model : "", c->workload ? c->workload : "",
                                    outcome_name(c->outcome), metric ? metric->name : "",
                                    metric ? metric_class_name(metric->class) : "", metric ? metric->unit : "" };

            for (size_t n = 0; n < sizeof texts / sizeof texts[0]; n++) {
                fputs(n ? "," : "", out);
                format_csv_text(out, texts[n]);
            }
            if (metric)
                put_values(out, metric);
            else
                fputs(",,,,,", out);
            fputs("\r\n", out);
        }
    }
}

/* ---- GitHub ---- */

void format_result_github(const struct suite *suite, const struct result *result, FILE *out)
{
    size_t unexpected = count_unexpected(suite, result), shown = 0;

    for (size_t i = 0; i < result->case_count; i++) {
        const struct result_case *c = &result->cases[i];

        if (runner_expects(suite, c) || ++shown >= ANNOTATION_LIMIT)   /* one is left for the conclusion */
            continue;
        fputs("::error title=", out);
        format_github_text(out, "plimsoll ", true);
        format_github_text(out, c->id, true);
        fprintf(out, "::%s: ", outcome_name(c->outcome));
        format_github_text(out, c->detail ? c->detail : "", false);
        fputc('\n', out);
    }
    fprintf(out, "::%s title=plimsoll ", unexpected ? "error" : "notice");
    format_github_text(out, result->suite_name, true);
    fprintf(out, "::%zu cases, %zu did not end as they should\n", result->case_count, unexpected);
}

/* ---- writing ---- */

static int write_to(const char *path, void (*format)(const struct suite *, const struct result *, FILE *),
                    const struct suite *suite, const struct result *result, struct plim_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    int rc = -1;

    if (!stream)
        return plim_err_errno(err, "writing %s", path);
    format(suite, result, stream);
    bool whole = !ferror(stream);
    if (fclose(stream) != 0 || !whole)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for %s", path);
    else
        rc = plim_write_file(path, text, bytes, err);
    free(text);
    return rc;
}

int format_result_outputs_write(const struct format_outputs *outputs, const struct suite *suite,
                                const struct result *result, struct plim_err *err)
{
    if (outputs->junit && write_to(outputs->junit, format_result_junit, suite, result, err) < 0)
        return -1;
    if (outputs->csv && write_to(outputs->csv, format_result_csv, suite, result, err) < 0)
        return -1;
    if (outputs->github)
        format_result_github(suite, result, stdout);
    return 0;
}
