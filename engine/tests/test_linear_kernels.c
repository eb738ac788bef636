/* The kernels of linear layers: the SIMD ones against the plain ones, and the plain ones against the format. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear_kernels.h"
#include "dtype.h"
#include "exl2.h"
#include "half.h"
#include "plimsoll/random.h"

static const unsigned widths[] = { 2, 3, 4, 5, 6, 8 };

/* Kernels that this machine can run, the plain ones included. */
#define FOR_EACH_ISA(isa)                                                                                              \
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++)                                                           \
        if (plim_isa_supported(isa))

static uint64_t state = 1;

static uint64_t draw(void)   /* splitmix64 */
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float draw_float(void)   /* [-1, 1) */
{
    return (float)(int32_t)(draw() >> 32) * 0x1p-31f;
}

/* One group of one width, with everything that a kernel reads. */
enum { COLUMNS = 96, STRIDE = 128, MAX_X_ROWS = 9, Y_STRIDE = 100 };

struct group {
    uint32_t words[FUSED_BLOCK_ROWS * 8 / 32 * STRIDE];
    uint32_t scale_codes[STRIDE / 8];
    float scale_unit;
    float x[MAX_X_ROWS][2 * FUSED_BLOCK_ROWS];
    uint16_t perm[FUSED_BLOCK_ROWS];
};

static struct group *make_group(void)
{
    struct group *group = malloc(sizeof *group);
    for (size_t i = 0; i < sizeof group->words / sizeof *group->words; i++)
        group->words[i] = (uint32_t)draw();
    for (size_t i = 0; i < STRIDE / 8; i++)
        group->scale_codes[i] = (uint32_t)draw();
    group->scale_unit = half_to_float((uint16_t)(0x0100 + draw() % 0x1000));   /* half of them subnormal */
    for (size_t r = 0; r < MAX_X_ROWS; r++)
        for (size_t i = 0; i < 2 * FUSED_BLOCK_ROWS; i++)
            group->x[r][i] = draw_float();
    for (size_t i = 0; i < FUSED_BLOCK_ROWS; i++)
        group->perm[i] = (uint16_t)(draw() % (2 * FUSED_BLOCK_ROWS));
    return group;
}

/* The order in which activations are stored must be one of the 32 rows, for every width. */
Test(linear_kernels, fused_order_is_a_permutation)
{
    for (size_t w = 0; w < 6; w++) {
        uint32_t seen = 0;
        for (size_t j = 0; j < 32; j++)
            seen |= 1u << fused_order[widths[w]][j];
        cr_assert_eq(seen, 0xffffffffu, "%u bits", widths[w]);
    }
}

Test(linear_kernels, dequantise_is_bit_exact)
{
    for (int round = 0; round < 4; round++) {
        for (size_t w = 0; w < 6; w++) {
            unsigned bits = widths[w];
            struct group *group = make_group();
            size_t rows = 32 * (1 + draw() % 4);
            struct exl2_group meta = { .row_count = (uint32_t)rows, .bits = bits, .scale_unit = group->scale_unit };
            struct exl2_matrix matrix = {
                .in_features = rows, .out_features = STRIDE, .group_count = 1, .word_rows = rows * bits / 32,
                .q_weight = group->words, .q_scale = group->scale_codes, .groups = &meta,
            };
            static uint16_t expected[FUSED_BLOCK_ROWS * COLUMNS];
            exl2_dequantise_packed(&matrix, 0, rows, 0, COLUMNS, expected, COLUMNS);

            FOR_EACH_ISA(isa) {
                static float out[FUSED_BLOCK_ROWS * (COLUMNS + 3)];
                struct dequant_block block = {
                    .bits = bits, .rows = rows, .columns = COLUMNS, .words = group->words, .word_stride = STRIDE,
                    .scale_codes = group->scale_codes, .scale_unit = group->scale_unit,
                    .out = out, .out_stride = COLUMNS + 3,
                };
                linear_kernels(isa)->dequantise(&block);
                for (size_t i = 0; i < rows; i++)
                    for (size_t n = 0; n < COLUMNS; n++)
                        cr_assert_eq(float_bits(out[i * (COLUMNS + 3) + n]),
                                     float_bits(half_to_float(expected[i * COLUMNS + n])),
                                     "%s, %u bits, row %zu, column %zu", plim_isa_name(isa), bits, i, n);
            }
            free(group);
        }
    }
}

Test(linear_kernels, quantise_is_the_same_for_every_isa)
{
    struct group *group = make_group();
    for (size_t w = 0; w < 6; w++) {
        for (size_t rows = 32; rows <= FUSED_BLOCK_ROWS; rows += 32) {
            int16_t expected[FUSED_BLOCK_ROWS];
            float expected_scale;
            int32_t expected_offset;
            linear_kernels_portable.quantise(group->x[0], group->perm, rows, widths[w], expected, &expected_scale,
                                             &expected_offset);
            FOR_EACH_ISA(isa) {
                int16_t out[FUSED_BLOCK_ROWS];
                float scale;
                int32_t offset;
                linear_kernels(isa)->quantise(group->x[0], group->perm, rows, widths[w], out, &scale, &offset);
                cr_assert_arr_eq(out, expected, rows * sizeof *out, "%s", plim_isa_name(isa));
                cr_assert_eq(float_bits(scale), float_bits(expected_scale));
                cr_assert_eq(offset, expected_offset);
            }
        }
    }
    free(group);
}

/* Each activation within half a step of what it was, in the order that was promised, and the largest at full scale. */
Test(linear_kernels, quantise_keeps_fifteen_bits)
{
    struct group *group = make_group();
    int16_t out[FUSED_BLOCK_ROWS];
    float scale;
    int32_t offset, sum = 0, largest = 0;

    linear_kernels_portable.quantise(group->x[0], group->perm, 128, 5, out, &scale, &offset);
    for (size_t j = 0; j < 128; j++) {
        float x = group->x[0][group->perm[j / 32 * 32 + fused_order[5][j % 32]]];
        cr_assert_lt(fabsf((float)out[j] * scale - x), 0.501f * scale);
        sum += out[j];
        largest = abs(out[j]) > largest ? abs(out[j]) : largest;
    }
    cr_assert_eq(largest, 32767);
    cr_assert_eq(offset, -16 * sum);
    free(group);
}

Test(linear_kernels, quantise_takes_zeros_extremes_and_spreads_nan)
{
    FOR_EACH_ISA(isa) {
        const struct linear_kernels *kernels = linear_kernels(isa);
        float x[32] = { 0 };
        uint16_t perm[32];
        int16_t out[32], zeros[32] = { 0 };
        float scale;
        int32_t offset;
        for (uint16_t i = 0; i < 32; i++)
            perm[i] = i;

        kernels->quantise(x, perm, 32, 4, out, &scale, &offset);
        cr_assert(scale == 0.0f && offset == 0);
        cr_assert_arr_eq(out, zeros, sizeof out);

        x[3] = 1e-40f;   /* 32767 / 1e-40 is no float */
        kernels->quantise(x, perm, 32, 4, out, &scale, &offset);
        cr_assert(scale == 0.0f && offset == 0);

        x[3] = -3e38f;
        kernels->quantise(x, perm, 32, 4, out, &scale, &offset);
        cr_assert(isfinite(scale) && offset == 8 * 32767);

        x[5] = NAN;
        kernels->quantise(x, perm, 32, 4, out, &scale, &offset);
        cr_assert(isnan(scale) && offset == 0);
        x[5] = -INFINITY;
        kernels->quantise(x, perm, 32, 4, out, &scale, &offset);
        cr_assert(isnan(scale) && offset == 0);
    }
}

struct product {
    int16_t x[MAX_X_ROWS][FUSED_BLOCK_ROWS];
    float x_scale[MAX_X_ROWS];
    int32_t x_offset[MAX_X_ROWS];
    float y[MAX_X_ROWS][Y_STRIDE];
};

static void multiply(const struct linear_kernels *kernels, const struct group *group, unsigned bits, size_t rows,
                     size_t columns, size_t x_rows, struct product *p)
{
    for (size_t r = 0; r < x_rows; r++)
        kernels->quantise(group->x[r], group->perm, rows, bits, p->x[r], &p->x_scale[r], &p->x_offset[r]);
    for (size_t r = 0; r < MAX_X_ROWS; r++)
        for (size_t n = 0; n < Y_STRIDE; n++)
            p->y[r][n] = (float)r - (float)n * 0.125f;
    kernels->fused(&(struct fused_block){
        .bits = bits, .rows = rows, .columns = columns, .words = group->words, .word_stride = STRIDE,
        .scale_codes = group->scale_codes, .scale_unit = group->scale_unit,
        .row_count = x_rows, .x = &p->x[0][0], .x_stride = FUSED_BLOCK_ROWS,
        .x_scale = p->x_scale, .x_offset = p->x_offset,
        .y = &p->y[0][0], .y_stride = Y_STRIDE,
    });
}

Test(linear_kernels, fused_is_the_same_for_every_isa)
{
    static struct product expected, got;
    for (size_t w = 0; w < 6; w++) {
        for (size_t rows = 32; rows <= FUSED_BLOCK_ROWS; rows += 32) {
            for (size_t x_rows = 1; x_rows <= MAX_X_ROWS; x_rows++) {
                struct group *group = make_group();
                size_t columns = 32 * (1 + draw() % 3);
                multiply(&linear_kernels_portable, group, widths[w], rows, columns, x_rows, &expected);
                FOR_EACH_ISA(isa) {
                    multiply(linear_kernels(isa), group, widths[w], rows, columns, x_rows, &got);
                    /* The columns and rows beside the product included: nothing else may be written. */
                    cr_assert_arr_eq(&got.y, &expected.y, sizeof got.y, "%s, %u bits, %zu rows, %zu rows of x",
                                     plim_isa_name(isa), widths[w], rows, x_rows);
                }
                free(group);
            }
        }
    }
}

/* The largest sums there are: all codes at their ends, all activations at full scale. */
Test(linear_kernels, fused_sums_do_not_overflow)
{
    static struct product got;
    for (size_t w = 0; w < 6; w++) {
        for (int high = 0; high < 2; high++) {
            struct group *group = make_group();
            memset(group->words, high ? 0xff : 0, sizeof group->words);
            memset(group->scale_codes, 0, sizeof group->scale_codes);
            group->scale_unit = 1.0f;
            for (size_t r = 0; r < MAX_X_ROWS; r++)
                for (size_t i = 0; i < 2 * FUSED_BLOCK_ROWS; i++)
                    group->x[r][i] = r % 2 ? -32767.0f : 32767.0f;
            double zero = (double)(1 << (widths[w] - 1)), code = high ? 2 * zero - 1 : 0;
            FOR_EACH_ISA(isa) {
                for (size_t x_rows = 1; x_rows <= 5; x_rows += 4) {
                    multiply(linear_kernels(isa), group, widths[w], FUSED_BLOCK_ROWS, COLUMNS, x_rows, &got);
                    for (size_t r = 0; r < x_rows; r++) {
                        double exact = (code - zero) * FUSED_BLOCK_ROWS * (r % 2 ? -32767.0 : 32767.0);
                        for (size_t n = 0; n < COLUMNS; n++)
                            cr_assert_float_eq(got.y[r][n], exact + (double)r - (double)n * 0.125,
                                               fabs(exact) * 0x1p-22, "%s, %u bits", plim_isa_name(isa), widths[w]);
                    }
                }
            }
            free(group);
        }
    }
}

/* Against exact arithmetic on decoded codes: only the rounding of activations (half a step each) may differ. */
Test(linear_kernels, fused_is_the_product)
{
    static struct product got;
    for (size_t w = 0; w < 6; w++) {
        unsigned bits = widths[w];
        size_t rows = 96, x_rows = 5;
        struct group *group = make_group();
        struct exl2_group meta = { .row_count = (uint32_t)rows, .bits = bits, .scale_unit = group->scale_unit };
        struct exl2_matrix matrix = {
            .in_features = rows, .out_features = STRIDE, .group_count = 1, .word_rows = rows * bits / 32,
            .q_weight = group->words, .q_scale = group->scale_codes, .groups = &meta,
        };
        multiply(&linear_kernels_portable, group, bits, rows, COLUMNS, x_rows, &got);
        for (size_t r = 0; r < x_rows; r++) {
            for (size_t n = 0; n < COLUMNS; n++) {
                double y = (float)r - (float)n * 0.125f, sum = 0, slack = 0;
                for (size_t i = 0; i < rows; i++) {
                    double weight = ((double)exl2_code(&matrix, i, n) - (1 << (bits - 1))) * exl2_scale(&matrix, 0, n);
                    sum += (double)group->x[r][group->perm[i]] * weight;
                    slack += fabs(weight) * got.x_scale[r] * 0.501;
                }
                cr_assert_float_eq(got.y[r][n], y + sum, slack + 1e-6 * (fabs(y) + fabs(sum)));
            }
        }
        free(group);
    }
}

/* ---- dense ---- */

static uint16_t (*const to_16_bits[])(float) = { [DTYPE_F16] = half_from_float, [DTYPE_BF16] = bfloat_from_float };
static float (*const from_16_bits[])(uint16_t) = { [DTYPE_F16] = half_to_float, [DTYPE_BF16] = bfloat_to_float };

static void store(enum dtype dtype, char *values, size_t k, float value)
{
    if (dtype == DTYPE_F32) {
        memcpy(values + 4 * k, &value, 4);
    } else {
        uint16_t narrow = to_16_bits[dtype](value);
        memcpy(values + 2 * k, &narrow, 2);
    }
}

static float fetch(enum dtype dtype, const char *values, size_t k)
{
    float value;
    uint16_t narrow;
    if (dtype == DTYPE_F32) {
        memcpy(&value, values + 4 * k, 4);
        return value;
    }
    memcpy(&narrow, values + 2 * k, 2);
    return from_16_bits[dtype](narrow);
}

Test(linear_kernels, dense_products)
{
    enum { INNER_MAX = 200, ROWS = 7, OUT = 11 };
    static char weight[INNER_MAX * OUT * 4 + 1];
    static float x[ROWS * INNER_MAX], y[ROWS][OUT + 2];
    static const size_t inners[] = { 1, 7, 32, 61, 200 };

    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        for (size_t i = 0; i < sizeof inners / sizeof *inners; i++) {
            size_t inner = inners[i], shift = i % 2;   /* odd addresses too */
            for (size_t k = 0; k < inner * OUT; k++)
                store(dtype, weight + shift, k, draw_float());
            for (size_t k = 0; k < inner * ROWS; k++)
                x[k] = draw_float();
            FOR_EACH_ISA(isa) {
                for (size_t rows = 1; rows <= ROWS; rows++) {
                    bool accumulate = rows % 2;
                    for (size_t r = 0; r < ROWS; r++)
                        for (size_t n = 0; n < OUT + 2; n++)
                            y[r][n] = 3.0f;
                    linear_kernels(isa)->dense[dtype](&(struct dense_block){
                        .w = weight + shift, .inner = inner, .columns = OUT, .row_count = rows, .x = x,
                        .y = &y[0][0], .y_stride = OUT + 2, .alpha = 0.5f, .accumulate = accumulate,
                    });
                    for (size_t r = 0; r < ROWS; r++) {
                        for (size_t n = 0; n < OUT + 2; n++) {
                            double sum = 0, magnitude = 0;
                            for (size_t k = 0; k < inner && n < OUT; k++) {
                                double term = (double)x[r * inner + k] * fetch(dtype, weight + shift, n * inner + k);
                                sum += term;
                                magnitude += fabs(term);
                            }
                            double expected = r < rows && n < OUT ? (accumulate ? 3.0 : 0.0) + 0.5 * sum : 3.0;
                            /* Rounding of at most `inner` additions in fp32, far fewer in each lane. */
                            cr_assert_float_eq(y[r][n], expected, 0x1p-22 * (magnitude * 4 + 3), "%s, %s, inner %zu",
                                               plim_isa_name(isa), dtype_name(dtype), inner);
                        }
                    }
                }
            }
        }
    }
}

Test(linear_kernels, widening_is_exact_and_nan_is_found)
{
    static char values[101 * 4 + 1];
    float wide[101];

    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        FOR_EACH_ISA(isa) {
            const struct linear_kernels *kernels = linear_kernels(isa);
            for (size_t k = 0; k < 101; k++)
                store(dtype, values + 1, k, k % 10 == 0 ? 1e-6f * draw_float() : 1e4f * draw_float());
            kernels->widen[dtype](values + 1, 101, wide);
            for (size_t k = 0; k < 101; k++)
                cr_assert_eq(float_bits(wide[k]), float_bits(fetch(dtype, values + 1, k)));

            cr_assert(kernels->all_finite[dtype](values + 1, 101));
            static const size_t places[] = { 0, 31, 63, 64, 99, 100 };
            for (size_t i = 0; i < 6; i++) {
                static const float bad[] = { NAN, INFINITY, -INFINITY };
                for (int b = 0; b < 3; b++) {
                    float kept = fetch(dtype, values + 1, places[i]);
                    store(dtype, values + 1, places[i], bad[b]);
                    cr_assert_not(kernels->all_finite[dtype](values + 1, 101), "%s, %s, element %zu",
                                  plim_isa_name(isa), dtype_name(dtype), places[i]);
                    store(dtype, values + 1, places[i], kept);
                }
            }
        }
    }
}
