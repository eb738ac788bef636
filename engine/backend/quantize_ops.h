#ifndef PLIM_QUANTIZE_OPS_H
#define PLIM_QUANTIZE_OPS_H

/*
 * The quantizer's share of a backend: the operations that adaptive GPTQ is made of.
 *
 * GPTQ (Frantar et al., 2022, arXiv:2210.17323) needs, for a layer with K inputs, the upper triangular U with
 * H^-1 = U^T U, H the damped Hessian in the order in which rows are quantised. All of it happens in one K x K buffer:
 *
 *   upper triangle   H = sum over calibration rows of x^T x, accumulated
 *   lower triangle   a permuted, damped copy of it, factored and inverted in place
 *
 * With rows and columns in *reverse* order, H' = L L^T (an ordinary Cholesky factor) and M = L^-1 give U by reversing
 * the buffer end to end: U[i][j] = M[K-1-i][K-1-j]. One factorisation and one triangular inverse, where the usual way
 * (factor, invert, factor again) takes three passes and two more matrices. The original H survives in the upper
 * triangle until the factorisation has succeeded, so a retry with more damping starts from it.
 *
 * Matrices are fp32, row-major. Pointers marked "device" are in the pool's fast tier; on a backend whose fast tier is the
 * host's memory, the matrices may be in the slow tier as well. Operations run in order, and one may return before it is
 * done: `wait` waits. Scratch comes from the pool's fast tier (tag workspace), as many bytes as the *_bytes functions say.
 *
 * Results do not depend on the number of threads or on any memory bound: work is cut into pieces of fixed size, and sums
 * are taken in a fixed order.
 */

#include <stddef.h>
#include <stdint.h>

#include "backend.h"

/* What the scale search found for one group of rows. */
struct group_scales {
    uint16_t scale_max;      /* fp16: q_scale_max as stored */
    float scale_unit;        /* h(scale_max / 256), widened */
};

/* C [m, n] = beta C + alpha op(A) B, fp32, row-major, device. op(A) is [m, k]; a transposed A is stored [k, m]. */
struct matrix_product {
    bool transpose_a;
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t a_stride, b_stride, c_stride;
};

struct quantize_ops {
    /* Upper triangle of h [K, K] += x^T x; x [rows, K]; both device. What lies below the diagonal is undefined then. */
    int (*hessian_add)(struct backend *backend, float *h, const float *x, size_t rows, size_t in_features,
                       struct plim_err *err);

    /* Upper triangle of h (device) /= row_count; none: the identity's diagonal instead. `diagonal` [K], host: as it is then. */
    int (*hessian_scale)(struct backend *backend, float *h, size_t in_features, uint64_t row_count, float *diagonal,
                         struct plim_err *err);

    /*
     * Lower triangle and diagonal of h = the matrix in the upper triangle with rows and columns taken in `order`, plus
     * `damping` on the diagonal. `diagonal` [K] holds H's own diagonal, which this overwrites in h. h is device, or in the
     * slow tier; the others are the host's.
     */
    int (*hessian_permute)(struct backend *backend, float *h, const float *diagonal, const uint16_t *order,
                           size_t in_features, float damping, struct plim_err *err);

    /*
     * Lower triangle of h: replaced by its Cholesky factor L. Returns 0, or 1 when the matrix is not positive definite
     * (the upper triangle is intact), or -1 with `err`.
     */
    int (*cholesky)(struct backend *backend, float *h, size_t in_features, struct plim_err *err);

    /* L in the lower triangle -> U = reversed L^-1 in the upper triangle, zeros below. Workspace: see scratch. */
    int (*invert_and_reverse)(struct backend *backend, float *h, size_t in_features, struct plim_err *err);

    /*
     * w [K, columns] (device, rows `stride` apart) = the layer's weights, widened: row i is input feature order[i] (host),
     * columns are the outputs, and zeros behind the last of them.
     */
    int (*gather_weights)(struct backend *backend, const struct linear_source *source, const uint16_t *order,
                          size_t columns, size_t stride, float *w, struct plim_err *err);

    /*
     * The scale search of one group (format notes, 6.5): w [rows, N] -> levels [N] in 1..16 and the group's maximum,
     * over 97 candidates with the error's 3.5th power. All device, `scales` too, here and below.
     */
    int (*scale_search)(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                        uint8_t *levels, struct group_scales *scales, struct plim_err *err);

    /*
     * Our own search: levels and maximum are chosen together, to the least sum over rows and columns of
     * (dequantised - w)^2 / U[r][r]^2. That is the error which is left once later rows have made up for what they can
     * (1 / U[r][r]^2 is the conditional second moment of input r), in the first order. Candidates: FIT_MAXIMA sizes of
     * the group's maximum, and for each of them the level that rounds a column's largest magnitude to its range and its
     * FIT_LEVELS - 1 neighbours. `u` as in quantise_rows; NULL: all rows weigh the same.
     */
    int (*fit_scales)(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                      const float *u, size_t u_stride, uint8_t *levels, struct group_scales *scales,
                      struct plim_err *err);

    /*
     * Quantises the rows of one group in order, spreading each row's error over the group's later rows (6.6):
     * w [rows, N] is consumed, codes [rows, N] written, errors [rows, N] = (w - dequantised) / U[c][c]. `u` points at
     * U[first][first], row stride `u_stride`; NULL: round to nearest, no errors.
     */
    int (*quantise_rows)(struct backend *backend, float *w, size_t rows, size_t out_features, unsigned bits,
                         const uint8_t *levels, const struct group_scales *scales, const float *u, size_t u_stride,
                         uint8_t *codes, float *errors, struct plim_err *err);

    /* rest [rest_rows, N] -= u^T errors; u [rows, rest_rows] with stride u_stride, errors [rows, N]. */
    int (*spread_errors)(struct backend *backend, float *rest, size_t rest_rows, size_t out_features, const float *u,
                         size_t u_stride, const float *errors, size_t rows, struct plim_err *err);

    /* Codes and levels of one group as they are stored: q_weight [rows * bits / 32, N], q_scale [N / 8], both device. */
    int (*pack_group)(struct backend *backend, const uint8_t *codes, const uint8_t *levels, size_t rows,
                      size_t out_features, unsigned bits, uint32_t *q_weight, uint32_t *q_scale, struct plim_err *err);

    /* The same sums for any number of threads. */
    int (*multiply)(struct backend *backend, const struct matrix_product *product, struct plim_err *err);

    /*
     * divergence [rows] (host) = KL(softmax(reference) || softmax(logits)) of each row, nats; both [rows, vocab], device. Sums
     * in double: between a model and itself with one block quantised it is 1e-4 and less.
     */
    int (*divergence)(struct backend *backend, const float *reference, const float *logits, size_t rows, size_t vocab,
                      double *divergence, struct plim_err *err);

    /* Returns when all that was asked for is done. NULL: an operation is done when it returns. */
    int (*wait)(struct backend *backend, struct plim_err *err);

    /* Bytes of scratch; NULL: none. `hessian_bytes`: of adding `rows` rows; `order_bytes`: of scaling and permuting. */
    size_t (*hessian_bytes)(size_t rows, size_t in_features);
    size_t (*order_bytes)(size_t in_features);
    size_t (*cholesky_bytes)(size_t in_features);
    size_t (*invert_bytes)(size_t in_features);
    size_t (*gather_bytes)(enum dtype dtype, size_t in_features, size_t columns);
    size_t (*search_bytes)(size_t out_features);
    size_t (*spread_bytes)(void);
};

/* NULL when the backend of that name has no quantizer. */
const struct quantize_ops *backend_quantize_ops(const char *name);

#endif
