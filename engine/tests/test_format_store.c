/* Tensor stores: files and directories of safetensors, opened, with and without an index. */

#include <stdlib.h>
#include <string.h>

#include "format_test.h"

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

static void add_shard(const struct test_directory *d, const char *name, const char *json, size_t data_bytes)
{
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    test_file_write(d->path, name, file, bytes);
    free(file);
}

static void add_index(const struct test_directory *d, const char *json)
{
    test_file_write(d->path, "model.safetensors.index.json", json, strlen(json));
}

static void expect_directory_refused(const struct test_directory *d, bool follow_index, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store = NULL;
    expect_input_error(tensor_store_open_directory(&store, d->pool, d->path, follow_index, &err), &err, text);
    cr_assert_null(store);
}

static size_t count_of_directory(const struct test_directory *d, bool follow_index)
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
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}

Test(tensor_store, directory_with_index)
{
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
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
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}
