/* The engine: one pool, one team of threads, one backend, or one for each device that gpu_split uses. */

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

static int open_backends(struct plim_engine *engine, const char *name, struct plim_err *err)
{
    size_t others = engine->place_count - 1;

    if (others > 0) {
        engine->others = plim_pool_calloc(engine->pool, PLIM_HOST, PLIM_TAG_METADATA, others, sizeof *engine->others, err);
        if (!engine->others)
            return -1;
    }
    for (size_t place = 0; place < engine->place_count; place++)
        if (backend_open_at(engine_backend(engine, place), name, place, engine->pool, engine->threads, &engine->parameters,
                            err) < 0)
            return -1;
    return engine_select(engine, 0, err);
}

static void close_backend(struct plim_engine *engine, size_t place)
{
    struct plim_err unsaid = PLIM_ERR_INIT;

    if (place > 0 && !engine->others)
        return;
    if (engine_backend(engine, place)->ops)
        (void)engine_select(engine, place, &unsaid);
    backend_close(engine_backend(engine, place));
}

int plim_engine_open(struct plim_engine **out, const char *backend, const struct plim_parameters *parameters,
                     const struct plim_engine_options *options, struct plim_err *err)
{
    struct plim_pool_options pool_option = pool_options(parameters, options);
    struct plim_pool_memory memory[PLIM_MOST_DEVICES];
    struct plim_pool *pool = NULL;
    struct plim_engine *engine = NULL;
    struct plim_split split;

    if (!backend)
        backend = plim_parameters_backend(parameters);
    if (backend_split(backend, parameters, &split, err) < 0)
        return -1;
    for (size_t place = 0; place < split.count; place++)
        if (backend_memory_at(backend, place, parameters, &memory[place])) {
            pool_option.fast_memory = memory;
            pool_option.fast_memory_count = split.count;
        }
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
    engine->place_count = split.count;
    if (open_backends(engine, backend, err) < 0)
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
    for (size_t place = engine->place_count; place-- > 0;)
        close_backend(engine, place);
    plim_pool_free(pool, engine->others);
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
    *out = (struct plim_counters){ .forward_chunks = engine->forward_chunks };
    for (size_t place = 0; place < engine->place_count; place++) {
        const struct backend_counters *work =
            place == 0 ? &engine->backend.counters : &engine->others[place - 1].counters;
        out->dequant_chunks += work->dequant_chunks;
        out->dequantised_elements += work->dequantised_elements;
        out->weight_bytes_read += work->weight_bytes_read;
        out->fused_calls += work->fused_calls;
        out->chunked_calls += work->chunked_calls;
        out->attention_chunks += work->attention_chunks;
    }
}
