#ifndef PLIM_CUDA_LIBRARIES_H
#define PLIM_CUDA_LIBRARIES_H

/*
 * NVIDIA's libraries, loaded when they are first needed: a program that only decodes never maps cuBLAS, and the program
 * starts where there is none.
 *
 *     const struct cuda_blas *blas = cuda_blas(backend, workspace, CUDA_BLAS_WORKSPACE_BYTES, err);
 *     if (!blas)
 *         return -1;
 *     return cuda_blas_check(blas->gemm_ex(blas->handle, ...), "cublasGemmEx", err);
 *
 * Workspaces are the caller's: a block of the pool (tag workspace) for as long as the product may run. Nothing is left to
 * cuBLAS, whose own would be invisible to the pool. Pointers to scalars are host pointers.
 */

#include <cublas_v2.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct backend;
struct plim_err;

/* What NVIDIA recommends for compute capability 9.0; older devices need a fraction and get as much. */
#define CUDA_BLAS_WORKSPACE_BYTES ((size_t)32 << 20)

struct cuda_blas {
    void *library;             /* NULL: not loaded yet */
    cublasHandle_t handle;
    cublasStatus_t (*create)(cublasHandle_t *handle);
    cublasStatus_t (*destroy)(cublasHandle_t handle);
    cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*set_workspace)(cublasHandle_t handle, void *workspace, size_t bytes);
    cublasStatus_t (*gemm_ex)(cublasHandle_t handle, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
                              int n, int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                              cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                              cublasComputeType_t compute, cublasGemmAlgo_t algorithm);
    cublasStatus_t (*ssyrk)(cublasHandle_t handle, cublasFillMode_t fill, cublasOperation_t transpose, int n, int k,
                            const float *alpha, const float *a, int lda, const float *beta, float *c, int ldc);
    cublasStatus_t (*strsm)(cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t fill,
                            cublasOperation_t transpose, cublasDiagType_t diagonal, int m, int n, const float *alpha,
                            const float *a, int lda, float *b, int ldb);
};

/*
 * cuBLAS, on the backend's stream, with a workspace of the caller's. Loads the library on the first call. NULL with `err`
 * when it isn't there or refuses.
 */
const struct cuda_blas *cuda_blas(struct backend *backend, void *workspace, size_t workspace_bytes,
                                  struct plim_err *err);

/* 0, or -1 with `err`: "what: cuBLAS status 13" (cublas_api.h names them). */
int cuda_blas_check(cublasStatus_t status, const char *what, struct plim_err *err);

/* When the backend is closed. */
void cuda_blas_release(struct backend *backend);

/*
 * Loads NAME.so.MAJOR of the CUDA version that this was built with, from where the loader looks, or from the toolkit's
 * folder; `err` says what the loader said. Also for others: cuSOLVER, NVML (major 1).
 */
void *cuda_library_open(const char *name, int major, struct plim_err *err);

/* The address of a function; -1 with `err` naming both. */
int cuda_library_find(void *library, const char *name, void **function, struct plim_err *err);

#ifdef __cplusplus
}
#endif

#endif
