/* quantize_layer: one made-up linear layer through the quantizer, without a model. */

#include <stdlib.h>
#include <string.h>

#include "plimsoll/clock.h"
#include "quantize_report.h"

static struct plim_quantize_layer_options options_of(const struct facts *arguments)
{
    const char *method = argument_text(arguments, "method");

    return (struct plim_quantize_layer_options){
        .in_features = (size_t)argument_count(arguments, "in_features"),
        .out_features = (size_t)argument_count(arguments, "out_features"),
        .rows = (size_t)argument_count(arguments, "rows"),
        .length = (size_t)argument_count(arguments, "length"),
        .bits = atoi(argument_text(arguments, "bits")),
        .as_exllamav2 = strcmp(method, "exllamav2") == 0,
        .round_to_nearest = strcmp(method, "rtn") == 0,
        .factor_only = strcmp(method, "factor") == 0,
        .seed = (uint64_t)argument_count(arguments, "seed"),
    };
}

/* All phases but the one in which the layer's numbers are made up. */
static uint64_t worked_ns(const struct plim_quantize_usage *usage)
{
    uint64_t sum = 0;

    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        if (phase != PLIM_QUANTIZE_OTHER)
            sum += usage->phase_ns[phase];
    return sum;
}

static int report_result(struct model_run *m, const struct plim_quantize_layer_options *options,
                         const struct plim_quantize_layer_result *r, struct plim_err *err)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        { "boundary_floor_bytes", (double)r->floor_bytes },
        { "boundary_reserved_bytes", (double)r->reserved_bytes },
        { "peak_reserved_fast_bytes", (double)r->reserved_peak_bytes[PLIM_FAST] },
        { "peak_reserved_slow_bytes", (double)r->reserved_peak_bytes[PLIM_SLOW] },
    };

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (report_number(m, numbers[i].name, numbers[i].value, err) < 0)
            return -1;
    if (!options->round_to_nearest && report_number(m, "damping_attempts", r->damping_attempts, err) < 0)
        return -1;
    if (!options->factor_only && (report_number(m, "quantisation_error", r->error, err) < 0 ||
                                  report_number(m, "bits_per_weight", r->bits_per_weight, err) < 0))
        return -1;
    return report_quantised_digest(m, r->digest, err);
}

int workload_quantize_layer(struct workload_run *run, struct plim_err *err)
{
    struct plim_quantize_layer_options options = options_of(&run->request->arguments);
    struct plim_quantize_layer_result result;
    struct plim_quantize_usage predicted;
    struct plim_pool_stats before;
    struct stopwatch start, spent;
    struct model_run m;
    uint64_t took_ns;
    int rc = -1;

    if (model_run_open_engine(&m, run, err) < 0)
        goto out;
    m.quantizes = true;
    plim_pool_stats(plim_engine_pool(m.engine), &before);
    start = stopwatch_start(&m);
    if (plim_quantize_layer(m.engine, &options, &result, err) < 0)
        goto out;
    took_ns = plim_now_ns() - start.wall_ns;
    spent = stopwatch_stop(&m, &start);
    if (plim_quantize_layer_predict(NULL, &run->parameters, &options, &predicted, err) < 0 ||
        report_number(&m, "quantize_time_ns",
                      (double)(worked_ns(&result.usage) + stopwatch_planted_ns(&spent, took_ns)), err) < 0 ||
        report_cpu_time(&m, &spent, err) < 0 || report_usage(&m, &result.usage, err) < 0 ||
        report_usage_prediction(&m, &result.usage, &predicted, before.current, err) < 0)
        goto out;
    rc = report_result(&m, &options, &result, err);

out:
    return model_run_close(&m, rc, err);
}
