#include "block.h"

void block_init(struct block *block, const struct plim_model *model)
{
    block_init_at(block, model, 0);
}

void block_init_at(struct block *block, const struct plim_model *model, size_t place)
{
    *block = (struct block){
        .model = model,
        .config = &model->files.config,
        .backend = engine_backend(model->engine, place),
        .ops = model->engine->backend.ops,
    };
}

/* ---- scratch ---- */

static struct mlp mlp_of(const struct block *b, const struct layer *layer)
{
    return (struct mlp){ &layer->matrix[MATRIX_GATE], &layer->matrix[MATRIX_UP], &layer->matrix[MATRIX_DOWN],
                         b->config->activation };
}

static struct block_works works_of(const struct block *b, const struct layer *layer, size_t rows)
{
    const struct matrix *const projections[] = { &layer->matrix[MATRIX_Q], &layer->matrix[MATRIX_K],
                                                 &layer->matrix[MATRIX_V] };
    const struct matrix *const output = &layer->matrix[MATRIX_O];
    struct mlp mlp = mlp_of(b, layer);
    struct block_works works = { 0 };

    if (b->by_parts || !b->ops->norm_linear)
        return works;
    works.projections = b->ops->norm_linear_work(b->backend, projections, 3, rows);
    works.output = b->ops->norm_linear_work(b->backend, &output, 1, rows);
    works.mlp = b->ops->mlp_work(b->backend, &mlp, rows);
    return works;
}

static struct block_layout layout_of(const struct block *b, const struct layer *layer, size_t rows)
{
    struct block_works works = works_of(b, layer, rows);
    return block_layout(b->config, rows, &works);
}

/* Whether something comes between a block's last product and hidden. */
static bool adds_apart(const struct model_config *c)
{
    return c->post_norms || c->residual_scale != 1.0f;
}

struct block_layout block_layout(const struct model_config *c, size_t rows, const struct block_works *works)
{
    size_t hidden = activation_pad(rows * c->hidden_size), inner = activation_pad(rows * c->intermediate_size);
    size_t table = activation_pad(rows * c->head_dim) * (model_has_local_rope(c) ? 2 : 1);
    size_t branch = adds_apart(c) ? hidden : 0;
    struct block_layout l = { .q = hidden, .mlp = hidden };

    if (works->projections)
        l.q = plim_max(branch, activation_pad(works->projections / sizeof(float)));
    l.k = l.q + activation_pad(rows * c->head_count * c->head_dim);
    l.v = l.k + activation_pad(rows * c->kv_head_count * c->head_dim);
    size_t attention = l.v + activation_pad(rows * c->kv_head_count * c->head_dim);
    size_t output = activation_pad(works->output / sizeof(float));
    /* Where the projections' work was, which is done with by then, unless that is where the branch goes. */
    l.output = branch || output > l.q ? attention : 0;
    attention = plim_max(attention, l.output + output);
    if (works->mlp)
        l.mlp = branch;
    size_t mlp = l.mlp + (works->mlp ? activation_pad(works->mlp / sizeof(float)) : 2 * inner);
    l.elements = table + plim_max(attention, mlp);
    return l;
}

int block_scratch_open(struct block *b, size_t rows, struct plim_err *err)
{
    const struct model_config *c = b->config;
    size_t table = activation_pad(rows * c->head_dim), elements = 0;
    bool local = b->model->rope_local.inv_freq != NULL;

    for (size_t i = 0; i < c->layer_count; i++)
        elements = plim_max(elements, layout_of(b, &b->model->layers[i], rows).elements);
    if (b->scratch && b->scratch_elements < elements)
        block_scratch_close(b);
    if (!b->scratch)
        b->scratch = plim_pool_alloc(b->backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, elements * sizeof(float), err);
    if (!b->scratch)
        return -1;
    b->scratch_elements = plim_max(elements, b->scratch_elements);
    b->rope_global = b->scratch;
    b->rope_local = local ? b->rope_global + table : b->rope_global;
    b->work = b->rope_local + table;
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

/* hidden += residual_scale * post_norm(branch), [rows, hidden_size], at the beginning of `work`. */
static int add_branch(struct block *b, const float *post_norm, struct plim_err *err)
{
    size_t width = b->config->hidden_size;

    if (post_norm && block_norm(b, b->work, post_norm, b->rows, width, b->work, err) < 0)
        return -1;
    return b->ops->add(b->backend, b->hidden, b->work, b->config->residual_scale, b->rows * width, err);
}

/*
 * hidden += residual_scale * post_norm(x W): straight onto hidden, unless something comes in between. `at_once`: where the
 * backend works; NULL: by linear.
 */
static int add_to_hidden(struct block *b, const struct matrix *matrix, const float *post_norm, const float *x, float *at_once,
                         struct plim_err *err)
{
    bool straight = !adds_apart(b->config);
    float *y = straight ? b->hidden : b->work;   /* whose contents were used by the first projections of the block */
    int rc = at_once ? b->ops->norm_linear(b->backend, NULL, &matrix, 1, x, b->rows, at_once, &y, straight, err)
                     : b->ops->linear(b->backend, matrix, x, b->rows, y, straight, err);

    return rc < 0 || straight ? rc : add_branch(b, post_norm, err);
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

    if (b->ops->attention_step)
        return b->ops->attention_step(b->backend, shape, q, k, v, table, keys, values, b->first, b->rows, q, err);
    if (b->ops->rope(b->backend, q, table, 0, b->rows, shape->head_count, shape->head_dim, err) < 0 ||
        b->ops->rope(b->backend, k, table, 0, b->rows, shape->kv_head_count, shape->head_dim, err) < 0 ||
        b->ops->kv_store(b->backend, shape, k, v, b->rows, b->first, keys, values, err) < 0)
        return -1;
    return b->ops->attention(b->backend, shape, q, keys, values, b->first, b->rows, q, err);
}

/* ---- the blocks ---- */

static struct norm norm_of(const struct block *b, const float *weight)
{
    return (struct norm){ weight, b->config->norm_offset, b->config->norm_eps };
}

/* q, k and v from hidden. */
static int project_attention(struct block *b, const struct layer *layer, bool at_once, float *const *y, struct plim_err *err)
{
    const struct matrix *const projections[] = { &layer->matrix[MATRIX_Q], &layer->matrix[MATRIX_K],
                                                 &layer->matrix[MATRIX_V] };
    const float *weight = layer->norm[NORM_ATTENTION];
    struct norm norm = norm_of(b, weight);

    if (at_once)
        return b->ops->norm_linear(b->backend, &norm, projections, 3, b->hidden, b->rows, b->work, y, false, err);
    if (block_norm(b, b->hidden, weight, b->rows, b->config->hidden_size, b->work, err) < 0 ||
        listen(b, TAP_ATTENTION_INPUT, b->work, b->config->hidden_size, err) < 0)
        return -1;
    return project_many(b, projections, 3, b->work, y, err);
}

int block_attention(struct block *b, const struct layer *layer, void *keys, void *values, struct plim_err *err)
{
    const struct model_config *c = b->config;
    struct block_works works = works_of(b, layer, b->rows);
    struct block_layout layout = block_layout(c, b->rows, &works);
    float *q = b->work + layout.q, *k = b->work + layout.k, *v = b->work + layout.v;

    plim_pool_set_scope(b->backend->pool, layer->attention_scope);
    if (project_attention(b, layer, works.projections > 0, (float *const[]){ q, k, v }, err) < 0)
        return -1;
    if (norm_heads(b, layer->norm[NORM_Q], c->head_count, q, err) < 0 ||
        norm_heads(b, layer->norm[NORM_K], c->kv_head_count, k, err) < 0 ||
        attend(b, layer, q, k, v, keys, values, err) < 0)
        return -1;
    if (listen(b, TAP_ATTENTION_OUTPUT, q, c->head_count * c->head_dim, err) < 0)
        return -1;
    return add_to_hidden(b, &layer->matrix[MATRIX_O], layer->norm[NORM_ATTENTION_POST], q,
                         works.output ? b->work + layout.output : NULL, err);
}

static int mlp_at_once(struct block *b, const struct layer *layer, float *work, struct plim_err *err)
{
    struct norm norm = norm_of(b, layer->norm[NORM_MLP]);
    struct mlp mlp = mlp_of(b, layer);

    if (!adds_apart(b->config))
        return b->ops->mlp(b->backend, &norm, &mlp, b->hidden, b->rows, work, b->hidden, true, err);
    if (b->ops->mlp(b->backend, &norm, &mlp, b->hidden, b->rows, work, b->work, false, err) < 0)
        return -1;
    return add_branch(b, layer->norm[NORM_MLP_POST], err);
}

/* gate = act(x W_gate) * x W_up, x in `work`. */
static int make_inner(struct block *b, const struct layer *layer, float *gate, float *up, struct plim_err *err)
{
    const struct model_config *c = b->config;
    const struct matrix *const projections[] = { &layer->matrix[MATRIX_GATE], &layer->matrix[MATRIX_UP] };
    int rc = 1;

    if (b->rows == 1 && b->ops->linear_gated)
        rc = b->ops->linear_gated(b->backend, c->activation, projections[0], projections[1], b->work, gate, err);
    if (rc <= 0)
        return rc;
    if (project_many(b, projections, 2, b->work, (float *const[]){ gate, up }, err) < 0)
        return -1;
    return b->ops->act_mul(b->backend, c->activation, gate, up, b->rows * c->intermediate_size, err);
}

int block_mlp(struct block *b, const struct layer *layer, struct plim_err *err)
{
    const struct model_config *c = b->config;
    struct block_works works = works_of(b, layer, b->rows);
    struct block_layout layout = block_layout(c, b->rows, &works);
    float *gate = b->work + layout.mlp;
    float *up = gate + activation_pad(b->rows * c->intermediate_size);

    plim_pool_set_scope(b->backend->pool, layer->mlp_scope);
    if (works.mlp)
        return mlp_at_once(b, layer, gate, err);
    if (block_norm(b, b->hidden, layer->norm[NORM_MLP], b->rows, c->hidden_size, b->work, err) < 0 ||
        listen(b, TAP_MLP_INPUT, b->work, c->hidden_size, err) < 0)
        return -1;
    if (make_inner(b, layer, gate, up, err) < 0 || listen(b, TAP_MLP_INNER, gate, c->intermediate_size, err) < 0)
        return -1;
    return add_to_hidden(b, &layer->matrix[MATRIX_DOWN], layer->norm[NORM_MLP_POST], gate, NULL, err);
}
