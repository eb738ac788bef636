/* plimsoll plot RESULT...: the plots that the results' suite asks for. */

#include "verb.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plot.h"

enum { OPTION_SUITE = 1000, OPTION_FORMAT, OPTION_ONLY, OPTION_NO_DRAW };

struct arguments {
    const char *results[16];
    size_t result_count;
    const char *suite;        /* NULL: by the name in the result */
    const char *directory;    /* NULL: the first result's */
    char formats[32];         /* "png svg" */
    const char *only;         /* a plot's name; NULL: all */
    bool no_draw;
};

static const struct argp_option options[] = {
    { "output", 'o', "DIR", 0, "Where to put images, scripts and data (default: beside the first result)", 0 },
    { "format", OPTION_FORMAT, "LIST", 0, "png, svg or both (default: png,svg)", 0 },
    { "suite", OPTION_SUITE, "FILE", 0, "The suite that says what to draw (default: that of the result)", 0 },
    { "only", OPTION_ONLY, "NAME", 0, "Only this plot of the suite", 0 },
    { "no-draw", OPTION_NO_DRAW, NULL, 0, "Write script and data, leave gnuplot out", 0 },
    { 0 }
};

static void parse_formats(struct arguments *a, const char *list, struct argp_state *state)
{
    char copy[32], *rest = copy;
    snprintf(copy, sizeof copy, "%s", list);
    a->formats[0] = '\0';
    for (char *name; (name = strsep(&rest, ","));) {
        if (strcmp(name, "png") != 0 && strcmp(name, "svg") != 0)
            argp_error(state, "--format: \"%s\" is neither png nor svg", name);
        else if (!strstr(a->formats, name))
            snprintf(a->formats + strlen(a->formats), sizeof a->formats - strlen(a->formats), "%s%s",
                     *a->formats ? " " : "", name);
    }
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case 'o':
        a->directory = text;
        return 0;
    case OPTION_FORMAT:
        parse_formats(a, text, state);
        return 0;
    case OPTION_SUITE:
        a->suite = text;
        return 0;
    case OPTION_ONLY:
        a->only = text;
        return 0;
    case OPTION_NO_DRAW:
        a->no_draw = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->result_count == sizeof a->results / sizeof a->results[0])
            argp_error(state, "at most %zu results fit one plot", a->result_count);
        else
            a->results[a->result_count++] = text;
        return 0;
    case ARGP_KEY_END:
        if (a->result_count == 0)
            argp_error(state, "a result file is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int read_results(const struct arguments *a, struct result *results, struct plim_err *err)
{
    for (size_t i = 0; i < a->result_count; i++) {
        if (result_read(&results[i], a->results[i], err) < 0)
            return -1;
        if (results[i].is_baseline)
            return plim_err_input(err, "%s: a baseline; results are plotted", a->results[i]);
        if (strcmp(results[i].suite_name, results[0].suite_name) != 0)
            return plim_err_set(err, PLIM_ERR_COMPARE, "%s is of suite %s, %s of suite %s", a->results[0],
                                results[0].suite_name, a->results[i], results[i].suite_name);
    }
    return 0;
}

/* The directory of the first result, or the one that was asked for. */
static char *choose_directory(const struct arguments *a, struct plim_err *err)
{
    const char *path = a->results[0], *slash = strrchr(path, '/');
    if (a->directory || !slash)
        return heap_strdup(a->directory ? a->directory : ".", err);
    int length = slash == path ? 1 : (int)(slash - path);   /* of "/", or without the slash */
    return heap_printf(err, "%.*s", length, path);
}

/* 1 when it was drawn, 0 when the results have nothing for it, -1 on failure. */
static int draw_one(const struct arguments *a, const struct plot_job *job, struct plim_err *err)
{
    char *name = NULL;
    int rc = -1;
    if (plot_write(job, &name, err) < 0)
        return -1;
    if (!name) {
        fprintf(stderr, "plimsoll: plot %s: the result has no cases for it\n", job->plot->name);
        return 0;
    }
    if (a->no_draw || plot_draw(job->directory, name, err) == 0) {
        char formats[32], *rest = formats;
        snprintf(formats, sizeof formats, "%s", a->no_draw ? "gp tsv" : a->formats);
        for (char *format; (format = strsep(&rest, " "));)
            printf("%s/%s.%s\n", job->directory, name, format);
        rc = 1;
    }
    free(name);
    return rc;
}

static int draw_all(const struct arguments *a, struct plim_err *err)
{
    struct result *results = heap_calloc(a->result_count, sizeof *results, err);
    struct suite suite = { 0 };
    char *directory = choose_directory(a, err);
    size_t drawn = 0, asked = 0;
    int rc = -1;

    if (!results || !directory || read_results(a, results, err) < 0)
        goto out;
    if (suite_read(&suite, a->suite ? a->suite : results[0].suite_name, err) < 0) {
        if (!a->suite)
            plim_err_wrap(err, "finding out what to plot (--suite FILE names the suite's file)");
        goto out;
    }
    if (plim_make_directories(directory, err) < 0)
        goto out;
    for (size_t i = 0; i < suite.plot_count; i++) {
        struct plot_job job = { &suite.plots[i], results, a->result_count, directory, a->formats };
        if (a->only && strcmp(a->only, suite.plots[i].name) != 0)
            continue;
        asked++;
        int done = draw_one(a, &job, err);
        if (done < 0)
            goto out;
        drawn += (size_t)done;
    }
    if (a->only && !asked)
        plim_err_input(err, "suite %s has no plot %s", suite.name, a->only);
    else if (!asked)
        plim_err_input(err, "suite %s asks for no plots", suite.name);
    else if (!drawn)
        plim_err_input(err, "%s has no finished case that a plot of suite %s shows", a->results[0], suite.name);
    else
        rc = 0;

out:
    for (size_t i = 0; results && i < a->result_count; i++)
        result_release(&results[i]);
    free(results);
    free(directory);
    suite_release(&suite);
    return rc;
}

int verb_plot(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "RESULT...",
        "Draws the plots that the results' suite asks for. Script and data stay beside the images: change them and redraw "
        "with gnuplot NAME.gp.",
        NULL, NULL, NULL
    };
    struct arguments a = { .formats = "png svg" };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (draw_all(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
