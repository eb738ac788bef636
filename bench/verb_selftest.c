/* plimsoll selftest gate: how far the gate's verdicts can be trusted. */

#include "verb.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "model_store.h"
#include "plimsoll/process.h"
#include "runner.h"
#include "selftest.h"

enum { OPTION_SHORT = 1000, OPTION_TRIALS, OPTION_CASES, OPTION_MACHINE, OPTION_SEED, OPTION_JSON, OPTION_TIME,
       OPTION_SUITE, OPTION_CASE, OPTION_MODELS };

#define TRIALS 300           /* no false alarm in so many shows a rate below about 1% */
#define SHORT_TRIALS 20
#define MACHINE_TRIALS 10    /* real ones, which take seconds each */
#define CASES 40
#define MACHINE_CASES 4

struct arguments {
    struct selftest_options run;
    const char *suite, *models;
    bool gate, machine, json, quiet;
};

static const struct argp_option options[] = {
    { "short", OPTION_SHORT, NULL, 0, "Few trials, as in CI", 0 },
    { "trials", OPTION_TRIALS, "N", 0, "Suites of each kind (default: 300; 20 with --short)", 0 },
    { "cases", OPTION_CASES, "N", 0, "Cases in a simulated suite (default: 40)", 0 },
    { "machine", OPTION_MACHINE, NULL, 0,
      "This machine instead of simulations: record it, replay that for --trials suites, then run up to 10 real ones of "
      "each kind", 0 },
    { "time-s", OPTION_TIME, "SECONDS", 0, "With --machine: for all of it; as many suites as fit", 0 },
    { "suite", OPTION_SUITE, "SUITE", 0, "With --machine: real cases, instead of four that only spin", 0 },
    { "case", OPTION_CASE, "PATTERN", 0, "Only cases of that suite whose id matches", 0 },
    { "models", OPTION_MODELS, "DIR", 0, "Where models are, and are made (default: $PLIMSOLL_MODELS or models)", 0 },
    { "seed", OPTION_SEED, "N", 0, "Of noise and order (default: 1)", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
    { 0 }
};

static size_t parse_count(const char *name, const char *text, long high, struct argp_state *state)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (end == text || *end || value < 1 || value > high)
        argp_error(state, "--%s is \"%s\"; wanted 1 to %ld", name, text, high);
    return (size_t)value;
}

static void fill_defaults(struct arguments *a)
{
    if (!a->run.trials)
        a->run.trials = a->run.brief && !a->machine ? SHORT_TRIALS : TRIALS;
    if (!a->run.cases)
        a->run.cases = CASES;
    a->run.machine_trials = a->run.time_s > 0 ? SIZE_MAX : MACHINE_TRIALS;
    a->run.machine_cases = MACHINE_CASES;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case OPTION_SHORT:
        a->run.brief = true;
        return 0;
    case OPTION_TRIALS:
        a->run.trials = parse_count("trials", text, 1000000, state);
        return 0;
    case OPTION_CASES:
        a->run.cases = parse_count("cases", text, 1000, state);
        return 0;
    case OPTION_MACHINE:
        a->machine = true;
        return 0;
    case OPTION_SEED:
        a->run.seed = parse_count("seed", text, 1000000000, state);
        return 0;
    case OPTION_TIME:
        a->run.time_s = (double)parse_count("time-s", text, 1000000, state);
        return 0;
    case OPTION_SUITE:
        a->suite = text;
        return 0;
    case OPTION_CASE:
        if (!case_patterns_add(&a->run.real_cases, text))
            argp_error(state, "more than %d times --case", CASE_PATTERN_LIMIT);
        return 0;
    case OPTION_MODELS:
        a->models = text;
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->gate || strcmp(text, "gate") != 0)
            argp_error(state, "\"%s\" is nothing that tests itself; there is: gate", text);
        a->gate = true;
        return 0;
    case ARGP_KEY_END:
        if (!a->gate)
            argp_error(state, "what is to be tested? There is: gate");
        if (!a->machine && (a->run.time_s > 0 || a->suite))
            argp_error(state, "--time-s and --suite go with --machine");
        if (a->run.real_cases.count && !a->suite)
            argp_error(state, "--case goes with --suite");
        fill_defaults(a);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int print(const struct arguments *a, const struct selftest *selftest, struct plim_err *err)
{
    char *text;

    if (!a->json)
        return selftest_print(selftest, stdout, err);
    text = selftest_json(selftest, err);
    if (text)
        puts(text);
    free(text);
    return text ? 0 : -1;
}

/* The real cases, with their models made. */
static int read_suite(struct arguments *a, struct suite *suite, const char *self, struct plim_err *err)
{
    if (!a->suite)
        return 0;
    if (suite_read(suite, a->suite, err) < 0)
        return -1;
    if (case_patterns_check(&a->run.real_cases, suite, err) < 0)
        return -1;
    a->run.suite = suite;
    a->run.models_directory = model_store_directory(a->models);
    return model_store_prepare(suite, &a->run.real_cases, a->run.models_directory, self, a->run.progress, err);
}

static int run(struct arguments *a, struct plim_err *err)
{
    static struct selftest selftest;
    struct suite suite = { 0 };
    char broken[200], *self = NULL;
    int status = -1;

    a->run.progress = a->quiet ? NULL : stderr;
    if (interrupt_install(err) < 0 || !(self = plim_self_path(err)) || read_suite(a, &suite, self, err) < 0)
        goto out;
    a->run.program = a->machine ? self : NULL;
    if (selftest_gate(&a->run, &selftest, err) < 0 || print(a, &selftest, err) < 0)
        goto out;
    status = 0;
    if (!selftest_keeps_promises(&selftest, broken, sizeof broken)) {
        fprintf(stderr, "plimsoll: the gate doesn't keep its promises: %s\n", broken);
        status = 6;
    }

out:
    selftest_release(&selftest);
    suite_release(&suite);
    free(self);
    return status;
}

int verb_selftest(int argc, char **argv)
{
    static const struct argp argp = {
        options,
        parse_option,
        "gate",
        "Tests `plimsoll ab` as an instrument: runs it on suites of one build against itself, with nothing, slowdowns "
        "of 1, "
        "2, 3, 5 and 10%, or a page of memory planted in one case, on simulated machines or on this one. Prints how "
        "often "
        "it cried wolf and how often it found what was there, with 95% intervals.\v"
        "Exit status: 0 the promises are kept, 1 the test itself failed, 2 bad usage, 6 a promise is broken.",
        NULL,
        NULL,
        NULL
    };
    struct arguments a = { .run = { .seed = 1 } };
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
