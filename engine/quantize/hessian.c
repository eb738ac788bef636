#include "hessian.h"

#include <math.h>
#include <stdlib.h>

#include "plimsoll/clock.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"

/*
 * Damping is a share of the diagonal's geometric mean. The arithmetic mean, which ExLlamaV2 takes, follows the few largest
 * inputs: the first token of a row makes inputs of SmolLM2's layers.11.mlp.down_proj whose squares are 400000 times the
 * others', and 0.12 of that mean buries the matrix, so that GPTQ does no better than rounding there. Entries count as at
 * least DIAGONAL_FLOOR of the mean: an input that never fires must not take the damping to zero.
 */
#define DAMPING_SHARE 0.05
#define DIAGONAL_FLOOR 1e-8
#define EXLLAMAV2_DAMPING_SHARE 0.12
#define DAMPING_MINIMUM 1e-5
#define DAMPING_ATTEMPTS 10

static size_t matrix_bytes(const struct hessian *h)
{
    return h->in_features * h->in_features * sizeof *h->matrix;
}

static const struct quantize_ops *ops_of(const struct hessian *h)
{
    return backend_quantize_ops(h->backend->ops->name);
}

int hessian_init_on(struct hessian *hessian, struct backend *backend, enum plim_tier tier, size_t in_features,
                    struct plim_err *err)
{
    *hessian = (struct hessian){ .backend = backend, .tier = tier, .in_features = in_features };
    hessian->matrix =
        plim_pool_calloc(backend->pool, tier, PLIM_TAG_HESSIAN, in_features, in_features * sizeof(float), err);
    return hessian->matrix ? 0 : -1;
}

int hessian_init(struct hessian *hessian, struct backend *backend, size_t in_features, struct plim_err *err)
{
    return hessian_init_on(hessian, backend, PLIM_FAST, in_features, err);
}

void hessian_release(struct hessian *hessian)
{
    if (!hessian->backend)
        return;
    plim_pool_free(hessian->backend->pool, hessian->matrix);
    plim_pool_free(hessian->backend->pool, hessian->order);
    plim_pool_free(hessian->backend->pool, hessian->diagonal);
    *hessian = (struct hessian){ 0 };
}

int hessian_add(struct hessian *hessian, const float *x, size_t rows, struct plim_err *err)
{
    return hessian_add_piece(hessian, x, rows, true, err);
}

int hessian_add_piece(struct hessian *hessian, const float *x, size_t rows, bool first, struct plim_err *err)
{
    hessian->row_count += first;
    return ops_of(hessian)->hessian_add(hessian->backend, hessian->matrix, x, rows, hessian->in_features, err);
}

int hessian_add_token(struct hessian *hessian, const float *x, float weight, struct plim_err *err)
{
    const struct backend_ops *ops = hessian->backend->ops;
    struct plim_pool *pool = hessian->backend->pool;
    size_t k = hessian->in_features, bytes = k * sizeof(float);
    float *host = NULL, *scaled = NULL;
    int rc = -1;

    if (!(host = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_WORKSPACE, bytes, err)) ||
        !(scaled = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, err)) ||
        ops->download(hessian->backend, host, x, bytes, err) < 0)
        goto out;
    for (size_t i = 0; i < k; i++)
        host[i] *= sqrtf(weight);
    if (ops->upload(hessian->backend, scaled, host, bytes, err) < 0)
        goto out;
    rc = ops_of(hessian)->hessian_add(hessian->backend, hessian->matrix, scaled, 1, k, err);

out:
    plim_pool_free(pool, scaled);
    plim_pool_free(pool, host);
    return rc;
}

/* Divides by the row count; copies the diagonal out; refuses what no damping can mend. */
static int normalise(struct hessian *h, const char *name, struct plim_err *err)
{
    size_t k = h->in_features;
    double sum = 0;

    if (ops_of(h)->hessian_scale(h->backend, h->matrix, k, h->row_count, h->diagonal, err) < 0)
        return -1;
    for (size_t i = 0; i < k; i++) {
        float value = h->diagonal[i];
        if (!isfinite(value))
            return plim_err_input(err, "%s: the Hessian's diagonal is %g at input feature %zu; the activations that "
                                  "reach this layer hold NaN or infinity, or overflow", name, (double)value, i);
        sum += (double)value;
    }
    h->diagonal_mean = sum / (double)k;
    return 0;
}

static double damping_of(const struct hessian *h)
{
    double sum = 0, least = DIAGONAL_FLOOR * h->diagonal_mean;
    if (h->as_exllamav2)
        return fmax(EXLLAMAV2_DAMPING_SHARE * h->diagonal_mean, DAMPING_MINIMUM);
    if (!(h->diagonal_mean > 0))
        return DAMPING_MINIMUM;
    for (size_t i = 0; i < h->in_features; i++)
        sum += log(fmax((double)h->diagonal[i], least));
    return DAMPING_SHARE * exp(sum / (double)h->in_features);
}

struct ranked_feature {
    float diagonal;
    uint16_t feature;
};

static int by_falling_diagonal(const void *a, const void *b)
{
    const struct ranked_feature *x = a, *y = b;
    if (x->diagonal != y->diagonal)
        return x->diagonal < y->diagonal ? 1 : -1;
    return (int)x->feature - (int)y->feature;
}

static int order_features(struct hessian *h, struct plim_err *err)
{
    struct plim_pool *pool = h->backend->pool;
    struct ranked_feature *ranked =
        plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_WORKSPACE, h->in_features * sizeof *ranked, err);
    if (!ranked)
        return -1;
    for (size_t i = 0; i < h->in_features; i++)
        ranked[i] = (struct ranked_feature){ h->diagonal[i], (uint16_t)i };
    qsort(ranked, h->in_features, sizeof *ranked, by_falling_diagonal);
    for (size_t i = 0; i < h->in_features; i++)
        h->order[i] = ranked[i].feature;
    plim_pool_free(pool, ranked);
    return 0;
}

/* Moves the matrix to the other tier: the old block is freed before the new one is touched by anybody else. */
static int move_to_tier(struct hessian *h, enum plim_tier tier, struct plim_err *err)
{
    const struct backend_ops *ops = h->backend->ops;
    struct plim_pool *pool = h->backend->pool;
    float *moved = plim_pool_alloc(pool, tier, PLIM_TAG_HESSIAN, matrix_bytes(h), err);
    if (!moved)
        return -1;
    int rc = tier == PLIM_SLOW ? ops->download(h->backend, moved, h->matrix, matrix_bytes(h), err)
                               : ops->upload(h->backend, moved, h->matrix, matrix_bytes(h), err);
    plim_pool_free(pool, rc < 0 ? moved : h->matrix);
    if (rc == 0)
        h->matrix = moved;
    return rc;
}

int hessian_set_aside(struct hessian *hessian, struct plim_err *err)
{
    if (!hessian->matrix || hessian->tier != PLIM_FAST || hessian->set_aside)
        return 0;
    if (move_to_tier(hessian, PLIM_SLOW, err) < 0)
        return -1;
    hessian->set_aside = true;
    return 0;
}

int hessian_bring_back(struct hessian *hessian, struct plim_err *err)
{
    if (!hessian->set_aside)
        return 0;
    if (move_to_tier(hessian, PLIM_FAST, err) < 0)
        return -1;
    hessian->set_aside = false;
    return 0;
}

/* The time once everything asked for so far is done. A wait that fails is said by whoever comes next. */
static uint64_t time_done(const struct hessian *h)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    if (ops_of(h)->wait)
        (void)ops_of(h)->wait(h->backend, &unsaid);
    return plim_now_ns();
}

/* Since the last call: the peak of this phase. */
static void take_phase_peak(struct plim_pool *pool, uint64_t peak_bytes[PLIM_TIER_COUNT],
                            struct hessian_report *report)
{
    struct plim_pool_stats stats;
    plim_pool_stats(pool, &stats);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        peak_bytes[tier] = plim_max(peak_bytes[tier], stats.peak[tier].total_bytes);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            report->tag_peak_bytes[tier][tag] =
                plim_max(report->tag_peak_bytes[tier][tag], stats.tag_peak_bytes[tier][tag]);
    }
    plim_pool_reset_peak(pool);
}

/*
 * One attempt: permute and damp, then factor. The offloaded permutation leaves the original in the slow tier's upper
 * triangle and brings the whole buffer back, so a further attempt can start from either tier.
 */
static int attempt(struct hessian *h, const uint16_t *reversed, float damping, bool offload,
                   struct hessian_report *report, struct plim_err *err)
{
    const struct quantize_ops *ops = ops_of(h);
    struct plim_pool *pool = h->backend->pool;
    uint64_t start = plim_now_ns();

    if (offload && move_to_tier(h, PLIM_SLOW, err) < 0)
        return -1;
    if (offload)
        plim_pool_reset_peak(pool);
    if (ops->hessian_permute(h->backend, h->matrix, h->diagonal, reversed, h->in_features, damping, err) < 0)
        return -1;
    take_phase_peak(pool, report->permute_peak_bytes, report);
    if (offload && move_to_tier(h, PLIM_FAST, err) < 0)
        return -1;
    uint64_t permuted = time_done(h);
    report->permute_ns += permuted - start;

    int rc = ops->cholesky(h->backend, h->matrix, h->in_features, err);
    report->cholesky_ns += time_done(h) - permuted;
    return rc;
}

int hessian_order(struct hessian *hessian, const char *name, struct plim_err *err)
{
    struct plim_pool *pool = hessian->backend->pool;
    size_t k = hessian->in_features;
    hessian->diagonal = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_HESSIAN, k * sizeof *hessian->diagonal, err);
    hessian->order = hessian->diagonal
                         ? plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_HESSIAN, k * sizeof *hessian->order, err)
                         : NULL;
    if (!hessian->order || normalise(hessian, name, err) < 0)
        return -1;
    return order_features(hessian, err);
}

static int factor_with_damping(struct hessian *h, const uint16_t *reversed, const char *name,
                               struct hessian_report *report, struct plim_err *err)
{
    float damping = (float)damping_of(h);
    while (report->damping_attempts < DAMPING_ATTEMPTS) {
        report->damping_attempts++;
        /* ExLlamaV2 adds the same amount once more; ours starts so low that it doubles. */
        report->damping = damping * (h->as_exllamav2 ? (float)report->damping_attempts
                                                     : (float)(1 << (report->damping_attempts - 1)));
        int state = attempt(h, reversed, report->damping, report->offloaded, report, err);
        if (state <= 0)
            return state;
    }
    return plim_err_input(err, "%s: the Hessian is not positive definite after %d dampings (%g in all on a mean "
                          "diagonal of %g); give more or other calibration rows", name, DAMPING_ATTEMPTS,
                          (double)report->damping, h->diagonal_mean);
}

int hessian_factor(struct hessian *hessian, const char *name, int64_t offload_threshold_elements,
                   struct hessian_report *report, struct plim_err *err)
{
    struct plim_pool *pool = hessian->backend->pool;
    size_t k = hessian->in_features;

    *report = (struct hessian_report){ .offloaded = hessian->tier == PLIM_FAST &&
                                                    (int64_t)(k * k) > offload_threshold_elements };
    uint16_t *reversed = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_WORKSPACE, k * sizeof *reversed, err);
    if (!reversed)
        return -1;
    for (size_t i = 0; i < k; i++)
        reversed[i] = hessian->order[k - 1 - i];
    plim_pool_reset_peak(pool);
    int rc = factor_with_damping(hessian, reversed, name, report, err);
    plim_pool_free(pool, reversed);
    plim_pool_free(pool, hessian->diagonal);
    hessian->diagonal = NULL;
    if (rc < 0)
        return -1;

    uint64_t start = plim_now_ns();
    rc = ops_of(hessian)->invert_and_reverse(hessian->backend, hessian->matrix, k, err);
    report->invert_ns = time_done(hessian) - start;
    take_phase_peak(pool, report->factor_peak_bytes, report);
    return rc;
}
