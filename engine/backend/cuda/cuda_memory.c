/*
 * Device memory for the pool's fast tier, through the driver's virtual memory calls: one range of addresses, parts of which
 * get memory of their own when the pool asks. cudaMalloc would round every matrix up to 2 MiB, a fifth of a gigabyte for an
 * 8B model, or have us guess large segments.
 *
 * The driver's functions are looked up through the runtime, so nothing is linked to the driver's library.
 *
 * With PLIMSOLL_CUDA_SINGLE_BLOCKS=1 in the environment every block is a cudaMalloc of its own, for compute-sanitizer: inside
 * one mapped range it cannot tell a block from its neighbour, nor that a reused one was not written yet.
 */

#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_internal.h"

/* Smallest unit of backing on every device that is supported (cuMemGetAllocationGranularity says so, and is asked). */
#define GRANULE_BYTES ((size_t)2 << 20)

struct driver {
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    PFN_cuMemAddressReserve_v10020 address_reserve;
    PFN_cuMemAddressFree_v10020 address_free;
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemSetAccess_v10020 set_access;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemRelease_v10020 release;
    PFN_cuGetErrorString_v6000 error_string;
};

static int find(const char *name, void **function, struct plim_err *err)
{
    enum cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    CUDA_TRY(cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &found), err);
#else
    CUDA_TRY(cudaGetDriverEntryPoint(name, function, cudaEnableDefault, &found), err);
#endif
    if (found != cudaDriverEntryPointSuccess)
        return plim_err_set(err, PLIM_ERR_SYSTEM, "the NVIDIA driver has no %s", name);
    return 0;
}

static int driver_find(struct driver *driver, struct plim_err *err)
{
    struct {
        const char *name;
        void **slot;
    } const wanted[] = {
        { "cuMemGetAllocationGranularity", (void **)&driver->granularity },
        { "cuMemAddressReserve", (void **)&driver->address_reserve },
        { "cuMemAddressFree", (void **)&driver->address_free },
        { "cuMemCreate", (void **)&driver->create },
        { "cuMemMap", (void **)&driver->map },
        { "cuMemSetAccess", (void **)&driver->set_access },
        { "cuMemUnmap", (void **)&driver->unmap },
        { "cuMemRelease", (void **)&driver->release },
        { "cuGetErrorString", (void **)&driver->error_string },
    };

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (find(wanted[i].name, wanted[i].slot, err) < 0)
            return -1;
    return 0;
}

/* A table for each thread, so that no lock is needed. */
static int driver_get(const struct driver **out, struct plim_err *err)
{
    static _Thread_local struct driver driver;

    if (!driver.error_string && driver_find(&driver, err) < 0)
        return -1;
    *out = &driver;
    return 0;
}

static int driver_check(const struct driver *driver, CUresult result, const char *what, struct plim_err *err)
{
    const char *text = NULL;

    if (result == CUDA_SUCCESS)
        return 0;
    driver->error_string(result, &text);
    return plim_err_set(err, result == CUDA_ERROR_OUT_OF_MEMORY ? PLIM_ERR_MEMORY : PLIM_ERR_SYSTEM, "%s: %s", what,
                        text ? text : "unknown error");
}

static int device_of(void *context)
{
    return (int)(intptr_t)context;
}

static CUmemAllocationProp properties_of(void *context)
{
    CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED };

    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device_of(context);
    return properties;
}

/* Addresses cost next to nothing: four times the device's memory, so that holes left by trimming never matter. */
static int memory_reserve(void *context, uint64_t *base, uint64_t *bytes, struct plim_err *err)
{
    CUmemAllocationProp properties = properties_of(context);
    const struct driver *driver;
    size_t available, total, granularity;
    CUdeviceptr address;

    if (cuda_device_select(device_of(context), err) < 0)
        return -1;
    CUDA_TRY(cudaMemGetInfo(&available, &total), err);
    if (driver_get(&driver, err) < 0 ||
        driver_check(driver, driver->granularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                     "cuMemGetAllocationGranularity", err) < 0)
        return -1;
    if (GRANULE_BYTES % granularity != 0)
        return plim_err_set(err, PLIM_ERR_SYSTEM, "device memory comes in units of %zu bytes, expected a part of %zu",
                            granularity, GRANULE_BYTES);
    *bytes = (4 * total + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
    if (driver_check(driver, driver->address_reserve(&address, *bytes, GRANULE_BYTES, 0, 0), "cuMemAddressReserve",
                     err) < 0)
        return -1;
    *base = address;
    return 0;
}

static void memory_unreserve(void *context, uint64_t base, uint64_t bytes)
{
    const struct driver *driver;
    struct plim_err unsaid = PLIM_ERR_INIT;

    (void)context;
    if (driver_get(&driver, &unsaid) == 0)
        driver->address_free(base, bytes);
}

/* The handle is given back at once: the memory then lives as long as it is mapped. */
static int memory_commit(void *context, uint64_t address, uint64_t bytes, struct plim_err *err)
{
    CUmemAllocationProp properties = properties_of(context);
    CUmemAccessDesc access = { .location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
    CUmemGenericAllocationHandle handle;
    const struct driver *driver;
    int rc;

    if (driver_get(&driver, err) < 0 ||
        driver_check(driver, driver->create(&handle, bytes, &properties, 0), "cuMemCreate", err) < 0)
        return -1;
    rc = driver_check(driver, driver->map(address, bytes, 0, handle, 0), "cuMemMap", err);
    driver->release(handle);
    if (rc == 0 && driver_check(driver, driver->set_access(address, bytes, &access, 1), "cuMemSetAccess", err) < 0) {
        driver->unmap(address, bytes);
        rc = -1;
    }
    return rc;
}

/* Unmapping doesn't wait for kernels, as cudaFree would. */
static void memory_decommit(void *context, uint64_t address, uint64_t bytes)
{
    const struct driver *driver;
    struct plim_err unsaid = PLIM_ERR_INIT;
    int selected = 0;

    cudaGetDevice(&selected);
    cudaSetDevice(device_of(context));
    cudaDeviceSynchronize();
    cudaSetDevice(selected);
    if (driver_get(&driver, &unsaid) == 0)
        driver->unmap(address, bytes);
}

static int memory_zero(void *context, uint64_t address, uint64_t bytes, struct plim_err *err)
{
    (void)context;
    /*
     * On the default stream, which doesn't wait for ours, nor ours for it: the last owner's kernels are done before it
     * begins, and it is before the block is anybody's.
     */
    CUDA_TRY(cudaDeviceSynchronize(), err);
    CUDA_TRY(cudaMemset((void *)(uintptr_t)address, 0, bytes), err);
    CUDA_TRY(cudaStreamSynchronize(0), err);
    return 0;
}

static int memory_alloc(void *context, uint64_t bytes, uint64_t *address, struct plim_err *err)
{
    void *block;

    if (cuda_device_select(device_of(context), err) < 0)
        return -1;
    CUDA_TRY(cudaMalloc(&block, bytes), err);
    *address = (uint64_t)(uintptr_t)block;
    return 0;
}

static void memory_free(void *context, uint64_t address)
{
    (void)context;
    cudaDeviceSynchronize();
    cudaFree((void *)(uintptr_t)address);
}

void cuda_memory(int device, struct plim_pool_memory *out)
{
    *out = (struct plim_pool_memory){
        .context = (void *)(intptr_t)device,
        .granule_bytes = GRANULE_BYTES,
        .reserve = memory_reserve,
        .unreserve = memory_unreserve,
        .commit = memory_commit,
        .decommit = memory_decommit,
        .zero = memory_zero,
    };
    const char *single = getenv("PLIMSOLL_CUDA_SINGLE_BLOCKS");
    if (single && strcmp(single, "1") == 0) {
        out->alloc = memory_alloc;
        out->free = memory_free;
    }
}
