/*
 * The forward pass: from token ids to logits, chunk by chunk (block.h has the blocks and their buffers).
 *
 * Before the output head runs, scratch is given back: logits, and the head's expanded weights, are the largest things
 * of a pass over a small chunk.
 *
 * A single token on a backend that records steps is the exception: decoder and head are one step, so everything is held
 * from its beginning to its end.
 *
 * Where layers are on several devices (gpu_split), each has hidden states and scratch of its own; hidden goes from one to the
 * next with the layers, and the head is with the last of them, or after it.
 */

#include <stdatomic.h>
#include <string.h>

#include "block.h"
#include "model.h"
#include "tensor_values.h"
#include "threads.h"

struct pass {
    struct plim_session *session;
    const struct plim_model *model;
    const struct model_config *config;
    struct backend *backend;         /* of `block` */
    const struct backend_ops *ops;

    struct block blocks[PLIM_MOST_DEVICES];   /* by place */
    size_t place_count;              /* that layers, or the head, are at */
    size_t place;
    struct block *block;             /* blocks[place]; its hidden, first and rows are the chunk's */
    const int32_t *ids;              /* of this chunk */
};

/* ---- places ---- */

/* Goes on with the same rows at another place, without their hidden states. */
static int go_to(struct pass *p, size_t place, struct plim_err *err)
{
    struct block *next = &p->blocks[place];

    if (place == p->place)
        return 0;
    next->first = p->block->first;
    next->rows = p->block->rows;
    p->place = place;
    p->block = next;
    p->backend = next->backend;
    return engine_select(p->model->engine, place, err);
}

/* And with them. */
static int move_to(struct pass *p, size_t place, struct plim_err *err)
{
    const struct block *before = p->block;
    size_t bytes = before->rows * p->config->hidden_size * sizeof *before->hidden;

    if (place == p->place)
        return 0;
    if (go_to(p, place, err) < 0)
        return -1;
    if (p->ops->receive)
        return p->ops->receive(p->backend, p->block->hidden, before->backend, before->hidden, bytes, err);
    memcpy(p->block->hidden, before->hidden, bytes);
    return 0;
}

static void pass_init(struct pass *p, struct plim_session *session)
{
    *p = (struct pass){ .session = session, .model = session->model };
    p->config = &p->model->files.config;
    p->place_count = p->model->head_place + 1;
    for (size_t place = 0; place < p->place_count; place++)
        block_init_at(&p->blocks[place], p->model, place);
    p->block = p->blocks;
    p->backend = p->block->backend;
    p->ops = p->backend->ops;
}

/* Hidden states for chunks of up to `rows`, everywhere. */
static int hidden_open(struct pass *p, size_t rows, struct plim_err *err)
{
    size_t bytes = rows * p->config->hidden_size * sizeof *p->block->hidden;

    for (size_t place = p->place_count; place-- > 0;) {
        if (go_to(p, place, err) < 0)
            return -1;
        p->block->hidden = plim_pool_alloc(p->backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, bytes, err);
        if (!p->block->hidden)
            return -1;
    }
    return 0;
}

/* Scratch and rope tables for this chunk, everywhere. */
static int scratch_open(struct pass *p, struct plim_err *err)
{
    for (size_t place = p->place_count; place-- > 0;)
        if (go_to(p, place, err) < 0 || block_scratch_open(p->block, p->block->rows, err) < 0 ||
            block_rope(p->block, err) < 0)
            return -1;
    return 0;
}

static void scratch_close(struct pass *p)
{
    for (size_t place = 0; place < p->place_count; place++)
        block_scratch_close(&p->blocks[place]);
}

static void pass_close(struct pass *p)
{
    struct plim_err unsaid = PLIM_ERR_INIT;

    scratch_close(p);
    for (size_t place = 0; place < p->place_count; place++)
        plim_pool_free(p->backend->pool, p->blocks[place].hidden);
    (void)go_to(p, 0, &unsaid);
}

/* ---- the decoder ---- */

struct embedding_check {
    const struct tensor *embedding;
    const int32_t *ids;
    size_t width;
    atomic_bool bad;
};

static void check_rows(void *context, size_t begin, size_t end, int thread)
{
    struct embedding_check *check = context;
    struct plim_err err = PLIM_ERR_INIT;

    (void)thread;
    for (size_t i = begin; i < end; i++)
        if (tensor_check_finite(check->embedding, (size_t)check->ids[i] * check->width, check->width, &err) < 0)
            atomic_store_explicit(&check->bad, true, memory_order_relaxed);
}

/* The rows that are about to be used hold numbers (model_load.c says why they are checked here). */
static int check_embedding(struct pass *p, struct plim_err *err)
{
    struct embedding_check check = { .embedding = p->model->embedding, .ids = p->ids, .width = p->config->hidden_size };

    if (p->model->mapped_bytes == 0)
        return 0;
    threads_run(p->backend->threads, p->block->rows, 64, check_rows, &check);
    if (!atomic_load_explicit(&check.bad, memory_order_relaxed))
        return 0;
    for (size_t i = 0; i < p->block->rows; i++) {   /* the first of them is named */
        if (tensor_check_finite(check.embedding, (size_t)check.ids[i] * check.width, check.width, err) < 0)
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
    if (p->ops->embed(p->backend, model->embedding->dtype, model->embedding->data, c->hidden_size, p->ids,
                      p->block->rows, c->embedding_scale, p->block->hidden, err) < 0)
        return -1;
    return 0;
}

static int layers(struct pass *p, struct plim_err *err)
{
    const struct plim_session *session = p->session;

    for (size_t i = 0; i < p->config->layer_count; i++) {
        const struct layer *layer = &p->model->layers[i];
        if (move_to(p, layer->place, err) < 0 ||
            block_attention(p->block, layer, session_keys(session, i), session_values(session, i), err) < 0 ||
            block_mlp(p->block, layer, err) < 0)
            return -1;
    }
    return move_to(p, p->model->head_place, err);
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
                                          : plim_pool_alloc(p->backend->pool, PLIM_HOST, PLIM_TAG_LOGITS, bytes, err);
    return logits->host ? 0 : -1;
}

static void logits_close(struct logits *logits, struct pass *p)
{
    if (logits->host != logits->device)
        plim_pool_free(p->backend->pool, logits->host);
    plim_pool_free(p->backend->pool, logits->device);
}

/* Logits of normalised rows x [rows, hidden_size], rows <= piece_rows, in logits->device. */
static int logits_compute(struct logits *logits, struct pass *p, const float *x, size_t rows, struct plim_err *err)
{
    size_t elements = rows * p->config->vocab_size;
    float cap = p->config->final_softcap;

    if (p->ops->linear(p->backend, &p->model->head, x, rows, logits->device, false, err) < 0)
        return -1;
    return cap > 0 ? p->ops->softcap(p->backend, logits->device, cap, elements, err) : 0;
}

/* And in logits->host. */
static int logits_fetch(struct logits *logits, struct pass *p, size_t rows, struct plim_err *err)
{
    size_t bytes = rows * p->config->vocab_size * sizeof(float);

    return logits->host == logits->device ? 0
                                          : p->ops->download(p->backend, logits->host, logits->device, bytes, err);
}

/* Runs the head over the chunk's last `count` rows, in pieces, and hands each piece to the caller. */
static int head(struct pass *p, size_t count, const struct plim_forward *forward, struct plim_err *err)
{
    const struct model_config *c = p->config;
    float *x = p->block->hidden + (p->block->rows - count) * c->hidden_size;
    size_t first = p->block->first + p->block->rows - count;
    struct logits logits = { 0 };
    int rc = -1;

    plim_pool_set_scope(p->backend->pool, "head");
    if (block_norm(p->block, x, p->model->final_norm, count, c->hidden_size, x, err) < 0)
        goto out;
    if (logits_open(&logits, p, count, err) < 0)
        goto out;
    for (size_t done = 0; done < count; done += logits.piece_rows) {
        size_t rows = plim_min(logits.piece_rows, count - done);
        if (logits_compute(&logits, p, x + done * c->hidden_size, rows, err) < 0 ||
            logits_fetch(&logits, p, rows, err) < 0)
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

/* One chunk of p->block->rows tokens at p->block->first; `last` says that it ends the input. */
static int chunk(struct pass *p, bool last, const struct plim_forward *forward, struct plim_err *err)
{
    /* Mostly the first chunk's, which is the longest, does for all; a head pass gives it back. */
    if (scratch_open(p, err) < 0 || embed(p, err) < 0 || layers(p, err) < 0)
        return -1;
    p->session->model->engine->forward_chunks++;
    if (forward->rows == PLIM_LOGITS_NONE || (forward->rows == PLIM_LOGITS_LAST && !last))
        return go_to(p, 0, err);
    scratch_close(p);
    int rc = head(p, forward->rows == PLIM_LOGITS_ALL ? p->block->rows : 1, forward, err);
    return rc < 0 ? -1 : go_to(p, 0, err);
}

/* ---- one token, recorded ---- */

struct step_context {
    struct pass *pass;
    struct logits logits;   /* on the device only: the backend lends the host what it fetches */
};

static int issue_step(void *context, struct plim_err *err)
{
    struct step_context *step = context;
    struct pass *p = step->pass;
    float *hidden = p->block->hidden;

    if (layers(p, err) < 0)
        return -1;
    plim_pool_set_scope(p->backend->pool, "head");
    if (block_norm(p->block, hidden, p->model->final_norm, 1, p->config->hidden_size, hidden, err) < 0)
        return -1;
    return logits_compute(&step->logits, p, hidden, 1, err);
}

/* The token at p->block->first, with hidden open. Its embedding and rope table change each time and are no part of it. */
static int one_token(struct pass *p, const struct plim_forward *forward, struct plim_err *err)
{
    struct step_context step = { .pass = p };
    size_t bytes = p->config->vocab_size * sizeof(float);
    const void *logits;
    int rc = -1;

    if (scratch_open(p, err) < 0)
        return -1;
    plim_pool_set_scope(p->backend->pool, "step");
    step.logits.device = plim_pool_alloc(p->backend->pool, PLIM_FAST, PLIM_TAG_LOGITS, bytes, err);
    if (!step.logits.device || embed(p, err) < 0)
        goto out;
    struct step_key key = { p->block->first,
                            { p->block->hidden, p->block->scratch, step.logits.device, p->session->cache } };
    if (p->ops->step_run(p->backend, p->session->step, &key, issue_step, &step, err) < 0 ||
        p->ops->step_result(p->backend, step.logits.device, bytes, &logits, err) < 0)
        goto out;
    p->session->model->engine->forward_chunks++;
    rc = forward->callback(forward->context, p->block->first, 1, p->config->vocab_size, logits, err);

out:
    plim_pool_free(p->backend->pool, step.logits.device);
    return rc;
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
    struct pass p;
    int rc = -1;

    if (check_input(session, ids, count, forward, err) < 0)
        return -1;
    pass_init(&p, session);
    plim_pool_set_scope(engine->pool, "forward");
    if (hidden_open(&p, chunk_rows, err) < 0)
        goto out;
    for (size_t done = 0; done < count; done += p.block->rows) {
        p.ids = ids + done;
        p.block->first = session->position + done;
        p.block->rows = plim_min(chunk_rows, count - done);
        bool recorded = count == 1 && session->step && forward->rows != PLIM_LOGITS_NONE;
        int status = recorded ? one_token(&p, forward, err) : chunk(&p, done + p.block->rows == count, forward, err);
        if (status < 0)
            goto out;
    }
    /* Until here the new keys and values lay beyond the session's end, so a failure needs no undoing. */
    session->position += count;
    rc = 0;

out:
    pass_close(&p);
    return rc;
}
