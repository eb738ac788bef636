#include "threshold.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "interrupt.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"

static const struct threshold_switch switches[] = {
    { .parameter = "dq_rows", .below = "4096", .above = "0", .below_name = "fused", .above_name = "chunked",
      .workload = "prefill", .argument = "prompt_tokens", .metric = "prefill_tokens_per_s", .power = 1, .from = 4, .to = 128 },
    { .parameter = "hessian_offload_threshold", .below = "1Ti", .above = "0", .below_name = "in place",
      .above_name = "slow tier", .workload = "quantize_layer", .settings = { { "method", "factor" }, { "length", "64" } },
      .argument = "in_features", .metric = "phase_permute_time_ns", .metric_is_time = true, .power = 2,
      .peak = "peak_in_permute_bytes", .from = 256, .to = 3072 },
    { .parameter = NULL },
};

const struct threshold_switch *threshold_switches(void)
{
    return switches;
}

const struct threshold_switch *threshold_find(const char *parameter, struct plim_err *err)
{
    const char *names[sizeof switches / sizeof switches[0]] = { NULL };
    const char *nearest;

    for (size_t i = 0; switches[i].parameter; i++) {
        if (strcmp(switches[i].parameter, parameter) == 0)
            return &switches[i];
        names[i] = switches[i].parameter;
    }
    nearest = plim_nearest_name(parameter, names);
    if (nearest)
        plim_err_input(err, "%s is no switch that is known; did you mean %s?", parameter, nearest);
    else
        plim_err_input(err, "%s is no switch between two ways that are timed here; known: %s, %s", parameter, names[0],
                       names[1]);
    return NULL;
}

/* ---- sizes ---- */

/* Evenly spread by ratio, from end to end, without repeats. */
static int choose_sizes(struct threshold *t, const struct threshold_question *q, struct plim_err *err)
{
    double ratio = (double)q->to / (double)q->from;

    t->x = heap_calloc(q->size_count, sizeof *t->x, err);
    if (!t->x)
        return -1;
    for (size_t i = 0; i < q->size_count; i++) {
        double x = round((double)q->from * pow(ratio, (double)i / (double)(q->size_count - 1)));

        if (t->size_count == 0 || x > t->x[t->size_count - 1])
            t->x[t->size_count++] = x;
    }
    if (t->size_count < 3)
        return plim_err_input(err, "from %lld to %lld are too few sizes to fit a curve", (long long)q->from,
                              (long long)q->to);
    return 0;
}

/* ---- runs ---- */

static int fill_request(struct case_request *request, const struct threshold_question *q, int arm, double x,
                        struct plim_err *err)
{
    char size[32];

    *request = (struct case_request){ .parameters = q->parameters, .repeats = 1, .warmup = 1 };
    snprintf(size, sizeof size, "%.0f", x);
    if (!(request->workload = workload_find(q->which->workload, err)) || !(request->id = heap_strdup("threshold", err)) ||
        (q->model_directory && !(request->model_directory = heap_strdup(q->model_directory, err))) ||
        plim_parameters_set(&request->parameters, q->which->parameter, arm ? q->which->above : q->which->below, err) < 0 ||
        arguments_default(request->workload, &request->arguments, err) < 0)
        return -1;
    for (size_t i = 0; q->which->settings[i][0]; i++)
        if (argument_set(request->workload, &request->arguments, q->which->settings[i][0], q->which->settings[i][1],
                         err) < 0)
            return -1;
    return argument_set(request->workload, &request->arguments, q->argument ? q->argument : q->which->argument, size, err);
}

/* The metric's value, which must be above 0. */
static int read_metric(const struct result_case *report, const char *name, double *value, struct plim_err *err)
{
    const struct metric *metric = case_find_metric(report, name);

    if (!metric || !(metric_median(metric) > 0))
        return plim_err_set(err, PLIM_ERR_INTERNAL, "the worker reported no %s", name);
    *value = metric_median(metric);
    return 0;
}

static int time_one(struct threshold *t, const struct threshold_question *q, int arm, size_t size, double *seconds,
                    struct plim_err *err)
{
    struct execution execution = { .timeout_ns = q->timeout_ns };
    struct result_case report = { 0 };
    struct case_request request = { 0 };
    double x = t->x[size], value = 0;
    int rc = fill_request(&request, q, arm, x, err);

    if (rc == 0)
        rc = q->executor->run_case(q->executor->context, &request, &execution, &report, err);
    if (rc == 0 && report.outcome != OUTCOME_OK)
        rc = plim_err_set(err, PLIM_ERR_SYSTEM, "a run at %s %.0f %s: %s", q->which->argument, x,
                          outcome_name(report.outcome), report.detail ? report.detail : "");
    if (rc == 0 && (rc = read_metric(&report, q->which->metric, &value, err)) == 0)
        *seconds = q->which->metric_is_time ? value / 1e9 : x / value;
    if (rc == 0 && q->which->peak)
        rc = read_metric(&report, q->which->peak, &t->peaks[arm][size], err);
    case_release(&report);
    case_request_release(&request);
    return rc;
}

/* Every size both ways, in a new random order: what drifts meanwhile does not favour one arm or one end. */
static int time_round(struct threshold *t, const struct threshold_question *q, size_t round, uint32_t *order,
                      struct plim_random *random, struct plim_err *err)
{
    plim_random_permutation(random, order, 2 * t->size_count);
    for (size_t i = 0; i < 2 * t->size_count; i++) {
        size_t size = order[i] / 2;
        int arm = (int)(order[i] % 2);

        if (interrupt_requested())
            return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
        if (time_one(t, q, arm, size, &t->times[arm][size * t->rounds + round], err) < 0)
            return -1;
    }
    if (q->log)
        fprintf(q->log, "round %zu of %zu: %zu runs\n", round + 1, t->rounds, 2 * t->size_count);
    return 0;
}

static int time_all(struct threshold *t, const struct threshold_question *q, struct plim_err *err)
{
    uint32_t *order = heap_calloc(2 * t->size_count, sizeof *order, err);
    struct plim_random random;
    int rc = order ? 0 : -1;

    plim_random_seed(&random, q->seed, 1);
    for (size_t round = 0; round < t->rounds && rc == 0; round++)
        rc = time_round(t, q, round, order, &random, err);
    free(order);
    return rc;
}

/* ---- the answer ---- */

static int find_default(struct threshold *t, const struct threshold_question *q, struct plim_err *err)
{
    enum plim_parameter parameter;

    if (plim_parameter_find(q->which->parameter, &parameter, err) < 0)
        return -1;
    t->default_value = plim_parameter_row(parameter)->default_count;
    /* dq_rows=auto: on the CPU the fused kernel at every count, which is what the largest value says too. */
    if (t->default_value == -1 && q->parameters.count[PLIM_BACKEND] == PLIM_BACKEND_CPU)
        t->default_value = plim_parameter_row(parameter)->high;
    t->default_size = pow((double)t->default_value, 1 / q->which->power);
    t->default_is_inside = !t->crossing.crosses_backwards && t->default_size >= t->crossing.at.low &&
                           t->default_size <= t->crossing.at.high && isfinite(t->crossing.at.low);
    return 0;
}

int threshold_measure(struct threshold *t, const struct threshold_question *q, struct plim_err *err)
{
    static const struct bootstrap_options bootstrap = { .level = 0.95, .resamples = 2000 };
    struct bootstrap_options seeded = bootstrap;
    struct crossing_data data;

    *t = (struct threshold){ .rounds = q->rounds };
    seeded.seed = q->seed;
    if (choose_sizes(t, q, err) < 0)
        goto failed;
    for (int arm = 0; arm < 2; arm++)
        if (!(t->times[arm] = heap_calloc(t->size_count * t->rounds, sizeof **t->times, err)) ||
            (q->which->peak && !(t->peaks[arm] = heap_calloc(t->size_count, sizeof **t->peaks, err))))
            goto failed;
    data = (struct crossing_data){ t->x, t->size_count, t->rounds, { t->times[0], t->times[1] } };
    if (time_all(t, q, err) < 0 || crossing_find(&data, &seeded, &t->crossing, err) < 0 || find_default(t, q, err) < 0)
        goto failed;
    return 0;

failed:
    threshold_release(t);
    return -1;
}

void threshold_release(struct threshold *t)
{
    free(t->x);
    for (int arm = 0; arm < 2; arm++) {
        free(t->times[arm]);
        free(t->peaks[arm]);
    }
    *t = (struct threshold){ 0 };
}
