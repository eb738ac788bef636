#ifndef PLIM_CUDA_LINEAR_H
#define PLIM_CUDA_LINEAR_H

/*
 * Linear layers on CUDA: y = x W (+ bias). The entries of the backend's table are declared in cuda_internal.h; this is
 * what the files behind them share.
 *
 * Ways through a matrix, chosen by its shape, `rows`, the parameters and whether the device has wgmma, and by nothing
 * else, so that memory can be predicted anywhere and results repeat:
 *
 *   fused    EXL2, up to dq_rows rows (auto: wherever it is the faster one): straight from the packed codes, in registers. On
 *            compute capability 9.0 many rows go through linear_wgmma.cu, which needs no dequant buffer at any max_dq_size
 *            and also takes over where chunks would be too small for cuBLAS; few rows, other devices, and matrices that
 *            dq_mode=gated may not expand, through linear_few.cu, LINEAR_MAX_FUSED_ROWS rows at a time (one row is
 *            gathered by the kernel itself).
 *   chunked  EXL2, more rows: columns of W are expanded to fp16 in two buffers, of max_dq_size elements together, while
 *            cuBLAS multiplies the columns before them. linear_chunked.c.
 *   dots     dense, up to LINEAR_DENSE_ROWS rows: linear_dense.cu.
 *   product  dense, more rows: cuBLAS on the stored weights; x in their type (bf16: as the sum of two).
 *
 * Memory: matrix_init keeps one device block (tag weights). A call takes at most one block tagged dequant and one tagged
 * workspace, and frees both.
 */

#include "cuda_internal.h"
#include "linear_kernels.h"

/* matrix.impl, in host memory. */
struct cuda_matrix {
    bool is_exl2;
    struct linear_tiles tiles;     /* EXL2 */
    enum dtype dtype;              /* dense */
    void *weight;                  /* dense: [out_features, in_features], device */
    float alpha;                   /* dense: prescale */
    float *bias;                   /* device, [out_features], or NULL */
    uint64_t order_digest;         /* of EXL2's permutation of rows; matrices that share it take the same x. Dense: 0 */
    size_t stored_bytes;           /* codes and scales, or dense weights: what one pass reads */
    void *block;                   /* device: all of the above */
};

enum cuda_linear_path {
    CUDA_LINEAR_TILES,             /* fused, in linear_few.cu */
    CUDA_LINEAR_WIDE,              /* fused, in linear_wgmma.cu */
    CUDA_LINEAR_CHUNKED,
    CUDA_LINEAR_DOTS,
    CUDA_LINEAR_PRODUCT
};

/* What a decision hangs on. */
struct cuda_linear_shape {
    bool is_exl2;
    enum dtype dtype;
    size_t in_features, out_features, stored_out_features;
    size_t rows;
    bool x_ready;                  /* x comes as fp16 in the order that the path reads */
    bool has_bias;
};

/*
 * Whether linear_wgmma can run: on the device that is used, or the first of several, which are alike (cuda_linear_open). The
 * one thing that hangs on the device, with what follows from it for memory; without a device the answer is that of the
 * cards that have it.
 */
bool cuda_linear_has_wgmma(const struct plim_parameters *parameters);

enum cuda_linear_path cuda_linear_path(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters);

/* One call of cuda_linear. */
struct cuda_linear_call {
    struct backend *backend;
    const struct cuda_matrix *matrix;
    struct cuda_linear_shape shape;
    const float *x;
    const uint16_t *x_half;        /* shape.x_ready: instead of x */
    float *y;
    uint16_t *y_half;              /* not NULL: fp16, instead of y; nothing is added to it */
    bool accumulate;
};

/*
 * Whether a product of these rows can take x as fp16, and in which order of columns; whether it can also give y as fp16, with
 * one rounding.
 */
bool cuda_linear_takes_halves(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters,
                              enum linear_order *order);
bool cuda_linear_gives_halves(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters);

/* What is to be known of a matrix that was made ready, and of one that is only planned, for so many rows. */
struct cuda_linear_shape cuda_linear_shape_of(const struct matrix *matrix, size_t rows);
struct cuda_linear_shape cuda_linear_shape_planned(const struct linear_shape *shape, size_t rows);

/*
 * y (+)= x W (+ bias) of such halves; y_half not NULL: written instead of y. For matrices that read the same x: one x, rows
 * and accumulate for all, and one launch where that can be.
 */
struct cuda_halves {
    const uint16_t *x;             /* [rows, in_features], in that order */
    size_t rows;
    float *y;
    uint16_t *y_half;
    bool accumulate;
};
int cuda_linear_halves(struct backend *backend, const struct matrix *const *matrices, const struct cuda_halves *halves,
                       size_t count, struct plim_err *err);

/* ---- linear_chunked.c ---- */

/* The pieces that a matrix is expanded in: columns [chunk_columns] by packed rows [chunk_rows], multiples of 32. */
struct cuda_chunk_plan {
    size_t chunk_rows, chunk_columns;
    size_t buffer_elements;        /* of one buffer */
    size_t buffer_count;           /* 1 or 2; together at most max_dq_size elements */
    size_t chunk_count;
};
struct cuda_chunk_plan cuda_chunk_plan(size_t in_features, size_t stored_out_features, size_t max_elements);

struct linear_scratch cuda_chunked_scratch(const struct cuda_linear_shape *shape,
                                           const struct plim_parameters *parameters);
int cuda_chunked_linear(const struct cuda_linear_call *call, struct plim_err *err);

/* ---- linear_dense.c ---- */

struct linear_scratch cuda_dense_scratch(const struct cuda_linear_shape *shape);
int cuda_dense_linear(const struct cuda_linear_call *call, struct plim_err *err);

/* cuBLAS scratch of one stream. Products here never split their inner dimension far enough to want more. */
#define CUDA_LINEAR_BLAS_BYTES ((size_t)4 << 20)

/* Offsets within a block of device memory. */
#define CUDA_LINEAR_ALIGN ((size_t)256)

#endif
