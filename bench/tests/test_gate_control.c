/* A gate that could not see a page or a slowdown says so. */

#include <criterion/criterion.h>

#include "gate_control.h"
#include "simulated.h"

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

static struct gate_control control(struct compare_policy policy, bool blind)
{
    struct simulated machine = { .now_ns = 0 };
    struct gate_control_options options = { simulated_executor(&machine), blind };
    struct gate_control out;
    struct plim_err err = PLIM_ERR_INIT;

    noise_start(&machine.noise, &noise_models[1], 1, 1);
    cr_assert_eq(gate_control_run(&result, &policy, &options, &out, &err), 0, "%s", err.message);
    return out;
}

Test(gate_control, a_working_gate_finds_all)
{
    add("a", "peak_requested_fast_bytes", 12345678);
    struct gate_control c = control(compare_policy_default(), false);
    cr_expect(c.copy.planted && c.copy.found && c.page.planted && c.page.found && c.delay.planted && c.delay.found);
    cr_expect_null(gate_control_missed(&c));
}

Test(gate_control, plants_only_what_is_gated)
{
    struct compare_policy policy = compare_policy_default();

    add("a", "peak_requested_fast_bytes", 12345678)->gate.level = GATE_WARN;
    policy.classes = COMPARE_PORTABLE;
    struct gate_control c = control(policy, false);
    cr_expect_not(c.copy.planted || c.delay.planted);
    cr_expect_null(gate_control_missed(&c));

    add("a", "peak_kv_cache_bytes", 4096);
    c = control(policy, false);
    cr_expect(c.copy.planted && c.copy.found);
}

/* A policy under which timings can't fail any more, as after a change that was not meant. */
Test(gate_control, a_gate_that_is_blind_is_told)
{
    struct compare_policy policy = compare_policy_default();

    policy.timing_min_samples = 100;
    struct gate_control c = control(policy, false);
    cr_expect(c.delay.planted && !c.delay.found);
    cr_expect_str_eq(gate_control_missed(&c), "slowdown of 25%");
}

/* The worker's planting is broken: nothing arrives where it should be measured. */
Test(gate_control, what_was_not_planted_is_not_found)
{
    add("a", "peak_requested_fast_bytes", 12345678);
    struct gate_control c = control(compare_policy_default(), true);
    cr_expect_not(c.copy.found || c.page.found || c.delay.found);
    cr_expect_str_eq(gate_control_missed(&c), "page of memory");
}

/* However the machine behaves, a working control is found: else the gate would cry wolf about itself. */
Test(gate_control, noise_hides_no_control)
{
    for (const struct noise_model *model = noise_models; model->name; model++) {
        for (uint64_t seed = 0; seed < 50; seed++) {
            struct simulated machine = { .now_ns = 0 };
            struct gate_control_options options = { simulated_executor(&machine), false };
            struct compare_policy policy = compare_policy_default();
            struct gate_control c;
            struct plim_err err = PLIM_ERR_INIT;

            noise_start(&machine.noise, model, seed, 2);
            cr_assert_eq(gate_control_run(&result, &policy, &options, &c, &err), 0, "%s", err.message);
            cr_expect_null(gate_control_missed(&c), "%s, seed %d", model->name, (int)seed);
        }
    }
}
