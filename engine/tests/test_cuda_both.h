#ifndef TEST_CUDA_BOTH_H
#define TEST_CUDA_BOTH_H

/* The CUDA backend beside the processor's, for the tests of the quantizer. */

#include "quantize_ops.h"
#include "test_cuda.h"

#define NO_OFFLOAD INT64_MAX

struct both {
    struct cuda_fixture cuda;
    struct plim_pool *pool;
    struct backend cpu;
    const struct quantize_ops *ops, *cpu_ops;
};

/* The pool's first 192 MiB of cached device memory hold poison, so that a read of what nobody wrote shows. */
void both_open(struct both *b);
/* Nothing may have leaked. */
void both_close(struct both *b);

void fine(int rc, const struct plim_err *err);

/* [rows, K] activations with a few loud channels; each channel also follows its left neighbour a little. free(). */
float *activations(size_t rows, size_t k, uint64_t seed);

#endif
