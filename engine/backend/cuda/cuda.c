/* The CUDA backend's table; opening and closing the device. */

#include "cuda_internal.h"
#include "cuda_libraries.h"

#include <stdio.h>
#include <stdlib.h>

#define OLDEST_COMPUTE_CAPABILITY 80

/* ---- the device ---- */

static int describe_device(struct cuda *cuda, struct plim_err *err)
{
    struct cudaDeviceProp properties;

    CUDA_TRY(cudaGetDeviceProperties(&properties, cuda->device), err);
    snprintf(cuda->name, sizeof cuda->name, "%.127s", properties.name);
    cuda->compute_capability = properties.major * 10 + properties.minor;
    cuda->multiprocessors = properties.multiProcessorCount;
    cuda->l2_bytes = (size_t)properties.l2CacheSize;
    cuda->shared_bytes = properties.sharedMemPerBlockOptin;
    cuda->overlap_launches = cuda->compute_capability >= 90;
    if (cuda->compute_capability < OLDEST_COMPUTE_CAPABILITY)
        return plim_err_input(err, "device %d (%s): compute capability %d.%d, wanted %d.%d or later", cuda->device,
                              cuda->name, properties.major, properties.minor, OLDEST_COMPUTE_CAPABILITY / 10,
                              OLDEST_COMPUTE_CAPABILITY % 10);
    return 0;
}

static int open_device(struct cuda *cuda, struct plim_err *err)
{
    if (cuda_device_select(cuda->device, err) < 0 || describe_device(cuda, err) < 0)
        return -1;
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), err);
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->side, cudaStreamNonBlocking), err);
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->fork, cudaEventDisableTiming), err);
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->join, cudaEventDisableTiming), err);
    return 0;
}

int cuda_device_check(int device, struct plim_err *err)
{
    int count = 0, driver = 0, runtime = 0;
    cudaError_t status = cudaGetDeviceCount(&count);

    if (status == cudaErrorInsufficientDriver) {
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        cudaGetLastError();
        if (driver == 0)
            return plim_err_set(err, PLIM_ERR_SYSTEM, "no NVIDIA driver is installed");
        return plim_err_set(err, PLIM_ERR_SYSTEM, "the NVIDIA driver is for CUDA %d.%d, older than this build's %d.%d",
                            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
        cudaGetLastError();
        return plim_err_set(err, PLIM_ERR_SYSTEM, "there is an NVIDIA driver, but no device");
    }
    if (cuda_check(status, "looking for devices", err) < 0)
        return -1;
    if (device >= count)
        return plim_err_input(err, "device %d: there are %d, counted from 0", device, count);
    return 0;
}

/* The entry of PLIMSOLL_SPLIT_DEVICES for `place`; -1: there is none. */
static int listed_device(size_t place)
{
    const char *list = getenv("PLIMSOLL_SPLIT_DEVICES");

    for (size_t i = 0; list && *list; i++) {
        char *end;
        long device = strtol(list, &end, 10);
        if (end == list)
            return -1;
        if (i == place)
            return (int)device;
        list = *end == ',' ? end + 1 : end;
    }
    return -1;
}

int cuda_device_at(const struct plim_parameters *parameters, size_t place)
{
    int listed = listed_device(place);
    return listed >= 0 ? listed : (int)parameters->count[PLIM_DEVICE] + (int)place;
}

int cuda_device_count(const struct plim_parameters *parameters, size_t *count, struct plim_err *err)
{
    int first = (int)parameters->count[PLIM_DEVICE], all = 0;

    for (*count = 0; *count < PLIM_MOST_DEVICES && listed_device(*count) >= 0; ++*count)
        ;
    if (*count > 0)
        return 0;
    if (cuda_device_check(first, err) < 0 || cuda_check(cudaGetDeviceCount(&all), "looking for devices", err) < 0)
        return -1;
    *count = (size_t)(all - first < PLIM_MOST_DEVICES ? all - first : PLIM_MOST_DEVICES);
    return 0;
}

static int cuda_select(struct backend *backend, struct plim_err *err)
{
    return cuda_check(cudaSetDevice(cuda_of(backend)->device), "choosing the device", err);
}

static int cuda_free_bytes(struct backend *backend, uint64_t *bytes, struct plim_err *err)
{
    size_t available, total;

    (void)backend;
    CUDA_TRY(cudaMemGetInfo(&available, &total), err);
    *bytes = available;
    return 0;
}

int cuda_device_select(int device, struct plim_err *err)
{
    return cuda_device_check(device, err) < 0 ? -1 : cuda_check(cudaSetDevice(device), "choosing the device", err);
}

/* What a backend keeps in host memory, in one block. */
struct opened {
    struct cuda cuda;
    struct cuda_blas blas;
};

static void cuda_close(struct backend *backend)
{
    struct cuda *cuda = cuda_of(backend);

    if (!cuda)
        return;
    if (cuda->stream)
        cudaStreamSynchronize(cuda->stream);
    if (cuda->side)
        cudaStreamSynchronize(cuda->side);
    cuda_blas_release(backend);
    cuda_staging_close(backend);
    cuda_linear_close(backend);
    plim_pool_free(backend->pool, cuda->step);
    if (cuda->fork)
        cudaEventDestroy(cuda->fork);
    if (cuda->join)
        cudaEventDestroy(cuda->join);
    if (cuda->side)
        cudaStreamDestroy(cuda->side);
    if (cuda->stream)
        cudaStreamDestroy(cuda->stream);
    plim_pool_free(backend->pool, cuda);
    backend->impl = NULL;
}

static int cuda_open(struct backend *backend, struct plim_err *err)
{
    struct opened *opened = plim_pool_calloc(backend->pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *opened, err);
    struct cuda *cuda;

    if (!opened)
        return -1;
    cuda = &opened->cuda;
    cuda->device = cuda_device_at(backend->parameters, backend->place);
    cuda->blas = &opened->blas;
    backend->impl = cuda;
    if (open_device(cuda, err) < 0 || cuda_staging_open(backend, err) < 0)
        goto fail;
    cuda->step = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_METADATA, sizeof *cuda->step, err);
    if (!cuda->step || cuda_linear_open(backend, err) < 0)
        goto fail;
    return 0;

fail:
    cuda_close(backend);
    return -1;
}

static size_t cuda_open_bytes(const struct plim_parameters *parameters)
{
    (void)parameters;
    return sizeof(struct cuda_step) + cuda_linear_open_bytes();
}

static size_t cuda_open_host_bytes(const struct plim_parameters *parameters)
{
    (void)parameters;
    return sizeof(struct opened);
}

static size_t cuda_open_staging_bytes(const struct plim_parameters *parameters)
{
    (void)parameters;
    return CUDA_STAGING_BYTES;
}

const struct backend_ops cuda_backend_ops = {
    .name = "cuda",
    .unified_memory = false,
    .open = cuda_open,
    .select = cuda_select,
    .free_bytes = cuda_free_bytes,
    .receive = cuda_receive,
    .close = cuda_close,
    .matrix_init = cuda_matrix_init,
    .matrix_release = cuda_matrix_release,
    .linear = cuda_linear,
    .linear_many = cuda_linear_many,
    .linear_gated = cuda_linear_gated,
    .norm_linear_work = cuda_norm_linear_work,
    .norm_linear = cuda_norm_linear,
    .mlp_work = cuda_mlp_work,
    .mlp = cuda_mlp,
    .embed = cuda_embed,
    .rms_norm = cuda_rms_norm,
    .rope = cuda_rope,
    .rope_table = cuda_rope_table,
    .kv_store = cuda_kv_store,
    .attention = cuda_attention,
    .attention_step = cuda_attention_step,
    .act_mul = cuda_act_mul,
    .add = cuda_add,
    .softcap = cuda_softcap,
    .step_open = cuda_step_open,
    .step_close = cuda_step_close,
    .step_run = cuda_step_run,
    .step_result = cuda_step_result,
    .upload = cuda_upload,
    .download = cuda_download,
};

const struct backend_predict_ops cuda_backend_predict_ops = {
    .open_bytes = cuda_open_bytes,
    .open_host_bytes = cuda_open_host_bytes,
    .open_staging_bytes = cuda_open_staging_bytes,
    .matrix_bytes = cuda_matrix_bytes,
    .matrix_host_bytes = cuda_matrix_host_bytes,
    .matrix_mapped_bytes = cuda_matrix_mapped_bytes,
    .matrix_loading = cuda_matrix_loading,
    .linear_scratch = cuda_linear_scratch,
    .norm_linear_work = cuda_norm_linear_planned,
    .mlp_work = cuda_mlp_planned,
    .halves_scratch = cuda_halves_scratch,
    .attention_scratch = cuda_attention_scratch,
    .records_steps = cuda_records_steps,
    .step_host_bytes = cuda_step_host_bytes,
};
