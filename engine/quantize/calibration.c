#include "calibration.h"

#include <stdio.h>
#include <string.h>

#include "digest.h"
#include "plimsoll/file.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"
#include "plimsoll/tokenizer.h"
#include "safetensors.h"

#define DEFAULT_ROWS             100
#define DEFAULT_LENGTH           2048
#define DEFAULT_MEASUREMENT_ROWS 16
#define MIX_RANDOM_EVERY         50
#define TEXT_PIECE_BYTES         ((size_t)1 << 20)

enum source { SOURCE_MIX, SOURCE_TEXT, SOURCE_LINES, SOURCE_IDS };

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static int source_of(const char *path, enum source *source, struct plim_err *err)
{
    if (!path)
        *source = SOURCE_MIX;
    else if (ends_with(path, ".txt"))
        *source = SOURCE_TEXT;
    else if (ends_with(path, ".jsonl"))
        *source = SOURCE_LINES;
    else if (ends_with(path, ".safetensors"))
        *source = SOURCE_IDS;
    else
        return plim_err_input(err, "calibration %s: expected a .txt, .jsonl or .safetensors file", path);
    return 0;
}

/* ---- shapes ---- */

static void set_shape(struct calibration_rows *rows, size_t wanted_rows, size_t default_rows, size_t wanted_length,
                      size_t longest)
{
    rows->rows = wanted_rows ? wanted_rows : default_rows;
    rows->length = plim_min(wanted_length ? wanted_length : DEFAULT_LENGTH, longest);
}

static int rows_alloc(struct calibration_rows *rows, struct plim_pool *pool, struct plim_err *err)
{
    size_t count, bytes;
    if (!plim_size_mul(rows->rows, rows->length, &count) || !plim_size_mul(count, sizeof *rows->ids, &bytes))
        return plim_err_input(err, "%zu calibration rows of %zu tokens are too many", rows->rows, rows->length);
    rows->ids = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_CALIBRATION, bytes, err);
    return rows->ids ? 0 : -1;
}

/* ---- text ---- */

static size_t tokens_needed(const struct calibration *c)
{
    return plim_max(c->measurement.rows * c->measurement.length, c->quantisation.rows * c->quantisation.length);
}

/* A piece of text ends behind a newline, so that no word is cut. */
static size_t piece_bytes(const char *text, size_t bytes)
{
    if (bytes <= TEXT_PIECE_BYTES)
        return bytes;
    const char *end = memrchr(text, '\n', TEXT_PIECE_BYTES);
    return end ? (size_t)(end - text) + 1 : TEXT_PIECE_BYTES;
}

static int read_text(const struct plim_tokenizer *tokenizer, const char *text, size_t bytes, size_t needed,
                     struct plim_ids *ids, struct plim_err *err)
{
    for (size_t done = 0, piece; done < bytes && ids->count < needed; done += piece) {
        piece = piece_bytes(text + done, bytes - done);
        if (plim_tokenizer_encode(tokenizer, text + done, piece, false, ids, err) < 0)
            return -1;
    }
    return 0;
}

static int read_line(const struct plim_tokenizer *tokenizer, const char *document, const char *line, size_t bytes,
                     struct plim_ids *ids, struct plim_err *err)
{
    cJSON *root = NULL;
    const char *text;
    if (plim_json_parse(document, line, bytes, &root, err) < 0)
        return -1;
    int rc = plim_json_string(plim_json_get(plim_json_root(root, document), "text"), &text, err);
    if (rc == 0)
        rc = plim_tokenizer_encode(tokenizer, text, strlen(text), false, ids, err);
    cJSON_Delete(root);
    return rc;
}

static int read_lines(const struct plim_tokenizer *tokenizer, const char *path, const char *text, size_t bytes,
                      size_t needed, struct plim_ids *ids, struct plim_err *err)
{
    size_t number = 0;
    for (size_t done = 0; done < bytes && ids->count < needed;) {
        const char *line = text + done, *end = memchr(line, '\n', bytes - done);
        size_t length = end ? (size_t)(end - line) : bytes - done;
        char document[256];
        number++;
        snprintf(document, sizeof document, "%.200s: line %zu", path, number);
        if (strspn(line, " \t\r") < length && read_line(tokenizer, document, line, length, ids, err) < 0)
            return -1;
        done += length + 1;
    }
    return 0;
}

/* The first rows of one stream of tokens, for measurement and for quantisation alike. */
static int cut_rows(struct calibration *c, const struct plim_ids *ids, const char *path, struct plim_err *err)
{
    size_t needed = tokens_needed(c);
    if (ids->count < needed)
        return plim_err_input(err, "calibration %s: %zu tokens found, %zu needed (%zu rows of %zu for quantisation, %zu "
                              "of %zu for measurement)", path, ids->count, needed, c->quantisation.rows,
                              c->quantisation.length, c->measurement.rows, c->measurement.length);
    memcpy(c->quantisation.ids, ids->ids, c->quantisation.rows * c->quantisation.length * sizeof *ids->ids);
    memcpy(c->measurement.ids, ids->ids, c->measurement.rows * c->measurement.length * sizeof *ids->ids);
    return 0;
}

/* ---- the built-in mix ---- */

/*
 * Rows of text begin at evenly spaced places, so that few rows see every kind of text, and more rows than the text fills
 * see it at other positions rather than again. A text shorter than a row is repeated.
 */
static void mix_rows(struct calibration_rows *rows, const struct plim_ids *text, size_t vocab_size, uint64_t seed)
{
    size_t last = text->count > rows->length ? text->count - rows->length : 0;
    for (size_t r = 0; r < rows->rows; r++) {
        int32_t *row = rows->ids + r * rows->length;
        if (r % MIX_RANDOM_EVERY == MIX_RANDOM_EVERY - 1) {
            struct plim_random random;
            plim_random_seed(&random, seed, r);
            for (size_t i = 0; i < rows->length; i++)
                row[i] = (int32_t)plim_random_below(&random, vocab_size);
        } else {
            size_t from = rows->rows > 1 ? (size_t)((double)last * (double)r / (double)(rows->rows - 1)) : 0;
            for (size_t i = 0; i < rows->length; i++)
                row[i] = text->ids[(from + i) % text->count];
        }
    }
}

/* ---- from text of any kind ---- */

static int from_text(struct calibration *c, enum source source, const struct plim_model *model,
                     const struct plim_quantize_options *options, struct plim_err *err)
{
    struct plim_tokenizer *tokenizer = NULL;
    struct plim_ids ids = { 0 };
    struct plim_map map = { 0 };
    int rc = -1;

    if (options->calibration && plim_map_open(&map, options->calibration, err) < 0)
        return -1;
    if (plim_tokenizer_load(&tokenizer, c->pool, options->model_directory, err) < 0)
        goto out;
    if (source == SOURCE_MIX) {
        if (read_text(tokenizer, (const char *)calibration_text, calibration_text_bytes, SIZE_MAX, &ids, err) < 0)
            goto out;
        mix_rows(&c->quantisation, &ids, model->info.vocab_size, options->seed);
        mix_rows(&c->measurement, &ids, model->info.vocab_size, options->seed);
    } else {
        const char *text = (const char *)map.data;
        int read = source == SOURCE_TEXT ? read_text(tokenizer, text, map.bytes, tokens_needed(c), &ids, err)
                                         : read_lines(tokenizer, options->calibration, text, map.bytes,
                                                      tokens_needed(c), &ids, err);
        if (read < 0 || cut_rows(c, &ids, options->calibration, err) < 0)
            goto out;
    }
    rc = 0;

out:
    plim_ids_release(&ids, c->pool);
    plim_tokenizer_free(tokenizer);
    plim_map_close(&map);
    return rc;
}

/* ---- ids ---- */

static int64_t id_at(const struct tensor *tensor, size_t index)
{
    if (tensor->dtype == DTYPE_I64) {
        int64_t id;
        memcpy(&id, (const char *)tensor->data + index * sizeof id, sizeof id);
        return id;
    }
    int32_t id;
    memcpy(&id, (const char *)tensor->data + index * sizeof id, sizeof id);
    return id;
}

static int copy_ids(struct calibration_rows *rows, const struct tensor *tensor, const char *path, struct plim_err *err)
{
    if (rows->rows > tensor->shape[0] || rows->length > tensor->shape[1])
        return plim_err_input(err, "calibration %s: input_ids is %zu x %zu, %zu rows of %zu tokens are needed", path,
                              tensor->shape[0], tensor->shape[1], rows->rows, rows->length);
    for (size_t r = 0; r < rows->rows; r++) {
        for (size_t i = 0; i < rows->length; i++) {
            int64_t id = id_at(tensor, r * tensor->shape[1] + i);
            if (id < INT32_MIN || id > INT32_MAX)
                id = -1;   /* refused with the others outside the vocabulary */
            rows->ids[r * rows->length + i] = (int32_t)id;
        }
    }
    return 0;
}

/* What is not asked for follows the file's shape. */
static int from_ids(struct calibration *c, const struct plim_model *model, const struct plim_quantize_options *options,
                    struct plim_err *err)
{
    struct tensor_store *store = NULL;
    const struct tensor *tensor;
    size_t longest = model->info.max_positions;
    int rc = -1;

    if (tensor_store_open_file(&store, c->pool, options->calibration, err) < 0)
        return -1;
    tensor = tensor_store_need(store, "input_ids", 1u << DTYPE_I64 | 1u << DTYPE_I32, 2, (int64_t[]){ -1, -1 }, err);
    if (!tensor)
        goto out;
    size_t rows = tensor->shape[0], length = plim_min(tensor->shape[1], DEFAULT_LENGTH);
    set_shape(&c->quantisation, options->rows, plim_min(rows, DEFAULT_ROWS), options->length ? options->length : length,
              longest);
    set_shape(&c->measurement, options->measurement_rows, plim_min(rows, DEFAULT_MEASUREMENT_ROWS),
              options->measurement_length ? options->measurement_length : length, longest);
    if (rows_alloc(&c->quantisation, c->pool, err) < 0 || rows_alloc(&c->measurement, c->pool, err) < 0)
        goto out;
    if (copy_ids(&c->quantisation, tensor, options->calibration, err) < 0 ||
        copy_ids(&c->measurement, tensor, options->calibration, err) < 0)
        goto out;
    rc = 0;

out:
    tensor_store_close(store);
    return rc;
}

/* ---- all of it ---- */

static int check_ids(const struct calibration_rows *rows, size_t vocab_size, struct plim_err *err)
{
    if (rows->rows == 0 || rows->length == 0)
        return plim_err_input(err, "calibration needs at least one row of one token");
    for (size_t i = 0; i < rows->rows * rows->length; i++) {
        if (rows->ids[i] < 0 || (size_t)rows->ids[i] >= vocab_size)
            return plim_err_input(err, "calibration row %zu, token %zu has id %d, expected 0 to %zu (the vocabulary)",
                                  i / rows->length, i % rows->length, (int)rows->ids[i], vocab_size - 1);
    }
    return 0;
}

static int take_digest(struct calibration *c, struct plim_err *err)
{
    struct digest *digest = digest_begin(err);
    if (!digest)
        return -1;
    for (int i = 0; i < 2; i++) {
        const struct calibration_rows *rows = i ? &c->quantisation : &c->measurement;
        uint64_t shape[2] = { rows->rows, rows->length };
        digest_add(digest, shape, sizeof shape);
        digest_add(digest, rows->ids, rows->rows * rows->length * sizeof *rows->ids);
    }
    digest_end(digest, c->digest);
    return 0;
}

int calibration_open(struct calibration *c, const struct plim_model *model,
                     const struct plim_quantize_options *options, struct plim_err *err)
{
    const char *path = options->calibration, *slash = path ? strrchr(path, '/') : NULL;
    size_t longest = model->info.max_positions, vocab = model->info.vocab_size;
    enum source source = SOURCE_MIX;
    int rc;

    *c = (struct calibration){ .pool = model->engine->pool };
    snprintf(c->dataset, sizeof c->dataset, "%s", path ? slash ? slash + 1 : path : "(default)");
    if (source_of(path, &source, err) < 0)
        return -1;
    if (source == SOURCE_IDS) {
        rc = from_ids(c, model, options, err);
    } else {
        set_shape(&c->quantisation, options->rows, DEFAULT_ROWS, options->length, longest);
        set_shape(&c->measurement, options->measurement_rows, DEFAULT_MEASUREMENT_ROWS, options->measurement_length,
                  longest);
        rc = rows_alloc(&c->quantisation, c->pool, err) < 0 || rows_alloc(&c->measurement, c->pool, err) < 0
                 ? -1
                 : from_text(c, source, model, options, err);
    }
    if (rc == 0 && (check_ids(&c->quantisation, vocab, err) < 0 || check_ids(&c->measurement, vocab, err) < 0 ||
                    take_digest(c, err) < 0))
        rc = -1;
    if (rc < 0)
        calibration_close(c);
    return rc;
}

void calibration_close(struct calibration *c)
{
    if (!c->pool)
        return;
    plim_pool_free(c->pool, c->measurement.ids);
    plim_pool_free(c->pool, c->quantisation.ids);
    c->measurement.ids = c->quantisation.ids = NULL;
}
