#ifndef PLIM_BLOCK_RUN_H
#define PLIM_BLOCK_RUN_H

/*
 * Running one block over one calibration row, from position 0, with a key/value cache of its own.
 *
 * A row goes through in chunks of block_run_tokens, always: the chunk is what activations, expanded weights and packed
 * operands are proportional to, and a Hessian is a sum over chunks, so a chunk that followed the memory budget would make
 * the result follow it too.
 */

#include "block.h"

#define BLOCK_RUN_MOST_TOKENS ((size_t)512)

/* Tokens of a chunk: 256, and 512 where device memory is not the host's and products of 256 rows would leave it idle. */
static inline size_t block_run_tokens(const struct backend *backend)
{
    return backend->ops->unified_memory ? BLOCK_RUN_MOST_TOKENS / 2 : BLOCK_RUN_MOST_TOKENS;
}

enum block_kind { BLOCK_ATTENTION, BLOCK_MLP };

struct block_run {
    struct block block;
    void *keys, *values;        /* [length, kv_heads * head_dim] */
    float *hidden;              /* [chunk, hidden_size], device */
    float *host_hidden;         /* the same for the host: `hidden` itself, where the host reaches it */
    size_t length;
};

int block_run_open(struct block_run *run, struct plim_model *model, size_t length, struct plim_err *err);
void block_run_close(struct block_run *run);

/* Receives the block's output for tokens first .. first + tokens - 1: hidden [tokens, hidden_size], host memory. */
typedef int block_run_output(void *context, size_t first, size_t tokens, const float *hidden, struct plim_err *err);

/* in [length, hidden_size], host. Taps of run->block are called on the way. */
int block_run_row(struct block_run *run, const struct layer *layer, enum block_kind kind, const float *in,
                  block_run_output *output, void *context, struct plim_err *err);

#endif
