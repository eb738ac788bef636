#ifndef PLIM_CPU_LINEAR_H
#define PLIM_CPU_LINEAR_H

/*
 * Linear layers on the CPU: y = x W (+ bias), the five entries of the backend's table that carry nearly all the work.
 *
 * Three ways through a matrix, chosen by `rows` and the parameters:
 *
 *   fused    EXL2, rows <= dq_rows (and what dq_mode=gated keeps out): integer dot products straight from the packed
 *            codes, linear_fused.c. Bytes read: the packed weights, once for each FUSED_TILE_ROWS rows.
 *   dots     dense, rows <= min(dq_rows, 32): the stored weights are widened in registers, linear_dense.c.
 *   chunked  rows > dq_rows: [chunk_rows, chunk_columns] of W as fp32 in a buffer of at most max_dq_size elements, and
 *            OpenBLAS sgemm; dense fp32 weights need no buffer. linear_chunked.c.
 *
 * Memory, beside what matrix_init keeps (tag weights): a call allocates at most one block tagged dequant (the chunk:
 * 4 bytes for each element that will be used, never the limit itself) and one tagged workspace (quantised or gathered
 * activations), and frees both. cpu_linear_scratch says how much, to the byte. Neither depends on the thread count.
 * OpenBLAS maps a packing buffer for each thread that calls it, outside the pool; see blas.h.
 *
 * Speed: with AVX2 the fused path is the faster one for any number of rows (integer products of 16 lanes against fp32
 * ones of 8). 512 rows, one Zen 3 core of 3.2 GHz, in GFLOP/s of processor time (bench_linear fused, prefill): fused 122
 * to 133 with groups of 128 rows and 104 to 110 with groups of 32, chunks 85 to 88, sgemm on ready weights 91. Ceilings
 * there: fp32 multiply-adds 102, the fused inner loop from first-level cache 160 (a product and a sum are two
 * instructions for 16 lanes); taking codes out, and a multiply-add a group into y, are what lies between.
 *
 * Results: the fused path gives the same bits for every ISA and thread count. The chunked path is the same within
 * floating-point reassociation for every chunk size; sgemm decides its bits.
 *
 * Counters: none depends on the thread count. weight_bytes_read counts stored codes and scales (or dense weights) of
 * each pass over the matrix; dequant_chunks the pieces that pass through the dequant buffer.
 */

#include "backend.h"

int cpu_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                    struct plim_err *err);
void cpu_matrix_release(struct backend *backend, struct matrix *matrix);

int cpu_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
               bool accumulate, struct plim_err *err);

size_t cpu_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters);
size_t cpu_matrix_mapped_bytes(const struct linear_shape *shape);
struct linear_scratch cpu_linear_scratch(const struct linear_shape *shape, size_t rows,
                                         const struct plim_parameters *parameters);

#endif
