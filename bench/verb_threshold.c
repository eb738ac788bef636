/* plimsoll threshold PARAMETER --model M: where a switch should be. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

#include "interrupt.h"
#include "number_flags.h"
#include "parameter_flags.h"
#include "plimsoll/process.h"
#include "table.h"
#include "threshold.h"

enum { OPTION_MODEL = 1000, OPTION_X, OPTION_FROM, OPTION_TO, OPTION_SIZES, OPTION_ROUNDS, OPTION_SEED, OPTION_TIMEOUT,
       OPTION_JSON, OPTION_NO_DRAW };

struct arguments {
    const char *parameter, *output;
    bool json, quiet, no_draw;
    struct threshold_question question;
    struct parameter_flags flags;
};

static const struct argp_option options[] = {
    { "model", OPTION_MODEL, "DIR", 0, "The model to time, where the switch works in one (dq_rows)", 0 },
    { "x", OPTION_X, "ARGUMENT", 0,
      "The workload's argument that is the size (default: prompt_tokens for dq_rows, in_features for "
      "hessian_offload_threshold)", 0 },
    { "from", OPTION_FROM, "N", 0, "The smallest size (default: 4 tokens, 256 features)", 0 },
    { "to", OPTION_TO, "N", 0, "The largest size (default: 128 tokens, 3072 features)", 0 },
    { "sizes", OPTION_SIZES, "N", 0, "Sizes between them, spread by ratio (default: 8)", 0 },
    { "rounds", OPTION_ROUNDS, "N", 0, "Times that each size is run each way (default: 7)", 0 },
    { "seed", OPTION_SEED, "N", 0, "Of the random order and of the bootstrap (default: 1)", 0 },
    { "timeout", OPTION_TIMEOUT, "SECONDS", 0, "Time for one run (default: 120)", 0 },
    { "output", 'o', "DIR", 0, "Where the plot goes (default: results)", 0 },
    { "no-draw", OPTION_NO_DRAW, NULL, 0, "Write script and data, don't run gnuplot", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON, with every sample", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
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
    struct threshold_question *q = &a->question;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case OPTION_MODEL:
        q->model_directory = text;
        return 0;
    case OPTION_X:
        q->argument = text;
        return 0;
    case OPTION_FROM:
        q->from = flag_count(state, "--from", text, 1, 1 << 20);
        return 0;
    case OPTION_TO:
        q->to = flag_count(state, "--to", text, 1, 1 << 20);
        return 0;
    case OPTION_SIZES:
        q->size_count = (size_t)flag_count(state, "--sizes", text, 3, 200);
        return 0;
    case OPTION_ROUNDS:
        q->rounds = (size_t)flag_count(state, "--rounds", text, 3, 1000);
        return 0;
    case OPTION_SEED:
        q->seed = (uint64_t)flag_count(state, "--seed", text, 0, INT64_MAX);
        return 0;
    case OPTION_TIMEOUT:
        q->timeout_ns = (uint64_t)flag_count(state, "--timeout", text, 1, 86400) * 1000000000u;
        return 0;
    case 'o':
        a->output = text;
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case OPTION_NO_DRAW:
        a->no_draw = true;
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->parameter)
            argp_error(state, "one parameter at a time: \"%s\" is a second", text);
        a->parameter = text;
        return 0;
    case ARGP_KEY_END:
        check(a, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
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
    struct argp argp = {
        options, parse_option, "PARAMETER",
        "Times both ways of a switch at several sizes, in random order, each run in a fresh process, and says where they "
        "cross, with a 95% interval, and whether the default lies inside. Known: dq_rows, hessian_offload_threshold.\v"
        "Exit status: 0 measured, 1 a run failed, 2 bad usage, model or parameter.",
        a.flags.children, NULL, NULL
    };
    struct plim_err err = PLIM_ERR_INIT;

    a.question = (struct threshold_question){ .size_count = 8, .rounds = 7, .seed = 1, .timeout_ns = 120 * (uint64_t)1000000000 };
    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (run(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
