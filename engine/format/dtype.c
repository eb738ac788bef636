#include "dtype.h"

static const struct {
    const char *name;
    size_t bytes;
} table[DTYPE_COUNT] = {
    [DTYPE_F32] = { "F32", 4 }, [DTYPE_F16] = { "F16", 2 }, [DTYPE_BF16] = { "BF16", 2 }, [DTYPE_I64] = { "I64", 8 },
    [DTYPE_I32] = { "I32", 4 }, [DTYPE_I16] = { "I16", 2 }, [DTYPE_U8] = { "U8", 1 },
};

const char *dtype_name(enum dtype dtype)
{
    return table[dtype].name;
}

size_t dtype_bytes(enum dtype dtype)
{
    return table[dtype].bytes;
}
