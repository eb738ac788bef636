/* Scratch directories: gone when they are closed, and when their owner was killed. */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"

/* Each test has a $TMPDIR of its own, which must be empty in the end. */
static char below[] = "/tmp/plimsoll-test-XXXXXX";

static void make_below(void)
{
    cr_assert_not_null(mkdtemp(below));
    setenv("TMPDIR", below, 1);
}

static void remove_below(void)
{
    cr_assert_eq(rmdir(below), 0, "something was left in %s", below);
}

static void leave_file(void)
{
    FILE *file = fopen("left", "w");
    cr_assert_not_null(file);
    fclose(file);
}

/* A process that dies with its scratch open; says where that was. */
static void die_with_scratch_open(char path[64])
{
    struct plim_err err = PLIM_ERR_INIT;
    struct scratch scratch;
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        if (scratch_open(&scratch, &err) < 0)
            _exit(1);
        leave_file();
        dprintf(ends[1], "%s", scratch.path);
        raise(SIGKILL);
    }
    cr_assert_eq(waitpid(child, NULL, 0), child);
    ssize_t bytes = read(ends[0], path, 63);
    cr_assert_gt(bytes, 0);
    path[bytes] = '\0';
    close(ends[0]);
    close(ends[1]);
}

Test(scratch, is_gone_with_its_files_when_closed, .init = make_below, .fini = remove_below)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct scratch scratch;
    char home[256], now[256];

    cr_assert_not_null(getcwd(home, sizeof home));
    cr_assert_eq(scratch_open(&scratch, &err), 0, "%s", err.message);
    leave_file();
    scratch_close(&scratch);
    cr_expect_str_eq(getcwd(now, sizeof now), home);
    scratch_close(&scratch);
}

Test(scratch, of_a_killed_process_is_swept_and_no_other, .init = make_below, .fini = remove_below)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct scratch mine;
    char left[64];

    cr_assert_eq(scratch_open(&mine, &err), 0, "%s", err.message);
    die_with_scratch_open(left);
    cr_expect_eq(access(left, F_OK), 0);
    scratch_sweep();
    cr_expect_neq(access(left, F_OK), 0, "%s is still there", left);
    cr_expect_eq(access(mine.path, F_OK), 0, "one in use was swept");

    scratch_close(&mine);
    die_with_scratch_open(left);
    cr_assert_eq(scratch_open(&mine, &err), 0, "%s", err.message);
    cr_expect_neq(access(left, F_OK), 0, "the next one does not sweep");
    scratch_close(&mine);
}
