/*
 * Real worker processes: each way of failing becomes the outcome that it should, and whatever happens to the program the
 * result is a valid file.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "executor.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "result.h"

#define SECOND_NS ((uint64_t)1000000000)

static void set_up(void)
{
    setenv("PLIMSOLL_TEST", "1", 1);
}

TestSuite(worker, .init = set_up);

/* Runs the fault workload. Everything in `out` is the caller's. */
static void run_fault(const char *fault, uint64_t timeout_ns, struct result_case *out)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct process_executor processes = { PLIMSOLL_PROGRAM };
    struct executor executor = process_executor(&processes);
    struct execution execution = { .timeout_ns = timeout_ns };
    struct case_request request = { .id = strdup(fault), .repeats = 2, .warmup = 1 };

    *out = (struct result_case){ 0 };
    request.workload = workload_find("fault", &err);
    cr_assert_not_null(request.workload);
    plim_parameters_default(&request.parameters);
    cr_assert_eq(arguments_default(request.workload, &request.arguments, &err), 0);
    cr_assert_eq(argument_set(request.workload, &request.arguments, "fault", fault, &err), 0);
    cr_assert_eq(executor.run_case(executor.context, &request, &execution, out, &err), 0, "%s", err.message);
    case_request_release(&request);
}

static void expect_outcome(const char *fault, enum outcome outcome, const char *words)
{
    struct result_case c;

    run_fault(fault, 60 * SECOND_NS, &c);
    cr_expect_eq(c.outcome, outcome, "%s: %s: %s", fault, outcome_name(c.outcome), c.detail);
    cr_expect(strstr(c.detail, words), "%s: \"%s\" has no \"%s\"", fault, c.detail, words);
    case_release(&c);
}

Test(worker, a_case_that_is_fine_reports_a_sample_for_each_repeat)
{
    struct result_case c;

    run_fault("none", 60 * SECOND_NS, &c);
    cr_assert_eq(c.outcome, OUTCOME_OK, "%s", c.detail);
    cr_expect_eq(case_find_metric(&c, "generated_tokens")->sample_count, 2, "the warm-up is not reported");
    cr_expect_gt(metric_median(case_find_metric(&c, "harness_time_ns")), 0);
    case_release(&c);
}

Test(worker, crashes_are_told_by_their_signal)
{
    expect_outcome("segv", OUTCOME_CRASHED, "signal 11 (Segmentation fault)");
    expect_outcome("abort", OUTCOME_CRASHED, "signal 6 (Aborted): the last words");
}

Test(worker, a_hang_is_killed_when_its_time_is_over)
{
    struct result_case c;
    uint64_t start_ns = plim_now_ns();

    run_fault("hang", SECOND_NS / 2, &c);
    cr_expect_eq(c.outcome, OUTCOME_TIMEOUT);
    cr_expect(strstr(c.detail, "killed after 0.5 s"), "%s", c.detail);
    cr_expect_lt(plim_now_ns() - start_ns, 30 * SECOND_NS);
    case_release(&c);
}

Test(worker, silence_and_nonsense_are_failures)
{
    expect_outcome("exit", OUTCOME_FAILED, "without a result, exit status 3");
    expect_outcome("silent", OUTCOME_FAILED, "without a result, exit status 0");
    expect_outcome("garbage", OUTCOME_FAILED, "bad output of the worker");
    expect_outcome("flood", OUTCOME_FAILED, "a line longer than");
    expect_outcome("error", OUTCOME_FAILED, "the fault that was asked for");
    expect_outcome("unequal", OUTCOME_FAILED, "nondeterministic: dequant_chunks is 0 and then 1");
}

Test(worker, what_libraries_print_does_not_disturb_the_protocol)
{
    expect_outcome("chatter", OUTCOME_OK, "");
}

Test(worker, out_of_memory_is_an_outcome_with_its_reason)
{
    struct result_case c;

    run_fault("over_budget", 60 * SECOND_NS, &c);
    cr_assert_eq(c.outcome, OUTCOME_OUT_OF_MEMORY, "%s", c.detail);
    cr_expect_str_eq(facts_find(&c.refusal, "tag")->text, "dequant");
    cr_expect_str_eq(facts_find(&c.refusal, "tier")->text, "fast");
    cr_expect_str_eq(facts_find(&c.refusal, "scope")->text, "fault");
    cr_expect_eq(facts_find(&c.refusal, "requested_bytes")->number, 1 << 20);
    cr_expect_eq(facts_find(&c.refusal, "budget_bytes")->number, 1 << 20);
    cr_expect_eq(facts_find(&c.refusal, "held.weights")->number, 1 << 19);
    case_release(&c);
}

Test(worker, a_program_that_cannot_be_started_is_an_error)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct process_executor processes = { "/no/such/program" };
    struct executor executor = process_executor(&processes);
    struct result machine = { 0 };

    cr_expect_eq(executor.describe_machine(executor.context, false, &machine, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_SYSTEM);
    cr_expect(strstr(err.message, "/no/such/program"), "%s", err.message);
    result_release(&machine);
}

Test(worker, describes_the_machine)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct process_executor processes = { PLIMSOLL_PROGRAM };
    struct executor executor = process_executor(&processes);
    struct result machine = { 0 };

    cr_assert_eq(executor.describe_machine(executor.context, false, &machine, &err), 0, "%s", err.message);
    cr_expect_gt(facts_find(&machine.machine, "cores")->number, 0);
    cr_expect_not_null(facts_find(&machine.machine, "blas_core"));
    cr_expect_not_null(facts_find(&machine.recorded, "git_revision"));
    cr_expect_eq(machine.yardsticks.count, 0);
    result_release(&machine);
}

/* ---- the whole program ---- */

static const char slow_suite[] =
    "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"slow\","
    "  \"defaults\": { \"repeats\": 1, \"warmup\": 0, \"timeout_s\": 30 },"
    "  \"cases\": [ { \"name\": \"quick\", \"workload\": { \"kind\": \"null\" } },"
    "               { \"name\": \"slow\", \"workload\": { \"kind\": \"fault\", \"sleep_ms\": 20000 } } ] }";

struct place {
    char directory[64], suite[96], result[96];
};

static void make_place(struct place *p)
{
    struct plim_err err = PLIM_ERR_INIT;

    snprintf(p->directory, sizeof p->directory, "/tmp/plimsoll-worker-XXXXXX");
    cr_assert_not_null(mkdtemp(p->directory));
    snprintf(p->suite, sizeof p->suite, "%s/slow.json", p->directory);
    snprintf(p->result, sizeof p->result, "%s/result.json", p->directory);
    cr_assert_eq(plim_write_file(p->suite, slow_suite, strlen(slow_suite), &err), 0, "%s", err.message);
}

static void remove_place(const struct place *p)
{
    unlink(p->suite);
    unlink(p->result);
    cr_expect_eq(rmdir(p->directory), 0, "something was left behind in %s", p->directory);
}

static pid_t start_run(const struct place *p, const char *extra)
{
    pid_t pid = fork();

    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execl(PLIMSOLL_PROGRAM, "plimsoll", "run", p->suite, "--output", p->result, extra, extra ? p->result : NULL,
              (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* Waits until the result holds a case: the slow one is running then. */
static void await_first_case(const struct place *p)
{
    uint64_t start_ns = plim_now_ns();

    for (;;) {
        struct plim_err err = PLIM_ERR_INIT;
        struct result result = { 0 };
        bool there = plim_path_exists(p->result) && result_read(&result, p->result, &err) == 0 && result.case_count == 1;

        result_release(&result);
        cr_assert_eq(err.kind, PLIM_ERR_NONE, "%s", err.message);
        if (there)
            return;
        cr_assert_lt(plim_now_ns() - start_ns, 30 * SECOND_NS, "no case was written");
        usleep(2000);
    }
}

static int wait_for(pid_t pid)
{
    int status;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static void expect_one_case(const struct place *p)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result result;

    cr_assert_eq(result_read(&result, p->result, &err), 0, "%s", err.message);
    cr_expect_eq(result.case_count, 1);
    cr_expect_str_eq(result.cases[0].id, "quick");
    cr_expect(!result.complete);
    result_release(&result);
}

Test(worker, an_interrupted_run_ends_cleanly_with_status_1)
{
    struct place p;
    uint64_t start_ns;
    int status;

    make_place(&p);
    pid_t pid = start_run(&p, NULL);
    await_first_case(&p);
    start_ns = plim_now_ns();
    kill(pid, SIGINT);
    status = wait_for(pid);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %#x", (unsigned)status);
    cr_expect_lt(plim_now_ns() - start_ns, 10 * SECOND_NS, "it waited for the worker");
    expect_one_case(&p);
    remove_place(&p);
}

Test(worker, a_killed_run_leaves_a_valid_file_and_no_worker)
{
    struct place p;

    make_place(&p);
    pid_t pid = start_run(&p, NULL);
    await_first_case(&p);
    kill(pid, SIGKILL);
    wait_for(pid);
    expect_one_case(&p);
    remove_place(&p);
}

static int run_program(const char *const *arguments)
{
    pid_t pid = fork();

    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, 0);
        dup2(null, 1);
        dup2(null, 2);
        execv(PLIMSOLL_PROGRAM, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    int status = wait_for(pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(worker, exit_statuses_are_as_documented)
{
    struct place p;

    make_place(&p);
    const char *const list[] = { "plimsoll", "run", p.suite, "--list", NULL };
    const char *const unknown[] = { "plimsoll", "rum", NULL };
    const char *const bad_flag[] = { "plimsoll", "run", "--no-such-flag", NULL };
    const char *const no_suite[] = { "plimsoll", "run", "no-such-suite", NULL };
    const char *const no_case[] = { "plimsoll", "run", p.suite, "--case", "x", NULL };
    const char *const unexpected[] = { "plimsoll", "run", p.suite, "--case", "slow", "--set", "fault=error", "--set", "sleep_ms=0",
                                       "-o", p.result, NULL };
    const char *const quick[] = { "plimsoll", "run", p.suite, "--case", "quick", "-o", p.result, NULL };
    const char *const version[] = { "plimsoll", "--version", NULL };

    cr_expect_eq(run_program(list), 0);
    cr_expect_eq(run_program(version), 0);
    cr_expect_eq(run_program(unknown), 2);
    cr_expect_eq(run_program(bad_flag), 2);
    cr_expect_eq(run_program(no_suite), 2);
    cr_expect_eq(run_program(no_case), 2);
    cr_expect_eq(run_program(unexpected), 5);
    cr_expect_eq(run_program(quick), 0);
    remove_place(&p);
}
