/* A/B runs with mock builds and a fake clock. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ab.h"
#include "ab_parts.h"
#include "metrics.h"
#include "plimsoll/clock.h"
#include "plimsoll/random.h"

/* ---- the builds ---- */

struct build {
    const char *only;          /* the case that the rest is about; NULL: all */
    double slowdown;           /* as a factor; 0: none */
    double bytes;              /* more than the other build */
    const char *digest;        /* NULL: the usual */
    enum outcome outcome;
    bool nameless;             /* doesn't report the timing */
    bool restless;             /* an exact metric that is never the same */
    bool deaf;                 /* ignores controls */
    double noise;
    uint64_t process_ns;       /* on the fake clock */
};

static struct build builds[2];
static uint64_t fake_ns;
static struct plim_random noise;
static char order[4096];       /* "aA bB": case and side of each process, lower case A, upper case B */
static size_t processes;
static size_t lucky_runs;      /* of B, which are 4% faster before it is as slow as it is */
static int last_repeats;       /* that a process was asked for */

static uint64_t read_fake_clock(void *context)
{
    (void)context;
    return fake_ns;
}

static int add(struct result_case *out, const char *name, double value, struct plim_err *err)
{
    struct metric *metric = metric_of_case(out, name, err);

    return metric ? metric_add_sample(metric, value, err) : -1;
}

static int run_case(void *context, const struct case_request *request, const struct execution *execution,
                    struct result_case *out, struct plim_err *err)
{
    const struct build *build = context;
    bool applies = !build->only || strcmp(build->only, request->id) == 0;
    struct control control = build->deaf ? (struct control){ 0 } : request->control;
    double factor = (applies && build->slowdown > 0 ? build->slowdown : 1) * (1 + control.delay_fraction);
    double bytes = 4096 + (applies ? build->bytes : 0) + (double)control.extra_bytes;
    struct metric *digest;

    (void)execution;
    if (build == &builds[1] && applies && lucky_runs > 0) {
        factor = 0.96;
        lucky_runs--;
    }
    if (strlen(request->id) == 1)
        last_repeats = request->repeats;
    if (processes < sizeof order - 1 && strlen(request->id) == 1)
        order[processes++] = (char)(build == &builds[0] ? request->id[0] : request->id[0] - 'a' + 'A');
    fake_ns += build->process_ns;
    out->outcome = applies ? build->outcome : OUTCOME_OK;
    if (result_set_string(&out->detail, out->outcome == OUTCOME_OK ? "" : "as told", err) < 0)
        return -1;
    if (out->outcome != OUTCOME_OK)
        return 0;
    if (!(applies && build->nameless) &&
        add(out, "spin_time_ns", 1e6 * factor * exp(build->noise * plim_random_normal(&noise)), err) < 0)
        return -1;
    digest = metric_of_case(out, "output_digest", err);
    if (!digest || metric_set_text(digest, applies && build->digest ? build->digest : "0123", NULL, err) < 0)
        return -1;
    return add(out, "peak_requested_fast_bytes", bytes, err) < 0 ||
                   add(out, "at_peak_workspace_bytes", bytes, err) < 0 ||
                   add(out, "allocation_count", applies && build->restless ? (double)fake_ns : 1, err) < 0
               ? -1
               : 0;
}

static const char suite_text[] =
    "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\","
    "  \"cases\": [ { \"name\": \"a\", \"workload\": { \"kind\": \"spin\" } },"
    "               { \"name\": \"b\", \"workload\": { \"kind\": \"spin\" } },"
    "               { \"name\": \"c\", \"workload\": { \"kind\": \"spin\" } } ] }";

static struct suite suite;
static struct ab_report report;
static struct ab_options options;

static void set_up(void)
{
    struct plim_err err = PLIM_ERR_INIT;

    plim_clock_replace(read_fake_clock, NULL);
    plim_random_seed(&noise, 1, 0);
    for (int side = 0; side < 2; side++)
        builds[side] = (struct build){ .noise = 0.003, .process_ns = 1000000 };
    cr_assert_eq(suite_parse(&suite, "s.json", suite_text, strlen(suite_text), &err), 0, "%s", err.message);
    options = (struct ab_options){ .rules = ab_rules_default(), .seed = 1 };
    options.control = (struct executor){ .run_case = run_case, .context = &builds[0] };
}

static void tear_down(void)
{
    ab_release(&report);
    suite_release(&suite);
}

TestSuite(ab, .init = set_up, .fini = tear_down);

static void run(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct executor sides[2] = { { .run_case = run_case, .context = &builds[0] },
                                 { .run_case = run_case, .context = &builds[1] } };

    cr_assert_eq(ab_run(&suite, sides, &options, &report, &err), 0, "%s", err.message);
}

static const struct finding *find(const char *id, const char *metric)
{
    for (size_t i = 0; i < report.comparison.finding_count; i++) {
        const struct finding *f = &report.comparison.findings[i];
        const char *name = f->result ? f->result->name : f->baseline ? f->baseline->name : "";

        if (strcmp(f->result_case->id, id) == 0 && strcmp(name, metric) == 0)
            return f;
    }
    cr_assert_fail("no finding about %s %s", id, metric);
    return NULL;
}

/* ---- verdicts ---- */

/* The fast side: low times, high rates. */
Test(ab_run, a_process_stands_for_its_fast_quartile)
{
    double samples[] = { 8, 1, 2, 100, 3, 4, 5, 6, 7 };   /* quartiles 3 and 7 */
    struct metric metric = { .direction = DIRECTION_LOWER, .samples = samples, .sample_count = 9 };

    cr_expect_float_eq(ab_process_timing(&metric), 3, 1e-12, "%g", ab_process_timing(&metric));
    metric.direction = DIRECTION_HIGHER;
    cr_expect_float_eq(ab_process_timing(&metric), 7, 1e-12, "%g", ab_process_timing(&metric));
    metric.sample_count = 0;
    cr_expect(isnan(ab_process_timing(&metric)));
}

Test(ab, equal_builds_pass_and_say_what_would_have_been_seen)
{
    run();
    const struct finding *f = find("a", "spin_time_ns");
    cr_expect_eq(f->verdict, VERDICT_PASS);
    cr_expect_not_null(strstr(f->detail, "slower would have been seen"), "%s", f->detail);
    cr_expect_eq(f->slowdown.estimate > 0.99 && f->slowdown.estimate < 1.01, true);
    cr_expect_eq(find("c", "peak_requested_fast_bytes")->verdict, VERDICT_PASS);
    cr_expect(ab_controls_caught(&report));
    cr_expect_eq(ab_exit_status(&report, true), 0);
    cr_expect_eq(report.cases[0].stages[AB_SCREEN].count, options.rules.screen_pairs);
}

Test(ab, a_slowdown_of_one_case_fails_that_case_after_fresh_pairs)
{
    builds[1].only = "b";
    builds[1].slowdown = 1.05;
    run();
    cr_expect_eq(find("b", "spin_time_ns")->verdict, VERDICT_FAIL);
    cr_expect_float_eq(find("b", "spin_time_ns")->slowdown.estimate, 1.05, 0.01);
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_PASS);
    cr_expect_eq(report.cases[1].stages[AB_CONFIRM].count, options.rules.confirm_least);
    cr_expect_eq(report.cases[0].stages[AB_CONFIRM].count, 0);
    cr_expect_str_eq(report.comparison.findings[0].result_case->id, "b");   /* worst first */
    cr_expect_eq(ab_exit_status(&report, false), 1);
}

Test(ab, a_speed_up_is_welcome_unless_the_output_changed)
{
    builds[1].slowdown = 0.9;
    builds[1].only = "a";
    run();
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_IMPROVED);
    cr_expect_eq(ab_exit_status(&report, true), 0);
    ab_release(&report);

    builds[1].digest = "4567";
    run();
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_INVALID_OUTPUT);
    cr_expect_eq(find("a", "output_digest")->verdict, VERDICT_FAIL);
    cr_expect_eq(ab_exit_status(&report, false), 1);
}

Test(ab, a_page_fails_and_names_who_holds_it)
{
    builds[1].only = "c";
    builds[1].bytes = 4096;
    run();
    const struct finding *f = find("c", "peak_requested_fast_bytes");
    cr_expect_eq(f->verdict, VERDICT_FAIL);
    cr_expect_not_null(strstr(f->detail, "workspace"), "%s", f->detail);
    cr_expect_eq(ab_exit_status(&report, false), 1);
}

Test(ab, less_memory_is_an_improvement_and_no_stale_baseline)
{
    builds[1].bytes = -1024;
    run();
    cr_expect_eq(find("a", "peak_requested_fast_bytes")->verdict, VERDICT_IMPROVED);
    cr_expect_eq(report.comparison.counts[VERDICT_STALE], 0);
    cr_expect_eq(ab_exit_status(&report, true), 0);
}

Test(ab, a_suite_may_allow_or_only_warn)
{
    builds[1].slowdown = 1.06;
    for (size_t i = 0; i < suite.case_count; i++) {
        static struct suite_gate gate;

        gate = (struct suite_gate){ .is_class = true, .class = METRIC_TIMING, .gate = { .level = GATE_WARN } };
        suite.cases[i].gates = (struct suite_gates){ &gate, 1 };
    }
    run();
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_WARN);
    cr_expect_eq(ab_exit_status(&report, true), 0);
    for (size_t i = 0; i < suite.case_count; i++)
        suite.cases[i].gates = (struct suite_gates){ NULL, 0 };
}

Test(ab, what_crashes_with_b_only_is_broken)
{
    builds[1].only = "a";
    builds[1].outcome = OUTCOME_CRASHED;
    run();
    cr_expect_eq(find("a", "")->verdict, VERDICT_BROKEN);
    cr_expect_eq(report.cases[0].attempts, 1);   /* no time is wasted on it */
    cr_expect_eq(ab_exit_status(&report, false), 5);
}

Test(ab, what_runs_out_of_memory_with_both_is_equal)
{
    builds[0].only = builds[1].only = "a";
    builds[0].outcome = builds[1].outcome = OUTCOME_OUT_OF_MEMORY;
    run();
    cr_expect_eq(report.cases[0].attempts, 2);
    cr_expect_eq(ab_exit_status(&report, true), 0);
}

Test(ab, an_exact_metric_that_is_never_the_same_breaks_the_case)
{
    builds[1].only = "b";
    builds[1].restless = true;
    run();
    const struct finding *f = find("b", "");
    cr_expect_eq(f->verdict, VERDICT_BROKEN);
    cr_expect_not_null(strstr(f->detail, "nondeterministic: allocation_count"), "%s", f->detail);
    cr_expect_eq(ab_exit_status(&report, false), 5);
}

Test(ab, a_timing_that_b_lost_is_missing)
{
    builds[1].only = "b";
    builds[1].nameless = true;
    run();
    cr_expect_eq(find("b", "spin_time_ns")->verdict, VERDICT_MISSING);
    cr_expect_eq(ab_exit_status(&report, false), 0);
    cr_expect_eq(ab_exit_status(&report, true), 1);
}

Test(ab, too_much_noise_is_inconclusive_and_says_how_much_it_could_see)
{
    builds[0].noise = builds[1].noise = 2;
    options.control.context = &(struct build){ .noise = 0.003 };
    run();
    const struct finding *f = find("a", "spin_time_ns");
    cr_expect_eq(f->verdict, VERDICT_INCONCLUSIVE, "%s", f->detail);
    cr_expect_not_null(strstr(f->detail, "would have been seen"), "%s", f->detail);
    cr_expect_eq(ab_exit_status(&report, false), 0);
    cr_expect_eq(ab_exit_status(&report, true), 4);
}

/* Eight lucky pairs once hid a slowdown: it was only asked whether the case had become faster. */
Test(ab, what_screening_took_for_faster_may_still_be_slower)
{
    builds[1].only = "b";
    builds[1].slowdown = 1.05;
    lucky_runs = options.rules.screen_pairs;
    run();
    cr_expect_eq(report.cases[1].suspicion, AB_FASTER);
    cr_expect_eq(find("b", "spin_time_ns")->verdict, VERDICT_FAIL);
}

/* Of 11% in pairs: no first instalment is large enough for that. */
Test(ab, noise_costs_pairs_and_not_the_verdict)
{
    builds[0].noise = builds[1].noise = 0.08;
    builds[1].only = "b";
    builds[1].slowdown = 1.05;
    options.control.context = &(struct build){ .noise = 0.003 };
    run();
    cr_expect_eq(find("b", "spin_time_ns")->verdict, VERDICT_FAIL);
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_PASS);
    cr_expect_eq(find("c", "spin_time_ns")->verdict, VERDICT_PASS);
    cr_expect_gt(report.cases[1].stages[AB_CONFIRM].count, options.rules.confirm_first);
    cr_expect_leq(report.cases[1].stages[AB_CONFIRM].count, options.rules.confirm_most);
    cr_expect_eq(report.cases[1].stages[AB_CONFIRM].count, report.cases[1].wanted);
}

/* ---- controls ---- */

/* Found by bisecting a metric that spinning doesn't have. */
Test(ab, the_metric_that_is_asked_for_is_none_of_the_controls)
{
    options.metric = "prefill_tokens_per_s";
    run();
    cr_expect(ab_controls_caught(&report));
    cr_expect_str_eq(report.cases[0].metric, "");
}

Test(ab, a_missed_control_outranks_everything)
{
    builds[1].slowdown = 1.2;
    options.control.context = &(struct build){ .noise = 0.003, .deaf = true };
    run();
    cr_expect(report.missed[AB_CONTROL_DELAY]);
    cr_expect(report.missed[AB_CONTROL_PAGE]);
    cr_expect_eq(ab_exit_status(&report, false), 6);
    cr_expect_eq(report.comparison.note_count, 2);
    cr_expect_not_null(strstr(report.comparison.notes[0], "control missed"));
}

Test(ab, a_control_that_crashes_is_missed)
{
    options.control.context = &(struct build){ .outcome = OUTCOME_CRASHED };
    run();
    cr_expect_not(ab_controls_caught(&report));
    cr_expect_eq(ab_exit_status(&report, false), 6);
}

Test(ab, controls_can_be_left_out)
{
    options.control = (struct executor){ .run_case = NULL };
    run();
    cr_expect_eq(report.control_count, 0);
    cr_expect_eq(ab_exit_status(&report, false), 0);
}

/* ---- order ---- */

Test(ab, pairs_go_abba_baab_and_cases_take_turns)
{
    char first[9] = "";

    options.control = (struct executor){ .run_case = NULL };
    run();
    cr_assert_eq(processes, 3 * 2 * 8);
    for (size_t pair = 0; pair < 8; pair++) {
        bool seen[3] = { false, false, false };

        for (size_t i = 0; i < 3; i++) {   /* each case once a round, its two processes next to each other */
            char one = order[6 * pair + 2 * i], other = order[6 * pair + 2 * i + 1];

            cr_expect_eq(one ^ other, 'a' ^ 'A', "%s", order);
            seen[(one | 32) - 'a'] = true;
            if ((one | 32) == 'a')
                first[pair] = one == 'a' ? 'A' : 'B';
        }
        cr_expect(seen[0] && seen[1] && seen[2], "%s", order);
    }
    cr_expect_str_eq(first, "ABBABAAB");
}

Test(ab, a_seed_gives_one_order)
{
    char before[sizeof order];

    options.control = (struct executor){ .run_case = NULL };
    run();
    memcpy(before, order, sizeof order);
    ab_release(&report);
    processes = 0;
    run();
    cr_expect_str_eq(order, before);
    ab_release(&report);
    processes = 0;
    options.seed = 2;
    run();
    cr_expect_str_neq(order, before);
}

/* ---- disturbances and time ---- */

static int disturbances_left;

static void begin_watch(void *context)
{
    (void)context;
}

static bool end_watch(void *context, char *why, size_t size)
{
    (void)context;
    snprintf(why, size, "the neighbours");
    return disturbances_left-- > 0;
}

Test(ab, disturbed_pairs_are_replaced_up_to_half)
{
    struct ab_watch watch = { begin_watch, end_watch, NULL };

    options.watch = &watch;
    options.control = (struct executor){ .run_case = NULL };
    disturbances_left = 3;
    run();
    size_t replaced = 0, kept = 0;
    for (size_t i = 0; i < 3; i++) {
        replaced += report.cases[i].replaced;
        kept += report.cases[i].disturbed;
        cr_expect_eq(report.cases[i].stages[AB_SCREEN].count, 8);
    }
    cr_expect_eq(replaced, 3);
    cr_expect_eq(kept, 0);
    ab_release(&report);

    disturbances_left = 1000000;   /* never empty: what can't be replaced is kept, and told */
    run();
    cr_expect_eq(report.cases[0].replaced, 4);
    cr_expect_eq(report.cases[0].disturbed, 8);
    cr_expect_not_null(strstr(find("a", "spin_time_ns")->detail, "8 disturbed (the neighbours)"));
}

Test(ab, without_time_to_confirm_a_suspicion_stays_one)
{
    builds[1].slowdown = 1.2;
    builds[0].process_ns = builds[1].process_ns = 1000000000;   /* 2 s a pair, 48 s to screen three cases */
    options.control = (struct executor){ .run_case = NULL };
    options.budget_ns = 60000000000u;
    run();
    cr_expect_eq(report.cases[0].stages[AB_SCREEN].count, 8);
    cr_expect_eq(report.cases[0].confirmed + report.cases[1].confirmed + report.cases[2].confirmed, 0);
    cr_expect_eq(find("a", "spin_time_ns")->verdict, VERDICT_INCONCLUSIVE);
    cr_expect_not_null(strstr(find("a", "spin_time_ns")->detail, "no time was left"));
    cr_expect_eq(ab_exit_status(&report, true), 4);
    cr_expect_leq(report.spent_ns, options.budget_ns);
    ab_release(&report);

    /* Time for the fewest pairs of one or two cases: better these than three half-heartedly. */
    options.budget_ns = 48000000000u + 34000000000u;
    run();
    cr_expect_eq(report.cases[0].confirmed + report.cases[1].confirmed + report.cases[2].confirmed, 2);
    cr_expect_eq(ab_exit_status(&report, true), 1);
    cr_expect_leq(report.spent_ns, options.budget_ns);
}

Test(ab, the_budget_ends_what_noise_would_go_on_with)
{
    builds[0].noise = builds[1].noise = 2;
    builds[0].process_ns = builds[1].process_ns = 100000000;   /* 0.2 s a pair: 900 in three minutes */
    options.control = (struct executor){ .run_case = NULL };
    run();
    cr_expect_leq(report.spent_ns, 180000000000u);
    cr_expect_geq(report.spent_ns, 170000000000u);
    for (size_t i = 0; i < 3; i++)
        cr_expect_gt(report.cases[i].stages[AB_CONFIRM].count, 200);
}

Test(ab, short_processes_repeat_more_unless_told)
{
    struct suite_case spec = { .repeats = 5, .warmup = 1 };

    cr_expect_eq(ab_repeats(&spec, 30000000), 20);       /* 30 ms for 6 runs: 20 in a tenth of a second */
    cr_expect_eq(ab_repeats(&spec, 90000000), 6);
    cr_expect_eq(ab_repeats(&spec, 2000000000), 5);
    cr_expect_eq(ab_repeats(&spec, 1000), 100);
    cr_expect_eq(ab_repeats(&spec, 0), 5);               /* a clock that stands still */

    builds[0].process_ns = builds[1].process_ns = 20000000;
    run();
    cr_expect_gt(report.cases[0].repeats, suite.cases[0].repeats);
    cr_expect_eq(last_repeats, report.cases[0].repeats);
    ab_release(&report);
    options.repeats = 2;
    run();
    cr_expect_eq(last_repeats, 2);
}

Test(ab, a_tiny_budget_still_measures_exact_metrics_twice)
{
    builds[0].process_ns = builds[1].process_ns = 1000000000;
    builds[1].bytes = 1;
    options.control = (struct executor){ .run_case = NULL };
    options.budget_ns = 1;
    run();
    cr_expect_eq(report.cases[2].stages[AB_SCREEN].count, 2);
    cr_expect_eq(find("c", "peak_requested_fast_bytes")->verdict, VERDICT_FAIL);
    cr_expect_eq(find("c", "spin_time_ns")->verdict, VERDICT_INCONCLUSIVE);
}

/* ---- choices ---- */

Test(ab, only_the_chosen_cases_run)
{
    options.cases = (struct case_patterns){ { "a", "b" }, 2 };
    run();
    cr_expect_eq(report.case_count, 2);
    cr_expect_eq(report.results[AB_A].case_count, 2);
}

Test(ab, prints_what_programs_and_people_need)
{
    struct comparison_view views[] = { { .format = COMPARISON_TERMINAL, .all = true },
                                       { .format = COMPARISON_MARKDOWN },
                                       { .format = COMPARISON_JSON } };
    const char *const wanted[] = { "Control, a planted slowdown of 25%: caught", "<details>", "\"p_mann_whitney\"" };

    builds[1].slowdown = 1.05;
    run();
    for (size_t i = 0; i < 3; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        char *text = NULL;
        size_t size;
        FILE *out = open_memstream(&text, &size);

        views[i].exit_status = ab_exit_status(&report, false);
        cr_assert_eq(ab_print(&report, &views[i], out, &err), 0, "%s", err.message);
        fclose(out);
        cr_expect_not_null(strstr(text, wanted[i]), "%s", text);
        cr_expect_not_null(strstr(text, "spin"), "%s", text);
        free(text);
    }
}
