#include "working_copy.h"

#include <string.h>

#include "half.h"
#include "plimsoll/units.h"
#include "threads.h"

struct gather {
    const struct linear_source *source;
    const uint16_t *order;
    size_t padded;
    float *w;
};

/* Outputs that are gathered side by side: a cache line of w, and as many weight rows as stay in the cache. */
#define GATHER_OUTPUTS 16

static void gather_outputs(void *context, size_t begin, size_t end, int thread)
{
    const struct gather *g = context;
    const struct linear_source *s = g->source;
    size_t k = s->in_features;
    (void)thread;

    for (size_t n = begin; n < end; n++) {
        float *column = g->w + n;
        if (n >= s->out_features) {
            for (size_t i = 0; i < k; i++)
                column[i * g->padded] = 0;
            continue;
        }
        const char *row = (const char *)s->weight + n * k * dtype_bytes(s->dtype);
        for (size_t i = 0; i < k; i++) {
            const char *at = row + g->order[i] * dtype_bytes(s->dtype);
            if (s->dtype == DTYPE_F32) {
                memcpy(column + i * g->padded, at, sizeof *column);
            } else {
                uint16_t half;
                memcpy(&half, at, sizeof half);
                column[i * g->padded] = s->dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
            }
        }
    }
}

void gather_weights(struct backend *backend, const struct linear_source *source, const uint16_t *order, size_t padded,
                    float *w)
{
    struct gather gather = { source, order, padded, w };
    threads_run(backend->threads, padded, GATHER_OUTPUTS, gather_outputs, &gather);
}

int quantise_layer(struct gptq_result *result, const struct linear_source *source, const struct hessian *hessian,
                   const struct exl2_layout *layout, bool round_to_nearest, enum plim_tier tier, struct meter *meter,
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
    gather_weights(backend, source, hessian->order, padded, w);
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
