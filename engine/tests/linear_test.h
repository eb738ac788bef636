#ifndef PLIM_LINEAR_TEST_H
#define PLIM_LINEAR_TEST_H

/* What the tests of linear layers on the CPU share: a backend, and checked products. */

#include <stdbool.h>

#include "backend.h"
#include "plimsoll/cpu.h"
#include "plimsoll/pool.h"
#include "test_layers.h"

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
