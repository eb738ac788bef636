#ifndef PLIM_GPTQ_KERNELS_H
#define PLIM_GPTQ_KERNELS_H

/*
 * The inner loops of GPTQ, over tiles of at most GPTQ_TILE columns. Written once in gptq_kernels_body.h as plain loops
 * over columns, and compiled for each instruction set, since the compiler vectorises them well.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/cpu.h"

#define GPTQ_TILE 64
#define GPTQ_CANDIDATES 97

/* The i-th factor tried: 0.70 to 1.20 in 96 steps. */
static inline float gptq_candidate(int i)
{
    float t = (float)i / 96.0f;
    return 0.70f * (1.0f - t) + 1.20f * t;
}

/*
 * Our own search: sizes of the group's maximum that are tried, from 0.70 of the largest column's range in steps of 0.05. Past 1 only the
 * grid of levels below it moves.
 */
#define FIT_MAXIMA 8
#define FIT_FIRST 0.70f
#define FIT_STEP 0.05f
/* Levels tried for each column: the one that rounds its range, the next larger and three smaller ones. */
#define FIT_LEVELS_BELOW 3
#define FIT_LEVELS_ABOVE 1

struct gptq_kernels {
    /* max over rows of |w|, one a column. */
    void (*column_max)(const float *w, size_t stride, size_t rows, size_t columns, float *max);

    /*
     * sums[i] = sum over the tile of |clamp(rint(w / s), -zero, max_code - zero) * s - w|^3.5 with s the column's
     * scale times candidate i.
     */
    void (*search)(const float *w, size_t stride, size_t rows, size_t columns, unsigned bits, const float *scales,
                   double sums[GPTQ_CANDIDATES]);

    /*
     * errors[n] = sum over rows of ((clamp(rint(w / s), -zero, max_code - zero) * s - w) / U[r][r])^2, s = scales[n];
     * u NULL: without the division.
     */
    void (*weighted_error)(const float *w, size_t stride, size_t rows, size_t columns, unsigned bits,
                           const float *scales, const float *u, size_t u_stride, float *errors);

    /* As quantise_rows in quantize_ops.h, for one tile; scales [columns] are the stored ones, widened. */
    void (*quantise)(float *w, size_t stride, size_t rows, size_t columns, unsigned bits, const float *scales,
                     const float *u, size_t u_stride, uint8_t *codes, float *errors);
};

extern const struct gptq_kernels gptq_kernels_portable;
extern const struct gptq_kernels gptq_kernels_avx2;
extern const struct gptq_kernels gptq_kernels_avx512;

const struct gptq_kernels *gptq_kernels_for(enum plim_isa isa);

#endif
