/*
 * A suite file. What is accepted has ids that differ, models and workloads that fit, and requests that a worker accepts and
 * reads back the same.
 */

#include <string.h>

#include "fuzz.h"
#include "protocol.h"
#include "suite.h"

static void check_request(const struct suite_case *c)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct case_request sent = { .id = c->id, .workload = c->workload, .parameters = c->parameters,
                                 .arguments = c->arguments, .repeats = c->repeats, .warmup = c->warmup,
                                 .model_directory = c->model == SIZE_MAX ? NULL : c->name };
    struct request got;
    char *line = request_format_case(&sent, &err);

    FUZZ_CLAIM(line && !strchr(line, '\n'));
    FUZZ_CLAIM(request_parse(&got, line, strlen(line), &err) == 0);
    FUZZ_CLAIM(strcmp(got.run.id, c->id) == 0 && got.run.workload == c->workload);
    FUZZ_CLAIM(memcmp(&got.run.parameters, &c->parameters, sizeof c->parameters) == 0);
    FUZZ_CLAIM(got.run.arguments.count == c->arguments.count);
    for (size_t i = 0; i < c->arguments.count; i++) {
        const struct fact *a = &c->arguments.items[i], *b = &got.run.arguments.items[i];

        FUZZ_CLAIM(strcmp(a->name, b->name) == 0 && a->number == b->number);
        FUZZ_CLAIM(!a->text == !b->text && (!a->text || strcmp(a->text, b->text) == 0));
    }
    request_release(&got);
    free(line);
}

static void check_case(const struct suite *suite, const struct suite_case *c)
{
    FUZZ_CLAIM(c->workload->needs_model == (c->model < suite->model_count));
    FUZZ_CLAIM(c->repeats > 0 && c->warmup >= 0 && c->timeout_s > 0);
    FUZZ_CLAIM(suite_find_case(suite, c->id) == c);   /* the first of its id, so the only one */
    for (const struct argument_row *row = c->workload->arguments; row->name; row++)
        FUZZ_CLAIM(facts_find(&c->arguments, row->name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct suite suite;

    if (suite_parse(&suite, "input", (const char *)data, size, &err) < 0) {
        FUZZ_CLAIM(err.kind == PLIM_ERR_INPUT && !strchr(err.message, '\n'));
        FUZZ_CLAIM(suite.case_count == 0 && !suite.name);
        return 0;
    }
    for (size_t i = 0; i < suite.case_count; i++)
        check_case(&suite, &suite.cases[i]);
    for (size_t i = 0; i < suite.case_count && i < 4; i++)
        check_request(&suite.cases[i]);
    suite_release(&suite);
    return 0;
}
