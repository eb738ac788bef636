#ifndef PLIM_MODEL_FILES_H
#define PLIM_MODEL_FILES_H

/*
 * A model directory as checked views: config.json, the tensors, and what every part of the decoder is called and
 * shaped like. Loading, inspecting and predicting all read from here, so they cannot disagree on a name or a shape.
 * Nothing here touches weight data: views are pointers into the mapped files.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "config.h"
#include "plimsoll/engine.h"
#include "safetensors.h"

/* The linear layers of one decoder layer. */
enum layer_matrix {
    MATRIX_Q,
    MATRIX_K,
    MATRIX_V,
    MATRIX_O,
    MATRIX_GATE,
    MATRIX_UP,
    MATRIX_DOWN,
    LAYER_MATRIX_COUNT
};

/* Its norms; only ATTENTION and MLP are in every architecture. */
enum layer_norm {
    NORM_ATTENTION,        /* before attention, [hidden_size] */
    NORM_Q,                /* of each query head, [head_dim] */
    NORM_K,
    NORM_ATTENTION_POST,   /* on what attention adds, [hidden_size] (Gemma 2/3) */
    NORM_MLP,              /* before the MLP, [hidden_size] */
    NORM_MLP_POST,
    LAYER_NORM_COUNT
};

struct model_files {
    struct model_config config;
    struct tensor_store *store;
    bool is_exl2;              /* some tensor is called *.q_weight */
};

/* Opens DIRECTORY. On failure nothing is left to undo. */
int model_files_open(struct model_files *files, struct plim_pool *pool, const char *directory, struct plim_err *err);
void model_files_close(struct model_files *files);

/* One linear layer as it stands in the files. Do not move it: source.name points at `name`. */
struct matrix_view {
    char name[192];                 /* "model.layers.0.mlp.down_proj" */
    struct linear_source source;
    size_t stored_out_features;     /* EXL2: padded to 32 */
    uint64_t stored_bytes;          /* weights as stored; scales, groups and permutation included, bias not */
};

/* What predictions need to know of it. */
struct linear_shape matrix_view_shape(const struct matrix_view *view);

/* Views of one layer's matrix, and of the output head (the embedding where the model ties them). */
int model_layer_matrix(struct matrix_view *view, const struct model_files *files, size_t layer, enum layer_matrix which,
                       struct plim_err *err);
int model_head_matrix(struct matrix_view *view, const struct model_files *files, struct plim_err *err);

/* True when the head reads the embedding's own tensor. */
bool model_head_is_embedding(const struct model_files *files);

/* [vocab_size, hidden_size], F32, F16 or BF16. */
const struct tensor *model_embedding(const struct model_files *files, struct plim_err *err);

/*
 * A norm's tensor. *out is NULL when the architecture has no such norm. Head norms may be [head_dim], or
 * [heads, head_dim] as EXL2 directories have them.
 */
int model_layer_norm(const struct tensor **out, const struct model_files *files, size_t layer, enum layer_norm which,
                     struct plim_err *err);
const struct tensor *model_final_norm(const struct model_files *files, struct plim_err *err);

/* Elements of a norm once it is loaded: hidden_size or head_dim; 0 when the architecture has no such norm. */
size_t model_norm_width(const struct model_config *config, enum layer_norm which);

/* What attention of a layer looks like. */
struct attention_shape model_attention_shape(const struct model_config *config, size_t layer);

/* True when local layers rotate by other frequencies than global ones (Gemma 3). */
bool model_has_local_rope(const struct model_config *config);

/* Fills everything that plim_model_info reports, which needs every matrix to be there and of the right shape. */
int model_files_info(struct plim_model_info *info, const struct model_files *files, struct plim_err *err);

#endif
