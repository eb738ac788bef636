/*
 * Embedding. The table stays in the mapped file: a gigabyte of fp16 for 128 Ki tokens of 4096, of which a prompt needs a few
 * rows. The host gathers those into pinned memory, a piece at a time, and a kernel reads them from there, across the bus, and
 * widens them; there is no copy on the device in between.
 */

#include "cuda_kernels.cuh"

#include <cuda_fp16.h>
#include <string.h>

extern "C" {
#include "plimsoll/units.h"
#include "threads.h"
}

#define THREADS 256

template <typename Element> static __device__ __forceinline__ float widen(Element value);
template <> __device__ __forceinline__ float widen<float>(float value)
{
    return value;
}
template <> __device__ __forceinline__ float widen<__half>(__half value)
{
    return __half2float(value);
}
struct bfloat {
    uint16_t bits;
};
template <> __device__ __forceinline__ float widen<bfloat>(bfloat value)
{
    return __uint_as_float((uint32_t)value.bits << 16);
}

/* out = widened staged * scale, n elements. */
template <typename Element>
static __global__ void widen_kernel(const Element *staged, float scale, size_t n, float *out)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        out[i] = widen(staged[i]) * scale;
}

extern "C" int cuda_widen(struct cuda *cuda, enum dtype dtype, const void *staged, float scale, size_t n, float *out,
                          struct plim_err *err)
{
    size_t wanted = (n + THREADS - 1) / THREADS, most = 8 * (size_t)cuda->multiprocessors;
    dim3 grid((unsigned)(wanted < most ? wanted : most));

    switch (dtype) {
    case DTYPE_F32:
        return cuda_launch(cuda, "embed", err, widen_kernel<float>, grid, THREADS, 0, (const float *)staged, scale, n,
                           out);
    case DTYPE_F16:
        return cuda_launch(cuda, "embed", err, widen_kernel<__half>, grid, THREADS, 0, (const __half *)staged, scale, n,
                           out);
    case DTYPE_BF16:
        return cuda_launch(cuda, "embed", err, widen_kernel<bfloat>, grid, THREADS, 0, (const bfloat *)staged, scale, n,
                           out);
    default:
        return plim_err_input(err, "embedding table: dtype %s, expected F32, F16 or BF16", dtype_name(dtype));
    }
}

struct gather_job {
    const char *table;
    size_t row_bytes;
    const int32_t *ids;
    char *to;
};

static void gather_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct gather_job *job = (const struct gather_job *)context;

    (void)thread;
    for (size_t r = begin; r < end; r++)
        memcpy(job->to + r * job->row_bytes, job->table + (size_t)job->ids[r] * job->row_bytes, job->row_bytes);
}

extern "C" int cuda_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
                          size_t rows, float scale, float *out, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    size_t row_bytes = width * dtype_bytes(dtype), piece_rows = CUDA_PIECE_BYTES / row_bytes;

    if (piece_rows == 0)
        return plim_err_input(err, "embedding rows of %zu bytes: the CUDA backend stages at most %zu", row_bytes,
                              (size_t)CUDA_PIECE_BYTES);
    for (size_t done = 0, n; done < rows; done += n) {
        struct cuda_piece piece;
        n = plim_min(piece_rows, rows - done);
        if (cuda_staging_take(cuda, &piece, err) < 0)
            return -1;
        struct gather_job job = { (const char *)table, row_bytes, ids + done, piece.host };
        threads_run(backend->threads, n, plim_max(1, ((size_t)64 << 10) / row_bytes), gather_rows, &job);
        if (cuda_widen(cuda, dtype, piece.device, scale, n * width, out + done * width, err) < 0 ||
            cuda_staging_used(cuda, &piece, err) < 0)
            return -1;
    }
    return 0;
}
