/*
 * A developers' benchmark of prefill on CUDA: milliseconds of a prompt, the memory it takes, and where the time goes, operation
 * by operation.
 *
 *     build/release/tests/bench_cuda_prefill DIRECTORY TOKENS [SETTING ...]     for example max_dq_size=16Mi kv_cache=q8
 *
 * The first line is the prompt by the clock, from ids to logits: the first one of the process, which loads kernels and what
 * else it needs, and the median of ROUNDS; and the pool's memory beside weights and cache. The table comes from further prompts with
 * an event before and after each operation; its sum is larger than the first line where operations overlap, and `between`
 * is what no operation accounts for. Matrices are told apart by their shapes.
 *
 * Then, where all layers are EXL2, their products beside cuBLAS's on ready fp16 weights (bench_cuda_products.h), in turns with
 * whole prompts, SUSTAINED of each in a row, so that all run at the clocks of a long run. Quotients are cuBLAS's time, fp16
 * in and out (with our outputs in brackets), over ours: of the products alone; of what the table calls norm_linear and mlp,
 * which are the same products with norms and gates; of the whole prompt.
 */

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cuda_must.h"
#include "bench_cuda_products.h"
#include "cuda/cuda_internal.h"
#include "model.h"
#include "plimsoll/clock.h"
#include "plimsoll/engine.h"

enum { ROUNDS = 9, TURNS = 5, SUSTAINED = 4, TABLES = 3, MAX_TOKENS = 16384, MAX_ENTRIES = 16384, MAX_NAMES = 32 };

/* ---- operations with an event before and after ---- */

static const struct backend_ops *real;

static struct entry {
    char name[40];
    cudaEvent_t before, after;
} entries[MAX_ENTRIES];
static size_t entry_count;

static struct entry *begin(struct backend *backend, const char *name)
{
    struct entry *entry = &entries[entry_count];

    if (entry_count == MAX_ENTRIES)
        must(plim_err_set(&err, PLIM_ERR_SYSTEM, "more than %d operations", MAX_ENTRIES));
    if (!entry->before) {
        must_cuda(cudaEventCreate(&entry->before));
        must_cuda(cudaEventCreate(&entry->after));
    }
    entry_count++;
    snprintf(entry->name, sizeof entry->name, "%s", name);
    must_cuda(cudaEventRecord(entry->before, cuda_of(backend)->stream));
    return entry;
}

static int end(struct backend *backend, const struct entry *entry, int rc)
{
    must_cuda(cudaEventRecord(entry->after, cuda_of(backend)->stream));
    return rc;
}

/* OPERATION(name, parameters, arguments) */
#define OPERATION(op, parameters, arguments)                                                                           \
    static int timed_##op parameters                                                                                   \
    {                                                                                                                  \
        struct entry *entry = begin(backend, #op);                                                                     \
        return end(backend, entry, real->op arguments);                                                                \
    }

OPERATION(rms_norm,
          (struct backend * backend, const float *x, const float *weight, float offset, double eps, size_t rows, size_t width,
           float *out, struct plim_err *e),
          (backend, x, weight, offset, eps, rows, width, out, e))
OPERATION(rope,
          (struct backend * backend, float *x, const float *table, size_t first, size_t rows, size_t heads, size_t head_dim,
           struct plim_err *e),
          (backend, x, table, first, rows, heads, head_dim, e))
OPERATION(kv_store,
          (struct backend * backend, const struct attention_shape *shape, const float *k, const float *v, size_t rows,
           size_t first, void *keys, void *values, struct plim_err *e),
          (backend, shape, k, v, rows, first, keys, values, e))
OPERATION(attention,
          (struct backend * backend, const struct attention_shape *shape, const float *q, const void *keys,
           const void *values, size_t past, size_t rows, float *out, struct plim_err *e),
          (backend, shape, q, keys, values, past, rows, out, e))
OPERATION(act_mul,
          (struct backend * backend, enum activation activation, float *gate, const float *up, size_t n, struct plim_err *e),
          (backend, activation, gate, up, n, e))
OPERATION(add, (struct backend * backend, float *x, const float *y, float scale, size_t n, struct plim_err *e),
          (backend, x, y, scale, n, e))
OPERATION(embed,
          (struct backend * backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids, size_t rows,
           float scale, float *out, struct plim_err *e),
          (backend, dtype, table, width, ids, rows, scale, out, e))
OPERATION(upload, (struct backend * backend, void *device, const void *host, size_t bytes, struct plim_err *e),
          (backend, device, host, bytes, e))
OPERATION(download, (struct backend * backend, void *host, const void *device, size_t bytes, struct plim_err *e),
          (backend, host, device, bytes, e))

OPERATION(norm_linear,
          (struct backend * backend, const struct norm *norm, const struct matrix *const *matrices, size_t count,
           const float *x, size_t rows, void *work, float *const *y, bool accumulate, struct plim_err *e),
          (backend, norm, matrices, count, x, rows, work, y, accumulate, e))
OPERATION(mlp,
          (struct backend * backend, const struct norm *norm, const struct mlp *mlp, const float *x, size_t rows, void *work,
           float *out, bool accumulate, struct plim_err *e),
          (backend, norm, mlp, x, rows, work, out, accumulate, e))

static int timed_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                        bool accumulate, struct plim_err *e)
{
    char name[40];

    snprintf(name, sizeof name, "linear %zu x %zu%s", matrix->in_features, matrix->out_features, accumulate ? ", added" : "");
    struct entry *entry = begin(backend, name);
    return end(backend, entry, real->linear(backend, matrix, x, rows, y, accumulate, e));
}

static int timed_linear_many(struct backend *backend, const struct matrix *const *matrices, size_t count, const float *x,
                             size_t rows, float *const *y, struct plim_err *e)
{
    char name[40];

    snprintf(name, sizeof name, "linear %zu x %zu, %zu", matrices[0]->in_features, matrices[0]->out_features, count);
    struct entry *entry = begin(backend, name);
    return end(backend, entry, real->linear_many(backend, matrices, count, x, rows, y, e));
}

/* ---- a prompt ---- */

static int drop_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *e)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)e;
    return 0;
}

static double prompt_ms(struct plim_session *session, const int32_t *ids, size_t tokens)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };

    plim_session_rewind(session, 0);
    uint64_t start = plim_now_ns();
    must(plim_session_forward(session, ids, tokens, &forward, &err));
    return (double)(plim_now_ns() - start) * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct total {
    char name[40];
    double ms;
    size_t count;
};

/* Of TABLES prompts that took `whole_ms` together; returns what products with norms and gates take in one. */
static double print_table(double whole_ms)
{
    struct total totals[MAX_NAMES] = { 0 };
    size_t names = 0;
    double sum = 0, linears = 0;

    must_cuda(cudaDeviceSynchronize());
    for (size_t i = 0; i < entry_count; i++) {
        float ms;
        size_t n = 0;
        must_cuda(cudaEventElapsedTime(&ms, entries[i].before, entries[i].after));
        while (n < names && strcmp(totals[n].name, entries[i].name) != 0)
            n++;
        if (n == MAX_NAMES)
            continue;
        if (n == names)
            memcpy(totals[names++].name, entries[i].name, sizeof totals[n].name);
        totals[n].ms += ms;
        totals[n].count++;
        sum += ms;
    }
    for (size_t n = 0; n < names; n++) {
        printf("    %-32s %5zu  %8.3f ms  %8.1f us each\n", totals[n].name, totals[n].count / TABLES, totals[n].ms / TABLES,
               totals[n].ms / (double)totals[n].count * 1e3);
        if (strcmp(totals[n].name, "norm_linear") == 0 || strcmp(totals[n].name, "mlp") == 0)
            linears += totals[n].ms / TABLES;
    }
    printf("    %-32s        %8.3f ms of %.3f with events\n", "between", (whole_ms - sum) / TABLES, whole_ms / TABLES);
    return linears;
}

static void print_memory(struct plim_engine *engine, const char *model, const struct plim_parameters *parameters,
                         size_t tokens)
{
    struct plim_plan_request request = { .context_tokens = tokens, .prompt_tokens = tokens, .rows = PLIM_LOGITS_LAST };
    struct plim_pool_stats stats;
    struct plim_plan plan;

    must(plim_predict(model, "cuda", parameters, &request, &plan, &err));
    plim_pool_stats(plim_engine_pool(engine), &stats);
    const uint64_t *tag = stats.tag_peak_bytes[PLIM_FAST];
    uint64_t peak = stats.peak[PLIM_FAST].total_bytes;
    printf("beside weights and cache %.1f MiB%s\n",
           (double)(peak - tag[PLIM_TAG_WEIGHTS] - tag[PLIM_TAG_KV_CACHE]) / (1 << 20),
           plan.peak_bytes == peak ? ", as predicted" : ", NOT AS PREDICTED");
}

/* ---- beside cuBLAS ---- */

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static void print_quotients(const struct plim_model *model, struct plim_session *session, const int32_t *ids, size_t tokens,
                            double linears_ms)
{
    double prompt[TURNS], ours[TURNS], blas[TURNS], as_ours[TURNS];
    struct products *products = products_open(model, tokens);

    if (!products)
        return;
    for (int round = 0; round < TURNS; round++) {
        prompt[round] = 0;
        for (int i = 0; i < SUSTAINED; i++)
            prompt[round] += prompt_ms(session, ids, tokens) / SUSTAINED;
        ours[round] = products_ms(products, PRODUCTS_OURS, SUSTAINED);
        blas[round] = products_ms(products, PRODUCTS_BLAS_HALVES, SUSTAINED);
        as_ours[round] = products_ms(products, PRODUCTS_BLAS_AS_OURS, SUSTAINED);
    }
    products_close(products);
    double whole = median(prompt, TURNS), alone = median(ours, TURNS), best = median(blas, TURNS);
    double same = median(as_ours, TURNS);
    printf("sustained, of all layers: cuBLAS %.2f ms (%.2f with our outputs); products %.2f ms: %.1f%% (%.1f%%); with norms and "
           "gates %.2f ms: %.1f%% (%.1f%%); whole prompts %.2f ms: %.1f%% (%.1f%%)\n",
           best, same, alone, 100 * best / alone, 100 * same / alone, linears_ms, 100 * best / linears_ms,
           100 * same / linears_ms, whole, 100 * best / whole, 100 * same / whole);
}

int main(int argc, char **argv)
{
    struct plim_parameters parameters;
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_model_info info;
    static int32_t ids[MAX_TOKENS];
    double first_ms, ms[ROUNDS];

    if (argc < 3)
        return 2;
    size_t tokens = strtoul(argv[2], NULL, 10);
    if (tokens == 0 || tokens > MAX_TOKENS)
        return 2;
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
    must(plim_session_open(&session, model, &(struct plim_session_options){ .context_tokens = tokens }, &err));
    for (size_t i = 0; i < tokens; i++)
        ids[i] = (int32_t)(i * 7919 % info.vocab_size);

    first_ms = prompt_ms(session, ids, tokens);
    prompt_ms(session, ids, tokens);
    for (int i = 0; i < ROUNDS; i++)
        ms[i] = prompt_ms(session, ids, tokens);
    qsort(ms, ROUNDS, sizeof *ms, by_value);
    printf("%s: %zu tokens in %.2f ms [%.2f to %.2f], %.0f tokens/s; the first in %.1f ms; ", argv[1], tokens, ms[ROUNDS / 2],
           ms[0], ms[ROUNDS - 1], (double)tokens / ms[ROUNDS / 2] * 1e3, first_ms);
    print_memory(engine, argv[1], &parameters, tokens);

    real = engine->backend.ops;
    struct backend_ops timed = *real;
    timed.rms_norm = timed_rms_norm;
    timed.rope = timed_rope;
    timed.kv_store = timed_kv_store;
    timed.attention = timed_attention;
    timed.act_mul = timed_act_mul;
    timed.add = timed_add;
    timed.embed = timed_embed;
    timed.upload = timed_upload;
    timed.download = timed_download;
    timed.linear = timed_linear;
    timed.linear_many = real->linear_many ? timed_linear_many : NULL;
    timed.norm_linear = real->norm_linear ? timed_norm_linear : NULL;
    timed.mlp = real->mlp ? timed_mlp : NULL;
    engine->backend.ops = &timed;
    prompt_ms(session, ids, tokens);
    entry_count = 0;
    double with_events_ms = 0;
    for (int i = 0; i < TABLES; i++)
        with_events_ms += prompt_ms(session, ids, tokens);
    double linears_ms = print_table(with_events_ms);
    engine->backend.ops = real;
    if (tokens <= (size_t)parameters.count[PLIM_MAX_INPUT_LEN])
        print_quotients(model, session, ids, tokens, linears_ms);

    plim_session_close(session);
    plim_model_free(model);
    return plim_engine_close(engine) != 0;
}
