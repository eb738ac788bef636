#ifndef PLIM_STATES_H
#define PLIM_STATES_H

/*
 * Hidden states of all calibration rows, [rows][length, width] fp32, in the slow tier: the spill file holds them and the
 * process keeps only the row that it works on.
 *
 * fp32 and not fp16: a state is read and rewritten once a block, and rounding it each time would put an error into every
 * block's input that inference doesn't have. The spill file pays for it, 2 x 4 bytes an element: 472 MB a set for 100
 * rows of 2048 tokens of SmolLM2-135M, 3.4 GB for a width of 4096.
 */

#include <stddef.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

struct states {
    struct plim_pool *pool;
    size_t rows, length, width;
    float **row;                /* [rows] */
};

/* Allocates (tag calibration). On failure nothing is left. */
int states_open(struct states *states, struct plim_pool *pool, size_t rows, size_t length, size_t width,
                struct plim_err *err);
/* Also on zero bytes. */
void states_close(struct states *states);

/* Takes a row that was worked on out of the resident set, where a file holds its contents. */
void states_set_aside(struct states *states, size_t row);

/*
 * All rows in one file that is either whole or not there. Loading wants the shape that the states have; a file of another
 * one or of another length is an error (kind input), before any row has changed.
 */
int states_save(struct states *states, const char *path, struct plim_err *err);
int states_load(struct states *states, const char *path, struct plim_err *err);
/* Whether a file could be loaded, without loading it. */
int states_check(const struct states *states, const char *path, struct plim_err *err);

#endif
