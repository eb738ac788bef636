/* The safetensors writer: what it writes reads back, and what fails leaves nothing. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "format_test.h"
#include "plimsoll/file.h"

static char *file_in(const struct test_directory *d, const char *name)
{
    struct plim_err err = PLIM_ERR_INIT;
    return plim_path_join(d->path, name, &err);
}

/* The directory holds nothing, not even a temporary file (a directory with files cannot be removed). */
static void expect_nothing_written(struct test_directory *d)
{
    cr_assert_eq(rmdir(d->path), 0, "%s", strerror(errno));
    free(d->path);
    test_pool_close(d->pool);
}

Test(safetensors_writer, round_trip)
{
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}

/* What was read, written again: same tensors, same bytes. */
Test(safetensors_writer, copy_of_a_fixture)
{
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}

Test(safetensors_writer, no_tensors)
{
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}

static struct safetensors_writer *writer_with_one(struct test_directory *d, size_t bytes)
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
    struct test_directory d = test_directory_open();
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer = writer_with_one(&d, 8);
    expect_ok(safetensors_writer_write(writer, "1234", 4, &err), &err);
    safetensors_writer_close(writer);
    safetensors_writer_close(NULL);
    expect_nothing_written(&d);
}

Test(safetensors_writer, too_few_and_too_many_bytes)
{
    struct test_directory d = test_directory_open();
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
    struct test_directory d = test_directory_open();
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
    struct test_directory d = test_directory_open();
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
    struct test_directory d = test_directory_open();
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
    struct test_directory d = test_directory_open();
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
    test_directory_close(&d);
}
