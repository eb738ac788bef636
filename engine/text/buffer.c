#include "buffer.h"

#include <stdint.h>
#include <string.h>

void *text_grow(struct plim_pool *pool, void *items, size_t *capacity, size_t needed, size_t item_bytes,
                struct plim_err *err)
{
    if (needed <= *capacity)
        return items;
    if (needed > SIZE_MAX / 4 / item_bytes) {
        plim_err_set(err, PLIM_ERR_MEMORY, "%zu items of %zu bytes are too many", needed, item_bytes);
        return NULL;
    }
    size_t target = *capacity < 16 ? 16 : *capacity;
    while (target < needed)
        target *= 2;
    void *grown = plim_pool_realloc(pool, PLIM_TAG_TOKENIZER, items, target * item_bytes, err);
    if (grown)
        *capacity = target;
    return grown;
}

void text_buffer_init(struct text_buffer *buffer, struct plim_pool *pool)
{
    *buffer = (struct text_buffer){ .pool = pool };
}

void text_buffer_release(struct text_buffer *buffer)
{
    plim_pool_free(buffer->pool, buffer->data);
    text_buffer_init(buffer, buffer->pool);
}

int text_buffer_reserve(struct text_buffer *buffer, size_t extra, struct plim_err *err)
{
    if (extra > TEXT_LIMIT_BYTES - buffer->length)
        return plim_err_input(err, "text grows past %zu bytes while it is tokenised", TEXT_LIMIT_BYTES);
    char *grown = text_grow(buffer->pool, buffer->data, &buffer->capacity, buffer->length + extra + 1, 1, err);
    if (!grown)
        return -1;
    buffer->data = grown;
    return 0;
}

int text_buffer_append(struct text_buffer *buffer, const char *data, size_t length, struct plim_err *err)
{
    if (text_buffer_reserve(buffer, length, err) < 0)
        return -1;
    if (length > 0)
        memcpy(buffer->data + buffer->length, data, length);
    buffer->length += length;
    return 0;
}
