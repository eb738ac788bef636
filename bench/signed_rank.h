#ifndef PLIM_SIGNED_RANK_H
#define PLIM_SIGNED_RANK_H

/*
 * Paired samples: is the difference greater than zero, and how large is it?
 *
 * Wilcoxon's signed-rank test (Wilcoxon, "Individual Comparisons by Ranking Methods", 1945) and the estimate that
 * belongs to it (Hodges and Lehmann, "Estimates of Location Based on Rank Tests", 1963). Both only use that differences
 * are symmetric around their centre, which swapping the order within pairs makes true for two builds that are the same.
 */

#include <stddef.h>

#include "plimsoll/err.h"
#include "statistics.h"

#define SIGNED_RANK_EXACT_LIMIT 64   /* pairs; the normal approximation serves above */

/*
 * One-sided p value: how probable are differences like these, or more to the positive side, if their centre is zero.
 * Zeros are dropped (as Wilcoxon did); equal magnitudes get their average rank. Exact for up to 64 differences, of the
 * distribution that random signs give these very ranks. 1 when no difference is left.
 */
int signed_rank_p(const double *differences, size_t n, double *p, struct plim_err *err);

/*
 * The Hodges-Lehmann estimate, the median of the Walsh averages (d_i + d_j) / 2 over i <= j, and its interval: the
 * averages whose order the signed-rank distribution says hold the centre with at least `level`. So high is also the
 * one-sided upper bound of confidence (1 + level) / 2. Infinite bounds where n is too small for the level. n >= 1.
 */
int hodges_lehmann(const double *differences, size_t n, double level, struct interval *out, struct plim_err *err);

#endif
