#include "drift.h"

#include <string.h>

#include "plimsoll/units.h"
#include "quantize_ops.h"

/* Columns that are corrected at once: enough for a product to be fast, few enough for 2 K x 128 floats to be little. */
#define CORRECT_COLUMNS ((size_t)128)

static const struct quantize_ops *ops_of(const struct drift *d)
{
    return backend_quantize_ops(d->backend->ops->name);
}

static size_t moment_bytes(const struct drift *d)
{
    return d->in_features * d->columns * sizeof *d->moment;
}

int drift_init(struct drift *drift, struct backend *backend, enum plim_tier tier, size_t in_features, size_t columns,
               bool of_outputs, struct plim_err *err)
{
    *drift = (struct drift){ .backend = backend, .tier = tier, .in_features = in_features, .columns = columns,
                             .of_outputs = of_outputs };
    drift->moment = plim_pool_calloc(backend->pool, tier, PLIM_TAG_HESSIAN, in_features, columns * sizeof(float), err);
    if (!drift->moment)
        drift_release(drift);
    return drift->moment ? 0 : -1;
}

void drift_release(struct drift *drift)
{
    if (drift->backend)
        plim_pool_free(drift->backend->pool, drift->moment);
    *drift = (struct drift){ 0 };
}

int drift_add(struct drift *drift, const float *x, const float *difference, size_t rows, float weight,
              struct plim_err *err)
{
    struct matrix_product product = {
        .transpose_a = true,
        .m = drift->in_features,
        .n = drift->columns,
        .k = rows,
        .alpha = weight,
        .beta = 1,
        .a = x,
        .a_stride = drift->in_features,
        .b = difference,
        .b_stride = drift->columns,
        .c = drift->moment,
        .c_stride = drift->columns,
    };
    return ops_of(drift)->multiply(drift->backend, &product, err);
}

/* Rows of `from` in `order`; of inputs the columns too. */
static void permute(const struct drift *d, const uint16_t *order, const float *from, float *to)
{
    for (size_t i = 0; i < d->in_features; i++) {
        const float *row = from + order[i] * d->columns;
        float *out = to + i * d->columns;
        if (d->of_outputs)
            memcpy(out, row, d->columns * sizeof *out);
        else
            for (size_t j = 0; j < d->columns; j++)
                out[j] = row[order[j]];
    }
}

int drift_order(struct drift *drift, const struct hessian *hessian, struct plim_err *err)
{
    const struct backend_ops *ops = drift->backend->ops;
    struct plim_pool *pool = drift->backend->pool;
    enum plim_tier tier = ops->unified_memory ? drift->tier : PLIM_HOST;
    float *host = NULL, *ordered = NULL;
    int rc = -1;

    if (!(ordered = plim_pool_alloc(pool, tier, PLIM_TAG_HESSIAN, moment_bytes(drift), err)))
        goto out;
    if (ops->unified_memory) {
        float *moment = drift->moment;
        permute(drift, hessian->order, moment, ordered);
        drift->moment = ordered;
        ordered = moment;
    } else {
        if (!(host = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_HESSIAN, moment_bytes(drift), err)) ||
            ops->download(drift->backend, host, drift->moment, moment_bytes(drift), err) < 0)
            goto out;
        permute(drift, hessian->order, host, ordered);
        if (ops->upload(drift->backend, drift->moment, ordered, moment_bytes(drift), err) < 0)
            goto out;
    }
    drift->ordered = true;
    rc = 0;

out:
    plim_pool_free(pool, ordered);
    plim_pool_free(pool, host);
    return rc;
}

size_t drift_scratch_bytes(size_t in_features, size_t out_features)
{
    return 2 * in_features * plim_min(CORRECT_COLUMNS, out_features) * sizeof(float);
}

/* Columns of w from `column` on; U^T U is the damped Hessian's inverse. */
static int correct_columns(const struct drift *d, const struct hessian *h, float *w, size_t out_features, size_t column,
                           size_t columns, float *wanted, float *half, struct plim_err *err)
{
    const struct quantize_ops *ops = ops_of(d);
    size_t k = d->in_features;
    struct matrix_product product = { .m = k, .n = columns, .k = k, .alpha = 1, .a_stride = k };

    product.b = d->moment + column;
    product.b_stride = d->columns;
    if (!d->of_outputs) {
        product.a = d->moment;
        product.b = w + column;
        product.b_stride = out_features;
        product.c = wanted;
        product.c_stride = columns;
        if (ops->multiply(d->backend, &product, err) < 0)
            return -1;
        product.b = wanted;
        product.b_stride = columns;
    }
    product.a = h->matrix;
    product.c = half;
    product.c_stride = columns;
    if (ops->multiply(d->backend, &product, err) < 0)
        return -1;
    product.transpose_a = true;
    product.b = half;
    product.b_stride = columns;
    product.c = w + column;
    product.c_stride = out_features;
    product.alpha = DRIFT_SHARE / (float)(h->row_count ? h->row_count : 1);
    product.beta = 1;
    return ops->multiply(d->backend, &product, err);
}

int drift_correct(const struct drift *drift, const struct hessian *hessian, float *w, size_t out_features,
                  struct plim_err *err)
{
    struct plim_pool *pool = drift->backend->pool;
    /* Columns that pad the outputs are zero and stay so. */
    size_t end = drift->of_outputs ? plim_min(drift->columns, out_features) : out_features;
    size_t bytes = drift_scratch_bytes(drift->in_features, out_features);
    float *scratch = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, err);
    int rc = scratch ? 0 : -1;

    for (size_t column = 0; column < end && rc == 0; column += CORRECT_COLUMNS) {
        rc = correct_columns(drift, hessian, w, out_features, column, plim_min(CORRECT_COLUMNS, end - column), scratch,
                             scratch + bytes / sizeof *scratch / 2, err);
        plim_pool_set_aside(pool, w, 0, drift->in_features * out_features * sizeof *w);
    }
    plim_pool_set_aside(pool, drift->moment, 0, moment_bytes(drift));
    plim_pool_free(pool, scratch);
    return rc;
}
