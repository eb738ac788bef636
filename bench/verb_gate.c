/* plimsoll gate RESULT: red or green, against the suite's baselines. */

#include "verb.h"

#include <argp.h>
#include <stdlib.h>

#include "flag_table.h"
#include "format.h"
#include "gate.h"
#include "gate_control.h"
#include "plimsoll/process.h"
#include "share.h"

struct arguments {
    const char *result;
    const char *baselines;   /* NULL: ./baselines, or those that came with the program */
    struct comparison_view view;
    struct format_outputs outputs;
    struct gate_options options;
    bool strict, blind;
};

static const struct flag options[] = {
    { "baselines", "DIR", "Where the baselines are (default: baselines)", FLAG_FIELD(struct arguments, baselines) },
    { "exact-only", NULL, "Gate only what holds on every machine",
      FLAG_FIELD(struct arguments, options.policy.classes), .value = COMPARE_PORTABLE },
    { "timings", NULL, "Timings must be gated: fail (3) without a baseline of this machine class",
      FLAG_FIELD(struct arguments, options.demand_timings) },
    { "strict", NULL, "Inconclusive (4), stale and missing values (1) are failures", FLAG_FIELD(struct arguments, strict) },
    { "all", NULL, "Also show what passed, is new or not comparable",
      FLAG_FIELD(struct arguments, view.all), .key = 'a' },
    { "markdown", NULL, "Print Markdown, as for a pull request",
      FLAG_FIELD(struct arguments, view.format), .value = COMPARISON_MARKDOWN },
    { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, view.format), .value = COMPARISON_JSON },
    { "rehearse-blind", NULL, "Plant nothing in the gate's own controls, to see exit status 6",
      FLAG_FIELD(struct arguments, blind) },
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
            argp_error(state, "one result is gated, \"%s\" is a second", text);
        a->result = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->result)
            argp_error(state, "a result file is needed");
        if (a->options.demand_timings && a->options.policy.classes == COMPARE_PORTABLE)
            argp_error(state, "--exact-only and --timings exclude each other");
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

/* The exit status, 6 above all when the gate didn't find what was planted for it. */
static int decide(const struct arguments *a, const struct result *result, struct gate *gate, int *status,
                  struct plim_err *err)
{
    struct gate_control control;
    struct process_executor processes = { .program = plim_self_path(err) };
    struct gate_control_options control_options = { process_executor(&processes), a->blind };
    const char *missed;
    int rc = processes.program ? gate_control_run(result, &a->options.policy, &control_options, &control, err) : -1;

    free((char *)(uintptr_t)processes.program);
    if (rc < 0)
        return -1;
    *status = comparison_exit_status(&gate->comparison, a->strict);
    if (gate->comparison.reported_only_count) {
        comparison_note(&gate->comparison,
                        "timings that are not gated are reported only; those of three days, pooled, would be (plimsoll "
                        "baseline accept --timings --pool)");
        if (a->options.demand_timings && *status != 1)
            *status = 3;
    }
    if ((missed = gate_control_missed(&control))) {
        *status = 6;
        comparison_note(&gate->comparison, "control missed: the gate did not find a planted %s; its verdicts mean nothing",
                        missed);
    }
    return 0;
}

static int gate_file(struct arguments *a, struct plim_err *err)
{
    struct result result = { 0 };
    struct gate gate = { .comparison = COMPARISON_INIT };
    char *shared = NULL;
    int status = -1;

    a->options.directory = a->baselines;
    if (!a->baselines && !(a->options.directory = shared = share_locate("baselines", err)))
        goto out;
    if (result_read(&result, a->result, err) < 0 || gate_compare(&gate, &result, &a->options, err) < 0)
        goto out;
    if (decide(a, &result, &gate, &a->view.exit_status, err) < 0 ||
        comparison_print(&gate.comparison, &a->view, stdout, err) < 0)
        goto out;
    if (a->view.format == COMPARISON_TERMINAL && a->view.exit_status != 6)
        printf("controls: the planted page%s found\n",
               a->options.policy.classes & COMPARE_TIMING ? " and the planted slowdown were" : " was");
    if (format_outputs_write(&a->outputs, &gate.comparison, a->view.exit_status, err) < 0)
        goto out;
    status = a->view.exit_status;

out:
    gate_release(&gate);
    result_release(&result);
    free(shared);
    return status;
}

int verb_gate(int argc, char **argv)
{
    static const struct argp_child children[] = { { &format_argp, 0, NULL, 0 }, { 0 } };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "RESULT",
        "Compares a result with the baselines of its suite: exact metrics to the byte, timings by statistics within the "
        "machine's class.\v"
        "Exit status: 0 no regression, 1 a regression, 2 bad usage or input, 3 there is nothing to compare with, 4 "
        "inconclusive under --strict, 5 a case is broken that was not before, 6 the gate did not find what it planted for "
        "itself. Changes that are meant are accepted with "
        "`plimsoll baseline accept RESULT`.",
        children, NULL, NULL
    };
    struct arguments a = { .options = { .policy = compare_policy_default() } };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(gate_file(&a, &err), &err);
}
