/* The noise is what it says, and the selftest notices a gate that is broken. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "noise.h"
#include "plimsoll/clock.h"
#include "plimsoll/json.h"
#include "replay.h"
#include "selftest.h"
#include "simulated.h"

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

/* Pairs as they would be recorded: their number in both values, and every third disturbed by other programs. */
static void fill_recording(struct recording *recording, struct recorded_pair *pairs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        pairs[i] = (struct recorded_pair){ .values = { (double)i, (double)i + 0.5 }, .after = { .wall_s = 0.5, .ours_s = 0.5 } };
        pairs[i].after.busy_s = i % 3 == 0 ? 0.9 : 0.5;
    }
    *recording = (struct recording){ .pairs = pairs, .count = count, .cores = 2 };
}

Test(replay, is_whole_pairs_in_blocks_of_neighbours)
{
    enum { RECORDED = 500, BLOCKS = 50 };
    static struct recorded_pair pairs[RECORDED];
    struct recording recording;
    struct replay replay;
    uint64_t process_ns;
    size_t jumps = 0;

    fill_recording(&recording, pairs, RECORDED);
    replay_start(&replay, &recording, 1, 0);
    for (double block = 0, before = -1; block < BLOCKS; block++) {
        double at = replay_next(&replay, &process_ns);

        jumps += at < before || at > before;
        cr_assert_eq(process_ns, 250000000);
        cr_assert_eq(replay_next(&replay, &process_ns), at + 0.5);
        for (int i = 1; i < REPLAY_BLOCK; i++) {
            cr_assert_eq(replay_next(&replay, &process_ns), ++at);
            cr_assert_eq(replay_next(&replay, &process_ns), at + 0.5);
        }
        cr_assert_lt(at, RECORDED);
        before = at + 1;
    }
    cr_expect_gt(jumps, BLOCKS - 3);   /* from anywhere to anywhere */
}

Test(replay, of_fewer_pairs_than_a_block_goes_round)
{
    static struct recorded_pair pairs[3];
    struct recording recording;
    struct replay replay;
    uint64_t process_ns;

    fill_recording(&recording, pairs, 3);
    replay_start(&replay, &recording, 1, 0);
    for (int i = 0; i < 9; i++) {
        cr_assert_eq(replay_next(&replay, &process_ns), i % 3);
        replay_next(&replay, &process_ns);
    }
}

/* What is disturbed is so by what else went on, whatever was measured; and a run replaces it up to its cap. */
Test(replay, is_watched_as_real_runs_are)
{
    static struct recorded_pair pairs[300];
    struct recording recording;
    struct simulated machine = { .process_ns = 0 };
    struct ab_watch watch = simulated_watch(&machine);
    struct executor executor = simulated_executor(&machine), sides[AB_SIDES] = { executor, executor };
    struct ab_options options = { .rules = ab_rules_default(), .watch = &watch };
    struct ab_report report;
    struct suite suite;
    struct plim_err err = PLIM_ERR_INIT;
    static const char text[] = "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\","
                               "  \"cases\": [ { \"name\": \"spin\", \"workload\": { \"kind\": \"spin\" } } ] }";
    uint64_t process_ns;
    char why[80];

    fill_recording(&recording, pairs, 300);
    for (size_t i = 0; i < 300; i++)
        pairs[i].values[0] = pairs[i].values[1] = 0.001 * (double)(i % 3);
    replay_start(&machine.replay, &recording, 1, 0);
    for (int i = 0; i < 90; i++) {
        replay_next(&machine.replay, &process_ns);
        replay_next(&machine.replay, &process_ns);
        cr_assert_eq(watch.end(watch.context, why, sizeof why), machine.replay.pair % 3 == 0);
    }
    cr_assert_eq(suite_parse(&suite, "s", text, sizeof text - 1, &err), 0, "%s", err.message);
    replay_start(&machine.replay, &recording, 1, 0);
    cr_assert_eq(ab_run(&suite, sides, &options, &report, &err), 0, "%s", err.message);
    cr_expect(report.cases[0].replaced >= 2 && report.cases[0].replaced <= 4, "%zu", report.cases[0].replaced);
    cr_expect_eq(report.cases[0].stages[AB_SCREEN].count, 8);
    ab_release(&report);
    suite_release(&suite);
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
