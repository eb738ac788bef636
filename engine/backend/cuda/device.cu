/*
 * The device without an engine (plimsoll/device.h). The yardsticks' memory is the driver's, not a pool's: it belongs to
 * no case, and is given back before the function returns.
 */

extern "C" {
#include "plimsoll/device.h"
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_kernels.cuh"
#include "cuda_libraries.h"

#define PASS_BYTES ((size_t)1 << 30)
#define PASSES 5

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static float median(float *values)
{
    qsort(values, PASSES, sizeof *values, compare);
    return values[PASSES / 2];
}

/* ---- what it is ---- */

extern "C" int plim_device_describe(int device, struct plim_device *out, struct plim_err *err)
{
    cudaDeviceProp properties;

    *out = plim_device();
    if (cuda_device_check(device, err) < 0)
        return -1;
    CUDA_TRY(cudaGetDeviceProperties(&properties, device), err);
    CUDA_TRY(cudaDeviceGetPCIBusId(out->bus_id, sizeof out->bus_id, device), err);
    CUDA_TRY(cudaDriverGetVersion(&out->driver_version), err);
    CUDA_TRY(cudaRuntimeGetVersion(&out->runtime_version), err);
    snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, properties.name);
    out->compute_capability = properties.major * 10 + properties.minor;
    out->multiprocessors = properties.multiProcessorCount;
    out->memory_bytes = properties.totalGlobalMem;
    out->l2_bytes = (uint64_t)properties.l2CacheSize;
    return 0;
}

extern "C" int plim_device_memory(int device, uint64_t *free_bytes, uint64_t *total_bytes, struct plim_err *err)
{
    size_t unused, total;

    if (cuda_device_select(device, err) < 0)
        return -1;
    CUDA_TRY(cudaMemGetInfo(&unused, &total), err);
    *free_bytes = unused;
    *total_bytes = total;
    return 0;
}

/* ---- what it can do ---- */

/* The stores never happen, which the compiler cannot know. */
__global__ void read_all(const uint4 *from, size_t count, uint32_t *to)
{
    uint32_t seen = 0;

    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        uint4 v = from[i];
        seen |= v.x | v.y | v.z | v.w;
    }
    if (seen == 0x5eed5eedu)
        *to = seen;
}

enum pass { PASS_READ, PASS_COPY, PASS_UPLOAD };

struct yardstick {
    char *from, *to, *host;
    cudaStream_t stream;
    cudaEvent_t start, stop;
    int multiprocessors;
};

static int yardstick_open(struct yardstick *y, size_t from_bytes, size_t to_bytes, size_t host_bytes, int device,
                          struct plim_err *err)
{
    if (cuda_device_select(device, err) < 0)
        return -1;
    CUDA_TRY(cudaDeviceGetAttribute(&y->multiprocessors, cudaDevAttrMultiProcessorCount, device), err);
    CUDA_TRY(cudaStreamCreateWithFlags(&y->stream, cudaStreamNonBlocking), err);
    CUDA_TRY(cudaEventCreate(&y->start), err);
    CUDA_TRY(cudaEventCreate(&y->stop), err);
    CUDA_TRY(cudaMalloc((void **)&y->from, from_bytes), err);
    CUDA_TRY(cudaMalloc((void **)&y->to, to_bytes), err);
    if (host_bytes)
        CUDA_TRY(cudaMallocHost((void **)&y->host, host_bytes), err);
    return 0;
}

static void yardstick_close(struct yardstick *y)
{
    cudaFree(y->from);
    cudaFree(y->to);
    cudaFreeHost(y->host);
    if (y->start)
        cudaEventDestroy(y->start);
    if (y->stop)
        cudaEventDestroy(y->stop);
    if (y->stream)
        cudaStreamDestroy(y->stream);
}

static int run_pass(struct yardstick *y, enum pass pass, float *milliseconds, struct plim_err *err)
{
    CUDA_TRY(cudaEventRecord(y->start, y->stream), err);
    if (pass == PASS_READ) {
        read_all<<<(unsigned)y->multiprocessors * 8, 512, 0, y->stream>>>((const uint4 *)y->from,
                                                                           PASS_BYTES / sizeof(uint4), (uint32_t *)y->to);
        CUDA_TRY(cudaGetLastError(), err);
    } else if (pass == PASS_COPY) {
        CUDA_TRY(cudaMemcpyAsync(y->to, y->from, PASS_BYTES, cudaMemcpyDeviceToDevice, y->stream), err);
    } else {
        for (size_t done = 0; done < PASS_BYTES; done += CUDA_STAGING_BYTES)
            CUDA_TRY(cudaMemcpyAsync(y->to + done, y->host, CUDA_STAGING_BYTES, cudaMemcpyHostToDevice, y->stream), err);
    }
    CUDA_TRY(cudaEventRecord(y->stop, y->stream), err);
    CUDA_TRY(cudaEventSynchronize(y->stop), err);
    CUDA_TRY(cudaEventElapsedTime(milliseconds, y->start, y->stop), err);
    return 0;
}

static int measure_pass(struct yardstick *y, enum pass pass, double bytes, double *bytes_per_s, struct plim_err *err)
{
    float milliseconds[PASSES];

    if (run_pass(y, pass, &milliseconds[0], err) < 0)   /* warms up */
        return -1;
    for (int i = 0; i < PASSES; i++)
        if (run_pass(y, pass, &milliseconds[i], err) < 0)
            return -1;
    *bytes_per_s = bytes / (median(milliseconds) * 1e-3);
    return 0;
}

extern "C" int plim_device_rates(int device, struct plim_device_rates *out, struct plim_err *err)
{
    struct yardstick y = yardstick();
    int rc = -1;

    memset(out, 0, sizeof *out);
    if (yardstick_open(&y, PASS_BYTES, PASS_BYTES, CUDA_STAGING_BYTES, device, err) == 0 &&
        cuda_check(cudaMemsetAsync(y.from, 1, PASS_BYTES, y.stream), "cudaMemsetAsync of a yardstick", err) == 0 &&
        measure_pass(&y, PASS_READ, (double)PASS_BYTES, &out->read_bytes_per_s, err) == 0 &&
        measure_pass(&y, PASS_COPY, 2.0 * (double)PASS_BYTES, &out->copy_bytes_per_s, err) == 0 &&
        measure_pass(&y, PASS_UPLOAD, (double)PASS_BYTES, &out->upload_bytes_per_s, err) == 0)
        rc = 0;
    yardstick_close(&y);
    return rc;
}

/* ---- products ---- */

/* Small numbers of both signs: products of zeros draw less power and run faster than real ones. */
__global__ void fill_halves(uint16_t *to, size_t count)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t mixed = (uint32_t)i * 2654435761u;
        mixed ^= mixed >> 15;
        to[i] = (uint16_t)(0x2800u | (mixed & 0x87ffu));
    }
}

static int multiply_all(const struct cuda_blas *blas, const struct yardstick *y, size_t rows,
                        const struct plim_device_product *products, size_t product_count, char *result,
                        struct plim_err *err)
{
    const float one = 1, zero = 0;

    for (size_t i = 0; i < product_count; i++) {
        int in = (int)products[i].in_features, out = (int)products[i].out_features;

        for (size_t k = 0; k < products[i].times; k++)
            if (cuda_blas_check(blas->gemm_ex(blas->handle, CUBLAS_OP_N, CUBLAS_OP_N, out, (int)rows, in, &one, y->from,
                                              CUDA_R_16F, out, y->to, CUDA_R_16F, in, &zero, result, CUDA_R_16F, out,
                                              CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                                "cublasGemmEx of a yardstick", err) < 0)
                return -1;
    }
    return 0;
}

/* The operands of the largest shapes, the results and cuBLAS's workspace, in this order, as bytes. */
struct product_sizes {
    size_t weights, inputs, results;
    double flops;
};

static struct product_sizes sizes_of(size_t rows, const struct plim_device_product *products, size_t product_count)
{
    struct product_sizes s = product_sizes();

    for (size_t i = 0; i < product_count; i++) {
        const struct plim_device_product *p = &products[i];
        size_t weights = 2 * p->in_features * p->out_features, inputs = 2 * rows * p->in_features;
        size_t results = 2 * rows * p->out_features;

        s.weights = weights > s.weights ? weights : s.weights;
        s.inputs = inputs > s.inputs ? inputs : s.inputs;
        s.results = results > s.results ? results : s.results;
        s.flops += 2.0 * (double)rows * (double)p->in_features * (double)p->out_features * (double)p->times;
    }
    s.inputs = (s.inputs + 255) / 256 * 256;
    s.results = (s.results + 255) / 256 * 256;
    return s;
}

extern "C" int plim_device_product_rate(int device, size_t rows, const struct plim_device_product *products,
                                        size_t product_count, double *flops_per_s, struct plim_err *err)
{
    struct product_sizes sizes = sizes_of(rows, products, product_count);
    struct yardstick y = yardstick();
    struct cuda cuda = { };
    struct cuda_blas library = { };
    struct backend backend = { };
    const struct cuda_blas *blas;
    float milliseconds[PASSES];
    char *result;
    int rc = -1;

    cuda.blas = &library;
    backend.impl = &cuda;
    if (yardstick_open(&y, sizes.weights, sizes.inputs + sizes.results + CUDA_BLAS_WORKSPACE_BYTES, 0, device, err) < 0)
        goto out;
    cuda.stream = y.stream;
    result = y.to + sizes.inputs;
    fill_halves<<<(unsigned)y.multiprocessors * 4, 512, 0, y.stream>>>((uint16_t *)y.from, sizes.weights / 2);
    fill_halves<<<(unsigned)y.multiprocessors * 4, 512, 0, y.stream>>>((uint16_t *)y.to, sizes.inputs / 2);
    if (cuda_launch_check("fill_halves", err) < 0 ||
        !(blas = cuda_blas(&backend, result + sizes.results, CUDA_BLAS_WORKSPACE_BYTES, err)))
        goto out;
    for (int i = -2; i < PASSES; i++) {
        float *took = &milliseconds[i < 0 ? 0 : i];

        if (cuda_check(cudaEventRecord(y.start, y.stream), "cudaEventRecord", err) < 0 ||
            multiply_all(blas, &y, rows, products, product_count, result, err) < 0 ||
            cuda_check(cudaEventRecord(y.stop, y.stream), "cudaEventRecord", err) < 0 ||
            cuda_check(cudaEventSynchronize(y.stop), "cudaEventSynchronize", err) < 0 ||
            cuda_check(cudaEventElapsedTime(took, y.start, y.stop), "cudaEventElapsedTime", err) < 0)
            goto out;
    }
    *flops_per_s = sizes.flops / (median(milliseconds) * 1e-3);
    rc = 0;

out:
    cuda_blas_release(&backend);
    yardstick_close(&y);
    return rc;
}
