/* plimsoll threshold PARAMETER --model M: where a switch should be. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

#include "flag_table.h"
#include "interrupt.h"
#include "parameter_flags.h"
#include "plimsoll/process.h"
#include "table.h"
#include "threshold.h"

struct arguments {
    const char *parameter, *output;
    bool json, quiet, no_draw;
    struct threshold_question question;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "model", "DIR", "The model to time, where the switch works in one (dq_rows)",
      FLAG_FIELD(struct arguments, question.model_directory) },
    { "x", "ARGUMENT", "The workload's argument that is the size (default: prompt_tokens for dq_rows, in_features for "
      "hessian_offload_threshold)",
      FLAG_FIELD(struct arguments, question.argument) },
    { "from", "N", "The smallest size (default: 4 tokens, 256 features)",
      FLAG_FIELD(struct arguments, question.from), .low = 1, .high = 1 << 20 },
    { "to", "N", "The largest size (default: 128 tokens, 3072 features)",
      FLAG_FIELD(struct arguments, question.to), .low = 1, .high = 1 << 20 },
    { "sizes", "N", "Sizes between them, spread by ratio (default: 8)",
      FLAG_FIELD(struct arguments, question.size_count), .low = 3, .high = 200 },
    { "rounds", "N", "Times that each size is run each way (default: 7)",
      FLAG_FIELD(struct arguments, question.rounds), .low = 3, .high = 1000 },
    { "seed", "N", "Of the random order and of the bootstrap (default: 1)",
      FLAG_FIELD(struct arguments, question.seed), .low = 0, .high = INT64_MAX },
    { "timeout", "SECONDS", "Time for one run (default: 120)",
      FLAG_FIELD(struct arguments, question.timeout_ns), .low = 1, .high = 86400, .unit = 1000000000 },
    { "output", "DIR", "Where the plot goes (default: results)", FLAG_FIELD(struct arguments, output), .key = 'o' },
    { "no-draw", NULL, "Write script and data, don't run gnuplot", FLAG_FIELD(struct arguments, no_draw) },
    { "json", NULL, "Print JSON, with every sample", FLAG_FIELD(struct arguments, json) },
    { "quiet", NULL, "No progress", FLAG_FIELD(struct arguments, quiet), .key = 'q' },
    { 0 }
};

static void check(struct arguments *a, struct argp_state *state)
{
    const struct threshold_question *q = &a->question;

    if (!a->parameter)
        argp_error(state, "a parameter is needed, such as dq_rows");
    if (q->from && q->to && q->from >= q->to)
        argp_error(state, "--from is %lld and --to is %lld; wanted a range", (long long)q->from, (long long)q->to);
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case ARGP_KEY_ARG:
        flag_only_argument(state, &a->parameter, "parameter", text);
        return 0;
    case ARGP_KEY_END:
        check(a, state);
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

static int tell(const struct arguments *a, const struct threshold *threshold, struct plim_err *err)
{
    char *text;

    if (!a->json)
        return threshold_print(threshold, &a->question, stdout, table_colours(stdout), err);
    text = threshold_format(threshold, &a->question, err);
    if (text)
        puts(text);
    free(text);
    return text ? 0 : -1;
}

/* What only the switch knows: whether there is a model, and sizes that suit it. */
static int settle_question(struct threshold_question *q, struct plim_err *err)
{
    const struct workload *workload = workload_find(q->which->workload, err);

    if (!workload)
        return -1;
    if (workload->needs_model && !q->model_directory)
        return plim_err_input(err, "%s is timed in a model: --model DIR is needed", q->which->parameter);
    if (!workload->needs_model && q->model_directory)
        return plim_err_input(err, "%s is timed without a model: leave out --model", q->which->parameter);
    q->from = q->from ? q->from : q->which->from;
    q->to = q->to ? q->to : q->which->to;
    if (q->from >= q->to)
        return plim_err_input(err, "sizes from %lld to %lld are no range", (long long)q->from, (long long)q->to);
    return 0;
}

static int run(struct arguments *a, struct plim_err *err)
{
    struct process_executor processes = { 0 };
    struct executor executor = process_executor(&processes);
    struct threshold threshold = { 0 };
    char *program = NULL;
    int rc = -1;

    if (!(a->question.which = threshold_find(a->parameter, err)) || interrupt_install(err) < 0 ||
        !(program = plim_self_path(err)))
        goto out;
    processes.program = program;
    if (settle_question(&a->question, err) < 0)
        goto out;
    a->question.executor = &executor;
    a->question.parameters = a->flags.parameters;
    a->question.log = a->quiet ? NULL : stderr;
    if (threshold_measure(&threshold, &a->question, err) < 0 || tell(a, &threshold, err) < 0 ||
        threshold_plot(&threshold, &a->question, a->output, !a->no_draw, err) < 0)
        goto out;
    if (!a->quiet)
        fprintf(stderr, "plot: %s/threshold-%s.%s\n", a->output, a->parameter, a->no_draw ? "gp" : "png");
    rc = 0;

out:
    threshold_release(&threshold);
    free(program);
    return rc;
}

int verb_threshold(int argc, char **argv)
{
    struct arguments a = { .output = "results" };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "PARAMETER",
        "Times both ways of a switch at several sizes, in random order, each run in a fresh process, and says where they "
        "cross, with a 95% interval, and whether the default lies inside. Known: dq_rows, hessian_offload_threshold.\v"
        "Exit status: 0 measured, 1 a run failed, 2 bad usage, model or parameter.",
        a.flags.children, NULL, NULL
    };
    struct plim_err err = PLIM_ERR_INIT;

    a.question = (struct threshold_question){ .size_count = 8, .rounds = 7, .seed = 1, .timeout_ns = 120 * (uint64_t)1000000000 };
    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(run(&a, &err), &err);
}
