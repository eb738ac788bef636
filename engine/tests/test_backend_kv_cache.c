/* Quantised caches on the CPU: the rotation, the codes, and attention over them. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention_reference.h"
#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "test_backend.h"

static const int64_t types[] = { PLIM_KV_Q8, PLIM_KV_Q6, PLIM_KV_Q4 };
#define TYPE_COUNT (sizeof types / sizeof types[0])

/* Relative error that a cache leaves in unit Gaussians: ExLlamaV2's, measured, is 0.0059 and 0.094. */
#define ERROR_8_BITS 0.0058
#define ERROR_4_BITS 0.093

Test(kv_cache, rotating_twice_gives_back_what_was_there)
{
    static const size_t chunks[] = { 16, 32, 64 };
    for (size_t c = 0; c < 3; c++) {
        float *x = random_floats(256, 1, c), y[256];
        double norm = 0, rotated = 0;
        memcpy(y, x, sizeof y);
        kv_rotate(y, 256, chunks[c]);
        for (size_t i = 0; i < 256; i++) {
            norm += (double)x[i] * (double)x[i];
            rotated += (double)y[i] * (double)y[i];
        }
        cr_assert_float_eq(rotated, norm, 1e-4 * norm);
        kv_rotate(y, 256, chunks[c]);
        for (size_t i = 0; i < 256; i++)
            cr_assert_float_eq(y[i], x[i], 2e-6);
        free(x);
    }
}

Test(kv_cache, codes_come_back_as_close_as_they_can)
{
    enum { ROWS = 64, WIDTH = 256 };
    float *x = random_floats(ROWS * WIDTH, 1, 7);
    for (enum kv_element element = KV_Q8; element <= KV_Q4; element++) {
        struct kv_format format = kv_format_make(element, 128, WIDTH);
        uint8_t *rows = calloc(ROWS, format.row_bytes);
        double error = 0, norm = 0;

        cr_assert_eq(format.row_bytes, (size_t)(element == KV_Q8 ? WIDTH + WIDTH / 16 : WIDTH / 2 + WIDTH / 16));
        for (size_t r = 0; r < ROWS; r++)
            kv_encode(&format, x + r * WIDTH, WIDTH, rows + r * format.row_bytes);
        double *back = kv_reference(&format, rows, ROWS, WIDTH);
        for (size_t i = 0; i < ROWS * WIDTH; i++) {
            error += (back[i] - (double)x[i]) * (back[i] - (double)x[i]);
            norm += (double)x[i] * (double)x[i];
        }
        cr_assert_lt(sqrt(error / norm), element == KV_Q8 ? ERROR_8_BITS : ERROR_4_BITS, "%.4f", sqrt(error / norm));
        free(back);
        free(rows);
    }
    free(x);
}

Test(kv_cache, a_group_of_nothing_or_of_one_spike_is_exact)
{
    for (enum kv_element element = KV_Q8; element <= KV_Q4; element++) {
        struct kv_format format = kv_format_make(element, 64, 64);
        float x[64] = { 0 };
        uint8_t *row = calloc(1, format.row_bytes);
        kv_encode(&format, x, 64, row);
        double *back = kv_reference(&format, row, 1, 64);
        for (size_t i = 0; i < 64; i++)
            cr_assert_eq(back[i], 0);
        free(back);
        /* One element becomes 32 of equal magnitude, the signs of both kinds: all but the positive ones are exact. */
        for (size_t i = 0; i < 64; i++)
            x[i] = i % 2 ? 0 : -3.0f;   /* 32 equal even elements become one coefficient */
        kv_encode(&format, x, 64, row);
        back = kv_reference(&format, row, 1, 64);
        for (size_t i = 0; i < 64; i++)
            cr_assert_float_eq(back[i], x[i], 2e-3);
        free(back);
        free(row);
    }
}

Test(kv_cache, every_isa_decodes_the_same_numbers)
{
    static const size_t heads[] = { 16, 32, 48, 64, 80, 128 };
    for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++)
        for (enum kv_element element = KV_Q8; element <= KV_Q4; element++) {
            size_t width = 3 * heads[h];
            struct kv_format format = kv_format_make(element, heads[h], width);
            float *x = random_floats(5 * width, 2, h), out[2][5 * 128];
            uint8_t *rows = calloc(5, format.row_bytes);
            for (size_t r = 0; r < 5; r++)
                kv_encode(&format, x + r * width, width, rows + r * format.row_bytes);
            for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
                if (!plim_isa_supported(isa))
                    continue;
                memset(out[isa != 0], 0xff, sizeof out[0]);
                cpu_kernels_for(isa)->kv_decode(&format, rows, 5, heads[h], heads[h], out[isa != 0], heads[h]);
                cr_assert_eq(memcmp(out[isa != 0], out[0], 5 * heads[h] * sizeof(float)), 0, "%s, heads of %zu",
                             plim_isa_name(isa), heads[h]);
            }
            free(rows);
            free(x);
        }
}

struct kv_case {
    struct attention_shape shape;
    size_t past, rows;
};

static const struct kv_case cases[] = {
    { { 8, 2, 64, 0.125f, 0, 0 }, 150, 1 },       { { 4, 2, 128, 0.088f, 0, 0 }, 0, 70 },
    { { 6, 2, 80, 0.11f, 20.0f, 0 }, 61, 9 },     { { 4, 4, 16, 0.25f, 0, 30 }, 100, 40 },
    { { 4, 1, 96, 0.1f, 0, 0 }, 33, 2 },
};

Test(kv_cache, attention_agrees_with_its_definition_over_what_was_stored)
{
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t t = 0; t < TYPE_COUNT; t++) {
            const struct attention_shape *s = &cases[c].shape;
            size_t keys = cases[c].past + cases[c].rows, width = s->kv_head_count * s->head_dim;
            size_t q_count = cases[c].rows * s->head_count * s->head_dim;
            float *q = random_floats(q_count, 1, c), *out = malloc(q_count * sizeof *out);
            float *k = random_floats(keys * width, 2, c + 10), *v = random_floats(keys * width, 1, c + 20);

            for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
                struct plim_err err = PLIM_ERR_INIT;
                struct plim_pool_stats stats;
                struct fixture f;
                if (!plim_isa_supported(isa))
                    continue;
                fixture_open(&f, isa, 2);
                f.parameters.count[PLIM_CPU_THREADS_SMALL] = 2;
                f.parameters.count[PLIM_KV_CACHE] = types[t];
                struct kv_format kf = backend_kv_format(&f.parameters, KV_KEYS, s->kv_head_count, s->head_dim);
                struct kv_format vf = backend_kv_format(&f.parameters, KV_VALUES, s->kv_head_count, s->head_dim);
                uint8_t *cache_k = calloc(keys, kf.row_bytes), *cache_v = calloc(keys, vf.row_bytes);
                cr_assert_eq(f.backend.ops->kv_store(&f.backend, s, k, v, keys, 0, cache_k, cache_v, &err), 0);
                double *dk = kv_reference(&kf, cache_k, keys, width), *dv = kv_reference(&vf, cache_v, keys, width);
                double *expected = attention_reference(s, q, dk, dv, cases[c].past, cases[c].rows);

                memset(out, 0xff, q_count * sizeof *out);
                plim_pool_reset_peak(f.pool);
                cr_assert_eq(f.backend.ops->attention(&f.backend, s, q, cache_k, cache_v, cases[c].past, cases[c].rows, out,
                                                      &err), 0);
                check_close(out, expected, q_count, 1e-4, 1e-4, "attention over a quantised cache");
                struct attention_scratch predicted =
                    backend_predict("cpu")->attention_scratch(s, cases[c].past, cases[c].rows, &f.parameters);
                plim_pool_stats(f.pool, &stats);
                cr_assert_eq(stats.peak[PLIM_FAST].total_bytes, predicted.attention_bytes + predicted.workspace_bytes);
                cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], predicted.workspace_bytes);
                fixture_close(&f);
                free(cache_k), free(cache_v), free(dk), free(dv), free(expected);
            }
            free(q), free(out), free(k), free(v);
        }
}

Test(kv_cache, heads_that_sixteen_does_not_divide_are_refused)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;

    plim_parameters_default(&parameters);
    cr_assert_eq(backend_kv_check(&parameters, 6, &err), 0);
    parameters.count[PLIM_KV_CACHE] = PLIM_KV_Q4;
    cr_assert_eq(backend_kv_check(&parameters, 80, &err), 0);
    cr_assert_eq(backend_kv_check(&parameters, 72, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert(strstr(err.message, "kv_cache q4: heads of 72 elements"), "%s", err.message);
}
