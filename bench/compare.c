/* From two files to findings: which metrics and cases meet, and what all of it says in the end. */

#include "compare.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare_parts.h"
#include "heap.h"

#define MIB (1024.0 * 1024.0)

static const char *const verdict_names[] = { "skipped", "new",     "pass", "improved", "allowed", "inconclusive",
                                             "stale",   "missing", "warn", "invalid_output", "fail", "broken" };

const char *verdict_name(enum verdict verdict)
{
    return verdict_names[verdict];
}

struct compare_policy compare_policy_default(void)
{
    struct compare_policy policy = {
        .classes = COMPARE_ALL,
        .bounded_relative = 1e-3,
        .system_warn_relative = 0.02,
        .system_fail_relative = 0.10,
        .system_warn_bytes = 2 * MIB,
        .system_fail_bytes = 10 * MIB,
        .timing_effect = 0.03,
        .timing_min_samples = 5,
        .timing_level = 0.99,
    };
    time_t now = time(NULL);
    struct tm utc;
    strftime(policy.today, sizeof policy.today, "%Y-%m-%d", gmtime_r(&now, &utc));
    return policy;
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

void finding_say(struct finding *f, const char *format, ...)
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

int comparison_add(struct comparison *comparison, const struct finding *finding, struct plim_err *err)
{
    struct finding *f = add_finding(comparison, err);
    if (!f)
        return -1;
    size_t order = f->order;
    *f = *finding;
    f->order = order;
    settle(comparison, f);
    return 0;
}

/* ---- cases ---- */

struct comparer {
    struct comparison *comparison;
    const struct compare_policy *policy;
    unsigned scope;            /* classes that the baseline is meant to hold */
    bool same_machine;
    bool stored;               /* compared with a baseline, not with another result */
    bool busy;                 /* the machine was, in one of the runs: timings tell nothing */
    bool first;                /* the comparison's first baseline: it says which cases are new or missing */
    bool other_engine;         /* two engines: what only one of them has or runs is nobody's loss */
    struct plim_err *err;
    size_t differing_cases;    /* ran with other parameters or arguments than their namesakes */
    char difference[160];      /* of the first of them */
};

static bool wanted(const struct comparer *k, const struct metric *metric)
{
    if (!(k->policy->classes & k->scope & (1u << metric->class)) ||
        (k->other_engine && metric->class == METRIC_EXACT && strcmp(metric->unit, "bytes") != 0))
        return false;
    return metric->gate.level != GATE_OFF || (k->policy->ungated_classes & (1u << metric->class));
}

/* One engine beside another: what would be a change of one is only a difference. */
static void soften(struct finding *f)
{
    if (f->verdict == VERDICT_FAIL)
        f->verdict = VERDICT_WARN;
    else if (f->verdict == VERDICT_STALE)
        f->verdict = VERDICT_IMPROVED;
}

static int judge(struct comparer *k, struct finding *f)
{
    if ((COMPARE_MACHINE & (1u << f->class)) && !k->same_machine) {
        f->verdict = VERDICT_SKIPPED;
        finding_say(f, "another machine class");
        k->comparison->machine_refused = true;
        return 0;
    }
    if (judge_metric(f, k->policy, k->err) < 0)
        return -1;
    if (k->stored && f->class == METRIC_TIMING)
        limit_stored_timing(f, k->policy);
    k->comparison->reported_only_count += f->reported_only;
    if (k->busy && f->class == METRIC_TIMING && (f->verdict == VERDICT_FAIL || f->verdict == VERDICT_IMPROVED))
        f->verdict = VERDICT_INCONCLUSIVE;
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
    if (k->other_engine)
        soften(f);
    settle(k->comparison, f);
    return 0;
}

/* Metrics that only the baseline has. */
static int find_missing_metrics(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    for (size_t i = 0; i < before->metric_count && !k->other_engine; i++) {
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
    finding_say(f, "%s", detail);
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

/* The first name whose values differ; what only one side knows (a parameter of a newer build) is no difference. */
static bool find_difference(const struct facts *before, const struct facts *after, char *out, size_t size)
{
    for (size_t i = 0; i < after->count; i++) {
        const struct fact *now = &after->items[i], *then = facts_find(before, now->name);
        char a[32], b[32];
        if (!then || (then->text && now->text ? strcmp(then->text, now->text) == 0
                                              : !then->text && !now->text && then->number == now->number))
            continue;
        snprintf(out, size, "%.40s %.40s, was %.40s", now->name,
                 now->text ? now->text : format_number(a, sizeof a, now->number),
                 then->text ? then->text : format_number(b, sizeof b, then->number));
        return true;
    }
    return false;
}

/* Baselines have no parameters: what is exact must hold under any number of cores that the suite leaves open. */
static void look_at_settings(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    char difference[160];
    if ((find_difference(&before->arguments, &after->arguments, difference, sizeof difference) ||
         find_difference(&before->parameters, &after->parameters, difference, sizeof difference)) &&
        k->differing_cases++ == 0)
        memcpy(k->difference, difference, sizeof difference);
}

static int compare_case(struct comparer *k, const struct result_case *before, const struct result_case *after)
{
    look_at_settings(k, before, after);
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
        if (!before && (!k->first || k->other_engine))
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
    for (size_t i = 0; i < baseline->case_count && k->first && !k->other_engine; i++) {
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

/* A suite that ran just before leaves a load of up to the number of cores itself; more than that is somebody else's. */
#define BUSY_LOAD 1.25

bool result_was_busy(const struct result *result, double *load)
{
    const struct fact *average = facts_find(&result->recorded, "load_average");
    const struct fact *cores = facts_find(&result->machine, "cores");
    if (!average || average->text || !cores || cores->text)
        return false;
    if (load)
        *load = average->number;
    return average->number > BUSY_LOAD * cores->number;
}

static bool look_at_load(struct comparison *c, const struct result *side, const char *name)
{
    double load;
    if (!result_was_busy(side, &load))
        return false;
    comparison_note(c, "other programs kept the machine busy when %s was measured (load average %.1f): its timings prove "
                       "nothing", name, load);
    return true;
}

static bool output_changed_in(const struct finding *f)
{
    return f->result && f->result->texts.count && (f->verdict == VERDICT_FAIL || f->verdict == VERDICT_WARN);
}

static bool output_changed(const struct comparison *c, const struct result_case *of)
{
    for (size_t i = 0; i < c->finding_count; i++) {
        if (c->findings[i].result_case == of && output_changed_in(&c->findings[i]))
            return true;
    }
    return false;
}

/* Faster with another output is not the same work. The digest may come from another baseline than the timing. */
static void distrust_gains(struct comparison *c)
{
    bool any = false;
    for (size_t i = 0; i < c->finding_count && !any; i++)
        any = output_changed_in(&c->findings[i]);
    for (size_t i = 0; i < c->finding_count && any; i++) {
        struct finding *f = &c->findings[i];
        if (f->verdict != VERDICT_IMPROVED || f->class != METRIC_TIMING || !f->result || !output_changed(c, f->result_case))
            continue;
        c->counts[f->verdict]--;
        f->verdict = VERDICT_INVALID_OUTPUT;
        c->counts[f->verdict]++;
        finding_say(f, "faster by %.1f%%, but the output changed", 100 * (1 - f->slowdown.estimate));
    }
}

int compare_results(struct comparison *comparison, const struct result *baseline, const struct result *result,
                    const struct compare_policy *policy, struct plim_err *err)
{
    if (strcmp(baseline->suite_name, result->suite_name) != 0)
        return plim_err_set(err, PLIM_ERR_COMPARE, "%s is of suite %s, %s of suite %s",
                            baseline->path ? baseline->path : "the baseline", baseline->suite_name,
                            result->path ? result->path : "the result", result->suite_name);
    describe(comparison, baseline, result);
    struct comparer k = { .comparison = comparison,
                          .policy = policy,
                          .scope = scope_of(baseline),
                          .stored = baseline->is_baseline,
                          .same_machine = baseline->machine_class && result->machine_class &&
                                          strcmp(baseline->machine_class, result->machine_class) == 0,
                          .first = comparison->baseline_count == 1,
                          .other_engine = strcmp(result_engine(baseline), result_engine(result)) != 0,
                          .err = err };
    if (k.other_engine) {
        k.scope &= COMPARE_MACHINE | COMPARE_EXACT;
        comparison->engines[0] = result_engine(baseline);
        comparison->engines[1] = result_engine(result);
        comparison_note(comparison, "two engines, %s and %s: only speed and bytes are compared, where both report them",
                        result_engine(baseline), result_engine(result));
    }
    bool timings = policy->classes & k.scope & COMPARE_TIMING && k.same_machine;
    k.busy = timings && look_at_load(comparison, baseline, "the baseline");
    k.busy |= timings && look_at_load(comparison, result, "the result");
    if (compare_cases(&k, baseline, result) < 0)
        return -1;
    distrust_gains(comparison);
    if (k.differing_cases && k.first)
        comparison_note(comparison, "%zu case%s ran with other settings than the baseline's (%s)", k.differing_cases,
                        k.differing_cases == 1 ? "" : "s", k.difference);
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
