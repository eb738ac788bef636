#ifndef TEST_CUDA_LAYERS_H
#define TEST_CUDA_LAYERS_H

/*
 * Linear layers for the tests of the CUDA backend: made up, with their weights decoded beside them, so that products can be
 * checked in double precision.
 */

#include "test_cuda.h"

/* A layer with everything that it points to, and its weights decoded. */
struct layer {
    struct linear_source source;
    struct linear_shape shape;
    double *w;                  /* [in_features, stored_out_features] */
    double *bias;               /* [out_features] or NULL */
    void *owned[10];
    int owned_count;
};

/* Groups of one width each; the list ends with bits 0. */
struct group_spec {
    unsigned bits, rows;
};

/* Widths mixed, sizes from 32 up, sizes that change within a width, short last groups: 864 rows. */
extern const struct group_spec layer_mixed[];

/* Every other group's scales are subnormal. */
void layer_exl2(struct layer *layer, const struct group_spec *groups, size_t out, float prescale, bool bias, uint64_t seed);

/* Prescale 0.5. */
void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, bool bias, uint64_t seed);
void layer_free(struct layer *layer);

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
