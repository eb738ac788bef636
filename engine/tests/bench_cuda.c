/*
 * A developers' benchmark of what the CUDA backend is made of, apart from products and attention: what opening costs, how
 * fast memory comes and goes, how fast weights can be uploaded, and what a small operation costs inside a graph.
 *
 *     build/release/tests/bench_cuda
 */

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cuda_must.h"
#include "cuda/cuda_internal.h"
#include "cuda/cuda_libraries.h"
#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "threads.h"

static double used_mib(void)
{
    size_t available, total;
    cudaMemGetInfo(&available, &total);
    return (double)(total - available) / (1 << 20);
}

static double seconds_since(uint64_t start_ns)
{
    return (double)(plim_now_ns() - start_ns) * 1e-9;
}

static void bench_memory(struct plim_pool *pool)
{
    static const size_t sizes[] = { 4096, 2 << 20, 8450000, 29600000, (size_t)1 << 30 };

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        enum { COUNT = 8 };
        void *blocks[COUNT];
        uint64_t start = plim_now_ns();
        for (int i = 0; i < COUNT; i++)
            blocks[i] = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_IO, sizes[s], &err);
        double fresh = seconds_since(start) / COUNT;
        must(blocks[COUNT - 1] ? 0 : -1);
        for (int i = 0; i < COUNT; i++)
            plim_pool_free(pool, blocks[i]);
        start = plim_now_ns();
        for (int i = 0; i < 1000; i++)
            plim_pool_free(pool, plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_IO, sizes[s], &err));
        double cached = seconds_since(start) / 1000;
        start = plim_now_ns();
        plim_pool_trim(pool);
        printf("memory %10zu bytes: fresh %.1f us, cached %.2f us, given back in %.1f us each\n", sizes[s], fresh * 1e6,
               cached * 1e6, seconds_since(start) / COUNT * 1e6);
    }
}

static void bench_upload(struct backend *backend, int threads)
{
    size_t bytes = (size_t)1 << 30;
    char *host = malloc(bytes), *device = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_IO, bytes, &err);

    must(device ? 0 : -1);
    memset(host, 1, bytes);
    for (int up = 1; up >= 0; up--)
        for (int repeat = 0; repeat < 3; repeat++) {
            uint64_t start = plim_now_ns();
            must(up ? backend->ops->upload(backend, device, host, bytes, &err)
                    : backend->ops->download(backend, host, device, bytes, &err));
            cudaStreamSynchronize(cuda_of(backend)->stream);
            printf("%s of 1 GiB, %d threads: %.1f GB/s\n", up ? "upload" : "download", threads,
                   (double)bytes / seconds_since(start) * 1e-9);
        }
    plim_pool_free(backend->pool, device);
    free(host);
}

/* The time of one operation among many in a graph, with everything in L2. */
static float *x, *y, *z;

static int op_norm(struct backend *b)
{
    return b->ops->rms_norm(b, x, z, 0, 1e-6, 1, 4096, y, &err);
}

static int op_rope(struct backend *b)
{
    return b->ops->rope(b, x, z, 0, 1, 32, 128, &err);
}

static int op_act_mul(struct backend *b)
{
    return b->ops->act_mul(b, ACTIVATION_SILU, x, y, 14336, &err);
}

static int op_add(struct backend *b)
{
    return b->ops->add(b, x, y, 1, 4096, &err);
}

static void bench_operation(struct backend *backend, const char *name, int (*op)(struct backend *))
{
    enum { COUNT = 500 };
    struct cuda *cuda = cuda_of(backend);
    bool overlap = cuda->overlap_launches;

    for (int pdl = 0; pdl <= (int)overlap; pdl++) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        double best = 1e9;
        cuda->overlap_launches = pdl != 0;
        cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal);
        for (int i = 0; i < COUNT; i++)
            must(op(backend));
        must(cuda_check(cudaStreamEndCapture(cuda->stream, &graph), "capture", &err));
        must(cuda_check(cudaGraphInstantiate(&exec, graph, 0), "instantiate", &err));
        for (int repeat = 0; repeat < 6; repeat++) {
            cudaStreamSynchronize(cuda->stream);
            uint64_t start = plim_now_ns();
            cudaGraphLaunch(exec, cuda->stream);
            must(cuda_check(cudaStreamSynchronize(cuda->stream), "run", &err));
            double s = seconds_since(start) / COUNT;
            best = s < best ? s : best;
        }
        printf("%s in a graph%s: %.2f us\n", name, pdl ? ", launches overlap" : "", best * 1e6);
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    }
    cuda->overlap_launches = overlap;
}

static void bench_blas(struct backend *backend)
{
    double before = used_mib();
    void *workspace = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, CUDA_BLAS_WORKSPACE_BYTES, &err);
    double with_workspace = used_mib();
    uint64_t start = plim_now_ns();
    const struct cuda_blas *blas = cuda_blas(backend, workspace, CUDA_BLAS_WORKSPACE_BYTES, &err);
    float one = 1, zero = 0;

    must(blas ? 0 : -1);
    double created = used_mib(), created_s = seconds_since(start);
    start = plim_now_ns();
    must(cuda_blas_check(blas->gemm_ex(blas->handle, CUBLAS_OP_N, CUBLAS_OP_N, 1024, 1024, 1024, &one, x, CUDA_R_16F,
                                       1024, y, CUDA_R_16F, 1024, &zero, z, CUDA_R_32F, 1024, CUBLAS_COMPUTE_32F,
                                       CUBLAS_GEMM_DEFAULT),
                         "gemm", &err));
    cudaStreamSynchronize(cuda_of(backend)->stream);
    printf("cuBLAS: used MiB before %.1f, with our workspace %.1f, created %.1f (%.3f s), after a product %.1f (%.3f s)\n",
           before, with_workspace, created, created_s, used_mib(), seconds_since(start));
    plim_pool_free(backend->pool, workspace);
}

int main(void)
{
    struct plim_parameters parameters;
    struct plim_pool_memory memory;
    struct plim_pool_options options = { .fast_memory = &memory };
    struct plim_pool *pool;
    struct threads *threads;
    struct backend backend;
    uint64_t start = plim_now_ns();

    plim_parameters_default(&parameters);
    must(plim_parameters_resolve(&parameters, &err));
    int count = (int)parameters.count[PLIM_CPU_THREADS];
    if (!backend_memory("cuda", &parameters, &memory))
        return 1;
    must(plim_pool_open(&pool, &options, &err));
    must(threads_open(&threads, count, &err));
    must(backend_open(&backend, "cuda", pool, threads, &parameters, &err));
    printf("opened in %.3f s, used %.1f MiB\n", seconds_since(start), used_mib());
    bench_memory(pool);
    size_t elements = (size_t)4 << 20;
    x = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_IO, elements, 4, &err);
    y = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_IO, elements, 4, &err);
    z = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_IO, elements, 4, &err);
    must(x && y && z ? 0 : -1);
    bench_operation(&backend, "rms_norm 4096", op_norm);
    bench_operation(&backend, "rope 32x128", op_rope);
    bench_operation(&backend, "act_mul 14336", op_act_mul);
    bench_operation(&backend, "add 4096", op_add);
    bench_upload(&backend, count);
    bench_blas(&backend);
    plim_pool_free(pool, x);
    plim_pool_free(pool, y);
    plim_pool_free(pool, z);
    backend_close(&backend);
    threads_close(threads);
    printf("leaked blocks: %llu\n", (unsigned long long)plim_pool_close(pool));
    return 0;
}
