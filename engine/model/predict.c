/*
 * Prediction: the peak of a run, per tag, from shapes alone.
 *
 * A run is replayed on a ledger, step by step in the engine's order, but with formulas instead of work. The formulas
 * are written out here and not shared with the code that allocates, so a test that compares the two means something:
 *
 *     weights      per matrix what the backend keeps (backend.h), and 4 bytes for each norm weight
 *     kv_cache     4 [fp32: 8] * context * layers * kv_heads * head_dim          (keys and values)
 *                  quantised: codes of 1 or 1/2 byte and 2 bytes for each 32 [16], rows rounded up to 16 bytes
 *     activations  4 * T * (2 * hidden + max((heads + 2 kv_heads) * head_dim, 2 * inner) + head_dim [* 2])
 *                  for a chunk of T tokens, each part rounded up to 64 bytes; T * hidden alone while the head runs
 *     dequant, workspace, attention    per operation, what the backend says for T rows
 *     logits       4 * vocab * min(rows, what fits PLIM_LOGITS_BYTES); held beside the activations of a token that the
 *                  backend records (a CUDA graph), else after them
 *     metadata     what reading the files' headers takes (they are read here too), and our own structures
 *
 * Where the fast tier isn't RAM the ledger has two sides: metadata, mapped files and what the caller holds are then in host
 * memory, and so is a second copy of the logits.
 */

#include <string.h>

#include "model.h"

/* One tier's. */
struct ledger {
    uint64_t now[PLIM_TAG_COUNT];
    uint64_t total;
    uint64_t *tag_peak, *peak, *peak_tag;   /* in the plan */
};

struct predictor {
    struct ledger fast, slow;
    struct ledger *host;               /* slow where the fast tier isn't RAM, else fast */
    const struct plim_parameters *parameters;
    const char *backend;
    const struct backend_predict_ops *ops;
    bool records_steps;                /* of single tokens, decoder and head are one, and hold everything together */
    struct plim_pool *pool;            /* for our own reading, not what is predicted */
    struct model_files files;
    struct linear_shape *shapes;       /* [layer_count][LAYER_MATRIX_COUNT], then the head's */
    struct plim_split split;
    size_t places_used;                /* of the devices of gpu_split, those that have layers or the head */
};

/* ---- ledger ---- */

static void take_from(struct ledger *l, enum plim_tag tag, uint64_t bytes)
{
    l->now[tag] += bytes;
    if (l->now[tag] > l->tag_peak[tag])
        l->tag_peak[tag] = l->now[tag];
    if (tag == PLIM_TAG_WEIGHTS_MAPPED)
        return;
    l->total += bytes;
    if (l->total > *l->peak) {
        *l->peak = l->total;
        memcpy(l->peak_tag, l->now, sizeof l->now);
    }
}

static void give_to(struct ledger *l, enum plim_tag tag, uint64_t bytes)
{
    l->now[tag] -= bytes;
    if (tag != PLIM_TAG_WEIGHTS_MAPPED)
        l->total -= bytes;
}

static void take(struct predictor *p, enum plim_tag tag, uint64_t bytes)
{
    take_from(&p->fast, tag, bytes);
}

static void give(struct predictor *p, enum plim_tag tag, uint64_t bytes)
{
    give_to(&p->fast, tag, bytes);
}

static void take_host(struct predictor *p, enum plim_tag tag, uint64_t bytes)
{
    take_from(p->host, tag, bytes);
}

static void give_host(struct predictor *p, enum plim_tag tag, uint64_t bytes)
{
    give_to(p->host, tag, bytes);
}

/* Two kinds of temporary that an operation holds at once. */
static void touch(struct predictor *p, enum plim_tag a, uint64_t a_bytes, enum plim_tag b, uint64_t b_bytes)
{
    take(p, a, a_bytes);
    take(p, b, b_bytes);
    give(p, b, b_bytes);
    give(p, a, a_bytes);
}

/* ---- loading ---- */

static size_t shape_count(const struct predictor *p)
{
    return p->files.config.layer_count * LAYER_MATRIX_COUNT + 1;
}

static int read_shapes(struct predictor *p, struct plim_err *err)
{
    struct matrix_view view;
    size_t head = shape_count(p) - 1;

    p->shapes = plim_pool_calloc(p->pool, PLIM_HOST, PLIM_TAG_METADATA, shape_count(p), sizeof *p->shapes, err);
    if (!p->shapes)
        return -1;
    for (size_t i = 0; i < head; i++) {
        if (model_layer_matrix(&view, &p->files, i / LAYER_MATRIX_COUNT, (enum layer_matrix)(i % LAYER_MATRIX_COUNT),
                               err) < 0)
            return -1;
        p->shapes[i] = matrix_view_shape(&view);
    }
    if (model_head_matrix(&view, &p->files, err) < 0)
        return -1;
    p->shapes[head] = matrix_view_shape(&view);
    return 0;
}

/* Opens the files in a pool of our own, whose counters then say what the headers take in the engine's. */
static int read_files(struct predictor *p, const char *directory, struct plim_err *err)
{
    struct plim_pool_stats stats;

    if (model_files_open(&p->files, p->pool, directory, err) < 0)
        return -1;
    plim_pool_stats(p->pool, &stats);
    uint64_t held = stats.current[PLIM_FAST].total_bytes, peak = stats.peak[PLIM_FAST].total_bytes;
    take_host(p, PLIM_TAG_METADATA, peak);
    give_host(p, PLIM_TAG_METADATA, peak - held);
    return read_shapes(p, err);
}

static void plan_open(struct predictor *p)
{
    uint64_t count = p->split.count;

    take_host(p, PLIM_TAG_METADATA, (count - 1) * sizeof(struct backend));
    if (p->ops->open_host_bytes)
        take_host(p, PLIM_TAG_METADATA, count * p->ops->open_host_bytes(p->parameters));
    if (p->ops->open_staging_bytes)
        take_host(p, PLIM_TAG_IO, count * p->ops->open_staging_bytes(p->parameters));
    take(p, PLIM_TAG_METADATA, count * p->ops->open_bytes(p->parameters));
}

/* How many devices get something: an automatic split gives each of them a layer, as long as there are as many. */
static int plan_places(struct predictor *p, struct plim_err *err)
{
    size_t layers = p->files.config.layer_count, *place = NULL;
    uint64_t *bytes = NULL, table = (layers + 1) * sizeof *place;
    int rc = -1;

    p->places_used = plim_min(p->split.count, layers);
    if (p->split.count == 1)
        return 0;
    take_host(p, PLIM_TAG_METADATA, 2 * table);
    give_host(p, PLIM_TAG_METADATA, 2 * table);
    if (p->split.automatic)
        return 0;
    if (!(place = plim_pool_calloc(p->pool, PLIM_HOST, PLIM_TAG_METADATA, layers + 1, sizeof *place, err)) ||
        !(bytes = plim_pool_calloc(p->pool, PLIM_HOST, PLIM_TAG_METADATA, layers + 1, sizeof *bytes, err)))
        goto out;
    for (size_t i = 0; i <= layers; i++)
        if (model_part_bytes(&p->files, i, p->backend, p->parameters, &bytes[i], err) < 0)
            goto out;
    if (model_split(&p->split, NULL, bytes, layers, place, err) < 0)
        goto out;
    p->places_used = place[layers] + 1;
    rc = 0;

out:
    plim_pool_free(p->pool, bytes);
    plim_pool_free(p->pool, place);
    return rc;
}

static void plan_matrix(struct predictor *p, const struct linear_shape *shape)
{
    struct matrix_loading loading = { 0 };

    if (p->ops->matrix_loading)
        loading = p->ops->matrix_loading(shape);
    if (p->ops->matrix_host_bytes)
        take_host(p, PLIM_TAG_METADATA, p->ops->matrix_host_bytes(shape));
    take_host(p, PLIM_TAG_WEIGHTS, loading.tables_bytes);
    take(p, PLIM_TAG_WEIGHTS, p->ops->matrix_bytes(shape, p->parameters));
    take_host(p, PLIM_TAG_IO, loading.io_bytes);
    give_host(p, PLIM_TAG_IO, loading.io_bytes);
    give_host(p, PLIM_TAG_WEIGHTS, loading.tables_bytes);
    take_host(p, PLIM_TAG_IO, loading.bias_io_bytes);
    give_host(p, PLIM_TAG_IO, loading.bias_io_bytes);
    take_host(p, PLIM_TAG_WEIGHTS_MAPPED, p->ops->matrix_mapped_bytes(shape));
}

static int plan_load(struct predictor *p, const char *directory, struct plim_err *err)
{
    const struct model_config *c = &p->files.config;
    uint64_t norm_width = 0;

    take_host(p, PLIM_TAG_METADATA, sizeof(struct plim_engine));
    plan_open(p);
    take_host(p, PLIM_TAG_METADATA, sizeof(struct plim_model));
    if (read_files(p, directory, err) < 0)
        return -1;
    const struct tensor *embedding = model_embedding(&p->files, err);
    if (!embedding)
        return -1;

    take_host(p, PLIM_TAG_METADATA, c->layer_count * sizeof(struct layer));
    take_host(p, PLIM_TAG_METADATA, c->head_dim / 2 * sizeof(double) * (model_has_local_rope(c) ? 2 : 1));
    if (plan_places(p, err) < 0)
        return -1;
    norm_width = 2 * c->hidden_size + (c->head_norm ? 2 * c->head_dim : 0) + (c->post_norms ? 2 * c->hidden_size : 0);
    take(p, PLIM_TAG_WEIGHTS, 4 * (c->layer_count * norm_width + c->hidden_size));
    for (size_t i = 0; i < shape_count(p); i++) {
        plan_matrix(p, &p->shapes[i]);
    }
    if (!model_head_is_embedding(&p->files) || p->host != &p->fast)
        take_host(p, PLIM_TAG_WEIGHTS_MAPPED, embedding->bytes);
    return 0;
}

/* ---- running ---- */

/* `halves`: x comes in the form that norm_linear and mlp pass it in. */
static void plan_linear(struct predictor *p, const struct linear_shape *shape, size_t rows, bool halves)
{
    struct linear_scratch s = (halves ? p->ops->halves_scratch : p->ops->linear_scratch)(shape, rows, p->parameters);
    touch(p, PLIM_TAG_DEQUANT, s.dequant_bytes, PLIM_TAG_WORKSPACE, s.workspace_bytes);
}

static void plan_attention(struct predictor *p, size_t layer, size_t past, size_t rows)
{
    struct attention_shape shape = model_attention_shape(&p->files.config, layer);
    struct attention_scratch s = p->ops->attention_scratch(&shape, past, rows, p->parameters);
    touch(p, PLIM_TAG_ATTENTION, s.attention_bytes, PLIM_TAG_WORKSPACE, s.workspace_bytes);
}

/* What the backend works in where it takes a layer's projections, or its MLP, at once; 0 where it doesn't. */
static size_t projections_work(const struct predictor *p, const struct linear_shape *layer, size_t rows)
{
    const struct linear_shape *const shapes[] = { &layer[MATRIX_Q], &layer[MATRIX_K], &layer[MATRIX_V] };

    return p->ops->norm_linear_work ? p->ops->norm_linear_work(shapes, 3, rows, p->parameters) : 0;
}

static size_t output_work(const struct predictor *p, const struct linear_shape *layer, size_t rows)
{
    const struct linear_shape *const shape = &layer[MATRIX_O];

    return p->ops->norm_linear_work ? p->ops->norm_linear_work(&shape, 1, rows, p->parameters) : 0;
}

static size_t mlp_work(const struct predictor *p, const struct linear_shape *layer, size_t rows)
{
    return p->ops->mlp_work ? p->ops->mlp_work(&layer[MATRIX_GATE], &layer[MATRIX_UP], &layer[MATRIX_DOWN], rows,
                                               p->parameters)
                            : 0;
}

/* A chunk's scratch: everything but the hidden state. */
static uint64_t scratch_bytes(const struct predictor *p, size_t rows)
{
    const struct model_config *c = &p->files.config;
    uint64_t width[] = { c->hidden_size, c->head_count * c->head_dim, c->kv_head_count * c->head_dim,
                         c->intermediate_size, c->head_dim };
    uint64_t bytes[5], most = 0;
    uint64_t branch;

    for (int i = 0; i < 5; i++)
        bytes[i] = (rows * width[i] * 4 + 63) / 64 * 64;
    branch = c->post_norms || c->residual_scale != 1.0f ? bytes[0] : 0;
    for (size_t layer = 0; layer < c->layer_count; layer++) {
        const struct linear_shape *shapes = p->shapes + layer * LAYER_MATRIX_COUNT;
        uint64_t q_work = (projections_work(p, shapes, rows) + 63) / 64 * 64;
        uint64_t inner_work = (mlp_work(p, shapes, rows) + 63) / 64 * 64;
        uint64_t before = q_work ? (q_work > branch ? q_work : branch) : bytes[0];
        uint64_t output = (output_work(p, shapes, rows) + 63) / 64 * 64;   /* where the projections' was, if it can */
        uint64_t attention = before + bytes[1] + 2 * bytes[2] + (branch || output > before ? output : 0);
        uint64_t mlp = inner_work ? branch + inner_work : bytes[0] + 2 * bytes[3];
        uint64_t larger = attention > mlp ? attention : mlp;
        most = larger > most ? larger : most;
    }
    return most + bytes[4] * (model_has_local_rope(c) ? 2 : 1);
}

/* `same_rows`: the linear layers need what they needed for the chunk before, so only attention may need more. */
static void plan_decoder(struct predictor *p, size_t past, size_t rows, bool same_rows)
{
    const struct linear_shape *shape = p->shapes;

    for (size_t layer = 0; layer < p->files.config.layer_count; layer++) {
        bool projections = projections_work(p, shape, rows) > 0, output = output_work(p, shape, rows) > 0;
        bool mlp = mlp_work(p, shape, rows) > 0;
        for (int which = 0; which < LAYER_MATRIX_COUNT; which++, shape++) {
            if (which == MATRIX_O)
                plan_attention(p, layer, past, rows);
            if (!same_rows)
                plan_linear(p, shape, rows, which < MATRIX_O ? projections : which > MATRIX_O ? mlp : output);
        }
    }
}

/* Logits on the device, and what the host fetches them into where that is other memory. */
static void take_logits(struct predictor *p, uint64_t rows)
{
    uint64_t bytes = 4 * p->files.config.vocab_size * rows;

    take(p, PLIM_TAG_LOGITS, bytes);
    if (p->host != &p->fast)
        take_host(p, PLIM_TAG_LOGITS, bytes);
}

static void give_logits(struct predictor *p, uint64_t rows)
{
    uint64_t bytes = 4 * p->files.config.vocab_size * rows;

    give(p, PLIM_TAG_LOGITS, bytes);
    if (p->host != &p->fast)
        give_host(p, PLIM_TAG_LOGITS, bytes);
}

static void plan_head(struct predictor *p, size_t rows)
{
    uint64_t fit = PLIM_LOGITS_BYTES / (4 * p->files.config.vocab_size);
    uint64_t piece = rows < fit ? rows : fit ? fit : 1;

    take_logits(p, piece);
    for (size_t done = 0; done < rows; done += piece)
        plan_linear(p, &p->shapes[shape_count(p) - 1], plim_min(piece, rows - done), false);
    give_logits(p, piece);
}

/* A single token that is recorded. */
static void plan_step(struct predictor *p, size_t past, bool repeated)
{
    const struct model_config *c = &p->files.config;
    uint64_t activations = 4 * (uint64_t)c->hidden_size + scratch_bytes(p, 1);

    take(p, PLIM_TAG_ACTIVATIONS, activations);
    take(p, PLIM_TAG_LOGITS, 4 * (uint64_t)c->vocab_size);   /* on the device only */
    plan_decoder(p, past, 1, repeated);
    plan_linear(p, &p->shapes[shape_count(p) - 1], 1, false);
    give(p, PLIM_TAG_LOGITS, 4 * (uint64_t)c->vocab_size);
    give(p, PLIM_TAG_ACTIVATIONS, activations);
}

/* One call of plim_session_forward. `repeated`: only `past` differs from the call before. */
static void plan_forward(struct predictor *p, size_t past, size_t count, enum plim_logits_rows rows, bool repeated)
{
    const struct model_config *c = &p->files.config;
    size_t chunk_rows = plim_min(count, (size_t)p->parameters->count[PLIM_MAX_INPUT_LEN]);
    uint64_t hidden = 4 * (uint64_t)chunk_rows * c->hidden_size * p->places_used, scratch = 0;
    size_t last_n = 0;

    if (count == 1 && p->records_steps && rows != PLIM_LOGITS_NONE) {
        plan_step(p, past, repeated);
        return;
    }
    take(p, PLIM_TAG_ACTIVATIONS, hidden);
    for (size_t done = 0, n; done < count; done += n) {
        n = plim_min(chunk_rows, count - done);
        uint64_t wanted = n == last_n && scratch ? scratch : scratch_bytes(p, n) * p->places_used;
        if (wanted > scratch) {
            give(p, PLIM_TAG_ACTIVATIONS, scratch);
            scratch = wanted;
            take(p, PLIM_TAG_ACTIVATIONS, scratch);
        }
        plan_decoder(p, past + done, n, repeated || n == last_n);
        last_n = n;
        if (rows == PLIM_LOGITS_NONE || (rows == PLIM_LOGITS_LAST && done + n < count))
            continue;
        give(p, PLIM_TAG_ACTIVATIONS, scratch);
        scratch = 0;
        plan_head(p, rows == PLIM_LOGITS_ALL ? n : 1);
    }
    give(p, PLIM_TAG_ACTIVATIONS, hidden + scratch);
}

/* Bytes of one position in one layer; a quantised row has codes and, per group of elements, a scale of 2 bytes. */
static uint64_t kv_row_bytes(const struct plim_parameters *parameters, uint64_t width, uint64_t head_dim)
{
    uint64_t group = head_dim % 32 == 0 ? 32 : 16, scales = width / group * 2;
    uint64_t q8 = (width + scales + 15) / 16 * 16, q4 = (width / 2 + scales + 15) / 16 * 16;

    switch ((enum plim_kv_cache_type)parameters->count[PLIM_KV_CACHE]) {
    case PLIM_KV_FP32:
        return 8 * width;
    case PLIM_KV_Q8:
        return 2 * q8;
    case PLIM_KV_Q6:
        return q8 + q4;
    case PLIM_KV_Q4:
        return 2 * q4;
    case PLIM_KV_FP16:
        break;
    }
    return 4 * width;
}

static int plan_run(struct predictor *p, const struct plim_plan_request *request, struct plim_err *err)
{
    const struct model_config *c = &p->files.config;
    size_t tokens = request->past + request->prompt_tokens + request->decode_tokens;

    if (request->context_tokens == 0)
        return 0;
    if (request->context_tokens > c->max_positions)
        return plim_err_input(err, "context of %zu tokens: the model has %zu positions", request->context_tokens,
                              c->max_positions);
    if (tokens > request->context_tokens)
        return plim_err_input(err, "a run of %zu tokens does not fit a context of %zu", tokens,
                              request->context_tokens);

    take_host(p, PLIM_TAG_METADATA, sizeof(struct plim_session));
    take_host(p, PLIM_TAG_METADATA, (p->split.count - 1) * sizeof(void *));
    p->records_steps = model_records_steps(c, p->backend, p->parameters);
    if (p->records_steps)
        take_host(p, PLIM_TAG_METADATA, p->ops->step_host_bytes());
    if (backend_kv_check(p->parameters, c->head_dim, err) < 0)
        return -1;
    take(p, PLIM_TAG_KV_CACHE, (uint64_t)request->context_tokens * c->layer_count *
                                   kv_row_bytes(p->parameters, c->kv_head_count * c->head_dim, c->head_dim));
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        take_host(p, (enum plim_tag)tag, request->held_bytes[tag]);
    if (request->prompt_tokens > 0)
        plan_forward(p, request->past, request->prompt_tokens, request->rows, false);
    for (size_t i = 0; i < request->decode_tokens; i++)
        plan_forward(p, request->past + request->prompt_tokens + i, 1, PLIM_LOGITS_LAST, i > 0);
    return 0;
}

int plim_predict(const char *directory, const char *backend, const struct plim_parameters *parameters,
                 const struct plim_plan_request *request, struct plim_plan *out, struct plim_err *err)
{
    if (!backend)
        backend = plim_parameters_backend(parameters);
    struct predictor p = {
        .parameters = parameters,
        .backend = backend,
        .ops = backend_predict(backend),
        .fast = { .tag_peak = out->tag_peak_bytes, .peak = &out->peak_bytes, .peak_tag = out->peak_tag_bytes },
        .slow = { .tag_peak = out->slow_tag_peak_bytes, .peak = &out->slow_peak_bytes,
                  .peak_tag = out->slow_peak_tag_bytes },
    };
    struct plim_pool_memory memory;
    int rc = -1;

    *out = (struct plim_plan){ 0 };
    if (backend_split(backend, parameters, &p.split, err) < 0)
        return -1;
    p.host = backend_memory(backend, parameters, &memory) ? &p.slow : &p.fast;
    if (!p.ops)
        return plim_err_input(err, "this build has no backend \"%s\"", backend);
    if (plim_pool_open(&p.pool, NULL, err) < 0)
        return -1;
    if (plan_load(&p, directory, err) < 0)
        goto out;
    if (plan_run(&p, request, err) < 0)
        goto out;
    rc = 0;

out:
    plim_pool_free(p.pool, p.shapes);
    model_files_close(&p.files);
    plim_pool_close(p.pool);
    if (rc < 0)
        plim_err_wrap(err, "predicting the memory of %s", directory);
    return rc;
}
