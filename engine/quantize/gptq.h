#ifndef PLIM_GPTQ_H
#define PLIM_GPTQ_H

/*
 * Quantisation of one linear layer to an EXL2 layout: adaptive GPTQ (format notes, section 6), or round to nearest.
 *
 * Rows are taken in the Hessian's order, group by group, widest codes first: scale search on the rows as they are by
 * then, quantisation row by row with the errors spread over the group, then over all later rows. The scale that is
 * used is the one that will be stored, so the codes describe exactly what a reader will get.
 */

#include <stdint.h>

#include "exl2.h"
#include "hessian.h"

struct quantize_ops;

/* A quantised layer, as it will stand in the file. One owner; the host's memory, tagged weights. */
struct gptq_result {
    size_t in_features, out_features;     /* K; N padded to a multiple of 32 */
    size_t group_count, word_rows;
    uint32_t *q_weight;                   /* [word_rows, N] */
    uint32_t *q_scale;                    /* [group_count, N / 8] */
    uint16_t *q_scale_max;                /* fp16 [group_count] */
    int16_t *q_groups;                    /* [2 * group_count] */
    int32_t *q_invperm;                   /* [K] */
    uint64_t search_ns, quantise_ns, spread_ns, pack_ns;
};

/*
 * Quantises w [K, N], device, a block of the backend's pool (rows already in `hessian->order`, columns padded with zeros to
 * a multiple of 32; overwritten). With `round_to_nearest` the Hessian gives the order only and need not be factored (hessian_order). On failure `result` is empty.
 */
int gptq_quantise(struct gptq_result *result, float *w, size_t out_features, const struct hessian *hessian,
                  const struct exl2_layout *layout, bool round_to_nearest, struct plim_err *err);

void gptq_result_release(struct gptq_result *result, struct plim_pool *pool);

/* The result as the raw tensors that exl2_matrix_init reads. Borrowed. */
struct exl2_tensors gptq_result_tensors(const struct gptq_result *result, const char *name);

/*
 * Peak bytes beside the Hessian and w: what gptq_quantise allocates, result included, on a backend whose device memory is
 * the host's.
 */
size_t gptq_scratch_bytes(const struct quantize_ops *ops, const struct exl2_layout *layout, size_t in_features,
                          size_t out_features);

#endif
