#include "conversion_support.h"

#include <math.h>
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/file.h"

void scratch_make(struct scratch *scratch)
{
    snprintf(scratch->directory, sizeof scratch->directory, "/tmp/plimsoll-quantize-XXXXXX");
    cr_assert_not_null(mkdtemp(scratch->directory));
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *ftw)
{
    (void)info;
    (void)kind;
    (void)ftw;
    return remove(path);
}

void scratch_remove(struct scratch *scratch)
{
    cr_assert_eq(nftw(scratch->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
}

const char *scratch_path(const struct scratch *scratch, const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch->directory, name);
    return path;
}

struct plim_quantize_options quick_options(const char *output)
{
    return (struct plim_quantize_options){
        .model_directory = DENSE,
        .output_directory = output,
        .bits_per_weight = 4.0,
        .calibration = FIXTURES "/calibration.safetensors",
        .rows = 2,
        .length = 48,
        .measurement_rows = 1,
        .measurement_length = 32,
        .measurement = FIXTURES "/measurement.json",
    };
}

int convert(const struct plim_quantize_options *options, const char *settings, struct plim_quantize_summary *summary,
            struct plim_err *err)
{
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_quantize_summary own;
    struct plim_engine *engine;
    bool keep = summary != NULL;

    cr_assert_eq(plim_engine_open(&engine, NULL, &parameters, NULL, err), 0, "%s", err->message);
    if (!summary)
        summary = &own;
    int rc = plim_quantize(engine, options, summary, err);
    /* The modules would go with the engine: callers that want them read the job's files. */
    struct plim_quantize_summary copy = *summary;
    plim_quantize_summary_release(summary, engine);
    if (keep) {
        *summary = copy;
        summary->modules = NULL;
    }
    cr_assert_eq(plim_engine_close(engine), 0, "pool blocks leaked");
    return rc;
}

void convert_well(const struct plim_quantize_options *options, const char *settings, char digest[33])
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_summary summary;
    cr_assert_eq(convert(options, settings, &summary, &err), 0, "%s", err.message);
    if (digest)
        memcpy(digest, summary.digest, 33);
}

void write_ids(const char *path, size_t rows, size_t length, size_t vocab)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_writer *writer;
    struct plim_pool *pool;
    int32_t *ids = some_ids(rows * length, vocab);

    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(safetensors_writer_open(&writer, pool, path, &err), 0, "%s", err.message);
    cr_assert_eq(safetensors_writer_declare(writer, "input_ids", DTYPE_I32, 2, (size_t[]){ rows, length }, &err), 0);
    cr_assert_eq(safetensors_writer_write(writer, ids, rows * length * sizeof *ids, &err), 0);
    cr_assert_eq(safetensors_writer_commit(writer, &err), 0, "%s", err.message);
    safetensors_writer_close(writer);
    cr_assert_eq(plim_pool_close(pool), 0);
    free(ids);
}

bool same_file(const char *a, const char *b)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_map x, y;
    cr_assert_eq(plim_map_open(&x, a, &err), 0, "%s", err.message);
    cr_assert_eq(plim_map_open(&y, b, &err), 0, "%s", err.message);
    bool same = x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0;
    plim_map_close(&x);
    plim_map_close(&y);
    return same;
}

static size_t count_files(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    size_t count = 0;
    cr_assert_not_null(dir, "%s", directory);
    while ((entry = readdir(dir)))
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

void check_same_model(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    const struct dirent *entry;
    char x[512], y[512];

    cr_assert_not_null(dir, "%s", a);
    cr_assert_eq(count_files(a), count_files(b), "%s and %s hold different files", a, b);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(x, sizeof x, "%.200s/%s", a, entry->d_name);
        snprintf(y, sizeof y, "%.200s/%s", b, entry->d_name);
        cr_assert(same_file(x, y), "%s differs", entry->d_name);
    }
    closedir(dir);
}

double divergence_by_definition(const float *p, const float *q, size_t vocab)
{
    double p_sum = 0, q_sum = 0, divergence = 0;
    for (size_t i = 0; i < vocab; i++) {
        p_sum += exp((double)p[i]);
        q_sum += exp((double)q[i]);
    }
    for (size_t i = 0; i < vocab; i++)
        divergence += exp((double)p[i]) / p_sum * ((double)p[i] - log(p_sum) - (double)q[i] + log(q_sum));
    return divergence;
}

cJSON *read_json(const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = NULL;
    cr_assert_eq(plim_json_read(path, (size_t)64 << 20, &root, &err), 0, "%s", err.message);
    return root;
}
