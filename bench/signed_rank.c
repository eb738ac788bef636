#include "signed_rank.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/random.h"

static double normal_upper_tail(double z)
{
    return 0.5 * erfc(z / sqrt(2.0));
}

struct ranked {
    double magnitude;
    bool positive;
    double rank;         /* a multiple of 1/2 */
};

/* ---- the distribution ---- */

static size_t greatest_sum(size_t n)
{
    return n * (n + 1) / 2;
}

/*
 * probability[w] of the sum of positive ranks being w / unit, for all w up to the greatest: each rank joins the sum or not with
 * probability 1/2, one after the other. Probabilities rather than counts, which pass 2^53 from n = 54 on. `ranks` NULL: 1 to n.
 */
static double *rank_sum_distribution(const struct ranked *ranks, size_t n, size_t unit, struct plim_err *err)
{
    double *probability = heap_calloc(unit * greatest_sum(n) + 1, sizeof *probability, err);
    size_t greatest = 0;

    if (!probability)
        return NULL;
    probability[0] = 1;
    for (size_t i = 0; i < n; i++) {
        size_t r = ranks ? (size_t)((double)unit * ranks[i].rank) : i + 1;

        greatest += r;
        for (size_t w = greatest + 1; w-- > 0;)   /* downwards: each rank is used once */
            probability[w] = 0.5 * probability[w] + (w >= r ? 0.5 * probability[w - r] : 0);
    }
    return probability;
}

/* ---- ranks ---- */

static int by_magnitude(const void *a, const void *b)
{
    double x = ((const struct ranked *)a)->magnitude, y = ((const struct ranked *)b)->magnitude;

    return (x > y) - (x < y);
}

/* Average ranks for ties; true when there are any. */
static bool assign_ranks(struct ranked *items, size_t n)
{
    bool ties = false;
    size_t end;

    for (size_t start = 0; start < n; start = end) {
        for (end = start + 1; end < n && !(items[end].magnitude > items[start].magnitude);)
            end++;
        for (size_t i = start; i < end; i++)
            items[i].rank = (double)(start + 1 + end) / 2;
        ties = ties || end > start + 1;
    }
    return ties;
}

static double positive_sum(const struct ranked *items, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += items[i].positive ? items[i].rank : 0;
    return sum;
}

/* ---- p values ---- */

/* Ties give ranks in halves, so the sums are counted in halves. */
static int exact_p(const struct ranked *items, size_t n, double sum, bool ties, double *p, struct plim_err *err)
{
    size_t unit = ties ? 2 : 1;
    double *probability = rank_sum_distribution(items, n, unit, err);

    if (!probability)
        return -1;
    *p = 0;
    for (size_t w = (size_t)((double)unit * sum); w <= unit * greatest_sum(n); w++)
        *p += probability[w];
    free(probability);
    return 0;
}

/* Of ranks whose signs are random: half their sum, and a quarter of their squares', which ties make smaller. */
static double normal_p(const struct ranked *items, size_t n, double sum)
{
    double squares = 0;

    for (size_t i = 0; i < n; i++)
        squares += items[i].rank * items[i].rank;
    return normal_upper_tail((sum - 0.5 * (double)greatest_sum(n) - 0.5) / sqrt(squares / 4));
}

int signed_rank_p(const double *differences, size_t n, double *p, struct plim_err *err)
{
    struct ranked *items = heap_calloc(n, sizeof *items, err);
    size_t count = 0;
    bool ties;
    double sum;
    int rc = 0;

    if (!items)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (differences[i] < 0 || differences[i] > 0)
            items[count++] = (struct ranked){ .magnitude = fabs(differences[i]), .positive = differences[i] > 0 };
    qsort(items, count, sizeof *items, by_magnitude);
    ties = assign_ranks(items, count);
    sum = positive_sum(items, count);
    if (count == 0)
        *p = 1;
    else if (count <= SIGNED_RANK_EXACT_LIMIT)
        rc = exact_p(items, count, sum, ties, p, err);
    else
        *p = normal_p(items, count, sum);
    free(items);
    return rc;
}

/* ---- the estimate ---- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/*
 * The Walsh averages of ascending values are a table that grows along its rows and columns, so that one walk from corner to
 * corner counts those up to a bound, and no table is needed (Johnson and Mizoguchi, "Selecting the Kth Element in X + Y",
 * 1978). Halved before they are added, so that rounding keeps the order.
 */
static double average(double x, double y)
{
    return 0.5 * x + 0.5 * y;
}

struct walk {
    size_t up_to;        /* averages that are at most the bound */
    double next;         /* the least one above it */
};

static struct walk walk_averages(const double *sorted, size_t n, double bound)
{
    struct walk walk = { 0, INFINITY };
    size_t end = n;      /* the first partner whose average with the i-th value is above the bound */

    for (size_t i = 0; i < n; i++) {
        while (end > 0 && average(sorted[i], sorted[end - 1]) > bound)
            end--;
        walk.up_to += end > i ? end - i : 0;
        if (end < n)
            walk.next = fmin(walk.next, average(sorted[i], sorted[end > i ? end : i]));
    }
    return walk;
}

/* The k-th least average, from 1: by halving, as there are 64 steps or so and not n^2 averages to sort. */
static double kth_average(const double *sorted, size_t n, size_t k)
{
    double low = nextafter(sorted[0], -INFINITY), high = sorted[n - 1], resolution = 1e-14 * (high - low);

    while (high - low > resolution) {
        double middle = low + (high - low) / 2;

        if (middle <= low || middle >= high)
            break;
        if (walk_averages(sorted, n, middle).up_to >= k)
            high = middle;
        else
            low = middle;
    }
    return walk_averages(sorted, n, low).next;
}

/* How many averages may lie outside at each end: the greatest k with P(sum <= k - 1) <= tail. */
static int outside_count(size_t n, double tail, size_t *k, struct plim_err *err)
{
    double *probability, below = 0;

    *k = 0;
    if (n > SIGNED_RANK_EXACT_LIMIT) {
        double count = (double)n, deviation = sqrt(count * (count + 1) * (2 * count + 1) / 24);
        double bound = count * (count + 1) / 4 + plim_normal_quantile(tail) * deviation + 0.5;

        *k = bound > 0 ? (size_t)bound : 0;
        return 0;
    }
    probability = rank_sum_distribution(NULL, n, 1, err);
    if (!probability)
        return -1;
    while (*k <= greatest_sum(n) / 2 && below + probability[*k] <= tail)
        below += probability[(*k)++];
    free(probability);
    return 0;
}

int hodges_lehmann(const double *differences, size_t n, double level, struct interval *out, struct plim_err *err)
{
    double *sorted = heap_calloc(n, sizeof *sorted, err);
    size_t count = greatest_sum(n), k;

    if (!sorted)
        return -1;
    if (outside_count(n, (1 - level) / 2, &k, err) < 0) {
        free(sorted);
        return -1;
    }
    memcpy(sorted, differences, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    out->estimate = average(kth_average(sorted, n, (count + 1) / 2), kth_average(sorted, n, count / 2 + 1));
    out->low = k ? kth_average(sorted, n, k) : -INFINITY;
    out->high = k ? kth_average(sorted, n, count - k + 1) : INFINITY;
    free(sorted);
    return 0;
}
