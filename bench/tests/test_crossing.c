/* Where two cost curves cross: found where they were made to cross, with an interval that says how sure that is. */

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "crossing.h"
#include "plimsoll/random.h"

#define SIZES 7
#define ROUNDS 9

static const double sizes[SIZES] = { 4, 8, 16, 32, 64, 128, 256 };
static const struct bootstrap_options options = { .level = 0.95, .resamples = 500, .seed = 1 };

typedef double curve(double x);

static double cheap_start(double x) { return 1 + 0.5 * x; }           /* crosses the next at 40 */
static double dear_start(double x) { return 13 + 0.2 * x; }
static double steep_power(double x) { return 0.1 * pow(x, 1.2); }     /* crosses the next at 32 */
static double flat_power(double x) { return 0.1 * pow(32, 0.7) * pow(x, 0.5); }
static double always_more(double x) { return 20 + 0.6 * x; }

/* Relative noise of the given deviation. */
static void make(curve *below, curve *above, double noise, uint64_t seed, double times[2][SIZES * ROUNDS])
{
    struct plim_random random;
    curve *curves[2] = { below, above };

    plim_random_seed(&random, seed, 0);
    for (int arm = 0; arm < 2; arm++)
        for (size_t i = 0; i < SIZES * ROUNDS; i++)
            times[arm][i] = curves[arm](sizes[i / ROUNDS]) * exp(noise * plim_random_normal(&random));
}

static struct crossing find(curve *below, curve *above, double noise, uint64_t seed)
{
    static double times[2][SIZES * ROUNDS];
    struct crossing_data data = { sizes, SIZES, ROUNDS, { times[0], times[1] } };
    struct plim_err err = PLIM_ERR_INIT;
    struct crossing crossing;

    make(below, above, noise, seed, times);
    cr_assert_eq(crossing_find(&data, &options, &crossing, &err), 0, "%s", err.message);
    return crossing;
}

Test(crossing, lines_without_noise_cross_where_they_do)
{
    struct crossing c = find(cheap_start, dear_start, 0, 1);

    cr_expect_eq(c.curve, CURVE_LINE);
    cr_expect_float_eq(c.at.estimate, 40, 1e-9);
    cr_expect_float_eq(c.at.low, 40, 1e-9);
    cr_expect_float_eq(c.at.high, 40, 1e-9);
    cr_expect_float_eq(crossing_time(&c, 0, 100), 51, 1e-9);
}

Test(crossing, powers_are_recognised)
{
    struct crossing c = find(steep_power, flat_power, 0, 1);

    cr_expect_eq(c.curve, CURVE_POWER);
    cr_expect_float_eq(c.at.estimate, 32, 1e-6);
}

/* 40 data sets with 3% noise: a 95% interval misses some, not many. Binomial(40, 0.9) is below 31 in 1 of 100. */
Test(crossing, the_interval_holds_the_truth_about_as_often_as_it_says)
{
    int held = 0;

    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct crossing c = find(cheap_start, dear_start, 0.03, seed);

        cr_expect_lt(c.at.low, c.at.high);
        held += c.at.low <= 40 && 40 <= c.at.high;
    }
    cr_expect_geq(held, 31, "%d of 40", held);
}

Test(crossing, arms_that_do_not_cross_are_told)
{
    cr_expect(isinf(find(cheap_start, always_more, 0.01, 1).at.estimate), "the first is faster throughout");
    cr_expect_eq(find(always_more, cheap_start, 0.01, 1).at.estimate, 0, "the second is");
    cr_expect(find(dear_start, cheap_start, 0.01, 1).crosses_backwards);
    cr_expect(!find(cheap_start, dear_start, 0.01, 1).crosses_backwards);
}

Test(crossing, too_few_or_senseless_data_are_refused)
{
    double x[3] = { 1, 2, 2 }, times[9] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    struct crossing_data data = { x, 3, 3, { times, times } };
    struct plim_err err = PLIM_ERR_INIT;
    struct crossing crossing;

    cr_expect_eq(crossing_find(&data, &options, &crossing, &err), -1, "sizes that repeat");
    x[2] = 3;
    data.rounds = 2;
    plim_err_clear(&err);
    cr_expect_eq(crossing_find(&data, &options, &crossing, &err), -1, "two rounds");
    data.rounds = 3;
    times[4] = 0;
    plim_err_clear(&err);
    cr_expect_eq(crossing_find(&data, &options, &crossing, &err), -1, "no time at all");
}
