/* plimsoll: the verbs, and how to find them. */

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/json.h"
#include "verb.h"
#include "version.h"

static const struct verb verbs[] = {
    { "run", "run a suite and write its result", verb_run },
    { "compare", "compare two results, or a result with a baseline", verb_compare },
    { "gate", "compare a result with its suite's baselines; fails on a regression", verb_gate },
    { "ab", "run two builds side by side and judge the second", verb_ab },
    { "baseline", "accept, list and show baselines", verb_baseline },
    { "plot", "draw the plots of a suite from a result", verb_plot },
    { "bisect", "find the commit that changed a metric", verb_bisect },
    { "history", "keep results over commits, and find where a metric changed", verb_history },
    { "report", "write a result, and what became of its baseline, as one HTML page", verb_report },
    { "plan", "predict the peak memory of a run, by tag", verb_plan },
    { "frontier", "find the fastest setting within a memory budget", verb_frontier },
    { "threshold", "find where a switch between two ways should be", verb_threshold },
    { "memory", "compare and draw memory traces", verb_memory },
    { "model", "make synthetic models; show what a model is", verb_model },
    { "quantize", "convert a dense model to EXL2", verb_quantize },
    { "generate", "continue a text with a model", verb_generate },
    { "perplexity", "score a text with a model", verb_perplexity },
    { "logits", "write the logits of given tokens", verb_logits },
    { "parameters", "list the parameters that bound memory", verb_parameters },
    { "machine", "describe this machine and measure its yardsticks", verb_machine },
    { "selftest", "measure how often the gate errs", verb_selftest },
    { "worker", NULL, verb_worker },
};

enum { VERB_COUNT = sizeof verbs / sizeof verbs[0] };

static void print_help(FILE *out)
{
    fputs("Usage: plimsoll VERB [ARGUMENTS]\n"
          "Runs LLM inference under suites, measures speed and peak memory, and gates both against baselines.\n\n", out);
    for (size_t i = 0; i < VERB_COUNT; i++)
        if (verbs[i].summary)
            fprintf(out, "  %-12s %s\n", verbs[i].name, verbs[i].summary);
    fputs("\n`plimsoll VERB --help` tells more. Begin with: plimsoll run smoke\n", out);
}

static int unknown_verb(const char *name)
{
    const char *names[VERB_COUNT + 1] = { NULL };
    const char *nearest;
    size_t count = 0;

    for (size_t i = 0; i < VERB_COUNT; i++)
        if (verbs[i].summary)
            names[count++] = verbs[i].name;
    nearest = plim_nearest_name(name, names);
    if (nearest)
        fprintf(stderr, "plimsoll: unknown verb \"%s\"; did you mean %s?\n", name, nearest);
    else
        fprintf(stderr, "plimsoll: unknown verb \"%s\"; `plimsoll --help` lists them\n", name);
    return 2;
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
    char name[64];

    /* argp takes its program's name from argv[0]: "plimsoll run: ..." */
    snprintf(name, sizeof name, "plimsoll %s", verb->name);
    argv[0] = name;
    argp_err_exit_status = 2;
    return verb->run(argc, argv);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("plimsoll %s (%s, %s %s)\n", plim_version, plim_git_revision, plim_compiler, plim_build_type);
        return 0;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "-?") == 0 ||
        strcmp(name, "help") == 0) {
        print_help(stdout);
        return 0;
    }
    for (size_t i = 0; i < VERB_COUNT; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return run_verb(&verbs[i], argc - 1, argv + 1);
    return unknown_verb(name);
}
