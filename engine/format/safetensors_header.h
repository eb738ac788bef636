#ifndef PLIM_SAFETENSORS_HEADER_H
#define PLIM_SAFETENSORS_HEADER_H

/*
 * The header of one safetensors file that lies in memory: everything the file claims is checked against the bytes that
 * are really there before a tensor is handed out.
 */

#include "plimsoll/err.h"
#include "plimsoll/pool.h"
#include "safetensors.h"

/* The limit of the reference implementation. Real headers are about 100 bytes a tensor: 1 MB for an 8B EXL2 model. */
#define SAFETENSORS_HEADER_LIMIT_BYTES ((size_t)100 * 1000 * 1000)

struct safetensors_header {
    struct tensor *tensors;   /* [count], in the order of the JSON text; owned */
    size_t count;
    char *names;              /* what tensor.name points into; owned */
};

#define SAFETENSORS_HEADER_INIT { NULL, 0, NULL }

/*
 * Reads the header of `bytes` bytes at `data`. Tensors point into `data` and borrow `path`; names are unique. Errors
 * are of kind input and begin with `path`.
 */
int safetensors_header_parse(struct safetensors_header *header, struct plim_pool *pool, const char *path,
                             const uint8_t *data, size_t bytes, struct plim_err *err);

void safetensors_header_release(struct safetensors_header *header, struct plim_pool *pool);

#endif
