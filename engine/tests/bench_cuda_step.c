/*
 * A developers' benchmark of decoding on CUDA: prefill once, then milliseconds a token at some lengths of context.
 *
 *     build/release/tests/bench_cuda_step DIRECTORY [CONTEXT ...] [SETTING ...]     for example 16 4096 kv_cache=q8
 *
 * A token's time ends when its logits are on the host; what is chosen from them comes after. The digest is of all logits of
 * the timed tokens: equal from run to run, and between ways that compute in the same order.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cuda_must.h"
#include "plimsoll/clock.h"
#include "plimsoll/engine.h"

static size_t best_token;
static uint64_t arrived_ns, digest;

static int take_argmax(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *e)
{
    (void)context, (void)first_position, (void)rows, (void)e;
    arrived_ns = plim_now_ns();
    best_token = 0;
    for (size_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best_token])
            best_token = i;
    for (size_t i = 0; i < vocab_size; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        digest = (digest ^ bits) * 0x100000001b3u;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    enum { TOKENS = 128, WARM = 16, CHUNK = 2048, MOST = 16 };
    size_t contexts[MOST] = { 16, 512, 1024, 4096 }, context_count = 0;
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
        if (!value && context_count < MOST) {
            contexts[context_count++] = strtoul(argv[i], NULL, 10);
            continue;
        }
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
    if (context_count == 0)
        context_count = 4;
    for (size_t c = 0; c < context_count; c++) {
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
                ms[i] = (double)(arrived_ns - before) * 1e-6;
            else
                digest = 0;
        }
        qsort(ms, TOKENS, sizeof *ms, by_value);
        printf("context %5zu: prefill %8.2f ms, token %.4f ms [%.4f to %.4f], %.1f tokens/s, digest %016llx\n",
               contexts[c], prefill, ms[TOKENS / 2], ms[0], ms[TOKENS - 1], 1e3 / ms[TOKENS / 2],
               (unsigned long long)digest);
    }
    plim_session_close(session);
    plim_model_free(model);
    return plim_engine_close(engine) != 0;
}
