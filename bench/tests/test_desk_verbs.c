/* The desk's verbs as a person calls them: real workers, a small real model, exit statuses. */

#include <criterion/criterion.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plimsoll/file.h"
#include "plimsoll/pool.h"

#define MODEL PLIMSOLL_SOURCE "/engine/tests/data/exl2-llama-tiny/exl2-4.0"

static char directory[] = "/tmp/plimsoll-desk-XXXXXX";

static void make_directory(void)
{
    cr_assert_not_null(mkdtemp(directory));
}

static void remove_directory(void)
{
    char command[100];

    snprintf(command, sizeof command, "rm -r %s", directory);
    cr_expect_eq(system(command), 0);
}

TestSuite(desk_verbs, .init = make_directory, .fini = remove_directory);

/* The exit status of `plimsoll ARGUMENTS` in the directory; its output goes to out.txt there. */
static int run(const char *arguments)
{
    char command[1000];
    int status;

    snprintf(command, sizeof command, "cd %s && %s %s > out.txt 2>&1", directory, PLIMSOLL_PROGRAM, arguments);
    status = system(command);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static bool output_has(const char *words)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[64], *text;
    size_t bytes;
    bool found;

    snprintf(path, sizeof path, "%s/out.txt", directory);
    cr_assert_eq(plim_read_file(path, 1 << 20, &text, &bytes, &err), 0);
    found = strstr(text, words) != NULL;
    if (!found)
        fprintf(stderr, "%s", text);
    free(text);
    return found;
}

static void write_trace(const char *name, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;
    char path[64];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(plim_pool_trace_start(pool, path, &err), 0);
    plim_pool_free(pool, plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_LOGITS, bytes, &err));
    plim_pool_close(pool);
}

Test(desk_verbs, memory_diff_tells_growth_by_its_status)
{
    write_trace("small.trace", 1000);
    write_trace("large.trace", 1001);
    cr_expect_eq(run("memory diff small.trace small.trace"), 0);
    cr_expect_eq(run("memory diff large.trace small.trace"), 0);
    cr_expect_eq(run("memory diff small.trace large.trace"), 1);
    cr_expect(output_has("logits, by write_trace"));
    cr_expect_eq(run("memory diff small.trace out.txt"), 2);
    cr_expect(output_has("not a memory trace"));
    cr_expect_eq(run("memory diff small.trace"), 2);
    cr_expect_eq(run("memory plot small.trace --no-draw"), 0);
}

Test(desk_verbs, a_plan_is_what_a_run_takes)
{
    cr_expect_eq(run("plan " MODEL " --prompt-tokens 40 --past-tokens 8 --decode-tokens 2 --verify"), 0);
    cr_expect(output_has("equal"));
    cr_expect_eq(run("plan " MODEL " --prompt-tokens 40 --all-logits --max-input-len 16 --verify --json"), 0);
    cr_expect_eq(run("plan " MODEL " --prompt-tokens 40 --context-tokens 10"), 2);
    cr_expect_eq(run("plan /no/such/model"), 2);
}

Test(desk_verbs, a_frontier_is_found_in_real_workers)
{
    cr_expect_eq(run("frontier " MODEL " --memory-budget 1Mi --prompt-tokens 32 --runs 2 --cpu-threads 1 --no-draw -o ."), 0);
    cr_expect(output_has("verified: 5 of 5"));
    cr_expect_eq(run("frontier " MODEL " --memory-budget 1000 --prompt-tokens 32 --no-draw -o ."), 1);
    cr_expect(output_has("nothing fits"));
    cr_expect_eq(run("frontier " MODEL " --prompt-tokens 32"), 2, "a budget is needed");
}

Test(desk_verbs, a_threshold_is_measured_in_real_workers)
{
    cr_expect_eq(run("threshold dq_rows --model " MODEL " --to 32 --sizes 3 --rounds 3 --cpu-threads 1 --no-draw -o ."), 0);
    cr_expect(output_has("the default, dq_rows"));
    cr_expect_eq(run("threshold dq_size --model " MODEL), 2);
}

/* The numbers of a safetensors file with one tensor; free(). */
static float *read_numbers(const char *name, size_t expected)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[64], *bytes;
    uint64_t header_bytes;
    size_t length;
    float *numbers = calloc(expected, sizeof *numbers);

    snprintf(path, sizeof path, "%s/%s", directory, name);
    cr_assert_eq(plim_read_file(path, 1 << 20, &bytes, &length, &err), 0, "%s", err.message);
    memcpy(&header_bytes, bytes, sizeof header_bytes);
    cr_assert_eq(length, sizeof header_bytes + header_bytes + expected * sizeof *numbers);
    memcpy(numbers, bytes + sizeof header_bytes + header_bytes, expected * sizeof *numbers);
    free(bytes);
    return numbers;
}

Test(desk_verbs, logits_are_the_same_in_one_call_and_token_by_token)
{
    enum { TOKENS = 5, VOCABULARY = 300 };
    double difference = 0, size = 0;

    cr_expect_eq(run("logits " MODEL " --ids 256,3,77,20,299 -o prompt"), 0);
    cr_expect_eq(run("logits " MODEL " --ids 256,3,77,20,299 --token-by-token -o steps"), 0);
    float *prompt = read_numbers("prompt", TOKENS * VOCABULARY), *steps = read_numbers("steps", TOKENS * VOCABULARY);
    for (size_t i = 0; i < TOKENS * VOCABULARY; i++) {
        difference += (prompt[i] - steps[i]) * (double)(prompt[i] - steps[i]);
        size += steps[i] * (double)steps[i];
    }
    cr_expect_gt(size, TOKENS * VOCABULARY, "logits of this model vary by more than 1");
    cr_expect_lt(difference, 1e-6 * size, "%g of %g", difference, size);
    free(prompt);
    free(steps);
    cr_expect_eq(run("logits " MODEL " --ids 256,300 -o prompt"), 2);
    cr_expect(output_has("id 300"));
    cr_expect_eq(run("logits " MODEL " --ids 1,,2 -o prompt"), 2);
    cr_expect(output_has("wanted up to"));
    cr_expect_eq(run("logits " MODEL " --ids 1"), 2, "a file is needed");
}

Test(desk_verbs, a_suite_is_listed_with_all_that_its_cases_ask_for)
{
    cr_expect_eq(run("run smoke --list --json --case '*/decode*' --repeats 7"), 0);
    cr_expect(output_has("\"workload\":\t\"decode\""));
    cr_expect(output_has("\"model_directory\":"));
    cr_expect(output_has("\"repeats\":\t7"));
}
