/* GPTQ's loop on the CPU: the scale search and the quantisation of a group's rows, cut by columns. */

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gptq_kernels.h"
#include "half.h"
#include "plimsoll/units.h"
#include "quantize_cpu.h"
#include "tasks.h"

const struct gptq_kernels *gptq_kernels_for(enum plim_isa isa)
{
    switch (isa) {
#ifdef __x86_64__
    case PLIM_ISA_AVX512:
        return &gptq_kernels_avx512;
    case PLIM_ISA_AVX2:
        return &gptq_kernels_avx2;
#endif
    default:
        return &gptq_kernels_portable;
    }
}

static size_t tile_count(size_t out_features)
{
    return plim_ceil_div(out_features, GPTQ_TILE);
}

static size_t tile_columns(size_t out_features, size_t tile)
{
    return plim_min(GPTQ_TILE, out_features - tile * GPTQ_TILE);
}

struct scale_search {
    const struct gptq_kernels *kernels;
    const float *w;
    size_t rows, out_features;
    unsigned bits;
    float *base;       /* [N]: first the column's largest magnitude, then its scale for candidate 1 */
    double *sums;      /* [tiles, GPTQ_CANDIDATES] */
};

static void search_maximum(void *context, size_t tile)
{
    struct scale_search *s = context;
    size_t column = tile * GPTQ_TILE;
    s->kernels->column_max(s->w + column, s->out_features, s->rows, tile_columns(s->out_features, tile),
                           s->base + column);
}

static void search_tile(void *context, size_t tile)
{
    struct scale_search *s = context;
    size_t column = tile * GPTQ_TILE;
    s->kernels->search(s->w + column, s->out_features, s->rows, tile_columns(s->out_features, tile), s->bits,
                       s->base + column, s->sums + tile * GPTQ_CANDIDATES);
}

/*
 * Levels from the columns' largest magnitudes; base becomes the scale that each level stands for. Returns the group's
 * largest scale.
 */
static float choose_levels(float *base, size_t out_features, unsigned bits, uint8_t *levels)
{
    float half_range = (float)((1u << bits) - 1) / 2.0f, largest = 0;
    for (size_t n = 0; n < out_features; n++) {
        base[n] = (base[n] + 1e-12f) / half_range;
        largest = base[n] > largest ? base[n] : largest;
    }
    for (size_t n = 0; n < out_features; n++) {
        float level = rintf(16.0f * sqrtf(base[n] / largest));
        level = level < 1.0f ? 1.0f : level > 16.0f ? 16.0f : level;
        levels[n] = (uint8_t)(int)level;
        float share = level / 16.0f;
        base[n] = largest * (share * share);
    }
    return largest;
}

/* Sums over tiles in order, so that the number of threads changes nothing. */
static int best_candidate(const double *sums, size_t tiles)
{
    double best = INFINITY;
    int best_index = 0;
    for (int i = 0; i < GPTQ_CANDIDATES; i++) {
        double sum = 0;
        for (size_t t = 0; t < tiles; t++)
            sum += sums[t * GPTQ_CANDIDATES + (size_t)i];
        if (sum < best) {
            best = sum;
            best_index = i;
        }
    }
    return best_index;
}

static struct group_scales group_scales_of(float scale_max)
{
    struct group_scales scales = { .scale_max = half_from_float(scale_max) };
    scales.scale_unit = half_to_float(half_from_float(half_to_float(scales.scale_max) / 256.0f));
    return scales;
}

static size_t search_base_bytes(size_t out_features)
{
    return plim_round_up(out_features * sizeof(float), PLIM_POOL_ALIGN);
}

/* Our own search takes fewer sums, and the same block. */
static size_t search_bytes(size_t out_features)
{
    return search_base_bytes(out_features) + tile_count(out_features) * GPTQ_CANDIDATES * sizeof(double);
}

int cpu_scale_search(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                     uint8_t *levels, struct group_scales *scales, struct plim_err *err)
{
    size_t tiles = tile_count(out_features);
    unsigned char *scratch = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                             search_bytes(out_features), err);
    if (!scratch)
        return -1;
    struct scale_search search = {
        .kernels = gptq_kernels_for(cpu_isa(backend)),
        .w = w,
        .rows = rows,
        .out_features = out_features,
        .bits = bits,
        .base = (float *)(void *)scratch,
        .sums = (double *)(void *)(scratch + search_base_bytes(out_features)),
    };
    cpu_run_tasks(backend, tiles, search_maximum, &search);
    float largest = choose_levels(search.base, out_features, bits, levels);
    cpu_run_tasks(backend, tiles, search_tile, &search);
    *scales = group_scales_of(largest * gptq_candidate(best_candidate(search.sums, tiles)));
    plim_pool_free(backend->pool, scratch);
    return 0;
}

/* ---- our own search ---- */

_Static_assert((GPTQ_CANDIDATES - FIT_MAXIMA) * sizeof(double) >= FIT_MAXIMA * GPTQ_TILE, "room for levels");

struct scale_fit {
    const struct gptq_kernels *kernels;
    const float *w;
    size_t rows, out_features;
    unsigned bits;
    float *base;               /* [N]: the column's largest magnitude, then the scale that takes it to the range's end */
    const float *u;
    size_t u_stride;
    struct group_scales tried[FIT_MAXIMA];
    float level_scale[FIT_MAXIMA][17];
    double *sums;              /* [FIT_MAXIMA, tiles] */
    uint8_t *levels;           /* [FIT_MAXIMA, N] */
    size_t tiles;
};

/* A tile of so many rows is fitted in a copy: rows a power of two apart would share the cache's few lines. */
#define FIT_COPY_ROWS 128

static void set_level_scales(float level_scale[17], const struct group_scales *scales)
{
    for (int level = 1; level <= 16; level++)
        level_scale[level] = half_to_float(half_from_float((float)(level * level) * scales->scale_unit));
}

static void fit_maximum(void *context, size_t tile)
{
    struct scale_fit *f = context;
    size_t column = tile * GPTQ_TILE;
    f->kernels->column_max(f->w + column, f->out_features, f->rows, tile_columns(f->out_features, tile),
                           f->base + column);
}

static int clamp_level(int level)
{
    return level < 1 ? 1 : level > 16 ? 16 : level;
}

/* The best level of each column for one size of the maximum; returns the sum of their errors. */
static double fit_levels(const struct scale_fit *f, const float *w, size_t stride, size_t column, size_t columns,
                         size_t maximum)
{
    float best[GPTQ_TILE], errors[GPTQ_TILE], scales[GPTQ_TILE];
    uint8_t *levels = f->levels + maximum * f->out_features + column;
    int nearest[GPTQ_TILE];
    /* A group of zeros: any scale serves, and zero must not divide. */
    float scale_max = fmaxf(half_to_float(f->tried[maximum].scale_max), 1e-30f);
    double sum = 0;

    for (size_t n = 0; n < columns; n++) {
        float level = rintf(16.0f * sqrtf(f->base[column + n] / scale_max));
        nearest[n] = level < 1.0f ? 1 : level > 16.0f ? 16 : (int)level;
        best[n] = INFINITY;
    }
    for (int step = -FIT_LEVELS_BELOW; step <= FIT_LEVELS_ABOVE; step++) {
        for (size_t n = 0; n < columns; n++)
            scales[n] = f->level_scale[maximum][clamp_level(nearest[n] + step)];
        f->kernels->weighted_error(w, stride, f->rows, columns, f->bits, scales, f->u, f->u_stride, errors);
        for (size_t n = 0; n < columns; n++)
            if (errors[n] < best[n]) {
                best[n] = errors[n];
                levels[n] = (uint8_t)clamp_level(nearest[n] + step);
            }
    }
    for (size_t n = 0; n < columns; n++)
        sum += (double)best[n];
    return sum;
}

static void fit_tile(void *context, size_t tile)
{
    struct scale_fit *f = context;
    size_t column = tile * GPTQ_TILE, columns = tile_columns(f->out_features, tile), stride = f->out_features;
    float copy[FIT_COPY_ROWS][GPTQ_TILE];
    const float *w = f->w + column;

    if (f->rows <= FIT_COPY_ROWS) {
        for (size_t r = 0; r < f->rows; r++)
            memcpy(copy[r], w + r * stride, columns * sizeof *w);
        w = copy[0];
        stride = GPTQ_TILE;
    }
    for (size_t i = 0; i < FIT_MAXIMA; i++)
        f->sums[i * f->tiles + tile] = fit_levels(f, w, stride, column, columns, i);
}

/* Sums over tiles in order, so that the number of threads changes nothing. */
static size_t best_maximum(const struct scale_fit *f)
{
    double best = INFINITY;
    size_t best_index = 0;
    for (size_t i = 0; i < FIT_MAXIMA; i++) {
        double sum = 0;
        for (size_t t = 0; t < f->tiles; t++)
            sum += f->sums[i * f->tiles + t];
        if (sum < best) {
            best = sum;
            best_index = i;
        }
    }
    return best_index;
}

int cpu_fit_scales(struct backend *backend, const float *w, size_t rows, size_t out_features, unsigned bits,
                   const float *u, size_t u_stride, uint8_t *levels, struct group_scales *scales, struct plim_err *err)
{
    size_t tiles = tile_count(out_features);
    unsigned char *scratch = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                             search_bytes(out_features), err);
    if (!scratch)
        return -1;
    struct scale_fit fit = {
        .kernels = gptq_kernels_for(cpu_isa(backend)),
        .w = w,
        .rows = rows,
        .out_features = out_features,
        .bits = bits,
        .base = (float *)(void *)scratch,
        .u = u,
        .u_stride = u_stride,
        .sums = (double *)(void *)(scratch + search_base_bytes(out_features)),
        /* Behind the sums there is room for as many again of GPTQ_CANDIDATES a tile: more than 8 bytes a column. */
        .levels = scratch + search_base_bytes(out_features) + FIT_MAXIMA * tiles * sizeof(double),
        .tiles = tiles,
    };
    float half_range = (float)((1u << bits) - 1) / 2.0f, largest = 0;

    cpu_run_tasks(backend, tiles, fit_maximum, &fit);
    for (size_t n = 0; n < out_features; n++) {
        fit.base[n] /= half_range;
        largest = fmaxf(largest, fit.base[n]);
    }
    for (size_t i = 0; i < FIT_MAXIMA; i++) {
        fit.tried[i] = group_scales_of(largest * (FIT_FIRST + FIT_STEP * (float)i));
        set_level_scales(fit.level_scale[i], &fit.tried[i]);
    }
    cpu_run_tasks(backend, tiles, fit_tile, &fit);
    size_t best = best_maximum(&fit);
    *scales = fit.tried[best];
    memcpy(levels, fit.levels + best * out_features, out_features);
    plim_pool_free(backend->pool, scratch);
    return 0;
}

struct row_quantiser {
    const struct gptq_kernels *kernels;
    float *w;
    size_t rows, out_features;
    unsigned bits;
    const uint8_t *levels;
    float level_scale[17];
    const float *u;
    size_t u_stride;
    uint8_t *codes;
    float *errors;
};

static void quantise_tile(void *context, size_t tile)
{
    const struct row_quantiser *q = context;
    size_t column = tile * GPTQ_TILE, columns = tile_columns(q->out_features, tile);
    float scales[GPTQ_TILE];
    for (size_t n = 0; n < columns; n++)
        scales[n] = q->level_scale[q->levels[column + n]];
    q->kernels->quantise(q->w + column, q->out_features, q->rows, columns, q->bits, scales, q->u, q->u_stride,
                         q->codes + column, q->errors ? q->errors + column : NULL);
}

int cpu_quantise_rows(struct backend *backend, float *w, size_t rows, size_t out_features, unsigned bits,
                      const uint8_t *levels, const struct group_scales *scales, const float *u, size_t u_stride,
                      uint8_t *codes, float *errors, struct plim_err *err)
{
    (void)err;
    struct row_quantiser q = {
        .kernels = gptq_kernels_for(cpu_isa(backend)),
        .w = w,
        .rows = rows,
        .out_features = out_features,
        .bits = bits,
        .levels = levels,
        .u = u,
        .u_stride = u_stride,
        .codes = codes,
        .errors = errors,
    };
    set_level_scales(q.level_scale, scales);
    cpu_run_tasks(backend, tile_count(out_features), quantise_tile, &q);
    return 0;
}

/* Tiles of the remaining rows: large enough for sgemm, small enough to share out. */
#define SPREAD_ROWS ((size_t)512)
#define SPREAD_COLUMNS ((size_t)512)

struct error_spread {
    float *rest;
    size_t rest_rows, out_features;
    const float *u;
    size_t u_stride;
    const float *errors;
    size_t rows, column_tiles;
};

static void spread_tile(void *context, size_t task)
{
    const struct error_spread *s = context;
    size_t row = task / s->column_tiles * SPREAD_ROWS, column = task % s->column_tiles * SPREAD_COLUMNS;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)plim_min(SPREAD_ROWS, s->rest_rows - row),
                (blasint)plim_min(SPREAD_COLUMNS, s->out_features - column), (blasint)s->rows, -1.0f, s->u + row,
                (blasint)s->u_stride, s->errors + column, (blasint)s->out_features, 1.0f,
                s->rest + row * s->out_features + column, (blasint)s->out_features);
}

int cpu_spread_errors(struct backend *backend, float *rest, size_t rest_rows, size_t out_features, const float *u,
                      size_t u_stride, const float *errors, size_t rows, struct plim_err *err)
{
    (void)err;
    struct error_spread spread = {
        .rest = rest,
        .rest_rows = rest_rows,
        .out_features = out_features,
        .u = u,
        .u_stride = u_stride,
        .errors = errors,
        .rows = rows,
        .column_tiles = plim_ceil_div(out_features, SPREAD_COLUMNS),
    };
    cpu_run_tasks(backend, plim_ceil_div(rest_rows, SPREAD_ROWS) * spread.column_tiles, spread_tile, &spread);
    return 0;
}

/* ---- products ---- */

static void product_tile(void *context, size_t task)
{
    const struct matrix_product *p = context;
    size_t column_tiles = plim_ceil_div(p->n, SPREAD_COLUMNS);
    size_t row = task / column_tiles * SPREAD_ROWS, column = task % column_tiles * SPREAD_COLUMNS;
    cblas_sgemm(CblasRowMajor, p->transpose_a ? CblasTrans : CblasNoTrans, CblasNoTrans,
                (blasint)plim_min(SPREAD_ROWS, p->m - row), (blasint)plim_min(SPREAD_COLUMNS, p->n - column),
                (blasint)p->k, p->alpha, p->a + (p->transpose_a ? row : row * p->a_stride), (blasint)p->a_stride,
                p->b + column, (blasint)p->b_stride, p->beta, p->c + row * p->c_stride + column,
                (blasint)p->c_stride);
}

static int cpu_multiply(struct backend *backend, const struct matrix_product *product, struct plim_err *err)
{
    (void)err;
    struct matrix_product p = *product;
    cpu_run_tasks(backend, plim_ceil_div(p.m, SPREAD_ROWS) * plim_ceil_div(p.n, SPREAD_COLUMNS), product_tile, &p);
    return 0;
}

static int cpu_pack_group(struct backend *backend, const uint8_t *codes, const uint8_t *levels, size_t rows,
                          size_t out_features, unsigned bits, uint32_t *q_weight, uint32_t *q_scale,
                          struct plim_err *err)
{
    (void)backend;
    (void)err;
    exl2_pack_rows(codes, rows, out_features, bits, q_weight);
    exl2_pack_scales(levels, out_features, q_scale);
    return 0;
}

const struct quantize_ops cpu_quantize_ops = {
    .hessian_add = cpu_hessian_add,
    .hessian_scale = cpu_hessian_scale,
    .hessian_permute = cpu_hessian_permute,
    .cholesky = cpu_cholesky,
    .invert_and_reverse = cpu_invert_and_reverse,
    .gather_weights = cpu_gather_weights,
    .scale_search = cpu_scale_search,
    .fit_scales = cpu_fit_scales,
    .quantise_rows = cpu_quantise_rows,
    .spread_errors = cpu_spread_errors,
    .pack_group = cpu_pack_group,
    .multiply = cpu_multiply,
    .divergence = cpu_divergence,
    .invert_bytes = cpu_invert_bytes,
    .search_bytes = search_bytes,
};
