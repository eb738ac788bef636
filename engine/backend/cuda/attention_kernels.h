#ifndef PLIM_ATTENTION_KERNELS_H
#define PLIM_ATTENTION_KERNELS_H

/*
 * The attention kernels of the CUDA backend: device pointers and a stream in, no memory of their own.
 *
 * The query heads that share a key/value head are taken together: query vector f = row * group + g of that head stands
 * at position past + row. There are two kernels over tensor cores, in fp16 with fp32 sums, both with an online softmax
 * that stores no score, and the plain path:
 *
 *   few    up to FEW_VECTORS vectors (decoding): keys and values go from memory straight into registers
 *   flash  tiles of many vectors (prompts): keys and values go through shared memory
 *
 *   plain  any shape and any cache, scores in memory, in pieces of a bounded size
 *
 * Either of the first two may split the keys over several blocks when there are too few tiles to fill the card. Each block then leaves
 * an unfinished result, and the last one to come, counted by an atomic, adds them up in order: the same bits each time.
 */

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kv_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FEW_VECTORS 16

struct attention_args {
    const float *q;                   /* [rows, kv_heads * group, head_dim] */
    float *out;                       /* likewise; may be q */
    const uint8_t *keys, *values;     /* rows of the cache, from position 0 on */
    struct kv_format key_format, value_format;
    int rows, kv_heads, group, head_dim;
    float scale, softcap;             /* softcap 0: none */
    int window;                       /* 0: none */
    int past;
    const uint32_t *past_at;          /* device; not NULL: read `past` there (a step that is replayed) */
    int splits;                       /* parts that the keys are cut into */
    float *partial;                   /* attention_*_partial_floats() when splits > 1 */

    const float *cos_sin;             /* not NULL: rotates q by it first; [rows, head_dim]: cosines, then sines, from `past` on */
    /* The few kernel with one row only: not NULL: rotates k too, and stores k and v at `past` first. */
    const float *k, *v;               /* [kv_heads, head_dim] */
    bool dependent;                   /* launch before the kernel ahead in the stream has ended (sm_90) */
};

/* Whether the two kernels have code for this shape; the others are the plain path's. */
bool attention_few_supports(const struct attention_args *args);
bool attention_flash_supports(const struct attention_args *args);

/*
 * Parts to cut `keys` keys into. A formula of shapes only, and of no particular card, so that sums are the same
 * everywhere; `keys` is rounded up to a bucket, so that a captured step holds for a while.
 */
int attention_few_splits(int kv_heads, size_t keys);
int attention_flash_splits(int kv_heads, int vectors, int head_dim, size_t keys);
size_t attention_few_partial_floats(int kv_heads, int vectors, int head_dim, int splits);
size_t attention_flash_partial_floats(int kv_heads, int vectors, int head_dim, int splits);

cudaError_t attention_few_launch(const struct attention_args *args, cudaStream_t stream);
cudaError_t attention_flash_launch(const struct attention_args *args, cudaStream_t stream);

/*
 * The plain path: for `vector_count` vectors from `vector` on of each of `heads` key/value heads from `head` on, one piece
 * of scores [heads, vector_count, key_count] after the other.
 */
struct plain_piece {
    int head, heads;
    int vector, vector_count;
    float *queries, *sums;            /* [heads, vector_count, head_dim] */
    float *highest, *weight, *rescale;   /* [heads, vector_count] */
    float *scores;                    /* [heads, vector_count, key_stride] */
    int key_stride;
};

cudaError_t attention_plain_begin(const struct attention_args *args, const struct plain_piece *piece, cudaStream_t stream);
cudaError_t attention_plain_step(const struct attention_args *args, const struct plain_piece *piece, int key, int key_count,
                                 cudaStream_t stream);
cudaError_t attention_plain_end(const struct attention_args *args, const struct plain_piece *piece, cudaStream_t stream);

struct kv_store_args {
    const float *k, *v;               /* [rows, width] */
    const float *cos_sin;             /* [rows, head_dim]; not NULL: rotates k by it first (half a head: whole quads) */
    uint8_t *keys, *values;           /* the cache, from position 0 on */
    struct kv_format key_format, value_format;
    int rows, width, head_dim;
    int first;
    bool dependent;
    const uint32_t *first_at;         /* device; not NULL: read `first` there */
};

cudaError_t kv_store_launch(const struct kv_store_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
