#ifndef PLIM_TEST_MODEL_SUPPORT_H
#define PLIM_TEST_MODEL_SUPPORT_H

/* What the tests of model/ share: an engine with a model in one call, logits as an array, references, broken models. */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/engine.h"
#include "plimsoll/pool.h"
#include "safetensors.h"

#define FIXTURES PLIMSOLL_TEST_DATA "/exl2-llama-tiny"

/* ---- an engine, a model, a session ---- */

struct rig {
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_model_info info;
};

/* Resolved parameters from "max_dq_size=1Ki backend=cuda ..."; "" for the defaults, with cpu_threads=2. */
struct plim_parameters parameters_from(const char *settings);

/* Opens all three; anything that fails is a failed test. `context` 0: the model's own. */
void rig_open(struct rig *rig, const char *directory, const char *settings, size_t context);

/* Closes all three and checks that nothing leaked. */
void rig_close(struct rig *rig);

/* ---- logits ---- */

/* Logits of all tokens from the session's position on, [count, vocab]; free(). */
float *forward_all(struct rig *rig, const int32_t *ids, size_t count);

/* The same, one token a call. */
float *forward_token_by_token(struct rig *rig, const int32_t *ids, size_t count);

/* Logits of the last token, [vocab]; free(). */
float *forward_last(struct rig *rig, const int32_t *ids, size_t count);

/* |a - b| / |b| over n elements. */
double relative_difference(const float *a, const float *b, size_t n);
size_t argmax(const float *row, size_t n);

/* ---- reference files ---- */

struct reference {
    struct plim_pool *pool;
    struct tensor_store *store;
};

void reference_open(struct reference *reference, const char *path);
void reference_close(struct reference *reference);
/* A tensor's data, which must be there; its first dimension in *rows. */
const void *reference_tensor(const struct reference *reference, const char *name, size_t *rows);

/* Token ids and logit positions of the EXL2 fixture's sequence of 1, 33 or 200 tokens; free(). */
int32_t *fixture_ids(size_t length);
size_t *fixture_positions(size_t length, size_t *count);

/* `count` ids below `vocab`, the same each time. free(). */
int32_t *some_ids(size_t count, size_t vocab);

/* ---- model directories made on the spot ---- */

/*
 * A changed copy of a model directory in a new temporary directory. Edits name tensors; unnamed ones are copied.
 */
enum edit_kind {
    EDIT_DROP,          /* leave the tensor out */
    EDIT_VALUE_F16,     /* store `value` as element `index` of an F16 tensor */
    EDIT_RENAME,        /* to `text` */
    EDIT_PREFIX,        /* `text` before every name; `tensor` is "*" */
    EDIT_DTYPE,         /* declare `dtype`, of the same size */
    EDIT_RESHAPE,       /* declare shape [elements / value, value] */
    EDIT_REPEAT,        /* store the elements `value` times, as [value, elements] */
    EDIT_REPEAT_BENT    /* likewise, with the lowest bit of the last element flipped */
};

struct edit {
    enum edit_kind kind;
    const char *tensor;
    size_t index;
    uint64_t value;
    const char *text;
    enum dtype dtype;
};

struct model_copy {
    char directory[128];
};

/* `config_from`, when not NULL, is replaced in config.json by `config_to`. */
void model_copy_make(struct model_copy *copy, const char *source, const struct edit *edits, size_t edit_count,
                     const char *config_from, const char *config_to);
void model_copy_remove(struct model_copy *copy);

#endif
