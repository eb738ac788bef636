/* One pair: two fresh processes, one number from each. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ab_parts.h"
#include "heap.h"
#include "metrics.h"
#include "plimsoll/clock.h"
#include "plimsoll/units.h"

#define REPLACED_SHARE 0.5   /* of the wanted pairs may be measured again */
#define PROCESS_NS ((uint64_t)100 * 1000 * 1000)
#define REPEATS_LIMIT 100
#define UNTIMED_PAIRS 2      /* exact metrics must agree between two runs, or they are not exact */

bool ab_wants_pair(const struct ab_case *c, enum ab_stage stage)
{
    if (c->broken)
        return false;
    if (c->started && !*c->metric)
        return stage == AB_SCREEN && c->attempts < UNTIMED_PAIRS;
    return c->stages[stage].count < c->wanted;
}

/*
 * Which side comes first: ABBA BAAB ..., the Thue-Morse sequence. In every 2^k pairs a drift that is a polynomial of
 * degree below k cancels.
 */
static enum ab_side first_side(size_t pair)
{
    enum ab_side side = AB_A;

    for (; pair; pair &= pair - 1)
        side = side == AB_A ? AB_B : AB_A;
    return side;
}

int ab_repeats(const struct suite_case *c, uint64_t process_ns)
{
    uint64_t runs = (uint64_t)(c->warmup + c->repeats);

    if (process_ns == 0 || process_ns >= PROCESS_NS)
        return c->repeats;
    return (int)plim_max((uint64_t)c->repeats, plim_min(runs * PROCESS_NS / process_ns, REPEATS_LIMIT));
}

/* ---- merging ---- */

/* The worst outcome of all processes stands for the side. */
static int merge_outcome(struct result_case *merged, const struct result_case *made, struct plim_err *err)
{
    if (made->outcome <= merged->outcome)
        return 0;
    merged->outcome = made->outcome;
    return result_set_string(&merged->detail, made->detail ? made->detail : "", err);
}

static void take_facts(struct facts *to, struct facts *from)
{
    if (!to->count) {
        *to = *from;
        *from = (struct facts){ 0 };
    }
}

/* Also what the case was run with, which is the same every time. */
static int merge(struct result_case *merged, struct result_case *made, struct plim_err *err)
{
    take_facts(&merged->parameters, &made->parameters);
    take_facts(&merged->arguments, &made->arguments);
    take_facts(&merged->refusal, &made->refusal);
    if (merge_outcome(merged, made, err) < 0)
        return -1;
    for (size_t i = 0; i < made->metric_count; i++) {
        struct plim_err unlike = PLIM_ERR_INIT;
        struct metric *metric;

        if (report_add_metric(merged, &made->metrics[i], &unlike) < 0) {
            if (unlike.kind != PLIM_ERR_INPUT)
                return plim_err_set(err, unlike.kind, "%s", unlike.message);
            merged->outcome = OUTCOME_FAILED;
            return result_set_string(&merged->detail, unlike.message, err);
        }
        metric = case_find_metric(merged, made->metrics[i].name);
        metric->gate = made->metrics[i].gate;
    }
    return 0;
}

int ab_check_exact(struct ab_case *c, struct plim_err *err)
{
    for (int side = 0; side < AB_SIDES; side++) {
        struct result_case *merged = c->merged[side];
        struct plim_err unlike = PLIM_ERR_INIT;

        if (merged->outcome != OUTCOME_OK || report_check_exact(merged, &unlike) == 0)
            continue;
        merged->outcome = OUTCOME_FAILED;
        if (result_set_string(&merged->detail, unlike.message, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the timing ---- */

/* After the first process: which of its timings is judged. */
static void choose_metric(struct ab_case *c, const struct result_case *made, const struct ab_rules *rules)
{
    const struct metric *metric = c->asked_metric ? case_find_metric(made, c->asked_metric) : case_headline(made);

    c->started = true;
    if (made->outcome != OUTCOME_OK || !metric || metric->class != METRIC_TIMING || metric->direction == DIRECTION_NONE)
        return;
    snprintf(c->metric, sizeof c->metric, "%s", metric->name);
    c->min_effect = metric->gate.relative > 0 ? metric->gate.relative : rules->min_effect;
}

double ab_process_timing(const struct metric *metric)
{
    struct interval half = middle_half(metric->samples, metric->sample_count);
    double value = metric->direction == DIRECTION_HIGHER ? half.high : half.low;

    return value > 0 ? value : NAN;
}

static double timing_of(const struct ab_case *c, const struct result_case *made)
{
    const struct metric *metric = *c->metric ? case_find_metric(made, c->metric) : NULL;

    return metric ? ab_process_timing(metric) : NAN;
}

static int keep_pair(struct ab_pairs *pairs, const double values[AB_SIDES], bool higher_is_better, struct plim_err *err)
{
    double ratio = log(values[AB_B] / values[AB_A]);
    double **arrays[] = { &pairs->values[AB_A], &pairs->values[AB_B], &pairs->log_ratios };
    const double added[] = { values[AB_A], values[AB_B], higher_is_better ? -ratio : ratio };

    for (int i = 0; i < 3; i++) {
        double *grown = heap_room(*arrays[i], pairs->count, sizeof *grown, err);

        if (!grown)
            return -1;
        *arrays[i] = grown;
        grown[pairs->count] = added[i];
    }
    pairs->count++;
    return 0;
}

void ab_release_pairs(struct ab_pairs *pairs)
{
    free(pairs->values[AB_A]);
    free(pairs->values[AB_B]);
    free(pairs->log_ratios);
    *pairs = (struct ab_pairs){ { NULL, NULL }, NULL, 0 };
}

static bool may_replace(const struct ab_case *c)
{
    return (double)c->replaced < REPLACED_SHARE * (double)c->wanted;
}

static int measure_side(struct ab_case *c, enum ab_side side, const struct ab_options *options, double *value,
                        struct plim_err *err)
{
    struct run_options run = { .models_directory = options->models_directory,
                               .repeats = options->repeats ? options->repeats : c->repeats };
    struct result_case made = { 0 };
    int rc = -1;

    if (runner_run_case(c->suite, c->spec, &c->sides[side], &run, &made, err) < 0)
        return -1;
    if (!c->started)
        choose_metric(c, &made, &options->rules);
    *value = timing_of(c, &made);
    if (merge(c->merged[side], &made, err) < 0)
        goto out;
    if (made.outcome != OUTCOME_OK && *c->metric)
        c->broken = true;   /* it was ok once, or the other side is */
    rc = 0;

out:
    case_release(&made);
    return rc;
}

int ab_measure_pair(struct ab_case *c, enum ab_stage stage, const struct ab_options *options, struct plim_err *err)
{
    enum ab_side first = first_side(c->attempts++), second = first == AB_A ? AB_B : AB_A;
    double values[AB_SIDES] = { NAN, NAN };
    uint64_t start_ns = plim_now_ns(), spent_ns;
    bool disturbed = false;
    const struct metric *metric;

    if (options->watch)
        options->watch->begin(options->watch->context);
    if (measure_side(c, first, options, &values[first], err) < 0 ||
        measure_side(c, second, options, &values[second], err) < 0)
        return -1;
    if (options->watch)
        disturbed = options->watch->end(options->watch->context, c->disturbance, sizeof c->disturbance);
    spent_ns = plim_now_ns() - start_ns;
    c->spent_ns += spent_ns;
    if (!c->repeats)
        c->repeats = ab_repeats(c->spec, spent_ns / 2);
    if (!*c->metric || c->broken)
        return 0;
    if (isnan(values[AB_A]) || isnan(values[AB_B])) {
        c->broken = true;   /* a side doesn't report the timing: the comparison will say so */
        return 0;
    }
    if (disturbed && may_replace(c)) {
        c->replaced++;
        return 0;
    }
    c->disturbed += disturbed;
    metric = case_find_metric(c->merged[AB_A], c->metric);
    return keep_pair(&c->stages[stage], values, metric->direction == DIRECTION_HIGHER, err);
}
