/* The divergence of one model from another, on the tiny fixture: against logits from elsewhere, and in its own terms. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "plimsoll/generate.h"
#include "plimsoll/parameters.h"
#include "safetensors.h"

#define FIXTURE PLIMSOLL_TEST_DATA "/exl2-llama-tiny/"
#define VOCAB 300
#define TOKENS 33

/* Sequence "33" of the fixture's reference.json. */
static const int32_t sequence[TOKENS] = {
    1,  208, 97,  258, 251, 233, 193, 6,   32, 193, 130, 202, 273, 286, 30,  160, 273,
    1,  270, 297, 240, 84,  134, 60,  10,  82, 60,  107, 205, 206, 213, 190, 292,
};

struct side {
    struct plim_model *model;
    struct plim_session *session;
};

static struct plim_engine *engine;
static struct side dense, quantised;

static void open_side(struct side *side, const char *directory)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_session_options options = { .context_tokens = 64 };
    cr_assert_eq(plim_model_load(&side->model, engine, directory, &err), 0, "%s", err.message);
    cr_assert_eq(plim_session_open(&side->session, side->model, &options, &err), 0, "%s", err.message);
}

static void close_side(struct side *side)
{
    plim_session_close(side->session);
    plim_model_free(side->model);
}

static void open_with(int64_t max_input_len, int64_t threads)
{
    struct plim_parameters parameters;
    struct plim_err err = PLIM_ERR_INIT;
    plim_parameters_default(&parameters);
    parameters.count[PLIM_DQ_ROWS] = 0;              /* weights are expanded, as the reference's are */
    parameters.count[PLIM_KV_CACHE] = PLIM_KV_FP32;   /* which rounds no keys and values */
    parameters.count[PLIM_MAX_INPUT_LEN] = max_input_len;
    parameters.count[PLIM_CPU_THREADS] = threads;
    cr_assert_eq(plim_parameters_resolve(&parameters, &err), 0, "%s", err.message);
    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0, "%s", err.message);
    open_side(&dense, FIXTURE "dense");
    open_side(&quantised, FIXTURE "exl2-4.0");
}

static void open_both(void)
{
    open_with(2048, 2);
}

static void close_both(void)
{
    close_side(&quantised);
    close_side(&dense);
    cr_assert_eq(plim_engine_close(engine), 0, "leaked");
}

TestSuite(divergence, .init = open_both, .fini = close_both);

static void read_logits(const char *file, const char *name, float out[TOKENS][VOCAB])
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store;
    cr_assert_eq(tensor_store_open_file(&store, plim_engine_pool(engine), file, &err), 0, "%s", err.message);
    const struct tensor *tensor = tensor_store_find(store, name);
    cr_assert_not_null(tensor);
    cr_assert_eq(tensor->dtype, DTYPE_F32);
    memcpy(out, tensor->data, sizeof(float[TOKENS][VOCAB]));
    tensor_store_close(store);
}

static void probabilities(const float *logits, long double out[VOCAB])
{
    long double sum = 0;
    for (size_t i = 0; i < VOCAB; i++)
        sum += out[i] = expl((long double)logits[i]);
    for (size_t i = 0; i < VOCAB; i++)
        out[i] /= sum;
}

Test(divergence, agrees_with_reference_logits)
{
    static float p[TOKENS][VOCAB], q[TOKENS][VOCAB];
    struct plim_divergence d;
    struct plim_err err = PLIM_ERR_INIT;
    long double kl = 0;

    read_logits(FIXTURE "reference-dense.safetensors", "logits.transformers.33", p);
    read_logits(FIXTURE "reference-4.0.safetensors", "logits.float64.33", q);
    for (size_t r = 0; r < TOKENS; r++) {
        long double a[VOCAB], b[VOCAB];
        probabilities(p[r], a);
        probabilities(q[r], b);
        for (size_t i = 0; i < VOCAB; i++)
            kl += a[i] * logl(a[i] / b[i]);
    }
    cr_assert_eq(plim_divergence(quantised.session, dense.session, sequence, TOKENS, 64, &d, &err), 0, "%s", err.message);
    cr_expect_eq(d.position_count, TOKENS);
    cr_expect_float_eq(d.kl_sum, (double)kl, 1e-4 * (double)kl, "%.9g, expected %.9Lg", d.kl_sum, kl);
    cr_expect_float_eq(d.kl_mean, d.kl_sum / TOKENS, 1e-12);
}

Test(divergence, counts_the_perplexities_of_both)
{
    static const size_t windows[] = { 2, 7, 32, 33, 64 };
    struct plim_err err = PLIM_ERR_INIT;

    for (size_t k = 0; k < sizeof windows / sizeof windows[0]; k++) {
        struct plim_divergence d;
        struct plim_perplexity own, reference;
        cr_assert_eq(plim_divergence(quantised.session, dense.session, sequence, TOKENS, windows[k], &d, &err), 0, "%s",
                     err.message);
        cr_assert_eq(plim_perplexity(quantised.session, sequence, TOKENS, windows[k], &own, &err), 0);
        cr_assert_eq(plim_perplexity(dense.session, sequence, TOKENS, windows[k], &reference, &err), 0);
        cr_expect_eq(d.model.token_count, own.token_count);
        cr_expect_float_eq(d.model.nll_sum, own.nll_sum, 1e-9 * own.nll_sum);
        cr_expect_float_eq(d.reference.nll_sum, reference.nll_sum, 1e-9 * reference.nll_sum);
        cr_expect_float_eq(d.reference.perplexity, reference.perplexity, 1e-9 * reference.perplexity);
        cr_expect_gt(d.kl_sum, 0);
        cr_expect_lt(d.agreement_count, d.position_count);
        cr_expect_eq(plim_session_position(dense.session), 0);
        cr_expect_eq(plim_session_position(quantised.session), 0);
    }
}

Test(divergence, from_itself_is_nothing)
{
    struct side again;
    struct plim_divergence d;
    struct plim_err err = PLIM_ERR_INIT;

    open_side(&again, FIXTURE "dense");
    cr_assert_eq(plim_divergence(again.session, dense.session, sequence, TOKENS, 16, &d, &err), 0, "%s", err.message);
    cr_expect_float_eq(d.kl_mean, 0, 1e-12);
    cr_expect_eq(d.agreement_count, d.position_count);
    close_side(&again);
}

Test(divergence, refuses_what_cannot_be_compared)
{
    static const struct {
        size_t count, window;
        const char *text;
    } bad[] = { { TOKENS, 1, "window of 1" }, { TOKENS, 65, "window of 65" }, { 1, 8, "over 1 tokens" } };
    struct plim_divergence d;
    struct plim_err err = PLIM_ERR_INIT;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (struct plim_err)PLIM_ERR_INIT;
        cr_expect_eq(plim_divergence(quantised.session, dense.session, sequence, bad[i].count, bad[i].window, &d, &err), -1);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
        cr_expect(strstr(err.message, bad[i].text), "%s", err.message);
    }
    err = (struct plim_err)PLIM_ERR_INIT;
    cr_expect_eq(plim_divergence(dense.session, dense.session, sequence, TOKENS, 8, &d, &err), -1);
    cr_expect(strstr(err.message, "a session of its own"), "%s", err.message);
}

Test(divergence, survives_each_failed_allocation)
{
    struct plim_pool *pool = plim_engine_pool(engine);
    struct plim_pool_stats before, after;
    struct plim_divergence d;
    int failures = 0;

    plim_pool_stats(pool, &before);
    for (uint64_t nth = 1;; nth++) {
        struct plim_err err = PLIM_ERR_INIT;
        plim_pool_fail_allocation(pool, nth);
        int rc = plim_divergence(quantised.session, dense.session, sequence, TOKENS, 33, &d, &err);
        plim_pool_stats(pool, &after);
        cr_assert_eq(after.live_blocks, before.live_blocks);
        cr_assert_eq(plim_session_position(dense.session), 0);
        cr_assert_eq(plim_session_position(quantised.session), 0);
        if (rc == 0)
            break;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
        failures++;
    }
    cr_assert_gt(failures, 5);
    plim_pool_fail_allocation(pool, 0);
}

/* Rows come from the model in calls of max_input_len; threads share them out, and the sums don't show how. */
Test(divergence, is_the_same_in_any_calls_and_to_the_bit_on_any_threads)
{
    struct plim_divergence whole, parts, one;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_divergence(quantised.session, dense.session, sequence, TOKENS, 64, &whole, &err), 0, "%s", err.message);
    close_both();
    open_with(7, 3);
    cr_assert_eq(plim_divergence(quantised.session, dense.session, sequence, TOKENS, 64, &parts, &err), 0, "%s", err.message);
    close_both();
    open_with(7, 1);
    cr_assert_eq(plim_divergence(quantised.session, dense.session, sequence, TOKENS, 64, &one, &err), 0, "%s", err.message);
    cr_expect_float_eq(parts.kl_sum, whole.kl_sum, 1e-4 * whole.kl_sum, "%.9g, in one call %.9g", parts.kl_sum, whole.kl_sum);
    cr_expect_eq(parts.position_count, whole.position_count);
    cr_expect_eq(parts.agreement_count, whole.agreement_count);
    cr_expect_float_eq(parts.model.nll_sum, whole.model.nll_sum, 1e-5 * whole.model.nll_sum);
    cr_expect_eq(parts.kl_sum, one.kl_sum);
    cr_expect_eq(parts.model.nll_sum, one.model.nll_sum);
}
