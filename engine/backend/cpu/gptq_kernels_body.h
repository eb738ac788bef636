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

static void quantise(float *w, size_t stride, size_t rows, size_t columns, unsigned bits, const float *scales,
                     const float *u, size_t u_stride, uint8_t *codes, float *errors)
{
    float zero = (float)(1u << (bits - 1)), highest = 2.0f * zero - 1.0f;
    float dequantised[GPTQ_TILE];
    for (size_t r = 0; r < rows; r++) {
        float *row = w + r * stride;
        uint8_t *code = codes + r * stride;
        for (size_t n = 0; n < columns; n++) {
            /* A zero scale divides to NaN or infinity: NaN becomes the highest code, as the reference has it. */
            float q = rintf(row[n] / scales[n]) + zero;
            q = q < highest ? q : highest;
            q = q > 0.0f ? q : 0.0f;
            code[n] = (uint8_t)(int)q;
            dequantised[n] = (q - zero) * scales[n];
        }
        if (!u)
            continue;
        round_to_half(dequantised, columns);
        float *error = errors + r * stride;
        float diagonal = u[r * u_stride + r];
        for (size_t n = 0; n < columns; n++)
            error[n] = (row[n] - dequantised[n]) / diagonal;
        for (size_t later = r + 1; later < rows; later++) {
            float factor = u[r * u_stride + later];
            float *target = w + later * stride;
            for (size_t n = 0; n < columns; n++)
                target[n] -= factor * error[n];
        }
    }
}

const struct gptq_kernels GPTQ_TABLE = { column_max, search, weighted_error, quantise };
