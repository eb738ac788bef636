#ifndef TEST_CONVERSION_SUPPORT_H
#define TEST_CONVERSION_SUPPORT_H

/* What the tests of whole conversions share: a scratch directory, a conversion in one call, files and predictions compared. */

#include <stdbool.h>
#include <criterion/criterion.h>
#include <stddef.h>

#include "plimsoll/json.h"
#include "plimsoll/quantize.h"
#include "test_model_support.h"

#define DENSE FIXTURES "/dense"

/* A directory for one test; removed with everything in it. */
struct scratch {
    char directory[64];
};

void scratch_make(struct scratch *scratch);
void scratch_remove(struct scratch *scratch);
/* "DIRECTORY/name", in one of eight buffers that take turns. */
const char *scratch_path(const struct scratch *scratch, const char *name);

/* Few and short rows, and ExLlamaV2's measurement: a conversion of a fraction of a second. */
struct plim_quantize_options quick_options(const char *output);

/* Opens an engine with `settings`, converts, closes it; a pool block that is left is a failed test. */
int convert(const struct plim_quantize_options *options, const char *settings, struct plim_quantize_summary *summary,
            struct plim_err *err);
/* The same, and it must succeed; returns the digest in `digest` when not NULL. */
void convert_well(const struct plim_quantize_options *options, const char *settings, char digest[33]);

/* A calibration file: input_ids I32 [rows, length], ids below `vocab`. */
void write_ids(const char *path, size_t rows, size_t length, size_t vocab);

/* Whether two files have the same bytes; both must be there. */
bool same_file(const char *a, const char *b);
/* Both output directories hold the same files with the same bytes, and nothing unfinished. */
void check_same_model(const char *a, const char *b);

/* KL divergence of the predictions of logits q from those of logits p, [vocab] each, natural log: by its definition. */
double divergence_by_definition(const float *p, const float *q, size_t vocab);

/* Reads a JSON file; cJSON_Delete. */
cJSON *read_json(const char *path);

#endif
