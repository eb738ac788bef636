#include <immintrin.h>
#include <stddef.h>

#define GPTQ_TABLE gptq_kernels_avx512

/* n is a multiple of 32, as every stored width is. */
static void round_to_half(float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(x + i, _mm512_cvtph_ps(_mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT)));
}

#include "gptq_kernels_body.h"
