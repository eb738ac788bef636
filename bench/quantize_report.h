#ifndef PLIM_QUANTIZE_REPORT_H
#define PLIM_QUANTIZE_REPORT_H

/* What the workloads of the quantizer have in common: time and memory, phase by phase, as metrics. */

#include "model_run.h"
#include "plimsoll/quantize.h"

/* Phases' times, and the peaks of the total, of tags and of phases, on both tiers. */
int report_usage(struct model_run *m, const struct plim_quantize_usage *usage, struct plim_err *err);

/*
 * What was predicted for them, and how far it is off in all. `held` is what the pool held before: it is part of every
 * measured peak and of no prediction.
 */
int report_usage_prediction(struct model_run *m, const struct plim_quantize_usage *usage,
                            const struct plim_quantize_usage *predicted,
                            const struct plim_pool_usage held[PLIM_TIER_COUNT], struct plim_err *err);

/* What a gate's control added to the measured part: it belongs to the time that is reported. */
uint64_t stopwatch_planted_ns(const struct stopwatch *spent, uint64_t worked_ns);

/* A digest of text, which holds for one ISA and BLAS core, whatever the number of threads. */
int report_quantised_digest(struct model_run *m, const char *digest, struct plim_err *err);

#endif
