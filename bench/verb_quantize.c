/* plimsoll quantize MODEL OUT: a dense model directory becomes an EXL2 one. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flag_table.h"
#include "parameter_flags.h"
#include "plimsoll/quantize.h"
#include "plimsoll/units.h"
#include "table.h"

#define LENGTH_LIMIT (1 << 20)

struct arguments {
    struct plim_quantize_options options;
    bool json, quiet;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "bpw", "N", "Target bits per weight of the decoder, never exceeded",
      FLAG_FIELD(struct arguments, options.bits_per_weight) },
    { "head-bits", "N", "Bits of the output head: 2, 3, 4, 5, 6 or 8 (default: 6)",
      FLAG_FIELD(struct arguments, options.head_bits), .low = 2, .high = 8 },
    { "calibration", "FILE", "Text (.txt, .jsonl) or tokens (.safetensors); default: a built-in mix",
      FLAG_FIELD(struct arguments, options.calibration) },
    { "rows", "N", "Calibration rows (default: 100)",
      FLAG_FIELD(struct arguments, options.rows), .low = 1, .high = LENGTH_LIMIT },
    { "length", "N", "Tokens of a calibration row (default: 2048)",
      FLAG_FIELD(struct arguments, options.length), .low = 2, .high = LENGTH_LIMIT },
    { "measurement-rows", "N", "Rows of the measurement (default: 16)",
      FLAG_FIELD(struct arguments, options.measurement_rows), .low = 1, .high = LENGTH_LIMIT },
    { "measurement-length", "N", "Tokens of a row of the measurement (default: 2048)",
      FLAG_FIELD(struct arguments, options.measurement_length), .low = 2, .high = LENGTH_LIMIT },
    { "sensitivity-rows", "N", "Rows of the measurement to measure with what each block's errors do to the predictions; 0: they "
                               "weigh the same (default: 4)",
      FLAG_FIELD(struct arguments, options.sensitivity_rows), .low = 0, .high = LENGTH_LIMIT },
    { "measurement", "FILE", "Use the measurement.json of an earlier job of this model",
      FLAG_FIELD(struct arguments, options.measurement) },
    { "measure-only", NULL, "End with measurement.json in the job directory",
      FLAG_FIELD(struct arguments, options.measure_only) },
    { "job", "DIR", "Job directory, where a conversion that was stopped goes on (default: OUT.job)",
      FLAG_FIELD(struct arguments, options.job_directory) },
    { "shard-size", "MIB", "Largest output file in MiB (default: 8192)",
      FLAG_FIELD(struct arguments, options.shard_bytes), .low = 1, .high = INT32_MAX, .unit = PLIM_MI },
    { "round-to-nearest", NULL, "Without error feedback, to compare with",
      FLAG_FIELD(struct arguments, options.round_to_nearest) },
    { "as-exllamav2", NULL, "With ExLlamaV2's damping and scale search, to compare with",
      FLAG_FIELD(struct arguments, options.as_exllamav2) },
    { "seed", "N", "Seed of the built-in mix",
      FLAG_FIELD(struct arguments, options.seed), .low = 0, .high = INT64_MAX },
    { "json", NULL, "Print the summary as JSON", FLAG_FIELD(struct arguments, json) },
    { "quiet", NULL, "No progress", FLAG_FIELD(struct arguments, quiet), .key = 'q' },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct plim_quantize_options *o = &a->options;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        o->sensitivity_rows = PLIM_QUANTIZE_SENSITIVITY_ROWS;
        return 0;
    case ARGP_KEY_ARG:
        if (o->output_directory)
            argp_error(state, "MODEL and OUT are enough: \"%s\" is a third", text);
        *(o->model_directory ? &o->output_directory : &o->model_directory) = text;
        return 0;
    case ARGP_KEY_END:
        if (!o->output_directory || o->bits_per_weight == 0)
            argp_error(state, "a model directory, an output directory and --bpw are needed");
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

static uint64_t usage_ns(const struct plim_quantize_usage *usage)
{
    uint64_t sum = 0;
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        sum += usage->phase_ns[phase];
    return sum;
}

static int print_modules(const struct plim_quantize_summary *s, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    char text[40];

    table_column(&t, "module", TABLE_LEFT);
    table_column(&t, "option", TABLE_RIGHT);
    table_column(&t, "bits/weight", TABLE_RIGHT);
    table_column(&t, "error", TABLE_RIGHT);
    table_column(&t, "time", TABLE_RIGHT);
    table_column(&t, "peak memory", TABLE_RIGHT);
    for (size_t i = 0; i < s->module_count; i++) {
        const struct plim_quantize_module *m = &s->modules[i];
        table_cell(&t, STYLE_PLAIN, "%s", m->name);
        if (m->option >= 0)
            table_cell(&t, STYLE_PLAIN, "%d", m->option);
        else
            table_cell(&t, STYLE_DIM, "-");
        table_cell(&t, STYLE_PLAIN, "%.3f", m->bits_per_weight);
        table_cell(&t, STYLE_PLAIN, "%.5f", m->error);
        table_cell(&t, STYLE_PLAIN, "%s", plim_format_duration(text, sizeof text, usage_ns(&m->usage)));
        table_cell(&t, STYLE_PLAIN, "%s", plim_format_bytes(text, sizeof text, m->usage.peak_bytes[PLIM_FAST]));
    }
    int rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static int print_summary(const struct arguments *a, const struct plim_quantize_summary *s, struct plim_err *err)
{
    char bytes[16], fast[16], spill[16];

    if (a->options.measure_only) {
        printf("measured in %.1f s, peak %s requested on the fast tier: measurement.json is in the job directory\n",
               s->measurement_s, plim_format_bytes(fast, sizeof fast, s->measurement.peak_bytes[PLIM_FAST]));
        return 0;
    }
    if (print_modules(s, err) < 0)
        return -1;
    printf("\n%s: %.4f bits per weight (target %g), head %.4f, %s; digest %s\n", a->options.output_directory,
           s->bits_per_weight, a->options.bits_per_weight, s->head_bits_per_weight,
           plim_format_bytes(bytes, sizeof bytes, s->output_bytes), s->digest);
    printf("allocation: %s %.6g, no choice has less than %.6g\n",
           s->weighted ? "KL divergence to expect" : "squared error", s->loss, s->loss_bound);
    printf("time: measurement %.1f s, quantisation %.1f s, compilation %.1f s\n", s->measurement_s, s->quantisation_s,
           s->compile_s);
    uint64_t peak = s->measurement.peak_bytes[PLIM_FAST] > s->quantisation.peak_bytes[PLIM_FAST]
                        ? s->measurement.peak_bytes[PLIM_FAST]
                        : s->quantisation.peak_bytes[PLIM_FAST];
    printf("memory: peak %s requested on the fast tier, %s spilled\n", plim_format_bytes(fast, sizeof fast, peak),
           plim_format_bytes(spill, sizeof spill, s->spill_peak_bytes));
    return 0;
}

static cJSON *usage_json(const struct plim_quantize_usage *usage)
{
    cJSON *root = cJSON_CreateObject(), *times = cJSON_AddObjectToObject(root, "phase_ns");
    cJSON *peaks = cJSON_AddObjectToObject(root, "phase_peak_fast_bytes");
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++) {
        const char *name = plim_quantize_phase_name((enum plim_quantize_phase)phase);
        cJSON_AddNumberToObject(times, name, (double)usage->phase_ns[phase]);
        cJSON_AddNumberToObject(peaks, name, (double)usage->phase_peak_bytes[PLIM_FAST][phase]);
    }
    cJSON_AddNumberToObject(root, "peak_fast_bytes", (double)usage->peak_bytes[PLIM_FAST]);
    cJSON_AddNumberToObject(root, "peak_slow_bytes", (double)usage->peak_bytes[PLIM_SLOW]);
    return root;
}

static void add_modules(cJSON *root, const struct plim_quantize_summary *s)
{
    cJSON *modules = cJSON_AddArrayToObject(root, "modules");
    for (size_t i = 0; i < s->module_count; i++) {
        const struct plim_quantize_module *m = &s->modules[i];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", m->name);
        cJSON_AddNumberToObject(item, "option", m->option);
        cJSON_AddNumberToObject(item, "bits_per_weight", m->bits_per_weight);
        cJSON_AddNumberToObject(item, "expected_error", m->expected_error);
        cJSON_AddNumberToObject(item, "error", m->error);
        cJSON_AddNumberToObject(item, "floor_bytes", (double)m->floor_bytes);
        cJSON_AddNumberToObject(item, "reserved_bytes", (double)m->reserved_bytes);
        cJSON_AddItemToObject(item, "usage", usage_json(&m->usage));
        cJSON_AddItemToArray(modules, item);
    }
}

static int print_json(const struct plim_quantize_summary *s, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddNumberToObject(root, "bits_per_weight", s->bits_per_weight);
    cJSON_AddNumberToObject(root, "head_bits_per_weight", s->head_bits_per_weight);
    cJSON_AddNumberToObject(root, "loss", s->loss);
    cJSON_AddNumberToObject(root, "loss_bound", s->loss_bound);
    cJSON_AddNumberToObject(root, "measurement_s", s->measurement_s);
    cJSON_AddNumberToObject(root, "quantisation_s", s->quantisation_s);
    cJSON_AddNumberToObject(root, "compile_s", s->compile_s);
    cJSON_AddNumberToObject(root, "spill_peak_bytes", (double)s->spill_peak_bytes);
    cJSON_AddNumberToObject(root, "output_bytes", (double)s->output_bytes);
    cJSON_AddStringToObject(root, "digest", s->digest);
    cJSON_AddBoolToObject(root, "resumed", s->resumed);
    cJSON_AddItemToObject(root, "measurement", usage_json(&s->measurement));
    cJSON_AddItemToObject(root, "quantisation", usage_json(&s->quantisation));
    add_modules(root, s);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the summary");
    puts(text);
    free(text);
    return 0;
}

static void log_line(void *context, const char *line)
{
    (void)context;
    fprintf(stderr, "%s\n", line);
}

static int convert(struct arguments *a, struct plim_err *err)
{
    struct plim_engine *engine = NULL;
    struct plim_quantize_summary summary = { 0 };

    if (plim_engine_open(&engine, NULL, &a->flags.parameters, NULL, err) < 0)
        return -1;
    if (!a->quiet) {
        a->options.progress = stderr;
        a->options.log = log_line;
    }
    int rc = plim_quantize(engine, &a->options, &summary, err);
    if (rc == 0)
        rc = a->json ? print_json(&summary, err) : print_summary(a, &summary, err);
    plim_quantize_summary_release(&summary, engine);
    plim_engine_close(engine);
    return rc;
}

int verb_quantize(int argc, char **argv)
{
    struct arguments a = { .json = false };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = { flag_options(options, listed), parse_option, "MODEL OUT",
                         "Quantises a dense model directory to EXL2 by adaptive GPTQ, at a target of bits per weight.\v"
                         "Each step is kept in the job directory: the same command goes on where a stopped one ended, and "
                         "the files come out the same. Give the job directory away once the conversion is done.",
                         a.flags.children, NULL, NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(parameter_flags_resolve(&a.flags, argv, &err) < 0 ? -1 : convert(&a, &err), &err);
}
