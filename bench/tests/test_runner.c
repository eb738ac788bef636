/* The runner with a mock executor and a fake clock: order, files, resuming, interrupts. */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "runner.h"

static uint64_t fake_ns;

static uint64_t read_fake_clock(void *context)
{
    (void)context;
    return fake_ns;
}

/* ---- the mock ---- */

struct mock {
    int runs;                     /* cases run so far */
    int machines;                 /* times the machine was described */
    bool yardsticks;              /* were asked for */
    int interrupt_at;             /* the run that is interrupted; 0: none */
    const char *crash_id;         /* the case that crashes */
    const char *cpu;
    char ids[32][128];
    int repeats[32];
    uint64_t timeout_ns;
    char model_directory[256];
};

static int mock_case(void *context, const struct case_request *request, const struct execution *execution,
                     struct result_case *out, struct plim_err *err)
{
    struct mock *mock = context;
    bool crash = mock->crash_id && strcmp(mock->crash_id, request->id) == 0;
    struct metric *metric;

    if (mock->interrupt_at == mock->runs + 1)
        return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
    snprintf(mock->ids[mock->runs], sizeof mock->ids[0], "%s", request->id);
    snprintf(mock->model_directory, sizeof mock->model_directory, "%s",
             request->model_directory ? request->model_directory : "");
    mock->repeats[mock->runs++] = request->repeats;
    mock->timeout_ns = execution->timeout_ns;
    execution->progress(execution->progress_context, 0, 1, "run 1 of 1");
    fake_ns += 1000000000;
    out->outcome = crash ? OUTCOME_CRASHED : OUTCOME_OK;
    metric = case_add_metric(out, "peak_rss_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, err);
    if (!metric || metric_add_sample(metric, 4096, err) < 0)
        return -1;
    return result_set_string(&out->detail, crash ? "signal 11" : "", err);
}

static int mock_machine(void *context, bool yardsticks, struct result *out, struct plim_err *err)
{
    struct mock *mock = context;

    mock->machines++;
    mock->yardsticks = yardsticks;
    return facts_set_text(&out->machine, "cpu_model", mock->cpu ? mock->cpu : "Abacus", err);
}

static struct executor mock_executor(struct mock *mock)
{
    return (struct executor){ .run_case = mock_case, .describe_machine = mock_machine, .context = mock };
}

/* ---- the bench ---- */

static const char suite_text[] =
    "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\", \"models\": { \"m\": { \"path\": \"m\" } },"
    "  \"defaults\": { \"repeats\": 2, \"warmup\": 1, \"timeout_s\": 7, \"gate\": { \"peak_rss_bytes\": \"warn\" } },"
    "  \"cases\": [ { \"name\": \"p\", \"model\": \"m\", \"workload\": { \"kind\": \"prefill\" },"
    "                 \"sweep\": { \"dq_rows\": [1, 2, 3] } },"
    "               { \"name\": \"n\", \"workload\": { \"kind\": \"null\" } } ] }";

static struct suite suite;
static char directory[] = "/tmp/plimsoll-runner-XXXXXX";
static char output[64];

static void set_up(void)
{
    struct plim_err err = PLIM_ERR_INIT;

    plim_clock_replace(read_fake_clock, NULL);
    cr_assert_eq(suite_parse(&suite, "s.json", suite_text, strlen(suite_text), &err), 0, "%s", err.message);
    cr_assert_not_null(mkdtemp(directory));
    snprintf(output, sizeof output, "%s/result.json", directory);
}

static void tear_down(void)
{
    suite_release(&suite);
    unlink(output);
    rmdir(directory);
}

TestSuite(runner, .init = set_up, .fini = tear_down);

static int run(struct mock *mock, struct run_options options, struct result *result, struct plim_err *err)
{
    struct executor executor = mock_executor(mock);

    options.output = options.output ? options.output : output;
    options.models_directory = "models";
    return runner_run(&suite, &executor, &options, result, err);
}

/* ---- tests ---- */

Test(runner, runs_every_case_in_order_and_writes_the_result)
{
    struct mock mock = { 0 };
    struct result result, written;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(run(&mock, (struct run_options){ 0 }, &result, &err), 0, "%s", err.message);
    cr_assert_eq(mock.runs, 4);
    cr_expect_str_eq(mock.ids[0], "m/p/dq_rows=1");
    cr_expect_str_eq(mock.ids[3], "n");
    cr_expect_eq(mock.repeats[0], 2);
    cr_expect_eq(mock.timeout_ns, 7000000000u);
    cr_expect(mock.yardsticks);
    cr_expect(result.complete);
    cr_expect_eq(runner_unexpected(&suite, &result), 0);

    cr_assert_eq(result_read(&written, output, &err), 0, "%s", err.message);
    cr_expect(written.complete);
    cr_assert_eq(written.case_count, 4);
    cr_expect_str_eq(written.suite_digest, suite.digest);
    cr_expect_eq(strncmp(written.machine_class, "abacus-", 7), 0, "%s", written.machine_class);
    const struct result_case *c = result_find_case(&written, "m/p/dq_rows=2");
    cr_assert_not_null(c);
    cr_expect_str_eq(facts_find(&c->parameters, "dq_rows")->text, "2");
    cr_expect_eq(c->parameters.count, PLIM_PARAMETER_COUNT);
    cr_expect_eq(facts_find(&c->arguments, "prompt_tokens")->number, 512);
    cr_expect_eq(case_find_metric(c, "peak_rss_bytes")->gate.level, GATE_WARN);
    cr_expect_eq(facts_find(&written.recorded, "run_seconds")->number, 4);
    result_release(&result);
    result_release(&written);
}

Test(runner, a_crash_is_the_outcome_of_one_case)
{
    struct mock mock = { .crash_id = "m/p/dq_rows=2" };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(run(&mock, (struct run_options){ 0 }, &result, &err), 0, "%s", err.message);
    cr_expect_eq(mock.runs, 4);
    cr_expect(result.complete);
    cr_expect_eq(result_find_case(&result, "m/p/dq_rows=2")->outcome, OUTCOME_CRASHED);
    cr_expect_eq(runner_unexpected(&suite, &result), 1);
    result_release(&result);
}

Test(runner, an_interrupted_run_is_a_valid_file_that_is_continued)
{
    struct mock mock = { .interrupt_at = 3 };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(run(&mock, (struct run_options){ 0 }, &result, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INTERRUPTED);
    cr_expect_eq(result.case_count, 2);
    result_release(&result);
    plim_err_clear(&err);
    cr_assert_eq(result_read(&result, output, &err), 0, "%s", err.message);
    cr_expect(!result.complete);
    cr_expect_eq(result.case_count, 2);
    result_release(&result);

    mock = (struct mock){ 0 };
    cr_assert_eq(run(&mock, (struct run_options){ .resume = output }, &result, &err), 0, "%s", err.message);
    cr_assert_eq(mock.runs, 2);
    cr_expect_str_eq(mock.ids[0], "m/p/dq_rows=3");
    cr_expect_str_eq(mock.ids[1], "n");
    cr_expect(result.complete);
    cr_expect_eq(result.case_count, 4);
    result_release(&result);
}

Test(runner, does_not_continue_another_suite_or_another_machine)
{
    struct mock mock = { .interrupt_at = 2 };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;

    run(&mock, (struct run_options){ 0 }, &result, &err);
    result_release(&result);

    plim_err_clear(&err);
    mock = (struct mock){ .cpu = "Quipu" };
    cr_assert_eq(run(&mock, (struct run_options){ .resume = output }, &result, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_COMPARE, "%s", err.message);
    result_release(&result);

    plim_err_clear(&err);
    mock = (struct mock){ 0 };
    suite.digest[0] ^= 1;
    cr_assert_eq(run(&mock, (struct run_options){ .resume = output }, &result, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    cr_expect_eq(mock.runs, 0);
    result_release(&result);
}

Test(runner, patterns_and_repeats_are_obeyed)
{
    struct mock mock = { 0 };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(run(&mock, (struct run_options){ .cases = { { "m/*" }, 1 }, .repeats = 9 }, &result, &err), 0);
    cr_assert_eq(mock.runs, 3);
    cr_expect_eq(mock.repeats[2], 9);
    cr_expect_str_eq(mock.model_directory, "models/m");
    cr_expect(!result.complete, "a part of a suite is not the suite");
    result_release(&result);

    mock = (struct mock){ 0 };
    cr_assert_eq(run(&mock, (struct run_options){ .cases = { { "n" }, 1 } }, &result, &err), 0);
    cr_expect(!mock.yardsticks, "nothing is timed");
    result_release(&result);

    mock = (struct mock){ 0 };
    cr_assert_eq(run(&mock, (struct run_options){ .cases = { { "n", "m/*" }, 2 } }, &result, &err), 0);
    cr_expect_eq(result.case_count, suite.case_count, "every pattern counts");
    cr_expect(result.complete);
    result_release(&result);
}

Test(runner, a_pattern_that_matches_nothing_is_refused)
{
    struct case_patterns patterns = { { "n", "x*" }, 2 };
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(case_patterns_check(&patterns, &suite, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect_not_null(strstr(err.message, "\"x*\""), "%s", err.message);
}

/* The limit on a file's size stands for the disk: the write fails half-way with an error, as on a full one. */
Test(runner, a_full_disk_is_found_before_the_work_and_leaves_nothing)
{
    struct mock mock = { 0 };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    struct rlimit limit = { 64, 64 };

    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(run(&mock, (struct run_options){ 0 }, &result, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_SYSTEM, "%s", err.message);
    cr_expect(strstr(err.message, "result.json"), "%s", err.message);
    cr_expect_eq(mock.runs, 0);
    cr_expect_eq(rmdir(directory), 0, "something was left behind");
    result_release(&result);
}

Test(runner, plain_lines_tell_how_far_it_is)
{
    struct mock mock = { .crash_id = "n" };
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);

    /* A memory stream has no descriptor; it counts as no terminal. */
    cr_assert_eq(run(&mock, (struct run_options){ .progress = stream }, &result, &err), 0, "%s", err.message);
    fclose(stream);
    cr_expect(strstr(text, "[1/4] m/p/dq_rows=1: ok (1 s)"), "%s", text);
    cr_expect(strstr(text, "[4/4] n: crashed: signal 11 (1 s)"), "%s", text);
    free(text);
    result_release(&result);
}
