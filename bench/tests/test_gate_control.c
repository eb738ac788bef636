/* A gate that could not see a page or a slowdown says so. */

#include <criterion/criterion.h>

#include "gate_control.h"

static struct result result;

static struct metric *add(const char *id, const char *name, double bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result_case *c =
        result_find_case(&result, id) ? result_find_case(&result, id) : result_add_case(&result, id, &err);
    struct metric *metric = case_add_metric(c, name, "bytes", METRIC_EXACT, DIRECTION_LOWER, &err);

    cr_assert_eq(metric_add_sample(metric, bytes, &err), 0);
    return metric;
}

static void tear_down(void)
{
    result_release(&result);
}

TestSuite(gate_control, .fini = tear_down);

static struct gate_control control(struct compare_policy policy)
{
    struct gate_control out;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(gate_control_run(&result, &policy, &out, &err), 0, "%s", err.message);
    return out;
}

Test(gate_control, a_working_gate_finds_both)
{
    add("a", "peak_requested_fast_bytes", 12345678);
    struct gate_control c = control(compare_policy_default());
    cr_expect(c.page_planted && c.page_found && c.delay_planted && c.delay_found);
    cr_expect_not(gate_control_missed(&c));
}

Test(gate_control, plants_only_what_is_gated)
{
    struct compare_policy policy = compare_policy_default();

    add("a", "peak_requested_fast_bytes", 12345678)->gate.level = GATE_WARN;
    policy.classes = COMPARE_PORTABLE;
    struct gate_control c = control(policy);
    cr_expect_not(c.page_planted || c.delay_planted);
    cr_expect_not(gate_control_missed(&c));

    add("a", "peak_kv_cache_bytes", 4096);
    c = control(policy);
    cr_expect(c.page_planted && c.page_found);
}

/* A policy under which timings can't fail any more, as after a change that was not meant. */
Test(gate_control, a_gate_that_is_blind_is_told)
{
    struct compare_policy policy = compare_policy_default();

    policy.timing_min_samples = 100;
    struct gate_control c = control(policy);
    cr_expect(c.delay_planted && !c.delay_found);
    cr_expect(gate_control_missed(&c));
}
