#ifndef PLIM_STATISTICS_H
#define PLIM_STATISTICS_H

/*
 * The statistics of timings: medians, and how far apart two of them are.
 *
 * Everything is deterministic, so that one pair of files gives one verdict; resampling, where there is some, has a seed.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

/* The `fraction` quantile of n >= 1 ascending values, linearly interpolated (Hyndman and Fan's type 7, numpy's default). */
double quantile_of_sorted(const double *sorted, size_t n, double fraction);

/* The median of n values; NaN when n is 0 or memory is out. */
double median(const double *values, size_t n);

/* Median absolute deviation from the median, times 1.4826: the standard deviation, for normal noise without its tails. */
double robust_deviation(const double *values, size_t n);

struct interval {
    double estimate, low, high;
};

/* The median and the quartiles of n values: their middle half. NaN when n is 0 or memory is out. */
struct interval middle_half(const double *values, size_t n);

struct bootstrap_options {
    double level;        /* confidence, such as 0.99 */
    size_t resamples;
    uint64_t seed;
};

/*
 * The ratio median(b) / median(a) with its percentile bootstrap interval: both samples are redrawn with replacement,
 * independently; the interval holds the middle `level` of the ratios (Efron and Tibshirani, "An Introduction to the
 * Bootstrap", 1993, chapters 8 and 13). Nothing is drawn: what the median of a resample can be, and how probably, is known
 * (same book, section 6.2, counting draws by the binomial distribution), so the interval is the one that endless
 * resampling comes to, in microseconds. Even samples of more than 128 have the two middle draws mixed instead of paired.
 *
 * The percentile interval and not BCa: BCa's acceleration comes from a jackknife, which is inconsistent for the median
 * (same book, section 11.6). Bounds are sample values over sample values, so with few samples the interval is coarse and
 * covers less than its level (0.94 at best for 5 samples): callers ask for a minimum number.
 *
 * All values must be > 0 and both samples non-empty (kind input otherwise).
 */
int bootstrap_median_ratio(const double *a, size_t a_count, const double *b, size_t b_count, double level,
                           struct interval *out, struct plim_err *err);

#endif
