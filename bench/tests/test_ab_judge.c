/* The rules that turn pairs into verdicts, the watch's rule, and the controls' way to the worker. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "ab_judge.h"
#include "ab_watch.h"
#include "protocol.h"

static struct ab_evidence judge(const double *log_ratios, size_t n)
{
    struct ab_evidence evidence;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(ab_evidence(log_ratios, n, 0.90, &evidence, &err), 0, "%s", err.message);
    return evidence;
}

/* `n` pairs around `centre`, within +-1%, all different. */
static struct ab_evidence around(double centre, size_t n)
{
    double d[64];

    for (size_t i = 0; i < n; i++)
        d[i] = log(1 + centre) + 0.02 * ((double)i / (double)(n - 1) - 0.5) + 1e-5 * (double)(i * i);
    return judge(d, n);
}

Test(ab_judge, evidence_is_in_ratios_and_both_directions)
{
    struct ab_evidence slower = around(0.05, 16), faster = around(-0.05, 16);

    cr_expect_float_eq(slower.slowdown.estimate, 1.05, 0.003);
    cr_expect(slower.slowdown.low > 1.04 && slower.slowdown.high < 1.06);
    cr_expect_lt(slower.p_slower, 1e-4);
    cr_expect_gt(slower.p_faster, 0.9);
    cr_expect_lt(faster.p_faster, 1e-4);
    cr_expect_float_eq(slower.spread, 0.0074, 0.002);   /* 1.4826 times the quarter of 2% */

    struct ab_evidence nothing = judge(NULL, 0);
    cr_expect_eq(nothing.p_slower, 1);
    cr_expect(isinf(nothing.slowdown.high));
}

Test(ab_judge, screening_suspects_what_is_large_and_unlikely)
{
    struct ab_rules rules = ab_rules_default();
    struct ab_evidence slower = around(0.03, 8), faster = around(-0.03, 8), same = around(0, 8), few = around(0, 3);

    cr_expect_eq(ab_screen(&slower, 0.03, &rules), AB_SLOWER);
    cr_expect_eq(ab_screen(&faster, 0.03, &rules), AB_FASTER);
    cr_expect_eq(ab_screen(&same, 0.03, &rules), AB_CLEAR);
    cr_expect_eq(ab_screen(&few, 0.03, &rules), AB_UNDECIDED);   /* 3 pairs bound nothing */
    cr_expect_eq(ab_screen(&slower, 0.10, &rules), AB_CLEAR);    /* a case that allows 10% */
}

Test(ab_judge, confirming_begins_with_more_pairs_where_noise_is_larger)
{
    struct ab_rules rules = ab_rules_default();
    struct ab_evidence calm = { .spread = 0.002 }, noisy = { .spread = 0.05 }, wild = { .spread = 1 };

    cr_expect_eq(ab_first_pairs(&calm, 0.03, 1, &rules), rules.confirm_least);
    /* An interval of 98% is 2.33 deviations to each side; it shall be 0.6 of 3%: (5% / (1.8% / 2.33))^2 pairs. */
    cr_expect_eq(ab_first_pairs(&noisy, 0.03, 1, &rules), 42);
    cr_expect_eq(ab_first_pairs(&noisy, 0.10, 1, &rules), rules.confirm_least);
    cr_expect_eq(ab_first_pairs(&wild, 0.03, 1, &rules), rules.confirm_first);
    /* 2^-7 = 0.0078 convicts alone; among 4 it takes 2^-9 = 0.00195. */
    cr_expect_eq(ab_fewest_pairs(1, &rules), 7);
    cr_expect_eq(ab_fewest_pairs(4, &rules), 9);
}

Test(ab_judge, confirming_goes_on_until_it_is_precise_or_harmless)
{
    struct ab_rules rules = ab_rules_default();
    struct ab_evidence precise = { .pairs = 100, .slowdown = { 1.04, 1.03, 1.06 } },
                       wide = { .pairs = 100, .slowdown = { 1.04, exp(0.04 - 0.0216), exp(0.04 + 0.0216) } },
                       wild = { .pairs = 700, .slowdown = { 1.04, 0.8, 1.5 } },
                       harmless = { .pairs = 100, .slowdown = { 1, 0.97, 1.04 } },
                       few = { .pairs = 9, .slowdown = { 1.04, 0, INFINITY } };

    cr_expect_eq(ab_enough_pairs(&precise, AB_SLOWER, 0.03, &rules), 100);
    cr_expect_eq(ab_enough_pairs(&wide, AB_SLOWER, 0.03, &rules), 144);      /* 1.2 times too wide */
    cr_expect_eq(ab_enough_pairs(&wide, AB_UNDECIDED, 0.03, &rules), 144);
    cr_expect_eq(ab_enough_pairs(&wild, AB_SLOWER, 0.03, &rules), rules.confirm_most);
    cr_expect_eq(ab_enough_pairs(&few, AB_UNDECIDED, 0.03, &rules), 18);
    /* Below 5% is enough where nothing was seen; what looked slower must be known not to be 3%. */
    cr_expect_eq(ab_enough_pairs(&harmless, AB_UNDECIDED, 0.03, &rules), 100);
    cr_expect_gt(ab_enough_pairs(&harmless, AB_SLOWER, 0.03, &rules), 100);
    cr_expect_gt(ab_enough_pairs(&harmless, AB_FASTER, 0.03, &rules), 100);
}

Test(ab_judge, verdicts)
{
    struct ab_rules rules = ab_rules_default();
    struct ab_evidence five = around(0.05, 16), two = around(0.02, 16), same = around(0, 16),
                       faster = around(-0.05, 16);
    struct ab_evidence vague = around(0.02, 3);

    cr_expect_eq(ab_verdict(&five, 0.001, 1, 0.03, &rules), VERDICT_FAIL);
    cr_expect_eq(ab_verdict(&five, 0.02, 1, 0.03, &rules), VERDICT_INCONCLUSIVE);   /* p above alpha */
    cr_expect_eq(ab_verdict(&five, 0.001, 1, 0.15, &rules), VERDICT_PASS);          /* 15% are allowed */
    cr_expect_eq(ab_verdict(&two, 0.001, 1, 0.03, &rules), VERDICT_WARN);
    cr_expect_eq(ab_verdict(&two, 0.5, 1, 0.03, &rules), VERDICT_PASS);
    cr_expect_eq(ab_verdict(&same, 1, 1, 0.03, &rules), VERDICT_PASS);
    cr_expect_eq(ab_verdict(&faster, 1, 0.001, 0.03, &rules), VERDICT_IMPROVED);
    cr_expect_eq(ab_verdict(&faster, 1, 0.02, 0.03, &rules), VERDICT_PASS);
    cr_expect_eq(ab_verdict(&vague, 1, 1, 0.03, &rules), VERDICT_INCONCLUSIVE);
}

/* ---- the watch ---- */

static bool disturbed(struct machine_use during, char *why)
{
    struct machine_use before = { 100, 50, 1, 20, 3 };
    struct machine_use after = { before.wall_s + during.wall_s, before.busy_s + during.busy_s,
                                 before.stolen_s + during.stolen_s, before.ours_s + during.ours_s,
                                 before.throttled + during.throttled };

    return machine_was_disturbed(&before, &after, 2, why, 80);
}

Test(ab_watch, tells_ours_from_others)
{
    char why[80] = "";

    /* 1 s on two cores, both ours */
    cr_expect_not(disturbed((struct machine_use){ 1, 2, 0, 2, 0 }, why));
    cr_expect_not(
        disturbed((struct machine_use){ 1, 2, 0, 1.85, 0 }, why)); /* 0.15 s of others: within 10% and doubt */
    cr_expect(disturbed((struct machine_use){ 1, 2, 0, 1.5, 0 }, why));
    cr_expect_not_null(strstr(why, "other programs used 25%"), "%s", why);
    cr_expect(disturbed((struct machine_use){ 1, 1, 0.2, 1, 0 }, why));
    cr_expect_not_null(strstr(why, "hypervisor"), "%s", why);
    cr_expect(disturbed((struct machine_use){ 1, 1, 0, 1, 1 }, why));
    cr_expect_str_eq(why, "throttled by heat");
    /* A pair of 20 ms: three ticks of 10 ms prove nothing. */
    cr_expect_not(disturbed((struct machine_use){ 0.02, 0.05, 0, 0.02, 0 }, why));
}

Test(ab_watch, this_machine_can_be_watched)
{
    struct machine_watch state;
    struct ab_watch watch = machine_watch(&state);
    char why[80] = "";

    watch.begin(watch.context);
    watch.end(watch.context, why, sizeof why);
    cr_expect_gt(state.cores, 0);
    cr_expect_gt(state.before.busy_s, 0);
    cr_expect_gt(state.before.ours_s, 0);
}

/* ---- controls in requests ---- */

Test(control, travels_to_the_worker_and_back)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct case_request request = { .id = (char *)(uintptr_t)"a", .repeats = 1, .control = { 0.25, 4096 } };
    struct request read;
    char *line;

    request.workload = workload_find("spin", &err);
    cr_assert_not_null(request.workload);
    plim_parameters_default(&request.parameters);
    line = request_format_case(&request, &err);
    cr_assert_not_null(line, "%s", err.message);
    cr_assert_eq(request_parse(&read, line, strlen(line), &err), 0, "%s", err.message);
    cr_expect_eq(read.run.control.delay_fraction, 0.25);
    cr_expect_eq(read.run.control.extra_bytes, 4096);
    request_release(&read);
    free(line);

    /* Older workers refuse unknown keys: without a control there must be none. */
    request.control = (struct control){ 0 };
    line = request_format_case(&request, &err);
    cr_assert_not_null(line);
    cr_expect_null(strstr(line, "control"));
    free(line);
}

Test(control, refuses_nonsense)
{
    static const char *const bad[] = { "{\"delay_fraction\":-1,\"extra_bytes\":0}",
                                       "{\"delay_fraction\":1e9,\"extra_bytes\":0}",
                                       "{\"delay_fraction\":0,\"extra_bytes\":-4}", "{\"delay\":1}", "3" };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct request read;
        char line[400];

        snprintf(line, sizeof line,
                 "{\"protocol\":1,\"request\":\"case\",\"id\":\"a\",\"workload\":\"null\",\"parameters\":{},"
                 "\"arguments\":{},\"repeats\":1,\"warmup\":0,\"control\":%s}",
                 bad[i]);
        cr_expect_lt(request_parse(&read, line, strlen(line), &err), 0, "%s", bad[i]);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    }
}
