/*
 * Cholesky factor and triangular inverse of a lower triangle, in place, on CUDA.
 *
 * Panels of PANEL columns. Each panel's square on the diagonal is copied to a workspace, factored and inverted there in
 * blocks of BLOCK; everything else is matrix products of cuBLAS, in plain fp32.
 *
 *   factor   left-looking: a panel first takes the products of all columns before it, in one deep product.
 *   invert   right-looking: with M = L^-1 and S[r, j] = sum over j <= k <= i of L[r, k] M[k, j], panel row i becomes
 *            M[i, j] = -M[i, i] S[i, j], and then every row below adds its L[r, i] M[i, j]. S stands where M will be.
 *
 * The upper triangle is not read and not written until all of it has succeeded; the workspace is PANEL rows.
 */

#include <cuda_runtime.h>

#include "quantize_cuda.h"
#include "plimsoll/units.h"

#define PANEL ((size_t)512)
#define BLOCK 128

/* ---- one block ---- */

#define BLOCK_THREADS 512
#define CUDA_WARP_THREADS 32
#define BLOCK_WARPS   (BLOCK_THREADS / CUDA_WARP_THREADS)
#define ROWS_EACH     (BLOCK / BLOCK_WARPS)         /* rows warp, warp + 16, ... */
#define COLUMNS_EACH  (BLOCK / CUDA_WARP_THREADS)   /* columns lane, lane + 32, ... */

/*
 * a: a lower triangle of `size` rows, replaced by its Cholesky factor L if FACTOR, else L already. inverse: L^-1, zeros
 * above its diagonal. *failed becomes 1 at a pivot that is not a positive finite number.
 *
 * The block lives in registers. Before step j, element (r, c) is
 *     c < j    S[r, c] as above (r >= j), or M[r, c] (r < j, final)
 *     c >= j   what is left to factor (r >= j)
 * and step j adds the product of column j of L with one row, whose parts are M[j, c], 1 / L[j, j], and -L[c, j]. Column j
 * itself goes to memory, and S[r, j] starts in its place.
 */
template <bool FACTOR>
__global__ static void __launch_bounds__(BLOCK_THREADS) factor_block(float *a, size_t a_stride, float *inverse,
                                                                     size_t inverse_stride, int size, int *failed)
{
    __shared__ float column[2][BLOCK], row[2][BLOCK];
    int lane = (int)threadIdx.x % CUDA_WARP_THREADS, warp = (int)threadIdx.x / CUDA_WARP_THREADS;
    float x[ROWS_EACH][COLUMNS_EACH];

#pragma unroll
    for (int p = 0; p < ROWS_EACH; p++)
#pragma unroll
        for (int q = 0; q < COLUMNS_EACH; q++) {
            int r = warp + p * BLOCK_WARPS, c = lane + q * CUDA_WARP_THREADS;
            x[p][q] = r < size && c <= r ? a[(size_t)r * a_stride + (size_t)c] : 0.0f;
        }
    for (int j = 0; j < size; j++) {
        float *now_column = column[j % 2], *now_row = row[j % 2];
#pragma unroll
        for (int p = 0; p < ROWS_EACH; p++)
#pragma unroll
            for (int q = 0; q < COLUMNS_EACH; q++) {
                int r = warp + p * BLOCK_WARPS, c = lane + q * CUDA_WARP_THREADS;
                if (c == j)
                    now_column[r] = x[p][q];
                if (r == j)
                    now_row[c] = x[p][q];
            }
        __syncthreads();
        float pivot = now_column[j], length = FACTOR ? sqrtf(pivot) : pivot, reciprocal = 1.0f / length;
        if (FACTOR && threadIdx.x == 0 && !(pivot > 0.0f && isfinite(length)))
            *failed = 1;
        float multiplier[COLUMNS_EACH];
#pragma unroll
        for (int q = 0; q < COLUMNS_EACH; q++) {
            int c = lane + q * CUDA_WARP_THREADS;
            multiplier[q] = c < j ? -now_row[c] * reciprocal : c == j ? reciprocal
                                                             : FACTOR ? -now_column[c] * reciprocal : 0.0f;
        }
#pragma unroll
        for (int p = 0; p < ROWS_EACH; p++) {
            int r = warp + p * BLOCK_WARPS;
            if (r < j)
                continue;
            float scaled = FACTOR ? now_column[r] * reciprocal : now_column[r];
            if (FACTOR && r == j)
                scaled = length;
            if (FACTOR && lane == 0 && r < size)
                a[(size_t)r * a_stride + (size_t)j] = scaled;
#pragma unroll
            for (int q = 0; q < COLUMNS_EACH; q++) {
                int c = lane + q * CUDA_WARP_THREADS;
                if (r == j)
                    x[p][q] = c <= j ? multiplier[q] : 0.0f;
                else
                    x[p][q] = (c == j ? 0.0f : x[p][q]) + (c <= r ? scaled * multiplier[q] : 0.0f);
            }
        }
    }
#pragma unroll
    for (int p = 0; p < ROWS_EACH; p++)
#pragma unroll
        for (int q = 0; q < COLUMNS_EACH; q++) {
            int r = warp + p * BLOCK_WARPS, c = lane + q * CUDA_WARP_THREADS;
            if (r < size && c < size)
                inverse[(size_t)r * inverse_stride + (size_t)c] = c <= r ? x[p][q] : 0.0f;
        }
}

/* ---- one square on the diagonal ---- */

struct factor {
    struct backend *backend;
    char *workspace;      /* cuBLAS', and the owner of what follows but `a` */
    float *a;             /* [n, n] */
    size_t n;
    float *rows;          /* [PANEL, n] elements */
    float *square;        /* [PANEL, PANEL]: a panel's square, L */
    float *inverse;       /* [PANEL, PANEL]: its inverse, zeros above the diagonal */
    float *strip;         /* [PANEL, PANEL] */
    int *failed;
};

static cudaStream_t stream_of(const struct factor *f)
{
    return cuda_of(f->backend)->stream;
}

/* C = beta C + alpha A op(B), fp32. */
static int multiply(struct factor *f, float *c, size_t c_stride, float beta, float alpha, const float *a,
                    size_t a_stride, const float *b, size_t b_stride, bool transpose_b, size_t m, size_t n, size_t k,
                    struct plim_err *err)
{
    struct product product = {};
    product.transpose_b = transpose_b;
    product.m = m;
    product.n = n;
    product.k = k;
    product.alpha = alpha;
    product.beta = beta;
    product.a = a;
    product.b = b;
    product.c = c;
    product.a_stride = a_stride;
    product.b_stride = b_stride;
    product.c_stride = c_stride;
    return quantize_product(f->backend, f->workspace, &product, err);
}

/* Rows below a block of the square: their columns of L, and what that takes from the rest. */
static int factor_below(struct factor *f, size_t first, size_t size, size_t end, struct plim_err *err)
{
    size_t below = first + size, rows = end - below;
    float *panel = f->square + below * PANEL + first, *rest = f->square + below * PANEL + below;
    if (quantize_copy(f->backend, f->strip, BLOCK, panel, PANEL, rows, size, err) < 0 ||
        multiply(f, panel, PANEL, 0, 1, f->strip, BLOCK, f->inverse + first * PANEL + first, PANEL, true, rows, size, size,
                 err) < 0)
        return -1;
    return multiply(f, rest, PANEL, 1, -1, panel, PANEL, panel, PANEL, true, rows, rows, size, err);
}

/* Off the diagonal blocks: f->inverse from f->square, by the scheme at the top of this file. */
static int invert_square(struct factor *f, size_t end, struct plim_err *err)
{
    for (size_t first = 0; first < end; first += BLOCK) {
        size_t size = plim_min((size_t)BLOCK, end - first), below = first + size;
        float *row = f->inverse + first * PANEL;
        if (first > 0 &&
            (quantize_copy(f->backend, f->strip, PANEL, row, PANEL, size, first, err) < 0 ||
             multiply(f, row, PANEL, 0, -1, row + first, PANEL, f->strip, PANEL, false, size, first, size, err) < 0))
            return -1;
        if (below < end && multiply(f, f->inverse + below * PANEL, PANEL, 1, 1, f->square + below * PANEL + first, PANEL,
                                    row, PANEL, false, end - below, below, size, err) < 0)
            return -1;
    }
    return 0;
}

/* f->square (lower triangle of `end` rows): L, factored first unless it is L already; f->inverse: its inverse. */
static int solve_square(struct factor *f, size_t end, bool factored, struct plim_err *err)
{
    if (cuda_check(cudaMemsetAsync(f->inverse, 0, PANEL * PANEL * sizeof(float), stream_of(f)), "clearing a workspace",
                   err) < 0)
        return -1;
    for (size_t first = 0; first < end; first += BLOCK) {
        size_t size = plim_min((size_t)BLOCK, end - first), corner = first * PANEL + first;
        if (factored)
            factor_block<false><<<1, BLOCK_THREADS, 0, stream_of(f)>>>(f->square + corner, PANEL, f->inverse + corner,
                                                                      PANEL, (int)size, f->failed);
        else
            factor_block<true><<<1, BLOCK_THREADS, 0, stream_of(f)>>>(f->square + corner, PANEL, f->inverse + corner, PANEL,
                                                                     (int)size, f->failed);
        if (cuda_launch_check("factoring a block", err) < 0)
            return -1;
        if (!factored && first + size < end && factor_below(f, first, size, end, err) < 0)
            return -1;
    }
    return invert_square(f, end, err);
}

/* ---- whole matrices ---- */

/* Lower triangle, diagonal included, of `size` rows. */
__global__ static void copy_lower(float *to, size_t to_stride, const float *from, size_t from_stride, size_t size)
{
    size_t row = blockIdx.x;
    for (size_t column = threadIdx.x; column <= row; column += blockDim.x)
        to[row * to_stride + column] = from[row * from_stride + column];
}

static int copy_triangle(struct factor *f, float *to, size_t to_stride, const float *from, size_t from_stride, size_t size,
                         struct plim_err *err)
{
    copy_lower<<<(unsigned)size, 128, 0, stream_of(f)>>>(to, to_stride, from, from_stride, size);
    return cuda_launch_check("copying a triangle", err);
}

size_t cuda_factor_bytes(size_t in_features)
{
    return CUDA_BLAS_WORKSPACE_BYTES + (PANEL * in_features + 3 * PANEL * PANEL) * sizeof(float) + PLIM_POOL_ALIGN;
}

static int factor_open(struct factor *f, struct backend *backend, float *a, size_t n, struct plim_err *err)
{
    *f = (struct factor){};
    f->backend = backend;
    f->a = a;
    f->n = n;
    f->workspace = (char *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, cuda_factor_bytes(n), err);
    if (!f->workspace)
        return -1;
    f->rows = (float *)(f->workspace + CUDA_BLAS_WORKSPACE_BYTES);
    f->square = f->rows + PANEL * n;
    f->inverse = f->square + PANEL * PANEL;
    f->strip = f->inverse + PANEL * PANEL;
    f->failed = (int *)(f->strip + PANEL * PANEL);
    if (cuda_check(cudaMemsetAsync(f->failed, 0, sizeof *f->failed, stream_of(f)), "clearing a flag", err) == 0)
        return 0;
    plim_pool_free(backend->pool, f->workspace);
    return -1;
}

static int factor_panel(struct factor *f, size_t first, struct plim_err *err)
{
    size_t n = f->n, size = plim_min(PANEL, n - first), below = n - first - size;
    float *corner = f->a + first * n + first, *beside = corner + size * n;
    float *rows = f->rows;   /* [below, size] */

    /* The square is cleared, since what lies above its diagonal takes part in products that nobody uses: no NaN there. */
    if (cuda_check(cudaMemsetAsync(f->square, 0, PANEL * PANEL * sizeof(float), stream_of(f)), "clearing a workspace",
                   err) < 0 ||
        copy_triangle(f, f->square, PANEL, corner, n, size, err) < 0)
        return -1;
    if (first > 0 && multiply(f, f->square, PANEL, 1, -1, f->a + first * n, n, f->a + first * n, n, true, size, size, first,
                              err) < 0)
        return -1;
    if (solve_square(f, size, false, err) < 0 || copy_triangle(f, corner, n, f->square, PANEL, size, err) < 0)
        return -1;
    if (below == 0)
        return 0;
    if (quantize_copy(f->backend, rows, PANEL, beside, n, below, size, err) < 0)
        return -1;
    if (first > 0 && multiply(f, rows, PANEL, 1, -1, f->a + (first + size) * n, n, f->a + first * n, n, true, below, size,
                              first, err) < 0)
        return -1;
    return multiply(f, beside, n, 0, 1, rows, PANEL, f->inverse, PANEL, true, below, size, size, err);
}

int cuda_cholesky(struct backend *backend, float *h, size_t in_features, struct plim_err *err)
{
    struct factor f;
    int failed = 0, rc = 0;

    if (factor_open(&f, backend, h, in_features, err) < 0)
        return -1;
    for (size_t first = 0; first < in_features && rc == 0; first += PANEL)
        rc = factor_panel(&f, first, err);
    if (rc == 0)
        rc = cuda_download(backend, &failed, f.failed, sizeof failed, err);
    plim_pool_free(backend->pool, f.workspace);
    return rc < 0 ? -1 : failed;
}

static int invert_panel(struct factor *f, size_t first, struct plim_err *err)
{
    size_t n = f->n, size = plim_min(PANEL, n - first), below = n - first - size;
    float *line = f->a + first * n, *corner = line + first, *under = line + size * n, *beside = under + first;
    float *column = f->rows, *row = f->rows + PANEL * below;   /* [below, size], [size, first] */

    if (copy_triangle(f, f->square, PANEL, corner, n, size, err) < 0 || solve_square(f, size, true, err) < 0 ||
        copy_triangle(f, corner, n, f->inverse, PANEL, size, err) < 0)
        return -1;
    if (first > 0 &&
        (multiply(f, row, first, 0, -1, f->inverse, PANEL, line, n, false, size, first, size, err) < 0 ||
         quantize_copy(f->backend, line, n, row, first, size, first, err) < 0))
        return -1;
    if (below == 0)
        return 0;
    if (quantize_copy(f->backend, column, PANEL, beside, n, below, size, err) < 0 ||
        multiply(f, beside, n, 0, 1, column, PANEL, f->inverse, PANEL, false, below, size, size, err) < 0)
        return -1;
    return first == 0 ? 0 : multiply(f, under, n, 1, 1, column, PANEL, row, first, false, below, first, size, err);
}

/* Element (r, c) of the lower triangle goes to (n-1-r, n-1-c), and zero takes its place. */
__global__ static void reverse_triangle(float *a, size_t n)
{
    size_t r = n - 1 - blockIdx.x;
    float *from = a + r * n, *to = a + (n - 1 - r) * n + (n - 1);

    for (size_t c = threadIdx.x; c < r; c += blockDim.x) {
        float value = from[c];
        from[c] = 0.0f;
        *(to - c) = value;
    }
    if (threadIdx.x == 0 && r < n - 1 - r) {
        float *mirror = a + (n - 1 - r) * n + (n - 1 - r), value = *mirror;
        *mirror = from[r];
        from[r] = value;
    }
}

int cuda_invert_and_reverse(struct backend *backend, float *h, size_t in_features, struct plim_err *err)
{
    struct factor f;
    int rc = 0;

    if (factor_open(&f, backend, h, in_features, err) < 0)
        return -1;
    for (size_t first = 0; first < in_features && rc == 0; first += PANEL)
        rc = invert_panel(&f, first, err);
    if (rc == 0) {
        reverse_triangle<<<(unsigned)in_features, 256, 0, stream_of(&f)>>>(h, in_features);
        rc = cuda_launch_check("reversing a triangle", err);
    }
    plim_pool_free(backend->pool, f.workspace);
    return rc;
}
