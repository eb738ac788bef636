/* Result files: what is written reads back the same, and what is wrong is refused in one line that says where. */

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "compare_support.h"
#include "plimsoll/file.h"
#include "result.h"

/* ---- writing ---- */

static void fill(struct result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    make_result(result, "smoke", "abacus-2c");
    struct result_case *c = add_case(result, "tiny/prefill/max_dq_size=1Mi");
    cr_assert_eq(facts_set_text(&c->parameters, "max_dq_size", "1Mi", &err), 0);
    add_exact(c, "peak_bytes", 9007199254740991.0);
    add_rate(c, SAMPLES(0.1, 1.0 / 3, DBL_MAX, DBL_TRUE_MIN, 51.25));
    add_digest(c, "avx2/Haswell", "9f3c");
    struct metric *rss = add_bytes(c, "rss_bytes", METRIC_SYSTEM, SAMPLES(4096));
    rss->gate = (struct metric_gate){ GATE_WARN, 0.05, 1048576 };
    c = add_case(result, "tiny/decode");
    c->outcome = OUTCOME_OUT_OF_MEMORY;
    cr_assert_eq(result_set_string(&c->detail, "dequant: \"too much\"\n\xC3\xA9 \xFF", &err), 0);
    cr_assert_eq(facts_set_text(&c->refusal, "tag", "dequant", &err), 0);
    cr_assert_eq(facts_set_number(&c->refusal, "requested_bytes", 4096, &err), 0);
}

Test(result, is_written_one_metric_a_line_in_a_stable_order)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    fill(&result);
    char *text = result_format(&result, &err);
    static const char expected[] =
        "{\n"
        "  \"schema\": { \"name\": \"plimsoll-result\", \"major\": 1, \"minor\": 1 },\n"
        "  \"suite\": { \"name\": \"smoke\", \"digest\": \"00ff\" },\n"
        "  \"started_utc\": \"2026-11-24T07:30:00Z\",\n"
        "  \"complete\": true,\n"
        "  \"machine\": {\n"
        "    \"class\": \"abacus-2c\",\n"
        "    \"facts\": {\n"
        "      \"cpu_model\": \"Abacus 9000\",\n"
        "      \"cores\": 2\n"
        "    }\n"
        "  },\n"
        "  \"recorded\": {\n"
        "    \"load_average\": 0.25\n"
        "  },\n"
        "  \"yardsticks\": {},\n"
        "  \"cases\": [\n"
        "    {\n"
        "      \"id\": \"tiny/prefill/max_dq_size=1Mi\",\n"
        "      \"model\": \"tiny\", \"workload\": \"prefill\",\n"
        "      \"parameters\": { \"max_dq_size\": \"1Mi\" },\n"
        "      \"arguments\": { \"prompt_tokens\": 32 },\n"
        "      \"outcome\": \"ok\", \"detail\": \"\",\n"
        "      \"metrics\": {\n"
        "        \"peak_bytes\": { \"unit\": \"bytes\", \"class\": \"exact\", \"direction\": \"lower\", \"samples\": "
        "[9007199254740991, 9007199254740991] },\n"
        "        \"tokens_per_s\": { \"unit\": \"tokens/s\", \"class\": \"timing\", \"direction\": \"higher\", "
        "\"samples\": [0.1, 0.3333333333333333, 1.7976931348623157e+308, 4.94065645841247e-324, 51.25] },\n"
        "        \"digest\": { \"unit\": \"\", \"class\": \"exact\", \"direction\": \"none\", \"texts\": { "
        "\"avx2/Haswell\": \"9f3c\" } },\n"
        "        \"rss_bytes\": { \"unit\": \"bytes\", \"class\": \"system\", \"direction\": \"lower\", \"gate\": { "
        "\"level\": \"warn\", \"relative\": 0.05, \"absolute\": 1048576 }, \"samples\": [4096] }\n"
        "      }\n"
        "    },\n"
        "    {\n"
        "      \"id\": \"tiny/decode\",\n"
        "      \"model\": \"tiny\", \"workload\": \"prefill\",\n"
        "      \"parameters\": {},\n"
        "      \"arguments\": { \"prompt_tokens\": 32 },\n"
        "      \"outcome\": \"out_of_memory\", \"detail\": \"dequant: \\\"too much\\\"\\n\xC3\xA9 \xEF\xBF\xBD\",\n"
        "      \"refusal\": { \"tag\": \"dequant\", \"requested_bytes\": 4096 },\n"
        "      \"metrics\": {}\n"
        "    }\n"
        "  ]\n"
        "}\n";
    cr_assert_str_eq(text, expected);
    free(text);
    result_release(&result);
}

Test(result, reads_back_to_the_same_text_and_the_same_bits)
{
    struct result result, again;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("result.json");
    fill(&result);
    cr_assert_eq(result_write(&result, path, &err), 0, "%s", err.message);
    cr_assert_eq(result_read(&again, path, &err), 0, "%s", err.message);
    char *first = result_format(&result, &err), *second = result_format(&again, &err);
    cr_assert_str_eq(first, second);
    const struct metric *before = case_find_metric(&result.cases[0], "tokens_per_s");
    const struct metric *after = case_find_metric(result_find_case(&again, "tiny/prefill/max_dq_size=1Mi"),
                                                  "tokens_per_s");
    cr_assert_eq(after->sample_count, before->sample_count);
    cr_assert_arr_eq(after->samples, before->samples, before->sample_count * sizeof(double));
    cr_assert_str_eq(again.path, path);
    cr_assert_eq(again.cases[1].outcome, OUTCOME_OUT_OF_MEMORY);
    cr_assert_eq(case_find_metric(&again.cases[0], "rss_bytes")->gate.level, GATE_WARN);
    free(first);
    free(second);
    free(path);
    result_release(&result);
    result_release(&again);
}

Test(result, writing_replaces_the_file_as_a_whole)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("missing-directory/result.json");
    fill(&result);
    cr_assert_lt(result_write(&result, path, &err), 0);
    cr_assert_not_null(strstr(err.message, "missing-directory"), "%s", err.message);
    cr_assert_not(plim_path_exists(path));
    free(path);

    /* No room on the device: the old file stays. */
    path = scratch_path("result.json");
    write_text(path, "old");
    struct rlimit limit = { 100, 100 };
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    plim_err_clear(&err);
    cr_assert_lt(result_write(&result, path, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_SYSTEM);
    char *text = read_text(path);
    cr_assert_str_eq(text, "old");
    free(text);
    free(path);
    result_release(&result);
}

Test(result, refuses_samples_that_json_cannot_hold)
{
    struct result result;
    make_result(&result, "smoke", "abacus");
    struct metric *metric = add_rate(add_case(&result, "a"), SAMPLES(1));
    const double bad[] = { NAN, INFINITY, -INFINITY };
    for (size_t i = 0; i < 3; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        cr_assert_lt(metric_add_sample(metric, bad[i], &err), 0);
        cr_assert_eq(err.kind, PLIM_ERR_INTERNAL);
    }
    cr_assert_eq(metric->sample_count, 1);
    result_release(&result);
}

Test(result, numbers_are_as_short_as_they_can_be)
{
    static const struct {
        double number;
        const char *text;
    } cases[] = { { 0, "0" },      { -3, "-3" },           { 0.1, "0.1" },        { 1e22, "1e+22" },
                  { 51.2, "51.2" }, { 1.0 / 3, "0.3333333333333333" }, { 0.1 + 0.2, "0.30000000000000004" } };
    char text[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(format_number(text, sizeof text, cases[i].number), cases[i].text);
}

Test(result, plain_names_lead_nowhere_else)
{
    cr_assert(result_name_is_plain("max-dq-size_2.1+x"));
    static const char *const bad[] = { "", ".", "..", ".hidden", "a/b", "a b", "a\nb", "\xC3\xA9" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_not(result_name_is_plain(bad[i]), "%s", bad[i]);
}

/* ---- reading what is wrong ---- */

/* A valid document in which each test changes one thing. */
static const char valid[] =
    "{ \"schema\": { \"name\": \"plimsoll-result\", \"major\": 1, \"minor\": 0 },"
    "  \"suite\": { \"name\": \"smoke\", \"digest\": \"1\" }, \"started_utc\": \"now\", \"complete\": true,"
    "  \"machine\": { \"class\": \"abacus\", \"facts\": {} }, \"recorded\": {}, \"yardsticks\": {},"
    "  \"cases\": [ { \"id\": \"a\", \"model\": \"m\", \"workload\": \"w\", \"parameters\": {}, \"arguments\": {},"
    "    \"outcome\": \"ok\", \"detail\": \"\", \"metrics\": {"
    "      \"x\": { \"unit\": \"\", \"class\": \"exact\", \"direction\": \"none\", \"samples\": [1] } } } ] }";

static char *with_change(const char *from, const char *to)
{
    const char *at = strstr(valid, from);
    char *text = NULL;
    cr_assert_not_null(at, "%s", from);
    cr_assert_geq(asprintf(&text, "%.*s%s%s", (int)(at - valid), valid, to, at + strlen(from)), 0);
    return text;
}

static void expect_refusal(const char *text, enum plim_err_kind kind, const char *words)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_lt(result_parse(&result, "r.json", text, strlen(text), &err), 0, "accepted: %s", words);
    cr_assert_eq(err.kind, kind, "%s", err.message);
    cr_assert_not_null(strstr(err.message, words), "\"%s\" has no \"%s\"", err.message, words);
    cr_assert_not_null(strstr(err.message, "r.json"), "%s", err.message);
    cr_assert_eq(result.case_count, 0);
    cr_assert_null(result.suite_name);
}

Test(result, accepts_the_document_that_the_refusals_start_from)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(result_parse(&result, "r.json", valid, strlen(valid), &err), 0, "%s", err.message);
    result_release(&result);
}

Test(result, refuses_what_is_wrong_and_says_where)
{
    static const struct {
        const char *from, *to, *words;
    } cases[] = {
        { "\"complete\"", "\"compleet\"", "compleet" },
        { "\"recorded\": {}", "\"recorded\": []", "recorded" },
        { "\"digest\": \"1\"", "\"digest\": 1", "suite.digest" },
        { "\"name\": \"smoke\"", "\"name\": \"../smoke\"", "suite.name" },
        { "\"class\": \"abacus\"", "\"class\": \"..\"", "machine.class" },
        { "\"id\": \"a\"", "\"id\": \"\"", "cases[0].id" },
        { "\"outcome\": \"ok\"", "\"outcome\": \"okay\"", "cases[0].outcome" },
        { "\"unit\": \"\", ", "", "cases[0].metrics.x.unit" },
        { "\"class\": \"exact\"", "\"class\": \"exakt\"", "exact" },
        { "\"samples\": [1]", "\"samples\": []", "at least one sample" },
        { "\"samples\": [1]", "\"samples\": [1, \"2\"]", "cases[0].metrics.x.samples[1]" },
        { "\"samples\": [1]", "\"samples\": [1e999]", "range" },
        { "\"samples\": [1]", "\"samples\": [1], \"texts\": {\"any\": \"1\"}", "either samples or texts" },
        { "\"samples\": [1]", "\"reason\": \"\"", "either samples or texts" },
        { "\"samples\": [1]", "\"texts\": {}", "at least one text" },
        { "\"samples\": [1]", "\"texts\": {\"any\": 1}", "texts.any" },
        { "\"samples\": [1]", "\"samples\": [1], \"gate\": {\"level\": \"of\"}", "gate.level" },
        { "\"samples\": [1]", "\"samples\": [1], \"gate\": {\"level\": \"off\", \"relative\": -1}", "gate.relative" },
        { "\"cases\": [", "\"cases\": [ 3, ", "cases[0]" },
        { "\"parameters\": {}", "\"parameters\": {\"p\": true}", "parameters.p" },
        { "\"minor\": 0", "\"minor\": 0.5", "schema.minor" },
        { "\"cases\": [ {", "\"cases\": [ { \"id\": \"a\",", "duplicate" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = with_change(cases[i].from, cases[i].to);
        expect_refusal(text, PLIM_ERR_INPUT, cases[i].words);
        free(text);
    }
}

Test(result, refuses_two_cases_of_one_id)
{
    static const char twice[] = "{ \"id\": \"a\", \"model\": \"m\", \"workload\": \"w\", \"parameters\": {}, "
                                "\"arguments\": {}, \"outcome\": \"ok\", \"detail\": \"\", \"metrics\": {} }, {";
    char with_first[400];
    snprintf(with_first, sizeof with_first, "\"cases\": [ %s", twice);
    char *text = with_change("\"cases\": [ {", with_first);
    expect_refusal(text, PLIM_ERR_INPUT, "two cases have the id a");
    free(text);
}

Test(result, another_schema_cannot_be_compared)
{
    char *text = with_change("plimsoll-result", "plimsoll-suite");
    expect_refusal(text, PLIM_ERR_COMPARE, "plimsoll-suite");
    free(text);
    text = with_change("\"major\": 1", "\"major\": 2");
    expect_refusal(text, PLIM_ERR_COMPARE, "version 2.0");
    free(text);
}

static void expect_baseline(const char *metric, const char *words)
{
    struct result read;
    struct plim_err err = PLIM_ERR_INIT;
    char *text = NULL;
    cr_assert_geq(asprintf(&text, "{ \"schema\": { \"name\": \"plimsoll-baseline\", \"major\": 1, \"minor\": 1 },"
                           "\"suite\": { \"name\": \"s\", \"digest\": \"1\" }, \"cases\": [ { \"id\": \"a\","
                           "\"model\": \"\", \"workload\": \"w\", \"arguments\": {}, \"outcome\": \"ok\","
                           "\"detail\": \"\", \"metrics\": { \"m\": { \"unit\": \"\", %s } } } ] }", metric), 0);
    int rc = result_parse(&read, "b.json", text, strlen(text), &err);
    if (*words) {
        cr_assert_eq(rc, -1, "%s was let through", metric);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
        cr_assert_not_null(strstr(err.message, words), "%s: %s", metric, err.message);
    } else {
        cr_assert_eq(rc, 0, "%s", err.message);
        char *first = result_format(&read, &err), *second;
        result_release(&read);
        cr_assert_eq(result_parse(&read, "b.json", first, strlen(first), &err), 0, "%s", err.message);
        second = result_format(&read, &err);
        cr_assert_str_eq(first, second, "what is read is written again");
        free(first);
        free(second);
        result_release(&read);
    }
    free(text);
}

#define EXACT "\"class\": \"exact\", \"direction\": \"lower\", \"samples\": [1], "
#define TIMING "\"class\": \"timing\", \"direction\": \"lower\", \"samples\": [1, 2, 3], "

Test(result, reads_and_checks_allowances_and_runs_of_baselines)
{
    expect_baseline(EXACT "\"allow\": { \"rise\": 4096, \"until\": \"2026-12-31\", \"reason\": \"r\" }", "");
    expect_baseline(EXACT "\"allow\": { \"rise\": 0, \"until\": \"2026-12-31\", \"reason\": \"r\" }", "more than 0");
    expect_baseline(EXACT "\"allow\": { \"rise\": 1, \"until\": \"2026-13-01\", \"reason\": \"r\" }", "expected a day");
    expect_baseline(EXACT "\"allow\": { \"rise\": 1, \"until\": \"soon\", \"reason\": \"r\" }", "expected a day");
    expect_baseline(EXACT "\"allow\": { \"rise\": 1, \"until\": \"2026-12-31\", \"reason\": \"\" }", "a reason");
    expect_baseline(EXACT "\"allow\": { \"rise\": 1, \"until\": \"2026-12-31\" }", "reason");
    expect_baseline(EXACT "\"allow\": { \"bytes\": 1 }", "bytes");
    expect_baseline(TIMING "\"allow\": { \"rise\": 1, \"until\": \"2026-12-31\", \"reason\": \"r\" }", "only an exact");
    expect_baseline(TIMING "\"runs\": [2, 1]", "");
    expect_baseline(TIMING "\"runs\": [2, 2]", "4 samples in all, but there are 3");
    expect_baseline(TIMING "\"runs\": [0, 3]", "runs");
    expect_baseline(TIMING "\"runs\": 3", "runs");
}

Test(result, skips_unknown_keys_of_a_newer_minor_version_only)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *text = with_change("\"minor\": 0 }", "\"minor\": 2 }, \"new_key\": [1]");
    cr_assert_eq(result_parse(&result, "r.json", text, strlen(text), &err), 0, "%s", err.message);
    result_release(&result);
    free(text);
    text = with_change("\"minor\": 0 }", "\"minor\": 0 }, \"new_key\": [1]");
    expect_refusal(text, PLIM_ERR_INPUT, "new_key");
    free(text);
}

Test(result, survives_every_truncation)
{
    for (size_t length = 0; length + 1 < sizeof valid; length++) {
        struct result result;
        struct plim_err err = PLIM_ERR_INIT;
        cr_assert_lt(result_parse(&result, "r.json", valid, length, &err), 0, "%zu bytes were accepted", length);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    }
}

Test(result, a_baseline_has_no_run_and_no_parameters)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result result, baseline;
    fill(&result);
    result.is_baseline = true;
    cr_assert_eq(result_set_string(&case_find_metric(&result.cases[0], "peak_bytes")->reason, "why", &err), 0);
    char *text = result_format(&result, &err);
    cr_assert_null(strstr(text, "started_utc"));
    cr_assert_null(strstr(text, "parameters"));
    cr_assert_null(strstr(text, "load_average"));
    cr_assert_eq(result_parse(&baseline, "b.json", text, strlen(text), &err), 0, "%s", err.message);
    cr_assert(baseline.is_baseline);
    cr_assert_str_eq(baseline.machine_class, "abacus-2c");
    cr_assert_str_eq(case_find_metric(&baseline.cases[0], "peak_bytes")->reason, "why");
    free(text);
    result_release(&result);
    result_release(&baseline);
}
