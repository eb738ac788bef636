#ifndef PLIM_CPU_LINEAR_KERNELS_H
#define PLIM_CPU_LINEAR_KERNELS_H

/*
 * The inner loops of linear layers, one table for each ISA. linear_portable.c is the plain version that the others are
 * tested against: `fused` and `quantise` and `dequantise` bit for bit, the dot products within rounding.
 *
 * The fused product of one group of rows (the group's codes q, zero z, scales s[n]; activations x):
 *
 *     sum_i (q[i,n] - z) s[n] x[i]  ~  s[n] * x_scale * (sum_i q[i,n] xq[i]  -  z * sum_i xq[i])
 *
 * with xq = x / x_scale rounded to int16, x_scale = max|x| / 32767 over at most FUSED_BLOCK_ROWS rows of one group.
 * The sums are exact in int32 (128 rows * 255 * 32767 < 2^31), so every ISA has the same integers; the three roundings
 * after them (s * x_scale, the conversion, the fused multiply-add into y) are the same operations in the same order.
 * int16 codes of a block carry more of x than fp16 would: an error of at most max|x| * 2^-16 for each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/cpu.h"

/* Rows that share one x_scale. Also the largest number for which no 16-bit lane product sum of any kernel overflows. */
#define FUSED_BLOCK_ROWS 128

/* Blocks whose largest |x| is below this count as zero: 32767 / max would overflow soon after. */
#define FUSED_TINY 0x1p-100f

/*
 * Kernels take two codes out of one 32-bit word at once, as a pair of 16-bit lanes, so activations lie in pairs too.
 * fused_order[bits][j]: the row, within a unit of 32 rows, of activation j (j = 2 * pair + half). A row's two partners
 * are those whose codes an AND and one shift bring to the same place in both halves of a word (exl2 notes, 2.1):
 * 4 bits: rows 0 and 4, 1 and 5, ...; 3, 5 and 6 bits: see unpack_* in the AVX2 kernels, which draw the words.
 */
extern const uint8_t fused_order[9][32];

/* One group's block of at most FUSED_BLOCK_ROWS rows times `row_count` rows of activations. */
struct fused_block {
    unsigned bits;
    size_t rows;                   /* multiple of 32 */
    size_t columns;                /* multiple of 32 */
    const uint32_t *words;         /* [rows * bits / 32, columns] */
    size_t word_stride;
    const uint32_t *scale_codes;   /* [columns / 8]: eight 4-bit codes a word */
    float scale_unit;
    size_t row_count;              /* of x and y */
    const int16_t *x;              /* [row_count, rows] in fused_order */
    size_t x_stride;
    const float *x_scale;          /* [row_count] */
    const int32_t *x_offset;       /* [row_count]: -zero * sum of the block's xq */
    float *y;                      /* [row_count, columns], added to */
    size_t y_stride;
};

/* A rectangle of a matrix to expand: packed rows of one group, 32-aligned. */
struct dequant_block {
    unsigned bits;
    size_t rows;                   /* multiple of 32 */
    size_t columns;                /* multiple of 32 */
    const uint32_t *words;         /* [rows * bits / 32, columns] */
    size_t word_stride;
    const uint32_t *scale_codes;   /* [columns / 8] */
    float scale_unit;
    float *out;                    /* [rows, columns]: fp16 values, widened */
    size_t out_stride;
};

/* y[r, n] (+)= alpha * sum_k x[r, k] w[n, k]: stored dense weights, few rows. */
struct dense_block {
    const void *w;                 /* [columns, inner], any alignment */
    size_t inner;
    size_t columns;
    size_t row_count;
    const float *x;                /* [row_count, inner] */
    float *y;                      /* [row_count, columns] */
    size_t y_stride;
    float alpha;
    bool accumulate;
};

struct linear_kernels {
    /*
     * Gathers and quantises one block: out[j] = round(x[perm[row of j]] / scale), j in fused_order. *offset is
     * -zero * sum(out). A block of zeros has scale 0. x must be finite.
     */
    void (*quantise)(const float *x, const uint16_t *perm, size_t rows, unsigned bits, int16_t *out, float *scale,
                     int32_t *offset);
    void (*fused)(const struct fused_block *block);
    void (*dequantise)(const struct dequant_block *block);

    /* F32, F16, BF16: dot products, widening copies, and a search for NaN and infinity. */
    void (*dense[3])(const struct dense_block *block);
    void (*widen[3])(const void *from, size_t n, float *to);
    bool (*all_finite[3])(const void *values, size_t n);

    /* out[i] = x[perm[i]] */
    void (*gather)(const float *x, const uint16_t *perm, size_t n, float *out);
};

extern const struct linear_kernels linear_kernels_portable;
extern const struct linear_kernels linear_kernels_avx2;
extern const struct linear_kernels linear_kernels_avx512;

const struct linear_kernels *linear_kernels(enum plim_isa isa);

#endif
