/* The protocol: what is sent arrives, and nothing that arrives is trusted. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"
#include "protocol.h"

/* ---- round trips ---- */

Test(protocol, a_case_request_arrives_as_it_was_sent)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct case_request sent = { .repeats = 3, .warmup = 1 };
    struct request got;
    char *line;

    sent.id = strdup("tiny/decode/low_mem=on");
    sent.model_directory = strdup("models/t\xc3\xa4st \"x\"");
    sent.workload = workload_find("decode", &err);
    plim_parameters_default(&sent.parameters);
    cr_assert_eq(plim_parameters_set(&sent.parameters, "max_dq_size", "1Mi", &err), 0);
    cr_assert_eq(plim_parameters_set(&sent.parameters, "blas_core", "Haswell", &err), 0);
    cr_assert_eq(arguments_default(sent.workload, &sent.arguments, &err), 0);
    cr_assert_eq(argument_set(sent.workload, &sent.arguments, "decode_tokens", "7", &err), 0);
    line = request_format_case(&sent, &err);
    cr_assert_not_null(line);
    cr_expect_null(strchr(line, '\n'));

    cr_assert_eq(request_parse(&got, line, strlen(line), &err), 0, "%s", err.message);
    cr_expect_eq(got.kind, REQUEST_CASE);
    cr_expect_str_eq(got.run.id, sent.id);
    cr_expect_str_eq(got.run.model_directory, sent.model_directory);
    cr_expect_eq(got.run.workload, sent.workload);
    cr_expect_eq(memcmp(&got.run.parameters, &sent.parameters, sizeof sent.parameters), 0);
    cr_expect_eq(argument_count(&got.run.arguments, "decode_tokens"), 7);
    cr_expect_eq(got.run.arguments.count, sent.arguments.count);
    cr_expect_eq(got.run.repeats, 3);
    cr_expect_eq(got.run.warmup, 1);
    request_release(&got);
    case_request_release(&sent);
    free(line);
}

static struct message round_trip(const struct message *sent)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct message got;
    char *line = message_format(sent, &err);

    cr_assert_not_null(line, "%s", err.message);
    cr_expect_null(strchr(line, '\n'));
    cr_assert_eq(message_parse(&got, line, strlen(line), &err), 0, "%s: %s", line, err.message);
    cr_expect_eq(got.kind, sent->kind);
    free(line);
    return got;
}

Test(protocol, metrics_arrive_with_every_bit_of_their_samples)
{
    double samples[] = { 1.0 / 3, 9007199254740991.0, 0, 1e-300, 51.25 };
    struct message sent = { .kind = MESSAGE_METRIC,
                            .metric = { .name = (char[]){ "token_time_ns" }, .unit = (char[]){ "ns" },
                                        .class = METRIC_TIMING, .direction = DIRECTION_LOWER, .samples = samples,
                                        .sample_count = 5 } };
    struct message got = round_trip(&sent);

    cr_assert_eq(got.metric.sample_count, 5);
    cr_expect_eq(memcmp(got.metric.samples, samples, sizeof samples), 0);
    cr_expect_eq(got.metric.class, METRIC_TIMING);
    cr_expect_eq(got.metric.direction, DIRECTION_LOWER);
    cr_expect_str_eq(got.metric.unit, "ns");
    message_release(&got);
}

Test(protocol, digests_facts_errors_and_ends_arrive)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct message digest = { .kind = MESSAGE_METRIC, .metric = { .name = (char[]){ "logits_digest" }, .unit = (char[]){ "" },
                                                                  .direction = DIRECTION_NONE } };
    struct message facts = { .kind = MESSAGE_FACTS, .section = SECTION_REFUSAL };
    struct message error = { .kind = MESSAGE_ERROR, .error = PLIM_ERR_MEMORY, .text = (char[]){ "no \"room\"" } };
    struct message done = { .kind = MESSAGE_DONE, .work_ns = 123456789012345 };
    struct message got;

    cr_assert_eq(metric_set_text(&digest.metric, "9f", "avx2/Zen/2", &err), 0);
    got = round_trip(&digest);
    cr_expect_str_eq(got.metric.texts.items[0].name, "avx2/Zen/2");
    cr_expect_str_eq(got.metric.texts.items[0].text, "9f");
    message_release(&got);
    facts_release(&digest.metric.texts);

    cr_assert_eq(facts_set_text(&facts.facts, "tag", "kv_cache", &err), 0);
    cr_assert_eq(facts_set_number(&facts.facts, "requested_bytes", 4096, &err), 0);
    got = round_trip(&facts);
    cr_expect_eq(got.section, SECTION_REFUSAL);
    cr_expect_str_eq(facts_find(&got.facts, "tag")->text, "kv_cache");
    cr_expect_eq(facts_find(&got.facts, "requested_bytes")->number, 4096);
    message_release(&got);
    facts_release(&facts.facts);

    got = round_trip(&error);
    cr_expect_eq(got.error, PLIM_ERR_MEMORY);
    cr_expect_str_eq(got.text, "no \"room\"");
    message_release(&got);
    got = round_trip(&done);
    cr_expect_eq(got.work_ns, 123456789012345);
    message_release(&got);
}

/* ---- hostile lines ---- */

static const char *const bad_messages[] = {
    "",
    "hello",
    "null",
    "[]",
    "{}",
    "{\"message\":\"hullo\"}",
    "{\"message\":5}",
    "{\"message\":\"hello\",\"protocol\":1}",
    "{\"message\":\"hello\",\"protocol\":2,\"version\":\"1\",\"revision\":\"x\"}",
    "{\"message\":\"hello\",\"protocol\":-1,\"version\":\"1\",\"revision\":\"x\"}",
    "{\"message\":\"done\"}",
    "{\"message\":\"done\",\"work_ns\":1e300}",
    "{\"message\":\"done\",\"work_ns\":1.5}",
    "{\"message\":\"done\",\"work_ns\":1,\"extra\":1}",
    "{\"message\":\"done\",\"work_ns\":1}{\"message\":\"done\",\"work_ns\":1}",
    "{\"message\":\"error\",\"kind\":\"unheard\",\"text\":\"\"}",
    "{\"message\":\"facts\",\"section\":\"elsewhere\",\"facts\":{}}",
    "{\"message\":\"facts\",\"section\":\"machine\",\"facts\":{\"a\":[]}}",
    "{\"message\":\"facts\",\"section\":\"machine\",\"facts\":{\"a\":1e999}}",
    "{\"message\":\"progress\",\"done\":1,\"total\":4}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\"}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[1,\"2\"]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[1e999]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[NaN]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[1],\"text\":\"9\"}",
    "{\"message\":\"metric\",\"name\":\"../x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[1]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"best\",\"direction\":\"none\",\"samples\":[1]}",
    "{\"message\":\"metric\",\"name\":\"x\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"text\":\"9\"}",
    "{\"message\":\"metric\",\"name\":\"\xff\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"samples\":[1]}",
};

Test(protocol, refuses_every_line_that_breaks_the_rules)
{
    for (size_t i = 0; i < sizeof bad_messages / sizeof bad_messages[0]; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct message message;

        cr_expect_eq(message_parse(&message, bad_messages[i], strlen(bad_messages[i]), &err), -1, "accepted: %s",
                     bad_messages[i]);
        cr_expect_neq(err.kind, PLIM_ERR_NONE);
        message_release(&message);
    }
}

Test(protocol, a_line_of_ten_thousand_brackets_does_not_exhaust_the_stack)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct message message;
    char *line = malloc(1000000);

    memset(line, '[', 1000000);
    cr_expect_eq(message_parse(&message, line, 1000000, &err), -1);
    free(line);
}

static const char *const bad_requests[] = {
    "",
    "{}",
    "{\"protocol\":2,\"request\":\"machine\",\"yardsticks\":true}",
    "{\"protocol\":1,\"request\":\"machine\"}",
    "{\"protocol\":1,\"request\":\"dance\"}",
    "{\"protocol\":1,\"request\":\"case\",\"id\":\"x\",\"workload\":\"fault\",\"parameters\":{},\"arguments\":{},\"repeats\":1,\"warmup\":0}",
    "{\"protocol\":1,\"request\":\"case\",\"id\":\"x\",\"workload\":\"load\",\"parameters\":{},\"arguments\":{},\"repeats\":1,\"warmup\":0}",
    "{\"protocol\":1,\"request\":\"case\",\"id\":\"x\",\"workload\":\"null\",\"parameters\":{\"a\":\"1\"},\"arguments\":{},\"repeats\":1,\"warmup\":0}",
    "{\"protocol\":1,\"request\":\"case\",\"id\":\"x\",\"workload\":\"null\",\"parameters\":{},\"arguments\":{\"a\":1},\"repeats\":1,\"warmup\":0}",
    "{\"protocol\":1,\"request\":\"case\",\"id\":\"x\",\"workload\":\"null\",\"parameters\":{},\"arguments\":{},\"repeats\":0,\"warmup\":0}",
};

Test(protocol, a_worker_refuses_requests_that_break_the_rules)
{
    for (size_t i = 0; i < sizeof bad_requests / sizeof bad_requests[0]; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct request request;

        cr_expect_eq(request_parse(&request, bad_requests[i], strlen(bad_requests[i]), &err), -1, "accepted: %s",
                     bad_requests[i]);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
        request_release(&request);
    }
}

/* ---- conversations ---- */

#define HELLO "{\"message\":\"hello\",\"protocol\":1,\"version\":\"0\",\"revision\":\"x\"}"
#define DONE "{\"message\":\"done\",\"work_ns\":5}"
#define METRIC(class, unit, value)                                                                                     \
    "{\"message\":\"metric\",\"name\":\"m\",\"unit\":\"" unit "\",\"class\":\"" class                                  \
    "\",\"direction\":\"none\",\"samples\":[" value "]}"
#define DIGEST(text)                                                                                                   \
    "{\"message\":\"metric\",\"name\":\"d\",\"unit\":\"\",\"class\":\"exact\",\"direction\":\"none\",\"key\":\"any\","     \
    "\"text\":\"" text "\"}"

/* Feeds lines up to NULL; returns how many were taken. */
static size_t feed(struct conversation *c, const char *const *lines, struct plim_err *err)
{
    size_t taken = 0;

    while (lines[taken] && conversation_line(c, lines[taken], strlen(lines[taken]), err) == 0)
        taken++;
    return taken;
}

Test(conversation, samples_of_repeats_come_together)
{
    static const char *const lines[] = { HELLO, METRIC("timing", "ns", "1,2"), METRIC("timing", "ns", "3"), DIGEST("9f"),
                                         DIGEST("9f"), DONE, NULL };
    struct plim_err err = PLIM_ERR_INIT;
    struct result_case report = { 0 };
    struct conversation c = { .report = &report };

    cr_assert_eq(feed(&c, lines, &err), 6, "%s", err.message);
    cr_expect(c.ended && !c.failed);
    cr_expect_eq(c.work_ns, 5);
    cr_expect_eq(case_find_metric(&report, "m")->sample_count, 3);
    cr_expect_eq(case_find_metric(&report, "d")->texts.count, 1);
    cr_expect_eq(report_check_exact(&report, &err), 0);
    case_release(&report);
    conversation_release(&c);
}

Test(conversation, exact_metrics_that_change_between_repeats_are_not_deterministic)
{
    static const char *const lines[] = { HELLO, METRIC("exact", "", "7"), METRIC("exact", "", "8"), DONE, NULL };
    struct plim_err err = PLIM_ERR_INIT;
    struct result_case report = { 0 };
    struct conversation c = { .report = &report };

    cr_assert_eq(feed(&c, lines, &err), 4, "%s", err.message);
    cr_expect_eq(report_check_exact(&report, &err), -1);
    cr_expect_str_eq(err.message, "nondeterministic: m is 7 and then 8");
    case_release(&report);
    conversation_release(&c);
}

Test(conversation, refuses_messages_out_of_order_and_contradictions)
{
    static const char *const sequences[][4] = {
        { DONE, NULL },
        { HELLO, HELLO, NULL },
        { HELLO, DONE, METRIC("exact", "", "7"), NULL },
        { HELLO, METRIC("exact", "", "7"), METRIC("timing", "", "7"), NULL },
        { HELLO, METRIC("exact", "", "7"), METRIC("exact", "ns", "7"), NULL },
        { HELLO, DIGEST("9f"), DIGEST("a0"), NULL },
        { HELLO, "{\"message\":\"facts\",\"section\":\"yardsticks\",\"facts\":{}}", NULL },
    };

    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct result_case report = { 0 };
        struct conversation c = { .report = &report };
        size_t taken = feed(&c, sequences[i], &err), length = 0;

        while (sequences[i][length])
            length++;
        cr_expect_eq(taken, length - 1, "sequence %zu: %zu of %zu taken", i, taken, length);
        case_release(&report);
        conversation_release(&c);
    }
}
