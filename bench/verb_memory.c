/* plimsoll memory diff|plot: what traces of memory say. */

#include "verb.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "memory_diff.h"
#include "memory_plot.h"
#include "table.h"

enum { OPTION_JSON = 1000, OPTION_NAME, OPTION_FORMATS, OPTION_NO_DRAW };

static int fail(const struct plim_err *err)
{
    fprintf(stderr, "plimsoll: %s\n", err->message);
    return plim_err_exit_status(err);
}

/* ---- diff ---- */

struct diff_arguments {
    const char *before, *after;
    bool json;
};

static const struct argp_option diff_options[] = {
    { "json", OPTION_JSON, NULL, 0, "Print JSON, every row included", 0 },
    { 0 }
};

static error_t parse_diff_option(int key, char *text, struct argp_state *state)
{
    struct diff_arguments *a = state->input;

    switch (key) {
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->after)
            argp_error(state, "two traces are compared: \"%s\" is a third", text);
        *(a->before ? &a->after : &a->before) = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->after)
            argp_error(state, "two traces are needed: before and after");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int print_diff(const struct memory_diff *diff, bool json, struct plim_err *err)
{
    char *text;

    if (!json)
        return memory_diff_print(diff, stdout, table_colours(stdout), err);
    text = memory_diff_format(diff, err);
    if (text)
        puts(text);
    free(text);
    return text ? 0 : -1;
}

static int run_diff(const struct diff_arguments *a, struct plim_err *err)
{
    struct trace_peak before = { 0 }, after = { 0 };
    struct memory_diff diff = { 0 };
    int status = -1;

    if (trace_peak_read(&before, a->before, err) < 0 || trace_peak_read(&after, a->after, err) < 0 ||
        memory_diff_make(&diff, &before, &after, err) < 0)
        goto out;
    if (print_diff(&diff, a->json, err) == 0)
        status = memory_diff_grew(&diff) ? 1 : 0;

out:
    memory_diff_release(&diff);
    trace_peak_release(&before);
    trace_peak_release(&after);
    return status;
}

static int memory_diff_verb(int argc, char **argv)
{
    static const struct argp argp = {
        diff_options, parse_diff_option, "BEFORE AFTER",
        "Compares the peaks of two memory traces: which tag, which module and which function held more.\v"
        "Exit status: 0 the peak is the same or lower, 1 it grew, on either tier, 2 bad usage or a bad trace.",
        NULL, NULL, NULL
    };
    struct diff_arguments a = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    int status;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status = run_diff(&a, &err);
    return status < 0 ? fail(&err) : status;
}

/* ---- plot ---- */

struct plot_arguments {
    const char *trace, *directory, *name, *formats;
    bool no_draw;
};

static const struct argp_option plot_options[] = {
    { "output", 'o', "DIR", 0, "Where the images go (default: beside the trace)", 0 },
    { "name", OPTION_NAME, "NAME", 0, "What they are called (default: as the trace)", 0 },
    { "formats", OPTION_FORMATS, "LIST", 0, "png, svg or both (default: \"png svg\")", 0 },
    { "no-draw", OPTION_NO_DRAW, NULL, 0, "Only write script and data, don't run gnuplot", 0 },
    { 0 }
};

static error_t parse_plot_option(int key, char *text, struct argp_state *state)
{
    struct plot_arguments *a = state->input;

    switch (key) {
    case 'o':
        a->directory = text;
        return 0;
    case OPTION_NAME:
        a->name = text;
        return 0;
    case OPTION_FORMATS:
        if (strcmp(text, "png") != 0 && strcmp(text, "svg") != 0 && strcmp(text, "png svg") != 0)
            argp_error(state, "--formats is \"%s\"; wanted png, svg or \"png svg\"", text);
        a->formats = text;
        return 0;
    case OPTION_NO_DRAW:
        a->no_draw = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->trace)
            argp_error(state, "one trace at a time: \"%s\" is a second", text);
        a->trace = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->trace)
            argp_error(state, "a memory trace is needed (plimsoll run --trace-memory makes them)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* "traces/tiny~prefill.trace": "traces" and "tiny~prefill". */
static int split_path(const char *path, char **directory, char **name, struct plim_err *err)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    int length = dot && dot > base && strcmp(dot, ".trace") == 0 ? (int)(dot - base) : (int)strlen(base);

    *directory = slash ? heap_printf(err, "%.*s", slash == path ? 1 : (int)(slash - path), path) : heap_strdup(".", err);
    *name = *directory ? heap_printf(err, "%.*s", length, base) : NULL;
    return *name ? 0 : -1;
}

static int run_plot(const struct plot_arguments *a, struct plim_err *err)
{
    char *directory = NULL, *name = NULL;
    int rc = -1;

    if (split_path(a->trace, &directory, &name, err) == 0) {
        struct memory_plot plot = { .trace = a->trace, .directory = a->directory ? a->directory : directory,
                                    .name = a->name ? a->name : name, .formats = a->formats, .draw = !a->no_draw };

        rc = memory_plot_write(&plot, err);
        if (rc == 0) {
            char endings[32], *rest = endings;

            snprintf(endings, sizeof endings, "%s", a->no_draw ? "gp tsv" : a->formats);
            for (char *ending; (ending = strsep(&rest, " "));)
                printf("%s/%s.%s\n", plot.directory, plot.name, ending);
        }
    }
    free(directory);
    free(name);
    return rc;
}

static int memory_plot_verb(int argc, char **argv)
{
    static const struct argp argp = {
        plot_options, parse_plot_option, "TRACE",
        "Draws a memory trace: what each tag held over time, on both tiers, with the boundaries of the modules. Script and "
        "data stay beside the images.",
        NULL, NULL, NULL
    };
    struct plot_arguments a = { .formats = "png svg" };
    struct plim_err err = PLIM_ERR_INIT;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return run_plot(&a, &err) < 0 ? fail(&err) : 0;
}

/* ---- both ---- */

int verb_memory(int argc, char **argv)
{
    static const char help[] = "Usage: plimsoll memory diff BEFORE AFTER\n"
                               "       plimsoll memory plot TRACE\n"
                               "Reads memory traces, which `plimsoll run SUITE --trace-memory` writes.\n\n"
                               "`plimsoll memory diff --help` and `plimsoll memory plot --help` tell more.\n";
    const char *action = argc > 1 ? argv[1] : "";
    char name[64];

    snprintf(name, sizeof name, "plimsoll memory %.20s", action);
    if (strcmp(action, "diff") == 0 || strcmp(action, "plot") == 0) {
        argv[1] = name;
        return (*action == 'd' ? memory_diff_verb : memory_plot_verb)(argc - 1, argv + 1);
    }
    if (strcmp(action, "--help") == 0 || strcmp(action, "-?") == 0) {
        fputs(help, stdout);
        return 0;
    }
    fputs(help, stderr);
    return 2;
}
