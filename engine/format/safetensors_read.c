/*
 * Reading a safetensors header.
 *
 *     byte 0          8                   8 + H                          end of file
 *          | H, LE64  | JSON, H bytes     | data                         |
 *
 * {"name": {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {"key": "text"}}
 *
 * Offsets count from the first byte of data. The tensors must cover the data exactly: no overlap, no hole, nothing
 * past the end. That is what the reference implementation asks for, and it means that no byte of a file goes
 * unexplained.
 */

#include "safetensors_header.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/json.h"
#include "plimsoll/units.h"

#define LENGTH_BYTES 8

static uint64_t read_le64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

static int split_file(const uint8_t *data, size_t bytes, size_t *json_bytes, struct plim_err *err)
{
    if (bytes < LENGTH_BYTES)
        return plim_err_input(err, "truncated: %zu bytes, too short for a safetensors header", bytes);
    uint64_t length = read_le64(data);
    if (length > SAFETENSORS_HEADER_LIMIT_BYTES)
        return plim_err_input(err, "header length %llu is over the limit of %zu bytes; is this a safetensors file?",
                              (unsigned long long)length, SAFETENSORS_HEADER_LIMIT_BYTES);
    if (length > bytes - LENGTH_BYTES)
        return plim_err_input(err, "truncated, or no safetensors file: header length %llu, but only %zu bytes follow",
                              (unsigned long long)length, bytes - LENGTH_BYTES);
    if (length < 2 || data[LENGTH_BYTES] != '{')
        return plim_err_input(err, "the header does not begin with '{'; is this a safetensors file?");
    *json_bytes = (size_t)length;
    return 0;
}

/* A whole number that a double holds exactly. */
static bool read_size(const cJSON *node, size_t *out)
{
    if (!cJSON_IsNumber(node))
        return false;
    double value = node->valuedouble;
    if (!(value >= 0 && value <= 0x1p53) || value != floor(value))
        return false;
    *out = (size_t)value;
    return true;
}

static int read_dtype(struct tensor *tensor, const cJSON *node, struct plim_err *err)
{
    if (!cJSON_IsString(node))
        return plim_err_input(err, "tensor %.200s: dtype is missing or no string", tensor->name);
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(node->valuestring, dtype_name((enum dtype)i)) == 0) {
            tensor->dtype = (enum dtype)i;
            return 0;
        }
    }
    return plim_err_input(err, "tensor %.200s: dtype %.40s, expected F32, F16, BF16, I64, I32, I16 or U8",
                          tensor->name, node->valuestring);
}

static int read_shape(struct tensor *tensor, const cJSON *node, struct plim_err *err)
{
    if (!cJSON_IsArray(node))
        return plim_err_input(err, "tensor %.200s: shape is missing or no list", tensor->name);
    const cJSON *item;
    tensor->element_count = 1;
    cJSON_ArrayForEach(item, node) {
        if (tensor->dimension_count == TENSOR_MAX_DIMENSIONS)
            return plim_err_input(err, "tensor %.200s: more than %d dimensions", tensor->name, TENSOR_MAX_DIMENSIONS);
        size_t *extent = &tensor->shape[tensor->dimension_count++];
        if (!read_size(item, extent))
            return plim_err_input(err, "tensor %.200s: shape[%d] is not a whole number from 0 to 2^53", tensor->name,
                                  tensor->dimension_count - 1);
        if (!plim_size_mul(tensor->element_count, *extent, &tensor->element_count))
            return plim_err_input(err, "tensor %.200s: the product of its shape overflows", tensor->name);
    }
    if (!plim_size_mul(tensor->element_count, dtype_bytes(tensor->dtype), &tensor->bytes))
        return plim_err_input(err, "tensor %.200s: its size in bytes overflows", tensor->name);
    return 0;
}

static int read_offsets(const struct tensor *tensor, const cJSON *node, size_t data_bytes, size_t *begin,
                        struct plim_err *err)
{
    size_t end = 0;
    if (!cJSON_IsArray(node) || cJSON_GetArraySize(node) != 2 || !read_size(node->child, begin) ||
        !read_size(node->child->next, &end))
        return plim_err_input(err, "tensor %.200s: data_offsets is missing or not two whole numbers", tensor->name);
    if (*begin > end || end > data_bytes)
        return plim_err_input(err, "tensor %.200s: data_offsets [%zu, %zu] are outside the file's %zu bytes of data",
                              tensor->name, *begin, end, data_bytes);
    if (end - *begin != tensor->bytes)
        return plim_err_input(err, "tensor %.200s: data_offsets span %zu bytes, but its shape and dtype need %zu",
                              tensor->name, end - *begin, tensor->bytes);
    return 0;
}

/* One entry of the header. *begin is where its data begin. */
static int read_entry(struct tensor *tensor, const cJSON *node, size_t data_bytes, size_t *begin, struct plim_err *err)
{
    if (!cJSON_IsObject(node))
        return plim_err_input(err, "tensor %.200s: not an object", tensor->name);
    if (read_dtype(tensor, cJSON_GetObjectItemCaseSensitive(node, "dtype"), err) < 0)
        return -1;
    if (read_shape(tensor, cJSON_GetObjectItemCaseSensitive(node, "shape"), err) < 0)
        return -1;
    return read_offsets(tensor, cJSON_GetObjectItemCaseSensitive(node, "data_offsets"), data_bytes, begin, err);
}

static int check_metadata(const cJSON *node, struct plim_err *err)
{
    const cJSON *item;
    if (!cJSON_IsObject(node))
        return plim_err_input(err, "__metadata__ is not an object");
    cJSON_ArrayForEach(item, node) {
        if (!cJSON_IsString(item))
            return plim_err_input(err, "__metadata__.%.200s is not a string", item->string);
    }
    return 0;
}

static bool is_metadata(const cJSON *node)
{
    return strcmp(node->string, "__metadata__") == 0;
}

struct span {
    size_t begin, end;
    const char *name;
};

static int compare_spans(const void *a, const void *b)
{
    const struct span *left = a, *right = b;
    if (left->begin != right->begin)
        return left->begin < right->begin ? -1 : 1;
    return (left->end > right->end) - (left->end < right->end);
}

static int check_coverage(struct span *spans, size_t count, size_t data_bytes, struct plim_err *err)
{
    size_t covered = 0;
    qsort(spans, count, sizeof *spans, compare_spans);
    for (size_t i = 0; i < count; i++) {
        if (spans[i].begin < covered)
            return plim_err_input(err, "tensor %.200s: its data overlap those of %.200s", spans[i].name,
                                  spans[i - 1].name);
        if (spans[i].begin > covered)
            return plim_err_input(err, "tensor %.200s: %zu bytes before its data belong to no tensor", spans[i].name,
                                  spans[i].begin - covered);
        covered = spans[i].end;
    }
    if (covered != data_bytes)
        return plim_err_input(err, "%zu bytes at the end belong to no tensor", data_bytes - covered);
    return 0;
}

/* Adds up what the two tables need: number of tensors, and bytes of their names with the final NULs. */
static void measure(const cJSON *root, size_t *count, size_t *name_bytes)
{
    const cJSON *node;
    cJSON_ArrayForEach(node, root) {
        if (is_metadata(node))
            continue;
        *count += 1;
        *name_bytes += strlen(node->string) + 1;
    }
}

static int read_entries(struct safetensors_header *header, const cJSON *root, const char *path, const uint8_t *data,
                        size_t data_bytes, struct span *spans, struct plim_err *err)
{
    const cJSON *node;
    size_t index = 0;
    char *name = header->names;
    cJSON_ArrayForEach(node, root) {
        if (is_metadata(node)) {
            if (check_metadata(node, err) < 0)
                return -1;
            continue;
        }
        struct tensor *tensor = &header->tensors[index];
        size_t begin = 0;
        tensor->name = strcpy(name, node->string);
        tensor->file = path;
        if (read_entry(tensor, node, data_bytes, &begin, err) < 0)
            return -1;
        tensor->data = tensor->bytes ? data + begin : NULL;
        spans[index] = (struct span){ begin, begin + tensor->bytes, tensor->name };
        name += strlen(name) + 1;
        index++;
    }
    return check_coverage(spans, header->count, data_bytes, err);
}

int safetensors_header_parse(struct safetensors_header *header, struct plim_pool *pool, const char *path,
                             const uint8_t *data, size_t bytes, struct plim_err *err)
{
    cJSON *root = NULL;
    struct span *spans = NULL;
    size_t json_bytes = 0, name_bytes = 0;
    int rc = -1;

    *header = (struct safetensors_header)SAFETENSORS_HEADER_INIT;
    if (split_file(data, bytes, &json_bytes, err) < 0)
        goto out;
    /* Depth, trailing text, UTF-8 and duplicate names are its business. */
    if (plim_json_parse("header", (const char *)data + LENGTH_BYTES, json_bytes, &root, err) < 0)
        goto out;
    if (plim_json_object(plim_json_root(root, "header"), err) < 0)
        goto out;

    measure(root, &header->count, &name_bytes);
    header->tensors = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, header->count, sizeof *header->tensors, err);
    header->names = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_METADATA, name_bytes, err);
    spans = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, header->count, sizeof *spans, err);
    if (!header->tensors || !header->names || !spans)
        goto out;
    rc = read_entries(header, root, path, data + LENGTH_BYTES + json_bytes, bytes - LENGTH_BYTES - json_bytes, spans,
                      err);

out:
    plim_pool_free(pool, spans);
    cJSON_Delete(root);
    if (rc < 0) {
        safetensors_header_release(header, pool);
        plim_err_wrap(err, "%s", path);
    }
    return rc;
}

void safetensors_header_release(struct safetensors_header *header, struct plim_pool *pool)
{
    plim_pool_free(pool, header->names);
    plim_pool_free(pool, header->tensors);
    *header = (struct safetensors_header)SAFETENSORS_HEADER_INIT;
}
