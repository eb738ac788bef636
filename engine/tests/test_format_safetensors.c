/* Safetensors: honest files, hostile headers, directories, and the writer. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "format_test.h"
#include "plimsoll/file.h"
#include "safetensors_header.h"

/* ---- reading one file ---- */

static int parse(const char *file, size_t bytes, struct plim_err *err)
{
    struct plim_pool *pool = test_pool_open();
    struct safetensors_header header;
    /* A block of its own, so that the sanitizer sees a read past the end. */
    uint8_t *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, file, bytes);
    int rc = safetensors_header_parse(&header, pool, "x.safetensors", copy, bytes, err);
    safetensors_header_release(&header, pool);
    free(copy);
    test_pool_close(pool);
    return rc;
}

static void expect_header_refused(const char *json, size_t data_bytes, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    expect_input_error(parse(file, bytes, &err), &err, text);
    cr_assert_eq(strncmp(err.message, "x.safetensors: ", 15), 0, "%s", err.message);
    free(file);
}

static void expect_header_accepted(const char *json, size_t data_bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    cr_assert_eq(parse(file, bytes, &err), 0, "%s: %s", json, err.message);
    free(file);
}

#define ENTRY(name, dtype, shape, begin, end)                                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

Test(safetensors, honest_headers)
{
    expect_header_accepted("{}", 0);
    expect_header_accepted("{}    \n", 0);
    expect_header_accepted("{" ENTRY("a", "F32", "[]", 0, 4) "}", 4);
    expect_header_accepted("{" ENTRY("a", "F16", "[0, 7]", 0, 0) "}", 0);
    expect_header_accepted("{" ENTRY("b", "U8", "[3]", 2, 5) "," ENTRY("a", "F16", "[1,1,1]", 0, 2) "}", 5);
    expect_header_accepted("{" ENTRY("empty", "F16", "[0]", 2, 2) "," ENTRY("a", "F16", "[1]", 0, 2) "," ENTRY(
                               "b", "F16", "[1]", 2, 4) "}",
                           4);
    expect_header_accepted("{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "I64", "[2]", 0, 16) "}", 16);
    expect_header_accepted("{" ENTRY("\\u00e9\\n", "BF16", "[2]", 0, 4) "}", 4);
}

Test(safetensors_bad, entries)
{
    expect_header_refused("{" ENTRY("a", "F7", "[1]", 0, 4) "}", 4, "tensor a: dtype F7, expected F32");
    expect_header_refused("{" ENTRY("a", "f32", "[1]", 0, 4) "}", 4, "tensor a: dtype f32");
    expect_header_refused("{" ENTRY("a", "BOOL", "[1]", 0, 1) "}", 1, "tensor a: dtype BOOL");
    expect_header_refused("{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a: dtype is missing");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor a: shape is missing");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor a: data_offsets is missing");
    expect_header_refused("{\"a\":[]}", 4, "tensor a: not an object");
    expect_header_refused("{\"a\":null}", 4, "tensor a: not an object");
    expect_header_refused("{" ENTRY("a", "F32", "[-1]", 0, 4) "}", 4, "tensor a: shape[0] is not a whole number");
    expect_header_refused("{" ENTRY("a", "F32", "[1, 0.5]", 0, 4) "}", 4, "tensor a: shape[1] is not a whole number");
    expect_header_refused("{" ENTRY("a", "F32", "[\"1\"]", 0, 4) "}", 4, "tensor a: shape[0]");
    expect_header_refused("{" ENTRY("a", "F32", "{\"x\": 1}", 0, 4) "}", 4, "tensor a: shape is missing or no list");
    expect_header_refused("{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "more than 8 dimensions");
    expect_header_refused("{" ENTRY("a", "F32", "[1e300]", 0, 4) "}", 4, "tensor a: shape[0]");
    expect_header_refused("{" ENTRY("a", "F32", "[9007199254740992, 4096]", 0, 4) "}", 4, "overflows");
    expect_header_refused("{" ENTRY("a", "I64", "[9007199254740992, 1024]", 0, 4) "}", 4, "overflows");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 0, 2) "}", 2, "span 2 bytes, but its shape and dtype need 4");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 4, 0) "}", 4, "data_offsets [4, 0] are outside");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", -4, 0) "}", 4, "data_offsets is missing or not two");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 0.5, 4) "}", 4, "data_offsets is missing or not two");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 18446744073709551612, 18446744073709551616) "}", 4,
                          "data_offsets is missing or not two");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, "data_offsets is");
    expect_header_refused("{" ENTRY("a", "F32", "[1000]", 0, 4000) "}", 8, "outside the file's 8 bytes of data");
    expect_header_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a is not a string");
    expect_header_refused("{\"__metadata__\":[\"a\"]}", 0, "__metadata__ is not an object");
}

Test(safetensors_bad, layouts)
{
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 2, 6) "}", 6,
                          "tensor b: its data overlap those of a");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 0, 4) "}", 4, "overlap");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[0]", 2, 2) "}", 4, "overlap");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[2]", 6, 8) "}", 8,
                          "tensor b: 2 bytes before its data belong to no tensor");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 1, 5) "}", 5, "tensor a: 1 bytes before its data");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "}", 6, "2 bytes at the end belong to no tensor");
    expect_header_refused("{}", 1, "1 bytes at the end belong to no tensor");
}

Test(safetensors_bad, text)
{
    expect_header_refused("{" ENTRY("a", "U8", "[1]", 0, 1) "," ENTRY("a", "U8", "[1]", 1, 2) "}", 2, "duplicate");
    expect_header_refused("[]", 0, "does not begin with '{'");
    expect_header_refused(" {}", 0, "does not begin with '{'");
    expect_header_refused("", 0, "does not begin with '{'");
    expect_header_refused("{} x", 0, "header: line 1");
    expect_header_refused("{\"a\"", 0, "header: line 1");
    expect_header_refused("{\"a\xff\":1}", 0, "UTF-8");

    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 10);
    memset(deep, '[', DEPTH + 9);
    memcpy(deep, "{\"a\":", 5);
    deep[DEPTH + 9] = '\0';
    expect_header_refused(deep, 0, "deep");
    free(deep);
}

Test(safetensors_bad, lengths)
{
    static const struct {
        uint8_t bytes[10];
        size_t count;
        const char *text;
    } cases[] = {
        { { 0 }, 0, "truncated: 0 bytes" },
        { { 2 }, 7, "truncated: 7 bytes" },
        { { 3, 0, 0, 0, 0, 0, 0, 0, '{', '}' }, 10, "header length 3, but only 2 bytes follow" },
        { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}' }, 10, "header length 18446744073709551615" },
        { { 1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}' }, 10, "header length 100000001 is over the limit" },
        { { 0, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}' }, 10, "no safetensors file: header length 100000000" },
        { { 0 }, 8, "does not begin with '{'" },
        { { 'P', 'K', 3, 4, 0, 0, 0, 0, 0, 0 }, 10, "no safetensors file" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        expect_input_error(parse((const char *)cases[i].bytes, cases[i].count, &err), &err, cases[i].text);
    }
}

/* A file cut anywhere is refused: a hole, a missing tail, or broken text. */
Test(safetensors_bad, every_prefix)
{
    size_t bytes;
    char *file = test_safetensors("{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "F32", "[2, 3]", 0, 24) "," ENTRY(
                                      "b", "I16", "[4]", 24, 32) "}",
                                  NULL, 32, &bytes);
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(parse(file, bytes, &err), &err);
    for (size_t length = 0; length < bytes; length++) {
        struct plim_err cut = PLIM_ERR_INIT;
        cr_assert_eq(parse(file, length, &cut), -1, "a prefix of %zu bytes was accepted", length);
        cr_assert_eq(cut.kind, PLIM_ERR_INPUT);
    }
    free(file);
}

/* 20 000 tensors in reverse order: sorting must not be quadratic, nor looking up by name in the header. */
Test(safetensors, many_tensors, .timeout = 20)
{
    enum { COUNT = 20000 };
    char *json = malloc(COUNT * 80 + 10);
    size_t length = (size_t)sprintf(json, "{");
    for (int i = COUNT - 1; i >= 0; i--)
        length += (size_t)sprintf(json + length, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                                  i == COUNT - 1 ? "" : ",", i, i, i + 1);
    sprintf(json + length, "}");
    expect_header_accepted(json, COUNT);
    free(json);
}

/* ---- the store ---- */

Test(tensor_store, fixture)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct tensor_store *store = NULL;
    expect_ok(tensor_store_open_file(&store, pool, FIXTURE "/calibration.safetensors", &err), &err);
    cr_assert_eq(tensor_store_count(store), 1);
    cr_assert_eq(tensor_store_file_bytes(store), 16464);
    const struct tensor *ids = tensor_store_find(store, "input_ids");
    cr_assert_not_null(ids);
    cr_assert_eq(ids->dtype, DTYPE_I64);
    cr_assert_eq(ids->dimension_count, 2);
    cr_assert_eq(ids->shape[0], 8);
    cr_assert_eq(ids->shape[1], 256);
    cr_assert_eq(ids->bytes, 8 * 256 * 8);
    int64_t first;
    memcpy(&first, ids->data, sizeof first);
    cr_assert_eq(first, 1);   /* each row starts with BOS */
    cr_assert_null(tensor_store_find(store, "input_id"));
    cr_assert_null(tensor_store_find(store, ""));
    tensor_store_close(store);

    expect_ok(tensor_store_open_directory(&store, pool, FIXTURE "/dense", true, &err), &err);
    for (size_t i = 1; i < tensor_store_count(store); i++)
        cr_assert_lt(strcmp(tensor_store_at(store, i - 1)->name, tensor_store_at(store, i)->name), 0);
    tensor_store_close(store);
    test_pool_close(pool);
}

Test(tensor_store, need)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct tensor_store *store = NULL;
    const unsigned f16 = 1u << DTYPE_F16;
    const char *name = "model.embed_tokens.weight";
    expect_ok(tensor_store_open_directory(&store, pool, FIXTURE "/dense", true, &err), &err);
    cr_assert_not_null(tensor_store_need(store, name, f16, 2, (int64_t[]){ 300, 256 }, &err));
    cr_assert_not_null(tensor_store_need(store, name, f16 | 1u << DTYPE_F32, 2, (int64_t[]){ -1, 256 }, &err));

    const struct tensor *found = tensor_store_need(store, "model.embed", f16, 2, (int64_t[]){ 300, 256 }, &err);
    expect_input_error(found ? 0 : -1, &err, "dense: tensor model.embed is missing");
    plim_err_clear(&err);
    found = tensor_store_need(store, name, 1u << DTYPE_F32 | 1u << DTYPE_BF16, 2, (int64_t[]){ 300, 256 }, &err);
    expect_input_error(found ? 0 : -1, &err,
                       "model.safetensors: tensor model.embed_tokens.weight: dtype F16, expected F32 or BF16");
    plim_err_clear(&err);
    found = tensor_store_need(store, name, f16, 2, (int64_t[]){ -1, 128 }, &err);
    expect_input_error(found ? 0 : -1, &err, "shape [300, 256], expected [any, 128]");
    plim_err_clear(&err);
    found = tensor_store_need(store, name, f16, 1, (int64_t[]){ 256 }, &err);
    expect_input_error(found ? 0 : -1, &err, "shape [300, 256], expected [256]");
    tensor_store_close(store);
    test_pool_close(pool);
}

/* ---- directories ---- */

struct directory {
    char *path;
    struct plim_pool *pool;
};

static struct directory directory_open(void)
{
    return (struct directory){ test_directory_make(), test_pool_open() };
}

static void directory_close(struct directory *d)
{
    test_directory_remove(d->path);
    test_pool_close(d->pool);
}

static void add_shard(const struct directory *d, const char *name, const char *json, size_t data_bytes)
{
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    test_file_write(d->path, name, file, bytes);
    free(file);
}

static void add_index(const struct directory *d, const char *json)
{
    test_file_write(d->path, "model.safetensors.index.json", json, strlen(json));
}

static void expect_directory_refused(const struct directory *d, bool follow_index, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store = NULL;
    expect_input_error(tensor_store_open_directory(&store, d->pool, d->path, follow_index, &err), &err, text);
    cr_assert_null(store);
}

static size_t count_of_directory(const struct directory *d, bool follow_index)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store = NULL;
    expect_ok(tensor_store_open_directory(&store, d->pool, d->path, follow_index, &err), &err);
    size_t count = tensor_store_count(store);
    tensor_store_close(store);
    return count;
}

Test(tensor_store, directory_without_index)
{
    struct directory d = directory_open();
    expect_directory_refused(&d, true, "no *.safetensors file");
    add_shard(&d, "output-00001-of-00002.safetensors", "{" ENTRY("a", "U8", "[1]", 0, 1) "}", 1);
    add_shard(&d, "output-00002-of-00002.safetensors", "{" ENTRY("b", "U8", "[1]", 0, 1) "}", 1);
    test_file_write(d.path, "notes.safetensors.txt", "x", 1);
    test_file_write(d.path, ".hidden.safetensors", "x", 1);
    cr_assert_eq(count_of_directory(&d, true), 2);

    add_shard(&d, "z.safetensors", "{" ENTRY("a", "U8", "[1]", 0, 1) "}", 1);
    expect_directory_refused(&d, false, "tensor a is in two files");
    add_shard(&d, "z.safetensors", "{" ENTRY("c", "U8", "[1]", 0, 1) "}", 0);
    expect_directory_refused(&d, false, "z.safetensors: tensor c: data_offsets");
    directory_close(&d);
}

Test(tensor_store, directory_with_index)
{
    struct directory d = directory_open();
    add_shard(&d, "one.safetensors", "{" ENTRY("a", "U8", "[1]", 0, 1) "," ENTRY("b", "U8", "[1]", 1, 2) "}", 2);
    add_shard(&d, "two.safetensors", "{" ENTRY("c", "U8", "[1]", 0, 1) "}", 1);
    add_shard(&d, "not-named.safetensors", "{" ENTRY("d", "U8", "[1]", 0, 1) "}", 1);
    add_index(&d, "{\"metadata\": {\"total_size\": 3}, \"weight_map\": {\"c\": \"two.safetensors\", "
                  "\"a\": \"one.safetensors\", \"b\": \"one.safetensors\"}}");
    cr_assert_eq(count_of_directory(&d, true), 3);
    cr_assert_eq(count_of_directory(&d, false), 4);   /* an EXL2 directory's index is stale */

    add_index(&d, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"three.safetensors\"}}");
    expect_directory_refused(&d, true, "shard three.safetensors named by model.safetensors.index.json: opening ");
    add_index(&d, "{\"weight_map\": {\"a\": \"one.safetensors\", \"e\": \"two.safetensors\"}}");
    expect_directory_refused(&d, true, "index.json: weight_map: tensor e should be in two.safetensors and is not");
    add_index(&d, "{\"weight_map\": {\"a\": \"two.safetensors\", \"b\": \"one.safetensors\"}}");
    expect_directory_refused(&d, true, "tensor a should be in two.safetensors and is in one.safetensors");
    add_index(&d, "{\"weight_map\": {\"a\": \"../one.safetensors\"}}");
    expect_directory_refused(&d, true, "weight_map: a: expected the name of a file beside the index");
    add_index(&d, "{\"weight_map\": {\"a\": 1}}");
    expect_directory_refused(&d, true, "weight_map: a: expected the name");
    add_index(&d, "{\"weight_map\": {}}");
    expect_directory_refused(&d, true, "weight_map: empty");
    add_index(&d, "{}");
    expect_directory_refused(&d, true, "weight_map: missing");
    add_index(&d, "{");
    expect_directory_refused(&d, true, "index.json: line 1");
    directory_close(&d);
}

Test(tensor_store, missing_paths)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct tensor_store *store = NULL;
    expect_input_error(tensor_store_open_file(&store, pool, FIXTURE "/nothing.safetensors", &err), &err, "nothing");
    plim_err_clear(&err);
    expect_input_error(tensor_store_open_directory(&store, pool, FIXTURE "/nowhere", true, &err), &err, "nowhere: No");
    plim_err_clear(&err);
    expect_input_error(tensor_store_open_directory(&store, pool, FIXTURE "/README.md", true, &err), &err, "README.md:");
    test_pool_close(pool);
}

/* Every allocation is made to fail once: a clean error, nothing left. */
Test(tensor_store, every_allocation_fails_once)
{
    struct directory d = directory_open();
    add_shard(&d, "one.safetensors", "{" ENTRY("a", "U8", "[1]", 0, 1) "}", 1);
    add_shard(&d, "two.safetensors", "{" ENTRY("c", "U8", "[1]", 0, 1) "}", 1);
    add_index(&d, "{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"}}");
    for (int follow_index = 0; follow_index < 2; follow_index++) {
        int rc = -1;
        for (uint64_t nth = 1; rc < 0; nth++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct tensor_store *store = NULL;
            cr_assert_lt(nth, 100);
            plim_pool_fail_allocation(d.pool, nth);
            rc = tensor_store_open_directory(&store, d.pool, d.path, follow_index, &err);
            cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY, "%s", err.message);
            cr_assert(rc == 0 || store == NULL);
            tensor_store_close(store);
        }
        plim_pool_fail_allocation(d.pool, 0);
    }
    directory_close(&d);
}

/* ---- the writer ---- */

static char *file_in(const struct directory *d, const char *name)
{
    struct plim_err err = PLIM_ERR_INIT;
    return plim_path_join(d->path, name, &err);
}

/* The directory holds nothing, not even a temporary file (a directory with files cannot be removed). */
static void expect_nothing_written(struct directory *d)
{
    cr_assert_eq(rmdir(d->path), 0, "%s", strerror(errno));
    free(d->path);
    test_pool_close(d->pool);
}

Test(safetensors_writer, round_trip)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = NULL;
    struct tensor_store *store = NULL;
    char *path = file_in(&d, "x.safetensors");
    enum { LARGE = 3 << 20 };   /* passes the staging buffer */
    uint8_t *large = malloc(LARGE);
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (uint8_t)(i * 2654435761u >> 24);
    const float scalar = 1.5f;
    const char odd_name[] = "odd \"name\"\\\n\xc3\xa9";
    const int32_t words[6] = { 1, -2, 3, -4, 5, -6 };

    expect_ok(safetensors_writer_open(&writer, d.pool, path, &err), &err);
    expect_ok(safetensors_writer_declare(writer, "large", DTYPE_U8, 1, (size_t[]){ LARGE }, &err), &err);
    expect_ok(safetensors_writer_declare(writer, odd_name, DTYPE_I32, 2, (size_t[]){ 2, 3 }, &err), &err);
    expect_ok(safetensors_writer_declare(writer, "scalar", DTYPE_F32, 0, NULL, &err), &err);
    expect_ok(safetensors_writer_declare(writer, "empty", DTYPE_F16, 2, (size_t[]){ 0, 4 }, &err), &err);
    for (size_t done = 0, piece = 1; done < LARGE; done += piece, piece = piece * 3 + 1) {   /* 1 byte to 1.2 MiB */
        piece = piece < LARGE - done ? piece : LARGE - done;
        expect_ok(safetensors_writer_write(writer, large + done, piece, &err), &err);
    }
    expect_ok(safetensors_writer_write(writer, words, sizeof words, &err), &err);
    expect_ok(safetensors_writer_write(writer, &scalar, sizeof scalar, &err), &err);
    cr_assert_not(plim_path_exists(path), "the file is there before it is complete");
    expect_ok(safetensors_writer_commit(writer, &err), &err);
    safetensors_writer_close(writer);

    expect_ok(tensor_store_open_file(&store, d.pool, path, &err), &err);
    cr_assert_eq(tensor_store_count(store), 4);
    const struct tensor *tensor = tensor_store_find(store, "large");
    cr_assert_eq(memcmp(tensor->data, large, LARGE), 0);
    cr_assert_eq((uintptr_t)tensor->data % 64, 0, "the first tensor is aligned");
    tensor = tensor_store_find(store, odd_name);
    cr_assert_not_null(tensor);
    cr_assert_eq(tensor->shape[1], 3);
    cr_assert_eq(memcmp(tensor->data, words, sizeof words), 0);
    cr_assert_eq(tensor_store_find(store, "scalar")->dimension_count, 0);
    cr_assert_null(tensor_store_find(store, "empty")->data);
    tensor_store_close(store);
    free(large);
    free(path);
    directory_close(&d);
}

/* What was read, written again: same tensors, same bytes. */
Test(safetensors_writer, copy_of_a_fixture)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = NULL;
    struct tensor_store *source = NULL, *copy = NULL;
    char *path = file_in(&d, "copy.safetensors");
    expect_ok(tensor_store_open_directory(&source, d.pool, FIXTURE "/exl2-2.6", false, &err), &err);
    expect_ok(safetensors_writer_open(&writer, d.pool, path, &err), &err);
    for (size_t i = 0; i < tensor_store_count(source); i++) {
        const struct tensor *t = tensor_store_at(source, i);
        expect_ok(safetensors_writer_declare(writer, t->name, t->dtype, t->dimension_count, t->shape, &err), &err);
    }
    for (size_t i = 0; i < tensor_store_count(source); i++)
        expect_ok(safetensors_writer_write(writer, tensor_store_at(source, i)->data, tensor_store_at(source, i)->bytes,
                                           &err), &err);
    expect_ok(safetensors_writer_commit(writer, &err), &err);
    safetensors_writer_close(writer);
    expect_ok(tensor_store_open_file(&copy, d.pool, path, &err), &err);
    cr_assert_eq(tensor_store_count(copy), tensor_store_count(source));
    for (size_t i = 0; i < tensor_store_count(source); i++) {
        const struct tensor *a = tensor_store_at(source, i), *b = tensor_store_at(copy, i);
        cr_assert_str_eq(a->name, b->name);
        cr_assert_eq(a->dtype, b->dtype);
        cr_assert_eq(a->bytes, b->bytes);
        cr_assert_eq(memcmp(a->data, b->data, a->bytes), 0);
    }
    tensor_store_close(copy);
    tensor_store_close(source);
    free(path);
    directory_close(&d);
}

Test(safetensors_writer, no_tensors)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = NULL;
    struct tensor_store *store = NULL;
    char *path = file_in(&d, "x.safetensors");
    expect_ok(safetensors_writer_open(&writer, d.pool, path, &err), &err);
    expect_ok(safetensors_writer_commit(writer, &err), &err);
    safetensors_writer_close(writer);
    expect_ok(tensor_store_open_file(&store, d.pool, path, &err), &err);
    cr_assert_eq(tensor_store_count(store), 0);
    cr_assert_null(tensor_store_find(store, "a"));
    tensor_store_close(store);
    free(path);
    directory_close(&d);
}

static struct safetensors_writer *writer_with_one(struct directory *d, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = NULL;
    char *path = file_in(d, "x.safetensors");
    expect_ok(safetensors_writer_open(&writer, d->pool, path, &err), &err);
    expect_ok(safetensors_writer_declare(writer, "a", DTYPE_U8, 1, &bytes, &err), &err);
    free(path);
    return writer;
}

Test(safetensors_writer, abandoned_leaves_nothing)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = writer_with_one(&d, 8);
    expect_ok(safetensors_writer_write(writer, "1234", 4, &err), &err);
    safetensors_writer_close(writer);
    safetensors_writer_close(NULL);
    expect_nothing_written(&d);
}

Test(safetensors_writer, too_few_and_too_many_bytes)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = writer_with_one(&d, 8);
    expect_ok(safetensors_writer_write(writer, "1234", 4, &err), &err);
    cr_assert_eq(safetensors_writer_commit(writer, &err), -1);
    cr_assert(strstr(err.message, "4 bytes of data given, 8 declared"), "%s", err.message);
    plim_err_clear(&err);
    cr_assert_eq(safetensors_writer_write(writer, "12345", 5, &err), -1);
    cr_assert(strstr(err.message, "more data than the 8 bytes declared"), "%s", err.message);
    plim_err_clear(&err);
    cr_assert_eq(safetensors_writer_declare(writer, "b", DTYPE_U8, 0, NULL, &err), -1);
    cr_assert(strstr(err.message, "declared after data"), "%s", err.message);
    safetensors_writer_close(writer);
    expect_nothing_written(&d);
}

Test(safetensors_writer, a_name_twice)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = writer_with_one(&d, 1);
    expect_ok(safetensors_writer_declare(writer, "b", DTYPE_U8, 0, NULL, &err), &err);
    expect_ok(safetensors_writer_declare(writer, "a", DTYPE_U8, 0, NULL, &err), &err);
    expect_input_error(safetensors_writer_write(writer, "123", 3, &err), &err, "tensor a is declared twice");
    safetensors_writer_close(writer);
    expect_nothing_written(&d);
}

Test(safetensors_writer, sizes_that_overflow)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = writer_with_one(&d, 1);
    size_t shape[9] = { (size_t)1 << 40, (size_t)1 << 40 };
    expect_input_error(safetensors_writer_declare(writer, "b", DTYPE_F32, 2, shape, &err), &err, "too large");
    plim_err_clear(&err);
    expect_input_error(safetensors_writer_declare(writer, "b", DTYPE_F32, 9, shape, &err), &err, "too large");
    safetensors_writer_close(writer);
    expect_nothing_written(&d);
}

/* As a full disk: writes past the limit fail. */
Test(safetensors_writer, disk_full)
{
    struct directory d = directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    enum { BYTES = 8 << 20 };
    struct safetensors_writer *writer = writer_with_one(&d, BYTES);
    char *data = calloc(1, BYTES);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1 << 20, 1 << 20 }), 0);
    cr_assert_eq(safetensors_writer_write(writer, data, BYTES, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_SYSTEM);
    cr_assert(strstr(err.message, "x.safetensors"), "%s", err.message);
    safetensors_writer_close(writer);
    free(data);
    expect_nothing_written(&d);
}

Test(safetensors_writer, unwritable_place)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct safetensors_writer *writer = NULL;
    expect_input_error(safetensors_writer_open(&writer, pool, FIXTURE "/nowhere/x.safetensors", &err), &err, "nowhere");
    cr_assert_null(writer);
    test_pool_close(pool);
}

Test(safetensors_writer, every_allocation_fails_once)
{
    struct directory d = directory_open();
    char *path = file_in(&d, "x.safetensors");
    int rc = -1;
    for (uint64_t nth = 1; rc < 0; nth++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct safetensors_writer *writer = NULL;
        cr_assert_lt(nth, 100);
        plim_pool_fail_allocation(d.pool, nth);
        if (safetensors_writer_open(&writer, d.pool, path, &err) == 0 &&
            safetensors_writer_declare(writer, "a", DTYPE_U8, 0, NULL, &err) == 0 &&
            safetensors_writer_write(writer, "1", 1, &err) == 0 && safetensors_writer_commit(writer, &err) == 0)
            rc = 0;
        cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY, "%s", err.message);
        cr_assert_eq(plim_path_exists(path), rc == 0);
        safetensors_writer_close(writer);
    }
    free(path);
    directory_close(&d);
}
