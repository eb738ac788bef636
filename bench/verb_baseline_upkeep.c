/* plimsoll baseline allow|prune|migrate: what is done to baselines without measuring. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "baseline.h"
#include "heap.h"
#include "plimsoll/units.h"
#include "suite.h"
#include "verb_baseline_parts.h"

enum { OPTION_BASELINES = 1000, OPTION_CASE, OPTION_METRIC, OPTION_RISE, OPTION_UNTIL, OPTION_REASON, OPTION_DRY_RUN };

struct arguments {
    const char *suite;
    const char *baselines;
    const char *case_pattern, *metric_pattern;
    const char *rise, *until, *reason;
    bool dry;
    size_t changed;              /* files */
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    switch (key) {
    case OPTION_BASELINES:
        a->baselines = text;
        return 0;
    case OPTION_CASE:
        a->case_pattern = text;
        return 0;
    case OPTION_METRIC:
        a->metric_pattern = text;
        return 0;
    case OPTION_RISE:
        a->rise = text;
        return 0;
    case OPTION_UNTIL:
        a->until = text;
        return 0;
    case OPTION_REASON:
        a->reason = text;
        return 0;
    case OPTION_DRY_RUN:
        a->dry = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- allow ---- */

static error_t parse_allow(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    if (key == ARGP_KEY_ARG) {
        if (a->suite)
            argp_error(state, "\"%s\" is one too many", text);
        a->suite = text;
        return 0;
    }
    if (key != ARGP_KEY_END)
        return parse_option(key, text, state);
    if (!a->suite)
        argp_error(state, "it needs to know which suite");
    if (!a->rise)
        argp_error(state, "--rise is needed: how much more is allowed, such as 4096 or 1Mi; 0 takes an allowance back");
    if (strcmp(a->rise, "0") != 0 && (!a->until || !result_date_is_valid(a->until)))
        argp_error(state, "--until is needed: the last day of the allowance, such as 2026-12-31");
    if (strcmp(a->rise, "0") != 0 && (!a->reason || !*a->reason))
        argp_error(state, "--reason is needed: those who review the change read it");
    return 0;
}

static int allow(const struct arguments *a, struct plim_err *err)
{
    /* Copied by whoever keeps them. */
    struct allowance allowance = { .until = (char *)(uintptr_t)a->until, .reason = (char *)(uintptr_t)a->reason };
    struct baseline_upkeep done;
    int64_t rise;

    if (!result_name_is_plain(a->suite))
        return plim_err_input(err, "\"%s\" is no suite's name", a->suite);
    if (plim_parse_count(a->rise, &rise, err) < 0)
        return plim_err_wrap(err, "--rise");
    allowance.rise = (double)rise;
    if (baseline_allow(a->baselines, a->suite, a->case_pattern, a->metric_pattern, &allowance, &done, err) < 0)
        return -1;
    if (rise)
        printf("%zu value%s may rise by %s until %s: %s\n", done.metrics, done.metrics == 1 ? "" : "s", a->rise, a->until,
               a->reason);
    else
        printf("%zu value%s without an allowance now\n", done.metrics, done.metrics == 1 ? "" : "s");
    return 0;
}

int baseline_allow_verb(int argc, char **argv)
{
    static const struct argp_option options[] = {
        { "case", OPTION_CASE, "GLOB", 0, "Only cases whose id matches", 0 },
        { "metric", OPTION_METRIC, "GLOB", 0, "Only metrics whose name matches", 0 },
        { "rise", OPTION_RISE, "N", 0, "How much more is let pass, in the metric's unit; 0 takes it back", 0 },
        { "until", OPTION_UNTIL, "DAY", 0, "The last day that it is (2026-12-31, UTC); from then on the rise fails", 0 },
        { "reason", OPTION_REASON, "TEXT", 0, "Why", 0 },
        { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
        { 0 }
    };
    static const struct argp argp = { options, parse_allow, "SUITE",
                                      "Lets exact values rise for a while, without accepting the rise: a line in the "
                                      "baseline, with its reason and its end, for people to review.",
                                      NULL, NULL, NULL };
    struct arguments a = { .baselines = "baselines" };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return finish_verb(allow(&a, &err), &err);
}

/* ---- prune ---- */

/* The suite that a baseline is of. *why_not says why it cannot be had: it is gone, or is no suite of today. */
static int read_suite(struct suite *suite, const char *path, struct plim_err *why_not, struct plim_err *err)
{
    struct result baseline = { 0 };
    char *suite_path;

    if (result_read(&baseline, path, err) < 0)
        return -1;
    suite_path = suite_locate(baseline.suite_name, why_not);
    if (suite_path)
        suite_read(suite, suite_path, why_not);
    free(suite_path);
    result_release(&baseline);
    return why_not->kind == PLIM_ERR_NONE || why_not->kind == PLIM_ERR_INPUT
               ? 0
               : plim_err_set(err, why_not->kind, "%s", why_not->message);
}

static int prune_file(void *context, const char *path, struct plim_err *err)
{
    struct arguments *a = context;
    struct compare_policy policy = compare_policy_default();
    struct baseline_upkeep done;
    struct suite suite = { 0 };
    const char **ids = NULL;
    struct plim_err why_not = PLIM_ERR_INIT;
    int rc = -1;

    if (read_suite(&suite, path, &why_not, err) < 0)
        goto out;
    if (why_not.kind != PLIM_ERR_NONE) {
        printf("%s: left as it is: %s\n", path, why_not.message);
        rc = 0;
        goto out;
    }
    if (!(ids = heap_calloc(suite.case_count, sizeof *ids, err)))
        goto out;
    for (size_t i = 0; i < suite.case_count; i++)
        ids[i] = suite.cases[i].id;
    if (baseline_prune(path, ids, suite.case_count, policy.today, a->dry, &done, err) < 0)
        goto out;
    if (done.cases || done.allowances) {
        printf("%s: %zu case%s that the suite no longer has (%zu values), %zu expired allowance%s%s\n", path, done.cases,
               done.cases == 1 ? "" : "s", done.metrics, done.allowances, done.allowances == 1 ? "" : "s",
               a->dry ? "; not dropped" : " dropped");
        a->changed++;
    }
    rc = 0;

out:
    free(ids);
    suite_release(&suite);
    return rc;
}

/* ---- migrate ---- */

static int migrate_file(void *context, const char *path, struct plim_err *err)
{
    struct arguments *a = context;
    struct baseline_upkeep done;

    if (baseline_migrate(path, a->dry, &done, err) < 0)
        return -1;
    if (done.from_minor < RESULT_SCHEMA_MINOR) {
        printf("%s: schema %d.%d%s %d.%d\n", path, RESULT_SCHEMA_MAJOR, done.from_minor,
               a->dry ? ", could be" : " became", RESULT_SCHEMA_MAJOR, RESULT_SCHEMA_MINOR);
        a->changed++;
    }
    return 0;
}

/* ---- both look at every file ---- */

static int upkeep(int argc, char **argv, const char *purpose, int (*visit)(void *, const char *, struct plim_err *))
{
    static const struct argp_option options[] = {
        { "dry-run", OPTION_DRY_RUN, NULL, 0, "Only say what would be done", 0 },
        { "baselines", OPTION_BASELINES, "DIR", 0, "Where the baselines are (default: baselines)", 0 },
        { 0 }
    };
    struct argp argp = { options, parse_option, NULL, purpose, NULL, NULL, NULL };
    struct arguments a = { .baselines = "baselines" };
    struct plim_err err = PLIM_ERR_INIT;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    int rc = each_baseline_path(a.baselines, visit, &a, &err);
    if (rc == 0 && !a.changed)
        printf("nothing to do in %s\n", a.baselines);
    return finish_verb(rc, &err);
}

int baseline_prune_verb(int argc, char **argv)
{
    return upkeep(argc, argv, "Drops from the baselines the cases that their suites no longer have, and allowances that "
                              "have expired.", prune_file);
}

int baseline_migrate_verb(int argc, char **argv)
{
    return upkeep(argc, argv, "Rewrites baselines of an older version of the schema as of this program's. Their values "
                              "stay as they are.\vA file of another major version is refused with exit status 3.",
                  migrate_file);
}
