/* plimsoll run SUITE: measures. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_list.h"
#include "heap.h"
#include "interrupt.h"
#include "model_store.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "runner.h"

enum { OPTION_RESUME = 1000, OPTION_SET, OPTION_REPEATS, OPTION_MODELS, OPTION_JSON, OPTION_LIST, OPTION_QUIET,
       OPTION_YARDSTICKS, OPTION_TRACE };

#define SET_LIMIT 64

struct arguments {
    const char *suite;
    const char *models;
    const char *sets[SET_LIMIT];
    size_t set_count;
    bool json, list, quiet, trace;
    struct run_options run;
};

static const struct argp_option options[] = {
    { "output", 'o', "FILE", 0, "Where the result goes (default: results/SUITE.json)", 0 },
    { "case", 'c', "PATTERN", 0, "Run only cases whose id matches, such as 'tiny/*'; may be given again", 0 },
    { "set", OPTION_SET, "NAME=VALUE", 0, "Set a parameter or a workload's argument in every case", 0 },
    { "repeats", OPTION_REPEATS, "N", 0, "Repeat each case so often", 0 },
    { "models", OPTION_MODELS, "DIR", 0, "Where models are, and are made (default: $PLIMSOLL_MODELS or models)", 0 },
    { "resume", OPTION_RESUME, "RESULT", 0, "Continue a run that was stopped: measure what RESULT lacks", 0 },
    { "yardsticks", OPTION_YARDSTICKS, NULL, 0, "Measure the machine's yardsticks even if no case needs them", 0 },
    { "trace-memory", OPTION_TRACE, NULL, 0,
      "Record every change of memory beside the result, one file a case (plimsoll memory); costs some speed", 0 },
    { "list", OPTION_LIST, NULL, 0, "Only print the ids of the cases; with --json all that they ask for", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print the result as JSON instead of a table", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
    { 0 }
};

static void parse_repeats(struct arguments *a, const char *text, struct argp_state *state)
{
    char *end;
    long repeats = strtol(text, &end, 10);

    if (end == text || *end || repeats < 1 || repeats > 1000)
        argp_error(state, "--repeats is \"%s\"; wanted 1 to 1000", text);
    a->run.repeats = (int)repeats;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case 'o':
        a->run.output = text;
        return 0;
    case 'c':
        if (!case_patterns_add(&a->run.cases, text))
            argp_error(state, "more than %d times --case", CASE_PATTERN_LIMIT);
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case OPTION_SET:
        if (!strchr(text, '='))
            argp_error(state, "--set is \"%s\"; wanted NAME=VALUE", text);
        if (a->set_count == SET_LIMIT)
            argp_error(state, "more than %d times --set", SET_LIMIT);
        a->sets[a->set_count++] = text;
        return 0;
    case OPTION_REPEATS:
        parse_repeats(a, text, state);
        return 0;
    case OPTION_MODELS:
        a->models = text;
        return 0;
    case OPTION_RESUME:
        a->run.resume = text;
        return 0;
    case OPTION_YARDSTICKS:
        a->run.force_yardsticks = true;
        return 0;
    case OPTION_TRACE:
        a->trace = true;
        return 0;
    case OPTION_LIST:
        a->list = true;
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->suite)
            argp_error(state, "one suite at a time: \"%s\" is a second", text);
        a->suite = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->suite)
            argp_error(state, "a suite is needed: a file, or a name such as smoke");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int apply_sets(const struct arguments *a, struct suite *suite, struct plim_err *err)
{
    for (size_t i = 0; i < a->set_count; i++) {
        const char *equals = strchr(a->sets[i], '=');
        char name[64];

        snprintf(name, sizeof name, "%.*s", (int)(equals - a->sets[i]), a->sets[i]);
        if (suite_set(suite, name, equals + 1, err) < 0)
            return plim_err_wrap(err, "--set %s", a->sets[i]);
    }
    return 0;
}

/* Said once, before models are made, and not by each case. */
static int check_available(const struct suite *suite, const struct case_patterns *cases, struct plim_err *err)
{
    for (size_t i = 0; i < suite->case_count; i++) {
        const struct suite_case *c = &suite->cases[i];

        if (case_patterns_match(cases, c) && plim_parameters_available(&c->parameters, err) < 0)
            return plim_err_wrap(err, "%s", c->id);
    }
    return 0;
}

static int list_cases(const struct arguments *a, const struct suite *suite, struct plim_err *err)
{
    char *text;

    if (a->json) {
        text = case_list_format(suite, &a->run, err);
        if (text)
            puts(text);
        free(text);
        return text ? 0 : -1;
    }
    for (size_t i = 0; i < suite->case_count; i++)
        if (case_patterns_match(&a->run.cases, &suite->cases[i]))
            puts(suite->cases[i].id);
    return 0;
}

/* The result's path and the directory that it goes to; free() the path. */
static char *prepare_output(const struct arguments *a, const struct suite *suite, struct plim_err *err)
{
    char *path, *slash;
    int rc = 0;

    if (a->run.output || a->run.resume)
        path = heap_strdup(a->run.output ? a->run.output : a->run.resume, err);
    else
        path = heap_printf(err, "results/%s.json", suite->name);
    slash = path ? strrchr(path, '/') : NULL;
    if (slash && slash > path) {
        *slash = '\0';
        rc = plim_make_directories(path, err);
        *slash = '/';
    }
    if (rc < 0) {
        free(path);
        path = NULL;
    }
    return path;
}

/* "results/smoke.json": "results/smoke.traces", made, as a path that a worker elsewhere finds; free(). */
static char *prepare_traces(const char *output, struct plim_err *err)
{
    size_t length = strlen(output);
    char *name, *path = NULL;

    if (length > 5 && strcmp(output + length - 5, ".json") == 0)
        length -= 5;
    name = heap_printf(err, "%.*s.traces", (int)length, output);
    if (name && plim_make_directories(name, err) == 0 && !(path = realpath(name, NULL)))
        plim_err_errno(err, "opening %s", name);
    free(name);
    return path;
}

static int print_result(const struct arguments *a, const struct suite *suite, const struct result *result,
                        struct plim_err *err)
{
    char *text;

    if (!a->json)
        return runner_print(suite, result, stdout, err);
    text = result_format(result, err);
    if (text)
        fputs(text, stdout);
    free(text);
    return text ? 0 : -1;
}

static int run(struct arguments *a, struct plim_err *err)
{
    struct suite suite = { 0 };
    struct result result = { 0 };
    struct process_executor processes = { 0 };
    struct executor executor = process_executor(&processes);
    char *program = NULL, *output = NULL, *traces = NULL;
    FILE *log = a->quiet ? NULL : stderr;
    int status = -1, rc;

    if (suite_read(&suite, a->suite, err) < 0 || apply_sets(a, &suite, err) < 0 ||
        case_patterns_check(&a->run.cases, &suite, err) < 0)
        goto out;
    a->run.models_directory = model_store_directory(a->models);
    if (a->list) {
        status = list_cases(a, &suite, err);
        goto out;
    }
    a->run.progress = log;
    if (check_available(&suite, &a->run.cases, err) < 0 || interrupt_install(err) < 0 ||
        !(processes.program = program = plim_self_path(err)) ||
        model_store_prepare(&suite, &a->run.cases, a->run.models_directory, program, log, err) < 0 ||
        !(a->run.output = output = prepare_output(a, &suite, err)) ||
        (a->trace && !(a->run.trace_directory = traces = prepare_traces(output, err))))
        goto out;

    rc = runner_run(&suite, &executor, &a->run, &result, err);
    if (rc < 0 && result.case_count == 0)
        goto out;
    if (print_result(a, &suite, &result, err) < 0 || rc < 0)
        goto out;
    status = runner_unexpected(&suite, &result) ? 5 : 0;

out:
    if (err->kind == PLIM_ERR_INTERRUPTED && output && log)
        fprintf(log, "plimsoll: go on with: plimsoll run %s --resume %s\n", a->suite, output);
    else if (output && log && status >= 0)
        fprintf(log, "result: %s%s%s\n", output, traces ? ", memory traces: " : "", traces ? traces : "");
    result_release(&result);
    suite_release(&suite);
    free(program);
    free(output);
    free(traces);
    return status;
}

int verb_run(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "SUITE",
        "Runs the cases of a suite, each in a process of its own, and writes what was measured after every case.\v"
        "Exit status: 0 every case ended as the suite expects, 1 the run itself failed or was interrupted, 2 bad usage, "
        "suite or model, 5 a case crashed, timed out, failed or ran out of memory.",
        NULL, NULL, NULL
    };
    struct arguments a = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    int status;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status = run(&a, &err);
    if (status < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        status = plim_err_exit_status(&err);
    }
    return status;
}
