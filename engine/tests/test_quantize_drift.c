/* Weights that make up for drift, against a plain least squares solution in double precision. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "drift.h"
#include "plimsoll/random.h"
#include "quantize_test.h"

enum { K = 64, N = 160, ROWS = 400 };   /* two tiles of columns, the second a part */

static float *normal(size_t count, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc(count * sizeof *x);
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)plim_random_normal(&random);
    return x;
}

struct problem {
    struct fixture_backend f;
    struct hessian h;
    struct hessian_report report;
    float *x, *z, *w;            /* the inputs a layer gets, the dense model's, [ROWS, K]; weights [K, N] */
    float *difference;           /* of inputs, [ROWS, K] */
    double *wanted;              /* change of the outputs, [ROWS, N]: (z - x) w */
};

static void problem_open(struct problem *p, int threads)
{
    struct plim_err err = PLIM_ERR_INIT;
    fixture_open(&p->f, threads);
    p->x = normal((size_t)ROWS * K, 1);
    p->z = normal((size_t)ROWS * K, 2);
    p->w = normal((size_t)K * N, 3);
    p->difference = malloc((size_t)ROWS * K * sizeof *p->difference);
    p->wanted = malloc((size_t)ROWS * N * sizeof *p->wanted);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < K; i++) {
            /* The order of features is not their own. */
            p->x[r * K + i] *= 1 + (float)(i * 7 % K) / 8;
            p->z[r * K + i] = p->x[r * K + i] * 1.05f + 0.2f * p->z[r * K + i] + 0.1f * p->x[r * K + (i + 1) % K];
            p->difference[r * K + i] = p->z[r * K + i] - p->x[r * K + i];
        }
        for (size_t n = 0; n < N; n++) {
            double sum = 0;
            for (size_t i = 0; i < K; i++)
                sum += (double)p->difference[r * K + i] * (double)p->w[i * N + n];
            p->wanted[r * N + n] = sum;
        }
    }
    cr_assert_eq(hessian_init(&p->h, &p->f.backend, K, &err), 0);
    /* Two sequences: the Hessian is a mean over them. */
    cr_assert_eq(hessian_add(&p->h, p->x, ROWS / 2, &err), 0);
    cr_assert_eq(hessian_add(&p->h, p->x + ROWS / 2 * K, ROWS / 2, &err), 0);
    cr_assert_eq(hessian_order(&p->h, "test", &err), 0);
    cr_assert_eq(hessian_factor(&p->h, "test", INT64_MAX, &p->report, &err), 0, "%s", err.message);
}

static void problem_close(struct problem *p)
{
    hessian_release(&p->h);
    free(p->x);
    free(p->z);
    free(p->w);
    free(p->difference);
    free(p->wanted);
    fixture_close(&p->f);
}

/* (X^T X / 2 + damping)^-1 X^T wanted / 2 by elimination: [K, N], the features in their own order. */
static double *solve(const struct problem *p)
{
    double *a = calloc(K * K, sizeof *a), *b = calloc((size_t)K * N, sizeof *b);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < K; i++) {
            double x = (double)p->x[r * K + i] / 2;
            for (size_t j = 0; j < K; j++)
                a[i * K + j] += x * (double)p->x[r * K + j];
            for (size_t n = 0; n < N; n++)
                b[i * N + n] += x * p->wanted[r * N + n];
        }
    for (size_t i = 0; i < K; i++)
        a[i * K + i] += (double)p->report.damping;
    for (size_t i = 0; i < K; i++)
        for (size_t j = 0; j < K; j++) {
            double factor = j == i ? 0 : a[j * K + i] / a[i * K + i];
            for (size_t m = i; factor != 0 && m < K; m++)
                a[j * K + m] -= factor * a[i * K + m];
            for (size_t n = 0; factor != 0 && n < N; n++)
                b[j * N + n] -= factor * b[i * N + n];
        }
    for (size_t i = 0; i < K; i++)
        for (size_t n = 0; n < N; n++)
            b[i * N + n] /= a[i * K + i];
    free(a);
    return b;
}

/* The weights in the Hessian's order, corrected. free() */
static float *correct(struct problem *p, struct drift *d)
{
    struct plim_err err = PLIM_ERR_INIT;
    float *w = plim_pool_alloc(p->f.pool, PLIM_FAST, PLIM_TAG_WORKSPACE, (size_t)K * N * sizeof *w, &err);
    float *result = malloc((size_t)K * N * sizeof *result);
    for (size_t i = 0; i < K; i++)
        memcpy(w + i * N, p->w + (size_t)p->h.order[i] * N, N * sizeof *w);
    cr_assert_eq(drift_order(d, &p->h, &err), 0, "%s", err.message);
    plim_pool_reset_peak(p->f.pool);
    struct plim_pool_stats before, after;
    plim_pool_stats(p->f.pool, &before);
    cr_assert_eq(drift_correct(d, &p->h, w, N, &err), 0, "%s", err.message);
    plim_pool_stats(p->f.pool, &after);
    cr_expect_eq(after.peak[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes, drift_scratch_bytes(K, N));
    memcpy(result, w, (size_t)K * N * sizeof *w);
    plim_pool_free(p->f.pool, w);
    return result;
}

static void check(struct problem *p, const float *corrected)
{
    double *change = solve(p), worst = 0, largest = 0;
    for (size_t i = 0; i < K; i++)
        for (size_t n = 0; n < N; n++) {
            size_t feature = p->h.order[i];
            double expected = (double)p->w[feature * N + n] + (double)DRIFT_SHARE * change[feature * N + n];
            worst = fmax(worst, fabs((double)corrected[i * N + n] - expected));
            largest = fmax(largest, fabs(change[feature * N + n]));
        }
    cr_assert_lt(worst, 2e-5, "%g", worst);
    cr_assert_gt(largest, 0.1, "nothing to make up for");
    free(change);
}

Test(drift, of_inputs_is_the_least_squares_solution)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct problem p;
    struct drift d;
    problem_open(&p, 2);
    cr_assert_eq(drift_init(&d, &p.f.backend, PLIM_FAST, K, K, false, &err), 0);
    cr_assert_eq(drift_add(&d, p.x, p.difference, 150, 1, &err), 0);
    cr_assert_eq(drift_add(&d, p.x + 150 * K, p.difference + 150 * K, ROWS - 150, 1, &err), 0);
    float *w = correct(&p, &d);
    check(&p, w);
    free(w);
    drift_release(&d);
    problem_close(&p);
}

Test(drift, of_outputs_is_the_same_solution)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct problem p;
    struct drift d;
    problem_open(&p, 1);
    float *wanted = malloc((size_t)ROWS * N * sizeof *wanted);
    for (size_t i = 0; i < (size_t)ROWS * N; i++)
        wanted[i] = (float)p.wanted[i];
    cr_assert_eq(drift_init(&d, &p.f.backend, PLIM_SLOW, K, N, true, &err), 0);
    cr_assert_eq(drift_add(&d, p.x, wanted, ROWS, 0.25f, &err), 0);
    cr_assert_eq(drift_add(&d, p.x, wanted, ROWS, 0.75f, &err), 0);
    float *w = correct(&p, &d);
    check(&p, w);
    free(w);
    free(wanted);
    drift_release(&d);
    problem_close(&p);
}

Test(drift, has_the_same_bytes_for_any_threads)
{
    struct plim_err err = PLIM_ERR_INIT;
    float *w[2];
    for (int i = 0; i < 2; i++) {
        struct problem p;
        struct drift d;
        problem_open(&p, 1 + 2 * i);
        cr_assert_eq(drift_init(&d, &p.f.backend, PLIM_FAST, K, K, false, &err), 0);
        cr_assert_eq(drift_add(&d, p.x, p.difference, ROWS, 1, &err), 0);
        w[i] = correct(&p, &d);
        drift_release(&d);
        problem_close(&p);
    }
    cr_assert_eq(memcmp(w[0], w[1], (size_t)K * N * sizeof *w[0]), 0);
    free(w[0]);
    free(w[1]);
}
