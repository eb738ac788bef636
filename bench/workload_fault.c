/* The workload that fails in a chosen way, for tests of the harness (PLIMSOLL_TEST=1). */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "metrics.h"
#include "plimsoll/clock.h"
#include "workload_run.h"

static int add_number(struct workload_run *run, const char *name, double value, struct plim_err *err)
{
    struct metric *metric = metric_of_case(&run->report, name, err);

    return metric ? metric_add_sample(metric, value, err) : -1;
}

static int write_text(int fd, const char *text)
{
    return write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

/* Megabytes without a newline, until the parent has had enough. */
static int flood(struct workload_run *run, struct plim_err *err)
{
    for (int i = 0; i < 100000; i++)
        if (write_text(run->output, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
                                    "0123456789abcdef0123456789abcdef0123456789abcdef") < 0)
            return plim_err_errno(err, "writing");
    return 0;
}

static int over_budget(struct workload_run *run, struct plim_err *err)
{
    struct plim_pool_options options = { .fast_budget_bytes = 1 << 20 };
    struct plim_pool *pool;
    void *held = NULL, *refused = NULL;
    int rc = -1;

    if (plim_pool_open(&pool, &options, err) < 0)
        return -1;
    plim_pool_set_scope(pool, "fault");
    held = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 1 << 19, err);
    refused = held ? plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 1 << 20, err) : NULL;
    if (refused)
        rc = plim_err_set(err, PLIM_ERR_INTERNAL, "the budget was not obeyed");
    plim_pool_last_refusal(pool, &run->refusal);
    plim_pool_free(pool, refused);
    plim_pool_free(pool, held);
    plim_pool_close(pool);
    return rc;
}

static int leak(struct workload_run *run, struct plim_err *err)
{
    struct plim_pool *pool;

    if (plim_pool_open(&pool, NULL, err) < 0)
        return -1;
    if (!plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_IO, 100, err)) {
        plim_pool_close(pool);
        return -1;
    }
    return add_number(run, "leaked_blocks", (double)plim_pool_close(pool), err);
}

static void crash(int number)
{
    struct sigaction plain = { .sa_handler = SIG_DFL };

    sigaction(number, &plain, NULL);   /* sanitizers turn a fault into an exit status */
    raise(number);
}

int workload_fault(struct workload_run *run, struct plim_err *err)
{
    const struct facts *arguments = &run->request->arguments;
    const char *fault = argument_text(arguments, "fault");

    plim_sleep_ns((uint64_t)argument_count(arguments, "sleep_ms") * 1000000);
    if (add_number(run, "generated_tokens", 7, err) < 0)
        return -1;
    if (strcmp(fault, "segv") == 0)
        crash(SIGSEGV);
    if (strcmp(fault, "abort") == 0) {
        fputs("first line\nthe last words\n", stderr);
        crash(SIGABRT);
    }
    if (strcmp(fault, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(fault, "exit") == 0)
        _exit(3);
    if (strcmp(fault, "silent") == 0)
        _exit(0);
    if (strcmp(fault, "garbage") == 0)
        return write_text(run->output, "{\"message\":\"metric\",\"name\":\n");
    if (strcmp(fault, "flood") == 0)
        return flood(run, err);
    if (strcmp(fault, "chatter") == 0)
        return puts("a library that prints") < 0 ? -1 : 0;
    if (strcmp(fault, "unequal") == 0)
        return add_number(run, "dequant_chunks", run->repeat, err);
    if (strcmp(fault, "over_budget") == 0)
        return over_budget(run, err);
    if (strcmp(fault, "leak") == 0)
        return leak(run, err);
    if (strcmp(fault, "error") == 0)
        return plim_err_input(err, "the fault that was asked for");
    return 0;
}
