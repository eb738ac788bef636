#ifndef PLIMSOLL_CPU_H
#define PLIMSOLL_CPU_H

/* What this processor can do, and which set of kernels will run on it. */

#include <stdbool.h>
#include <stddef.h>

#include "plimsoll/err.h"

enum plim_isa {
    PLIM_ISA_PORTABLE,   /* plain C */
    PLIM_ISA_AVX2,       /* AVX2 + FMA + F16C */
    PLIM_ISA_AVX512,     /* AVX-512 F/BW/DQ/VL + VNNI */
    PLIM_ISA_COUNT
};

/* "portable", "avx2", "avx512". */
const char *plim_isa_name(enum plim_isa isa);

bool plim_isa_supported(enum plim_isa isa);

/*
 * The kernels to use: the best that is supported, or the one that the environment variable PLIMSOLL_ISA names.
 * A name that is unknown or not supported here is an error (kind input), never a silent fallback.
 */
int plim_isa_select(enum plim_isa *out, struct plim_err *err);

/* The processor's brand string and the number of cores this process may run on. */
void plim_cpu_brand(char *buffer, size_t size);
int plim_cpu_core_count(void);

#endif
