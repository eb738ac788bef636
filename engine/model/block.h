#ifndef PLIM_BLOCK_H
#define PLIM_BLOCK_H

/*
 * One attention or MLP block over a chunk of T tokens: what the forward pass and the quantizer share.
 *
 * Activations (fp32, device), the same buffers for every layer:
 *
 *     hidden  [T, hidden_size]                 the residual stream; the caller's
 *     scratch = normed  [T, hidden_size]       input of the projections; later what a block adds, where that needs a
 *                                              place of its own
 *               work                           q [T, heads * head_dim], k and v [T, kv_heads * head_dim]; then, in the
 *                                              same place, gate and up [T, intermediate_size]
 *               rope tables [T, head_dim]
 *
 * Attention writes its result over q, the gate's product goes over gate, and o_proj and down_proj add straight onto
 * hidden.
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
    float *normed, *work, *rope_global, *rope_local;   /* inside scratch; rope_local may be the same as rope_global */
    size_t first, rows;                                /* first position and length of the chunk */

    block_tap_function *tap;                           /* NULL: nobody listens */
    void *tap_context;
};

/* Fills in what follows from the model. Allocates nothing. */
void block_init(struct block *block, const struct plim_model *model);

/* Allocates scratch for chunks of up to `rows` tokens, and gives it back. */
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
