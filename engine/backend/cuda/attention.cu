/*
 * Attention and the KV cache: the operations. Which kernel a call takes, and the memory it holds meanwhile, follow from
 * shapes and parameters alone (plan_make), so that predictions can use them.
 *
 *     flash (the default)   partial results when the keys are split: tag workspace, bounded whatever the context is
 *     plain                 scores, at most max_attention_size elements: tag attention; and what belongs to their vectors
 *                           beside them: tag workspace. Taken too for an fp32 cache and for unusual head sizes
 */

#include "attention_kernels.h"
#include "cuda_internal.h"
#include "plimsoll/units.h"

enum path {
    PATH_FEW,
    PATH_FLASH,
    PATH_PLAIN
};

struct plan {
    enum path path;
    int splits;
    size_t partial_floats;
    /* plain */
    size_t heads, vectors, keys;   /* of one piece of scores */
    size_t state_floats;           /* of one vector: q, O, m, l, alpha */
};

static struct attention_args args_make(const struct attention_shape *shape, size_t past, size_t rows,
                                       const struct plim_parameters *parameters)
{
    struct attention_args args = {};

    args.key_format = backend_kv_format(parameters, KV_KEYS, shape->kv_head_count, shape->head_dim);
    args.value_format = backend_kv_format(parameters, KV_VALUES, shape->kv_head_count, shape->head_dim);
    args.rows = (int)rows;
    args.kv_heads = (int)shape->kv_head_count;
    args.group = (int)(shape->head_count / shape->kv_head_count);
    args.head_dim = (int)shape->head_dim;
    args.scale = shape->scale;
    args.softcap = shape->softcap;
    args.window = (int)shape->window;
    args.past = (int)past;
    args.splits = 1;
    return args;
}

/* The keys that a call goes through. */
static size_t keys_seen(const struct attention_shape *shape, size_t past, size_t rows)
{
    return shape->window ? plim_min(past + rows, shape->window + rows - 1) : past + rows;
}

/* As on the CPU: all of a head's vectors and keys, the larger halved until a piece fits; then as many heads as fit. */
static void plan_plain(struct plan *plan, const struct attention_shape *shape, size_t past, size_t rows, size_t bound)
{
    plan->vectors = rows * (shape->head_count / shape->kv_head_count);
    plan->keys = keys_seen(shape, past, rows);
    while (plan->vectors * plan->keys > bound) {
        size_t *larger = plan->vectors > plan->keys ? &plan->vectors : &plan->keys;
        *larger = plim_ceil_div(*larger, 2);
    }
    plan->heads = plim_max(plim_min(bound / (plan->vectors * plan->keys), shape->kv_head_count), 1);
    plan->state_floats = 2 * shape->head_dim + 3;
}

static struct plan plan_make(const struct attention_shape *shape, size_t past, size_t rows,
                             const struct plim_parameters *parameters)
{
    struct attention_args args = args_make(shape, past, rows, parameters);
    struct plan plan = {};
    size_t keys = keys_seen(shape, past, rows);
    int vectors = args.rows * args.group;
    bool plain = parameters->count[PLIM_ATTENTION_MODE] == PLIM_ATTENTION_PLAIN;

    if (!plain && attention_few_supports(&args)) {
        plan.path = PATH_FEW;
        plan.splits = attention_few_splits(args.kv_heads, keys);
        plan.partial_floats = attention_few_partial_floats(args.kv_heads, vectors, args.head_dim, plan.splits);
    } else if (!plain && attention_flash_supports(&args)) {
        plan.path = PATH_FLASH;
        plan.splits = attention_flash_splits(args.kv_heads, vectors, args.head_dim, keys);
        plan.partial_floats = attention_flash_partial_floats(args.kv_heads, vectors, args.head_dim, plan.splits);
    } else {
        plan.path = PATH_PLAIN;
        plan_plain(&plan, shape, past, rows, (size_t)parameters->count[PLIM_MAX_ATTENTION_SIZE]);
    }
    return plan;
}

extern "C" struct attention_scratch cuda_attention_scratch(const struct attention_shape *shape, size_t past,
                                                           size_t rows, const struct plim_parameters *parameters)
{
    struct attention_scratch scratch = { 0, 0 };
    if (rows == 0)
        return scratch;
    struct plan plan = plan_make(shape, past, rows, parameters);
    if (plan.path == PATH_PLAIN) {
        size_t vectors = plan.heads * plan.vectors;
        scratch.attention_bytes = vectors * plan.keys * sizeof(float);
        scratch.workspace_bytes = vectors * plan.state_floats * sizeof(float);
    } else {
        scratch.workspace_bytes = plan.partial_floats * sizeof(float);
    }
    return scratch;
}

/* The plain path goes through more pieces with every key, so it can't be recorded. */
extern "C" bool cuda_records_steps(const struct attention_shape *shape, const struct plim_parameters *parameters)
{
    return parameters->count[PLIM_CUDA_GRAPH] && plan_make(shape, 0, 1, parameters).path == PATH_FEW;
}

/* ---- running ---- */

static int run_tensor(struct backend *backend, const struct plan *plan, struct attention_args *args, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    void *partial = NULL;

    if (plan->partial_floats) {
        partial = cuda_scratch_take(backend, PLIM_TAG_WORKSPACE, plan->partial_floats * sizeof(float), err);
        if (!partial)
            return -1;
    }
    args->partial = (float *)partial;
    args->splits = plan->splits;
    args->past_at = cuda->in_step ? &cuda->step->past : NULL;
    args->dependent = cuda->overlap_launches;
    cudaError_t status = plan->path == PATH_FEW ? attention_few_launch(args, cuda->stream)
                                                : attention_flash_launch(args, cuda->stream);
    cuda_scratch_give(backend, partial);
    backend->counters.attention_chunks++;
    return cuda_check(status, "attention", err);
}

/* One set of vectors over all keys that any of them sees. */
static int run_piece(struct backend *backend, const struct attention_args *args, const struct plain_piece *piece,
                     struct plim_err *err)
{
    cudaStream_t stream = cuda_of(backend)->stream;
    int end = args->past + (piece->vector + piece->vector_count - 1) / args->group + 1;
    int first = args->past + piece->vector / args->group + 1;
    int begin = args->window && first > args->window ? first - args->window : 0;

    CUDA_TRY(attention_plain_begin(args, piece, stream), err);
    for (int key = begin; key < end; key += piece->key_stride) {
        int count = end - key < piece->key_stride ? end - key : piece->key_stride;
        CUDA_TRY(attention_plain_step(args, piece, key, count, stream), err);
        backend->counters.attention_chunks += (uint64_t)piece->heads;
    }
    CUDA_TRY(attention_plain_end(args, piece, stream), err);
    return 0;
}

static int run_plain(struct backend *backend, const struct plan *plan, struct attention_args *args, struct plim_err *err)
{
    size_t slots = plan->heads * plan->vectors, vectors = (size_t)args->rows * (size_t)args->group;
    size_t dim = (size_t)args->head_dim;
    struct plain_piece piece = {};
    float *state = NULL;
    int rc = -1;

    piece.key_stride = (int)plan->keys;
    piece.scores = (float *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_ATTENTION,
                                            slots * plan->keys * sizeof(float), err);
    if (!piece.scores)
        goto out;
    state = (float *)plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                     slots * plan->state_floats * sizeof(float), err);
    if (!state)
        goto out;
    piece.queries = state;
    piece.sums = piece.queries + slots * dim;
    piece.highest = piece.sums + slots * dim;
    piece.weight = piece.highest + slots;
    piece.rescale = piece.weight + slots;
    for (size_t head = 0; head < (size_t)args->kv_heads; head += plan->heads)
        for (size_t vector = 0; vector < vectors; vector += plan->vectors) {
            piece.head = (int)head;
            piece.heads = (int)plim_min(plan->heads, (size_t)args->kv_heads - head);
            piece.vector = (int)vector;
            piece.vector_count = (int)plim_min(plan->vectors, vectors - vector);
            if (run_piece(backend, args, &piece, err) < 0)
                goto out;
        }
    rc = 0;
out:
    plim_pool_free(backend->pool, state);
    plim_pool_free(backend->pool, piece.scores);
    return rc;
}

extern "C" int cuda_attention(struct backend *backend, const struct attention_shape *shape, const float *q,
                              const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                              struct plim_err *err)
{
    if (rows == 0)
        return 0;
    struct plan plan = plan_make(shape, past, rows, backend->parameters);
    struct attention_args args = args_make(shape, past, rows, backend->parameters);
    args.q = q;
    args.out = out;
    args.keys = (const uint8_t *)cache_k;
    args.values = (const uint8_t *)cache_v;
    return plan.path == PATH_PLAIN ? run_plain(backend, &plan, &args, err) : run_tensor(backend, &plan, &args, err);
}

/* `cos_sin` not NULL: keys are rotated by it first. */
static int store(struct backend *backend, const struct attention_shape *shape, const float *k, const float *v,
                 const float *cos_sin, size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct kv_store_args args = {};

    if (rows == 0)
        return 0;
    if (backend_kv_check(backend->parameters, shape->head_dim, err) < 0)
        return -1;
    args.k = k;
    args.v = v;
    args.cos_sin = cos_sin;
    args.keys = (uint8_t *)cache_k;
    args.values = (uint8_t *)cache_v;
    args.key_format = backend_kv_format(backend->parameters, KV_KEYS, shape->kv_head_count, shape->head_dim);
    args.value_format = backend_kv_format(backend->parameters, KV_VALUES, shape->kv_head_count, shape->head_dim);
    args.rows = (int)rows;
    args.width = (int)(shape->kv_head_count * shape->head_dim);
    args.head_dim = (int)shape->head_dim;
    args.first = (int)first;
    args.first_at = cuda->in_step ? &cuda->step->past : NULL;
    args.dependent = cuda->overlap_launches;
    return cuda_check(kv_store_launch(&args, cuda->stream), "kv_store", err);
}

extern "C" int cuda_kv_store(struct backend *backend, const struct attention_shape *shape, const float *k,
                             const float *v, size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err)
{
    return store(backend, shape, k, v, NULL, rows, first, cache_k, cache_v, err);
}

/* One row: the few kernel rotates and stores on its way. Tiles: keys are rotated on their way to the cache, queries when read. */
extern "C" int cuda_attention_step(struct backend *backend, const struct attention_shape *shape, float *q, float *k,
                                   const float *v, const float *cos_sin, void *cache_k, void *cache_v, size_t past,
                                   size_t rows, float *out, struct plim_err *err)
{
    struct plan plan = plan_make(shape, past, rows, backend->parameters);
    struct attention_args args = args_make(shape, past, rows, backend->parameters);

    if (plan.path == PATH_PLAIN || (plan.path == PATH_FEW && rows > 1)) {
        if (cuda_rope(backend, q, cos_sin, 0, rows, shape->head_count, shape->head_dim, err) < 0 ||
            cuda_rope(backend, k, cos_sin, 0, rows, shape->kv_head_count, shape->head_dim, err) < 0 ||
            cuda_kv_store(backend, shape, k, v, rows, past, cache_k, cache_v, err) < 0)
            return -1;
        return cuda_attention(backend, shape, q, cache_k, cache_v, past, rows, out, err);
    }
    args.q = q;
    args.cos_sin = cos_sin;
    args.out = out;
    args.keys = (const uint8_t *)cache_k;
    args.values = (const uint8_t *)cache_v;
    if (plan.path == PATH_FEW) {
        args.k = k;
        args.v = v;
    } else if (store(backend, shape, k, v, cos_sin, rows, past, cache_k, cache_v, err) < 0) {
        return -1;
    }
    return run_tensor(backend, &plan, &args, err);
}
