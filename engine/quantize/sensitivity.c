/*
 * Sensitivities: what an error of a block does to the model's predictions.
 *
 * A block's own error says little about that: one of 3% may cost five times as much in the last layer as in the first. So
 * while a block is measured, the output that it has with its reference option is kept for the first tokens of a few rows: its
 * variant of the states, in which it alone is quantised. Behind the last block every layer is loaded once more, and the dense
 * model's states and the variants of all blocks before it pass through; what the head makes of them gives the KL divergence D
 * of each variant. To the first order D grows with the squared error, and divergences of several blocks add up:
 *
 *     sensitivity = D / error^2 of the reference option,    loss of an option = sensitivity x its error^2
 *
 * Half a forward pass a block, and the head. Variants are in the slow tier, one row at work at a time: 2 L + 1 times
 * rows x tokens x width x 4 bytes.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"
#include "conversion.h"
#include "plimsoll/clock.h"
#include "quantize_ops.h"

#define RECORD "sensitivity.json"
#define STAGE "sensitivity"

/* More tokens of fewer rows would see less of the calibration text for the same cost. */
#define MOST_TOKENS ((size_t)512)

/* Logits of one piece of tokens, and as many again of the dense model. */
#define LOGITS_BYTES ((size_t)16 << 20)

void sensitivity_set_rows(struct conversion *c)
{
    size_t most = plim_max(c->calibration.measurement.rows / 4, (size_t)1);
    c->sensitivity_rows = c->options.measurement ? 0 : plim_min(c->options.sensitivity_rows, most);
    c->sensitivity_length = plim_min(c->calibration.measurement.length, MOST_TOKENS);
}

size_t sensitivity_row(const struct conversion *c, size_t row)
{
    return row * c->calibration.measurement.rows / c->sensitivity_rows;
}

/* 4.0 and 4.1 bits: small enough an error for its square to be what counts, large enough to be far above rounding. */
int sensitivity_option(enum block_kind kind)
{
    return kind == BLOCK_ATTENTION ? 6 : 7;
}

/* ---- variants, while blocks are measured ---- */

static void variant_path(const struct conversion *c, size_t index, char path[JOB_PATH_BYTES])
{
    char name[40];
    snprintf(name, sizeof name, "variant-%05zu.bin", index);
    job_path(&c->job, name, path);
}

int sensitivity_variant_open(struct conversion *c, struct states *variant, struct plim_err *err)
{
    return states_open(variant, c->pool, c->sensitivity_rows, c->sensitivity_length,
                       c->model->files.config.hidden_size, err);
}

int sensitivity_variant_save(struct conversion *c, size_t index, struct states *variant, struct plim_err *err)
{
    char path[JOB_PATH_BYTES];
    variant_path(c, index, path);
    return states_save(variant, path, err);
}

bool sensitivity_has_variant(const struct conversion *c, size_t index)
{
    char path[JOB_PATH_BYTES];
    variant_path(c, index, path);
    return c->sensitivity_rows == 0 || job_has(&c->job, RECORD) || access(path, F_OK) == 0;
}

static void remove_variants(const struct conversion *c)
{
    char path[JOB_PATH_BYTES];
    for (size_t i = 0; i < c->block_count; i++) {
        variant_path(c, i, path);
        unlink(path);
    }
}

/* ---- the states: the dense model's rows in front, then those of each block's variant ---- */

static size_t rows_of(const struct conversion *c, size_t variants)
{
    return (1 + variants) * c->sensitivity_rows;
}

static int embed_dense_rows(struct conversion *c, struct plim_err *err)
{
    struct calibration_rows rows = { .rows = c->sensitivity_rows, .length = c->sensitivity_length };
    const struct calibration_rows *all = &c->calibration.measurement;

    rows.ids = plim_pool_alloc(c->pool, PLIM_HOST, PLIM_TAG_CALIBRATION, rows.rows * rows.length * sizeof *rows.ids, err);
    if (!rows.ids)
        return -1;
    for (size_t row = 0; row < rows.rows; row++)
        memcpy(rows.ids + row * rows.length, all->ids + sensitivity_row(c, row) * all->length,
               rows.length * sizeof *rows.ids);
    int rc = conversion_embed(c, &rows, err);
    plim_pool_free(c->pool, rows.ids);
    return rc;
}

static int load_variants(struct conversion *c, struct plim_err *err)
{
    for (size_t i = 0; i < c->block_count; i++) {
        struct states part = c->current;
        char path[JOB_PATH_BYTES];
        part.rows = c->sensitivity_rows;
        part.row = c->current.row + rows_of(c, i);
        variant_path(c, i, path);
        if (states_load(&part, path, err) < 0)
            return -1;
    }
    return 0;
}

/* `begin`: the first block that is left to pass. */
static int open_states(struct conversion *c, size_t *begin, struct plim_err *err)
{
    size_t rows = rows_of(c, c->block_count), width = c->model->files.config.hidden_size;
    char bytes[16];

    conversion_log(c, "sensitivities: %zu rows of %zu tokens for each of %zu blocks, %s of states in the slow tier",
                   c->sensitivity_rows, c->sensitivity_length, c->block_count,
                   plim_format_bytes(bytes, sizeof bytes, rows * c->sensitivity_length * width * sizeof(float)));
    if (block_run_open(&c->run, c->model, c->sensitivity_length, err) < 0 ||
        states_open(&c->current, c->pool, rows, c->sensitivity_length, width, err) < 0)
        return -1;
    *begin = checkpoint_load(c, STAGE, c->block_count);
    return *begin > 0 ? 0 : embed_dense_rows(c, err) < 0 ? -1 : load_variants(c, err);
}

struct advance {
    struct states *states;
    size_t row;
};

/* A chunk's input has been read when its output comes, and no later chunk reads it again. */
static int advance_row(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err)
{
    const struct advance *a = context;
    (void)err;
    memcpy(a->states->row[a->row] + first * a->states->width, hidden, tokens * a->states->width * sizeof *hidden);
    return 0;
}

/* Through block `index`: the dense model's rows, and the variants of the blocks before it. Its own come out of it. */
static int pass_rows(struct conversion *c, size_t index, struct plim_err *err)
{
    size_t rows = rows_of(c, index);
    uint64_t start = plim_now_ns();
    struct module m;
    char what[200];
    int rc = 0;

    if (module_open(&m, c, index, err) < 0)
        return -1;
    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    snprintf(what, sizeof what, "sensitivities through %s", m.key);
    for (size_t row = 0; row < rows && rc == 0; row++) {
        struct advance advance = { &c->current, row };
        if (row % c->sensitivity_rows == 0)
            conversion_progress_part(c, what, row, rows, start);
        rc = block_run_row(&c->run, m.layer, m.kind, c->current.row[row], advance_row, &advance, err);
        states_set_aside(&c->current, row);
    }
    meter_enter(&c->meter, outer);
    module_close(&m);
    return rc;
}

/* ---- divergences ---- */

static int logits_of(struct conversion *c, size_t row, size_t first, size_t tokens, float *logits, struct plim_err *err)
{
    struct backend *backend = &c->engine->backend;
    float cap = c->model->files.config.final_softcap;

    if (conversion_norm_states(c, &c->current, row, first, tokens, c->run.hidden, err) < 0 ||
        backend->ops->linear(backend, &c->model->head, c->run.hidden, tokens, logits, false, err) < 0)
        return -1;
    return cap > 0 ? backend->ops->softcap(backend, logits, cap, tokens * c->model->info.vocab_size, err) : 0;
}

/* divergence [blocks]: mean over all tokens. */
static int measure_divergences(struct conversion *c, double *divergence, struct plim_err *err)
{
    struct backend *backend = &c->engine->backend;
    const struct quantize_ops *ops = backend_quantize_ops(backend->ops->name);
    size_t vocab = c->model->info.vocab_size, length = c->sensitivity_length, most = block_run_tokens(backend) / 4;
    size_t piece = plim_max((size_t)1, plim_min(LOGITS_BYTES / (vocab * sizeof(float)), plim_min(most, length)));
    uint64_t start = plim_now_ns();
    double of_token[BLOCK_RUN_MOST_TOKENS / 4];
    int rc = -1;

    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    float *logits = plim_pool_alloc(c->pool, PLIM_FAST, PLIM_TAG_LOGITS, 2 * piece * vocab * sizeof *logits, err);
    if (!logits || model_head_load(c->model, err) < 0)
        goto out;
    for (size_t row = 0; row < c->sensitivity_rows; row++) {
        for (size_t first = 0; first < length; first += piece) {
            size_t tokens = plim_min(piece, length - first);
            conversion_progress_part(c, "divergences", row * length + first, c->sensitivity_rows * length, start);
            if (logits_of(c, row, first, tokens, logits, err) < 0)
                goto out;
            for (size_t i = 0; i < c->block_count; i++) {
                if (logits_of(c, rows_of(c, i) + row, first, tokens, logits + piece * vocab, err) < 0 ||
                    ops->divergence(backend, logits, logits + piece * vocab, tokens, vocab, of_token, err) < 0)
                    goto out;
                for (size_t t = 0; t < tokens; t++)
                    divergence[i] += of_token[t] / (double)(c->sensitivity_rows * length);
            }
        }
        for (size_t i = 0; i <= c->block_count; i++)
            states_set_aside(&c->current, i * c->sensitivity_rows + row);
    }
    rc = 0;

out:
    model_head_drop(c->model);
    plim_pool_free(c->pool, logits);
    meter_enter(&c->meter, outer);
    return rc;
}

/* ---- the record ---- */

static int write_record(struct conversion *c, const double *divergence, const struct plim_quantize_usage *usage,
                        struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *used = usage_to_json(usage, err), *blocks = NULL;
    bool fine = root && used && cJSON_AddNumberToObject(root, "rows", (double)c->sensitivity_rows) &&
                cJSON_AddNumberToObject(root, "length", (double)c->sensitivity_length) &&
                (blocks = cJSON_AddArrayToObject(root, "divergence"));

    for (size_t i = 0; fine && i < c->block_count; i++)
        fine = cJSON_AddItemToArray(blocks, cJSON_CreateNumber(divergence[i]));
    if (fine)
        fine = cJSON_AddItemToObject(root, "usage", used);
    else
        cJSON_Delete(used);
    int rc = fine ? job_write(&c->job, RECORD, root, err) : json_memory(err);
    cJSON_Delete(root);
    return rc;
}

int measure_sensitivities(struct conversion *c, struct plim_err *err)
{
    struct plim_quantize_usage usage;
    double *divergence = NULL;
    size_t begin = 0;
    int rc = -1;

    if (c->sensitivity_rows == 0)
        return 0;
    c->steps_done = c->block_count;
    if (job_has(&c->job, RECORD)) {
        rc = 0;
        goto done;
    }
    plim_pool_set_scope(c->pool, "sensitivity");
    meter_start(&c->meter, &c->engine->backend);
    divergence = plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count, sizeof *divergence, err);
    if (!divergence || open_states(c, &begin, err) < 0)
        goto done;
    for (size_t i = begin; i < c->block_count; i++) {
        c->steps_done = c->block_count + i;
        if (pass_rows(c, i, err) < 0)
            goto done;
        if (i + 1 < c->block_count)
            checkpoint_save(c, STAGE, i + 1);
    }
    c->steps_done = 2 * c->block_count;
    if (measure_divergences(c, divergence, err) < 0)
        goto done;
    meter_stop(&c->meter, &usage);
    rc = write_record(c, divergence, &usage, err);

done:
    conversion_rows_close(c);
    plim_pool_free(c->pool, divergence);
    if (rc < 0)
        return plim_err_wrap(err, "measuring sensitivities");
    c->steps_done = 2 * c->block_count + 1;
    checkpoint_clear(c, STAGE);
    remove_variants(c);
    return 0;
}

/* ---- measurement.json ---- */

static int add_block(cJSON *blocks, const char *key, int option, double divergence, const cJSON *options,
                     struct plim_err *err)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(options, option), "token_error");
    double error = item ? item->valuedouble : NAN;
    cJSON *block;

    if (!(divergence >= -1e-6 && error >= 0))
        return plim_err_input(err, "%s: a divergence of %g at an error of %g", key, divergence, error);
    /* Rounding may take nothing for less than nothing. A block without an error has no say. */
    double sensitivity = error > 0 ? fmax(divergence, 0) / (error * error) : 0;
    if ((block = cJSON_AddObjectToObject(blocks, key)) && cJSON_AddNumberToObject(block, "option", option) &&
        cJSON_AddNumberToObject(block, "divergence", divergence) &&
        cJSON_AddNumberToObject(block, "sensitivity", sensitivity))
        return 0;
    return json_memory(err);
}

int sensitivity_add(struct conversion *c, cJSON *root, struct plim_err *err)
{
    const cJSON *measurement = cJSON_GetObjectItemCaseSensitive(root, "measurement");
    cJSON *record = NULL, *sensitivity, *blocks;
    struct plim_quantize_usage usage;
    int rc = -1;

    if (c->sensitivity_rows == 0)
        return 0;
    if (job_read(&c->job, RECORD, &record, err) < 0)
        return -1;
    struct plim_json from = plim_json_root(record, RECORD), divergences = plim_json_get(from, "divergence");
    if (usage_from_json(&usage, plim_json_get(from, "usage"), err) < 0 || plim_json_array(divergences, err) < 0)
        goto out;
    usage_add(&c->summary->measurement, &usage);
    sensitivity = cJSON_AddObjectToObject(root, "sensitivity");
    if (!sensitivity || !cJSON_AddNumberToObject(sensitivity, "rows", (double)c->sensitivity_rows) ||
        !cJSON_AddNumberToObject(sensitivity, "length", (double)c->sensitivity_length) ||
        !(blocks = cJSON_AddObjectToObject(sensitivity, "blocks"))) {
        json_memory(err);
        goto out;
    }
    for (size_t i = 0; i < c->block_count; i++) {
        double divergence;
        char key[160];
        if (module_name(c, i, key, err) < 0 || plim_json_double(plim_json_at(divergences, i), &divergence, err) < 0 ||
            add_block(blocks, key, sensitivity_option(i % 2 ? BLOCK_MLP : BLOCK_ATTENTION), divergence,
                      cJSON_GetObjectItemCaseSensitive(measurement, key), err) < 0)
            goto out;
    }
    rc = 0;

out:
    cJSON_Delete(record);
    return rc;
}
