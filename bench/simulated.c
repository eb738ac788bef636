#include "simulated.h"

#include <math.h>

#include "metrics.h"

#define SPIN_NS 5e7

static int add_number(struct result_case *out, const char *name, double value, struct plim_err *err)
{
    struct metric *metric = metric_of_case(out, name, err);

    return metric ? metric_add_sample(metric, value, err) : -1;
}

static double next_logarithm(struct simulated *machine)
{
    uint64_t process_ns = machine->process_ns;
    double logarithm = machine->replay.recording ? replay_next(&machine->replay, &process_ns) : noise_next(&machine->noise);

    machine->now_ns += process_ns;
    return logarithm;
}

static int run_case(void *context, const struct case_request *request, const struct execution *execution,
                    struct result_case *out, struct plim_err *err)
{
    struct simulated *machine = context;
    double bytes = (double)argument_count(&request->arguments, "bytes") + (double)request->control.extra_bytes;
    double time_ns = SPIN_NS * exp(next_logarithm(machine)) * (1 + request->control.delay_fraction);
    struct metric *digest;

    (void)execution;
    out->outcome = OUTCOME_OK;
    if (result_set_string(&out->detail, "", err) < 0 || add_number(out, "spin_time_ns", time_ns, err) < 0 ||
        add_number(out, "peak_requested_fast_bytes", bytes, err) < 0 ||
        add_number(out, "at_peak_workspace_bytes", bytes, err) < 0)
        return -1;
    digest = metric_of_case(out, "output_digest", err);
    return digest ? metric_set_text(digest, "5b1d", NULL, err) : -1;
}

static int describe_machine(void *context, bool yardsticks, struct result *out, struct plim_err *err)
{
    const struct simulated *machine = context;

    (void)yardsticks;
    return facts_set_text(&out->machine, "cpu_model", machine->replay.recording ? "replayed" : machine->noise.model->name, err);
}

uint64_t simulated_now_ns(void *context)
{
    const struct simulated *machine = context;

    return machine->now_ns;
}

struct executor simulated_executor(struct simulated *machine)
{
    return (struct executor){ .run_case = run_case, .describe_machine = describe_machine, .context = machine };
}

static void begin_watch(void *machine)
{
    (void)machine;
}

static bool end_watch(void *context, char *why, size_t size)
{
    const struct simulated *machine = context;

    return machine->replay.recording && replay_was_disturbed(&machine->replay, why, size);
}

struct ab_watch simulated_watch(struct simulated *machine)
{
    return (struct ab_watch){ .begin = begin_watch, .end = end_watch, .context = machine };
}
