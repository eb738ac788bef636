/*
 * Every architecture of the table against Hugging Face transformers: tiny random models whose windows, soft caps and
 * scaled frequencies act within the 40 tokens of the test (tools/reference/make_architecture_reference.py).
 */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "test_model_support.h"

#define TOKENS 40

/* fp32 keys and values against fp32 keys and values: rounding only. */
#define TOLERANCE_FP32 2e-6

/*
 * fp16 against fp16. A key that lies near the middle of two fp16 numbers goes either way with the last bit of a sum:
 * transformers' own fp32 and fp64 passes differ by up to 3.1e-5 for that reason (3.7e-7 without the rounding).
 */
#define TOLERANCE_FP16 4e-5

static void check_cache(const char *model, const char *settings, const struct reference *reference,
                        const char *expected_name, double tolerance)
{
    struct rig rig;
    size_t rows;

    rig_open(&rig, model, settings, 64);
    const int32_t *ids = reference_tensor(reference, "ids", &rows);
    const float *expected = reference_tensor(reference, expected_name, &rows);
    size_t n = TOKENS * rig.info.vocab_size;
    cr_assert_eq(rows, TOKENS);

    float *prefill = forward_all(&rig, ids, TOKENS);
    plim_session_rewind(rig.session, 0);
    float *steps = forward_token_by_token(&rig, ids, TOKENS);
    double difference = relative_difference(prefill, expected, n);
    cr_expect(difference <= tolerance, "%s, %s, as a prompt: %.2e from transformers", model, settings, difference);
    difference = relative_difference(steps, expected, n);
    cr_expect(difference <= tolerance, "%s, %s, step by step: %.2e from transformers", model, settings, difference);
    free(steps);
    free(prefill);
    rig_close(&rig);
}

static void check(const char *name)
{
    char path[256];
    struct reference reference;

    snprintf(path, sizeof path, PLIMSOLL_TEST_DATA "/architectures/%s.reference.safetensors", name);
    reference_open(&reference, path);
    snprintf(path, sizeof path, PLIMSOLL_TEST_DATA "/architectures/%s", name);
    check_cache(path, "kv_cache=fp32", &reference, "logits", TOLERANCE_FP32);
    check_cache(path, "kv_cache=fp16", &reference, "logits_kv16", TOLERANCE_FP16);
    reference_close(&reference);
}

Test(model_architectures, llama)
{
    check("llama");
}

Test(model_architectures, llama_with_llama3_rope_and_tied_embeddings)
{
    check("llama-rope-llama3");
}

Test(model_architectures, llama_in_shards_with_linear_rope_and_all_biases)
{
    check("llama-rope-linear");
}

Test(model_architectures, llama_with_yarn)
{
    check("llama-rope-yarn");
}

Test(model_architectures, mistral_with_a_sliding_window)
{
    check("mistral");
}

Test(model_architectures, qwen2_with_biases)
{
    check("qwen2");
}

Test(model_architectures, qwen3_with_head_norms)
{
    check("qwen3");
}

Test(model_architectures, gemma2_with_soft_caps_and_post_norms)
{
    check("gemma2");
}

Test(model_architectures, gemma3_with_two_ropes)
{
    check("gemma3");
}

Test(model_architectures, granite_with_its_four_multipliers)
{
    check("granite");
}

/* The text part of a multimodal model: every name has a prefix, and the sizes stand in text_config. */
Test(model_architectures, gemma3_inside_a_multimodal_model)
{
    static const char *const source = PLIMSOLL_TEST_DATA "/architectures/gemma3";
    const struct edit edits[] = { { .kind = EDIT_PREFIX, .tensor = "*", .text = "language_model." } };
    char path[256], outer[4352];
    struct plim_err err = PLIM_ERR_INIT;
    struct model_copy copy;
    struct rig plain, inside;
    char *text;
    size_t bytes;

    model_copy_make(&copy, source, edits, 1, NULL, NULL);
    snprintf(path, sizeof path, "%s/config.json", copy.directory);
    cr_assert_eq(plim_read_file(path, 4096, &text, &bytes, &err), 0, "%s", err.message);
    snprintf(outer, sizeof outer, "{\"architectures\": [\"Gemma3ForConditionalGeneration\"], \"text_config\": %s}",
             text);
    cr_assert_eq(plim_write_file(path, outer, strlen(outer), &err), 0, "%s", err.message);
    free(text);

    rig_open(&plain, source, "", 64);
    rig_open(&inside, copy.directory, "", 64);
    int32_t *ids = some_ids(TOKENS, plain.info.vocab_size);
    float *a = forward_last(&plain, ids, TOKENS), *b = forward_last(&inside, ids, TOKENS);
    cr_expect_arr_eq(a, b, plain.info.vocab_size * sizeof *a);
    free(b);
    free(a);
    free(ids);
    rig_close(&inside);
    rig_close(&plain);
    model_copy_remove(&copy);
}

/* A window must also hold when the chunk border falls inside it. */
Test(model_architectures, windows_do_not_depend_on_chunks)
{
    static const char *const names[] = { "mistral", "gemma2", "gemma3" };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        struct rig whole, cut;

        snprintf(path, sizeof path, PLIMSOLL_TEST_DATA "/architectures/%s", names[i]);
        rig_open(&whole, path, "kv_cache=fp32", 64);
        rig_open(&cut, path, "kv_cache=fp32 max_input_len=5 max_attention_size=3", 64);
        int32_t *ids = some_ids(TOKENS, whole.info.vocab_size);
        float *a = forward_all(&whole, ids, TOKENS), *b = forward_all(&cut, ids, TOKENS);
        double difference = relative_difference(b, a, TOKENS * whole.info.vocab_size);
        cr_expect(difference <= TOLERANCE_FP32, "%s: %.2e", names[i], difference);
        free(b);
        free(a);
        free(ids);
        rig_close(&cut);
        rig_close(&whole);
    }
}

Test(model_architectures, the_dense_head_may_be_the_embedding)
{
    struct rig rig;

    rig_open(&rig, PLIMSOLL_TEST_DATA "/architectures/qwen2", "", 64);
    cr_expect_eq(rig.info.head_parameters, 128 * 64);
    cr_expect_eq(rig.info.head_weight_bytes, 2 * 128 * 64);
    struct plim_pool_stats stats;
    plim_pool_stats(plim_engine_pool(rig.engine), &stats);
    /* Counted once, although it is read as embedding and as head. */
    cr_expect_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED],
                 rig.info.layer_weight_bytes + rig.info.head_weight_bytes);
    rig_close(&rig);
}
