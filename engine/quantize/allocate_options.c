/* From measured errors to an option for each block. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "allocation.h"
#include "conversion.h"

#define MEASUREMENT_LIMIT_BYTES ((size_t)256 << 20)

/* One block's entry of a measurement: sizes must be what this model and our tables give. */
static int read_entry(struct conversion *c, size_t index, struct plim_json measurement, struct allocation_slot *slot,
                      uint64_t *weights, struct plim_err *err)
{
    struct module m = { .c = c, .index = index };
    enum block_kind kind = index % 2 ? BLOCK_MLP : BLOCK_ATTENTION;
    int count = module_option_count(kind);

    if (module_describe(&m, err) < 0)
        return -1;
    struct plim_json list = plim_json_get(measurement, m.key);
    if (plim_json_array(list, err) < 0)
        return plim_err_wrap(err, "block %s", m.key);
    if ((int)plim_json_length(list) != count)
        return plim_json_err(list, err, "%zu options, expected %d", plim_json_length(list), count);
    *weights += module_weights(&m);
    slot->option_count = count;
    for (int option = 0; option < count; option++) {
        struct plim_json item = plim_json_at(list, (size_t)option);
        double accuracy;
        int64_t bits;
        if (plim_json_double(plim_json_get(item, "accuracy"), &accuracy, err) < 0 ||
            plim_json_int(plim_json_get(item, "total_bits"), 0, (int64_t)1 << 53, &bits, err) < 0)
            return -1;
        if (!(accuracy > 0 && accuracy <= 1))
            return plim_json_err(plim_json_get(item, "accuracy"), err, "%g, expected a number above 0, at most 1",
                                 accuracy);
        if ((uint64_t)bits != module_option_bits(&m, option))
            return plim_json_err(plim_json_get(item, "total_bits"), err,
                                 "%lld, expected %llu: it was measured on another model, or with other options",
                                 (long long)bits, (unsigned long long)module_option_bits(&m, option));
        /* ExLlamaV2's measurements have the accuracy only (conversion.h says what sets them apart). */
        double error = 1 - accuracy;
        struct plim_json token_error = plim_json_get(item, "token_error");
        if (plim_json_has(token_error) && plim_json_double(token_error, &error, err) < 0)
            return -1;
        if (!(error >= 0 && error < 1e6))
            return plim_json_err(token_error, err, "%g, expected a number of at least 0", error);
        slot->option[option] = (struct allocation_option){ .bits = (uint64_t)bits, .error = error };
    }
    return 0;
}

/*
 * What squared errors of each block weigh. Measurements of ExLlamaV2, earlier ones of ours and those that were told not to have
 * no sensitivities.
 */
static int read_sensitivities(struct conversion *c, struct plim_json root, struct allocation_slot *slots, bool *weighted,
                              struct plim_err *err)
{
    struct plim_json sensitivity = plim_json_get(root, "sensitivity");

    *weighted = c->options.sensitivity_rows > 0 && plim_json_has(sensitivity);
    for (size_t i = 0; i < c->block_count; i++) {
        char key[160];
        slots[i].weight = 1;
        if (!*weighted)
            continue;
        if (module_name(c, i, key, err) < 0)
            return -1;
        struct plim_json value = plim_json_get(plim_json_get(plim_json_get(sensitivity, "blocks"), key), "sensitivity");
        if (plim_json_double(value, &slots[i].weight, err) < 0)
            return plim_err_wrap(err, "block %s", key);
        if (!(slots[i].weight >= 0 && slots[i].weight < 1e12))
            return plim_json_err(value, err, "%g, expected a number of at least 0", slots[i].weight);
    }
    if (c->options.sensitivity_rows > 0 && !*weighted)
        conversion_log(c, "%s has no sensitivities: errors of all blocks weigh the same", c->options.measurement);
    return 0;
}

static int write_choice(struct conversion *c, const struct allocation *allocation, uint64_t budget, uint64_t weights,
                        struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *choices = NULL;
    bool fine = root && cJSON_AddNumberToObject(root, "bits", (double)allocation->bits) &&
                cJSON_AddNumberToObject(root, "budget_bits", (double)budget) &&
                cJSON_AddNumberToObject(root, "weights", (double)weights) &&
                cJSON_AddNumberToObject(root, "loss", allocation->loss) &&
                cJSON_AddNumberToObject(root, "loss_bound", allocation->lower_bound) &&
                cJSON_AddNumberToObject(root, "worst_error", allocation->worst_error) &&
                (choices = cJSON_AddObjectToObject(root, "options"));
    for (size_t i = 0; fine && i < c->block_count; i++) {
        char key[160];
        if (module_name(c, i, key, err) < 0)
            break;
        fine = cJSON_AddNumberToObject(choices, key, c->choice[i]) != NULL;
    }
    int rc = fine && err->kind == PLIM_ERR_NONE ? job_write(&c->job, "allocation.json", root, err) : json_memory(err);
    cJSON_Delete(root);
    return rc;
}

int allocate_options(struct conversion *c, struct plim_err *err)
{
    const char *given = c->options.measurement;
    struct allocation_slot *slots = NULL;
    struct allocation allocation;
    bool weighted;
    char path[JOB_PATH_BYTES];
    cJSON *root = NULL;
    uint64_t weights = 0;
    int rc = -1;

    job_path(&c->job, "measurement.json", path);
    plim_pool_set_scope(c->pool, "allocation");
    slots = plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count, sizeof *slots, err);
    if (!slots || plim_json_read(given ? given : path, MEASUREMENT_LIMIT_BYTES, &root, err) < 0)
        goto out;
    struct plim_json measurement = plim_json_get(plim_json_root(root, given ? given : path), "measurement");
    if (plim_json_object(measurement, err) < 0)
        goto out;
    for (size_t i = 0; i < c->block_count; i++)
        if (read_entry(c, i, measurement, &slots[i], &weights, err) < 0)
            goto out;
    if (read_sensitivities(c, plim_json_root(root, given ? given : path), slots, &weighted, err) < 0)
        goto out;
    uint64_t budget = (uint64_t)floor((double)weights * c->options.bits_per_weight);
    if (allocate(slots, c->block_count, budget, weights, c->pool, c->choice, &allocation, err) < 0)
        goto out;
    for (size_t i = 0; i < c->block_count; i++)
        c->expected_error[i] = slots[i].option[c->choice[i]].error;
    c->summary->bits_per_weight = (double)allocation.bits / (double)weights;
    c->summary->loss = allocation.loss;
    c->summary->loss_bound = allocation.lower_bound;
    c->summary->weighted = weighted;
    conversion_log(c, "allocation: %.5f of %.5f bits a weight, %s %.6g, no choice has less than %.6g",
                   c->summary->bits_per_weight, c->options.bits_per_weight,
                   weighted ? "KL divergence to expect" : "sum of squared errors", allocation.loss,
                   allocation.lower_bound);
    rc = write_choice(c, &allocation, budget, weights, err);

out:
    cJSON_Delete(root);
    plim_pool_free(c->pool, slots);
    return rc < 0 ? plim_err_wrap(err, "choosing options") : 0;
}
