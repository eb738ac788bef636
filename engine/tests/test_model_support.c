#include "test_model_support.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/file.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"

#define OK(call) cr_assert((call) == 0, "%s", err.message)

/* ---- an engine, a model, a session ---- */

struct plim_parameters parameters_from(const char *settings)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    char text[512], *rest = text, *setting;

    plim_parameters_default(&parameters);
    OK(plim_parameters_set(&parameters, "cpu_threads", "2", &err));
    cr_assert((size_t)snprintf(text, sizeof text, "%s", settings) < sizeof text);
    while ((setting = strsep(&rest, " "))) {
        char *value = strchr(setting, '=');
        if (!value)
            continue;
        *value++ = '\0';
        OK(plim_parameters_set(&parameters, setting, value, &err));
    }
    OK(plim_parameters_resolve(&parameters, &err));
    return parameters;
}

void rig_open(struct rig *rig, const char *directory, const char *settings, size_t context)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_session_options options = { .context_tokens = context };

    *rig = (struct rig){ 0 };
    OK(plim_engine_open(&rig->engine, NULL, &parameters, NULL, &err));
    OK(plim_model_load(&rig->model, rig->engine, directory, &err));
    OK(plim_session_open(&rig->session, rig->model, &options, &err));
    plim_model_info(rig->model, &rig->info);
}

void rig_close(struct rig *rig)
{
    plim_session_close(rig->session);
    plim_model_free(rig->model);
    cr_assert_eq(plim_engine_close(rig->engine), 0, "pool blocks leaked");
}

/* ---- logits ---- */

struct collect {
    float *logits;
    size_t first, rows;
};

static int collect_rows(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                        struct plim_err *err)
{
    struct collect *collect = context;
    (void)err;

    cr_assert_eq(first_position, collect->first + collect->rows, "rows arrive in order");
    memcpy(collect->logits + collect->rows * vocab_size, logits, rows * vocab_size * sizeof *logits);
    collect->rows += rows;
    return 0;
}

static void forward_into(struct rig *rig, const int32_t *ids, size_t count, enum plim_logits_rows rows, float *logits)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t start = plim_session_position(rig->session);
    size_t wanted = rows == PLIM_LOGITS_ALL ? count : 1;
    struct collect collect = { .logits = logits, .first = start + count - wanted };
    struct plim_forward forward = { .rows = rows, .callback = collect_rows, .context = &collect };

    OK(plim_session_forward(rig->session, ids, count, &forward, &err));
    cr_assert_eq(collect.rows, wanted);
    cr_assert_eq(plim_session_position(rig->session), start + count);
}

static float *logits_alloc(const struct rig *rig, size_t rows)
{
    float *logits = malloc(rows * rig->info.vocab_size * sizeof *logits);
    cr_assert(logits);
    return logits;
}

float *forward_all(struct rig *rig, const int32_t *ids, size_t count)
{
    float *logits = logits_alloc(rig, count);
    forward_into(rig, ids, count, PLIM_LOGITS_ALL, logits);
    return logits;
}

float *forward_token_by_token(struct rig *rig, const int32_t *ids, size_t count)
{
    float *logits = logits_alloc(rig, count);
    for (size_t i = 0; i < count; i++)
        forward_into(rig, ids + i, 1, PLIM_LOGITS_LAST, logits + i * rig->info.vocab_size);
    return logits;
}

float *forward_last(struct rig *rig, const int32_t *ids, size_t count)
{
    float *logits = logits_alloc(rig, 1);
    forward_into(rig, ids, count, PLIM_LOGITS_LAST, logits);
    return logits;
}

double relative_difference(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / norm);
}

size_t argmax(const float *row, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (row[i] > row[best])
            best = i;
    }
    return best;
}

/* ---- reference files ---- */

void reference_open(struct reference *reference, const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    OK(plim_pool_open(&reference->pool, NULL, &err));
    OK(tensor_store_open_file(&reference->store, reference->pool, path, &err));
}

void reference_close(struct reference *reference)
{
    tensor_store_close(reference->store);
    plim_pool_close(reference->pool);
}

const void *reference_tensor(const struct reference *reference, const char *name, size_t *rows)
{
    const struct tensor *tensor = tensor_store_find(reference->store, name);
    cr_assert(tensor, "no tensor %s in the reference file", name);
    *rows = tensor->shape[0];
    return tensor->data;
}

static int64_t *fixture_list(const char *list, size_t length, size_t *count)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = NULL;
    char key[24];

    OK(plim_json_read(FIXTURES "/reference.json", (size_t)1 << 24, &root, &err));
    snprintf(key, sizeof key, "%zu", length);
    struct plim_json values = plim_json_get(plim_json_get(plim_json_root(root, "reference.json"), list), key);
    OK(plim_json_array(values, &err));
    *count = plim_json_length(values);
    int64_t *out = malloc(*count * sizeof *out);
    cr_assert(out);
    for (size_t i = 0; i < *count; i++)
        OK(plim_json_int(plim_json_at(values, i), 0, 1 << 20, &out[i], &err));
    cJSON_Delete(root);
    return out;
}

int32_t *fixture_ids(size_t length)
{
    size_t count;
    int64_t *list = fixture_list("sequences", length, &count);
    int32_t *ids = malloc(length * sizeof *ids);

    cr_assert(ids);
    cr_assert_eq(count, length);
    for (size_t i = 0; i < length; i++)
        ids[i] = (int32_t)list[i];
    free(list);
    return ids;
}

size_t *fixture_positions(size_t length, size_t *count)
{
    int64_t *list = fixture_list("logit_positions", length, count);
    size_t *positions = malloc(*count * sizeof *positions);

    cr_assert(positions);
    for (size_t i = 0; i < *count; i++)
        positions[i] = (size_t)list[i];
    free(list);
    return positions;
}

int32_t *some_ids(size_t count, size_t vocab)
{
    struct plim_random random;
    int32_t *ids = malloc(count * sizeof *ids);

    cr_assert(ids);
    plim_random_seed(&random, 1, 0);
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)plim_random_below(&random, vocab);
    return ids;
}

/* ---- model directories made on the spot ---- */

static const struct edit *edit_of(const struct tensor *tensor, const struct edit *edits, size_t edit_count)
{
    for (size_t i = 0; i < edit_count; i++) {
        if (strcmp(edits[i].tensor, tensor->name) == 0 || strcmp(edits[i].tensor, "*") == 0)
            return &edits[i];
    }
    return NULL;
}

static bool repeats(const struct edit *edit)
{
    return edit && (edit->kind == EDIT_REPEAT || edit->kind == EDIT_REPEAT_BENT);
}

static void declare(struct safetensors_writer *writer, const struct tensor *tensor, const struct edit *edit)
{
    struct plim_err err = PLIM_ERR_INIT;
    bool renamed = edit && edit->kind == EDIT_RENAME, prefixed = edit && edit->kind == EDIT_PREFIX;
    char name[256];
    enum dtype dtype = edit && edit->kind == EDIT_DTYPE ? edit->dtype : tensor->dtype;

    snprintf(name, sizeof name, "%s%s", prefixed ? edit->text : "", renamed ? edit->text : tensor->name);
    if (edit && edit->kind == EDIT_RESHAPE) {
        size_t shape[] = { tensor->element_count / edit->value, edit->value };
        OK(safetensors_writer_declare(writer, name, dtype, 2, shape, &err));
    } else if (repeats(edit)) {
        size_t shape[] = { edit->value, tensor->element_count };
        OK(safetensors_writer_declare(writer, name, dtype, 2, shape, &err));
    } else {
        OK(safetensors_writer_declare(writer, name, dtype, tensor->dimension_count, tensor->shape, &err));
    }
}

static void write_data(struct safetensors_writer *writer, const struct tensor *tensor, const struct edit *edit)
{
    struct plim_err err = PLIM_ERR_INIT;
    uint8_t *data = malloc(tensor->bytes);

    cr_assert(data);
    memcpy(data, tensor->data, tensor->bytes);
    if (edit && edit->kind == EDIT_VALUE_F16) {
        uint16_t value = (uint16_t)edit->value;
        memcpy(data + edit->index * sizeof value, &value, sizeof value);
    }
    for (uint64_t i = repeats(edit) ? edit->value : 1; i > 0; i--) {
        if (i == 1 && edit && edit->kind == EDIT_REPEAT_BENT)
            data[tensor->bytes - dtype_bytes(tensor->dtype)] ^= 1;
        OK(safetensors_writer_write(writer, data, tensor->bytes, &err));
    }
    free(data);
}

static void copy_tensors(const char *source, const char *path, const struct edit *edits, size_t edit_count)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    struct tensor_store *store = NULL;
    struct safetensors_writer *writer = NULL;

    OK(plim_pool_open(&pool, NULL, &err));
    OK(tensor_store_open_directory(&store, pool, source, false, &err));
    OK(safetensors_writer_open(&writer, pool, path, &err));
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < tensor_store_count(store); i++) {
            const struct tensor *tensor = tensor_store_at(store, i);
            const struct edit *edit = edit_of(tensor, edits, edit_count);
            if (edit && edit->kind == EDIT_DROP)
                continue;
            if (pass == 0)
                declare(writer, tensor, edit);
            else
                write_data(writer, tensor, edit);
        }
    }
    OK(safetensors_writer_commit(writer, &err));
    safetensors_writer_close(writer);
    tensor_store_close(store);
    plim_pool_close(pool);
}

static void copy_config(const char *source, const char *directory, const char *from, const char *to)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[256], *text, out[8192];
    size_t bytes;

    snprintf(path, sizeof path, "%s/config.json", source);
    OK(plim_read_file(path, sizeof out, &text, &bytes, &err));
    char *at = from ? strstr(text, from) : NULL;
    cr_assert(!from || at, "config.json has no %s", from);
    if (at)
        snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    else
        snprintf(out, sizeof out, "%s", text);
    snprintf(path, sizeof path, "%s/config.json", directory);
    OK(plim_write_file(path, out, strlen(out), &err));
    free(text);
}

void model_copy_make(struct model_copy *copy, const char *source, const struct edit *edits, size_t edit_count,
                     const char *config_from, const char *config_to)
{
    char path[256];
    const char *parent = getenv("TMPDIR");

    snprintf(copy->directory, sizeof copy->directory, "%s/plim_test_model.XXXXXX", parent ? parent : "/tmp");
    cr_assert(mkdtemp(copy->directory));
    snprintf(path, sizeof path, "%s/model.safetensors", copy->directory);
    copy_tensors(source, path, edits, edit_count);
    copy_config(source, copy->directory, config_from, config_to);
}

void model_copy_remove(struct model_copy *copy)
{
    char path[512];
    DIR *directory = opendir(copy->directory);
    struct dirent *entry;

    cr_assert(directory);
    while ((entry = readdir(directory))) {
        snprintf(path, sizeof path, "%s/%s", copy->directory, entry->d_name);
        unlink(path);
    }
    closedir(directory);
    rmdir(copy->directory);
}
