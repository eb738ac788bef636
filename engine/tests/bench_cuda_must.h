#ifndef BENCH_CUDA_MUST_H
#define BENCH_CUDA_MUST_H

/* A benchmark on CUDA ends at the first error, which it says after its own name. Included once in each file of one. */

#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda/cuda_internal.h"

static struct plim_err err = PLIM_ERR_INIT;

static inline void must(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, err.message);
    exit(1);
}

static inline void must_cuda(cudaError_t status)
{
    must(cuda_check(status, "a CUDA call", &err));
}

#endif
