#ifndef PLIM_QUANTIZE_CUDA_H
#define PLIM_QUANTIZE_CUDA_H

/*
 * The quantizer's operations on CUDA, as in quantize_ops.h: quantize_hessian.cu (accumulation, permutation),
 * quantize_factor.cu (Cholesky factor and its inverse), quantize_gather.cu (the working copy), quantize_search.cu
 * (scales: ExLlamaV2's search and our own), quantize_rows.cu (codes, errors, packing), quantize_divergence.cu;
 * quantize_cuda.c has the table.
 *
 * Everything is queued on the backend's stream; only what returns something to the host waits. Sums are cut by shapes
 * alone and nothing is added by atomic operations, so the bits are the same in every run on one kind of card.
 */

#include "cuda_internal.h"
#include "cuda_libraries.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct quantize_ops cuda_quantize_ops;

int cuda_hessian_add(struct backend *backend, float *h, const float *x, size_t rows, size_t in_features,
                     struct plim_err *err);
int cuda_hessian_scale(struct backend *backend, float *h, size_t in_features, uint64_t row_count, float *diagonal,
                       struct plim_err *err);
int cuda_hessian_permute(struct backend *backend, float *h, const float *diagonal, const uint16_t *order,
                         size_t in_features, float damping, struct plim_err *err);
int cuda_cholesky(struct backend *backend, float *h, size_t in_features, struct plim_err *err);
int cuda_invert_and_reverse(struct backend *backend, float *h, size_t in_features, struct plim_err *err);
int cuda_gather_weights(struct backend *backend, const struct linear_source *source, const uint16_t *order,
                        size_t columns, size_t stride, float *w, struct plim_err *err);
int cuda_scale_search(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                      uint8_t *levels, struct group_scales *scales, struct plim_err *err);
int cuda_fit_scales(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                    const float *u, size_t u_stride, uint8_t *levels, struct group_scales *scales, struct plim_err *err);
int cuda_quantise_rows(struct backend *backend, float *w, size_t rows, size_t out_features, unsigned bits,
                       const uint8_t *levels, const struct group_scales *scales, const float *u, size_t u_stride,
                       uint8_t *codes, float *errors, struct plim_err *err);
int cuda_spread_errors(struct backend *backend, float *rest, size_t rest_rows, size_t out_features, const float *u,
                       size_t u_stride, const float *errors, size_t rows, struct plim_err *err);
int cuda_pack_group(struct backend *backend, const uint8_t *codes, const uint8_t *levels, size_t rows,
                    size_t out_features, unsigned bits, uint32_t *q_weight, uint32_t *q_scale, struct plim_err *err);
int cuda_divergence(struct backend *backend, const float *reference, const float *logits, size_t rows, size_t vocab,
                    double *divergence, struct plim_err *err);

/* Bytes of scratch, as in quantize_ops.h. */
size_t cuda_hessian_bytes(size_t rows, size_t in_features);
size_t cuda_order_bytes(size_t in_features);
size_t cuda_factor_bytes(size_t in_features);
size_t cuda_gather_bytes(enum dtype dtype, size_t in_features, size_t columns);
size_t cuda_search_bytes(size_t out_features);
size_t cuda_spread_bytes(void);

/*
 * C [m, n] = beta C + alpha op(A) op(B), fp32, all row-major, queued on the backend's stream. op(A) is [m, k], op(B) [k, n]; a
 * transposed operand is stored the other way round.
 */
struct product {
    bool transpose_a, transpose_b;
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t a_stride, b_stride, c_stride;
};

/* `workspace`: device, CUDA_BLAS_WORKSPACE_BYTES, for as long as the product may run. */
int quantize_product(struct backend *backend, void *workspace, const struct product *product, struct plim_err *err);

/* rows x columns of fp32 from one matrix to another, on the stream. */
int quantize_copy(struct backend *backend, float *to, size_t to_stride, const float *from, size_t from_stride,
                  size_t rows, size_t columns, struct plim_err *err);

#ifdef __cplusplus
}
#endif

#endif
