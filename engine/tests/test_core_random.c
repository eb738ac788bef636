#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/random.h"

/* Reference values: tools/reference/make_random_reference.py. */

Test(random, xoshiro_gives_the_published_sequence)
{
    static const uint64_t wanted[] = { 41943041,         58720359,            3588806011781223,
                                       3591011842654386, 9228616714210784205u, 9973669472204895162u };
    struct plim_random random = { { 1, 2, 3, 4 } };
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(plim_random_u64(&random), wanted[i]);
}

Test(random, seed_and_stream_decide_the_sequence)
{
    static const uint64_t zero[] = { 0x53175d61490b23df, 0x61da6f3dc380d507, 0x5c0fdf91ec9a7bfc, 0x2eebf8c3bbe5e1a };
    static const uint64_t other[] = { 0x6e157b5c6f82f021, 0x474c23fdcef41a99, 0xb551dff55456c7a4, 0xfa89013f4c9a287 };
    struct plim_random a, b;
    plim_random_seed(&a, 0, 0);
    plim_random_seed(&b, 42, 7);
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(plim_random_u64(&a), zero[i]);
        cr_assert_eq(plim_random_u64(&b), other[i]);
    }
}

Test(random, fill_is_the_same_sequence)
{
    struct plim_random a, b;
    uint64_t words[5];
    plim_random_seed(&a, 4, 4);
    b = a;
    plim_random_fill(&a, words, 5);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(words[i], plim_random_u64(&b));
    cr_assert_eq(plim_random_u64(&a), plim_random_u64(&b));
    plim_random_skip(&a, 7);
    for (int i = 0; i < 7; i++)
        plim_random_normal(&b);
    cr_assert_eq(plim_random_u64(&a), plim_random_u64(&b));
}

Test(random, normal_agrees_with_fifty_digits)
{
    static const double wanted[] = {
        -0x1.586ad226d2573p+0, 0x1.ee98b3381c050p-1, 0x1.0110ee5694bd8p-1,  0x1.5eead713fe0f1p-3,
        -0x1.03bdd499dde62p+0, -0x1.797192932d930p-3, 0x1.8e57021ca75f2p+1, 0x1.273b0d2c9d691p+0,
        -0x1.ee326cef9bafcp-2, 0x1.04b0b2569dd60p+0, 0x1.13254f0d37703p+1,  0x1.8a95957dbb7e7p+0,
    };
    struct plim_random random;
    plim_random_seed(&random, 1, 0);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        double x = plim_random_normal(&random);
        cr_assert_lt(fabs(x - wanted[i]), 1e-14 * fabs(wanted[i]), "draw %zu: %.17g, wanted %.17g", i, x, wanted[i]);
    }
}

/* With this state the first word is `word`. */
static struct plim_random giving(uint64_t word)
{
    return (struct plim_random){ { 0, 1, 1, word >> 23 | word << 41 } };
}

Test(random, normal_is_right_in_the_tails_and_always_finite)
{
    static const struct {
        uint64_t word;
        double quantile;
    } cases[] = {
        { 0x1000, -0x1.02734508d1f1dp+3 },          { 0x40000000, -0x1.9c696b259a2d9p+2 },
        { 0x100000000000, -0x1.30d5024a39307p+2 },  { 0x80000000000000, -0x1.715c7c1c88ca2p+1 },
        { 0xffffffffffffffff, 0x1.06b48528cea52p+3 }, { 0xfffffeffffffffff, 0x1.52dc6e853f1cbp+2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_random random = giving(cases[i].word);
        double x = plim_random_normal(&random);
        cr_assert_lt(fabs(x - cases[i].quantile), 2e-14 * fabs(x), "%llx: %.17g, wanted %.17g",
                     (unsigned long long)cases[i].word, x, cases[i].quantile);
    }
    struct plim_random zero = giving(0);
    cr_assert(isfinite(plim_random_normal(&zero)));
}

/* Not a tolerance: every compiler and machine must give these bits, or synthetic models differ. */
Test(random, normal_gives_the_same_bits_everywhere)
{
    struct plim_random random;
    uint64_t digest = 14695981039346656037u;
    plim_random_seed(&random, 12345, 6789);
    for (int i = 0; i < 100000; i++) {
        double x = plim_random_normal(&random);
        uint64_t bits;
        memcpy(&bits, &x, sizeof bits);
        digest = (digest ^ bits) * 1099511628211u;
    }
    cr_assert_eq(digest, 0x67f6f14f9a092f0fu, "digest %llx", (unsigned long long)digest);
}

Test(random, normal_has_mean_0_variance_1_and_the_tails_of_a_normal)
{
    enum { N = 400000 };
    struct plim_random random;
    double sum = 0, squares = 0, fourth = 0;
    int beyond_2 = 0;
    plim_random_seed(&random, 3, 3);
    for (int i = 0; i < N; i++) {
        double x = plim_random_normal(&random);
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        beyond_2 += fabs(x) > 2;
    }
    /* Five standard errors of each figure. */
    cr_assert_lt(fabs(sum / N), 5 / sqrt(N));
    cr_assert_lt(fabs(squares / N - 1), 5 * sqrt(2.0 / N));
    cr_assert_lt(fabs(fourth / N - 3), 5 * sqrt(96.0 / N));
    cr_assert_lt(fabs((double)beyond_2 / N - 0.0455), 5 * sqrt(0.0455 / N));
}

Test(random, below_is_uniform_and_in_range)
{
    enum { N = 60000 };
    struct plim_random random;
    int seen[6] = { 0 };
    plim_random_seed(&random, 5, 0);
    for (int i = 0; i < N; i++)
        seen[plim_random_below(&random, 6)]++;
    for (int i = 0; i < 6; i++)
        cr_assert_lt(abs(seen[i] - N / 6), 5 * 92, "%d times %d", seen[i], i);   /* sigma 91.3 */
    cr_assert_eq(plim_random_below(&random, 1), 0u);
    /* A bound just over 2^63 throws away almost half of the draws; a biased method would favour low results. */
    uint64_t bound = ((uint64_t)1 << 63) + 1;
    int low = 0;
    for (int i = 0; i < N; i++) {
        uint64_t x = plim_random_below(&random, bound);
        cr_assert_lt(x, bound);
        low += x < bound / 2;
    }
    cr_assert_lt(abs(low - N / 2), 5 * 123);
}

Test(random, double_is_in_the_unit_interval)
{
    struct plim_random high = giving(UINT64_MAX), low = giving(0);
    cr_assert_eq(plim_random_double(&high), 1 - 0x1p-53);
    cr_assert_eq(plim_random_double(&low), 0.0);
}

Test(random, permutation_has_each_number_once_and_all_orders)
{
    struct plim_random random;
    uint32_t order[1000];
    char seen[1000] = { 0 };
    plim_random_seed(&random, 8, 0);
    plim_random_permutation(&random, order, 1000);
    for (int i = 0; i < 1000; i++) {
        cr_assert_lt(order[i], 1000u);
        cr_assert_not(seen[order[i]]);
        seen[order[i]] = 1;
    }
    int counts[27] = { 0 }, orders = 0;
    for (int i = 0; i < 6000; i++) {
        plim_random_permutation(&random, order, 3);
        counts[order[0] * 9 + order[1] * 3 + order[2]]++;
    }
    for (int i = 0; i < 27; i++) {
        orders += counts[i] > 0;
        cr_assert(counts[i] == 0 || abs(counts[i] - 1000) < 5 * 29, "%d", counts[i]);
    }
    cr_assert_eq(orders, 6);
    plim_random_permutation(&random, order, 0);
}
