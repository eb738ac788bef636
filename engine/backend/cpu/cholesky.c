/*
 * Cholesky factor and triangular inverse of a lower triangle, in place, in blocks of CHOLESKY_BLOCK rows.
 *
 * OpenBLAS has both (spotrf, strtri), but the bits of its threaded versions depend on the number of threads. Here each
 * block is one single-threaded BLAS call with fixed borders, so they do not.
 */

#include <cblas.h>
#include <f77blas.h>
#include <math.h>
#include <string.h>

#include "plimsoll/units.h"
#include "quantize_cpu.h"
#include "tasks.h"

#define CHOLESKY_BLOCK ((size_t)256)

struct triangle {
    float *a;            /* [n, n], row-major, lower */
    size_t n;
    size_t first;        /* of the current block */
    size_t size;         /* of the current block */
    float *work;         /* [CHOLESKY_BLOCK, n], inversion only */
};

static size_t block_size(size_t n, size_t first)
{
    return plim_min(CHOLESKY_BLOCK, n - first);
}

/* Row-major lower is column-major upper: LAPACK's "U". Returns LAPACK's info. */
static int factor_block(float *a, size_t size, size_t n)
{
    char upper[] = "U";
    blasint order = (blasint)size, stride = (blasint)n, info = 0;
    spotrf_(upper, &order, a, &stride, &info);
    return (int)info;
}

static void invert_block(float *a, size_t size, size_t n)
{
    char upper[] = "U", non_unit[] = "N";
    blasint order = (blasint)size, stride = (blasint)n, info = 0;
    strtri_(upper, non_unit, &order, a, &stride, &info);
}

/* A[i, k] <- A[i, k] L[k, k]^-T for the block rows i below block k. */
static void solve_panel(void *context, size_t task)
{
    const struct triangle *t = context;
    size_t row = t->first + t->size + task * CHOLESKY_BLOCK;
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)block_size(t->n, row),
                (blasint)t->size, 1.0f, t->a + t->first * t->n + t->first, (blasint)t->n,
                t->a + row * t->n + t->first, (blasint)t->n);
}

/* A[i, k+1 .. i] -= A[i, k] A[k+1 .. i, k]^T: one block row of the trailing triangle. Long rows come first. */
static void update_row(void *context, size_t task)
{
    const struct triangle *t = context;
    size_t trailing = t->first + t->size;
    size_t rows = plim_ceil_div(t->n - trailing, CHOLESKY_BLOCK);
    size_t row = trailing + (rows - 1 - task) * CHOLESKY_BLOCK, height = block_size(t->n, row);
    const float *panel = t->a + row * t->n + t->first;

    if (row > trailing)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)height, (blasint)(row - trailing),
                    (blasint)t->size, -1.0f, panel, (blasint)t->n, t->a + trailing * t->n + t->first, (blasint)t->n,
                    1.0f, t->a + row * t->n + trailing, (blasint)t->n);
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, (blasint)height, (blasint)t->size, -1.0f, panel,
                (blasint)t->n, 1.0f, t->a + row * t->n + row, (blasint)t->n);
}

int cpu_cholesky(struct backend *backend, float *h, size_t in_features, struct plim_err *err)
{
    struct triangle t = { .a = h, .n = in_features };
    (void)err;
    for (t.first = 0; t.first < t.n; t.first += t.size) {
        t.size = block_size(t.n, t.first);
        if (factor_block(h + t.first * t.n + t.first, t.size, t.n) != 0)
            return 1;
        /* A NaN passes LAPACK's comparison with zero. */
        for (size_t i = t.first; i < t.first + t.size; i++)
            if (!isfinite(h[i * t.n + i]))
                return 1;
        size_t below = plim_ceil_div(t.n - t.first - t.size, CHOLESKY_BLOCK);
        cpu_run_tasks(backend, below, solve_panel, &t);
        cpu_run_tasks(backend, below, update_row, &t);
    }
    return 0;
}

/*
 * Inversion, block row by block row from the top. With M = L^-1 known above row i,
 *   M[i, j] = -M[i, i] * sum over j <= k < i of L[i, k] M[k, j].
 */
static void sum_products(void *context, size_t task)
{
    const struct triangle *t = context;
    size_t column = task * CHOLESKY_BLOCK, inner = t->first - column;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)t->size, (blasint)CHOLESKY_BLOCK, (blasint)inner,
                -1.0f, t->a + t->first * t->n + column, (blasint)t->n, t->a + column * t->n + column, (blasint)t->n,
                0.0f, t->work + column, (blasint)t->n);
}

static void apply_diagonal(void *context, size_t task)
{
    const struct triangle *t = context;
    size_t column = task * CHOLESKY_BLOCK;
    for (size_t r = 0; r < t->size; r++)
        memcpy(t->a + (t->first + r) * t->n + column, t->work + r * t->n + column, CHOLESKY_BLOCK * sizeof *t->a);
    cblas_strmm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (blasint)t->size,
                (blasint)CHOLESKY_BLOCK, 1.0f, t->a + t->first * t->n + t->first, (blasint)t->n,
                t->a + t->first * t->n + column, (blasint)t->n);
}

static void clear_above_diagonal(float *a, size_t n, size_t first, size_t size)
{
    for (size_t r = first; r < first + size; r++)
        memset(a + r * n + r + 1, 0, (first + size - r - 1) * sizeof *a);
}

struct reversal {
    float *a;
    size_t elements;
};

#define REVERSE_PIECE ((size_t)1 << 18)

static void reverse_piece(void *context, size_t task)
{
    const struct reversal *r = context;
    size_t end = plim_min((task + 1) * REVERSE_PIECE, r->elements / 2);
    for (size_t i = task * REVERSE_PIECE; i < end; i++) {
        float swapped = r->a[i];
        r->a[i] = r->a[r->elements - 1 - i];
        r->a[r->elements - 1 - i] = swapped;
    }
}

struct zeroing {
    float *a;
    size_t n;
};

static void zero_below(void *context, size_t task)
{
    const struct zeroing *z = context;
    size_t end = plim_min(z->n, (task + 1) * CHOLESKY_BLOCK);
    for (size_t r = task * CHOLESKY_BLOCK; r < end; r++)
        memset(z->a + r * z->n, 0, r * sizeof *z->a);
}

size_t cpu_invert_bytes(size_t in_features)
{
    return CHOLESKY_BLOCK * in_features * sizeof(float);
}

int cpu_invert_and_reverse(struct backend *backend, float *h, size_t in_features, struct plim_err *err)
{
    struct triangle t = { .a = h, .n = in_features };
    t.work = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, cpu_invert_bytes(in_features), err);
    if (!t.work)
        return -1;
    for (t.first = 0; t.first < t.n; t.first += t.size) {
        t.size = block_size(t.n, t.first);
        /* The products below read whole diagonal blocks. */
        clear_above_diagonal(h, t.n, t.first, t.size);
        cpu_run_tasks(backend, t.first / CHOLESKY_BLOCK, sum_products, &t);
        invert_block(h + t.first * t.n + t.first, t.size, t.n);
        cpu_run_tasks(backend, t.first / CHOLESKY_BLOCK, apply_diagonal, &t);
    }
    plim_pool_free(backend->pool, t.work);

    struct reversal reversal = { h, in_features * in_features };
    cpu_run_tasks(backend, plim_ceil_div(reversal.elements / 2, REVERSE_PIECE), reverse_piece, &reversal);
    struct zeroing zeroing = { h, in_features };
    cpu_run_tasks(backend, plim_ceil_div(in_features, CHOLESKY_BLOCK), zero_below, &zeroing);
    return 0;
}
