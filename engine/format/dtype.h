#ifndef PLIM_DTYPE_H
#define PLIM_DTYPE_H

#include <stddef.h>

/* Element types of safetensors files that the engine reads or writes. */
enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_U8,
    DTYPE_COUNT
};

const char *dtype_name(enum dtype dtype);   /* "F32", as in the file */
size_t dtype_bytes(enum dtype dtype);       /* of one element */

#endif
