#ifndef PLIMSOLL_JSON_H
#define PLIMSOLL_JSON_H

/*
 * JSON getters that know where they are.
 *
 * cJSON parses; this adds what every reader of a file needs: limits against hostile input, type checks, unknown-key
 * checks, and errors that name the file, the path inside it, and the nearest valid name:
 *
 *     suites/smoke.json: cases.sweep.max_dq_sise: unknown key; did you mean max_dq_size?
 *
 * A `struct plim_json` is a borrowed view of one value in a document, passed by value.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "plimsoll/err.h"

struct plim_json {
    const cJSON *node;       /* NULL when an optional value is absent */
    const char *document;    /* borrowed; names the file in errors */
    char path[160];          /* "sweep.max_dq_size[2]"; "" at the root; cut with ".." in front when longer */
};

/*
 * Reads a whole file of at most `limit_bytes` and parses it; rejects depth over 64, trailing text, invalid UTF-8 and
 * duplicate keys. The caller owns *root (cJSON_Delete).
 */
int plim_json_read(const char *path, size_t limit_bytes, cJSON **root, struct plim_err *err);

/* The same for text in memory; `document` names it in errors. `length` bytes, no NUL needed. */
int plim_json_parse(const char *document, const char *text, size_t length, cJSON **root, struct plim_err *err);

/* The view of a root. */
struct plim_json plim_json_root(const cJSON *root, const char *document);

/* True when the value is there and not null. */
bool plim_json_has(struct plim_json value);

/* The member `key`; its node is NULL when absent, null, or when `object` is no object. Never an error. */
struct plim_json plim_json_get(struct plim_json object, const char *key);

/* Item `index` of an array; the caller has checked the range. */
struct plim_json plim_json_at(struct plim_json array, size_t index);
size_t plim_json_length(struct plim_json array_or_object);

/* Each checks presence and type (and range) and sets `err` (kind input) with the path. Strings are borrowed. */
int plim_json_object(struct plim_json value, struct plim_err *err);
int plim_json_array(struct plim_json value, struct plim_err *err);
int plim_json_string(struct plim_json value, const char **out, struct plim_err *err);
int plim_json_bool(struct plim_json value, bool *out, struct plim_err *err);
int plim_json_double(struct plim_json value, double *out, struct plim_err *err);
/* Whole numbers up to 2^53 in magnitude, within [low, high]. */
int plim_json_int(struct plim_json value, int64_t low, int64_t high, int64_t *out, struct plim_err *err);
/* A string among `names` (NULL-terminated); *out is its index. */
int plim_json_choice(struct plim_json value, const char *const *names, int *out, struct plim_err *err);

/* Refuses keys of `object` outside `names` (NULL-terminated), naming the nearest valid one. */
int plim_json_only_keys(struct plim_json object, const char *const *names, struct plim_err *err);

/* Sets "document: path: " + message, kind input. Always returns -1. */
int plim_json_err(struct plim_json value, struct plim_err *err, const char *format, ...) PLIM_PRINTF(3, 4);

/* The entry of `names` (NULL-terminated) nearest to `text` by edit distance, or NULL when none is near. */
const char *plim_nearest_name(const char *text, const char *const *names);

#endif
