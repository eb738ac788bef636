#ifndef PLIM_BLOCK_H
#define PLIM_BLOCK_H

/*
 * One attention or MLP block over a chunk of T tokens: what the forward pass and the quantizer share.
 *
 * Activations (fp32, device), the same buffers for every layer:
 *
 *     hidden  [T, hidden_size]                 the residual stream; the caller's
 *     scratch = rope tables [T, head_dim]
 *               normed  [T, hidden_size]       input of the projections; later what a block adds, where that needs a
 *                                              place of its own
 *               q [T, heads * head_dim], k and v [T, kv_heads * head_dim]; then, in the same place, gate and up
 *               [T, intermediate_size]
 *
 * Attention writes its result over q, the gate's product goes over gate, and o_proj and down_proj add straight onto
 * hidden.
 *
 * A backend may take norm and projections, or a whole MLP, at once (norm_linear and mlp of backend.h). Then what it works in
 * lies at the place of normed, or of everything, and the MLP's is behind what the block adds, if that has a place.
 */

#include <stddef.h>
#include <stdint.h>

#include "model.h"

/* Where a tap listens: the inputs of the linear layers. */
enum block_tap {
    TAP_ATTENTION_INPUT,    /* q, k, v: normed hidden, [T, hidden_size] */
    TAP_ATTENTION_OUTPUT,   /* o: [T, heads * head_dim] */
    TAP_MLP_INPUT,          /* gate, up: normed hidden, [T, hidden_size] */
    TAP_MLP_INNER           /* down: [T, intermediate_size] */
};

/* x [rows, width], device. Return 0, or -1 with `err` set to stop. */
typedef int block_tap_function(void *context, enum block_tap tap, const float *x, size_t rows, size_t width,
                               struct plim_err *err);

struct block {
    const struct plim_model *model;
    const struct model_config *config;
    struct backend *backend;
    const struct backend_ops *ops;

    float *hidden;                                     /* the caller sets it before each call */
    float *scratch;                                    /* NULL: not open */
    size_t scratch_elements;
    float *rope_global, *rope_local, *work;            /* inside scratch; rope_local may be the same as rope_global */
    size_t first, rows;                                /* first position and length of the chunk */

    bool by_parts;                                     /* operation by operation, so that a tap sees every input */
    block_tap_function *tap;                           /* NULL: nobody listens; else by_parts is set */
    void *tap_context;
};

/* What the backend works in where it takes parts of a layer at once, in bytes; 0: operation by operation. */
struct block_works {
    size_t projections, output, mlp;
};

/*
 * Where things lie in scratch behind the rope tables, in floats: normed, or what a block adds, or the projections' work, at
 * 0; then q, k and v; o_proj's work in the projections' place or behind v; in the same place either gate and up from `mlp` on
 * or the MLP's work.
 */
struct block_layout {
    size_t q, k, v, output, mlp;
    size_t elements;       /* tables included */
};
struct block_layout block_layout(const struct model_config *config, size_t rows, const struct block_works *works);

/* Fills in what follows from the model. Allocates nothing. */
void block_init(struct block *block, const struct plim_model *model);
/* The same for the layers at one place. */
void block_init_at(struct block *block, const struct plim_model *model, size_t place);

/* Scratch for a chunk of `rows` tokens: what is open is kept if it is large enough. And gives it back. */
int block_scratch_open(struct block *block, size_t rows, struct plim_err *err);
void block_scratch_close(struct block *block);

/* Computes the rope tables for positions block->first .. + block->rows - 1. Do it before attention of a chunk. */
int block_rope(struct block *block, struct plim_err *err);

/* hidden += attention. keys and values: the layer's cache, [capacity, kv_heads * head_dim], filled up to `first`. */
int block_attention(struct block *block, const struct layer *layer, void *keys, void *values,
                    struct plim_err *err);

/* hidden += MLP */
int block_mlp(struct block *block, const struct layer *layer, struct plim_err *err);

/* out = norm(x), rows of `width`, by the model's own epsilon and offset. */
int block_norm(struct block *block, const float *x, const float *weight, size_t rows, size_t width, float *out,
               struct plim_err *err);

#endif
