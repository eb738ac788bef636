#include <criterion/criterion.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plimsoll/clock.h"
#include "plimsoll/process.h"
#include "plimsoll/progress.h"

#define SECOND ((uint64_t)1000000000)

static struct plim_process start(const char *script, const char *const *environment)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_process child = PLIM_PROCESS_INIT;
    const char *argv[] = { "/bin/sh", "-c", script, NULL };
    cr_assert_eq(plim_process_start(&child, &(struct plim_process_options){ argv, environment }, &err), 0, "%s",
                 err.message);
    return child;
}

static struct plim_process_exit wait_for(struct plim_process *child)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_process_exit ended;
    cr_assert_eq(plim_process_wait(child, &ended, &err), 0, "%s", err.message);
    cr_assert_eq(child->pid, 0);
    cr_assert(child->to_child < 0 && child->from_child < 0 && child->errors_of_child < 0);
    return ended;
}

/* Everything up to the end of the pipe. */
static const char *read_all(int fd)
{
    static char text[4096];
    size_t length = 0;
    for (ssize_t got; (got = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    return text;
}

Test(process, talks_through_three_pipes_and_exits_with_a_status)
{
    struct plim_process child = start("read line; echo \"got $line\"; echo oops >&2; exit 7", NULL);
    cr_assert_eq(write(child.to_child, "hello\n", 6), 6);
    cr_assert_str_eq(read_all(child.from_child), "got hello\n");
    cr_assert_str_eq(read_all(child.errors_of_child), "oops\n");
    struct plim_process_exit ended = wait_for(&child);
    cr_assert_not(ended.signaled);
    cr_assert_eq(ended.status, 7);
    plim_process_release(&child);
}

Test(process, waiting_closes_its_input)
{
    struct plim_process child = start("cat > /dev/null; exit 3", NULL);
    cr_assert_eq(wait_for(&child).status, 3);
}

Test(process, environment_is_added_and_replaced)
{
    const char *added[] = { "PLIM_A=new", "PLIM_C=three", NULL };
    setenv("PLIM_A", "old", 1);
    setenv("PLIM_AB", "kept", 1);
    struct plim_process child = start("echo $PLIM_A $PLIM_AB $PLIM_C; env | grep -c PLIM_A=", added);
    cr_assert_str_eq(read_all(child.from_child), "new kept three\n1\n");
    wait_for(&child);
    cr_assert_str_eq(getenv("PLIM_A"), "old");
}

Test(process, a_program_that_is_not_there_is_an_error)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_process child = PLIM_PROCESS_INIT;
    const char *argv[] = { "/no/such/program", NULL };
    cr_assert_eq(plim_process_start(&child, &(struct plim_process_options){ argv, NULL }, &err), -1);
    cr_assert(strstr(err.message, "/no/such/program: No such file"), "%s", err.message);
    cr_assert_eq(child.pid, 0);
    plim_process_release(&child);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a child was left behind");
}

Test(process, a_crash_is_reported_by_its_signal)
{
    struct plim_process child = start("kill -SEGV $$", NULL);
    struct plim_process_exit ended = wait_for(&child);
    cr_assert(ended.signaled);
    cr_assert_eq(ended.status, SIGSEGV);
}

Test(process, a_time_limit_and_a_kill)
{
    struct plim_process child = start("trap '' TERM; echo ready; while :; do sleep 0.05; done", NULL);
    char ready[6];
    cr_assert_eq(read(child.from_child, ready, 6), 6);
    cr_assert_not(plim_process_ended_within(&child, SECOND / 20));
    plim_process_signal(&child, SIGTERM);
    cr_assert_not(plim_process_ended_within(&child, SECOND / 20));
    plim_process_signal(&child, SIGKILL);
    cr_assert(plim_process_ended_within(&child, 10 * SECOND));
    struct plim_process_exit ended = wait_for(&child);
    cr_assert(ended.signaled);
    cr_assert_eq(ended.status, SIGKILL);
}

Test(process, ended_within_returns_as_soon_as_it_ends)
{
    struct plim_process child = start("sleep 0.1", NULL);
    uint64_t begin_ns = plim_now_ns();
    cr_assert(plim_process_ended_within(&child, 20 * SECOND));
    cr_assert_lt(plim_now_ns() - begin_ns, 10 * SECOND);
    cr_assert(plim_process_ended_within(&child, 0));
    wait_for(&child);
}

/* A shell's background child holds the pipe open: reading to its end shows that it was killed too. */
Test(process, the_whole_group_is_killed)
{
    struct plim_process child = start("sleep 1000 & sleep 1000", NULL);
    plim_process_signal(&child, SIGKILL);
    read_all(child.from_child);
    wait_for(&child);

    child = start("sleep 1000 & echo started; exit 0", NULL);
    int output = dup(child.from_child);
    cr_assert_eq(wait_for(&child).status, 0);
    cr_assert_str_eq(read_all(output), "started\n");
    close(output);

    child = start("sleep 1000 & sleep 1000", NULL);
    output = dup(child.from_child);
    plim_process_release(&child);
    read_all(output);
    close(output);
}

/* The middle process starts a child and is killed; the child's pipe then ends. */
Test(process, a_child_dies_with_its_parent)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    pid_t middle = fork();
    if (middle == 0) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_process child = PLIM_PROCESS_INIT;
        char script[64];
        snprintf(script, sizeof script, "echo up >&%d; sleep 1000", ends[1]);
        const char *argv[] = { "/bin/bash", "-c", script, NULL };
        if (plim_process_start(&child, &(struct plim_process_options){ argv, NULL }, &err) < 0)
            _exit(1);
        pause();
    }
    close(ends[1]);
    char up[3];
    cr_assert_eq(read(ends[0], up, 3), 3);
    kill(middle, SIGKILL);
    waitpid(middle, NULL, 0);
    /* bash runs a last command without a fork, so nothing holds the pipe once it is dead. */
    cr_assert_eq(read(ends[0], up, 1), 0);
    close(ends[0]);
}

Test(process, usage_is_of_this_child_alone)
{
    /* The first child is large, and its figures must not show in the second's. */
    struct plim_process large = start("head -c 100000000 /dev/zero | tail -n 1 | wc -c", NULL);
    read_all(large.from_child);
    struct plim_process_exit ended_large = wait_for(&large);
    struct plim_process spinning = start("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done", NULL);
    struct plim_process_exit ended = wait_for(&spinning);
    cr_assert_gt(ended_large.peak_rss_bytes, 90000000);
    cr_assert_gt(ended.user_ns, 1000000u);
    cr_assert_gt(ended.peak_rss_bytes, 100000);
    cr_assert_lt(ended.peak_rss_bytes, 90000000);
}

Test(process, signals_are_back_to_their_defaults_in_the_child)
{
    sigset_t blocked;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    struct plim_process child = start("kill -TERM $$; exit 0", NULL);
    cr_assert(wait_for(&child).signaled);
    child = start("kill -PIPE $$; exit 0", NULL);
    cr_assert(wait_for(&child).signaled);
}

Test(process, other_children_do_not_inherit_its_pipes)
{
    struct plim_process first = start("cat", NULL);
    struct plim_process second = start("sleep 1000", NULL);
    close(first.to_child);
    first.to_child = -1;
    /* `cat` ends only if nobody else holds the writing end. */
    cr_assert(plim_process_ended_within(&first, 10 * SECOND));
    wait_for(&first);
    plim_process_release(&second);
    cr_assert_eq(second.pid, 0);
}

Test(process, works_with_standard_input_closed)
{
    close(0);
    struct plim_process child = start("read x; echo $x", NULL);
    cr_assert_gt(child.to_child, 2);
    cr_assert_eq(write(child.to_child, "a\n", 2), 2);
    cr_assert_str_eq(read_all(child.from_child), "a\n");
    wait_for(&child);
}

Test(process, self)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = plim_self_path(&err);
    cr_assert_not_null(path, "%s", err.message);
    cr_assert_str_eq(strrchr(path, '/'), "/test_core");
    free(path);
    int64_t before = plim_peak_rss_bytes();
    cr_assert_gt(before, 100000);
    size_t bytes = 64 << 20;
    volatile char *memory = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 4096)
        memory[i] = 1;
    cr_assert_gt(plim_peak_rss_bytes(), before + (int64_t)bytes / 2);
    free((void *)(uintptr_t)memory);
}

/* ---- progress ---- */

static uint64_t fake_now_ns;

static uint64_t fake_clock(void *context)
{
    (void)context;
    return fake_now_ns;
}

Test(progress, plain_lines_are_rare_and_have_an_estimate)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    struct plim_progress progress;
    plim_clock_replace(fake_clock, NULL);
    plim_progress_start(&progress, stream, "making", "tensors", 100);
    for (uint64_t done = 1; done <= 100; done++) {
        fake_now_ns = done * SECOND / 5;   /* 20 s in all */
        plim_progress_update(&progress, done, done == 50 ? "norm" : NULL);
    }
    plim_progress_finish(&progress);
    fclose(stream);
    cr_assert_str_eq(text, "making: 25/100 tensors, 15 s left\nmaking: 50/100 tensors, 10 s left: norm\n"
                           "making: 75/100 tensors, 5 s left\nmaking: 100/100 tensors\n");
    free(text);
}

Test(progress, long_estimates_and_no_stream)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    struct plim_progress progress;
    plim_clock_replace(fake_clock, NULL);
    fake_now_ns = 0;
    plim_progress_start(&progress, stream, "a", "b", 1000);
    fake_now_ns = 10 * SECOND;
    plim_progress_update(&progress, 1, NULL);
    fake_now_ns = 20 * SECOND;
    plim_progress_update(&progress, 100, NULL);
    plim_progress_update(&progress, 101, NULL);
    plim_progress_finish(&progress);
    fclose(stream);
    cr_assert_str_eq(text, "a: 1/1000 b, 2:46:30 left\na: 100/1000 b, 3:00 left\n");
    free(text);
    plim_progress_start(&progress, NULL, "a", "b", 0);
    fake_now_ns = 99 * SECOND;
    plim_progress_update(&progress, 5, "x");
    plim_progress_finish(&progress);
}
