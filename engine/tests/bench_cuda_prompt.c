/*
 * A developers' benchmark of prompts on CUDA: the first of a process and the ones after it, and the memory they take.
 *
 *     build/release/tests/bench_cuda_prompt DIRECTORY TOKENS [SETTING ...]        for example 2048 max_dq_size=16Mi
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/clock.h"
#include "plimsoll/engine.h"

static struct plim_err err = PLIM_ERR_INIT;

static void must(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s\n", err.message);
    exit(1);
}

static int drop_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *e)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)e;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double prompt_ms(struct plim_session *session, const int32_t *ids, size_t tokens)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };
    uint64_t start = plim_now_ns();

    plim_session_rewind(session, 0);
    must(plim_session_forward(session, ids, tokens, &forward, &err));
    return (double)(plim_now_ns() - start) * 1e-6;
}

int main(int argc, char **argv)
{
    enum { REPEATS = 9 };
    struct plim_parameters parameters;
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_model_info info;
    struct plim_pool_stats stats;
    struct plim_plan plan;
    double ms[REPEATS];

    if (argc < 3)
        return 2;
    size_t tokens = strtoul(argv[2], NULL, 10);
    plim_parameters_default(&parameters);
    for (int i = 3; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            return 2;
        *value++ = '\0';
        must(plim_parameters_set(&parameters, argv[i], value, &err));
        printf("%s=%s ", argv[i], value);
    }
    must(plim_parameters_resolve(&parameters, &err));
    must(plim_engine_open(&engine, "cuda", &parameters, NULL, &err));
    must(plim_model_load(&model, engine, argv[1], &err));
    plim_model_info(model, &info);
    struct plim_session_options options = { .context_tokens = tokens };
    must(plim_session_open(&session, model, &options, &err));
    int32_t *ids = malloc(tokens * sizeof *ids);
    for (size_t i = 0; ids && i < tokens; i++)
        ids[i] = (int32_t)(i * 7919 % info.vocab_size);

    double first = prompt_ms(session, ids, tokens);
    for (int i = 0; i < REPEATS; i++)
        ms[i] = prompt_ms(session, ids, tokens);
    qsort(ms, REPEATS, sizeof *ms, by_value);
    printf("%zu tokens: first %.1f ms, then %.2f ms [%.2f to %.2f], %.0f tokens/s; ", tokens, first, ms[REPEATS / 2], ms[0],
           ms[REPEATS - 1], 1e3 * (double)tokens / ms[REPEATS / 2]);

    struct plim_plan_request request = { .context_tokens = tokens, .prompt_tokens = tokens, .rows = PLIM_LOGITS_LAST };
    must(plim_predict(argv[1], "cuda", &parameters, &request, &plan, &err));
    plim_pool_stats(plim_engine_pool(engine), &stats);
    uint64_t rest = stats.peak[PLIM_FAST].total_bytes - stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS] -
                    stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_KV_CACHE];
    printf("beside weights and cache %.1f MiB%s\n", (double)rest / (1 << 20),
           plan.peak_bytes == stats.peak[PLIM_FAST].total_bytes ? ", as predicted" : ", NOT AS PREDICTED");
    free(ids);
    plim_session_close(session);
    plim_model_free(model);
    return plim_engine_close(engine) != 0;
}
