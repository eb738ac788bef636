/* Few rows: the fused kernel through the backend's table, against double precision on decoded weights. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear.h"
#include "linear_test.h"

Test(linear, fused_rows_1_to_40)
{
    struct linear_rig rig;
    struct layer layer;
    struct matrix matrix;
    linear_rig_open(&rig, best_isa(), 2);
    rig.parameters.count[PLIM_DQ_ROWS] = 64;   /* more than one tile */
    layer_exl2(&layer, mixed_groups, 75, 1.0f, true, 1);
    layer_init(&rig, &matrix, &layer);

    float *x = some_inputs(56 * MIXED_IN, 2), *y = malloc(56 * 75 * sizeof *y);
    for (size_t rows = 1; rows <= 56; rows++) {
        bool accumulate = rows % 2 == 0;
        for (size_t i = 0; i < rows * 75; i++)
            y[i] = accumulate ? 1.5f : NAN;   /* what is there must not matter */
        layer_product(&rig, &layer, &matrix, x, rows, y, accumulate);
        layer_check_product(&layer, x, rows, y, accumulate ? 1.5 : 0, true, "fused");
    }
    cr_assert_eq(rig.backend.counters.fused_calls, 56);
    cr_assert_eq(rig.backend.counters.chunked_calls, 0);
    cr_assert_eq(rig.backend.counters.weight_bytes_read,
                 (56 + 8) * cpu_matrix_mapped_bytes(&layer.shape), "rows 49 to 56 take two tiles");
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    linear_rig_close(&rig);
}

Test(linear, fused_is_the_same_for_every_isa_and_thread_count)
{
    enum { OUT = 300, ROWS = 5 };
    float *x = some_inputs(ROWS * MIXED_IN, 3);
    float *expected = malloc(ROWS * OUT * sizeof *x), *y = malloc(ROWS * OUT * sizeof *x);

    for (size_t rows = 1; rows <= ROWS; rows += 2) {
        bool first = true;
        for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
            for (int threads = 1; threads <= 3 && plim_isa_supported(isa); threads++) {
                struct linear_rig rig;
                struct layer layer;
                struct matrix matrix;
                linear_rig_open(&rig, isa, threads);
                layer_exl2(&layer, mixed_groups, OUT, 1.0f, true, 4);
                layer_init(&rig, &matrix, &layer);
                layer_product(&rig, &layer, &matrix, x, rows, first ? expected : y, false);
                if (!first)
                    cr_assert_arr_eq(y, expected, rows * OUT * sizeof *y, "%s, %d threads, %zu rows",
                                     plim_isa_name(isa), threads, rows);
                first = false;
                cpu_matrix_release(&rig.backend, &matrix);
                layer_free(&layer);
                linear_rig_close(&rig);
            }
        }
    }
    free(x);
    free(expected);
    free(y);
}

/* A matrix wider than a strip, so that strips and threads meet in the middle of the columns. */
Test(linear, fused_wide)
{
    static const struct group_spec groups[] = { { 4, 64 }, { 0, 0 } };
    struct linear_rig rig;
    struct layer layer;
    struct matrix matrix;
    enum { OUT = 20011 };
    linear_rig_open(&rig, best_isa(), 2);
    layer_exl2(&layer, groups, OUT, 1.0f, false, 5);
    layer_init(&rig, &matrix, &layer);
    float *x = some_inputs(3 * 64, 6), *y = malloc(3 * OUT * sizeof *y);
    for (size_t rows = 1; rows <= 3; rows++) {
        layer_product(&rig, &layer, &matrix, x, rows, y, false);
        layer_check_product(&layer, x, rows, y, 0, true, "wide");
    }
    free(x);
    free(y);
    cpu_matrix_release(&rig.backend, &matrix);
    layer_free(&layer);
    linear_rig_close(&rig);
}
