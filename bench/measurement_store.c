#include "measurement_store.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "heap.h"
#include "model_run.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"

#define JOB "measurement.job"
#define MEASUREMENT_LIMIT ((size_t)256 << 20)

/* ---- the name ---- */

static int add_file(XXH3_state_t *state, const char *path, struct plim_err *err)
{
    struct plim_map map = { 0 };

    if (plim_map_open(&map, path, err) < 0)
        return -1;
    XXH3_64bits_update(state, map.data, map.bytes);
    plim_map_close(&map);
    return 0;
}

static int is_weights(const struct dirent *entry)
{
    const char *ending = strrchr(entry->d_name, '.');

    return ending && strcmp(ending, ".safetensors") == 0;
}

/* Configuration and tokenizer in full; of gigabytes of weights only what tells that they were written again. */
static int add_model(XXH3_state_t *state, const char *directory, struct plim_err *err)
{
    static const char *const small[] = { "config.json", "tokenizer.json" };
    struct dirent **entries = NULL;
    int count = scandir(directory, &entries, is_weights, alphasort), rc = 0;

    if (count < 0)
        return plim_err_errno(err, "reading %s", directory);
    for (int i = 0; i < count; i++) {
        char *path = plim_path_join(directory, entries[i]->d_name, err);
        struct stat s;

        if (path && stat(path, &s) == 0) {
            int64_t facts[3] = { s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec };
            XXH3_64bits_update(state, facts, sizeof facts);
        } else if (rc == 0) {
            rc = path ? plim_err_errno(err, "%s", path) : -1;
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    for (size_t i = 0; i < sizeof small / sizeof small[0] && rc == 0; i++) {
        char *path = plim_path_join(directory, small[i], err);

        rc = path ? 0 : -1;
        if (path && plim_path_exists(path))
            rc = add_file(state, path, err);
        free(path);
    }
    return rc;
}

static int add_program(XXH3_state_t *state, struct plim_err *err)
{
    char *self = plim_self_path(err), kernels[80];
    int rc = self ? add_file(state, self, err) : -1;

    free(self);
    kernels_key(kernels, sizeof kernels);
    XXH3_64bits_update(state, kernels, strlen(kernels));
    return rc;
}

static int make_key(const struct plim_quantize_options *o, const struct plim_parameters *parameters, const char *model,
                    uint64_t *key, struct plim_err *err)
{
    uint64_t shape[6] = { o->measurement_rows, o->measurement_length, o->sensitivity_rows, o->seed, o->as_exllamav2,
                          (uint64_t)parameters->count[PLIM_BACKEND] };
    XXH3_state_t *state = XXH3_createState();
    int rc = -1;

    if (!state)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, shape, sizeof shape);
    if (add_program(state, err) == 0 && add_model(state, model, err) == 0 &&
        (!o->calibration || add_file(state, o->calibration, err) == 0)) {
        *key = XXH3_64bits_digest(state);
        rc = 0;
    }
    XXH3_freeState(state);
    return rc;
}

/* "models/smollm2-135m": "models/.measurements/smollm2-135m-0123456789abcdef.json" */
static char *make_path(const char *model, uint64_t key, struct plim_err *err)
{
    const char *slash = strrchr(model, '/');
    char *directory = heap_printf(err, "%.*s/.measurements", (int)(slash - model), model), *path = NULL;

    if (directory && plim_make_directories(directory, err) == 0)
        path = heap_printf(err, "%s/%s-%016" PRIx64 ".json", directory, slash + 1, key);
    free(directory);
    return path;
}

/* ---- making one ---- */

static int measure(const struct plim_quantize_options *options, const struct plim_parameters *parameters,
                   struct plim_err *err)
{
    struct plim_parameters unbounded = *parameters;
    struct plim_quantize_options o = *options;
    struct plim_engine *engine = NULL;
    int rc;

    unbounded.count[PLIM_MEMORY_BUDGET] = 0;   /* which no bit of it depends on */
    o.measure_only = true;
    o.job_directory = JOB;
    if (plim_engine_open(&engine, NULL, &unbounded, NULL, err) < 0)
        return -1;
    rc = plim_quantize(engine, &o, NULL, err);
    plim_engine_close(engine);
    return rc;
}

static int keep(const char *path, struct plim_err *err)
{
    char *text = NULL;
    size_t length;
    int rc = plim_read_file(JOB "/measurement.json", MEASUREMENT_LIMIT, &text, &length, err);

    if (rc == 0)
        rc = plim_write_file(path, text, length, err);
    free(text);
    return rc;
}

char *measurement_store_get(const struct plim_quantize_options *options, const struct plim_parameters *parameters,
                            struct plim_err *err)
{
    char *model = realpath(options->model_directory, NULL), *path = NULL;
    uint64_t key = 0;
    int rc = -1;

    if (!model)
        plim_err_errno(err, "model %s", options->model_directory);
    else if (make_key(options, parameters, model, &key, err) == 0)
        path = make_path(model, key, err);
    if (path && (plim_path_exists(path) || (measure(options, parameters, err) == 0 && keep(path, err) == 0)))
        rc = 0;
    if (rc < 0) {
        free(path);
        path = NULL;
    }
    free(model);
    return path;
}
