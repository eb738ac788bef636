/* The A/B verbs as programs: builds found and made, exit statuses. */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ab_build.h"
#include "command.h"
#include "plimsoll/file.h"

static char directory[] = "/tmp/plimsoll-ab-XXXXXX";
static char suite[80];

static void write_file(const char *name, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[200];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    cr_assert_eq(plim_write_file(path, text, strlen(text), &err), 0, "%s", err.message);
}

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(directory));
    snprintf(suite, sizeof suite, "%s/suite.json", directory);
    write_file("suite.json",
               "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\","
               "  \"defaults\": { \"repeats\": 1, \"warmup\": 0 },"
               "  \"cases\": [ { \"name\": \"spin\", \"workload\": { \"kind\": \"spin\", \"steps\": \"1M\" } } ] }");
    setenv("XDG_CACHE_HOME", directory, 1);
}

static void tear_down(void)
{
    const char *const erase[] = { "rm", "-rf", "--", directory, NULL };
    struct plim_err ignored = PLIM_ERR_INIT;

    command_run(erase, NULL, &ignored);
}

TestSuite(ab_verbs, .init = set_up, .fini = tear_down, .timeout = 120);

/* The program's exit status; what it printed on both streams in `said`. */
static int plimsoll(char *said, size_t size, const char *arguments)
{
    char command[1000];
    FILE *pipe;
    size_t got;
    int status;

    snprintf(command, sizeof command, "'%s' %s 2>&1", PLIMSOLL_PROGRAM, arguments);
    pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    got = fread(said, 1, size - 1, pipe);
    said[got] = '\0';
    status = pclose(pipe);
    cr_assert(WIFEXITED(status), "%s", said);
    return WEXITSTATUS(status);
}

/* Large plants: whatever else runs here, they stand out. */
Test(ab_verbs, a_rehearsal_ends_in_red_and_names_the_culprit)
{
    char arguments[600], said[20000];
    int status;

    snprintf(arguments, sizeof arguments,
             "ab --a '%s' --b '%s' -q --rehearse-slowdown 300 --rehearse-bytes 4096 -o '%s/kept' '%s'",
             PLIMSOLL_PROGRAM, PLIMSOLL_PROGRAM, directory, suite);
    status = plimsoll(said, sizeof said, arguments);
    cr_expect_eq(status, 1, "%d: %s", status, said);
    cr_expect_not_null(strstr(said, "workspace +4096 B"), "%s", said);
    cr_expect_not_null(strstr(said, "Control, a planted page of memory: caught"), "%s", said);

    snprintf(arguments, sizeof arguments, "ab --a '%s' --b '%s' -q --timings-only --all --rehearse-bytes 4096 '%s'",
             PLIMSOLL_PROGRAM, PLIMSOLL_PROGRAM, suite);
    status = plimsoll(said, sizeof said, arguments);
    cr_expect_eq(status, 0, "memory is judged elsewhere: %d: %s", status, said);
    cr_expect_null(strstr(said, "workspace +4096 B;"), "%s", said);

    char path[200];
    snprintf(path, sizeof path, "%s/kept/b.json", directory);
    cr_expect(plim_path_exists(path));
}

Test(ab_verbs, a_gate_that_misses_its_controls_fails_itself)
{
    char arguments[600], said[20000];
    int status;

    snprintf(arguments, sizeof arguments, "ab --a '%s' --b '%s' -q --rehearse-blind '%s'", PLIMSOLL_PROGRAM,
             PLIMSOLL_PROGRAM, suite);
    status = plimsoll(said, sizeof said, arguments);
    cr_expect_eq(status, 6, "%d: %s", status, said);
    cr_expect_not_null(strstr(said, "control missed: a planted page of memory"), "%s", said);
}

/* Short of time: a record, some suites replayed on it, and real ones if there is time left. That it ends is the point. */
Test(ab_verbs, the_gate_is_tested_on_this_machine_in_a_limited_time)
{
    char said[20000];
    int status = plimsoll(said, sizeof said, "selftest gate --machine --time-s 1 --trials 3 --cases 4 --short -q");

    cr_expect(status == 0 || status == 6, "%d: %s", status, said);   /* 6: a machine that is too noisy for promises */
    cr_expect_not_null(strstr(said, "replayed"), "%s", said);
    cr_expect_not_null(strstr(said, "processes one after another"), "%s", said);
}

Test(ab_verbs, bad_usage_is_told_in_one_line)
{
    static const char *const bad[][2] = {
        { "ab --a x smoke", "two builds are needed" },
        { "ab --a x --b y", "a suite is needed" },
        { "ab --a /nowhere/at-all --b y smoke", "no plimsoll program, no build directory and no git revision" },
        { "ab --a x --b y --metric decode_token_per_s smoke", "did you mean decode_tokens_per_s" },
        { "ab --a x --b y --metric perplexity smoke", "no timing" },
        { "ab --a x --b y --budget-s -3 smoke", "--budget-s" },
        { "selftest", "what is to be tested" },
        { "selftest gates", "nothing that tests itself" },
        { "selftest gate --trials none", "--trials" },
        { "selftest gate --time-s 3", "go with --machine" },
        { "selftest gate --machine --suite null --case 'x*'", "no case of suite null" },
    };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char said[4000];

        cr_expect_eq(plimsoll(said, sizeof said, bad[i][0]), 2, "%s: %s", bad[i][0], said);
        cr_expect_not_null(strstr(said, bad[i][1]), "%s: %s", bad[i][0], said);
    }
}

/* ---- builds ---- */

Test(ab_verbs, a_program_and_its_directory_are_the_same_build)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *folder = strdup(PLIMSOLL_PROGRAM), *a, *b;

    *strrchr(folder, '/') = '\0';
    a = ab_build_resolve(PLIMSOLL_PROGRAM, NULL, &err);
    b = ab_build_resolve(folder, NULL, &err);
    cr_assert(a && b, "%s", err.message);
    cr_expect_str_eq(a, b);
    free(a);
    free(b);
    free(folder);

    cr_expect_null(ab_build_resolve(directory, NULL, &err));
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
}

static void in_repository(const char *command)
{
    char line[1000];

    snprintf(line, sizeof line, "cd '%s/repository' && %s", directory, command);
    cr_assert_eq(system(line), 0, "%s", line);
}

static void make_repository(void)
{
    char path[200];
    struct plim_err err = PLIM_ERR_INIT;

    snprintf(path, sizeof path, "%s/repository", directory);
    cr_assert_eq(plim_make_directories(path, &err), 0);
    write_file("repository/CMakeLists.txt",
               "cmake_minimum_required(VERSION 3.20)\nproject(p C)\nadd_executable(plimsoll main.c)\n");
    write_file("repository/main.c", "#ifndef ANSWER\n#define ANSWER 7\n#endif\nint main(void) { return ANSWER; }\n");
    in_repository("git init -q . && git add . && git -c user.name=t -c user.email=t@example.com commit -qm one");
    write_file("repository/main.c", "this does not compile\n");
    in_repository("git -c user.name=t -c user.email=t@example.com commit -qam two");
    cr_assert_eq(chdir(path), 0);
}

Test(ab_verbs, a_revision_is_built_once_in_private)
{
    struct plim_err err = PLIM_ERR_INIT, broken = PLIM_ERR_INIT;
    const char *const list[] = { "git", "worktree", "list", NULL };
    char *program, *again, *other, *worktrees;

    make_repository();
    program = ab_build_resolve("HEAD~1", NULL, &err);
    cr_assert_not_null(program, "%s", err.message);
    cr_expect_eq(strncmp(program, directory, strlen(directory)), 0, "%s", program);
    cr_expect_eq(WEXITSTATUS(system(program)), 7);

    again = ab_build_resolve("HEAD~1", NULL, &err);
    cr_assert_not_null(again);
    cr_expect_str_eq(program, again);

    setenv("PLIMSOLL_CMAKE_OPTIONS", "-DCMAKE_EXECUTABLE_SUFFIX= -DCMAKE_C_FLAGS=-DANSWER=9", 1);
    other = ab_build_resolve("HEAD~1", NULL, &err);
    cr_assert_not_null(other, "%s", err.message);
    cr_expect_str_neq(program, other, "another build");
    cr_expect_eq(WEXITSTATUS(system(other)), 9);
    free(other);
    unsetenv("PLIMSOLL_CMAKE_OPTIONS");

    cr_expect_null(ab_build_resolve("HEAD", NULL, &broken));
    cr_expect_eq(broken.kind, PLIM_ERR_SYSTEM);
    cr_expect_not_null(strstr(broken.message, "building"), "%s", broken.message);

    worktrees = command_output(list, NULL, &err);
    cr_assert_not_null(worktrees);
    cr_expect_null(strchr(worktrees, '\n'), "only the repository itself: %s", worktrees);
    free(worktrees);
    free(program);
    free(again);
}

/* A build that never ends, and says when it has begun. */
static void make_endless_repository(void)
{
    char path[200];
    struct plim_err err = PLIM_ERR_INIT;

    snprintf(path, sizeof path, "%s/repository", directory);
    cr_assert_eq(plim_make_directories(path, &err), 0);
    write_file("repository/CMakeLists.txt",
               "cmake_minimum_required(VERSION 3.20)\nproject(p NONE)\nadd_custom_target(plimsoll\n"
               "  COMMAND sh -c \"touch half-made && touch ${CMAKE_SOURCE_DIR}/../../../../../begun && sleep 60\" VERBATIM)\n");
    in_repository("git init -q . && git add . && git -c user.name=t -c user.email=t@example.com commit -qm one");
    in_repository("git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m two");
    cr_assert_eq(chdir(path), 0);
}

/* Ends the program with a signal while it builds. */
static void end_while_building(const char *arguments, int signal_number)
{
    char command[600], begun[200];
    pid_t child;
    int status;

    snprintf(begun, sizeof begun, "%s/begun", directory);
    snprintf(command, sizeof command, "exec '%s' %s >/dev/null 2>&1", PLIMSOLL_PROGRAM, arguments);
    unlink(begun);
    child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    for (int tenths = 0; tenths < 600 && !plim_path_exists(begun); tenths++)
        usleep(100000);
    cr_assert(plim_path_exists(begun), "the build has not begun");
    kill(child, signal_number);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(signal_number == SIGKILL ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) != 0, "%x", status);
}

static size_t lines_of(const char *command)
{
    const char *const argv[] = { "sh", "-c", command, NULL };
    struct plim_err err = PLIM_ERR_INIT;
    char *text = command_output(argv, NULL, &err);
    size_t lines = text && *text;

    cr_assert_not_null(text, "%s", err.message);
    for (const char *at = text; (at = strchr(at, '\n')); at++)
        lines++;
    free(text);
    return lines;
}

Test(ab_verbs, an_interrupted_build_leaves_nothing)
{
    char arguments[400];

    make_endless_repository();
    snprintf(arguments, sizeof arguments, "ab --a HEAD --b HEAD~1 '%s'", suite);
    end_while_building(arguments, SIGTERM);
    cr_expect_eq(lines_of("git worktree list"), 1);
    cr_expect_eq(lines_of("ls ../plimsoll/builds"), 0);

    snprintf(arguments, sizeof arguments, "bisect --good HEAD~1 '%s' spin outcome", suite);
    end_while_building(arguments, SIGINT);
    cr_expect_eq(lines_of("git worktree list"), 1);
    cr_expect_eq(lines_of("ls ../plimsoll/builds"), 0);
}

Test(ab_verbs, what_a_killed_build_left_is_removed_by_the_next)
{
    struct plim_err err = PLIM_ERR_INIT;
    char arguments[400], *program;

    make_endless_repository();
    snprintf(arguments, sizeof arguments, "ab --a HEAD --b HEAD '%s'", suite);
    end_while_building(arguments, SIGKILL);
    cr_expect_eq(lines_of("git worktree list"), 2);

    write_file("repository/CMakeLists.txt",
               "cmake_minimum_required(VERSION 3.20)\nproject(p C)\nadd_executable(plimsoll main.c)\n");
    write_file("repository/main.c", "int main(void) { return 7; }\n");
    in_repository("git add . && git -c user.name=t -c user.email=t@example.com commit -qm three");
    program = ab_build_resolve("HEAD", NULL, &err);
    cr_assert_not_null(program, "%s", err.message);
    cr_expect_eq(lines_of("git worktree list"), 1);
    cr_expect_eq(lines_of("ls -d ../plimsoll/builds/*/build-* 2>/dev/null || true"), 0);
    free(program);
}

/* Seven commits of a program that is the real one, but holds a page more from the fifth on. */
Test(ab_verbs, bisect_finds_the_commit_that_needs_more)
{
    char path[200], text[1000], arguments[400], said[20000];
    struct plim_err err = PLIM_ERR_INIT;

    snprintf(path, sizeof path, "%s/repository", directory);
    cr_assert_eq(plim_make_directories(path, &err), 0);
    write_file("repository/CMakeLists.txt",
               "cmake_minimum_required(VERSION 3.20)\nproject(p NONE)\nadd_custom_target(plimsoll\n"
               "  COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_SOURCE_DIR}/program ${CMAKE_BINARY_DIR}/plimsoll)\n");
    write_file("held.json",
               "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\","
               "  \"defaults\": { \"repeats\": 2, \"warmup\": 0 }, \"cases\": [ { \"name\": \"spin\","
               "  \"workload\": { \"kind\": \"spin\", \"steps\": \"10K\", \"bytes\": 12345 } } ] }");
    snprintf(text, sizeof text, "#!/bin/sh\nexec '%s' \"$@\"\n", PLIMSOLL_PROGRAM);
    write_file("repository/program", text);
    in_repository("chmod +x program && git init -q . && git config user.name t && git config user.email t@example.com && "
                  "git add . && git commit -qm c1");
    for (int i = 2; i <= 7; i++) {
        snprintf(text, sizeof text,
                 "#!/bin/sh\n# %d\nsuite=$2\nshift 2\nsed s/12345/%d/ \"$suite\" >\"$suite.more\"\n"
                 "exec '%s' run \"$suite.more\" \"$@\"\n",
                 i, i < 5 ? 12345 : 16441, PLIMSOLL_PROGRAM);
        write_file("repository/program", text);
        snprintf(text, sizeof text, "chmod +x program && git commit -qam c%d", i);
        in_repository(text);
    }
    cr_assert_eq(chdir(path), 0);
    snprintf(arguments, sizeof arguments, "bisect -q --good HEAD~6 '%s/held.json' spin peak_requested_fast_bytes", directory);
    cr_expect_eq(plimsoll(said, sizeof said, arguments), 0, "%s", said);
    cr_expect_not_null(strstr(said, "c5"), "%s", said);
    snprintf(arguments, sizeof arguments, "bisect -q --good HEAD~6 --bad HEAD~4 '%s/held.json' spin peak_requested_fast_bytes",
             directory);
    cr_expect_eq(plimsoll(said, sizeof said, arguments), 3, "the ends do not differ: %s", said);
}

Test(ab_verbs, commands_that_fail_say_why)
{
    struct plim_err err = PLIM_ERR_INIT, missing = PLIM_ERR_INIT;
    const char *const words[] = { "sh", "-c", "echo out; echo the reason >&2; exit 3", NULL };
    const char *const nobody[] = { "no-such-program-here", NULL };
    const char *const fine[] = { "sh", "-c", "echo one; echo two", NULL };
    char *text;

    cr_expect_null(command_output(words, NULL, &err));
    cr_expect_not_null(strstr(err.message, "exit status 3"), "%s", err.message);
    cr_expect_lt(command_run(nobody, NULL, &missing), 0);
    cr_expect_eq(missing.kind, PLIM_ERR_SYSTEM);
    plim_err_clear(&err);
    text = command_output(fine, NULL, &err);
    cr_expect_str_eq(text, "one\ntwo");
    free(text);
}
