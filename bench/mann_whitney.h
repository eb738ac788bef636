#ifndef PLIM_MANN_WHITNEY_H
#define PLIM_MANN_WHITNEY_H

/*
 * The Mann-Whitney U test of two unpaired samples (Mann and Whitney, 1947). It decides nothing here; its p value is
 * shown to readers who know it from benchstat or Google Benchmark. Interleaved pairs have a better test: signed_rank.h.
 */

#include <stddef.h>

#include "plimsoll/err.h"

/*
 * Two-sided p value. Exact without ties and with at most 50 samples on each side, else the normal approximation with
 * corrections for ties and continuity. 1 when a side is empty.
 */
int mann_whitney_p(const double *a, size_t a_count, const double *b, size_t b_count, double *p, struct plim_err *err);

#endif
