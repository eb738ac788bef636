/*
 * The loops of gptq_kernels.h. The including file defines GPTQ_TABLE (the table's name) and
 * round_to_half(float *x, size_t n), which rounds n numbers to fp16 and widens them again.
 */

#include <math.h>
#include <string.h>

#include "gptq_kernels.h"

static void column_max(const float *w, size_t stride, size_t rows, size_t columns, float *max)
{
    memset(max, 0, columns * sizeof *max);
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < columns; n++) {
            float magnitude = fabsf(w[r * stride + n]);
            max[n] = magnitude > max[n] ? magnitude : max[n];
        }
}

/* Rows are summed in fp32 over at most this many rows before they join the double sum. */
#define SEARCH_ROWS 128

static void search_candidate(const float *w, size_t stride, size_t rows, size_t columns, float zero, float highest,
                             const float *scales, float candidate, double *sum)
{
    float scale[GPTQ_TILE], inverse[GPTQ_TILE], total[GPTQ_TILE] = { 0 };
    for (size_t n = 0; n < columns; n++) {
        scale[n] = scales[n] * candidate;
        inverse[n] = 1.0f / scale[n];
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < columns; n++) {
            float value = w[r * stride + n];
            float q = rintf(value * inverse[n]);
            q = q < highest ? q : highest;
            q = q > -zero ? q : -zero;
            float d = fabsf(q * scale[n] - value);
            total[n] += d * d * d * sqrtf(d);
        }
    for (size_t n = 0; n < columns; n++)
        *sum += (double)total[n];
}

static void search(const float *w, size_t stride, size_t rows, size_t columns, unsigned bits, const float *scales,
                   double sums[GPTQ_CANDIDATES])
{
    float zero = (float)(1u << (bits - 1)), highest = zero - 1.0f;
    for (int i = 0; i < GPTQ_CANDIDATES; i++) {
        sums[i] = 0;
        for (size_t r = 0; r < rows; r += SEARCH_ROWS) {
            size_t count = rows - r < SEARCH_ROWS ? rows - r : SEARCH_ROWS;
            search_candidate(w + r * stride, stride, count, columns, zero, highest, scales, gptq_candidate(i),
                             &sums[i]);
        }
    }
}

static void weighted_error(const float *w, size_t stride, size_t rows, size_t columns, unsigned bits,
                           const float *scales, const float *u, size_t u_stride, float *errors)
{
    float zero = (float)(1u << (bits - 1)), highest = zero - 1.0f;
    float inverse[GPTQ_TILE], total[GPTQ_TILE] = { 0 };
    for (size_t n = 0; n < columns; n++)
        inverse[n] = scales[n] > 0.0f ? 1.0f / scales[n] : 0.0f;
    for (size_t r = 0; r < rows; r++) {
        float diagonal = u ? u[r * u_stride + r] : 1.0f, weight = 1.0f / (diagonal * diagonal);
        for (size_t n = 0; n < columns; n++) {
            float value = w[r * stride + n];
            float q = rintf(value * inverse[n]);
            q = q < highest ? q : highest;
            q = q > -zero ? q : -zero;
            float d = q * scales[n] - value;
            total[n] += weight * d * d;
        }
    }
    memcpy(errors, total, columns * sizeof *errors);
}

/*
 * Errors of rows are spread over the rows of the same block at once, over later ones a block at a time: those are then
 * read and written once a block, not once a row, and every element still takes its subtractions in the order of rows. A
 * block is worked on in a copy, since rows that lie a power of two apart share the cache's few lines.
 */
#define QUANTISE_BLOCK 16

/* 8 columns: a register of AVX2, two where there is less. Wider ones GCC 12 keeps in memory. */
typedef float column_vector __attribute__((vector_size(32), aligned(4), may_alias));
enum { VECTOR_COLUMNS = 8, VECTORS = 4 };

/* target [columns] -= sum over `count` rows of factors[r * factor_stride] errors[r], columns a multiple of 32. */
static void subtract_errors(float *target, const float *errors, size_t stride, size_t columns, const float *factors,
                            size_t factor_stride, size_t count)
{
    for (size_t n = 0; n < columns; n += VECTORS * VECTOR_COLUMNS) {
        column_vector *t = (column_vector *)(target + n);
        column_vector t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
        for (size_t r = 0; r < count; r++) {
            const column_vector *error = (const column_vector *)(errors + r * stride + n);
            float factor = factors[r * factor_stride];
            t0 -= factor * error[0];
            t1 -= factor * error[1];
            t2 -= factor * error[2];
            t3 -= factor * error[3];
        }
        t[0] = t0;
        t[1] = t1;
        t[2] = t2;
        t[3] = t3;
    }
}

/* One row to codes; its dequantised values, not rounded to half yet. */
static void round_row(const float *row, size_t columns, const float *scales, float zero, float highest, uint8_t *code,
                      float *dequantised)
{
    for (size_t n = 0; n < columns; n++) {
        /* A zero scale divides to NaN or infinity: NaN becomes the highest code, as the reference has it. */
        float q = rintf(row[n] / scales[n]) + zero;
        q = q < highest ? q : highest;
        q = q > 0.0f ? q : 0.0f;
        code[n] = (uint8_t)(int)q;
        dequantised[n] = (q - zero) * scales[n];
    }
}

static void quantise(float *w, size_t stride, size_t rows, size_t columns, unsigned bits, const float *scales,
                     const float *u, size_t u_stride, uint8_t *codes, float *errors)
{
    float zero = (float)(1u << (bits - 1)), highest = 2.0f * zero - 1.0f;
    float dequantised[GPTQ_TILE], block[QUANTISE_BLOCK][GPTQ_TILE], error[QUANTISE_BLOCK][GPTQ_TILE];

    for (size_t r = 0; !u && r < rows; r++)
        round_row(w + r * stride, columns, scales, zero, highest, codes + r * stride, dequantised);
    for (size_t first = 0; u && first < rows; first += QUANTISE_BLOCK) {
        size_t count = rows - first < QUANTISE_BLOCK ? rows - first : QUANTISE_BLOCK;
        for (size_t r = 0; r < count; r++)
            memcpy(block[r], w + (first + r) * stride, columns * sizeof *w);
        for (size_t r = 0; r < count; r++) {
            const float *factors = u + (first + r) * u_stride + first;
            float diagonal = factors[r];
            round_row(block[r], columns, scales, zero, highest, codes + (first + r) * stride, dequantised);
            round_to_half(dequantised, columns);
            for (size_t n = 0; n < columns; n++)
                error[r][n] = (block[r][n] - dequantised[n]) / diagonal;
            for (size_t later = r + 1; later < count; later++)
                subtract_errors(block[later], error[r], GPTQ_TILE, columns, factors + later, u_stride, 1);
            memcpy(errors + (first + r) * stride, error[r], columns * sizeof *errors);
        }
        for (size_t later = first + count; later < rows; later++)
            subtract_errors(w + later * stride, error[0], GPTQ_TILE, columns, u + first * u_stride + later, u_stride,
                            count);
    }
}

const struct gptq_kernels GPTQ_TABLE = { column_max, search, weighted_error, quantise };
