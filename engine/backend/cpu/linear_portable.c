/* The plain kernels: what the SIMD ones are tested against, and what runs where nothing better is supported. */

#include <math.h>
#include <string.h>

#include "dtype.h"
#include "half.h"
#include "linear_kernels.h"

const uint8_t fused_order[9][32] = {
    [2] = { 0, 8,  1, 9,  2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
            16, 24, 17, 25, 18, 26, 19, 27, 20, 28, 21, 29, 22, 30, 23, 31 },
    [3] = { 0, 5,  1, 6,  2, 7,  3, 8,  4, 9,  11, 16, 12, 17, 13, 18, 14, 19, 15, 20,
            22, 27, 23, 28, 24, 29, 25, 30, 26, 31, 10, 21 },
    [4] = { 0, 4,  1, 5,  2, 6,  3, 7,  8, 12, 9, 13, 10, 14, 11, 15,
            16, 20, 17, 21, 18, 22, 19, 23, 24, 28, 25, 29, 26, 30, 27, 31 },
    [5] = { 0, 3,  1, 4,  2, 5,  7, 10, 8, 11, 9, 12, 13, 16, 14, 17, 15, 18,
            20, 23, 21, 24, 22, 25, 26, 29, 27, 30, 28, 31, 6, 19 },
    [6] = { 0, 3,  1, 4,  6, 8,  7, 9,  11, 14, 12, 15, 2, 13, 5, 10,
            16, 19, 17, 20, 22, 24, 23, 25, 27, 30, 28, 31, 18, 29, 21, 26 },
    [8] = { 0, 2,  1, 3,  4, 6,  5, 7,  8, 10, 9, 11, 12, 14, 13, 15,
            16, 18, 17, 19, 20, 22, 21, 23, 24, 26, 25, 27, 28, 30, 29, 31 },
};

/* Columns that a kernel works on at once: one scale word. */
#define STEP 8

/* Codes of one packed row, STEP columns from `words` on. */
static void unpack_row(const uint32_t *words, size_t stride, unsigned bits, size_t row, uint32_t *codes)
{
    size_t bit = row * bits;
    unsigned shift = (unsigned)(bit % 32);
    const uint32_t *word = words + bit / 32 * stride;

    for (int c = 0; c < STEP; c++)
        codes[c] = word[c] >> shift;
    if (shift + bits > 32)   /* the code goes on in the next word */
        for (int c = 0; c < STEP; c++)
            codes[c] |= word[stride + (size_t)c] << (32 - shift);
    for (int c = 0; c < STEP; c++)
        codes[c] &= (1u << bits) - 1;
}

/* The sixteen scales that a group's 4-bit codes choose from: h(h((c + 1)^2) * unit). */
static void scale_table(float unit, float *table)
{
    for (int c = 0; c < 16; c++)
        table[c] = half_to_float(half_from_float((float)((c + 1) * (c + 1)) * unit));
}

static void quantise(const float *x, const uint16_t *perm, size_t rows, unsigned bits, int16_t *out, float *scale,
                     int32_t *offset)
{
    uint32_t max_bits = 0;   /* compared as integers, so that NaN counts as the largest */
    for (size_t i = 0; i < rows; i++) {
        uint32_t magnitude = float_bits(x[perm[i]]) & 0x7fffffffu;
        max_bits = magnitude > max_bits ? magnitude : max_bits;
    }

    float max = float_from_bits(max_bits);
    *offset = 0;
    if (max_bits >= 0x7f800000u || max < FUSED_TINY) {
        /* NaN or infinity spoils every result of the row, as it would in floating point. */
        *scale = max_bits >= 0x7f800000u ? NAN : 0.0f;
        memset(out, 0, rows * sizeof *out);
        return;
    }

    float inverse = 32767.0f / max;
    int32_t sum = 0;
    for (size_t unit = 0; unit < rows; unit += 32) {
        for (size_t j = 0; j < 32; j++) {
            int16_t q = (int16_t)lrintf(x[perm[unit + fused_order[bits][j]]] * inverse);
            out[unit + j] = q;
            sum += q;
        }
    }
    *scale = max / 32767.0f;
    *offset = -(1 << (bits - 1)) * sum;
}

static void fused(const struct fused_block *b)
{
    float table[16];
    scale_table(b->scale_unit, table);

    for (size_t n = 0; n < b->columns; n += STEP) {
        const uint32_t *words = b->words + n;
        uint32_t scale_codes = b->scale_codes[n / 8];

        uint32_t codes[FUSED_BLOCK_ROWS][STEP];
        for (size_t j = 0; j < b->rows; j++)
            unpack_row(words, b->word_stride, b->bits, j / 32 * 32 + fused_order[b->bits][j % 32], codes[j]);

        for (size_t r = 0; r < b->row_count; r++) {
            const int16_t *x = b->x + r * b->x_stride;
            float *y = b->y + r * b->y_stride + n;
            float x_scale = b->x_scale[r];
            int32_t sum[STEP];
            for (int c = 0; c < STEP; c++)
                sum[c] = b->x_offset[r];
            for (size_t j = 0; j < b->rows; j++)
                for (int c = 0; c < STEP; c++)
                    sum[c] += (int32_t)codes[j][c] * x[j];
            for (int c = 0; c < STEP; c++)
                y[c] = fmaf(table[(scale_codes >> (4 * c)) & 15] * x_scale, (float)sum[c], y[c]);
        }
    }
}

static void dequantise(const struct dequant_block *b)
{
    float table[16];
    scale_table(b->scale_unit, table);
    int32_t zero = 1 << (b->bits - 1);

    for (size_t n = 0; n < b->columns; n += STEP) {
        uint32_t scale_codes = b->scale_codes[n / 8];
        for (size_t i = 0; i < b->rows; i++) {
            uint32_t codes[STEP];
            unpack_row(b->words + n, b->word_stride, b->bits, i, codes);
            float *out = b->out + i * b->out_stride + n;
            for (int c = 0; c < STEP; c++) {
                float exact = (float)((int32_t)codes[c] - zero) * table[(scale_codes >> (4 * c)) & 15];
                out[c] = half_to_float(half_from_float(exact));
            }
        }
    }
}

/* ---- dense ---- */

/* Element k of a mapped row of any alignment. */
static float load_f32(const void *values, size_t k)
{
    float value;
    memcpy(&value, (const char *)values + k * sizeof value, sizeof value);
    return value;
}

static uint16_t load_u16(const void *values, size_t k)
{
    uint16_t value;
    memcpy(&value, (const char *)values + k * sizeof value, sizeof value);
    return value;
}

static float load_f16(const void *values, size_t k)
{
    return half_to_float(load_u16(values, k));
}

static float load_bf16(const void *values, size_t k)
{
    return bfloat_to_float(load_u16(values, k));
}

/* The three dtypes differ only in how an element is loaded. */
#define DENSE_KERNELS(type, load, element_bytes)                                                                       \
    static void dense_##type(const struct dense_block *b)                                                              \
    {                                                                                                                  \
        for (size_t n = 0; n < b->columns; n++) {                                                                      \
            const char *w = (const char *)b->w + n * b->inner * element_bytes;                                         \
            for (size_t r = 0; r < b->row_count; r++) {                                                                \
                const float *x = b->x + r * b->inner;                                                                  \
                float sum[4] = { 0 };                                                                                  \
                size_t k = 0;                                                                                          \
                for (; k + 4 <= b->inner; k += 4)                                                                      \
                    for (size_t i = 0; i < 4; i++)                                                                     \
                        sum[i] += x[k + i] * load(w, k + i);                                                           \
                for (; k < b->inner; k++)                                                                              \
                    sum[0] += x[k] * load(w, k);                                                                       \
                float product = b->alpha * ((sum[0] + sum[1]) + (sum[2] + sum[3]));                                    \
                float *y = b->y + r * b->y_stride + n;                                                                 \
                *y = b->accumulate ? *y + product : product;                                                           \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void widen_##type(const void *from, size_t n, float *to)                                                    \
    {                                                                                                                  \
        for (size_t k = 0; k < n; k++)                                                                                 \
            to[k] = load(from, k);                                                                                     \
    }                                                                                                                  \
    static bool all_finite_##type(const void *values, size_t n)                                                        \
    {                                                                                                                  \
        float zero = 0.0f;   /* becomes NaN, and stays NaN, at a NaN or infinity */                                    \
        for (size_t k = 0; k < n; k++)                                                                                 \
            zero += load(values, k) * 0.0f;                                                                            \
        return zero == 0.0f;                                                                                           \
    }

DENSE_KERNELS(f32, load_f32, 4)
DENSE_KERNELS(f16, load_f16, 2)
DENSE_KERNELS(bf16, load_bf16, 2)

static void gather(const float *x, const uint16_t *perm, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[perm[i]];
}

const struct linear_kernels linear_kernels_portable = {
    .quantise = quantise,
    .fused = fused,
    .dequantise = dequantise,
    .dense = { [DTYPE_F32] = dense_f32, [DTYPE_F16] = dense_f16, [DTYPE_BF16] = dense_bf16 },
    .widen = { [DTYPE_F32] = widen_f32, [DTYPE_F16] = widen_f16, [DTYPE_BF16] = widen_bf16 },
    .all_finite = { [DTYPE_F32] = all_finite_f32, [DTYPE_F16] = all_finite_f16, [DTYPE_BF16] = all_finite_bf16 },
    .gather = gather,
};

const struct linear_kernels *linear_kernels(enum plim_isa isa)
{
    static const struct linear_kernels *const kernels[PLIM_ISA_COUNT] = {
        [PLIM_ISA_PORTABLE] = &linear_kernels_portable,
        [PLIM_ISA_AVX2] = &linear_kernels_avx2,
        [PLIM_ISA_AVX512] = &linear_kernels_avx512,
    };
    return kernels[isa];
}
