#ifndef TEST_CUDA_LAYERS_H
#define TEST_CUDA_LAYERS_H

/* Linear layers on the CUDA backend, and their products in double precision. */

#include "test_cuda.h"
#include "test_layers.h"

/* matrix_init; what it takes from the pool is what was predicted. */
void layer_init(struct cuda_fixture *f, struct matrix *matrix, const struct layer *layer);

/* y = x W (+ bias) in double precision, [rows, out_features]; free(). */
double *layer_product(const struct layer *layer, const double *x, size_t rows);

/*
 * Relative error of y, as ||y - expected|| / ||expected||: activations are rounded to fp16, half a unit in 2^-11 at most,
 * and so may weights be; such errors hardly add up. NaN never passes.
 */
#define HALF_ERROR 6e-4
void check_relative(const float *y, const double *expected, size_t n, double most, const char *what, size_t rows);

#endif
