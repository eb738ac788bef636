#ifndef PLIM_DRIFT_H
#define PLIM_DRIFT_H

/*
 * How far what a layer gets and gives has drifted from the dense model, and the weights that make up for it.
 *
 * GPTQ gives a layer the outputs that its own weights have on the inputs that it gets, X. Those come from quantised blocks
 * and have drifted, so what block after block loses adds up. Here the layer is asked for Y, what it should give in the dense
 * model, on the inputs that it gets: the least squares solution is
 *
 *     W* = W + (X^T X)^-1 X^T (Y - X W)
 *
 * (Arai and Ichikawa, "Quantization Error Propagation", 2025, arXiv:2504.09629; also Li et al., "GPTAQ", 2025,
 * arXiv:2504.02692), and W* is what GPTQ then rounds. Two kinds of it:
 *
 *     inputs     Y = Z W with the dense model's inputs Z: moment [K, K] = X^T (Z - X), shared by all layers of the input
 *     outputs    moment [K, N] = X^T (Y - X W) of one layer, where Y is known otherwise: the last layer of a block is asked
 *                for the dense model's state behind the block, so that it also makes up for the block's other layers and for
 *                what came before
 *
 *     drift_init(&d, backend, tier, in_features, columns, err);
 *     drift_add(&d, x, difference, rows, 1, err);         // for each piece
 *     drift_correct(&d, &hessian, w, out_features, err);  // the Hessian of the same pieces, factored: it has the order
 *     drift_release(&d);
 */

#include <stddef.h>

#include "backend.h"
#include "hessian.h"

/*
 * The share of the drift that is made up for. All of it would be the least squares solution for the calibration rows, and fits
 * their noise too: SmolLM2-135M at 4 bits has a KL divergence of 0.101 on another text without any, 0.084 with half and 0.103
 * with all of it from 24 rows of 512 tokens; 0.097, 0.075 and 0.084 from 100 rows of 2048.
 */
#define DRIFT_SHARE 0.5f

struct drift {
    struct backend *backend;     /* NULL: none, nothing to correct */
    enum plim_tier tier;
    size_t in_features, columns; /* K; K or N */
    float *moment;               /* [K, columns], the features in their own order; after drift_order in the Hessian's */
    bool of_outputs;
    bool ordered;
};

/* Zeroed, tag hessian. `of_outputs`: N columns, else K. */
int drift_init(struct drift *drift, struct backend *backend, enum plim_tier tier, size_t in_features, size_t columns,
               bool of_outputs, struct plim_err *err);
/* Also on zero bytes. */
void drift_release(struct drift *drift);

/* moment += weight x^T difference; x [rows, K], difference [rows, columns], both device. */
int drift_add(struct drift *drift, const float *x, const float *difference, size_t rows, float weight,
              struct plim_err *err);

/* Puts the features in the factored Hessian's order. Before drift_correct, once. */
int drift_order(struct drift *drift, const struct hessian *hessian, struct plim_err *err);

/* w [K, N] (device, in the Hessian's order) becomes W*. */
int drift_correct(const struct drift *drift, const struct hessian *hessian, float *w, size_t out_features,
                  struct plim_err *err);

/* Bytes of scratch that drift_correct takes. */
size_t drift_scratch_bytes(size_t in_features, size_t out_features);

#endif
