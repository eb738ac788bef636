#include "cuda_libraries.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda_internal.h"

/* ---- loading ---- */

void *cuda_library_open(const char *name, int major, struct plim_err *err)
{
    static const char *const folders[] = { "", "/usr/local/cuda/lib64/" };
    char path[256], first[256] = "";

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s%s.so.%d", folders[i], name, major);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
        const char *why = dlerror();
        if (i == 0)
            snprintf(first, sizeof first, "%s", why ? why : "no reason given");
    }
    plim_err_set(err, PLIM_ERR_SYSTEM, "loading %s: %s", name, first);
    return NULL;
}

int cuda_library_find(void *library, const char *name, void **function, struct plim_err *err)
{
    *function = dlsym(library, name);
    return *function ? 0 : plim_err_set(err, PLIM_ERR_SYSTEM, "the CUDA library that is installed has no %s", name);
}

/* ---- cuBLAS ---- */

static int find_functions(struct cuda_blas *blas, struct plim_err *err)
{
    struct {
        const char *name;
        void **slot;
    } const wanted[] = {
        { "cublasCreate_v2", (void **)&blas->create },
        { "cublasDestroy_v2", (void **)&blas->destroy },
        { "cublasSetStream_v2", (void **)&blas->set_stream },
        { "cublasSetWorkspace_v2", (void **)&blas->set_workspace },
        { "cublasGemmEx", (void **)&blas->gemm_ex },
        { "cublasSsyrk_v2", (void **)&blas->ssyrk },
        { "cublasStrsm_v2", (void **)&blas->strsm },
    };

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (cuda_library_find(blas->library, wanted[i].name, wanted[i].slot, err) < 0)
            return -1;
    return 0;
}

int cuda_blas_check(cublasStatus_t status, const char *what, struct plim_err *err)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return plim_err_set(err, status == CUBLAS_STATUS_ALLOC_FAILED ? PLIM_ERR_MEMORY : PLIM_ERR_SYSTEM,
                        "%s: cuBLAS status %d", what, (int)status);
}

static int open_blas(struct backend *backend, struct cuda_blas *blas, struct plim_err *err)
{
    cublasStatus_t status;

    /* Else cublasCreate takes 64 MiB for workspaces that ours replace (measured on one H100, cuBLAS 13.1). */
    setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0", 0);
    blas->library = cuda_library_open("libcublas", CUDART_VERSION / 1000, err);
    if (!blas->library || find_functions(blas, err) < 0)
        return -1;
    /* It takes a few MiB of its own, which our cache may be holding. */
    status = blas->create(&blas->handle);
    if (status == CUBLAS_STATUS_ALLOC_FAILED && plim_pool_trim(backend->pool) > 0)
        status = blas->create(&blas->handle);
    return cuda_blas_check(status, "cublasCreate", err);
}

/* The library stays mapped: it has registered with the runtime, and another engine may use it. */
void cuda_blas_release(struct backend *backend)
{
    struct cuda_blas *blas = cuda_of(backend)->blas;

    if (blas->handle)
        blas->destroy(blas->handle);
    *blas = (struct cuda_blas){ 0 };
}

const struct cuda_blas *cuda_blas(struct backend *backend, void *workspace, size_t workspace_bytes,
                                  struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct cuda_blas *blas = cuda->blas;

    if (!blas->library && open_blas(backend, blas, err) < 0) {
        cuda_blas_release(backend);
        return NULL;
    }
    if (cuda_blas_check(blas->set_stream(blas->handle, cuda->stream), "cublasSetStream", err) < 0 ||
        cuda_blas_check(blas->set_workspace(blas->handle, workspace, workspace_bytes), "cublasSetWorkspace", err) < 0)
        return NULL;
    return blas;
}
