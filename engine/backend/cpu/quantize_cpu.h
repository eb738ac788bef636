#ifndef PLIM_QUANTIZE_CPU_H
#define PLIM_QUANTIZE_CPU_H

/* The quantizer's operations on the CPU, as in quantize_ops.h. hessian.c, cholesky.c, gather.c, gptq.c, divergence.c. */

#include "quantize_ops.h"

extern const struct quantize_ops cpu_quantize_ops;

int cpu_hessian_add(struct backend *backend, float *h, const float *x, size_t rows, size_t in_features,
                    struct plim_err *err);
int cpu_hessian_scale(struct backend *backend, float *h, size_t in_features, uint64_t row_count, float *diagonal,
                      struct plim_err *err);
int cpu_hessian_permute(struct backend *backend, float *h, const float *diagonal, const uint16_t *order,
                        size_t in_features, float damping, struct plim_err *err);
int cpu_cholesky(struct backend *backend, float *h, size_t in_features, struct plim_err *err);
int cpu_invert_and_reverse(struct backend *backend, float *h, size_t in_features, struct plim_err *err);
size_t cpu_invert_bytes(size_t in_features);
int cpu_gather_weights(struct backend *backend, const struct linear_source *source, const uint16_t *order, size_t columns,
                       size_t stride, float *w, struct plim_err *err);
int cpu_scale_search(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                     uint8_t *levels, struct group_scales *scales, struct plim_err *err);
int cpu_fit_scales(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                   const float *u, size_t u_stride, uint8_t *levels, struct group_scales *scales, struct plim_err *err);
int cpu_quantise_rows(struct backend *backend, float *w, size_t rows, size_t out_features, unsigned bits,
                      const uint8_t *levels, const struct group_scales *scales, const float *u, size_t u_stride,
                      uint8_t *codes, float *errors, struct plim_err *err);
int cpu_spread_errors(struct backend *backend, float *rest, size_t rest_rows, size_t out_features, const float *u,
                      size_t u_stride, const float *errors, size_t rows, struct plim_err *err);
int cpu_divergence(struct backend *backend, const float *reference, const float *logits, size_t rows, size_t vocab,
                   double *divergence, struct plim_err *err);

#endif
