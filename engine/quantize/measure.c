/*
 * Measurement: the error of every option of every block, on states that no quantisation has touched.
 *
 * A block costs one run over the rows with Hessians, two factors, one GPTQ for each distinct layout of each matrix, and
 * one run for each option. Options are taken in the table's order, where equal layouts of a matrix follow each other
 * (but for one): so only the current option's matrices are held, and none is quantised twice.
 */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint.h"
#include "conversion.h"
#include "plimsoll/clock.h"

static void record_name(size_t index, char name[40])
{
    snprintf(name, 40, "measure-%05zu.json", index);
}

static bool has_record(const struct conversion *c, size_t index)
{
    char name[40];
    record_name(index, name);
    return job_has(&c->job, name) && sensitivity_has_variant(c, index);
}

/* ---- the options of one block ---- */

static bool same_layout(const struct exl2_layout *a, const struct exl2_layout *b)
{
    if (a->width_count != b->width_count)
        return false;
    for (int i = 0; i < a->width_count; i++)
        if (a->width[i].bits != b->width[i].bits || a->width[i].group_rows != b->width[i].group_rows ||
            a->width[i].share != b->width[i].share)
            return false;
    return true;
}

struct current_option {
    const struct exl2_layout *layout[BLOCK_MAX_MATRICES];   /* NULL: nothing quantised yet */
    struct gptq_result result[BLOCK_MAX_MATRICES];
};

static void drop_matrix(struct module *m, struct current_option *now, int p)
{
    struct backend *backend = &m->c->engine->backend;
    struct matrix *matrix = &m->quantised.matrix[m->first + p];
    if (matrix->impl)
        backend->ops->matrix_release(backend, matrix);
    gptq_result_release(&now->result[p], m->c->pool);
    now->layout[p] = NULL;
}

static int install_option(struct module *m, struct current_option *now, int option, struct plim_err *err)
{
    struct backend *backend = &m->c->engine->backend;
    for (int p = 0; p < m->matrix_count; p++) {
        const struct exl2_layout *layout = module_layout(m->kind, option, p);
        if (now->layout[p] && same_layout(now->layout[p], layout))
            continue;
        drop_matrix(m, now, p);
        const struct hessian *h = module_hessian(m, p, err);
        if (!h || quantise_layer(&now->result[p], &m->view[p].source, h, NULL, layout, false, m->weights_tier, &m->c->meter,
                                 err) < 0)
            return -1;
        struct linear_source source = quantised_source(&m->view[p].source, &now->result[p]);
        if (backend->ops->matrix_init(backend, &m->quantised.matrix[m->first + p], &source, err) < 0)
            return -1;
        now->layout[p] = layout;
    }
    return 0;
}

static int measure_option(struct module *m, struct current_option *now, int option, struct block_error *error,
                          struct plim_err *err)
{
    struct conversion *c = m->c;
    struct states variant = { 0 };
    bool keep = c->sensitivity_rows > 0 && option == sensitivity_option(m->kind);
    int rc = install_option(m, now, option, err);

    if (rc == 0 && keep)
        rc = sensitivity_variant_open(c, &variant, err);
    m->variant = keep ? &variant : NULL;
    if (rc == 0)
        rc = module_quantised(m, false, error, err);
    m->variant = NULL;
    if (rc == 0 && keep)
        rc = sensitivity_variant_save(c, m->index, &variant, err);
    states_close(&variant);
    return rc;
}

static int measure_options(struct module *m, struct block_error *errors, struct plim_err *err)
{
    struct current_option now = { 0 };
    uint64_t start = plim_now_ns();
    char what[200];
    int rc = 0;

    snprintf(what, sizeof what, "measuring %s", m->key);
    for (int option = 0; option < module_option_count(m->kind) && rc == 0; option++) {
        conversion_progress_part(m->c, what, (size_t)option, (size_t)module_option_count(m->kind), start);
        rc = measure_option(m, &now, option, &errors[option], err);
    }
    for (int p = 0; p < m->matrix_count; p++)
        drop_matrix(m, &now, p);
    return rc;
}

/* ---- records ---- */

static int write_record(struct module *m, const struct block_error *errors, const struct plim_quantize_usage *usage,
                        struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *options = NULL, *used = usage_to_json(usage, err);
    char name[40];
    bool fine = root && used && cJSON_AddStringToObject(root, "key", m->key) &&
                (options = cJSON_AddArrayToObject(root, "options"));
    for (int option = 0; fine && option < module_option_count(m->kind); option++) {
        cJSON *item = cJSON_CreateObject();
        double accuracy = fmax(1 - errors[option].frobenius, 1e-6);
        fine = item && cJSON_AddItemToArray(options, item) && cJSON_AddNumberToObject(item, "accuracy", accuracy) &&
               cJSON_AddNumberToObject(item, "token_error", errors[option].token) &&
               cJSON_AddNumberToObject(item, "total_bits", (double)module_option_bits(m, option));
    }
    if (fine)
        fine = cJSON_AddItemToObject(root, "usage", used);
    else
        cJSON_Delete(used);
    record_name(m->index, name);
    int rc = fine ? job_write(&m->c->job, name, root, err) : json_memory(err);
    cJSON_Delete(root);
    return rc;
}

static int measure_block(struct conversion *c, size_t index, struct plim_err *err)
{
    struct plim_quantize_usage usage;
    struct module m;
    struct block_error errors[EXL2_ATTENTION_OPTIONS];
    char detail[200];
    int rc = -1;

    meter_start(&c->meter, &c->engine->backend);
    if (module_open(&m, c, index, err) < 0)
        return -1;
    snprintf(detail, sizeof detail, "measuring %s", m.key);
    conversion_progress(c, detail);
    if (module_reference(&m, true, err) < 0 || module_factor(&m, false, err) < 0 ||
        measure_options(&m, errors, err) < 0)
        goto out;
    meter_stop(&c->meter, &usage);
    if (write_record(&m, errors, &usage, err) < 0)
        goto out;
    rc = 0;

out:
    module_close(&m);
    return rc;
}

/* Brings the states past a block that was measured before. */
static int pass_block(struct conversion *c, size_t index, struct plim_err *err)
{
    struct module m;
    if (module_open(&m, c, index, err) < 0)
        return -1;
    int rc = module_reference(&m, false, err);
    module_close(&m);
    return rc;
}

/* ---- measurement.json ---- */

static cJSON *layout_json(const struct exl2_layout *layout)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *sizes = json ? cJSON_AddObjectToObject(json, "group_size") : NULL;
    cJSON *bits = sizes ? cJSON_AddArrayToObject(json, "bits") : NULL;
    cJSON *shares = bits ? cJSON_AddArrayToObject(json, "bits_prop") : NULL;
    bool fine = shares != NULL;
    for (int i = 0; fine && i < layout->width_count; i++) {
        char width[16];
        snprintf(width, sizeof width, "%u", (unsigned)layout->width[i].bits);
        fine = cJSON_AddNumberToObject(sizes, width, layout->width[i].group_rows) &&
               cJSON_AddItemToArray(bits, cJSON_CreateNumber(layout->width[i].bits)) &&
               cJSON_AddItemToArray(shares, cJSON_CreateNumber(layout->width[i].share));
    }
    if (fine && cJSON_AddNumberToObject(json, "scale_bits", 4))
        return json;
    cJSON_Delete(json);
    return NULL;
}

/* A block's record becomes its entry: the options with their layouts spelled out. */
static int add_entry(struct conversion *c, size_t index, cJSON *measurement, struct plim_err *err)
{
    static const char *const names[2][BLOCK_MAX_MATRICES] = { { "q_proj", "k_proj", "v_proj", "o_proj" },
                                                               { "gate_proj", "up_proj", "down_proj", NULL } };
    enum block_kind kind = index % 2 ? BLOCK_MLP : BLOCK_ATTENTION;
    struct plim_quantize_usage usage;
    cJSON *record = NULL, *options, *item;
    char name[40], key[160];
    int rc = -1, option = 0;

    record_name(index, name);
    if (module_name(c, index, key, err) < 0 || job_read(&c->job, name, &record, err) < 0)
        return -1;
    if (usage_from_json(&usage, plim_json_get(plim_json_root(record, name), "usage"), err) < 0)
        goto out;
    usage_add(&c->summary->measurement, &usage);
    options = cJSON_DetachItemFromObjectCaseSensitive(record, "options");
    if (!options || cJSON_GetArraySize(options) != module_option_count(kind) ||
        !cJSON_AddItemToObject(measurement, key, options)) {
        cJSON_Delete(options);
        plim_err_input(err, "%s/%s is damaged: remove it, and its block will be measured again", c->job.directory, name);
        goto out;
    }
    cJSON_ArrayForEach(item, options) {
        for (int p = 0; p < BLOCK_MAX_MATRICES && names[kind][p]; p++) {
            cJSON *layout = layout_json(module_layout(kind, option, p));
            if (!layout || !cJSON_AddItemToObject(item, names[kind][p], layout)) {
                cJSON_Delete(layout);
                json_memory(err);
                goto out;
            }
        }
        option++;
    }
    rc = 0;

out:
    cJSON_Delete(record);
    return rc;
}

static int write_measurement(struct conversion *c, struct plim_err *err)
{
    const struct model_config *config = &c->model->files.config;
    cJSON *root = cJSON_CreateObject(), *measurement = root ? cJSON_AddObjectToObject(root, "measurement") : NULL;
    char key[160];
    int rc = -1;

    if (!measurement) {
        json_memory(err);
        goto out;
    }
    for (size_t i = 0; i < c->block_count; i++)
        if (add_entry(c, i, measurement, err) < 0)
            goto out;
    snprintf(key, sizeof key, "%smodel.norm.norm", config->key_prefix);
    if (!cJSON_AddNullToObject(measurement, key)) {
        json_memory(err);
        goto out;
    }
    snprintf(key, sizeof key, "%slm_head.linear", config->key_prefix);
    if (!cJSON_AddNullToObject(measurement, key) ||
        !cJSON_AddNumberToObject(root, "last_module_idx", (double)(c->block_count + 2))) {
        json_memory(err);
        goto out;
    }
    if (sensitivity_add(c, root, err) == 0)
        rc = job_write(&c->job, "measurement.json", root, err);

out:
    cJSON_Delete(root);
    return rc;
}

int measure_blocks(struct conversion *c, struct plim_err *err)
{
    size_t end = c->block_count;   /* behind the last block without a record */
    size_t begin = 0;              /* first one without */
    int rc = 0;

    while (end > 0 && has_record(c, end - 1))
        end--;
    while (begin < end && has_record(c, begin))
        begin++;
    if (end > 0 && conversion_rows_open(c, &c->calibration.measurement, err) < 0)
        return -1;
    if (end > 0)
        begin = checkpoint_load(c, "measure", begin);
    c->job.resumed |= begin > 0;
    c->steps_done = begin;
    for (size_t i = begin; i < end && rc == 0; i++) {
        bool known = has_record(c, i);
        c->job.resumed |= known;
        rc = known ? pass_block(c, i, err) : measure_block(c, i, err);
        struct states done = c->current;
        c->current = c->target;
        c->target = done;
        c->steps_done++;
        if (rc == 0 && i + 1 < end)
            checkpoint_save(c, "measure", i + 1);
    }
    conversion_rows_close(c);
    c->steps_done = c->block_count;
    if (rc < 0)
        return plim_err_wrap(err, "measuring");
    checkpoint_clear(c, "measure");
    return measure_sensitivities(c, err) < 0 ? -1 : write_measurement(c, err);
}
