/* Statistics, against values worked out by hand and exact bootstrap distributions (tools/reference/bootstrap.py). */

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "plimsoll/json.h"
#include "plimsoll/random.h"
#include "statistics.h"

Test(statistics, medians_and_quantiles)
{
    const double odd[] = { 5, 1, 3 }, even[] = { 4, 1, 3, 2 }, sorted[] = { 10, 20, 30, 40 };
    cr_assert_eq(median(odd, 3), 3);
    cr_assert_eq(median(even, 4), 2.5);
    cr_assert(isnan(median(NULL, 0)));

    static const double far_out[] = { 4, 1, 1000, 3, 2 };
    struct interval half = middle_half(far_out, 5);
    cr_assert(half.estimate == 3 && half.low == 2 && half.high == 4);
    cr_assert(isnan(middle_half(NULL, 0).low));
    /* numpy.quantile([10, 20, 30, 40], [0, .1, .5, .75, 1]) */
    cr_assert_eq(quantile_of_sorted(sorted, 4, 0), 10);
    cr_assert_float_eq(quantile_of_sorted(sorted, 4, 0.1), 13, 1e-12);
    cr_assert_eq(quantile_of_sorted(sorted, 4, 0.5), 25);
    cr_assert_eq(quantile_of_sorted(sorted, 4, 0.75), 32.5);
    cr_assert_eq(quantile_of_sorted(sorted, 4, 1), 40);
}

Test(statistics, the_robust_deviation_ignores_one_wild_sample)
{
    const double calm[] = { 1, 2, 3, 4, 5 }, wild[] = { 1, 2, 3, 4, 1000 };
    cr_assert_float_eq(robust_deviation(calm, 5), 1.4826, 1e-12);   /* distances 2 1 0 1 2 */
    cr_assert_float_eq(robust_deviation(wild, 5), 1.4826, 1e-12);   /* distances 2 1 0 1 997 */
    cr_assert(isnan(robust_deviation(NULL, 0)));
}

static double *numbers(const cJSON *array, size_t *count)
{
    *count = (size_t)cJSON_GetArraySize(array);
    double *values = calloc(*count, sizeof *values);
    for (size_t i = 0; i < *count; i++)
        values[i] = cJSON_GetArrayItem(array, (int)i)->valuedouble;
    return values;
}

static double number_at(const cJSON *array, int index)
{
    return cJSON_GetArrayItem(array, index)->valuedouble;
}

Test(statistics, bootstrap_agrees_with_the_exact_distribution)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root;
    cr_assert_eq(plim_json_read(PLIMSOLL_TEST_DATA "/bootstrap.json", 1 << 20, &root, &err), 0, "%s", err.message);
    const cJSON *c;
    int checked = 0;
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases"))
    {
        size_t a_count, b_count;
        double *a = numbers(cJSON_GetObjectItem(c, "a"), &a_count), *b = numbers(cJSON_GetObjectItem(c, "b"), &b_count);
        const cJSON *low = cJSON_GetObjectItem(c, "low"), *high = cJSON_GetObjectItem(c, "high");
        struct interval got;
        cr_assert_eq(bootstrap_median_ratio(a, a_count, b, b_count, cJSON_GetObjectItem(c, "level")->valuedouble, &got,
                                            &err), 0, "%s", err.message);
        cr_assert_float_eq(got.estimate, cJSON_GetObjectItem(c, "estimate")->valuedouble, 1e-12);
        cr_assert(got.low >= number_at(low, 0) - 1e-12 && got.low <= number_at(low, 1) + 1e-12, "case %d: low %.17g",
                  checked, got.low);
        cr_assert(got.high >= number_at(high, 0) - 1e-12 && got.high <= number_at(high, 1) + 1e-12,
                  "case %d: high %.17g", checked, got.high);
        free(a);
        free(b);
        checked++;
    }
    cr_assert_eq(checked, 5);
    cJSON_Delete(root);
}

Test(statistics, one_pair_of_files_gives_one_interval)
{
    const double a[] = { 1, 1.1, 0.9, 1.05, 1.2, 1.01 }, b[] = { 1.1, 1.2, 1.0, 1.15, 1.3, 1.12 };
    struct interval first, second;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(bootstrap_median_ratio(a, 6, b, 6, 0.95, &first, &err), 0);
    cr_assert_eq(bootstrap_median_ratio(a, 6, b, 6, 0.95, &second, &err), 0);
    cr_assert_arr_eq(&first, &second, sizeof first);
}

/* Pairs of middle draws (up to 128 samples) and their mixture (above) must meet without a jump. */
Test(statistics, large_even_samples_are_done_as_small_ones)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct interval exact, mixed;
    double values[130];
    for (int i = 0; i < 130; i++)
        values[i] = 100 + 0.1 * i;
    cr_assert_eq(bootstrap_median_ratio(values, 128, values, 128, 0.99, &exact, &err), 0);
    cr_assert_eq(bootstrap_median_ratio(values, 130, values, 130, 0.99, &mixed, &err), 0);
    cr_assert_float_eq(exact.low, mixed.low, 1e-3);
    cr_assert_float_eq(exact.high, mixed.high, 1e-3);
    cr_assert_float_eq(exact.low * exact.high, 1, 1e-3, "as likely either way");
}

/*
 * Of intervals at level 0.90, how many hold the true ratio: for 15 samples the exact percentile interval of one median
 * covers some 0.88 to 0.93. 400 trials have a standard deviation of 1.5%.
 */
Test(statistics, intervals_cover_as_often_as_they_say)
{
    enum { TRIALS = 400, SAMPLES = 15 };
    struct plim_random random;
    struct plim_err err = PLIM_ERR_INIT;
    const double truth = 1.05;
    int covered = 0;
    plim_random_seed(&random, 11, 0);
    for (int trial = 0; trial < TRIALS; trial++) {
        double a[SAMPLES], b[SAMPLES];
        for (int i = 0; i < SAMPLES; i++) {
            a[i] = exp(0.03 * plim_random_normal(&random));
            b[i] = truth * exp(0.03 * plim_random_normal(&random));
        }
        struct interval got;
        cr_assert_eq(bootstrap_median_ratio(a, SAMPLES, b, SAMPLES, 0.90, &got, &err), 0);
        covered += got.low <= truth && truth <= got.high;
    }
    cr_assert(covered > 0.85 * TRIALS && covered < 0.97 * TRIALS, "covered %d of %d", covered, TRIALS);
}

Test(statistics, refuses_what_has_no_ratio)
{
    const double good[] = { 1, 2, 3 }, zero[] = { 0, 1, 2 }, infinite[] = { 1, INFINITY };
    const struct {
        const double *a, *b;
        size_t a_count, b_count;
    } cases[] = { { good, zero, 3, 3 }, { zero, good, 3, 3 }, { good, good, 0, 3 }, { good, infinite, 3, 2 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct interval out;
        struct plim_err err = PLIM_ERR_INIT;
        cr_assert_lt(bootstrap_median_ratio(cases[i].a, cases[i].a_count, cases[i].b, cases[i].b_count, 0.95, &out,
                                            &err), 0);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    }
}
