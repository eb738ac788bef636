/*
 * The output directory: tensors in shards, the source's other files, and config.json last, which makes it a model.
 *
 * Tensors are planned in the order of the model, cut into shards, and then, within a shard, ordered by width (32-bit ones
 * first) and name, so that each is aligned for its type.
 */

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "conversion.h"
#include "digest.h"
#include "half.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "stored_layer.h"
#include "tensor_values.h"

#define COPY_BYTES         ((size_t)1 << 20)
#define CONFIG_LIMIT_BYTES ((size_t)16 << 20)

/* How a tensor becomes what is stored (format notes, 1.5). */
enum treatment {
    AS_IS,
    TO_HALF,            /* h(w) */
    TO_HALF_OFFSET,     /* h(h(w + 1) - 1): Gemma's norms, as ExLlamaV2 leaves them */
    TO_HALF_SCALED      /* h(h(w s) / s): embeddings that are scaled by s */
};

struct entry {
    char name[208];
    const struct tensor *tensor;
    enum treatment treatment;
    enum dtype dtype;           /* as stored */
    size_t bytes;
    size_t order, shard;
};

struct compilation {
    struct conversion *c;
    struct tensor_store **stores;   /* [block_count + 1] */
    struct entry *entries;
    size_t count, capacity;
    size_t shard_count;
    struct digest *digest;
};

/* ---- the plan ---- */

static int add_entry(struct compilation *k, const char *name, const struct tensor *tensor, enum treatment treatment,
                     struct plim_err *err)
{
    if (k->count == k->capacity)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "more tensors than were counted");
    struct entry *entry = &k->entries[k->count];
    *entry = (struct entry){
        .tensor = tensor,
        .treatment = treatment,
        .dtype = treatment == AS_IS ? tensor->dtype : DTYPE_F16,
        .order = k->count,
    };
    entry->bytes = tensor->element_count * dtype_bytes(entry->dtype);
    snprintf(entry->name, sizeof entry->name, "%s", name);
    k->count++;
    return 0;
}

static enum treatment norm_treatment(const struct compilation *k)
{
    return k->c->model->files.config.norm_offset != 0 ? TO_HALF_OFFSET : TO_HALF;
}

static int add_norms(struct compilation *k, size_t layer, enum layer_norm first, enum layer_norm last,
                     struct plim_err *err)
{
    for (int which = (int)first; which <= (int)last; which++) {
        const struct tensor *tensor;
        if (model_layer_norm(&tensor, &k->c->model->files, layer, (enum layer_norm)which, err) < 0)
            return -1;
        if (tensor && add_entry(k, tensor->name, tensor, norm_treatment(k), err) < 0)
            return -1;
    }
    return 0;
}

static int add_stored(struct compilation *k, size_t index, struct plim_err *err)
{
    char path[JOB_PATH_BYTES];
    stored_block_path(k->c, index, path);
    if (tensor_store_open_file(&k->stores[index], k->c->pool, path, err) < 0)
        return -1;
    for (size_t i = 0; i < tensor_store_count(k->stores[index]); i++) {
        const struct tensor *tensor = tensor_store_at(k->stores[index], i);
        if (add_entry(k, tensor->name, tensor, AS_IS, err) < 0)
            return -1;
    }
    return 0;
}

/* What a multimodal model holds beside its text part: towers and projectors, as they are. */
static int add_others(struct compilation *k, struct plim_err *err)
{
    const struct model_files *files = &k->c->model->files;
    const char *prefix = files->config.key_prefix;
    size_t length = strlen(prefix);

    for (size_t i = 0; length > 0 && i < tensor_store_count(files->store); i++) {
        const struct tensor *tensor = tensor_store_at(files->store, i);
        if (strncmp(tensor->name, prefix, length) != 0 && add_entry(k, tensor->name, tensor, AS_IS, err) < 0)
            return -1;
    }
    return 0;
}

static int plan_entries(struct compilation *k, struct plim_err *err)
{
    const struct model_files *files = &k->c->model->files;
    const struct tensor *embedding = model_embedding(files, err), *final = model_final_norm(files, err);

    if (!embedding || !final)
        return -1;
    if (add_entry(k, embedding->name, embedding, files->config.embedding_scale != 1 ? TO_HALF_SCALED : TO_HALF, err) < 0)
        return -1;
    for (size_t i = 0; i < k->c->block_count; i++) {
        bool mlp = i % 2;
        if (add_norms(k, i / 2, mlp ? NORM_MLP : NORM_ATTENTION, mlp ? NORM_MLP_POST : NORM_ATTENTION_POST, err) < 0 ||
            add_stored(k, i, err) < 0)
            return -1;
    }
    if (add_entry(k, final->name, final, norm_treatment(k), err) < 0 || add_stored(k, k->c->block_count, err) < 0)
        return -1;
    return add_others(k, err);
}

static int width_rank(enum dtype dtype)
{
    return dtype == DTYPE_I16 ? 2 : dtype_bytes(dtype) >= 4 ? 0 : 1;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    int rank = width_rank(x->dtype) - width_rank(y->dtype);
    return rank ? rank : strcmp(x->name, y->name);
}

/* A shard is closed when the next tensor would take it past the limit; a tensor larger than that has one of its own. */
static void cut_shards(struct compilation *k)
{
    uint64_t limit = k->c->options.shard_bytes, bytes = 0;
    size_t shard = 0;
    for (size_t i = 0; i < k->count; i++) {
        if (bytes > 0 && bytes + k->entries[i].bytes > limit) {
            shard++;
            bytes = 0;
        }
        bytes += k->entries[i].bytes;
        k->entries[i].shard = shard;
    }
    k->shard_count = shard + 1;
    qsort(k->entries, k->count, sizeof *k->entries, compare_entries);
}

/* ---- writing ---- */

static uint16_t treated(const struct entry *entry, float value, float scale)
{
    switch (entry->treatment) {
    case TO_HALF_OFFSET:
        return half_from_float(half_to_float(half_from_float(half_to_float(half_from_float(value)) + 1.0f)) - 1.0f);
    case TO_HALF_SCALED:
        return half_from_float(half_to_float(half_from_float(half_to_float(half_from_float(value)) * scale)) / scale);
    default:
        return half_from_float(value);
    }
}

static int write_halves(struct compilation *k, struct safetensors_writer *writer, const struct entry *entry,
                        struct plim_err *err)
{
    float scale = k->c->model->files.config.embedding_scale;
    uint16_t piece[4096];
    size_t count = entry->tensor->element_count;

    if (tensor_check_finite(entry->tensor, 0, count, err) < 0)
        return -1;
    for (size_t done = 0; done < count;) {
        size_t n = plim_min(sizeof piece / sizeof *piece, count - done);
        for (size_t i = 0; i < n; i++)
            piece[i] = treated(entry, tensor_value(entry->tensor, done + i), scale);
        if (safetensors_writer_write(writer, piece, n * sizeof *piece, err) < 0)
            return -1;
        done += n;
    }
    return 0;
}

static int write_entry(struct compilation *k, struct safetensors_writer *writer, const struct entry *entry,
                       struct plim_err *err)
{
    const struct tensor *tensor = entry->tensor;
    int rc = 0;

    if (entry->treatment != AS_IS) {
        rc = write_halves(k, writer, entry, err);
    } else {
        for (size_t done = 0, n; done < tensor->bytes && rc == 0; done += n) {
            n = plim_min(COPY_BYTES, tensor->bytes - done);
            rc = safetensors_writer_write(writer, (const char *)tensor->data + done, n, err);
        }
    }
    if (tensor->bytes > 0)
        model_drop_pages(tensor->data, tensor->bytes);
    return rc;
}

static void shard_name(const struct compilation *k, size_t shard, char name[64])
{
    if (k->shard_count == 1)
        snprintf(name, 64, "output.safetensors");
    else
        snprintf(name, 64, "output-%05zu-of-%05zu.safetensors", shard + 1, k->shard_count);
}

static int digest_file(struct compilation *k, const char *path, struct plim_err *err)
{
    struct plim_map map;
    if (plim_map_open(&map, path, err) < 0)
        return -1;
    for (size_t done = 0, n; done < map.bytes; done += n) {
        n = plim_min(16 * COPY_BYTES, map.bytes - done);
        digest_add(k->digest, map.data + done, n);
        model_drop_pages(map.data + done, n);
    }
    k->c->summary->output_bytes += map.bytes;
    plim_map_close(&map);
    return 0;
}

static int write_shard(struct compilation *k, size_t shard, struct plim_err *err)
{
    struct safetensors_writer *writer = NULL;
    char path[JOB_PATH_BYTES], name[64];
    int rc = -1;

    shard_name(k, shard, name);
    snprintf(path, sizeof path, "%s/%s", k->c->options.output_directory, name);
    if (safetensors_writer_open(&writer, k->c->pool, path, err) < 0)
        return -1;
    for (size_t i = 0; i < k->count; i++) {
        const struct entry *entry = &k->entries[i];
        if (entry->shard == shard &&
            safetensors_writer_declare(writer, entry->name, entry->dtype, entry->tensor->dimension_count,
                                       entry->tensor->shape, err) < 0)
            goto out;
    }
    for (size_t i = 0; i < k->count; i++)
        if (k->entries[i].shard == shard && write_entry(k, writer, &k->entries[i], err) < 0)
            goto out;
    rc = safetensors_writer_commit(writer, err);

out:
    safetensors_writer_close(writer);
    return rc < 0 ? -1 : digest_file(k, path, err);
}

static int compile_tensors(struct conversion *c, struct plim_err *err)
{
    struct compilation k = { .c = c };
    int rc = -1;

    /* Upper bound: the embedding, 6 norms a layer and the final one, 6 parts of 7 layers and the head, all others. */
    k.capacity = 2 + c->block_count / 2 * (6 + 7 * STORED_PARTS) + STORED_PARTS + tensor_store_count(c->model->files.store);
    k.stores = plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, c->block_count + 1, sizeof *k.stores, err);
    k.entries = plim_pool_calloc(c->pool, PLIM_HOST, PLIM_TAG_METADATA, k.capacity, sizeof *k.entries, err);
    k.digest = digest_begin(err);
    if (!k.stores || !k.entries || !k.digest || plan_entries(&k, err) < 0)
        goto out;
    cut_shards(&k);
    c->summary->output_bytes = 0;
    for (size_t shard = 0; shard < k.shard_count; shard++)
        if (write_shard(&k, shard, err) < 0)
            goto out;
    rc = 0;

out:
    digest_end(k.digest, c->summary->digest);
    for (size_t i = 0; k.stores && i <= c->block_count; i++)
        tensor_store_close(k.stores[i]);
    plim_pool_free(c->pool, k.entries);
    plim_pool_free(c->pool, k.stores);
    return rc;
}

/* ---- the other files ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* Weights in any form, an index of them, and what is written anew stay behind. */
static bool is_copied(const char *directory, const char *name)
{
    static const char *const left[] = { ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx",
                                        ".index.json" };
    char path[JOB_PATH_BYTES];
    struct stat info;

    if (name[0] == '.' || strcmp(name, "config.json") == 0)
        return false;
    for (size_t i = 0; i < sizeof left / sizeof *left; i++)
        if (ends_with(name, left[i]))
            return false;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, name) >= sizeof path)
        return false;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static int copy_file(const char *from, const char *to, struct plim_err *err)
{
    struct plim_map map;
    if (plim_map_open(&map, from, err) < 0)
        return -1;
    int rc = plim_write_file(to, map.data, map.bytes, err);
    plim_map_close(&map);
    return rc;
}

static int copy_others(const struct conversion *c, struct plim_err *err)
{
    const char *from = c->options.model_directory, *to = c->options.output_directory;
    DIR *dir = opendir(from);
    const struct dirent *entry;
    int rc = 0;

    if (!dir)
        return plim_err_errno(err, "%s", from);
    while (rc == 0 && (entry = readdir(dir))) {
        char source[JOB_PATH_BYTES], target[JOB_PATH_BYTES];
        if (!is_copied(from, entry->d_name) ||
            (size_t)snprintf(target, sizeof target, "%s/%s", to, entry->d_name) >= sizeof target)
            continue;
        snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
        rc = copy_file(source, target, err);
    }
    closedir(dir);
    return rc;
}

/* ---- config.json ---- */

static int write_config(const struct conversion *c, struct plim_err *err)
{
    const struct calibration *calibration = &c->calibration;
    char path[JOB_PATH_BYTES];
    cJSON *root = NULL, *block = NULL, *rows = NULL;
    char *text = NULL;
    int rc = -1;

    snprintf(path, sizeof path, "%s/config.json", c->options.model_directory);
    if (plim_json_read(path, CONFIG_LIMIT_BYTES, &root, err) < 0)
        return -1;
    cJSON_DeleteItemFromObjectCaseSensitive(root, "quantization_config");
    block = cJSON_AddObjectToObject(root, "quantization_config");
    if (!block || !cJSON_AddStringToObject(block, "quant_method", "exl2") ||
        !cJSON_AddStringToObject(block, "version", "0.3.2") || !cJSON_AddStringToObject(block, "quantizer", "plimsoll") ||
        !cJSON_AddNumberToObject(block, "bits", c->options.bits_per_weight) ||
        !cJSON_AddNumberToObject(block, "head_bits", c->options.head_bits) ||
        !(rows = cJSON_AddObjectToObject(block, "calibration")) ||
        !cJSON_AddNumberToObject(rows, "rows", (double)calibration->quantisation.rows) ||
        !cJSON_AddNumberToObject(rows, "length", (double)calibration->quantisation.length) ||
        !cJSON_AddStringToObject(rows, "dataset", calibration->dataset) || !(text = cJSON_Print(root))) {
        json_memory(err);
        goto out;
    }
    snprintf(path, sizeof path, "%s/config.json", c->options.output_directory);
    rc = plim_write_file(path, text, strlen(text), err);

out:
    cJSON_free(text);
    cJSON_Delete(root);
    return rc;
}

/* Readers take every safetensors file of a directory: one that isn't ours would become part of the model. */
static int check_no_strangers(const char *directory, struct plim_err *err)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    int rc = 0;
    while (dir && rc == 0 && (entry = readdir(dir)))
        if (ends_with(entry->d_name, ".safetensors") && strncmp(entry->d_name, "output", 6) != 0)
            rc = plim_err_input(err, "%s holds %.200s, which is not of this conversion", directory, entry->d_name);
    if (dir)
        closedir(dir);
    return rc;
}

int compile_output(struct conversion *c, struct plim_err *err)
{
    const char *directory = c->options.output_directory;
    uint64_t start = plim_now_ns();

    conversion_progress(c, "writing the model");
    plim_pool_set_scope(c->pool, "compile");
    meter_start(&c->meter, &c->engine->backend);
    meter_enter(&c->meter, PLIM_QUANTIZE_WRITE);
    if (plim_make_directories(directory, err) < 0)
        return -1;
    remove_temporaries(directory);
    if (check_no_strangers(directory, err) < 0 || compile_tensors(c, err) < 0 || copy_others(c, err) < 0 ||
        write_config(c, err) < 0)
        return plim_err_wrap(err, "writing the model");
    meter_enter(&c->meter, PLIM_QUANTIZE_OTHER);
    c->summary->compile_s = (double)(plim_now_ns() - start) / 1e9;
    return 0;
}
