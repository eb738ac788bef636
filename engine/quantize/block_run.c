#include "block_run.h"

static size_t chunk_tokens(const struct block_run *run)
{
    return plim_min(run->length, block_run_tokens(run->block.backend));
}

static void *alloc(struct block_run *run, enum plim_tag tag, size_t bytes, struct plim_err *err)
{
    return plim_pool_alloc(run->block.backend->pool, PLIM_FAST, tag, bytes, err);
}

int block_run_open(struct block_run *run, struct plim_model *model, size_t length, struct plim_err *err)
{
    const struct model_config *c = &model->files.config;

    *run = (struct block_run){ .length = length };
    block_init(&run->block, model);
    run->block.by_parts = true;
    /* fp16: quantize.c sees to that. */
    size_t cache_bytes =
        length * backend_kv_format(&model->engine->parameters, KV_KEYS, c->kv_head_count, c->head_dim).row_bytes;
    run->keys = alloc(run, PLIM_TAG_KV_CACHE, cache_bytes, err);
    run->values = run->keys ? alloc(run, PLIM_TAG_KV_CACHE, cache_bytes, err) : NULL;
    run->hidden = run->values ? alloc(run, PLIM_TAG_ACTIVATIONS, chunk_tokens(run) * c->hidden_size * sizeof(float), err)
                              : NULL;
    if (run->hidden && run->block.ops->unified_memory)
        run->host_hidden = run->hidden;
    else if (run->hidden)
        run->host_hidden = plim_pool_alloc(run->block.backend->pool, PLIM_HOST, PLIM_TAG_ACTIVATIONS,
                                           chunk_tokens(run) * c->hidden_size * sizeof(float), err);
    if (!run->host_hidden || block_scratch_open(&run->block, chunk_tokens(run), err) < 0) {
        block_run_close(run);
        return -1;
    }
    run->block.hidden = run->hidden;
    return 0;
}

void block_run_close(struct block_run *run)
{
    if (!run->block.backend)
        return;
    struct plim_pool *pool = run->block.backend->pool;
    block_scratch_close(&run->block);
    if (run->host_hidden != run->hidden)
        plim_pool_free(pool, run->host_hidden);
    plim_pool_free(pool, run->hidden);
    plim_pool_free(pool, run->values);
    plim_pool_free(pool, run->keys);
    *run = (struct block_run){ 0 };
}

int block_run_row(struct block_run *run, const struct layer *layer, enum block_kind kind, const float *in,
                  block_run_output *output, void *context, struct plim_err *err)
{
    struct block *b = &run->block;
    size_t width = b->config->hidden_size;

    for (b->first = 0; b->first < run->length; b->first += b->rows) {
        b->rows = plim_min(chunk_tokens(run), run->length - b->first);
        if (b->ops->upload(b->backend, run->hidden, in + b->first * width, b->rows * width * sizeof *in, err) < 0)
            return -1;
        if (kind == BLOCK_ATTENTION) {
            if (block_rope(b, err) < 0 || block_attention(b, layer, run->keys, run->values, err) < 0)
                return -1;
        } else if (block_mlp(b, layer, err) < 0) {
            return -1;
        }
        if (run->host_hidden != run->hidden &&
            b->ops->download(b->backend, run->host_hidden, run->hidden, b->rows * width * sizeof *in, err) < 0)
            return -1;
        if (output(context, b->first, b->rows, run->host_hidden, err) < 0)
            return -1;
    }
    return 0;
}
