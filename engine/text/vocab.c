#include "vocab.h"

#include <string.h>

#include <xxhash.h>

int text_vocab_init(struct text_vocab *vocab, struct plim_pool *pool, struct text_vocab_size size,
                    struct plim_err *err)
{
    *vocab = (struct text_vocab){ .pool = pool };
    text_buffer_init(&vocab->decoded, pool);
    size_t slots = 16;
    while (slots < size.tokens * 2)
        slots *= 2;
    vocab->tokens = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_TOKENIZER, size.ids, sizeof *vocab->tokens, err);
    vocab->bytes = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_TOKENIZER, size.bytes, err);
    vocab->slots = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_TOKENIZER, slots, sizeof *vocab->slots, err);
    if (!vocab->tokens || !vocab->bytes || !vocab->slots)
        return -1;
    vocab->count = size.ids;
    vocab->byte_capacity = size.bytes;
    vocab->slot_mask = slots - 1;
    return 0;
}

void text_vocab_release(struct text_vocab *vocab)
{
    plim_pool_free(vocab->pool, vocab->tokens);
    plim_pool_free(vocab->pool, vocab->bytes);
    plim_pool_free(vocab->pool, vocab->slots);
    text_buffer_release(&vocab->decoded);
    *vocab = (struct text_vocab){ .pool = vocab->pool };
}

/* The slot that holds `text`, or the free one where it would go. There is always a free one: at most half are used. */
static uint32_t *find_slot(const struct text_vocab *vocab, const char *text, size_t length)
{
    size_t slot = (size_t)XXH3_64bits(text, length) & vocab->slot_mask;
    for (;; slot = (slot + 1) & vocab->slot_mask) {
        uint32_t entry = vocab->slots[slot];
        if (entry == 0)
            return &vocab->slots[slot];
        const struct text_token *token = &vocab->tokens[entry - 1];
        if (token->length == length && memcmp(vocab->bytes + token->offset, text, length) == 0)
            return &vocab->slots[slot];
    }
}

enum text_vocab_result text_vocab_add(struct text_vocab *vocab, const char *text, size_t length, int32_t id,
                                      bool in_model)
{
    struct text_token *token = &vocab->tokens[id];
    uint32_t *slot = find_slot(vocab, text, length);
    if (*slot != 0)
        return TEXT_VOCAB_TEXT_TAKEN;
    if (token->present)
        return TEXT_VOCAB_ID_TAKEN;
    *token = (struct text_token){
        .offset = (uint32_t)vocab->byte_count,
        .length = (uint32_t)length,
        .byte = -1,
        .present = true,
        .in_model = in_model,
    };
    memcpy(vocab->bytes + vocab->byte_count, text, length);
    vocab->byte_count += length;
    *slot = (uint32_t)id + 1;
    return TEXT_VOCAB_ADDED;
}

int32_t text_vocab_find(const struct text_vocab *vocab, const char *text, size_t length)
{
    return (int32_t)*find_slot(vocab, text, length) - 1;
}

int32_t text_vocab_find_model(const struct text_vocab *vocab, const char *text, size_t length)
{
    int32_t id = text_vocab_find(vocab, text, length);
    return id >= 0 && vocab->tokens[id].in_model ? id : -1;
}
