#include "gate_control.h"

#include <string.h>

#include "ab.h"
#include "ab_control.h"
#include "metrics.h"
#include "runner.h"

#define CLASS "control"
#define DELAY_PAIRS 8
#define DELAY_ATTEMPTS 3

/* Two results of this machine, one without and one with what is planted. */
static int name_sides(struct result sides[2], struct plim_err *err)
{
    for (int side = 0; side < 2; side++) {
        sides[side].complete = true;
        if (result_set_string(&sides[side].suite_name, "control", err) < 0 ||
            result_set_string(&sides[side].machine_class, CLASS, err) < 0)
            return -1;
    }
    return 0;
}

/* Whether comparing the sides fails this metric of this case. */
static int look(const struct result sides[2], const struct compare_policy *policy, const char *id, const char *metric,
                bool *found, struct plim_err *err)
{
    struct comparison comparison = COMPARISON_INIT;
    int rc = compare_results(&comparison, &sides[0], &sides[1], policy, err);

    *found = false;
    for (size_t i = 0; i < comparison.finding_count; i++) {
        const struct finding *f = &comparison.findings[i];

        *found |= f->verdict == VERDICT_FAIL && f->result && strcmp(f->result_case->id, id) == 0 &&
                  strcmp(f->result->name, metric) == 0;
    }
    comparison_release(&comparison);
    return rc;
}

/* ---- the copy ---- */

/* The first gated exact metric in bytes, of which less is better. */
static const struct metric *find_memory(const struct result *result, const struct result_case **of)
{
    for (size_t i = 0; i < result->case_count; i++)
        for (size_t k = 0; k < result->cases[i].metric_count; k++) {
            const struct metric *m = &result->cases[i].metrics[k];

            if (m->class == METRIC_EXACT && m->direction == DIRECTION_LOWER && m->gate.level == GATE_FAIL &&
                m->sample_count && strcmp(m->unit, "bytes") == 0) {
                *of = &result->cases[i];
                return m;
            }
        }
    return NULL;
}

static int control_copy(const struct result *result, const struct compare_policy *policy, bool blind,
                        struct gate_control_part *out, struct plim_err *err)
{
    struct result sides[2] = { { 0 }, { 0 } };
    const struct result_case *of = NULL;
    const struct metric *memory = find_memory(result, &of);
    int rc = -1;

    out->planted = memory != NULL;
    if (!memory)
        return 0;
    for (int side = 0; side < 2; side++) {
        struct result_case *c = result_add_case(&sides[side], of->id, err);
        struct metric *copy = c ? case_add_metric(c, memory->name, memory->unit, memory->class, memory->direction, err) : NULL;

        if (!copy || metric_add_sample(copy, memory->samples[0] + (side && !blind ? CONTROL_EXTRA_BYTES : 0), err) < 0)
            goto out;
        copy->gate = memory->gate;
    }
    rc = name_sides(sides, err) < 0 ? -1 : look(sides, policy, of->id, memory->name, &out->found, err);

out:
    result_release(&sides[0]);
    result_release(&sides[1]);
    return rc;
}

/* ---- the hidden cases ---- */

struct hidden {
    const struct suite *suite;
    const struct suite_case *spec;
    struct executor plain;
    struct planting planting;
};

static int run_side(struct hidden *hidden, bool planted, struct result_case *made, struct plim_err *err)
{
    struct executor executor = planted ? planting_executor(&hidden->planting) : hidden->plain;
    struct run_options options = { .repeats = 0 };

    return runner_run_case(hidden->suite, hidden->spec, &executor, &options, made, err);
}

static int control_page(struct hidden *hidden, const struct compare_policy *policy, bool *found, struct plim_err *err)
{
    struct result sides[2] = { { 0 }, { 0 } };
    int rc = -1;

    for (int side = 0; side < 2; side++) {
        struct result_case *slot = result_add_case(&sides[side], hidden->spec->id, err);

        if (!slot)
            goto out;
        case_release(slot);
        if (run_side(hidden, side == 1, slot, err) < 0) {
            sides[side].case_count = 0;
            goto out;
        }
    }
    rc = name_sides(sides, err) < 0 ? -1
                                    : look(sides, policy, hidden->spec->id, "peak_requested_fast_bytes", found, err);

out:
    result_release(&sides[0]);
    result_release(&sides[1]);
    return rc;
}

/* One process; the median of its repeats becomes a sample. One that fails adds none: too few are no alarm. */
static int add_delay_sample(struct hidden *hidden, bool planted, struct metric *timing, struct plim_err *err)
{
    struct result_case made = { 0 };
    const struct metric *metric;
    int rc = run_side(hidden, planted, &made, err);

    if (rc == 0 && made.outcome == OUTCOME_OK && (metric = case_find_metric(&made, timing->name)))
        rc = metric_add_sample(timing, metric_median(metric), err);
    case_release(&made);
    return rc;
}

static int control_delay_case(struct hidden *hidden, const struct compare_policy *policy, bool *found,
                              struct plim_err *err)
{
    const struct metric_row *row = metric_find("spin_time_ns");
    struct result sides[2] = { { 0 }, { 0 } };
    int rc = name_sides(sides, err);

    for (int side = 0; side < 2 && rc == 0; side++) {
        struct result_case *c = result_add_case(&sides[side], hidden->spec->id, err);

        rc = c && case_add_metric(c, row->name, row->unit, row->class, row->direction, err) ? 0 : -1;
    }
    for (int attempt = 0; attempt < DELAY_ATTEMPTS && rc == 0 && !*found; attempt++) {
        for (int i = 0; i < 2 * DELAY_PAIRS && rc == 0; i++) {
            int side = (i + 1) / 2 % 2;   /* ABBA */

            rc = add_delay_sample(hidden, side == 1, &sides[side].cases[0].metrics[0], err);
        }
        if (rc == 0 && sides[0].cases[0].metrics[0].sample_count && sides[1].cases[0].metrics[0].sample_count)
            rc = look(sides, policy, hidden->spec->id, row->name, found, err);
    }
    result_release(&sides[0]);
    result_release(&sides[1]);
    return rc;
}

static int control_hidden(const struct compare_policy *policy, const struct gate_control_options *options,
                          struct gate_control *out, struct plim_err *err)
{
    struct control page = { .extra_bytes = options->blind ? 0 : CONTROL_EXTRA_BYTES };
    struct control delay = { .delay_fraction = options->blind ? 0 : CONTROL_DELAY_FRACTION };
    struct suite suite = { 0 };
    int rc = control_suite(&suite, err);

    out->page.planted = policy->classes & COMPARE_EXACT;
    out->delay.planted = policy->classes & COMPARE_TIMING;
    if (rc == 0 && out->page.planted) {
        struct hidden hidden = { &suite, &suite.cases[AB_CONTROL_PAGE], options->executor, { options->executor, page } };

        rc = control_page(&hidden, policy, &out->page.found, err);
    }
    if (rc == 0 && out->delay.planted) {
        struct hidden hidden = { &suite, &suite.cases[AB_CONTROL_DELAY], options->executor, { options->executor, delay } };

        rc = control_delay_case(&hidden, policy, &out->delay.found, err);
    }
    suite_release(&suite);
    return rc < 0 ? plim_err_wrap(err, "the gate's own control") : 0;
}

int gate_control_run(const struct result *result, const struct compare_policy *policy,
                     const struct gate_control_options *options, struct gate_control *out, struct plim_err *err)
{
    *out = (struct gate_control){ .copy = { false, false } };
    if ((policy->classes & COMPARE_EXACT) && control_copy(result, policy, options->blind, &out->copy, err) < 0)
        return -1;
    return options->executor.run_case ? control_hidden(policy, options, out, err) : 0;
}

static bool missed(const struct gate_control_part *part)
{
    return part->planted && !part->found;
}

const char *gate_control_missed(const struct gate_control *control)
{
    return missed(&control->page)    ? "page of memory"
           : missed(&control->delay) ? "slowdown of 25%"
           : missed(&control->copy)  ? "page in a copy of the result"
                                     : NULL;
}
