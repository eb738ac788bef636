#include "format_test.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/file.h"

struct plim_pool *test_pool_open(void)
{
    struct plim_pool *pool = NULL;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(plim_pool_open(&pool, NULL, &err), &err);
    return pool;
}

void test_pool_close(struct plim_pool *pool)
{
    cr_assert_eq(plim_pool_close(pool), 0, "blocks leaked");
}

void expect_input_error(int rc, const struct plim_err *err, const char *text)
{
    cr_assert_eq(rc, -1, "accepted; expected an error about \"%s\"", text);
    cr_assert_eq(err->kind, PLIM_ERR_INPUT, "kind %s: %s", plim_err_kind_name(err->kind), err->message);
    cr_assert(strstr(err->message, text), "\"%s\" does not say \"%s\"", err->message, text);
    cr_assert_null(strchr(err->message, '\n'));
}

char *test_directory_make(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = NULL;
    cr_assert(asprintf(&path, "%s/plimsoll-test-XXXXXX", parent ? parent : "/tmp") > 0);
    cr_assert_not_null(mkdtemp(path));
    return path;
}

void test_directory_remove(char *directory)
{
    DIR *handle = opendir(directory);
    cr_assert_not_null(handle);
    for (struct dirent *entry; (entry = readdir(handle)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            cr_assert_eq(unlinkat(dirfd(handle), entry->d_name, 0), 0, "%s", entry->d_name);
    }
    closedir(handle);
    cr_assert_eq(rmdir(directory), 0);
    free(directory);
}

struct test_directory test_directory_open(void)
{
    return (struct test_directory){ test_directory_make(), test_pool_open() };
}

void test_directory_close(struct test_directory *d)
{
    test_directory_remove(d->path);
    test_pool_close(d->pool);
}

void test_file_write(const char *directory, const char *name, const void *data, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = plim_path_join(directory, name, &err);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(data, 1, bytes, file), bytes);
    cr_assert_eq(fclose(file), 0);
    free(path);
}

char *test_safetensors(const char *header, const void *data, size_t data_bytes, size_t *bytes)
{
    size_t length = strlen(header);
    char *file = calloc(1, 8 + length + data_bytes);
    cr_assert_not_null(file);
    for (int i = 0; i < 8; i++)
        file[i] = (char)((uint64_t)length >> 8 * i & 0xff);
    memcpy(file + 8, header, length);
    if (data)
        memcpy(file + 8 + length, data, data_bytes);
    *bytes = 8 + length + data_bytes;
    return file;
}

static const struct tensor *part(const struct tensor_store *store, const char *key, const char *suffix,
                                 enum dtype dtype, int dimension_count)
{
    struct plim_err err = PLIM_ERR_INIT;
    const int64_t any[2] = { -1, -1 };
    char name[200];
    snprintf(name, sizeof name, "%s.%s", key, suffix);
    const struct tensor *tensor = tensor_store_need(store, name, 1u << dtype, dimension_count, any, &err);
    cr_assert_not_null(tensor, "%s", err.message);
    return tensor;
}

void test_exl2_tensors(const struct tensor_store *store, const char *key, struct exl2_tensors *tensors)
{
    const struct tensor *weight = part(store, key, "q_weight", DTYPE_I32, 2);
    const struct tensor *scale = part(store, key, "q_scale", DTYPE_I32, 2);
    const struct tensor *scale_max = part(store, key, "q_scale_max", DTYPE_F16, 1);
    const struct tensor *groups = part(store, key, "q_groups", DTYPE_I16, 1);
    const struct tensor *invperm = part(store, key, "q_invperm", DTYPE_I32, 1);
    cr_assert_eq(scale->shape[1] * 8, weight->shape[1]);
    cr_assert_eq(scale_max->shape[0], scale->shape[0]);
    cr_assert_eq(groups->shape[0], 2 * scale->shape[0]);
    *tensors = (struct exl2_tensors){
        .name = key,
        .q_weight = weight->data,
        .word_rows = weight->shape[0],
        .out_features = weight->shape[1],
        .q_scale = scale->data,
        .group_count = scale->shape[0],
        .q_scale_max = scale_max->data,
        .q_groups = groups->data,
        .q_invperm = invperm->data,
        .in_features = invperm->shape[0],
    };
}
