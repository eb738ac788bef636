#include "working_copy.h"

#include "plimsoll/units.h"
#include "quantize_ops.h"

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
    if (backend_quantize_ops(backend->ops->name)->gather_weights(backend, source, hessian->order, padded, w, err) < 0)
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
