#ifndef PLIM_TEST_LAYERS_H
#define PLIM_TEST_LAYERS_H

/* Linear layers for tests: made up, with their weights decoded beside them, so that products can be checked in double. */

#include <stdbool.h>

#include "backend.h"

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

/* Widths mixed, sizes from 32 up, over a block and not a multiple of one, sizes that change within a width, short last groups. */
extern const struct group_spec mixed_groups[];
enum { MIXED_IN = 864 };

/* `out` columns, stored as a multiple of 32. Every other group's scales are subnormal. */
void layer_exl2(struct layer *layer, const struct group_spec *groups, size_t out, float prescale, bool bias, uint64_t seed);
void layer_dense(struct layer *layer, enum dtype dtype, size_t in, size_t out, float prescale, bool bias, uint64_t seed);
void layer_free(struct layer *layer);

/* Zeroed memory that the layer frees, and its weights `w` from source.exl2: for layers made elsewhere. */
void *layer_own(struct layer *layer, size_t bytes);
void layer_decode(struct layer *layer);

#endif
