/* Change points on synthetic series whose answer is known, and how often the method is wrong. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "change_points.h"
#include "plimsoll/random.h"
#include "proportion.h"

#define POINTS 60

/* Noise of `deviation`, with an outlier of +30% now and then, and a level that is `step` times higher from `at` on. */
struct model {
    double deviation, outliers, step;
    size_t at;
    double drift;     /* a factor a point */
};

static void make(double values[POINTS], const struct model *model, uint64_t seed)
{
    struct plim_random random;
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < POINTS; i++) {
        double noise = model->deviation * plim_random_normal(&random);
        if (plim_random_double(&random) < model->outliers)
            noise += 0.3;
        values[i] = 100 * exp(noise) * (i >= model->at ? model->step : 1) * pow(model->drift, (double)i);
    }
}

static struct change_points find(const double *values, size_t count, bool exact)
{
    struct change_points found;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(change_points_find(&found, values, count, false, exact, &err), 0, "%s", err.message);
    return found;
}

Test(change_points, a_step_is_found_where_it_is)
{
    double values[POINTS];
    make(values, &(struct model){ 0.01, 0, 1.1, 37, 1 }, 1);
    struct change_points found = find(values, POINTS, false);
    cr_assert_eq(found.count, 1u);
    cr_assert_eq(found.items[0].index, 37u);
    cr_assert_float_eq(found.items[0].ratio, 1.1, 0.01);
    cr_assert_float_eq(found.creep, 0.1, 0.02);
}

Test(change_points, two_steps_up_and_down)
{
    double values[POINTS];
    make(values, &(struct model){ 0.005, 0, 1.08, 20, 1 }, 2);
    for (size_t i = 40; i < POINTS; i++)
        values[i] /= 1.08;
    struct change_points found = find(values, POINTS, false);
    cr_assert_eq(found.count, 2u);
    cr_assert_eq(found.items[0].index, 20u);
    cr_assert_eq(found.items[1].index, 40u);
    cr_assert_not(found.crept);
}

Test(change_points, an_outlier_is_no_change)
{
    double values[POINTS];
    make(values, &(struct model){ 0.01, 0, 1, 0, 1 }, 3);
    values[10] *= 3;
    values[30] *= 1.5;
    values[31] *= 1.5;
    cr_assert_eq(find(values, POINTS, false).count, 0u);
}

Test(change_points, below_the_minimum_magnitude_is_no_change)
{
    double values[POINTS];
    make(values, &(struct model){ 0.001, 0, 1.02, 30, 1 }, 4);
    cr_assert_eq(find(values, POINTS, false).count, 0u);
}

Test(change_points, creep_is_seen_though_no_step_is_large)
{
    double values[POINTS];
    make(values, &(struct model){ 0.003, 0, 1, 0, 1.001 }, 5);   /* 6% in 60 commits */
    struct change_points found = find(values, POINTS, false);
    cr_assert(found.crept);
    cr_assert_float_eq(found.creep, 0.053, 0.01);
    cr_assert_lt(found.best_index, 8u);
}

Test(change_points, exact_series_change_at_the_first_byte)
{
    static const double values[] = { 4096, 4096, 4096, 4097, 4097, 4096 };
    struct change_points found = find(values, 6, true);
    cr_assert_eq(found.count, 2u);
    cr_assert_eq(found.items[0].index, 3u);
    cr_assert_eq(found.items[0].after, 4097.0);
    cr_assert_eq(found.items[1].index, 5u);
    cr_assert_not(found.crept);
}

Test(change_points, short_and_constant_series)
{
    static const double few[] = { 1, 2, 1, 2, 1 }, same[] = { 5, 5, 5, 5, 5, 5, 5, 5, 5, 5 };
    cr_assert_eq(find(few, 0, false).count, 0u);
    for (size_t n = 1; n <= 5; n++)
        cr_assert_eq(find(few, n, false).count, 0u);
    cr_assert_eq(find(same, 10, false).count, 0u);
    cr_assert_eq(find(same, 10, false).last_level, 5.0);
}

Test(change_points, what_is_not_positive_is_refused)
{
    static const double values[] = { 1, 1, 0, 1, 1, 1, 1 };
    struct change_points found;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(change_points_find(&found, values, 7, false, false, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
}

enum hit { ANY_CHANGE, AT_STEP, CREEP };   /* AT_STEP: within two points of it */

/* The fraction of `trials` series in which that was found, and its interval. */
static struct interval rate(const struct model *model, size_t trials, enum hit wanted)
{
    double values[POINTS];
    size_t hits = 0;
    for (size_t t = 0; t < trials; t++) {
        make(values, model, 1000 + t);
        struct change_points found = find(values, POINTS, false);
        bool hit = wanted == CREEP && found.crept;
        for (size_t i = 0; i < found.count && wanted != CREEP; i++)
            hit |= wanted == ANY_CHANGE || fabs((double)found.items[i].index - (double)model->at) <= 2;
        hits += hit;
    }
    return proportion(hits, trials, 0.95);
}

Test(change_points, rates)
{
    static const struct {
        struct model model;
        enum hit wanted;
        double low, high;      /* what the interval may not leave on one side */
    } expected[] = {
        { { 0.01, 0, 1, 0, 1 }, ANY_CHANGE, 0, 0.02 },       /* quiet, nothing happened */
        { { 0.027, 0.05, 1, 0, 1 }, ANY_CHANGE, 0, 0.05 },   /* shared machine: 2.7% spread, and spikes */
        { { 0.01, 0, 1.05, 40, 1 }, AT_STEP, 0.95, 1 },      /* 5% on a quiet one */
        { { 0.027, 0.05, 1.10, 40, 1 }, AT_STEP, 0.9, 1 },   /* 10% on a shared one */
        { { 0.01, 0, 1, 0, 1 }, CREEP, 0, 0.02 },
        { { 0.027, 0.05, 1, 0, 1 }, CREEP, 0, 0.05 },
        { { 0.01, 0, 1, 0, 1.001 }, CREEP, 0.9, 1 },         /* 6% in 60 small steps */
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        struct interval got = rate(&expected[i].model, 300, expected[i].wanted);
        printf("change points: deviation %.1f%%, step %.0f%%, drift %.1f%%: %.3f (%.3f to %.3f)\n",
               100 * expected[i].model.deviation, 100 * (expected[i].model.step - 1),
               100 * (expected[i].model.drift - 1), got.estimate, got.low, got.high);
        cr_assert(got.estimate >= expected[i].low && got.estimate <= expected[i].high, "model %zu: %.3f", i,
                  got.estimate);
    }
}
