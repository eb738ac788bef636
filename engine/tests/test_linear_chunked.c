/* Many rows: weights expanded in chunks, for every bound and thread count; which rows and matrices go this way. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear_internal.h"
#include "linear_test.h"
#include "plimsoll/units.h"

/* Whatever the shape and the bound: never empty, never over the bound, and all of the matrix. */
Test(linear, chunk_plans)
{
    static const size_t sizes[] = { 1, 31, 32, 33, 64, 96, 320, 864, 4096, 14336, 128256 };
    enum { COUNT = sizeof sizes / sizeof *sizes };
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t j = 0; j < COUNT; j++) {
            for (size_t limit = 1; limit < (size_t)1 << 34; limit += limit / 3 + 1) {
                struct chunk_plan plan = chunk_plan(sizes[i], sizes[j], limit);
                cr_assert(plan.chunk_rows >= 1 && plan.chunk_rows <= sizes[i]);
                cr_assert(plan.chunk_columns >= 1 && plan.chunk_columns <= sizes[j]);
                cr_assert_eq(plan.buffer_elements, plan.chunk_rows * plan.chunk_columns);
                cr_assert_leq(plan.buffer_elements, limit);
                cr_assert_eq(plan.chunk_count, plim_ceil_div(sizes[i], plan.chunk_rows) *
                                                   plim_ceil_div(sizes[j], plan.chunk_columns));
                if (limit >= sizes[i] * sizes[j])
                    cr_assert_eq(plan.chunk_count, 1);
                else if (limit >= 1024)   /* the bound is used: at least a third of it, where units of 32 allow */
                    cr_assert_geq(3 * plan.buffer_elements + 3 * 32 * 32, plim_min(limit, sizes[i] * sizes[j]) / 2);
            }
        }
    }
}

Test(linear, chunked_for_every_bound)
{
    static const int64_t limits[] = { 1, 31, 32, 33, 100, 1023, 1024, 1500, 4096, 10000, 65536, 100000, 259199, 259200,
                                      1 << 20 };
    enum { OUT = 291, STORED = 320, ROWS = 37 };
    struct layer layer;
    struct linear_rig rig;
    linear_rig_open(&rig, PLIM_ISA_PORTABLE, 1);
    layer_exl2(&layer, mixed_groups, OUT, 1.0f, true, 7);
    linear_rig_close(&rig);
    float *x = some_inputs(ROWS * MIXED_IN, 8), *y = malloc(ROWS * OUT * sizeof *y);

    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        struct matrix matrix;
        linear_rig_open(&rig, isa, 1 + (int)isa % 3);
        layer_init(&rig, &matrix, &layer);
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
            bool accumulate = i % 2;
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = limits[i];
            rig.backend.counters = (struct backend_counters){ 0 };
            for (size_t k = 0; k < ROWS * OUT; k++)
                y[k] = accumulate ? -2.0f : NAN;
            layer_product(&rig, &layer, &matrix, x, ROWS, y, accumulate);
            layer_check_product(&layer, x, ROWS, y, accumulate ? -2.0 : 0, false, "chunked");

            struct chunk_plan plan = chunk_plan(MIXED_IN, STORED, (size_t)limits[i]);
            cr_assert_eq(rig.backend.counters.dequant_chunks, plan.chunk_count);
            cr_assert_eq(rig.backend.counters.dequantised_elements, MIXED_IN * STORED);
            cr_assert_eq(rig.backend.counters.chunked_calls, 1);
            cr_assert_eq(rig.backend.counters.fused_calls, 0);
            cr_assert_eq(rig.backend.counters.weight_bytes_read, cpu_matrix_mapped_bytes(&layer.shape));
        }
        cpu_matrix_release(&rig.backend, &matrix);
        linear_rig_close(&rig);
    }
    free(x);
    free(y);
    layer_free(&layer);
}

/* Counters and memory of a case are the same for every thread count. */
Test(linear, chunked_threads)
{
    enum { OUT = 320, ROWS = 64 };
    struct backend_counters first = { 0 };
    float *x = some_inputs(ROWS * MIXED_IN, 9), *y = malloc(ROWS * OUT * sizeof *y);
    for (int threads = 1; threads <= 3; threads++) {
        struct linear_rig rig;
        struct layer layer;
        struct matrix matrix;
        linear_rig_open(&rig, best_isa(), threads);
        layer_exl2(&layer, mixed_groups, OUT, 1.0f, false, 10);
        layer_init(&rig, &matrix, &layer);
        for (int64_t limit = 2000; limit < 300000; limit *= 5) {
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = limit;
            layer_product(&rig, &layer, &matrix, x, ROWS, y, false);
            layer_check_product(&layer, x, ROWS, y, 0, false, "threads");
        }
        if (threads == 1)
            first = rig.backend.counters;
        cr_assert_arr_eq(&rig.backend.counters, &first, sizeof first);
        cpu_matrix_release(&rig.backend, &matrix);
        layer_free(&layer);
        linear_rig_close(&rig);
    }
    free(x);
    free(y);
}

/* dq_rows is where the paths meet, and both must be right there. */
Test(linear, dq_rows_is_the_border)
{
    enum { OUT = 64 };
    struct linear_rig rig;
    struct layer layer;
    struct matrix matrix;
    linear_rig_open(&rig, best_isa(), 1);
    layer_exl2(&layer, mixed_groups, OUT, 1.0f, false, 11);
    layer_init(&rig, &matrix, &layer);
    float *x = some_inputs(4 * MIXED_IN, 12), *y = malloc(4 * OUT * sizeof *y);
    rig.parameters.count[PLIM_DQ_ROWS] = 3;
    layer_product(&rig, &layer, &matrix, x, 3, y, false);
    cr_assert_eq(rig.backend.counters.fused_calls, 1);
    layer_product(&rig, &layer, &matrix, x, 4, y, false);
    cr_assert_eq(rig.backend.counters.chunked_calls, 1);
    rig.parameters.count[PLIM_DQ_ROWS] = 0;
    layer_product(&rig, &layer, &matrix, x, 1, y, false);
    cr_assert_eq(rig.backend.counters.chunked_calls, 2);
    layer_check_product(&layer, x, 1, y, 0, false, "one row, chunked");
    layer_product(&rig, &layer, &matrix, x, 0, y, false);
    cr_assert_eq(rig.backend.counters.fused_calls + rig.backend.counters.chunked_calls, 3);
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    linear_rig_close(&rig);
}

/* dq_mode=gated: expanded whole if 128 * ceil(K / 128) * N fits, otherwise the fused kernel for all rows. */
Test(linear, gated)
{
    enum { OUT = 300, STORED = 320, ROWS = 70 };
    size_t fits = plim_round_up(MIXED_IN, 128) * STORED;
    struct linear_rig rig;
    struct layer layer;
    struct matrix matrix;
    linear_rig_open(&rig, best_isa(), 2);
    layer_exl2(&layer, mixed_groups, OUT, 1.0f, true, 13);
    layer_init(&rig, &matrix, &layer);
    float *x = some_inputs(ROWS * MIXED_IN, 14), *y = malloc(ROWS * OUT * sizeof *y);
    rig.parameters.count[PLIM_DQ_MODE] = PLIM_DQ_GATED;

    rig.parameters.count[PLIM_MAX_DQ_SIZE] = (int64_t)fits;
    layer_product(&rig, &layer, &matrix, x, ROWS, y, false);
    layer_check_product(&layer, x, ROWS, y, 0, false, "let through");
    cr_assert_eq(rig.backend.counters.dequant_chunks, 1);
    cr_assert_eq(rig.backend.counters.fused_calls, 0);

    rig.parameters.count[PLIM_MAX_DQ_SIZE] = (int64_t)fits - 1;
    layer_product(&rig, &layer, &matrix, x, ROWS, y, false);
    layer_check_product(&layer, x, ROWS, y, 0, true, "kept out");
    cr_assert_eq(rig.backend.counters.dequant_chunks, 1);
    cr_assert_eq(rig.backend.counters.fused_calls, 1);
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    linear_rig_close(&rig);
}
