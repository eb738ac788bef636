/* Fronts of memory against speed, and what losing a point of one does to a comparison. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compare_support.h"
#include "pareto.h"

struct sweep_point {
    double bytes, tokens_per_s;
};

static void fill(struct result *result, const struct sweep_point *points, size_t count)
{
    make_result(result, "smoke", "abacus");
    for (size_t i = 0; i < count; i++) {
        char id[40];
        snprintf(id, sizeof id, "tiny/dq=%zu", i);
        struct result_case *c = add_case(result, id);
        double v = points[i].tokens_per_s;
        add_exact(c, "peak_requested_fast_bytes", points[i].bytes);
        add_rate(c, SAMPLES(v, v * 1.001, v * 0.999, v * 1.002, v * 0.998, v, v * 1.001, v * 0.999));
    }
}

Test(pareto, the_front_is_what_nothing_beats_in_both)
{
    static const struct sweep_point points[] = { { 400, 50 }, { 100, 10 }, { 200, 40 }, { 300, 30 }, { 200, 35 } };
    static const struct {
        double bytes;
        bool on_front;
    } expected[] = { { 100, true }, { 200, true }, { 200, false }, { 300, false }, { 400, true } };
    struct result result;
    struct pareto_fronts fronts;
    struct plim_err err = PLIM_ERR_INIT;
    fill(&result, points, 5);
    cr_assert_eq(pareto_find(&fronts, &result, &result, &err), 0, "%s", err.message);
    cr_assert_eq(fronts.count, 1u);
    cr_assert_eq(fronts.items[0].front_count, 3u);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(fronts.items[0].points[i].bytes, expected[i].bytes);
        cr_assert_eq(fronts.items[0].points[i].on_front, expected[i].on_front, "point %zu", i);
    }
    pareto_release(&fronts);
    result_release(&result);
}

Test(pareto, other_work_is_another_front)
{
    static const struct sweep_point points[] = { { 100, 10 }, { 200, 40 }, { 50, 5 }, { 60, 6 } };
    struct result result;
    struct pareto_fronts fronts;
    struct plim_err err = PLIM_ERR_INIT;
    fill(&result, points, 4);
    for (size_t i = 2; i < 4; i++)
        cr_assert_eq(facts_set_number(&result.cases[i].arguments, "prompt_tokens", 64, &err), 0);
    cr_assert_eq(pareto_find(&fronts, &result, &result, &err), 0, "%s", err.message);
    cr_assert_eq(fronts.count, 2u);
    cr_assert_eq(fronts.items[0].count, 2u);
    cr_assert_eq(fronts.items[1].count, 2u);
    pareto_release(&fronts);
    result_release(&result);
}

/* The number of findings with `verdict` after comparing the two sweeps' fronts alone. */
static size_t compare_sweeps(const struct sweep_point *old, const struct sweep_point *new, size_t count,
                             enum verdict verdict, const char *class, enum gate_level level)
{
    struct result before, after;
    struct comparison c = COMPARISON_INIT;
    struct compare_policy policy = compare_policy_default();
    struct plim_err err = PLIM_ERR_INIT;
    fill(&before, old, count);
    fill(&after, new, count);
    cr_assert_eq(result_set_string(&after.machine_class, class, &err), 0);
    for (size_t i = 0; i < count; i++)
        case_find_metric(&before.cases[i], "tokens_per_s")->gate.level = level;
    cr_assert_eq(pareto_compare(&c, &before, &before, &after, &policy, &err), 0, "%s", err.message);
    size_t found = c.counts[verdict];
    cr_assert_eq(c.finding_count, found, "%zu findings, %zu of the verdict", c.finding_count, found);
    comparison_release(&c);
    result_release(&before);
    result_release(&after);
    return found;
}

Test(pareto, losing_a_point_fails_and_trading_along_the_front_does_not)
{
    static const struct sweep_point base[] = { { 100, 10 }, { 200, 40 }, { 400, 50 } };
    static const struct sweep_point within[] = { { 100, 9.5 }, { 201, 38 }, { 400, 47 } };
    static const struct sweep_point slower[] = { { 100, 10 }, { 200, 30 }, { 400, 50 } };
    static const struct sweep_point bigger[] = { { 150, 10 }, { 200, 40 }, { 400, 50 } };
    static const struct sweep_point moved[] = { { 100, 10 }, { 150, 41 }, { 390, 50 } };
    cr_assert_eq(compare_sweeps(base, base, 3, VERDICT_FAIL, "abacus", GATE_FAIL), 0u);
    cr_assert_eq(compare_sweeps(base, within, 3, VERDICT_FAIL, "abacus", GATE_FAIL), 0u);
    cr_assert_eq(compare_sweeps(base, moved, 3, VERDICT_FAIL, "abacus", GATE_FAIL), 0u);
    cr_assert_eq(compare_sweeps(base, slower, 3, VERDICT_FAIL, "abacus", GATE_FAIL), 1u);
    cr_assert_eq(compare_sweeps(base, bigger, 3, VERDICT_FAIL, "abacus", GATE_FAIL), 1u);
    cr_assert_eq(compare_sweeps(base, slower, 3, VERDICT_WARN, "abacus", GATE_OFF), 1u);
    cr_assert_eq(compare_sweeps(base, slower, 3, VERDICT_FAIL, "sliderule", GATE_FAIL), 0u);
}

Test(pareto, a_case_may_break_as_long_as_another_takes_its_place)
{
    static const struct sweep_point base[] = { { 100, 10 }, { 200, 40 } }, swapped[] = { { 200, 40 }, { 90, 12 } };
    cr_assert_eq(compare_sweeps(base, swapped, 2, VERDICT_FAIL, "abacus", GATE_FAIL), 0u);
}
