#include "block.h"

void block_init(struct block *block, const struct plim_model *model)
{
    *block = (struct block){
        .model = model,
        .config = &model->files.config,
        .backend = &model->engine->backend,
        .ops = model->engine->backend.ops,
    };
}

int block_scratch_open(struct block *b, size_t rows, struct plim_err *err)
{
    const struct model_config *c = b->config;
    size_t q = activation_pad(rows * c->head_count * c->head_dim);
    size_t kv = activation_pad(rows * c->kv_head_count * c->head_dim);
    size_t inner = activation_pad(rows * c->intermediate_size);
    size_t normed = activation_pad(rows * c->hidden_size);
    size_t work = plim_max(q + 2 * kv, 2 * inner);
    size_t table = activation_pad(rows * c->head_dim);
    bool local = b->model->rope_local.inv_freq != NULL;
    size_t elements = normed + work + table * (local ? 2 : 1);

    b->scratch = plim_pool_alloc(b->backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, elements * sizeof(float), err);
    if (!b->scratch)
        return -1;
    b->normed = b->scratch;
    b->work = b->normed + normed;
    b->rope_global = b->work + work;
    b->rope_local = local ? b->rope_global + table : b->rope_global;
    return 0;
}

void block_scratch_close(struct block *b)
{
    plim_pool_free(b->backend->pool, b->scratch);
    b->scratch = NULL;
}

int block_rope(struct block *b, struct plim_err *err)
{
    size_t head_dim = b->config->head_dim;

    if (rope_table(&b->model->rope, b->backend, b->first, b->rows, head_dim, b->rope_global, err) < 0)
        return -1;
    if (b->rope_local == b->rope_global)
        return 0;
    return rope_table(&b->model->rope_local, b->backend, b->first, b->rows, head_dim, b->rope_local, err);
}

/* ---- the steps, with what never changes filled in ---- */

int block_norm(struct block *b, const float *x, const float *weight, size_t rows, size_t width, float *out,
               struct plim_err *err)
{
    return b->ops->rms_norm(b->backend, x, weight, b->config->norm_offset, b->config->norm_eps, rows, width, out, err);
}

static int project(struct block *b, const struct matrix *matrix, const float *x, float *y, struct plim_err *err)
{
    return b->ops->linear(b->backend, matrix, x, b->rows, y, false, err);
}

/* Projections of the same input. */
static int project_many(struct block *b, const struct matrix *const *matrices, size_t count, const float *x,
                        float *const *y, struct plim_err *err)
{
    if (b->ops->linear_many)
        return b->ops->linear_many(b->backend, matrices, count, x, b->rows, y, err);
    for (size_t i = 0; i < count; i++)
        if (project(b, matrices[i], x, y[i], err) < 0)
            return -1;
    return 0;
}

static int listen(struct block *b, enum block_tap tap, const float *x, size_t width, struct plim_err *err)
{
    return b->tap ? b->tap(b->tap_context, tap, x, b->rows, width, err) : 0;
}

/* hidden += residual_scale * post_norm(x W): straight onto hidden, unless something comes in between. */
static int add_to_hidden(struct block *b, const struct matrix *matrix, const float *post_norm, const float *x,
                         struct plim_err *err)
{
    size_t width = b->config->hidden_size;
    float *branch = b->normed;   /* its contents were used by the first projections of the block */

    if (!post_norm && b->config->residual_scale == 1.0f)
        return b->ops->linear(b->backend, matrix, x, b->rows, b->hidden, true, err);
    if (project(b, matrix, x, branch, err) < 0)
        return -1;
    if (post_norm && block_norm(b, branch, post_norm, b->rows, width, branch, err) < 0)
        return -1;
    return b->ops->add(b->backend, b->hidden, branch, b->config->residual_scale, b->rows * width, err);
}

/* Per-head norm of x [rows, heads, head_dim], where there is one. */
static int norm_heads(struct block *b, const float *head_norm, size_t heads, float *x, struct plim_err *err)
{
    size_t head_dim = b->config->head_dim;
    return head_norm ? block_norm(b, x, head_norm, b->rows * heads, head_dim, x, err) : 0;
}

/* Rotates q and k, stores k and v, and writes attention over q. */
static int attend(struct block *b, const struct layer *layer, float *q, float *k, const float *v, void *keys, void *values,
                  struct plim_err *err)
{
    const struct attention_shape *shape = &layer->attention;
    const float *table = layer->rope == &b->model->rope_local ? b->rope_local : b->rope_global;   /* begins at `first` */

    if (b->rows == 1 && b->ops->attention_step)
        return b->ops->attention_step(b->backend, shape, q, k, v, table, keys, values, b->first, q, err);
    if (b->ops->rope(b->backend, q, table, 0, b->rows, shape->head_count, shape->head_dim, err) < 0 ||
        b->ops->rope(b->backend, k, table, 0, b->rows, shape->kv_head_count, shape->head_dim, err) < 0 ||
        b->ops->kv_store(b->backend, shape, k, v, b->rows, b->first, keys, values, err) < 0)
        return -1;
    return b->ops->attention(b->backend, shape, q, keys, values, b->first, b->rows, q, err);
}

/* ---- the blocks ---- */

int block_attention(struct block *b, const struct layer *layer, void *keys, void *values, struct plim_err *err)
{
    const struct model_config *c = b->config;
    size_t q_width = c->head_count * c->head_dim, kv_width = c->kv_head_count * c->head_dim;
    float *q = b->work;
    float *k = q + activation_pad(b->rows * q_width);
    float *v = k + activation_pad(b->rows * kv_width);

    plim_pool_set_scope(b->backend->pool, layer->attention_scope);
    if (block_norm(b, b->hidden, layer->norm[NORM_ATTENTION], b->rows, c->hidden_size, b->normed, err) < 0 ||
        listen(b, TAP_ATTENTION_INPUT, b->normed, c->hidden_size, err) < 0)
        return -1;
    const struct matrix *const projections[] = { &layer->matrix[MATRIX_Q], &layer->matrix[MATRIX_K],
                                                 &layer->matrix[MATRIX_V] };
    if (project_many(b, projections, 3, b->normed, (float *const[]){ q, k, v }, err) < 0)
        return -1;
    if (norm_heads(b, layer->norm[NORM_Q], c->head_count, q, err) < 0 ||
        norm_heads(b, layer->norm[NORM_K], c->kv_head_count, k, err) < 0 ||
        attend(b, layer, q, k, v, keys, values, err) < 0)
        return -1;
    if (listen(b, TAP_ATTENTION_OUTPUT, q, q_width, err) < 0)
        return -1;
    return add_to_hidden(b, &layer->matrix[MATRIX_O], layer->norm[NORM_ATTENTION_POST], q, err);
}

int block_mlp(struct block *b, const struct layer *layer, struct plim_err *err)
{
    const struct model_config *c = b->config;
    size_t elements = b->rows * c->intermediate_size;
    float *gate = b->work;
    float *up = gate + activation_pad(elements);

    plim_pool_set_scope(b->backend->pool, layer->mlp_scope);
    if (block_norm(b, b->hidden, layer->norm[NORM_MLP], b->rows, c->hidden_size, b->normed, err) < 0 ||
        listen(b, TAP_MLP_INPUT, b->normed, c->hidden_size, err) < 0)
        return -1;
    const struct matrix *const projections[] = { &layer->matrix[MATRIX_GATE], &layer->matrix[MATRIX_UP] };
    if (project_many(b, projections, 2, b->normed, (float *const[]){ gate, up }, err) < 0)
        return -1;
    if (b->ops->act_mul(b->backend, c->activation, gate, up, elements, err) < 0 ||
        listen(b, TAP_MLP_INNER, gate, c->intermediate_size, err) < 0)
        return -1;
    return add_to_hidden(b, &layer->matrix[MATRIX_DOWN], layer->norm[NORM_MLP_POST], gate, err);
}
