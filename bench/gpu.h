#ifndef PLIM_GPU_H
#define PLIM_GPU_H

/*
 * What NVIDIA's management library (NVML) knows of a GPU. It is loaded at run time: where it isn't there, or won't say
 * something, that is left out. Called in workers; creates no CUDA context.
 */

#include "result.h"

struct gpu;

/* The GPU of that PCI bus id ("0000:01:00.0"), or NULL where NVML is not to be had. */
struct gpu *gpu_open(const char *bus_id);
void gpu_close(struct gpu *gpu);

/* The state of one moment; what is not known is negative. */
struct gpu_state {
    double sm_clock_mhz, memory_clock_mhz;
    double temperature_c, power_w;
    double throttle_reasons;     /* NVML's bits: 0 none, 1 idle, 4 power cap, 8 hardware slowdown, 32 and 64 heat */
    double process_bytes;        /* device memory of this process, context and all */
};

void gpu_state(const struct gpu *gpu, struct gpu_state *out);

/* gpu, gpu_memory_gib, gpu_driver, gpu_ecc, cuda_runtime; gpu alone, "none", where there is no usable GPU. */
int gpu_facts(struct facts *facts, struct plim_err *err);

/* cuda: "usable", or why not; if usable, its clocks, temperature, power, and what holds the clocks down. */
int gpu_recorded(struct facts *facts, struct plim_err *err);

/* Adds gpu_read_bytes_per_s and so on, where there is a usable GPU. */
int gpu_yardsticks(struct facts *facts, struct plim_err *err);

#endif
