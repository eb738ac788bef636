/* From what was measured to findings, the controls among them. */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ab_parts.h"

/* ---- timings in words ---- */

static int append(char *text, size_t size, size_t used, const char *format, ...) PLIM_PRINTF(4, 5);

static int append(char *text, size_t size, size_t used, const char *format, ...)
{
    va_list args;
    int length;

    if (used >= size)
        return 0;
    va_start(args, format);
    length = vsnprintf(text + used, size - used, format, args);
    va_end(args);
    return length;
}

/* "+4.1% (+3.2% to +5.0%)"; slower is positive. */
static void format_change(char *text, size_t size, const struct interval *slowdown)
{
    if (isinf(slowdown->high))
        snprintf(text, size, "%+.1f%% (too few pairs for an interval)", 100 * (slowdown->estimate - 1));
    else
        snprintf(text, size, "%+.1f%% (%+.1f%% to %+.1f%%)", 100 * (slowdown->estimate - 1), 100 * (slowdown->low - 1),
                 100 * (slowdown->high - 1));
}

void ab_describe(const struct ab_case *c, char *text, size_t size)
{
    const struct ab_evidence *e = &c->evidence;
    char change[80];
    size_t used;

    format_change(change, sizeof change, &e->slowdown);
    used = (size_t)snprintf(text, size, "time %s", change);
    if (c->verdict == VERDICT_PASS || c->verdict == VERDICT_INCONCLUSIVE) {
        if (!isinf(e->slowdown.high))
            used += (size_t)append(text, size, used, "; %.1f%% slower would have been seen",
                                   100 * fmax(0, e->slowdown.high - 1));
    } else if (c->confirmed) {
        used += (size_t)append(text, size, used, ", p %.2g", fmin(c->p_slower, c->p_faster));
    }
    used += (size_t)append(text, size, used, "; %zu pairs, noise %.1f%%", e->pairs, 100 * e->spread);
    if (c->out_of_time)
        used += (size_t)append(text, size, used, "; no time was left to confirm");
    if (c->disturbed)
        append(text, size, used, "; %zu disturbed (%s)", c->disturbed, c->disturbance);
}

/* ---- findings ---- */

static bool output_changed(const struct comparison *comparison, const struct result_case *c)
{
    for (size_t i = 0; i < comparison->finding_count; i++) {
        const struct finding *f = &comparison->findings[i];

        if (f->result_case == c && f->result && f->result->texts.count && f->verdict == VERDICT_FAIL)
            return true;
    }
    return false;
}

static enum verdict gated_verdict(const struct ab_case *c, const struct metric *metric,
                                  const struct comparison *comparison)
{
    if (c->verdict == VERDICT_IMPROVED && output_changed(comparison, c->merged[AB_B]))
        return VERDICT_INVALID_OUTPUT;
    if (c->verdict == VERDICT_FAIL && metric->gate.level != GATE_FAIL)
        return VERDICT_WARN;
    return c->verdict;
}

/* The medians shown beside are of all processes; the verdict isn't made from them. */
static int add_timing(struct ab_report *report, struct ab_case *c, struct plim_err *err)
{
    struct finding f = { .baseline_case = c->merged[AB_A], .result_case = c->merged[AB_B], .class = METRIC_TIMING,
                         .baseline_value = NAN, .result_value = NAN };

    if (!*c->metric || f.baseline_case->outcome != OUTCOME_OK || f.result_case->outcome != OUTCOME_OK)
        return 0;   /* nothing to time, or the outcome's own finding says why */
    f.baseline = case_find_metric(f.baseline_case, c->metric);
    f.result = case_find_metric(f.result_case, c->metric);
    if (!f.baseline || !f.result || c->broken) {
        f.verdict = VERDICT_MISSING;
        snprintf(f.detail, sizeof f.detail, "B doesn't report %.80s", c->metric);
        return comparison_add(&report->comparison, &f, err);
    }
    f.baseline_value = metric_median(f.baseline);
    f.result_value = metric_median(f.result);
    f.slowdown = c->evidence.slowdown;
    f.worse = f.slowdown.estimate - 1;
    f.verdict = c->verdict = gated_verdict(c, f.result, &report->comparison);
    ab_describe(c, f.detail, sizeof f.detail);
    if (f.verdict == VERDICT_INVALID_OUTPUT)
        snprintf(f.detail, sizeof f.detail, "faster by %.1f%%, but the output changed", 100 * -f.worse);
    return comparison_add(&report->comparison, &f, err);
}

/* A's memory is no baseline that could be stale: less of it is plainly good. */
static void welcome_gains(struct comparison *comparison)
{
    for (size_t i = 0; i < comparison->finding_count; i++) {
        struct finding *f = &comparison->findings[i];

        if (f->verdict != VERDICT_STALE)
            continue;
        f->verdict = VERDICT_IMPROVED;
        *f->detail = '\0';
        comparison->counts[VERDICT_STALE]--;
        comparison->counts[VERDICT_IMPROVED]++;
    }
}

static struct compare_policy untimed_policy(void)
{
    struct compare_policy policy = compare_policy_default();

    policy.classes &= ~COMPARE_TIMING;
    return policy;
}

/* ---- controls ---- */

static void look_at_delay(struct ab_report *report)
{
    const struct ab_case *c = &report->cases[report->case_count + AB_CONTROL_DELAY];
    char words[160];

    ab_describe(c, words, sizeof words);
    report->missed[AB_CONTROL_DELAY] = c->verdict != VERDICT_FAIL;
    snprintf(report->control_details[AB_CONTROL_DELAY], sizeof report->control_details[0], "%s: %s",
             report->missed[AB_CONTROL_DELAY] ? verdict_name(c->verdict) : "caught", words);
}

static int look_at_page(struct ab_report *report, struct plim_err *err)
{
    const struct result_case *c = report->cases[report->case_count + AB_CONTROL_PAGE].merged[AB_B];
    struct compare_policy policy = untimed_policy();
    struct comparison comparison = COMPARISON_INIT;
    char *words = report->control_details[AB_CONTROL_PAGE];
    const struct result *sides = report->control_results;
    bool caught = false;

    if (compare_results(&comparison, &sides[AB_A], &sides[AB_B], &policy, err) < 0) {
        comparison_release(&comparison);
        return -1;
    }
    snprintf(words, sizeof report->control_details[0], "not seen");
    for (size_t i = 0; i < comparison.finding_count; i++) {
        const struct finding *f = &comparison.findings[i];

        if (f->result_case == c && f->verdict == VERDICT_FAIL && f->result &&
            strcmp(f->result->name, "peak_requested_fast_bytes") == 0) {
            caught = true;
            snprintf(words, sizeof report->control_details[0], "caught: %.180s", f->detail);
        }
    }
    if (c->outcome != OUTCOME_OK)
        snprintf(words, sizeof report->control_details[0], "%s: %.160s", outcome_name(c->outcome), c->detail);
    report->missed[AB_CONTROL_PAGE] = !caught;
    comparison_release(&comparison);
    return 0;
}

static int look_at_controls(struct ab_report *report, struct plim_err *err)
{
    if (!report->control_count)
        return 0;
    look_at_delay(report);
    if (look_at_page(report, err) < 0)
        return -1;
    for (int i = 0; i < AB_CONTROLS; i++)
        if (report->missed[i])
            comparison_note(&report->comparison,
                            "control missed: a planted %s was not found (%s); no verdict here can be trusted",
                            i == AB_CONTROL_DELAY ? "slowdown of 25%" : "page of memory", report->control_details[i]);
    return 0;
}

int ab_report_findings(struct ab_report *report, struct plim_err *err)
{
    struct compare_policy policy = untimed_policy();

    if (report->timings_only)
        policy.classes = 0;   /* outcomes are compared all the same */
    if (look_at_controls(report, err) < 0 ||
        compare_results(&report->comparison, &report->results[AB_A], &report->results[AB_B], &policy, err) < 0)
        return -1;
    welcome_gains(&report->comparison);
    for (size_t i = 0; i < report->case_count; i++)
        if (add_timing(report, &report->cases[i], err) < 0)
            return -1;
    comparison_sort(&report->comparison);
    return 0;
}
