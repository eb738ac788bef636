#ifndef PLIM_WORKING_COPY_H
#define PLIM_WORKING_COPY_H

/* From the weights of a dense layer to a quantised one. */

#include "backend.h"
#include "drift.h"
#include "gptq.h"
#include "meter.h"

/*
 * Gathers the weights into a working copy on `tier` (tag workspace, given back), corrects it for `drift` (ordered; NULL:
 * not), and quantises it. Times and peaks go to the meter.
 */
int quantise_layer(struct gptq_result *result, const struct linear_source *source, const struct hessian *hessian,
                   const struct drift *drift, const struct exl2_layout *layout, bool round_to_nearest, enum plim_tier tier, struct meter *meter,
                   struct plim_err *err);

/* The same layer with the quantised weights in place of its own. Borrows `result`. */
struct linear_source quantised_source(const struct linear_source *source, const struct gptq_result *result);

#endif
