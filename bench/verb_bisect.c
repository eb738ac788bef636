/* plimsoll bisect: the commit that changed a metric. */

#include "verb.h"

#include <argp.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ab_build.h"
#include "bisect.h"
#include "command.h"
#include "heap.h"
#include "interrupt.h"
#include "plimsoll/json.h"
#include "plimsoll/process.h"
#include "result.h"
#include "table.h"

enum { OPTION_GOOD = 1000, OPTION_BAD, OPTION_MODELS, OPTION_QUIET };

struct arguments {
    const char *good, *bad, *models;
    const char *suite, *case_id, *metric;
    bool quiet;
};

static const struct argp_option options[] = {
    { "good", OPTION_GOOD, "REV", 0, "A commit from before the change", 0 },
    { "bad", OPTION_BAD, "REV", 0, "A commit that has it (default: HEAD)", 0 },
    { "models", OPTION_MODELS, "DIR", 0, "Where models are, and are made (default: $PLIMSOLL_MODELS or models)", 0 },
    { "quiet", 'q', NULL, 0, "No progress, only the commit", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    const char **words[] = { &a->suite, &a->case_id, &a->metric };
    switch (key) {
    case OPTION_GOOD:
        a->good = text;
        return 0;
    case OPTION_BAD:
        a->bad = text;
        return 0;
    case OPTION_MODELS:
        a->models = text;
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 2)
            argp_error(state, "one metric at a time, \"%s\" is a second", text);
        *words[state->arg_num] = text;
        return 0;
    case ARGP_KEY_END:
        if (state->arg_num < 3)
            argp_error(state, "needed: SUITE CASE METRIC");
        if (!a->good)
            argp_error(state, "--good REV is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- what one build measures ---- */

struct measured {
    bool known;                /* false: the case or the metric isn't there */
    enum metric_class class;
    enum metric_direction direction;
    double number;             /* NaN for texts */
    char text[200];            /* to be equal, and to be read */
};

static void describe(const struct result_case *c, const char *name, struct measured *out)
{
    const struct metric *m = case_find_metric(c, name);
    char number[40];
    *out = (struct measured){ .number = NAN };
    if (strcmp(name, "outcome") == 0) {
        out->known = true;
        snprintf(out->text, sizeof out->text, "%s", outcome_name(c->outcome));
    } else if (m && m->texts.count) {
        out->known = true;
        snprintf(out->text, sizeof out->text, "%s", m->texts.items[0].text);
    } else if (m && m->sample_count) {
        out->known = true;
        out->number = metric_median(m);
        if (m->class == METRIC_EXACT)   /* in full: a byte is a difference */
            snprintf(out->text, sizeof out->text, "%s %s", format_number(number, sizeof number, out->number), m->unit);
        else
            format_value(out->text, sizeof out->text, out->number, m->unit);
    }
    out->class = m ? m->class : METRIC_EXACT;
    out->direction = m ? m->direction : DIRECTION_NONE;
}

/* Statuses that are an answer and not a failure: a regression, an undecided timing, a broken case. */
#define TAKES_ANSWERS                                                                                                      \
    "\"$@\"; s=$?; case $s in 0|1|4|5) exit 0;;"                                                                           \
    "6) echo 'plimsoll ab missed the slowdown that it plants itself, so its verdict is worth nothing' >&2;; esac; exit $s"

static int measure(const struct arguments *a, const char *program, struct measured *out, struct plim_err *err)
{
    char path[] = "/tmp/plimsoll-bisect-XXXXXX";
    struct result result = { 0 };
    const char *argv[16] = { "sh",     "-c", TAKES_ANSWERS, "sh", program,    "run",   a->suite,
                             "--case", a->case_id, "--quiet", "--output", path };
    int fd = mkstemp(path), rc = -1;
    if (fd < 0)
        return plim_err_errno(err, "making a file for a result");
    close(fd);
    if (a->models) {
        argv[12] = "--models";
        argv[13] = a->models;
    }
    if (command_run(argv, NULL, err) == 0 && result_read(&result, path, err) == 0) {
        const struct result_case *c = result_find_case(&result, a->case_id);
        if (c)
            describe(c, a->metric, out);
        else
            *out = (struct measured){ .number = NAN };
        rc = 0;
    }
    result_release(&result);
    unlink(path);
    return rc;
}

/* ---- timings: both builds interleaved, by `plimsoll ab` ---- */

/* How many times slower B is than A by the interleaved pairs; `*shown` when that is beyond doubt. */
static int read_slowdown(const struct arguments *a, const char *text, double *slowdown, bool *shown,
                         struct plim_err *err)
{
    cJSON *root = NULL;
    int rc = -1;
    if (plim_json_parse("plimsoll ab", text, strlen(text), &root, err) < 0)
        return -1;
    struct plim_json findings = plim_json_get(plim_json_root(root, "plimsoll ab"), "findings");
    for (size_t i = 0; i < plim_json_length(findings); i++) {
        struct plim_json f = plim_json_at(findings, i), ratio = plim_json_get(f, "slowdown");
        const char *id = NULL, *metric = NULL, *verdict = NULL;
        struct plim_err absent = PLIM_ERR_INIT;
        if (plim_json_string(plim_json_get(f, "case"), &id, &absent) < 0 ||
            plim_json_string(plim_json_get(f, "metric"), &metric, &absent) < 0 ||
            plim_json_string(plim_json_get(f, "verdict"), &verdict, &absent) < 0 || strcmp(id, a->case_id) != 0 ||
            strcmp(metric, a->metric) != 0 || !plim_json_has(ratio))
            continue;
        rc = plim_json_double(plim_json_get(ratio, "estimate"), slowdown, err);
        *shown = strcmp(verdict, "fail") == 0 || strcmp(verdict, "improved") == 0;
        break;
    }
    if (rc < 0)
        plim_err_set(err, PLIM_ERR_COMPARE, "plimsoll ab has no judgement of %s of %s", a->metric, a->case_id);
    cJSON_Delete(root);
    return rc;
}

static int compare_timings(const struct arguments *a, const char *self, const char *good, const char *step,
                           double *slowdown, bool *shown, struct plim_err *err)
{
    const char *argv[24] = { "sh",    "-c", TAKES_ANSWERS, "sh",       self,     "ab",      "--a",       good,
                             "--b",   step, a->suite,      "--case",   a->case_id, "--metric", a->metric, "--json",
                             "--all", "--quiet" };
    if (a->models) {
        argv[18] = "--models";
        argv[19] = a->models;
    }
    char *text = command_output(argv, NULL, err);
    int rc = text ? read_slowdown(a, text, slowdown, shown, err) : -1;
    free(text);
    return rc;
}

/* ---- the search ---- */

struct search {
    const struct arguments *arguments;
    char **commits;            /* oldest first; the last one is the bad one */
    size_t count;
    char *self, *good_program;
    struct measured good, bad;
    bool timing;
    double slowdown;           /* timings: of bad over good */
    FILE *log;
};

static const char *short_name(const char *commit)
{
    static char text[16];
    snprintf(text, sizeof text, "%.10s", commit);
    return text;
}

/* A value that is neither is good or bad as it is nearer to the one or the other. */
static enum bisect_answer judge_value(const struct search *s, const struct measured *now)
{
    if (!now->known)
        return BISECT_SKIP;
    if (strcmp(now->text, s->good.text) == 0 && (isnan(now->number) || now->number == s->good.number))
        return BISECT_GOOD;
    if (isnan(now->number) || isnan(s->good.number) || isnan(s->bad.number))
        return BISECT_BAD;   /* a text that is no longer the good one */
    return fabs(now->number - s->good.number) < fabs(now->number - s->bad.number) ? BISECT_GOOD : BISECT_BAD;
}

/* On the bad side of halfway, as a factor: the step is between the two, and the pairs are interleaved with good. */
static enum bisect_answer judge_slowdown(const struct search *s, double slowdown)
{
    double half = log(s->slowdown) / 2;
    return (half > 0) == (log(slowdown) > half) ? BISECT_BAD : BISECT_GOOD;
}

static int judge(void *context, size_t index, enum bisect_answer *answer, struct plim_err *err)
{
    struct search *s = context;
    struct plim_err failed = PLIM_ERR_INIT;
    struct measured now = { 0 };
    double slowdown = 1;
    bool shown;
    char *program = ab_build_resolve(s->commits[index], NULL, &failed);
    int rc = !program    ? -1
             : s->timing ? compare_timings(s->arguments, s->self, s->good_program, program, &slowdown, &shown, &failed)
                         : measure(s->arguments, program, &now, &failed);
    free(program);
    if (rc < 0 && (failed.kind == PLIM_ERR_INTERRUPTED || failed.kind == PLIM_ERR_MEMORY))
        return plim_err_set(err, failed.kind, "%s", failed.message);
    *answer = rc < 0 ? BISECT_SKIP : s->timing ? judge_slowdown(s, slowdown) : judge_value(s, &now);
    if (s->log) {
        const char *words[] = { "good", "bad", "skipped" };
        fprintf(s->log, "%s  %-8s", short_name(s->commits[index]), words[*answer]);
        if (rc < 0)
            fprintf(s->log, "%s\n", failed.message);
        else if (s->timing)
            fprintf(s->log, "%+.1f%% slower than good\n", 100 * (slowdown - 1));
        else
            fprintf(s->log, "%s\n", now.known ? now.text : "the metric isn't there");
    }
    return 0;
}

/* The commits behind good up to bad, along first parents, so that a merged branch is one step. */
static int list_commits(struct search *s, struct plim_err *err)
{
    const struct arguments *a = s->arguments;
    const char *const ancestor[] = { "git", "merge-base", "--is-ancestor", a->good, a->bad, NULL };
    char *range = heap_printf(err, "%s..%s", a->good, a->bad), *text = NULL;
    const char *const list[] = { "git", "rev-list", "--reverse", "--first-parent", "--end-of-options", range, NULL };
    struct plim_err no = PLIM_ERR_INIT;
    int rc = -1;
    if (!range)
        return -1;
    if (command_run(ancestor, NULL, &no) < 0) {
        plim_err_input(err, "%s is no ancestor of %s, or one of them is no commit here", a->good, a->bad);
        goto out;
    }
    if (!(text = command_output(list, NULL, err)))
        goto out;
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        char **commits = *line ? heap_room(s->commits, s->count, sizeof *commits, err) : NULL;
        if (!*line)
            continue;
        if (!commits || !(commits[s->count] = heap_strdup(line, err)))
            goto out;
        s->commits = commits;
        s->count++;
    }
    rc = s->count ? 0 : plim_err_input(err, "there is no commit between %s and %s", a->good, a->bad);

out:
    free(range);
    free(text);
    return rc;
}

/* Measures both ends: what is the same at both cannot be searched for. */
static int look_at_ends(struct search *s, struct plim_err *err)
{
    const struct arguments *a = s->arguments;
    char *bad_program = NULL;
    bool shown = false;
    int rc = -1;
    if (s->log)
        fprintf(s->log, "building %s and %s, unless they are there from an earlier time\n", a->good, a->bad);
    if (!(s->good_program = ab_build_resolve(a->good, NULL, err)) ||
        !(bad_program = ab_build_resolve(s->commits[s->count - 1], NULL, err)))
        goto out;
    if (measure(a, s->good_program, &s->good, err) < 0 || measure(a, bad_program, &s->bad, err) < 0)
        goto out;
    if (!s->good.known || !s->bad.known) {
        plim_err_input(err, "%s has no metric %s of case %s (the metric \"outcome\" is always there)",
                       s->good.known ? a->bad : a->good, a->metric, a->case_id);
        goto out;
    }
    s->timing = s->good.class == METRIC_TIMING;
    if (s->timing) {
        if (compare_timings(a, s->self, s->good_program, bad_program, &s->slowdown, &shown, err) < 0)
            goto out;
        if (!shown) {
            plim_err_set(err, PLIM_ERR_COMPARE, "%s: no difference between %s and %s beyond doubt (%+.1f%%)", a->metric,
                         a->good, a->bad, 100 * (s->slowdown - 1));
            goto out;
        }
        if (s->log)
            fprintf(s->log, "bad is %+.1f%% slower than good\n", 100 * (s->slowdown - 1));
    } else if (judge_value(s, &s->bad) == BISECT_GOOD) {
        plim_err_set(err, PLIM_ERR_COMPARE, "%s is %s at both ends: nothing to search for", a->metric, s->good.text);
        goto out;
    } else if (s->log) {
        fprintf(s->log, "good: %s, bad: %s, %zu commits between them\n", s->good.text, s->bad.text, s->count);
    }
    rc = 0;

out:
    free(bad_program);
    return rc;
}

static void print_commit(const char *commit)
{
    const char *const show[] = { "git", "log", "-1", "--format=%h %an, %ad: %s", "--date=short", commit, NULL };
    struct plim_err ignored = PLIM_ERR_INIT;
    char *line = command_output(show, NULL, &ignored);
    printf("%s\n", line ? line : commit);
    free(line);
}

static int bisect(struct arguments *a, struct plim_err *err)
{
    struct search s = { .arguments = a, .log = a->quiet ? NULL : stderr };
    struct bisect_outcome outcome;
    int rc = -1;

    if (interrupt_install(err) < 0 || !(s.self = plim_self_path(err)) || list_commits(&s, err) < 0 || look_at_ends(&s, err) < 0)
        goto out;
    if (bisect_search(s.count, judge, &s, &outcome, err) < 0)
        goto out;
    if (outcome.first == outcome.last)
        printf("%s changed here (%zu of %zu commits measured):\n", a->metric, outcome.asked, s.count);
    else
        printf("%s changed in one of these; those in between could not be measured:\n", a->metric);
    for (size_t i = outcome.first; i <= outcome.last; i++)
        print_commit(s.commits[i]);
    rc = 0;

out:
    for (size_t i = 0; i < s.count; i++)
        free(s.commits[i]);
    free(s.commits);
    free(s.self);
    free(s.good_program);
    return rc;
}

int verb_bisect(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, "SUITE CASE METRIC",
        "Finds the commit that changed a metric of a case. Each step is built in a worktree of its own, with what "
        "$PLIMSOLL_CMAKE_OPTIONS adds, and kept for the next time. Exact, bounded and system metrics are judged by their "
        "value; timings by interleaved pairs against the good build, as `plimsoll ab` does. The metric \"outcome\" finds "
        "what broke a case.\v"
        "Exit status: 0 found, 2 bad usage or input, 3 the ends do not differ, 1 it failed otherwise.",
        NULL, NULL, NULL
    };
    struct arguments a = { .bad = "HEAD" };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (bisect(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
