/* The engine: one pool, one team of threads, one backend. */

#include "model.h"

static struct plim_pool_options pool_options(const struct plim_parameters *parameters,
                                             const struct plim_engine_options *options)
{
    struct plim_pool_options pool = { 0 };
    int64_t budget = parameters->count[PLIM_MEMORY_BUDGET];

    if (budget > 0)
        pool.fast_budget_bytes = (size_t)budget;
    if (options) {
        pool.spill_directory = options->spill_directory;
        pool.fail_allocation = options->fail_allocation;
    }
    return pool;
}

int plim_engine_open(struct plim_engine **out, const char *backend, const struct plim_parameters *parameters,
                     const struct plim_engine_options *options, struct plim_err *err)
{
    struct plim_pool_options pool_option = pool_options(parameters, options);
    struct plim_pool_memory memory;
    struct plim_pool *pool = NULL;
    struct plim_engine *engine = NULL;

    if (!backend)
        backend = plim_parameters_backend(parameters);
    if (backend_memory(backend, parameters, &memory))
        pool_option.fast_memory = &memory;
    if (plim_pool_open(&pool, &pool_option, err) < 0)
        return -1;
    engine = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *engine, err);
    if (!engine) {
        plim_pool_close(pool);
        return -1;
    }
    engine->pool = pool;
    engine->parameters = *parameters;
    if (threads_open(&engine->threads, (int)parameters->count[PLIM_CPU_THREADS], err) < 0)
        goto fail;
    if (backend_open(&engine->backend, backend, pool, engine->threads, &engine->parameters, err) < 0)
        goto fail;
    *out = engine;
    return 0;

fail:
    plim_engine_close(engine);
    return -1;
}

uint64_t plim_engine_close(struct plim_engine *engine)
{
    if (!engine)
        return 0;
    struct plim_pool *pool = engine->pool;
    backend_close(&engine->backend);
    threads_close(engine->threads);
    plim_pool_free(pool, engine);
    return plim_pool_close(pool);
}

struct plim_pool *plim_engine_pool(struct plim_engine *engine)
{
    return engine->pool;
}

const struct plim_parameters *plim_engine_parameters(const struct plim_engine *engine)
{
    return &engine->parameters;
}

const char *const *plim_backend_names(void)
{
    return backend_names();
}

void plim_blas_describe(char *library, size_t library_size, char *core, size_t core_size)
{
    backend_blas_describe(library, library_size, core, core_size);
}

void plim_engine_counters(const struct plim_engine *engine, struct plim_counters *out)
{
    const struct backend_counters *work = &engine->backend.counters;

    *out = (struct plim_counters){
        .dequant_chunks = work->dequant_chunks,
        .dequantised_elements = work->dequantised_elements,
        .weight_bytes_read = work->weight_bytes_read,
        .fused_calls = work->fused_calls,
        .chunked_calls = work->chunked_calls,
        .attention_chunks = work->attention_chunks,
        .forward_chunks = engine->forward_chunks,
    };
}
