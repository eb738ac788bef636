#include "holm.h"

#include <math.h>
#include <stdlib.h>

#include "heap.h"

struct placed {
    double p;
    size_t place;
};

static int by_p(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    if (x->p < y->p || x->p > y->p)
        return x->p < y->p ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

int holm_adjust(const double *p, size_t n, double *adjusted, struct plim_err *err)
{
    struct placed *sorted = heap_calloc(n, sizeof *sorted, err);
    double greatest = 0;

    if (!sorted)
        return -1;
    for (size_t i = 0; i < n; i++)
        sorted[i] = (struct placed){ p[i], i };
    qsort(sorted, n, sizeof *sorted, by_p);
    for (size_t i = 0; i < n; i++) {
        greatest = fmax(greatest, fmin(1, (double)(n - i) * sorted[i].p));   /* never below the one before */
        adjusted[sorted[i].place] = greatest;
    }
    free(sorted);
    return 0;
}
