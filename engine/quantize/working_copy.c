#include "working_copy.h"

#include "model.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"

/* Weights of which the pages are let go together. */
#define STRIP_BYTES ((size_t)8 << 20)

/*
 * In the slow tier (a conversion that keeps to a budget; the weights are a mapped file then) strip by strip of outputs, so that
 * neither the weights nor the copy are resident whole.
 */
static int gather(struct backend *backend, const struct linear_source *source, const uint16_t *order, size_t padded,
                  enum plim_tier tier, float *w, struct plim_err *err)
{
    size_t row_bytes = source->in_features * dtype_bytes(source->dtype), strip = padded;
    int rc = 0;

    if (tier == PLIM_SLOW && backend->ops->unified_memory)
        strip = plim_min(padded, plim_max((size_t)32, STRIP_BYTES / row_bytes / 32 * 32));
    for (size_t first = 0; first < padded && rc == 0; first += strip) {
        struct linear_source part = *source;
        part.weight = (const char *)source->weight + first * row_bytes;
        part.out_features = first < source->out_features ? plim_min(strip, source->out_features - first) : 0;
        rc = backend_quantize_ops(backend->ops->name)
                 ->gather_weights(backend, &part, order, plim_min(strip, padded - first), padded, w + first, err);
        if (strip < padded) {
            model_drop_pages(part.weight, part.out_features * row_bytes);
            plim_pool_set_aside(backend->pool, w, 0, source->in_features * padded * sizeof *w);
        }
    }
    return rc;
}

int quantise_layer(struct gptq_result *result, const struct linear_source *source, const struct hessian *hessian,
                   const struct drift *drift, const struct exl2_layout *layout, bool round_to_nearest, enum plim_tier tier, struct meter *meter,
                   struct plim_err *err)
{
    struct backend *backend = hessian->backend;
    size_t padded = plim_round_up(source->out_features, 32);
    int rc = -1;

    *result = (struct gptq_result){ 0 };
    enum plim_quantize_phase outer = meter_enter(meter, PLIM_QUANTIZE_GATHER);
    float *w = plim_pool_alloc(backend->pool, tier, PLIM_TAG_WORKSPACE, source->in_features * padded * sizeof *w, err);
    if (!w)
        goto out;
    if (gather(backend, source, hessian->order, padded, tier, w, err) < 0)
        goto out;
    if (drift && drift_correct(drift, hessian, w, padded, err) < 0)
        goto out;
    meter_enter(meter, PLIM_QUANTIZE_QUANTISE);
    if (gptq_quantise(result, w, padded, hessian, layout, round_to_nearest, err) < 0)
        goto out;
    meter_add_gptq(meter, result);
    rc = 0;

out:
    plim_pool_free(backend->pool, w);
    meter_enter(meter, outer);
    return rc < 0 ? plim_err_wrap(err, "quantising %s", source->name) : 0;
}

struct linear_source quantised_source(const struct linear_source *source, const struct gptq_result *result)
{
    struct linear_source quantised = *source;
    quantised.is_exl2 = true;
    quantised.exl2 = gptq_result_tensors(result, source->name);
    return quantised;
}
