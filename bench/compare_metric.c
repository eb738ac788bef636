/* What two values of one metric say about each other, by the metric's class. */

#include "compare_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plimsoll/pool.h"
#include "table.h"

/* A pass is a slowdown of this many times the minimum effect excluded: 5% for the default 3%. */
#define PASS_EFFECTS (5.0 / 3.0)
#define GATING_RUNS_LIMIT 100    /* of pooled runs that are looked at; a file has no more */

/* How much worse `after` is than `before`, relative to before: positive is worse. */
static double relative_worsening(double before, double after, enum metric_direction direction)
{
    double change = before != 0 ? (after - before) / fabs(before) : after > before ? INFINITY : after < before ? -INFINITY : 0;
    return direction == DIRECTION_HIGHER ? -change : direction == DIRECTION_LOWER ? change : fabs(change);
}

/* ---- exact ---- */

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
            finding_say(f, "no digest for %s yet", now->name);
        } else if (strcmp(before->text, now->text) != 0) {
            f->verdict = VERDICT_FAIL;
            finding_say(f, "%.40s became %.40s (%.60s)", before->text, now->text, now->name);
            return;
        }
    }
}

/*
 * A rise, or a change of what has no better direction: fails unless the baseline allows it. `change` is its size in the
 * metric's unit.
 */
static void judge_rise(struct finding *f, double change, const char *today)
{
    const struct allowance *allow = &f->baseline->allow;
    char allowed[40];
    f->verdict = VERDICT_FAIL;
    if (allow->rise <= 0)
        return;
    format_difference(allowed, sizeof allowed, allow->rise, f->result->unit);
    if (strcmp(today, allow->until) > 0) {
        finding_say(f, "the allowance of %s expired on %s (%.100s)", allowed, allow->until, allow->reason);
    } else if (change > allow->rise) {
        finding_say(f, "over the allowance of %s (%.100s)", allowed, allow->reason);
    } else {
        f->verdict = VERDICT_ALLOWED;
        finding_say(f, "%s allowed until %s: %.100s", allowed, allow->until, allow->reason);
    }
}

static void compare_exact(struct finding *f, const char *today)
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
        finding_say(f, "nondeterministic: the repeats of the %s differ", i ? "result" : "baseline");
        return;
    }
    if (!f->baseline->sample_count || !f->result->sample_count) {
        f->verdict = VERDICT_MISSING;
        finding_say(f, "a number on one side, a text on the other");
        return;
    }
    double before = f->baseline_value = f->baseline->samples[0], after = f->result_value = f->result->samples[0];
    f->worse = relative_worsening(before, after, f->result->direction);
    if (before == after) {
        f->verdict = VERDICT_PASS;
    } else if (f->worse < 0) {
        f->verdict = VERDICT_STALE;
        finding_say(f, "better than the baseline, which is stale");
    } else {
        judge_rise(f, fabs(after - before), today);
    }
}

/* ---- bounded and system ---- */

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
        finding_say(f, "tolerance %s",
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

/* ---- timing ---- */

/* The slowdown's interval, in percent: "4.1% slower (3.2% to 5.0%)". */
static void say_interval(struct finding *f, const char *prefix)
{
    const struct interval *s = &f->slowdown;
    finding_say(f, "%s%.1f%% %s (%+.1f%% to %+.1f%%)", prefix, 100 * fabs(s->estimate - 1),
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
        finding_say(f, after->direction == DIRECTION_NONE ? "neither direction is better" : "a sample of 0 has no ratio");
        return 0;
    }

    /* Slowdown, whatever the unit: time after / before, or rate before / after. */
    bool is_rate = after->direction == DIRECTION_HIGHER;
    const struct metric *low = is_rate ? after : before, *high = is_rate ? before : after;
    if (bootstrap_median_ratio(low->samples, low->sample_count, high->samples, high->sample_count,
                               policy->timing_level, &f->slowdown, err) < 0)
        return -1;
    f->worse = f->slowdown.estimate - 1;
    if (fewest < policy->timing_min_samples) {
        f->verdict = VERDICT_INCONCLUSIVE;
        f->few_samples = true;
        finding_say(f, "%zu sample%s, at least %zu wanted", fewest, fewest == 1 ? "" : "s", policy->timing_min_samples);
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

/* ---- stored timings ---- */

#define GATING_RUNS 3            /* pooled in a baseline: two can agree by chance */
#define GATEABLE_SPREAD 0.10     /* what differs by more between runs of one build can't be gated */

/*
 * How far the pooled runs of one build are apart: each run's median against the median of the others'. This is an A/A
 * trial of the stored value, session offsets included. False with fewer than three runs.
 */
static bool runs_spread(const struct metric *stored, double *spread)
{
    double medians[GATING_RUNS_LIMIT], others[GATING_RUNS_LIMIT];
    size_t runs = stored->run_count < GATING_RUNS_LIMIT ? stored->run_count : GATING_RUNS_LIMIT, first = 0;
    *spread = 0;
    if (runs < GATING_RUNS)
        return false;
    for (size_t i = 0; i < runs; first += stored->run_samples[i++])
        medians[i] = median(stored->samples + first, stored->run_samples[i]);
    for (size_t i = 0; i < runs; i++) {
        size_t count = 0;
        for (size_t k = 0; k < runs; k++) {
            if (k != i)
                others[count++] = medians[k];
        }
        *spread = fmax(*spread, fabs(log(medians[i] / median(others, count))));
    }
    *spread = expm1(*spread);
    return true;
}

void limit_stored_timing(struct finding *f, const struct compare_policy *policy)
{
    double effect = f->result->gate.relative > 0 ? f->result->gate.relative : policy->timing_effect, spread;
    char words[sizeof f->detail];
    if (f->verdict != VERDICT_FAIL && f->verdict != VERDICT_IMPROVED)
        return;
    snprintf(words, sizeof words, "%s", f->detail);
    if (!runs_spread(f->baseline, &spread)) {
        f->reported_only = true;
        finding_say(f, "%.120s; not gated: one session's timings carry its own offset", words);
    } else if (spread > GATEABLE_SPREAD) {
        f->reported_only = true;
        finding_say(f, "%.120s; not gateable: runs of the baseline itself differ by %.0f%%", words, 100 * spread);
    } else if (spread > effect && f->slowdown.low <= 1 + spread && f->slowdown.high >= 1 / (1 + spread)) {
        f->verdict = VERDICT_INCONCLUSIVE;
        finding_say(f, "%.120s; runs of the baseline itself differ by %.1f%%", words, 100 * spread);
    }
    if (f->reported_only && f->verdict == VERDICT_FAIL)
        f->verdict = VERDICT_WARN;
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
            char others[sizeof f->detail];
            snprintf(others, sizeof others, "%s", f->detail);
            finding_say(f, "%s %s%s%.170s", culprit, format_difference(bytes, sizeof bytes, most, "bytes"),
                        *others ? "; " : "", others);
            return;
        }
    }
}

/* ---- all of them ---- */

int judge_metric(struct finding *f, const struct compare_policy *policy, struct plim_err *err)
{
    if (f->baseline->class != f->result->class || strcmp(f->baseline->unit, f->result->unit) != 0) {
        f->verdict = VERDICT_MISSING;
        finding_say(f, "now %s in %.20s, was %s in %.20s", metric_class_name(f->result->class), f->result->unit,
                    metric_class_name(f->baseline->class), f->baseline->unit);
        return 0;
    }
    switch (f->class) {
    case METRIC_EXACT:
        compare_exact(f, policy->today);
        if ((f->verdict == VERDICT_FAIL || f->verdict == VERDICT_ALLOWED) && f->worse > 0)
            name_culprit(f);
        break;
    case METRIC_BOUNDED:
        compare_bounded(f, policy);
        break;
    case METRIC_SYSTEM:
        compare_system(f, policy);
        break;
    case METRIC_TIMING:
        return compare_timing(f, policy, err);
    case METRIC_CLASS_COUNT:
        break;
    }
    return 0;
}
