/* The small operations of the CUDA backend against their formulas in fp64. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "plimsoll/random.h"
#include "test_cuda.h"

static const size_t sizes[] = { 1, 2, 31, 32, 33, 100, 1023, 1024, 1025, 4096, 100003, (size_t)1 << 21 };
#define SIZE_COUNT cuda_count(sizeof sizes / sizeof sizes[0], 11)

#define CALL(operation, ...) cr_assert_eq(f.backend.ops->operation(&f.backend, __VA_ARGS__, &err), 0, "%s", err.message)

/* ---- elements ---- */

Test(cuda_operations, act_mul_agrees_with_its_formulas)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t s = 0; s < SIZE_COUNT; s++) {
        size_t n = sizes[s];
        float *gate = normal_floats(n, 4, s), *up = normal_floats(n, 1, s + 100);
        double *silu = malloc(n * sizeof *silu), *gelu = malloc(n * sizeof *gelu);

        gate[n / 2] = -200.0f;   /* exp overflows on the way: the result is -0 */
        for (size_t i = 0; i < n; i++) {
            double g = (double)gate[i], u = (double)up[i];
            silu[i] = g / (1 + exp(-g)) * u;
            gelu[i] = 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
        }
        float *x = device_floats(&f, gate, n), *y = device_floats(&f, up, n), *z = device_floats(&f, gate, n);
        CALL(act_mul, ACTIVATION_SILU, x, y, n);
        CALL(act_mul, ACTIVATION_GELU_TANH, z, y, n);
        float *got = host_floats(&f, x, n), *got_gelu = host_floats(&f, z, n);
        check_floats(got, silu, n, 1e-30, 2e-6, "silu");
        check_floats(got_gelu, gelu, n, 2e-6, 2e-6, "gelu");
        device_free(&f, x);
        device_free(&f, y);
        device_free(&f, z);
        free(gate), free(up), free(silu), free(gelu), free(got), free(got_gelu);
    }
    cuda_fixture_close(&f);
}

Test(cuda_operations, add_and_softcap_agree_with_their_formulas)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t s = 0; s < SIZE_COUNT; s++) {
        size_t n = sizes[s];
        float *a = normal_floats(n, 30, s), *b = normal_floats(n, 1, s + 100);
        double *sum = malloc(n * sizeof *sum), *capped = malloc(n * sizeof *capped);

        for (size_t i = 0; i < n; i++) {
            sum[i] = (double)a[i] + (double)b[i] * 0.22;
            capped[i] = 30 * tanh((double)a[i] / 30);
        }
        float *x = device_floats(&f, a, n), *y = device_floats(&f, b, n), *z = device_floats(&f, a, n);
        CALL(add, x, y, 0.22f, n);
        CALL(softcap, z, 30.0f, n);
        float *got = host_floats(&f, x, n), *got_cap = host_floats(&f, z, n);
        check_floats(got, sum, n, 1e-6, 1e-6, "add");
        check_floats(got_cap, capped, n, 1e-6, 1e-6, "softcap");
        device_free(&f, x);
        device_free(&f, y);
        device_free(&f, z);
        free(a), free(b), free(sum), free(capped), free(got), free(got_cap);
    }
    cuda_fixture_close(&f);
}

/* ---- rows ---- */

Test(cuda_operations, rms_norm_agrees_with_its_formula_in_place_too)
{
    static const size_t widths[] = { 1, 32, 64, 80, 128, 129, 576, 2048, 4096, 5000, 8192 };
    static const size_t rows[] = { 1, 2, 7, 64 };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            size_t width = widths[w], n = rows[r] * width;
            float *x = normal_floats(n, 3, w), *weight = normal_floats(width, 1, r);
            double *expected = malloc(n * sizeof *expected);

            for (size_t row = 0; row < rows[r]; row++) {
                double squares = 0;
                for (size_t i = 0; i < width; i++)
                    squares += (double)x[row * width + i] * (double)x[row * width + i];
                for (size_t i = 0; i < width; i++)
                    expected[row * width + i] =
                        (double)x[row * width + i] / sqrt(squares / (double)width + 1e-6) * ((double)weight[i] + 1);
            }
            float *from = device_floats(&f, x, n), *scale = device_floats(&f, weight, width);
            float *to = device_floats(&f, NULL, n);
            CALL(rms_norm, from, scale, 1.0f, 1e-6, rows[r], width, to);
            CALL(rms_norm, from, scale, 1.0f, 1e-6, rows[r], width, from);
            float *got = host_floats(&f, to, n), *in_place = host_floats(&f, from, n);
            check_floats(got, expected, n, 1e-6, 2e-6, "rms_norm");
            check_floats(in_place, expected, n, 1e-6, 2e-6, "rms_norm in place");
            device_free(&f, from);
            device_free(&f, scale);
            device_free(&f, to);
            free(x), free(weight), free(expected), free(got), free(in_place);
        }
    cuda_fixture_close(&f);
}

Test(cuda_operations, rope_table_has_cosines_and_sines_of_far_positions_too)
{
    static const struct {
        size_t first, rows, dim;
    } cases[] = { { 0, 300, 128 }, { 131000, 72, 128 }, { 7, 2, 2 }, { 1000000, 33, 512 }, { 5, 65, 80 } };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t first = cases[c].first, rows = cases[c].rows, dim = cases[c].dim, half = dim / 2, n = rows * dim;
        double inv_freq[BACKEND_ROPE_DIM / 2], *expected = malloc(n * sizeof *expected);

        for (size_t j = 0; j < half; j++)
            inv_freq[j] = pow(500000.0, -(double)j / (double)half);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < half; j++) {
                expected[r * dim + j] = 1.25 * cos((double)(first + r) * inv_freq[j]);
                expected[r * dim + half + j] = 1.25 * sin((double)(first + r) * inv_freq[j]);
            }
        float *table = device_floats(&f, NULL, n);
        CALL(rope_table, inv_freq, 1.25, first, rows, dim, table);
        float *got = host_floats(&f, table, n);
        check_floats(got, expected, n, 1e-7, 1e-7, "rope_table");
        device_free(&f, table);
        free(expected), free(got);
    }
    cuda_fixture_close(&f);
}

Test(cuda_operations, rope_rotates_pairs_by_the_table)
{
    static const struct {
        size_t rows, heads, dim, first;
    } cases[] = { { 1, 32, 128, 0 }, { 1, 9, 64, 17 }, { 5, 3, 80, 2 }, { 64, 8, 256, 0 }, { 3, 1, 2, 1 } };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t rows = cases[c].rows, heads = cases[c].heads, dim = cases[c].dim, first = cases[c].first;
        size_t n = rows * heads * dim, table_n = (first + rows) * dim;
        float *x = normal_floats(n, 1, c), *table = normal_floats(table_n, 1, c + 50);
        double *expected = malloc(n * sizeof *expected);

        for (size_t i = 0; i < n; i++) {
            size_t row = i / (heads * dim), j = i % dim, pair = j % (dim / 2);
            double cosine = (double)table[(first + row) * dim + pair];
            double sine = (double)table[(first + row) * dim + dim / 2 + pair];
            double other = (double)x[j < dim / 2 ? i + dim / 2 : i - dim / 2];
            expected[i] = (double)x[i] * cosine + (j < dim / 2 ? -other : other) * sine;
        }
        float *device = device_floats(&f, x, n), *device_table = device_floats(&f, table, table_n);
        CALL(rope, device, device_table, first, rows, heads, dim);
        float *got = host_floats(&f, device, n);
        check_floats(got, expected, n, 1e-6, 1e-6, "rope");
        device_free(&f, device);
        device_free(&f, device_table);
        free(x), free(table), free(expected), free(got);
    }
    cuda_fixture_close(&f);
}

/* Every type, more rows than the staging ring holds at once, ids that repeat. */
Test(cuda_operations, embed_gathers_and_widens_rows)
{
    static const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    static const size_t widths[] = { 64, 576, 4096 };
    static const size_t row_counts[] = { 1, 3, 700, 3000 };
    enum { VOCAB = 301 };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    for (size_t w = 0; w < 3; w++) {
        size_t width = widths[w];
        float *wide = normal_floats(VOCAB * width, 1, w);
        uint16_t *narrow = malloc(VOCAB * width * sizeof *narrow);
        for (size_t d = 0; d < 3; d++) {
            for (size_t i = 0; i < VOCAB * width; i++)
                narrow[i] = dtypes[d] == DTYPE_BF16 ? bfloat_from_float(wide[i]) : half_from_float(wide[i]);
            for (size_t r = 0; r < cuda_count(4, 3); r++) {
                size_t rows = row_counts[r];
                int32_t *ids = malloc(rows * sizeof *ids);
                double *expected = malloc(rows * width * sizeof *expected);
                for (size_t i = 0; i < rows; i++)
                    ids[i] = (int32_t)(i * 7919 % VOCAB);
                for (size_t i = 0; i < rows * width; i++) {
                    size_t at = (size_t)ids[i / width] * width + i % width;
                    float value = dtypes[d] == DTYPE_F32   ? wide[at]
                                  : dtypes[d] == DTYPE_F16 ? half_to_float(narrow[at])
                                                           : bfloat_to_float(narrow[at]);
                    expected[i] = (double)(value * 2.5f);
                }
                float *out = device_floats(&f, NULL, rows * width);
                const void *table = dtypes[d] == DTYPE_F32 ? (const void *)wide : narrow;
                CALL(embed, dtypes[d], table, width, ids, rows, 2.5f, out);
                float *got = host_floats(&f, out, rows * width);
                check_floats(got, expected, rows * width, 0, 0, dtype_name(dtypes[d]));
                device_free(&f, out);
                free(ids), free(expected), free(got);
            }
        }
        free(wide), free(narrow);
    }
    cuda_fixture_close(&f);
}

Test(cuda_operations, an_embedding_of_another_type_is_refused)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    int64_t table[4] = { 0 };
    int32_t id = 0;

    cuda_fixture_open(&f);
    float *out = device_floats(&f, NULL, 4);
    cr_assert_eq(f.backend.ops->embed(&f.backend, DTYPE_I64, table, 4, &id, 1, 1.0f, out, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    device_free(&f, out);
    cuda_fixture_close(&f);
}

/* No rows or elements is no work, not an error (a grid of 0 blocks would be one). */
Test(cuda_operations, nothing_to_do_is_fine)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open(&f);
    float *x = device_floats(&f, NULL, 4);
    CALL(act_mul, ACTIVATION_SILU, x, x, 0);
    CALL(add, x, x, 1.0f, 0);
    CALL(softcap, x, 1.0f, 0);
    CALL(rms_norm, x, x, 0.0f, 1e-6, 0, 4, x);
    CALL(rope, x, x, 0, 0, 1, 4);
    CALL(upload, x, x, 0);
    CALL(download, x, x, 0);
    device_free(&f, x);
    cuda_fixture_close(&f);
}

/* ---- copies ---- */

/* Around the size of a piece of the staging ring, and beyond the whole ring. */
Test(cuda_operations, what_is_uploaded_comes_back)
{
    static const size_t bytes[] = { 1, 3, 512, 65537, ((size_t)4 << 20) - 1, (size_t)4 << 20, ((size_t)4 << 20) + 1,
                                    ((size_t)16 << 20) + 12345, (size_t)77 << 20 };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    for (size_t b = 0; b < sizeof bytes / sizeof *bytes; b++) {
        struct plim_random random;
        uint64_t *data = malloc(bytes[b] + 8);
        plim_random_seed(&random, b, 0);
        plim_random_fill(&random, data, bytes[b] / 8 + 1);
        void *device = device_bytes(&f, data, bytes[b]);
        void *back = host_bytes(&f, device, bytes[b]);
        cr_assert_eq(memcmp(data, back, bytes[b]), 0, "%zu bytes", bytes[b]);
        device_free(&f, device);
        free(data), free(back);
    }
    cuda_fixture_close(&f);
}

/* A ring piece must not be refilled before the copy out of it has happened. */
Test(cuda_operations, many_small_uploads_keep_their_order_and_contents)
{
    const size_t count = cuda_count(5000, 500);
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    float *expected = malloc(count * sizeof *expected);

    cuda_fixture_open(&f);
    float *device = device_floats(&f, NULL, count);
    for (size_t i = 0; i < count; i++) {
        expected[i] = (float)(i * 3);
        CALL(upload, device + i, &expected[i], sizeof *expected);
    }
    float *back = host_floats(&f, device, count);
    cr_assert_eq(memcmp(expected, back, count * sizeof *back), 0);
    device_free(&f, device);
    free(expected), free(back);
    cuda_fixture_close(&f);
}
