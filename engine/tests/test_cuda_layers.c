#include "test_cuda_layers.h"

#include <math.h>
#include <stdlib.h>

void layer_init(struct cuda_fixture *f, struct matrix *matrix, const struct layer *layer)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, after;

    plim_pool_stats(f->pool, &before);
    cr_assert_eq(f->backend.ops->matrix_init(&f->backend, matrix, &layer->source, &err), 0, "%s", err.message);
    plim_pool_stats(f->pool, &after);
    const struct backend_predict_ops *predict = backend_predict("cuda");
    cr_assert_eq(after.current[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes,
                 predict->matrix_bytes(&layer->shape, &f->parameters));
    cr_assert_eq(after.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS] - before.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS],
                 predict->matrix_bytes(&layer->shape, &f->parameters));
    cr_assert_eq(after.current[PLIM_SLOW].total_bytes - before.current[PLIM_SLOW].total_bytes,
                 predict->matrix_host_bytes(&layer->shape));
}

double *layer_product(const struct layer *layer, const double *x, size_t rows)
{
    size_t in = layer->source.in_features, out = layer->source.out_features, stored = layer->shape.stored_out_features;
    double *y = calloc(rows * out, sizeof *y);

    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < in; k++)
            for (size_t n = 0; n < out; n++)
                y[r * out + n] += x[r * in + k] * layer->w[k * stored + n];
    for (size_t i = 0; i < rows * out && layer->bias; i++)
        y[i] += layer->bias[i % out];
    return y;
}

void check_relative(const float *y, const double *expected, size_t n, double most, const char *what, size_t rows)
{
    double off = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        off += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
        all += expected[i] * expected[i];
    }
    cr_assert(sqrt(off / all) < most, "%s: %zu rows, relative error %g", what, rows, sqrt(off / all));
}
