/*
 * Quantisation with the options that were chosen: block by block, each on the outputs of the quantised blocks before it.
 *
 * A block's layers go to its file first and are then used from there, mapped: what is measured and what the next block
 * sees is what the file holds. The record (JSON) is written last; a block without one is done again.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint.h"
#include "conversion.h"
#include "plimsoll/clock.h"
#include "stored_layer.h"

/* ExLlamaV2 quantises larger heads by rounding; so do we, for their sake and the Hessian's. */
#define HEAD_GPTQ_ELEMENTS 1000000000ull

static void file_name(size_t index, const char *extension, char name[40])
{
    snprintf(name, 40, "module-%05zu.%s", index, extension);
}

static bool is_done(const struct conversion *c, size_t index)
{
    char name[40];
    file_name(index, "json", name);
    return job_has(&c->job, name);
}

void stored_block_path(const struct conversion *c, size_t index, char path[JOB_PATH_BYTES])
{
    char name[40];
    file_name(index, "safetensors", name);
    job_path(&c->job, name, path);
}

/* ---- records ---- */

static int write_record(struct conversion *c, size_t index, const struct plim_quantize_module *m, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *used = usage_to_json(&m->usage, err);
    char name[40];
    bool fine = root && used && cJSON_AddStringToObject(root, "key", m->name) &&
                cJSON_AddNumberToObject(root, "option", m->option) &&
                cJSON_AddNumberToObject(root, "bits_per_weight", m->bits_per_weight) &&
                cJSON_AddNumberToObject(root, "expected_error", m->expected_error) &&
                cJSON_AddNumberToObject(root, "rfn_error", m->error) &&
                cJSON_AddNumberToObject(root, "token_error", m->token_error) &&
                cJSON_AddNumberToObject(root, "damping_attempts", m->damping_attempts) &&
                cJSON_AddNumberToObject(root, "floor_bytes", (double)m->floor_bytes) &&
                cJSON_AddNumberToObject(root, "reserved_bytes", (double)m->reserved_bytes);
    if (fine)
        fine = cJSON_AddItemToObject(root, "usage", used);
    else
        cJSON_Delete(used);
    file_name(index, "json", name);
    int rc = fine ? job_write(&c->job, name, root, err) : json_memory(err);
    cJSON_Delete(root);
    return rc;
}

static int count_of(struct plim_json root, const char *name, int64_t low, int64_t *value, struct plim_err *err)
{
    return plim_json_int(plim_json_get(root, name), low, (int64_t)1 << 53, value, err);
}

static int parse_record(struct plim_quantize_module *m, struct plim_json root, struct plim_err *err)
{
    const char *key;
    int64_t option, attempts, floor_bytes, reserved_bytes;
    if (plim_json_string(plim_json_get(root, "key"), &key, err) < 0 ||
        count_of(root, "option", -1, &option, err) < 0 || count_of(root, "damping_attempts", 0, &attempts, err) < 0 ||
        count_of(root, "floor_bytes", 0, &floor_bytes, err) < 0 ||
        count_of(root, "reserved_bytes", 0, &reserved_bytes, err) < 0 ||
        plim_json_double(plim_json_get(root, "bits_per_weight"), &m->bits_per_weight, err) < 0 ||
        plim_json_double(plim_json_get(root, "expected_error"), &m->expected_error, err) < 0 ||
        plim_json_double(plim_json_get(root, "rfn_error"), &m->error, err) < 0 ||
        plim_json_double(plim_json_get(root, "token_error"), &m->token_error, err) < 0 ||
        usage_from_json(&m->usage, plim_json_get(root, "usage"), err) < 0)
        return -1;
    snprintf(m->name, sizeof m->name, "%s", key);
    m->option = (int)option;
    m->damping_attempts = (int)attempts;
    m->floor_bytes = (uint64_t)floor_bytes;
    m->reserved_bytes = (uint64_t)reserved_bytes;
    return 0;
}

/* Reads every record into the summary, and joins them in modules.json. */
static int gather_records(struct conversion *c, struct plim_err *err)
{
    cJSON *all = cJSON_CreateArray();
    int rc = all ? 0 : json_memory(err);

    for (size_t i = 0; i <= c->block_count && rc == 0; i++) {
        cJSON *record = NULL;
        char name[40];
        file_name(i, "json", name);
        rc = job_read(&c->job, name, &record, err);
        if (rc == 0)
            rc = parse_record(&c->summary->modules[i], plim_json_root(record, name), err);
        if (rc < 0 || !cJSON_AddItemToArray(all, record))
            cJSON_Delete(record);
        if (rc == 0)
            usage_add(&c->summary->quantisation, &c->summary->modules[i].usage);
    }
    if (rc == 0)
        rc = job_write(&c->job, "modules.json", all, err);
    cJSON_Delete(all);
    return rc;
}

/* ---- a block ---- */

/* Opens the block's file and puts its matrices into m->quantised. */
static int use_stored(struct module *m, struct tensor_store **store, struct plim_err *err)
{
    struct backend *backend = &m->c->engine->backend;
    struct linear_source source;
    char path[JOB_PATH_BYTES];

    stored_block_path(m->c, m->index, path);
    if (tensor_store_open_file(store, m->c->pool, path, err) < 0)
        return -1;
    for (int p = 0; p < m->matrix_count; p++)
        if (stored_layer_source(&source, *store, &m->view[p], err) < 0 ||
            backend->ops->matrix_init(backend, &m->quantised.matrix[m->first + p], &source, err) < 0)
            return -1;
    return 0;
}

static void drop_matrices(struct module *m)
{
    struct backend *backend = &m->c->engine->backend;
    for (int p = 0; p < m->matrix_count; p++) {
        struct matrix *matrix = &m->quantised.matrix[m->first + p];
        if (matrix->impl)
            backend->ops->matrix_release(backend, matrix);
        *matrix = (struct matrix){ 0 };
    }
}

/* The last matrix, from what the others give when they are quantised. */
static int prepare_last(struct module *m, struct gptq_result *results, struct plim_err *err)
{
    struct backend *backend = &m->c->engine->backend;
    char detail[200];
    int rc = 0;

    snprintf(detail, sizeof detail, "calibrating %s", m->view[m->matrix_count - 1].name);
    conversion_progress(m->c, detail);
    for (int p = 0; p < m->matrix_count - 1 && rc == 0; p++) {
        struct linear_source source = quantised_source(&m->view[p].source, &results[p]);
        rc = backend->ops->matrix_init(backend, &m->quantised.matrix[m->first + p], &source, err);
    }
    if (rc == 0)
        rc = module_inner(m, err);
    drop_matrices(m);
    return rc < 0 ? -1 : module_factor(m, false, err);
}

/* The block's matrices, in its file. */
static int quantise_matrices(struct module *m, struct plim_err *err)
{
    struct conversion *c = m->c;
    bool rtn = c->options.round_to_nearest;
    struct gptq_result results[BLOCK_MAX_MATRICES] = { 0 };
    char path[JOB_PATH_BYTES], what[200];
    uint64_t start = plim_now_ns();
    int rc = 0;

    snprintf(what, sizeof what, "quantising %s", m->key);
    for (int p = 0; p < m->matrix_count && rc == 0; p++) {
        conversion_progress_part(c, what, (size_t)p, (size_t)m->matrix_count, start);
        /* The input's Hessian has served its last matrix: make room for the last one. */
        if (p == m->matrix_count - 1) {
            hessian_release(&m->input);
            drift_release(&m->input_drift);
            if (c->dense.pool && prepare_last(m, results, err) < 0) {
                rc = -1;
                break;
            }
        }
        const struct hessian *h = module_hessian(m, p, err);
        rc = h ? quantise_layer(&results[p], &m->view[p].source, h, module_drift(m, p),
                                module_layout(m->kind, c->choice[m->index], p), rtn, m->weights_tier, &c->meter, err)
               : -1;
        /* Of the mapped file: not needed again. */
        const struct linear_source *source = &m->view[p].source;
        model_drop_pages(source->weight, source->in_features * source->out_features * dtype_bytes(source->dtype));
    }
    hessian_release(&m->inner);
    drift_release(&m->output_drift);
    if (rc == 0) {
        enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_WRITE);
        stored_block_path(c, m->index, path);
        rc = stored_layers_write(path, c->pool, m->view, results, m->matrix_count, err);
        meter_enter(&c->meter, outer);
    }
    for (int p = 0; p < m->matrix_count; p++)
        gptq_result_release(&results[p], c->pool);
    return rc;
}

static void note_boundary(struct conversion *c, struct plim_quantize_module *record)
{
    struct plim_pool_stats stats;
    plim_pool_stats(c->pool, &stats);
    record->floor_bytes = stats.current[PLIM_FAST].total_bytes;
    record->reserved_bytes = stats.reserved_bytes[PLIM_FAST];
}

static int quantise_block(struct conversion *c, size_t index, struct plim_err *err)
{
    struct plim_quantize_module record = { .option = c->choice[index], .expected_error = c->expected_error[index] };
    struct tensor_store *store = NULL;
    struct block_error error;
    struct module m;
    char detail[200];
    int rc = -1;

    meter_start(&c->meter, &c->engine->backend);
    if (module_open(&m, c, index, err) < 0)
        return -1;
    snprintf(detail, sizeof detail, "calibrating %s", m.key);
    conversion_progress(c, detail);
    if (module_reference(&m, true, err) < 0 || module_dense(&m, err) < 0 ||
        module_factor(&m, c->options.round_to_nearest, err) < 0 || quantise_matrices(&m, err) < 0 || use_stored(&m, &store, err) < 0 ||
        module_quantised(&m, true, &error, err) < 0)
        goto out;
    snprintf(record.name, sizeof record.name, "%s", m.key);
    record.bits_per_weight = (double)module_option_bits(&m, record.option) / (double)module_weights(&m);
    record.error = error.frobenius;
    record.token_error = error.token;
    record.damping_attempts = m.damping_attempts;
    meter_stop(&c->meter, &record.usage);
    rc = 0;

out:
    module_close(&m);
    tensor_store_close(store);
    if (rc < 0)
        return -1;
    note_boundary(c, &record);
    conversion_log(c, "%s: option %d, %.4f bits a weight, error %.6f (measured %.6f), of whole rows %.6f", record.name,
                   record.option, record.bits_per_weight, record.token_error, record.expected_error, record.error);
    return write_record(c, index, &record, err);
}

/* Brings the states past a block that was quantised before. */
static int pass_block(struct conversion *c, size_t index, struct plim_err *err)
{
    struct tensor_store *store = NULL;
    struct module m;

    if (module_open(&m, c, index, err) < 0)
        return -1;
    int rc = module_dense(&m, err) < 0 || use_stored(&m, &store, err) < 0 ? -1 : module_quantised(&m, true, NULL, err);
    module_close(&m);
    tensor_store_close(store);
    return rc;
}

/* ---- the head ---- */

/* The current ones, in c->run.hidden. */
static int norm_chunk(struct conversion *c, size_t row, size_t first, size_t tokens, struct plim_err *err)
{
    return conversion_norm_states(c, &c->current, row, first, tokens, c->run.hidden, err);
}

static int head_drift(struct conversion *c, struct drift *drift, size_t row, size_t first, size_t tokens, float *dense,
                      struct plim_err *err)
{
    struct block *b = &c->run.block;
    if (conversion_norm_states(c, &c->dense, row, first, tokens, dense, err) < 0 ||
        b->ops->add(b->backend, dense, c->run.hidden, -1.0f, tokens * c->dense.width, err) < 0)
        return -1;
    return drift_add(drift, c->run.hidden, dense, tokens, 1, err);
}

/* Twice the moment while it is put in order, beside the Hessian and what adds to both. */
static enum plim_tier head_drift_tier(const struct conversion *c, size_t in_features, size_t chunk)
{
    int64_t budget = c->engine->parameters.count[PLIM_MEMORY_BUDGET];
    struct plim_pool_stats stats;

    plim_pool_stats(c->pool, &stats);
    uint64_t needed = stats.current[PLIM_FAST].total_bytes + 2 * in_features * in_features * sizeof(float) +
                      chunk * in_features * sizeof(float) + PLIM_MI;
    return budget > 0 && needed > (uint64_t)budget && c->engine->backend.ops->unified_memory ? PLIM_SLOW : PLIM_FAST;
}

/* And how far the states have drifted from the dense model's, if those are there. */
static int head_hessian(struct conversion *c, struct hessian *h, struct drift *drift, struct plim_err *err)
{
    size_t length = c->current.length, chunk = plim_min(length, block_run_tokens(c->run.block.backend));
    float *dense = NULL;
    int rc = -1;

    meter_enter(&c->meter, PLIM_QUANTIZE_HESSIAN);
    if (c->dense.pool &&
        (drift_init(drift, h->backend, head_drift_tier(c, h->in_features, chunk), h->in_features, h->in_features, false, err) < 0 ||
         !(dense = plim_pool_alloc(c->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, chunk * c->dense.width * sizeof *dense, err))))
        goto out;
    for (size_t row = 0; row < c->current.rows; row++) {
        for (size_t first = 0; first < length; first += chunk) {
            size_t tokens = plim_min(chunk, length - first);
            if (norm_chunk(c, row, first, tokens, err) < 0 ||
                hessian_add_piece(h, c->run.hidden, tokens, first == 0, err) < 0 ||
                (dense && head_drift(c, drift, row, first, tokens, dense, err) < 0))
                goto out;
        }
        states_set_aside(&c->current, row);
        if (dense)
            states_set_aside(&c->dense, row);
    }
    rc = 0;

out:
    plim_pool_free(c->pool, dense);
    return rc;
}

/* Relative error of the logits over the first tokens of the first row, in pieces of a few MiB. */
static int head_error(struct conversion *c, const struct matrix *quantised, double *error, struct plim_err *err)
{
    struct backend *backend = &c->engine->backend;
    size_t vocab = c->model->info.vocab_size;
    size_t piece = plim_max((size_t)1, plim_min(4 * PLIM_MI / (vocab * sizeof(float)), block_run_tokens(backend) / 4));
    size_t tokens = plim_min(c->current.length, 2 * block_run_tokens(backend));
    double difference = 0, reference = 0;
    int rc = -1;

    bool unified = backend->ops->unified_memory;
    size_t bytes = 2 * piece * vocab * sizeof(float);
    float *logits = plim_pool_alloc(c->pool, PLIM_FAST, PLIM_TAG_LOGITS, bytes, err);
    float *host = logits && !unified ? plim_pool_alloc(c->pool, PLIM_HOST, PLIM_TAG_LOGITS, bytes, err) : logits;
    if (!host)
        goto out;
    for (size_t first = 0; first < tokens; first += piece) {
        size_t rows = plim_min(piece, tokens - first);
        const float *ours = host + piece * vocab;
        if (norm_chunk(c, 0, first, rows, err) < 0 ||
            backend->ops->linear(backend, &c->model->head, c->run.hidden, rows, logits, false, err) < 0 ||
            backend->ops->linear(backend, quantised, c->run.hidden, rows, logits + piece * vocab, false, err) < 0 ||
            (!unified &&
             (backend->ops->download(backend, host, logits, rows * vocab * sizeof *host, err) < 0 ||
              backend->ops->download(backend, host + piece * vocab, logits + piece * vocab, rows * vocab * sizeof *host,
                                     err) < 0)))
            goto out;
        for (size_t i = 0; i < rows * vocab; i++) {
            double d = (double)ours[i] - (double)host[i];
            difference += d * d;
            reference += (double)host[i] * (double)host[i];
        }
    }
    *error = reference > 0 ? sqrt(difference / reference) : 0;
    rc = 0;

out:
    if (!unified)
        plim_pool_free(c->pool, host);
    plim_pool_free(c->pool, logits);
    return rc;
}

/* The view that the head's tensors are stored under: lm_head, also where the source is the embedding. */
static int head_view(struct conversion *c, struct matrix_view *view, struct plim_err *err)
{
    if (model_head_matrix(view, &c->model->files, err) < 0)
        return -1;
    snprintf(view->name, sizeof view->name, "%slm_head", c->model->files.config.key_prefix);
    if (view->source.in_features % 32 != 0 || view->source.in_features > 65536)
        return plim_err_input(err, "%s has %zu input features; the format takes multiples of 32 up to 65536", view->name,
                              view->source.in_features);
    return 0;
}

static enum plim_tier head_weights_tier(struct conversion *c, const struct linear_source *source)
{
    int64_t budget = c->engine->parameters.count[PLIM_MEMORY_BUDGET];
    size_t padded = plim_round_up(source->out_features, 32);
    uint64_t copy = 4 * source->in_features * padded;
    struct plim_pool_stats stats;

    plim_pool_stats(c->pool, &stats);
    /* Beside the copy: the packed result, a group's errors and codes, 128 rows of them. */
    uint64_t needed = stats.current[PLIM_FAST].total_bytes + copy + source->in_features * padded + 5 * 128 * padded +
                      PLIM_MI;
    if (budget <= 0 || needed <= (uint64_t)budget || !c->engine->backend.ops->unified_memory)
        return PLIM_FAST;
    conversion_log(c, "memory_budget: the working copy of the head's weights goes to the slow tier");
    return PLIM_SLOW;
}

static int quantise_head_matrix(struct conversion *c, struct matrix_view *view, struct plim_quantize_module *record,
                                struct plim_err *err)
{
    struct backend *backend = &c->engine->backend;
    const struct exl2_layout *layout = exl2_head_layout(c->options.head_bits);
    uint64_t elements = (uint64_t)view->source.in_features * plim_round_up(view->source.out_features, 32);
    bool rtn = c->options.round_to_nearest || elements > HEAD_GPTQ_ELEMENTS;
    struct hessian_report report = { 0 };
    struct gptq_result result = { 0 };
    struct hessian h = { 0 };
    struct drift drift = { 0 };
    struct matrix quantised = { 0 };
    struct linear_source source;
    char path[JOB_PATH_BYTES];
    int rc = -1;

    if (hessian_init(&h, backend, view->source.in_features, err) < 0 || head_hessian(c, &h, &drift, err) < 0)
        goto out;
    h.as_exllamav2 = c->options.as_exllamav2;
    if (hessian_order(&h, view->name, err) < 0)
        goto out;
    if (!rtn) {
        meter_enter(&c->meter, PLIM_QUANTIZE_CHOLESKY);
        if (hessian_factor(&h, view->name, c->engine->parameters.count[PLIM_HESSIAN_OFFLOAD_THRESHOLD], &report, err) < 0)
            goto out;
        meter_add_hessian(&c->meter, &report);
        if (drift.backend && drift_order(&drift, &h, err) < 0)
            goto out;
    }
    if (quantise_layer(&result, &view->source, &h, !rtn && drift.backend ? &drift : NULL, layout, rtn, head_weights_tier(c, &view->source), &c->meter, err) < 0)
        goto out;
    hessian_release(&h);
    drift_release(&drift);
    meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    source = quantised_source(&view->source, &result);
    if (backend->ops->matrix_init(backend, &quantised, &source, err) < 0 ||
        head_error(c, &quantised, &record->error, err) < 0)
        goto out;
    meter_enter(&c->meter, PLIM_QUANTIZE_WRITE);
    stored_block_path(c, c->block_count, path);
    if (stored_layers_write(path, c->pool, view, &result, 1, err) < 0)
        goto out;
    record->damping_attempts = report.damping_attempts;
    record->bits_per_weight =
        (double)exl2_layout_bits(layout, result.in_features, result.out_features) / (double)elements;
    rc = 0;

out:
    if (quantised.impl)
        backend->ops->matrix_release(backend, &quantised);
    gptq_result_release(&result, c->pool);
    hessian_release(&h);
    drift_release(&drift);
    return rc;
}

static int quantise_head(struct conversion *c, struct plim_err *err)
{
    struct plim_quantize_module record = { .option = -1 };
    struct matrix_view view;
    int rc = -1;

    meter_start(&c->meter, &c->engine->backend);
    conversion_progress(c, "quantising lm_head");
    plim_pool_set_scope(c->pool, "head");
    if (model_head_load(c->model, err) < 0 || head_view(c, &view, err) < 0 ||
        quantise_head_matrix(c, &view, &record, err) < 0)
        goto out;
    snprintf(record.name, sizeof record.name, "%.150s", view.name);
    meter_stop(&c->meter, &record.usage);
    rc = 0;

out:
    model_head_drop(c->model);
    if (c->engine->parameters.count[PLIM_RELEASE_AT_BOUNDARY])
        plim_pool_trim(c->pool);
    if (rc < 0)
        return -1;
    note_boundary(c, &record);
    conversion_log(c, "%s: %.4f bits a weight, error of the logits %.6f", record.name, record.bits_per_weight,
                   record.error);
    return write_record(c, c->block_count, &record, err);
}

static bool makes_up_for_drift(const struct conversion *c)
{
    return !c->options.round_to_nearest && !c->options.as_exllamav2;
}

int quantise_blocks(struct conversion *c, struct plim_err *err)
{
    size_t end = c->block_count + 1;   /* behind the last one that is not done; the head is the last of all */
    size_t begin = 0;                  /* first one that is not done */
    int rc = 0;

    while (end > 0 && is_done(c, end - 1))
        end--;
    while (begin < end && is_done(c, begin))
        begin++;
    if (end > 0 && conversion_rows_open(c, &c->calibration.quantisation, err) < 0)
        return -1;
    if (end > 0 && makes_up_for_drift(c) && conversion_dense_open(c, err) < 0) {
        conversion_rows_close(c);
        return -1;
    }
    if (end > 0)
        begin = checkpoint_load(c, "quantise", begin);
    c->steps_done += begin;
    for (size_t i = begin; i < end && rc == 0; i++) {
        bool known = is_done(c, i);
        rc = known ? pass_block(c, i, err) : i == c->block_count ? quantise_head(c, err) : quantise_block(c, i, err);
        c->steps_done++;
        if (rc == 0 && i + 1 < end)
            checkpoint_save(c, "quantise", i + 1);
    }
    conversion_rows_close(c);
    if (rc < 0)
        return plim_err_wrap(err, "quantising");
    checkpoint_clear(c, "quantise");
    return gather_records(c, err);
}
