#ifndef PLIMSOLL_DEVICE_H
#define PLIMSOLL_DEVICE_H

/*
 * A GPU as it stands, without an engine: what it is, how much of its memory is used, and what it can do at best. In a
 * build without CUDA, and where no GPU can be used, every function fails and says why in one line.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

struct plim_device {
    char name[128];              /* "NVIDIA H100 80GB HBM3" */
    char bus_id[32];             /* "0000:01:00.0": the name that other libraries know it by */
    int compute_capability;      /* 90 for 9.0 */
    int multiprocessors;
    uint64_t memory_bytes, l2_bytes;
    int driver_version, runtime_version;   /* 13000 for CUDA 13.0: the newest that the driver runs, and this build's */
};

/* Describes device number `device`, counted as the driver does. Creates no context. */
int plim_device_describe(int device, struct plim_device *out, struct plim_err *err);

/* Bytes of the device that are free and in all, by cudaMemGetInfo. Creates the context if the process has none. */
int plim_device_memory(int device, uint64_t *free_bytes, uint64_t *total_bytes, struct plim_err *err);

/*
 * What the device can do at best, medians of several passes, each over memory of its own that is given back:
 * plain reads of 1 GiB, a device-to-device copy of 1 GiB (bytes read and written), uploads from pinned memory.
 */
struct plim_device_rates {
    double read_bytes_per_s;
    double copy_bytes_per_s;
    double upload_bytes_per_s;
};

int plim_device_rates(int device, struct plim_device_rates *out, struct plim_err *err);

/* A product y[rows, out] = x[rows, in] W[in, out], `times` times. */
struct plim_device_product {
    size_t in_features, out_features, times;
};

/*
 * flop/s of cuBLAS on ready fp16 operands (fp32 sums, fp16 results) over one multiplication of each shape, weighted by
 * `times`; the median of five passes after two.
 */
int plim_device_product_rate(int device, size_t rows, const struct plim_device_product *products, size_t product_count,
                             double *flops_per_s, struct plim_err *err);

#endif
