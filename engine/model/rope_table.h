#ifndef PLIM_ROPE_TABLE_H
#define PLIM_ROPE_TABLE_H

/*
 * Rotary position embedding: frequencies of a model, and the table of cosines and sines for one chunk of tokens.
 *
 * The table covers a chunk, not the whole context: a context of 131072 tokens would hold 64 MiB for head_dim 128, and
 * computing the 64 pairs that a decoded token needs takes about two microseconds. A backend may make it where it is.
 */

#include <stddef.h>

#include "backend.h"

struct rope {
    double *inv_freq;        /* [head_dim / 2], pool memory tagged metadata */
    double sin_cos_factor;   /* YaRN's attention factor; 1 for the others */
};

int rope_init(struct rope *rope, struct plim_pool *pool, const struct rope_config *config, size_t head_dim,
              struct plim_err *err);
void rope_release(struct rope *rope, struct plim_pool *pool);

/*
 * Writes the table of positions first .. first + rows - 1 to `table` [rows, head_dim], device: per row head_dim / 2
 * cosines, then as many sines. Angles are computed in fp64, so position 100000 is as exact as position 1.
 */
int rope_table(const struct rope *rope, struct backend *backend, size_t first, size_t rows, size_t head_dim,
               float *table, struct plim_err *err);

#endif
