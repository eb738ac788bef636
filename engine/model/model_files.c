#include "model_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "plimsoll/units.h"

#define DENSE_DTYPES (1u << DTYPE_F32 | 1u << DTYPE_F16 | 1u << DTYPE_BF16)

/* ---- opening ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static bool has_exl2_tensors(const struct tensor_store *store)
{
    for (size_t i = 0; i < tensor_store_count(store); i++) {
        if (ends_with(tensor_store_at(store, i)->name, ".q_weight"))
            return true;
    }
    return false;
}

static bool has_index(const char *directory)
{
    struct plim_err ignored = PLIM_ERR_INIT;
    char *path = plim_path_join(directory, "model.safetensors.index.json", &ignored);
    bool found = path && plim_path_exists(path);
    free(path);
    return found;
}

/*
 * The tensors decide what a directory is, but they must be opened first, and the two kinds are opened differently: a
 * dense directory by its index (stray files beside the shards are ignored), an EXL2 directory by all its files (its
 * index is a stale copy of the source model's). So the likelier way is tried first, and the other one when the first
 * shows that it was wrong.
 */
static int open_store(struct model_files *files, struct plim_pool *pool, const char *directory, struct plim_err *err)
{
    bool indexed = has_index(directory);
    struct plim_err other_err = PLIM_ERR_INIT;

    if (!indexed || files->config.is_exl2) {
        if (tensor_store_open_directory(&files->store, pool, directory, false, err) < 0)
            return -1;
        files->is_exl2 = has_exl2_tensors(files->store);
        if (files->is_exl2 || !indexed)
            return 0;
        tensor_store_close(files->store);
        files->store = NULL;
        return tensor_store_open_directory(&files->store, pool, directory, true, err);
    }

    if (tensor_store_open_directory(&files->store, pool, directory, true, err) == 0) {
        files->is_exl2 = has_exl2_tensors(files->store);
        return 0;
    }
    if (err->kind != PLIM_ERR_INPUT)
        return -1;
    if (tensor_store_open_directory(&files->store, pool, directory, false, &other_err) < 0)
        return -1;
    files->is_exl2 = has_exl2_tensors(files->store);
    if (!files->is_exl2) {
        tensor_store_close(files->store);
        files->store = NULL;
        return -1;
    }
    plim_err_clear(err);
    return 0;
}

int model_files_open(struct model_files *files, struct plim_pool *pool, const char *directory, struct plim_err *err)
{
    *files = (struct model_files){ 0 };
    if (model_config_read(&files->config, directory, err) < 0)
        return -1;
    return open_store(files, pool, directory, err);
}

void model_files_close(struct model_files *files)
{
    tensor_store_close(files->store);
    files->store = NULL;
}

/* ---- linear layers ---- */

/* "KEY.PART" into `name`; keys are short, so a cut name is a bug that the lookup would report. */
static const char *join(char *name, size_t size, const char *key, const char *part)
{
    snprintf(name, size, "%s.%s", key, part);
    return name;
}

static const struct tensor *need(const struct model_files *files, const char *key, const char *part,
                                 unsigned dtype_mask, int dimension_count, const int64_t *shape, struct plim_err *err)
{
    char name[256];
    return tensor_store_need(files->store, join(name, sizeof name, key, part), dtype_mask, dimension_count, shape, err);
}

static bool has(const struct model_files *files, const char *key, const char *part)
{
    char name[256];
    return tensor_store_find(files->store, join(name, sizeof name, key, part)) != NULL;
}

static int exl2_view(struct matrix_view *view, const struct model_files *files, struct plim_err *err)
{
    const char *key = view->name;
    struct linear_source *source = &view->source;
    size_t in = source->in_features, out = plim_round_up(source->out_features, 32);
    const struct tensor *weight, *scale, *scale_max, *groups, *invperm;

    weight = need(files, key, "q_weight", 1u << DTYPE_I32, 2, (int64_t[]){ -1, (int64_t)out }, err);
    if (!weight)
        return -1;
    scale = need(files, key, "q_scale", 1u << DTYPE_I32, 2, (int64_t[]){ -1, (int64_t)(out / 8) }, err);
    if (!scale)
        return -1;
    int64_t group_count = (int64_t)scale->shape[0];
    scale_max = need(files, key, "q_scale_max", 1u << DTYPE_F16, 1, (int64_t[]){ group_count }, err);
    if (!scale_max)
        return -1;
    groups = need(files, key, "q_groups", 1u << DTYPE_I16, 1, (int64_t[]){ 2 * group_count }, err);
    if (!groups)
        return -1;
    invperm = need(files, key, "q_invperm", 1u << DTYPE_I32, 1, (int64_t[]){ (int64_t)in }, err);
    if (!invperm)
        return -1;

    source->is_exl2 = true;
    source->exl2 = (struct exl2_tensors){
        .name = key,
        .q_weight = weight->data,
        .word_rows = weight->shape[0],
        .out_features = out,
        .q_scale = scale->data,
        .group_count = (size_t)group_count,
        .q_scale_max = scale_max->data,
        .q_groups = groups->data,
        .q_invperm = invperm->data,
        .in_features = in,
    };
    view->stored_out_features = out;
    view->stored_bytes = weight->bytes + scale->bytes + scale_max->bytes + groups->bytes + invperm->bytes;
    return 0;
}

static int dense_view(struct matrix_view *view, const struct model_files *files, struct plim_err *err)
{
    struct linear_source *source = &view->source;
    int64_t shape[] = { (int64_t)source->out_features, (int64_t)source->in_features };
    const struct tensor *weight = need(files, view->name, "weight", DENSE_DTYPES, 2, shape, err);

    if (!weight)
        return -1;
    source->weight = weight->data;
    source->dtype = weight->dtype;
    view->stored_out_features = source->out_features;
    view->stored_bytes = weight->bytes;
    return 0;
}

static int bias_view(struct matrix_view *view, const struct model_files *files, bool has_bias, struct plim_err *err)
{
    struct linear_source *source = &view->source;
    const struct tensor *bias;

    if (!has_bias && has(files, view->name, "bias"))
        return plim_err_input(err, "tensor %s.bias: config.json says that a %s has none here", view->name,
                              files->config.architecture);
    if (!has_bias)
        return 0;
    bias = need(files, view->name, "bias", DENSE_DTYPES, 1, (int64_t[]){ (int64_t)view->stored_out_features }, err);
    if (!bias)
        return -1;
    source->bias = bias->data;
    source->bias_dtype = bias->dtype;
    return 0;
}

/* A matrix is EXL2 when it has a q_weight; a quantised model may keep some layers dense. */
static int matrix_view(struct matrix_view *view, const struct model_files *files, bool has_bias, struct plim_err *err)
{
    view->source.name = view->name;
    if (files->is_exl2 && has(files, view->name, "q_weight")) {
        if (exl2_view(view, files, err) < 0)
            return -1;
    } else if (dense_view(view, files, err) < 0) {
        return -1;
    }
    return bias_view(view, files, has_bias, err);
}

int model_layer_matrix(struct matrix_view *view, const struct model_files *files, size_t layer, enum layer_matrix which,
                       struct plim_err *err)
{
    const struct model_config *c = &files->config;
    size_t hidden = c->hidden_size, inner = c->intermediate_size;
    size_t q_width = c->head_count * c->head_dim, kv_width = c->kv_head_count * c->head_dim;
    const struct {
        const char *name;
        size_t in_features, out_features;
        bool has_bias;
    } table[LAYER_MATRIX_COUNT] = {
        [MATRIX_Q] = { "self_attn.q_proj", hidden, q_width, c->qkv_bias },
        [MATRIX_K] = { "self_attn.k_proj", hidden, kv_width, c->qkv_bias },
        [MATRIX_V] = { "self_attn.v_proj", hidden, kv_width, c->qkv_bias },
        [MATRIX_O] = { "self_attn.o_proj", q_width, hidden, c->o_bias },
        [MATRIX_GATE] = { "mlp.gate_proj", hidden, inner, c->mlp_bias },
        [MATRIX_UP] = { "mlp.up_proj", hidden, inner, c->mlp_bias },
        [MATRIX_DOWN] = { "mlp.down_proj", inner, hidden, c->mlp_bias },
    };

    *view = (struct matrix_view){ 0 };
    snprintf(view->name, sizeof view->name, "%smodel.layers.%zu.%s", c->key_prefix, layer, table[which].name);
    view->source.in_features = table[which].in_features;
    view->source.out_features = table[which].out_features;
    view->source.prescale = 1;
    return matrix_view(view, files, table[which].has_bias, err);
}

/*
 * A tied model has no head of its own, unless it was quantised: the converter writes the head as lm_head.q_* next to
 * the fp16 embedding and leaves tie_word_embeddings as it was.
 */
bool model_head_is_embedding(const struct model_files *files)
{
    char key[64];
    snprintf(key, sizeof key, "%slm_head", files->config.key_prefix);
    return files->config.tied_embeddings && !has(files, key, "q_weight");
}

int model_head_matrix(struct matrix_view *view, const struct model_files *files, struct plim_err *err)
{
    const struct model_config *c = &files->config;

    *view = (struct matrix_view){ 0 };
    snprintf(view->name, sizeof view->name, "%s%s", c->key_prefix,
             model_head_is_embedding(files) ? "model.embed_tokens" : "lm_head");
    view->source.in_features = c->hidden_size;
    view->source.out_features = c->vocab_size;
    view->source.prescale = c->logit_scale;
    return matrix_view(view, files, false, err);
}

/* ---- embedding and norms ---- */

const struct tensor *model_embedding(const struct model_files *files, struct plim_err *err)
{
    const struct model_config *c = &files->config;
    int64_t shape[] = { (int64_t)c->vocab_size, (int64_t)c->hidden_size };
    char key[64];

    snprintf(key, sizeof key, "%smodel.embed_tokens", c->key_prefix);
    return need(files, key, "weight", DENSE_DTYPES, 2, shape, err);
}

static const char *norm_name(const struct model_config *config, enum layer_norm which)
{
    switch (which) {
    case NORM_ATTENTION:
        return "input_layernorm";
    case NORM_Q:
        return config->head_norm ? "self_attn.q_norm" : NULL;
    case NORM_K:
        return config->head_norm ? "self_attn.k_norm" : NULL;
    case NORM_ATTENTION_POST:
        return config->post_norms ? "post_attention_layernorm" : NULL;
    case NORM_MLP:
        /* The name means "after attention": without post norms it is the one before the MLP. */
        return config->post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    case NORM_MLP_POST:
        return config->post_norms ? "post_feedforward_layernorm" : NULL;
    case LAYER_NORM_COUNT:
        break;
    }
    return NULL;
}

size_t model_norm_width(const struct model_config *config, enum layer_norm which)
{
    if (!norm_name(config, which))
        return 0;
    return which == NORM_Q || which == NORM_K ? config->head_dim : config->hidden_size;
}

int model_layer_norm(const struct tensor **out, const struct model_files *files, size_t layer, enum layer_norm which,
                     struct plim_err *err)
{
    const struct model_config *c = &files->config;
    const char *name = norm_name(c, which);
    const struct tensor *found;
    char full[256];

    *out = NULL;
    if (!name)
        return 0;
    snprintf(full, sizeof full, "%smodel.layers.%zu.%s.weight", c->key_prefix, layer, name);
    found = tensor_store_find(files->store, full);
    if ((which == NORM_Q || which == NORM_K) && found && found->dimension_count == 2) {
        size_t heads = which == NORM_Q ? c->head_count : c->kv_head_count;
        int64_t expanded[] = { (int64_t)heads, (int64_t)c->head_dim };
        *out = tensor_store_need(files->store, full, DENSE_DTYPES, 2, expanded, err);
    } else {
        int64_t width[] = { (int64_t)model_norm_width(c, which) };
        *out = tensor_store_need(files->store, full, DENSE_DTYPES, 1, width, err);
    }
    return *out ? 0 : -1;
}

const struct tensor *model_final_norm(const struct model_files *files, struct plim_err *err)
{
    const struct model_config *c = &files->config;
    char key[64];

    snprintf(key, sizeof key, "%smodel.norm", c->key_prefix);
    return need(files, key, "weight", DENSE_DTYPES, 1, (int64_t[]){ (int64_t)c->hidden_size }, err);
}

/* ---- derived facts ---- */

struct attention_shape model_attention_shape(const struct model_config *config, size_t layer)
{
    return (struct attention_shape){
        .head_count = config->head_count,
        .kv_head_count = config->kv_head_count,
        .head_dim = config->head_dim,
        .scale = config->attention_scale,
        .softcap = config->attention_softcap,
        .window = config->layer_is_local[layer] ? config->sliding_window : 0,
    };
}

static bool same_rope(const struct rope_config *a, const struct rope_config *b)
{
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->attention_factor == b->attention_factor && a->original_max_positions == b->original_max_positions;
}

bool model_has_local_rope(const struct model_config *config)
{
    if (same_rope(&config->rope, &config->rope_local))
        return false;
    for (size_t i = 0; i < config->layer_count; i++) {
        if (config->layer_is_local[i])
            return true;
    }
    return false;
}

int model_files_info(struct plim_model_info *info, const struct model_files *files, struct plim_err *err)
{
    const struct model_config *c = &files->config;
    struct matrix_view view;

    *info = (struct plim_model_info){
        .is_exl2 = files->is_exl2,
        .hidden_size = c->hidden_size,
        .intermediate_size = c->intermediate_size,
        .layer_count = c->layer_count,
        .head_count = c->head_count,
        .kv_head_count = c->kv_head_count,
        .head_dim = c->head_dim,
        .vocab_size = c->vocab_size,
        .max_positions = c->max_positions,
        .file_bytes = tensor_store_file_bytes(files->store),
        .bos_token_id = c->bos_token_id,
        .eos_token_count = c->eos_token_count,
    };
    snprintf(info->architecture, sizeof info->architecture, "%s", c->architecture);
    memcpy(info->eos_token_ids, c->eos_token_ids, sizeof info->eos_token_ids);

    for (size_t layer = 0; layer < c->layer_count; layer++) {
        for (int which = 0; which < LAYER_MATRIX_COUNT; which++) {
            if (model_layer_matrix(&view, files, layer, (enum layer_matrix)which, err) < 0)
                return -1;
            info->layer_weight_bytes += view.stored_bytes;
            info->layer_parameters += (uint64_t)view.source.in_features * view.source.out_features;
        }
    }
    if (model_head_matrix(&view, files, err) < 0)
        return -1;
    info->head_weight_bytes = view.stored_bytes;
    info->head_parameters = (uint64_t)view.source.in_features * view.source.out_features;
    info->layer_bits_per_weight = 8.0 * (double)info->layer_weight_bytes / (double)info->layer_parameters;
    info->head_bits_per_weight = 8.0 * (double)info->head_weight_bytes / (double)info->head_parameters;
    return 0;
}

struct linear_shape matrix_view_shape(const struct matrix_view *view)
{
    const struct linear_source *source = &view->source;
    return (struct linear_shape){
        .is_exl2 = source->is_exl2,
        .dtype = source->dtype,
        .in_features = source->in_features,
        .out_features = source->out_features,
        .stored_out_features = view->stored_out_features,
        .group_count = source->exl2.group_count,
        .word_rows = source->exl2.word_rows,
        .copied_bytes = source->is_exl2 ? exl2_copied_bytes(&source->exl2) : 0,
        .has_bias = source->bias != NULL,
        .prescale = source->prescale,
    };
}
