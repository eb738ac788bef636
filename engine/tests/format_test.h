#ifndef TEST_FORMAT_H
#define TEST_FORMAT_H

/* What the tests of engine/format share. */

#include <criterion/criterion.h>
#include <stddef.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"
#include "exl2.h"
#include "safetensors.h"

#define FIXTURE PLIMSOLL_TEST_DATA "/exl2-llama-tiny"

/* A pool that must be empty again at the end. */
struct plim_pool *test_pool_open(void);
void test_pool_close(struct plim_pool *pool);

#define expect_ok(rc, err) cr_assert_eq((rc), 0, "%s", (err)->message)

/* The call failed for bad input, in one line that contains `text`. */
void expect_input_error(int rc, const struct plim_err *err, const char *text);

/* An empty directory of this process' own; removed with test_directory_remove. */
char *test_directory_make(void);
void test_directory_remove(char *directory);

/* The same with a pool. */
struct test_directory {
    char *path;
    struct plim_pool *pool;
};
struct test_directory test_directory_open(void);
void test_directory_close(struct test_directory *d);

/* Writes DIRECTORY/NAME. */
void test_file_write(const char *directory, const char *name, const void *data, size_t bytes);

/* A tensor's entry in a header. */
#define ENTRY(name, dtype, shape, begin, end)                                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* A safetensors file in memory: header text, then data; free(). */
char *test_safetensors(const char *header, const void *data, size_t data_bytes, size_t *bytes);

/* The five tensors of an EXL2 matrix of a store. */
void test_exl2_tensors(const struct tensor_store *store, const char *key, struct exl2_tensors *tensors);

#endif
