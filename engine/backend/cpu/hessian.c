/* Hessians on the CPU: accumulation and the permuted, damped copy. See quantize_ops.h for the one-buffer layout. */

#include <cblas.h>

#include "plimsoll/units.h"
#include "quantize_cpu.h"
#include "tasks.h"

/*
 * The upper triangle is updated in square tiles: 512 is large enough that packing the operands is a small part of a
 * tile's product, and small enough that K = 576 still gives two threads work.
 */
#define HESSIAN_TILE 512

struct hessian_update {
    float *h;
    const float *x;
    size_t rows, in_features, tiles;
};

/* Task t is tile (i, j), i <= j, of the upper triangle, counted row by row. */
static void tile_of_task(size_t task, size_t tiles, size_t *i, size_t *j)
{
    *i = 0;
    while (task >= tiles - *i) {
        task -= tiles - *i;
        (*i)++;
    }
    *j = *i + task;
}

static void update_tile(void *context, size_t task)
{
    const struct hessian_update *u = context;
    size_t i, j, k = u->in_features;
    tile_of_task(task, u->tiles, &i, &j);
    size_t row = i * HESSIAN_TILE, column = j * HESSIAN_TILE;
    size_t height = plim_min(HESSIAN_TILE, k - row), width = plim_min(HESSIAN_TILE, k - column);
    float *tile = u->h + row * k + column;

    if (i == j)
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (blasint)width, (blasint)u->rows, 1.0f, u->x + row,
                    (blasint)k, 1.0f, tile, (blasint)k);
    else
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)height, (blasint)width, (blasint)u->rows, 1.0f,
                    u->x + row, (blasint)k, u->x + column, (blasint)k, 1.0f, tile, (blasint)k);
}

int cpu_hessian_add(struct backend *backend, float *h, const float *x, size_t rows, size_t in_features,
                    struct plim_err *err)
{
    (void)err;
    size_t tiles = plim_ceil_div(in_features, HESSIAN_TILE);
    struct hessian_update update = { h, x, rows, in_features, tiles };
    cpu_run_tasks(backend, tiles * (tiles + 1) / 2, update_tile, &update);
    return 0;
}

int cpu_hessian_scale(struct backend *backend, float *h, size_t in_features, uint64_t row_count, float *diagonal,
                      struct plim_err *err)
{
    (void)backend;
    (void)err;
    float divisor = (float)row_count;
    if (row_count == 0) {
        for (size_t i = 0; i < in_features; i++)
            h[i * in_features + i] = 1.0f;
    } else if (row_count > 1) {
        for (size_t i = 0; i < in_features; i++)
            for (size_t j = i; j < in_features; j++)
                h[i * in_features + j] /= divisor;
    }
    for (size_t i = 0; i < in_features; i++)
        diagonal[i] = h[i * in_features + i];
    return 0;
}

struct hessian_permute {
    float *h;
    const float *diagonal;
    const uint16_t *order;
    size_t in_features;
    float damping;
};

#define PERMUTE_ROWS 64

/* Reads the upper triangle only and writes below it only, so rows may be done in any order. */
static void permute_rows(void *context, size_t task)
{
    const struct hessian_permute *p = context;
    size_t k = p->in_features, end = plim_min(k, (task + 1) * PERMUTE_ROWS);
    for (size_t i = task * PERMUTE_ROWS; i < end; i++) {
        size_t a = p->order[i];
        float *out = p->h + i * k;
        for (size_t j = 0; j < i; j++) {
            size_t b = p->order[j];
            out[j] = a < b ? p->h[a * k + b] : p->h[b * k + a];
        }
    }
}

int cpu_hessian_permute(struct backend *backend, float *h, const float *diagonal, const uint16_t *order,
                        size_t in_features, float damping, struct plim_err *err)
{
    (void)err;
    struct hessian_permute permute = { h, diagonal, order, in_features, damping };
    cpu_run_tasks(backend, plim_ceil_div(in_features, PERMUTE_ROWS), permute_rows, &permute);
    for (size_t i = 0; i < in_features; i++)
        h[i * in_features + i] = diagonal[order[i]] + damping;
    return 0;
}
