/* The workloads with a real model in real workers: what each measures, and that it adds up. */

#include <criterion/criterion.h>
#include <math.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/pool.h"
#include "workload_support.h"

/* ---- every workload ---- */

static const struct wanted all[] = {
    { "load", EXL2, { { NULL } } },
    { "load", DENSE, { { NULL } } },
    { "prefill", EXL2, { { "prompt_tokens", "80" }, { "max_dq_size", "4Ki" }, { "sgemm_reference", "on" } } },
    { "prefill", DENSE, { { "prompt_tokens", "80" }, { "max_dq_size", "4Ki" } } },
    { "prefill", EXL2, { { "prompt_tokens", "40" }, { "past_tokens", "100" }, { "max_input_len", "32" } } },
    { "prefill", EXL2, { { "prompt_tokens", "80" }, { "dq_mode", "gated" }, { "max_dq_size", "4Ki" } } },
    { "decode", EXL2, { { "prompt_tokens", "8" }, { "decode_tokens", "16" } } },
    { "decode", DENSE, { { "prompt_tokens", "8" }, { "decode_tokens", "16" }, { "context_tokens", "100" } } },
    { "generate", EXL2, { { "prompt_tokens", "8" }, { "max_tokens", "16" }, { "temperature", "0.9" }, { "top_k", "20" } } },
    { "generate", EXL2, { { "prompt", "Hello" }, { "max_tokens", "16" } } },
    { "perplexity", EXL2, { { "tokens", "200" }, { "window", "64" } } },
    { "perplexity", DENSE, { { "text", PLIMSOLL_MODELS_DATA "/README.md" }, { "tokens", "200" }, { "window", "64" } } },
};

Test(workloads, measure_what_was_predicted_and_leak_nothing)
{
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct result_case c;

        run_ok(&all[i], &c);
        cr_expect_eq(value(&c, "prediction_error_bytes"), 0, "%s, %zu: %g bytes", all[i].workload, i,
                     value(&c, "prediction_error_bytes"));
        cr_expect_eq(value(&c, "predicted_peak_bytes"), value(&c, "peak_requested_fast_bytes"));
        cr_expect_eq(value(&c, "leaked_blocks"), 0);
        cr_expect_gt(value(&c, "peak_rss_bytes"), 0);
        cr_expect_geq(value(&c, "peak_reserved_fast_bytes"), value(&c, "peak_requested_fast_bytes"));
        case_release(&c);
    }
}

Test(workloads, tags_at_the_peak_add_up_to_the_peak)
{
    struct result_case c;
    double sum = 0;

    run_ok(&all[2], &c);
    for (size_t i = 0; i < c.metric_count; i++)
        if (strncmp(c.metrics[i].name, "at_peak_", 8) == 0 && !strstr(c.metrics[i].name, "weights_mapped"))
            sum += c.metrics[i].samples[0];
    cr_expect_eq(sum, value(&c, "peak_requested_fast_bytes"));
    case_release(&c);
}

Test(workloads, prefill_reports_speed_and_work)
{
    struct result_case c;

    run_ok(&all[2], &c);
    cr_expect_eq(case_find_metric(&c, "prefill_tokens_per_s")->sample_count, 2);
    cr_expect_gt(value(&c, "prefill_tokens_per_s"), 0);
    cr_expect_gt(value(&c, "dequant_chunks"), 0);
    cr_expect_gt(value(&c, "chunked_calls"), 0);
    cr_expect_eq(value(&c, "forward_chunks"), 1);
    cr_expect_leq(value(&c, "peak_dequant_bytes"), 4096 * 4);
    cr_expect_float_eq(value(&c, "sgemm_fraction"), value(&c, "prefill_flops_per_s") / value(&c, "sgemm_flops_per_s"), 1e-9);
    cr_expect_eq(case_find_metric(&c, "peak_rss_bytes")->sample_count, 1, "later repeats hold the yardstick's buffers");
    case_release(&c);
}

Test(workloads, decode_reports_every_token)
{
    struct result_case c;
    const struct metric *times;
    double sum = 0;

    run_ok(&all[6], &c);
    times = case_find_metric(&c, "token_time_ns");
    cr_assert_eq(times->sample_count, 32, "16 of each repeat, none of the warm-up");
    for (size_t i = 0; i < 16; i++)
        sum += times->samples[i];
    cr_expect_leq(sum, 16 / value(&c, "decode_tokens_per_s") * 1e9 * 1.0001);
    cr_expect_gt(value(&c, "weight_bytes_read"), 0);
    times = case_find_metric(&c, "harness_fraction");
    cr_assert_eq(times->sample_count, 2);
    cr_expect_gt(fmin(times->samples[0], times->samples[1]), 0);
    cr_expect_lt(fmin(times->samples[0], times->samples[1]), 0.05, "even of steps of microseconds");
    cr_expect_eq(value(&c, "dequant_chunks"), 0, "one row never expands weights");
    cr_expect_null(case_find_metric(&c, "read_bandwidth_fraction"), "these weights stay in the caches");
    case_release(&c);
}

Test(workloads, the_seed_decides_the_output)
{
    static const struct wanted same = { "decode", EXL2, { { "prompt_tokens", "8" }, { "decode_tokens", "16" } } };
    static const struct wanted other = { "decode", EXL2, { { "prompt_tokens", "8" }, { "decode_tokens", "16" },
                                                           { "seed", "2" } } };
    struct result_case a, b, c;

    run_ok(&same, &a);
    run_ok(&same, &b);
    run_ok(&other, &c);
    cr_expect_str_eq(digest(&a, "output_digest"), digest(&b, "output_digest"));
    cr_expect_str_eq(digest(&a, "logits_digest"), digest(&b, "logits_digest"));
    cr_expect_str_neq(digest(&a, "output_digest"), digest(&c, "output_digest"));
    cr_expect_str_eq(case_find_metric(&a, "output_digest")->texts.items[0].name, "any");
    cr_expect(strchr(case_find_metric(&a, "logits_digest")->texts.items[0].name, '/'));
    case_release(&a);
    case_release(&b);
    case_release(&c);
}

/* Remembers: metadata holds the model's path, so requested bytes once depended on where the models were. */
Test(workloads, requested_bytes_do_not_depend_on_where_the_model_is)
{
    char directory[] = "/tmp/plimsoll-workloads-XXXXXX", link[PATH_MAX];
    struct wanted moved = all[6];
    struct result_case here, there;

    cr_assert_not_null(mkdtemp(directory));
    snprintf(link, sizeof link, "%s/a-model-with-a-name-that-is-much-longer-than-it-would-have-to-be", directory);
    cr_assert_eq(symlink(EXL2, link), 0);
    moved.model = link;
    run_ok(&all[6], &here);
    run_ok(&moved, &there);
    cr_expect_eq(value(&here, "peak_metadata_bytes"), value(&there, "peak_metadata_bytes"));
    cr_expect_eq(value(&here, "peak_requested_fast_bytes"), value(&there, "peak_requested_fast_bytes"));
    unlink(link);
    rmdir(directory);
    case_release(&here);
    case_release(&there);
}

Test(workloads, a_budget_that_is_too_small_is_out_of_memory_with_its_reason)
{
    static const struct wanted wanted = { "prefill", EXL2, { { "prompt_tokens", "80" }, { "memory_budget", "200Ki" } } };
    struct result_case c;

    run_wanted(&wanted, &c);
    cr_assert_eq(c.outcome, OUTCOME_OUT_OF_MEMORY, "%s: %s", outcome_name(c.outcome), c.detail);
    cr_expect_eq(facts_find(&c.refusal, "budget_bytes")->number, 200 << 10);
    cr_expect_not_null(facts_find(&c.refusal, "tag"));
    cr_expect_leq(value(&c, "peak_requested_fast_bytes"), 200 << 10);
    cr_expect_eq(facts_find(&c.refusal, "held_bytes")->number + facts_find(&c.refusal, "requested_bytes")->number > 200 << 10,
                 1);
    case_release(&c);
}

Test(workloads, a_bad_model_and_a_long_prompt_fail_with_one_line)
{
    static const struct wanted nowhere = { "load", "/no/such/model", { { NULL } } };
    static const struct wanted empty = { "load", "/", { { NULL } } };
    static const struct wanted too_long = { "prefill", EXL2, { { "prompt_tokens", "4Ki" } } };
    static const struct wanted no_text = { "perplexity", EXL2, { { "text", "no-such-text" } } };
    const struct {
        const struct wanted *wanted;
        const char *words;
    } bad[] = { { &nowhere, "/no/such/model" }, { &empty, "config.json" }, { &too_long, "2048 positions" },
                { &no_text, "no-such-text" } };

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct result_case c;

        run_wanted(bad[i].wanted, &c);
        cr_expect_eq(c.outcome, OUTCOME_FAILED, "%s", c.detail);
        cr_expect(strstr(c.detail, bad[i].words), "%s", c.detail);
        cr_expect_null(strchr(c.detail, '\n'));
        case_release(&c);
    }
}
