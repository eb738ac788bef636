/*
 * A developer's benchmark of linear layers on CUDA; prints figures, asserts nothing. Not part of the tests.
 *
 *     bench_cuda_linear decode            one row: bytes a second against the device's own reading and copying
 *     bench_cuda_linear rows    [SHAPE]   2 to 64 rows beside cuBLAS on ready fp16 weights
 *     bench_cuda_linear prefill [SHAPE]   128 to 2048 rows: fused, and chunks of several max_dq_size, beside cuBLAS
 *
 * SHAPE picks by a part of the name. Times are medians of replayed graphs of one call for each of several copies of the
 * matrix, more than the second-level cache holds. cuBLAS: fp16 weights and activations, sums and result in fp32.
 */

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cuda_must.h"
#include "cuda/cuda_internal.h"
#include "cuda/cuda_libraries.h"
#include "cuda/linear_kernels.h"
#include "exl2.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "threads.h"

enum { ROUNDS = 9, MAX_COPIES = 64 };
static const size_t rotate_bytes = 256 * PLIM_MI;

static void *need(void *p)
{
    must(p ? 0 : plim_err_set(&err, PLIM_ERR_MEMORY, "out of memory"));
    return p;
}

/* ---- shapes ---- */

struct shape {
    const char *name;
    size_t in, out;
    struct exl2_layout layout;
};

static const struct shape shapes[] = {
    { "4096x4096", 4096, 4096, { 1, { { 4, 128, 1.0 } } } },
    { "4096x1024", 4096, 1024, { 1, { { 4, 128, 1.0 } } } },
    { "4096x14336", 4096, 14336, { 1, { { 4, 128, 1.0 } } } },
    { "14336x4096", 14336, 4096, { 1, { { 4, 128, 1.0 } } } },
    { "14336x4096 8+4", 14336, 4096, { 2, { { 8, 32, 0.05 }, { 4, 128, 0.95 } } } },
    { "4096x128256 8+6", 4096, 128256, { 2, { { 8, 128, 0.15 }, { 6, 128, 0.85 } } } },
    { "2048x2048", 2048, 2048, { 1, { { 4, 128, 1.0 } } } },
    { "2048x5632", 2048, 5632, { 1, { { 4, 128, 1.0 } } } },
    { "5632x2048", 5632, 2048, { 1, { { 4, 128, 1.0 } } } },
    { "2 bits", 4096, 14336, { 1, { { 2, 64, 1.0 } } } },
    { "3 bits", 4096, 14336, { 1, { { 3, 128, 1.0 } } } },
    { "5 bits", 4096, 14336, { 1, { { 5, 128, 1.0 } } } },
    { "6 bits", 4096, 14336, { 1, { { 6, 128, 1.0 } } } },
    { "8 bits", 4096, 14336, { 1, { { 8, 128, 1.0 } } } },
};
enum { SHAPE_COUNT = sizeof shapes / sizeof *shapes };

/* Copies of one random matrix, ready on the device. */
struct copies {
    struct matrix matrices[MAX_COPIES];
    size_t count, bytes;         /* bytes: of one, as the device reads it */
};

struct rig {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
    struct cuda *cuda;
    float *x, *y;                /* device */
    double copy_gb_s;
};

static void copies_make(struct rig *rig, const struct shape *shape, struct copies *copies)
{
    struct plim_random random;
    struct exl2_group *groups;
    size_t count = exl2_layout_groups(&shape->layout, shape->in, NULL), word_rows = 0;

    plim_random_seed(&random, 1, 0);
    groups = need(malloc(count * sizeof *groups));
    exl2_layout_groups(&shape->layout, shape->in, groups);
    int16_t *q_groups = need(malloc(2 * count * sizeof *q_groups));
    uint16_t *scale_max = need(malloc(count * sizeof *scale_max));
    for (size_t g = 0; g < count; g++) {
        q_groups[2 * g] = (int16_t)groups[g].bits;
        q_groups[2 * g + 1] = (int16_t)word_rows;
        scale_max[g] = 0x2a00;   /* 0.047 */
        word_rows += groups[g].row_count * groups[g].bits / 32;
    }
    size_t words = word_rows * shape->out, scale_words = count * shape->out / 8;
    uint32_t *q_weight = need(malloc(words * 4)), *q_scale = need(malloc(scale_words * 4));
    uint32_t *order = need(malloc(shape->in * sizeof *order));
    for (size_t i = 0; i < words; i++)
        q_weight[i] = (uint32_t)plim_random_u64(&random);
    for (size_t i = 0; i < scale_words; i++)
        q_scale[i] = (uint32_t)plim_random_u64(&random);
    plim_random_permutation(&random, order, shape->in);

    struct linear_source source = {
        .name = "layer", .is_exl2 = true, .in_features = shape->in, .out_features = shape->out, .prescale = 1.0f,
        .exl2 = { .name = "layer", .q_weight = (int32_t *)q_weight, .word_rows = word_rows, .out_features = shape->out,
                  .q_scale = (int32_t *)q_scale, .group_count = count, .q_scale_max = scale_max, .q_groups = q_groups,
                  .q_invperm = (int32_t *)order, .in_features = shape->in },
    };
    copies->bytes = 4 * (words + scale_words);
    copies->count = plim_min(plim_ceil_div(rotate_bytes, copies->bytes), MAX_COPIES);
    for (size_t i = 0; i < copies->count; i++)
        must(rig->backend.ops->matrix_init(&rig->backend, &copies->matrices[i], &source, &err));
    must_cuda(cudaStreamSynchronize(rig->cuda->stream));
    free(groups), free(q_groups), free(scale_max), free(q_weight), free(q_scale), free(order);
}

static void copies_free(struct rig *rig, struct copies *copies)
{
    for (size_t i = 0; i < copies->count; i++)
        rig->backend.ops->matrix_release(&rig->backend, &copies->matrices[i]);
}

/* ---- timing ---- */

typedef void bench_call(struct rig *rig, void *context, size_t i);

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds of one call: the median over replays of a graph of `count` calls. */
static double time_us(struct rig *rig, size_t count, bench_call *call, void *context)
{
    cudaStream_t stream = rig->cuda->stream;
    cudaGraphExec_t executable;
    cudaGraph_t graph;
    cudaEvent_t begin, end;
    double us[ROUNDS];

    call(rig, context, 0);   /* libraries load outside */
    must_cuda(cudaStreamSynchronize(stream));
    must_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (size_t i = 0; i < count; i++)
        call(rig, context, i);
    must_cuda(cudaStreamEndCapture(stream, &graph));
    must_cuda(cudaGraphInstantiate(&executable, graph, 0));
    must_cuda(cudaEventCreate(&begin));
    must_cuda(cudaEventCreate(&end));
    must_cuda(cudaGraphLaunch(executable, stream));
    for (int round = 0; round < ROUNDS; round++) {
        float ms;
        must_cuda(cudaEventRecord(begin, stream));
        must_cuda(cudaGraphLaunch(executable, stream));
        must_cuda(cudaEventRecord(end, stream));
        must_cuda(cudaEventSynchronize(end));
        must_cuda(cudaEventElapsedTime(&ms, begin, end));
        us[round] = (double)ms * 1e3 / (double)count;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    qsort(us, ROUNDS, sizeof *us, compare_doubles);
    return us[ROUNDS / 2];
}

struct linear_job {
    struct copies *copies;
    size_t rows;
};

static void call_linear(struct rig *rig, void *context, size_t i)
{
    struct linear_job *job = context;
    must(rig->backend.ops->linear(&rig->backend, &job->copies->matrices[i], rig->x, job->rows, rig->y, false, &err));
}

static double linear_us(struct rig *rig, struct copies *copies, size_t rows)
{
    struct linear_job job = { copies, rows };
    return time_us(rig, copies->count, call_linear, &job);
}

/* cuBLAS on fp16 weights that are ready. */
struct blas_job {
    size_t in, out, rows;
    uint16_t *weights, *x;       /* weights: several matrices */
    void *workspace;
};

static void call_blas(struct rig *rig, void *context, size_t i)
{
    struct blas_job *job = context;
    const float one = 1.0f, zero = 0.0f;
    const struct cuda_blas *blas = cuda_blas(&rig->backend, job->workspace, CUDA_BLAS_WORKSPACE_BYTES, &err);

    must(blas ? 0 : -1);
    must(cuda_blas_check(blas->gemm_ex(blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)job->out, (int)job->rows, (int)job->in,
                                       &one, job->weights + i * job->in * job->out, CUDA_R_16F, (int)job->in, job->x,
                                       CUDA_R_16F, (int)job->in, &zero, rig->y, CUDA_R_32F, (int)job->out,
                                       CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                         "cublasGemmEx", &err));
}

static double blas_us(struct rig *rig, const struct shape *shape, size_t rows)
{
    size_t elements = shape->in * shape->out, count = plim_min(plim_ceil_div(rotate_bytes, 2 * elements), 8);
    struct blas_job job = { .in = shape->in, .out = shape->out, .rows = rows };

    job.weights = need(plim_pool_alloc(rig->pool, PLIM_FAST, PLIM_TAG_IO, count * elements * 2, &err));
    job.x = need(plim_pool_alloc(rig->pool, PLIM_FAST, PLIM_TAG_IO, rows * shape->in * 2, &err));
    job.workspace = need(plim_pool_alloc(rig->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, CUDA_BLAS_WORKSPACE_BYTES, &err));
    /* Random numbers: products of zeros are faster. */
    for (size_t done = 0, n; done < count * elements; done += n) {
        n = plim_min(count * elements - done, rows * shape->in);
        must_cuda(linear_halve(rig->x, n, job.weights + done, false, rig->cuda->stream));
    }
    must_cuda(linear_halve(rig->x, rows * shape->in, job.x, false, rig->cuda->stream));
    double us = time_us(rig, count, call_blas, &job);
    plim_pool_free(rig->pool, job.weights);
    plim_pool_free(rig->pool, job.x);
    plim_pool_free(rig->pool, job.workspace);
    return us;
}

/* ---- the device's own rates ---- */

struct copy_job {
    char *to, *from;
    size_t bytes;
};

static void call_copy(struct rig *rig, void *context, size_t i)
{
    struct copy_job *job = context;
    (void)i;
    must_cuda(cudaMemcpyAsync(job->to, job->from, job->bytes, cudaMemcpyDeviceToDevice, rig->cuda->stream));
}

static void measure_copy(struct rig *rig)
{
    struct copy_job job = { .bytes = PLIM_GI };

    job.to = need(plim_pool_alloc(rig->pool, PLIM_FAST, PLIM_TAG_IO, 2 * job.bytes, &err));
    job.from = job.to + job.bytes;
    rig->copy_gb_s = 2e-3 * (double)job.bytes / time_us(rig, 4, call_copy, &job);
    plim_pool_free(rig->pool, job.to);
    plim_pool_trim(rig->pool);
    printf("%s; copies read and write %.0f GB/s\n", rig->cuda->name, rig->copy_gb_s);
}

/* ---- the benchmarks ---- */

static bool wanted(const struct shape *shape, const char *part)
{
    return part ? strstr(shape->name, part) != NULL : shape->out < 100000;
}

static void bench_decode(struct rig *rig, const char *part)
{
    for (size_t s = 0; s < SHAPE_COUNT; s++) {
        struct copies copies;
        if (part && !strstr(shapes[s].name, part))
            continue;
        copies_make(rig, &shapes[s], &copies);
        double us = linear_us(rig, &copies, 1), gb_s = (double)copies.bytes / us * 1e-3;
        printf("decode %-16s %7.2f MB %7.2f us %5.0f GB/s, %3.0f%% of the copy rate\n", shapes[s].name,
               (double)copies.bytes * 1e-6, us, gb_s, 100 * gb_s / rig->copy_gb_s);
        copies_free(rig, &copies);
    }
}

static void bench_rows(struct rig *rig, const char *part)
{
    for (size_t s = 0; s < SHAPE_COUNT; s++) {
        struct copies copies;
        if (!wanted(&shapes[s], part))
            continue;
        copies_make(rig, &shapes[s], &copies);
        for (size_t rows = 2; rows <= 64; rows *= 2) {
            double us = linear_us(rig, &copies, rows), blas = blas_us(rig, &shapes[s], rows);
            printf("rows %-16s %3zu: %6.1f us, %5.0f GB/s; cuBLAS %6.1f us\n", shapes[s].name, rows, us,
                   (double)copies.bytes / us * 1e-3, blas);
        }
        copies_free(rig, &copies);
    }
}

static void bench_prefill(struct rig *rig, const char *part)
{
    static const char *const bounds[] = { "512Mi", "64Mi", "16Mi", "8Mi", "4Mi", "2Mi", "1Mi" };

    for (size_t s = 0; s < SHAPE_COUNT; s++) {
        struct copies copies;
        if (!wanted(&shapes[s], part))
            continue;
        copies_make(rig, &shapes[s], &copies);
        for (size_t rows = 128; rows <= 2048; rows *= 2) {
            double flop = 2.0 * (double)(rows * shapes[s].in * shapes[s].out), blas = blas_us(rig, &shapes[s], rows);
            must(plim_parameters_set(&rig->parameters, "dq_rows", "4096", &err));
            double fused = linear_us(rig, &copies, rows);
            printf("prefill %-16s %4zu: cuBLAS %6.1f us %3.0f TFLOP/s; fused %6.1f us %3.0f%%; chunks", shapes[s].name,
                   rows, blas, flop / blas * 1e-6, fused, 100 * blas / fused);
            must(plim_parameters_set(&rig->parameters, "dq_rows", "0", &err));
            for (size_t b = 0; b < sizeof bounds / sizeof *bounds && rows == 2048; b++) {
                must(plim_parameters_set(&rig->parameters, "max_dq_size", bounds[b], &err));
                printf(" %s %.1f us", bounds[b], linear_us(rig, &copies, rows));
            }
            must(plim_parameters_set(&rig->parameters, "max_dq_size", "512Mi", &err));
            printf("%s\n", rows == 2048 ? "" : " -");
        }
        copies_free(rig, &copies);
    }
}

int main(int argc, char **argv)
{
    struct plim_pool_memory memory;
    struct plim_pool_options options = { .fast_memory = &memory };
    struct rig rig = { 0 };
    struct plim_random random;
    const char *part = argc > 2 ? argv[2] : NULL;
    size_t x_count = 2048 * 14336, y_count = (size_t)2048 * 14336;

    setvbuf(stdout, NULL, _IOLBF, 0);
    plim_parameters_default(&rig.parameters);
    must(plim_parameters_resolve(&rig.parameters, &err));
    must(backend_memory("cuda", &rig.parameters, &memory) ? 0 : -1);
    must(plim_pool_open(&rig.pool, &options, &err));
    must(threads_open(&rig.threads, 8, &err));
    must(backend_open(&rig.backend, "cuda", rig.pool, rig.threads, &rig.parameters, &err));
    rig.cuda = cuda_of(&rig.backend);
    measure_copy(&rig);

    float *x = need(malloc(x_count * sizeof *x));
    plim_random_seed(&random, 2, 0);
    for (size_t i = 0; i < x_count; i++)
        x[i] = (float)(int32_t)plim_random_u64(&random) * 0x1p-31f;
    rig.x = need(plim_pool_alloc(rig.pool, PLIM_FAST, PLIM_TAG_IO, x_count * sizeof *x, &err));
    rig.y = need(plim_pool_alloc(rig.pool, PLIM_FAST, PLIM_TAG_IO, y_count * sizeof *x, &err));
    must(rig.backend.ops->upload(&rig.backend, rig.x, x, x_count * sizeof *x, &err));
    free(x);
    if (argc > 1 && strcmp(argv[1], "decode") == 0)
        bench_decode(&rig, part);
    else if (argc > 1 && strcmp(argv[1], "rows") == 0)
        bench_rows(&rig, part);
    else if (argc > 1 && strcmp(argv[1], "prefill") == 0)
        bench_prefill(&rig, part);
    else
        fprintf(stderr, "usage: bench_cuda_linear decode|rows|prefill [SHAPE]\n");

    plim_pool_free(rig.pool, rig.x);
    plim_pool_free(rig.pool, rig.y);
    backend_close(&rig.backend);
    threads_close(rig.threads);
    return plim_pool_close(rig.pool) == 0 ? 0 : 1;
}
