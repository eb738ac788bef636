#include "workload_support.h"

#include <stdlib.h>
#include <string.h>

#define MINUTE_NS ((uint64_t)60 * 1000000000)

static void set(struct case_request *request, const char *name, const char *value)
{
    struct plim_err err = PLIM_ERR_INIT;
    int rc = workload_argument(request->workload, name)
                 ? argument_set(request->workload, &request->arguments, name, value, &err)
                 : plim_parameters_set(&request->parameters, name, value, &err);

    cr_assert_eq(rc, 0, "%s", err.message);
}

static void run_times(const struct wanted *wanted, int repeats, int warmup, struct result_case *out)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct process_executor processes = { PLIMSOLL_PROGRAM };
    struct executor executor = process_executor(&processes);
    struct execution execution = { .timeout_ns = 10 * MINUTE_NS };   /* a sanitized conversion, a crowded machine */
    struct case_request request = { .id = strdup(wanted->workload), .repeats = repeats, .warmup = warmup };

    *out = (struct result_case){ 0 };
    request.model_directory = wanted->model ? strdup(wanted->model) : NULL;
    request.workload = workload_find(wanted->workload, &err);
    cr_assert_not_null(request.workload, "%s", err.message);
    plim_parameters_default(&request.parameters);
    cr_assert_eq(arguments_default(request.workload, &request.arguments, &err), 0);
    set(&request, "cpu_threads", "2");
    set(&request, "dq_rows", "32");   /* so that a prompt expands weights */
    for (size_t i = 0; wanted->settings[i][0]; i++)
        set(&request, wanted->settings[i][0], wanted->settings[i][1]);
    cr_assert_eq(executor.run_case(executor.context, &request, &execution, out, &err), 0, "%s", err.message);
    case_request_release(&request);
}

void run_wanted(const struct wanted *wanted, struct result_case *out)
{
    run_times(wanted, 2, 1, out);
}

static void expect_ok(const struct wanted *wanted, const struct result_case *c)
{
    cr_assert_eq(c->outcome, OUTCOME_OK, "%s: %s: %s", wanted->workload, outcome_name(c->outcome), c->detail);
}

void run_ok(const struct wanted *wanted, struct result_case *out)
{
    run_wanted(wanted, out);
    expect_ok(wanted, out);
}

void run_once(const struct wanted *wanted, struct result_case *out)
{
    run_times(wanted, 1, 0, out);
    expect_ok(wanted, out);
}

double value(const struct result_case *c, const char *name)
{
    const struct metric *metric = case_find_metric(c, name);

    cr_assert_not_null(metric, "no %s", name);
    cr_assert_gt(metric->sample_count, 0);
    return metric->samples[0];
}

const char *digest(const struct result_case *c, const char *name)
{
    const struct metric *metric = case_find_metric(c, name);

    cr_assert_not_null(metric, "no %s", name);
    cr_assert_eq(metric->texts.count, 1);
    return metric->texts.items[0].text;
}
