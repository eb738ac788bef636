/* Suites: what a good one becomes, and what is said about a bad one. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "metrics.h"
#include "plimsoll/file.h"
#include "suite.h"

static void read_full(struct suite *suite)
{
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(suite_read(suite, PLIMSOLL_TEST_DATA "/suites/full.json", &err), 0, "%s", err.message);
}

static const struct suite_case *must_find(const struct suite *suite, const char *id)
{
    const struct suite_case *c = suite_find_case(suite, id);

    cr_assert_not_null(c, "no case %s", id);
    return c;
}

Test(suite, expands_sweeps_in_order_without_what_is_excluded)
{
    static const char *const ids[] = {
        "tiny/prefill/dq_mode=chunked,max_dq_size=256Ki", "tiny/prefill/dq_mode=chunked,max_dq_size=1Mi",
        "tiny/prefill/dq_mode=chunked,max_dq_size=4Mi",   "tiny/prefill/dq_mode=chunked,max_dq_size=16Mi",
        "tiny/prefill/dq_mode=gated,max_dq_size=1Mi",     "tiny/prefill/dq_mode=gated,max_dq_size=4Mi",
        "tiny/prefill/dq_mode=gated,max_dq_size=16Mi",    "tiny/prefill/dq_mode=gated,max_dq_size=64Mi",
        "real/prefill/dq_mode=chunked,max_dq_size=256Ki", "real/prefill/dq_mode=chunked,max_dq_size=1Mi",
        "real/prefill/dq_mode=chunked,max_dq_size=4Mi",   "real/prefill/dq_mode=gated,max_dq_size=1Mi",
        "real/prefill/dq_mode=gated,max_dq_size=4Mi",     "real/prefill/dq_mode=gated,max_dq_size=64Mi",
        "plain/decode/low_mem=off,prompt_tokens=16",      "plain/decode/low_mem=off,prompt_tokens=32",
        "plain/decode/low_mem=off,prompt_tokens=48",      "plain/decode/low_mem=off,prompt_tokens=64",
        "plain/decode/low_mem=on,prompt_tokens=16",       "plain/decode/low_mem=on,prompt_tokens=32",
        "plain/decode/low_mem=on,prompt_tokens=48",       "plain/decode/low_mem=on,prompt_tokens=64",
        "tiny/budget",                                    "nothing",
        "tiny/listed/seed=1",                             "tiny/listed/seed=2",
    };
    struct suite suite;

    read_full(&suite);
    cr_assert_eq(suite.case_count, sizeof ids / sizeof ids[0], "%zu cases", suite.case_count);
    for (size_t i = 0; i < suite.case_count; i++)
        cr_expect_str_eq(suite.cases[i].id, ids[i]);
    suite_release(&suite);
}

Test(suite, cases_carry_what_the_defaults_and_the_entry_say)
{
    struct suite suite;

    read_full(&suite);
    const struct suite_case *c = must_find(&suite, "tiny/prefill/dq_mode=gated,max_dq_size=4Mi");
    cr_expect_eq(c->parameters.count[PLIM_CPU_THREADS], 2);
    cr_expect_eq(c->parameters.count[PLIM_DQ_ROWS], 16);
    cr_expect_eq(c->parameters.count[PLIM_DQ_MODE], PLIM_DQ_GATED);
    cr_expect_eq(c->parameters.count[PLIM_MAX_DQ_SIZE], 4 << 20);
    cr_expect_eq(c->repeats, 5);
    cr_expect_eq(c->warmup, 0);
    cr_expect_float_eq(c->timeout_s, 60.5, 0);
    cr_expect_str_eq(c->note, "a note");
    cr_expect_eq(argument_count(&c->arguments, "prompt_tokens"), 512);
    cr_expect_eq(argument_count(&c->arguments, "past_tokens"), 0);
    cr_expect_str_eq(argument_text(&c->arguments, "sgemm_reference"), "off");

    c = must_find(&suite, "plain/decode/low_mem=on,prompt_tokens=48");
    cr_expect_eq(c->parameters.count[PLIM_LOW_MEM], 1);
    cr_expect_eq(argument_count(&c->arguments, "prompt_tokens"), 48);
    cr_expect_eq(c->repeats, 3);
    cr_expect_eq(must_find(&suite, "tiny/budget")->expect, OUTCOME_OUT_OF_MEMORY);
    cr_expect_eq(must_find(&suite, "nothing")->model, SIZE_MAX);
    suite_release(&suite);
}

Test(suite, made_models_have_directories_that_tell_how_they_were_made)
{
    struct suite suite;

    read_full(&suite);
    cr_assert_eq(suite.model_count, 3);
    cr_expect_str_eq(suite.models[0].directory, "tiny-2l-exl2-4bpw-h6-s7-v1");
    cr_expect_str_eq(suite.models[1].directory, "tiny-dense-s1-v1");
    cr_expect(!suite.models[2].made);
    cr_expect_str_eq(suite.models[2].fetch, "smollm2-135m");
    suite_release(&suite);
}

Test(suite, a_gate_for_a_metric_wins_over_its_class_and_a_case_over_the_defaults)
{
    struct suite suite;

    read_full(&suite);
    const struct suite_case *c = must_find(&suite, "tiny/prefill/dq_mode=chunked,max_dq_size=1Mi");
    struct metric_gate rss = suite_gate_of(c, "peak_rss_bytes", METRIC_SYSTEM);
    cr_expect_eq(rss.level, GATE_WARN);
    cr_expect_float_eq(rss.relative, 0.05, 0);
    cr_expect_float_eq(rss.absolute, 1048576, 0);
    cr_expect_eq(suite_gate_of(c, "prefill_tokens_per_s", METRIC_TIMING).level, GATE_WARN);
    cr_expect_eq(suite_gate_of(c, "dequant_chunks", METRIC_EXACT).level, GATE_FAIL);
    c = must_find(&suite, "nothing");
    cr_expect_eq(suite_gate_of(c, "harness_time_ns", METRIC_TIMING).level, GATE_OFF);
    suite_release(&suite);
}

Test(suite, plots_are_read)
{
    struct suite suite;

    read_full(&suite);
    cr_assert_eq(suite.plot_count, 2);
    const struct suite_plot *curve = &suite.plots[0];
    cr_expect_eq(curve->kind, PLOT_CURVE);
    cr_expect_str_eq(curve->cases, "*/prefill/*");
    cr_expect_str_eq(curve->x, "max_dq_size");
    cr_expect(curve->x_is_log && curve->mark_knee);
    cr_expect_str_eq(curve->y[1], "peak_dequant_bytes");
    cr_expect_null(curve->y[2]);
    cr_expect_str_eq(curve->series[1], "dq_mode");
    cr_expect_eq(suite.plots[1].kind, PLOT_TAG_BARS);
    cr_expect_str_eq(suite.plots[1].cases, "*");
    cr_expect_str_eq(suite.plots[1].title, "tags");
    suite_release(&suite);
}

Test(suite, values_are_set_in_every_case_that_has_them)
{
    struct suite suite;
    struct plim_err err = PLIM_ERR_INIT;

    read_full(&suite);
    cr_assert_eq(suite_set(&suite, "max_input_len", "64", &err), 0, "%s", err.message);
    cr_expect_eq(must_find(&suite, "nothing")->parameters.count[PLIM_MAX_INPUT_LEN], 64);
    cr_assert_eq(suite_set(&suite, "decode_tokens", "5", &err), 0, "%s", err.message);
    cr_expect_eq(argument_count(&must_find(&suite, "plain/decode/low_mem=on,prompt_tokens=48")->arguments,
                                "decode_tokens"), 5);
    cr_assert_eq(suite_set(&suite, "max_input_ln", "64", &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect(strstr(err.message, "max_input_len"), "%s", err.message);
    suite_release(&suite);
}

/* ---- stability of ids ---- */

#define HEAD "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"s\", " \
             "\"models\": { \"a\": { \"path\": \"a\" }, \"b\": { \"path\": \"b\" } }, "

static int parse(struct suite *suite, const char *text, struct plim_err *err)
{
    return suite_parse(suite, "s.json", text, strlen(text), err);
}

Test(suite, ids_do_not_depend_on_order_spelling_or_neighbours)
{
    static const char one[] = HEAD "\"cases\": [ { \"name\": \"p\", \"model\": \"a\", \"workload\": { \"kind\": \"prefill\" }, "
        "\"sweep\": { \"max_dq_size\": [\"1Mi\", 2097152], \"dq_mode\": [\"gated\"] } } ] }";
    static const char other[] = HEAD "\"cases\": [ { \"name\": \"n\", \"workload\": { \"kind\": \"null\" } }, "
        "{ \"name\": \"p\", \"model\": [\"b\", \"a\"], \"workload\": { \"kind\": \"prefill\" }, \"parameters\": { \"dq_rows\": 3 }, "
        "\"sweep\": { \"dq_mode\": [\"chunked\", \"gated\"], \"max_dq_size\": [\"4Mi\", \"2048Ki\", 1048576] } } ] }";
    struct suite first, second;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(parse(&first, one, &err), 0, "%s", err.message);
    cr_assert_eq(parse(&second, other, &err), 0, "%s", err.message);
    cr_assert_eq(first.case_count, 2);
    for (size_t i = 0; i < first.case_count; i++)
        must_find(&second, first.cases[i].id);
    cr_expect_str_eq(first.cases[0].id, "a/p/dq_mode=gated,max_dq_size=1Mi");
    suite_release(&first);
    suite_release(&second);
}

/* ---- what is refused ---- */

/* Replaces the first occurrence of `from` in the good suite by `to`; the message must hold `path` and `words`. */
struct typo {
    const char *from, *to, *path, *words;
};

static const struct typo typos[] = {
    { "\"major\": 1", "\"major\": 2", "schema.major", "version 2" },
    { "plimsoll-suite", "plimsoll-result", "schema.name", "plimsoll-suite" },
    { "\"description\"", "\"descripton\"", "", "description" },
    { "\"name\": \"full\"", "\"name\": \"../full\"", "name", "letters" },
    { "\"preset\": \"tiny\"", "\"preset\": \"tinny\"", "models.tiny.make.preset", "tiny" },
    { "\"layers\": 2", "\"layers\": 0", "models.tiny.make.layers", "0" },
    { "\"bpw\": 4.0", "\"bpw\": 16", "models.tiny.make.bpw", "2.3 to 8.1" },
    { "\"head_bits\": 6", "\"head_bits\": 7", "models.tiny.make.head_bits", "2, 3, 4, 5, 6 or 8" },
    { "\"format\": \"exl2\"", "\"format\": \"exl3\"", "models.tiny.make.format", "exl2" },
    { "\"path\": \"smollm2-135m\", ", "", "models.real", "make" },
    { "\"fetch\": \"smollm2-135m\"", "\"fetch\": 3", "models.real.fetch", "" },
    { "\"cpu_threads\": 2", "\"cpu_thread\": 2", "defaults.parameters", "cpu_threads" },
    { "\"cpu_threads\": 2", "\"cpu_threads\": 0", "defaults.parameters.cpu_threads", "range" },
    { "\"repeats\": 3", "\"repeats\": 0", "defaults.repeats", "0" },
    { "\"timing\": \"off\"", "\"timing\": \"of\"", "defaults.gate.timing", "off" },
    { "\"timing\": \"off\"", "\"timming\": \"off\"", "defaults.gate", "timing" },
    { "\"model\": [\"tiny\", \"real\"]", "\"model\": [\"tiny\", \"rael\"]", "cases[0].model", "real" },
    { "\"model\": [\"tiny\", \"real\"],", "", "cases[0]", "needs a \"model\"" },
    { "\"kind\": \"prefill\"", "\"kind\": \"prefil\"", "cases[0].workload.kind", "prefill" },
    { "\"prompt_tokens\": 512", "\"promt_tokens\": 512", "cases[0].workload", "prompt_tokens" },
    { "\"prompt_tokens\": 512", "\"prompt_tokens\": 0", "cases[0].workload.prompt_tokens", "1 to" },
    { "\"dq_rows\": 16", "\"kv_cache\": \"q5\"", "cases[0].parameters.kv_cache", "q5" },
    { "\"dq_rows\": 16", "\"max_dq_size\": \"1Mi\"", "cases[0].sweep", "max_dq_size is swept, and fixed" },
    { "\"from\": \"256Ki\"", "\"from\": \"256Ky\"", "cases[0].sweep.max_dq_size.from", "256Ky" },
    { "\"from\": \"256Ki\"", "\"from\": \"32Mi\"", "cases[0].sweep.max_dq_size.to", "33554432" },
    { "\"from\": \"256Ki\"", "\"form\": \"256Ki\"", "cases[0].sweep.max_dq_size", "from" },
    { "\"factor\": 4", "\"factor\": 1", "cases[0].sweep.max_dq_size.factor", "2 or more" },
    { "\"factor\": 4", "\"step\": 1", "cases[0].sweep.max_dq_size", "more than 2000 values" },
    { "[\"chunked\", \"gated\"]", "[\"chunked\", \"chunked\"]", "cases[0].sweep.dq_mode[1]", "twice" },
    { "[\"chunked\", \"gated\"]", "[]", "cases[0].sweep.dq_mode", "empty" },
    { "[\"chunked\", \"gated\"]", "\"gated\"", "cases[0].sweep.dq_mode", "list" },
    { "[\"chunked\", \"gated\"]", "[\"chunked\", \"gate\"]", "cases[0].sweep.dq_mode[1]", "gated" },
    { "\"dq_mode\": [", "\"dq_mod\": [", "cases[0].sweep", "dq_mode" },
    { "\"dq_mode\": [", "\"model\": [", "cases[0].sweep", "list of models" },
    { "\"max_dq_size\": 262144", "\"max_dq_size\": 262145", "cases[0].exclude[0]", "matches no combination" },
    { "\"model\": \"real\", \"max", "\"model\": \"plain\", \"max", "cases[0].exclude[1].model", "plain" },
    { "[ { \"dq_mode\": \"gated\", \"max_dq_size\": \"64Mi\" } ]", "[ { \"dq_mode\": \"gated\", \"max_dq_size\": \"1Mi\" } ]",
      "cases[0]", "second case with the id tiny/prefill/dq_mode=gated,max_dq_size=1Mi" },
    { "\"timeout_s\": 60.5", "\"timeout_s\": 0", "cases[0].timeout_s", "0" },
    { "\"relative\": 0.05", "\"relative\": -1", "cases[0].gate.peak_rss_bytes.relative", "-1" },
    { "\"peak_rss_bytes\"", "\"peak_rs_bytes\"", "cases[0].gate", "peak_rss_bytes" },
    { "\"expect\": \"out_of_memory\"", "\"expect\": \"crashed\"", "cases[2].expect", "" },
    { "{ \"kind\": \"null\" }", "{ \"kind\": \"fault\" }", "cases[3].workload.kind", "unknown workload" },
    { "{ \"kind\": \"null\" }", "{ \"kind\": \"null\", \"x\": 1 }", "cases[3].workload", "no argument \"x\"" },
    { "\"name\": \"nothing\"", "\"name\": \"nothing\", \"model\": \"tiny\"", "cases[3].model", "takes no model" },
    { "\"temperature\": 0.5", "\"temperature\": \"warm\"", "cases[4].workload.temperature", "number" },
    { "\"kind\": \"curve\"", "\"kind\": \"line\"", "plots[0].kind", "" },
    { "\"x\": \"max_dq_size\"", "\"x\": \"max_dq_sise\"", "plots[0].x", "max_dq_size" },
    { "\"x\": \"max_dq_size\"", "\"x\": \"model\"", "plots[0].x", "model" },
    { "\"peak_dequant_bytes\"", "\"peak_dequants_bytes\"", "plots[0].y", "peak_dequant_bytes" },
    { "\"groups\": [\"low_mem\"", "\"groups\": [\"lo_mem\"", "plots[1].groups", "low_mem" },
    { "\"name\": \"tags\"", "\"name\": \"peak\"", "plots[1]", "second plot" },
    { "\"models\": {", "\"models\": [", "", "" },
    { "\"repeats\": 5,", "\"repeats\": 5, \"repeats\": 6,", "", "repeats" },
};

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out = NULL;

    cr_assert_not_null(at, "the suite has no %s", from);
    cr_assert_geq(asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)), 0);
    return out;
}

Test(suite, says_where_a_mistake_is_and_what_was_meant)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *good;
    size_t length;

    cr_assert_eq(plim_read_file(PLIMSOLL_TEST_DATA "/suites/full.json", 1 << 20, &good, &length, &err), 0);
    for (size_t i = 0; i < sizeof typos / sizeof typos[0]; i++) {
        char *bad = replaced(good, typos[i].from, typos[i].to);
        struct suite suite;

        plim_err_clear(&err);
        cr_expect_eq(suite_parse(&suite, "s.json", bad, strlen(bad), &err), -1, "accepted: %s", typos[i].to);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT, "%s: %s", typos[i].to, err.message);
        cr_expect_eq(strncmp(err.message, "s.json: ", 8), 0, "%s", err.message);
        cr_expect(strstr(err.message, typos[i].path) && strstr(err.message, typos[i].words), "%s\n  wanted \"%s\" and \"%s\"",
                  err.message, typos[i].path, typos[i].words);
        cr_expect_null(strchr(err.message, '\n'));
        cr_expect_null(suite.cases);
        suite_release(&suite);
        free(bad);
    }
    free(good);
}

Test(suite, a_file_that_is_missing_is_named)
{
    struct suite suite;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(suite_read(&suite, "no-such-suite", &err), -1);
    cr_expect(strstr(err.message, "suites/no-such-suite.json"), "%s", err.message);
    plim_err_clear(&err);
    cr_assert_eq(suite_read(&suite, "./no-such.json", &err), -1);
    cr_expect(strstr(err.message, "./no-such.json"), "%s", err.message);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
}

/* ---- metrics with a hole in their name ---- */

Test(metrics, tags_and_phases_fill_their_patterns)
{
    static const struct {
        const char *name, *row;
    } known[] = {
        { "peak_hessian_bytes", "peak_TAG_bytes" },
        { "peak_slow_calibration_bytes", "peak_slow_TAG_bytes" },
        { "peak_in_cholesky_bytes", "peak_in_PHASE_bytes" },
        { "peak_slow_in_permute_bytes", "peak_slow_in_PHASE_bytes" },
        { "predicted_in_quantise_bytes", "predicted_in_PHASE_bytes" },
        { "phase_pack_time_ns", "phase_PHASE_time_ns" },
        { "kl_divergence", "kl_divergence" },
    };
    static const char *const unknown[] = { "peak_in_nothing_bytes", "peak_in_PHASE_bytes", "phase_TAG_time_ns",
                                           "phase_weights_time_ns", "peak_in_weights_bytes" };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        cr_assert_not_null(metric_find(known[i].name), "%s", known[i].name);
        cr_expect_str_eq(metric_find(known[i].name)->name, known[i].row);
    }
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        cr_expect_null(metric_find(unknown[i]), "%s", unknown[i]);
    cr_expect_str_eq(metric_nearest("peak_in_cholesty_bytes"), "peak_in_cholesky_bytes");
    cr_expect(metric_is_silent_peak("peak_slow_in_permute_bytes"));
    cr_expect(metric_is_silent_peak("peak_dequant_bytes"));
    cr_expect_not(metric_is_silent_peak("peak_requested_fast_bytes"));
    cr_expect(metric_only_explains("phase_search_time_ns"));
    cr_expect_not(metric_only_explains("quantize_time_ns"));
}
