#include "crossing.h"

#include <math.h>
#include <stdlib.h>

#include "heap.h"
#include "plimsoll/random.h"

struct curves {
    double a[2], b[2], residual;
};

/* Least squares of y = a + b x with weights; x are not all equal. */
static void fit_line(const double *x, const double *y, const double *weights, size_t n, double *a, double *b)
{
    double sum = 0, mean_x = 0, mean_y = 0, xx = 0, xy = 0;

    for (size_t i = 0; i < n; i++) {
        sum += weights[i];
        mean_x += weights[i] * x[i];
        mean_y += weights[i] * y[i];
    }
    mean_x /= sum;
    mean_y /= sum;
    for (size_t i = 0; i < n; i++) {
        xx += weights[i] * (x[i] - mean_x) * (x[i] - mean_x);
        xy += weights[i] * (x[i] - mean_x) * (y[i] - mean_y);
    }
    *b = xy / xx;
    *a = mean_y - *b * mean_x;
}

double crossing_time(const struct crossing *c, int arm, double x)
{
    return c->curve == CURVE_LINE ? c->a[arm] + c->b[arm] * x : exp(c->a[arm] + c->b[arm] * log(x));
}

/* `medians`: [2][size_count]; `scratch`: three times size_count. */
static struct curves fit(const struct crossing_data *data, const double *medians, enum crossing_curve curve,
                         double *scratch)
{
    size_t n = data->size_count;
    double *x = scratch, *y = scratch + n, *weights = scratch + 2 * n, squares = 0;
    struct curves curves;

    for (int arm = 0; arm < 2; arm++) {
        const double *median = medians + (size_t)arm * n;

        for (size_t i = 0; i < n; i++) {
            x[i] = curve == CURVE_LINE ? data->x[i] : log(data->x[i]);
            y[i] = curve == CURVE_LINE ? median[i] : log(median[i]);
            weights[i] = curve == CURVE_LINE ? 1 / (median[i] * median[i]) : 1;
        }
        fit_line(x, y, weights, n, &curves.a[arm], &curves.b[arm]);
        for (size_t i = 0; i < n; i++) {
            double error = y[i] - curves.a[arm] - curves.b[arm] * x[i];

            squares += weights[i] * error * error;
        }
    }
    curves.residual = sqrt(squares / (double)(2 * n));
    return curves;
}

enum side { SIDE_CROSSES, SIDE_BACKWARDS };

/* Where arm 1 becomes the faster one, within the sizes; 0 or infinity outside. */
static enum side solve(const struct crossing_data *data, const struct curves *c, enum crossing_curve curve, double *at)
{
    double first = data->x[0], last = data->x[data->size_count - 1];
    double low = curve == CURVE_LINE ? first : log(first), high = curve == CURVE_LINE ? last : log(last);
    double at_low = (c->a[1] - c->a[0]) + (c->b[1] - c->b[0]) * low;     /* > 0: arm 0 is faster there */
    double at_high = (c->a[1] - c->a[0]) + (c->b[1] - c->b[0]) * high;
    double x;

    if (at_low > 0 && at_high > 0) {
        *at = INFINITY;
        return SIDE_CROSSES;
    }
    if (at_low <= 0 && at_high <= 0) {
        *at = 0;
        return SIDE_CROSSES;
    }
    x = (c->a[0] - c->a[1]) / (c->b[1] - c->b[0]);
    *at = curve == CURVE_LINE ? x : exp(x);
    return at_low > 0 ? SIDE_CROSSES : SIDE_BACKWARDS;
}

static const double *samples_of(const struct crossing_data *data, size_t arm, size_t size)
{
    return data->times[arm] + size * data->rounds;
}

static void take_medians(const struct crossing_data *data, double *medians)
{
    for (size_t arm = 0; arm < 2; arm++)
        for (size_t size = 0; size < data->size_count; size++)
            medians[arm * data->size_count + size] = median(samples_of(data, arm, size), data->rounds);
}

static void redraw_medians(const struct crossing_data *data, struct plim_random *random, double *drawn, double *medians)
{
    for (size_t arm = 0; arm < 2; arm++) {
        for (size_t size = 0; size < data->size_count; size++) {
            const double *samples = samples_of(data, arm, size);

            for (size_t i = 0; i < data->rounds; i++)
                drawn[i] = samples[plim_random_below(random, data->rounds)];
            medians[arm * data->size_count + size] = median(drawn, data->rounds);
        }
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Not interpolated: infinity minus infinity is no bound. */
static double quantile(const double *sorted, size_t n, double fraction)
{
    return sorted[(size_t)(fraction * (double)(n - 1) + 0.5)];
}

static int check(const struct crossing_data *data, struct plim_err *err)
{
    if (data->size_count < 3 || data->rounds < 3)
        return plim_err_input(err, "%zu sizes and %zu rounds; a crossing needs at least 3 of each", data->size_count,
                              data->rounds);
    for (size_t i = 0; i < data->size_count; i++)
        if (!(data->x[i] > (i ? data->x[i - 1] : 0)))
            return plim_err_input(err, "sizes must be positive and ascend; %g does not", data->x[i]);
    for (size_t arm = 0; arm < 2; arm++)
        for (size_t i = 0; i < data->size_count * data->rounds; i++)
            if (!(data->times[arm][i] > 0))
                return plim_err_input(err, "a time of %g; wanted more than 0", data->times[arm][i]);
    return 0;
}

int crossing_find(const struct crossing_data *data, const struct bootstrap_options *options, struct crossing *out,
                  struct plim_err *err)
{
    size_t n = data->size_count, kept = 0, backwards = 0;
    double *memory = NULL, *medians, *scratch, *drawn, *found;
    struct curves line, power, best;
    struct plim_random random;
    int rc = -1;

    *out = (struct crossing){ 0 };
    if (check(data, err) < 0 ||
        !(memory = heap_calloc(5 * n + data->rounds + options->resamples, sizeof *memory, err)))
        goto out;
    medians = memory;
    scratch = medians + 2 * n;
    drawn = scratch + 3 * n;
    found = drawn + data->rounds;

    take_medians(data, medians);
    line = fit(data, medians, CURVE_LINE, scratch);
    power = fit(data, medians, CURVE_POWER, scratch);
    out->curve = power.residual < line.residual ? CURVE_POWER : CURVE_LINE;
    best = out->curve == CURVE_POWER ? power : line;
    for (int arm = 0; arm < 2; arm++) {
        out->a[arm] = best.a[arm];
        out->b[arm] = best.b[arm];
    }
    out->residual = best.residual;
    out->crosses_backwards = solve(data, &best, out->curve, &out->at.estimate) == SIDE_BACKWARDS;

    plim_random_seed(&random, options->seed, 0);
    for (size_t i = 0; i < options->resamples; i++) {
        struct curves again;

        redraw_medians(data, &random, drawn, medians);
        again = fit(data, medians, out->curve, scratch);
        if (solve(data, &again, out->curve, &found[kept]) == SIDE_BACKWARDS)
            backwards++;
        else
            kept++;
    }
    out->reversed = options->resamples ? (double)backwards / (double)options->resamples : 0;
    out->at.low = out->at.high = out->at.estimate;
    if (kept) {
        qsort(found, kept, sizeof *found, ascending);
        out->at.low = quantile(found, kept, (1 - options->level) / 2);
        out->at.high = quantile(found, kept, (1 + options->level) / 2);
    }
    rc = 0;

out:
    free(memory);
    return rc;
}
