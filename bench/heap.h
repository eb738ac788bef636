#ifndef PLIM_HEAP_H
#define PLIM_HEAP_H

/* The harness's own small memory: ordinary malloc, with failures as errors. Everything here is freed with free(). */

#include <stddef.h>

#include "plimsoll/err.h"

/* A copy of `text`, or NULL with `err` set. */
char *heap_strdup(const char *text, struct plim_err *err);

/* A formatted string, or NULL with `err` set. */
char *heap_printf(struct plim_err *err, const char *format, ...) PLIM_PRINTF(2, 3);

/*
 * Room for one more item in an array of `count` items: the array, moved when it had to grow, with the new item zeroed.
 * NULL with `err` set and the old array valid when memory is out. The capacity is not stored: it is always the next
 * power of two, so an array must only ever grow by one item through this function.
 */
void *heap_room(void *items, size_t count, size_t item_bytes, struct plim_err *err);

/* Zeroed memory for `count` items (at least one byte), or NULL with `err` set. */
void *heap_calloc(size_t count, size_t item_bytes, struct plim_err *err);

#endif
