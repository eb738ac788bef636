/* A block under conversion: its weights, its Hessians and drift, and where they are. Its runs over rows: module_rows.c. */

#include <stdio.h>
#include <string.h>

#include "conversion.h"
#include "quantize_ops.h"

/* ---- options ---- */

int module_option_count(enum block_kind kind)
{
    return kind == BLOCK_ATTENTION ? EXL2_ATTENTION_OPTIONS : EXL2_MLP_OPTIONS;
}

const struct exl2_layout *module_layout(enum block_kind kind, int option, int p)
{
    return (kind == BLOCK_ATTENTION ? exl2_attention_option(option) : exl2_mlp_option(option)) + p;
}

static size_t padded_outputs(const struct matrix_view *view)
{
    return plim_round_up(view->source.out_features, 32);
}

uint64_t module_option_bits(const struct module *m, int option)
{
    uint64_t bits = 0;
    for (int p = 0; p < m->matrix_count; p++) {
        const struct matrix_view *view = &m->view[p];
        bits += exl2_layout_bits(module_layout(m->kind, option, p), view->source.in_features, padded_outputs(view));
        if (view->source.bias)
            bits += 16 * padded_outputs(view);
    }
    return bits;
}

uint64_t module_weights(const struct module *m)
{
    uint64_t weights = 0;
    for (int p = 0; p < m->matrix_count; p++)
        weights += (uint64_t)m->view[p].source.in_features * padded_outputs(&m->view[p]);
    return weights;
}

/* ---- opening ---- */

int module_describe(struct module *m, struct plim_err *err)
{
    m->kind = m->index % 2 ? BLOCK_MLP : BLOCK_ATTENTION;
    m->layer_index = m->index / 2;
    m->first = m->kind == BLOCK_ATTENTION ? MATRIX_Q : MATRIX_GATE;
    m->matrix_count = m->kind == BLOCK_ATTENTION ? 4 : 3;
    for (int p = 0; p < m->matrix_count; p++) {
        struct matrix_view *view = &m->view[p];
        if (model_layer_matrix(view, &m->c->model->files, m->layer_index, (enum layer_matrix)(m->first + p), err) < 0)
            return -1;
        if (view->source.is_exl2)
            return plim_err_input(err, "%s is quantised already", view->name);
        if (view->source.in_features % 32 != 0 || view->source.in_features > 65536)
            return plim_err_input(err, "%s has %zu input features; the format takes multiples of 32 up to 65536",
                                  view->name, view->source.in_features);
    }
    snprintf(m->key, sizeof m->key, "%.*s", (int)(strrchr(m->view[0].name, '.') - m->view[0].name), m->view[0].name);
    return 0;
}

int module_name(const struct conversion *c, size_t index, char key[160], struct plim_err *err)
{
    struct module m = { .c = (struct conversion *)(uintptr_t)c, .index = index };
    if (module_describe(&m, err) < 0)
        return -1;
    snprintf(key, sizeof m.key, "%s", m.key);
    return 0;
}

/* ---- which tier ---- */

/* Largest bytes that the block's work holds beside the Hessians, the working copy and what is held now. */
static uint64_t other_bytes(const struct module *m)
{
    const struct plim_parameters *parameters = &m->c->engine->parameters;
    const char *backend = m->c->run.block.backend->ops->name;
    const struct backend_predict_ops *predict = backend_predict(backend);
    const struct quantize_ops *ops = backend_quantize_ops(backend);
    size_t rows = plim_min(m->c->run.length, block_run_tokens(m->c->run.block.backend));
    uint64_t packed = 0, run = 0, quantise = 0, factor = 0;

    for (int p = 0; p < m->matrix_count; p++) {
        const struct linear_source *s = &m->view[p].source;
        size_t padded = padded_outputs(&m->view[p]);
        const struct exl2_layout *widest = module_layout(m->kind, module_option_count(m->kind) - 1, p);
        struct linear_shape shape = {
            .is_exl2 = true,
            .in_features = s->in_features,
            .out_features = s->out_features,
            .stored_out_features = padded,
            .group_count = exl2_layout_groups(widest, s->in_features, NULL),
        };
        struct linear_scratch scratch = predict->linear_scratch(&shape, rows, parameters);
        if (m->c->dense.pool)
            quantise = plim_max(quantise, drift_scratch_bytes(s->in_features, padded));
        packed += exl2_layout_bits(widest, s->in_features, padded) / 8 + 16 * s->in_features;
        run = plim_max(run, scratch.dequant_bytes + scratch.workspace_bytes);
        quantise = plim_max(quantise, gptq_scratch_bytes(ops, widest, s->in_features, padded));
        factor = plim_max(factor, ops->invert_bytes(s->in_features));
    }
    if (m->kind == BLOCK_ATTENTION) {
        struct attention_scratch scratch =
            predict->attention_scratch(&m->layer->attention, m->c->run.length - rows, rows, parameters);
        run = plim_max(run, scratch.attention_bytes + scratch.workspace_bytes);
    }
    return packed + plim_max(run, plim_max(quantise, factor)) + PLIM_MI;
}

/* Bytes that running the rows takes beside the Hessians and what is held now, where that adds to them too. */
static uint64_t reference_bytes(const struct module *m)
{
    const char *backend = m->c->run.block.backend->ops->name;
    const struct quantize_ops *ops = backend_quantize_ops(backend);
    size_t rows = plim_min(m->c->run.length, block_run_tokens(m->c->run.block.backend));
    uint64_t most = 0;

    for (int p = 0; p < m->matrix_count; p++) {
        const struct linear_source *s = &m->view[p].source;
        struct linear_shape shape = {
            .dtype = s->dtype,
            .in_features = s->in_features,
            .out_features = s->out_features,
            .stored_out_features = s->out_features,
        };
        struct linear_scratch scratch =
            backend_predict(backend)->linear_scratch(&shape, rows, &m->c->engine->parameters);
        most = plim_max(most, scratch.dequant_bytes + scratch.workspace_bytes);
        most = plim_max(most, ops->hessian_bytes ? ops->hessian_bytes(rows, s->in_features) : 0);
    }
    return most + PLIM_MI;
}

/*
 * With a memory budget, where operations don't reach the slow tier: what isn't at work goes there, or comes and goes again.
 * In order of what it costs: the layer's own weights are not needed once its rows have run; a Hessian can wait while the
 * other one is at work (twice a copy); the rows can run twice, so that the two are not added to at once.
 */
static void choose_turns(struct module *m, uint64_t budget)
{
    struct conversion *c = m->c;
    const struct backend_predict_ops *predict = backend_predict(c->engine->backend.ops->name);
    uint64_t input = m->view[0].source.in_features, inner = m->view[m->matrix_count - 1].source.in_features;
    uint64_t own = 0, copy = 0, last_copy = 0;
    struct plim_pool_stats stats;

    input *= 4 * input;
    inner *= 4 * inner;
    for (int p = 0; p < m->matrix_count; p++) {
        const struct linear_source *s = &m->view[p].source;
        struct linear_shape shape = { .dtype = s->dtype, .in_features = s->in_features, .out_features = s->out_features,
                                      .stored_out_features = s->out_features, .has_bias = s->bias != NULL };
        uint64_t bytes = 4 * (uint64_t)s->in_features * padded_outputs(&m->view[p]);
        own += predict->matrix_bytes(&shape, &c->engine->parameters);
        if (p == m->matrix_count - 1)
            last_copy = bytes;
        else
            copy = plim_max(copy, bytes);
    }
    plim_pool_stats(c->pool, &stats);
    uint64_t held = stats.current[PLIM_FAST].total_bytes, work = held + other_bytes(m);
    if (c->dense.pool) {
        /* The two are not there at once, but each has a moment beside it, of its size at most. */
        m->drops_weights = work + plim_max(2 * input + copy, 2 * inner + last_copy) > budget;
    } else {
        m->rows_twice = held + input + inner + reference_bytes(m) > budget;
        m->drops_weights = work + input + inner + plim_max(copy, last_copy) > budget;
        m->one_at_work = m->rows_twice || work - own + input + inner + plim_max(copy, last_copy) > budget;
    }
    if (c->told_tiers[m->kind] || (!m->rows_twice && !m->drops_weights && !m->one_at_work))
        return;
    c->told_tiers[m->kind] = true;
    conversion_log(c, "memory_budget: from %s on,%s%s%s", m->key,
                   m->drops_weights ? " its own weights leave the fast tier once its rows have run;" : "",
                   m->one_at_work ? " of its two Hessians one waits in the slow tier;" : "",
                   m->rows_twice ? " its rows run once for each of them;" : "");
}

/*
 * With a memory budget: what does not fit goes to the slow tier, largest first. A K x K matrix is touched a few times in
 * long stretches, and so is the working copy; everything else is small and busy.
 */
static void choose_tiers(struct module *m)
{
    struct conversion *c = m->c;
    const struct matrix_view *last = &m->view[m->matrix_count - 1];
    struct plim_pool_stats stats;
    uint64_t input = m->view[0].source.in_features, inner = last->source.in_features, weights = 0;
    /* Moments stay where their Hessians are, and are as large at most. */
    uint64_t matrices = c->dense.pool ? 2 : 1;
    int64_t budget = c->engine->parameters.count[PLIM_MEMORY_BUDGET];

    m->input_tier = m->inner_tier = m->weights_tier = PLIM_FAST;
    if (budget <= 0)
        return;
    if (!c->engine->backend.ops->unified_memory) {
        choose_turns(m, (uint64_t)budget);
        return;
    }
    for (int p = 0; p < m->matrix_count; p++)
        weights = plim_max(weights, (uint64_t)m->view[p].source.in_features * padded_outputs(&m->view[p]));
    struct {
        uint64_t bytes;
        enum plim_tier *tier;
    } part[] = { { matrices * 4 * input * input, &m->input_tier },
                 { 4 * inner * (inner + (matrices - 1) * plim_max(inner, last->source.out_features)), &m->inner_tier },
                 { 4 * weights, &m->weights_tier } };
    plim_pool_stats(c->pool, &stats);
    uint64_t needed = stats.current[PLIM_FAST].total_bytes + other_bytes(m);
    for (int i = 0; i < 3; i++)
        needed += part[i].bytes;
    for (int round = 0; round < 3 && needed > (uint64_t)budget; round++) {
        int largest = -1;
        for (int i = 0; i < 3; i++)
            if (*part[i].tier == PLIM_FAST && (largest < 0 || part[i].bytes > part[largest].bytes))
                largest = i;
        *part[largest].tier = PLIM_SLOW;
        needed -= part[largest].bytes;
    }
    if (c->told_tiers[m->kind] || (m->input_tier == PLIM_FAST && m->inner_tier == PLIM_FAST &&
                                   m->weights_tier == PLIM_FAST))
        return;
    c->told_tiers[m->kind] = true;
    conversion_log(c, "memory_budget: from %s on, in the slow tier:%s%s%s", m->key,
                   m->input_tier == PLIM_SLOW ? " the Hessian of the block's input;" : "",
                   m->inner_tier == PLIM_SLOW ? " the Hessian of its last layer;" : "",
                   m->weights_tier == PLIM_SLOW ? " the working copy of the weights;" : "");
}

int module_open(struct module *m, struct conversion *c, size_t index, struct plim_err *err)
{
    *m = (struct module){ .c = c, .index = index };
    if (module_describe(m, err) < 0)
        return -1;
    m->layer = &c->model->layers[m->layer_index];
    plim_pool_set_scope(c->pool, m->kind == BLOCK_ATTENTION ? m->layer->attention_scope : m->layer->mlp_scope);
    if (model_layer_load(c->model, m->layer_index, (enum layer_matrix)m->first, m->matrix_count, err) < 0) {
        module_close(m);
        return -1;
    }
    m->quantised = *m->layer;
    for (int p = 0; p < m->matrix_count; p++)
        m->quantised.matrix[m->first + p].impl = NULL;
    choose_tiers(m);
    return 0;
}

static void release_boundary(struct conversion *c)
{
    if (c->engine->parameters.count[PLIM_RELEASE_AT_BOUNDARY])
        plim_pool_trim(c->pool);
}

void module_close(struct module *m)
{
    if (!m->layer)
        return;
    struct backend *backend = &m->c->engine->backend;
    for (int p = 0; p < m->matrix_count; p++)
        if (m->quantised.matrix[m->first + p].impl)
            backend->ops->matrix_release(backend, &m->quantised.matrix[m->first + p]);
    hessian_release(&m->input);
    hessian_release(&m->inner);
    drift_release(&m->input_drift);
    drift_release(&m->output_drift);
    model_layer_drop(m->c->model, m->layer_index);
    release_boundary(m->c);
    m->layer = NULL;
}

/* ---- Hessians and drift ---- */

const struct drift *module_drift(const struct module *m, int p)
{
    const struct drift *drift = p == m->matrix_count - 1 ? &m->output_drift : &m->input_drift;
    return drift->backend ? drift : NULL;
}

/* Has `h` where it can be worked with; the other one makes room if it must. */
static int to_work(struct module *m, struct hessian *h, struct plim_err *err)
{
    struct hessian *other = h == &m->input ? &m->inner : &m->input;

    if (m->one_at_work && hessian_set_aside(other, err) < 0)
        return -1;
    return hessian_bring_back(h, err);
}

const struct hessian *module_hessian(struct module *m, int p, struct plim_err *err)
{
    struct hessian *h = p == m->matrix_count - 1 ? &m->inner : &m->input;
    return to_work(m, h, err) < 0 ? NULL : h;
}

static int factor(struct module *m, struct hessian *h, struct drift *drift, const char *name, bool round_to_nearest,
                  struct plim_err *err)
{
    struct conversion *c = m->c;
    struct hessian_report report;
    int rc = -1;

    if (!h->backend || h->order)
        return 0;
    enum plim_quantize_phase outer = meter_enter(&c->meter, PLIM_QUANTIZE_HESSIAN);
    if (to_work(m, h, err) < 0 || hessian_order(h, name, err) < 0)
        goto out;
    if (!round_to_nearest) {
        meter_enter(&c->meter, PLIM_QUANTIZE_CHOLESKY);
        if (hessian_factor(h, name, c->engine->parameters.count[PLIM_HESSIAN_OFFLOAD_THRESHOLD], &report, err) < 0)
            goto out;
        meter_add_hessian(&c->meter, &report);
        m->damping_attempts = report.damping_attempts > m->damping_attempts ? report.damping_attempts
                                                                             : m->damping_attempts;
        if (report.damping_attempts > 1)
            conversion_log(c, "%s: the Hessian needed %d dampings (%g in all)", name, report.damping_attempts,
                           (double)report.damping);
    }
    if (drift->backend && drift_order(drift, h, err) < 0)
        goto out;
    rc = 0;

out:
    meter_enter(&c->meter, outer);
    return rc;
}

int module_factor(struct module *m, bool round_to_nearest, struct plim_err *err)
{
    if (factor(m, &m->input, &m->input_drift, m->view[0].name, round_to_nearest, err) < 0)
        return -1;
    return factor(m, &m->inner, &m->output_drift, m->view[m->matrix_count - 1].name, round_to_nearest, err);
}
