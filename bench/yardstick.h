#ifndef PLIM_YARDSTICK_H
#define PLIM_YARDSTICK_H

/*
 * Yardsticks: what this machine can do at best, measured in the same run as everything else, so that a speed can be read
 * as a fraction of it. They run in a worker, never in the measuring parent.
 */

#include <stddef.h>
#include <stdint.h>

#include "result.h"

/*
 * Plain reads of memory with `threads` threads, each its own part of the buffer, the way that weights are read. Keep one
 * open to measure several times: the buffer is touched once.
 *
 *     struct read_yardstick read = { 0 };
 *     if (read_yardstick_open(&read, threads, &err) < 0) ...
 *     rc = read_yardstick_measure(&read, 100 * 1000 * 1000, &bytes_per_s, &err);
 *     read_yardstick_close(&read);
 */
struct read_yardstick {
    void *buffer;
    size_t buffer_bytes;       /* several times the last-level cache */
    int threads;
};

int read_yardstick_open(struct read_yardstick *read, int threads, struct plim_err *err);
/* Reads for about `duration_ns`: bytes per second, from the median of the passes over the buffer. */
int read_yardstick_measure(struct read_yardstick *read, uint64_t duration_ns, double *bytes_per_s,
                           struct plim_err *err);
void read_yardstick_close(struct read_yardstick *read);

/*
 * BLAS sgemm, y[rows, out] = x[rows, in] * W[in, out], on ready fp32 operands: the flop/s over one multiplication of each
 * shape. The operands are reused between shapes, so they take the memory of the largest only.
 */
struct gemm_shape {
    size_t in, out;
    size_t times;              /* how often a model has it */
};

struct gemm_yardstick {
    float *x, *w, *y;
    size_t rows;
    const struct gemm_shape *shapes;   /* borrowed */
    size_t shape_count;
    int threads;
};

int gemm_yardstick_open(struct gemm_yardstick *gemm, size_t rows, const struct gemm_shape *shapes, size_t shape_count,
                        int threads, struct plim_err *err);
/* One multiplication of each shape, weighted by `times`. Returns flop/s. */
double gemm_yardstick_measure(struct gemm_yardstick *gemm);
void gemm_yardstick_close(struct gemm_yardstick *gemm);

/* Independent multiply-adds in registers with the widest instructions of this processor: flop/s. */
int fma_yardstick_measure(int threads, uint64_t duration_ns, double *flops_per_s, struct plim_err *err);

/* The size of the last-level cache in bytes, as the system tells it; 32 MiB when it doesn't. */
size_t last_level_cache_bytes(void);

/*
 * All of them, with one thread and with every core, into facts:
 * read_bandwidth_1_bytes_per_s, read_bandwidth_bytes_per_s, fma_1_flops_per_s, fma_flops_per_s, sgemm_1_flops_per_s,
 * sgemm_flops_per_s; and of a GPU, where one can be used, gpu_read_bytes_per_s, gpu_copy_bytes_per_s, gpu_upload_bytes_per_s
 * and gpu_fp16_flops_per_s. Takes about a second.
 */
int yardsticks_measure(struct facts *facts, struct plim_err *err);

#endif
