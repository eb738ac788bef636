#include "bench_cuda_products.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench_cuda_must.h"
#include "cuda/cuda_libraries.h"
#include "cuda/linear.h"
#include "model.h"
#include "plimsoll/random.h"

struct products {
    const struct plim_model *model;
    struct backend *backend;
    size_t rows, layer_count;
    uint16_t *x, *y_half;
    float *y;
    void *workspace;
    uint16_t **weights;      /* [layer_count][LAYER_MATRIX_COUNT]: [out_features, in_features] */
    cudaEvent_t before, after;
};

static void *device_block(size_t bytes)
{
    void *block = NULL;

    must_cuda(cudaMalloc(&block, bytes));
    return block;
}

/* ---- making ready ---- */

/* Normal numbers, as norms leave them; a longer block repeats them. */
static void fill(struct products *p, uint16_t *halves, size_t n)
{
    enum { CHUNK = 1 << 20 };
    struct plim_random random;
    float *host = malloc(CHUNK * sizeof *host), *device = device_block(CHUNK * sizeof *device);

    must(host ? 0 : -1);
    plim_random_seed(&random, 1, 0);
    for (size_t i = 0; i < CHUNK; i++)
        host[i] = (float)plim_random_normal(&random);
    must_cuda(cudaMemcpy(device, host, CHUNK * sizeof *host, cudaMemcpyHostToDevice));
    for (size_t done = 0; done < n; done += CHUNK)
        must_cuda(linear_halve(device, plim_min(n - done, CHUNK), halves + done, false, cuda_of(p->backend)->stream));
    must_cuda(cudaStreamSynchronize(cuda_of(p->backend)->stream));
    cudaFree(device);
    free(host);
}

static bool all_take_halves(const struct plim_model *model, size_t rows)
{
    const struct backend *backend = &model->engine->backend;
    enum linear_order order;

    for (size_t i = 0; i < model->info.layer_count; i++)
        for (int m = 0; m < LAYER_MATRIX_COUNT; m++) {
            struct cuda_linear_shape shape = cuda_linear_shape_of(&model->layers[i].matrix[m], rows);
            if (!shape.is_exl2 || !cuda_linear_takes_halves(&shape, backend->parameters, &order))
                return false;
        }
    return true;
}

struct products *products_open(const struct plim_model *model, size_t rows)
{
    struct products *p;
    size_t widest = 0;

    if (!all_take_halves(model, rows))
        return NULL;
    p = calloc(1, sizeof *p);
    must(p ? 0 : -1);
    p->model = model;
    p->backend = &model->engine->backend;
    p->rows = rows;
    p->layer_count = model->info.layer_count;
    p->weights = calloc(p->layer_count * LAYER_MATRIX_COUNT, sizeof *p->weights);
    must(p->weights ? 0 : -1);
    for (size_t i = 0; i < p->layer_count * LAYER_MATRIX_COUNT; i++) {
        const struct matrix *matrix = &model->layers[i / LAYER_MATRIX_COUNT].matrix[i % LAYER_MATRIX_COUNT];
        const struct linear_tiles *tiles = &((const struct cuda_matrix *)matrix->impl)->tiles;
        size_t in = matrix->in_features, stored = tiles->stored_out_features;
        p->weights[i] = device_block(in * stored * sizeof **p->weights);
        must_cuda(linear_expand(tiles, 0, stored, 0, in, p->weights[i], cuda_of(p->backend)->stream));
        widest = plim_max(widest, plim_max(in, matrix->out_features));
    }
    p->x = device_block(rows * widest * sizeof *p->x);
    p->y_half = device_block(3 * rows * widest * sizeof *p->y_half);
    p->y = device_block(3 * rows * widest * sizeof *p->y);
    must_cuda(cudaMemset(p->y, 0, 3 * rows * widest * sizeof *p->y));
    p->workspace = device_block(CUDA_BLAS_WORKSPACE_BYTES);
    must(cuda_blas(p->backend, p->workspace, CUDA_BLAS_WORKSPACE_BYTES, &err) ? 0 : -1);
    fill(p, p->x, rows * widest);
    must_cuda(cudaEventCreate(&p->before));
    must_cuda(cudaEventCreate(&p->after));
    return p;
}

void products_close(struct products *p)
{
    if (!p)
        return;
    must_cuda(cudaDeviceSynchronize());
    for (size_t i = 0; i < p->layer_count * LAYER_MATRIX_COUNT; i++)
        cudaFree(p->weights[i]);
    free(p->weights);
    cudaFree(p->x), cudaFree(p->y_half), cudaFree(p->y), cudaFree(p->workspace);
    cudaEventDestroy(p->before), cudaEventDestroy(p->after);
    free(p);
}

/* ---- a layer ---- */

/* Matrices that read the same x, and what becomes of their products. */
static const struct part {
    enum layer_matrix first;
    size_t count;
    bool halves, added;
} parts[] = {
    { MATRIX_Q, 3, false, false },
    { MATRIX_O, 1, false, true },
    { MATRIX_GATE, 2, true, false },
    { MATRIX_DOWN, 1, false, true },
};

static uint64_t order_of(const struct matrix *matrix)
{
    return ((const struct cuda_matrix *)matrix->impl)->order_digest;
}

/* As halves.c has them: neighbours of one order in one launch. */
static void part_ours(struct products *p, const struct matrix *matrices, const struct part *part)
{
    const struct matrix *group[3];
    struct cuda_halves halves[3];
    size_t at = 0;

    for (size_t first = 0, n; first < part->count; first += n) {
        for (n = 0; first + n < part->count && order_of(&matrices[first + n]) == order_of(&matrices[first]); n++) {
            const struct matrix *matrix = group[n] = &matrices[first + n];
            halves[n] = (struct cuda_halves){ .x = p->x, .rows = p->rows, .accumulate = part->added };
            if (part->halves)
                halves[n].y_half = p->y_half + at;
            else
                halves[n].y = p->y + at;
            at += p->rows * matrix->out_features;
        }
        must(cuda_linear_halves(p->backend, group, halves, n, &err));
    }
}

static void part_blas(struct products *p, uint16_t *const *weights, const struct matrix *matrices, const struct part *part,
                      bool halves)
{
    const struct cuda_blas *blas = cuda_blas(p->backend, p->workspace, CUDA_BLAS_WORKSPACE_BYTES, &err);
    const float one = 1.0f, before = part->added && !halves ? 1.0f : 0.0f;
    size_t at = 0;

    must(blas ? 0 : -1);
    for (size_t i = 0; i < part->count; i++) {
        int in = (int)matrices[i].in_features, out = (int)matrices[i].out_features;
        bool narrow = halves || part->halves;
        void *y = narrow ? (void *)(p->y_half + at) : (void *)(p->y + at);
        must(cuda_blas_check(blas->gemm_ex(blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, out, (int)p->rows, in, &one, weights[i],
                                           CUDA_R_16F, in, p->x, CUDA_R_16F, in, &before, y,
                                           narrow ? CUDA_R_16F : CUDA_R_32F, out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                             "cublasGemmEx", &err));
        at += p->rows * (size_t)out;
    }
}

static void all_layers(struct products *p, enum products_kind kind)
{
    for (size_t i = 0; i < p->layer_count; i++)
        for (size_t n = 0; n < sizeof parts / sizeof *parts; n++) {
            const struct matrix *matrices = &p->model->layers[i].matrix[parts[n].first];
            if (kind == PRODUCTS_OURS)
                part_ours(p, matrices, &parts[n]);
            else
                part_blas(p, p->weights + i * LAYER_MATRIX_COUNT + parts[n].first, matrices, &parts[n],
                          kind == PRODUCTS_BLAS_HALVES);
        }
}

double products_ms(struct products *p, enum products_kind kind, int times)
{
    cudaStream_t stream = cuda_of(p->backend)->stream;
    float ms;

    all_layers(p, kind);
    must_cuda(cudaEventRecord(p->before, stream));
    for (int i = 0; i < times; i++)
        all_layers(p, kind);
    must_cuda(cudaEventRecord(p->after, stream));
    must_cuda(cudaEventSynchronize(p->after));
    must_cuda(cudaEventElapsedTime(&ms, p->before, p->after));
    return (double)ms / times;
}
