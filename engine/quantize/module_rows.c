/* A block's runs over the calibration rows: what it gives as it was and as quantised, and what its Hessians and drift gather. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "conversion.h"
#include "plimsoll/clock.h"
#include "quantize_ops.h"
#include "threads.h"

/* ---- runs ---- */

struct reference_run {
    struct module *m;
    size_t row;
    bool collect_input, collect_inner;
    const float *inner;      /* the last layer's input of the chunk; stays until the next chunk is begun */
    float *other;            /* device and host, [chunk, hidden_size]: for differences from the dense model's states */
    float *host_other;
};

/*
 * The first token of a row is where attention goes that has nowhere else to go ("attention sink", Xiao et al., 2023,
 * arXiv:2309.17453): every later token adds its value, most of their weight is on its key. So an error of k and v there
 * is an error everywhere, and it counts as a quarter of its row's tokens, not as one of them: in SmolLM2-135M at 4 bits
 * this takes the error that v adds to a block from 7.5% to 1.6% in layer 20, and halves k's and v's in others. Where other
 * layers err for that token, its keys err later: a smaller share makes its state two to ten times as exact.
 */
#define FIRST_TOKEN_SHARE_ATTENTION 0.25f
#define FIRST_TOKEN_SHARE_OTHERS 0.03125f

static float first_token_weight(const struct module *m, bool inner)
{
    float share = m->kind == BLOCK_ATTENTION && !inner ? FIRST_TOKEN_SHARE_ATTENTION : FIRST_TOKEN_SHARE_OTHERS;
    return share * (float)m->c->run.length;
}

/* A chunk's difference from the dense model, weighted as in the Hessian. */
static int add_drift(struct module *m, struct drift *d, const float *x, const float *difference, size_t rows,
                     struct plim_err *err)
{
    if (drift_add(d, x, difference, rows, 1, err) < 0)
        return -1;
    return m->c->run.block.first ? 0 : drift_add(d, x, difference, 1, first_token_weight(m, d->of_outputs), err);
}

/* The dense model's input of this chunk, less the one that the block has, `x`. */
static int collect_input_drift(struct reference_run *run, const float *x, size_t rows, struct plim_err *err)
{
    struct module *m = run->m;
    struct block *b = &m->c->run.block;
    size_t width = m->c->dense.width;
    const float *norm = m->layer->norm[m->kind == BLOCK_ATTENTION ? NORM_ATTENTION : NORM_MLP];

    if (b->ops->upload(b->backend, run->other, m->c->dense.row[run->row] + b->first * width, rows * width * sizeof *x,
                       err) < 0 ||
        block_norm(b, run->other, norm, rows, width, run->other, err) < 0 ||
        b->ops->add(b->backend, run->other, x, -1.0f, rows * width, err) < 0)
        return -1;
    return add_drift(m, &m->input_drift, x, run->other, rows, err);
}

static int collect_hessian(void *context, enum block_tap tap, const float *x, size_t rows, size_t width,
                           struct plim_err *err)
{
    struct reference_run *run = context;
    struct module *m = run->m;
    struct meter *meter = &m->c->meter;
    bool inner = tap == TAP_ATTENTION_OUTPUT || tap == TAP_MLP_INNER;
    struct hessian *h = inner ? &m->inner : &m->input;
    bool first = m->c->run.block.first == 0;
    (void)width;

    if (!(inner ? run->collect_inner : run->collect_input))
        return 0;
    run->inner = x;
    enum plim_quantize_phase outer = meter_enter(meter, PLIM_QUANTIZE_HESSIAN);
    int rc = hessian_add_piece(h, x, rows, first, err);
    if (rc == 0 && first && !h->as_exllamav2)
        rc = hessian_add_token(h, x, first_token_weight(m, inner), err);
    if (rc == 0 && !inner && m->input_drift.backend)
        rc = collect_input_drift(run, x, rows, err);
    meter_enter(meter, outer);
    return rc;
}

static int keep_target(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err)
{
    const struct reference_run *run = context;
    struct states *target = &run->m->c->target;
    size_t count = tokens * target->width;

    for (size_t i = 0; i < count; i++) {
        if (!isfinite(hidden[i]))
            return plim_err_input(err, "%s: its output is %g for calibration row %zu, token %zu, feature %zu", run->m->key,
                                  (double)hidden[i], run->row, first + i / target->width, i % target->width);
    }
    memcpy(target->row[run->row] + first * target->width, hidden, count * sizeof *hidden);
    return 0;
}

static int open_hessian(struct module *m, struct hessian *h, enum plim_tier tier, int p, struct plim_err *err)
{
    if (hessian_init_on(h, &m->c->engine->backend, tier, m->view[p].source.in_features, err) < 0)
        return -1;
    h->as_exllamav2 = m->c->options.as_exllamav2;
    return 0;
}

static int open_input_drift(struct module *m, struct plim_err *err)
{
    size_t features = m->view[0].source.in_features;
    return drift_init(&m->input_drift, &m->c->engine->backend, m->input_tier, features, features, false, err);
}

static int open_output_drift(struct module *m, struct plim_err *err)
{
    const struct linear_source *last = &m->view[m->matrix_count - 1].source;
    /* A norm behind the layer stands between it and the state: then there is no telling what it should give. */
    if (m->layer->norm[m->kind == BLOCK_ATTENTION ? NORM_ATTENTION_POST : NORM_MLP_POST])
        return 0;
    return drift_init(&m->output_drift, &m->c->engine->backend, m->inner_tier, last->in_features, last->out_features, true,
                      err);
}

static int open_differences(struct reference_run *run, struct plim_err *err)
{
    const struct block_run *b = &run->m->c->run;
    struct plim_pool *pool = run->m->c->pool;
    size_t bytes = plim_min(b->length, block_run_tokens(b->block.backend)) * run->m->c->current.width * sizeof(float);

    if (!run->m->c->dense.pool)
        return 0;
    run->other = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, bytes, err);
    if (run->other)
        run->host_other = b->block.ops->unified_memory
                              ? run->other
                              : plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_ACTIVATIONS, bytes, err);
    return run->host_other ? 0 : -1;
}

static void close_differences(struct reference_run *run)
{
    struct plim_pool *pool = run->m->c->pool;
    if (run->host_other != run->other)
        plim_pool_free(pool, run->host_other);
    plim_pool_free(pool, run->other);
}

static int run_rows(struct reference_run *run, struct plim_err *err)
{
    struct module *m = run->m;
    struct conversion *c = m->c;
    uint64_t start = plim_now_ns();
    char what[200];
    int rc = 0;

    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    c->run.block.tap = run->collect_input || run->collect_inner ? collect_hessian : NULL;
    c->run.block.tap_context = run;
    snprintf(what, sizeof what, "rows of %s", m->key);
    for (run->row = 0; run->row < c->current.rows && rc == 0; run->row++) {
        conversion_progress_part(c, what, run->row, c->current.rows, start);
        rc = block_run_row(&c->run, m->layer, m->kind, c->current.row[run->row], keep_target, run, err);
        states_set_aside(&c->current, run->row);
        states_set_aside(&c->target, run->row);
    }
    c->run.block.tap = NULL;
    meter_enter(&c->meter, outer);
    return rc;
}

static void drop_own_weights(struct module *m, int first, int end)
{
    struct backend *backend = &m->c->engine->backend;

    for (int p = first; m->drops_weights && p < end; p++)
        backend->ops->matrix_release(backend, &m->layer->matrix[m->first + p]);
}

/* The input's Hessian, with its drift. */
static int reference_beside_dense(struct module *m, struct plim_err *err)
{
    struct reference_run run = { .m = m, .collect_input = true };
    int rc = -1;

    if (open_hessian(m, &m->input, m->input_tier, 0, err) == 0 && open_input_drift(m, err) == 0 &&
        open_differences(&run, err) == 0)
        rc = run_rows(&run, err);
    close_differences(&run);
    return rc;
}

int module_reference(struct module *m, bool collect, struct plim_err *err)
{
    struct reference_run run = { .m = m, .collect_input = collect, .collect_inner = collect };
    int last = m->matrix_count - 1;

    if (collect && m->c->dense.pool)
        return reference_beside_dense(m, err);
    if (collect && open_hessian(m, &m->input, m->input_tier, 0, err) < 0)
        return -1;
    if (collect && m->rows_twice) {
        run.collect_inner = false;
        if (run_rows(&run, err) < 0 || hessian_set_aside(&m->input, err) < 0)
            return -1;
        run.collect_inner = true;
        run.collect_input = false;
    }
    if (collect && open_hessian(m, &m->inner, m->inner_tier, last, err) < 0)
        return -1;
    if (run_rows(&run, err) < 0)
        return -1;
    if (collect)
        drop_own_weights(m, 0, m->matrix_count);
    return 0;
}

/* A chunk's input has been read when its output comes, and no later chunk reads it again. */
static int advance_dense(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err)
{
    const struct reference_run *run = context;
    struct states *dense = &run->m->c->dense;
    (void)err;
    memcpy(dense->row[run->row] + first * dense->width, hidden, tokens * dense->width * sizeof *hidden);
    return 0;
}

int module_dense(struct module *m, struct plim_err *err)
{
    struct conversion *c = m->c;
    struct reference_run run = { .m = m };
    int rc = 0;

    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    for (run.row = 0; run.row < c->dense.rows && rc == 0; run.row++) {
        rc = block_run_row(&c->run, m->layer, m->kind, c->dense.row[run.row], advance_dense, &run, err);
        states_set_aside(&c->dense, run.row);
    }
    meter_enter(&c->meter, outer);
    if (c->dense.pool)
        drop_own_weights(m, 0, m->matrix_count - 1);
    return rc;
}

static int collect_output_drift(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err)
{
    struct reference_run *run = context;
    struct module *m = run->m;
    struct block *b = &m->c->run.block;
    size_t width = m->c->dense.width, count = tokens * width;
    const float *wanted = m->c->dense.row[run->row] + first * width;
    float scale = 1.0f / b->config->residual_scale;

    if (!m->output_drift.backend)
        return 0;
    for (size_t i = 0; i < count; i++)
        run->host_other[i] = scale * (wanted[i] - hidden[i]);
    if (run->other != run->host_other &&
        b->ops->upload(b->backend, run->other, run->host_other, count * sizeof *hidden, err) < 0)
        return -1;
    enum plim_quantize_phase outer = meter_enter(&m->c->meter, PLIM_QUANTIZE_HESSIAN);
    int rc = add_drift(m, &m->output_drift, run->inner, run->other, tokens, err);
    meter_enter(&m->c->meter, outer);
    return rc;
}

int module_inner(struct module *m, struct plim_err *err)
{
    struct conversion *c = m->c;
    struct reference_run run = { .m = m, .collect_inner = true };
    struct matrix *last = &m->quantised.matrix[m->first + m->matrix_count - 1];
    int rc;

    if (open_hessian(m, &m->inner, m->inner_tier, m->matrix_count - 1, err) < 0 || open_output_drift(m, err) < 0)
        return -1;
    *last = m->layer->matrix[m->first + m->matrix_count - 1];   /* borrowed */
    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    c->run.block.tap = collect_hessian;
    c->run.block.tap_context = &run;
    rc = open_differences(&run, err);
    for (run.row = 0; run.row < c->current.rows && rc == 0; run.row++) {
        rc = block_run_row(&c->run, &m->quantised, m->kind, c->current.row[run.row], collect_output_drift, &run, err);
        states_set_aside(&c->current, run.row);
        states_set_aside(&c->dense, run.row);
    }
    close_differences(&run);
    c->run.block.tap = NULL;
    meter_enter(&c->meter, outer);
    *last = (struct matrix){ 0 };
    drop_own_weights(m, m->matrix_count - 1, m->matrix_count);
    return rc;
}

/* ---- comparing ---- */

struct row_comparison {
    struct module *m;
    size_t row;
    bool compare, advance;
    double difference, reference;   /* sums of squares over the row */
    double token_sum;               /* of the tokens' squared relative errors */
};

struct token_sums {
    const float *a, *b;
    size_t width;
    double difference[BLOCK_RUN_MOST_TOKENS], reference[BLOCK_RUN_MOST_TOKENS];
};

static void sum_tokens(void *context, size_t begin, size_t end, int thread)
{
    struct token_sums *s = context;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *a = s->a + t * s->width, *b = s->b + t * s->width;
        double difference[4] = { 0 }, reference[4] = { 0 };
        for (size_t i = 0; i + 4 <= s->width; i += 4) {
            for (size_t j = 0; j < 4; j++) {
                double d = (double)a[i + j] - (double)b[i + j];
                difference[j] += d * d;
                reference[j] += (double)b[i + j] * (double)b[i + j];
            }
        }
        for (size_t i = s->width / 4 * 4; i < s->width; i++) {
            double d = (double)a[i] - (double)b[i];
            difference[0] += d * d;
            reference[0] += (double)b[i] * (double)b[i];
        }
        s->difference[t] = difference[0] + difference[1] + difference[2] + difference[3];
        s->reference[t] = reference[0] + reference[1] + reference[2] + reference[3];
    }
}

/* Of a row that sensitivities are measured with, the first tokens. */
static void keep_variant(const struct row_comparison *r, size_t first, size_t tokens, const float *hidden)
{
    struct states *v = r->m->variant;
    for (size_t row = 0; row < v->rows && first < v->length; row++)
        if (sensitivity_row(r->m->c, row) == r->row)
            memcpy(v->row[row] + first * v->width, hidden, plim_min(tokens, v->length - first) * v->width * sizeof *hidden);
}

static int compare_output(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err)
{
    struct row_comparison *r = context;
    struct conversion *c = r->m->c;
    size_t width = c->current.width;
    (void)err;

    if (r->compare) {
        struct token_sums sums = { .a = hidden, .b = c->target.row[r->row] + first * width, .width = width };
        threads_run(c->engine->threads, tokens, 8, sum_tokens, &sums);
        for (size_t t = 0; t < tokens; t++) {
            r->difference += sums.difference[t];
            r->reference += sums.reference[t];
            r->token_sum += sums.reference[t] > 0 ? sums.difference[t] / sums.reference[t] : sums.difference[t] > 0;
        }
    }
    if (r->m->variant)
        keep_variant(r, first, tokens, hidden);
    /* This chunk of the input has been read, and no later chunk reads it again. */
    if (r->advance)
        memcpy(c->current.row[r->row] + first * width, hidden, tokens * width * sizeof *hidden);
    return 0;
}

static double relative_error(double difference, double reference)
{
    return reference > 0 ? sqrt(difference / reference) : difference > 0 ? INFINITY : 0;
}

int module_quantised(struct module *m, bool advance, struct block_error *error, struct plim_err *err)
{
    struct conversion *c = m->c;
    double sum = 0, token_sum = 0;
    int rc = 0;

    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_FORWARD);
    for (size_t row = 0; row < c->current.rows && rc == 0; row++) {
        struct row_comparison r = { .m = m, .row = row, .compare = error != NULL, .advance = advance };
        rc = block_run_row(&c->run, &m->quantised, m->kind, c->current.row[row], compare_output, &r, err);
        sum += relative_error(r.difference, r.reference);
        token_sum += r.token_sum;
        states_set_aside(&c->current, row);
        states_set_aside(&c->target, row);
    }
    meter_enter(&c->meter, outer);
    if (rc < 0 || !error)
        return rc;
    error->frobenius = sum / (double)c->current.rows;
    error->token = sqrt(token_sum / (double)(c->current.rows * c->current.length));
    if (!isfinite(error->frobenius) || !isfinite(error->token))
        return plim_err_input(err, "%s: the quantised block's output is not finite", m->key);
    return 0;
}
