#ifndef PLIM_TEXT_BUFFER_H
#define PLIM_TEXT_BUFFER_H

/* Growing memory of the tokenizer: pool blocks with tag tokenizer. */

#include <stddef.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

/*
 * No text grows past this, so positions fit into 32 bits, and a hostile normaliser (replace "a" by "aa", fifty times)
 * ends in an error.
 */
#define TEXT_LIMIT_BYTES ((size_t)1 << 30)

/* Growing bytes; no NUL at the end. */
struct text_buffer {
    struct plim_pool *pool;
    char *data;
    size_t length, capacity;
};

void text_buffer_init(struct text_buffer *buffer, struct plim_pool *pool);
void text_buffer_release(struct text_buffer *buffer);

/* Makes room for `extra` more bytes and a NUL. */
int text_buffer_reserve(struct text_buffer *buffer, size_t extra, struct plim_err *err);
int text_buffer_append(struct text_buffer *buffer, const char *data, size_t length, struct plim_err *err);

/*
 * Makes room for `needed` (at least 1) items of an array that grows by doubling. Returns the array, moved or not, and
 * sets *capacity; NULL when memory is out: the old array is then still valid and the caller's.
 */
void *text_grow(struct plim_pool *pool, void *items, size_t *capacity, size_t needed, size_t item_bytes,
                struct plim_err *err);

#endif
