/* Memory traces: what the pool recorded is what is read, whatever happens to the file in between. */

#include <criterion/criterion.h>

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"
#include "memory_diff.h"
#include "memory_plot.h"
#include "plimsoll/file.h"
#include "plimsoll/pool.h"
#include "plimsoll/random.h"
#include "trace.h"

static char path[] = "/tmp/plimsoll-trace-XXXXXX";
static struct plim_err err = PLIM_ERR_INIT;

static void make_file(void)
{
    close(mkstemp(path));
}

static void remove_file(void)
{
    unlink(path);
}

TestSuite(trace, .init = make_file, .fini = remove_file);

static struct plim_pool *traced_pool(const char *file)
{
    struct plim_pool *pool = NULL;

    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(plim_pool_trace_start(pool, file, &err), 0, "%s", err.message);
    return pool;
}

static void close_pool(struct plim_pool *pool)
{
    cr_assert_eq(plim_pool_trace_stop(pool, &err), 0, "%s", err.message);
    cr_assert_eq(plim_pool_close(pool), 0);
}

static void *take_scratch(struct plim_pool *pool, size_t bytes)
{
    return plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, bytes, &err);
}

static void *take_cache(struct plim_pool *pool, size_t bytes)
{
    return plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_KV_CACHE, bytes, &err);
}

/* A session that holds a cache, and two layers; the second one's scratch makes the peak. */
static void record(const char *file, size_t scratch_bytes)
{
    struct plim_pool *pool = traced_pool(file);
    void *cache, *scratch, *spilled;

    plim_pool_set_scope(pool, "session");
    cache = take_cache(pool, 1000);
    for (int layer = 0; layer < 2; layer++) {
        plim_pool_set_scope(pool, layer ? "layers.1.mlp" : "layers.0.mlp");
        scratch = take_scratch(pool, layer ? scratch_bytes : 100);
        plim_pool_free(pool, scratch);
    }
    spilled = plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_HESSIAN, 5000, &err);
    plim_pool_free(pool, spilled);
    plim_pool_free(pool, cache);
    close_pool(pool);
}

Test(trace, the_peak_is_told_by_tag_scope_and_function)
{
    struct trace_peak peak;

    record(path, 700);
    cr_assert_eq(trace_peak_read(&peak, path, &err), 0, "%s", err.message);
    cr_expect(peak.complete);
    cr_expect_eq(peak.held[PLIM_FAST].total_bytes, 1700);
    cr_expect_str_eq(peak.scope[PLIM_FAST], "layers.1.mlp");
    cr_assert_eq(peak.holder_count[PLIM_FAST], 2);
    cr_expect_str_eq(peak.holders[PLIM_FAST][0].scope, "session");
    cr_expect_str_eq(peak.holders[PLIM_FAST][0].site, "take_cache");
    cr_expect_eq(peak.holders[PLIM_FAST][1].tag, PLIM_TAG_DEQUANT);
    cr_expect_eq(peak.holders[PLIM_FAST][1].bytes, 700);
    cr_expect_str_eq(peak.holders[PLIM_FAST][1].scope, "layers.1.mlp");
    cr_expect_str_eq(peak.holders[PLIM_FAST][1].site, "take_scratch");
    cr_expect_eq(peak.held[PLIM_SLOW].bytes[PLIM_TAG_HESSIAN], 5000);
    cr_expect_eq(peak.change_count, 8);
    trace_peak_release(&peak);
}

/* Allocations, resizes and releases at random; some before the trace begins. */
Test(trace, reading_gives_the_pools_own_peak)
{
    struct plim_pool *pool = NULL;
    struct plim_pool_stats stats;
    struct plim_random random;
    struct trace_peak peak;
    void *blocks[32] = { NULL };

    plim_random_seed(&random, 3, 0);
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    for (int step = 0; step < 3000; step++) {
        size_t i = plim_random_below(&random, 32), bytes = plim_random_below(&random, 50000);
        enum plim_tag tag = (enum plim_tag)plim_random_below(&random, PLIM_TAG_WEIGHTS_MAPPED);
        char scope[32];

        if (step == 10)
            cr_assert_eq(plim_pool_trace_start(pool, path, &err), 0);
        snprintf(scope, sizeof scope, "layers.%llu", (unsigned long long)plim_random_below(&random, 40));
        plim_pool_set_scope(pool, scope);
        if (!blocks[i]) {
            blocks[i] = plim_pool_alloc(pool, i < 8 ? PLIM_SLOW : PLIM_FAST, tag, bytes, &err);
        } else if (i >= 8 && step % 3) {
            blocks[i] = plim_pool_realloc(pool, tag, blocks[i], bytes, &err);
        } else {
            plim_pool_free(pool, blocks[i]);
            blocks[i] = NULL;
        }
    }
    plim_pool_note_mapped(pool, 1 << 20);
    plim_pool_set_scope(pool, "elsewhere");
    plim_pool_note_mapped(pool, -(1 << 20));
    for (size_t i = 0; i < 32; i++)
        plim_pool_free(pool, blocks[i]);
    plim_pool_stats(pool, &stats);
    close_pool(pool);

    cr_assert_eq(trace_peak_read(&peak, path, &err), 0, "%s", err.message);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        uint64_t held = 0;

        cr_expect_eq(memcmp(&peak.held[tier], &stats.peak[tier], sizeof stats.peak[tier]), 0, "%s tier",
                     plim_tier_name((enum plim_tier)tier));
        cr_expect_str_eq(peak.scope[tier], stats.peak_scope[tier]);
        for (size_t i = 0; i < peak.holder_count[tier]; i++)
            held += peak.holders[tier][i].bytes;
        cr_expect_eq(held, stats.peak[tier].total_bytes, "the holders are all of it");
    }
    trace_peak_release(&peak);
}

Test(trace, a_file_cut_anywhere_is_short_and_not_wrong)
{
    struct trace_peak peak;
    char *data;
    size_t bytes;

    record(path, 700);
    cr_assert_eq(plim_read_file(path, 1 << 20, &data, &bytes, &err), 0);
    for (size_t cut = 0; cut < bytes; cut++) {
        struct plim_err why = PLIM_ERR_INIT;

        cr_assert_eq(plim_write_file(path, data, cut, &err), 0);
        if (trace_peak_read(&peak, path, &why) == 0)
            cr_expect(!peak.complete, "cut at %zu of %zu", cut, bytes);
        else
            cr_expect_eq(why.kind, PLIM_ERR_INPUT, "%s", why.message);
        trace_peak_release(&peak);
    }
    free(data);
}

/* Any answer will do, but for a crash, a leak or another kind of error. */
Test(trace, a_file_with_wrong_bytes_is_refused_or_read)
{
    struct plim_random random;
    size_t bytes, refused = 0;
    char *data;

    record(path, 700);
    plim_random_seed(&random, 11, 0);
    cr_assert_eq(plim_read_file(path, 1 << 20, &data, &bytes, &err), 0);
    for (int i = 0; i < 300; i++) {
        size_t at = plim_random_below(&random, bytes);
        char right = data[at];
        struct plim_err why = PLIM_ERR_INIT;
        struct trace_peak peak;

        data[at] = (char)plim_random_u64(&random);
        cr_assert_eq(plim_write_file(path, data, bytes, &err), 0);
        if (trace_peak_read(&peak, path, &why) < 0) {
            cr_expect_eq(why.kind, PLIM_ERR_INPUT, "%s", why.message);
            refused++;
        }
        trace_peak_release(&peak);
        data[at] = right;
    }
    cr_expect_gt(refused, 30);
    free(data);
}

/* ---- diff ---- */

Test(trace, a_planted_buffer_is_named)
{
    char other[] = "/tmp/plimsoll-trace-XXXXXX";
    struct trace_peak before, after;
    struct memory_diff diff;
    cJSON *root, *item;
    char *text;

    close(mkstemp(other));
    record(path, 700);
    record(other, 701);
    cr_assert_eq(trace_peak_read(&before, path, &err), 0);
    cr_assert_eq(trace_peak_read(&after, other, &err), 0);

    cr_assert_eq(memory_diff_make(&diff, &before, &before, &err), 0);
    cr_expect(!memory_diff_grew(&diff));
    cr_expect_eq(diff.row_count[PLIM_FAST], 0);
    memory_diff_release(&diff);

    cr_assert_eq(memory_diff_make(&diff, &after, &before, &err), 0);
    cr_expect(!memory_diff_grew(&diff), "it fell");
    memory_diff_release(&diff);

    cr_assert_eq(memory_diff_make(&diff, &before, &after, &err), 0);
    cr_expect(memory_diff_grew(&diff), "one byte is growth");
    cr_assert_eq(diff.row_count[PLIM_FAST], 3, "a tag, a module and a site; what is equal is left out");
    cr_expect_str_eq(diff.rows[PLIM_FAST][0].name, "dequant");
    cr_expect_str_eq(diff.rows[PLIM_FAST][1].name, "layers.1.mlp");
    cr_expect_str_eq(diff.rows[PLIM_FAST][2].name, "dequant in layers.1.mlp, by take_scratch");
    cr_expect_eq(diff.rows[PLIM_FAST][2].after - diff.rows[PLIM_FAST][2].before, 1);

    text = memory_diff_format(&diff, &err);
    root = cJSON_Parse(text);
    cr_expect(cJSON_IsTrue(cJSON_GetObjectItem(root, "grew")));
    item = cJSON_GetArrayItem(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "fast"), "sites"), 0);
    cr_assert_not_null(item);
    cr_expect_eq(cJSON_GetObjectItem(item, "after_bytes")->valuedouble, 701);
    cJSON_Delete(root);
    free(text);
    memory_diff_release(&diff);
    trace_peak_release(&before);
    trace_peak_release(&after);
    unlink(other);
}

/* ---- plot ---- */

/* The highest stack in the data is the peak, though the image has far fewer columns than the trace has changes. */
Test(trace, a_plot_loses_no_peak)
{
    char directory[] = "/tmp/plimsoll-plot-XXXXXX", file[64];
    struct plim_pool *pool = traced_pool(path);
    struct memory_plot plot = { .trace = path, .directory = mkdtemp(directory), .name = "m", .formats = "png" };
    size_t bytes;
    char *data, *line, *rest;
    double highest = 0;

    for (int i = 0; i < 20000; i++)
        plim_pool_free(pool, take_scratch(pool, i == 7777 ? 54321 : 100));
    close_pool(pool);
    cr_assert_eq(memory_plot_write(&plot, &err), 0, "%s", err.message);
    snprintf(file, sizeof file, "%s/m.tsv", directory);
    cr_assert_eq(plim_read_file(file, 1 << 22, &data, &bytes, &err), 0);
    rest = data;
    while ((line = strsep(&rest, "\n"))) {
        const char *last = strrchr(line, '\t');

        if (last && strtod(last, NULL) > highest)
            highest = strtod(last, NULL);
    }
    cr_expect_eq(highest, 54321);
    free(data);
    unlink(file);
    snprintf(file, sizeof file, "%s/m.gp", directory);
    unlink(file);
    rmdir(directory);
}

/* ---- a real worker ---- */

static void run_case(const char *trace, struct result_case *out)
{
    struct process_executor processes = { PLIMSOLL_PROGRAM };
    struct executor executor = process_executor(&processes);
    struct execution execution = { .timeout_ns = 60 * (uint64_t)1000000000 };
    struct case_request request = { .id = strdup("tiny"), .repeats = 2,
                                    .model_directory = strdup(PLIMSOLL_SOURCE "/engine/tests/data/exl2-llama-tiny/exl2-4.0"),
                                    .trace_path = trace ? strdup(trace) : NULL };

    *out = (struct result_case){ 0 };
    request.workload = workload_find("prefill", &err);
    plim_parameters_default(&request.parameters);
    cr_assert_eq(plim_parameters_set(&request.parameters, "cpu_threads", "1", &err), 0);
    cr_assert_eq(arguments_default(request.workload, &request.arguments, &err), 0);
    cr_assert_eq(argument_set(request.workload, &request.arguments, "prompt_tokens", "64", &err), 0);
    cr_assert_eq(executor.run_case(executor.context, &request, &execution, out, &err), 0, "%s", err.message);
    cr_assert_eq(out->outcome, OUTCOME_OK, "%s", out->detail);
    case_request_release(&request);
}

Test(trace, exact_metrics_are_the_same_with_and_without)
{
    struct result_case with, without;
    struct trace_peak peak;
    size_t compared = 0;

    run_case(path, &with);
    run_case(NULL, &without);
    cr_assert_eq(with.metric_count, without.metric_count);
    for (size_t i = 0; i < with.metric_count; i++) {
        const struct metric *a = &with.metrics[i], *b = case_find_metric(&without, a->name);

        if (a->class != METRIC_EXACT || a->sample_count == 0)
            continue;
        cr_assert_not_null(b);
        cr_expect_eq(memcmp(a->samples, b->samples, a->sample_count * sizeof *a->samples), 0, "%s", a->name);
        compared++;
    }
    cr_expect_gt(compared, 10);
    cr_assert_eq(trace_peak_read(&peak, path, &err), 0, "%s", err.message);
    cr_expect_eq((double)peak.held[PLIM_FAST].total_bytes,
                 metric_median(case_find_metric(&with, "peak_requested_fast_bytes")));
    trace_peak_release(&peak);
    case_release(&with);
    case_release(&without);
}
