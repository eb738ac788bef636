/* The noise is what it says, and the selftest notices a gate that is broken. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "noise.h"
#include "plimsoll/clock.h"
#include "plimsoll/json.h"
#include "selftest.h"

/* Deviations and correlation of the shared model, from 100,000 processes of one session; spikes are left out by
 * medians. */
Test(noise, has_the_spread_that_its_model_says)
{
    enum { N = 100000 };
    static double values[N], differences[N];
    struct noise noise;
    const struct noise_model *m = &noise_models[1];
    double independent2 = m->independent * m->independent + m->process * m->process;

    cr_assert_str_eq(m->name, "shared");
    noise_start(&noise, m, 1, 0);
    for (int i = 0; i < N; i++)
        values[i] = noise_next(&noise);
    for (int i = 0; i + 1 < N; i++)
        differences[i] = values[i + 1] - values[i];
    /* Neighbours differ by two independent parts and by the drift's step; spikes add a little. */
    double wanted = sqrt(2 * independent2 + 2 * m->drift * m->drift * (1 - m->drift_correlation));
    cr_expect_float_eq(robust_deviation(differences, N - 1), wanted, 0.15 * wanted);
    cr_expect_float_eq(robust_deviation(values, N), sqrt(independent2 + m->drift * m->drift), 0.004);
    cr_expect_float_eq(median(values, N), noise.session, 0.005);
}

Test(noise, a_session_is_repeatable_and_another_is_not)
{
    struct noise a, b, c;

    noise_start(&a, &noise_models[0], 7, 3);
    noise_start(&b, &noise_models[0], 7, 3);
    noise_start(&c, &noise_models[0], 7, 4);
    cr_expect_eq(noise_next(&a), noise_next(&b));
    cr_expect_neq(a.session, c.session);
}

Test(noise, replays_what_was_recorded_in_blocks_of_neighbours)
{
    enum { RECORDED = 1000, BLOCKS = 50 };
    static double recorded[RECORDED];
    struct noise noise;
    size_t jumps = 0;

    for (int i = 0; i < RECORDED; i++)
        recorded[i] = i;
    noise_replay(&noise, recorded, RECORDED, 1, 0);
    for (double block = 0, before = -1; block < BLOCKS; block++) {
        double at = noise_next(&noise);

        jumps += at < before || at > before;
        for (int i = 1; i < NOISE_BLOCK; i++) {
            at = at + 1 < RECORDED ? at + 1 : 0;
            cr_assert_eq(noise_next(&noise), at);
        }
        before = at + 1;
    }
    cr_expect_gt(jumps, BLOCKS - 3);   /* from anywhere to anywhere */
}

/* A minute a case is kept to on the simulated clock, however restless the machine. */
Test(selftest, simulated_runs_have_the_usual_time)
{
    struct selftest_options options = { .trials = 2, .cases = 5, .seed = 1, .brief = true };
    static struct selftest selftest;
    struct plim_err err = PLIM_ERR_INIT;
    uint64_t start_ns = plim_now_ns();

    cr_assert_eq(selftest_gate(&options, &selftest, &err), 0, "%s", err.message);
    for (size_t i = 0; i < selftest.row_count; i++) {
        cr_expect(selftest.rows[i].seconds_a_case > 3 && selftest.rows[i].seconds_a_case < 75, "%s: %g",
                  selftest.rows[i].machine, selftest.rows[i].seconds_a_case);
        cr_expect_gt(selftest.rows[i].pairs_a_case, 7.9);
    }
    cr_expect_gt(plim_now_ns(), start_ns);                       /* the real clock is back */
    cr_expect_lt(plim_now_ns() - start_ns, 600000000000u);
}

Test(selftest, few_trials_on_a_small_suite_keep_the_promises)
{
    struct selftest_options options = { .trials = 3, .cases = 5, .seed = 1, .brief = true };
    static struct selftest selftest;
    struct plim_err err = PLIM_ERR_INIT;
    char broken[200] = "", *text;
    cJSON *root = NULL;

    cr_assert_eq(selftest_gate(&options, &selftest, &err), 0, "%s", err.message);
    cr_expect_eq(selftest.row_count, 12);
    cr_expect(selftest_keeps_promises(&selftest, broken, sizeof broken), "%s", broken);
    text = selftest_json(&selftest, &err);
    cr_assert_eq(plim_json_parse("selftest", text, strlen(text), &root, &err), 0, "%s", err.message);
    cr_expect_eq(cJSON_GetArraySize(cJSON_GetObjectItem(root, "rows")), 12);
    cJSON_Delete(root);
    free(text);
}

Test(selftest, broken_promises_are_told)
{
    const struct {
        struct selftest_row row;
        const char *told;
    } cases[] = {
        { { .machine = "quiet", .trials = 100, .alarms = 10 }, "false alarms in 10 of 100" },
        { { .machine = "hostile", .trials = 10, .found = 9, .extra_bytes = 4096 }, "a page found in only 9 of 10" },
        { { .machine = "shared", .trials = 100, .found = 50, .slowdown = 0.05 }, "5% found in only 50 of 100" },
        { { .machine = "quiet", .trials = 20, .controls_missed = 20 }, "controls missed in 20 of 20" },
        /* kept: chance explains it, or nothing was promised */
        { { .machine = "quiet", .trials = 100, .alarms = 1 }, NULL },
        { { .machine = "hostile", .trials = 100, .found = 20, .slowdown = 0.05 }, NULL },
        { { .machine = "shared", .trials = 100, .found = 3, .slowdown = 0.02 }, NULL },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct selftest selftest;
        char broken[200] = "";

        selftest.rows[0] = cases[i].row;
        selftest.row_count = 1;
        cr_expect_eq(selftest_keeps_promises(&selftest, broken, sizeof broken), cases[i].told == NULL, "%zu", i);
        if (cases[i].told)
            cr_expect_not_null(strstr(broken, cases[i].told), "%s", broken);
    }
}
