/*
 * The forward pass: from token ids to logits, chunk by chunk.
 *
 * Activations of a chunk of T tokens (fp32, device), the same buffers for every layer:
 *
 *     hidden  [T, hidden_size]                 the residual stream
 *     scratch = normed  [T, hidden_size]       input of the projections; later what a block adds, where that needs a
 *                                              place of its own
 *               work                           q [T, heads * head_dim], k and v [T, kv_heads * head_dim]; then, in the
 *                                              same place, gate and up [T, intermediate_size]
 *               rope tables [T, head_dim]
 *
 * Attention writes its result over q, the gate's product goes over gate, and o_proj and down_proj add straight onto
 * hidden. Before the output head runs, scratch is given back: logits, and the head's expanded weights, are the largest
 * things of a pass over a small chunk.
 */

#include <string.h>

#include "model.h"
#include "tensor_values.h"

struct pass {
    struct plim_session *session;
    const struct plim_model *model;
    const struct model_config *config;
    struct backend *backend;
    const struct backend_ops *ops;

    float *hidden;
    float *scratch;
    float *normed, *work, *rope_global, *rope_local;   /* inside scratch; rope_local may be the same as rope_global */

    const int32_t *ids;      /* of this chunk */
    size_t first, rows;      /* its first position and its length */
};

/* ---- activations ---- */

static int scratch_open(struct pass *p, size_t rows, struct plim_err *err)
{
    const struct model_config *c = p->config;
    size_t q = activation_pad(rows * c->head_count * c->head_dim);
    size_t kv = activation_pad(rows * c->kv_head_count * c->head_dim);
    size_t inner = activation_pad(rows * c->intermediate_size);
    size_t normed = activation_pad(rows * c->hidden_size);
    size_t work = plim_max(q + 2 * kv, 2 * inner);
    size_t table = activation_pad(rows * c->head_dim);
    bool local = p->model->rope_local.inv_freq != NULL;
    size_t elements = normed + work + table * (local ? 2 : 1);

    p->scratch = plim_pool_alloc(p->backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, elements * sizeof(float), err);
    if (!p->scratch)
        return -1;
    p->normed = p->scratch;
    p->work = p->normed + normed;
    p->rope_global = p->work + work;
    p->rope_local = local ? p->rope_global + table : p->rope_global;
    return 0;
}

static void scratch_close(struct pass *p)
{
    plim_pool_free(p->backend->pool, p->scratch);
    p->scratch = NULL;
}

static int hidden_open(struct pass *p, size_t rows, struct plim_err *err)
{
    size_t bytes = rows * p->config->hidden_size * sizeof *p->hidden;
    p->hidden = plim_pool_alloc(p->backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, bytes, err);
    return p->hidden ? 0 : -1;
}

/* ---- the steps, with what never changes filled in ---- */

static int norm(struct pass *p, const float *x, const float *weight, size_t rows, size_t width, float *out,
                struct plim_err *err)
{
    return p->ops->rms_norm(p->backend, x, weight, p->config->norm_offset, p->config->norm_eps, rows, width, out, err);
}

static int project(struct pass *p, const struct matrix *matrix, const float *x, float *y, struct plim_err *err)
{
    return p->ops->linear(p->backend, matrix, x, p->rows, y, false, err);
}

/* hidden += residual_scale * post_norm(x W): straight onto hidden, unless something comes in between. */
static int add_to_hidden(struct pass *p, const struct matrix *matrix, const float *post_norm, const float *x,
                         struct plim_err *err)
{
    size_t width = p->config->hidden_size;
    float *branch = p->normed;   /* its contents were used by the first projections of the block */

    if (!post_norm && p->config->residual_scale == 1.0f)
        return p->ops->linear(p->backend, matrix, x, p->rows, p->hidden, true, err);
    if (project(p, matrix, x, branch, err) < 0)
        return -1;
    if (post_norm && norm(p, branch, post_norm, p->rows, width, branch, err) < 0)
        return -1;
    return p->ops->add(p->backend, p->hidden, branch, p->config->residual_scale, p->rows * width, err);
}

/* Per-head norm, where there is one, and rotation of x [rows, heads, head_dim]. */
static int norm_and_rotate(struct pass *p, const struct layer *layer, const float *head_norm, size_t heads, float *x,
                           struct plim_err *err)
{
    size_t head_dim = p->config->head_dim;
    const float *table = layer->rope == &p->model->rope_local ? p->rope_local : p->rope_global;

    if (head_norm && norm(p, x, head_norm, p->rows * heads, head_dim, x, err) < 0)
        return -1;
    return p->ops->rope(p->backend, x, table, 0, p->rows, heads, head_dim, err);   /* the table begins at `first` */
}

/* ---- the decoder ---- */

static int attention_block(struct pass *p, size_t index, struct plim_err *err)
{
    const struct layer *layer = &p->model->layers[index];
    const struct model_config *c = p->config;
    size_t q_width = c->head_count * c->head_dim, kv_width = c->kv_head_count * c->head_dim;
    void *keys = session_keys(p->session, index), *values = session_values(p->session, index);
    float *q = p->work;
    float *k = q + activation_pad(p->rows * q_width);
    float *v = k + activation_pad(p->rows * kv_width);

    plim_pool_set_scope(p->backend->pool, layer->attention_scope);
    if (norm(p, p->hidden, layer->norm[NORM_ATTENTION], p->rows, c->hidden_size, p->normed, err) < 0)
        return -1;
    if (project(p, &layer->matrix[MATRIX_Q], p->normed, q, err) < 0 ||
        project(p, &layer->matrix[MATRIX_K], p->normed, k, err) < 0 ||
        project(p, &layer->matrix[MATRIX_V], p->normed, v, err) < 0)
        return -1;
    if (norm_and_rotate(p, layer, layer->norm[NORM_Q], c->head_count, q, err) < 0 ||
        norm_and_rotate(p, layer, layer->norm[NORM_K], c->kv_head_count, k, err) < 0)
        return -1;
    if (p->ops->kv_store(p->backend, k, v, p->rows, kv_width, p->first, keys, values, err) < 0)
        return -1;
    if (p->ops->attention(p->backend, &layer->attention, q, keys, values, p->first, p->rows, q, err) < 0)
        return -1;
    return add_to_hidden(p, &layer->matrix[MATRIX_O], layer->norm[NORM_ATTENTION_POST], q, err);
}

static int mlp_block(struct pass *p, size_t index, struct plim_err *err)
{
    const struct layer *layer = &p->model->layers[index];
    const struct model_config *c = p->config;
    size_t elements = p->rows * c->intermediate_size;
    float *gate = p->work;
    float *up = gate + activation_pad(elements);

    plim_pool_set_scope(p->backend->pool, layer->mlp_scope);
    if (norm(p, p->hidden, layer->norm[NORM_MLP], p->rows, c->hidden_size, p->normed, err) < 0)
        return -1;
    if (project(p, &layer->matrix[MATRIX_GATE], p->normed, gate, err) < 0 ||
        project(p, &layer->matrix[MATRIX_UP], p->normed, up, err) < 0)
        return -1;
    if (p->ops->act_mul(p->backend, c->activation, gate, up, elements, err) < 0)
        return -1;
    return add_to_hidden(p, &layer->matrix[MATRIX_DOWN], layer->norm[NORM_MLP_POST], gate, err);
}

/* The rows that are about to be used hold numbers (model_load.c says why they are checked here). */
static int check_embedding(struct pass *p, struct plim_err *err)
{
    size_t width = p->config->hidden_size;

    if (p->model->mapped_bytes == 0)
        return 0;
    for (size_t i = 0; i < p->rows; i++) {
        if (tensor_check_finite(p->model->embedding, (size_t)p->ids[i] * width, width, err) < 0)
            return -1;
    }
    return 0;
}

static int embed(struct pass *p, struct plim_err *err)
{
    const struct plim_model *model = p->model;
    const struct model_config *c = p->config;

    plim_pool_set_scope(p->backend->pool, "embedding");
    if (check_embedding(p, err) < 0)
        return -1;
    if (p->ops->embed(p->backend, model->embedding->dtype, model->embedding->data, c->hidden_size, p->ids, p->rows,
                      c->embedding_scale, p->hidden, err) < 0)
        return -1;
    if (rope_table(&model->rope, p->backend, p->first, p->rows, c->head_dim, p->rope_global, err) < 0)
        return -1;
    if (p->rope_local == p->rope_global)
        return 0;
    return rope_table(&model->rope_local, p->backend, p->first, p->rows, c->head_dim, p->rope_local, err);
}

static int decoder(struct pass *p, struct plim_err *err)
{
    if (embed(p, err) < 0)
        return -1;
    for (size_t i = 0; i < p->config->layer_count; i++) {
        if (attention_block(p, i, err) < 0 || mlp_block(p, i, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the output head ---- */

size_t plim_logits_piece_rows(size_t vocab_size, size_t rows)
{
    size_t bound = PLIM_LOGITS_BYTES / (vocab_size * sizeof(float));
    return plim_min(rows, plim_max(bound, 1));
}

struct logits {
    size_t piece_rows;
    float *device;       /* [piece_rows, vocab_size] */
    float *host;         /* the same memory where the backend's memory is the host's */
};

static int logits_open(struct logits *logits, struct pass *p, size_t rows, struct plim_err *err)
{
    size_t vocab = p->config->vocab_size;

    logits->piece_rows = plim_logits_piece_rows(vocab, rows);
    size_t bytes = logits->piece_rows * vocab * sizeof(float);
    logits->device = plim_pool_alloc(p->backend->pool, PLIM_FAST, PLIM_TAG_LOGITS, bytes, err);
    if (!logits->device)
        return -1;
    logits->host = p->ops->unified_memory ? logits->device
                                          : plim_pool_alloc(p->backend->pool, PLIM_SLOW, PLIM_TAG_LOGITS, bytes, err);
    return logits->host ? 0 : -1;
}

static void logits_close(struct logits *logits, struct pass *p)
{
    if (logits->host != logits->device)
        plim_pool_free(p->backend->pool, logits->host);
    plim_pool_free(p->backend->pool, logits->device);
}

/* Logits of normalised rows x [rows, hidden_size], rows <= piece_rows, in logits->host. */
static int logits_compute(struct logits *logits, struct pass *p, const float *x, size_t rows, struct plim_err *err)
{
    size_t elements = rows * p->config->vocab_size;
    float cap = p->config->final_softcap;

    if (p->ops->linear(p->backend, &p->model->head, x, rows, logits->device, false, err) < 0)
        return -1;
    if (cap > 0 && p->ops->softcap(p->backend, logits->device, cap, elements, err) < 0)
        return -1;
    if (logits->host == logits->device)
        return 0;
    return p->ops->download(p->backend, logits->host, logits->device, elements * sizeof(float), err);
}

/* Runs the head over the chunk's last `count` rows, in pieces, and hands each piece to the caller. */
static int head(struct pass *p, size_t count, const struct plim_forward *forward, struct plim_err *err)
{
    const struct model_config *c = p->config;
    float *x = p->hidden + (p->rows - count) * c->hidden_size;
    size_t first = p->first + p->rows - count;
    struct logits logits = { 0 };
    int rc = -1;

    plim_pool_set_scope(p->backend->pool, "head");
    if (norm(p, x, p->model->final_norm, count, c->hidden_size, x, err) < 0)
        goto out;
    if (logits_open(&logits, p, count, err) < 0)
        goto out;
    for (size_t done = 0; done < count; done += logits.piece_rows) {
        size_t rows = plim_min(logits.piece_rows, count - done);
        if (logits_compute(&logits, p, x + done * c->hidden_size, rows, err) < 0)
            goto out;
        if (forward->callback(forward->context, first + done, rows, c->vocab_size, logits.host, err) < 0)
            goto out;
    }
    rc = 0;

out:
    logits_close(&logits, p);
    return rc;
}

/* ---- chunks ---- */

/* One chunk of p->rows tokens at p->first; `last` says that it ends the input. */
static int chunk(struct pass *p, bool last, const struct plim_forward *forward, struct plim_err *err)
{
    /* Opened by the first chunk, which is the longest, and again after a head pass. */
    if (!p->scratch && scratch_open(p, p->rows, err) < 0)
        return -1;
    if (decoder(p, err) < 0)
        return -1;
    p->session->model->engine->forward_chunks++;
    if (forward->rows == PLIM_LOGITS_NONE || (forward->rows == PLIM_LOGITS_LAST && !last))
        return 0;
    scratch_close(p);
    return head(p, forward->rows == PLIM_LOGITS_ALL ? p->rows : 1, forward, err);
}

static int check_input(const struct plim_session *session, const int32_t *ids, size_t count,
                       const struct plim_forward *forward, struct plim_err *err)
{
    size_t vocab = session->model->info.vocab_size;
    size_t left = session->context_tokens - session->position;

    if (count == 0)
        return plim_err_input(err, "no tokens to process");
    if (count > left)
        return plim_err_input(err, "%zu tokens do not fit the context: %zu of its %zu positions are free", count, left,
                              session->context_tokens);
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= vocab)
            return plim_err_input(err, "token %zu has id %d, expected 0 to %zu (the vocabulary)", i, (int)ids[i],
                                  vocab - 1);
    }
    if (forward->rows != PLIM_LOGITS_NONE && !forward->callback)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "logits were asked for without a callback");
    return 0;
}

int plim_session_forward(struct plim_session *session, const int32_t *ids, size_t count,
                         const struct plim_forward *forward, struct plim_err *err)
{
    struct plim_engine *engine = session->model->engine;
    size_t chunk_rows = plim_min(count, (size_t)engine->parameters.count[PLIM_MAX_INPUT_LEN]);
    struct pass p = {
        .session = session,
        .model = session->model,
        .config = &session->model->files.config,
        .backend = &engine->backend,
        .ops = engine->backend.ops,
    };
    int rc = -1;

    if (check_input(session, ids, count, forward, err) < 0)
        return -1;
    plim_pool_set_scope(engine->pool, "forward");
    if (hidden_open(&p, chunk_rows, err) < 0)
        goto out;
    for (size_t done = 0; done < count; done += p.rows) {
        p.ids = ids + done;
        p.first = session->position + done;
        p.rows = plim_min(chunk_rows, count - done);
        if (chunk(&p, done + p.rows == count, forward, err) < 0)
            goto out;
    }
    /* Until here the new keys and values lay beyond the session's end, so a failure needs no undoing. */
    session->position += count;
    rc = 0;

out:
    scratch_close(&p);
    plim_pool_free(engine->pool, p.hidden);
    return rc;
}
