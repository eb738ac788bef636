/* The conversion from end to end: checks, the job, and its stages. */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "conversion.h"
#include "digest.h"
#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "plimsoll/device.h"
#include "plimsoll/file.h"
#include "plimsoll/tokenizer.h"
#include "quantize_ops.h"
#include "tensor_values.h"

#define DEFAULT_HEAD_BITS   6
#define DEFAULT_SHARD_BYTES ((uint64_t)8192 * PLIM_MI)

void conversion_log(struct conversion *c, const char *format, ...)
{
    char line[1000];
    va_list args;
    if (!c->options.log)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    c->options.log(c->options.log_context, line);
}

void conversion_progress(struct conversion *c, const char *detail)
{
    if (c->options.progress)
        plim_progress_update(&c->progress, c->steps_done, detail);
}

void conversion_progress_part(struct conversion *c, const char *what, size_t done, size_t total, uint64_t start_ns)
{
    char detail[400];
    double left_s = (double)(plim_now_ns() - start_ns) / 1e9 * (double)(total - done) / (double)plim_max(done, (size_t)1);

    if (!c->options.progress)
        return;
    /* Numbers first: a narrow terminal cuts the end off. */
    if (done == 0)
        snprintf(detail, sizeof detail, "1/%zu: %s", total, what);
    else
        snprintf(detail, sizeof detail, "%zu/%zu, %.0f s left: %s", done + 1, total, left_s, what);
    conversion_progress(c, detail);
}

/* ---- rows ---- */

int conversion_embed(struct conversion *c, const struct calibration_rows *rows, struct plim_err *err)
{
    struct backend *backend = &c->engine->backend;
    const struct model_config *config = &c->model->files.config;
    const struct tensor *embedding = model_embedding(&c->model->files, err);
    size_t width = config->hidden_size, chunk = plim_min(rows->length, block_run_tokens(backend));

    if (!embedding)
        return -1;
    for (size_t row = 0; row < rows->rows; row++) {
        for (size_t first = 0; first < rows->length; first += chunk) {
            size_t tokens = plim_min(chunk, rows->length - first);
            const int32_t *ids = rows->ids + row * rows->length + first;
            for (size_t i = 0; i < tokens; i++)
                if (tensor_check_finite(embedding, (size_t)ids[i] * width, width, err) < 0)
                    return -1;
            if (backend->ops->embed(backend, embedding->dtype, embedding->data, width, ids, tokens,
                                    config->embedding_scale, c->run.hidden, err) < 0 ||
                backend->ops->download(backend, c->current.row[row] + first * width, c->run.hidden,
                                       tokens * width * sizeof(float), err) < 0)
                return -1;
        }
        states_set_aside(&c->current, row);
    }
    model_drop_pages(embedding->data, embedding->bytes);
    return 0;
}

int conversion_rows_open(struct conversion *c, const struct calibration_rows *rows, struct plim_err *err)
{
    size_t width = c->model->files.config.hidden_size;

    plim_pool_set_scope(c->pool, "calibration");
    if (block_run_open(&c->run, c->model, rows->length, err) < 0 ||
        states_open(&c->current, c->pool, rows->rows, rows->length, width, err) < 0 ||
        states_open(&c->target, c->pool, rows->rows, rows->length, width, err) < 0 || conversion_embed(c, rows, err) < 0) {
        conversion_rows_close(c);
        return -1;
    }
    return 0;
}

int conversion_norm_states(struct conversion *c, const struct states *s, size_t row, size_t first, size_t tokens,
                           float *normed, struct plim_err *err)
{
    struct block *b = &c->run.block;
    if (b->ops->upload(b->backend, normed, s->row[row] + first * s->width, tokens * s->width * sizeof(float), err) < 0)
        return -1;
    return block_norm(b, normed, c->model->final_norm, tokens, s->width, normed, err);
}

int conversion_dense_open(struct conversion *c, struct plim_err *err)
{
    const struct states *s = &c->current;
    if (states_open(&c->dense, c->pool, s->rows, s->length, s->width, err) < 0)
        return -1;
    for (size_t row = 0; row < s->rows; row++) {
        memcpy(c->dense.row[row], s->row[row], s->length * s->width * sizeof **s->row);
        states_set_aside(&c->current, row);
        states_set_aside(&c->dense, row);
    }
    return 0;
}

void conversion_rows_close(struct conversion *c)
{
    states_close(&c->dense);
    states_close(&c->target);
    states_close(&c->current);
    block_run_close(&c->run);
    if (c->engine->parameters.count[PLIM_RELEASE_AT_BOUNDARY])
        plim_pool_trim(c->pool);
}

/* ---- checks ---- */

static int check_options(struct conversion *c, struct plim_err *err)
{
    struct plim_quantize_options *o = &c->options;

    if (!o->model_directory || !o->output_directory)
        return plim_err_input(err, "a model directory and an output directory are needed");
    if (!backend_quantize_ops(c->engine->backend.ops->name))
        return plim_err_input(err, "backend %s has no quantizer", c->engine->backend.ops->name);
    if (!(o->bits_per_weight > 0 && o->bits_per_weight <= 16))
        return plim_err_input(err, "bits per weight %g: expected a number above 0, at most 16", o->bits_per_weight);
    if (o->head_bits == 0)
        o->head_bits = DEFAULT_HEAD_BITS;
    if (!exl2_head_layout(o->head_bits))
        return plim_err_input(err, "head bits %d: expected 2, 3, 4, 5, 6 or 8", o->head_bits);
    if (o->measurement && o->measure_only)
        return plim_err_input(err, "to measure, and to use an earlier measurement: one of the two");
    if (o->shard_bytes == 0)
        o->shard_bytes = DEFAULT_SHARD_BYTES;
    return 0;
}

/* ---- identity ---- */

/* Shapes of all tensors, and the first and last 4 KiB of each one's values: enough to know the model by. */
static int model_digest(const struct plim_model *model, const char *directory, char text[33], struct plim_err *err)
{
    const struct tensor_store *store = model->files.store;
    struct digest *digest = digest_begin(err);
    struct plim_map config = { 0 };
    char path[JOB_PATH_BYTES];
    int rc = -1;

    snprintf(path, sizeof path, "%s/config.json", directory);
    if (!digest || plim_map_open(&config, path, err) < 0)
        goto out;
    digest_add(digest, config.data, config.bytes);
    for (size_t i = 0; i < tensor_store_count(store); i++) {
        const struct tensor *t = tensor_store_at(store, i);
        size_t sample = plim_min((size_t)4096, t->bytes);
        digest_add(digest, t->name, strlen(t->name) + 1);
        digest_add(digest, &t->dtype, sizeof t->dtype);
        digest_add(digest, t->shape, (size_t)t->dimension_count * sizeof *t->shape);
        if (sample == 0)
            continue;
        digest_add(digest, t->data, sample);
        digest_add(digest, (const char *)t->data + t->bytes - sample, sample);
        model_drop_pages(t->data, t->bytes);
    }
    rc = 0;

out:
    plim_map_close(&config);
    digest_end(digest, text);
    return rc;
}

static int file_digest(const char *path, char text[33], struct plim_err *err)
{
    struct digest *digest = digest_begin(err);
    struct plim_map map = { 0 };
    int rc = digest ? plim_map_open(&map, path, err) : -1;
    if (rc == 0)
        digest_add(digest, map.data, map.bytes);
    plim_map_close(&map);
    digest_end(digest, text);
    return rc;
}

/* Cards differ in how they sum, so one card does not go on with another's job: "NVIDIA H100 80GB HBM3, 9.0". */
static int identify_card(const struct conversion *c, cJSON *identity, struct plim_err *err)
{
    struct plim_device device;
    char card[160];

    if (c->engine->backend.ops->unified_memory)
        return 0;
    if (plim_device_describe((int)c->engine->parameters.count[PLIM_DEVICE], &device, err) < 0)
        return -1;
    snprintf(card, sizeof card, "%s, %d.%d", device.name, device.compute_capability / 10, device.compute_capability % 10);
    return cJSON_AddStringToObject(identity, "card", card) ? 0 : json_memory(err);
}

/* Everything that the bytes of the result depend on. */
static int identify(struct conversion *c, struct plim_err *err)
{
    const struct plim_quantize_options *o = &c->options;
    char model[33], measurement[33] = "none", library[200], core[64];
    enum plim_isa isa;
    cJSON *identity = cJSON_CreateObject();
    /* Of an earlier measurement they are used or not. */
    size_t sensitivity_rows = o->measurement ? plim_min(o->sensitivity_rows, (size_t)1) : c->sensitivity_rows;
    int rc = -1;

    backend_blas_describe(library, sizeof library, core, sizeof core);
    if (!identity) {
        json_memory(err);
        goto out;
    }
    if (plim_isa_select(&isa, err) < 0 || model_digest(c->model, o->model_directory, model, err) < 0 ||
        (o->measurement && file_digest(o->measurement, measurement, err) < 0))
        goto out;
    if (!cJSON_AddNumberToObject(identity, "format", 4) || !cJSON_AddStringToObject(identity, "model", model) ||
        !cJSON_AddNumberToObject(identity, "bits_per_weight", o->bits_per_weight) ||
        !cJSON_AddNumberToObject(identity, "head_bits", o->head_bits) ||
        !cJSON_AddNumberToObject(identity, "rows", (double)c->calibration.quantisation.rows) ||
        !cJSON_AddNumberToObject(identity, "length", (double)c->calibration.quantisation.length) ||
        !cJSON_AddNumberToObject(identity, "measurement_rows", (double)c->calibration.measurement.rows) ||
        !cJSON_AddNumberToObject(identity, "measurement_length", (double)c->calibration.measurement.length) ||
        !cJSON_AddNumberToObject(identity, "sensitivity_rows", (double)sensitivity_rows) ||
        !cJSON_AddStringToObject(identity, "calibration", c->calibration.digest) ||
        !cJSON_AddStringToObject(identity, "measurement", measurement) ||
        !cJSON_AddNumberToObject(identity, "shard_bytes", (double)o->shard_bytes) ||
        !cJSON_AddBoolToObject(identity, "round_to_nearest", o->round_to_nearest) ||
        !cJSON_AddBoolToObject(identity, "as_exllamav2", o->as_exllamav2) ||
        !cJSON_AddStringToObject(identity, "instruction_set", plim_isa_name(isa)) ||
        !cJSON_AddStringToObject(identity, "blas_core", core) ||
        !cJSON_AddStringToObject(identity, "backend", c->engine->backend.ops->name)) {
        json_memory(err);
        goto out;
    }
    if (identify_card(c, identity, err) == 0)
        rc = job_identify(&c->job, identity, err);

out:
    cJSON_Delete(identity);
    return rc;
}

/* ---- the run ---- */

/*
 * What bounds memory elsewhere must not change a bit here: expansion chunks cut sums, few rows take other kernels, and so
 * on. So these have fixed values while a conversion runs.
 */
static void fix_parameters(struct plim_parameters *parameters)
{
    parameters->count[PLIM_MAX_DQ_SIZE] = 4 * PLIM_MI;   /* 16 MiB of fp32 */
    parameters->count[PLIM_DQ_MODE] = PLIM_DQ_CHUNKED;
    parameters->count[PLIM_DQ_ROWS] = 0;
    parameters->count[PLIM_MAX_ATTENTION_SIZE] = 2048 * 2048;
    parameters->count[PLIM_KV_CACHE] = PLIM_KV_FP16;
}

static int open_job(struct conversion *c, struct plim_err *err)
{
    char beside[JOB_PATH_BYTES];
    const char *directory = c->options.job_directory;

    if (!directory) {
        size_t length = strlen(c->options.output_directory);
        while (length > 1 && c->options.output_directory[length - 1] == '/')
            length--;
        snprintf(beside, sizeof beside, "%.*s.job", (int)length, c->options.output_directory);
        directory = beside;
    }
    return job_open(&c->job, directory, err);
}

static int open_parts(struct conversion *c, struct plim_err *err)
{
    const struct plim_quantize_options *o = &c->options;
    struct plim_quantize_summary *s = c->summary;

    if (model_open(&c->model, c->engine, o->model_directory, err) < 0)
        return -1;
    c->block_count = 2 * c->model->info.layer_count;
    if (c->model->info.is_exl2)
        return plim_err_input(err, "%s is quantised already", o->model_directory);
    for (size_t i = 0; i < c->block_count; i++) {
        char key[160];
        if (module_name(c, i, key, err) < 0)
            return -1;
    }
    c->choice = plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count, sizeof *c->choice, err);
    c->expected_error =
        c->choice ? plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count, sizeof(double), err) : NULL;
    s->modules = c->expected_error ? plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count + 1,
                                                      sizeof *s->modules, err)
                                   : NULL;
    if (!s->modules)
        return -1;
    s->module_count = c->block_count + 1;
    if (calibration_open(&c->calibration, c->model, o, err) < 0)
        return -1;
    sensitivity_set_rows(c);
    if (open_job(c, err) < 0)
        return -1;
    if (!c->job.resumed && !directory_is_empty(o->output_directory))
        return plim_err_input(err, "%s exists and is not empty", o->output_directory);
    if (identify(c, err) < 0)
        return -1;
    return plim_pool_spill_to(c->pool, c->job.directory, err);
}

static int run_stages(struct conversion *c, struct plim_err *err)
{
    struct plim_quantize_summary *s = c->summary;
    uint64_t start = plim_now_ns();

    if (c->options.progress)
        plim_progress_start(&c->progress, c->options.progress, "quantize", "blocks",
                            (c->options.measurement ? 1 : 2) * c->block_count + 2 +
                                (c->sensitivity_rows ? c->block_count + 1 : 0));
    if (!c->options.measurement && measure_blocks(c, err) < 0)
        return -1;
    uint64_t measured = plim_now_ns();
    s->measurement_s = (double)(measured - start) / 1e9;
    if (c->options.measure_only) {
        s->module_count = 0;
        return 0;
    }
    if (allocate_options(c, err) < 0)
        return -1;
    if (quantise_blocks(c, err) < 0)
        return -1;
    s->quantisation_s = (double)(plim_now_ns() - measured) / 1e9;
    s->head_bits_per_weight = s->modules[c->block_count].bits_per_weight;
    return compile_output(c, err);
}

static void fill_summary(struct conversion *c)
{
    struct plim_quantize_summary *s = c->summary;
    s->rows = c->calibration.quantisation.rows;
    s->length = c->calibration.quantisation.length;
    s->measurement_rows = c->calibration.measurement.rows;
    s->measurement_length = c->calibration.measurement.length;
    s->reserved_peak_bytes = c->meter.reserved_peak_bytes[PLIM_FAST];
    s->spill_peak_bytes = c->meter.reserved_peak_bytes[PLIM_SLOW];
    s->resumed = c->job.resumed;
}

int plim_quantize(struct plim_engine *engine, const struct plim_quantize_options *options,
                  struct plim_quantize_summary *summary, struct plim_err *err)
{
    struct plim_parameters parameters = engine->parameters;
    struct plim_quantize_summary own;
    struct conversion c = {
        .engine = engine,
        .pool = engine->pool,
        .options = *options,
        .job = { .lock = -1 },
        .summary = summary ? summary : &own,
    };
    int rc = -1;

    *c.summary = (struct plim_quantize_summary){ 0 };
    plim_pool_set_scope(c.pool, "quantize");
    fix_parameters(&engine->parameters);
    engine->backend.fixed_pieces = true;
    meter_start(&c.meter, &engine->backend);
    if (check_options(&c, err) == 0 && open_parts(&c, err) == 0 && run_stages(&c, err) == 0) {
        fill_summary(&c);
        rc = 0;
    }
    if (c.options.progress && c.progress.stream)
        plim_progress_finish(&c.progress);
    calibration_close(&c.calibration);
    plim_pool_free(c.pool, c.expected_error);
    plim_pool_free(c.pool, c.choice);
    plim_model_free(c.model);
    job_close(&c.job);
    engine->parameters = parameters;
    engine->backend.fixed_pieces = false;
    if (rc < 0 || !summary)
        plim_quantize_summary_release(c.summary, engine);
    return rc < 0 ? plim_err_wrap(err, "quantising %s", options->model_directory ? options->model_directory : "") : 0;
}

void plim_quantize_summary_release(struct plim_quantize_summary *summary, struct plim_engine *engine)
{
    plim_pool_free(engine->pool, summary->modules);
    *summary = (struct plim_quantize_summary){ 0 };
}
