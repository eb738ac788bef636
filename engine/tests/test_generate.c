/* The sampler against distributions computed by sorting everything. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/generate.h"
#include "plimsoll/pool.h"
#include "plimsoll/random.h"

#define GREEDY ((struct plim_sampling)PLIM_SAMPLING_GREEDY)

static struct plim_pool *pool;

static void setup(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
}

static void teardown(void)
{
    cr_assert_eq(plim_pool_close(pool), 0, "leaked");
}

TestSuite(sampler, .init = setup, .fini = teardown);

static struct plim_sampler *open_sampler(size_t vocab_size, struct plim_sampling sampling)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_sampler *s;
    cr_assert_eq(plim_sampler_open(&s, pool, vocab_size, &sampling, &err), 0, "%s", err.message);
    return s;
}

static int32_t sample(struct plim_sampler *s, const float *logits)
{
    struct plim_err err = PLIM_ERR_INIT;
    int32_t id = -1;
    cr_assert_eq(plim_sampler_sample(s, logits, &id, &err), 0, "%s", err.message);
    return id;
}

/* ---- the reference: sort all, filter, normalise ---- */

struct entry {
    double logit;
    int32_t id;
};

static int by_logit_then_id(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static void reference(const float *logits, size_t n, const struct plim_sampling *s, double *probability)
{
    struct entry *e = malloc(n * sizeof *e);
    size_t kept = n;
    double sum = 0, mass = 0, total = 0;

    for (size_t i = 0; i < n; i++)
        e[i] = (struct entry){ (double)logits[i] / s->temperature, (int32_t)i };
    qsort(e, n, sizeof *e, by_logit_then_id);
    if (s->top_k && (size_t)s->top_k < n)
        kept = (size_t)s->top_k;
    for (size_t i = 0; i < kept; i++)
        sum += exp(e[i].logit - e[0].logit);
    if (s->top_p < 1) {
        size_t needed = 0;
        while (needed < kept && mass < s->top_p * sum)
            mass += exp(e[needed++].logit - e[0].logit);
        kept = needed;
    }
    while (kept > 1 && exp(e[kept - 1].logit - e[0].logit) < s->min_p)
        kept--;
    for (size_t i = 0; i < kept; i++)
        total += exp(e[i].logit - e[0].logit);
    memset(probability, 0, n * sizeof *probability);
    for (size_t i = 0; i < kept; i++)
        probability[e[i].id] = exp(e[i].logit - e[0].logit) / total;
    free(e);
}

/*
 * Draws and compares: no draw outside the set; every likely member drawn; and chi-square over the members expected at
 * least 5 times (the others pooled) below its 99.99% point, by Wilson and Hilferty's approximation. Seeds are fixed, so
 * this passes always or never.
 */
static void check_distribution(const float *logits, size_t n, struct plim_sampling sampling, size_t draws)
{
    double *probability = malloc(n * sizeof *probability), chi = 0, rest_expected = 0, rest_count = 0;
    size_t *counts = calloc(n, sizeof *counts), bins = 0;
    struct plim_sampler *s = open_sampler(n, sampling);

    reference(logits, n, &sampling, probability);
    for (size_t i = 0; i < draws; i++)
        counts[sample(s, logits)]++;
    for (size_t i = 0; i < n; i++) {
        double expected = probability[i] * (double)draws;
        cr_assert(probability[i] > 0 || counts[i] == 0, "token %zu is outside the set, drawn %zu times", i, counts[i]);
        cr_assert(expected < 20 || counts[i] > 0, "token %zu, expected %.1f times, never drawn", i, expected);
        if (expected >= 5) {
            chi += pow((double)counts[i] - expected, 2) / expected;
            bins++;
        } else {
            rest_expected += expected;
            rest_count += (double)counts[i];
        }
    }
    if (rest_expected >= 5) {
        chi += pow(rest_count - rest_expected, 2) / rest_expected;
        bins++;
    }
    if (bins > 1) {
        double freedom = (double)(bins - 1), a = 2 / (9 * freedom);
        double limit = freedom * pow(1 - a + 3.719 * sqrt(a), 3);
        cr_assert_lt(chi, limit, "chi-square %.1f with %zu bins, limit %.1f", chi, bins, limit);
    }
    plim_sampler_close(s);
    free(probability);
    free(counts);
}

static float *random_logits(size_t n, double deviation, uint64_t seed)
{
    struct plim_random random;
    float *logits = malloc(n * sizeof *logits);
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(deviation * plim_random_normal(&random));
    return logits;
}

/* ---- greedy ---- */

Test(sampler, greedy_takes_the_highest_and_the_lowest_id_of_a_tie)
{
    struct plim_sampler *s = open_sampler(5, GREEDY);
    cr_assert_eq(sample(s, (float[]){ 1, 7, 3, 7, 7 }), 1);
    cr_assert_eq(sample(s, (float[]){ -4, -3, -2, -1, -INFINITY }), 3);
    cr_assert_eq(sample(s, (float[]){ 0, 0, 0, 0, 0 }), 0);
    plim_sampler_close(s);
}

/* ---- distributions ---- */

Test(sampler, temperature_one_is_softmax_by_hand)
{
    /* Weights 1 : 2 : 4 : 8 of 15. */
    float logits[4] = { 0, (float)M_LN2, 2 * (float)M_LN2, 3 * (float)M_LN2 };
    struct plim_sampling sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1 };
    struct plim_sampler *s = open_sampler(4, sampling);
    size_t counts[4] = { 0 };
    double chi = 0;

    for (int i = 0; i < 15000; i++)
        counts[sample(s, logits)]++;
    for (int i = 0; i < 4; i++)
        chi += pow((double)counts[i] - 1000.0 * (1 << i), 2) / (1000.0 * (1 << i));
    cr_assert_lt(chi, 16.27, "chi-square %.2f; 99.9%% point of 3 degrees of freedom", chi);
    plim_sampler_close(s);
}

Test(sampler, every_filter_and_their_order_agree_with_sorting)
{
    static const struct plim_sampling settings[] = {
        { .temperature = 0.5, .top_p = 1 },
        { .temperature = 1, .top_p = 1, .top_k = 1 },
        { .temperature = 1, .top_p = 1, .top_k = 10 },
        { .temperature = 1, .top_p = 1, .top_k = 200 },
        { .temperature = 1, .top_p = 1, .top_k = 5000 },
        { .temperature = 1, .top_p = 0.5 },
        { .temperature = 1, .top_p = 0.95 },
        { .temperature = 2, .top_p = 0.7 },           /* temperature comes before top-p */
        { .temperature = 1, .top_p = 1e-9 },
        { .temperature = 1, .top_p = 1, .min_p = 0.1 },
        { .temperature = 1, .top_p = 1, .min_p = 1 },
        { .temperature = 1, .top_p = 0.6, .top_k = 20 },   /* top-p is a share of what top-k left */
        { .temperature = 1.5, .top_p = 0.9, .top_k = 50, .min_p = 0.05 },
    };
    static const size_t vocabularies[] = { 1, 2, 30, 300 };
    for (size_t v = 0; v < 4; v++) {
        float *logits = random_logits(vocabularies[v], 2, v);
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            struct plim_sampling sampling = settings[i];
            sampling.repetition_penalty = 1;
            sampling.seed = i;
            check_distribution(logits, vocabularies[v], sampling, 4000);
        }
        free(logits);
    }
}

Test(sampler, equal_logits_at_the_border_of_top_k_and_top_p_go_to_the_lower_id)
{
    float logits[8] = { 1, 1, 5, 1, 1, 1, 1, 1 };
    check_distribution(logits, 8, (struct plim_sampling){ .temperature = 1, .top_p = 1, .top_k = 3,
                                                          .repetition_penalty = 1 }, 3000);
    for (int i = 0; i < 8; i++)
        logits[i] = 0;
    check_distribution(logits, 8, (struct plim_sampling){ .temperature = 1, .top_p = 0.5, .repetition_penalty = 1 },
                       3000);
}

Test(sampler, a_ruled_out_token_is_never_drawn)
{
    float logits[4] = { -INFINITY, 0, -INFINITY, 0 };
    struct plim_sampler *s =
        open_sampler(4, (struct plim_sampling){ .temperature = 1, .top_p = 1, .repetition_penalty = 1 });
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(sample(s, logits) % 2, 1);
    plim_sampler_close(s);
}

Test(sampler, a_low_temperature_is_greedy)
{
    float *logits = random_logits(1000, 1, 9);
    struct plim_sampler *cold =
        open_sampler(1000, (struct plim_sampling){ .temperature = 1e-6, .top_p = 1, .repetition_penalty = 1 });
    struct plim_sampler *greedy = open_sampler(1000, GREEDY);
    cr_assert_eq(sample(cold, logits), sample(greedy, logits));
    plim_sampler_close(cold);
    plim_sampler_close(greedy);
    free(logits);
}

Test(sampler, a_seed_repeats_its_draws_and_another_does_not)
{
    float *logits = random_logits(500, 1, 10);
    struct plim_sampling sampling = { .temperature = 1, .top_p = 0.9, .repetition_penalty = 1, .seed = 42 };
    struct plim_sampler *a = open_sampler(500, sampling), *b = open_sampler(500, sampling), *c;
    int same = 0;
    sampling.seed = 43;
    c = open_sampler(500, sampling);
    for (int i = 0; i < 100; i++) {
        int32_t id = sample(a, logits);
        cr_assert_eq(id, sample(b, logits));
        same += id == sample(c, logits);
    }
    cr_assert_lt(same, 50);
    plim_sampler_close(a);
    plim_sampler_close(b);
    plim_sampler_close(c);
    free(logits);
}

/* ---- penalty ---- */

Test(sampler, penalty_divides_positive_and_multiplies_negative_logits)
{
    struct plim_sampling sampling = GREEDY;
    struct plim_sampler *s;

    sampling.repetition_penalty = 2;
    s = open_sampler(4, sampling);
    cr_assert_eq(sample(s, (float[]){ 4, 3, 0, 0 }), 0);
    plim_sampler_accept(s, 0);
    cr_assert_eq(sample(s, (float[]){ 4, 3, 0, 0 }), 1, "4 / 2 = 2 < 3");
    cr_assert_eq(sample(s, (float[]){ 7, 3, 0, 0 }), 0, "7 / 2 = 3.5 > 3");
    plim_sampler_accept(s, 1);
    cr_assert_eq(sample(s, (float[]){ -9, -1, -1.5f, -9 }), 2, "-1 * 2 = -2 < -1.5");
    cr_assert_eq(sample(s, (float[]){ -9, -1, -2.5f, -9 }), 1, "-1 * 2 = -2 > -2.5");
    plim_sampler_accept(s, -1);   /* ids outside the vocabulary are nobody's */
    plim_sampler_accept(s, 4);
    plim_sampler_close(s);
}

Test(sampler, penalty_looks_back_over_its_window_only)
{
    float logits[4] = { 4, 3, 0, 0 };
    struct plim_sampling sampling = GREEDY;
    struct plim_sampler *s;

    sampling.repetition_penalty = 2;
    sampling.repetition_window = 3;
    s = open_sampler(4, sampling);
    plim_sampler_accept(s, 0);
    plim_sampler_accept(s, 0);
    plim_sampler_accept(s, 2);
    cr_assert_eq(sample(s, logits), 1, "0 was seen");
    plim_sampler_accept(s, 2);
    cr_assert_eq(sample(s, logits), 1, "0 was seen three tokens ago");
    plim_sampler_accept(s, 2);
    cr_assert_eq(sample(s, logits), 0, "0 has left the window");
    plim_sampler_close(s);
}

/* ---- errors and memory ---- */

Test(sampler, broken_logits_are_errors)
{
    static const float rows[][3] = { { 1, NAN, 2 }, { INFINITY, 0, 0 }, { -INFINITY, -INFINITY, -INFINITY } };
    static const double temperatures[] = { 0, 1 };
    for (int t = 0; t < 2; t++) {
        struct plim_sampling sampling = GREEDY;
        sampling.temperature = temperatures[t];
        struct plim_sampler *s = open_sampler(3, sampling);
        for (int i = 0; i < 3; i++) {
            struct plim_err err = PLIM_ERR_INIT;
            int32_t id = -5;
            cr_assert_eq(plim_sampler_sample(s, rows[i], &id, &err), -1);
            cr_assert_eq(err.kind, PLIM_ERR_INTERNAL);
            cr_assert_eq(id, -5);
        }
        plim_sampler_close(s);
    }
}

Test(sampler, settings_out_of_range_are_refused_by_name)
{
    static const struct {
        const char *name;
        struct plim_sampling sampling;
    } bad[] = {
        { "temperature", { .temperature = -1, .top_p = 1, .repetition_penalty = 1 } },
        { "temperature", { .temperature = NAN, .top_p = 1, .repetition_penalty = 1 } },
        { "top_k", { .top_k = -1, .top_p = 1, .repetition_penalty = 1 } },
        { "top_p", { .top_p = 0, .repetition_penalty = 1 } },
        { "top_p", { .top_p = 1.5, .repetition_penalty = 1 } },
        { "min_p", { .min_p = -0.1, .top_p = 1, .repetition_penalty = 1 } },
        { "repetition_penalty", { .top_p = 1, .repetition_penalty = 0 } },
        { "repetition_window", { .top_p = 1, .repetition_penalty = 1, .repetition_window = -1 } },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_sampler *s;
        cr_assert_eq(plim_sampler_open(&s, pool, 10, &bad[i].sampling, &err), -1);
        cr_assert_null(s);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
        cr_assert_eq(strncmp(err.message, bad[i].name, strlen(bad[i].name)), 0, "%s", err.message);
    }
}

Test(sampler, memory_is_what_was_predicted)
{
    static const struct plim_sampling settings[] = {
        PLIM_SAMPLING_GREEDY,
        { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
        { .temperature = 1, .top_p = 1, .repetition_penalty = 1.1 },
        { .temperature = 0, .top_p = 1, .repetition_penalty = 1.1, .repetition_window = 100 },
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        struct plim_pool_stats stats;
        struct plim_sampler *s = open_sampler(1001, settings[i]);
        plim_pool_stats(pool, &stats);
        cr_assert_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_LOGITS], plim_sampler_bytes(1001, &settings[i]));
        cr_assert_eq(stats.live_blocks, 1);
        plim_sampler_close(s);
    }
}

Test(sampler, a_failed_allocation_leaves_nothing)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_sampling sampling = GREEDY;
    struct plim_sampler *s;

    plim_pool_fail_allocation(pool, 1);
    cr_assert_eq(plim_sampler_open(&s, pool, 10, &sampling, &err), -1);
    cr_assert_null(s);
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
}
