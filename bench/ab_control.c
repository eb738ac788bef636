#include "ab_control.h"

#include <string.h>

static int run_planted(void *context, const struct case_request *request, const struct execution *execution,
                       struct result_case *out, struct plim_err *err)
{
    const struct planting *planting = context;
    struct case_request planted = *request;   /* borrows all that the request owns */

    planted.control = planting->control;
    return planting->inner.run_case(planting->inner.context, &planted, execution, out, err);
}

static int describe_machine(void *context, bool yardsticks, struct result *out, struct plim_err *err)
{
    const struct planting *planting = context;

    return planting->inner.describe_machine(planting->inner.context, yardsticks, out, err);
}

struct executor planting_executor(struct planting *planting)
{
    return (struct executor){ .run_case = run_planted, .describe_machine = describe_machine, .context = planting };
}

int control_suite(struct suite *suite, struct plim_err *err)
{
    /* The median of many repeats of about a millisecond: on a crowded machine a longer one rarely ends without losing its
     * core for a while. 10% is enough to be looked for where 25% is planted, and spares pairs. */
    static const char text[] =
        "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"controls\","
        "  \"defaults\": { \"repeats\": 15, \"warmup\": 1, \"timeout_s\": 60, \"gate\": { \"timing\": { \"relative\": 0.1 } } },"
        "  \"cases\": [ { \"name\": \"delay\", \"workload\": { \"kind\": \"spin\", \"steps\": \"500K\" } },"
        "               { \"name\": \"page\", \"workload\": { \"kind\": \"spin\", \"steps\": \"10K\" } } ] }";

    return suite_parse(suite, "controls", text, strlen(text), err);
}
