/* plimsoll frontier MODEL --memory-budget B: the fastest setting that fits, and where fitting ends. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontier_print.h"
#include "heap.h"
#include "interrupt.h"
#include "number_flags.h"
#include "parameter_flags.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"
#include "table.h"

enum { OPTION_PROMPT = 1000, OPTION_CONTEXT, OPTION_DECODE, OPTION_LIMIT, OPTION_RUNS, OPTION_TIMEOUT, OPTION_JSON,
       OPTION_NO_DRAW };

struct arguments {
    const char *model, *output;
    bool json, quiet, no_draw;
    struct frontier_question question;
    struct parameter_flags flags;
};

static const struct argp_option options[] = {
    { "prompt-tokens", OPTION_PROMPT, "N", 0, "Tokens of the prompt (default: 512)", 0 },
    { "decode-tokens", OPTION_DECODE, "N", 0, "Find the fastest at decoding N tokens after the prompt, not at the prompt",
      0 },
    { "context-tokens", OPTION_CONTEXT, "N", 0, "Capacity of the cache (default: as many as are used)", 0 },
    { "limit", OPTION_LIMIT, "NAME", 0,
      "What is raised until it fits no more: context_tokens (default), max_dq_size or max_input_len", 0 },
    { "runs", OPTION_RUNS, "N", 0, "Settings to run at most (default: 24)", 0 },
    { "timeout", OPTION_TIMEOUT, "SECONDS", 0, "Time for one run (default: 120)", 0 },
    { "output", 'o', "DIR", 0, "Where the plot goes (default: results)", 0 },
    { "no-draw", OPTION_NO_DRAW, NULL, 0, "Write script and data, don't run gnuplot", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { "quiet", 'q', NULL, 0, "No lines for single runs", 0 },
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
    if (!q->context_tokens)
        q->context_tokens = q->prompt_tokens + q->decode_tokens;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct frontier_question *q = &a->question;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case OPTION_PROMPT:
        q->prompt_tokens = (size_t)flag_count(state, "--prompt-tokens", text, 1, 1 << 20);
        return 0;
    case OPTION_DECODE:
        q->decode_tokens = (size_t)flag_count(state, "--decode-tokens", text, 1, 16384);
        q->decode = true;
        return 0;
    case OPTION_CONTEXT:
        q->context_tokens = (size_t)flag_count(state, "--context-tokens", text, 1, 1 << 20);
        return 0;
    case OPTION_LIMIT:
        parse_limit(q, text, state);
        return 0;
    case OPTION_RUNS:
        q->run_limit = (size_t)flag_count(state, "--runs", text, 1, 10000);
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
        if (a->model)
            argp_error(state, "one model at a time: \"%s\" is a second", text);
        a->model = text;
        return 0;
    case ARGP_KEY_END:
        check(a, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
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
    struct argp argp = {
        options, parse_option, "MODEL",
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
    if (status < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return status;
}
