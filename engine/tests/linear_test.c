#include "linear_test.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear_internal.h"
#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

void linear_rig_open(struct linear_rig *rig, enum plim_isa isa, int threads)
{
    struct plim_err err = PLIM_ERR_INIT;

    memset(rig, 0, sizeof *rig);
    setenv("PLIMSOLL_ISA", plim_isa_name(isa), 1);
    plim_parameters_default(&rig->parameters);
    rig->parameters.count[PLIM_DQ_ROWS] = 32;   /* so that moderate numbers of rows expand chunks */
    rig->parameters.count[PLIM_CPU_THREADS] = threads;
    rig->parameters.count[PLIM_CPU_THREADS_SMALL] = threads;   /* cut the small matrices of these tests too */
    cr_assert_eq(plim_parameters_resolve(&rig->parameters, &err), 0, "%s", err.message);
    cr_assert_eq(plim_pool_open(&rig->pool, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(threads_open(&rig->threads, threads, &err), 0, "%s", err.message);
    cr_assert_eq(backend_open(&rig->backend, "cpu", rig->pool, rig->threads, &rig->parameters, &err), 0, "%s",
                 err.message);
}

void linear_rig_close(struct linear_rig *rig)
{
    backend_close(&rig->backend);
    threads_close(rig->threads);
    cr_assert_eq(plim_pool_close(rig->pool), 0, "something leaked");
}

enum plim_isa best_isa(void)
{
    enum plim_isa best = PLIM_ISA_PORTABLE;
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++)
        if (plim_isa_supported(isa))
            best = isa;
    return best;
}

/* ---- one product, with all that must hold for it ---- */

float *some_inputs(size_t n, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc(n * sizeof *x);
    plim_random_seed(&random, seed, 1);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)plim_random_normal(&random);
    return x;
}

void layer_init(struct linear_rig *rig, struct matrix *matrix, const struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(rig->backend.ops->matrix_init(&rig->backend, matrix, &layer->source, &err), 0, "%s", err.message);
}

void layer_product(struct linear_rig *rig, const struct layer *layer, const struct matrix *matrix, const float *x,
                   size_t rows, float *y, bool accumulate)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;

    plim_pool_reset_peak(rig->pool);
    plim_pool_stats(rig->pool, &before);
    cr_assert_eq(rig->backend.ops->linear(&rig->backend, matrix, x, rows, y, accumulate, &err), 0, "%s", err.message);
    plim_pool_stats(rig->pool, &after);

    struct linear_scratch scratch = backend_predict("cpu")->linear_scratch(&layer->shape, rows, &rig->parameters);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_DEQUANT], scratch.dequant_bytes);
    cr_assert_eq(after.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], scratch.workspace_bytes);
    cr_assert_eq(after.peak[PLIM_FAST].total_bytes,
                 before.current[PLIM_FAST].total_bytes + scratch.dequant_bytes + scratch.workspace_bytes);
    cr_assert_eq(after.current[PLIM_FAST].total_bytes, before.current[PLIM_FAST].total_bytes);
    cr_assert_leq(scratch.dequant_bytes, 4 * (size_t)rig->parameters.count[PLIM_MAX_DQ_SIZE]);
}

/*
 * The largest error that y[r, n] may have. Every path sums in fp32: 2^-24 for each of some in_features additions in
 * the worst order. The fused path rounds activations to 16 bits of their block's largest (half a step of 2^-15), and
 * does not round weights to fp16 as the decoded ones are (half a unit in 2^-10).
 */
void layer_check_product(const struct layer *layer, const float *x, size_t rows, const float *y, double y_before,
                         bool fused, const char *what)
{
    size_t in = layer->source.in_features, out = layer->source.out_features, stored = layer->shape.stored_out_features;

    for (size_t r = 0; r < rows; r++) {
        double largest = 0;
        for (size_t k = 0; k < in; k++)
            largest = fmax(largest, fabs((double)x[r * in + k]));
        for (size_t n = 0; n < out; n++) {
            double sum = y_before + (layer->bias ? layer->bias[n] : 0), magnitude = fabs(sum), slack = 0;
            for (size_t k = 0; k < in; k++) {
                double value = x[r * in + k], w = layer->w[k * stored + n];
                sum += value * w;
                magnitude += fabs(value * w);
                if (fused)
                    slack += fabs(w) * (largest * 0x1.02p-16 + fabs(value) * 0x1p-11);
            }
            slack += magnitude * (double)(in + 8) * 0x1p-24;
            cr_assert_float_eq(y[r * out + n], sum, slack, "%s: row %zu of %zu, column %zu", what, r, rows, n);
        }
    }
}
