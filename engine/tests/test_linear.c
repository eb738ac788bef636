/* Linear layers: those that ExLlamaV2 quantised, dense ones, making them ready, bad weights, failures. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/blas.h"
#include "cpu/linear_internal.h"
#include "half.h"
#include "linear_test.h"
#include "safetensors.h"

/* ---- matrices quantised by ExLlamaV2 ---- */

static const void *tensor_data(const struct tensor_store *store, const char *key, const char *part, size_t *rows,
                               size_t *columns)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", key, part);
    const struct tensor *tensor = tensor_store_find(store, name);
    cr_assert_not_null(tensor, "%s", name);
    *rows = tensor->shape[0];
    *columns = tensor->dimension_count > 1 ? tensor->shape[1] : 1;
    return tensor->data;
}

static void layer_from_store(struct layer *layer, const struct tensor_store *store, const char *key, size_t out)
{
    size_t ignored;
    memset(layer, 0, sizeof *layer);
    struct exl2_tensors *t = &layer->source.exl2;
    t->name = key;
    t->q_weight = tensor_data(store, key, "q_weight", &t->word_rows, &t->out_features);
    t->q_scale = tensor_data(store, key, "q_scale", &t->group_count, &ignored);
    t->q_scale_max = tensor_data(store, key, "q_scale_max", &ignored, &ignored);
    t->q_groups = tensor_data(store, key, "q_groups", &ignored, &ignored);
    t->q_invperm = tensor_data(store, key, "q_invperm", &t->in_features, &ignored);
    layer->source.name = key;
    layer->source.is_exl2 = true;
    layer->source.in_features = t->in_features;
    layer->source.out_features = out ? out : t->out_features;
    layer->source.prescale = 1.0f;
    layer->shape = (struct linear_shape){
        .is_exl2 = true, .in_features = t->in_features, .out_features = layer->source.out_features,
        .stored_out_features = t->out_features, .group_count = t->group_count, .word_rows = t->word_rows,
        .prescale = 1.0f,
    };
    layer_decode(layer);
}

Test(linear, matrices_of_exllamav2)
{
    static const char *const models[] = { "exl2-2.6", "exl2-4.0" };
    static const char *const keys[] = {
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.gate_proj", "model.layers.0.mlp.down_proj", "lm_head",
    };
    for (size_t m = 0; m < 2; m++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct tensor_store *store;
        struct linear_rig rig;
        char path[512];
        linear_rig_open(&rig, best_isa(), 2);
        snprintf(path, sizeof path, "%s/exl2-llama-tiny/%s", PLIMSOLL_TEST_DATA, models[m]);
        cr_assert_eq(tensor_store_open_directory(&store, rig.pool, path, false, &err), 0, "%s", err.message);
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
            struct layer layer;
            struct matrix matrix;
            layer_from_store(&layer, store, keys[i], strcmp(keys[i], "lm_head") == 0 ? 300 : 0);
            layer_init(&rig, &matrix, &layer);
            size_t out = layer.source.out_features;
            float *x = some_inputs(40 * layer.source.in_features, 15), *y = malloc(40 * out * sizeof *y);
            rig.parameters.count[PLIM_MAX_DQ_SIZE] = 20000;
            for (size_t rows = 1; rows <= 40; rows += 13) {
                layer_product(&rig, &layer, &matrix, x, rows, y, false);
                layer_check_product(&layer, x, rows, y, 0, rows <= 32, keys[i]);
            }
            free(x);
            free(y);
            cpu_matrix_release(&rig.backend, &matrix);
            layer_free(&layer);
        }
        tensor_store_close(store);
        linear_rig_close(&rig);
    }
}

/* ---- dense ---- */

Test(linear, dense)
{
    static const int64_t limits[] = { 1, 40, 1024, 5000, 1 << 20 };
    enum { IN = 203, OUT = 131, ROWS = 40 };
    float *x = some_inputs(ROWS * IN, 16), *y = malloc(ROWS * OUT * sizeof *y);

    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            struct linear_rig rig;
            struct layer layer;
            struct matrix matrix;
            linear_rig_open(&rig, isa, 1 + (int)dtype);
            layer_dense(&layer, dtype, IN, OUT, 0.75f, true, 17);
            layer_init(&rig, &matrix, &layer);
            for (size_t rows = 1; rows <= 32; rows += rows < 6 ? 1 : 13) {
                for (size_t i = 0; i < rows * OUT; i++)
                    y[i] = rows % 2 ? 0.5f : NAN;
                layer_product(&rig, &layer, &matrix, x, rows, y, rows % 2);
                layer_check_product(&layer, x, rows, y, rows % 2 ? 0.5 : 0, false, "dots");
            }
            cr_assert_eq(rig.backend.counters.dequant_chunks, 0);
            for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
                rig.parameters.count[PLIM_MAX_DQ_SIZE] = limits[i];
                rig.backend.counters = (struct backend_counters){ 0 };
                for (size_t k = 0; k < ROWS * OUT; k++)
                    y[k] = i % 2 ? 0.5f : NAN;
                layer_product(&rig, &layer, &matrix, x, ROWS, y, i % 2);
                layer_check_product(&layer, x, ROWS, y, i % 2 ? 0.5 : 0, false, "sgemm");
                cr_assert_eq(rig.backend.counters.dequant_chunks,
                             dtype == DTYPE_F32 ? 0 : chunk_plan(IN, OUT, (size_t)limits[i]).chunk_count);
                cr_assert_eq(rig.backend.counters.weight_bytes_read, cpu_matrix_mapped_bytes(&layer.shape));
            }
            cpu_matrix_release(&rig.backend, &matrix);
            layer_free(&layer);
            linear_rig_close(&rig);
        }
    }
    free(x);
    free(y);
}

/* ---- making ready ---- */

Test(linear, weights_are_counted_as_predicted)
{
    const struct backend_predict_ops *predict = backend_predict("cpu");
    for (int kind = 0; kind < 5; kind++) {
        struct linear_rig rig;
        struct layer layer;
        struct matrix matrix;
        struct plim_pool_stats before, after;
        linear_rig_open(&rig, best_isa(), 1);
        if (kind < 2)
            layer_exl2(&layer, mixed_groups, 75, 1.0f, kind == 1, 18);
        else
            layer_dense(&layer, DTYPE_F32 + (enum dtype)(kind - 2), 33, 17, 1.0f, true, 19);
        plim_pool_stats(rig.pool, &before);
        layer_init(&rig, &matrix, &layer);
        plim_pool_stats(rig.pool, &after);
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS],
                     before.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS] +
                         predict->matrix_bytes(&layer.shape, &rig.parameters));
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED],
                     predict->matrix_mapped_bytes(&layer.shape));
        cr_assert_eq(after.peak[PLIM_FAST].total_bytes, after.current[PLIM_FAST].total_bytes);
        cpu_matrix_release(&rig.backend, &matrix);
        plim_pool_stats(rig.pool, &after);
        cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED], 0);
        cpu_matrix_release(&rig.backend, &matrix);   /* a second time is harmless */
        layer_free(&layer);
        linear_rig_close(&rig);
    }
}

static void expect_refused(struct linear_rig *rig, const struct layer *layer, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct matrix matrix;
    cr_assert_lt(rig->backend.ops->matrix_init(&rig->backend, &matrix, &layer->source, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, text), "%s", err.message);
    cr_assert_null(strchr(err.message, '\n'));
}

Test(linear, bad_weights_are_refused)
{
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        static const size_t places[] = { 0, 40 * 50 - 1, 999 };
        for (size_t i = 0; i < 3; i++) {
            struct linear_rig rig;
            struct layer layer;
            float bad = i ? NAN : -INFINITY;
            uint16_t half = dtype == DTYPE_F16 ? half_from_float(bad) : bfloat_from_float(bad);
            linear_rig_open(&rig, best_isa(), 2);
            layer_dense(&layer, dtype, 40, 50, 1.0f, true, 20);
            memcpy((char *)(uintptr_t)layer.source.weight + places[i] * dtype_bytes(dtype),
                   dtype == DTYPE_F32 ? (void *)&bad : (void *)&half, dtype_bytes(dtype));
            expect_refused(&rig, &layer, "layer.weight: NaN or infinity");
            layer_free(&layer);
            linear_rig_close(&rig);
        }
    }

    struct linear_rig rig;
    struct layer layer;
    linear_rig_open(&rig, best_isa(), 1);
    layer_exl2(&layer, mixed_groups, 75, 1.0f, true, 21);
    ((uint16_t *)(uintptr_t)layer.source.bias)[74] = 0x7e00;
    expect_refused(&rig, &layer, "layer.bias: NaN or infinity");
    layer.source.bias = NULL;
    layer.source.in_features -= 32;
    expect_refused(&rig, &layer, "864 x 96, expected 832 x 75");
    layer.source.in_features += 32;
    layer.source.out_features = 97;
    expect_refused(&rig, &layer, "864 x 96, expected 864 x 97");
    layer_free(&layer);
    linear_rig_close(&rig);
}

/* Every allocation fails once: an error, nothing kept, and the next try works. */
Test(linear, every_allocation_may_fail)
{
    for (int kind = 0; kind < 2; kind++) {
        struct linear_rig rig;
        struct layer layer;
        struct matrix matrix;
        enum { OUT = 75, ROWS = 40 };
        linear_rig_open(&rig, best_isa(), 2);
        if (kind == 0)
            layer_exl2(&layer, mixed_groups, OUT, 1.0f, true, 22);
        else
            layer_dense(&layer, DTYPE_F16, 100, OUT, 1.0f, true, 23);
        size_t in = layer.source.in_features;
        float *x = some_inputs(ROWS * in, 24), *y = malloc(ROWS * OUT * sizeof *y);

        int failures = 0;
        for (uint64_t nth = 1;; nth++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct plim_pool_stats before, after;
            plim_pool_stats(rig.pool, &before);
            plim_pool_fail_allocation(rig.pool, nth);
            int rc = rig.backend.ops->matrix_init(&rig.backend, &matrix, &layer.source, &err);
            for (size_t rows = 1; rows <= ROWS && rc == 0; rows += ROWS - 1) {
                rc = rig.backend.ops->linear(&rig.backend, &matrix, x, rows, y, false, &err);
                if (rc == 0)
                    layer_check_product(&layer, x, rows, y, 0, kind == 0 && rows == 1, "after a failure");
            }
            plim_pool_fail_allocation(rig.pool, 0);
            cpu_matrix_release(&rig.backend, &matrix);
            plim_pool_stats(rig.pool, &after);
            cr_assert_eq(after.live_blocks, before.live_blocks);
            cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED], 0);
            if (rc == 0)
                break;
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
            failures++;
        }
        /* EXL2: handle, tables, bias, workspace of one row, chunk, gathered rows. Dense: handle, bias, chunk. */
        cr_assert_eq(failures, kind == 0 ? 6 : 3);
        free(x);
        free(y);
        layer_free(&layer);
        linear_rig_close(&rig);
    }
}

/* OpenBLAS' own thread count is as before after a product: other parts of the engine may want it. */
Test(linear, blas_threads_are_restored)
{
    int before = blas_serial_begin();
    cr_assert_eq(blas_serial_begin(), 1);
    blas_serial_end(1);
    blas_serial_end(before);
    cr_assert_eq(blas_serial_begin(), before);
    blas_serial_end(before);
}
