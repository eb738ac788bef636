/* A session: a KV cache and how much of it is valid. */

#include "model.h"

/* Bytes of one layer's keys. */
static size_t keys_bytes(const struct plim_session *session)
{
    const struct model_config *c = &session->model->files.config;
    const struct plim_parameters *parameters = &session->model->engine->parameters;
    return session->context_tokens * backend_kv_format(parameters, KV_KEYS, c->kv_head_count, c->head_dim).row_bytes;
}

/* Bytes of one layer's keys and values. */
static size_t layer_bytes(const struct plim_session *session)
{
    const struct model_config *c = &session->model->files.config;
    return session->context_tokens *
           backend_kv_bytes(&session->model->engine->parameters, c->kv_head_count, c->head_dim);
}

bool model_records_steps(const struct model_config *config, const char *backend, const struct plim_parameters *parameters)
{
    const struct backend_predict_ops *predict = backend_predict(backend);

    if (!predict || !predict->records_steps || *parameters->text[PLIM_GPU_SPLIT] || config->vocab_size > STEP_RESULT_BYTES / sizeof(float))
        return false;
    for (size_t i = 0; i < config->layer_count; i++) {
        struct attention_shape shape = model_attention_shape(config, i);
        if (!predict->records_steps(&shape, parameters))
            return false;
    }
    return true;
}

static size_t layers_at(const struct plim_model *model, size_t place)
{
    size_t count = 0;
    for (size_t i = 0; i < model->info.layer_count; i++)
        count += model->layers[i].place == place;
    return count;
}

/* No overflow: config.c bounds layers, heads, head_dim and positions so that their product is below 2^63. */
static int open_caches(struct plim_session *session, struct plim_err *err)
{
    struct plim_engine *engine = session->model->engine;
    size_t others = engine->place_count - 1;
    struct plim_err unsaid = PLIM_ERR_INIT;
    int rc = -1;

    if (others > 0 && !(session->other_caches = plim_pool_calloc(engine->pool, PLIM_HOST, PLIM_TAG_METADATA, others,
                                                                 sizeof *session->other_caches, err)))
        return -1;
    for (size_t place = 0; place <= others; place++) {
        size_t layers = layers_at(session->model, place);
        void **cache = place == 0 ? &session->cache : &session->other_caches[place - 1];
        if (layers == 0)
            continue;
        if (engine_select(engine, place, err) < 0)
            goto out;
        *cache = plim_pool_alloc(engine->pool, PLIM_FAST, PLIM_TAG_KV_CACHE, layers * layer_bytes(session), err);
        if (!*cache)
            goto out;
    }
    rc = 0;

out:
    return engine_select(engine, 0, rc < 0 ? &unsaid : err) < 0 ? -1 : rc;
}

int plim_session_open(struct plim_session **out, struct plim_model *model, const struct plim_session_options *options,
                      struct plim_err *err)
{
    struct plim_pool *pool = model->engine->pool;
    size_t tokens = options && options->context_tokens ? options->context_tokens : model->info.max_positions;
    struct plim_session *session;

    plim_pool_set_scope(pool, "session");
    if (tokens > model->info.max_positions)
        return plim_err_input(err, "context of %zu tokens: the model has %zu positions", tokens,
                              model->info.max_positions);
    if (backend_kv_check(&model->engine->parameters, model->info.head_dim, err) < 0)
        return -1;
    session = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *session, err);
    if (!session)
        return -1;
    session->model = model;
    session->context_tokens = tokens;
    if (open_caches(session, err) < 0) {
        plim_session_close(session);
        return plim_err_wrap(err, "opening a session of %zu tokens", tokens);
    }
    struct plim_engine *engine = model->engine;
    if (model_records_steps(&model->files.config, engine->backend.ops->name, &engine->parameters) &&
        engine->backend.ops->step_open(&engine->backend, &session->step, err) < 0) {
        plim_session_close(session);
        return -1;
    }
    *out = session;
    return 0;
}

void plim_session_close(struct plim_session *session)
{
    if (!session)
        return;
    struct plim_pool *pool = session->model->engine->pool;
    struct backend *backend = &session->model->engine->backend;
    if (session->step)
        backend->ops->step_close(backend, session->step);
    for (size_t i = 0; session->other_caches && i + 1 < session->model->engine->place_count; i++)
        plim_pool_free(pool, session->other_caches[i]);
    plim_pool_free(pool, session->other_caches);
    plim_pool_free(pool, session->cache);
    plim_pool_free(pool, session);
}

struct plim_model *plim_session_model(const struct plim_session *session)
{
    return session->model;
}

struct plim_engine *plim_model_engine(const struct plim_model *model)
{
    return model->engine;
}

size_t plim_session_position(const struct plim_session *session)
{
    return session->position;
}

size_t plim_session_context_tokens(const struct plim_session *session)
{
    return session->context_tokens;
}

void plim_session_rewind(struct plim_session *session, size_t position)
{
    if (position < session->position)
        session->position = position;
}

void *session_keys(const struct plim_session *session, size_t layer)
{
    const struct layer *layers = session->model->layers;
    size_t place = layers[layer].place, first = layer;

    while (first > 0 && layers[first - 1].place == place)
        first--;
    uint8_t *cache = place == 0 ? session->cache : session->other_caches[place - 1];
    return cache + (layer - first) * layer_bytes(session);
}

void *session_values(const struct plim_session *session, size_t layer)
{
    return (uint8_t *)session_keys(session, layer) + keys_bytes(session);
}
