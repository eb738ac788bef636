#ifndef PLIM_SAFETENSORS_H
#define PLIM_SAFETENSORS_H

/*
 * Safetensors: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then data.
 * https://github.com/huggingface/safetensors (README, 'Format').
 *
 * A `tensor_store` is the union of the files of a model directory, mapped read-only. Every header is checked in full
 * before anything is used: length, JSON limits, duplicate names (also across files), dtypes, shape products,
 * offsets inside the file, without overlap or hole.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "plimsoll/err.h"
#include "plimsoll/pool.h"

#define TENSOR_MAX_DIMENSIONS 8

/* A borrowed view of one tensor in a mapped file; valid while the store is open. */
struct tensor {
    const char *name;
    enum dtype dtype;
    int dimension_count;
    size_t shape[TENSOR_MAX_DIMENSIONS];
    size_t element_count;
    size_t bytes;
    const void *data;         /* may be unaligned for its dtype; NULL when bytes is 0 */
    const char *file;         /* path, for errors */
};

struct tensor_store;

/* One file. */
int tensor_store_open_file(struct tensor_store **store, struct plim_pool *pool, const char *path,
                           struct plim_err *err);

/*
 * A model directory. With `follow_index` and a model.safetensors.index.json: exactly the shards it names, and each
 * tensor where it says (a missing shard or tensor is an error). Otherwise all *.safetensors, in name order; EXL2
 * directories carry stale index files, so they are opened without `follow_index` (reference/exl2.md, 1.1).
 */
int tensor_store_open_directory(struct tensor_store **store, struct plim_pool *pool, const char *directory,
                                bool follow_index, struct plim_err *err);

void tensor_store_close(struct tensor_store *store);

size_t tensor_store_count(const struct tensor_store *store);
const struct tensor *tensor_store_at(const struct tensor_store *store, size_t index);   /* sorted by name */
const struct tensor *tensor_store_find(const struct tensor_store *store, const char *name);   /* NULL: not there */
uint64_t tensor_store_file_bytes(const struct tensor_store *store);    /* of all mapped files */

/*
 * As find, but the tensor must be there with one of the dtypes in `dtype_mask` (1u << DTYPE_F16 | ...) and the given
 * shape (`dimension_count` entries, -1 for any): else `err` says what was found and wanted, and NULL is returned.
 */
const struct tensor *tensor_store_need(const struct tensor_store *store, const char *name, unsigned dtype_mask,
                                       int dimension_count, const int64_t *shape, struct plim_err *err);

/* ---- writing ---- */

/*
 * A streaming writer: declare every tensor, then give the data in the same order in pieces of any size; memory use
 * does not depend on the tensors' sizes. The file appears when it is complete (plimsoll/file.h).
 */
struct safetensors_writer;

int safetensors_writer_open(struct safetensors_writer **writer, struct plim_pool *pool, const char *path,
                            struct plim_err *err);
int safetensors_writer_declare(struct safetensors_writer *writer, const char *name, enum dtype dtype,
                               int dimension_count, const size_t *shape, struct plim_err *err);
/* Data of the declared tensors, end to end. The first call writes the header. */
int safetensors_writer_write(struct safetensors_writer *writer, const void *data, size_t bytes,
                             struct plim_err *err);
/* Fails if bytes are missing. */
int safetensors_writer_commit(struct safetensors_writer *writer, struct plim_err *err);
void safetensors_writer_close(struct safetensors_writer *writer);   /* drops the file unless committed */

#endif
