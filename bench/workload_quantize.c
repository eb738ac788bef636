/*
 * quantize: a whole model from dense to EXL2, in a directory of its own; then, outside what is measured, how far the result's
 * predictions are from the dense model's.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "measurement_store.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"
#include "quantize_report.h"
#include "scratch.h"
#include "text_ids.h"

/* In the scratch directory. */
#define MODEL "model"
#define CALIBRATION "calibration.safetensors"
#define MEASUREMENT "measurement.json"
#define OUTPUT "out"
#define JOB "job"

struct quantize_run {
    struct workload_run *run;
    struct scratch scratch;
    struct plim_quantize_options options;
};

static size_t count_argument(const struct workload_run *run, const char *name)
{
    return (size_t)argument_count(&run->request->arguments, name);
}

static struct plim_quantize_options options_of(const struct workload_run *run)
{
    const struct facts *arguments = &run->request->arguments;
    const char *calibration = argument_text(arguments, "calibration");

    return (struct plim_quantize_options){
        .model_directory = MODEL,
        .output_directory = OUTPUT,
        .job_directory = JOB,
        .bits_per_weight = argument_number(arguments, "bpw"),
        .head_bits = (int)argument_count(arguments, "head_bits"),
        .calibration = *calibration ? calibration : NULL,
        .rows = count_argument(run, "rows"),
        .length = count_argument(run, "length"),
        .measurement_rows = count_argument(run, "measurement_rows"),
        .measurement_length = count_argument(run, "measurement_length"),
        .sensitivity_rows = count_argument(run, "sensitivity_rows"),
        .as_exllamav2 = strcmp(argument_text(arguments, "method"), "exllamav2") == 0,
        .round_to_nearest = strcmp(argument_text(arguments, "method"), "rtn") == 0,
        .seed = (uint64_t)argument_count(arguments, "seed"),
    };
}

/*
 * Made-up models of real sizes have no tokenizer, and without one there are no texts to calibrate with: random ids, as a file
 * of tokens. safetensors: the header's length, the header, the numbers.
 */
static int write_random_ids(const struct quantize_run *q, const struct plim_model_info *info, struct plim_err *err)
{
    const struct plim_quantize_options *o = &q->options;
    size_t rows = plim_max(plim_max(o->rows, o->measurement_rows), (size_t)1);
    size_t length = plim_max(plim_max(o->length, o->measurement_length), (size_t)1), bytes = 4 * rows * length;
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    char *header = heap_printf(err, "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}", rows,
                               length, bytes);
    uint64_t header_bytes = header ? strlen(header) : 0;
    int32_t *ids = NULL;
    int rc = -1;

    if (header && text_ids_random(&ids, rows * length, info->vocab_size, o->seed, err) == 0 &&
        plim_atomic_open(&file, CALIBRATION, err) == 0 &&
        plim_atomic_write(&file, &header_bytes, sizeof header_bytes, err) == 0 &&
        plim_atomic_write(&file, header, header_bytes, err) == 0 && plim_atomic_write(&file, ids, bytes, err) == 0)
        rc = plim_atomic_commit(&file, err);
    plim_atomic_release(&file);
    free(header);
    free(ids);
    return rc;
}

static int choose_calibration(struct quantize_run *q, struct plim_err *err)
{
    struct plim_model_info info;

    if (q->options.calibration || plim_path_exists(MODEL "/tokenizer.json"))
        return 0;
    if (plim_model_inspect(MODEL, &info, err) < 0 || write_random_ids(q, &info, err) < 0)
        return -1;
    q->options.calibration = CALIBRATION;
    return 0;
}

static int link_to(const char *target, const char *name, struct plim_err *err)
{
    return symlink(target, name) < 0 ? plim_err_errno(err, "linking %s", target) : 0;
}

/* The worker stands in the model's directory. */
static int prepare(struct quantize_run *q, struct plim_err *err)
{
    char *model = realpath(".", NULL), *measurement = NULL;
    int rc = -1;

    q->options = options_of(q->run);
    if (!model) {
        plim_err_errno(err, "the model's directory");
        goto out;
    }
    if (scratch_open(&q->scratch, err) < 0 || link_to(model, MODEL, err) < 0 || choose_calibration(q, err) < 0)
        goto out;
    if (strcmp(argument_text(&q->run->request->arguments, "measurement"), "shared") == 0) {
        measurement = measurement_store_get(&q->options, &q->run->parameters, err);
        if (!measurement || link_to(measurement, MEASUREMENT, err) < 0)
            goto out;
        q->options.measurement = MEASUREMENT;
    }
    rc = 0;

out:
    free(measurement);
    free(model);
    return rc;
}

/* ---- what was measured ---- */

static void add_usage(struct plim_quantize_usage *sum, const struct plim_quantize_usage *part)
{
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        sum->phase_ns[phase] += part->phase_ns[phase];
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        sum->peak_bytes[tier] = plim_max(sum->peak_bytes[tier], part->peak_bytes[tier]);
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            sum->phase_peak_bytes[tier][phase] =
                plim_max(sum->phase_peak_bytes[tier][phase], part->phase_peak_bytes[tier][phase]);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            sum->tag_peak_bytes[tier][tag] = plim_max(sum->tag_peak_bytes[tier][tag], part->tag_peak_bytes[tier][tag]);
    }
}

static int report_modules(struct model_run *m, const struct plim_quantize_summary *s, struct plim_err *err)
{
    uint64_t least = UINT64_MAX, most = 0, reserved = 0;
    int attempts = 0;
    double error = 0;

    for (size_t i = 0; i < s->module_count; i++) {
        const struct plim_quantize_module *module = &s->modules[i];

        least = plim_min(least, module->floor_bytes);
        most = plim_max(most, module->floor_bytes);
        reserved = plim_max(reserved, module->reserved_bytes);
        attempts = module->damping_attempts > attempts ? module->damping_attempts : attempts;
        if (module->option >= 0)
            error += module->error / (double)(s->module_count - 1);
    }
    if (report_number(m, "boundary_floor_bytes", (double)most, err) < 0 ||
        report_number(m, "boundary_floor_spread_bytes", (double)(most - least), err) < 0 ||
        report_number(m, "boundary_reserved_bytes", (double)reserved, err) < 0 ||
        report_number(m, "quantisation_error", error, err) < 0)
        return -1;
    return attempts ? report_number(m, "damping_attempts", attempts, err) : 0;   /* rounding to nearest damps nothing */
}

static int report_summary(struct model_run *m, const struct plim_quantize_summary *s, uint64_t planted_ns,
                          struct plim_err *err)
{
    struct plim_quantize_usage usage = s->measurement;
    double quantised_ns = round((s->quantisation_s + s->compile_s) * 1e9) + (double)planted_ns;

    add_usage(&usage, &s->quantisation);
    if (report_number(m, "quantize_time_ns", quantised_ns, err) < 0 ||
        (s->measurement.peak_bytes[PLIM_FAST] &&   /* else an earlier one was used */
         report_number(m, "measurement_time_ns", round(s->measurement_s * 1e9), err) < 0) ||
        report_usage(m, &usage, err) < 0 ||
        report_number(m, "peak_reserved_fast_bytes", (double)s->reserved_peak_bytes, err) < 0 ||
        report_number(m, "peak_reserved_slow_bytes", (double)s->spill_peak_bytes, err) < 0 ||
        report_number(m, "bits_per_weight", s->bits_per_weight, err) < 0 ||
        report_quantised_digest(m, s->digest, err) < 0)
        return -1;
    return report_modules(m, s, err);
}

static int convert(struct quantize_run *q, struct plim_err *err)
{
    struct plim_quantize_summary summary = { 0 };
    struct stopwatch start, spent;
    struct model_run m;
    uint64_t took_ns;
    int rc = -1;

    if (model_run_open_engine(&m, q->run, err) < 0)
        goto out;
    m.quantizes = true;
    start = stopwatch_start(&m);
    if (plim_quantize(m.engine, &q->options, &summary, err) < 0)
        goto out;
    took_ns = plim_now_ns() - start.wall_ns;
    spent = stopwatch_stop(&m, &start);
    if (report_cpu_time(&m, &spent, err) < 0)
        goto out;
    rc = report_summary(&m, &summary, stopwatch_planted_ns(&spent, took_ns), err);

out:
    if (m.engine)
        plim_quantize_summary_release(&summary, m.engine);
    return model_run_close(&m, rc, err);
}

/* ---- quality ---- */

struct opened {
    struct plim_model *model;
    struct plim_session *session;
};

static int open_model(struct opened *o, struct plim_engine *engine, const char *directory, size_t context_tokens,
                      struct plim_err *err)
{
    struct plim_session_options options = { .context_tokens = context_tokens };

    if (plim_model_load(&o->model, engine, directory, err) < 0)
        return -1;
    return plim_session_open(&o->session, o->model, &options, err);
}

static void close_model(struct opened *o)
{
    plim_session_close(o->session);
    plim_model_free(o->model);
}

static int report_quality(struct workload_run *run, const struct plim_divergence *d, struct plim_err *err)
{
    struct model_run m = { .run = run };

    if (report_number(&m, "perplexity", d->model.perplexity, err) < 0 ||
        report_number(&m, "reference_perplexity", d->reference.perplexity, err) < 0 ||
        report_number(&m, "perplexity_excess", d->model.perplexity / d->reference.perplexity - 1, err) < 0 ||
        report_number(&m, "kl_divergence", d->kl_mean, err) < 0 ||
        report_number(&m, "scored_tokens", (double)d->model.token_count, err) < 0)
        return -1;
    return report_number(&m, "top_token_agreement", (double)d->agreement_count / (double)d->position_count, err);
}

static int read_ids(const struct quantize_run *q, const struct plim_model *model, int32_t **ids, size_t *count,
                    struct plim_err *err)
{
    const struct facts *arguments = &q->run->request->arguments;
    const char *file = argument_text(arguments, "text");
    struct plim_model_info info;
    size_t wanted = *count;

    if (*file) {
        if (text_ids_read(ids, count, MODEL, file, err) < 0)
            return -1;
        *count = plim_min(*count, wanted);
        return 0;
    }
    plim_model_info(model, &info);
    return text_ids_random(ids, wanted, info.vocab_size, (uint64_t)argument_count(arguments, "seed"), err);
}

/* With an engine of its own, whose memory nobody measures. */
static int evaluate(struct quantize_run *q, struct plim_err *err)
{
    struct plim_parameters parameters = q->run->parameters;
    size_t count = count_argument(q->run, "tokens"), window = count_argument(q->run, "window");
    struct opened dense = { 0 }, quantised = { 0 };
    struct plim_engine *engine = NULL;
    struct plim_divergence divergence;
    int32_t *ids = NULL;
    int rc = -1;

    parameters.count[PLIM_MEMORY_BUDGET] = 0;
    q->run->references->other_models = true;
    if (plim_engine_open(&engine, NULL, &parameters, NULL, err) < 0 ||
        open_model(&dense, engine, MODEL, window, err) < 0 || open_model(&quantised, engine, OUTPUT, window, err) < 0 ||
        read_ids(q, dense.model, &ids, &count, err) < 0 ||
        plim_divergence(quantised.session, dense.session, ids, count, window, &divergence, err) < 0)
        goto out;
    rc = report_quality(q->run, &divergence, err);

out:
    free(ids);
    close_model(&quantised);
    close_model(&dense);
    plim_engine_close(engine);
    return rc;
}

int workload_quantize(struct workload_run *run, struct plim_err *err)
{
    struct quantize_run q = { .run = run, .scratch = SCRATCH_INIT };
    int rc = -1;

    if (prepare(&q, err) == 0 && convert(&q, err) == 0)
        rc = count_argument(run, "tokens") ? evaluate(&q, err) : 0;
    scratch_close(&q.scratch);
    return rc;
}
