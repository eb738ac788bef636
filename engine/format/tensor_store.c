/* The union of the safetensors files of a model: mapped, checked, sorted by name. */

#include "safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "plimsoll/json.h"
#include "plimsoll/units.h"
#include "safetensors_header.h"

#define INDEX_NAME        "model.safetensors.index.json"
#define INDEX_LIMIT_BYTES SAFETENSORS_HEADER_LIMIT_BYTES

struct store_file {
    char *path;
    struct plim_map map;
    struct safetensors_header header;   /* its table is dropped once `tensors` is built, its names stay */
};

struct tensor_store {
    struct plim_pool *pool;
    char *path;                  /* as it was opened, for errors */
    struct store_file *files;    /* [file_capacity] */
    size_t file_count, file_capacity;
    struct tensor *tensors;      /* [tensor_count], sorted by name */
    size_t tensor_count;
};

static struct tensor_store *store_create(struct plim_pool *pool, const char *path, struct plim_err *err)
{
    struct tensor_store *store = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *store, err);
    if (!store)
        return NULL;
    store->pool = pool;
    store->path = plim_pool_strdup(pool, PLIM_TAG_METADATA, path, err);
    if (!store->path) {
        plim_pool_free(pool, store);
        return NULL;
    }
    return store;
}

static int reserve_files(struct tensor_store *store, size_t count, struct plim_err *err)
{
    store->files = plim_pool_calloc(store->pool, PLIM_HOST, PLIM_TAG_METADATA, count, sizeof *store->files, err);
    store->file_capacity = count;
    return store->files ? 0 : -1;
}

static int add_file(struct tensor_store *store, const char *path, struct plim_err *err)
{
    struct store_file *file = &store->files[store->file_count];
    file->path = plim_pool_strdup(store->pool, PLIM_TAG_METADATA, path, err);
    if (!file->path)
        return -1;
    store->file_count++;   /* from here on close() undoes what is done */
    if (plim_map_open(&file->map, path, err) < 0)
        return -1;
    return safetensors_header_parse(&file->header, store->pool, file->path, file->map.data, file->map.bytes, err);
}

static int compare_tensors(const void *a, const void *b)
{
    const struct tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

/* Merges the tables of all files into one that is sorted by name. */
static int build_table(struct tensor_store *store, struct plim_err *err)
{
    for (size_t i = 0; i < store->file_count; i++)
        store->tensor_count += store->files[i].header.count;
    store->tensors = plim_pool_calloc(store->pool, PLIM_HOST, PLIM_TAG_METADATA, store->tensor_count,
                                      sizeof *store->tensors, err);
    if (!store->tensors)
        return -1;

    size_t next = 0;
    for (size_t i = 0; i < store->file_count; i++) {
        struct safetensors_header *header = &store->files[i].header;
        for (size_t t = 0; t < header->count; t++)
            store->tensors[next++] = header->tensors[t];
        plim_pool_free(store->pool, header->tensors);
        header->tensors = NULL;
    }
    qsort(store->tensors, store->tensor_count, sizeof *store->tensors, compare_tensors);

    for (size_t i = 1; i < store->tensor_count; i++) {
        const struct tensor *first = &store->tensors[i - 1], *second = &store->tensors[i];
        if (strcmp(first->name, second->name) == 0)
            return plim_err_input(err, "tensor %.200s is in two files, %s and %s", first->name, first->file,
                                  second->file);
    }
    return 0;
}

/* Ends an opening function: hands the store over, or drops it. */
static int finish_open(struct tensor_store **out, struct tensor_store *store, int rc)
{
    if (rc < 0) {
        tensor_store_close(store);
        store = NULL;
    }
    *out = store;
    return rc;
}

int tensor_store_open_file(struct tensor_store **out, struct plim_pool *pool, const char *path, struct plim_err *err)
{
    int rc = -1;
    struct tensor_store *store = store_create(pool, path, err);
    if (store && reserve_files(store, 1, err) == 0 && add_file(store, path, err) == 0 && build_table(store, err) == 0)
        rc = 0;
    return finish_open(out, store, rc);
}

static int add_file_of_directory(struct tensor_store *store, const char *name, struct plim_err *err)
{
    char *path = plim_path_join(store->path, name, err);
    int rc = path ? add_file(store, path, err) : -1;
    free(path);
    return rc;
}

/* ---- a directory without an index ---- */

static int is_safetensors(const struct dirent *entry)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(entry->d_name), suffix_length = sizeof suffix - 1;
    return length > suffix_length && entry->d_name[0] != '.' &&
           strcmp(entry->d_name + length - suffix_length, suffix) == 0;
}

/* Not alphasort: that one's order depends on the locale. */
static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_all_files(struct tensor_store *store, struct plim_err *err)
{
    struct dirent **entries = NULL;
    int rc = -1;
    int count = scandir(store->path, &entries, is_safetensors, compare_entries);
    if (count < 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return plim_err_input(err, "%s: %s", store->path, strerror(errno));
        return plim_err_errno(err, "%s", store->path);
    }
    if (count == 0) {
        plim_err_input(err, "%s: no *.safetensors file in this directory", store->path);
        goto out;
    }
    if (reserve_files(store, (size_t)count, err) < 0)
        goto out;
    for (int i = 0; i < count; i++) {
        if (add_file_of_directory(store, entries[i]->d_name, err) < 0)
            goto out;
    }
    rc = 0;

out:
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return rc;
}

/* ---- a directory with an index: {"weight_map": {"tensor": "shard.safetensors"}} ---- */

struct placement {
    const char *tensor;
    const char *shard;
};

static int compare_placements(const void *a, const void *b)
{
    const struct placement *left = a, *right = b;
    int order = strcmp(left->shard, right->shard);
    return order ? order : strcmp(left->tensor, right->tensor);
}

/* A shard is named without a folder, so that an index cannot reach outside its model. */
static bool is_plain_file_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

static int read_placements(struct placement *placements, struct plim_json weight_map, struct plim_err *err)
{
    const cJSON *node;
    size_t index = 0;
    cJSON_ArrayForEach(node, weight_map.node) {
        if (!cJSON_IsString(node) || !is_plain_file_name(node->valuestring))
            return plim_json_err(weight_map, err, "%.200s: expected the name of a file beside the index",
                                 node->string);
        placements[index++] = (struct placement){ node->string, node->valuestring };
    }
    return 0;
}

static bool starts_shard(const struct placement *placements, size_t index)
{
    return index == 0 || strcmp(placements[index - 1].shard, placements[index].shard) != 0;
}

static int add_shards(struct tensor_store *store, const struct placement *placements, size_t count,
                      struct plim_err *err)
{
    size_t shard_count = 0;
    for (size_t i = 0; i < count; i++)
        shard_count += starts_shard(placements, i);
    if (reserve_files(store, shard_count, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (!starts_shard(placements, i))
            continue;
        if (add_file_of_directory(store, placements[i].shard, err) < 0)
            return plim_err_wrap(err, "shard %.200s named by " INDEX_NAME, placements[i].shard);
    }
    return build_table(store, err);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int check_placements(const struct tensor_store *store, const struct placement *placements,
                            struct plim_json weight_map, struct plim_err *err)
{
    size_t count = plim_json_length(weight_map);
    for (size_t i = 0; i < count; i++) {
        const struct tensor *tensor = tensor_store_find(store, placements[i].tensor);
        if (!tensor)
            return plim_json_err(weight_map, err, "tensor %.200s should be in %.200s and is not",
                                 placements[i].tensor, placements[i].shard);
        if (strcmp(base_name(tensor->file), placements[i].shard) != 0)
            return plim_json_err(weight_map, err, "tensor %.200s should be in %.200s and is in %.200s",
                                 placements[i].tensor, placements[i].shard, base_name(tensor->file));
    }
    return 0;
}

static int add_indexed_files(struct tensor_store *store, const char *index_path, struct plim_err *err)
{
    cJSON *root = NULL;
    struct placement *placements = NULL;
    int rc = -1;

    if (plim_json_read(index_path, INDEX_LIMIT_BYTES, &root, err) < 0)
        return -1;
    struct plim_json weight_map = plim_json_get(plim_json_root(root, index_path), "weight_map");
    if (plim_json_object(weight_map, err) < 0)
        goto out;
    size_t count = plim_json_length(weight_map);
    if (count == 0) {
        plim_json_err(weight_map, err, "empty, expected the files of all tensors");
        goto out;
    }
    placements = plim_pool_calloc(store->pool, PLIM_HOST, PLIM_TAG_METADATA, count, sizeof *placements, err);
    if (!placements)
        goto out;
    if (read_placements(placements, weight_map, err) < 0)
        goto out;
    qsort(placements, count, sizeof *placements, compare_placements);
    if (add_shards(store, placements, count, err) < 0 || check_placements(store, placements, weight_map, err) < 0)
        goto out;
    rc = 0;

out:
    plim_pool_free(store->pool, placements);
    cJSON_Delete(root);
    return rc;
}

int tensor_store_open_directory(struct tensor_store **out, struct plim_pool *pool, const char *directory,
                                bool follow_index, struct plim_err *err)
{
    int rc = -1;
    struct tensor_store *store = store_create(pool, directory, err);
    char *index_path = plim_path_join(directory, INDEX_NAME, err);
    if (!store || !index_path)
        goto out;
    if (follow_index && plim_path_exists(index_path))
        rc = add_indexed_files(store, index_path, err);
    else if (add_all_files(store, err) == 0)
        rc = build_table(store, err);

out:
    free(index_path);
    return finish_open(out, store, rc);
}

void tensor_store_close(struct tensor_store *store)
{
    if (!store)
        return;
    struct plim_pool *pool = store->pool;
    plim_pool_free(pool, store->tensors);
    for (size_t i = 0; i < store->file_count; i++) {
        safetensors_header_release(&store->files[i].header, pool);
        plim_map_close(&store->files[i].map);
        plim_pool_free(pool, store->files[i].path);
    }
    plim_pool_free(pool, store->files);
    plim_pool_free(pool, store->path);
    plim_pool_free(pool, store);
}

/* ---- looking up ---- */

size_t tensor_store_count(const struct tensor_store *store)
{
    return store->tensor_count;
}

const struct tensor *tensor_store_at(const struct tensor_store *store, size_t index)
{
    return &store->tensors[index];
}

uint64_t tensor_store_file_bytes(const struct tensor_store *store)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < store->file_count; i++)
        bytes += store->files[i].map.bytes;
    return bytes;
}

const struct tensor *tensor_store_find(const struct tensor_store *store, const char *name)
{
    struct tensor key = { .name = name };
    return bsearch(&key, store->tensors, store->tensor_count, sizeof *store->tensors, compare_tensors);
}

/* "F32 or F16". */
static void format_dtypes(char *buffer, size_t size, unsigned dtype_mask)
{
    size_t used = 0;
    buffer[0] = '\0';
    for (int i = 0; i < DTYPE_COUNT && used < size; i++) {
        if (dtype_mask & 1u << i)
            used += (size_t)snprintf(buffer + used, size - used, "%s%s", used ? " or " : "",
                                     dtype_name((enum dtype)i));
    }
}

/* "[300, any]"; `shape` holds -1 for any. */
static void format_shape(char *buffer, size_t size, int dimension_count, const int64_t *shape)
{
    size_t used = (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < dimension_count && used < size; i++) {
        const char *separator = i ? ", " : "";
        if (shape[i] < 0)
            used += (size_t)snprintf(buffer + used, size - used, "%sany", separator);
        else
            used += (size_t)snprintf(buffer + used, size - used, "%s%lld", separator, (long long)shape[i]);
    }
    if (used < size)
        snprintf(buffer + used, size - used, "]");
}

static bool shape_fits(const struct tensor *tensor, int dimension_count, const int64_t *shape)
{
    if (tensor->dimension_count != dimension_count)
        return false;
    for (int i = 0; i < dimension_count; i++) {
        if (shape[i] >= 0 && (size_t)shape[i] != tensor->shape[i])
            return false;
    }
    return true;
}

const struct tensor *tensor_store_need(const struct tensor_store *store, const char *name, unsigned dtype_mask,
                                       int dimension_count, const int64_t *shape, struct plim_err *err)
{
    const struct tensor *tensor = tensor_store_find(store, name);
    if (!tensor) {
        plim_err_input(err, "%s: tensor %.200s is missing", store->path, name);
        return NULL;
    }
    if (!(dtype_mask & 1u << tensor->dtype)) {
        char wanted[80];
        format_dtypes(wanted, sizeof wanted, dtype_mask);
        plim_err_input(err, "%s: tensor %.200s: dtype %s, expected %s", tensor->file, name, dtype_name(tensor->dtype),
                       wanted);
        return NULL;
    }
    if (!shape_fits(tensor, dimension_count, shape)) {
        char found[200], wanted[200];
        int64_t found_shape[TENSOR_MAX_DIMENSIONS] = { 0 };
        for (int i = 0; i < tensor->dimension_count; i++)
            found_shape[i] = (int64_t)tensor->shape[i];
        format_shape(found, sizeof found, tensor->dimension_count, found_shape);
        format_shape(wanted, sizeof wanted, dimension_count, shape);
        plim_err_input(err, "%s: tensor %.200s: shape %s, expected %s", tensor->file, name, found, wanted);
        return NULL;
    }
    return tensor;
}
