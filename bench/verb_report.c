/* plimsoll report RESULT: one page for people. */

#include "verb.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"
#include "heap.h"
#include "pareto.h"
#include "plimsoll/file.h"
#include "report.h"

enum { OPTION_BASELINE = 1000, OPTION_BASELINES, OPTION_SUITE, OPTION_TRACES };

struct arguments {
    const char *result, *baseline, *baselines, *output, *suite, *traces;
};

static const struct argp_option options[] = {
    { "baseline", OPTION_BASELINE, "FILE", 0, "What came before: a result or a baseline", 0 },
    { "baselines", OPTION_BASELINES, "DIR", 0, "What came before: the suite's accepted baselines", 0 },
    { "output", 'o', "FILE", 0, "The page (default: report.html)", 0 },
    { "suite", OPTION_SUITE, "FILE", 0, "The suite that says which curves to draw (default: that of the result)", 0 },
    { "traces", OPTION_TRACES, "DIR", 0,
      "Memory traces of the result (default: RESULT.traces beside it, if it is there)", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case OPTION_BASELINE:
        a->baseline = text;
        return 0;
    case OPTION_BASELINES:
        a->baselines = text;
        return 0;
    case OPTION_SUITE:
        a->suite = text;
        return 0;
    case OPTION_TRACES:
        a->traces = text;
        return 0;
    case 'o':
        a->output = text;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            argp_error(state, "one result makes a report, \"%s\" is a second", text);
        a->result = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->result)
            argp_error(state, "a result file is needed");
        if (a->baseline && a->baselines)
            argp_error(state, "--baseline and --baselines exclude each other");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int write_page(const struct report_input *input, const char *path, struct plim_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (!stream)
        return plim_err_errno(err, "writing %s", path);
    int rc = report_write(input, stream, err);
    if (fclose(stream) != 0 && rc == 0)
        rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for %s", path);
    if (rc == 0)
        rc = plim_write_file(path, text, bytes, err);
    if (rc == 0)
        printf("%s: %zu KiB\n", path, (bytes + 1023) / 1024);
    free(text);
    return rc;
}

/* "results/smoke.json": "results/smoke.traces", where `plimsoll run --trace-memory` leaves them; free(). */
static char *find_traces(const struct arguments *a, struct plim_err *err)
{
    size_t length = strlen(a->result);
    if (a->traces)
        return heap_strdup(a->traces, err);
    if (length > 5 && strcmp(a->result + length - 5, ".json") == 0)
        length -= 5;
    return heap_printf(err, "%.*s.traces", (int)length, a->result);
}

static int make_report(const struct arguments *a, struct plim_err *err)
{
    struct result result = { 0 }, baseline = { 0 };
    struct gate gate = { .comparison = COMPARISON_INIT };
    struct suite suite = { 0 };
    struct compare_policy policy = compare_policy_default();
    struct report_input input = { .result = &result };
    struct plim_err no_suite = PLIM_ERR_INIT;
    char *traces = find_traces(a, err);
    int rc = -1;

    policy.ungated_classes = COMPARE_MACHINE;
    if (!traces || result_read(&result, a->result, err) < 0)
        goto out;
    input.trace_directory = traces;
    if (a->baseline) {
        if (result_read(&baseline, a->baseline, err) < 0 ||
            compare_results(&gate.comparison, &baseline, &result, &policy, err) < 0 ||
            pareto_compare(&gate.comparison, &baseline, &baseline, &result, &policy, err) < 0)
            goto out;
        input.memory_before = input.timings_before = &baseline;
    } else if (a->baselines) {
        struct gate_options gate_options = { .directory = a->baselines, .policy = policy };
        if (gate_compare(&gate, &result, &gate_options, err) < 0)
            goto out;
        input.memory_before = &gate.exact;
        input.timings_before = &gate.machine;
    }
    if (input.memory_before) {
        comparison_sort(&gate.comparison);
        input.comparison = &gate.comparison;
        input.exit_status = comparison_exit_status(&gate.comparison, false);
    }
    /* A page without its curves is better than none, unless the suite was asked for. */
    if (suite_read(&suite, a->suite ? a->suite : result.suite_name, a->suite ? err : &no_suite) == 0)
        input.suite = &suite;
    else if (a->suite)
        goto out;
    rc = write_page(&input, a->output, err);

out:
    free(traces);
    suite_release(&suite);
    gate_release(&gate);
    result_release(&baseline);
    result_release(&result);
    return rc;
}

int verb_report(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "RESULT",
        "Writes one self-contained HTML page: what became of the baseline, worst first, what made the peak, timings, "
        "sweeps, and every case.",
        NULL, NULL, NULL
    };
    struct arguments a = { .output = "report.html" };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (make_report(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
