/* Embedding: the rows that are asked for are gathered from the mapped table on the host; the table never goes to the device. */

#include "cuda_kernels.cuh"

extern "C" int cuda_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
                          size_t rows, float scale, float *out, struct plim_err *err)
{
    (void)backend;
    (void)table;
    (void)width;
    (void)ids;
    (void)rows;
    (void)scale;
    (void)out;
    return plim_err_set(err, PLIM_ERR_INTERNAL, "embedding of %s: not there yet", dtype_name(dtype));
}
