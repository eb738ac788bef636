#include "statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/random.h"

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

/*
 * The median of one resample. Drawing positions in the sorted sample and counting them gives it without sorting each
 * time: the middle draw is where the running count passes half.
 */
static double resampled_median(const double *sorted, size_t n, uint32_t *counts, struct plim_random *random)
{
    memset(counts, 0, n * sizeof *counts);
    for (size_t i = 0; i < n; i++)
        counts[plim_random_below(random, n)]++;
    size_t lower = (n - 1) / 2, upper = n / 2;   /* ranks of the middle draws; the same one for odd n */
    size_t seen = 0, position = 0;
    while (seen + counts[position] <= lower)
        seen += counts[position++];
    double low_value = sorted[position];
    while (seen + counts[position] <= upper)
        seen += counts[position++];
    return low_value + (sorted[position] - low_value) / 2;
}

static int check_positive(const double *sorted, size_t n, struct plim_err *err)
{
    if (n == 0 || n > UINT32_MAX || !(sorted[0] > 0) || !isfinite(sorted[n - 1]))
        return plim_err_input(err, "a ratio of medians needs samples greater than 0");
    return 0;
}

int bootstrap_median_ratio(const double *a, size_t a_count, const double *b, size_t b_count,
                           const struct bootstrap_options *options, struct interval *out, struct plim_err *err)
{
    struct plim_random random;
    double *a_sorted = sorted_copy(a, a_count), *b_sorted = sorted_copy(b, b_count);
    size_t longest = a_count > b_count ? a_count : b_count;
    uint32_t *counts = calloc(longest ? longest : 1, sizeof *counts);
    double *ratios = calloc(options->resamples ? options->resamples : 1, sizeof *ratios);
    int rc = -1;

    if (!a_sorted || !b_sorted || !counts || !ratios) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for %zu resamples", options->resamples);
        goto out;
    }
    if (check_positive(a_sorted, a_count, err) < 0 || check_positive(b_sorted, b_count, err) < 0)
        goto out;
    if (options->resamples == 0) {
        plim_err_set(err, PLIM_ERR_INTERNAL, "a bootstrap needs resamples");
        goto out;
    }

    plim_random_seed(&random, options->seed, 0);
    for (size_t i = 0; i < options->resamples; i++) {
        double a_median = resampled_median(a_sorted, a_count, counts, &random);
        ratios[i] = resampled_median(b_sorted, b_count, counts, &random) / a_median;
    }
    qsort(ratios, options->resamples, sizeof *ratios, ascending);
    double tail = (1 - options->level) / 2;
    out->estimate = quantile_of_sorted(b_sorted, b_count, 0.5) / quantile_of_sorted(a_sorted, a_count, 0.5);
    out->low = quantile_of_sorted(ratios, options->resamples, tail);
    out->high = quantile_of_sorted(ratios, options->resamples, 1 - tail);
    rc = 0;

out:
    free(a_sorted);
    free(b_sorted);
    free(counts);
    free(ratios);
    return rc;
}
