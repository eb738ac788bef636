/* Linear layers. To come: these refuse, saying so. */

#include "cuda_internal.h"

extern "C" int cuda_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                                struct plim_err *err)
{
    (void)backend;
    (void)matrix;
    return plim_err_set(err, PLIM_ERR_INTERNAL, "%s: the CUDA backend has no linear layers yet", source->name);
}

extern "C" void cuda_matrix_release(struct backend *backend, struct matrix *matrix)
{
    (void)backend;
    (void)matrix;
}

extern "C" int cuda_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                           bool accumulate, struct plim_err *err)
{
    (void)backend;
    (void)matrix;
    (void)x;
    (void)rows;
    (void)y;
    (void)accumulate;
    return plim_err_set(err, PLIM_ERR_INTERNAL, "the CUDA backend has no linear layers yet");
}

extern "C" size_t cuda_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters)
{
    (void)shape;
    (void)parameters;
    return 0;
}

extern "C" size_t cuda_matrix_host_bytes(const struct linear_shape *shape)
{
    (void)shape;
    return 0;
}

extern "C" size_t cuda_matrix_mapped_bytes(const struct linear_shape *shape)
{
    (void)shape;
    return 0;
}

extern "C" struct linear_scratch cuda_linear_scratch(const struct linear_shape *shape, size_t rows,
                                                     const struct plim_parameters *parameters)
{
    struct linear_scratch scratch = { 0, 0 };
    (void)shape;
    (void)rows;
    (void)parameters;
    return scratch;
}
