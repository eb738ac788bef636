/* The kernels for AVX2 + FMA + F16C. */

#include "elementwise_simd.h"

#include "attention_simd.h"

#define KERNELS_ISA PLIM_ISA_AVX2
#define KERNELS_NAME cpu_kernels_avx2
#include "kernels_table.h"
