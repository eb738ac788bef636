/* Rank tests, their estimate, Holm and proportions, against SciPy (tools/reference/ranks.py). */

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "holm.h"
#include "mann_whitney.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"
#include "proportion.h"
#include "signed_rank.h"

static cJSON *reference;

static void read_reference(void)
{
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_json_read(PLIMSOLL_TEST_DATA "/ranks.json", 1 << 20, &reference, &err), 0, "%s", err.message);
}

static void release_reference(void)
{
    cJSON_Delete(reference);
}

TestSuite(ranks, .init = read_reference, .fini = release_reference);

static double number(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItem(object, key)->valuedouble;
}

static double *numbers(const cJSON *object, const char *key, size_t *count)
{
    const cJSON *array = cJSON_GetObjectItem(object, key);
    double *values;

    *count = (size_t)cJSON_GetArraySize(array);
    values = calloc(*count, sizeof *values);
    for (size_t i = 0; i < *count; i++)
        values[i] = cJSON_GetArrayItem(array, (int)i)->valuedouble;
    return values;
}

static void check_bound(double got, const cJSON *wanted, double infinite)
{
    if (cJSON_IsNull(wanted))
        cr_expect_eq(got, infinite);
    else
        cr_expect_float_eq(got, wanted->valuedouble, 1e-12);
}

Test(ranks, signed_rank_and_its_estimate_are_scipys)
{
    struct plim_err err = PLIM_ERR_INIT;
    const cJSON *c, *wanted;
    int estimates = 0;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(reference, "signed_rank")) {
        size_t n;
        double *d = numbers(c, "differences", &n), p;

        cr_assert_eq(signed_rank_p(d, n, &p, &err), 0, "%s", err.message);
        cr_expect_float_eq(p, number(c, "p"), 1e-10, "n = %zu: %.12g", n, p);
        cJSON_ArrayForEach(wanted, cJSON_GetObjectItem(c, "hodges_lehmann")) {
            struct interval got;

            cr_assert_eq(hodges_lehmann(d, n, number(wanted, "level"), &got, &err), 0, "%s", err.message);
            cr_expect_float_eq(got.estimate, number(wanted, "estimate"), 1e-12);
            check_bound(got.low, cJSON_GetObjectItem(wanted, "low"), -INFINITY);
            check_bound(got.high, cJSON_GetObjectItem(wanted, "high"), INFINITY);
            estimates++;
        }
        free(d);
    }
    cr_expect_eq(estimates, 14);
}

Test(ranks, ties_are_settled_by_all_signs_their_ranks_can_have)
{
    struct plim_err err = PLIM_ERR_INIT;
    const cJSON *c;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(reference, "signed_rank_ties")) {
        size_t n;
        double *d = numbers(c, "differences", &n), p, wanted = number(c, "p");

        cr_assert_eq(signed_rank_p(d, n, &p, &err), 0, "%s", err.message);
        cr_expect_float_eq(p, wanted, 1e-12, "%g, wanted %g", p, wanted);
        free(d);
    }
}

Test(ranks, nothing_that_differs_is_no_evidence)
{
    const double zeros[] = { 0, 0, 0 };
    struct plim_err err = PLIM_ERR_INIT;
    struct interval got;
    double p;

    cr_assert_eq(signed_rank_p(zeros, 3, &p, &err), 0);
    cr_expect_eq(p, 1);
    cr_assert_eq(signed_rank_p(NULL, 0, &p, &err), 0);
    cr_expect_eq(p, 1);
    cr_assert_eq(hodges_lehmann(zeros, 1, 0.95, &got, &err), 0);
    cr_expect_eq(got.estimate, 0);
    cr_expect(isinf(got.low) && isinf(got.high));
}

/* A one-sided test at 0.05 rejects a true null in at most that share: 2000 trials have a deviation of 0.5%. */
Test(ranks, signed_rank_keeps_its_size)
{
    enum { TRIALS = 2000, PAIRS = 12 };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    int rejected = 0, outside = 0;

    plim_random_seed(&random, 3, 0);
    for (int trial = 0; trial < TRIALS; trial++) {
        struct interval got;
        double d[PAIRS], p;

        for (int i = 0; i < PAIRS; i++)
            d[i] = plim_random_normal(&random) * (plim_random_below(&random, 10) ? 1 : 10);   /* symmetric, wild */
        cr_assert_eq(signed_rank_p(d, PAIRS, &p, &err), 0);
        cr_assert_eq(hodges_lehmann(d, PAIRS, 0.90, &got, &err), 0);
        rejected += p <= 0.05;
        outside += got.high < 0;
    }
    cr_expect(rejected < 0.065 * TRIALS && rejected > 0.03 * TRIALS, "%d of %d", rejected, TRIALS);
    cr_expect(outside < 0.065 * TRIALS && outside > 0.03 * TRIALS, "%d of %d", outside, TRIALS);
}

/* Above 64 pairs an approximation takes over; at the seam both must tell the same. */
Test(ranks, approximate_bounds_continue_the_exact_ones)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    struct interval exact, approximate;
    double d[65];

    plim_random_seed(&random, 5, 0);
    for (int i = 0; i < 65; i++)
        d[i] = plim_random_normal(&random);
    d[64] = 0.01;
    cr_assert_eq(hodges_lehmann(d, 64, 0.90, &exact, &err), 0);
    cr_assert_eq(hodges_lehmann(d, 65, 0.90, &approximate, &err), 0);
    cr_expect_float_eq(exact.low, approximate.low, 0.02);
    cr_expect_float_eq(exact.high, approximate.high, 0.02);
}

Test(ranks, mann_whitney_is_scipys)
{
    struct plim_err err = PLIM_ERR_INIT;
    const cJSON *c;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(reference, "mann_whitney")) {
        size_t m, n;
        double *a = numbers(c, "a", &m), *b = numbers(c, "b", &n), p;

        cr_assert_eq(mann_whitney_p(a, m, b, n, &p, &err), 0, "%s", err.message);
        cr_expect_float_eq(p, number(c, "p"), 1e-9, "%zu, %zu: %.12g", m, n, p);
        free(a);
        free(b);
    }
    double p;
    cr_assert_eq(mann_whitney_p(NULL, 0, NULL, 0, &p, &err), 0);
    cr_expect_eq(p, 1);
}

/* Worked by hand: sorted .01 .02 .03 .04 times 4 3 2 1 gives .04 .06 .06 .06. */
Test(ranks, holm_steps_down)
{
    double p[] = { 0.04, 0.01, 0.03, 0.02 };
    const double adjusted[] = { 0.06, 0.04, 0.06, 0.06 };
    double large[] = { 0.6, 0.9 };
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(holm_adjust(p, 4, p, &err), 0);
    for (int i = 0; i < 4; i++)
        cr_expect_float_eq(p[i], adjusted[i], 1e-15);
    cr_assert_eq(holm_adjust(large, 2, large, &err), 0);
    cr_expect_eq(large[0], 1);
    cr_expect_eq(large[1], 1);
    cr_assert_eq(holm_adjust(NULL, 0, NULL, &err), 0);
}

Test(ranks, proportions_are_scipys)
{
    const cJSON *c;

    cJSON_ArrayForEach(c, cJSON_GetObjectItem(reference, "proportion")) {
        size_t count = (size_t)number(c, "count"), n = (size_t)number(c, "n");
        struct interval got = proportion(count, n, number(c, "level"));

        cr_expect_float_eq(got.estimate, (double)count / (double)n, 1e-15);
        cr_expect_float_eq(got.low, number(c, "low"), 1e-9);
        cr_expect_float_eq(got.high, number(c, "high"), 1e-9);
    }
}
