/* The noise is what it says, and the selftest notices a gate that is broken. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "noise.h"
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

Test(noise, replays_what_was_recorded_in_its_order)
{
    static const double recorded[] = { 1, 2, 3, 4, 5 };
    size_t starts[5] = { 0 };

    for (uint64_t session = 0; session < 50; session++) {
        struct noise noise;
        double first;

        noise_replay(&noise, recorded, 5, 1, session);
        first = noise_next(&noise);
        starts[(size_t)first - 1]++;
        for (int i = 1; i < 8; i++)
            cr_expect_eq(noise_next(&noise), recorded[((size_t)first - 1 + (size_t)i) % 5]);
    }
    for (int i = 0; i < 5; i++)
        cr_expect_gt(starts[i], 0);
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
