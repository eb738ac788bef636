#ifndef PLIM_BENCH_CUDA_PRODUCTS_H
#define PLIM_BENCH_CUDA_PRODUCTS_H

/*
 * The linear layers of a whole model, one product after the other as a prompt has them, and the same products by cuBLAS on
 * weights that are ready in fp16: what bench_cuda_prefill compares a prompt with.
 *
 * Both go through all layers without a pause, on weights of their own for each layer, so that clocks and power are those of a
 * long run. x is the same random fp16 [rows, widest input] for all; weights are those of the model, expanded.
 */

#include <stdbool.h>
#include <stddef.h>

struct plim_model;

enum products_kind {
    PRODUCTS_OURS,           /* from packed weights; outputs as the model wants them: fp32, added onto fp32, or fp16 */
    PRODUCTS_BLAS_HALVES,    /* cuBLAS, fp16 in and out, sums in fp32: the fastest that it has */
    PRODUCTS_BLAS_AS_OURS,   /* cuBLAS with the outputs of the first */
};

struct products;

/* NULL: not all of the model's layers take fp16 activations at so many rows, and there is nothing to compare. */
struct products *products_open(const struct plim_model *model, size_t rows);
void products_close(struct products *products);

/* Milliseconds of all layers' products, the mean of `times` in a row. */
double products_ms(struct products *products, enum products_kind kind, int times);

#endif
