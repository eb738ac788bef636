#ifndef PLIM_HOLM_H
#define PLIM_HOLM_H

/*
 * Many tests at once (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979): rejecting where the
 * adjusted p value is at most alpha keeps the probability of even one false rejection at alpha, whatever the
 * dependence.
 */

#include <stddef.h>

#include "plimsoll/err.h"

/* adjusted[i] belongs to p[i]; they may be the same array. */
int holm_adjust(const double *p, size_t n, double *adjusted, struct plim_err *err);

#endif
