/* Hessians: accumulation, order, damping, the factor, against plain double-precision arithmetic. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hessian.h"
#include "plimsoll/random.h"
#include "quantize_test.h"

#define NO_OFFLOAD INT64_MAX

/* [rows, K] activations with a few loud channels; each channel also follows its left neighbour a little. */
static float *activations(size_t rows, size_t k, uint64_t seed)
{
    struct plim_random random;
    plim_random_seed(&random, seed, 0);
    float *x = malloc(rows * k * sizeof *x);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) {
            double loud = i % 17 == 3 ? 6 : 1 + 0.3 * (double)(i % 7);
            double neighbour = i > 0 ? 0.4 * (double)x[r * k + i - 1] : 0;
            x[r * k + i] = (float)(loud * plim_random_normal(&random) + neighbour);
        }
    return x;
}

static void add_rows(struct hessian *h, const float *x, size_t rows, size_t sequences)
{
    struct plim_err err = PLIM_ERR_INIT;
    for (size_t s = 0; s < sequences; s++)
        cr_assert_eq(hessian_add(h, x + s * rows * h->in_features, rows, &err), 0, "%s", err.message);
}

static void factor(struct hessian *h, int64_t threshold, struct hessian_report *report)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(hessian_order(h, "test", &err), 0, "%s", err.message);
    cr_assert_eq(hessian_factor(h, "test", threshold, report, &err), 0, "%s", err.message);
}

Test(hessian, accumulates_the_upper_triangle)
{
    enum { K = 544, ROWS = 40, SEQUENCES = 3 };   /* one tile and a piece of the next */
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    fixture_open(&f, 2);
    float *x = activations(ROWS * SEQUENCES, K, 1);
    cr_assert_eq(hessian_init(&h, &f.backend, K, &err), 0);
    add_rows(&h, x, ROWS, SEQUENCES);
    for (size_t i = 0; i < K; i += 5)
        for (size_t j = i; j < K; j += 7) {
            double sum = 0, size = 0;
            for (size_t r = 0; r < ROWS * SEQUENCES; r++) {
                sum += (double)x[r * K + i] * (double)x[r * K + j];
                size += fabs((double)x[r * K + i] * (double)x[r * K + j]);
            }
            cr_assert_float_eq((double)h.matrix[i * K + j], sum, 1e-6 * size + 1e-12, "%zu %zu", i, j);
        }
    hessian_release(&h);
    free(x);
    fixture_close(&f);
}

/* U^T U (P H P^T + d I) = I, U upper triangular: the definition, checked in double precision. */
static void check_factor(size_t k, int threads, int64_t threshold)
{
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    struct hessian_report report;
    size_t rows = k + 50;
    fixture_open(&f, threads);
    float *x = activations(rows, k, 2);
    cr_assert_eq(hessian_init(&h, &f.backend, k, &err), 0);
    add_rows(&h, x, rows, 1);
    float *original = malloc(k * k * sizeof *original);
    memcpy(original, h.matrix, k * k * sizeof *original);
    factor(&h, threshold, &report);
    cr_assert_eq(report.damping_attempts, 1);
    cr_assert_eq(report.offloaded, (int64_t)(k * k) > threshold);

    double *damped = malloc(k * k * sizeof *damped), *row = malloc(k * sizeof *row);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) {
            size_t a = h.order[i], b = h.order[j];
            damped[i * k + j] = (double)(a < b ? original[a * k + b] : original[b * k + a]);
            if (i == j)
                damped[i * k + j] += (double)report.damping;
        }
    double worst = 0;
    for (size_t i = 0; i < k; i += 1 + k / 50) {
        /* Row i of U^T U, then of the product with the matrix. */
        for (size_t j = 0; j < k; j++) {
            row[j] = 0;
            for (size_t m = 0; m <= i && m <= j; m++)
                row[j] += (double)h.matrix[m * k + i] * (double)h.matrix[m * k + j];
        }
        for (size_t j = 0; j < k; j += 1 + k / 50) {
            double sum = 0;
            for (size_t m = 0; m < k; m++)
                sum += row[m] * damped[m * k + j];
            worst = fmax(worst, fabs(sum - (i == j ? 1.0 : 0.0)));
        }
        for (size_t j = 0; j < i; j++)
            cr_assert_eq(h.matrix[i * k + j], 0.0f, "below the diagonal at %zu %zu", i, j);
    }
    /* Condition number of some 1e3 times fp32's epsilon. */
    cr_assert_lt(worst, 2e-4, "K %zu: %g", k, worst);
    hessian_release(&h);
    free(original);
    free(damped);
    free(row);
    free(x);
    fixture_close(&f);
}

Test(hessian, factor_is_that_of_the_inverse)
{
    check_factor(32, 1, NO_OFFLOAD);
    check_factor(256, 2, NO_OFFLOAD);
    check_factor(288, 2, NO_OFFLOAD);
    check_factor(608, 3, NO_OFFLOAD);
}

Test(hessian, factor_through_the_slow_tier)
{
    check_factor(288, 2, 288 * 288 - 1);
}

static void factored_bits(size_t k, int threads, int64_t threshold, float *out, struct hessian_report *report)
{
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    fixture_open(&f, threads);
    float *x = activations(300, k, 3);
    cr_assert_eq(hessian_init(&h, &f.backend, k, &err), 0);
    add_rows(&h, x, 100, 3);
    factor(&h, threshold, report);
    memcpy(out, h.matrix, k * k * sizeof *out);
    hessian_release(&h);
    free(x);
    fixture_close(&f);
}

Test(hessian, same_bits_for_any_number_of_threads_and_either_tier)
{
    enum { K = 800 };
    struct hessian_report report;
    float *one = malloc(K * K * sizeof *one), *other = malloc(K * K * sizeof *other);
    factored_bits(K, 1, NO_OFFLOAD, one, &report);
    for (int threads = 2; threads <= 4; threads++) {
        factored_bits(K, threads, NO_OFFLOAD, other, &report);
        cr_assert_eq(memcmp(one, other, K * K * sizeof *one), 0, "%d threads", threads);
    }
    factored_bits(K, 2, 0, other, &report);
    cr_assert_eq(memcmp(one, other, K * K * sizeof *one), 0, "offloaded");
    free(one);
    free(other);
}

/* The fast tier's peak while permuting: with the offload all but the K x K matrix. */
Test(hessian, offload_takes_the_matrix_off_the_fast_tier)
{
    enum { K = 512 };
    struct hessian_report near, far;
    float *bits = malloc(K * K * sizeof *bits);
    factored_bits(K, 2, NO_OFFLOAD, bits, &near);
    factored_bits(K, 2, 0, bits, &far);
    cr_assert_eq(near.permute_peak_bytes[PLIM_FAST] - far.permute_peak_bytes[PLIM_FAST], K * K * sizeof(float));
    cr_assert_eq(near.permute_peak_bytes[PLIM_SLOW], 0);
    cr_assert_eq(far.permute_peak_bytes[PLIM_SLOW], K * K * sizeof(float));
    cr_assert_eq(near.factor_peak_bytes[PLIM_FAST], far.factor_peak_bytes[PLIM_FAST]);
    free(bits);
}

Test(hessian, order_is_by_falling_diagonal_and_stable)
{
    enum { K = 64 };
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    float x[K];
    for (int i = 0; i < K; i++)
        x[i] = (float)(1 + i % 4);
    fixture_open(&f, 1);
    cr_assert_eq(hessian_init(&h, &f.backend, K, &err), 0);
    cr_assert_eq(hessian_add(&h, x, 1, &err), 0);
    cr_assert_eq(hessian_order(&h, "test", &err), 0);
    for (int i = 0; i < K; i++)
        cr_assert_eq(h.order[i], 3 - i / 16 + 4 * (i % 16), "%d", i);
    hessian_release(&h);
    fixture_close(&f);
}

Test(hessian, nothing_added_is_the_identity)
{
    enum { K = 32 };
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    struct hessian_report report;
    fixture_open(&f, 1);
    cr_assert_eq(hessian_init(&h, &f.backend, K, &err), 0);
    h.as_exllamav2 = true;
    factor(&h, NO_OFFLOAD, &report);
    cr_assert_float_eq(h.matrix[0], 1 / sqrt(1.12), 1e-6);
    cr_assert_eq(h.matrix[1], 0.0f);
    hessian_release(&h);
    fixture_close(&f);
}

Test(hessian, indefinite_matrix_is_damped_again_then_refused)
{
    enum { K = 64 };
    for (int hopeless = 0; hopeless <= 1; hopeless++) {
        struct fixture_backend f;
        struct plim_err err = PLIM_ERR_INIT;
        struct hessian h;
        struct hessian_report report;
        fixture_open(&f, 2);
        cr_assert_eq(hessian_init(&h, &f.backend, K, &err), 0);
        h.row_count = 1;
        h.as_exllamav2 = true;
        for (size_t i = 0; i < K; i++)
            h.matrix[i * K + i] = 1.0f;
        /* Eigenvalue 1 - c: dampings of 0.12 each make up for c = 1.3 in three attempts, for c = 3 in none of ten. */
        h.matrix[1] = hopeless ? 3.0f : 1.3f;
        cr_assert_eq(hessian_order(&h, "layers.0.q_proj", &err), 0);
        int rc = hessian_factor(&h, "layers.0.q_proj", NO_OFFLOAD, &report, &err);
        if (hopeless) {
            cr_assert_eq(rc, -1);
            cr_assert_eq(err.kind, PLIM_ERR_INPUT);
            cr_assert_not_null(strstr(err.message, "layers.0.q_proj"));
            cr_assert_eq(report.damping_attempts, 10);
        } else {
            cr_assert_eq(rc, 0, "%s", err.message);
            cr_assert_eq(report.damping_attempts, 3);
        }
        hessian_release(&h);
        fixture_close(&f);
    }
}

Test(hessian, nan_activations_are_named)
{
    enum { K = 32 };
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    float x[K] = { [5] = NAN };
    fixture_open(&f, 1);
    cr_assert_eq(hessian_init(&h, &f.backend, K, &err), 0);
    cr_assert_eq(hessian_add(&h, x, 1, &err), 0);
    cr_assert_eq(hessian_order(&h, "layers.1.down_proj", &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "layers.1.down_proj"));
    hessian_release(&h);
    fixture_close(&f);
}
