/*
 * Sensitivities: against models that really have one block quantised, what allocation makes of them, where they are kept, and
 * that neither threads nor memory nor kills change them.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conversion.h"
#include "conversion_support.h"
#include "plimsoll/file.h"
#include "plimsoll/generate.h"

enum { BLOCKS = 4, CALIBRATION_ROWS = 8, ROWS = CALIBRATION_ROWS / 4, LENGTH = 256, ATTENTION_OPTIONS = 19, MLP_OPTIONS = 17 };

static const char *const keys[BLOCKS] = { "model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.self_attn",
                                          "model.layers.1.mlp" };

static const cJSON *get(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    cr_assert_not_null(item, "%s", name);
    return item;
}

static double number(const cJSON *object, const char *name)
{
    return get(object, name)->valuedouble;
}

static int option_count(int block)
{
    return block % 2 ? MLP_OPTIONS : ATTENTION_OPTIONS;
}

/* As measurement sees the blocks: no drift is made up for, and the same rows. */
static struct plim_quantize_options measuring_options(const char *output)
{
    return (struct plim_quantize_options){
        .model_directory = DENSE,
        .output_directory = output,
        .bits_per_weight = 3.3,
        .head_bits = 8,
        .calibration = FIXTURES "/calibration.safetensors",
        .sensitivity_rows = CALIBRATION_ROWS,
        .as_exllamav2 = true,
    };
}

static void write_json(const char *path, const cJSON *root)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *text = cJSON_Print(root);
    cr_assert_eq(plim_write_file(path, text, strlen(text), &err), 0, "%s", err.message);
    cJSON_free(text);
}

/* ---- one block quantised, truly ---- */

/* A measurement by which allocation, given all the bits there are, takes `option` for `block` and the last for all others. */
static void write_wish(const char *path, const char *measurement, int block, int option)
{
    cJSON *root = read_json(measurement);
    cJSON_DeleteItemFromObject(root, "sensitivity");
    for (int b = 0; b < BLOCKS; b++) {
        int wanted = b == block ? option : option_count(b) - 1, i = 0;
        cJSON *item;
        cJSON_ArrayForEach(item, get(get(root, "measurement"), keys[b])) {
            cJSON *error = cJSON_CreateNumber(i++ == wanted ? 0.001 : 0.5);
            cr_assert(cJSON_ReplaceItemInObjectCaseSensitive(item, "token_error", error));
        }
    }
    write_json(path, root);
    cJSON_Delete(root);
}

/* Every fourth row, as sensitivities have them. */
static int32_t *calibration_ids(void)
{
    struct reference reference;
    int32_t *ids = malloc(ROWS * LENGTH * sizeof *ids);
    reference_open(&reference, FIXTURES "/calibration.safetensors");
    const struct tensor *tensor = tensor_store_find(reference.store, "input_ids");
    cr_assert(tensor && tensor->shape[0] == CALIBRATION_ROWS && tensor->shape[1] == LENGTH);
    for (size_t i = 0; i < ROWS * LENGTH; i++) {
        size_t from = i / LENGTH * (CALIBRATION_ROWS / ROWS) * LENGTH + i % LENGTH;
        ids[i] = tensor->dtype == DTYPE_I64 ? (int32_t)((const int64_t *)tensor->data)[from]
                                            : ((const int32_t *)tensor->data)[from];
    }
    reference_close(&reference);
    return ids;
}

/* Mean over all positions of the rows, in double from the logits. */
static double divergence(const char *directory, const int32_t *ids)
{
    struct rig dense, quantised;
    double sum = 0;

    rig_open(&dense, DENSE, "", LENGTH);
    rig_open(&quantised, directory, "", LENGTH);
    size_t vocab = dense.info.vocab_size;
    for (size_t row = 0; row < ROWS; row++) {
        plim_session_rewind(dense.session, 0);
        plim_session_rewind(quantised.session, 0);
        float *p = forward_all(&dense, ids + row * LENGTH, LENGTH), *q = forward_all(&quantised, ids + row * LENGTH, LENGTH);
        for (size_t t = 0; t < LENGTH; t++) {
            sum += divergence_by_definition(p + t * vocab, q + t * vocab, vocab);
        }
        free(p);
        free(q);
    }
    rig_close(&dense);
    rig_close(&quantised);
    return sum / (ROWS * LENGTH);
}

static double true_divergence(const struct scratch *s, const char *name, int block, int option, const int32_t *ids)
{
    char output[256], wish[300];
    snprintf(output, sizeof output, "%s", scratch_path(s, name));
    snprintf(wish, sizeof wish, "%s.json", output);
    write_wish(wish, scratch_path(s, "all.job/measurement.json"), block, option);
    struct plim_quantize_options options = measuring_options(output);
    options.measurement = wish;
    options.bits_per_weight = 16;
    options.sensitivity_rows = 0;
    convert_well(&options, "", NULL);
    return divergence(output, ids);
}

/* All blocks but one have 8 bits, and so has the head: what these add, measured by themselves, is taken off. */
Test(sensitivity, is_the_divergence_of_a_model_with_that_block_quantised, .timeout = 120)
{
    struct scratch s;
    int32_t *ids = calibration_ids();
    scratch_make(&s);
    struct plim_quantize_options options = measuring_options(scratch_path(&s, "all"));
    options.measure_only = true;
    convert_well(&options, "", NULL);

    cJSON *root = read_json(scratch_path(&s, "all.job/measurement.json"));
    const cJSON *sensitivity = get(root, "sensitivity");
    cr_assert_eq(number(sensitivity, "rows"), ROWS);
    cr_assert_eq(number(sensitivity, "length"), LENGTH);
    double rest = true_divergence(&s, "rest", 0, ATTENTION_OPTIONS - 1, ids), least = INFINITY, most = 0;
    for (int b = 0; b < BLOCKS; b++) {
        const cJSON *block = get(get(sensitivity, "blocks"), keys[b]);
        int option = (int)number(block, "option");
        double found = number(block, "divergence"), wanted = true_divergence(&s, keys[b], b, option, ids) - rest;
        double error = number(cJSON_GetArrayItem(get(get(root, "measurement"), keys[b]), option), "token_error");
        cr_log_info("%s: %g, with the others at 8 bits %g more than their %g\n", keys[b], found, wanted, rest);
        cr_expect_float_eq(found, wanted, 0.05 * wanted, "%s: %g, found %g", keys[b], wanted, found);
        cr_expect_float_eq(number(block, "sensitivity"), found / (error * error), 1e-9 * found / (error * error));
        least = fmin(least, found / (error * error));
        most = fmax(most, found / (error * error));
    }
    cr_assert_gt(most, 1.05 * least, "nothing to tell blocks apart by");
    cJSON_Delete(root);
    scratch_remove(&s);
    free(ids);
}

/* ---- allocation ---- */

/* Of all choices within the budget, the least loss: four loops. */
static double least_loss(const cJSON *root, double budget)
{
    double bits[BLOCKS][ATTENTION_OPTIONS], loss[BLOCKS][ATTENTION_OPTIONS], best = INFINITY;

    for (int b = 0; b < BLOCKS; b++) {
        double weight = number(get(get(get(root, "sensitivity"), "blocks"), keys[b]), "sensitivity");
        for (int o = 0; o < option_count(b); o++) {
            const cJSON *item = cJSON_GetArrayItem(get(get(root, "measurement"), keys[b]), o);
            bits[b][o] = number(item, "total_bits");
            loss[b][o] = weight * number(item, "token_error") * number(item, "token_error");
        }
    }
    for (int i = 0; i < ATTENTION_OPTIONS; i++)
        for (int j = 0; j < MLP_OPTIONS; j++)
            for (int k = 0; k < ATTENTION_OPTIONS; k++)
                for (int l = 0; l < MLP_OPTIONS; l++)
                    if (bits[0][i] + bits[1][j] + bits[2][k] + bits[3][l] <= budget)
                        best = fmin(best, loss[0][i] + loss[1][j] + loss[2][k] + loss[3][l]);
    return best;
}

static void collect_line(void *context, const char *line)
{
    strncat(context, line, 4000 - strlen(context));
    strncat(context, "\n", 4000 - strlen(context));
}

Test(sensitivity, weighs_errors_where_it_was_measured_and_is_said_to_be_missing_where_not)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_summary summary;
    char log[4096] = "";
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "own"));
    options.measurement = NULL;
    options.sensitivity_rows = 1;
    convert_well(&options, "", NULL);

    /* Another rate from the same measurement: the best choice by weighted errors. */
    char measurement[256];
    snprintf(measurement, sizeof measurement, "%s", scratch_path(&s, "own.job/measurement.json"));
    options.measurement = measurement;
    options.output_directory = scratch_path(&s, "other");
    options.bits_per_weight = 3.1;
    cr_assert_eq(convert(&options, "", &summary, &err), 0, "%s", err.message);
    cr_assert(summary.weighted);
    cJSON *root = read_json(measurement), *allocation = read_json(scratch_path(&s, "other.job/allocation.json"));
    double best = least_loss(root, number(allocation, "budget_bits"));
    cr_assert_float_eq(summary.loss, best, 1e-12 * best);
    cr_assert_float_eq(summary.loss_bound, best, 1e-12 * best);

    /* Told not to use them. */
    options.sensitivity_rows = 0;
    options.output_directory = scratch_path(&s, "unweighted");
    cr_assert_eq(convert(&options, "", &summary, &err), 0, "%s", err.message);
    cr_assert_not(summary.weighted);

    /* ExLlamaV2's has none. */
    options = quick_options(scratch_path(&s, "theirs"));
    options.sensitivity_rows = 1;
    options.log = collect_line;
    options.log_context = log;
    cr_assert_eq(convert(&options, "", &summary, &err), 0, "%s", err.message);
    cr_assert_not(summary.weighted);
    cr_assert_not_null(strstr(log, "measurement.json has no sensitivities: errors of all blocks weigh the same"), "%s", log);

    /* Damaged: the block is named. */
    cr_assert(cJSON_ReplaceItemInObjectCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(
            cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "sensitivity"), "blocks"), keys[2]),
        "sensitivity", cJSON_CreateNumber(-1)));
    options.measurement = scratch_path(&s, "damaged.json");
    options.output_directory = scratch_path(&s, "none");
    write_json(options.measurement, root);
    cr_assert_eq(convert(&options, "", NULL, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "sensitivity.blocks.model.layers.1.self_attn.sensitivity"), "%s", err.message);
    cJSON_Delete(root);
    cJSON_Delete(allocation);
    scratch_remove(&s);
}

/* ---- memory ---- */

/* The states of all variants, and nothing else in the slow tier; their files are gone. */
Test(sensitivity, takes_the_memory_that_is_said)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    char log[4096] = "";
    scratch_make(&s);
    struct plim_quantize_options options = measuring_options(scratch_path(&s, "out"));
    options.measure_only = true;
    options.log = collect_line;
    options.log_context = log;
    convert_well(&options, "cpu_threads=2", NULL);
    cJSON *record = read_json(scratch_path(&s, "out.job/sensitivity.json"));
    struct plim_quantize_usage usage;
    cr_assert_eq(usage_from_json(&usage, plim_json_get(plim_json_root(record, "record"), "usage"), &err), 0, "%s", err.message);
    uint64_t states = (1 + BLOCKS) * ROWS * LENGTH * 256 * sizeof(float);
    cr_assert_eq(usage.peak_bytes[PLIM_SLOW], states, "%llu, not %llu", (unsigned long long)usage.peak_bytes[PLIM_SLOW],
                 (unsigned long long)states);
    cr_assert_not_null(strstr(log, "2 rows of 256 tokens for each of 4 blocks, 2.5 MiB of states"), "%s", log);
    cJSON_Delete(record);
    for (int b = 0; b < BLOCKS; b++) {
        char name[40];
        snprintf(name, sizeof name, "out.job/variant-%05d.bin", b);
        cr_assert_not(plim_path_exists(scratch_path(&s, name)));
    }
    scratch_remove(&s);
}
