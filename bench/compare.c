#include "compare.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/pool.h"
#include "table.h"

#define MIB (1024.0 * 1024.0)

/* A pass is a slowdown of this many times the minimum effect excluded: 5% for the default 3%. */
#define PASS_EFFECTS (5.0 / 3.0)

static const char *const verdict_names[] = { "skipped", "new",     "pass", "improved", "inconclusive",
                                             "stale",   "missing", "warn", "fail",     "broken" };

const char *verdict_name(enum verdict verdict)
{
    return verdict_names[verdict];
}

struct compare_policy compare_policy_default(void)
{
    return (struct compare_policy){
        .classes = COMPARE_ALL,
        .bounded_relative = 1e-3,
        .system_warn_relative = 0.02,
        .system_fail_relative = 0.10,
        .system_warn_bytes = 2 * MIB,
        .system_fail_bytes = 10 * MIB,
        .timing_effect = 0.03,
        .timing_min_samples = 5,
        .bootstrap = { .level = 0.99, .resamples = 10000, .seed = 20261124 },
    };
}

void comparison_note(struct comparison *comparison, const char *format, ...)
{
    if (comparison->note_count == sizeof comparison->notes / sizeof comparison->notes[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(comparison->notes[comparison->note_count++], sizeof comparison->notes[0], format, args);
    va_end(args);
}

/* ---- findings ---- */

static struct finding *add_finding(struct comparison *comparison, struct plim_err *err)
{
    size_t n = comparison->finding_count;
    struct finding *findings = heap_room(comparison->findings, n, sizeof *findings, err);
    if (!findings)
        return NULL;
    comparison->findings = findings;
    comparison->findings[n] = (struct finding){ .baseline_value = NAN, .result_value = NAN, .order = n };
    comparison->finding_count++;
    return &comparison->findings[n];
}

static void say(struct finding *f, const char *format, ...) PLIM_PRINTF(2, 3);

static void say(struct finding *f, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(f->detail, sizeof f->detail, format, args);
    va_end(args);
}

static bool is_compared(enum verdict verdict)
{
    return verdict != VERDICT_SKIPPED && verdict != VERDICT_NEW && verdict != VERDICT_MISSING;
}

/* A finding is complete: count it. */
static void settle(struct comparison *comparison, const struct finding *f)
{
    comparison->counts[f->verdict]++;
    if (f->baseline || f->result ? is_compared(f->verdict) : f->verdict == VERDICT_BROKEN)
        comparison->compared_count++;
}

/* How much worse `after` is than `before`, relative to before: positive is worse. */
static double relative_worsening(double before, double after, enum metric_direction direction)
{
    double change = before != 0 ? (after - before) / fabs(before) : after > before ? INFINITY : after < before ? -INFINITY : 0;
    return direction == DIRECTION_HIGHER ? -change : direction == DIRECTION_LOWER ? change : fabs(change);
}

/* ---- one metric, by class ---- */

static bool samples_agree(const struct metric *metric)
{
    for (size_t i = 1; i < metric->sample_count; i++) {
        if (metric->samples[i] != metric->samples[0])
            return false;
    }
    return true;
}

static void compare_texts(struct finding *f)
{
    f->verdict = VERDICT_PASS;
    for (size_t i = 0; i < f->result->texts.count; i++) {
        const struct fact *now = &f->result->texts.items[i];
        const struct fact *before = facts_find(&f->baseline->texts, now->name);
        if (!before) {
            f->verdict = VERDICT_NEW;
            say(f, "no digest for %s yet", now->name);
        } else if (strcmp(before->text, now->text) != 0) {
            f->verdict = VERDICT_FAIL;
            say(f, "%.40s became %.40s (%.60s)", before->text, now->text, now->name);
            return;
        }
    }
}

static void compare_exact(struct finding *f)
{
    if (f->baseline->texts.count && f->result->texts.count) {
        compare_texts(f);
        return;
    }
    const struct metric *sides[] = { f->baseline, f->result };
    for (int i = 0; i < 2; i++) {
        if (sides[i]->sample_count == 0 || samples_agree(sides[i]))
            continue;
        f->verdict = VERDICT_FAIL;
        say(f, "not deterministic: the repeats of the %s differ", i ? "result" : "baseline");
        return;
    }
    if (!f->baseline->sample_count || !f->result->sample_count) {
        f->verdict = VERDICT_MISSING;
        say(f, "a number on one side, a text on the other");
        return;
    }
    double before = f->baseline_value = f->baseline->samples[0], after = f->result_value = f->result->samples[0];
    f->worse = relative_worsening(before, after, f->result->direction);
    if (before == after) {
        f->verdict = VERDICT_PASS;
    } else if (f->worse < 0) {
        f->verdict = VERDICT_STALE;
        say(f, "better than the baseline, which is stale");
    } else {
        f->verdict = VERDICT_FAIL;
    }
}

/* A tolerance in the metric's unit: the larger of the relative and the absolute one. */
static double tolerance(double baseline, double relative, double absolute)
{
    return fmax(fabs(baseline) * relative, absolute);
}

static void compare_within(struct finding *f, double warn_tolerance, double fail_tolerance)
{
    double change = f->result_value - f->baseline_value;
    enum metric_direction direction = f->result->direction;
    double worse_by = direction == DIRECTION_HIGHER ? -change : direction == DIRECTION_LOWER ? change : fabs(change);
    char limit[40];
    f->worse = relative_worsening(f->baseline_value, f->result_value, direction);
    if (worse_by > fail_tolerance)
        f->verdict = VERDICT_FAIL;
    else if (worse_by > warn_tolerance)
        f->verdict = VERDICT_WARN;
    else
        f->verdict = worse_by < -warn_tolerance ? VERDICT_IMPROVED : VERDICT_PASS;
    if (worse_by > warn_tolerance)
        say(f, "tolerance %s",
            format_difference(limit, sizeof limit, f->verdict == VERDICT_FAIL ? fail_tolerance : warn_tolerance,
                              f->result->unit));
}

static void compare_bounded(struct finding *f, const struct compare_policy *policy)
{
    const struct metric_gate *gate = &f->result->gate;
    bool own = gate->relative > 0 || gate->absolute > 0;
    f->baseline_value = metric_median(f->baseline);
    f->result_value = metric_median(f->result);
    double limit = tolerance(f->baseline_value, own ? gate->relative : policy->bounded_relative, gate->absolute);
    compare_within(f, limit, limit);
}

static double minimum(const struct metric *metric)
{
    double least = metric->samples[0];
    for (size_t i = 1; i < metric->sample_count; i++)
        least = fmin(least, metric->samples[i]);
    return least;
}

static void compare_system(struct finding *f, const struct compare_policy *policy)
{
    const struct metric_gate *gate = &f->result->gate;
    bool bytes = strcmp(f->result->unit, "bytes") == 0;
    f->baseline_value = minimum(f->baseline);
    f->result_value = minimum(f->result);
    if (gate->relative > 0 || gate->absolute > 0) {
        double limit = tolerance(f->baseline_value, gate->relative, gate->absolute);
        compare_within(f, limit, limit);
        return;
    }
    compare_within(
        f, tolerance(f->baseline_value, policy->system_warn_relative, bytes ? policy->system_warn_bytes : 0),
        tolerance(f->baseline_value, policy->system_fail_relative, bytes ? policy->system_fail_bytes : 0));
}

/* The slowdown's interval, in percent: "4.1% slower (3.2% to 5.0%)". */
static void say_interval(struct finding *f, const char *prefix)
{
    const struct interval *s = &f->slowdown;
    say(f, "%s%.1f%% %s (%+.1f%% to %+.1f%%)", prefix, 100 * fabs(s->estimate - 1),
        s->estimate >= 1 ? "slower" : "faster", 100 * (s->low - 1), 100 * (s->high - 1));
}

static int compare_timing(struct finding *f, const struct compare_policy *policy, struct plim_err *err)
{
    const struct metric *before = f->baseline, *after = f->result;
    double effect = after->gate.relative > 0 ? after->gate.relative : policy->timing_effect;
    size_t fewest = before->sample_count < after->sample_count ? before->sample_count : after->sample_count;
    f->baseline_value = metric_median(before);
    f->result_value = metric_median(after);
    if (after->direction == DIRECTION_NONE || !(minimum(before) > 0) || !(minimum(after) > 0)) {
        f->verdict = VERDICT_SKIPPED;
        say(f, after->direction == DIRECTION_NONE ? "neither direction is better" : "a sample of 0 has no ratio");
        return 0;
    }

    /* Slowdown, whatever the unit: time after / before, or rate before / after. */
    bool is_rate = after->direction == DIRECTION_HIGHER;
    const struct metric *low = is_rate ? after : before, *high = is_rate ? before : after;
    if (bootstrap_median_ratio(low->samples, low->sample_count, high->samples, high->sample_count,
                               &policy->bootstrap, &f->slowdown, err) < 0)
        return -1;
    f->worse = f->slowdown.estimate - 1;
    if (fewest < policy->timing_min_samples) {
        f->verdict = VERDICT_INCONCLUSIVE;
        f->few_samples = true;
        say(f, "%zu sample%s, at least %zu wanted", fewest, fewest == 1 ? "" : "s", policy->timing_min_samples);
    } else if (f->slowdown.low > 1 + effect) {
        f->verdict = VERDICT_FAIL;
        say_interval(f, "");
    } else if (f->slowdown.high < 1 / (1 + effect)) {
        f->verdict = VERDICT_IMPROVED;
        say_interval(f, "");
    } else if (f->slowdown.high < 1 + PASS_EFFECTS * effect) {
        f->verdict = VERDICT_PASS;
        say_interval(f, "");
    } else {
        f->verdict = VERDICT_INCONCLUSIVE;
        say_interval(f, "cannot tell: ");
    }
    return 0;
}

/* ---- attribution ---- */

/*
 * Who raised a tier's peak: the tag whose bytes at the moment of the peak grew most. Where a tag's share at the peak
 * isn't known, its own peak stands in.
 */
static void name_culprit(struct finding *f)
{
    const char *name = f->result->name, *pattern_prefix[2];
    if (strcmp(name, "peak_requested_fast_bytes") == 0) {
        pattern_prefix[0] = "at_peak_";
        pattern_prefix[1] = "peak_";
    } else if (strcmp(name, "peak_requested_slow_bytes") == 0) {
        pattern_prefix[0] = "at_peak_slow_";
        pattern_prefix[1] = "peak_slow_";
    } else {
        return;
    }
    for (int p = 0; p < 2; p++) {
        double most = 0;
        char culprit[64] = "", bytes[40];
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
            char metric_name[96];
            const char *tag_name = plim_tag_name((enum plim_tag)tag);
            snprintf(metric_name, sizeof metric_name, "%s%s_bytes", pattern_prefix[p], tag_name);
            const struct metric *after = case_find_metric(f->result_case, metric_name);
            const struct metric *before = case_find_metric(f->baseline_case, metric_name);
            if (tag == PLIM_TAG_WEIGHTS_MAPPED || !after || !after->sample_count)
                continue;
            /* A tag that held nothing may have no metric. */
            double rise = after->samples[0] - (before && before->sample_count ? before->samples[0] : 0);
            if (rise > most) {
                most = rise;
                snprintf(culprit, sizeof culprit, "%s", tag_name);
            }
        }
        if (*culprit) {
            say(f, "%s %s", culprit, format_difference(bytes, sizeof bytes, most, "bytes"));
            return;
        }
    }
}

/* ---- cases ---- */

struct comparer {
    struct comparison *comparison;
    const struct compare_policy *policy;
    unsigned scope;            /* classes that the baseline is meant to hold */
    bool same_machine;
    bool first;                /* the comparison's first baseline: it says which cases are new or missing */
    struct plim_err *err;
};

static bool wanted(const struct comparer *k, const struct metric *metric)
{
    if (!(k->policy->classes & k->scope & (1u << metric->class)))
        return false;
    return metric->gate.level != GATE_OFF || (k->policy->ungated_classes & (1u << metric->class));
}

static int judge(struct comparer *k, struct finding *f)
{
    if ((COMPARE_MACHINE & (1u << f->class)) && !k->same_machine) {
        f->verdict = VERDICT_SKIPPED;
        say(f, "another machine class");
        k->comparison->machine_refused = true;
        return 0;
    }
    if (f->baseline->class != f->result->class || strcmp(f->baseline->unit, f->result->unit) != 0) {
        f->verdict = VERDICT_MISSING;
        say(f, "now %s in %.20s, was %s in %.20s", metric_class_name(f->result->class), f->result->unit,
            metric_class_name(f->baseline->class), f->baseline->unit);
        return 0;
    }
    switch (f->class) {
    case METRIC_EXACT:
        compare_exact(f);
        if (f->verdict == VERDICT_FAIL && !*f->detail)
            name_culprit(f);
        break;
    case METRIC_BOUNDED:
        compare_bounded(f, k->policy);
        break;
    case METRIC_SYSTEM:
        compare_system(f, k->policy);
        break;
    case METRIC_TIMING:
        return compare_timing(f, k->policy, k->err);
    case METRIC_CLASS_COUNT:
        break;
    }
    return 0;
}

static int compare_metric(struct comparer *k, const struct result_case *before, const struct result_case *after,
                          const struct metric *metric)
{
    struct finding *f = add_finding(k->comparison, k->err);
    if (!f)
        return -1;
    f->baseline_case = before;
    f->result_case = after;
    f->baseline = case_find_metric(before, metric->name);
    f->result = metric;
    f->class = metric->class;
    f->verdict = VERDICT_NEW;
    if (f->baseline && judge(k, f) < 0)
        return -1;
    if (f->verdict == VERDICT_FAIL && metric->gate.level != GATE_FAIL)
        f->verdict = VERDICT_WARN;
    settle(k->comparison, f);
    return 0;
}

/* Metrics that only the baseline has. */
static int find_missing_metrics(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    for (size_t i = 0; i < before->metric_count; i++) {
        const struct metric *metric = &before->metrics[i];
        if (!wanted(k, metric) || case_find_metric(after, metric->name))
            continue;
        struct finding *f = add_finding(k->comparison, k->err);
        if (!f)
            return -1;
        f->baseline_case = before;
        f->result_case = after;
        f->baseline = metric;
        f->class = metric->class;
        f->verdict = VERDICT_MISSING;
        settle(k->comparison, f);
    }
    return 0;
}

/* From fine to worst: a case that ran out of memory (perhaps as its suite intends) and now crashes got worse. */
static int outcome_rank(enum outcome outcome)
{
    static const int ranks[OUTCOME_COUNT] = { [OUTCOME_OK] = 0,     [OUTCOME_OUT_OF_MEMORY] = 1, [OUTCOME_TIMEOUT] = 2,
                                              [OUTCOME_FAILED] = 3, [OUTCOME_CRASHED] = 4 };
    return ranks[outcome];
}

/* The case's finding about itself from an earlier baseline of the same comparison, so that none is said twice. */
static bool already_found(const struct comparison *comparison, const struct result_case *before,
                          const struct result_case *after)
{
    for (size_t i = 0; i < comparison->finding_count; i++) {
        const struct finding *f = &comparison->findings[i];
        if (f->baseline || f->result)
            continue;
        if (after ? f->result_case == after : f->baseline_case && strcmp(f->baseline_case->id, before->id) == 0)
            return true;
    }
    return false;
}

static int case_finding(struct comparer *k, const struct result_case *before, const struct result_case *after,
                        enum verdict verdict, const char *detail)
{
    if (already_found(k->comparison, before, after))
        return 0;
    struct finding *f = add_finding(k->comparison, k->err);
    if (!f)
        return -1;
    f->baseline_case = before;
    f->result_case = after;
    f->verdict = verdict;
    say(f, "%s", detail);
    settle(k->comparison, f);
    return 0;
}

static int compare_outcomes(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    char detail[240];
    int change = outcome_rank(after->outcome) - outcome_rank(before->outcome);
    if (change == 0)
        return 0;
    bool has_words = change > 0 && after->detail && *after->detail;
    snprintf(detail, sizeof detail, "%s, was %s%s%s", outcome_name(after->outcome), outcome_name(before->outcome),
             has_words ? ": " : "", has_words ? after->detail : "");
    return case_finding(k, before, after, change > 0 ? VERDICT_BROKEN : VERDICT_IMPROVED, detail);
}

static int compare_case(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    if (compare_outcomes(k, before, after) < 0)
        return -1;
    if (before->outcome != after->outcome)
        return 0;   /* what a half-finished case measured says nothing about a whole one */
    for (size_t i = 0; i < after->metric_count; i++) {
        if (wanted(k, &after->metrics[i]) && compare_metric(k, before, after, &after->metrics[i]) < 0)
            return -1;
    }
    return find_missing_metrics(k, before, after);
}

static int compare_cases(struct comparer *k, const struct result *baseline, const struct result *result)
{
    for (size_t i = 0; i < result->case_count; i++) {
        const struct result_case *after = &result->cases[i], *before = result_find_case(baseline, after->id);
        if (!before && !k->first)
            continue;
        if (!before) {
            char detail[240];
            bool has_words = after->outcome != OUTCOME_OK && after->detail && *after->detail;
            snprintf(detail, sizeof detail, "%s%s%s", outcome_name(after->outcome), has_words ? ": " : "",
                     has_words ? after->detail : "");
            if (case_finding(k, NULL, after, after->outcome == OUTCOME_OK ? VERDICT_NEW : VERDICT_WARN, detail) < 0)
                return -1;
        } else if (compare_case(k, before, after) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < baseline->case_count && k->first; i++) {
        if (!result_find_case(result, baseline->cases[i].id) &&
            case_finding(k, &baseline->cases[i], NULL, VERDICT_MISSING, "the result has no such case") < 0)
            return -1;
    }
    return 0;
}

/* What a baseline file is meant to hold: only that can be missing from it. */
static unsigned scope_of(const struct result *baseline)
{
    if (!baseline->is_baseline)
        return COMPARE_ALL;
    return baseline->machine_class ? COMPARE_MACHINE : COMPARE_PORTABLE;
}

static void describe(struct comparison *c, const struct result *baseline, const struct result *result)
{
    c->suite_name = result->suite_name;
    c->result_path = result->path;
    if (c->baseline_count < 2)
        c->baseline_paths[c->baseline_count++] = baseline->path;
    const char *before = baseline->machine_class, *after = result->machine_class;
    if (before && after && strcmp(before, after) != 0) {
        snprintf(c->baseline_class, sizeof c->baseline_class, "%s", before);
        snprintf(c->result_class, sizeof c->result_class, "%s", after);
    }
    if (!result->is_baseline && !result->complete)
        comparison_note(c, "%s is incomplete: the run was stopped; plimsoll run --resume goes on with it",
                        result->path ? result->path : "the result");
}

int compare_results(struct comparison *comparison, const struct result *baseline, const struct result *result,
                    const struct compare_policy *policy, struct plim_err *err)
{
    if (strcmp(baseline->suite_name, result->suite_name) != 0)
        return plim_err_set(err, PLIM_ERR_COMPARE, "%s is of suite %s, %s of suite %s",
                            baseline->path ? baseline->path : "the baseline", baseline->suite_name,
                            result->path ? result->path : "the result", result->suite_name);
    describe(comparison, baseline, result);
    struct comparer k = { comparison, policy, scope_of(baseline),
                          baseline->machine_class && result->machine_class &&
                              strcmp(baseline->machine_class, result->machine_class) == 0,
                          comparison->baseline_count == 1, err };
    if (compare_cases(&k, baseline, result) < 0)
        return -1;
    if (comparison->machine_refused)
        comparison_note(comparison,
                        "timings and system metrics were not compared: the result's machine class is %s, the baseline's "
                        "%s",
                        comparison->result_class, comparison->baseline_class);
    return 0;
}

/* ---- the whole ---- */

static int worst_first(const void *a, const void *b)
{
    const struct finding *x = a, *y = b;
    if (x->verdict != y->verdict)
        return x->verdict > y->verdict ? -1 : 1;
    if (x->worse != y->worse)
        return x->worse > y->worse ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

void comparison_sort(struct comparison *comparison)
{
    if (comparison->finding_count)
        qsort(comparison->findings, comparison->finding_count, sizeof *comparison->findings, worst_first);
}

int comparison_exit_status(const struct comparison *comparison, bool strict)
{
    const size_t *counts = comparison->counts;
    if (comparison->compared_count == 0)
        return 3;
    if (counts[VERDICT_FAIL] || (strict && (counts[VERDICT_STALE] || counts[VERDICT_MISSING])))
        return 1;
    if (counts[VERDICT_BROKEN])
        return 5;
    return strict && counts[VERDICT_INCONCLUSIVE] ? 4 : 0;
}

void comparison_release(struct comparison *comparison)
{
    free(comparison->findings);
    *comparison = (struct comparison)COMPARISON_INIT;
}
