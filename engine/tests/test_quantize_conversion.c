/*
 * Whole conversions of the tiny Llama, beside ExLlamaV2's of the same model with the same tokens: errors, choices, sizes,
 * the files' form, and that nothing but the input decides a bit.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conversion_support.h"
#include "exl2.h"
#include "plimsoll/file.h"

static struct plim_quantize_options full_options(const char *output)
{
    return (struct plim_quantize_options){
        .model_directory = DENSE,
        .output_directory = output,
        .bits_per_weight = 4.0,
        .calibration = FIXTURES "/calibration.safetensors",
    };
}

static double number(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    cr_assert(cJSON_IsNumber(item), "%s", name);
    return item->valuedouble;
}

/*
 * Errors of all options, `as_exllamav2` or by our own arithmetic, which must not err more. The reference works in fp16, so
 * its small errors carry its own noise of about 5e-4.
 */
static void check_measurement(const char *path, bool as_exllamav2)
{
    cJSON *ours = read_json(path), *theirs = read_json(FIXTURES "/measurement.json");
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(ours, "measurement"), *module;
    size_t modules = 0;

    cJSON_ArrayForEach(module, cJSON_GetObjectItemCaseSensitive(theirs, "measurement")) {
        const cJSON *mine = cJSON_GetObjectItemCaseSensitive(a, module->string);
        cr_assert_not_null(mine, "%s", module->string);
        cr_assert_eq(cJSON_GetArraySize(mine), cJSON_GetArraySize(module));
        for (int i = 0; i < cJSON_GetArraySize(module); i++) {
            cJSON *x = cJSON_GetArrayItem(mine, i), *y = cJSON_GetArrayItem(module, i);
            double error = 1 - number(x, "accuracy"), reference = 1 - number(y, "accuracy");
            cr_assert_eq(number(x, "total_bits"), number(y, "total_bits"));
            double least = as_exllamav2 ? 0.98 * reference - 6e-4 : 0;
            cr_assert(error >= least && error <= 1.02 * reference + 6e-4, "%s option %d: %g, ExLlamaV2 %g",
                      module->string, i, error, reference);
            cJSON_DeleteItemFromObject(x, "accuracy");
            cJSON_DeleteItemFromObject(x, "token_error");
            cJSON_DeleteItemFromObject(y, "accuracy");
            cr_assert(cJSON_Compare(x, y, 1), "%s option %d: other layouts", module->string, i);
        }
        modules++;
    }
    cr_assert_eq(modules, 6);   /* two layers of two, the norm and the head, which are null */
    cJSON_Delete(ours);
    cJSON_Delete(theirs);
}

/*
 * The blocks of modules.json against reference.json's `quantized.RATE.modules`. Ours also make up for what came before, so
 * that by their own inputs alone, as here, one may err more.
 */
static void check_modules(const char *path, const char *rate, bool as_exllamav2)
{
    cJSON *ours = read_json(path), *reference = read_json(FIXTURES "/reference.json");
    const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(reference, "quantized"), rate), "modules");
    const cJSON *module;
    double sum = 0, reference_sum = 0;
    int count = 0;

    cJSON_ArrayForEach(module, ours) {
        const cJSON *their = cJSON_GetObjectItemCaseSensitive(
            theirs, cJSON_GetObjectItemCaseSensitive(module, "key")->valuestring);
        if (!their)
            continue;   /* the head */
        double error = number(module, "rfn_error"), expected = number(their, "rfn_error");
        sum += error * error;
        reference_sum += expected * expected;
        if (number(module, "option") == number(their, "option_index")) {
            double least = as_exllamav2 ? 0.975 * expected : 0;
            cr_assert(error >= least && error <= (as_exllamav2 ? 1.025 : 1.06) * expected, "%s: %g, ExLlamaV2 %g",
                      cJSON_GetObjectItemCaseSensitive(module, "key")->valuestring, error, expected);
            cr_assert_float_eq(number(module, "bits_per_weight"), number(their, "bits_per_weight"), 5e-5);
        }
        count++;
    }
    cr_assert_eq(count, 4);
    cr_assert_leq(sum, reference_sum * (as_exllamav2 ? 1.01 : 0.95), "sum of squared errors %g, ExLlamaV2 %g", sum,
                  reference_sum);
    cJSON_Delete(ours);
    cJSON_Delete(reference);
}

/* Mean KL divergence from the dense model's predictions, over the 200 tokens of the fixture. */
static double divergence(const char *directory)
{
    struct rig dense, quantised;
    int32_t *ids = fixture_ids(200);
    double sum = 0;

    rig_open(&dense, DENSE, "", 256);
    rig_open(&quantised, directory, "", 256);
    size_t vocab = dense.info.vocab_size;
    float *p = forward_all(&dense, ids, 200), *q = forward_all(&quantised, ids, 200);
    for (size_t t = 0; t < 200; t++) {
        sum += divergence_by_definition(p + t * vocab, q + t * vocab, vocab);
    }
    free(p);
    free(q);
    free(ids);
    rig_close(&dense);
    rig_close(&quantised);
    return sum / 200;
}

static void check_config(const char *path)
{
    cJSON *root = read_json(path);
    const cJSON *block = cJSON_GetObjectItemCaseSensitive(root, "quantization_config");
    cr_assert_str_eq(cJSON_GetObjectItemCaseSensitive(block, "quant_method")->valuestring, "exl2");
    cr_assert_eq(number(block, "bits"), 4);
    cr_assert_eq(number(block, "head_bits"), 6);
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(block, "calibration");
    cr_assert_eq(number(rows, "rows"), 8);
    cr_assert_eq(number(rows, "length"), 256);
    cr_assert_str_eq(cJSON_GetObjectItemCaseSensitive(rows, "dataset")->valuestring, "calibration.safetensors");
    cr_assert_eq(number(root, "hidden_size"), 256);
    cJSON_Delete(root);
}

/* Names, types and shapes of all tensors are those of ExLlamaV2's own file (group counts follow the options). */
static void check_form(const char *ours, const char *theirs)
{
    struct reference a, b;
    reference_open(&a, ours);
    reference_open(&b, theirs);
    cr_assert_eq(tensor_store_count(a.store), tensor_store_count(b.store));
    for (size_t i = 0; i < tensor_store_count(b.store); i++) {
        const struct tensor *wanted = tensor_store_at(b.store, i), *found = tensor_store_find(a.store, wanted->name);
        cr_assert_not_null(found, "%s", wanted->name);
        cr_assert_eq(found->dtype, wanted->dtype, "%s", wanted->name);
        cr_assert_eq(found->dimension_count, wanted->dimension_count, "%s", wanted->name);
        cr_assert_eq((uintptr_t)found->data % dtype_bytes(found->dtype), 0, "%s is not aligned", found->name);
        if (!strstr(wanted->name, ".q_")) {
            cr_assert_eq(found->bytes, wanted->bytes, "%s", wanted->name);
            cr_assert_eq(memcmp(found->data, wanted->data, found->bytes), 0, "%s", wanted->name);
        }
    }
    reference_close(&a);
    reference_close(&b);
}

Test(conversion, has_exllamav2_s_errors_by_its_arithmetic)
{
    struct scratch s;
    scratch_make(&s);
    struct plim_quantize_options options = full_options(scratch_path(&s, "out"));
    options.as_exllamav2 = true;
    convert_well(&options, "", NULL);
    check_measurement(scratch_path(&s, "out.job/measurement.json"), true);
    check_modules(scratch_path(&s, "out.job/modules.json"), "4.0", true);
    scratch_remove(&s);
}

Test(conversion, is_better_than_exllamav2_on_the_same_tokens)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_summary summary;
    scratch_make(&s);
    struct plim_quantize_options options = full_options(scratch_path(&s, "out"));
    cr_assert_eq(convert(&options, "", &summary, &err), 0, "%s", err.message);

    check_measurement(scratch_path(&s, "out.job/measurement.json"), false);
    check_modules(scratch_path(&s, "out.job/modules.json"), "4.0", false);
    cr_assert_leq(summary.bits_per_weight, 4.0);
    cr_assert_eq(summary.loss, summary.loss_bound, "the allocation is not optimal");
    cr_assert_eq(summary.rows, 8);
    cr_assert_eq(summary.measurement_length, 256);
    check_config(scratch_path(&s, "out/config.json"));
    check_form(scratch_path(&s, "out/output.safetensors"), FIXTURES "/exl2-4.0/output.safetensors");
    cr_assert(same_file(scratch_path(&s, "out/tokenizer.json"), DENSE "/tokenizer.json"));
    double ours = divergence(scratch_path(&s, "out")), theirs = divergence(FIXTURES "/exl2-4.0");
    cr_log_info("4.0: KL divergence %g, ExLlamaV2's %g", ours, theirs);
    cr_assert_leq(ours, 0.83 * theirs, "KL divergence %g, ExLlamaV2's %g", ours, theirs);

    /* Another rate from the same measurement, and rounding to nearest beside it. */
    options.output_directory = scratch_path(&s, "small");
    options.measurement = scratch_path(&s, "out.job/measurement.json");
    options.bits_per_weight = 2.6;
    options.head_bits = 5;
    convert_well(&options, "", NULL);
    check_modules(scratch_path(&s, "small.job/modules.json"), "2.6", false);
    double small = divergence(scratch_path(&s, "small")), their_small = divergence(FIXTURES "/exl2-2.6");
    cr_log_info("2.6: KL divergence %g, ExLlamaV2's %g", small, their_small);
    cr_assert_leq(small, 0.75 * their_small, "KL divergence %g, ExLlamaV2's %g", small, their_small);

    options.output_directory = scratch_path(&s, "rounded");
    options.round_to_nearest = true;
    convert_well(&options, "", NULL);
    cJSON *a = read_json(scratch_path(&s, "small.job/allocation.json"));
    cJSON *b = read_json(scratch_path(&s, "rounded.job/allocation.json"));
    cr_assert(cJSON_Compare(a, b, 1));
    cJSON_Delete(a);
    cJSON_Delete(b);
    double rounded = divergence(scratch_path(&s, "rounded"));
    cr_assert_gt(rounded, 1.1 * small, "KL divergence %g rounded, %g with GPTQ", rounded, small);
    scratch_remove(&s);
}

/* ---- nothing but the input decides ---- */

Test(conversion, has_the_same_bytes_for_any_threads_and_any_memory)
{
    static const char *const settings[] = {
        "cpu_threads=2",
        "cpu_threads=1",
        "cpu_threads=3 release_at_boundary=off",
        "hessian_offload_threshold=0",
        "memory_budget=1000Ki",
        "max_dq_size=1Ki max_attention_size=64Ki dq_rows=64 low_mem=on max_input_len=16",
    };
    struct scratch s;
    char digest[33], first[33];
    scratch_make(&s);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        char name[16];
        snprintf(name, sizeof name, "out%zu", i);
        struct plim_quantize_options options = quick_options(scratch_path(&s, name));
        convert_well(&options, settings[i], i ? digest : first);
        if (i > 0)
            cr_assert_str_eq(digest, first, "%s", settings[i]);
    }
    check_same_model(scratch_path(&s, "out0"), scratch_path(&s, "out4"));
    scratch_remove(&s);
}

Test(conversion, measures_the_same_for_any_threads_and_any_memory)
{
    static const char *const settings[] = { "cpu_threads=2", "cpu_threads=1 memory_budget=1100Ki" };
    struct scratch s;
    cJSON *root[2];
    scratch_make(&s);
    for (size_t i = 0; i < 2; i++) {
        char name[32];
        snprintf(name, sizeof name, "out%zu", i);
        struct plim_quantize_options options = quick_options(scratch_path(&s, name));
        options.measurement = NULL;
        options.sensitivity_rows = 1;
        convert_well(&options, settings[i], NULL);
        snprintf(name, sizeof name, "out%zu.job/measurement.json", i);
        root[i] = read_json(scratch_path(&s, name));
    }
    cr_assert(cJSON_Compare(root[0], root[1], 1));
    check_same_model(scratch_path(&s, "out0"), scratch_path(&s, "out1"));
    cJSON_Delete(root[0]);
    cJSON_Delete(root[1]);
    scratch_remove(&s);
}

/* ---- memory ---- */

static void collect_line(void *context, const char *line)
{
    strncat(context, line, 4000 - strlen(context));
    strncat(context, "\n", 4000 - strlen(context));
}

Test(conversion, adapts_to_a_budget_and_says_so)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_summary roomy, tight;
    char log[4096] = "";
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "roomy"));
    cr_assert_eq(convert(&options, "", &roomy, &err), 0, "%s", err.message);
    options.output_directory = scratch_path(&s, "tight");
    options.log = collect_line;
    options.log_context = log;
    cr_assert_eq(convert(&options, "memory_budget=1000Ki", &tight, &err), 0, "%s", err.message);
    cr_assert_gt(roomy.quantisation.peak_bytes[PLIM_FAST], 1000 * 1024, "the budget is none");
    cr_assert_leq(tight.quantisation.peak_bytes[PLIM_FAST], 1000 * 1024);
    cr_assert_gt(tight.quantisation.peak_bytes[PLIM_SLOW], roomy.quantisation.peak_bytes[PLIM_SLOW]);
    cr_assert_not_null(strstr(log, "memory_budget: from model.layers.0."), "%s", log);

    /* Below what has no other place: a clean refusal that names the holder. */
    options.output_directory = scratch_path(&s, "none");
    cr_assert_eq(convert(&options, "memory_budget=300Ki", NULL, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
    scratch_remove(&s);
}

/* At each boundary the live bytes are the same; reserved bytes tell whether the cache was given back. */
Test(conversion, returns_to_one_floor_at_every_boundary)
{
    struct scratch s;
    double reserved[2] = { 0 };
    scratch_make(&s);
    for (int release = 0; release < 2; release++) {
        struct plim_quantize_options options = quick_options(scratch_path(&s, release ? "on" : "off"));
        convert_well(&options, release ? "release_at_boundary=on" : "release_at_boundary=off", NULL);
        cJSON *modules = read_json(scratch_path(&s, release ? "on.job/modules.json" : "off.job/modules.json"));
        const cJSON *module;
        double floor_bytes = number(cJSON_GetArrayItem(modules, 0), "floor_bytes");
        cr_assert_eq(cJSON_GetArraySize(modules), 5);
        cJSON_ArrayForEach(module, modules) {
            cr_assert_eq(number(module, "floor_bytes"), floor_bytes);
            reserved[release] = fmax(reserved[release], number(module, "reserved_bytes"));
        }
        cJSON_Delete(modules);
    }
    cr_assert_lt(reserved[1], 0.75 * reserved[0], "%g reserved with, %g without", reserved[1], reserved[0]);
    scratch_remove(&s);
}

/* ---- output ---- */

Test(conversion, cuts_shards_that_read_back_as_one_model)
{
    struct scratch s;
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "whole"));
    convert_well(&options, "", NULL);
    options.output_directory = scratch_path(&s, "cut");
    options.shard_bytes = 200000;
    convert_well(&options, "", NULL);
    cr_assert(plim_path_exists(scratch_path(&s, "cut/output-00001-of-00004.safetensors")));
    cr_assert_float_eq(divergence(scratch_path(&s, "cut")), divergence(scratch_path(&s, "whole")), 0);
    scratch_remove(&s);
}

/* Biases, tied heads, post norms with an offset, head norms, outputs that aren't multiples of 32: the tiny architectures. */
static void check_architecture(const char *name)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    char source[256];
    scratch_make(&s);
    snprintf(source, sizeof source, PLIMSOLL_TEST_DATA "/architectures/%s", name);
    write_ids(scratch_path(&s, "ids.safetensors"), 2, 24, 128);
    struct plim_quantize_options options = {
        .model_directory = source,
        .output_directory = scratch_path(&s, "out"),
        .bits_per_weight = 10,
        .head_bits = 8,
        .calibration = scratch_path(&s, "ids.safetensors"),
        .rows = 2,
        .length = 24,
        .measurement_rows = 1,
        .measurement_length = 24,
    };
    cr_assert_eq(convert(&options, "", NULL, &err), 0, "%s: %s", name, err.message);

    struct rig dense, quantised;
    rig_open(&dense, source, "", 64);
    rig_open(&quantised, scratch_path(&s, "out"), "", 64);
    cr_assert(quantised.info.is_exl2);
    int32_t *ids = some_ids(32, dense.info.vocab_size);
    float *p = forward_all(&dense, ids, 32), *q = forward_all(&quantised, ids, 32);
    double difference = relative_difference(q, p, 32 * dense.info.vocab_size);
    cr_assert_lt(difference, 0.08, "%s: logits differ by %g at 8 bits", name, difference);
    free(p);
    free(q);
    free(ids);
    rig_close(&dense);
    rig_close(&quantised);
    scratch_remove(&s);
}

Test(conversion, keeps_every_architecture_s_particulars)
{
    static const char *const names[] = { "gemma2", "gemma3", "granite", "qwen2", "qwen3" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_architecture(names[i]);
}
