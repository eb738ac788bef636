#ifndef PLIM_CPU_LINEAR_INTERNAL_H
#define PLIM_CPU_LINEAR_INTERNAL_H

/* What the files of linear.h share. */

#include "cpu.h"
#include "linear.h"
#include "linear_kernels.h"

/* matrix.impl */
struct cpu_matrix {
    const struct linear_kernels *kernels;
    bool is_exl2;
    struct exl2_matrix exl2;
    enum dtype dtype;              /* dense */
    const void *weight;            /* dense: [out_features, in_features], mapped */
    float alpha;                   /* dense: prescale */
    float *bias;                   /* [out_features] or NULL */
    size_t stored_out_features;
    size_t stored_bytes;           /* codes and scales, or dense weights: what one pass reads */
    size_t mapped_bytes;           /* of these; the rest was copied */
};

/* One call of cpu_linear. */
struct linear_call {
    struct backend *backend;
    const struct cpu_matrix *matrix;
    size_t in_features, out_features;
    const float *x;
    size_t rows;
    float *y;
    bool accumulate;
};

/* How a call goes; decided by the shape, the rows and the parameters alone, so that it can be predicted. */
enum linear_path { LINEAR_FUSED, LINEAR_DOTS, LINEAR_CHUNKED };
enum linear_path linear_path(bool is_exl2, size_t in_features, size_t stored_out_features, size_t rows,
                             const struct plim_parameters *parameters);

/* Cuts `columns` into pieces of multiples of `step` for the team; small work does not fan out (cpu.h). */
void linear_run(const struct linear_call *call, size_t columns, size_t step, threads_body *body, void *context);

/* y += bias over a rectangle, where there is one; the last step of each piece of work, while y is in cache. */
void linear_add_bias(const struct linear_call *call, size_t row, size_t rows, size_t begin, size_t end);

/* ---- linear_fused.c ---- */

/*
 * Rows of x that go through the packed weights at once; more rows are done in tiles. Codes are taken out of the words
 * once a tile, and the kernels take six rows at a time (TILE_ROWS): 32 rows were 10 to 15% slower than 48 on Zen 3, 96
 * were 2% faster on groups of 32 rows, slower on others, and would hold twice the workspace.
 */
#define FUSED_TILE_ROWS 48

size_t fused_workspace_bytes(size_t in_features, size_t group_count, size_t rows);
int fused_linear(const struct linear_call *call, struct plim_err *err);

/* ---- linear_dense.c ---- */

void dense_linear(const struct linear_call *call);

/* ---- linear_chunked.c ---- */

/*
 * The pieces that a matrix is expanded in: [chunk_rows, chunk_columns] of W [rows, columns], each at most max_dq_size
 * elements, never empty.
 */
struct chunk_plan {
    size_t chunk_rows, chunk_columns;
    size_t buffer_elements;        /* chunk_rows * chunk_columns */
    size_t chunk_count;
};
struct chunk_plan chunk_plan(size_t rows, size_t columns, size_t max_elements);

int chunked_linear(const struct linear_call *call, struct plim_err *err);

#endif
