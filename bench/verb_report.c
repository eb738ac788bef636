/* plimsoll report RESULT: one page for people. */

#include "verb.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "flag_table.h"
#include "format.h"
#include "gate.h"
#include "heap.h"
#include "pareto.h"
#include "plimsoll/file.h"
#include "report.h"
#include "runner.h"

enum printed { PRINT_NOTHING, PRINT_TABLE, PRINT_MARKDOWN, PRINT_JSON };

struct arguments {
    const char *result, *baseline, *baselines, *output, *suite, *traces;
    enum printed printed;
    struct format_outputs outputs;
};

static const struct flag options[] = {
    { "baseline", "FILE", "What came before: a result or a baseline", FLAG_FIELD(struct arguments, baseline) },
    { "baselines", "DIR", "What came before: the suite's accepted baselines", FLAG_FIELD(struct arguments, baselines) },
    { "output", "FILE", "The page (default: report.html, unless another form was asked for)",
      FLAG_FIELD(struct arguments, output), .key = 'o' },
    { "table", NULL, "Print a table, worst first", FLAG_FIELD(struct arguments, printed), .value = PRINT_TABLE },
    { "markdown", NULL, "Print Markdown, as for a pull request",
      FLAG_FIELD(struct arguments, printed), .value = PRINT_MARKDOWN },
    { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, printed), .value = PRINT_JSON },
    { "suite", "FILE", "The suite that says which curves to draw (default: that of the result)",
      FLAG_FIELD(struct arguments, suite) },
    { "traces", "DIR", "Memory traces of the result (default: RESULT.traces beside it, if it is there)",
      FLAG_FIELD(struct arguments, traces) },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->outputs;
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
        return flag_parse(options, key, text, state);
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

static bool wants_page(const struct arguments *a)
{
    return a->output || (a->printed == PRINT_NOTHING && !a->outputs.junit && !a->outputs.csv && !a->outputs.github);
}

static int print_result(const struct report_input *input, enum printed form, struct plim_err *err)
{
    char *text;
    if (form != PRINT_JSON)
        return (form == PRINT_TABLE ? runner_print : runner_print_markdown)(input->suite, input->result, stdout, err);
    text = result_format(input->result, err);
    if (text)
        fputs(text, stdout);
    free(text);
    return text ? 0 : -1;
}

/* The other forms of what the page shows: of the comparison where there is one, else of the result. */
static int print_forms(const struct arguments *a, const struct report_input *input, struct plim_err *err)
{
    static const enum comparison_format formats[] = { [PRINT_TABLE] = COMPARISON_TERMINAL,
                                                      [PRINT_MARKDOWN] = COMPARISON_MARKDOWN,
                                                      [PRINT_JSON] = COMPARISON_JSON };
    struct comparison_view view = { .exit_status = input->exit_status };
    if (a->printed != PRINT_NOTHING) {
        view.format = formats[a->printed];
        if ((input->comparison ? comparison_print(input->comparison, &view, stdout, err)
                               : print_result(input, a->printed, err)) < 0)
            return -1;
    }
    return input->comparison ? format_outputs_write(&a->outputs, input->comparison, input->exit_status, err)
                             : format_result_outputs_write(&a->outputs, input->suite, input->result, err);
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
    rc = print_forms(a, &input, err);
    if (rc == 0 && wants_page(a))
        rc = write_page(&input, a->output ? a->output : "report.html", err);

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
    static const struct argp_child children[] = { { &format_argp, 0, NULL, 0 }, { 0 } };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "RESULT",
        "Shows a result, or what became of a baseline: as one self-contained HTML page, worst first, with what made the "
        "peak, timings, sweeps, and every case; or as a table, Markdown, JSON, JUnit, CSV or annotations.\v"
        "Exit status: 0 it was written, whatever it says; 1 writing failed, 2 bad usage or input, 3 there is nothing to "
        "compare with.",
        children, NULL, NULL
    };
    struct arguments a = { .printed = PRINT_NOTHING };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(make_report(&a, &err), &err);
}
