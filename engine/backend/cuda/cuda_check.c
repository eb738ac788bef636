/* CUDA's errors as the engine's. */

#include "cuda_internal.h"

int cuda_check(cudaError_t status, const char *what, struct plim_err *err)
{
    int device = -1;

    if (status == cudaSuccess)
        return 0;
    cudaGetLastError();   /* else the next launch would report it again */
    cudaGetDevice(&device);
    return plim_err_set(err, status == cudaErrorMemoryAllocation ? PLIM_ERR_MEMORY : PLIM_ERR_SYSTEM,
                        "%s: %s (%s), device %d", what, cudaGetErrorString(status), cudaGetErrorName(status), device);
}

int cuda_launch_check(const char *kernel, struct plim_err *err)
{
    return cuda_check(cudaGetLastError(), kernel, err);
}
