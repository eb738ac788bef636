/*
 * Causal attention with grouped heads over the cache, in pieces, by online softmax.
 *
 * The query heads that share a key/value head are taken together: query vector f = row * group + g of that head, so
 * its rows * group vectors stand at positions past + f / group, in order. A unit of work is one key/value head and a
 * block of at most R such vectors; it walks its visible keys in blocks of at most C:
 *
 *     S = scale q K^T                     [R, C]     the piece: tag attention
 *     m, P, l = online softmax of S       per vector
 *     O = alpha O + P V                   [R, head_dim]
 *
 * and ends with out = O / l. So what is held depends on R and C and never on the length of the context: that is the
 * promise of max_attention_size, R * C <= max_attention_size / threads. By default a piece is far smaller than that,
 * because one that stays in the cache is also the fastest.
 *
 * A quantised cache is decoded a block at a time into a panel of the slot's, [C, head_dim], and stays rotated
 * (kv_format.h): queries are rotated when a unit begins, results when it ends.
 *
 * Keys and values are widened in registers, straight from the cache, each once for several query vectors. Packing them
 * into fp32 panels for the usual matrix kernel was tried: a tenth faster for long prompts, a quarter slower for few
 * rows, with four times the workspace and twice the code.
 *
 * Units are cut over the threads by a formula of shapes and parameters. The order of sums within a unit doesn't depend
 * on the cut, so results are the same for every thread count as long as max_attention_size is not what limits R * C.
 */

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "kv_cache.h"
#include "plimsoll/units.h"

/* q, O and S of a unit take 80 KiB for head_dim 128; beside them, keys and values of a block stay in the cache. */
#define BLOCK_VECTORS 64
#define BLOCK_KEYS    64
#define CACHE_LINE    16     /* in floats */

struct attention_plan {
    size_t slots;            /* threads that work; each has a piece and a workspace of its own */
    size_t vectors;          /* rows * group, for each key/value head */
    size_t block_vectors;    /* R */
    size_t block_keys;       /* C */
    size_t blocks;           /* blocks of vectors */
    size_t units;            /* kv_heads * blocks */
    size_t batch;            /* units that walk the keys side by side: a slot's heads, when a head is one block */
    size_t dim;              /* head_dim rounded up to a cache line: the stride of q and O */
    size_t score_floats;     /* one slot's piece */
    size_t state_floats;     /* one unit's state: q and O [R, dim], m and l [R] */
    size_t panel_floats;     /* decoded keys or values [C, dim] of one slot; 0 when the cache needs no decoding */
};

static struct attention_plan plan_make(const struct attention_shape *shape, size_t past, size_t rows,
                                       const struct plim_parameters *parameters)
{
    struct attention_plan plan = { 0 };
    size_t bound = (size_t)parameters->count[PLIM_MAX_ATTENTION_SIZE];
    size_t keys = past + rows;
    if (shape->window && keys > shape->window + rows - 1)
        keys = shape->window + rows - 1;

    plan.vectors = rows * (shape->head_count / shape->kv_head_count);
    plan.slots = cpu_thread_limit(parameters, rows * keys * shape->kv_head_count * shape->head_dim * 2);
    plan.slots = plim_min(plan.slots, plim_min(bound, shape->kv_head_count * plan.vectors));
    bound /= plan.slots;
    plan.block_vectors = plim_min(BLOCK_VECTORS, plan.vectors);
    plan.block_keys = plim_min(BLOCK_KEYS, keys);
    while (plan.block_vectors * plan.block_keys > bound) {
        size_t *larger = plan.block_vectors > plan.block_keys ? &plan.block_vectors : &plan.block_keys;
        *larger = plim_ceil_div(*larger, 2);
    }
    plan.blocks = plim_ceil_div(plan.vectors, plan.block_vectors);
    plan.units = shape->kv_head_count * plan.blocks;
    plan.slots = plim_min(plan.slots, plan.units);
    plan.batch = plan.blocks == 1 ? plim_ceil_div(plan.units, plan.slots) : 1;
    plan.dim = plim_round_up(shape->head_dim, CACHE_LINE);
    plan.score_floats = plan.block_vectors * plan.block_keys;
    plan.state_floats = plim_round_up(2 * plan.block_vectors * (plan.dim + 1), CACHE_LINE);
    if (kv_is_quantised(backend_kv_format(parameters, KV_KEYS, shape->kv_head_count, shape->head_dim).element))
        plan.panel_floats = plan.block_keys * plan.dim;
    return plan;
}

static size_t workspace_floats(const struct attention_plan *plan)
{
    return plan->slots * (plan->batch * plan->state_floats + plan->panel_floats);
}

struct attention_scratch cpu_attention_scratch(const struct attention_shape *shape, size_t past, size_t rows,
                                               const struct plim_parameters *parameters)
{
    if (rows == 0)
        return (struct attention_scratch){ 0 };
    struct attention_plan plan = plan_make(shape, past, rows, parameters);
    return (struct attention_scratch){
        .attention_bytes = plan.slots * plan.score_floats * sizeof(float),
        .workspace_bytes = workspace_floats(&plan) * sizeof(float),
    };
}

struct attention_job {
    const struct cpu_kernels *kernels;
    const struct attention_shape *shape;
    const struct attention_plan *plan;
    const float *q;
    const void *cache_k, *cache_v;
    struct kv_format key_format, value_format;
    size_t past;
    float *out;
    float *scores;       /* [slots, score_floats] */
    float *workspace;    /* [slots, batch, state_floats] */
    float *panels;       /* [slots, panel_floats] */
};

/* What a slot works with. */
struct slot {
    float *scores, *states, *panel;
};

/* One unit while it walks its keys. */
struct unit {
    size_t head;              /* key/value head */
    size_t first, count;      /* vectors */
    float *q, *o;             /* [count, dim] */
    float *max, *sum;         /* [count] */
};

/* Keys [begin, end) that a vector sees. */
struct key_range {
    size_t begin, end;
};

static struct key_range vector_keys(const struct attention_job *job, size_t vector)
{
    size_t group = job->shape->head_count / job->shape->kv_head_count;
    size_t end = job->past + vector / group + 1;
    size_t window = job->shape->window;
    return (struct key_range){ window && end > window ? end - window : 0, end };
}

/* Where vector f of a key/value head lies in q and out. */
static size_t vector_offset(const struct attention_job *job, size_t head, size_t vector)
{
    size_t group = job->shape->head_count / job->shape->kv_head_count;
    return ((vector / group) * job->shape->head_count + head * group + vector % group) * job->shape->head_dim;
}

/*
 * Unit i of a head is block i/2 from the front, or from the back when i is odd: late blocks see more keys, and so every
 * contiguous share of the units is as much work as any other.
 */
static struct unit unit_at(const struct attention_job *job, size_t index, float *state)
{
    const struct attention_plan *plan = job->plan;
    size_t i = index % plan->blocks, block = i % 2 ? plan->blocks - 1 - i / 2 : i / 2;
    size_t first = block * plan->block_vectors, matrix_floats = plan->block_vectors * plan->dim;
    return (struct unit){
        .head = index / plan->blocks,
        .first = first,
        .count = plim_min(plan->block_vectors, plan->vectors - first),
        .q = state,
        .o = state + matrix_floats,
        .max = state + 2 * matrix_floats,
        .sum = state + 2 * matrix_floats + plan->block_vectors,
    };
}

static void unit_begin(const struct attention_job *job, const struct unit *unit)
{
    size_t stride = job->plan->dim;
    memset(unit->o, 0, unit->count * stride * sizeof *unit->o);
    for (size_t r = 0; r < unit->count; r++) {
        const float *q = job->q + vector_offset(job, unit->head, unit->first + r);
        job->kernels->from_float(q, job->shape->head_dim, job->shape->scale, unit->q + r * stride);
        if (job->key_format.chunk)
            kv_rotate(unit->q + r * stride, job->shape->head_dim, job->key_format.chunk);
        unit->max[r] = -INFINITY;
        unit->sum[r] = 0;
    }
}

static void unit_end(const struct attention_job *job, const struct unit *unit)
{
    for (size_t r = 0; r < unit->count; r++) {
        float *out = job->out + vector_offset(job, unit->head, unit->first + r);
        job->kernels->from_float(unit->o + r * job->plan->dim, job->shape->head_dim, 1.0f / unit->sum[r], out);
        if (job->value_format.chunk)
            kv_rotate(out, job->shape->head_dim, job->value_format.chunk);
    }
}

/* Scores of keys [key, key + count) become weights; O's rows are rescaled to the new maxima. */
static void unit_softmax(const struct attention_job *job, const struct unit *unit, size_t key, size_t count,
                         float *scores)
{
    const struct attention_plan *plan = job->plan;
    for (size_t r = 0; r < unit->count; r++) {
        struct key_range keys = vector_keys(job, unit->first + r);
        size_t begin = keys.begin > key ? plim_min(keys.begin - key, count) : 0;
        size_t end = keys.end > key ? plim_min(keys.end - key, count) : 0;
        float *row = scores + r * plan->block_keys;
        float rescale;

        if (begin >= end) {
            memset(row, 0, count * sizeof *row);
            continue;
        }
        if (job->shape->softcap > 0)
            job->kernels->softcap(row + begin, job->shape->softcap, end - begin);
        rescale = job->kernels->softmax_step(row + begin, end - begin, &unit->max[r], &unit->sum[r]);
        if (rescale != 1.0f)
            job->kernels->scale(unit->o + r * plan->dim, rescale, job->shape->head_dim);
        memset(row, 0, begin * sizeof *row);
        memset(row + end, 0, (count - end) * sizeof *row);
    }
}

/* Rows of a cache as the kernels take them: halves or floats where they lie, or floats decoded into the panel. */
struct cached {
    const uint16_t *halves;   /* NULL: floats */
    const float *floats;
    size_t stride;
};

static struct cached cached_rows(const struct attention_job *job, const struct kv_format *format, const void *cache,
                                 size_t head, size_t key, size_t count, float *panel)
{
    size_t dim = job->shape->head_dim, width = job->shape->kv_head_count * dim;

    switch (format->element) {
    case KV_F16:
        return (struct cached){ .halves = (const uint16_t *)cache + key * width + head * dim, .stride = width };
    case KV_F32:
        return (struct cached){ .floats = (const float *)cache + key * width + head * dim, .stride = width };
    case KV_Q8:
    case KV_Q4:
        break;
    }
    job->kernels->kv_decode(format, (const uint8_t *)cache + key * format->row_bytes, count, head * dim, dim, panel,
                            job->plan->dim);
    return (struct cached){ .floats = panel, .stride = job->plan->dim };
}

/* One block of keys for one unit. */
static void unit_step(const struct attention_job *job, const struct unit *unit, size_t key, size_t count,
                      const struct slot *slot)
{
    const struct attention_plan *plan = job->plan;
    const struct cpu_kernels *kernels = job->kernels;
    size_t dim = job->shape->head_dim;

    struct cached keys = cached_rows(job, &job->key_format, job->cache_k, unit->head, key, count, slot->panel);
    if (keys.halves)
        kernels->scores_half(unit->q, plan->dim, unit->count, keys.halves, keys.stride, count, dim, slot->scores,
                             plan->block_keys);
    else
        kernels->scores_float(unit->q, plan->dim, unit->count, keys.floats, keys.stride, count, dim, slot->scores,
                              plan->block_keys);
    unit_softmax(job, unit, key, count, slot->scores);

    struct cached values = cached_rows(job, &job->value_format, job->cache_v, unit->head, key, count, slot->panel);
    if (values.halves)
        kernels->values_half(slot->scores, plan->block_keys, unit->count, values.halves, values.stride, count, dim,
                             unit->o, plan->dim);
    else
        kernels->values_float(slot->scores, plan->block_keys, unit->count, values.floats, values.stride, count, dim,
                              unit->o, plan->dim);
}

/*
 * Units first .. first + count - 1 side by side, so that a page of the cache, which holds all heads of a few positions,
 * is visited once: decoding at 4096 tokens takes a third less time. When there are several, each is one whole head, and
 * all see the same keys.
 */
static void batch_run(const struct attention_job *job, size_t first, size_t count, const struct slot *slot)
{
    const struct attention_plan *plan = job->plan;
    struct unit unit = unit_at(job, first, slot->states);
    size_t begin = vector_keys(job, unit.first).begin;
    size_t end = vector_keys(job, unit.first + unit.count - 1).end;

    for (size_t i = 0; i < count; i++) {
        unit = unit_at(job, first + i, slot->states + i * plan->state_floats);
        unit_begin(job, &unit);
    }
    for (size_t key = begin; key < end; key += plan->block_keys)
        for (size_t i = 0; i < count; i++) {
            unit = unit_at(job, first + i, slot->states + i * plan->state_floats);
            unit_step(job, &unit, key, plim_min(plan->block_keys, end - key), slot);
        }
    for (size_t i = 0; i < count; i++) {
        unit = unit_at(job, first + i, slot->states + i * plan->state_floats);
        unit_end(job, &unit);
    }
}

static void run_slots(void *context, size_t begin, size_t end, int thread)
{
    const struct attention_job *job = context;
    const struct attention_plan *plan = job->plan;
    (void)thread;
    for (size_t s = begin; s < end; s++) {
        const struct slot slot = {
            .scores = job->scores + s * plan->score_floats,
            .states = job->workspace + s * plan->batch * plan->state_floats,
            .panel = job->panels + s * plan->panel_floats,
        };
        size_t first = s * plan->units / plan->slots, last = (s + 1) * plan->units / plan->slots;
        for (size_t unit = first; unit < last; unit += plan->batch)
            batch_run(job, unit, plim_min(plan->batch, last - unit), &slot);
    }
}

/* Pieces of scores that one call goes through; the same for every thread count unless max_attention_size is tiny. */
static size_t count_pieces(const struct attention_job *job)
{
    const struct attention_plan *plan = job->plan;
    size_t pieces = 0;
    for (size_t first = 0; first < plan->vectors; first += plan->block_vectors) {
        size_t last = plim_min(first + plan->block_vectors, plan->vectors) - 1;
        pieces += plim_ceil_div(vector_keys(job, last).end - vector_keys(job, first).begin, plan->block_keys);
    }
    return pieces * job->shape->kv_head_count;
}

int cpu_attention(struct backend *backend, const struct attention_shape *shape, const float *q,
                  const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                  struct plim_err *err)
{
    struct attention_plan plan;
    struct attention_job job = {
        .kernels = cpu_kernels(backend),
        .shape = shape,
        .plan = &plan,
        .q = q,
        .cache_k = cache_k,
        .cache_v = cache_v,
        .key_format = backend_kv_format(backend->parameters, KV_KEYS, shape->kv_head_count, shape->head_dim),
        .value_format = backend_kv_format(backend->parameters, KV_VALUES, shape->kv_head_count, shape->head_dim),
        .past = past,
        .out = out,
    };
    int rc = -1;

    if (rows == 0)
        return 0;
    plan = plan_make(shape, past, rows, backend->parameters);
    job.scores = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_ATTENTION,
                                 plan.slots * plan.score_floats * sizeof *job.scores, err);
    if (!job.scores)
        goto out;
    job.workspace = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                    workspace_floats(&plan) * sizeof *job.workspace, err);
    if (!job.workspace)
        goto out;
    job.panels = job.workspace + plan.slots * plan.batch * plan.state_floats;
    /* A slot is a piece of the range: with one slot this is a plain call. */
    threads_run(plan.slots > 1 ? backend->threads : NULL, plan.slots, 1, run_slots, &job);
    backend->counters.attention_chunks += count_pieces(&job);
    rc = 0;
out:
    plim_pool_free(backend->pool, job.workspace);
    plim_pool_free(backend->pool, job.scores);
    return rc;
}
