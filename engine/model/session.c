/* A session: a KV cache and how much of it is valid. */

#include "model.h"

static size_t kv_width(const struct plim_session *session)
{
    const struct model_config *c = &session->model->files.config;
    return c->kv_head_count * c->head_dim;
}

/* Bytes of the whole cache; false when that is more than an address space. */
static bool cache_bytes(const struct plim_session *session, size_t *bytes)
{
    size_t layers = session->model->info.layer_count;
    return plim_size_mul(2 * layers, kv_width(session) * sizeof *session->cache, bytes) &&
           plim_size_mul(*bytes, session->context_tokens, bytes);
}

int plim_session_open(struct plim_session **out, struct plim_model *model, const struct plim_session_options *options,
                      struct plim_err *err)
{
    struct plim_pool *pool = model->engine->pool;
    size_t tokens = options && options->context_tokens ? options->context_tokens : model->info.max_positions;
    struct plim_session *session;
    size_t bytes;

    plim_pool_set_scope(pool, "session");
    if (tokens > model->info.max_positions)
        return plim_err_input(err, "context of %zu tokens: the model has %zu positions", tokens,
                              model->info.max_positions);
    session = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_METADATA, 1, sizeof *session, err);
    if (!session)
        return -1;
    session->model = model;
    session->context_tokens = tokens;
    if (!cache_bytes(session, &bytes)) {
        plim_err_set(err, PLIM_ERR_MEMORY, "a KV cache for %zu tokens does not fit the address space", tokens);
        goto fail;
    }
    session->cache = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_KV_CACHE, bytes, err);
    if (!session->cache)
        goto fail;
    *out = session;
    return 0;

fail:
    plim_session_close(session);
    return plim_err_wrap(err, "opening a session of %zu tokens", tokens);
}

void plim_session_close(struct plim_session *session)
{
    if (!session)
        return;
    struct plim_pool *pool = session->model->engine->pool;
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

uint16_t *session_keys(const struct plim_session *session, size_t layer)
{
    return session->cache + 2 * layer * session->context_tokens * kv_width(session);
}

uint16_t *session_values(const struct plim_session *session, size_t layer)
{
    return session_keys(session, layer) + session->context_tokens * kv_width(session);
}
