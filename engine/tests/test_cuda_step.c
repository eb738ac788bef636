/* A model on CUDA: the logits of the CPU's, the same bits with and without a recorded step, and memory as predicted. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test_cuda.h"
#include "test_model_support.h"

#define CONTEXT 400
#define TOKENS  cuda_count(300, 48)   /* past two powers of two */

static void open_on(struct rig *rig, const char *backend, const char *directory, const char *settings)
{
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_session_options options = { .context_tokens = CONTEXT };
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_engine_open(&rig->engine, backend, &parameters, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(plim_model_load(&rig->model, rig->engine, directory, &err), 0, "%s", err.message);
    cr_assert_eq(plim_session_open(&rig->session, rig->model, &options, &err), 0, "%s", err.message);
    plim_model_info(rig->model, &rig->info);
}

static const char *const models[] = { FIXTURES "/exl2-4.0", FIXTURES "/dense" };
static const char *const caches[] = { "fp16", "q8" };   /* heads of 32: the second takes the plain path, unrecorded */

/* Logits of a prompt's last token, then of single tokens, [TOKENS - PROMPT + 1, vocab]; free(). */
#define PROMPT 7
static float *run_session(struct rig *rig, const int32_t *ids)
{
    size_t vocab = rig->info.vocab_size;
    float *logits = malloc((TOKENS - PROMPT + 1) * vocab * sizeof *logits);
    float *last = forward_last(rig, ids, PROMPT), *rest = forward_token_by_token(rig, ids + PROMPT, TOKENS - PROMPT);

    memcpy(logits, last, vocab * sizeof *logits);
    memcpy(logits + vocab, rest, (TOKENS - PROMPT) * vocab * sizeof *logits);
    free(last), free(rest);
    return logits;
}

Test(cuda_step, gives_the_same_bits_as_single_operations_and_the_logits_of_the_cpu)
{
    cuda_require();
    for (size_t m = 0; m < 2; m++)
        for (size_t c = 0; c < 2; c++) {
            static const char *const graphs[] = { "off", "on" };
            float *logits[2], *cpu;
            struct rig rig;
            char settings[64];

            snprintf(settings, sizeof settings, "kv_cache=%s", caches[c]);
            open_on(&rig, "cpu", models[m], settings);
            int32_t *ids = some_ids(TOKENS, rig.info.vocab_size);
            cpu = run_session(&rig, ids);
            rig_close(&rig);
            for (int g = 0; g < 2; g++) {
                snprintf(settings, sizeof settings, "kv_cache=%s cuda_graph=%s", caches[c], graphs[g]);
                open_on(&rig, "cuda", models[m], settings);
                logits[g] = run_session(&rig, ids);
                rig_close(&rig);
            }
            size_t n = (TOKENS - PROMPT + 1) * rig.info.vocab_size;
            double difference = relative_difference(logits[1], cpu, n);
            cr_expect_lt(difference, 5e-3, "%s, %s: %.2e from the CPU's", models[m], caches[c], difference);
            cr_expect_eq(memcmp(logits[0], logits[1], n * sizeof *cpu), 0, "%s, %s: %.2e between recorded and not", models[m],
                         caches[c], relative_difference(logits[1], logits[0], n));
            free(logits[0]), free(logits[1]), free(cpu), free(ids);
        }
}

/* Sessions side by side, a rewind, a prompt in between: what was recorded is used only where it still holds. */
Test(cuda_step, a_recording_is_used_only_where_it_holds)
{
    struct rig rig, alone;
    struct plim_session *other;
    struct plim_session_options options = { .context_tokens = CONTEXT };
    struct plim_err err = PLIM_ERR_INIT;

    cuda_require();
    open_on(&rig, "cuda", models[0], "");
    int32_t *ids = some_ids(TOKENS, rig.info.vocab_size);
    size_t vocab = rig.info.vocab_size;
    float *first = forward_token_by_token(&rig, ids, 20);
    cr_assert_eq(plim_session_open(&other, rig.model, &options, &err), 0, "%s", err.message);
    struct rig second = rig;
    second.session = other;
    for (size_t i = 0; i < 20; i++) {
        float *a = forward_last(&rig, ids + 20 + i, 1), *b = forward_last(&second, ids + i, 1);
        cr_assert_eq(memcmp(b, first + i * vocab, vocab * sizeof *b), 0, "token %zu of the other session", i);
        free(a), free(b);
        if (i == 10) {
            float *prompt = forward_last(&rig, ids, 30);   /* moves the pool's blocks about */
            free(prompt);
            plim_pool_trim(plim_engine_pool(rig.engine));
        }
    }
    plim_session_rewind(rig.session, 0);
    float *again = forward_token_by_token(&rig, ids, 20);
    cr_assert_eq(memcmp(again, first, 20 * vocab * sizeof *first), 0);
    plim_session_close(other);
    rig_close(&rig);

    open_on(&alone, "cuda", models[0], "");
    float *fresh = forward_token_by_token(&alone, ids, 20);
    cr_assert_eq(memcmp(fresh, first, 20 * vocab * sizeof *first), 0);
    rig_close(&alone);
    free(first), free(again), free(fresh), free(ids);
}

Test(cuda_step, takes_the_memory_that_was_predicted)
{
    static const char *const settings[] = { "", "cuda_graph=off", "attention_mode=plain", "kv_cache=q4", "kv_cache=fp32" };
    cuda_require();
    for (size_t s = 0; s < sizeof settings / sizeof settings[0]; s++) {
        struct plim_plan_request request = { .context_tokens = CONTEXT, .prompt_tokens = PROMPT,
                                             .decode_tokens = TOKENS - PROMPT, .rows = PLIM_LOGITS_LAST };
        struct plim_parameters parameters = parameters_from(settings[s]);
        struct plim_pool_stats stats;
        struct plim_plan plan;
        struct plim_err err = PLIM_ERR_INIT;
        struct rig rig;

        open_on(&rig, "cuda", models[0], settings[s]);
        int32_t *ids = some_ids(TOKENS, rig.info.vocab_size);
        free(run_session(&rig, ids));
        plim_pool_stats(plim_engine_pool(rig.engine), &stats);
        cr_assert_eq(plim_predict(models[0], "cuda", &parameters, &request, &plan, &err), 0, "%s", err.message);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
            cr_expect_eq(stats.tag_peak_bytes[PLIM_FAST][tag], plan.tag_peak_bytes[tag], "%s, device, %s: %zu, predicted %zu",
                         settings[s], plim_tag_name((enum plim_tag)tag), (size_t)stats.tag_peak_bytes[PLIM_FAST][tag],
                         (size_t)plan.tag_peak_bytes[tag]);
        }
        cr_expect_eq(stats.peak[PLIM_FAST].total_bytes, plan.peak_bytes, "%s", settings[s]);
        rig_close(&rig);
        free(ids);
    }
}

/* Work is counted alike. */
Test(cuda_step, counts_what_single_operations_count)
{
    struct plim_counters counted[2];
    cuda_require();
    for (int g = 0; g < 2; g++) {
        struct rig rig;
        open_on(&rig, "cuda", models[0], g ? "" : "cuda_graph=off");
        int32_t *ids = some_ids(TOKENS, rig.info.vocab_size);
        free(run_session(&rig, ids));
        plim_engine_counters(rig.engine, &counted[g]);
        rig_close(&rig);
        free(ids);
    }
    cr_expect_eq(memcmp(&counted[0], &counted[1], sizeof counted[0]), 0);
}

static int ignore_rows(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *err)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)err;
    return 0;
}

Test(cuda_step, survives_each_failed_allocation)
{
    struct rig rig;
    int failures = 0;

    cuda_require();
    open_on(&rig, "cuda", models[0], "");
    struct plim_pool *pool = plim_engine_pool(rig.engine);
    int32_t id = 5;
    for (int warm = 0; warm < 2; warm++)
        for (uint64_t nth = 1;; nth++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct plim_pool_stats before, after;
            struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = ignore_rows };
            plim_pool_stats(pool, &before);
            plim_pool_fail_allocation(pool, nth);
            int rc = plim_session_forward(rig.session, &id, 1, &forward, &err);
            plim_pool_fail_allocation(pool, 0);
            plim_pool_stats(pool, &after);
            cr_assert_eq(after.live_blocks, before.live_blocks);
            if (rc == 0)
                break;
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
            failures++;
        }
    cr_assert_gt(failures, 3);
    float *after = forward_last(&rig, &id, 1);
    for (size_t i = 0; i < rig.info.vocab_size; i++)
        cr_assert(isfinite(after[i]));
    free(after);
    rig_close(&rig);
}
