/* The kernels for AVX-512 F/BW/DQ/VL. */

#include "elementwise_simd.h"

#include "attention_simd.h"

#define KERNELS_ISA PLIM_ISA_AVX512
#define KERNELS_NAME cpu_kernels_avx512
#include "kernels_table.h"
