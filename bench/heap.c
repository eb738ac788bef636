#include "heap.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *out_of_memory(struct plim_err *err, size_t bytes)
{
    plim_err_set(err, PLIM_ERR_MEMORY, "out of memory: %zu bytes for the harness", bytes);
    return NULL;
}

char *heap_strdup(const char *text, struct plim_err *err)
{
    char *copy = strdup(text);

    return copy ? copy : out_of_memory(err, strlen(text) + 1);
}

char *heap_printf(struct plim_err *err, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    int length;

    va_start(args, format);
    length = vasprintf(&text, format, args);
    va_end(args);
    return length < 0 ? out_of_memory(err, 1) : text;
}

void *heap_room(void *items, size_t count, size_t item_bytes, struct plim_err *err)
{
    if ((count & (count - 1)) == 0) {   /* 0 or a power of two: the array is full */
        size_t capacity = count ? 2 * count : 1;
        void *grown = capacity <= SIZE_MAX / item_bytes ? realloc(items, capacity * item_bytes) : NULL;

        if (!grown)
            return out_of_memory(err, item_bytes);
        items = grown;
    }
    memset((char *)items + count * item_bytes, 0, item_bytes);
    return items;
}

void *heap_calloc(size_t count, size_t item_bytes, struct plim_err *err)
{
    void *items = calloc(count ? count : 1, item_bytes ? item_bytes : 1);

    return items ? items : out_of_memory(err, item_bytes);
}
