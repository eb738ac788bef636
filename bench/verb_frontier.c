/* plimsoll frontier MODEL --memory-budget B: the fastest setting that fits, and where fitting ends. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "flag_table.h"
#include "frontier_print.h"
#include "heap.h"
#include "interrupt.h"
#include "parameter_flags.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"
#include "table.h"

enum { OPTION_LIMIT = 1000 };

struct arguments {
    const char *model, *output;
    bool json, quiet, no_draw;
    struct frontier_question question;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "prompt-tokens", "N", "Tokens of the prompt (default: 512)",
      FLAG_FIELD(struct arguments, question.prompt_tokens), .low = 1, .high = 1 << 20 },
    { "decode-tokens", "N", "Find the fastest at decoding N tokens after the prompt, not at the prompt",
      FLAG_FIELD(struct arguments, question.decode_tokens), .low = 1, .high = 16384 },
    { "context-tokens", "N", "Capacity of the cache (default: as many as are used)",
      FLAG_FIELD(struct arguments, question.context_tokens), .low = 1, .high = 1 << 20 },
    { "limit", "NAME", "What is raised until it fits no more: context_tokens (default), max_dq_size or max_input_len",
      .key = OPTION_LIMIT },
    { "runs", "N", "Settings to run at most (default: 24)",
      FLAG_FIELD(struct arguments, question.run_limit), .low = 1, .high = 10000 },
    { "timeout", "SECONDS", "Time for one run (default: 120)",
      FLAG_FIELD(struct arguments, question.timeout_ns), .low = 1, .high = 86400, .unit = 1000000000 },
    { "output", "DIR", "Where the plot goes (default: results)", FLAG_FIELD(struct arguments, output), .key = 'o' },
    { "no-draw", NULL, "Write script and data, don't run gnuplot", FLAG_FIELD(struct arguments, no_draw) },
    { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, json) },
    { "quiet", NULL, "No lines for single runs", FLAG_FIELD(struct arguments, quiet), .key = 'q' },
    { 0 }
};

static void parse_limit(struct frontier_question *q, const char *text, struct argp_state *state)
{
    for (int limit = 0; limit <= LIMIT_MAX_INPUT_LEN; limit++) {
        if (strcmp(text, frontier_limit_name((enum frontier_limit)limit)) == 0) {
            q->limit = (enum frontier_limit)limit;
            return;
        }
    }
    argp_error(state, "--limit is \"%s\"; wanted context_tokens, max_dq_size or max_input_len", text);
}

static void check(struct arguments *a, struct argp_state *state)
{
    struct frontier_question *q = &a->question;

    if (!a->model)
        argp_error(state, "a model directory is needed");
    if (a->flags.parameters.count[PLIM_MEMORY_BUDGET] <= 0 || !a->flags.parameters.set[PLIM_MEMORY_BUDGET])
        argp_error(state, "--memory-budget is needed, such as 512Mi");
    q->budget_bytes = (uint64_t)a->flags.parameters.count[PLIM_MEMORY_BUDGET];
    q->decode = q->decode_tokens > 0;
    if (!q->context_tokens)
        q->context_tokens = q->prompt_tokens + q->decode_tokens;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case OPTION_LIMIT:
        parse_limit(&a->question, text, state);
        return 0;
    case ARGP_KEY_ARG:
        flag_only_argument(state, &a->model, "model", text);
        return 0;
    case ARGP_KEY_END:
        check(a, state);
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

static int predict_here(void *context, const struct plim_parameters *parameters, const struct plim_plan_request *request,
                        struct plim_plan *plan, struct plim_err *err)
{
    (void)context;
    return plim_predict(".", NULL, parameters, request, plan, err);
}

static int report(const struct arguments *a, const struct frontier *f, const char *directory, struct plim_err *err)
{
    const struct frontier_question *q = &a->question;

    if (a->json) {
        char *text = frontier_format(f, q, err);

        if (text)
            puts(text);
        free(text);
        if (!text)
            return -1;
    } else if (frontier_print(f, q, stdout, table_colours(stdout), err) < 0) {
        return -1;
    }
    if (!f->found)
        return 1;
    if (frontier_plot(f, q, directory, !a->no_draw, err) < 0)
        return -1;
    if (!a->quiet)
        fprintf(stderr, "plot: %s/frontier.%s\n", directory, a->no_draw ? "gp" : "png");
    return f->verified == FRONTIER_VERIFICATIONS && (f->limit < 0 || f->limit_fits == FRONTIER_VERIFICATIONS) &&
           (f->limit < 0 || f->limit_is_open || f->limit_refused == FRONTIER_VERIFICATIONS) ? 0 : 1;
}

/* Predictions are made in the model's directory, which is called "." in a worker too: metadata holds paths. */
static int search(struct arguments *a, struct plim_err *err)
{
    struct process_executor processes = { 0 };
    struct executor executor = process_executor(&processes);
    struct frontier frontier = { .limit = -1 };
    struct plim_model_info info;
    char *program = plim_self_path(err), *model = NULL, *directory = NULL;
    int status = -1;

    if (!program || interrupt_install(err) < 0)
        goto out;
    if (plim_make_directories(a->output, err) < 0 || !(directory = realpath(a->output, NULL))) {
        plim_err_errno(err, "opening %s", a->output);
        goto out;
    }
    if (!(model = realpath(a->model, NULL))) {
        plim_err_input(err, "there is no model directory %s", a->model);
        goto out;
    }
    if (plim_model_inspect(model, &info, err) < 0)
        goto out;
    if (chdir(model) < 0) {
        plim_err_errno(err, "opening %s", model);
        goto out;
    }
    processes.program = program;
    a->question.model_directory = model;
    a->question.max_positions = info.max_positions;
    a->question.parameters = a->flags.parameters;
    a->question.predict = predict_here;
    a->question.executor = &executor;
    a->question.log = a->quiet ? NULL : stderr;
    if (frontier_search(&frontier, &a->question, err) == 0)
        status = report(a, &frontier, directory, err);

out:
    frontier_release(&frontier);
    free(program);
    free(model);
    free(directory);
    return status;
}

int verb_frontier(int argc, char **argv)
{
    struct arguments a = { .output = "results" };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "MODEL",
        "Finds the fastest setting of max_dq_size, max_input_len, max_attention_size and kv_cache whose peak fits "
        "--memory-budget: by prediction first, then by running what fits. A parameter that is given stays as it is.\v"
        "Then one quantity is raised at that setting until it fits no more: one integer, the same on every machine.\n\n"
        "Exit status: 0 found and verified, 1 nothing fits, a verification or a run failed, 2 bad usage or model.",
        a.flags.children, NULL, NULL
    };
    struct plim_err err = PLIM_ERR_INIT;
    int status;

    a.question = (struct frontier_question){ .prompt_tokens = 512, .run_limit = 24,
                                             .timeout_ns = 120 * (uint64_t)1000000000 };
    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status = search(&a, &err);
    return verb_status(status, &err);
}
