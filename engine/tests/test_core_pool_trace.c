/* Memory traces: watching changes nothing, and a trace that could not be written says so. What is in them: bench/tests. */

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plimsoll/memory_trace.h"
#include "plimsoll/pool.h"
#include "plimsoll/random.h"

#define BLOCKS 64

/* A few thousand allocations, resizes and releases on both tiers, the same each time. */
static void churn(struct plim_pool *pool)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    void *blocks[BLOCKS] = { NULL };
    bool is_slow[BLOCKS] = { false };
    char scope[40];

    plim_random_seed(&random, 7, 0);
    for (int step = 0; step < 4000; step++) {
        size_t i = plim_random_below(&random, BLOCKS), bytes = plim_random_below(&random, 100000);
        enum plim_tag tag = (enum plim_tag)plim_random_below(&random, PLIM_TAG_WEIGHTS_MAPPED);

        if (step % 50 == 0) {
            snprintf(scope, sizeof scope, "layers.%d", step / 50 % 7);
            plim_pool_set_scope(pool, scope);
        }
        if (!blocks[i]) {
            is_slow[i] = step % 3 == 0;
            blocks[i] = plim_pool_alloc(pool, is_slow[i] ? PLIM_SLOW : PLIM_FAST, tag, bytes, &err);
        } else if (step % 5 == 0 && !is_slow[i]) {
            blocks[i] = plim_pool_realloc(pool, tag, blocks[i], bytes, &err);
        } else {
            plim_pool_free(pool, blocks[i]);
            blocks[i] = NULL;
        }
    }
    plim_pool_note_mapped(pool, 4096);
    for (int i = 0; i < BLOCKS; i++)
        plim_pool_free(pool, blocks[i]);
    cr_assert_eq(err.kind, PLIM_ERR_NONE, "%s", err.message);
}

static void stats_with(const char *trace, struct plim_pool_stats *stats)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;

    memset(stats, 0, sizeof *stats);
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    if (trace)
        cr_assert_eq(plim_pool_trace_start(pool, trace, &err), 0, "%s", err.message);
    churn(pool);
    plim_pool_stats(pool, stats);
    cr_assert_eq(plim_pool_trace_stop(pool, &err), 0, "%s", err.message);
    cr_assert_eq(plim_pool_close(pool), 0);
}

Test(pool_trace, watching_changes_no_count)
{
    char path[] = "/tmp/plimsoll-trace-XXXXXX";
    struct plim_pool_stats with, without;
    struct stat file;

    close(mkstemp(path));
    stats_with(NULL, &without);
    stats_with(path, &with);
    cr_expect_eq(memcmp(&with, &without, sizeof with), 0, "all counts, reserved bytes included");
    cr_assert_eq(stat(path, &file), 0);
    cr_expect_gt(file.st_size, 4000 * 4);
    cr_expect_lt(file.st_size, 4000 * 14, "a change takes a few bytes, here %lld in all", (long long)file.st_size);
    unlink(path);
}

Test(pool_trace, a_pool_is_traced_once)
{
    char path[] = "/tmp/plimsoll-trace-XXXXXX";
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;

    close(mkstemp(path));
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(plim_pool_trace_start(pool, path, &err), 0);
    cr_expect_eq(plim_pool_trace_start(pool, path, &err), -1);
    plim_err_clear(&err);
    cr_expect_eq(plim_pool_trace_stop(pool, &err), 0);
    cr_expect_eq(plim_pool_trace_stop(pool, &err), 0, "stopping what is not running is fine");
    cr_expect_eq(plim_pool_trace_start(pool, path, &err), -1);
    cr_expect(strstr(err.message, "only once"));
    plim_pool_close(pool);
    unlink(path);
}

Test(pool_trace, files_that_cannot_be_written_are_errors)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;

    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_expect_eq(plim_pool_trace_start(pool, "/no/such/directory/trace", &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_SYSTEM);
    plim_err_clear(&err);
    cr_assert_eq(plim_pool_trace_start(pool, "/dev/full", &err), 0);
    churn(pool);
    cr_expect_eq(plim_pool_trace_stop(pool, &err), -1, "the disk was full all along");
    cr_expect(strstr(err.message, "memory trace"), "%s", err.message);
    cr_expect_eq(plim_pool_close(pool), 0);
}
