#include "change_points.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "mann_whitney.h"
#include "statistics.h"

#define CREEP_POINTS 8

/* ---- the cost of one piece ---- */

/*
 * cost[i * n + j]: the least sum of absolute deviations of values i..j from one level. Going from j to j + 1 the values
 * stay sorted by insertion, and the sum follows from the halves: O(n) a step with a short memmove.
 */
static double sum_of_deviations(const double *sorted, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n / 2; i++)
        sum += sorted[n - 1 - i] - sorted[i];
    return sum;
}

static void insert(double *sorted, size_t n, double value)
{
    size_t at = n;
    while (at > 0 && sorted[at - 1] > value)
        at--;
    memmove(sorted + at + 1, sorted + at, (n - at) * sizeof *sorted);
    sorted[at] = value;
}

static void fill_costs(double *cost, const double *values, size_t n, double *sorted)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i; j < n; j++) {
            insert(sorted, j - i, values[j]);
            cost[i * n + j] = sum_of_deviations(sorted, j - i + 1);
        }
    }
}

/* ---- the best fit with k breaks, for every k ---- */

struct fit {
    const double *cost;
    size_t n, breaks_limit;
    double *best;      /* [breaks][j]: of values 0..j with that many breaks */
    size_t *from;      /* [breaks][j]: where its last piece begins */
};

static void solve(struct fit *fit)
{
    size_t n = fit->n;
    for (size_t j = 0; j < n; j++)
        fit->best[j] = fit->cost[j];
    for (size_t k = 1; k <= fit->breaks_limit; k++) {
        for (size_t j = 0; j < n; j++) {
            double least = INFINITY;
            size_t from = j;
            for (size_t i = k; i <= j; i++) {   /* the last piece is i..j */
                double total = fit->best[(k - 1) * n + i - 1] + fit->cost[i * n + j];
                if (total < least) {
                    least = total;
                    from = i;
                }
            }
            fit->best[k * n + j] = least;
            fit->from[k * n + j] = from;
        }
    }
}

/* Deviations below what the numbers themselves resolve must not make the logarithm run away. */
static size_t choose_breaks(const struct fit *fit, const double *values)
{
    double least = INFINITY, penalty = 4 * log((double)fit->n) / (double)fit->n, scale = 0;
    size_t chosen = 0;
    for (size_t i = 0; i < fit->n; i++)
        scale += fabs(values[i]);
    for (size_t k = 0; k <= fit->breaks_limit; k++) {
        double deviations = fmax(fit->best[k * fit->n + fit->n - 1], 1e-6 * fmax(scale, 1e-3));
        double measure = log(deviations) + (double)k * penalty;
        if (measure < least - 1e-12) {
            least = measure;
            chosen = k;
        }
    }
    return chosen;
}

static size_t trace_back(const struct fit *fit, size_t breaks, size_t *starts)
{
    size_t j = fit->n - 1;
    for (size_t k = breaks; k > 0; k--) {
        starts[k - 1] = fit->from[k * fit->n + j];
        j = starts[k - 1] - 1;
    }
    return breaks;
}

static int find_breaks(const double *values, size_t n, size_t *starts, size_t *count, struct plim_err *err)
{
    struct fit fit = { .n = n, .breaks_limit = n - 1 < CHANGE_LIMIT ? n - 1 : CHANGE_LIMIT };
    double *cost = heap_calloc(n * n, sizeof *cost, err),
           *sorted = cost ? heap_calloc(n + 1, sizeof *sorted, err) : NULL;
    fit.best = sorted ? heap_calloc((fit.breaks_limit + 1) * n, sizeof *fit.best, err) : NULL;
    fit.from = fit.best ? heap_calloc((fit.breaks_limit + 1) * n, sizeof *fit.from, err) : NULL;
    int rc = -1;
    if (fit.from) {
        fill_costs(cost, values, n, sorted);
        fit.cost = cost;
        solve(&fit);
        *count = trace_back(&fit, choose_breaks(&fit, values), starts);
        rc = 0;
    }
    free(cost);
    free(sorted);
    free(fit.best);
    free(fit.from);
    return rc;
}

/* ---- which breaks count ---- */

static int judge(struct change_point *change, const double *values, size_t from, size_t at, size_t to, bool *counts,
                 struct plim_err *err)
{
    change->index = at;
    change->before = median(values + from, at - from);
    change->after = median(values + at, to - at);
    change->ratio = change->after / change->before;
    if (mann_whitney_p(values + from, at - from, values + at, to - at, &change->p, err) < 0)
        return -1;
    *counts = at - from >= CHANGE_MIN_POINTS && to - at >= CHANGE_MIN_POINTS &&
              fabs(log(change->ratio)) >= log(1 + CHANGE_MIN_MAGNITUDE) && change->p < CHANGE_MAX_P;
    return 0;
}

/* Takes away the break that counts least until all that are left count: each is judged by its neighbours' extent. */
static int prune(struct change_points *out, const double *values, size_t n, size_t *starts, size_t count,
                 struct plim_err *err)
{
    for (;;) {
        size_t weakest = SIZE_MAX;
        double least = INFINITY;
        for (size_t i = 0; i < count; i++) {
            bool counts;
            size_t from = i ? starts[i - 1] : 0, to = i + 1 < count ? starts[i + 1] : n;
            if (judge(&out->items[i], values, from, starts[i], to, &counts, err) < 0)
                return -1;
            double size = fabs(log(out->items[i].ratio));
            if (!counts && size < least) {
                least = size;
                weakest = i;
            }
        }
        if (weakest == SIZE_MAX)
            break;
        memmove(starts + weakest, starts + weakest + 1, (count - weakest - 1) * sizeof *starts);
        count--;
    }
    out->count = count;
    return 0;
}

static void find_exact(struct change_points *out, const double *values, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (values[i] == values[i - 1])
            continue;
        if (out->count == CHANGE_LIMIT)   /* the latest are the interesting ones */
            memmove(out->items, out->items + 1, --out->count * sizeof *out->items);
        out->items[out->count++] =
            (struct change_point){ i, values[i - 1], values[i], values[i] / values[i - 1], 0 };
    }
}

static double worsening(double best, double last, bool higher_is_better)
{
    return higher_is_better ? best / last - 1 : last / best - 1;
}

/* The best CREEP_POINTS points in a row against the last ones: many small steps add up to what no single one shows. */
static int look_for_creep(struct change_points *out, const double *values, size_t n, bool higher_is_better, bool exact,
                          struct plim_err *err)
{
    size_t window = exact ? 1 : CREEP_POINTS, last = out->count ? out->items[out->count - 1].index : 0;
    double p = 0;
    out->last_level = exact ? values[n - 1] : median(values + last, n - last);
    out->best_level = out->last_level;
    out->best_index = last;
    if (n < 2 * window)
        return 0;
    double recent = median(values + n - window, window);
    for (size_t i = 0; i + 2 * window <= n; i++) {
        double level = median(values + i, window);
        if (higher_is_better ? level > out->best_level : level < out->best_level) {
            out->best_level = level;
            out->best_index = i;
        }
    }
    out->creep = fmax(worsening(out->best_level, recent, higher_is_better), 0);
    if (out->best_index + 2 * window > n)
        return 0;
    if (!exact && mann_whitney_p(values + out->best_index, window, values + n - window, window, &p, err) < 0)
        return -1;
    /* The best of many windows is a selected one: ask for more than for a single comparison. */
    out->crept = out->creep >= CHANGE_MIN_MAGNITUDE && p < CHANGE_MAX_P / 10;
    return 0;
}

int change_points_find(struct change_points *out, const double *values, size_t count, bool higher_is_better, bool exact,
                       struct plim_err *err)
{
    size_t skipped = count > CHANGE_MAX_POINTS ? count - CHANGE_MAX_POINTS : 0, n = count - skipped, breaks = 0;
    size_t starts[CHANGE_LIMIT];
    *out = (struct change_points){ 0 };
    if (n == 0)
        return 0;
    values += skipped;
    for (size_t i = 0; i < n && !exact; i++) {
        if (!(values[i] > 0) || !isfinite(values[i]))
            return plim_err_input(err, "a series of measurements holds %g; it must be > 0", values[i]);
    }
    if (exact) {
        find_exact(out, values, n);
    } else if (n >= 2 * CHANGE_MIN_POINTS) {
        double *logs = heap_calloc(n, sizeof *logs, err);   /* levels differ by factors */
        if (!logs)
            return -1;
        for (size_t i = 0; i < n; i++)
            logs[i] = log(values[i]);
        int rc = find_breaks(logs, n, starts, &breaks, err);
        free(logs);
        if (rc < 0 || prune(out, values, n, starts, breaks, err) < 0)
            return -1;
    }
    if (look_for_creep(out, values, n, higher_is_better, exact, err) < 0)
        return -1;
    for (size_t i = 0; i < out->count; i++)
        out->items[i].index += skipped;
    out->best_index += skipped;
    return 0;
}
