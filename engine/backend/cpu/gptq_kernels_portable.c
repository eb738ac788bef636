#include "half.h"

#define GPTQ_TABLE gptq_kernels_portable

static void round_to_half(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = half_to_float(half_from_float(x[i]));
}

#include "gptq_kernels_body.h"
