#ifndef PLIM_GPU_CASE_H
#define PLIM_GPU_CASE_H

/* What a case on the cuda backend says of its GPU: the process's device memory, clocks, heat, throttling. */

#include "gpu.h"
#include "model_run.h"

/* Whether the run's backend is cuda. */
bool gpu_case_is_cuda(const struct model_run *m);

/* "cuda/NVIDIA H100 80GB HBM3": what digests of floats hold for. */
void gpu_case_key(const struct model_run *m, char *buffer, size_t size);

/* Opens the probe and takes the state before the work; nothing on other backends. */
void gpu_case_begin(struct model_run *m);

/* Before a yardstick takes memory of its own, and at the latest before the engine is closed. */
void gpu_case_note_memory(struct model_run *m);

/* Reports, and closes the probe. */
int gpu_case_end(struct model_run *m, struct plim_err *err);

/* Adds what the device reads, copies and multiplies at best, and the fractions of it that the case reached. */
int gpu_case_read_reference(struct model_run *m, double bytes_per_s, uint64_t step_bytes, struct plim_err *err);
int gpu_case_product_reference(struct model_run *m, size_t rows, const struct gemm_shape *shapes, size_t shape_count,
                               double flops_per_s, struct plim_err *err);

#endif
