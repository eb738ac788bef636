/* Memory: what is predicted is what the pool counts, what fails leaves nothing, what is over budget says so. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_model_support.h"

#define EXL2       FIXTURES "/exl2-4.0"
#define EXL2_MIXED FIXTURES "/exl2-2.6"
#define DENSE      FIXTURES "/dense"

static int drop_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *err)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)err;
    return 0;
}

/* ---- prediction ---- */

/* The run that a request describes, after `past` tokens have been put there; the pool's peak then begins anew. */
static void run_request(struct rig *rig, const struct plim_plan_request *request)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_forward none = { .rows = PLIM_LOGITS_NONE };
    struct plim_forward prompt = { .rows = request->rows, .callback = drop_logits };
    struct plim_forward last = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };
    size_t count = request->past + request->prompt_tokens + request->decode_tokens;
    int32_t *ids = some_ids(count, rig->info.vocab_size), *next = ids;

    if (request->past > 0)
        cr_assert_eq(plim_session_forward(rig->session, next, request->past, &none, &err), 0, "%s", err.message);
    next += request->past;
    if (request->past > 0)
        plim_pool_reset_peak(plim_engine_pool(rig->engine));
    if (request->prompt_tokens > 0)
        cr_assert_eq(plim_session_forward(rig->session, next, request->prompt_tokens, &prompt, &err), 0, "%s",
                     err.message);
    next += request->prompt_tokens;
    for (size_t i = 0; i < request->decode_tokens; i++)
        cr_assert_eq(plim_session_forward(rig->session, next + i, 1, &last, &err), 0, "%s", err.message);
    free(ids);
}

static void check_plan(const char *model, const char *settings, const struct plim_plan *plan,
                       const struct plim_pool_stats *stats, bool whole_run)
{
    cr_expect_eq(plan->peak_bytes, stats->peak[PLIM_FAST].total_bytes, "%s [%s]: peak %llu, predicted %llu", model,
                 settings, (unsigned long long)stats->peak[PLIM_FAST].total_bytes,
                 (unsigned long long)plan->peak_bytes);
    cr_expect_eq(stats->peak[PLIM_SLOW].total_bytes, 0);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        uint64_t own = stats->tag_peak_bytes[PLIM_FAST][tag], held = stats->peak[PLIM_FAST].bytes[tag];
        /* A peak that was reset in the middle has forgotten what loading held for a moment. */
        if (whole_run)
            cr_expect_eq(plan->tag_peak_bytes[tag], own, "%s [%s]: %s peaked at %llu, predicted %llu", model, settings,
                         plim_tag_name((enum plim_tag)tag), (unsigned long long)own,
                         (unsigned long long)plan->tag_peak_bytes[tag]);
        if (tag != PLIM_TAG_WEIGHTS_MAPPED)
            cr_expect_eq(plan->peak_tag_bytes[tag], held, "%s [%s]: %s held %llu at the peak, predicted %llu", model,
                         settings, plim_tag_name((enum plim_tag)tag), (unsigned long long)held,
                         (unsigned long long)plan->peak_tag_bytes[tag]);
    }
}

static void check_request(const char *model, const char *settings, const struct plim_plan_request *request)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_pool_stats stats;
    struct plim_plan plan;
    struct rig rig;

    cr_assert_eq(plim_predict(model, "cpu", &parameters, request, &plan, &err), 0, "%s", err.message);
    rig_open(&rig, model, settings, request->context_tokens);
    run_request(&rig, request);
    plim_pool_stats(plim_engine_pool(rig.engine), &stats);
    check_plan(model, settings, &plan, &stats, request->past == 0);
    rig_close(&rig);
}

static const struct plim_plan_request requests[] = {
    { .context_tokens = 256, .prompt_tokens = 1, .rows = PLIM_LOGITS_LAST },
    { .context_tokens = 256, .prompt_tokens = 33, .rows = PLIM_LOGITS_LAST },
    { .context_tokens = 256, .prompt_tokens = 33, .rows = PLIM_LOGITS_NONE },
    { .context_tokens = 256, .prompt_tokens = 200, .rows = PLIM_LOGITS_ALL },
    { .context_tokens = 256, .prompt_tokens = 200, .decode_tokens = 20, .rows = PLIM_LOGITS_LAST },
    { .context_tokens = 256, .past = 100, .prompt_tokens = 50, .decode_tokens = 3, .rows = PLIM_LOGITS_LAST },
    { .context_tokens = 256, .decode_tokens = 5 },
};

static void check_requests(const char *model, const char *settings)
{
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
        check_request(model, settings, &requests[i]);
}

Test(model_prediction, exl2_by_default)
{
    check_requests(EXL2, "");
    check_requests(EXL2_MIXED, "cpu_threads=1");
}

Test(model_prediction, dense_by_default)
{
    check_requests(DENSE, "");
    check_requests(DENSE, "cpu_threads=1");
}

Test(model_prediction, every_max_dq_size_and_mode)
{
    static const char *const sizes[] = { "32", "100", "1Ki", "16Ki", "64Ki", "80Ki", "512Mi" };
    char settings[128];

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(settings, sizeof settings, "max_dq_size=%s", sizes[i]);
        check_request(EXL2, settings, &requests[1]);
        check_request(DENSE, settings, &requests[1]);
        snprintf(settings, sizeof settings, "max_dq_size=%s dq_mode=gated dq_rows=8", sizes[i]);
        check_request(EXL2_MIXED, settings, &requests[1]);
    }
}

Test(model_prediction, input_and_attention_bounds)
{
    check_requests(EXL2, "max_input_len=64 max_attention_size=100");
    check_requests(EXL2, "max_input_len=7 dq_rows=0");
    check_requests(DENSE, "max_input_len=33 max_attention_size=1");
}

/* Several devices; on the CPU they are parts of the one memory. The fixture has two layers, and a head. */
Test(model_prediction, layers_on_several_devices)
{
    check_requests(EXL2, "gpu_split=1");
    check_requests(EXL2, "gpu_split=80Ki,1");
    check_requests(EXL2, "gpu_split=250Ki,250Ki,1 max_input_len=64");
    check_requests(DENSE, "gpu_split=900Ki,900Ki,1");
}

Test(model_prediction, a_cache_in_fp32)
{
    check_requests(EXL2, "kv_cache=fp32 max_input_len=64");
    check_requests(EXL2, "kv_cache=q8 max_input_len=64");
    check_requests(EXL2, "kv_cache=q6");
    check_requests(EXL2, "kv_cache=q4 max_attention_size=100");
}

Test(model_prediction, prompts_longer_than_the_limits_with_and_without_low_mem)
{
    struct model_copy copy;
    struct plim_plan plan, low_plan;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters normal = parameters_from(""), low = parameters_from("low_mem=on");
    struct plim_plan_request request = { .context_tokens = 3100, .prompt_tokens = 3000, .decode_tokens = 2,
                                         .rows = PLIM_LOGITS_LAST };

    model_copy_make(&copy, EXL2, NULL, 0, "\"max_position_embeddings\": 2048", "\"max_position_embeddings\": 4096");
    check_request(copy.directory, "", &request);
    check_request(copy.directory, "low_mem=on", &request);
    cr_assert_eq(plim_predict(copy.directory, "cpu", &normal, &request, &plan, &err), 0);
    cr_assert_eq(plim_predict(copy.directory, "cpu", &low, &request, &low_plan, &err), 0);
    cr_expect_lt(low_plan.peak_bytes, plan.peak_bytes);
    cr_expect_eq(2 * low_plan.tag_peak_bytes[PLIM_TAG_ACTIVATIONS], plan.tag_peak_bytes[PLIM_TAG_ACTIVATIONS]);
    model_copy_remove(&copy);
}

Test(model_prediction, loading_alone)
{
    static const char *const models[] = { EXL2, EXL2_MIXED, DENSE };
    struct plim_plan_request request = { 0 };
    struct plim_err err = PLIM_ERR_INIT;

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct plim_parameters parameters = parameters_from("");
        struct plim_engine *engine = NULL;
        struct plim_model *model = NULL;
        struct plim_pool_stats stats;
        struct plim_plan plan;

        cr_assert_eq(plim_predict(models[i], "cpu", &parameters, &request, &plan, &err), 0);
        cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0);
        cr_assert_eq(plim_model_load(&model, engine, models[i], &err), 0);
        plim_pool_stats(plim_engine_pool(engine), &stats);
        check_plan(models[i], "load", &plan, &stats, true);
        plim_model_free(model);
        cr_assert_eq(plim_engine_close(engine), 0);
    }
}

Test(model_prediction, every_architecture)
{
    static const char *const names[] = {
        "llama", "llama-rope-llama3", "llama-rope-linear", "llama-rope-yarn", "mistral",
        "qwen2", "qwen3",             "gemma2",            "gemma3",          "granite",
    };
    struct plim_plan_request request = { .context_tokens = 64, .prompt_tokens = 40, .decode_tokens = 3,
                                         .rows = PLIM_LOGITS_ALL };
    char path[256];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, PLIMSOLL_TEST_DATA "/architectures/%s", names[i]);
        check_request(path, "", &request);
        check_request(path, "max_input_len=16", &request);
    }
}

/* The null backend allocates nothing of its own: what is left is what this layer holds. */
Test(model_prediction, the_null_backend)
{
    struct plim_plan_request request = { .context_tokens = 256, .prompt_tokens = 200, .decode_tokens = 2,
                                         .rows = PLIM_LOGITS_ALL };
    struct plim_parameters parameters = parameters_from("max_input_len=64");
    struct plim_session_options options = { .context_tokens = 256 };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats stats;
    struct plim_plan plan;
    struct rig rig = { 0 };

    cr_assert_eq(plim_predict(EXL2, "null", &parameters, &request, &plan, &err), 0, "%s", err.message);
    cr_assert_eq(plim_engine_open(&rig.engine, "null", &parameters, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(plim_model_load(&rig.model, rig.engine, EXL2, &err), 0, "%s", err.message);
    cr_assert_eq(plim_session_open(&rig.session, rig.model, &options, &err), 0, "%s", err.message);
    plim_model_info(rig.model, &rig.info);
    run_request(&rig, &request);
    plim_pool_stats(plim_engine_pool(rig.engine), &stats);
    check_plan(EXL2, "null", &plan, &stats, true);
    cr_expect_eq(plan.tag_peak_bytes[PLIM_TAG_DEQUANT], 0);
    rig_close(&rig);
}

Test(model_prediction, the_peak_is_attributed_to_a_part_of_the_model)
{
    struct plim_pool_stats stats;
    struct rig rig;

    rig_open(&rig, EXL2, "dq_rows=32", 256);
    int32_t *ids = some_ids(200, rig.info.vocab_size);
    free(forward_last(&rig, ids, 200));
    plim_pool_stats(plim_engine_pool(rig.engine), &stats);
    /* The largest matrices, 256 x 320, are those of the MLP. */
    cr_expect_str_eq(stats.peak_scope[PLIM_FAST], "layers.0.mlp");
    free(ids);
    rig_close(&rig);
}

Test(model_prediction, counts_what_the_caller_holds)
{
    struct plim_plan_request request = { .context_tokens = 256, .prompt_tokens = 33, .rows = PLIM_LOGITS_LAST };
    struct plim_plan_request holding = request;
    struct plim_parameters parameters = parameters_from("");
    struct plim_plan plan, plan_holding;
    struct plim_err err = PLIM_ERR_INIT;

    holding.held_bytes[PLIM_TAG_TOKENIZER] = 12345;
    cr_assert_eq(plim_predict(EXL2, "cpu", &parameters, &request, &plan, &err), 0);
    cr_assert_eq(plim_predict(EXL2, "cpu", &parameters, &holding, &plan_holding, &err), 0);
    cr_expect_eq(plan_holding.peak_bytes, plan.peak_bytes + 12345);
}

Test(model_prediction, a_plan_that_does_not_fit_is_bad_input)
{
    struct plim_parameters parameters = parameters_from("");
    struct plim_plan_request request = { .context_tokens = 100, .prompt_tokens = 90, .decode_tokens = 11 };
    struct plim_plan plan;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_predict(EXL2, "cpu", &parameters, &request, &plan, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect(strstr(err.message, "101 tokens") && strstr(err.message, "100"), "%s", err.message);
}

/* ---- failures ---- */

/* Everything from opening to a decoded token; stops at the first failure. Returns what the last step returned. */
static int whole_run(struct plim_engine **engine, const char *model_path, const char *settings, uint64_t fail_allocation,
                     struct plim_err *err)
{
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_engine_options options = { .fail_allocation = fail_allocation };
    struct plim_session_options session_options = { .context_tokens = 64 };
    struct plim_forward all = { .rows = PLIM_LOGITS_ALL, .callback = drop_logits };
    struct plim_forward last = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };
    struct plim_model *model = NULL;
    struct plim_session *session = NULL;
    int32_t ids[20] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
    int rc = -1;

    if (plim_engine_open(engine, "cpu", &parameters, &options, err) < 0)
        return -1;
    if (plim_model_load(&model, *engine, model_path, err) < 0)
        goto out;
    if (plim_session_open(&session, model, &session_options, err) < 0)
        goto out;
    if (plim_session_forward(session, ids, 20, &all, err) < 0) {
        cr_expect_eq(plim_session_position(session), 0);
        goto out;
    }
    if (plim_session_forward(session, ids, 1, &last, err) < 0) {
        cr_expect_eq(plim_session_position(session), 20);
        goto out;
    }
    rc = 0;

out:
    plim_session_close(session);
    plim_model_free(model);
    return rc;
}

static void check_failures(const char *model_path, const char *settings)
{
    uint64_t nth, failures = 0;

    for (nth = 1;; nth++) {
        struct plim_engine *engine = NULL;
        struct plim_err err = PLIM_ERR_INIT;
        int rc = whole_run(&engine, model_path, settings, nth, &err);

        cr_assert_eq(plim_engine_close(engine), 0, "allocation %llu: leaked", (unsigned long long)nth);
        if (rc == 0)
            break;
        failures++;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "allocation %llu: %s", (unsigned long long)nth, err.message);
        cr_assert_lt(nth, 10000);
    }
    cr_expect_gt(failures, 50, "only %llu allocations were made to fail", (unsigned long long)failures);
}

#define FAILURE_SETTINGS "max_input_len=16 dq_rows=4"

Test(model_failures, every_allocation_of_a_run_on_several_devices)
{
    check_failures(EXL2, FAILURE_SETTINGS " gpu_split=250Ki,1");
}

Test(model_failures, layers_that_fit_no_device)
{
    struct plim_parameters parameters = parameters_from("gpu_split=250Ki,1Ki");
    struct plim_plan_request request = { .context_tokens = 0 };
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_plan plan;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0, "%s", err.message);
    cr_expect_eq(plim_model_load(&model, engine, EXL2, &err), -1);
    cr_expect(err.kind == PLIM_ERR_INPUT && strstr(err.message, "gpu_split"), "%s", err.message);
    cr_expect_eq(plim_engine_close(engine), 0);
    plim_err_clear(&err);
    cr_expect_eq(plim_predict(EXL2, "cpu", &parameters, &request, &plan, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
}

Test(model_failures, every_allocation_of_an_exl2_run)
{
    check_failures(EXL2, FAILURE_SETTINGS);
}

Test(model_failures, every_allocation_of_a_dense_run)
{
    check_failures(DENSE, FAILURE_SETTINGS);
}

Test(model_failures, every_allocation_of_a_run_in_shards)
{
    check_failures(PLIMSOLL_TEST_DATA "/architectures/llama-rope-linear", FAILURE_SETTINGS);
}

Test(model_failures, a_budget_refuses_with_a_report_and_the_session_goes_on)
{
    struct plim_plan_request small = { .context_tokens = 256, .prompt_tokens = 8, .rows = PLIM_LOGITS_LAST };
    struct plim_plan_request large = { .context_tokens = 256, .prompt_tokens = 200, .rows = PLIM_LOGITS_LAST };
    struct plim_parameters parameters = parameters_from("");
    struct plim_forward last = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_refusal refusal;
    struct plim_plan small_plan, large_plan;
    char settings[64];
    struct rig rig;

    cr_assert_eq(plim_predict(EXL2, "cpu", &parameters, &small, &small_plan, &err), 0);
    cr_assert_eq(plim_predict(EXL2, "cpu", &parameters, &large, &large_plan, &err), 0);
    snprintf(settings, sizeof settings, "memory_budget=%llu", (unsigned long long)large_plan.peak_bytes - 1);
    rig_open(&rig, EXL2, settings, 256);
    int32_t *ids = some_ids(200, rig.info.vocab_size);
    cr_assert_eq(plim_session_forward(rig.session, ids, 200, &last, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_MEMORY);
    plim_pool_last_refusal(plim_engine_pool(rig.engine), &refusal);
    cr_expect(refusal.valid && !refusal.injected);
    cr_expect_eq(refusal.budget_bytes, large_plan.peak_bytes - 1);
    cr_expect(refusal.scope[0], "the refusal names what the program was doing");

    plim_err_clear(&err);
    cr_expect_eq(plim_session_position(rig.session), 0);
    cr_expect_eq(plim_session_forward(rig.session, ids, 8, &last, &err), 0, "%s", err.message);
    free(ids);
    rig_close(&rig);

    /* The prediction is exact, so a budget of just that much is enough. */
    snprintf(settings, sizeof settings, "memory_budget=%llu", (unsigned long long)large_plan.peak_bytes);
    rig_open(&rig, EXL2, settings, 256);
    ids = some_ids(200, rig.info.vocab_size);
    free(forward_last(&rig, ids, 200));
    free(ids);
    rig_close(&rig);
}

Test(model_failures, a_budget_too_small_for_the_cache_names_it)
{
    struct plim_parameters parameters = parameters_from("memory_budget=1Mi");
    struct plim_session_options options = { .context_tokens = 2048 };
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_session *session = NULL;
    struct plim_pool_refusal refusal;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(plim_model_load(&model, engine, EXL2, &err), 0, "%s", err.message);
    cr_assert_eq(plim_session_open(&session, model, &options, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_MEMORY);
    cr_expect_null(session);
    plim_pool_last_refusal(plim_engine_pool(engine), &refusal);
    cr_expect_eq(refusal.tag, PLIM_TAG_KV_CACHE);
    cr_expect_eq(refusal.requested_bytes, 4u * 2048 * 2 * 2 * 32);   /* context, layers, kv heads, head_dim */
    plim_model_free(model);
    cr_assert_eq(plim_engine_close(engine), 0);
}
