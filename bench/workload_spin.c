/*
 * Plain arithmetic beside a buffer: work that no engine's change can touch. Shows what differences can be seen on a
 * machine, and carries the positive controls of a gate.
 */

#include <inttypes.h>
#include <stdio.h>

#include "metrics.h"
#include "plimsoll/clock.h"
#include "workload_run.h"

static int add_number(struct workload_run *run, const char *name, double value, struct plim_err *err)
{
    struct metric *metric = metric_of_case(&run->report, name, err);

    return metric ? metric_add_sample(metric, value, err) : -1;
}

/* Knuth's 64-bit congruential generator: every step needs the one before, so its speed is the processor's clock. */
static uint64_t spin(int64_t steps)
{
    uint64_t x = 1;

    for (int64_t i = 0; i < steps; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}

static int report(struct workload_run *run, struct plim_pool *pool, uint64_t spent_ns, uint64_t last,
                  struct plim_err *err)
{
    struct metric *digest = metric_of_case(&run->report, "output_digest", err);
    struct plim_pool_stats stats;
    char text[17];

    plim_pool_stats(pool, &stats);
    snprintf(text, sizeof text, "%016" PRIx64, last);
    if (!digest || metric_set_text(digest, text, NULL, err) < 0 ||
        add_number(run, "spin_time_ns", (double)spent_ns, err) < 0 ||
        add_number(run, "peak_requested_fast_bytes", (double)stats.peak[PLIM_FAST].total_bytes, err) < 0 ||
        add_number(run, "at_peak_workspace_bytes", (double)stats.peak[PLIM_FAST].bytes[PLIM_TAG_WORKSPACE], err) < 0)
        return -1;
    return add_number(run, "allocation_count", (double)stats.allocation_count, err);
}

int workload_spin(struct workload_run *run, struct plim_err *err)
{
    const struct facts *arguments = &run->request->arguments;
    struct plim_pool *pool;
    void *buffer = NULL, *planted = NULL;
    uint64_t start_ns, last;
    int rc = -1;

    if (plim_pool_open(&pool, NULL, err) < 0)
        return -1;
    buffer = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, (size_t)argument_count(arguments, "bytes"), err);
    if (!buffer || control_hold(&run->request->control, pool, &planted, err) < 0)
        goto out;
    start_ns = plim_now_ns();
    last = spin(argument_count(arguments, "steps"));
    control_delay(&run->request->control, start_ns);
    rc = report(run, pool, plim_now_ns() - start_ns, last, err);

out:
    plim_pool_free(pool, planted);
    plim_pool_free(pool, buffer);
    plim_pool_close(pool);
    return rc;
}
