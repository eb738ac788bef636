#ifndef PLIM_METER_H
#define PLIM_METER_H

/*
 * Time and memory of a conversion, phase by phase. The pool's peaks are reset at each change of phase, so that a phase
 * has a peak of its own; the meter keeps the maxima.
 */

#include "hessian.h"
#include "plimsoll/quantize.h"

struct gptq_result;

struct meter {
    struct backend *backend;
    struct plim_pool *pool;                   /* the backend's */
    enum plim_quantize_phase phase;
    uint64_t since_ns;
    uint64_t reserved_peak_bytes[PLIM_TIER_COUNT];
    struct plim_quantize_usage usage;    /* since meter_start */
};

/* Starts from nothing, in phase `other`. */
void meter_start(struct meter *meter, struct backend *backend);

/* Ends the current phase, once the backend has done its work, and begins another; returns the one that ended. */
enum plim_quantize_phase meter_enter(struct meter *meter, enum plim_quantize_phase phase);

/* Ends the current phase and hands out what was used since meter_start. */
void meter_stop(struct meter *meter, struct plim_quantize_usage *usage);

/*
 * What hessian_factor and gptq_quantise say about themselves; call them in phase `cholesky` and `quantise`. The peak of
 * phase `permute` is that of the permutation alone, without the matrix' way to the other tier and back.
 */
void meter_add_hessian(struct meter *meter, const struct hessian_report *report);
void meter_add_gptq(struct meter *meter, const struct gptq_result *result);

/* sum += part, peaks by their maximum */
void usage_add(struct plim_quantize_usage *sum, const struct plim_quantize_usage *part);

#endif
