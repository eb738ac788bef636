#include "proportion.h"

#include <math.h>

/* P(X <= count) for X binomial(n, p), 0 < p < 1. */
static double binomial_cumulative(size_t count, size_t n, double p)
{
    double sum = 0, all = lgamma((double)n + 1);

    for (size_t k = 0; k <= count; k++) {
        double successes = (double)k, failures = (double)(n - k);

        sum += exp(all - lgamma(successes + 1) - lgamma(failures + 1) + successes * log(p) + failures * log1p(-p));
    }
    return fmin(1, sum);
}

/* The p with P(X <= count) = tail: the cumulative falls as p grows. */
static double solve(size_t count, size_t n, double tail)
{
    double low = 0, high = 1;

    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;

        if (binomial_cumulative(count, n, middle) > tail)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

struct interval proportion(size_t count, size_t n, double level)
{
    double tail = (1 - level) / 2;

    return (struct interval){
        .estimate = (double)count / (double)n,
        .low = count == 0 ? 0 : solve(count - 1, n, 1 - tail),
        .high = count == n ? 1 : solve(count, n, tail),
    };
}
