/* Copies between host and device. */

#include "cuda_internal.h"

int cuda_upload(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err)
{
    CUDA_TRY(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda_of(backend)->stream), err);
    return 0;
}

int cuda_download(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

    CUDA_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda->stream), err);
    CUDA_TRY(cudaStreamSynchronize(cuda->stream), err);
    return 0;
}
