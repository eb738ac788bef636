#include "mann_whitney.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "heap.h"

#define EXACT_LIMIT 50

struct labelled {
    double value;
    bool is_a;
};

static int by_value(const void *x, const void *y)
{
    double a = ((const struct labelled *)x)->value, b = ((const struct labelled *)y)->value;

    return (a > b) - (a < b);
}

/* The rank sum of `a`, ties at their average rank; *tie_term is the sum of t^3 - t over groups of t equal values. */
static double rank_sum(const struct labelled *items, size_t n, double *tie_term)
{
    double sum = 0;
    size_t end;

    *tie_term = 0;
    for (size_t start = 0; start < n; start = end) {
        double size;

        for (end = start + 1; end < n && !(items[end].value > items[start].value);)
            end++;
        for (size_t i = start; i < end; i++)
            sum += items[i].is_a ? (double)(start + 1 + end) / 2 : 0;
        size = (double)(end - start);
        *tie_term += size * size * size - size;
    }
    return sum;
}

/*
 * P(U >= u). The number of ways to get U = u from m and n samples is that of partitions of u into at most m parts of at
 * most n: the Gaussian binomial coefficient, product of (1 - x^(n+i)) / (1 - x^i) for i = 1 .. m. Multiplying and
 * dividing alternately keeps every step whole and exact in double as long as the counts are below 2^53; beyond, the
 * rounding stays near 1e-16 of each count.
 */
static int exact_upper_tail(size_t m, size_t n, size_t u, double *p, struct plim_err *err)
{
    size_t greatest = m * n;
    double *ways = heap_calloc(greatest + 1, sizeof *ways, err), total = 0, above = 0;

    if (!ways)
        return -1;
    ways[0] = 1;
    for (size_t i = 1; i <= m; i++) {
        for (size_t k = greatest; k >= n + i; k--)
            ways[k] -= ways[k - n - i];
        for (size_t k = i; k <= greatest; k++)
            ways[k] += ways[k - i];
    }
    for (size_t k = 0; k <= greatest; k++) {
        total += ways[k];
        above += k >= u ? ways[k] : 0;
    }
    *p = above / total;
    free(ways);
    return 0;
}

static double normal_two_sided(double u, double m, double n, double tie_term)
{
    double all = m + n, variance = m * n / 12 * (all + 1 - tie_term / (all * (all - 1)));

    if (!(variance > 0))
        return 1;
    return fmin(1, erfc((u - m * n / 2 - 0.5) / sqrt(variance) / sqrt(2.0)));
}

int mann_whitney_p(const double *a, size_t a_count, const double *b, size_t b_count, double *p, struct plim_err *err)
{
    size_t count = a_count + b_count;
    struct labelled *items = heap_calloc(count, sizeof *items, err);
    double m = (double)a_count, n = (double)b_count, tie_term, u;
    int rc = 0;

    if (!items)
        return -1;
    for (size_t i = 0; i < count; i++)
        items[i] = (struct labelled){ i < a_count ? a[i] : b[i - a_count], i < a_count };
    qsort(items, count, sizeof *items, by_value);
    u = rank_sum(items, count, &tie_term) - m * (m + 1) / 2;
    u = fmax(u, m * n - u);   /* the distribution is symmetric: look at the upper end */
    if (a_count == 0 || b_count == 0) {
        *p = 1;
    } else if (tie_term > 0 || a_count > EXACT_LIMIT || b_count > EXACT_LIMIT) {
        *p = normal_two_sided(u, m, n, tie_term);
    } else {
        rc = exact_upper_tail(a_count, b_count, (size_t)u, p, err);
        *p = fmin(1, 2 * *p);
    }
    free(items);
    return rc;
}
