/* One made-up linear layer, quantised: the work of a conversion without a model. */

#include <math.h>
#include <string.h>

#include "digest.h"
#include "half.h"
#include "model.h"
#include "plimsoll/random.h"
#include "quantize_ops.h"
#include "threads.h"
#include "working_copy.h"

/* Streams of random numbers for one seed. */
enum { STREAM_SPREAD, STREAM_WEIGHTS, STREAM_ROWS };

struct layer_run {
    struct plim_engine *engine;
    struct backend *backend;
    const struct plim_quantize_layer_options *options;
    struct meter meter;
    size_t padded;
    float *spread;          /* [K] of each feature */
    uint16_t *weight;       /* fp16 [N, K] */
    float *x;               /* [length, K] one sequence */
    float *piece;           /* device memory that isn't the host's: [PIECE_TOKENS or length, K] of x; else NULL */
};

/* Tokens that are in device memory at a time. */
#define PIECE_TOKENS ((size_t)256)

static bool is_unified(const struct layer_run *r)
{
    return r->backend->ops->unified_memory;
}

static void *alloc_on(struct layer_run *r, enum plim_tier tier, enum plim_tag tag, size_t count, size_t size,
                      struct plim_err *err)
{
    size_t bytes;
    if (!plim_size_mul(count, size, &bytes)) {
        plim_err_input(err, "the layer is too large");
        return NULL;
    }
    return plim_pool_alloc(r->engine->pool, tier, tag, bytes, err);
}

static void *alloc(struct layer_run *r, enum plim_tag tag, size_t count, size_t size, struct plim_err *err)
{
    return alloc_on(r, PLIM_HOST, tag, count, size, err);
}

/* Tokens first .. first + tokens - 1 of x in device memory, until the next call. */
static const float *device_tokens(struct layer_run *r, size_t first, size_t tokens, struct plim_err *err)
{
    size_t k = r->options->in_features;
    if (is_unified(r))
        return r->x + first * k;
    return r->backend->ops->upload(r->backend, r->piece, r->x + first * k, tokens * k * sizeof *r->x, err) < 0 ? NULL
                                                                                                           : r->piece;
}

/* ---- made-up numbers ---- */

/*
 * One sequence of random numbers for all threads: finding where each piece of it begins is quick beside making normal
 * variates of it, of which a 70B model's layer takes 3e8.
 */
#define MADE_PIECES 64

struct making {
    struct layer_run *run;
    size_t count, piece;                    /* tokens or weights, and how many a piece has */
    struct plim_random begin[MADE_PIECES];
};

static void make_pieces(struct layer_run *r, uint64_t stream, size_t count, size_t words_each, threads_body *body)
{
    struct making m = { .run = r, .count = count, .piece = plim_ceil_div(count, (size_t)MADE_PIECES) };
    struct plim_random random;

    plim_random_seed(&random, r->options->seed, stream);
    for (size_t i = 0; i < MADE_PIECES; i++) {
        m.begin[i] = random;
        plim_random_skip(&random, m.piece * words_each);
    }
    threads_run(r->backend->threads, MADE_PIECES, 1, body, &m);
}

/* Features of log-normal spread, and one component that all share, as activations have. */
static void make_tokens(void *context, size_t begin, size_t end, int thread)
{
    const struct making *m = context;
    const struct layer_run *r = m->run;
    size_t k = r->options->in_features;

    (void)thread;
    for (size_t piece = begin; piece < end; piece++) {
        struct plim_random random = m->begin[piece];
        for (size_t t = piece * m->piece; t < plim_min(m->count, (piece + 1) * m->piece); t++) {
            float shared = 0.5f * (float)plim_random_normal(&random);
            for (size_t i = 0; i < k; i++)
                r->x[t * k + i] = r->spread[i] * ((float)plim_random_normal(&random) + shared);
        }
    }
}

static void make_row(struct layer_run *r, size_t row)
{
    make_pieces(r, STREAM_ROWS + row, r->options->length, r->options->in_features + 1, make_tokens);
}

static int make_spread(struct layer_run *r, struct plim_err *err)
{
    size_t k = r->options->in_features;
    struct plim_random random;

    if (!(r->spread = alloc(r, PLIM_TAG_CALIBRATION, k, sizeof *r->spread, err)) ||
        !(r->x = alloc(r, PLIM_TAG_CALIBRATION, r->options->length * k, sizeof *r->x, err)))
        return -1;
    if (!is_unified(r) && !(r->piece = alloc_on(r, PLIM_FAST, PLIM_TAG_CALIBRATION,
                                                plim_min(PIECE_TOKENS, r->options->length) * k, sizeof *r->piece, err)))
        return -1;
    plim_random_seed(&random, r->options->seed, STREAM_SPREAD);
    for (size_t i = 0; i < k; i++)
        r->spread[i] = expf(0.7f * (float)plim_random_normal(&random));
    return 0;
}

static void make_weight_pieces(void *context, size_t begin, size_t end, int thread)
{
    const struct making *m = context;
    const struct layer_run *r = m->run;
    float scale = 1.0f / sqrtf((float)r->options->in_features);

    (void)thread;
    for (size_t piece = begin; piece < end; piece++) {
        struct plim_random random = m->begin[piece];
        for (size_t i = piece * m->piece; i < plim_min(m->count, (piece + 1) * m->piece); i++)
            r->weight[i] = half_from_float(scale * (float)plim_random_normal(&random));
    }
}

static int make_weights(struct layer_run *r, struct plim_err *err)
{
    size_t count = r->options->in_features * r->options->out_features;

    if (!(r->weight = alloc(r, PLIM_TAG_WEIGHTS, count, sizeof *r->weight, err)))
        return -1;
    make_pieces(r, STREAM_WEIGHTS, count, 1, make_weight_pieces);
    return 0;
}

/* A sequence in one piece, or in the pieces that it has on the device. */
static int add_sequence(struct layer_run *r, struct hessian *h, struct plim_err *err)
{
    size_t length = r->options->length, piece = is_unified(r) ? length : PIECE_TOKENS;
    for (size_t t = 0; t < length; t += piece) {
        size_t tokens = plim_min(piece, length - t);
        const float *x = device_tokens(r, t, tokens, err);
        if (!x || hessian_add_piece(h, x, tokens, t == 0, err) < 0)
            return -1;
    }
    return 0;
}

static int make_hessian(struct layer_run *r, struct hessian *h, struct hessian_report *report, struct plim_err *err)
{
    if (hessian_init(h, r->backend, r->options->in_features, err) < 0)
        return -1;
    h->as_exllamav2 = r->options->as_exllamav2;
    for (size_t row = 0; row < r->options->rows; row++) {
        meter_enter(&r->meter, PLIM_QUANTIZE_OTHER);
        make_row(r, row);
        meter_enter(&r->meter, PLIM_QUANTIZE_HESSIAN);
        if (add_sequence(r, h, err) < 0)
            return -1;
    }
    if (hessian_order(h, "layer", err) < 0)
        return -1;
    if (r->options->round_to_nearest)
        return 0;
    meter_enter(&r->meter, PLIM_QUANTIZE_CHOLESKY);
    if (hessian_factor(h, "layer", r->engine->parameters.count[PLIM_HESSIAN_OFFLOAD_THRESHOLD], report, err) < 0)
        return -1;
    meter_add_hessian(&r->meter, report);
    return 0;
}

/* Relative error of x W over the rows, 64 tokens at a time. */
static int measure_error(struct layer_run *r, const struct linear_source *dense, const struct gptq_result *result,
                         double *error, struct plim_err *err)
{
    enum { PIECE = 64 };
    const struct backend_ops *ops = r->backend->ops;
    size_t n = r->options->out_features, length = r->options->length;
    struct linear_source source = quantised_source(dense, result);
    struct matrix before = { 0 }, after = { 0 };
    double difference = 0, reference = 0;
    int rc = -1;

    float *y = alloc_on(r, PLIM_FAST, PLIM_TAG_ACTIVATIONS, 2 * PIECE * n, sizeof *y, err);
    float *host = y && !is_unified(r) ? alloc(r, PLIM_TAG_ACTIVATIONS, 2 * PIECE * n, sizeof *y, err) : y;
    if (!host || ops->matrix_init(r->backend, &before, dense, err) < 0 ||
        ops->matrix_init(r->backend, &after, &source, err) < 0)
        goto out;
    for (size_t row = 0; row < r->options->rows; row++) {
        make_row(r, row);
        for (size_t t = 0; t < length; t += PIECE) {
            size_t tokens = plim_min((size_t)PIECE, length - t);
            const float *x = device_tokens(r, t, tokens, err);
            if (!x || ops->linear(r->backend, &before, x, tokens, y, false, err) < 0 ||
                ops->linear(r->backend, &after, x, tokens, y + PIECE * n, false, err) < 0)
                goto out;
            if (host != y &&
                (ops->download(r->backend, host, y, tokens * n * sizeof *y, err) < 0 ||
                 ops->download(r->backend, host + PIECE * n, y + PIECE * n, tokens * n * sizeof *y, err) < 0))
                goto out;
            for (size_t i = 0; i < tokens * n; i++) {
                double d = (double)host[PIECE * n + i] - (double)host[i];
                difference += d * d;
                reference += (double)host[i] * (double)host[i];
            }
        }
    }
    *error = reference > 0 ? sqrt(difference / reference) : 0;
    rc = 0;

out:
    if (after.impl)
        ops->matrix_release(r->backend, &after);
    if (before.impl)
        ops->matrix_release(r->backend, &before);
    if (host != y)
        plim_pool_free(r->engine->pool, host);
    plim_pool_free(r->engine->pool, y);
    return rc;
}

static int take_digest(const struct gptq_result *result, char text[33], struct plim_err *err)
{
    struct digest *digest = digest_begin(err);
    if (!digest)
        return -1;
    digest_add(digest, result->q_weight, result->word_rows * result->out_features * sizeof *result->q_weight);
    digest_add(digest, result->q_scale, result->group_count * result->out_features / 8 * sizeof *result->q_scale);
    digest_add(digest, result->q_scale_max, result->group_count * sizeof *result->q_scale_max);
    digest_add(digest, result->q_groups, 2 * result->group_count * sizeof *result->q_groups);
    digest_add(digest, result->q_invperm, result->in_features * sizeof *result->q_invperm);
    digest_end(digest, text);
    return 0;
}

/* A row of the factor at a time, where the host doesn't reach it: x holds one, and isn't needed any more. */
static int digest_factor(struct layer_run *r, const struct hessian *h, char text[33], struct plim_err *err)
{
    size_t k = h->in_features;
    struct digest *digest = digest_begin(err);
    int rc = digest ? 0 : -1;

    if (digest && is_unified(r))
        digest_add(digest, h->matrix, k * k * sizeof *h->matrix);
    for (size_t row = 0; rc == 0 && !is_unified(r) && row < k; row++) {
        rc = r->backend->ops->download(r->backend, r->x, h->matrix + row * k, k * sizeof *r->x, err);
        if (rc == 0)
            digest_add(digest, r->x, k * sizeof *r->x);
    }
    if (digest)
        digest_add(digest, h->order, k * sizeof *h->order);
    digest_end(digest, text);
    return rc;
}

static void take_report(struct plim_quantize_layer_result *out, const struct hessian_report *report)
{
    out->offloaded = report->offloaded;
    out->damping_attempts = report->damping_attempts;
}

static void stop_meter(struct layer_run *r, struct plim_quantize_layer_result *out)
{
    meter_stop(&r->meter, &out->usage);
    memcpy(out->reserved_peak_bytes, r->meter.reserved_peak_bytes, sizeof out->reserved_peak_bytes);
}

static int run_factor(struct layer_run *r, struct plim_quantize_layer_result *out, struct plim_err *err)
{
    struct hessian_report report = { 0 };
    struct hessian h = { 0 };
    int rc = -1;

    if (make_spread(r, err) < 0)
        goto out;
    meter_start(&r->meter, r->backend);
    if (make_hessian(r, &h, &report, err) < 0)
        goto out;
    stop_meter(r, out);
    take_report(out, &report);
    rc = digest_factor(r, &h, out->digest, err);

out:
    hessian_release(&h);
    return rc;
}

static int run_layer(struct layer_run *r, struct plim_quantize_layer_result *out, struct plim_err *err)
{
    const struct exl2_layout *layout = exl2_head_layout(r->options->bits);
    size_t k = r->options->in_features;
    struct hessian_report report = { 0 };
    struct gptq_result result = { 0 };
    struct hessian h = { 0 };
    int rc = -1;

    if (make_spread(r, err) < 0 || make_weights(r, err) < 0)
        goto out;
    struct linear_source dense = {
        .name = "layer",
        .dtype = DTYPE_F16,
        .weight = r->weight,
        .in_features = k,
        .out_features = r->options->out_features,
        .prescale = 1,
    };
    meter_start(&r->meter, r->backend);
    if (make_hessian(r, &h, &report, err) < 0)
        goto out;
    meter_enter(&r->meter, PLIM_QUANTIZE_OTHER);
    if (quantise_layer(&result, &dense, &h, NULL, layout, r->options->round_to_nearest, PLIM_FAST, &r->meter, err) < 0)
        goto out;
    stop_meter(r, out);
    hessian_release(&h);
    if (measure_error(r, &dense, &result, &out->error, err) < 0 || take_digest(&result, out->digest, err) < 0)
        goto out;
    out->bits_per_weight = (double)exl2_layout_bits(layout, k, r->padded) / ((double)k * (double)r->padded);
    take_report(out, &report);
    rc = 0;

out:
    gptq_result_release(&result, r->engine->pool);
    hessian_release(&h);
    return rc;
}

static int check_options(const struct plim_quantize_layer_options *o, struct plim_err *err)
{
    if (o->in_features == 0 || o->in_features > 65536)
        return plim_err_input(err, "%zu input features: expected 1 to 65536", o->in_features);
    if (o->rows == 0 || o->length == 0)
        return plim_err_input(err, "rows and length must be at least 1");
    if (o->factor_only && o->round_to_nearest)
        return plim_err_input(err, "rounding to nearest needs no factor");
    if (o->factor_only)
        return 0;
    if (o->in_features % 32 != 0)
        return plim_err_input(err, "%zu input features: the format takes multiples of 32", o->in_features);
    if (o->out_features == 0)
        return plim_err_input(err, "output features must be at least 1");
    if (!exl2_head_layout(o->bits))
        return plim_err_input(err, "%d bits: expected 2, 3, 4, 5, 6 or 8", o->bits);
    return 0;
}

int plim_quantize_layer(struct plim_engine *engine, const struct plim_quantize_layer_options *options,
                        struct plim_quantize_layer_result *result, struct plim_err *err)
{
    struct layer_run run = { .engine = engine, .backend = &engine->backend, .options = options };
    struct plim_pool_stats before, after;

    *result = (struct plim_quantize_layer_result){ 0 };
    plim_pool_set_scope(engine->pool, "quantize_layer");
    if (!backend_quantize_ops(run.backend->ops->name))
        return plim_err_input(err, "backend %s has no quantizer", run.backend->ops->name);
    if (check_options(options, err) < 0)
        return -1;
    run.padded = plim_round_up(options->out_features, 32);
    plim_pool_stats(engine->pool, &before);
    engine->backend.fixed_pieces = true;
    int rc = options->factor_only ? run_factor(&run, result, err) : run_layer(&run, result, err);
    engine->backend.fixed_pieces = false;
    plim_pool_free(engine->pool, run.piece);
    plim_pool_free(engine->pool, run.x);
    plim_pool_free(engine->pool, run.weight);
    plim_pool_free(engine->pool, run.spread);
    if (engine->parameters.count[PLIM_RELEASE_AT_BOUNDARY])
        plim_pool_trim(engine->pool);
    plim_pool_stats(engine->pool, &after);
    result->floor_bytes = after.current[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes;
    result->reserved_bytes = after.reserved_bytes[PLIM_FAST];
    return rc;
}

/* ---- prediction ---- */

/* Sizes in bytes that the peaks are made of; K inputs, P padded outputs. */
struct layer_sizes {
    uint64_t calibration;    /* spread and one sequence */
    uint64_t weights;        /* fp16 */
    uint64_t matrix;         /* the Hessian, later the factor */
    uint64_t features;       /* 1 byte for each input */
    uint64_t copy;           /* the working copy of the weights */
    uint64_t stored;         /* packed */
    uint64_t groups;         /* their table */
    uint64_t work;           /* a group's codes and errors, the scale search */
};

static struct layer_sizes sizes_of(const struct quantize_ops *ops, const struct plim_quantize_layer_options *o)
{
    size_t k = o->in_features, padded = plim_round_up(o->out_features, 32);
    struct layer_sizes s = {
        .calibration = sizeof(float) * k * (1 + o->length),
        .matrix = sizeof(float) * k * k,
        .features = k,
    };
    if (o->factor_only)
        return s;
    const struct exl2_layout *layout = exl2_head_layout(o->bits);
    size_t largest = 0;
    for (int i = 0; i < layout->width_count; i++)
        largest = plim_max(largest, (size_t)layout->width[i].group_rows);
    s.weights = sizeof(uint16_t) * k * o->out_features;
    s.copy = sizeof(float) * k * padded;
    s.stored = exl2_layout_bits(layout, k, padded) / 8;
    s.groups = exl2_layout_groups(layout, k, NULL) * sizeof(struct exl2_group);
    s.work = gptq_scratch_bytes(ops, layout, k, padded) - s.stored - s.groups;
    if (o->round_to_nearest)
        s.work -= largest * padded * sizeof(float);
    return s;
}

static void predict_tags(struct plim_quantize_usage *u, const struct plim_quantize_layer_options *o,
                         const struct layer_sizes *s, uint64_t inversion)
{
    uint64_t *fast = u->tag_peak_bytes[PLIM_FAST];
    fast[PLIM_TAG_CALIBRATION] = s->calibration;
    fast[PLIM_TAG_HESSIAN] = s->matrix + 6 * s->features;
    fast[PLIM_TAG_WORKSPACE] = plim_max(8 * s->features, inversion);   /* the features' ranking comes first */
    if (o->factor_only)
        return;
    fast[PLIM_TAG_WEIGHTS] = s->weights + s->stored;
    fast[PLIM_TAG_METADATA] = s->groups;
    fast[PLIM_TAG_WORKSPACE] = plim_max(fast[PLIM_TAG_WORKSPACE], s->copy + s->work);
}

static bool is_offloaded(const struct plim_parameters *parameters, const struct plim_quantize_layer_options *o)
{
    return (int64_t)(o->in_features * o->in_features) > parameters->count[PLIM_HESSIAN_OFFLOAD_THRESHOLD];
}

/*
 * Device memory is the host's: all of it on the fast tier. Of the features' vectors (`features` counts bytes): the diagonal
 * takes 4, the order 2, the ranking that makes it 8, the reversed order 2. The diagonal and the reversed order are gone
 * before the inversion.
 */
static void predict_unified(const struct quantize_ops *ops, const struct plim_parameters *parameters,
                            const struct plim_quantize_layer_options *o, struct plim_quantize_usage *usage)
{
    struct layer_sizes s = sizes_of(ops, o);
    uint64_t *fast = usage->phase_peak_bytes[PLIM_FAST], *slow = usage->phase_peak_bytes[PLIM_SLOW];
    uint64_t base = s.calibration + s.weights, held = base + s.matrix + (o->round_to_nearest ? 6 : 2) * s.features;
    bool offloaded = is_offloaded(parameters, o);
    uint64_t inversion = o->round_to_nearest ? 0 : ops->invert_bytes(o->in_features);

    fast[PLIM_QUANTIZE_HESSIAN] = base + s.matrix + 14 * s.features;
    fast[PLIM_QUANTIZE_OTHER] = held;
    if (!o->round_to_nearest) {
        fast[PLIM_QUANTIZE_PERMUTE] = base + 8 * s.features + (offloaded ? 0 : s.matrix);
        fast[PLIM_QUANTIZE_CHOLESKY] = plim_max(base + s.matrix + 8 * s.features, held + inversion);
        fast[PLIM_QUANTIZE_INVERT] = fast[PLIM_QUANTIZE_CHOLESKY];
        /* On its way back the matrix is in both tiers. */
        for (int phase = PLIM_QUANTIZE_PERMUTE; offloaded && phase <= PLIM_QUANTIZE_INVERT; phase++)
            slow[phase] = s.matrix;
    }
    if (!o->factor_only) {
        fast[PLIM_QUANTIZE_GATHER] = held + s.copy;
        fast[PLIM_QUANTIZE_QUANTISE] = held + s.copy + s.stored + s.groups + s.work;
        fast[PLIM_QUANTIZE_OTHER] = held + s.copy + s.stored;
    }
    predict_tags(usage, o, &s, inversion);
    if (!o->round_to_nearest && offloaded)
        usage->tag_peak_bytes[PLIM_SLOW][PLIM_TAG_HESSIAN] = s.matrix;
}

/* Device memory of its own: the host's part, the slow tier. */
static void predict_host(const struct layer_sizes *s, const struct plim_quantize_layer_options *o, bool offloaded,
                         size_t group_count, struct plim_quantize_usage *usage)
{
    uint64_t *peak = usage->phase_peak_bytes[PLIM_SLOW], *tag = usage->tag_peak_bytes[PLIM_SLOW];
    uint64_t base = s->calibration + s->weights, held = base + (o->round_to_nearest ? 6 : 2) * s->features;
    uint64_t moved = offloaded && !o->round_to_nearest ? s->matrix : 0, scales = group_count * sizeof(struct group_scales);

    peak[PLIM_QUANTIZE_HESSIAN] = base + 14 * s->features;
    peak[PLIM_QUANTIZE_OTHER] = held + s->stored;
    for (int phase = PLIM_QUANTIZE_PERMUTE; !o->round_to_nearest && phase <= PLIM_QUANTIZE_INVERT; phase++)
        peak[phase] = base + 8 * s->features + moved;
    tag[PLIM_TAG_CALIBRATION] = s->calibration;
    tag[PLIM_TAG_HESSIAN] = 6 * s->features + moved;
    tag[PLIM_TAG_WORKSPACE] = plim_max(8 * s->features, scales);
    if (o->factor_only)
        return;
    peak[PLIM_QUANTIZE_GATHER] = held;
    peak[PLIM_QUANTIZE_QUANTISE] = held + s->stored + s->groups + scales;
    tag[PLIM_TAG_WEIGHTS] = s->weights + s->stored;
    tag[PLIM_TAG_METADATA] = s->groups;
}

/*
 * The device's part: a piece of the sequence, the matrix, the working copy, the operations' scratch, and the packed groups
 * until they are brought over.
 */
static void predict_apart(const struct quantize_ops *ops, const struct plim_parameters *parameters,
                          const struct plim_quantize_layer_options *o, struct plim_quantize_usage *usage)
{
    struct layer_sizes s = sizes_of(ops, o);
    uint64_t *peak = usage->phase_peak_bytes[PLIM_FAST], *tag = usage->tag_peak_bytes[PLIM_FAST];
    size_t k = o->in_features, tokens = plim_min(PIECE_TOKENS, o->length), padded = plim_round_up(o->out_features, 32);
    size_t group_count = o->factor_only ? 0 : exl2_layout_groups(exl2_head_layout(o->bits), k, NULL);
    uint64_t piece = sizeof(float) * k * tokens, held = piece + s.matrix;
    bool offloaded = is_offloaded(parameters, o);

    peak[PLIM_QUANTIZE_HESSIAN] = held + ops->hessian_bytes(tokens, k);
    peak[PLIM_QUANTIZE_OTHER] = held + s.copy;
    tag[PLIM_TAG_CALIBRATION] = piece;
    tag[PLIM_TAG_HESSIAN] = s.matrix;
    tag[PLIM_TAG_WORKSPACE] = ops->hessian_bytes(tokens, k);
    if (!o->round_to_nearest) {
        peak[PLIM_QUANTIZE_PERMUTE] = offloaded ? piece : held + ops->order_bytes(k);
        peak[PLIM_QUANTIZE_CHOLESKY] = held + plim_max(ops->cholesky_bytes(k), ops->invert_bytes(k));
        peak[PLIM_QUANTIZE_INVERT] = peak[PLIM_QUANTIZE_CHOLESKY];
        tag[PLIM_TAG_WORKSPACE] = plim_max(tag[PLIM_TAG_WORKSPACE], peak[PLIM_QUANTIZE_CHOLESKY] - held);
    }
    predict_host(&s, o, offloaded, group_count, usage);
    if (o->factor_only)
        return;
    /* Of the stored layer: but the maxima, the groups' table and the permutation. The search's scratch is in s.work. */
    uint64_t packed = s.stored - group_count * (2 + 4) - k * sizeof(int32_t);
    uint64_t search = ops->search_bytes(padded), spread = o->round_to_nearest || group_count == 1 ? 0 : ops->spread_bytes();
    uint64_t work = s.work - search + plim_max(search, spread) + packed + group_count * sizeof(struct group_scales);
    peak[PLIM_QUANTIZE_GATHER] = held + s.copy + ops->gather_bytes(DTYPE_F16, k, padded);
    peak[PLIM_QUANTIZE_QUANTISE] = held + s.copy + work;
    tag[PLIM_TAG_WORKSPACE] = plim_max(tag[PLIM_TAG_WORKSPACE],
                                       plim_max(peak[PLIM_QUANTIZE_GATHER], peak[PLIM_QUANTIZE_QUANTISE]) - held);
}

int plim_quantize_layer_predict(const char *backend, const struct plim_parameters *parameters,
                                const struct plim_quantize_layer_options *o, struct plim_quantize_usage *usage,
                                struct plim_err *err)
{
    const char *name = backend ? backend : plim_parameters_backend(parameters);
    const struct quantize_ops *ops = backend_quantize_ops(name);

    *usage = (struct plim_quantize_usage){ 0 };
    if (!ops)
        return plim_err_input(err, "backend %s has no quantizer", name);
    if (check_options(o, err) < 0)
        return -1;
    if (ops->wait)
        predict_apart(ops, parameters, o, usage);
    else
        predict_unified(ops, parameters, o, usage);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++)
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            usage->peak_bytes[tier] = plim_max(usage->peak_bytes[tier], usage->phase_peak_bytes[tier][phase]);
    return 0;
}
