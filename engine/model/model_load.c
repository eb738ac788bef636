/* Loading: a checked directory becomes matrices and norms that the backend can use. Order: cheap checks first. */

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model.h"
#include "tensor_values.h"

static struct plim_pool *pool_of(const struct plim_model *model)
{
    return model->engine->pool;
}

static const struct model_config *config_of(const struct plim_model *model)
{
    return &model->files.config;
}

/* ---- norms ---- */

/*
 * Head norms of an EXL2 directory are repeated for each head; they came from one row, so one row is what is kept. A
 * file whose rows differ is a model that this engine does not know.
 */
static int check_rows_repeat(const struct tensor *tensor, size_t width, struct plim_err *err)
{
    size_t row_bytes = width * dtype_bytes(tensor->dtype);
    const uint8_t *data = tensor->data;

    for (size_t row = 1; row * row_bytes < tensor->bytes; row++) {
        if (memcmp(data, data + row * row_bytes, row_bytes) != 0)
            return plim_err_input(err, "%s: tensor %s: head %zu has other weights than head 0, expected the same",
                                  tensor->file, tensor->name, row);
    }
    return 0;
}

/* Widens a norm to fp32 at `device`, in pieces through the stack. */
static int load_norm(struct plim_model *model, const struct tensor *tensor, size_t width, float *device, size_t place,
                     struct plim_err *err)
{
    struct backend *backend = engine_backend(model->engine, place);
    float piece[1024];

    if (check_rows_repeat(tensor, width, err) < 0 || tensor_check_finite(tensor, 0, width, err) < 0)
        return -1;
    for (size_t done = 0; done < width; done += sizeof piece / sizeof *piece) {
        size_t n = plim_min(sizeof piece / sizeof *piece, width - done);
        for (size_t i = 0; i < n; i++)
            piece[i] = tensor_value(tensor, done + i);
        if (backend->ops->upload(backend, device + done, piece, n * sizeof *piece, err) < 0)
            return -1;
    }
    return 0;
}

static int load_layer_norms(struct plim_model *model, size_t index, float **next, struct plim_err *err)
{
    struct layer *layer = &model->layers[index];
    const struct tensor *tensor;

    for (int which = 0; which < LAYER_NORM_COUNT; which++) {
        size_t width = model_norm_width(config_of(model), (enum layer_norm)which);
        if (model_layer_norm(&tensor, &model->files, index, (enum layer_norm)which, err) < 0)
            return -1;
        if (!tensor)
            continue;
        if (load_norm(model, tensor, width, *next, layer->place, err) < 0)
            return -1;
        layer->norm[which] = *next;
        *next += width;
    }
    return 0;
}

static size_t layer_norm_elements(const struct model_config *c)
{
    size_t elements = 0;
    for (int which = 0; which < LAYER_NORM_COUNT; which++)
        elements += model_norm_width(c, (enum layer_norm)which);
    return elements;
}

static float *norms_alloc(struct plim_model *model, size_t elements, struct plim_err *err)
{
    return plim_pool_alloc(pool_of(model), PLIM_FAST, PLIM_TAG_WEIGHTS, elements * sizeof(float), err);
}

/* The final norm goes to `device`, [hidden_size]. */
static int load_final_norm(struct plim_model *model, float *device, struct plim_err *err)
{
    const struct tensor *final = model_final_norm(&model->files, err);
    if (!final)
        return -1;
    model->final_norm = device;
    return load_norm(model, final, config_of(model)->hidden_size, device, model->head_place, err);
}

/* Of a layer that isn't at place 0, or is alone: a block of its own. */
static int load_own_norms(struct plim_model *model, size_t index, struct plim_err *err)
{
    struct layer *layer = &model->layers[index];

    layer->own_norms = norms_alloc(model, layer_norm_elements(config_of(model)), err);
    if (!layer->own_norms)
        return -1;
    float *next = layer->own_norms;
    return load_layer_norms(model, index, &next, err);
}

/*
 * All norms at place 0 lie in one block: layer after layer, in the order of the enum, and the final norm. Others are loaded
 * with their layer, or the head.
 */
static int load_norms(struct plim_model *model, struct plim_err *err)
{
    const struct model_config *c = config_of(model);

    if (!model_final_norm(&model->files, err))
        return -1;
    size_t here = 0;
    while (here < c->layer_count && model->layers[here].place == 0)
        here++;
    model->norms = norms_alloc(model, here * layer_norm_elements(c) + (model->head_place == 0 ? c->hidden_size : 0), err);
    if (!model->norms)
        return -1;

    float *next = model->norms;
    for (size_t i = 0; i < here; i++) {
        if (load_layer_norms(model, i, &next, err) < 0)
            return -1;
    }
    return model->head_place == 0 ? load_final_norm(model, next, err) : 0;
}

/* ---- matrices ---- */

static void drop_source(const struct linear_source *source)
{
    const struct exl2_tensors *exl2 = &source->exl2;

    if (source->is_exl2)
        model_drop_pages(exl2->q_weight, exl2->word_rows * exl2->out_features * sizeof *exl2->q_weight);
    else
        model_drop_pages(source->weight, source->in_features * source->out_features * dtype_bytes(source->dtype));
}

static int load_matrix(struct plim_model *model, struct matrix *matrix, const struct matrix_view *view, size_t place,
                       struct plim_err *err)
{
    struct backend *backend = engine_backend(model->engine, place);

    if (backend->ops->matrix_init(backend, matrix, &view->source, err) < 0)
        return -1;
    /* What was copied to a device is not looked at again: it would only sit in this process' resident set. */
    if (!backend->ops->unified_memory)
        drop_source(&view->source);
    return 0;
}

/* What is known of a layer without its weights. */
static void describe_layer(struct plim_model *model, size_t index)
{
    struct layer *layer = &model->layers[index];
    const struct model_config *c = config_of(model);

    snprintf(layer->attention_scope, sizeof layer->attention_scope, "layers.%zu.attention", index);
    snprintf(layer->mlp_scope, sizeof layer->mlp_scope, "layers.%zu.mlp", index);
    layer->attention = model_attention_shape(c, index);
    layer->rope = model->rope_local.inv_freq && c->layer_is_local[index] ? &model->rope_local : &model->rope;
}

static int load_layer_matrices(struct plim_model *model, size_t index, int first, int count, struct plim_err *err)
{
    struct matrix_view view;

    for (int which = first; which < first + count; which++) {
        if (model_layer_matrix(&view, &model->files, index, (enum layer_matrix)which, err) < 0 ||
            load_matrix(model, &model->layers[index].matrix[which], &view, model->layers[index].place, err) < 0)
            return -1;
    }
    return 0;
}

static int load_head(struct plim_model *model, struct plim_err *err)
{
    struct matrix_view view;

    if (model_head_matrix(&view, &model->files, err) < 0)
        return -1;
    return load_matrix(model, &model->head, &view, model->head_place, err);
}

/*
 * The embedding stays where it is. Its rows are checked when they are looked up, not here: that would read the whole
 * table, a gigabyte for 128 Ki tokens of 4096, to use a few rows of it. A head that is the embedding, and stays where it is
 * too, has been checked and counted by the backend already.
 */
static int load_embedding(struct plim_model *model, struct plim_err *err)
{
    model->embedding = model_embedding(&model->files, err);
    if (!model->embedding)
        return -1;
    if (model_head_is_embedding(&model->files) && model->engine->backend.ops->unified_memory)
        return 0;
    model->mapped_bytes = model->embedding->bytes;
    plim_pool_note_mapped(pool_of(model), (int64_t)model->mapped_bytes);
    return 0;
}

static int load_ropes(struct plim_model *model, struct plim_err *err)
{
    const struct model_config *c = config_of(model);

    if (rope_init(&model->rope, pool_of(model), &c->rope, c->head_dim, err) < 0)
        return -1;
    if (!model_has_local_rope(c))
        return 0;
    return rope_init(&model->rope_local, pool_of(model), &c->rope_local, c->head_dim, err);
}

/* Everything but weights. */
static int open_parts(struct plim_model *model, const char *directory, struct plim_err *err)
{
    if (model_files_open(&model->files, pool_of(model), directory, err) < 0)
        return -1;
    if (model_files_info(&model->info, &model->files, err) < 0)
        return -1;
    model->layers = plim_pool_calloc(pool_of(model), PLIM_HOST, PLIM_TAG_METADATA, model->info.layer_count,
                                     sizeof *model->layers, err);
    if (!model->layers || load_ropes(model, err) < 0)
        return -1;
    for (size_t i = 0; i < model->info.layer_count; i++)
        describe_layer(model, i);
    return 0;
}

/* Decides where layers and head go. */
static int choose_places(struct plim_model *model, struct plim_err *err)
{
    struct plim_engine *engine = model->engine;
    size_t layers = model->info.layer_count, *place = NULL;
    const char *name = engine->backend.ops->name;
    uint64_t free_bytes[PLIM_MOST_DEVICES], *bytes = NULL;
    struct plim_split split;
    int rc = -1;

    if (backend_split(name, &engine->parameters, &split, err) < 0)
        return -1;
    for (size_t p = 0; p < engine->place_count; p++) {
        struct backend *backend = engine_backend(engine, p);
        free_bytes[p] = 1;
        if (backend->ops->free_bytes &&
            (engine_select(engine, p, err) < 0 || backend->ops->free_bytes(backend, &free_bytes[p], err) < 0))
            return -1;
    }
    if (!(place = plim_pool_calloc(engine->pool, PLIM_HOST, PLIM_TAG_METADATA, layers + 1, sizeof *place, err)) ||
        !(bytes = plim_pool_calloc(engine->pool, PLIM_HOST, PLIM_TAG_METADATA, layers + 1, sizeof *bytes, err)))
        goto out;
    for (size_t i = 0; i <= layers; i++)
        if (model_part_bytes(&model->files, i, name, &engine->parameters, &bytes[i], err) < 0)
            goto out;
    if (model_split(&split, free_bytes, bytes, layers, place, err) < 0)
        goto out;
    for (size_t i = 0; i < layers; i++)
        model->layers[i].place = place[i];
    model->head_place = place[layers];
    rc = 0;

out:
    plim_pool_free(engine->pool, bytes);
    plim_pool_free(engine->pool, place);
    return rc;
}

static int load_layer(struct plim_model *model, size_t index, struct plim_err *err)
{
    size_t place = model->layers[index].place;

    if (engine_select(model->engine, place, err) < 0 || (place > 0 && load_own_norms(model, index, err) < 0))
        return -1;
    return load_layer_matrices(model, index, 0, LAYER_MATRIX_COUNT, err);
}

static int load_weights(struct plim_model *model, struct plim_err *err)
{
    struct plim_engine *engine = model->engine;

    if ((engine->place_count > 1 && choose_places(model, err) < 0) || engine_select(engine, 0, err) < 0 ||
        load_norms(model, err) < 0)
        return -1;
    for (size_t i = 0; i < model->info.layer_count; i++) {
        if (load_layer(model, i, err) < 0)
            return -1;
    }
    if (model->head_place > 0) {
        if (engine_select(engine, model->head_place, err) < 0)
            return -1;
        model->head_norm = norms_alloc(model, config_of(model)->hidden_size, err);
        if (!model->head_norm || load_final_norm(model, model->head_norm, err) < 0)
            return -1;
    }
    if (load_head(model, err) < 0)
        return -1;
    return load_embedding(model, err);
}

int model_open(struct plim_model **out, struct plim_engine *engine, const char *directory, struct plim_err *err)
{
    struct plim_model *model;

    plim_pool_set_scope(engine->pool, "load");
    model = plim_pool_calloc(engine->pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *model, err);
    if (!model)
        return plim_err_wrap(err, "loading %s", directory);
    model->engine = engine;
    if (open_parts(model, directory, err) < 0) {
        plim_model_free(model);
        return plim_err_wrap(err, "loading %s", directory);
    }
    *out = model;
    return 0;
}

int plim_model_load(struct plim_model **out, struct plim_engine *engine, const char *directory, struct plim_err *err)
{
    struct plim_model *model;

    if (model_open(&model, engine, directory, err) < 0)
        return -1;
    int rc = load_weights(model, err);
    struct plim_err unsaid = PLIM_ERR_INIT;
    if (engine_select(engine, 0, rc < 0 ? &unsaid : err) < 0 || rc < 0) {
        plim_model_free(model);
        return plim_err_wrap(err, "loading %s", directory);
    }
    *out = model;
    return 0;
}

int model_layer_load(struct plim_model *model, size_t index, enum layer_matrix first, int count, struct plim_err *err)
{
    return load_own_norms(model, index, err) < 0 ? -1 : load_layer_matrices(model, index, (int)first, count, err);
}

int model_head_load(struct plim_model *model, struct plim_err *err)
{
    model->norms = norms_alloc(model, config_of(model)->hidden_size, err);
    if (!model->norms || load_final_norm(model, model->norms, err) < 0 || load_head(model, err) < 0)
        return -1;
    return load_embedding(model, err);
}

void model_drop_pages(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)data / page * page, end = ((uintptr_t)data + bytes + page - 1) / page * page;
    /* Whole pages: neighbours' ends are read again if they are needed. */
    (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static void release_matrix(struct plim_model *model, struct matrix *matrix, size_t place)
{
    struct backend *backend = engine_backend(model->engine, place);
    if (matrix->impl)
        backend->ops->matrix_release(backend, matrix);
}

void model_layer_drop(struct plim_model *model, size_t index)
{
    struct layer *layer = &model->layers[index];
    struct plim_err ignored = PLIM_ERR_INIT;
    struct matrix_view view;

    for (int which = 0; which < LAYER_MATRIX_COUNT; which++) {
        if (!layer->matrix[which].impl)
            continue;
        release_matrix(model, &layer->matrix[which], layer->place);
        if (model_layer_matrix(&view, &model->files, index, (enum layer_matrix)which, &ignored) == 0 &&
            !view.source.is_exl2)
            model_drop_pages(view.source.weight, view.stored_bytes);
    }
    plim_pool_free(pool_of(model), layer->own_norms);
    layer->own_norms = NULL;
    memset(layer->norm, 0, sizeof layer->norm);
}

void model_head_drop(struct plim_model *model)
{
    struct plim_pool *pool = pool_of(model);

    release_matrix(model, &model->head, model->head_place);
    plim_pool_note_mapped(pool, -(int64_t)model->mapped_bytes);
    model->mapped_bytes = 0;
    plim_pool_free(pool, model->norms);
    model->norms = NULL;
    model->final_norm = NULL;
    if (model->embedding)
        model_drop_pages(model->embedding->data, model->embedding->bytes);
}

void plim_model_free(struct plim_model *model)
{
    if (!model)
        return;
    struct plim_pool *pool = pool_of(model);

    plim_pool_note_mapped(pool, -(int64_t)model->mapped_bytes);
    release_matrix(model, &model->head, model->head_place);
    for (size_t i = 0; model->layers && i < model->info.layer_count; i++) {
        for (int which = 0; which < LAYER_MATRIX_COUNT; which++)
            release_matrix(model, &model->layers[i].matrix[which], model->layers[i].place);
        plim_pool_free(pool, model->layers[i].own_norms);
    }
    plim_pool_free(pool, model->norms);
    plim_pool_free(pool, model->head_norm);
    rope_release(&model->rope_local, pool);
    rope_release(&model->rope, pool);
    plim_pool_free(pool, model->layers);
    model_files_close(&model->files);
    plim_pool_free(pool, model);
}

void plim_model_info(const struct plim_model *model, struct plim_model_info *out)
{
    *out = model->info;
}
