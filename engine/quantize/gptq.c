#include "gptq.h"

#include "plimsoll/clock.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"

/* Device memory: buffers of one group, sized for the layout's largest, and what it becomes. */
struct group_buffers {
    uint8_t *codes;     /* [rows, N] */
    float *errors;      /* [rows, N]; NULL when rounding to nearest */
    uint8_t *levels;    /* [N] */
    /* All groups': the result's own arrays, and a single group's scales, where the host reaches device memory. */
    uint32_t *q_weight, *q_scale;
    struct group_scales *scales;
    struct group_scales own_scales;
};

static bool is_unified(const struct backend *backend)
{
    return backend->ops->unified_memory;
}

void gptq_result_release(struct gptq_result *result, struct plim_pool *pool)
{
    plim_pool_free(pool, result->q_weight);
    plim_pool_free(pool, result->q_scale);
    plim_pool_free(pool, result->q_scale_max);
    plim_pool_free(pool, result->q_groups);
    plim_pool_free(pool, result->q_invperm);
    *result = (struct gptq_result){ 0 };
}

struct exl2_tensors gptq_result_tensors(const struct gptq_result *r, const char *name)
{
    return (struct exl2_tensors){
        .name = name,
        .q_weight = (const int32_t *)r->q_weight,
        .word_rows = r->word_rows,
        .out_features = r->out_features,
        .q_scale = (const int32_t *)r->q_scale,
        .group_count = r->group_count,
        .q_scale_max = r->q_scale_max,
        .q_groups = r->q_groups,
        .q_invperm = r->q_invperm,
        .in_features = r->in_features,
    };
}

static size_t weight_bytes(const struct gptq_result *r)
{
    return r->word_rows * r->out_features * sizeof *r->q_weight;
}

static size_t scale_bytes(const struct gptq_result *r)
{
    return r->group_count * r->out_features / 8 * sizeof *r->q_scale;
}

static void *weights_alloc(struct plim_pool *pool, size_t bytes, struct plim_err *err)
{
    return plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_WEIGHTS, bytes, err);
}

static int result_alloc(struct gptq_result *r, struct plim_pool *pool, struct plim_err *err)
{
    if (!(r->q_weight = weights_alloc(pool, weight_bytes(r), err)) ||
        !(r->q_scale = weights_alloc(pool, scale_bytes(r), err)) ||
        !(r->q_scale_max = weights_alloc(pool, r->group_count * sizeof *r->q_scale_max, err)) ||
        !(r->q_groups = weights_alloc(pool, 2 * r->group_count * sizeof *r->q_groups, err)) ||
        !(r->q_invperm = weights_alloc(pool, r->in_features * sizeof *r->q_invperm, err)))
        return -1;
    return 0;
}

static uint32_t largest_group(const struct exl2_layout *layout)
{
    uint32_t rows = 0;
    for (int i = 0; i < layout->width_count; i++)
        rows = layout->width[i].group_rows > rows ? layout->width[i].group_rows : rows;
    return rows;
}

static void buffers_free(struct group_buffers *buffers, struct backend *backend)
{
    struct plim_pool *pool = backend->pool;
    plim_pool_free(pool, buffers->codes);
    plim_pool_free(pool, buffers->errors);
    plim_pool_free(pool, buffers->levels);
    if (is_unified(backend))
        return;
    plim_pool_free(pool, buffers->q_weight);
    plim_pool_free(pool, buffers->q_scale);
    plim_pool_free(pool, buffers->scales);
}

static void *stage_alloc(struct backend *backend, size_t bytes, struct plim_err *err)
{
    return plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, err);
}

/* Where packed groups go: on another tier than the result's they are collected, and brought over in one go. */
static int stage_open(struct group_buffers *buffers, struct backend *backend, const struct gptq_result *r,
                      struct plim_err *err)
{
    if (is_unified(backend)) {
        buffers->q_weight = r->q_weight;
        buffers->q_scale = r->q_scale;
        buffers->scales = &buffers->own_scales;
        return 0;
    }
    if (!(buffers->q_weight = stage_alloc(backend, weight_bytes(r), err)) ||
        !(buffers->q_scale = stage_alloc(backend, scale_bytes(r), err)) ||
        !(buffers->scales = stage_alloc(backend, r->group_count * sizeof *buffers->scales, err)))
        return -1;
    return 0;
}

static int buffers_alloc(struct group_buffers *buffers, struct plim_pool *pool, size_t rows, size_t columns,
                         bool with_errors, struct plim_err *err)
{
    buffers->codes = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, rows * columns, err);
    buffers->levels = buffers->codes ? plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, columns, err) : NULL;
    if (buffers->levels && with_errors)
        buffers->errors =
            plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, rows * columns * sizeof(float), err);
    return buffers->levels && (buffers->errors || !with_errors) ? 0 : -1;
}

size_t gptq_scratch_bytes(const struct quantize_ops *ops, const struct exl2_layout *layout, size_t in_features,
                          size_t out_features)
{
    size_t groups = exl2_layout_groups(layout, in_features, NULL);
    /* The format's own size counts just what the result's arrays hold. */
    size_t stored = (size_t)(exl2_layout_bits(layout, in_features, out_features) / 8);
    size_t buffers = largest_group(layout) * out_features * (1 + sizeof(float)) + out_features;
    return stored + groups * sizeof(struct exl2_group) + buffers + ops->search_bytes(out_features);
}

/* The time once everything asked for so far is done. */
static int time_done(struct backend *backend, const struct quantize_ops *ops, uint64_t *ns, struct plim_err *err)
{
    int rc = ops->wait ? ops->wait(backend, err) : 0;
    *ns = plim_now_ns();
    return rc;
}

/*
 * The group's errors to all later rows: SPREAD_AT_ONCE of them at a time, so that of a working copy in the slow tier no more is
 * resident. A backend cuts its sums by fewer rows, so that makes no difference to them.
 */
#define SPREAD_AT_ONCE ((size_t)512)

static int spread_group(const struct gptq_result *r, float *w, const struct exl2_group *group, const struct hessian *hessian,
                        const struct group_buffers *buffers, struct plim_err *err)
{
    struct backend *backend = hessian->backend;
    size_t k = r->in_features, n = r->out_features, row = group->first_row, begin = row + group->row_count;
    size_t step = is_unified(backend) ? SPREAD_AT_ONCE : k;

    for (size_t first = begin; first < k; first += step) {
        size_t rows = plim_min(step, k - first);
        if (backend_quantize_ops(backend->ops->name)
                ->spread_errors(backend, w + first * n, rows, n, hessian->matrix + row * k + first, k, buffers->errors,
                                group->row_count, err) < 0)
            return -1;
        plim_pool_set_aside(backend->pool, w, first * n * sizeof *w, rows * n * sizeof *w);
    }
    return 0;
}

static int quantise_group(struct gptq_result *r, float *w, const struct exl2_group *group, size_t g,
                          const struct hessian *hessian, struct group_buffers *buffers, struct plim_err *err)
{
    struct backend *backend = hessian->backend;
    const struct quantize_ops *ops = backend_quantize_ops(backend->ops->name);
    size_t k = r->in_features, n = r->out_features, first = group->first_row, rows = group->row_count;
    const float *u = buffers->errors ? hessian->matrix + first * k + first : NULL;
    struct group_scales *scales = is_unified(backend) ? buffers->scales : buffers->scales + g;
    uint64_t start = plim_now_ns(), searched, quantised, spread, packed;

    /* A backend may have ExLlamaV2's search only. */
    int rc = hessian->as_exllamav2 || !ops->fit_scales
                 ? ops->scale_search(backend, w + first * n, rows, n, group->bits, buffers->levels, scales, err)
                 : ops->fit_scales(backend, w + first * n, rows, n, group->bits, u, k, buffers->levels, scales, err);
    if (rc < 0 || time_done(backend, ops, &searched, err) < 0)
        return -1;
    if (ops->quantise_rows(backend, w + first * n, rows, n, group->bits, buffers->levels, scales, u, k, buffers->codes,
                           buffers->errors, err) < 0 ||
        time_done(backend, ops, &quantised, err) < 0)
        return -1;
    if (u && spread_group(r, w, group, hessian, buffers, err) < 0)
        return -1;
    plim_pool_set_aside(backend->pool, w, first * n * sizeof *w, rows * n * sizeof *w);
    if (time_done(backend, ops, &spread, err) < 0)
        return -1;
    if (ops->pack_group(backend, buffers->codes, buffers->levels, rows, n, group->bits,
                        buffers->q_weight + group->first_word * n, buffers->q_scale + g * n / 8, err) < 0 ||
        time_done(backend, ops, &packed, err) < 0)
        return -1;
    if (is_unified(backend))
        r->q_scale_max[g] = scales->scale_max;
    r->q_groups[2 * g] = (int16_t)group->bits;
    r->q_groups[2 * g + 1] = (int16_t)group->first_word;

    r->search_ns += searched - start;
    r->quantise_ns += quantised - searched;
    r->spread_ns += spread - quantised;
    r->pack_ns += packed - spread;
    return 0;
}

/* Brings the packed groups over. */
static int collect(struct gptq_result *r, const struct group_buffers *buffers, struct backend *backend,
                   struct plim_err *err)
{
    size_t bytes = r->group_count * sizeof *buffers->scales;
    uint64_t start = plim_now_ns();

    if (is_unified(backend))
        return 0;
    struct group_scales *scales = plim_pool_alloc(backend->pool, PLIM_HOST, PLIM_TAG_WORKSPACE, bytes, err);
    int rc = !scales || backend->ops->download(backend, r->q_weight, buffers->q_weight, weight_bytes(r), err) < 0 ||
             backend->ops->download(backend, r->q_scale, buffers->q_scale, scale_bytes(r), err) < 0 ||
             backend->ops->download(backend, scales, buffers->scales, bytes, err) < 0;
    for (size_t g = 0; !rc && g < r->group_count; g++)
        r->q_scale_max[g] = scales[g].scale_max;
    plim_pool_free(backend->pool, scales);
    r->pack_ns += plim_now_ns() - start;
    return rc ? -1 : 0;
}

int gptq_quantise(struct gptq_result *result, float *w, size_t out_features, const struct hessian *hessian,
                  const struct exl2_layout *layout, bool round_to_nearest, struct plim_err *err)
{
    struct backend *backend = hessian->backend;
    struct plim_pool *pool = backend->pool;
    size_t k = hessian->in_features;
    struct group_buffers buffers = { 0 };
    struct exl2_group *groups = NULL;
    int rc = -1;

    *result = (struct gptq_result){ .in_features = k, .out_features = out_features };
    result->group_count = exl2_layout_groups(layout, k, NULL);
    groups = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_METADATA, result->group_count * sizeof *groups, err);
    if (!groups)
        goto out;
    exl2_layout_groups(layout, k, groups);
    const struct exl2_group *last = &groups[result->group_count - 1];
    result->word_rows = last->first_word + last->row_count * last->bits / 32;
    /* q_groups holds a group's first word as a signed 16-bit number. */
    if (last->first_word > INT16_MAX) {
        plim_err_input(err, "%zu input features at these widths need %u rows of words; the format ends at %d", k,
                       last->first_word, INT16_MAX);
        goto out;
    }
    if (result_alloc(result, pool, err) < 0 ||
        buffers_alloc(&buffers, pool, largest_group(layout), out_features, !round_to_nearest, err) < 0 ||
        stage_open(&buffers, backend, result, err) < 0)
        goto out;
    for (size_t i = 0; i < k; i++)
        result->q_invperm[hessian->order[i]] = (int32_t)i;
    for (size_t g = 0; g < result->group_count; g++)
        if (quantise_group(result, w, &groups[g], g, hessian, &buffers, err) < 0)
            goto out;
    rc = collect(result, &buffers, backend, err);

out:
    buffers_free(&buffers, backend);
    plim_pool_free(pool, groups);
    if (rc < 0)
        gptq_result_release(result, pool);
    return rc;
}
