/*
 * Writing safetensors in a stream. The header comes first in the file and holds every offset, so all tensors are
 * declared before the first byte of data; after that only one staging buffer is held, however large the tensors are.
 */

#include "safetensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "plimsoll/units.h"

#define STAGING_BYTES    (256 * PLIM_KI)
#define HEADER_ALIGNMENT 64   /* the format asks for nothing; this lets mapped tensors begin on a cache line */

/* Text that grows. */
struct text {
    char *bytes;
    size_t length, capacity;
};

struct safetensors_writer {
    struct plim_pool *pool;
    struct plim_atomic_file file;
    struct text header;          /* the JSON so far, after 8 bytes for its length */
    struct text names;           /* of the declared tensors, each with its NUL */
    size_t tensor_count;
    size_t declared_bytes, given_bytes;
    bool started;                /* the header is written */
    char *staging;               /* [STAGING_BYTES] */
    size_t staged_bytes;
};

static int text_append(struct text *text, struct plim_pool *pool, const char *bytes, size_t count,
                       struct plim_err *err)
{
    if (count > text->capacity - text->length) {
        size_t capacity = plim_max(2 * text->capacity, plim_max(4096, text->length + count));
        char *grown = plim_pool_realloc(pool, PLIM_TAG_METADATA, text->bytes, capacity, err);
        if (!grown)
            return -1;
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->length, bytes, count);
    text->length += count;
    return 0;
}

static int header_print(struct safetensors_writer *writer, struct plim_err *err, const char *format, ...)
    PLIM_PRINTF(3, 4);

static int header_print(struct safetensors_writer *writer, struct plim_err *err, const char *format, ...)
{
    char piece[96];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    return text_append(&writer->header, writer->pool, piece, (size_t)length, err);
}

/* A JSON string with its quotes. */
static int header_print_name(struct safetensors_writer *writer, const char *name, struct plim_err *err)
{
    if (header_print(writer, err, "\"") < 0)
        return -1;
    for (const char *c = name; *c; c++) {
        int rc;
        if ((unsigned char)*c < 0x20)
            rc = header_print(writer, err, "\\u%04x", (unsigned)*c);
        else
            rc = header_print(writer, err, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
        if (rc < 0)
            return -1;
    }
    return header_print(writer, err, "\"");
}

int safetensors_writer_open(struct safetensors_writer **out, struct plim_pool *pool, const char *path,
                            struct plim_err *err)
{
    int rc = -1;
    *out = NULL;
    struct safetensors_writer *writer = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof *writer, err);
    if (!writer)
        return -1;
    writer->pool = pool;
    writer->file = (struct plim_atomic_file)PLIM_ATOMIC_FILE_INIT;
    writer->staging = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_IO, STAGING_BYTES, err);
    if (!writer->staging)
        goto out;
    if (header_print(writer, err, "%8s{", "") < 0)
        goto out;
    if (plim_atomic_open(&writer->file, path, err) < 0)
        goto out;
    rc = 0;

out:
    if (rc < 0)
        safetensors_writer_close(writer);
    else
        *out = writer;
    return rc;
}

/* Where the tensor ends in the data: overflow is an error before anything is declared. */
static int end_of_tensor(const struct safetensors_writer *writer, const char *name, enum dtype dtype,
                         int dimension_count, const size_t *shape, size_t *end, struct plim_err *err)
{
    size_t bytes = dtype_bytes(dtype);
    bool fits = dimension_count <= TENSOR_MAX_DIMENSIONS;
    for (int i = 0; i < dimension_count && fits; i++)
        fits = plim_size_mul(bytes, shape[i], &bytes);
    if (!fits || !plim_size_add(writer->declared_bytes, bytes, end) || *end > (size_t)1 << 53)
        return plim_err_input(err, "%s: tensor %.200s is too large for the format", writer->file.path, name);
    return 0;
}

int safetensors_writer_declare(struct safetensors_writer *writer, const char *name, enum dtype dtype,
                               int dimension_count, const size_t *shape, struct plim_err *err)
{
    size_t end = 0;
    if (writer->started)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "%s: tensor %.200s is declared after data", writer->file.path,
                            name);
    if (end_of_tensor(writer, name, dtype, dimension_count, shape, &end, err) < 0)
        return -1;
    if (text_append(&writer->names, writer->pool, name, strlen(name) + 1, err) < 0)
        return -1;
    if (writer->tensor_count > 0 && header_print(writer, err, ",") < 0)
        return -1;
    if (header_print_name(writer, name, err) < 0 ||
        header_print(writer, err, ":{\"dtype\":\"%s\",\"shape\":[", dtype_name(dtype)) < 0)
        return -1;
    for (int i = 0; i < dimension_count; i++) {
        if (header_print(writer, err, "%s%zu", i ? "," : "", shape[i]) < 0)
            return -1;
    }
    if (header_print(writer, err, "],\"data_offsets\":[%zu,%zu]}", writer->declared_bytes, end) < 0)
        return -1;
    writer->declared_bytes = end;
    writer->tensor_count++;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A reader would refuse the file for a name that is there twice: say it before the data are written. */
static int check_names(const struct safetensors_writer *writer, struct plim_err *err)
{
    const char **names = plim_pool_calloc(writer->pool, PLIM_HOST, PLIM_TAG_METADATA, writer->tensor_count,
                                          sizeof *names, err);
    if (!names)
        return -1;
    const char *name = writer->names.bytes;
    for (size_t i = 0; i < writer->tensor_count; i++, name += strlen(name) + 1)
        names[i] = name;
    qsort(names, writer->tensor_count, sizeof *names, compare_names);
    int rc = 0;
    for (size_t i = 1; i < writer->tensor_count && rc == 0; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = plim_err_input(err, "%s: tensor %.200s is declared twice", writer->file.path, names[i]);
    }
    plim_pool_free(writer->pool, names);
    return rc;
}

static int start(struct safetensors_writer *writer, struct plim_err *err)
{
    if (check_names(writer, err) < 0 || header_print(writer, err, "}") < 0)
        return -1;
    size_t padding = plim_round_up(writer->header.length, HEADER_ALIGNMENT) - writer->header.length;
    if (header_print(writer, err, "%*s", (int)padding, "") < 0)
        return -1;
    uint64_t json_bytes = writer->header.length - sizeof json_bytes;
    for (size_t i = 0; i < sizeof json_bytes; i++)
        writer->header.bytes[i] = (char)(json_bytes >> 8 * i & 0xff);
    writer->started = true;
    return plim_atomic_write(&writer->file, writer->header.bytes, writer->header.length, err);
}

static int flush(struct safetensors_writer *writer, struct plim_err *err)
{
    size_t bytes = writer->staged_bytes;
    writer->staged_bytes = 0;
    return plim_atomic_write(&writer->file, writer->staging, bytes, err);
}

int safetensors_writer_write(struct safetensors_writer *writer, const void *data, size_t bytes, struct plim_err *err)
{
    if (!writer->started && start(writer, err) < 0)
        return -1;
    if (bytes > writer->declared_bytes - writer->given_bytes)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "%s: more data than the %zu bytes declared", writer->file.path,
                            writer->declared_bytes);
    if (bytes > STAGING_BYTES - writer->staged_bytes && flush(writer, err) < 0)
        return -1;
    writer->given_bytes += bytes;
    if (bytes >= STAGING_BYTES)
        return plim_atomic_write(&writer->file, data, bytes, err);
    if (bytes > 0)
        memcpy(writer->staging + writer->staged_bytes, data, bytes);
    writer->staged_bytes += bytes;
    return 0;
}

int safetensors_writer_commit(struct safetensors_writer *writer, struct plim_err *err)
{
    if (!writer->started && start(writer, err) < 0)
        return -1;
    if (writer->given_bytes != writer->declared_bytes)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "%s: %zu bytes of data given, %zu declared", writer->file.path,
                            writer->given_bytes, writer->declared_bytes);
    if (flush(writer, err) < 0)
        return -1;
    return plim_atomic_commit(&writer->file, err);
}

void safetensors_writer_close(struct safetensors_writer *writer)
{
    if (!writer)
        return;
    struct plim_pool *pool = writer->pool;
    plim_atomic_release(&writer->file);
    plim_pool_free(pool, writer->staging);
    plim_pool_free(pool, writer->names.bytes);
    plim_pool_free(pool, writer->header.bytes);
    plim_pool_free(pool, writer);
}
