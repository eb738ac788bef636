#ifndef PLIM_TEXT_IDS_H
#define PLIM_TEXT_IDS_H

/*
 * Token ids to run a model on. The tokenizer that makes them of a text lives in a pool of its own and is gone before any
 * work begins: what it takes is not the engine's.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

/* Each sets *ids (free()) and *count, or neither. */
int text_ids_encode(int32_t **ids, size_t *count, const char *model_directory, const char *text, size_t length,
                    struct plim_err *err);
int text_ids_read(int32_t **ids, size_t *count, const char *model_directory, const char *file, struct plim_err *err);
int text_ids_random(int32_t **ids, size_t count, size_t vocab_size, uint64_t seed, struct plim_err *err);

#endif
