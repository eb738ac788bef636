#include <immintrin.h>
#include <stddef.h>

#define GPTQ_TABLE gptq_kernels_avx2

/* n is a multiple of 32, as every stored width is. */
static void round_to_half(float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT)));
}

#include "gptq_kernels_body.h"
