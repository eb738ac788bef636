/*
 * The whole engine with more threads than cores, for the thread sanitizer: a forward pass over packed and dense weights
 * in every mode that shares work, and the quantizer's loops. Results must equal those of one thread.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gptq.h"
#include "plimsoll/engine.h"
#include "plimsoll/random.h"
#include "threads.h"

#define FIXTURE PLIMSOLL_TEST_DATA "/exl2-llama-tiny"
#define TOKENS 160

static int failures;

static void check(int ok, const char *what, const struct plim_err *err)
{
    if (ok)
        return;
    fprintf(stderr, "stress_engine: %s: %s\n", what, err->message);
    failures++;
}

struct last_row {
    float logits[1024];
    size_t vocab_size;
};

static int keep(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                struct plim_err *err)
{
    struct last_row *row = context;
    (void)first_position;
    (void)err;
    memcpy(row->logits, logits + (rows - 1) * vocab_size, vocab_size * sizeof *logits);
    row->vocab_size = vocab_size;
    return 0;
}

/* A prompt of TOKENS ids and one more token. */
static void run_model(const char *directory, const char *threads, struct last_row *row)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_session *session = NULL;
    struct plim_forward forward = { PLIM_LOGITS_LAST, keep, row };
    int32_t ids[TOKENS];

    for (int i = 0; i < TOKENS; i++)
        ids[i] = i * 7 % 290;
    plim_parameters_default(&parameters);
    check(plim_parameters_set(&parameters, "cpu_threads", threads, &err) == 0 &&
              plim_parameters_set(&parameters, "cpu_threads_small", threads, &err) == 0 &&
              plim_parameters_set(&parameters, "max_dq_size", "8Ki", &err) == 0 &&
              plim_parameters_resolve(&parameters, &err) == 0,
          "parameters", &err);
    check(plim_engine_open(&engine, "cpu", &parameters, NULL, &err) == 0, "open", &err);
    check(engine && plim_model_load(&model, engine, directory, &err) == 0, directory, &err);
    struct plim_session_options options = { .context_tokens = TOKENS + 1 };
    check(model && plim_session_open(&session, model, &options, &err) == 0, "session", &err);
    check(session && plim_session_forward(session, ids, TOKENS, &forward, &err) == 0, "prompt", &err);
    check(session && plim_session_forward(session, ids, 1, &forward, &err) == 0, "one token", &err);
    plim_session_close(session);
    plim_model_free(model);
    check(plim_engine_close(engine) == 0, "leak", &err);
}

static void compare_threads(const char *directory)
{
    static struct last_row one, many;
    struct plim_err none = { PLIM_ERR_INTERNAL, "one thread and five disagree" };
    double difference = 0, size = 0;
    run_model(directory, "1", &one);
    run_model(directory, "5", &many);
    for (size_t i = 0; i < one.vocab_size; i++) {
        difference += pow((double)one.logits[i] - (double)many.logits[i], 2);
        size += pow((double)one.logits[i], 2);
    }
    check(size > 0 && difference <= 1e-12 * size, directory, &none);
}

/* GPTQ of a random layer; the codes' checksum. */
static uint64_t run_quantizer(int thread_count)
{
    enum { K = 320, N = 192, ROWS = 400 };
    static const struct exl2_layout layout = { 2, { { 5, 64, 0.2 }, { 3, 64, 0.8 } } };
    static float x[ROWS * K];
    float *w;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    struct threads *threads = NULL;
    struct plim_parameters parameters;
    struct backend backend;
    struct plim_random random;
    struct hessian h;
    struct hessian_report report;
    struct gptq_result result = { 0 };
    uint64_t sum = 0;

    plim_random_seed(&random, 5, 0);
    for (size_t i = 0; i < ROWS * K; i++)
        x[i] = (float)plim_random_normal(&random);
    plim_parameters_default(&parameters);
    parameters.count[PLIM_CPU_THREADS] = thread_count;
    check(plim_parameters_resolve(&parameters, &err) == 0, "parameters", &err);
    check(plim_pool_open(&pool, NULL, &err) == 0 && threads_open(&threads, thread_count, &err) == 0 &&
              backend_open(&backend, "cpu", pool, threads, &parameters, &err) == 0,
          "backend", &err);
    if (failures)
        exit(1);
    w = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, K * N * sizeof *w, &err);
    check(w != NULL, "weights", &err);
    if (failures)
        exit(1);
    for (size_t i = 0; i < K * N; i++)
        w[i] = (float)plim_random_normal(&random);
    check(hessian_init(&h, &backend, K, &err) == 0 && hessian_add(&h, x, ROWS, &err) == 0 &&
              hessian_order(&h, "layer", &err) == 0 && hessian_factor(&h, "layer", 0, &report, &err) == 0 &&
              gptq_quantise(&result, w, N, &h, &layout, false, &err) == 0,
          "quantizer", &err);
    for (size_t i = 0; i < result.word_rows * N; i++)
        sum = sum * 31 + result.q_weight[i];
    plim_pool_free(pool, w);
    gptq_result_release(&result, pool);
    hessian_release(&h);
    backend_close(&backend);
    threads_close(threads);
    check(plim_pool_close(pool) == 0, "leak", &err);
    return sum;
}

int main(void)
{
    struct plim_err differ = { PLIM_ERR_INTERNAL, "one thread and five give other codes" };
    compare_threads(FIXTURE "/exl2-4.0");
    compare_threads(FIXTURE "/dense");
    check(run_quantizer(1) == run_quantizer(5), "quantizer", &differ);
    return failures ? 1 : 0;
}
