#include "gate_control.h"

#include <string.h>

#include "ab_control.h"
#include "metrics.h"

#define CLASS "control"
#define TIMING_SAMPLES 10

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

static struct metric *add_metric(struct result *side, const char *id, const struct metric_row *row,
                                 struct plim_err *err)
{
    struct result_case *c = result_add_case(side, id, err);

    if (!c || result_set_string(&c->detail, "", err) < 0)
        return NULL;
    return case_add_metric(c, row->name, row->unit, row->class, row->direction, err);
}

static int plant_page(struct result sides[2], const struct result_case *of, const struct metric *memory,
                      struct plim_err *err)
{
    struct metric_row row = { memory->name, memory->unit, memory->class, memory->direction, NULL };

    for (int side = 0; side < 2; side++) {
        struct metric *copy = add_metric(&sides[side], of->id, &row, err);

        if (!copy || metric_add_sample(copy, memory->samples[0] + (side ? CONTROL_EXTRA_BYTES : 0), err) < 0)
            return -1;
        copy->gate = memory->gate;
    }
    return 0;
}

/* Ten samples with half a per cent of noise. */
static int plant_delay(struct result sides[2], struct plim_err *err)
{
    for (int side = 0; side < 2; side++) {
        struct metric *timing = add_metric(&sides[side], "control/delay", metric_find("spin_time_ns"), err);

        for (int i = 0; i < TIMING_SAMPLES; i++)
            if (!timing ||
                metric_add_sample(timing, 1e6 * (1 + 0.001 * i) * (side ? 1 + CONTROL_DELAY_FRACTION : 1), err) < 0)
                return -1;
    }
    return 0;
}

static bool failed(const struct comparison *comparison, const char *id, const char *metric)
{
    for (size_t i = 0; i < comparison->finding_count; i++) {
        const struct finding *f = &comparison->findings[i];

        if (f->verdict == VERDICT_FAIL && f->result && strcmp(f->result_case->id, id) == 0 &&
            strcmp(f->result->name, metric) == 0)
            return true;
    }
    return false;
}

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

int gate_control_run(const struct result *result, const struct compare_policy *policy, struct gate_control *out,
                     struct plim_err *err)
{
    struct result sides[2] = { { 0 }, { 0 } };
    struct comparison comparison = COMPARISON_INIT;
    const struct result_case *of = NULL;
    const struct metric *memory = policy->classes & COMPARE_EXACT ? find_memory(result, &of) : NULL;
    int rc = -1;

    *out = (struct gate_control){ .page_planted = memory != NULL, .delay_planted = policy->classes & COMPARE_TIMING };
    if (name_sides(sides, err) < 0 || (out->page_planted && plant_page(sides, of, memory, err) < 0) ||
        (out->delay_planted && plant_delay(sides, err) < 0) ||
        compare_results(&comparison, &sides[0], &sides[1], policy, err) < 0)
        goto out;
    out->page_found = memory && failed(&comparison, of->id, memory->name);
    out->delay_found = failed(&comparison, "control/delay", "spin_time_ns");
    rc = 0;

out:
    comparison_release(&comparison);
    result_release(&sides[0]);
    result_release(&sides[1]);
    return rc;
}

bool gate_control_missed(const struct gate_control *control)
{
    return (control->page_planted && !control->page_found) || (control->delay_planted && !control->delay_found);
}
