/* The generator and perplexity on the tiny fixture model. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/clock.h"
#include "plimsoll/engine.h"
#include "plimsoll/generate.h"
#include "plimsoll/parameters.h"
#include "plimsoll/pool.h"
#include "safetensors.h"

#define FIXTURE PLIMSOLL_TEST_DATA "/exl2-llama-tiny/"
#define VOCAB 300
#define GREEDY ((struct plim_sampling)PLIM_SAMPLING_GREEDY)

/* Sequence "33" of the fixture's reference.json. */
static const int32_t sequence[33] = {
    1,  208, 97,  258, 251, 233, 193, 6,   32, 193, 130, 202, 273, 286, 30,  160, 273,
    1,  270, 297, 240, 84,  134, 60,  10,  82, 60,  107, 205, 206, 213, 190, 292,
};

struct world {
    struct plim_parameters parameters;
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_pool *pool;
};

static struct world w;

static void open_world(const char *directory, size_t context_tokens, const char *parameter, const char *value)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_session_options options = { .context_tokens = context_tokens };
    plim_parameters_default(&w.parameters);
    /* Expanded weights are rounded as the reference's are; the fused kernel's are not. */
    w.parameters.count[PLIM_DQ_ROWS] = 32;
    if (parameter)
        cr_assert_eq(plim_parameters_set(&w.parameters, parameter, value, &err), 0, "%s", err.message);
    cr_assert_eq(plim_parameters_resolve(&w.parameters, &err), 0, "%s", err.message);
    cr_assert_eq(plim_engine_open(&w.engine, "cpu", &w.parameters, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(plim_model_load(&w.model, w.engine, directory, &err), 0, "%s", err.message);
    cr_assert_eq(plim_session_open(&w.session, w.model, &options, &err), 0, "%s", err.message);
    w.pool = plim_engine_pool(w.engine);
}

static void close_world(void)
{
    plim_session_close(w.session);
    plim_model_free(w.model);
    cr_assert_eq(plim_engine_close(w.engine), 0, "leaked");
}

/* ---- an independent greedy loop ---- */

static int keep_last_row(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                         struct plim_err *err)
{
    (void)position;
    (void)err;
    memcpy(context, logits + (rows - 1) * vocab_size, vocab_size * sizeof *logits);
    return 0;
}

static void greedy_by_hand(const int32_t *prompt, size_t prompt_count, int32_t *out, size_t count)
{
    struct plim_err err = PLIM_ERR_INIT;
    float logits[VOCAB];
    struct plim_forward forward = { PLIM_LOGITS_LAST, keep_last_row, logits };
    plim_session_rewind(w.session, 0);
    cr_assert_eq(plim_session_forward(w.session, prompt, prompt_count, &forward, &err), 0, "%s", err.message);
    for (size_t i = 0; i < count; i++) {
        out[i] = 0;
        for (int32_t id = 1; id < VOCAB; id++)
            if (logits[id] > logits[out[i]])
                out[i] = id;
        if (plim_session_position(w.session) < plim_session_context_tokens(w.session))
            cr_assert_eq(plim_session_forward(w.session, &out[i], 1, &forward, &err), 0, "%s", err.message);
    }
    plim_session_rewind(w.session, 0);
}

/* ---- what the callback saw ---- */

struct seen {
    int32_t ids[2000];
    uint64_t ns[2000];
    size_t count;
    size_t refuse_at;      /* fail at this call, counted from 1; 0: never */
};

static int note_token(void *context, int32_t id, uint64_t elapsed_ns, struct plim_err *err)
{
    struct seen *seen = context;
    seen->ids[seen->count] = id;
    seen->ns[seen->count++] = elapsed_ns;
    if (seen->count == seen->refuse_at)
        return plim_err_set(err, PLIM_ERR_INTERRUPTED, "the reader has had enough");
    return 0;
}

static size_t generate(struct plim_generation generation, struct seen *seen)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t count = 999;
    memset(seen, 0, sizeof *seen);
    plim_session_rewind(w.session, 0);
    cr_assert_eq(plim_generate(w.session, sequence, 33, &generation, note_token, seen, &count, &err), 0, "%s",
                 err.message);
    cr_assert_eq(count, seen->count);
    return count;
}

static struct seen seen;

Test(generate, greedy_is_forward_and_argmax)
{
    int32_t expected[20];
    open_world(FIXTURE "exl2-4.0", 128, NULL, NULL);
    greedy_by_hand(sequence, 33, expected, 20);
    cr_assert_eq(generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 20 }, &seen), 20);
    cr_assert_eq(memcmp(seen.ids, expected, sizeof expected), 0);
    cr_assert_eq(plim_session_position(w.session), 33 + 19, "every reported token but the last is cached");
    close_world();
}

Test(generate, a_prompt_in_chunks_gives_the_same_tokens)
{
    int32_t whole[20];
    open_world(FIXTURE "dense", 128, NULL, NULL);
    generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 20 }, &seen);
    memcpy(whole, seen.ids, sizeof whole);
    close_world();
    open_world(FIXTURE "dense", 128, "max_input_len", "7");
    generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 20 }, &seen);
    cr_assert_eq(memcmp(seen.ids, whole, sizeof whole), 0);
    close_world();
}

Test(generate, seeds_repeat_and_the_penalty_sees_the_prompt)
{
    struct plim_sampling sampling = { .temperature = 1, .top_k = 50, .top_p = 0.9, .repetition_penalty = 1, .seed = 5 };
    int32_t first[20];
    open_world(FIXTURE "dense", 128, NULL, NULL);
    generate((struct plim_generation){ .sampling = sampling, .max_tokens = 20 }, &seen);
    memcpy(first, seen.ids, sizeof first);
    generate((struct plim_generation){ .sampling = sampling, .max_tokens = 20 }, &seen);
    cr_assert_eq(memcmp(seen.ids, first, sizeof first), 0);

    /* A penalty that nothing survives: no token of the prompt, and none twice. */
    sampling = GREEDY;
    sampling.repetition_penalty = 1000;
    generate((struct plim_generation){ .sampling = sampling, .max_tokens = 20 }, &seen);
    for (size_t i = 0; i < seen.count; i++) {
        for (size_t j = 0; j < 33; j++)
            cr_assert_neq(seen.ids[i], sequence[j]);
        for (size_t j = 0; j < i; j++)
            cr_assert_neq(seen.ids[i], seen.ids[j]);
    }
    close_world();
}

Test(generate, stops_at_a_stop_token_without_reporting_it)
{
    int32_t ids[20];
    open_world(FIXTURE "dense", 128, NULL, NULL);
    generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 20 }, &seen);
    memcpy(ids, seen.ids, sizeof ids);
    size_t first = 0;   /* where the token of step 10 comes up first */
    while (ids[first] != ids[10])
        first++;
    int32_t stops[2] = { 299, ids[10] };
    cr_assert_eq(generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 20, .stop_ids = stops,
                                                    .stop_id_count = 2 }, &seen), first);
    close_world();
}

Test(generate, stops_at_the_end_of_the_context)
{
    open_world(FIXTURE "dense", 40, NULL, NULL);
    cr_assert_eq(generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 1000 }, &seen), 40 - 33 + 1);
    cr_assert_eq(plim_session_position(w.session), 40);
    close_world();
}

Test(generate, no_tokens_wanted_runs_the_prompt_only)
{
    open_world(FIXTURE "dense", 40, NULL, NULL);
    cr_assert_eq(generate((struct plim_generation){ .sampling = GREEDY }, &seen), 0);
    cr_assert_eq(plim_session_position(w.session), 33);
    close_world();
}

Test(generate, low_mem_caps_the_output)
{
    open_world(FIXTURE "dense", 2048, "low_mem", "on");
    cr_assert_eq(generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 1500 }, &seen), 1024);
    close_world();
}

Test(generate, stops_at_the_models_end_token)
{
    /* The fixture's end token is 2. Temperature lets it come up: where, a run without the stop says. */
    struct plim_sampling sampling = { .temperature = 5, .top_p = 1, .repetition_penalty = 1, .seed = 3 };
    open_world(FIXTURE "dense", 2048, NULL, NULL);
    size_t total = generate((struct plim_generation){ .sampling = sampling, .max_tokens = 1900 }, &seen), end = 0;
    while (end < total && seen.ids[end] != 2)
        end++;
    cr_assert_lt(end, total, "choose another seed");
    cr_assert_eq(generate((struct plim_generation){ .sampling = sampling, .max_tokens = 1900, .stop_at_eos = true },
                          &seen), end);
    close_world();
}

Test(generate, a_callback_that_fails_ends_it)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_generation generation = { .sampling = GREEDY, .max_tokens = 20 };
    size_t count;
    open_world(FIXTURE "dense", 128, NULL, NULL);
    memset(&seen, 0, sizeof seen);
    seen.refuse_at = 4;
    cr_assert_eq(plim_generate(w.session, sequence, 33, &generation, note_token, &seen, &count, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INTERRUPTED);
    cr_assert_eq(count, 3);
    close_world();
}

Test(generate, a_prompt_longer_than_the_context_is_refused)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_generation generation = { .sampling = GREEDY, .max_tokens = 20 };
    size_t count;
    open_world(FIXTURE "dense", 32, NULL, NULL);
    cr_assert_eq(plim_generate(w.session, sequence, 33, &generation, note_token, &seen, &count, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert(strstr(err.message, "33") && strstr(err.message, "32"), "%s", err.message);
    cr_assert_eq(count, 0);
    close_world();
}

static uint64_t ticking(void *context)
{
    uint64_t *now = context;
    return *now += 1000;
}

Test(generate, times_are_from_token_to_token)
{
    uint64_t now = 0, total = 0;
    open_world(FIXTURE "dense", 128, NULL, NULL);
    plim_clock_replace(ticking, &now);
    generate((struct plim_generation){ .sampling = GREEDY, .max_tokens = 10 }, &seen);
    plim_clock_replace(NULL, NULL);
    for (size_t i = 0; i < 10; i++) {
        cr_assert_gt(seen.ns[i], 0);
        total += seen.ns[i];
    }
    cr_assert_leq(total, now, "no time is counted twice");
    close_world();
}

Test(generate, survives_each_failed_allocation)
{
    struct plim_pool_stats before, after;
    struct plim_generation generation = {
        .sampling = { .temperature = 1, .top_p = 0.9, .repetition_penalty = 1.1 }, .max_tokens = 2
    };
    int failures = 0;
    open_world(FIXTURE "exl2-4.0", 64, NULL, NULL);
    plim_pool_stats(w.pool, &before);
    for (uint64_t nth = 1;; nth++) {
        struct plim_err err = PLIM_ERR_INIT;
        size_t count;
        plim_session_rewind(w.session, 0);
        plim_pool_fail_allocation(w.pool, nth);
        memset(&seen, 0, sizeof seen);
        int rc = plim_generate(w.session, sequence, 33, &generation, note_token, &seen, &count, &err);
        plim_pool_stats(w.pool, &after);
        cr_assert_eq(after.live_blocks, before.live_blocks);
        cr_assert_eq(after.current[PLIM_FAST].total_bytes, before.current[PLIM_FAST].total_bytes);
        if (rc == 0)
            break;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
        failures++;
    }
    cr_assert_gt(failures, 10);
    close_world();
}

/* ---- perplexity ---- */

struct nll {
    const int32_t *ids;
    size_t count, first_scored;
    double sum;
};

/* Log-softmax with a plain log of a plain sum in long double; no shift, so another formula than the one tested. */
static int add_nll(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                   struct plim_err *err)
{
    struct nll *nll = context;
    (void)err;
    for (size_t r = 0; r < rows; r++, logits += vocab_size) {
        long double sum = 0;
        if (position + r + 1 >= nll->count)
            continue;
        for (size_t i = 0; i < vocab_size; i++)
            sum += expl((long double)logits[i]);
        nll->sum += (double)(logl(sum) - (long double)logits[nll->ids[position + r + 1]]);
    }
    return 0;
}

Test(perplexity, agrees_with_windows_run_one_by_one)
{
    static const size_t windows[] = { 2, 7, 32, 33, 64 };
    struct plim_err err = PLIM_ERR_INIT;
    open_world(FIXTURE "dense", 64, NULL, NULL);
    for (size_t k = 0; k < sizeof windows / sizeof windows[0]; k++) {
        struct plim_perplexity p;
        struct nll nll = { 0 };
        size_t scored = 0;
        for (size_t first = 0; first < 33; first += windows[k]) {
            nll.ids = sequence + first;
            nll.count = windows[k] < 33 - first ? windows[k] : 33 - first;
            plim_session_rewind(w.session, 0);
            cr_assert_eq(plim_session_forward(w.session, nll.ids, nll.count,
                                              &(struct plim_forward){ PLIM_LOGITS_ALL, add_nll, &nll }, &err), 0);
            scored += nll.count - 1;
        }
        cr_assert_eq(plim_perplexity(w.session, sequence, 33, windows[k], &p, &err), 0, "%s", err.message);
        cr_assert_eq(p.token_count, scored);
        cr_assert_float_eq(p.nll_sum, nll.sum, 1e-9 * nll.sum, "window %zu", windows[k]);
        cr_assert_float_eq(p.perplexity, exp(nll.sum / (double)scored), 1e-9 * p.perplexity);
        cr_assert_eq(plim_session_position(w.session), 0);
    }
    close_world();
}

/* Against the logits that came with the fixture; keys and values are not rounded there, so they are not here. */
static void check_reference(const char *directory, const char *file, const char *tensor_name)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store;
    struct plim_perplexity p;
    struct nll nll = { .ids = sequence, .count = 33 };

    open_world(directory, 64, "kv_cache", "fp32");
    cr_assert_eq(tensor_store_open_file(&store, w.pool, file, &err), 0, "%s", err.message);
    const struct tensor *tensor = tensor_store_find(store, tensor_name);
    cr_assert_not_null(tensor);
    cr_assert_eq(tensor->dtype, DTYPE_F32);
    add_nll(&nll, 0, 33, VOCAB, tensor->data, &err);
    cr_assert_eq(plim_perplexity(w.session, sequence, 33, 64, &p, &err), 0, "%s", err.message);
    /* Both run in fp32 or better: logits agree to 1e-6 of their size. */
    cr_assert_float_eq(p.nll_sum / 32, nll.sum / 32, 5e-6, "%s: %.8f, expected %.8f", directory, p.nll_sum / 32,
                       nll.sum / 32);
    tensor_store_close(store);
    close_world();
}

Test(perplexity, agrees_with_reference_logits)
{
    check_reference(FIXTURE "dense", FIXTURE "reference-dense.safetensors", "logits.transformers.33");
    check_reference(FIXTURE "exl2-4.0", FIXTURE "reference-4.0.safetensors", "logits.float64.33");
    check_reference(FIXTURE "exl2-2.6", FIXTURE "reference-2.6.safetensors", "logits.float64.33");
}

Test(perplexity, refuses_what_cannot_be_scored)
{
    struct plim_perplexity p;
    open_world(FIXTURE "dense", 64, NULL, NULL);
    static const struct {
        size_t count, window;
        const char *text;
    } bad[] = { { 33, 1, "window of 1" }, { 33, 65, "window of 65" }, { 1, 8, "of 1 tokens" } };
    for (size_t i = 0; i < 3; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        cr_assert_eq(plim_perplexity(w.session, sequence, bad[i].count, bad[i].window, &p, &err), -1);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
        cr_assert(strstr(err.message, bad[i].text), "%s", err.message);
    }
    close_world();
}
