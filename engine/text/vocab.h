#ifndef PLIM_TEXT_VOCAB_H
#define PLIM_TEXT_VOCAB_H

/* The tokens of a tokenizer: from id to text and, through an open-addressing hash, from text to id. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

/* Ids index an array, so one absurd id must not cost gigabytes. The largest vocabularies known have 2^18 tokens. */
#define TEXT_MAX_ID ((1 << 21) - 1)

struct text_token {
    uint32_t offset, length;                   /* its text, in vocab->bytes */
    uint32_t decoded_offset, decoded_length;   /* what decoding gives for it, in vocab->decoded; set by the decoder */
    int16_t byte;                              /* 0 to 255 for "<0x0A>" and the like under byte fallback, else -1 */
    bool present;                              /* false: no token has this id */
    bool in_model;                             /* in the model's vocabulary: merging may produce it */
    bool special;                              /* left out of decoded text on demand */
};

struct text_vocab {
    struct plim_pool *pool;
    struct text_token *tokens;   /* [count], by id */
    size_t count;                /* highest id + 1 */
    char *bytes;
    size_t byte_count, byte_capacity;
    uint32_t *slots;             /* [slot_mask + 1]: id + 1, or 0 when free */
    size_t slot_mask;
    struct text_buffer decoded;
};

/* What will be added, at most. */
struct text_vocab_size {
    size_t ids, tokens, bytes;
};

enum text_vocab_result {
    TEXT_VOCAB_ADDED,
    TEXT_VOCAB_ID_TAKEN,
    TEXT_VOCAB_TEXT_TAKEN,
};

/* On failure release does no harm. */
int text_vocab_init(struct text_vocab *vocab, struct plim_pool *pool, struct text_vocab_size size,
                    struct plim_err *err);
void text_vocab_release(struct text_vocab *vocab);

enum text_vocab_result text_vocab_add(struct text_vocab *vocab, const char *text, size_t length, int32_t id,
                                      bool in_model);

/* The id of a text, or -1. */
int32_t text_vocab_find(const struct text_vocab *vocab, const char *text, size_t length);
/* Only among the model's own tokens. */
int32_t text_vocab_find_model(const struct text_vocab *vocab, const char *text, size_t length);

/* The token of an id, or NULL when there is none. */
static inline const struct text_token *text_vocab_token(const struct text_vocab *vocab, int32_t id)
{
    return id >= 0 && (size_t)id < vocab->count && vocab->tokens[id].present ? &vocab->tokens[id] : NULL;
}

static inline const char *text_token_text(const struct text_vocab *vocab, const struct text_token *token)
{
    return vocab->bytes + token->offset;
}

#endif
