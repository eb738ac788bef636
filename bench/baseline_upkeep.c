/* What is done to accepted baselines without measuring: allowances, pruning, and newer schemas. */

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "baseline.h"

static bool matches(const char *pattern, const char *name)
{
    return !pattern || fnmatch(pattern, name, 0) == 0;
}

static bool can_rise(const struct metric *metric)
{
    return metric->class == METRIC_EXACT && metric->sample_count;
}

static int allow_metric(struct metric *metric, const struct allowance *allowance, struct plim_err *err)
{
    if (allowance->rise > 0)
        return metric_set_allowance(metric, allowance->rise, allowance->until, allowance->reason, err);
    metric_clear_allowance(metric);
    return 0;
}

int baseline_allow(const char *directory, const char *suite, const char *case_pattern, const char *metric_pattern,
                   const struct allowance *allowance, struct baseline_upkeep *done, struct plim_err *err)
{
    struct result baseline = { 0 };
    char *path = baseline_path(directory, NULL, suite, err);
    bool found = false;
    int rc = -1;

    *done = (struct baseline_upkeep){ 0 };
    if (!path || baseline_read(&baseline, path, NULL, suite, &found, err) < 0)
        goto out;
    for (size_t i = 0; i < baseline.case_count; i++) {
        struct result_case *c = &baseline.cases[i];
        for (size_t k = 0; k < c->metric_count && matches(case_pattern, c->id); k++) {
            if (!can_rise(&c->metrics[k]) || !matches(metric_pattern, c->metrics[k].name))
                continue;
            if (allow_metric(&c->metrics[k], allowance, err) < 0)
                goto out;
            done->metrics++;
        }
    }
    if (!done->metrics) {
        plim_err_input(err, found ? "%s: no exact number matches; plimsoll baseline show %s lists them"
                                  : "%s: there is no exact baseline of suite %s", path, suite);
        goto out;
    }
    rc = result_write(&baseline, path, err);

out:
    result_release(&baseline);
    free(path);
    return rc;
}

static bool is_listed(const char *const *ids, size_t count, const char *id)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(ids[i], id) == 0)
            return true;
    }
    return false;
}

static void drop_expired(struct result_case *c, const char *today, struct baseline_upkeep *done)
{
    for (size_t i = 0; i < c->metric_count; i++) {
        struct metric *metric = &c->metrics[i];
        if (metric->allow.rise <= 0 || strcmp(metric->allow.until, today) >= 0)
            continue;
        metric_clear_allowance(metric);
        done->allowances++;
    }
}

int baseline_prune(const char *path, const char *const *ids, size_t count, const char *today, bool dry,
                   struct baseline_upkeep *done, struct plim_err *err)
{
    struct result baseline = { 0 };
    int rc = 0;

    *done = (struct baseline_upkeep){ 0 };
    if (result_read(&baseline, path, err) < 0)
        return -1;
    for (size_t i = baseline.case_count; i-- > 0;) {
        struct result_case *c = &baseline.cases[i];
        if (is_listed(ids, count, c->id)) {
            drop_expired(c, today, done);
            continue;
        }
        done->cases++;
        done->metrics += c->metric_count;
        case_release(c);
        baseline.case_count--;
        memmove(c, c + 1, (baseline.case_count - i) * sizeof *c);
    }
    if (!dry && (done->cases || done->allowances))
        rc = result_write(&baseline, path, err);
    result_release(&baseline);
    return rc;
}

int baseline_migrate(const char *path, bool dry, struct baseline_upkeep *done, struct plim_err *err)
{
    struct result baseline = { 0 };
    int rc = 0;

    *done = (struct baseline_upkeep){ 0 };
    if (result_read(&baseline, path, err) < 0)
        return -1;
    done->from_minor = baseline.minor;
    if (baseline.minor > RESULT_SCHEMA_MINOR)
        rc = plim_err_set(err, PLIM_ERR_COMPARE, "%s: schema version %d.%d is newer than this program's %d.%d", path,
                          RESULT_SCHEMA_MAJOR, baseline.minor, RESULT_SCHEMA_MAJOR, RESULT_SCHEMA_MINOR);
    else if (baseline.minor < RESULT_SCHEMA_MINOR && !dry)
        rc = result_write(&baseline, path, err);
    result_release(&baseline);
    return rc;
}
