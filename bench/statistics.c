#include "statistics.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>


static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double *sorted_copy(const double *values, size_t n)
{
    double *copy = malloc((n ? n : 1) * sizeof *copy);
    if (copy && n) {
        memcpy(copy, values, n * sizeof *copy);
        qsort(copy, n, sizeof *copy, ascending);
    }
    return copy;
}

double quantile_of_sorted(const double *sorted, size_t n, double fraction)
{
    double position = fraction * (double)(n - 1);
    size_t below = (size_t)position;
    if (below + 1 >= n)
        return sorted[n - 1];
    return sorted[below] + (position - (double)below) * (sorted[below + 1] - sorted[below]);
}

double median(const double *values, size_t n)
{
    double *sorted = n ? sorted_copy(values, n) : NULL;
    double result = sorted ? quantile_of_sorted(sorted, n, 0.5) : NAN;
    free(sorted);
    return result;
}

struct interval middle_half(const double *values, size_t n)
{
    double *sorted = n ? sorted_copy(values, n) : NULL;
    struct interval half = { NAN, NAN, NAN };
    if (sorted)
        half = (struct interval){ quantile_of_sorted(sorted, n, 0.5), quantile_of_sorted(sorted, n, 0.25),
                                  quantile_of_sorted(sorted, n, 0.75) };
    free(sorted);
    return half;
}

double robust_deviation(const double *values, size_t n)
{
    double *distances = sorted_copy(values, n), middle = median(values, n);
    double result = NAN;
    if (distances && n) {
        for (size_t i = 0; i < n; i++)
            distances[i] = fabs(values[i] - middle);
        result = 1.4826 * median(distances, n);   /* 1 / (the normal distribution's upper quartile) */
    }
    free(distances);
    return result;
}

/* ---- the bootstrap of a median ---- */

/* A value that the median of a resample can have, and how probable it, or a smaller one, is. */
struct atom {
    double value, probability;
};

struct atoms {
    struct atom *items;          /* ascending; the probabilities cumulated */
    size_t count;
};

/* Rarer values than this change no quantile that anybody asks for. */
#define NEGLIGIBLE 1e-13

/* Even samples up to this size are done by pairs of middle draws; above, neighbours are near enough to each other. */
#define PAIRS_LIMIT 128

/* P(at least `rank` of n draws are among the first `first` of n values) */
static double tail_of_binomial(size_t n, size_t rank, size_t first)
{
    double p = (double)first / (double)n, sum = 0;
    if (first == 0 || first == n)
        return first == 0 ? 0 : 1;
    for (size_t k = rank; k <= n; k++)
        sum += exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) + (double)k * log(p) +
                   (double)(n - k) * log1p(-p));
    return fmin(sum, 1);
}

static void add_atom(struct atoms *atoms, double value, double probability)
{
    if (probability > NEGLIGIBLE)
        atoms->items[atoms->count++] = (struct atom){ value, probability };
}

static int by_value(const void *a, const void *b)
{
    return ascending(&((const struct atom *)a)->value, &((const struct atom *)b)->value);
}

/* The draw of this rank is value j with probability F(j) - F(j - 1). */
static void add_rank(struct atoms *atoms, const double *sorted, size_t n, size_t rank, double share)
{
    double below = 0;
    for (size_t j = 0; j < n; j++) {
        double up_to = tail_of_binomial(n, rank, j + 1);
        add_atom(atoms, sorted[j], share * (up_to - below));
        below = up_to;
    }
}

/*
 * An even number of draws has two in the middle. They are values j < k when exactly half of the draws are among the
 * first j with j among them, and the others from k on with k among them; what is left of j's share is for both being j.
 */
static void add_pairs(struct atoms *atoms, const double *sorted, size_t n)
{
    double half = (double)n / 2, size = (double)n, below = 0;
    double ways = exp(lgamma(size + 1) - 2 * lgamma(half + 1));
    for (size_t j = 0; j < n; j++) {
        double low = pow((double)(j + 1) / size, half) - pow((double)j / size, half);
        double up_to = tail_of_binomial(n, n / 2, j + 1), left = up_to - below;
        below = up_to;
        for (size_t k = j + 1; k < n; k++) {
            double high = pow((double)(n - k) / size, half) - pow((double)(n - k - 1) / size, half);
            add_atom(atoms, sorted[j] + (sorted[k] - sorted[j]) / 2, ways * low * high);
            left -= ways * low * high;
        }
        add_atom(atoms, sorted[j], left);
    }
}

/* All that the median of n draws with replacement can be. */
static int median_atoms(struct atoms *atoms, const double *sorted, size_t n, struct plim_err *err)
{
    bool pairs = n % 2 == 0 && n <= PAIRS_LIMIT;
    double sum = 0;
    atoms->count = 0;
    atoms->items = calloc(pairs ? n * (n + 1) / 2 : 2 * n, sizeof *atoms->items);
    if (!atoms->items)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the bootstrap of %zu samples", n);
    if (pairs) {
        add_pairs(atoms, sorted, n);
    } else {
        add_rank(atoms, sorted, n, (n + 1) / 2, n % 2 ? 1 : 0.5);
        if (n % 2 == 0)
            add_rank(atoms, sorted, n, n / 2 + 1, 0.5);
    }
    qsort(atoms->items, atoms->count, sizeof *atoms->items, by_value);
    for (size_t i = 0; i < atoms->count; i++)
        atoms->items[i].probability = sum += atoms->items[i].probability;
    return 0;
}

/* P(b / a <= ratio): as a grows, so does the largest b that is let in. */
static double probability_up_to(const struct atoms *a, const struct atoms *b, double ratio)
{
    double sum = 0, below = 0;
    size_t k = 0;
    for (size_t i = 0; i < a->count; i++) {
        while (k < b->count && b->items[k].value <= ratio * a->items[i].value)
            k++;
        sum += (a->items[i].probability - below) * (k ? b->items[k - 1].probability : 0);
        below = a->items[i].probability;
    }
    return sum;
}

/* The smallest ratio of two values that is above `ratio`. */
static double next_ratio(const struct atoms *a, const struct atoms *b, double ratio)
{
    double next = INFINITY;
    size_t k = 0;
    for (size_t i = 0; i < a->count; i++) {
        while (k < b->count && b->items[k].value <= ratio * a->items[i].value)
            k++;
        if (k < b->count)
            next = fmin(next, b->items[k].value / a->items[i].value);
    }
    return next;
}

/* The smallest ratio that is not exceeded with this probability. */
static double ratio_quantile(const struct atoms *a, const struct atoms *b, double probability)
{
    double low = b->items[0].value / a->items[a->count - 1].value * (1 - 1e-9);
    double high = b->items[b->count - 1].value / a->items[0].value * (1 + 1e-9);
    while (high - low > 1e-14 * high) {
        double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high)
            break;
        if (probability_up_to(a, b, middle) >= probability)
            high = middle;
        else
            low = middle;
    }
    return next_ratio(a, b, low);
}

static int check_positive(const double *sorted, size_t n, struct plim_err *err)
{
    if (n == 0 || n > UINT32_MAX || !(sorted[0] > 0) || !isfinite(sorted[n - 1]))
        return plim_err_input(err, "a ratio of medians needs samples greater than 0");
    return 0;
}

int bootstrap_median_ratio(const double *a, size_t a_count, const double *b, size_t b_count, double level,
                           struct interval *out, struct plim_err *err)
{
    double *a_sorted = sorted_copy(a, a_count), *b_sorted = sorted_copy(b, b_count);
    struct atoms a_atoms = { NULL, 0 }, b_atoms = { NULL, 0 };
    int rc = -1;

    if (!a_sorted || !b_sorted) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the bootstrap of %zu samples", a_count + b_count);
        goto out;
    }
    if (check_positive(a_sorted, a_count, err) < 0 || check_positive(b_sorted, b_count, err) < 0 ||
        median_atoms(&a_atoms, a_sorted, a_count, err) < 0 || median_atoms(&b_atoms, b_sorted, b_count, err) < 0)
        goto out;
    out->estimate = quantile_of_sorted(b_sorted, b_count, 0.5) / quantile_of_sorted(a_sorted, a_count, 0.5);
    out->low = ratio_quantile(&a_atoms, &b_atoms, (1 - level) / 2);
    out->high = ratio_quantile(&a_atoms, &b_atoms, (1 + level) / 2);
    rc = 0;

out:
    free(a_sorted);
    free(b_sorted);
    free(a_atoms.items);
    free(b_atoms.items);
    return rc;
}
