/*
 * Every allocation on the device fails once, for products of many rows in every way that they are made and for what goes around
 * them in few kernels: an error that says so, nothing kept, nothing wrong afterwards.
 */

#include <stdlib.h>
#include <string.h>

#include "plimsoll/units.h"
#include "test_cuda_layers.h"

/* Gate, up and down of an MLP; the first two are also projections of one input. */
struct around {
    struct cuda_fixture f;
    struct layer layers[3];
    struct matrix matrices[3];
    size_t width, rows;
    float *x, *weight;          /* device */
    struct norm norm;
};

static void around_open(struct around *a, const char *settings, size_t rows)
{
    static const struct group_spec inner[] = { { 5, 96 }, { 4, 288 }, { 3, 128 }, { 0, 0 } };

    cuda_fixture_open_with(&a->f, NULL, settings);
    layer_exl2(&a->layers[0], mixed_groups, 512, 0.25f, false, 21);
    layer_exl2(&a->layers[1], mixed_groups, 512, 0.25f, false, 22);
    layer_exl2(&a->layers[2], inner, 864, 0.25f, true, 23);
    for (size_t i = 0; i < 3; i++)
        layer_init(&a->f, &a->matrices[i], &a->layers[i]);
    a->width = a->layers[0].source.in_features;
    a->rows = rows;
    float *x = normal_floats(rows * a->width, 1, 5), *weight = normal_floats(a->width, 1, 6);
    a->x = device_floats(&a->f, x, rows * a->width);
    a->weight = device_floats(&a->f, weight, a->width);
    a->norm = (struct norm){ a->weight, 0.5f, 1e-5 };
    free(x), free(weight);
}

static void around_close(struct around *a)
{
    device_free(&a->f, a->x), device_free(&a->f, a->weight);
    for (size_t i = 0; i < 3; i++) {
        a->f.backend.ops->matrix_release(&a->f.backend, &a->matrices[i]);
        layer_free(&a->layers[i]);
    }
    cuda_fixture_close(&a->f);
}

/* An operation whose output is `out` [rows, columns]; `work` is what it asked for beforehand. */
struct operation {
    const char *name;
    size_t columns;
    size_t (*work_bytes)(struct around *a);
    int (*run)(struct around *a, void *work, float *out, struct plim_err *err);
};

static size_t no_work(struct around *a)
{
    (void)a;
    return 32;
}

static int run_linear(struct around *a, void *work, float *out, struct plim_err *err)
{
    (void)work;
    return a->f.backend.ops->linear(&a->f.backend, &a->matrices[0], a->x, a->rows, out, false, err);
}

static int run_gated(struct around *a, void *work, float *out, struct plim_err *err)
{
    (void)work;
    return a->f.backend.ops->linear_gated(&a->f.backend, ACTIVATION_SILU, &a->matrices[0], &a->matrices[1], a->x, out, err);
}

static size_t norm_work(struct around *a)
{
    const struct matrix *const two[] = { &a->matrices[0], &a->matrices[1] };
    return a->f.backend.ops->norm_linear_work(&a->f.backend, two, 2, a->rows);
}

static int run_norm(struct around *a, void *work, float *out, struct plim_err *err)
{
    const struct matrix *const two[] = { &a->matrices[0], &a->matrices[1] };
    float *y[] = { out, out + a->rows * 512 };
    return a->f.backend.ops->norm_linear(&a->f.backend, &a->norm, two, 2, a->x, a->rows, work, y, false, err);
}

static struct mlp mlp_of(const struct around *a)
{
    return (struct mlp){ &a->matrices[0], &a->matrices[1], &a->matrices[2], ACTIVATION_GELU_TANH };
}

static size_t mlp_work(struct around *a)
{
    struct mlp mlp = mlp_of(a);
    return a->f.backend.ops->mlp_work(&a->f.backend, &mlp, a->rows);
}

static int run_mlp(struct around *a, void *work, float *out, struct plim_err *err)
{
    struct mlp mlp = mlp_of(a);
    return a->f.backend.ops->mlp(&a->f.backend, &a->norm, &mlp, a->x, a->rows, work, out, false, err);
}

static const struct operation linear = { "linear", 512, no_work, run_linear };
static const struct operation gated = { "linear_gated", 512, no_work, run_gated };
static const struct operation behind_a_norm = { "norm_linear", 1024, norm_work, run_norm };
static const struct operation mlp = { "mlp", 864, mlp_work, run_mlp };

/* How many allocations there were; after the last failure the output has the bits that it had before the first. */
static size_t fail_each(struct around *a, const struct operation *operation, const char *settings)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t n = a->rows * operation->columns, bytes = operation->work_bytes(a), failures = 0;

    if (bytes == 0)   /* nothing better than the parts with these settings; linear_gated says so when it is called */
        return 0;
    void *work = device_bytes(&a->f, NULL, bytes);
    float *out = device_floats(&a->f, NULL, n);
    int taken = operation->run(a, work, out, &err);
    cr_assert_geq(taken, 0, "%s [%s]: %s", operation->name, settings, err.message);
    if (taken > 0) {
        device_free(&a->f, out), device_free(&a->f, work);
        return 0;
    }
    float *before = host_floats(&a->f, out, n);
    device_free(&a->f, out);
    out = device_floats(&a->f, NULL, n);
    for (uint64_t nth = 1;; nth++, failures++) {
        struct plim_pool_stats held, after;
        plim_pool_stats(a->f.pool, &held);
        plim_pool_fail_allocation(a->f.pool, nth);
        int rc = operation->run(a, work, out, &err);
        plim_pool_fail_allocation(a->f.pool, 0);
        plim_pool_stats(a->f.pool, &after);
        cr_assert_eq(after.live_blocks, held.live_blocks, "%s [%s]: allocation %llu", operation->name, settings,
                     (unsigned long long)nth);
        if (rc == 0)
            break;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s [%s]: %s", operation->name, settings, err.message);
        plim_err_clear(&err);
    }
    float *got = host_floats(&a->f, out, n);
    cr_assert_eq(memcmp(got, before, n * sizeof *got), 0, "%s [%s]: other bits after %zu failures", operation->name, settings,
                 failures);
    free(got), free(before);
    free(host_bytes(&a->f, work, bytes));
    device_free(&a->f, out), device_free(&a->f, work);
    return failures;
}

Test(cuda_failures, every_allocation_of_many_rows_may_fail)
{
    static const char *const settings[] = { "", "dq_rows=0", "dq_rows=4096", "dq_rows=0 max_dq_size=20000", "dq_mode=gated" };
    static const size_t rows[] = { 1, 9, 64, 200 };

    for (size_t s = 0; s < sizeof settings / sizeof *settings; s += cuda_count(1, 2))
        for (size_t r = cuda_count(0, 1); r < sizeof rows / sizeof *rows; r += cuda_count(1, 2)) {
            struct around a = { 0 };
            around_open(&a, settings[s], rows[r]);
            size_t failures = fail_each(&a, &linear, settings[s]);
            if (rows[r] == 1)
                failures += fail_each(&a, &gated, settings[s]);
            else
                failures += fail_each(&a, &behind_a_norm, settings[s]) + fail_each(&a, &mlp, settings[s]);
            cr_expect_geq(failures, rows[r] == 1 ? 0u : 1u, "[%s], %zu rows", settings[s], rows[r]);
            around_close(&a);
        }
}
