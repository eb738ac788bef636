/* plimsoll compare BASELINE RESULT: two files side by side. */

#include "verb.h"

#include <argp.h>
#include <stdlib.h>

#include "compare.h"
#include "flag_table.h"
#include "format.h"
#include "pareto.h"

struct arguments {
    const char *baseline, *result;
    struct comparison_view view;
    struct format_outputs outputs;
    struct compare_policy policy;
    bool demand_timings, strict;
};

static const struct flag options[] = {
    { "markdown", NULL, "Print Markdown, as for a pull request",
      FLAG_FIELD(struct arguments, view.format), .value = COMPARISON_MARKDOWN },
    { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, view.format), .value = COMPARISON_JSON },
    { "all", NULL, "Also show what is unchanged, new, ungated or not comparable", .key = 'a' },
    { "exact-only", NULL, "Compare only what holds on every machine",
      FLAG_FIELD(struct arguments, policy.classes), .value = COMPARE_PORTABLE },
    { "timings", NULL, "Timings must be compared: fail (3) when the machine class differs",
      FLAG_FIELD(struct arguments, demand_timings) },
    { "strict", NULL, "Inconclusive (4), stale and missing values (1) are failures", FLAG_FIELD(struct arguments, strict) },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->outputs;
        return 0;
    case 'a':
        a->view.all = true;
        a->policy.ungated_classes = COMPARE_ALL;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 1)
            argp_error(state, "two files are compared, \"%s\" is a third", text);
        *(state->arg_num == 0 ? &a->baseline : &a->result) = text;
        return 0;
    case ARGP_KEY_END:
        if (state->arg_num < 2)
            argp_error(state, "two files are needed: BASELINE and RESULT");
        if (a->demand_timings && a->policy.classes == COMPARE_PORTABLE)
            argp_error(state, "--exact-only and --timings exclude each other");
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

static int compare_files(struct arguments *a, struct plim_err *err)
{
    struct result baseline = { 0 }, result = { 0 };
    struct comparison comparison = COMPARISON_INIT;
    int status = -1;

    if (result_read(&baseline, a->baseline, err) < 0 || result_read(&result, a->result, err) < 0)
        goto out;
    if (compare_results(&comparison, &baseline, &result, &a->policy, err) < 0 ||
        pareto_compare(&comparison, &baseline, &baseline, &result, &a->policy, err) < 0)
        goto out;
    if (!comparison.engines[0])   /* two engines side by side stay in the suite's order */
        comparison_sort(&comparison);
    a->view.exit_status = comparison_exit_status(&comparison, a->strict);
    if (a->demand_timings && comparison.machine_refused)
        a->view.exit_status = 3;
    if (comparison_print(&comparison, &a->view, stdout, err) < 0 ||
        format_outputs_write(&a->outputs, &comparison, a->view.exit_status, err) < 0)
        goto out;
    status = a->view.exit_status;

out:
    comparison_release(&comparison);
    result_release(&baseline);
    result_release(&result);
    return status;
}

int verb_compare(int argc, char **argv)
{
    static const struct argp_child children[] = { { &format_argp, 0, NULL, 0 }, { 0 } };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "BASELINE RESULT",
        "Compares two results, or a baseline and a result, worst finding first.\v"
        "Exit status: 0 no regression, 1 a regression, 2 bad usage or input, 3 the files cannot be compared, 4 "
        "inconclusive under --strict, 5 a case is broken that was not before.",
        children, NULL, NULL
    };
    struct arguments a = { .policy = compare_policy_default() };
    struct plim_err err = PLIM_ERR_INIT;
    a.policy.ungated_classes = COMPARE_MACHINE;   /* at the desk speed is of interest also where it isn't gated */
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(compare_files(&a, &err), &err);
}
