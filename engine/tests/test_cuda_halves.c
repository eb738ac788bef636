/*
 * Norms, gates and whole MLPs around linear layers on CUDA, against double precision: what halves.c and linear_gated do in
 * few kernels; predicted memory to the byte; the same bits every time.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_internal.h"
#include "plimsoll/units.h"
#include "test_cuda_layers.h"

/* ---- one row ---- */

/* Gates against double precision; the two matrices have their widths at different rows, and one of them may have a bias. */
static double activated(enum activation activation, double x)
{
    return activation == ACTIVATION_SILU ? x / (1 + exp(-x))
                                         : 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static double dot(const struct layer *layer, const float *x, size_t n)
{
    double sum = layer->bias ? layer->bias[n] : 0;
    for (size_t k = 0; k < layer->source.in_features; k++)
        sum += (double)x[k] * layer->w[k * layer->shape.stored_out_features + n];
    return sum;
}

static void check_gated(struct cuda_fixture *f, const struct group_spec *const *groups, size_t in, size_t out,
                        enum activation activation)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct layer layer[2];
    struct matrix matrix[2];
    float *x = normal_floats(in, 1, out), *device_x = device_floats(f, x, in), *y = device_floats(f, NULL, out);
    double off = 0, all = 0;

    for (size_t i = 0; i < 2; i++) {
        layer_exl2(&layer[i], groups[i], out, 1.0f, i == 1, in + i);
        layer_init(f, &matrix[i], &layer[i]);
    }
    cr_assert_eq(f->backend.ops->linear_gated(&f->backend, activation, &matrix[0], &matrix[1], device_x, y, &err), 0, "%s",
                 err.message);
    float *got = host_floats(f, y, out);
    for (size_t n = 0; n < out; n++) {
        double expected = activated(activation, dot(&layer[0], x, n)) * dot(&layer[1], x, n);
        off += ((double)got[n] - expected) * ((double)got[n] - expected);
        all += expected * expected;
    }
    cr_expect(sqrt(off / all) < 2 * HALF_ERROR, "%zu columns: relative error %g", out, sqrt(off / all));
    free(got), free(x);
    device_free(f, device_x), device_free(f, y);
    for (size_t i = 0; i < 2; i++) {
        f->backend.ops->matrix_release(&f->backend, &matrix[i]);
        layer_free(&layer[i]);
    }
}

Test(cuda_linear, gated_pairs)
{
    static const struct group_spec even[] = { { 4, 128 }, { 4, 128 }, { 4, 128 }, { 4, 128 }, { 4, 128 }, { 0, 0 } };
    static const struct group_spec uneven[] = { { 8, 32 }, { 5, 96 }, { 4, 128 }, { 4, 256 }, { 3, 128 }, { 0, 0 } };
    static const struct group_spec few[] = { { 6, 32 }, { 2, 64 }, { 0, 0 } }, others[] = { { 3, 96 }, { 0, 0 } };
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    check_gated(&f, (const struct group_spec *[]){ even, even }, 640, 1000, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ even, uneven }, 640, 9000, ACTIVATION_GELU_TANH);
    check_gated(&f, (const struct group_spec *[]){ uneven, even }, 640, 75, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ few, others }, 96, 20000, ACTIVATION_SILU);
    check_gated(&f, (const struct group_spec *[]){ others, few }, 96, 32, ACTIVATION_GELU_TANH);
    cuda_fixture_close(&f);
}

/* ---- many rows ---- */

/* norm(x) by its formula, then rounded as an operand is; the sum of squares in fp64. */
static double *norm_reference(const float *x, const float *weight, double offset, double eps, size_t rows, size_t width)
{
    double *out = malloc(rows * width * sizeof *out);

    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t k = 0; k < width; k++)
            sum += (double)x[r * width + k] * (double)x[r * width + k];
        for (size_t k = 0; k < width; k++)
            out[r * width + k] = (double)x[r * width + k] * ((double)weight[k] + offset) / sqrt(sum / (double)width + eps);
    }
    return out;
}

/* What a call took from the pool is what was predicted for the largest of its products. */
static void check_scratch(struct cuda_fixture *f, const struct layer *layers, size_t count, size_t rows, const char *what)
{
    struct linear_scratch most = { 0 };
    struct plim_pool_stats stats;

    for (size_t i = 0; i < count; i++) {
        struct linear_scratch s = backend_predict("cuda")->halves_scratch(&layers[i].shape, rows, &f->parameters);
        most.dequant_bytes = plim_max(most.dequant_bytes, s.dequant_bytes);
        most.workspace_bytes = plim_max(most.workspace_bytes, s.workspace_bytes);
    }
    plim_pool_stats(f->pool, &stats);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_DEQUANT], most.dequant_bytes, "%s", what);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], most.workspace_bytes, "%s", what);
}

struct at_once {
    struct layer layers[3];            /* gate, up, down; or three of one input */
    struct matrix matrices[3];
    float *weight;                     /* of the norm; host and device */
    float *device_weight;
    struct norm norm;
    size_t width;
};

static void at_once_open(struct at_once *a, struct cuda_fixture *f)
{
    a->width = a->layers[0].source.in_features;
    for (size_t i = 0; i < 3; i++)
        layer_init(f, &a->matrices[i], &a->layers[i]);
    a->weight = normal_floats(a->width, 1, 77);
    a->device_weight = device_floats(f, a->weight, a->width);
    a->norm = (struct norm){ a->device_weight, 0.5f, 1e-5 };
}

static void at_once_close(struct at_once *a, struct cuda_fixture *f)
{
    device_free(f, a->device_weight);
    free(a->weight);
    for (size_t i = 0; i < 3; i++)
        f->backend.ops->matrix_release(&f->backend, &a->matrices[i]);
}

static const char *const ways[] = { "dq_rows=0", "dq_rows=4096", "dq_rows=0 max_dq_size=300Ki", "" };
#define AS_IT_COMES 3   /* the last of them; dense layers heed none of these parameters */
static const size_t many_rows[] = { 37, 130, 200 };

static void check_projections(struct at_once *a, size_t first_way)
{
    for (size_t w = first_way; w < sizeof ways / sizeof *ways; w++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct cuda_fixture f;
        size_t taken = 0;
        cuda_fixture_open_with(&f, NULL, ways[w]);
        at_once_open(a, &f);
        const struct matrix *const matrices[] = { &a->matrices[0], &a->matrices[1], &a->matrices[2] };
        const struct linear_shape *const shapes[] = { &a->layers[0].shape, &a->layers[1].shape, &a->layers[2].shape };
        for (size_t r = 0; r < sizeof many_rows / sizeof *many_rows; r++) {
            size_t rows = many_rows[r];
            size_t bytes = f.backend.ops->norm_linear_work(&f.backend, matrices, 3, rows);
            cr_assert_eq(bytes, backend_predict("cuda")->norm_linear_work(shapes, 3, rows, &f.parameters));
            if (bytes == 0)
                continue;
            taken++;
            float *x = normal_floats(rows * a->width, 3, rows), *device_x = device_floats(&f, x, rows * a->width);
            void *work = device_bytes(&f, NULL, bytes);
            float *y[3];
            for (size_t i = 0; i < 3; i++)
                y[i] = device_floats(&f, NULL, rows * a->layers[i].source.out_features);
            plim_pool_reset_peak(f.pool);
            cr_assert_eq(f.backend.ops->norm_linear(&f.backend, &a->norm, matrices, 3, device_x, rows, work, y, false, &err), 0,
                         "%s", err.message);
            check_scratch(&f, a->layers, 3, rows, ways[w]);
            double *normed = norm_reference(x, a->weight, 0.5, 1e-5, rows, a->width);
            for (size_t i = 0; i < 3; i++) {
                size_t n = rows * a->layers[i].source.out_features;
                float *got = host_floats(&f, y[i], n);
                double *expected = layer_product(&a->layers[i], normed, rows);
                check_relative(got, expected, n, HALF_ERROR, ways[w], rows);
                free(got), free(expected);
                device_free(&f, y[i]);
            }
            free(host_bytes(&f, work, bytes));
            device_free(&f, work);
            device_free(&f, device_x);
            free(x), free(normed);
        }
        cr_assert_gt(taken, 0, "%s", ways[w]);
        at_once_close(a, &f);
        cuda_fixture_close(&f);
    }
    for (size_t i = 0; i < 3; i++)
        layer_free(&a->layers[i]);
}

Test(cuda_linear, projections_behind_a_norm)
{
    struct at_once a = { 0 };

    layer_exl2(&a.layers[0], mixed_groups, 96, 0.5f, true, 11);
    layer_exl2(&a.layers[1], mixed_groups, 75, 0.5f, false, 12);   /* another order of rows */
    layer_exl2(&a.layers[2], mixed_groups, 300, 0.5f, false, 12);
    check_projections(&a, 0);
}

Test(cuda_linear, dense_projections_behind_a_norm)
{
    struct at_once a = { 0 };

    layer_dense(&a.layers[0], DTYPE_F16, 864, 96, 0.5f, true, 31);
    layer_dense(&a.layers[1], DTYPE_F16, 864, 75, 0.5f, false, 32);
    layer_dense(&a.layers[2], DTYPE_F16, 864, 300, 0.5f, false, 33);
    check_projections(&a, AS_IT_COMES);
}

static double *mlp_reference(const struct at_once *a, const float *x, size_t rows, bool gelu)
{
    size_t inner = a->layers[2].source.in_features;
    double *normed = norm_reference(x, a->weight, 0.5, 1e-5, rows, a->width);
    double *gate = layer_product(&a->layers[0], normed, rows), *up = layer_product(&a->layers[1], normed, rows);

    for (size_t i = 0; i < rows * inner; i++)
        gate[i] = up[i] * activated(gelu ? ACTIVATION_GELU_TANH : ACTIVATION_SILU, gate[i]);
    double *out = layer_product(&a->layers[2], gate, rows);
    free(normed), free(gate), free(up);
    return out;
}

/* Rounded to fp16 four times on its way: normed, gate and up, their product. */
#define MLP_ERROR (2 * HALF_ERROR)

static void check_mlp(struct cuda_fixture *f, const struct at_once *a, size_t rows, size_t bytes, bool gelu, const char *what)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct mlp mlp = { &a->matrices[0], &a->matrices[1], &a->matrices[2], gelu ? ACTIVATION_GELU_TANH : ACTIVATION_SILU };
    size_t n = rows * a->width;
    float *x = normal_floats(n, 3, rows), *first = NULL;

    double *expected = mlp_reference(a, x, rows, gelu);
    for (int add = 0; add < 3; add++) {   /* apart, then onto x, twice */
        float *device_x = device_floats(f, x, n), *out = add ? device_x : device_floats(f, NULL, n);
        void *work = device_bytes(f, NULL, bytes);
        plim_pool_reset_peak(f->pool);
        cr_assert_eq(f->backend.ops->mlp(&f->backend, &a->norm, &mlp, device_x, rows, work, out, add, &err), 0, "%s",
                     err.message);
        check_scratch(f, a->layers, 3, rows, what);
        float *got = host_floats(f, out, n);
        if (add == 2)
            cr_assert_arr_eq(got, first, n * sizeof *got, "%s: other bits", what);
        for (size_t i = 0; i < n && add == 1; i++)
            expected[i] += (double)x[i];
        check_relative(got, expected, n, MLP_ERROR, what, rows);
        free(host_bytes(f, work, bytes));
        free(first);
        first = got;
        device_free(f, work);
        if (!add)
            device_free(f, out);
        device_free(f, device_x);
    }
    free(x), free(expected), free(first);
}

static void check_mlps(struct at_once *a, size_t first_way)
{
    for (size_t w = first_way; w < sizeof ways / sizeof *ways; w++) {
        struct cuda_fixture f;
        size_t taken = 0;
        cuda_fixture_open_with(&f, NULL, ways[w]);
        at_once_open(a, &f);
        struct mlp mlp = { &a->matrices[0], &a->matrices[1], &a->matrices[2], ACTIVATION_SILU };
        for (size_t r = 0; r < sizeof many_rows / sizeof *many_rows; r++) {
            size_t bytes = f.backend.ops->mlp_work(&f.backend, &mlp, many_rows[r]);
            cr_assert_eq(bytes, backend_predict("cuda")->mlp_work(&a->layers[0].shape, &a->layers[1].shape, &a->layers[2].shape,
                                                                  many_rows[r], &f.parameters));
            if (bytes) {
                check_mlp(&f, a, many_rows[r], bytes, r % 2, ways[w]);
                taken++;
            }
        }
        cr_assert_gt(taken, 0, "%s", ways[w]);
        at_once_close(a, &f);
        cuda_fixture_close(&f);
    }
    for (size_t i = 0; i < 3; i++)
        layer_free(&a->layers[i]);
}

Test(cuda_linear, mlp_at_once)
{
    static const struct group_spec inner[] = { { 5, 96 }, { 4, 288 }, { 3, 128 }, { 0, 0 } };
    struct at_once a = { 0 };

    for (int same_order = 0; same_order < (int)cuda_count(2, 1); same_order++) {
        layer_exl2(&a.layers[0], mixed_groups, 512, 0.25f, false, 21);
        layer_exl2(&a.layers[1], mixed_groups, 512, 0.25f, false, same_order ? 21 : 22);
        layer_exl2(&a.layers[2], inner, 864, 0.25f, true, 23);
        check_mlps(&a, 0);
    }
}

/* More rows than go at once, of narrow matrices: the last piece has a row less. */
Test(cuda_linear, mlp_in_pieces)
{
    static const struct group_spec groups[] = { { 5, 32 }, { 4, 96 }, { 0, 0 } };
    static const size_t rows[] = { 1025, 1100, 2051 };
    struct at_once a = { 0 };

    for (int same_order = 0; same_order < 2; same_order++) {
        struct cuda_fixture f;
        cuda_fixture_open_with(&f, NULL, "dq_rows=4096");
        layer_exl2(&a.layers[0], groups, 128, 0.25f, false, 31);
        layer_exl2(&a.layers[1], groups, 128, 0.25f, false, same_order ? 31 : 32);
        layer_exl2(&a.layers[2], groups, 128, 0.25f, true, 33);
        at_once_open(&a, &f);
        struct mlp mlp = { &a.matrices[0], &a.matrices[1], &a.matrices[2], ACTIVATION_SILU };
        for (size_t r = 0; r < cuda_count(3, 2); r++) {
            size_t bytes = f.backend.ops->mlp_work(&f.backend, &mlp, rows[r]);
            cr_assert_eq(bytes, backend_predict("cuda")->mlp_work(&a.layers[0].shape, &a.layers[1].shape, &a.layers[2].shape,
                                                                  rows[r], &f.parameters));
            if (cuda_of(&f.backend)->compute_capability == 90)
                cr_assert_leq(bytes, 1024 * (128 + 2 * 128) * sizeof(uint16_t));
            if (bytes)
                check_mlp(&f, &a, rows[r], bytes, r % 2, "pieces");
        }
        at_once_close(&a, &f);
        for (size_t i = 0; i < 3; i++)
            layer_free(&a.layers[i]);
        cuda_fixture_close(&f);
    }
}

Test(cuda_linear, dense_mlp_at_once)
{
    struct at_once a = { 0 };

    layer_dense(&a.layers[0], DTYPE_F16, 864, 512, 0.5f, false, 41);
    layer_dense(&a.layers[1], DTYPE_F16, 864, 512, 0.5f, false, 42);
    layer_dense(&a.layers[2], DTYPE_F16, 512, 864, 0.5f, true, 43);
    check_mlps(&a, AS_IT_COMES);
}
