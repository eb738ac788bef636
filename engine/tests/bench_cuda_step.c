/*
 * A developers' benchmark of decoding on CUDA: prefill once, then milliseconds a token at some lengths of context.
 *
 *     build/release/tests/bench_cuda_step DIRECTORY [SETTING ...]        for example cuda_graph=off kv_cache=q8
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

static size_t best_token;

static int take_argmax(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *e)
{
    (void)context, (void)first_position, (void)rows, (void)e;
    best_token = 0;
    for (size_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best_token])
            best_token = i;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    enum { TOKENS = 128, WARM = 16, CHUNK = 2048 };
    static const size_t contexts[] = { 16, 512, 1024, 4096 };
    struct plim_parameters parameters;
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_model_info info;
    struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = take_argmax };
    static int32_t ids[CHUNK];

    plim_parameters_default(&parameters);
    for (int i = 2; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            return 2;
        *value++ = '\0';
        must(plim_parameters_set(&parameters, argv[i], value, &err));
        printf("%s=%s ", argv[i], value);
    }
    must(plim_parameters_resolve(&parameters, &err));
    must(plim_engine_open(&engine, "cuda", &parameters, NULL, &err));
    uint64_t start = plim_now_ns();
    must(plim_model_load(&model, engine, argv[1], &err));
    plim_model_info(model, &info);
    printf("%s: loaded in %.2f s\n", argv[1], (double)(plim_now_ns() - start) * 1e-9);
    struct plim_session_options options = { .context_tokens = info.max_positions < 8192 ? info.max_positions : 8192 };
    must(plim_session_open(&session, model, &options, &err));
    for (size_t i = 0; i < CHUNK; i++)
        ids[i] = (int32_t)(i * 7919 % info.vocab_size);
    for (size_t c = 0; c < sizeof contexts / sizeof contexts[0]; c++) {
        double ms[TOKENS];
        if (contexts[c] + TOKENS + WARM > options.context_tokens)
            break;
        plim_session_rewind(session, 0);
        start = plim_now_ns();
        for (size_t done = 0; done < contexts[c]; done += CHUNK)
            must(plim_session_forward(session, ids, contexts[c] - done < CHUNK ? contexts[c] - done : CHUNK, &forward, &err));
        double prefill = (double)(plim_now_ns() - start) * 1e-6;
        for (int i = -WARM; i < TOKENS; i++) {
            int32_t id = (int32_t)best_token;
            uint64_t before = plim_now_ns();
            must(plim_session_forward(session, &id, 1, &forward, &err));
            if (i >= 0)
                ms[i] = (double)(plim_now_ns() - before) * 1e-6;
        }
        qsort(ms, TOKENS, sizeof *ms, by_value);
        printf("context %5zu: prefill %8.2f ms, token %.4f ms [%.4f to %.4f], %.1f tokens/s\n", contexts[c], prefill,
               ms[TOKENS / 2], ms[0], ms[TOKENS - 1], 1e3 / ms[TOKENS / 2]);
    }
    plim_session_close(session);
    plim_model_free(model);
    return plim_engine_close(engine) != 0;
}
