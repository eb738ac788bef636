#ifndef PLIM_LINEAR_TEST_H
#define PLIM_LINEAR_TEST_H

/* What the tests of linear layers share: a backend, layers with their weights in double precision, checked products. */

#include <stdbool.h>

#include "backend.h"
#include "plimsoll/cpu.h"
#include "plimsoll/pool.h"

struct linear_rig {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
};

/* dq_rows is 32, so that moderate numbers of rows expand chunks. */
void linear_rig_open(struct linear_rig *rig, enum plim_isa isa, int threads);
/* Nothing may have leaked. */
void linear_rig_close(struct linear_rig *rig);
enum plim_isa best_isa(void);

/* ---- layers ---- */

/* A layer with everything that it points to, and its weights decoded in double precision. */
struct layer {
    struct linear_source source;
    struct linear_shape shape;
    double *w;                  /* [in_features, stored_out_features] */
    double *bias;               /* [out_features] or NULL */
    void *owned[8];
    int owned_count;
};

struct group_spec {
    unsigned bits, rows;
};

/* Groups end with bits 0. The result has `out` columns, stored as a multiple of 32. */
void layer_exl2(struct layer *layer, struct linear_rig *rig, const struct group_spec *groups, size_t out, bool bias,
                uint64_t seed);
void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, float prescale, uint64_t seed);
void layer_free(struct layer *layer);

/* Zeroed memory that the layer frees, and its weights `w` from source.exl2: for layers made elsewhere. */
void *layer_own(struct layer *layer, size_t bytes);
void layer_decode(struct layer *layer, struct linear_rig *rig);

/* Widths mixed, sizes from 32 up, over a block and not a multiple of one, short last group. */
extern const struct group_spec mixed_groups[];
enum { MIXED_IN = 864 };

/* ---- products ---- */

float *some_inputs(size_t n, uint64_t seed);   /* free() */
void layer_init(struct linear_rig *rig, struct matrix *matrix, const struct layer *layer);

/* y = x W, and the scratch it took is what was predicted. */
void layer_product(struct linear_rig *rig, const struct layer *layer, const struct matrix *matrix, const float *x,
                   size_t rows, float *y, bool accumulate);

/* Every y[r, n] is within the error that its path may have of the product in double precision. */
void layer_check_product(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before,
                         bool fused, const char *what);

#endif
