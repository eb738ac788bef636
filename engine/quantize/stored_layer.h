#ifndef PLIM_STORED_LAYER_H
#define PLIM_STORED_LAYER_H

/* Quantised layers in the job's files: one safetensors file a block, the layers' tensors under their final names. */

#include "gptq.h"
#include "model.h"
#include "safetensors.h"

/*
 * Writes `count` layers: q_* of results[i] under views[i].name, and its bias, rounded to fp16 and padded, where the source
 * has one. 32-bit tensors come first, so that every tensor is aligned.
 */
int stored_layers_write(const char *path, struct plim_pool *pool, const struct matrix_view *views,
                        const struct gptq_result *results, int count, struct plim_err *err);

/* The layer `view` with its quantised weights and bias in `store`, borrowed. */
int stored_layer_source(struct linear_source *source, const struct tensor_store *store, const struct matrix_view *view,
                        struct plim_err *err);

/* The parts of a stored layer, in the order of the table; "bias" last. */
#define STORED_PARTS 6
extern const struct stored_part {
    const char *name;      /* "q_weight" */
    enum dtype dtype;
    int dimension_count;
} stored_parts[STORED_PARTS];

#endif
